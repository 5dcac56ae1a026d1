"""Closed forms, recursions and quadratures that fix every convention of `jaxsde.theory`.

Where digits count the objects are built in float64 (`double`), so that the numbers are compared at 1e-8 or at the digits in which
they are known: by default a learning rate of 0.1 is a float32, 0.100000001.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from numpy.testing import assert_allclose
from sklearn.datasets import load_diabetes

import jaxsde.theory as theory
from jaxsde.dynamics.equations import brownian, langevin, sde, sgd_sde
from jaxsde.problems.problem import finite_sum, potential
from jaxsde.stepping.chains import integrate, sgd
from jaxsde.stepping.integrators import EulerMaruyama, Heun, Milstein

Q1 = (np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[2.0, -0.5], [-0.5, 0.6]]))
Q2 = (np.array([[2.0, 0.6], [0.6, 0.5]]), np.array([[1.0, -0.4], [-0.4, 0.3]]))


@pytest.fixture
def double():
    """The test runs with x64 on."""
    with jax.enable_x64(True):
        yield


def quadratic(h, covariance=1.0):
    h = jnp.asarray(np.atleast_2d(h))
    return potential(lambda phi: 0.5 * phi @ h @ phi, np.ones(len(h)), noise_covariance=covariance)


def squared_error(phi, example):
    x, y = example
    return 0.5 * (x @ phi - y) ** 2


def diabetes(*columns):
    table = load_diabetes()
    x = table.data[:, [table.feature_names.index(c) for c in columns]]
    x, y = (x - x.mean(axis=0)) / x.std(axis=0), (table.target - table.target.mean()) / table.target.std()
    return finite_sum(squared_error, (x, y), np.zeros(len(columns))), x, y


def moments(x, y):
    """Hessian, residual covariance at the least-squares solution: NumPy alone."""
    h = x.T @ x / len(x)
    residual = x @ np.linalg.lstsq(x, y, rcond=None)[0] - y
    g = x * residual[:, None]
    return h, g.T @ g / len(x)


def gaussian_kl(h, s):
    """KL of N(0, S) to the best N(0, T H⁻¹): NumPy alone."""
    values = np.linalg.eigvals(h @ s).real
    return 0.5 * np.sum(np.log(values.mean()) - np.log(values))


def kron_lyapunov(h, q):
    """HS + SH = Q by a linear system: NumPy alone."""
    eye = np.eye(len(h))
    return np.linalg.solve(np.kron(h, eye) + np.kron(eye, h), q.ravel()).reshape(h.shape)


@pytest.mark.parametrize(
    ("case", "eta", "kl", "ep"),
    [(Q1, 0.1, 0.28763678, 0.0022456140), (Q2, 0.02, 0.16054458, 2.97257143)],
    ids=["Q1", "Q2"],
)
def test_constant_noise_sde(double, case, eta, kl, ep):
    h, c = case
    problem = quadratic(h, c)
    process = sgd_sde(problem, learning_rate=eta)
    s = theory.stationary_covariance(process)
    assert_allclose(h @ s + s @ h, eta * c, atol=1e-12)
    assert_allclose(theory.best_temperature(problem, s), eta * np.trace(c) / 4, rtol=1e-10)
    assert_allclose(
        theory.gaussian_kl_to_gibbs(problem, s), kl, atol=1.1e-7
    )  # Q1's digits are those at ε* = .00153846, to 1e-7
    assert_allclose(theory.gaussian_kl_to_gibbs(problem, s), gaussian_kl(h, kron_lyapunov(h, eta * c)), rtol=1e-10)
    assert_allclose(theory.entropy_production(process), ep, rtol=2e-8)
    other = sgd_sde(problem, learning_rate=eta / 7)
    assert_allclose(theory.entropy_production(other), theory.entropy_production(process), rtol=1e-9)
    assert_allclose(theory.gaussian_kl_to_gibbs(problem, theory.stationary_covariance(other)), kl, atol=6e-9)


def test_area_rate_sign(double):
    """Q₁₂ of Q1 is positive, and an independent simulation turns the same way."""
    h, c = Q1
    process = sgd_sde(quadratic(h, c), learning_rate=0.1)
    q = theory.area_rates(process)
    assert_allclose(q, [[0, 0.00133333333], [-0.00133333333, 0]], atol=1e-11)
    rng = np.random.default_rng(0)
    dt, root = 0.02, np.linalg.cholesky(0.1 * c)
    x = rng.multivariate_normal(np.zeros(2), kron_lyapunov(h, 0.1 * c), size=20_000)
    area = np.zeros(len(x))
    for _ in range(500):
        y = x - dt * x @ h + np.sqrt(dt) * rng.normal(size=x.shape) @ root.T
        area += (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]) / 2
        x = y
    rate, error = area.mean() / 10, area.std() / 10 / np.sqrt(len(x))
    assert abs(rate - q[0, 1]) < 5 * error + 0.05 * q[0, 1]
    assert abs(rate + q[0, 1]) > 5 * error  # the transposed sign fails


def test_default_precision_reads_the_same_objects():
    """With x64 off the leaves are float32, and the arithmetic on them still float64; no setting is left changed."""
    problem, x, y = diabetes("bmi", "bp", "s5")
    assert problem.start.dtype == np.float32
    before = dict(jax.config.values)
    s = theory.stationary_covariance(sgd(problem, learning_rate=0.05))
    assert_allclose(s, DIAB3, atol=2e-8)
    x32, y32 = np.asarray(x, np.float32).astype(float), np.asarray(y, np.float32).astype(float)
    assert_allclose(theory.minimum(problem), np.linalg.lstsq(x32, y32, rcond=None)[0], atol=1e-13)
    assert dict(jax.config.values) == before


def test_unit_noise_is_gibbs_but_the_discrete_chain_is_not(double):
    h, eta = Q2[0], 0.02
    problem = quadratic(h)
    s = theory.stationary_covariance(sgd_sde(problem, learning_rate=eta))
    assert_allclose(theory.best_temperature(problem, s), eta / 2, rtol=1e-12)
    assert abs(theory.gaussian_kl_to_gibbs(problem, s)) < 1e-12
    assert abs(theory.entropy_production(sgd_sde(problem, learning_rate=eta))) < 1e-12
    chain = sgd(problem, learning_rate=eta)
    discrete = theory.stationary_covariance(chain)
    assert_allclose(discrete, eta * np.linalg.inv(2 * h - eta * h @ h), rtol=1e-10)
    assert theory.gaussian_kl_to_gibbs(problem, discrete) > 1e-5
    assert np.abs(theory.area_rates(chain)).max() < 1e-14


@pytest.mark.parametrize("sampling", ["gaussian", "two_point", "three_point"])
def test_constant_noise_sgd(double, sampling):
    one = sgd(quadratic(1.0), learning_rate=0.1, sampling=sampling)
    assert_allclose(theory.stationary_covariance(one), [[0.1 / 1.9]], rtol=1e-10)
    h, c = Q1
    s = theory.stationary_covariance(sgd(quadratic(h, c), learning_rate=0.1, sampling=sampling))
    assert_allclose(s @ h + h @ s - 0.1 * h @ s @ h, 0.1 * c, atol=1e-12)


def test_full_batch_rests(double):
    assert not theory.stationary_covariance(
        sgd(quadratic(Q1[0], Q1[1]), learning_rate=0.1, sampling="full_batch")
    ).any()


DIAB3 = np.array(
    [
        [0.01508217, -0.00279780, -0.00107325],
        [-0.00279780, 0.01480969, -0.00164754],
        [-0.00107325, -0.00164754, 0.01353124],
    ]
)


def test_least_squares_sgd(double):
    problem, x, y = diabetes("bmi", "bp", "s5")
    law = theory.stationary_law(sgd(problem, learning_rate=0.05))
    assert law.exact
    assert_allclose(law.covariance, DIAB3, atol=6e-9)
    assert_allclose(law.mean, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-12)
    h, c = moments(x, y)
    for eta, ratio in ((0.05, 1.125), (0.01, 1.0225)):
        s = theory.stationary_covariance(sgd(problem, learning_rate=eta))
        assert_allclose(np.trace(s) / np.trace(kron_lyapunov(h, eta * c)), ratio, atol=5e-4)


@pytest.mark.parametrize(("batch", "edge"), [(1, 0.385356), (4, 0.785379), (16, 1.005888)])
def test_stability_edge(double, batch, edge):
    problem, x, _ = diabetes("bmi", "bp", "s5")
    found = theory.stability_edge(problem, batch)
    assert_allclose(found, edge, atol=6e-7)
    # NumPy: the spectral radius of the second-moment operator, all per-example Hessians written out, is 1 there.
    h = x.T @ x / len(x)
    eye = np.eye(3)
    one = eye - found * h
    spread = np.mean([np.kron(m, m) for m in (np.outer(v, v) - h for v in x)], axis=0)
    radius = np.abs(np.linalg.eigvals(np.kron(one, one) + found**2 / batch * spread)).max()
    assert_allclose(radius, 1, atol=1e-9)
    assert_allclose(theory.stability_edge(problem, batch, momentum=1e-7), found, rtol=1e-6)
    with pytest.raises(ValueError, match="no stationary covariance"):
        theory.stationary_covariance(sgd(problem, learning_rate=1.001 * found, batch_size=batch))
    theory.stationary_covariance(sgd(problem, learning_rate=0.999 * found, batch_size=batch))


def test_edges_without_noise(double):
    problem, x, _ = diabetes("bmi", "bp", "s5")
    top = np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    assert_allclose(theory.stability_edge(problem, sampling="full_batch"), 2 / top, rtol=1e-9)
    assert_allclose(theory.stability_edge(problem, len(x), "without_replacement"), 2 / top, rtol=1e-9)
    assert_allclose(theory.stability_edge(quadratic(Q1[0], Q1[1])), 2 / np.linalg.eigvalsh(Q1[0])[-1], rtol=1e-9)
    assert_allclose(theory.stability_edge(quadratic(1.7), momentum=0.9), 2 * 1.9 / 1.7, rtol=1e-9)


@pytest.mark.parametrize("columns", [("s3", "s4"), ("bmi", "bp", "s5")])
def test_frozen_noise_on_diabetes(double, columns):
    problem, x, y = diabetes(*columns)
    h, c = moments(x, y)
    for eta in (0.05, 0.002):
        process = sgd_sde(problem, learning_rate=eta, frozen_at=theory.minimum(problem))
        s = theory.stationary_covariance(process)
        assert_allclose(s, kron_lyapunov(h, eta * c), rtol=1e-9)
        kl, ep = theory.gaussian_kl_to_gibbs(problem, s), theory.entropy_production(process)
        d, q = eta * c / 2, h @ kron_lyapunov(h, eta * c) - eta * c / 2
        assert_allclose(kl, gaussian_kl(h, kron_lyapunov(h, eta * c)), rtol=1e-9)
        assert_allclose(ep, np.trace(np.linalg.inv(d) @ q @ np.linalg.inv(kron_lyapunov(h, eta * c)) @ q.T), rtol=1e-7)
        if columns == ("s3", "s4"):
            assert_allclose(np.linalg.eigvalsh(h), [0.262, 1.738], atol=6e-4)
            assert_allclose((kl, ep), (0.36700183, 0.01185666), atol=6e-9)
            assert_allclose((kl, ep), (0.3670, 0.0119), atol=6e-5)


@pytest.mark.parametrize(
    ("a", "s", "batch", "eta", "variance"),
    [(1, 1, 1, 0.2, 0.142857142857), (1, 1, 4, 0.5, 0.1), (2, 0.5, 3, 0.3, None)],
)
def test_gaussian_regression(double, a, s, batch, eta, variance):
    """Var = ηs²/[2B − ηa(B+2)] of a Gaussian population, whose second and fourth moments a three-point design has exactly."""
    r3 = np.sqrt(3 * a)
    x = np.repeat([r3, -r3, 0, 0, 0, 0], 2)
    residual = np.tile([s, -s], 6)
    problem = finite_sum(squared_error, (x[:, None], 0.7 * x + residual), np.zeros(1))
    law = theory.stationary_law(sgd(problem, learning_rate=eta, batch_size=batch))
    assert_allclose(law.mean, [0.7], atol=1e-12)
    assert_allclose(law.covariance[0, 0], eta * s**2 / (2 * batch - eta * a * (batch + 2)), rtol=1e-10)
    if variance is not None:
        assert_allclose(law.covariance[0, 0], variance, atol=1e-11)
    assert_allclose(theory.stability_edge(problem, batch), 2 * batch / (a * (batch + 2)), rtol=1e-10)


def test_double_well_with_state_dependent_noise(double):
    problem = potential(lambda p: (p[0] ** 2 - 1) ** 2 / 4, np.ones(1), noise_covariance=lambda p: 0.2 + p**2)
    process = sgd_sde(problem, learning_rate=0.3)
    density = theory.stationary_density(process)
    assert_allclose(density.expectation(np.square), 0.79258271, atol=6e-9)
    assert_allclose(theory.stationary_covariance(process), [[0.79258271]], atol=6e-9)
    kl, temperature = theory.density_kl_to_gibbs(density, problem)
    assert_allclose((temperature, kl), (0.18812506, 0.04532763), atol=6e-9)
    x = np.linspace(-2, 2, 4001)
    p = density.log_density(x)
    modes = x[1:-1][(p[1:-1] > p[:-2]) & (p[1:-1] > p[2:])]
    assert_allclose(modes, [-np.sqrt(0.7), np.sqrt(0.7)], atol=1e-3)


def test_double_well_against_a_simulation():
    """NumPy Euler–Maruyama of the same Itô SDE; the Stratonovich reading (E x² = .95003) fails."""
    rng = np.random.default_rng(1)
    eta, dt, n = 0.3, 0.01, 20_000
    x = rng.choice([-0.8, 0.8], size=n) + 0.4 * rng.normal(size=n)
    for _ in range(3000):
        x = x - (x**3 - x) * dt + np.sqrt(eta * (0.2 + x * x) * dt) * rng.normal(size=n)
    error = (x * x).std() / np.sqrt(n)
    assert abs((x * x).mean() - 0.79258271) < 5 * error + 0.01
    assert abs((x * x).mean() - 0.95003) > 5 * error + 0.01


def test_student_t(double):
    process = sde(lambda t, x: -x, lambda x: jnp.sqrt(1 + 0.6 * x**2), dim=1, scale=np.sqrt(0.5))
    density = theory.stationary_density(process)
    nu = 1 + 2 / (0.5 * 0.6)
    student = scipy.stats.t(nu, scale=np.sqrt(1 / 0.6 / nu))
    assert_allclose(nu, 7.6667, atol=5e-5)
    assert_allclose(density.covariance, [[0.5 / (2 - 0.3)]], rtol=1e-9)
    assert_allclose(theory.stationary_covariance(process), [[0.294118]], atol=5e-7)
    assert_allclose(density.quantile(0.999), student.ppf(0.999), rtol=1e-8)
    assert_allclose(density.quantile(0.999), 2.138, atol=5e-4)
    points = np.array([-30.0, -1.3, 0.0, 0.2, 5.0])
    assert_allclose(density.log_density(points), student.logpdf(points), atol=1e-8)
    assert_allclose(density.cdf(points), student.cdf(points), atol=1e-10)
    # The Euler chain of the same: S = (1 − h)² S + h η (s0 + s2 S).
    dt = 0.1
    s = theory.stationary_covariance(integrate(process, dt=dt))
    assert_allclose(s, [[dt * 0.5 / (1 - (1 - dt) ** 2 - dt * 0.3)]], rtol=1e-9)


def test_variance_that_does_not_exist():
    density = theory.stationary_density(
        sde(lambda t, x: -x, lambda x: jnp.sqrt(1 + 0.6 * x**2), dim=1, scale=np.sqrt(5.0))
    )
    assert np.isinf(density.covariance).all() and np.isfinite(density.mean).all()


def test_integrated_ornstein_uhlenbeck(double):
    process = sde(lambda t, x: -1.3 * x, 0.7, dim=1)
    assert_allclose(theory.stationary_covariance(process), [[0.7 / 2.6]], rtol=1e-12)
    assert_allclose(theory.stationary_covariance(integrate(process, dt=0.2)), [[0.309461]], atol=5e-7)
    assert_allclose(theory.stationary_covariance(integrate(process, dt=0.2)), [[0.7 * 0.2 / (1 - 0.74**2)]], rtol=1e-10)
    other = sde(lambda t, x: -1.5 * x, 0.64, dim=1)
    expected = {EulerMaruyama(): 0.2625641, Heun(): 0.20448541, Milstein(): 0.2625641}
    for scheme, value in expected.items():
        assert_allclose(theory.stationary_covariance(integrate(other, scheme, dt=0.25)), [[value]], atol=6e-9)


def test_heavy_ball(double):
    """Var Φ and Var v of v' = μv − ηĝ, Φ' = Φ + v' at (η, h, μ, c) = (.3, 1.7, .9, 1.3)."""
    momentum = functools.partial(optax.sgd, momentum=0.9)
    chain = sgd(quadratic(1.7, 1.3), learning_rate=0.3, optimizer=momentum)
    assert_allclose(theory.stationary_covariance(chain), [[1.3248704]], atol=6e-8)
    plain = sgd(quadratic(1.7, 1.3), learning_rate=0.3)
    same = sgd(quadratic(1.7, 1.3), learning_rate=0.3, optimizer=optax.sgd)
    assert_allclose(theory.stationary_covariance(same), theory.stationary_covariance(plain), rtol=1e-7)


