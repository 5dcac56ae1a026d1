"""An array that several parts of a chain hold is one leaf of what is compiled, and the chains are the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_default import some

import jaxsde as js
from jaxsde.engine.launch import prepared
from jaxsde.engine.wrapped import once

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(6, 2)), RNG.normal(size=6)


def equation(examples=(X, Y), noise=None):
    def problem(data):
        return js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, data, np.zeros(2))

    drift = js.sgd_sde(problem(examples), learning_rate=0.1)
    if noise is not None:  # the same numbers in arrays of their own
        drift = js.struct.replace(drift, noise=js.sgd_sde(problem(noise), learning_rate=0.1).noise)
    return js.integrate(drift, dt=0.05)


@pytest.mark.parametrize("executor", some(["native", "lanes", "vmap"], ["native", "vmap"]))
def test_the_same_chains_as_with_arrays_of_their_own(executor):
    together, apart = equation(), equation(noise=(X.copy(), Y.copy()))
    sizes = [sorted(np.shape(a) for a in jax.tree.leaves(prepared(c, "xoshiro128+", np.float32)) if np.ndim(a)) for c in (together, apart)]
    assert sizes[0].count((6, 2)) == 1 and sizes[1].count((6, 2)) == 2
    run = lambda chain: js.simulate(chain, np.zeros(2), key=js.key(1), chains=64, steps=64, executor=executor)
    ends = [run(c).positions for c in (together, apart)]
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)
    if executor == "native":
        np.testing.assert_array_equal(*ends)
        assert np.abs(ends[0] - run(equation(noise=(2 * X, Y))).positions).max() > 1e-2


def test_numbers_are_left_alone():
    eta = jnp.asarray(0.1)
    problem = js.potential(lambda x: jnp.sum(x**2) / 2, np.zeros(2), noise_covariance=1.0)
    chain = js.integrate(js.sgd_sde(problem, learning_rate=eta), dt=eta)
    assert jax.tree.structure(once(chain)) == jax.tree.structure(chain)
