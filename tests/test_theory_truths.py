"""`jaxsde.theory` on real data, in default precision, and where there is no law; the table of `test_known_answers` has the rest.

Where digits count the objects are built in float64 (`double`), so that the numbers are compared at 1e-8 or at the digits in which
they are known: by default a learning rate of 0.1 is a float32, 0.100000001.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose
from sklearn.datasets import load_diabetes

import jaxsde.theory as theory
from jaxsde.dynamics.equations import brownian, langevin, sde, sgd_sde
from jaxsde.problems.problem import finite_sum, potential
from jaxsde.stepping.chains import integrate, sgd

Q1 = (np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[2.0, -0.5], [-0.5, 0.6]]))


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


def test_stability_edge_is_where_the_covariance_ends(double):
    problem, _, _ = diabetes("bmi", "bp", "s5")
    found = theory.stability_edge(problem, 4)
    assert_allclose(theory.stability_edge(problem, 4, momentum=1e-7), found, rtol=1e-6)
    with pytest.raises(ValueError, match="no stationary covariance"):
        theory.stationary_covariance(sgd(problem, learning_rate=1.001 * found, batch_size=4))
    theory.stationary_covariance(sgd(problem, learning_rate=0.999 * found, batch_size=4))


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


def test_laws_that_do_not_exist():
    with pytest.raises(ValueError, match=r"rest point|stationary"):
        theory.stationary_covariance(brownian(2, learning_rate=0.1))
    with pytest.raises(ValueError, match="depends on time"):
        theory.stationary_density(sde(lambda t, x: t - x, 1.0, dim=1))
    with pytest.raises(ValueError, match="does not settle"):
        theory.stationary_density(sde(lambda t, x: x, 1.0, dim=1))
    # wells without end, each behind a barrier of 40 kT, and one at whose side the drift jumps, four hundred widths away
    waves = sgd_sde(potential(lambda p: jnp.sin(p[0]), np.ones(1), noise_covariance=1.0), learning_rate=0.1)
    with pytest.raises(ValueError, match="does not settle"):
        theory.stationary_density(waves)
    two = potential(lambda p: jnp.minimum((p[0] + 400) ** 2, p[0] ** 2) / 2, np.zeros(1), noise_covariance=1.0)
    with pytest.raises(ValueError, match="log Z is uncertain"):
        theory.stationary_density(sgd_sde(two, learning_rate=0.3))
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
