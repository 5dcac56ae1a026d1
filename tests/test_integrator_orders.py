"""Every integrator against the weak orders that it declares, for every kind of noise that it declares.

Weak orders here, without sampling: exact moment maps of linear SDEs (one step averaged over its draws by quadrature, on polynomials
of the position), and for drifts that are not linear Fourier (and Hermite) series. Strong orders are in `test_strong_orders.py`. Slopes
are accepted within 4 standard errors + .12 for what is beyond leading order; the twins must be told apart.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxsde as js
from jaxsde.stepping.chains import as_drawn
from jaxsde.stepping.integrators import INTEGRATORS

TWO, THREE = ((np.array([-1.0, 1.0]), np.array([1, 1]) / 2), (np.array([-np.sqrt(3), 0, np.sqrt(3)]), np.array([1, 4, 1]) / 6))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def hermite(count):
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def nodes_of(draws, normal):
    """All values of a step's draws (normals by quadrature with `normal` nodes each), with their weights."""
    sizes = (draws.normals, draws.three_point, draws.signs)
    laws = [law for law, n in zip((hermite(normal), THREE, TWO), sizes, strict=True) for _ in range(n)]
    z = np.array(list(itertools.product(*(v for v, _ in laws))))
    return z, np.array([np.prod(w) for w in itertools.product(*(w for _, w in laws))])


# The chain is an argument: dt is a leaf, so that all steps of an integrator share one program.
STEP = jax.jit(jax.vmap(lambda chain, x, z: chain.step(x, as_drawn(z, chain.draws), 0.0), in_axes=(None, 0, 0)))


def fitted(steps, errors):
    """Slope of log error on log h, and its standard error."""
    (slope, _), covariance = np.polyfit(-np.log(steps), np.log(errors), 1, cov=True)
    return slope, np.sqrt(covariance[0, 0])


def made(name, kind):
    """The integrator, with what it says that it needs for this noise."""
    entry = INTEGRATORS[name]
    return entry(**({"terms": 1} if "terms" in entry.needs.get(kind, {}) else {}))


def declared(kind, drift="any", of="weak"):
    """Every integrator with an order for noise of this kind."""
    return [n for n, e in INTEGRATORS.items() if e.drift == drift and kind in getattr(e, of)]


# --- weak, linear SDEs in two dimensions: exact moment maps ---------------------------------------------------------------

STEPS = np.array([8, 16, 32, 64])
A = np.array([[-1.0, 0.4], [-0.2, -0.7]])
# columns bⱼ(x) = Bⱼ x + cⱼ: B₀ and B₁ do not commute
B = np.array([[[0.3, 0.5], [0.0, 0.2]], [[0.1, 0.0], [0.6, -0.2]]])
C = np.array([[0.2, -0.1], [0.1, 0.3]])
X0 = np.array([0.7, -0.4])


def general(x):
    return jnp.stack([jnp.asarray(B[j]) @ x + jnp.asarray(C[j]) for j in (0, 1)], axis=1)


NOISES = {"additive": [[0.5, 0.1], [0.1, 0.3]], "diagonal": lambda x: 0.3 + 0.4 * x, "general": general}
MATRICES = {
    "additive": lambda x: np.linalg.cholesky(np.array([[0.5, 0.1], [0.1, 0.3]])) + 0 * x[0],
    "diagonal": lambda x: np.diag([0.3 + 0.4 * x[0], 0.3 + 0.4 * x[1]]),
    "general": lambda x: np.stack([B[j] @ x + C[j] for j in (0, 1)], axis=1),
}


def second_moments(x):
    """(1, x₀, x₁, x₀², x₀x₁, x₁²): closed under a linear SDE, and under a scheme whose step is linear in x."""
    one = np.ones(x.shape[:-1])
    return np.stack([one, x[..., 0], x[..., 1], x[..., 0] ** 2, x[..., 0] * x[..., 1], x[..., 1] ** 2], axis=-1)


POINTS = np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1], [1, 1]], float)


def moment_matrix(means):
    """The matrix M of E m(x') = M m(x), from the moments after a step from each of six points."""
    return np.linalg.solve(second_moments(POINTS), np.array(means)).T


