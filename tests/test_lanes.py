"""The executor that gives XLA a step taken apart: the chains of `vmap` to rounding, and its own to the bit whatever the chunk."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_default import some

import jaxsde as js
from jaxsde.engine import launch
from jaxsde.engine.executors.native import build

KEY = js.key(11)
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(40, 2)), RNG.normal(size=40)
ROUNDINGS = 1000  # 64 steps that contract, each with a few roundings of its own


def squared(w, e):
    return 0.5 * (e[0] @ w - e[1]) ** 2


def saturating(p, e):
    return (jnp.tanh(e[0] @ p["a"]) * p["b"] - e[1]) ** 2


def well(x):
    return (x[0] ** 2 - 1) ** 2 / 4 + x[-1] ** 2 / 2 + 0.3 * jnp.sin(x[0] * x[-1])


def sgd(loss=squared, start=None, data=(X, Y), **more):
    return js.sgd(js.finite_sum(loss, data, np.zeros(2) if start is None else start), **{"learning_rate": 0.05, **more})


def langevin(d, integrator=None, **more):
    problem = js.potential(well, np.full(d, 0.5), **more)
    return js.integrate(js.sgd_sde(problem, learning_rate=0.05), integrator or js.EulerMaruyama(), dt=0.05)


CHAINS = {
    "regression": lambda: sgd(),
    "without replacement": lambda: sgd(batch_size=3, sampling="without_replacement"),
    "reshuffled": lambda: sgd(batch_size=3, sampling="random_reshuffling"),
    "shuffled once": lambda: sgd(batch_size=3, sampling="shuffle_once"),
    "cyclic": lambda: sgd(sampling="cyclic"),
    "surrogate": lambda: sgd(data=(X[:6], Y[:6]), batch_size=2, sampling="gaussian"),
    "two points": lambda: sgd(data=(X[:6], Y[:6]), batch_size=2, sampling="two_point"),
    "three points": lambda: sgd(data=(X[:6], Y[:6]), batch_size=2, sampling="three_point"),
    "network": lambda: sgd(saturating, {"a": np.full(2, 0.3), "b": 0.5}, batch_size=2),
    "adam": lambda: sgd(optimizer=optax.adam),
    "well, d=1": lambda: langevin(1),
    "well, d=2": lambda: langevin(2),
    "well, d=3": lambda: langevin(3),
    "heun": lambda: langevin(2, js.Heun()),
    "multiplicative": lambda: langevin(2, noise_covariance=lambda x: jnp.diag(1 + 0.1 * x**2)),
}


def run(chain, executor, chains=80, steps=64, **more):
    run = js.simulate(chain, np.full(chain.dim, 0.3), key=KEY, chains=chains, steps=steps, executor=executor, **more)
    assert run.executor == executor
    return run


def distance(a, b):
    eps = np.finfo(a.dtype).eps
    a, b = a.positions.astype(np.float64), b.positions.astype(np.float64)
    return np.abs(a - b).max() / (eps * max(1.0, np.abs(a).max()))


# data in any order and in epochs, an optimiser, equations; all of them where there is time
SOME = ("regression", "reshuffled", "adam", "well, d=2", "multiplicative", "three points")


@pytest.mark.parametrize("name", some(CHAINS, SOME))
def test_the_chains_of_vmap(name):
    chain = CHAINS[name]()
    ours = run(chain, "lanes")
    assert distance(run(chain, "vmap"), ours) < ROUNDINGS
    assert distance(run(chain, "vmap", steps=63), ours) > 50 * ROUNDINGS  # one step less is another place


@pytest.mark.parametrize("name", ["regression", "adam", "well, d=2"])
def test_double_precision(name):
    with jax.enable_x64(True):
        chain = CHAINS[name]()
        assert distance(run(chain, "vmap", dtype=np.float64), run(chain, "lanes", dtype=np.float64)) < ROUNDINGS


BITS = ["regression", "reshuffled", "adam", "well, d=1", "well, d=2", "multiplicative"]


@pytest.mark.parametrize("name", some(BITS, ["well, d=2"]))
def test_no_bit_depends_on_chunks_looks_or_neighbours(name):
    """Where a product is fused into a sum is the compiler's choice, and another program chooses differently."""
    chain = CHAINS[name]()
    whole = run(chain, "lanes", chains=300, steps=61).positions
    looks = {"m": js.Mean()}
    for more in (dict(chains=37), dict(chunk=1), dict(chunk=7), dict(every=3, groups=5, statistics=looks), dict(every=16, statistics=looks)):
        positions = run(chain, "lanes", **{"chains": 300, "steps": 61, **more}).positions
        np.testing.assert_array_equal(positions, whole[: len(positions)])
    half = run(chain, "lanes", chains=300, steps=29)
    np.testing.assert_array_equal(js.simulate(chain, half, steps=32).positions, whole)


