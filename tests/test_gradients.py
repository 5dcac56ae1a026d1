"""Stochastic gradients: mean and covariance of every sampling by enumerating all its batches, and what the draws feed it.

False alarms: the frequency tests use fixed seeds and chi-square at 1e-6 each, ten of them: 1e-5 for the file.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsde as js
from jaxsde import random
from jaxsde.dynamics import gradients, noise
from jaxsde.types import Drawn

RNG = np.random.default_rng(3)
N, D = 6, 3
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=N)
PHI = RNG.normal(size=D)
EACH = X * (X @ PHI - Y)[:, None]  # per-example gradients, float64
G = EACH.mean(0)
SIGMA = (EACH - G).T @ (EACH - G) / N


def linear(phi, example):
    return 0.5 * (example[0] @ phi - example[1]) ** 2


PROBLEM = js.finite_sum(linear, (X, Y), PHI)
POINT = PROBLEM.start


def batches(sampling, b):
    """Every equally likely batch."""
    if sampling == "with_replacement":
        return list(itertools.product(range(N), repeat=b))
    return list(itertools.permutations(range(N), b))


def evaluated(ghat, indices):
    draws = Drawn(indices=jnp.asarray(indices, jnp.int32))
    return np.asarray(jax.vmap(lambda i: ghat(POINT, Drawn(indices=i), 0.0))(draws.indices), np.float64)


@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement", "random_reshuffling"])
def test_mean_and_covariance_over_all_batches(sampling, b):
    ghat = gradients.gradient(PROBLEM, b, sampling)
    got = evaluated(ghat, batches(sampling, b))
    np.testing.assert_allclose(got.mean(0), G, atol=2e-6)
    covariance = np.cov(got.T, bias=True)
    want = SIGMA / b * (1 if sampling == "with_replacement" else (N - b) / (N - 1))
    np.testing.assert_allclose(covariance, want, atol=2e-6)
    declared = np.asarray(gradients.noise_of(ghat).covariance(POINT))
    np.testing.assert_allclose(declared, want, atol=2e-6)
    sde = js.sgd_sde(PROBLEM, learning_rate=0.3, batch_size=b, sampling=sampling)
    np.testing.assert_allclose(np.asarray(2 * sde.diffusion(POINT)), 0.3 * want, atol=2e-6)
    if b > 1:  # the twin: the other sampling's covariance is seen to be wrong
        other = SIGMA / b * ((N - b) / (N - 1) if sampling == "with_replacement" else 1)
        assert np.abs(covariance - other).max() > 1e-2


@pytest.mark.parametrize("sampling", ["without_replacement", "random_reshuffling"])
def test_a_batch_of_everything_is_the_gradient(sampling):
    ghat = gradients.gradient(PROBLEM, N, sampling)
    got = evaluated(ghat, [RNG.permutation(N) for _ in range(3)])
    np.testing.assert_allclose(got, np.tile(G, (3, 1)), atol=2e-6)
    assert gradients.noise_of(ghat).kind == "none"
    full = gradients.gradient(PROBLEM, 4, "full_batch")
    assert full.draws == type(full.draws)()
    np.testing.assert_allclose(full(POINT, Drawn(), 0.0), G, atol=2e-6)
    assert gradients.noise_of(full).kind == "none"


def drawn(ghat, chains, steps, seed=1, first=0):
    """The indices ["steps b chains"] that the engine would supply."""
    ids = (jnp.arange(chains, dtype=jnp.uint32), jnp.zeros(chains, jnp.uint32))
    clock = random.clock(first, ghat.draws)
    return random.block(random.key_words(js.key(seed)), ghat.draws, ids, clock, steps)


@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement", "random_reshuffling"])
def test_every_batch_is_equally_likely(sampling, b):
    got = np.asarray(drawn(gradients.gradient(PROBLEM, b, sampling), 3000, 12).indices)
    got = np.moveaxis(got, 1, -1).reshape(-1, b) if sampling != "random_reshuffling" else got[0].T  # one step an epoch
    possible = np.array(batches(sampling, b))
    if sampling == "without_replacement":  # a set: the order within a batch means nothing to its mean
        got, possible = np.sort(got), np.array(list(itertools.combinations(range(N), b)))
    code, all_codes = got @ N ** np.arange(b), possible @ N ** np.arange(b)
    counts = np.array([(code == c).sum() for c in all_codes])
    assert counts.sum() == len(code), "a batch that cannot be"
    assert stats.chisquare(counts).pvalue > 1e-6
    if len(counts) > 1:  # the twin: a tenth of the draws used again for one batch
        counts[0] += len(code) // 10
        assert stats.chisquare(counts).pvalue < 1e-6


@pytest.mark.parametrize("b,epoch", [(1, 6), (2, 3), (3, 2), (4, 1), (5, 1), (6, 1)])
def test_an_epoch_uses_each_example_once(b, epoch):
    ghat = gradients.gradient(PROBLEM, b, "random_reshuffling")
    got = np.asarray(drawn(ghat, 200, 4 * epoch).indices)  # four epochs
    for e in range(4):
        seen = np.moveaxis(got[e * epoch : (e + 1) * epoch], -1, 0).reshape(200, -1)
        assert all(len(set(row)) == b * epoch for row in seen)
    if b < N:  # and the next epoch is another permutation
        assert (got[:epoch] != got[epoch : 2 * epoch]).any()
    independent = np.asarray(drawn(gradients.gradient(PROBLEM, b), 200, 4 * epoch).indices)
    rows = np.moveaxis(independent[:epoch], -1, 0).reshape(200, -1)
    assert any(len(set(row)) < b * epoch for row in rows) or b * epoch == 1


def test_reshuffling_noise_is_correlated_within_the_epoch():
    """E[ξ_s ξ_t] / E[ξ²] = −1/(M − 1) for two steps of one epoch of M batches (their sum is ∇L exactly), 0 across epochs.

    One-sample deviation of the ratio is at most max ξ²/E ξ² =: r, so 5 r/√chains bounds what chance does.
    """
    chains, m = 20_000, 6
    ghat = gradients.gradient(PROBLEM, 1, "random_reshuffling")
    got = np.asarray(drawn(ghat, chains, 2 * m).indices)[:, 0, :]
    xi = (EACH - G)[got][..., 0]  # first component ["steps chains"]
    variance = SIGMA[0, 0]
    bound = 5 * np.max((EACH - G)[:, 0] ** 2) / variance / np.sqrt(chains)
    np.testing.assert_allclose(xi[:m].sum(0), 0, atol=1e-12)
    for s, t in [(0, 1), (1, 4), (0, 5)]:
        assert abs(np.mean(xi[s] * xi[t]) / variance + 1 / (m - 1)) < bound
    assert abs(np.mean(xi[m - 1] * xi[m]) / variance) < bound
    fresh = (EACH - G)[np.asarray(drawn(gradients.gradient(PROBLEM), chains, 2).indices)[:, 0, :]][..., 0]
    assert abs(np.mean(fresh[0] * fresh[1]) / variance + 1 / (m - 1)) > bound  # the twin fails


def root_of(made, phi):
    """The matrix of the linear map z -> product(phi, z), column by column."""
    return np.asarray(jax.vmap(lambda z: made.product(phi, z))(jnp.eye(made.dim, dtype=phi.dtype)), np.float64).T


@pytest.mark.parametrize("n,d", [(3, 5), (6, 3), (30, 4), (30, 11), (200, 2)])
@pytest.mark.parametrize("route", ["weights", "factor"])
def test_both_routes_to_the_noise_have_the_covariance_exactly(n, d, route):
    x, y, phi = RNG.normal(size=(n, d)), RNG.normal(size=n), RNG.normal(size=d)
    each = x * (x @ phi - y)[:, None]
    want = np.cov(each.T, bias=True).reshape(d, d)  # of rank n − 1 where n ≤ d
    p = js.finite_sum(linear, (x, y), phi)
    made = noise.of_problem(p, route)
    assert made.dim == (n if route == "weights" else d)
    root = root_of(made, p.start)
    scale = np.abs(want).max()
    np.testing.assert_allclose(root @ root.T, want, atol=2e-5 * scale)
    np.testing.assert_allclose(np.asarray(made.covariance(p.start)), want, atol=2e-5 * scale)
    uncentred = each.T @ each / n
    assert np.abs(root @ root.T - uncentred).max() > 1e-3 * scale  # the twin: without z − z̄


@pytest.mark.parametrize("sampling,moment4", [("gaussian", None), ("two_point", 1.0), ("three_point", 3.0)])
def test_surrogates_have_the_covariance_of_the_batch(sampling, moment4):
    for b in (1, 4):
        ghat = gradients.gradient(PROBLEM, b, sampling)
        root = root_of(ghat.noise, POINT)
        np.testing.assert_allclose(root @ root.T, SIGMA / b, atol=1e-5)
        z = drawn(ghat, 4000, 25)
        given = {"gaussian": z.normals, "two_point": z.signs, "three_point": z.three_point}[sampling]
        assert given.shape == (25, ghat.noise.dim, 4000)
        values, count = np.asarray(given, np.float64), given.size
        for power, want, sd in [(1, 0, 1.0), (2, 1, np.sqrt(2)), (4, moment4 or 3.0, np.sqrt(96.0))]:
            assert abs(np.mean(values**power) - want) < 5 * sd / np.sqrt(count) + 1e-6
        one = Drawn(**{f: jnp.asarray(v[0, :, 0]) for f, v in z._asdict().items() if not isinstance(v, tuple)})
        np.testing.assert_allclose(ghat(POINT, one, 0.0), G + root @ values[0, :, 0], atol=1e-5)


def test_surrogates_of_a_potential_use_its_own_covariance():
    c = np.array([[2.0, -0.5], [-0.5, 0.6]])
    for given in (c, lambda phi: jnp.asarray(c, "float32") + 0 * phi[0], np.diag(c), 1.3):
        p = js.potential(lambda phi: jnp.sum(phi**2), np.ones(2), noise_covariance=given)
        ghat = gradients.gradient(p, 4)
        assert ghat.sampling == "gaussian"
        root = root_of(ghat.noise, p.start)
        want = given if np.ndim(given) == 2 else c if callable(given) else np.diag(np.broadcast_to(given, 2))
        np.testing.assert_allclose(root @ root.T, want / 4, atol=1e-6)


def test_a_noise_matrix_may_be_traced():
    """vmap over Σ: the object is a pytree and is not looked at."""
    p = js.potential(lambda phi: jnp.sum(phi**2), np.ones(2), noise_covariance=np.eye(2))
    cs = np.array([[[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, 0.0]]], "f4")

    def covariance(c):
        from jaxsde.struct import replace

        made = gradients.gradient(replace(p, covariance=c)).noise
        root = jax.vmap(lambda z: made.product(p.start, z))(jnp.eye(made.dim))
        return root.T @ root

    np.testing.assert_allclose(jax.vmap(covariance)(jnp.asarray(cs)), cs, atol=1e-6)


@pytest.mark.parametrize(
    "given,words",
    [
        (dict(batch_size=0), "positive integer"),
        (dict(batch_size=1.5), "positive integer"),
        (dict(batch_size=True), "positive integer"),
        (dict(batch_size=N + 1, sampling="without_replacement"), f"exceeds the {N} examples"),
        (dict(batch_size=N + 1, sampling="random_reshuffling"), f"exceeds the {N} examples"),
        (dict(sampling="sobol"), "must be one of with_replacement"),
    ],
)
def test_what_does_not_fit_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        js.sgd(PROBLEM, learning_rate=0.1, **given)
    with pytest.raises(ValueError, match=words):
        js.sgd_sde(PROBLEM, learning_rate=0.1, **given)


@pytest.mark.parametrize("sampling", ["without_replacement", "random_reshuffling"])
def test_a_potential_has_no_examples_to_draw(sampling):
    p = js.potential(jnp.sum, np.ones(2))
    for build in (js.sgd, js.sgd_sde):
        with pytest.raises(ValueError, match="a potential has none"):
            build(p, learning_rate=0.1, sampling=sampling)


@pytest.mark.parametrize("eta", [0, -0.1, np.nan, np.inf, True, [0.1, 0.2], np.ones((1, 1))])
def test_learning_rates_that_are_none(eta):
    for build in (js.sgd, js.sgd_sde):
        with pytest.raises(ValueError, match="learning_rate must be"):
            build(PROBLEM, learning_rate=eta)
    with pytest.raises(TypeError, match="learning_rate must be a number"):
        js.sgd(PROBLEM, learning_rate="fast")
