"""Laws of the second-moment equations: residuals, invariances, and references that share no code."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import jaxsde.theory as theory
from jaxsde.dynamics.equations import sde, sgd_sde
from jaxsde.problems.problem import finite_sum, potential
from jaxsde.stepping.chains import integrate, sgd

seeds = st.integers(0, 2**32 - 1)
dims = st.integers(1, 6)


def random_positive(rng, d, rank=None):
    root = rng.normal(size=(d, d if rank is None else rank))
    return root @ root.T + (0.1 * np.eye(d) if rank is None else 0)


@given(seeds, dims, st.booleans())
@settings(max_examples=60, deadline=None)
def test_lyapunov_residuals(seed, d, symmetric):
    rng = np.random.default_rng(seed)
    h = random_positive(rng, d)
    a = -h if symmetric else -h + 0.7 * (skew := rng.normal(size=(d, d))) - 0.7 * skew.T
    q = random_positive(rng, d, rank=rng.integers(1, d + 1))
    s = theory.lyapunov(a, q)
    assert_allclose(a @ s + s @ a.T, -q, atol=1e-10 * np.abs(a).max() * np.abs(s).max() + 1e-12)
    step = np.eye(d) + a / (2 * np.linalg.norm(a, 2) ** 2) * np.linalg.eigvalsh(h)[0]
    s = theory.discrete_lyapunov(step, q)
    assert_allclose(step @ s @ step.T + q, s, atol=1e-10 * np.abs(s).max())
    assert np.linalg.eigvalsh(s)[0] > -1e-10 * np.abs(s).max()


@given(seeds, st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_divergences_and_currents_of_random_linear_sdes(seed, d):
    rng = np.random.default_rng(seed)
    h, c = random_positive(rng, d), random_positive(rng, d)
    s = theory.lyapunov(-h, 0.1 * c)
    gibbs = np.trace(h @ s) / d * np.linalg.inv(h)
    zero = np.zeros(d)
    kl = theory.gaussian_kl(zero, s, zero, gibbs)
    assert kl > 0
    assert theory.gaussian_kl(zero, s, zero, s) == pytest.approx(0, abs=1e-12)
    assert_allclose(
        theory.gaussian_kl(zero, theory.lyapunov(-h, 0.1 * np.eye(d)), zero, 0.05 * np.linalg.inv(h)), 0, atol=1e-10
    )
    # Any linear map of space leaves the divergence as it is; so does a rotation the entropy production.
    m = rng.normal(size=(d, d)) + 3 * np.eye(d)
    assert_allclose(theory.gaussian_kl(zero, m @ s @ m.T, zero, m @ gibbs @ m.T), kl, rtol=1e-6)
    ep = theory.linear_entropy_production(-h, 0.05 * c)
    assert ep >= 0
    moved = theory.linear_entropy_production(-m @ h @ np.linalg.inv(m), 0.05 * m @ c @ m.T)
    assert_allclose(moved, ep, rtol=1e-5, atol=1e-9)
    assert_allclose(theory.linear_entropy_production(-h, 0.5 * c), ep, rtol=1e-8, atol=1e-12)  # the same at any η
    # Commuting but anisotropic: no current, yet not Gibbs.
    _, vectors = np.linalg.eigh(h)
    variances = rng.uniform(0.5, 2, size=d)
    c = (vectors * variances) @ vectors.T
    assert theory.linear_entropy_production(-h, c) < 1e-12 * np.abs(h).max()
    s = theory.lyapunov(-h, c)
    expected = -0.5 * np.log(variances / variances.mean()).sum()  # 0 only for equal variances
    assert_allclose(
        theory.gaussian_kl(zero, s, zero, np.trace(h @ s) / d * np.linalg.inv(h)), expected, rtol=1e-6, atol=1e-9
    )


def test_entropy_production_of_singular_noise():
    # Noise in one component alone, carried into the other by the drift: the current leaves the range of D.
    assert theory.linear_entropy_production([[-1.0, -0.3], [-0.3, -2.0]], [[1.0, 0.0], [0.0, 0.0]]) == math.inf
    # A component that feels no noise and no drift from the other: it rests, and the rest is in equilibrium.
    assert theory.linear_entropy_production([[-1.0, 0.0], [0.0, -2.0]], [[1.0, 0.0], [0.0, 0.0]]) == pytest.approx(
        0, abs=1e-14
    )


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_best_temperature_is_best(seed):
    rng = np.random.default_rng(seed)
    h, s, shift = random_positive(rng, 3), random_positive(rng, 3), rng.normal(size=3)
    matrix = jnp.asarray(h, jnp.float32)
    h = np.asarray(matrix, np.float64)
    h = (h + h.T) / 2
    problem = potential(lambda phi: 0.5 * phi @ matrix @ phi, np.ones(3))
    gibbs = lambda t: t * np.linalg.inv(h)
    zero = np.zeros(3)
    for direction in ("forward", "reverse"):
        for mean in (None, shift):
            best = theory.best_temperature(problem, s, direction, mean=mean)
            place = zero if mean is None else mean
            around = []
            for t in (best, 0.99 * best, 1.01 * best):
                pair = ((place, s), (zero, gibbs(t)))
                (m1, s1), (m2, s2) = pair if direction == "forward" else pair[::-1]
                around.append(theory.gaussian_kl(m1, s1, m2, s2))
            assert around[0] < around[1] and around[0] < around[2]
            assert_allclose(
                theory.gaussian_kl_to_gibbs(problem, s, direction=direction, mean=mean), around[0], rtol=1e-6
            )


def enumerate_covariance(hessians, gradients, eta, batches):
    """Stationary second moment of e' = e − η (H_b e + g_b), every batch b written out: one linear system on (E e, E e eᵀ)."""
    d = hessians.shape[1]
    eye = np.eye(d)
    square, cross, constant, drift, offset = 0.0, 0.0, 0.0, 0.0, 0.0
    for b in batches:
        h, g = hessians[list(b)].mean(axis=0), eta * gradients[list(b)].mean(axis=0)
        a = eye - eta * h
        square = square + np.kron(a, a) / len(batches)
        cross = cross - (np.kron(a, g[:, None]) + np.kron(g[:, None], a)) / len(batches)
        constant = constant + np.kron(g, g) / len(batches)
        drift, offset = drift + a / len(batches), offset - g / len(batches)
    mean = np.linalg.solve(eye - drift, offset)
    second = np.linalg.solve(np.eye(d * d) - square, cross @ mean + constant).reshape(d, d)
    return second - np.outer(mean, mean), mean


