"""An SDE's generator as jumps on a grid: Selling's reduction, and second order at every kind of wall on laws that are known.

Exact laws with a current: for a density p and an antisymmetric matrix field A, the drift f = [∇·(D p) + ∇·(A p)]/p has the
stationary density p and the current J = ∇·(A p), whatever D(x). The derivatives are JAX's in float64; the scheme takes none.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from numpy.testing import assert_allclose

import jaxsde as js
from jaxsde.theory import float64
from jaxsde.theory.diffusion import lattice
from jaxsde.theory.diffusion.lattice import Grid, decompose, fitted, jumps, rates


def known_law(log_p, d, a):
    """f, D and J/p on arrays of points, of the law p with current ∇·(A p)."""

    def divergence(matrix, x):
        scaled = lambda y: matrix(y) * jnp.exp(log_p(y) - log_p(x))
        return jnp.trace(jax.jacfwd(scaled)(x), axis1=1, axis2=2)

    def everywhere(function):
        compiled = jax.jit(jax.vmap(function))

        def call(x):
            with jax.enable_x64(True):
                return np.asarray(compiled(jnp.asarray(x)))

        return call

    return (
        everywhere(lambda x: divergence(lambda y: d(y) + a(y), x)),
        everywhere(d),
        everywhere(lambda x: divergence(a, x)),
        everywhere(log_p),
    )


def stationary(generator, start):
    """The null vector of the adjoint, by SuperLU."""
    keep = np.r_[:start, start + 1 : generator.shape[0]]
    adjoint = generator.T.tocsc()
    p = np.ones(generator.shape[0])
    p[keep] = scipy.sparse.linalg.spsolve(adjoint[keep][:, keep], -adjoint[keep][:, [start]].toarray()[:, 0])
    return p


def slopes(errors):
    """Observed orders over halvings of the cells."""
    return np.log2(np.abs(errors[:-1]) / np.abs(errors[1:]))


def varying(x):
    """D with a cross term that changes its sign, so that the reduction changes its vectors."""
    cross = 0.35 * jnp.sin(x[0] + x[1])
    return jnp.array([[0.5 + 0.25 * jnp.sin(x[1]) ** 2, cross], [cross, 0.6 + 0.2 * jnp.cos(x[0])]])


def turning(strength):
    return lambda x: strength(x) * jnp.array([[0.0, 1.0], [-1.0, 0.0]])


LAWS = {
    "open": (
        lambda x: -(x[0] ** 2) / 2 - 0.8 * (x[1] - 0.3 * x[0] ** 2) ** 2 - 0.05 * x[0] ** 4,
        turning(lambda x: 0.4 + 0.3 * jnp.cos(x[0] - x[1])),
        ([-5.0, -4.0], [5.0, 6.0]),
        "reflecting",
    ),
    "walls": (
        lambda x: -0.3 * x[0] + 0.5 * x[0] * x[1],
        turning(lambda x: (1 - x[0] ** 2) * (1 - x[1] ** 2)),  # no current through the walls, and one along them
        ([-1.0, -1.0], [1.0, 1.0]),
        "reflecting",
    ),
    "torus": (
        lambda x: jnp.cos(x[0]) + 0.5 * jnp.sin(x[0] + x[1]),
        turning(lambda x: 0.4 + 0.3 * jnp.cos(x[0] - x[1])),
        ([-np.pi, -np.pi], [np.pi, np.pi]),
        "periodic",
    ),
}


def errors(name, counts, noise=varying):
    """Total variation, and the mean of the square of the first component, against the exact law, on grids of `counts` cells."""
    log_p, a, (lo, hi), wall = LAWS[name]
    f, d, _, log_density = known_law(log_p, noise, a)
    found = []
    for n in counts:
        grid = Grid(np.array(lo), np.array(hi), (n, n))
        x = grid.points
        p = stationary(jumps(f(x), d(x), grid, (wall, wall)).generator(len(x)), int(log_density(x).argmax()))
        exact = np.exp(log_density(x) - log_density(x).max())
        p, exact = p / p.sum(), exact / exact.sum()
        found.append((np.abs(p - exact).sum() / 2, p.min()))
    return np.array(found)


@pytest.mark.parametrize("name", list(LAWS))
def test_second_order_on_laws_with_a_current_and_varying_cross_terms(name):
    found = errors(name, (24, 48, 96))
    assert (found[:, 1] > 0).all()
    assert_allclose(slopes(found[:, 0]), 2, atol=0.25)


def test_what_walls_cut_matters(monkeypatch):
    """Without the edges along a wall the order there is one."""
    good = errors("walls", (24, 48, 96))[:, 0]
    monkeypatch.setattr(lattice, "_along_walls", lambda *_: [])
    bad = errors("walls", (24, 48, 96))[:, 0]
    assert bad[-1] > 3 * good[-1] and slopes(bad)[-1] < 1.5


@pytest.mark.parametrize("wrong", [lambda x: varying(x) * jnp.array([[1.0, -1.0], [-1.0, 1.0]]), lambda x: varying(x) / 2])
def test_a_wrong_noise_is_another_law(wrong):
    """A cross term of the wrong sign, η/2 for η: the error stays where cells get smaller."""
    log_p, a, (lo, hi), wall = LAWS["torus"]
    f, _, _, log_density = known_law(log_p, varying, a)
    _, d, _, _ = known_law(log_p, wrong, a)
    grid = Grid(np.array(lo), np.array(hi), (48, 48))
    x = grid.points
    p = stationary(jumps(f(x), d(x), grid, (wall, wall)).generator(len(x)), 0)
    exact = np.exp(log_density(x))
    assert np.abs(p / p.sum() - exact / exact.sum()).sum() / 2 > 0.02


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_selling_reduction(dim):
    """D = Σ w e eᵀ with w ≥ 0 and whole vectors, at any anisotropy; its weights do not jump where the vectors change."""
    rng = np.random.default_rng(dim)
    root = rng.normal(size=(500, dim, dim)) * 10 ** rng.uniform(-1.5, 0, size=(500, 1, dim))
    d = root @ root.transpose(0, 2, 1) + 1e-3 * np.eye(dim)
    steps, weights = decompose(d)
    assert (weights >= 0).all() and steps.dtype.kind == "i" and steps.shape[1] == dim * (dim + 1) // 2
    again = np.einsum("nk,nka,nkb->nab", weights, steps, steps)
    assert_allclose(again, d, atol=1e-10 * np.abs(d).max())


@pytest.mark.parametrize("walls", ["reflecting", "periodic", "absorbing"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_rates_are_positive_and_mass_is_kept(walls, dim):
    rng = np.random.default_rng(7)
    grid = Grid(-np.ones(dim), np.arange(1.0, dim + 1), (9, 8, 10)[:dim])
    n = len(grid.points)
    root = rng.normal(size=(n, dim, dim))
    d = root @ root.transpose(0, 2, 1) + 2 * np.eye(dim)
    found = jumps(20 * rng.normal(size=(n, dim)), d, grid, (walls,) * dim)
    assert (found.rate > 0).all()
    generator = found.generator(n)
    lost = np.bincount(found.source[found.target < 0], found.rate[found.target < 0], n)
    assert_allclose(np.asarray(generator.sum(axis=1)).ravel(), -lost, atol=1e-12 * abs(generator).max())
    assert (lost > 0).any() == (walls == "absorbing")
    there, back = slice(0, found.edges), slice(found.edges, 2 * found.edges)
    assert (found.source[there] == found.target[back]).all() and (found.target[there] == found.source[back]).all()


def test_fitted_rates():
    s = np.array([-800.0, -40.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 40.0, 800.0])
    assert_allclose(fitted(s) - fitted(-s), s, rtol=1e-15, atol=1e-15)
    near = np.abs(s) < 100
    assert_allclose(fitted(s[near]) / fitted(-s[near]), np.exp(s[near]), rtol=1e-13)


@pytest.mark.parametrize("dim", [1, 2])
def test_mean_exit_time_of_brownian_motion(dim):
    """−1 = ½ ∇²τ in the unit interval, x(1 − x), and in the unit square, Poisson's series: second order."""
    odd = np.arange(1, 80, 2)
    series = 4 / np.pi**3 * np.sum((-1.0) ** ((odd - 1) // 2) / odd**3 / np.cosh(odd * np.pi / 2))
    exact = {1: 0.25, 2: 2 * (1 / 8 - series)}[dim]
    found = []
    for n in (17, 51):
        grid = Grid(np.zeros(dim), np.ones(dim), (n,) * dim)
        cells = n**dim
        generator = jumps(np.zeros((cells, dim)), np.tile(np.eye(dim) / 2, (cells, 1, 1)), grid, ("absorbing",) * dim)
        tau = scipy.sparse.linalg.spsolve(generator.generator(cells).tocsc(), -np.ones(cells))
        found.append(tau[cells // 2] - exact)
    assert_allclose(np.log(found[0] / found[1]) / np.log(3), 2, atol=0.05)
    assert abs(found[1]) < 1e-3


def test_absorbing_walls_with_slanted_jumps():
    """A known u that vanishes at the walls of a rectangle, from L u: f·∇u + D:∇∇u by JAX."""
    d = np.array([[1.0, 0.6], [0.6, 0.8]])
    u = lambda x: jnp.sin(jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1]) * jnp.exp(x[0] - 0.5 * x[1])
    f = lambda x: jnp.array([-3 * x[1], jnp.sin(3 * x[0])])
    image = lambda x: f(x) @ jax.grad(u)(x) + jnp.sum(d * jax.hessian(u)(x))
    found = []
    for n in (20, 40, 80):
        grid = Grid(np.zeros(2), np.ones(2), (n, n))
        x = grid.points
        with jax.enable_x64(True):
            drift, values, right = (np.asarray(jax.jit(jax.vmap(g))(jnp.asarray(x))) for g in (f, u, image))
        generator = jumps(drift, np.tile(d, (len(x), 1, 1)), grid, ("absorbing",) * 2).generator(len(x))
        found.append(np.abs(scipy.sparse.linalg.spsolve(generator.tocsc(), right) - values).mean())
    assert_allclose(slopes(np.array(found)), 2, atol=0.1)


def test_long_jumps_are_refused():
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    d = turn @ np.diag([1.0, 1e-5]) @ turn.T
    grid = Grid(-np.ones(2), np.ones(2), (16, 16))
    with pytest.raises(ValueError, match="too nearly degenerate"):
        jumps(np.zeros((256, 2)), np.tile(d, (256, 1, 1)), grid, ("reflecting",) * 2)


H = np.array([[1.0, 0.3], [0.3, 2.0]])
C = np.array([[2.0, -0.5], [-0.5, 0.6]])


def widened(noise_covariance):
    problem = js.potential(lambda p: 0.5 * p @ H @ p, np.zeros(2), noise_covariance=noise_covariance)
    return float64.widen(js.sgd_sde(problem, learning_rate=0.1))


def test_from_an_sde_to_its_stationary_covariance():
    """SGD's SDE on a quadratic loss, HS + SH = ηC, at second order; with the cross term of C turned around it is another law."""
    exact = js.theory.lyapunov(-H, 0.1 * C)
    reach = 6 * np.sqrt(np.diag(exact))

    def error(noise, n):
        grid = Grid(-reach, reach, (n, n))
        p = stationary(jumps(*rates(widened(noise), grid), grid, ("reflecting",) * 2).generator(n * n), n * n // 2 + n // 2)
        return np.abs((grid.points.T * p) @ grid.points / p.sum() - exact).max()

    found = np.array([error(C, 40), error(C, 80)])
    assert_allclose(slopes(found), 2, atol=0.1)
    assert error(C * np.array([[1, -1], [-1, 1]]), 80) > 20 * found[1]


def test_degenerate_noise_is_refused():
    with pytest.raises(ValueError, match="degenerate"):
        rates(widened(np.diag([1.0, 0.0])), Grid(-np.ones(2), np.ones(2), (4, 4)))