def exact_generator(kind):
    def rates(x):
        f, b = A @ x + np.array([0.1, 0.2]), MATRICES[kind](x)
        d = b @ b.T
        return np.array([0, *f, 2 * x[0] * f[0] + d[0, 0], x[0] * f[1] + x[1] * f[0] + d[0, 1], 2 * x[1] * f[1] + d[1, 1]])

    return moment_matrix([rates(p) for p in POINTS])


@functools.cache
def linear_sde(kind):
    with jax.enable_x64(True):
        shift = jnp.array([0.1, 0.2])
        return js.sde(lambda t, x: jnp.asarray(A) @ x + shift, NOISES[kind], dim=2)


def weak_slope(integrator, kind):
    truth = expm(exact_generator(kind)) @ second_moments(X0)
    errors = []
    for n in STEPS:
        chain = js.integrate(linear_sde(kind), integrator, dt=1 / n)
        z, w = nodes_of(chain.draws, 3)  # exact to degree 5, and the moments of a step are of degree 4
        ends = np.asarray(STEP(chain, jnp.repeat(jnp.asarray(POINTS), len(z), axis=0), jnp.tile(jnp.asarray(z), (6, 1))))
        m = moment_matrix(np.einsum("q,pqm->pm", w, second_moments(ends.reshape(6, len(z), 2))))
        errors.append(np.abs(np.linalg.matrix_power(m, n) @ second_moments(X0) - truth).max())
    return fitted(STEPS, errors)


# a tamed step is not linear in x, and the chain of Leimkuhler and Matthews remembers its noise: Fourier has them, below
CLOSED = [(n, k) for k in NOISES for n in declared(k) if n not in ("tamed_euler", "leimkuhler_matthews")]


@pytest.mark.parametrize("name,kind", CLOSED)
def test_declared_weak_order(name, kind):
    slope, se = weak_slope(made(name, kind), kind)
    assert abs(slope - INTEGRATORS[name].weak[kind]) < 4 * se + 0.12, (slope, se)


def test_platen_with_less_than_its_draws_is_no_longer_of_order_two():
    """The twin: no coins, and noise 2 % too large."""

    @js.struct.struct
    class Wrong:
        def draws(self, sde):
            return js.Platen().draws(sde)

        def step(self, sde, t, x, dt, z):
            m = sde.noise.dim
            return js.Platen().step(sde, t, x, dt, z.at[m:].set(0.0) * jnp.where(jnp.arange(z.size) < m, 1.02, 1.0))

    assert weak_slope(Wrong(), "general")[0] < 1.5


LAWS = [(n, law) for n, e in INTEGRATORS.items() for law in e.laws if law != "gaussian"]


@pytest.mark.parametrize("name,law", [pair for pair in LAWS if pair[0] in dict(CLOSED)])
def test_simplified_noise_keeps_the_weak_order(name, law):
    kind = "additive" if name == "heun" else "general"
    slope, se = weak_slope(INTEGRATORS[name](noise=law), kind)
    assert abs(slope - INTEGRATORS[name].weak[kind]) < 4 * se + 0.12, (slope, se)


# --- weak, one dimension, periodic and not linear: Fourier ------------------------------------------------------------------

# f, b, b′
PERIODIC = (lambda x: jnp.sin(x) + 0.3 * jnp.cos(2 * x), lambda x: 0.8 + 0.5 * jnp.sin(x), lambda x: 0.5 * jnp.cos(x))
COUNT = 48
GRID = 2 * np.pi * np.arange(COUNT) / COUNT
WAVES = np.fft.fftfreq(COUNT, 1 / COUNT)
TO_FOURIER = np.exp(-1j * np.outer(WAVES, GRID)) / COUNT
AT = (np.exp(1j * 0.7 * WAVES) @ TO_FOURIER).real
FINER = np.array([16, 32, 64, 128])


def expected(ends, weights):
    """E u(x') = P u on the grid to spectral accuracy, from the ends ["grid q"]."""
    basis = np.einsum("q,iqw->iw", weights, np.exp(1j * ends[..., None] * WAVES))
    return (basis @ TO_FOURIER).real


