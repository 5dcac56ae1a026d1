"""The generator on a grid: positive rates that give back D and f, no mass lost, and second order in the size of a cell."""

import jax
import numpy as np
import pytest
import scipy.sparse.linalg

import jaxsde as js
from jaxsde.theory import float64, lattice

H = np.array([[1.0, 0.3], [0.3, 2.0]])
C = np.array([[2.0, -0.5], [-0.5, 0.6]])
ETA = 0.1


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_weights_are_positive_and_give_back_the_matrix(dim):
    roots = np.random.default_rng(0).normal(size=(200, dim, dim))
    d = roots @ roots.swapaxes(1, 2) + 0.05 * np.eye(dim)
    steps, weights = lattice.decompose(d)
    assert (weights >= 0).all()
    back = np.einsum("nk,nki,nkj->nij", weights, steps, steps)
    np.testing.assert_allclose(back, d, rtol=1e-9, atol=1e-9 * np.abs(d).max())


def stationary(cells, covariance):
    """Covariance of the stationary law of an OU process on a grid."""
    with jax.enable_x64(True):
        problem = js.potential(lambda p: 0.5 * p @ H @ p, np.zeros(2), noise_covariance=covariance)
        wide = float64.widen(js.sgd_sde(problem, learning_rate=ETA))
    reach = 6 * np.sqrt(np.diag(np.asarray(js.theory.lyapunov(-H, ETA * covariance))))
    grid = lattice.Grid(-reach, reach, (cells, cells))
    found = lattice.jumps(*lattice.rates(wide, grid), grid, ("reflecting", "reflecting"))
    assert (found.rate > 0).all()
    generator = found.generator(cells * cells)
    np.testing.assert_allclose(np.asarray(generator.sum(axis=1)), 0, atol=1e-9 * abs(generator).max())
    # the adjoint has one null vector: one cell is held at 1, and the rest follows
    adjoint = generator.T.tocsc()
    held = adjoint.shape[0] // 2 + cells // 2
    rest = np.delete(np.arange(adjoint.shape[0]), held)
    p = np.ones(adjoint.shape[0])
    p[rest] = scipy.sparse.linalg.spsolve(adjoint[rest][:, rest], -adjoint[rest, held].toarray().ravel())
    assert p.min() > -1e-12 * p.max()
    p /= p.sum()
    return np.einsum("n,ni,nj->ij", p, grid.points, grid.points)


def test_the_stationary_law_is_of_second_order():
    exact = js.theory.lyapunov(-H, ETA * C)
    errors = [np.abs(stationary(n, C) - exact).max() for n in (40, 80)]
    slope = np.log2(errors[0] / errors[1])
    assert 1.8 < slope < 2.3, (errors, slope)
    turned = C * np.array([[1, -1], [-1, 1]])  # the cross term with the wrong sign is another law
    assert np.abs(stationary(80, turned) - exact).max() > 20 * errors[1]


def test_degenerate_noise_is_refused():
    problem = js.potential(lambda p: 0.5 * p @ p, np.zeros(2), noise_covariance=np.diag([1.0, 0.0]))
    with jax.enable_x64(True):
        wide = float64.widen(js.sgd_sde(problem, learning_rate=ETA))
    with pytest.raises(ValueError, match="degenerate"):
        lattice.rates(wide, lattice.Grid(-np.ones(2), np.ones(2), (4, 4)))
