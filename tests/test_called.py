"""`advance` as machine code: the bits of `simulate`, inside `jit` and `vmap`, over every argument."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js

KEY = js.key(11)
RNG = np.random.default_rng(5)
PROBLEM = js.finite_sum(
    lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2, (RNG.normal(size=(30, 3)), RNG.normal(size=30)), jnp.zeros(3)
)
WELL = js.potential(lambda x: jnp.sum((x**2 - 1) ** 2) / 4, jnp.ones(2))
X0 = jnp.asarray(RNG.normal(size=(37, 3)), jnp.float32)
CHAINS = {
    "sgd": lambda eta: js.sgd(PROBLEM, learning_rate=eta, batch_size=2),
    "reshuffled": lambda eta: js.sgd(PROBLEM, learning_rate=eta, batch_size=4, sampling="random_reshuffling"),
    "adam": lambda eta: js.sgd(PROBLEM, learning_rate=eta, optimizer=optax.adam),  # its count is an integer
    "underdamped": lambda eta: js.integrate(js.underdamped(WELL, temperature=eta, friction=1.0), dt=0.1),
}


def native(chain, x0, **more):
    return js.advance(chain, x0, **{"key": KEY, "steps": 21, "executor": "native", **more})


@pytest.mark.parametrize("name", CHAINS)
def test_inside_and_outside_of_jit_are_the_same_bits(name):
    chain = CHAINS[name](0.05)
    x0 = X0[:, : chain.dim]
    run = js.simulate(chain, x0, key=KEY, chains=37, steps=21, executor="native")
    assert run.executor == "native"
    np.testing.assert_array_equal(native(chain, x0), run.positions)
    np.testing.assert_array_equal(jax.jit(native)(chain, x0), run.positions)
    # to rounding, the chains of XLA
    np.testing.assert_allclose(run.positions, js.advance(chain, x0, key=KEY, steps=21), atol=2e-5)


def test_vmap_goes_over_learning_rates_positions_keys_and_every_leaf():
    sgd, etas = CHAINS["sgd"], jnp.array([0.01, 0.05, 0.2])
    each = [native(sgd(eta), X0) for eta in (0.01, 0.05, 0.2)]
    assert not np.array_equal(each[0], each[1])
    over = lambda eta, x0=X0: native(sgd(eta), x0)
    np.testing.assert_array_equal(jax.vmap(over)(etas), each)
    np.testing.assert_array_equal(jax.jit(jax.vmap(over))(etas), each)
    nested = jax.vmap(jax.vmap(over, (0, None)), (None, 0))(etas, jnp.stack([X0, 2 * X0]))
    np.testing.assert_array_equal(nested, [each, [native(sgd(eta), 2 * X0) for eta in (0.01, 0.05, 0.2)]])
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(
        jax.vmap(lambda key: native(sgd(0.05), X0, key=key))(keys), [native(sgd(0.05), X0, key=key) for key in keys]
    )
    chains = [sgd(0.05), jax.tree.map(lambda a: a * 0.9, sgd(0.05))]  # every leaf is another: the data, too
    both = jax.vmap(native, (0, None))(jax.tree.map(lambda *a: jnp.stack(a), *chains), X0)
    np.testing.assert_array_equal(both, [native(chain, X0) for chain in chains])


@pytest.mark.parametrize("name", CHAINS)
def test_words_of_numbers_and_clock_carry(name):
    """Where the upper word of the chains' numbers differs between neighbours, or that of the step from one to the next."""
    chain = CHAINS[name](0.05)
    x0 = X0[:, : chain.dim]
    at = {"first_chain": 2**32 - 20, "first_step": 2**32 - 9}
    found = native(chain, x0, **at)
    np.testing.assert_allclose(found, js.advance(chain, x0, key=KEY, steps=21, **at), atol=2e-5)
    np.testing.assert_array_equal(jax.jit(lambda c, x: native(c, x, **at))(chain, x0), found)
    first = native(chain, x0, **at, steps=9)
    again = native(chain, first, first_chain=2**32 - 20, first_step=2**32, steps=12)
    if name not in ("adam", "underdamped"):  # whose momenta start anew
        np.testing.assert_array_equal(again, found)
    below = native(chain, x0[:20], first_chain=2**32 - 20, first_step=2**32 - 9)
    np.testing.assert_array_equal(below, found[:20])  # one upper word: other code
    stuck = native(chain, first, first_chain=2**32 - 20, first_step=0, steps=12)
    assert not np.allclose(stuck, again)  # the upper word of the clock counts


@pytest.mark.parametrize("name", ["sgd", "reshuffled"])
def test_parts_of_the_chains_and_of_the_steps_are_the_same_bits(name):
    chain = CHAINS[name](0.05)
    whole = native(chain, X0, first_chain=2**32 - 5, first_step=2**33 + 1)
    half = native(chain, X0, first_chain=2**32 - 5, first_step=2**33 + 1, steps=8)
    np.testing.assert_array_equal(native(chain, half, first_chain=2**32 - 5, first_step=2**33 + 9, steps=13), whole)
    np.testing.assert_array_equal(native(chain, X0[20:], first_chain=2**32 + 15, first_step=2**33 + 1), whole[20:])
    np.testing.assert_array_equal(native(chain, X0[20], first_chain=2**32 + 15, first_step=2**33 + 1), whole[20])
    np.testing.assert_array_equal(native(chain, X0, steps=0), X0)
    assert native(chain, X0[:0]).shape == (0, 3)


def test_a_chain_that_diverges_is_nan_and_leaves_the_others_alone():
    chain = CHAINS["sgd"](0.05)
    x = native(chain, X0.at[5].set(1e30))
    assert np.isnan(x[5]).all()
    np.testing.assert_array_equal(np.delete(x, 5, 0), np.delete(native(chain, X0), 5, 0))


def test_derivatives_are_refused_and_what_stands_beside_them_is_not():
    loss = lambda eta: native(CHAINS["sgd"](eta), X0).mean()
    for derivative in (jax.grad(loss), jax.jit(jax.grad(loss)), jax.jacfwd(loss)):
        with pytest.raises(ValueError, match='executor="native" has no derivatives: leave executor out'):
            derivative(0.05)
    fixed = native(CHAINS["sgd"](0.05), X0)
    beside = jax.grad(lambda a: (a * native(CHAINS["sgd"](0.05), X0)).sum())(2.0)
    np.testing.assert_allclose(beside, fixed.sum(), rtol=1e-5)


def test_what_has_no_machine_code_runs_with_a_warning_and_wrong_names_are_refused():
    odd = js.potential(lambda x: jnp.sum(jnp.abs(jnp.fft.fft(x)) ** 4) / 4, jnp.ones(2))
    chain = js.integrate(js.langevin(odd, temperature=0.1), dt=0.1)
    with pytest.warns(UserWarning, match="executor 'native' cannot run this chain"):
        x = native(chain, X0[:, :2])
    np.testing.assert_array_equal(x, js.advance(chain, X0[:, :2], key=KEY, steps=21))
    with pytest.raises(ValueError, match='executor must be "vmap" or "native", got \'lanes\''):
        native(chain, X0[:, :2], executor="lanes")