def periodic_means(integrator, sde):
    """E cos x₁ from x₀ = 0.7, for all of FINER."""
    means = []
    for n in FINER:
        chain = js.integrate(sde, integrator, dt=1 / n)
        z, w = nodes_of(chain.draws, 11)
        x, q = jnp.repeat(jnp.asarray(GRID)[:, None], len(z), axis=0), jnp.tile(jnp.asarray(z), (COUNT, 1))
        after = lambda v, w: expected(np.asarray(v).reshape(COUNT, -1), w)
        if getattr(integrator, "remembers", False):
            # y = x − ½ b √h z₋ is Markov: a step from (y + ½ b √h z₋, z₋) without new noise is the next y
            half = 0.45 * np.sqrt(1 / n)
            step = after(STEP(chain, (x + half * q, q), 0 * q)[0], w)
            first = after(STEP(chain, (x, 0 * q), 0 * q)[0], w)
            u = first @ np.linalg.matrix_power(step, n - 1) @ after(x + half * q, w) @ np.cos(GRID)
        else:
            u = np.linalg.matrix_power(after(STEP(chain, x, q), w), n) @ np.cos(GRID)
        means.append(AT @ u)
    return np.array(means)


def periodic_truth(drift, b):
    """By the generator f ∂ + ½ b² ∂²."""
    back = np.exp(1j * np.outer(GRID, WAVES))
    d1, d2 = ((back * (1j * WAVES)) @ TO_FOURIER).real, ((back * -(WAVES**2)) @ TO_FOURIER).real
    generator = np.asarray(drift(GRID))[:, None] * d1 + 0.5 * (np.asarray(b(GRID)) ** 2)[:, None] * d2
    return AT @ expm(generator) @ np.cos(GRID)


@pytest.mark.parametrize("name", declared("diagonal"))
def test_declared_weak_order_of_a_drift_that_is_not_linear(name):
    f, b, slope_of_b = PERIODIC
    sde = js.sde(lambda t, x: f(x), lambda x: b(x), dim=1)
    means = periodic_means(INTEGRATORS[name](), sde)
    slope, se = fitted(FINER, np.abs(means - periodic_truth(f, b)))
    assert abs(slope - INTEGRATORS[name].weak["diagonal"]) < 4 * se + 0.12, (slope, se)
    # the twin: the same coefficients read in the other calculus
    other = periodic_truth(lambda x: f(x) + 0.5 * b(x) * slope_of_b(x), b)
    assert fitted(FINER, np.abs(means - other))[0] < 0.3


def test_heun_in_either_calculus():
    f, b, slope_of_b = PERIODIC
    sde = js.sde(lambda t, x: f(x), lambda x: b(x), dim=1)
    means = periodic_means(js.Heun(calculus="stratonovich"), sde)
    slope, se = fitted(FINER, np.abs(means - periodic_truth(lambda x: f(x) + 0.5 * b(x) * slope_of_b(x), b)))
    assert abs(slope - 1) < 4 * se + 0.12
    assert fitted(FINER, np.abs(means - periodic_truth(f, b)))[0] < 0.3
    with pytest.raises(ValueError, match="calculus is"):
        js.Heun(calculus="itô")


@pytest.mark.parametrize("name", declared("additive"))
def test_declared_weak_order_with_additive_noise(name):
    f = PERIODIC[0]
    sde = js.sde(lambda t, x: f(x), 0.81, dim=1)
    slope, se = fitted(FINER, np.abs(periodic_means(INTEGRATORS[name](), sde) - periodic_truth(f, lambda x: 0.9 + 0 * x)))
    assert abs(slope - INTEGRATORS[name].weak["additive"]) < 4 * se + 0.12, (slope, se)


# --- weak, a position and its momentum: Fourier × Hermite ---------------------------------------------------------------------

MASS, FRICTION, SPREAD = 0.5, 0.8, 0.45  # of momentum_sde at η = .5, μ = .6; the width of the Hermite functions
KINETIC_STEPS = np.array([4, 8, 16, 32])
KICK = {"additive": lambda q: 0.5 + 0 * q, "general": lambda q: 0.5 + 0.2 * np.sin(q)}