@pytest.mark.parametrize("chunk", [None, 3])
def test_chains_that_leave_the_numbers(chunk):
    wild = js.sgd(js.potential(lambda x: jnp.sum(x**2) / 2 - jnp.sum(x**4) / 4, np.zeros(2), noise_covariance=0.5), learning_rate=0.3)
    reference, ours = (run(wild, e, chains=300, steps=40, chunk=chunk) for e in ("vmap", "lanes"))
    assert 0 < ours.diverged.sum() < 300
    np.testing.assert_array_equal(ours.diverged_at, reference.diverged_at)
    assert np.isfinite(ours.positions).all()
    well = (np.abs(reference.positions) < 3).all(1)  # beyond, a rounding grows by a power of three a step
    assert well.sum() > 100
    np.testing.assert_allclose(ours.positions[well], reference.positions[well], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(run(wild, "lanes", chains=300, steps=40).positions, ours.positions)


@pytest.mark.slow
def test_statistics_see_the_same_samples():
    statistics = {"cov": js.Covariance(), "hist": js.Histogram(np.linspace(-3, 3, 13), components=0)}
    for every in (1, 3, 16):
        reference, ours = (run(langevin(2), e, every=every, burn_in=5, statistics=statistics) for e in ("vmap", "lanes"))
        assert ours.samples == reference.samples == 64 // every
        np.testing.assert_array_equal(ours["hist"].value, reference["hist"].value)
        np.testing.assert_allclose(ours["cov"].value, reference["cov"].value, rtol=1e-5, atol=1e-6)


def test_new_numbers_compile_nothing():
    def positions(seed, eta, steps):
        rng = np.random.default_rng(seed)
        chain = sgd(data=(rng.normal(size=(20, 2)), rng.normal(size=20)), learning_rate=eta)
        return js.simulate(chain, np.zeros(2), key=js.key(seed), chains=32, steps=steps, executor="lanes").positions

    before = positions(0, 0.1, 9)
    compiled = len(launch._programs)
    assert not np.array_equal(positions(1, 0.2, 11), before)
    assert len(launch._programs) == compiled


def test_where_it_is_chosen(monkeypatch, caplog):
    monkeypatch.setattr(build, "missing", lambda: "the package llvmlite is missing")
    for d, executor in ((1, "lanes"), (2, "lanes"), (3, "vmap")):
        with caplog.at_level(logging.INFO, "jaxsde"):
            assert js.simulate(langevin(d), np.full(d, 0.5), key=KEY, chains=16, steps=2).executor == executor
    assert "anew for each of the 3 numbers" in caplog.text
    with pytest.warns(UserWarning, match="the primitive eigh"):
        problem = js.potential(lambda x: jnp.linalg.eigvalsh(jnp.outer(x, x) + jnp.eye(3))[-1], np.ones(3))
        chain = js.integrate(js.langevin(problem, temperature=0.1), dt=0.05)
        assert js.simulate(chain, np.ones(3), key=KEY, chains=16, steps=2, executor="lanes").executor == "vmap"
