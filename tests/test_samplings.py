"""Orders of the data: every sampling by enumeration, epochs, and the α-stable surrogate by its characteristic function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde import random
from jaxsde.dynamics.gradients import noise_of
from jaxsde.dynamics.noise import EPOCHS
from jaxsde.random.clocks import steps_per_epoch
from jaxsde.types import Draws


def indices(scheme, n, b, steps, chains=5, first=0, seed=0):
    draws = Draws(indices=b, population=n, scheme=scheme)
    ids = (jnp.arange(chains, dtype=jnp.uint32), jnp.zeros(chains, jnp.uint32))
    words = random.key_words(js.key(seed))
    return np.asarray(random.block(words, draws, ids, random.clock(first, draws), steps).indices)


@pytest.mark.parametrize("n,b", [(6, 1), (6, 2), (6, 4), (5, 3), (7, 7), (1, 1)])
@pytest.mark.parametrize("scheme", ["once", "cyclic"])
def test_an_order_is_read_round_and_round(scheme, n, b):
    steps = 5 * n
    got = indices(scheme, n, b, steps)
    whole = got.transpose(2, 0, 1).reshape(5, -1)  # [chain, position]
    for row in whole:
        order = row[:n]
        assert sorted(order) == list(range(n))
        np.testing.assert_array_equal(row, np.resize(order, row.size))
    if scheme == "cyclic":
        np.testing.assert_array_equal(whole[:, :n], np.tile(np.arange(n), (5, 1)))
    elif n > 4:
        assert len({tuple(row[:n]) for row in whole}) > 1
    for first in (1, 3, 2**40 * steps_per_epoch(Draws(indices=b, population=n, scheme=scheme)) + 2):
        cut = indices(scheme, n, b, 4, first=first)
        per = steps_per_epoch(Draws(indices=b, population=n, scheme=scheme))
        np.testing.assert_array_equal(cut, np.stack([got[(first + i) % per] for i in range(4)]))


def test_the_first_epoch_is_that_of_reshuffling():
    np.testing.assert_array_equal(indices("once", 8, 2, 4), indices("epoch", 8, 2, 4))
    assert (indices("once", 8, 2, 4, first=4) != indices("epoch", 8, 2, 4, first=4)).any()


X = np.random.default_rng(1).normal(size=(6, 2))
Y = np.random.default_rng(2).normal(size=6)


def problem():
    return js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (X, Y), np.zeros(2))


@pytest.mark.parametrize("sampling,b", [("cyclic", 1), ("cyclic", 2), ("shuffle_once", 1), ("shuffle_once", 4), ("random_reshuffling", 2)])
def test_the_gradients_of_an_epoch_sum_to_the_whole(sampling, b):
    p = problem()
    chain = js.sgd(p, learning_rate=0.1, batch_size=b, sampling=sampling)
    phi = jnp.array([0.3, -0.2])
    per = steps_per_epoch(chain.draws)
    got = indices(chain.draws.scheme, 6, b, per, chains=1)[..., 0]
    total = np.mean([np.asarray(p.minibatch_grad(phi, jnp.asarray(i))) for i in got], axis=0)
    np.testing.assert_allclose(total, p.grad(phi), atol=1e-6)


def test_noise_covariance_of_shuffle_once_by_enumeration():
    """Over 4000 permutations, at one step: Σ/B·(n−B)/(n−1) within 5 standard errors; not Σ/B."""
    p, b = problem(), 3
    chain = js.sgd(p, learning_rate=0.1, batch_size=b, sampling="shuffle_once")
    phi = jnp.array([0.3, -0.2])
    got = indices("once", 6, b, 3, chains=4000)[1].T
    g = np.asarray(jax.vmap(lambda i: p.minibatch_grad(phi, i))(jnp.asarray(got)))
    want = np.asarray(noise_of(chain.gradient).covariance(phi))
    first, error = np.cov(g.T, bias=True), np.sqrt(2 / 4000) * np.trace(want)
    assert np.abs(first - want).max() < 5 * error
    assert np.abs(first - np.asarray(p.noise_covariance(phi)) / b).max() > 5 * error


@pytest.mark.parametrize("sampling", EPOCHS)
def test_epochs_in_a_run(sampling):
    """every="epoch" is every M steps; chunks change nothing."""
    chain = js.sgd(problem(), learning_rate=0.1, batch_size=2, sampling=sampling)
    run = [js.simulate(chain, np.zeros(2), key=js.key(0), chains=64, steps=30, every=e, chunk=c, statistics={"m": js.Mean()})
           for e, c in (("epoch", None), (3, 7))]  # fmt: skip
    assert run[0].every == 3 and run[0].samples == 10
    np.testing.assert_array_equal(run[0]["m"].value, run[1]["m"].value)


def test_reshuffling_at_the_end_of_an_epoch():
    """n = 4, equal Hessians, η = .1: Var = η² R n/(n−1)(s₂ − s₁²/n)/(1 − b²ⁿ) = 9.5659e-4 at R = 1."""
    y = np.array([1.0, -1.0, 1.0, -1.0])
    p = js.finite_sum(lambda q, e: 0.5 * (q[0] - e) ** 2, y, np.zeros(1))
    chain = js.sgd(p, learning_rate=0.1, sampling="random_reshuffling")
    run = js.simulate(chain, np.zeros(1), key=js.key(1), chains=8192, steps=400, burn_in=200, every="epoch", statistics={"c": js.Covariance()})
    value, error = float(np.ravel(run["c"].value)[0]), float(np.ravel(run["c"].stderr)[0])
    b, n = 0.9, 4
    w = b ** np.arange(n)
    truth = 0.01 * n / (n - 1) * ((w**2).sum() - w.sum() ** 2 / n) / (1 - b ** (2 * n))
    np.testing.assert_allclose(truth, 9.5659e-4, rtol=1e-4)
    assert abs(value - truth) < 5 * error < abs(1.05 * value - truth)


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.5, 2.0])
def test_stable_noise_has_its_characteristic_function(alpha):
    """x' = (1 − ηh)x − ηsξ is stable with scale ηs/(1 − |1 − ηh|^α)^{1/α}: E cos kx = exp(−|k·scale/√2|^α), 5/√(2N) at most."""
    h, s, eta, chains = 1.0, 0.8, 0.3, 40_000
    p = js.potential(lambda x: h * jnp.sum(x**2) / 2, np.zeros(1), noise_covariance=s**2)
    chain = js.sgd(p, learning_rate=eta, sampling="alpha_stable", alpha=alpha)
    run = js.simulate(chain, np.zeros(1), key=js.key(3), chains=chains, steps=80)
    x = run.positions[:, 0].astype(float)
    assert not run.diverged.any()
    scale = eta * s / (1 - abs(1 - eta * h) ** alpha) ** (1 / alpha)
    for k in (0.5, 2.0, 8.0):
        want = np.exp(-np.abs(k * scale / np.sqrt(2)) ** alpha)
        assert abs(np.cos(k * x).mean() - want) < 5 / np.sqrt(2 * chains)
    k = np.sqrt(2) / scale  # there the function is e⁻¹, and a scale 5 % off moves it by .05·α/e
    assert abs(np.cos(1.05 * k * x).mean() - np.exp(-1)) > 5 / np.sqrt(2 * chains) or alpha < 0.8