@functools.cache
def kinetic_sde(kind):
    with jax.enable_x64(True):
        covariance = 0.5 if kind == "additive" else lambda q: 2 * (0.5 + 0.2 * jnp.sin(q)) ** 2
        pendulum = js.potential(lambda q: -jnp.cos(q[0]), np.zeros(1), noise_covariance=covariance)
        return js.momentum_sde(pendulum, learning_rate=0.5, momentum=0.6).flatten()


def waves_and_hermites(q, p, waves, count):
    """e^{ikq} He_j(p/s)/√j! at points ["n"]: ["n", k·j]."""
    h = np.polynomial.hermite_e.hermevander(p / SPREAD, count - 1) / np.sqrt(np.cumprod([1, *range(1, count)]))
    return (np.exp(1j * np.outer(q, waves))[:, :, None] * h[:, None, :]).reshape(len(q), -1)


@functools.cache
def kinetic_grid(many=16, count=14):
    waves, nodes = np.fft.fftfreq(many, 1 / many), hermite(count)[0]
    q, p = (a.ravel() for a in np.meshgrid(2 * np.pi * np.arange(many) / many, SPREAD * nodes, indexing="ij"))
    values = waves_and_hermites(q, p, waves, count)
    return waves, count, q, p, np.linalg.inv(values)  # values at the grid -> coefficients


def kinetic_slope(integrator, kind):
    waves, count, q, p, to_series = kinetic_grid()
    basis = lambda x: waves_and_hermites(x[..., 0].ravel(), x[..., 1].ravel(), waves, count)
    shift = np.diag(np.sqrt(np.arange(1, count)), 1) / SPREAD  # d/dp of the Hermite functions: He_j′ = j He_{j−1}
    eye = np.eye(len(waves))
    by_p, by_q = np.kron(eye, shift).T, np.kron(np.diag(1j * waves), np.eye(count)).T
    here = basis(np.stack([q, p], axis=-1))
    force = -np.sin(q) - FRICTION * p
    generator = ((p / MASS)[:, None] * (here @ by_q.T) + force[:, None] * (here @ by_p.T)
                 + (KICK[kind](q) ** 2 / 2)[:, None] * (here @ by_p.T @ by_p.T)) @ to_series  # fmt: skip
    u, at = np.cos(q) + p**2, basis(np.array([[0.7, 0.3]])) @ to_series
    truth = (at @ expm(generator) @ u).real[0]
    errors = []
    for n in KINETIC_STEPS:
        chain = js.integrate(kinetic_sde(kind), integrator, dt=1 / n)
        z, w = nodes_of(chain.draws, 7)
        x = np.repeat(np.stack([q, p], axis=-1), len(z), axis=0)
        ends = np.asarray(STEP(chain, jnp.asarray(x), jnp.tile(jnp.asarray(z), (len(q), 1))))
        step = np.einsum("q,iqb->ib", w, basis(ends).reshape(len(q), len(z), -1)) @ to_series
        errors.append(abs((at @ np.linalg.matrix_power(step, n) @ u).real[0] - truth))
    return fitted(KINETIC_STEPS, errors)


@pytest.mark.parametrize("name,kind", [(n, k) for k in KICK for n in declared(k, "kinetic")])
def test_declared_weak_order_of_splittings(name, kind):
    slope, se = kinetic_slope(INTEGRATORS[name](), kind)
    assert abs(slope - INTEGRATORS[name].weak[kind]) < 4 * se + 0.12, (slope, se)
    if kind == "general":
        slope, se = kinetic_slope(INTEGRATORS[name](noise="three_point"), kind)
        assert abs(slope - INTEGRATORS[name].weak[kind]) < 4 * se + 0.12, (slope, se)


def test_a_splitting_is_told_from_euler():
    slope, se = kinetic_slope(js.EulerMaruyama(), "general")
    assert abs(slope - 1) < 4 * se + 0.12, (slope, se)
