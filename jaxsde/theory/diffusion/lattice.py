"""The generator of an SDE as a Markov jump process on a grid: positive rates for any Σ(Φ), in one to three dimensions.

    L u = f·∇u + D : ∇∇u  =  ∇·(D ∇u) + g·∇u        D = scale² Σ/2,   g = f − ∇·D,   dX = f dt + scale · Σ^½ dW  (Itô)

In units of the cells D = Σₑ wₑ e eᵀ with integer vectors e and weights wₑ ≥ 0 (Selling's reduction: at most three of them in the
plane, six in space, whatever the cross terms), and then g = Σₑ wₑ (e·b) e with b = D⁻¹g. The edge from x to y = x + e carries

    rate(x → y) = w̄ₑ φ(e·b̄),   rate(y → x) = w̄ₑ φ(−e·b̄),        φ(s) = s/(1 − e^(−s)) > 0

with w̄, b̄ the means of the two ends (wₑ is 0 at an end whose D does without e). φ(s) − φ(−s) = s gives the drift exactly,
φ(s) + φ(−s) = 2 + O(s²) the diffusion to second order in the size of a cell; φ(s)/φ(−s) = e^s, so with D∇log p = g, a law in
balance, every edge is, to second order. All rates are positive on any grid, so densities are, and mass is kept. ∇·D is a
difference of D on the grid: no derivative of Σ is asked for, and a jump of Σ counts as it does in the Itô equation.

Why not rates frozen at the cell that is left, which need no ∇·D: wₑ has kinks where the reduction changes its vectors (where a
cross term changes sign). D∇p − gp is then right only in the sum over e: measured, the density is off by O(h) along the kinks, and
the entropy that the edges produce grows like log 1/h.

Walls. Reflecting (no current through them): edges across are left out. A slanted edge carries current along the wall, too, so what
was left out is made up by edges along it, of weight ½ Σ |eₙ| wₑ eₜ(eₜ − eₙ Dₜₙ/Dₙₙ)ᵀ, which keeps the second order. Absorbing: the
edge ends at the wall, a fraction θ of its length away, with rate wₑ φ(θ e·b)/θ. Periodic: it comes back on the other side.

Vectors get long where D is nearly singular in a direction that the grid does not have. One longer than a quarter of the grid is
refused.

Sources: Scharfetter and Gummel (1969), IEEE Trans. Electron Devices 16, 64 (in one dimension); Bonnans, Ottenwaelter and Zidani
(2004), ESAIM: M2AN 38, 723; Fehrenbach and Mirebeau (2014), J. Math. Imaging Vis. 49, 123 (Selling's reduction on grids).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from .. import float64
from ..linearise import covariance, drift

WALLS = ("reflecting", "periodic", "absorbing")
# Positions are evaluated this many at a time, whatever the grid: one compilation.
_BLOCK = 4096


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
    """Jumps between cells: `source` and `target` ["J"], `rate` a unit time, `offset` ["J d"] in lengths; `target` is −1 for what an
    absorbing wall takes. The first `edges` jumps go one way along each edge, the next `edges` come back in the same order; an
    edge may be there several times, and its rates add up."""

    source: np.ndarray
    target: np.ndarray
    rate: np.ndarray
    offset: np.ndarray
    edges: int

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
    f, d = everywhere(drift, wide, points), everywhere(covariance, wide, points)
    d = d * float(np.asarray(wide.scale)) ** 2 / 2
    finite = np.isfinite(f).all(axis=1) & np.isfinite(d).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"the drift or the noise is not finite at {points[~finite][0]}: choose a box inside the domain")
    flat = np.linalg.eigvalsh(d)[:, 0] <= 1e-9 * np.trace(d, axis1=1, axis2=2)
    if flat.any():
        raise ValueError(
            f"the noise is degenerate at {points[flat][0]} (a direction without noise, such as the position of an SDE with "
            "momentum): the Fokker–Planck equation is solved for noise of full rank only"
        )
    return f, d


def everywhere(function: Any, wide: Any, points: np.ndarray) -> np.ndarray:
    cost = wide.dim**2 * max(1, min(getattr(getattr(wide, "problem", None), "examples", 1), 4096))
    block = min(_BLOCK, 1 << int(np.ceil(np.log2(len(points)))))
    filled = np.concatenate([points, np.repeat(points[-1:], -len(points) % block, axis=0)])
    parts = [float64.evaluate_many(function, wide, part, cost) for part in np.split(filled, len(filled) // block)]
    return np.concatenate(parts)[: len(points)]


def jumps(f: np.ndarray, d: np.ndarray, grid: Grid, walls: tuple[str, ...]) -> Jumps:
    """The jump process of drift f ["N d"] and diffusion D ["N d d"] at the cells of a grid, with a wall's word for each axis.

    `ValueError` where D is so nearly singular that its jumps would cross a quarter of the grid.
    """
    h, shape = grid.size, np.asarray(grid.shape)
    f, d = f / h, d / (h[:, None] * h)
    b = np.linalg.solve(d, (f - _divergence(d, grid.shape, walls))[..., None])[..., 0]
    steps, weights = decompose(d)
    longest = int(np.abs(np.where(weights[..., None] > 0, steps, 0)).max())
    if longest > max(2, shape.min() // 4):
        raise ValueError(
            f"the noise is too nearly degenerate for this grid: its jumps would be {longest} cells long on {grid.shape} cells; "
            "take more cells, or rotate the variables so that the directions of little noise are axes"
        )
    index = np.stack(np.unravel_index(np.arange(len(f)), grid.shape), axis=-1)
    parts = [(np.arange(len(f)), steps[:, k], weights[:, k]) for k in range(steps.shape[1])]
    if len(shape) > 1:
        parts += _along_walls(d, steps, weights, index, shape, walls)
    edges, absorbed = [], []
    for (cells, step, weight), sign in itertools.product(parts, (1, -1)):
        cells, step, weight = (a[weight > 0] for a in (cells, sign * step, weight))
        to = index[cells] + step
        # How far along the jump each wall is; the nearest one decides.
        room = np.where(step > 0, shape - index[cells] - 0.5, index[cells] + 0.5)
        out = ((to < 0) | (to >= shape)) & (np.asarray(walls) != "periodic")
        theta = np.where(out, room / np.maximum(np.abs(step), 1), np.inf)
        first = theta.argmin(axis=1)
        lost = out.any(axis=1) & (np.asarray(walls)[first] == "absorbing")
        inside = ~out.any(axis=1)
        target = np.ravel_multi_index(tuple((to[inside] % shape).T), grid.shape)
        source, e, w = cells[inside], step[inside], weight[inside] / 2
        s = np.einsum("nd,nd->n", e, b[source] + b[target]) / 2
        edges.append((source, target, w * fitted(s), w * fitted(-s), e * h))
        source, e, theta = cells[lost], step[lost], theta[lost].min(axis=1)
        s = theta * np.einsum("nd,nd->n", e, b[source])
        absorbed.append((source, weight[lost] / theta * fitted(s), e * h * theta[:, None]))
    source, target, there, back, offset = (np.concatenate(p) for p in zip(*edges, strict=True))
    from_, gone, leg = (np.concatenate(p) for p in zip(*absorbed, strict=True))
    return Jumps(
        np.concatenate([source, target, from_]),
        np.concatenate([target, source, np.full(len(from_), -1)]),
        np.concatenate([there, back, gone]),
        np.concatenate([offset, -offset, leg]),
        len(source),
    )


def _divergence(d: np.ndarray, shape: tuple[int, ...], walls: tuple[str, ...]) -> np.ndarray:
    """∇·D ["N d"], a unit a cell: central differences, one-sided of second order at a wall."""
    total = np.zeros((*shape, len(shape)))
    for axis, wall in enumerate(walls):
        column = d[:, :, axis].reshape(*shape, -1)
        if wall == "periodic":
            total += (np.roll(column, -1, axis) - np.roll(column, 1, axis)) / 2
        else:
            total += np.gradient(column, axis=axis, edge_order=2)
    return total.reshape(-1, len(shape))


def _along_walls(
    d: np.ndarray, steps: np.ndarray, weights: np.ndarray, index: np.ndarray, shape: np.ndarray, walls: tuple[str, ...]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Edges along reflecting walls for the slanted ones that they cut: (cells, vectors, weights).

    The cells' own edges along the wall go into the same reduction: their weights in `weights` become zero.
    """
    at_wall = ((index == 0) | (index == shape - 1)) & (np.asarray(walls) == "reflecting")
    found = []
    for axis in np.flatnonzero(np.asarray(walls) == "reflecting"):
        cells = np.flatnonzero(at_wall[:, axis] & (at_wall.sum(axis=1) == 1))
        rest = [k for k in range(len(shape)) if k != axis]
        e, w = steps[cells], weights[cells]
        normal, along = e[..., axis], e[..., rest]
        slope = d[cells][:, rest, axis] / d[cells, axis, axis][:, None]
        cut = along - normal[..., None] * slope[:, None, :]
        tensor = np.einsum("nk,nka,nkb->nab", w * np.abs(normal) / 2, along, cut)
        tensor = (tensor + tensor.transpose(0, 2, 1)) / 2
        flat = normal == 0
        tensor += np.einsum("nk,nka,nkb->nab", np.where(flat, w, 0.0), along, along)
        solid = np.linalg.eigvalsh(tensor)[:, 0] > 1e-9 * np.trace(tensor, axis1=1, axis2=2)
        cells, flat = cells[solid], flat[solid]
        weights[cells] = np.where(flat, 0.0, weights[cells])
        vectors, sizes = decompose(tensor[solid])
        for k in range(vectors.shape[1]):
            step = np.zeros((len(cells), len(shape)), int)
            step[:, rest] = vectors[:, k]
            found.append((cells, step, sizes[:, k]))
    return found


def fitted(s: np.ndarray) -> np.ndarray:
    """φ(s) = s/(1 − e^(−s)): positive, φ(s) − φ(−s) = s, φ(s)/φ(−s) = e^s."""
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