def squared_error(phi, example):
    x, y = example
    return 0.5 * jnp.sum((x @ phi - y) ** 2)


@pytest.mark.parametrize("outputs", [1, 2], ids=["rank one", "several outputs"])
@pytest.mark.parametrize(
    ("sampling", "batch"),
    [("with_replacement", 1), ("with_replacement", 2), ("without_replacement", 2), ("without_replacement", 3)],
)
def test_least_squares_against_enumeration(sampling, batch, outputs):
    rng = np.random.default_rng(3)
    n, d, eta = 6, 3, 0.15
    x, y = rng.normal(size=(n, outputs, d)), rng.normal(size=(n, outputs)) * 2
    with jax.enable_x64(True):
        problem = finite_sum(squared_error, (x, y), np.zeros(d))
        chain = sgd(problem, learning_rate=eta, batch_size=batch, sampling=sampling)
    hessians = np.einsum("nki,nkj->nij", x, x)
    best = np.linalg.lstsq(x.reshape(-1, d), y.ravel(), rcond=None)[0]
    gradients = np.einsum("nki,nk->ni", x, x @ best - y)
    every = (
        itertools.product(range(n), repeat=batch)
        if sampling == "with_replacement"
        else itertools.combinations(range(n), batch)
    )
    expected, mean = enumerate_covariance(hessians, gradients, eta, list(every))
    law = theory.stationary_law(chain)
    assert law.exact
    assert_allclose(law.covariance, expected, rtol=1e-9, atol=1e-13)
    assert_allclose(law.mean, best + mean, atol=1e-11)
    # The other sampling's batch factor must not pass.
    other = {"with_replacement": "without_replacement", "without_replacement": "with_replacement"}[sampling]
    if batch > 1:
        wrong = theory.stationary_covariance(sgd(problem, learning_rate=eta, batch_size=batch, sampling=other))
        assert np.abs(wrong - expected).max() > 0.05 * np.abs(expected).max()
    # A surrogate of the same Σ(Φ)/B has the same second moments as sampling with replacement.
    if sampling == "with_replacement":
        surrogate = sgd(problem, learning_rate=eta, batch_size=batch, sampling="gaussian")
        assert_allclose(theory.stationary_covariance(surrogate), expected, atol=1e-5 * np.abs(expected).max())


def test_euler_on_the_sde_of_least_squares_at_dt_eta_has_the_moments_of_sgd():
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        problem = finite_sum(squared_error, (rng.normal(size=(40, 1, 2)), rng.normal(size=(40, 1))), np.zeros(2))
        chain = sgd(problem, learning_rate=0.1, batch_size=2)
        process = sgd_sde(problem, learning_rate=0.1, batch_size=2)
        euler = integrate(process, dt=0.1)
    assert_allclose(theory.stationary_covariance(euler), theory.stationary_covariance(chain), rtol=1e-10)
    finer = integrate(process, dt=1e-5)
    assert_allclose(theory.stationary_covariance(finer), theory.stationary_covariance(process), rtol=1e-4)