def test_alpha_is_asked_for_and_checked():
    p = problem()
    for sampling, alpha, words in [("alpha_stable", None, "give both or neither"), ("gaussian", 1.5, "give both or neither"),
                                   ("alpha_stable", 2.5, r"in \(0, 2\]"), ("alpha_stable", 0.0, r"in \(0, 2\]")]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            js.sgd(p, learning_rate=0.1, sampling=sampling, alpha=alpha)
    chain = js.sgd(p, learning_rate=0.1, sampling="alpha_stable", alpha=1.5)
    with pytest.raises(ValueError, match="no finite covariance"):
        js.theory.stationary_covariance(chain)
    with pytest.raises(ValueError, match="no covariance"):
        js.sgd_sde(p, learning_rate=0.1, sampling="alpha_stable")
    with pytest.raises(ValueError, match="exceeds the 6 examples"):
        js.sgd(p, learning_rate=0.1, sampling="cyclic", batch_size=7)


def test_autocorrelation_of_reshuffling():
    """M batches an epoch: −(M − j)/(M(M − 1)) at lag j < M, 0 beyond; by 20000 chains over 4 epochs, 5 standard errors (bounded values)."""
    m, chains = 4, 20_000
    w = np.array([1.0, -1.0, 1.0, -1.0])[indices("epoch", m, 1, 5 * m, chains=chains)[:, 0]]  # mean 0, variance 1
    for lag in range(1, 6):
        got = np.mean([(w[k] * w[k + lag]).mean() for k in range(3 * m)])  # over whole epochs of positions
        want = -(m - lag) / (m * (m - 1)) if lag < m else 0.0
        assert abs(got - want) < 5 / np.sqrt(3 * m * chains / (2 * m))
        assert abs(got - (want - 0.04)) > 5 / np.sqrt(3 * m * chains / (2 * m))