def test_known_gaussian_divergences():
    assert_allclose(theory.gaussian_kl([0], [[1]], [1], [[4]]), 0.4431472, atol=5e-8)
    assert_allclose(theory.gaussian_kl([0, 0], np.eye(2), [0, 0], [[1, 1], [1, 2]]), 0.5, rtol=1e-12)


def test_laws_that_do_not_exist():
    with pytest.raises(ValueError, match=r"rest point|stationary"):
        theory.stationary_covariance(brownian(2, learning_rate=0.1))
    with pytest.raises(ValueError, match="depends on time"):
        theory.stationary_density(sde(lambda t, x: t - x, 1.0, dim=1))
    with pytest.raises(ValueError, match="does not settle"):
        theory.stationary_density(sde(lambda t, x: x, 1.0, dim=1))
    with pytest.raises(ValueError, match="vanishes"):
        theory.stationary_density(sde(lambda t, x: -x, lambda x: x, dim=1))


def test_langevin_is_gibbs(double):
    """Quadrature of a ring: Langevin's stationary law is the Gibbs law itself."""
    problem = potential(lambda p: (p @ p - 1) ** 2 / 4, np.array([1.0, 0.2]))
    law = theory.stationary_law(langevin(problem, temperature=0.05))
    gibbs = theory.gibbs(problem, 0.05)
    assert law.exact
    assert_allclose(law.covariance, gibbs.covariance, atol=1e-9)
    radius, u = np.linspace(0, 4, 40_001), np.linspace(0, 4, 40_001)
    weight = radius * np.exp(-((u**2 - 1) ** 2) / 4 / 0.05)
    assert_allclose(gibbs.covariance[0, 0], np.sum(weight * radius**2) / np.sum(weight) / 2, rtol=1e-8)