def test_krylov_and_dense_solutions_agree(monkeypatch):
    rng = np.random.default_rng(5)
    with jax.enable_x64(True):
        problem = finite_sum(squared_error, (rng.normal(size=(60, 1, 8)), rng.normal(size=(60, 1))), np.zeros(8))
        chain = sgd(problem, learning_rate=0.04)
    dense, edge = theory.stationary_covariance(chain), theory.stability_edge(problem)
    monkeypatch.setattr("jaxsde.theory.linear._DENSE", 0)
    assert_allclose(theory.stationary_covariance(chain), dense, rtol=1e-9, atol=1e-13)
    assert_allclose(theory.stability_edge(problem), edge, rtol=1e-8)


def test_sgd_against_a_simulation():
    """NumPy minibatch SGD on least squares: every entry of the covariance within 5 standard errors; 1.2 times κ is not."""
    rng = np.random.default_rng(6)
    n, d, eta, chains = 50, 2, 0.2, 40_000
    x = rng.normal(size=(n, d)) @ [[1, 0.4], [0, 0.8]]
    y = x @ [1.0, -1.0] + rng.normal(size=n)
    problem = finite_sum(squared_error, (x[:, None], y[:, None]), np.zeros(d))
    law = theory.stationary_law(sgd(problem, learning_rate=eta))
    phi = np.tile(law.mean, (chains, 1))
    for _ in range(150):
        i = rng.integers(n, size=chains)
        phi = phi - eta * x[i] * (np.sum(x[i] * phi, axis=1) - y[i])[:, None]
    e = phi - law.mean
    products = e[:, :, None] * e[:, None, :]
    error = products.std(axis=0) / np.sqrt(chains)
    assert (np.abs(products.mean(axis=0) - law.covariance) < 5 * error + 1e-6).all()
    assert (np.abs(products.mean(axis=0) - 1.2 * law.covariance) > 5 * error).any()
    assert (np.abs(e.mean(axis=0)) < 5 * np.sqrt(np.diag(law.covariance) / chains)).all()


def test_user_sde_with_a_rotating_drift():
    a = np.array([[-1.0, 2.0], [-2.0, -1.5]])
    process = sde(lambda t, x: jnp.asarray(a, x.dtype) @ (x - 0.5), [[1.0, 0.2], [0.2, 0.5]], dim=2)
    q = np.array([[1.0, 0.2], [0.2, 0.5]])
    law = theory.stationary_law(process)
    assert law.exact
    assert_allclose(law.mean, [0.5, 0.5], atol=1e-12)
    assert_allclose(a @ law.covariance + law.covariance @ a.T, -q, atol=1e-6)
    rates = theory.area_rates(process)
    assert rates[0, 1] < 0
    assert (rates == -rates.T).all()
    chain = integrate(process, dt=1e-6)
    assert_allclose(theory.area_rates(chain), rates, rtol=1e-4)
    density = theory.stationary_density(process)
    assert_allclose(
        np.exp(density.log_density([0.5, 0.5])), 1 / np.sqrt(np.linalg.det(2 * np.pi * law.covariance)), rtol=1e-9
    )


def test_nonlinear_objects_say_that_they_are_linearised():
    problem = potential(lambda p: jnp.sum((p**2 - 1) ** 2), np.array([1.1, 0.9]), noise_covariance=np.diag([1.0, 2.0]))
    law = theory.stationary_law(sgd(problem, learning_rate=1e-3))
    assert not law.exact and "linearised" in law.reason
    assert_allclose(law.covariance, np.diag(1e-3 * np.array([1, 2]) / (2 * 8 - 64e-3)), rtol=1e-5)
    with pytest.warns(UserWarning, match="linearised"):
        theory.stationary_covariance(sgd(problem, learning_rate=1e-3))
    with pytest.warns(UserWarning, match="linearised"):
        theory.stability_edge(problem)
    with pytest.raises(ValueError, match="no closed stationary density"):
        theory.stationary_density(sgd_sde(problem, learning_rate=1e-3))


