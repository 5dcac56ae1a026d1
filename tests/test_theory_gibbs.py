"""Gibbs laws against closed forms and SciPy's quadrature; losses that have none; and the minima they start from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from by_default import some
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import jaxsde.theory as theory
from jaxsde.dynamics.equations import langevin, sde
from jaxsde.problems.problem import finite_sum, potential
from jaxsde.stepping.chains import sgd


def double_well(p):
    return (p[0] ** 2 - 1) ** 2 / 4 + jnp.sum(p[1:] ** 2)


def himmelblau(p):
    return (p[0] ** 2 + p[1] - 11) ** 2 + (p[0] + p[1] ** 2 - 7) ** 2


def ring(p):
    return (p @ p - 1) ** 2 / 4


def muller_brown(p):
    a, b, c = (-1.0, -1.0, -6.5, 0.7), (0.0, 0.0, 11.0, 0.6), (-10.0, -10.0, -6.5, 0.7)
    x, y, size = (1.0, 0.0, -0.5, -1.0), (0.0, 0.5, 1.5, 1.0), (-200.0, -100.0, -170.0, 15.0)
    terms = [
        s * jnp.exp(a * (p[0] - u) ** 2 + b * (p[0] - u) * (p[1] - v) + c * (p[1] - v) ** 2)
        for a, b, c, u, v, s in zip(a, b, c, x, y, size, strict=True)
    ]
    return sum(terms)


@pytest.mark.parametrize("temperature", [1e-4, 0.02, 0.188, 3.0])
def test_double_well(temperature):
    law = theory.gibbs(potential(double_well, np.ones(1)), temperature)
    x = np.linspace(-8, 8, 4_000_001)
    weight = np.exp(-((x**2 - 1) ** 2) / 4 / temperature)
    assert law.method == "quadrature" and law.exact
    assert_allclose(law.log_z, np.log(weight.sum() * (x[1] - x[0])), rtol=1e-10, atol=1e-10)
    assert_allclose(law.covariance[0, 0], (weight * x**2).sum() / weight.sum(), rtol=1e-9)
    assert_allclose(law.mean, [0], atol=1e-9)
    assert_allclose(law.mean_loss, (weight * (x**2 - 1) ** 2 / 4).sum() / weight.sum(), rtol=1e-9)
    grid = np.array([-1.2, 0.0, 0.9])
    assert_allclose(
        law.marginal(0, grid), np.exp(-((grid**2 - 1) ** 2) / 4 / temperature - law.log_z), rtol=1e-9, atol=1e-300
    )
    edges = np.linspace(-6, 6, 301)
    assert_allclose(law.masses((edges,)).sum(), 1, rtol=1e-6)


@pytest.mark.parametrize(("dim", "temperature"), [(2, 1e-3), (2, 1.0), (3, 0.05)])
def test_ring(dim, temperature):
    """No isolated minimum, but a Gibbs law all the same."""
    law = theory.gibbs(potential(ring, np.linspace(0.5, 1, dim)), temperature)
    r = np.linspace(0, 6, 2_000_001)
    weight = r ** (dim - 1) * np.exp(-((r**2 - 1) ** 2) / 4 / temperature)
    area = 2 * np.pi ** (dim / 2) / scipy.special.gamma(dim / 2)
    tolerance = max(1e-8, 3 * law.log_z_error)
    assert tolerance < 1e-5
    assert_allclose(law.log_z, np.log(area * weight.sum() * (r[1] - r[0])), atol=tolerance)
    assert_allclose(law.covariance, np.eye(dim) * (weight * r**2).sum() / weight.sum() / dim, atol=tolerance)


@pytest.mark.parametrize("temperature", some([0.01, 1.0, 50.0], [1.0, 50.0]))
def test_himmelblau(temperature):
    law = theory.gibbs(potential(himmelblau, np.array([0.3, 0.2])), temperature)
    x = np.linspace(-8, 8, 3201)
    total = 0.0
    for row in np.array_split(x, 8):
        a, b = row[:, None], x[None, :]
        total += np.exp(-((a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2) / temperature).sum()
    assert_allclose(law.log_z, np.log(total * (x[1] - x[0]) ** 2), atol=1e-9)
    if temperature < 0.02:  # the occupancies of the four wells, from their Hessians
        wells = [
            law.masses((np.linspace(a - 0.8, a + 0.8, 5), np.linspace(b - 0.8, b + 0.8, 5))).sum() for a, b in MINIMA
        ]
        assert_allclose(wells, [0.3395, 0.2161, 0.1605, 0.2839], atol=2e-3)


@pytest.mark.parametrize("temperature", [0.005, 0.05, 0.5])
def test_cells_much_wider_than_the_wells(temperature):
    """Quadrants, against a fine grid; cells of a side are cut only where there is density, so there are points enough."""
    law = theory.gibbs(potential(himmelblau, np.array([0.3, 0.2])), temperature)
    x = np.linspace(-7, 7, 3501) + 1e-9
    weight = np.exp(-(((x[:, None] ** 2 + x - 11) ** 2 + (x[:, None] + x**2 - 7) ** 2) / temperature))
    of = lambda a: np.array([a[x < 0].sum(0), a[x > 0].sum(0)])
    quadrants = of(of(weight).T).T / weight.sum()
    for edges in ([-50.0, 0.0, 50.0], [-6.0, -3.0, 0.0, 1.0, 6.0]):
        masses = law.masses((np.array(edges),) * 2)
        half = edges.index(0.0)
        found = np.add.reduceat(np.add.reduceat(masses, [0, half], axis=0), [0, half], axis=1)
        assert_allclose(found, quadrants, atol=1e-7)
    assert_allclose(law.masses((np.array([-50.0, 0.0, 50.0]),), (0,)), quadrants.sum(axis=1), atol=1e-7)


def test_cells_of_tilted_valleys_and_of_power_tails():
    tilted = theory.gibbs(potential(lambda x: x[0] ** 2 + x[1] ** 2 + 1.9 * x[0] * x[1], np.zeros(2)), 0.01)
    corner = 0.25 - np.arcsin(0.95) / (2 * np.pi)  # of a Gaussian with correlation −.95
    assert_allclose(tilted.masses((np.array([-4.0, 0, 4]),) * 2), [[corner, 0.5 - corner], [0.5 - corner, corner]], atol=1e-8)
    heavy = theory.gibbs(potential(lambda x: 3 * jnp.log1p(x @ x), np.zeros(1)), 1.0)  # Student's t, 5 degrees, over √5
    edges = np.array([-1e4, 0.0, 1.0, 100.0, 1e5])
    assert_allclose(heavy.masses((edges,)), np.diff(scipy.stats.t.cdf(edges * np.sqrt(5), 5)), atol=1e-7)


MINIMA = [(3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)]


@pytest.mark.parametrize("temperature", [1.0, 15.0])
def test_muller_brown(temperature):
    law = theory.gibbs(potential(muller_brown, np.array([-0.5, 1.5])), temperature)
    with jax.enable_x64(True):
        x, y = np.linspace(-4, 3.5, 1001), np.linspace(-3, 4.5, 1001)
        grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
        energy = np.asarray(jax.vmap(muller_brown)(jnp.asarray(grid)))
    weight = np.exp(-(energy - energy.min()) / temperature)
    expected = np.log(weight.sum() * (x[1] - x[0]) * (y[1] - y[0])) - energy.min() / temperature
    assert_allclose(law.log_z, expected, rtol=1e-8)
    assert_allclose(law.mean, weight @ grid / weight.sum(), atol=1e-6)
    marginal = law.marginal(1, y)
    assert_allclose(marginal.sum() * (y[1] - y[0]), 1, rtol=1e-6)
    assert_allclose(marginal @ y * (y[1] - y[0]), law.mean[1], atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=5, deadline=None)
def test_quadratic_losses_are_gaussian(seed, d):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    h, centre = jnp.asarray(root @ root.T + 0.2 * np.eye(d), jnp.float32), jnp.asarray(rng.normal(size=d), jnp.float32)
    law = theory.gibbs(potential(lambda p: 0.5 * (p - centre) @ h @ (p - centre) + 3.0, np.zeros(d)), 0.3)
    h = np.asarray(h, np.float64)
    cov = 0.3 * np.linalg.inv((h + h.T) / 2)
    assert law.exact
    assert_allclose(law.covariance, cov, rtol=1e-6, atol=1e-8)
    assert_allclose(law.log_z, -10 + 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1], rtol=1e-7)
    assert_allclose(law.mean_loss, 3 + 0.15 * d)
    x = rng.normal(size=(7, d))
    shift = x - np.asarray(centre, np.float64)
    expected = (
        -0.5 * np.einsum("ki,ij,kj->k", shift, np.linalg.inv(cov), shift) - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]
    )
    assert_allclose(law.log_density(x), expected, atol=1e-5)
    grid = np.linspace(-40, 40, 20_001)
    assert_allclose(law.marginal(d - 1, grid).sum() * (grid[1] - grid[0]), 1, rtol=1e-6)


def test_laplace_in_many_dimensions():
    law = theory.gibbs(potential(lambda p: jnp.sum(jnp.cosh(p) - 1), np.full(5, 0.3)), 0.01)
    assert law.method == "laplace" and not law.exact
    exact = 5 * np.log(scipy.integrate.quad(lambda x: np.exp(-(np.cosh(x) - 1) / 0.01), -3, 3)[0])
    assert abs(law.log_z - exact) < 0.01


@pytest.mark.parametrize("dim", [1, 2])
def test_heavy_tails(dim):
    """L = log(1 + r²): exp(−L/T) has a finite integral iff T < 2/d, a variance iff T < 2/(d + 2)."""
    problem = potential(lambda p: jnp.log1p(p @ p), np.ones(dim))
    k = 5.0
    law = theory.gibbs(problem, 1 / k)
    expected = scipy.special.gammaln(k - dim / 2) - scipy.special.gammaln(k) + dim / 2 * np.log(np.pi)
    assert_allclose(law.log_z, expected, atol=1e-9)
    assert_allclose(law.covariance, np.eye(dim) / (2 * k - dim - 2), atol=1e-8)
    broad = theory.gibbs(problem, 2 / (dim + 1.5))
    assert np.isinf(broad.covariance).all() and np.isfinite(broad.mean).all()
    with pytest.raises(ValueError, match="no Gibbs law"):
        theory.gibbs(problem, 2.2 / dim)


none = {
    "flat": (lambda p: p[1] ** 2, 2),
    "flat and not quadratic": (lambda p: p[1] ** 4, 2),
    "linear": (lambda p: p[0], 1),
    "downwards": (lambda p: -(p @ p), 2),
    "cubic": (lambda p: p[0] ** 3 / 3 - p[0], 1),
    "periodic": (lambda p: 1 - jnp.cos(p[0]), 1),
    "periodic in one direction": (lambda p: 1 - jnp.cos(p[0]) + p[1] ** 2, 2),
    "bounded": (lambda p: -jnp.exp(-(p @ p)), 2),
    "saturating": (lambda p: jnp.logaddexp(0.0, -p[0]), 1),
    "a valley to infinity": (lambda p: (p[0] * p[1] - 1) ** 2 / 2, 2),
    "flat in five dimensions": (lambda p: jnp.sum(p[1:] ** 4 + p[1:] ** 2), 5),
}


@pytest.mark.parametrize("name", none)
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_losses_without_a_gibbs_law(name, temperature):
    loss, d = none[name]
    with pytest.raises(ValueError, match="no Gibbs law") as caught:
        theory.gibbs(potential(loss, np.linspace(0.7, 1.2, d)), temperature)
    assert "\n" not in str(caught.value)


def logistic(phi, example):
    x, y = example
    return jnp.logaddexp(0.0, -y * (x @ phi))


def test_data_that_do_not_confine():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    separable = finite_sum(logistic, (x, np.sign(x @ [1.0, 2.0])), np.zeros(2))
    with pytest.raises(ValueError, match="no Gibbs law"):
        theory.gibbs(separable, 0.1)
    with pytest.raises(ValueError, match=r"no minimum found|not isolated"):
        theory.minimum(separable)
    mixed = finite_sum(logistic, (x, np.sign(x @ [1.0, 2.0] + 2 * rng.normal(size=30))), np.zeros(2))
    law = theory.gibbs(mixed, 0.01)
    assert np.isfinite(law.log_z)
    deficient = finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (np.tile(x[:, :1], 2), x[:, 1]), np.zeros(2))
    with pytest.raises(ValueError, match="no Gibbs law"):
        theory.gibbs(deficient, 0.1)


def test_bad_arguments():
    problem = potential(double_well, np.ones(1))
    for temperature in (0.0, -1.0, np.nan, np.inf, True):
        with pytest.raises(ValueError, match="temperature must be positive"):
            theory.gibbs(problem, temperature)
    with pytest.raises(TypeError, match="temperature must be a number"):
        theory.gibbs(problem, "warm")
    with pytest.raises(TypeError, match="finite_sum or potential"):
        theory.gibbs(double_well, 1.0)
    law = theory.gibbs(potential(himmelblau, np.ones(2)), 1.0)
    with pytest.raises(ValueError, match="positions"):
        law.log_density(np.zeros(3))
    with pytest.raises(ValueError, match="components"):
        law.marginal(2, [0.0])
    with pytest.raises(ValueError, match="increasing"):
        law.masses((np.array([0.0, -1.0]), np.array([0.0, 1.0])))


def test_temperature_of_a_mean_loss():
    problem = potential(double_well, np.array([0.5, 0.5]))
    law = theory.gibbs(problem, 0.137)
    assert_allclose(theory.temperature_of_loss(problem, law.mean_loss), 0.137, rtol=1e-8)
    with pytest.raises(ValueError, match="above the minimum"):
        theory.temperature_of_loss(problem, -1.0)


def test_density_on_the_line_is_gibbs_for_langevin():
    problem = potential(lambda p: jnp.exp(p[0]) - p[0], np.zeros(1))
    density = theory.stationary_density(langevin(problem, temperature=0.25))
    law = theory.gibbs(problem, 0.25)
    x = np.linspace(-3, 2, 11)
    assert_allclose(density.log_density(x), law.log_density(x), atol=1e-6)
    assert_allclose(density.mean, law.mean, atol=1e-8)
    kl, _ = theory.density_kl_to_gibbs(density, problem, 0.25)
    assert abs(kl) < 1e-8
    assert_allclose(density.cdf(density.quantile(0.3)), 0.3, atol=1e-10)
    wells = theory.stationary_density(sde(lambda t, x: x - x**3, 0.01, dim=1))  # a barrier of 50 kT
    assert_allclose(wells.cdf(0.0), 0.5, atol=1e-9)


# Minima


@pytest.mark.parametrize("method", ["auto", "newton", "lbfgs"])
def test_minima_of_known_losses(method):
    assert_allclose(theory.minimum(potential(himmelblau, np.array([2.5, 1.5])), method=method), [3, 2], atol=1e-11)
    rosenbrock = potential(lambda p: jnp.sum(100 * (p[1:] - p[:-1] ** 2) ** 2 + (1 - p[:-1]) ** 2), np.full(6, -0.3))
    assert_allclose(theory.minimum(rosenbrock, start=np.full(6, 0.7), method=method), np.ones(6), atol=1e-9)
    bias = potential(lambda p: jnp.exp(p[0]) - p[0] + 0.5 * p[1] ** 2, np.array([2.0, -3.0]))
    assert_allclose(theory.minimum(bias, method=method), [0, 0], atol=1e-11)


def test_minimum_of_many_parameters():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 120)), rng.normal(size=400)
    problem = finite_sum(
        lambda p, e: 0.5 * (e[0] @ p["w"] + p["b"] - e[1]) ** 2, (x, y), {"w": np.zeros(120), "b": np.zeros(())}
    )
    x32, y32 = np.asarray(x, np.float32).astype(float), np.asarray(y, np.float32).astype(float)
    expected = np.linalg.lstsq(np.c_[np.ones(400), x32], y32, rcond=None)[0]
    assert_allclose(theory.minimum(problem), expected, atol=1e-10)


def test_a_start_on_a_saddle_is_left():
    assert_allclose(np.abs(theory.minimum(potential(double_well, np.zeros(1)))), [1], atol=1e-10)
    assert_allclose(np.linalg.norm(theory.minimum(potential(ring, np.zeros(3)), isolated=False)), 1, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "d", "match"),
    [
        (lambda p: p[0] ** 3, 1, "no minimum"),
        (lambda p: -jnp.sum(p**2), 2, "no minimum"),
        (lambda p: jnp.logaddexp(0.0, -p[0]), 1, "no minimum"),
        (lambda p: jnp.exp(-p[0]) + p[1] ** 2, 2, "no minimum|flat"),
        (ring, 2, "flat in 1 of 2"),
        (lambda p: p[0] ** 2, 3, "flat in 2 of 3"),
    ],
)
def test_minima_that_do_not_exist(loss, d, match):
    with pytest.raises(ValueError, match=match):
        theory.minimum(potential(loss, np.linspace(0.8, 1.0, d)))


def test_bad_starts():
    problem = potential(himmelblau, np.ones(2))
    with pytest.raises(ValueError, match="vector"):
        theory.minimum(problem, start=np.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        theory.minimum(problem, start=[1.0, np.nan])
    with pytest.raises(ValueError, match="method"):
        theory.minimum(problem, method="guess")


def test_a_numpy_array_in_a_closure_survives_theory():
    """JAX caches a closed-over NumPy array by identity, in the dtype of the first trace: theory must not leave float64 there."""
    scales = np.array([1.0, 2.5])
    problem = potential(lambda p: jnp.sum(scales * p**2), np.ones(2))
    step = jax.jit(jax.grad(problem.loss))
    assert step(jnp.ones(2)).dtype == jnp.float32
    assert_allclose(theory.minimum(problem), 0, atol=1e-12)
    assert_allclose(
        theory.stationary_covariance(sgd(problem, learning_rate=0.01)), np.diag(0.01 / (4 * scales - 0.04 * scales**2))
    )
    fresh = jax.jit(lambda p: jax.grad(problem.loss)(p) * 2)
    assert_allclose(fresh(jnp.ones(2)), 4 * scales)
    other = potential(lambda p: jnp.sum(scales * p**4), np.ones(2))
    theory.gibbs(other, 0.1)
    assert_allclose(jax.grad(other.loss)(jnp.ones(2)), 4 * scales)


def test_a_loop_from_default_zeros_is_covered():
    """A scan whose carry starts in the default dtype needs the other way to float64."""

    def loss(p):
        return jax.lax.fori_loop(0, 2, lambda i, total: total + jnp.sum(p**2) / 4, jnp.zeros(()))

    assert_allclose(theory.minimum(potential(lambda p: jnp.sum(p**2), np.ones(2))), 0, atol=1e-12)
    values = theory.minimum(potential(lambda p: jax.checkpoint(lambda q: jnp.sum((q - 1) ** 2))(p), np.zeros(2)))
    assert_allclose(values, 1, atol=1e-12)
    from jaxsde.theory import float64

    assert_allclose(float64.evaluate(lambda _, x: loss(x), (), [1.0, 1e-9]), 0.5, rtol=1e-15)
