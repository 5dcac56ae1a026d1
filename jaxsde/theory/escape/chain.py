"""Times of first passage of a chain: (I − Q) T = 1 with Q its transfer operator outside the target, in steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from ..diffusion.lattice import Grid
from ..discrete.box import anchors
from ..discrete.step_law import StepLaw, step_law, typical_step
from ..discrete.transfer import CELLS, REACH, WIDE, transport
from .box import enclosing, given_box, whole
from .grid import Region

_SCOUT = {1: 256, 2: 40}
_SHARE = 1e-11
_PARTS = {1: 4096, 2: 64}  # points along each side of a cell, by which the part of it in the region is measured
_SETTLED = 1e-13
_FULL = 0.02  # of a matrix that is not zero, from where elimination takes it as full
_MOST = 1 << 24  # weights of one operator that a default grid may have


@dataclass(frozen=True)
class ChainPassage:
    mean: float
    variance: float
    error: float
    variance_error: float
    method: str
    survival: Callable[[np.ndarray], np.ndarray]


def chain_passage(
    chain: Any,
    start: np.ndarray,
    ends: tuple[float | None, float | None] | None,
    region: Region | None,
    box: Any,
    cells: int | None,
) -> ChainPassage:
    """The time from `start` until the chain is beyond one of `ends` or in the `region`, on two grids, extrapolated."""
    law = step_law(chain)
    if law.dim not in CELLS:
        raise ValueError(
            f"passage times of a chain are for one or two dimensions, and this one has {law.dim}: simulate js.FirstPassage"
        )
    if region is not None and region.inside(law.wide, start[None])[0]:
        raise ValueError(f"the start {np.array2string(start, precision=4)} lies in the target: its passage time is 0")
    where = _Target(law, start, ends, region)
    if box is not None and ends is not None and None not in ends:
        raise ValueError("two ends are the box: leave box out")
    lo, hi = where.found_box() if box is None else where.ended(*given_box(box, start))
    counts = _counts(law, lo, hi, None if cells is None else whole(cells))
    fine, coarse = (_Outside.build(where, lo, hi, n) for n in counts)
    (t2, v2), (t1, v1) = fine.moments(), coarse.moments()
    # of second order in the cells where both grids use one rule; how a region cuts the cells of either is another matter
    alike = fine.smooth == coarse.smooth and region is None
    share = 1 / ((coarse.grid.size / fine.grid.size).max() ** 2 - 1) if alike else 0.0
    mean, variance, dt = t2 + share * (t2 - t1), v2 + share * (v2 - v1), law.dt

    def survival(t: np.ndarray) -> np.ndarray:
        steps = np.floor(t / dt * (1 + 1e-12) + 1e-9).astype(np.int64)
        a, b = fine.survival(steps), coarse.survival(steps)
        return np.clip(a + share * (a - b), 0.0, 1.0)

    errors = float(abs(t2 - t1) * (share or 1.0) * dt), float(abs(v2 - v1) * (share or 1.0) * dt**2)
    kind = "the exact Gaussian kernel" if fine.smooth else law.method
    shape = " × ".join(map(str, fine.grid.shape))
    return ChainPassage(float(mean * dt), float(variance * dt**2), *errors, f"transfer operator on {shape} cells, {kind}", survival)


def _counts(law: StepLaw, lo: np.ndarray, hi: np.ndarray, cells: int | None) -> tuple[int, int]:
    """Cells along the longest side of two grids: the finer is the given one, or as fine as is cheap."""
    count = cells or CELLS[law.dim]
    if not law.gaussian:
        return count, count // 2
    # a Gaussian step is wide against a cell of the coarser grid, too, if that can be afforded
    covariance = law.moments(Grid(lo, hi, (16,) * law.dim).points)[1]
    narrow = np.sqrt(np.linalg.eigvalsh(covariance)[:, 0].clip(0).min())
    length = float((hi - lo).max())
    least = int(np.ceil(1.02 * WIDE * length / narrow)) if narrow > 0 else count
    if cells is None:
        wide = np.sqrt(np.einsum("nii->ni", covariance))
        reach = 2 * REACH[law.dim] * np.minimum(wide, 2 * wide.min(axis=0)).max(axis=0) / length
        count = min(max(2 * least, count // 4), 2 * count)
        while count > 48 and np.prod(count * (hi - lo) / length) * np.prod(reach * count + 3) > _MOST:
            count = int(0.95 * count)
    return count, min(max(count // 2, least), int(0.8 * count))


@dataclass(frozen=True)
class _Target:
    law: StepLaw
    start: np.ndarray
    ends: tuple[float | None, float | None] | None
    region: Region | None

    def ended(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The box cut at the ends."""
        low, high = self.ends or (None, None)
        return (lo if low is None else np.array([low])), (hi if high is None else np.array([high]))

    def found_box(self) -> tuple[np.ndarray, np.ndarray]:
        """A box in which the chain spends all but `_SHARE` of its time before the passage."""
        law, d = self.law, len(self.start)
        points = np.concatenate([self.start[None], anchors(law)])
        if self.ends is not None:
            low, high = (np.inf * s if e is None else e for e, s in zip(self.ends, (-1, 1), strict=True))
            points = np.clip(points, low, high)
            if np.isfinite([low, high]).all():
                return np.array([low]), np.array([high])
        width = 6 * typical_step(law, points) + 1e-3 * (1 + np.abs(points).max())
        lo, hi = self.ended(points.min(axis=0) - width, points.max(axis=0) + width)
        fixed = np.array([[e is not None for e in (self.ends or (None, None))]] * d).T

        def occupation(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
            return _Outside.build(self, lo, hi, _SCOUT[d], scout=True).occupation()

        far = 1e5 * (1 + np.abs(points).max())
        return enclosing(lo, hi, occupation, _SHARE, 200, far, "chain", fixed)


@dataclass(frozen=True)
class _Outside:
    """Q on the cells, and the law of the first step from the start."""

    grid: Grid
    matrix: scipy.sparse.csr_matrix
    first: np.ndarray
    smooth: bool

    @classmethod
    def build(cls, where: _Target, lo: np.ndarray, hi: np.ndarray, count: int, scout: bool = False) -> _Outside:
        shape = tuple(max(16, round(count * s)) for s in (hi - lo) / (hi - lo).max())
        grid = Grid(lo, hi, shape)
        low, high = where.ends or (None, None)
        # a step beyond the box has passed an end or the region; from anywhere else the chain does not get that far
        closed = (low is None, high is None) if where.region is None else (False, False)
        matrix, smooth = transport(where.law, grid, closed=closed)
        first = _first(where.law, grid, where.start, closed, smooth)
        if where.region is not None:
            left = 1 - _part_inside(where, grid)
            matrix = scipy.sparse.csr_matrix(matrix @ scipy.sparse.diags(left))
            first = first * left
        return cls(grid, matrix, first, smooth)

    def _solve(self, transpose: bool = False) -> Callable[[np.ndarray], np.ndarray]:
        q = self.matrix.T if transpose else self.matrix
        system = (scipy.sparse.identity(len(self.first)) - q).tocsc()
        if system.nnz > _FULL * len(self.first) ** 2:
            factors = scipy.linalg.lu_factor(system.toarray(), check_finite=False)
            return lambda b: scipy.linalg.lu_solve(factors, b, check_finite=False)
        try:
            return scipy.sparse.linalg.splu(system, permc_spec="COLAMD").solve
        except RuntimeError as error:
            raise ValueError(
                "the target is not reached from everywhere in the box: its mean passage time is infinite"
            ) from error

    def moments(self) -> tuple[float, float]:
        """Mean and variance of the number of steps from the start."""
        solve = self._solve()
        time = solve(np.ones(len(self.first)))
        if not np.isfinite(time).all() or time.min() < 0.5:  # at least a step, but for what interpolation leaves
            raise ValueError("the target is not reached from everywhere in the box: its mean passage time is infinite")
        moves = self.matrix.tocoo()
        kept = np.asarray(self.matrix.sum(axis=1)).ravel()
        later = moves.data * (time[moves.col] + 1 - time[moves.row]) ** 2
        spread = np.bincount(moves.row, later, len(time)) + np.maximum(1 - kept, 0) * (1 - time) ** 2
        mean = 1 + float(self.first @ time)
        at_once = 1 - float(self.first.sum())
        own = float(self.first @ (time + 1 - mean) ** 2) + max(at_once, 0.0) * (1 - mean) ** 2
        return mean, own + float(self.first @ solve(spread))

    def occupation(self) -> np.ndarray:
        spent = np.maximum(self._solve(transpose=True)(self.first), 0.0).reshape(self.grid.shape)
        if not (np.isfinite(spent).all() and spent.sum() > 0):
            raise ValueError("the target is reached in one step, or never: there is no passage time to work out")
        return spent

    def survival(self, steps: np.ndarray) -> np.ndarray:
        """P(more than so many steps), geometric from where the law of the survivors has settled."""
        wanted = int(steps.max(initial=0))
        row, transposed = self.first, scipy.sparse.csr_matrix(self.matrix.T)
        log_s, ratio, calm = [0.0, float(np.log(max(row.sum(), 1e-300)))], 1.0, 0
        while len(log_s) <= wanted and calm < 50 and row.sum() > 1e-290:
            total = row.sum()
            row = transposed @ row
            new = row.sum() / total
            calm = calm + 1 if abs(new - ratio) < _SETTLED else 0
            ratio = new
            log_s.append(log_s[-1] + float(np.log(max(new, 1e-300))))
        known = np.array(log_s)
        beyond = np.maximum(steps - len(known) + 1, 0)
        return np.exp(known[np.minimum(steps, len(known) - 1)] + beyond * np.log(max(ratio, 1e-300)))


def _first(law: StepLaw, grid: Grid, start: np.ndarray, closed: tuple[bool, bool], smooth: bool) -> np.ndarray:
    """The law of the first step on the cells, to second order: outcomes are shared between the nearest centres."""
    shape, n = np.asarray(grid.shape), int(np.prod(grid.shape))
    if smooth:
        mean, covariance = law.moments(start[None])
        away = grid.points - mean[0]
        exponent = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance[0]), away)
        return np.exp(-exponent / 2) / np.sqrt(np.linalg.det(2 * np.pi * covariance[0])) * grid.volume
    at = (law.images(start[None])[0] - grid.lo) / grid.size
    kept = ((at >= 0) | closed[0]).all(axis=1) & ((at < shape) | closed[1]).all(axis=1)
    at = np.clip(at - 0.5, 0, shape - 1.0)
    low = np.minimum(np.floor(at).astype(int), shape - 2)
    row = np.zeros(n)
    for corner in np.ndindex(*(2,) * len(shape)):
        share = np.where(np.array(corner) == 1, at - low, 1 - (at - low)).prod(axis=1) * law.odds * kept
        np.add.at(row, np.ravel_multi_index(tuple((low + corner).T), grid.shape), share)
    return row


def _part_inside(where: _Target, grid: Grid) -> np.ndarray:
    """The part of each cell that lies in the region ["N"]: of a cell that a few points find cut, by many."""
    assert where.region is not None
    region, wide, d, points = where.region, where.law.wide, len(grid.shape), grid.points

    def share(of: np.ndarray, count: int, ends: float) -> np.ndarray:
        offsets = np.linspace(-1, 1, count) * ends / 2
        inner = np.stack(np.meshgrid(*[offsets] * d, indexing="ij"), axis=-1).reshape(-1, d) * grid.size
        return region.inside(wide, (of[:, None] + inner).reshape(-1, d)).reshape(-1, len(inner)).mean(axis=1)

    part = share(points, 4, 1.0)
    cut = np.flatnonzero((part > 0) & (part < 1))
    if len(cut):
        part[cut] = share(points[cut], _PARTS[d], 1 - 1 / _PARTS[d])
    return part
