"""The generator of an SDE as a Markov jump process on a grid: positive rates for any Σ(Φ), in one to three dimensions.

    L u = f·∇u + D : ∇∇u          D = scale² Σ/2,   dX = f dt + scale · Σ^½ dW  (Itô)

In units of the cells D = Σₑ wₑ e eᵀ with integer vectors e and weights wₑ ≥ 0 (Selling's reduction: at most three of them in the
plane, six in space, whatever the cross terms), and then f = Σₑ wₑ (e·b) e with b = D⁻¹f. So

    L u(x) ≈ Σₑ wₑ [φ(e·b)(u(x+e) − u(x)) + φ(−e·b)(u(x−e) − u(x))],      φ(s) = s/(1 − e^(−s)) > 0

φ(s) − φ(−s) = s gives the drift exactly, φ(s) + φ(−s) = 2 + O(s²) the diffusion to second order in the size of a cell. All rates
are positive on any grid, so densities are, and mass is kept: a column of the adjoint sums to zero. No derivative of Σ is taken: the
adjoint of an Itô generator is the Itô Fokker–Planck operator.

Sources: Kushner and Dupuis (2001), Numerical Methods for Stochastic Control, §5; Bonnans, Ottenwaelter and Zidani (2004), ESAIM:
M2AN 38, 723; in one dimension Scharfetter and Gummel (1969).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from . import float64
from .linearise import covariance, drift

WALLS = ("reflecting", "periodic", "absorbing")


@dataclass(frozen=True)
class Grid:
    """Cells of one size over the box `lo` … `hi` ["d"]; the density lives at their centres."""

    lo: np.ndarray
    hi: np.ndarray
    shape: tuple[int, ...]

    @property
    def size(self) -> np.ndarray:
        """Lengths of a cell ["d"]."""
        return (self.hi - self.lo) / np.asarray(self.shape)

    @property
    def volume(self) -> float:
        return float(np.prod(self.size))

    @property
    def axes(self) -> list[np.ndarray]:
        """Centres along each axis."""
        return [a + h * (np.arange(n) + 0.5) for a, h, n in zip(self.lo, self.size, self.shape, strict=True)]

    @property
    def points(self) -> np.ndarray:
        """Centres ["N d"], the last axis fastest."""
        return np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1).reshape(-1, len(self.shape))


@dataclass(frozen=True)
class Jumps:
    """Jumps between cells: `source` and `target` ["J"], `rate` a unit time, `offset` ["J d"] in lengths; `target` is −1 for what a
    wall absorbs. Each pair of opposite jumps is there twice, once from each end."""

    source: np.ndarray
    target: np.ndarray
    rate: np.ndarray
    offset: np.ndarray

    def generator(self, cells: int) -> scipy.sparse.csr_matrix:
        """L ["N N"]: rows sum to zero, or to minus the rate of being absorbed."""
        inside = self.target >= 0
        away = np.bincount(self.source, self.rate, cells)
        entries = (self.rate[inside], (self.source[inside], self.target[inside]))
        jumps = scipy.sparse.coo_matrix(entries, shape=(cells, cells))
        return scipy.sparse.csr_matrix(jumps - scipy.sparse.diags(away))


def rates(wide: Any, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The drift ["N d"] and D ["N d d"] of a widened SDE at the cells. `ValueError` where one is not finite or D is degenerate."""
    points = grid.points
    problem = getattr(wide, "problem", None)
    cost = wide.dim * max(1, min(getattr(problem, "examples", 1), 4096))
    f = float64.evaluate_many(drift, wide, points, cost=cost)
    d = float64.evaluate_many(covariance, wide, points, cost=cost * wide.dim) * float(np.asarray(wide.scale)) ** 2 / 2
    finite = np.isfinite(f).all(axis=1) & np.isfinite(d).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"the drift or the noise is not finite at {points[~finite][0]}: choose a box inside the domain")
    lowest = np.linalg.eigvalsh(d)[:, 0]
    flat = lowest <= 1e-9 * np.trace(d, axis1=1, axis2=2)
    if flat.any():
        raise ValueError(
            f"the noise is degenerate at {points[flat][0]} (a direction without noise): the Fokker–Planck equation is solved for "
            "noise of full rank only"
        )
    return f, d


