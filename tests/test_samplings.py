"""Orders of the data: every sampling by enumeration, epochs, and the α-stable surrogate by its characteristic function."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_integrator_orders import nodes_of

import jaxsde as js
from jaxsde import random
from jaxsde.dynamics.gradients import SAMPLINGS, noise_of
from jaxsde.dynamics.noise import EPOCHS, WITHOUT_REPEATS
from jaxsde.random.clocks import steps_per_epoch
from jaxsde.stepping.chains import as_drawn
from jaxsde.types import Drawn, Draws


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


def sequences(draws, n):
    """Every order in which a sampling may read its examples over two epochs, all as likely: [outcome, step, B]."""
    b = draws.indices
    independent = np.array(list(itertools.product(range(n), repeat=b)))
    orders = np.array(list(itertools.permutations(range(n))))
    match draws.scheme:
        case "independent":
            return np.array([[x, y] for x in independent for y in independent])
        case "distinct":
            sets = np.array([t for t in independent if len(set(t)) == b])
            return np.array([[x, y] for x in sets for y in sets])
        case "epoch":
            m = n // b
            return np.array([np.concatenate([x, y])[: 2 * m * b].reshape(2 * m, b) for x in orders[:, : m * b] for y in orders[:, : m * b]])
        case "once" | "cyclic":  # the order of the data itself as one of all there are
            return np.array([np.resize(x, 2 * n).reshape(-1, b) for x in orders])
    raise AssertionError(draws)


def gradients_of(chain, phi):
    """ĝ over two epochs for every outcome, [outcome, step, d], and the probabilities of the outcomes."""
    draws, ghat = chain.draws, chain.gradient
    if draws.indices:
        orders = sequences(draws, len(X4))
        g = jax.vmap(jax.vmap(lambda i: ghat(phi, Drawn(indices=i), 0.0)))(jnp.asarray(orders))
        return np.asarray(g), np.full(len(orders), 1 / len(orders))
    z, w = nodes_of(draws, 3)
    one = jax.vmap(lambda q: ghat(phi, as_drawn(q, draws), 0.0))(jnp.asarray(z).reshape(len(w), -1))
    return np.asarray(one)[:, None], w


X4 = np.array([[1.0, 0.3], [-0.4, 1.1], [0.6, -0.9], [-1.3, 0.2]])
Y4 = np.array([0.7, -1.2, 0.4, 0.9])


@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("sampling", [s for s in SAMPLINGS if s != "alpha_stable"])
def test_noise_by_enumeration(sampling, b):
    """Mean, covariance and autocorrelation of ĝ over all outcomes: NumPy's Σ times 1/B, (n−B)/(n−1)/B or 0. n = 4, so M = 4 or 2.

    Reshuffled, the correlation at lag j is −(M − j)/(M(M − 1)) below M and 0 beyond; of one order read again and again, −1/(M − 1),
    and 1 at lag M.
    """
    with jax.enable_x64(True):
        p = js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (X4, Y4), np.zeros(2))
        phi, chain = jnp.array([0.3, -0.2]), js.sgd(p, learning_rate=0.1, batch_size=b, sampling=sampling)
        g, w = gradients_of(chain, phi)
        declared = np.asarray(noise_of(chain.gradient).covariance(phi))
    each = X4 * (X4 @ np.array([0.3, -0.2]) - Y4)[:, None]
    sigma = np.cov(each.T, bias=True)
    distinct = sampling in WITHOUT_REPEATS
    want = sigma * (0 if sampling == "full_batch" else (4 - b) / 3 / b if distinct else 1 / b)
    e = g - each.mean(0)
    np.testing.assert_allclose(np.einsum("o,osd->sd", w, e), 0, atol=1e-12)
    for step in range(g.shape[1]):
        np.testing.assert_allclose(np.einsum("o,oi,oj->ij", w, e[:, step], e[:, step]), want, atol=1e-12)
    np.testing.assert_allclose(declared, want, atol=1e-12)
    m = 4 // b
    assert np.abs(sigma - sigma * (4 - b) / 3 / b).max() > 0.1 or b == 1  # the twin: the factors differ
    if sampling in EPOCHS:
        for lag in range(1, m + 1):
            pairs = [np.einsum("o,oi,oj->ij", w, e[:, k], e[:, k + lag]) for k in range(m)]
            inside = -(m - lag) / (m * (m - 1)) if sampling == "random_reshuffling" else -1 / (m - 1) if lag < m else 1.0
            np.testing.assert_allclose(np.mean(pairs, axis=0), inside * want, atol=1e-12)
    elif g.shape[1] > 1:
        np.testing.assert_allclose(np.einsum("o,oi,oj->ij", w, e[:, 0], e[:, 1]), 0, atol=1e-12)


@pytest.mark.parametrize("sampling", EPOCHS)
def test_epochs_in_a_run(sampling):
    """every="epoch" is every M steps, at the ends of epochs wherever the burn-in ends; chunks change nothing."""
    chain = js.sgd(problem(), learning_rate=0.1, batch_size=2, sampling=sampling)
    run = [js.simulate(chain, np.zeros(2), key=js.key(0), chains=64, steps=30, every=e, chunk=c, statistics={"m": js.Mean()})
           for e, c in (("epoch", None), (3, 7))]  # fmt: skip
    assert run[0].every == 3 and run[0].samples == 10
    np.testing.assert_array_equal(run[0]["m"].value, run[1]["m"].value)
    ask = dict(key=js.key(0), chains=64, every="epoch", statistics={"m": js.Mean()})
    for burn_in, phase, first in ((3, 0, 3), (4, 0, 6), (0, 1, 1), (5, 2, 5), (6, 2, 8)):
        late = js.simulate(chain, np.zeros(2), burn_in=burn_in, steps=13 - burn_in, phase=phase, **ask)
        same = js.simulate(chain, np.zeros(2), burn_in=first, steps=13 - first, **(ask | {"every": 3}))
        assert (late.origin, late.step, late.samples) == (first, 13, (13 - first) // 3)
        np.testing.assert_array_equal(late["m"].value, same["m"].value)
    more = js.simulate(chain, js.simulate(chain, np.zeros(2), burn_in=4, steps=7, phase=1, **ask), steps=2, every="epoch", phase=1)
    assert (more.origin, more.samples) == (4, 3)
    for bad in ({"every": "epoch", "phase": 3}, {"every": 3, "phase": 1}, {"every": "epoch", "phase": -1}):
        with pytest.raises(ValueError, match="phase"):
            js.simulate(chain, np.zeros(2), steps=3, **(ask | bad))
    with pytest.raises(ValueError, match="another phase"):
        js.simulate(chain, more, steps=3, every="epoch", phase=2)


def test_reshuffling_at_every_position_of_an_epoch():
    """n = 4, equal Hessians, η = .1: at the end of an epoch Var = η² R n/(n−1)(s₂ − s₁²/n)/(1 − b²ⁿ) = 9.5659e-4 at R = 1.

    And j steps later b²ʲ times that plus the variance of what j examples of the next permutation add, by enumeration; at position
    2 it is another number, and on average over the epoch it is what `every=1` sees. 5 standard errors each.
    """
    y = np.array([1.0, -1.0, 1.0, -1.0])
    p = js.finite_sum(lambda q, e: 0.5 * (q[0] - e) ** 2, y, np.zeros(1))
    chain = js.sgd(p, learning_rate=0.1, sampling="random_reshuffling")
    b, n = 0.9, 4
    w = b ** np.arange(n)
    end = 0.01 * n / (n - 1) * ((w**2).sum() - w.sum() ** 2 / n) / (1 - b ** (2 * n))
    np.testing.assert_allclose(end, 9.5659e-4, rtol=1e-4)
    orders = np.array(list(itertools.permutations(y)))
    added = [np.var(sum(0.1 * b ** (j - 1 - i) * orders[:, i] for i in range(j))) for j in range(n)]
    truth = [b ** (2 * j) * end + added[j] for j in range(n)]
    np.testing.assert_allclose(b ** (2 * n) * end + np.var(orders @ (0.1 * b ** np.arange(n)[::-1])), end, rtol=1e-12)

    def measured(**given):
        run = js.simulate(chain, np.zeros(1), key=js.key(1), chains=8192, steps=400, burn_in=200, statistics={"c": js.Covariance()}, **given)
        return float(np.ravel(run["c"].value)[0]), float(np.ravel(run["c"].stderr)[0])

    for j in range(n):
        value, error = measured(every="epoch", phase=j)
        assert abs(value - truth[j]) < 5 * error < abs(1.05 * value - truth[j])
        assert abs(value - truth[(j + 2) % 4]) > 5 * error
    value, error = measured(every=1)
    assert abs(value - np.mean(truth)) < 5 * error < abs(1.05 * value - np.mean(truth))


def test_stable_noise_where_its_tail_is():
    """Draws at the very edge of V give large and finite values of the right sign, as in float64 by the textbook formula."""
    p = js.potential(lambda x: jnp.sum(x**2) / 2, np.zeros(1))
    for alpha in (0.8, 1.0, 1.5, 2.0):
        chain = js.sgd(p, learning_rate=0.1, sampling="alpha_stable", alpha=alpha)
        for a, b in ((1e-4, -1.2), (1e-6, 1.2), (-1e-7, 0.3), (1.0, 1e-8), (0.5, -0.7), (-0.7, 0.5), (-1e-3, 2.0)):
            z = jnp.array([a, b], jnp.float32)
            got, mirrored = (float(chain.gradient(jnp.zeros(1), Drawn(normals=s * z), 0.0)[0]) for s in (1, -1))
            v, w = np.sign(b) * np.arctan2(abs(b), abs(a)), (a * a + b * b) / 2
            want = np.sin(alpha * v) / np.cos(v) ** (1 / alpha) * (np.cos((1 - alpha) * v) / w) ** ((1 - alpha) / alpha) / np.sqrt(2)
            np.testing.assert_allclose(got, want, rtol=1e-5)
            assert mirrored == -got
            if alpha == 2:
                np.testing.assert_allclose(got, b, rtol=1e-5)
        for a in (0.0, -0.0):
            assert np.isfinite(float(chain.gradient(jnp.zeros(1), Drawn(normals=jnp.array([a, 1.0], jnp.float32)), 0.0)[0]))


def test_stable_noise_in_two_dimensions():
    """One step from the minimum is −η R ξ: E cos k·x = exp(−Σⱼ |η (Rᵀk)ⱼ/√2|^α) with R the root of Σ; not with Σ's diagonal alone."""
    sigma, alpha, eta, chains = np.array([[1.0, 0.8], [0.8, 1.5]]), 1.4, 0.3, 40_000
    p = js.potential(lambda x: jnp.sum(x**2) / 2, np.zeros(2), noise_covariance=sigma)
    chain = js.sgd(p, learning_rate=eta, batch_size=2, sampling="alpha_stable", alpha=alpha)
    x = js.simulate(chain, np.zeros(2), key=js.key(3), chains=chains, steps=1).positions.astype(float)
    root = np.linalg.cholesky(sigma / 2)
    for k in np.array([[3.0, 1.0], [-2.0, 3.0], [4.0, -4.0]]):
        want, without = (np.exp(-(np.abs(eta * r.T @ k / np.sqrt(2)) ** alpha).sum()) for r in (root, np.diag(np.sqrt(np.diag(sigma) / 2))))
        assert abs(np.cos(x @ k).mean() - want) < 5 / np.sqrt(2 * chains) < abs(without - want)


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.5, 2.0])
def test_stable_noise_has_its_characteristic_function(alpha):
    """x' = (1 − ηh)x − ηsξ is stable with scale ηs/(1 − |1 − ηh|^α)^{1/α}: E cos kx = exp(−|k·scale/√2|^α), 5/√(2N) at most."""
    h, s, eta, chains = 1.0, 0.8, 0.3, 400_000
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
    assert abs(np.cos(1.05 * k * x).mean() - np.exp(-1)) > 5 / np.sqrt(2 * chains)


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