def test_what_is_not_covered_says_why():
    rng = np.random.default_rng(7)
    data = (rng.normal(size=(20, 1, 2)), rng.normal(size=(20, 1)))
    problem = finite_sum(squared_error, data, np.zeros(2))
    with pytest.raises(ValueError, match="batches of an epoch depend"):
        theory.area_rates(sgd(problem, learning_rate=0.1, batch_size=2, sampling="random_reshuffling"))
    with pytest.raises(ValueError, match="edge under random_reshuffling is not covered"):
        theory.stability_edge(problem, sampling="random_reshuffling")
    with pytest.raises(ValueError, match="counts its steps"):
        theory.stationary_covariance(sgd(problem, learning_rate=0.1, optimizer=optax.adam))
    clipped = sgd(problem, learning_rate=0.1, optimizer=lambda rate: optax.chain(optax.clip(0.1), optax.sgd(rate)))
    with pytest.raises(ValueError, match="not linear"):
        theory.stationary_covariance(clipped)
    flat = finite_sum(squared_error, (np.tile(data[0][:, :, :1], 2), data[1]), np.zeros(2))
    with pytest.raises(ValueError, match="flat"):
        theory.stationary_covariance(sgd(flat, learning_rate=0.1))
    line = finite_sum(squared_error, (data[0][:, :, :1], data[1]), np.zeros(1))
    assert_allclose(theory.stability_edge(flat), theory.stability_edge(line) / 2, rtol=1e-5)
    with pytest.raises(TypeError, match="Diffusion"):
        theory.stationary_covariance(problem)


bad = [
    (lambda: theory.lyapunov(np.zeros((2, 3)), np.eye(2)), "square"),
    (lambda: theory.lyapunov(-np.eye(2), np.eye(3)), "square matrix"),
    (lambda: theory.lyapunov(-np.eye(2), [[1, 0.5], [0, 1]]), "not symmetric"),
    (lambda: theory.lyapunov(-np.eye(2), -np.eye(2)), "indefinite"),
    (lambda: theory.lyapunov(-np.eye(2), [[np.nan, 0], [0, 1]]), "not finite"),
    (lambda: theory.lyapunov(np.eye(2), np.eye(2)), "not stable"),
    (lambda: theory.discrete_lyapunov(np.eye(2), np.eye(2)), "unstable"),
    (lambda: theory.gaussian_kl([0, 0], np.eye(2), [0], np.eye(1)), "vector"),
    (lambda: theory.gaussian_kl([0, 0], np.eye(2), [0, np.inf], np.eye(2)), "not finite"),
    (lambda: theory.gaussian_kl([0, 0], np.diag([1, -1]), [0, 0], np.eye(2)), "indefinite"),
    (lambda: theory.stability_edge(potential(lambda p: p @ p, np.ones(2)), 0), "positive integer"),
    (lambda: theory.stability_edge(potential(lambda p: p @ p, np.ones(2)), momentum=1.0), "momentum"),
    (lambda: theory.stability_edge(potential(lambda p: p @ p, np.ones(2)), sampling="sorted"), "sampling"),
    (lambda: theory.best_temperature(potential(lambda p: p @ p, np.ones(2)), np.eye(3)), "square matrix"),
    (lambda: theory.best_temperature(potential(lambda p: p @ p, np.ones(2)), np.eye(2), "sideways"), "direction"),
    (lambda: theory.best_temperature(potential(lambda p: p @ p, np.ones(2)), np.diag([1, 0]), "reverse"), "singular"),
    (lambda: theory.gaussian_kl_to_gibbs(potential(lambda p: p @ p, np.ones(2)), np.eye(2), -1.0), "positive"),
    (lambda: theory.gaussian_kl_to_gibbs(potential(lambda p: p[0] ** 2, np.ones(2)), np.eye(2)), "flat"),
]


@pytest.mark.parametrize(("call", "match"), bad, ids=[f"{i}-{m}" for i, (_, m) in enumerate(bad)])
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_singular_covariances_are_infinitely_far():
    assert theory.gaussian_kl([0, 0], np.diag([1.0, 0]), [0, 0], np.eye(2)) == math.inf
    assert theory.gaussian_kl([0, 0], np.eye(2), [0, 0], np.diag([1.0, 0])) == math.inf
    # Very different scales are no missing rank.
    assert theory.gaussian_kl([0, 0], np.diag([1e-12, 1e12]), [0, 0], np.diag([1e-12, 1e12])) == pytest.approx(0)


def test_an_explosion_is_seen_by_the_krylov_route_too(monkeypatch):
    rng = np.random.default_rng(8)
    problem = finite_sum(squared_error, (rng.normal(size=(60, 1, 8)), rng.normal(size=(60, 1))), np.zeros(8))
    edge = theory.stability_edge(problem)
    monkeypatch.setattr("jaxsde.theory.linear._DENSE", 0)
    for factor in (1.02, 1.3):
        with pytest.raises(ValueError, match="mean-square gain"):
            theory.stationary_covariance(sgd(problem, learning_rate=factor * edge))
    theory.stationary_covariance(sgd(problem, learning_rate=0.98 * edge))