def jumps(f: np.ndarray, d: np.ndarray, grid: Grid, walls: tuple[str, ...]) -> Jumps:
    """The jump process of drift f ["N d"] and diffusion D ["N d d"] at the cells of a grid."""
    h = grid.size
    f, d = f / h, d / (h[:, None] * h)
    steps, weights = decompose(d)
    along = np.einsum("nkd,nd->nk", steps, np.linalg.solve(d, f[..., None])[..., 0])
    index = np.stack(np.unravel_index(np.arange(len(f)), grid.shape), axis=-1)
    shape = np.asarray(grid.shape)
    found: list[tuple[np.ndarray, ...]] = []
    for k, sign in itertools.product(range(steps.shape[1]), (1, -1)):
        rate = weights[:, k] * fitted(sign * along[:, k])
        step = sign * steps[:, k]
        to, kept, lost = index + step, rate > 0, np.zeros(len(f), bool)
        for axis, wall in enumerate(walls):
            out = (to[:, axis] < 0) | (to[:, axis] >= shape[axis])
            if wall == "periodic":
                to[:, axis] %= shape[axis]
            elif wall == "reflecting":
                kept &= ~out
            else:
                lost |= out
        target = np.where(lost, -1, np.ravel_multi_index(tuple(np.where(lost[:, None] | ~kept[:, None], 0, to).T), grid.shape))
        found.append((np.flatnonzero(kept), target[kept], rate[kept], (step * h)[kept]))
    return Jumps(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def fitted(s: np.ndarray) -> np.ndarray:
    """φ(s) = s/(1 − e^(−s)): positive, φ(s) − φ(−s) = s."""
    small = np.abs(s) < 1e-5
    safe = np.where(small, 1.0, s)
    with np.errstate(over="ignore"):
        return np.where(small, 1 + s / 2 + s * s / 12, safe / -np.expm1(-safe))


def decompose(d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer vectors e ["N k d"] and weights w ["N k"] ≥ 0 with D = Σ w e eᵀ, for positive definite D ["N d d"], d ≤ 3.

    Selling (1874): a superbase v₀ … v_d (integer, Σ vᵢ = 0, d of them a basis) with vᵢᵀ D vⱼ ≤ 0 for all i ≠ j gives the weights
    −vᵢᵀ D vⱼ; e is orthogonal to the other vectors. A pair at an acute angle is replaced until there is none.
    """
    count, dim = d.shape[:2]
    if dim == 1:
        return np.ones((count, 1, 1), int), d[:, 0]
    base = np.tile(np.vstack([np.eye(dim, dtype=int), -np.ones((1, dim), int)]), (count, 1, 1))
    pairs = list(itertools.combinations(range(dim + 1), 2))
    size = np.trace(d, axis1=1, axis2=2)
    for _ in range(1000):
        changed = False
        for i, j in pairs:
            v = base.astype(float)
            sharp = np.einsum("na,nab,nb->n", v[:, i], d, v[:, j]) > 1e-12 * size
            if sharp.any():
                changed = True
                turned = base[sharp]
                pivot = turned[:, i].copy()
                for k in range(dim + 1):
                    if k not in (i, j):
                        turned[:, k] += pivot if dim == 3 else 2 * pivot
                turned[:, i] = -pivot
                base[sharp] = turned
        if not changed:
            break
    steps, weights = [], []
    for i, j in pairs:
        rest = [k for k in range(dim + 1) if k not in (i, j)]
        if dim == 2:
            v = base[:, rest[0]]
            steps.append(np.stack([-v[:, 1], v[:, 0]], axis=-1))
        else:
            steps.append(np.cross(base[:, rest[0]], base[:, rest[1]]))
        v = base.astype(float)
        weights.append(np.maximum(-np.einsum("na,nab,nb->n", v[:, i], d, v[:, j]), 0.0))
    return np.stack(steps, axis=1), np.stack(weights, axis=1)
