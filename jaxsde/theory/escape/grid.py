"""Times of first passage in two and three dimensions: the generator of `lattice` outside the region, solved on two grids.

Where a jump would end in the region, it ends on the region's boundary instead, at a fraction θ of its length; the two rates of that
pair are those of the exact exit from (−θ₋ e, θ₊ e) with constant drift and noise. So the boundary is where it is, not a staircase,
and the answer is of second order in the size of a cell: the two grids give the extrapolated value and its error.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from .. import float64
from ..diffusion.lattice import Grid, decompose, fitted, rates
from ..laws.confine import wells
from .box import enclosing, given_box, whole

_CELLS = {1: 4096, 2: 128, 3: 32}
_SCOUT = {1: 256, 2: 40, 3: 14}
_SHARE = 1e-9  # of the time spent, beyond which the box need not reach
_LEAST = 1e-6  # a fraction of a jump below this counts as this
_MOST_JUMPS = 1e13  # before the passage: rounding lets some 1e-16 of the jumps out of a box that lets none out
_NEVER = (
    "the target is reached too rarely or never from somewhere in the box: "
    "its mean passage time is infinite, or beyond what a grid resolves; see kramers"
)


@dataclass(frozen=True)
class Region:
    """Where `function` of the position is True or positive, less a rim of width `gap` · √(nᵀ scale²Σ n)."""

    function: Callable[[Any], Any]
    gap: float = 0.0

    def inside(self, wide: Any, points: np.ndarray) -> np.ndarray:
        value = float64.evaluate_many(_level, _Tagged(wide, self), points)
        if np.isnan(value).any():
            raise ValueError(f"the target's function is not a number at {points[np.isnan(value)][0]}")
        return value > 0


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class _Tagged:
    """A widened SDE and a region, as one pytree."""

    wide: Any
    region: Region

    def tree_flatten(self) -> tuple[tuple[Any], Region]:
        return (self.wide,), self.region

    @classmethod
    def tree_unflatten(cls, region: Region, leaves: tuple[Any]) -> _Tagged:
        return cls(leaves[0], region)


def _level(tagged: _Tagged, x: Any) -> Any:
    wide, region = tagged.wide, tagged.region
    value = jnp.asarray(region.function(x))
    if value.shape != () or not (value.dtype == bool or jnp.issubdtype(value.dtype, jnp.floating)):
        raise TypeError(
            f"target must give one bool, or one number that is positive inside; got {value.dtype}{list(value.shape)}"
        )
    if not region.gap:
        return (
            jnp.where(value > 0, 1.0, -1.0).astype(x.dtype)
            if value.dtype != bool
            else jnp.where(value, 1.0, -1.0).astype(x.dtype)
        )
    if value.dtype == bool:
        raise ValueError(
            "watched needs to know which way the boundary faces: let target give a number that is positive inside"
        )
    slope = jax.grad(region.function)(x)
    return value - region.gap * wide.scale * jnp.sqrt(slope @ wide.noise.covariance(x) @ slope)


@dataclass(frozen=True)
class GridPassage:
    mean: float
    variance: float
    error: float
    variance_error: float
    cells: str
    resolvent: Callable[[complex], complex]


def grid_passage(wide: Any, start: np.ndarray, region: Region, box: Any, cells: int | None, walls: str) -> GridPassage:
    """The time from `start` until the region, on two grids over the box, extrapolated."""
    d = len(start)
    if region.inside(wide, start[None])[0]:
        raise ValueError(f"the start {np.array2string(start, precision=4)} lies in the target: its passage time is 0")
    count = _CELLS[d] if cells is None else whole(cells)
    if box is None:
        if walls != "reflecting":
            raise ValueError(f'walls="{walls}" need a box: box=(lo, hi)')
        lo, hi = _found_box(wide, start, region)
    else:
        lo, hi = given_box(box, start)
    fine, coarse = (_Killed.build(wide, start, region, grid_of(lo, hi, n), walls) for n in (count, count // 2))
    (t2, v2), (t1, v1), (t0, v0) = (
        k.moments() for k in (fine, coarse, _Killed.build(wide, start, region, grid_of(lo, hi, count // 4), walls))
    )
    mean, variance = t2 + (t2 - t1) / 3, v2 + (v2 - v1) / 3

    # of the extrapolated values: what they were on grids half as fine, and not less than three quarters of what was extrapolated
    def error(value: float, fine: float, coarse: float, coarsest: float) -> float:
        return max(abs(value - coarse - (coarse - coarsest) / 3), abs(fine - coarse) / 4)

    def resolvent(z: complex) -> complex:
        a, b = fine.resolvent(z), coarse.resolvent(z)
        return a + (a - b) / 3

    return GridPassage(
        mean,
        variance,
        error(mean, t2, t1, t0),
        error(variance, v2, v1, v0),
        " × ".join(map(str, fine.grid.shape)),
        resolvent,
    )


def grid_of(lo: np.ndarray, hi: np.ndarray, count: int) -> Grid:
    """Cells that are about as long as wide, `count` along the longest side."""
    shape = tuple(max(8, round(count * s)) for s in (hi - lo) / (hi - lo).max())
    return Grid(lo, hi, shape)


@dataclass(frozen=True)
class _Killed:
    """−L on the cells outside the region."""

    grid: Grid
    outside: np.ndarray  # numbers of the cells outside
    matrix: scipy.sparse.csc_matrix
    killed: np.ndarray  # their rates of entering the region at once
    weights: np.ndarray  # over those cells, of the value at the start

    @classmethod
    def build(cls, wide: Any, start: np.ndarray, region: Region, grid: Grid, walls: str) -> _Killed:
        f, diffusion = rates(wide, grid)
        h, n = grid.size, len(f)
        f, diffusion = f / h, diffusion / (h[:, None] * h)
        inside = region.inside(wide, grid.points)
        steps, weight = decompose(diffusion)
        along = np.einsum("nkd,nd->nk", steps, np.linalg.solve(diffusion, f[..., None])[..., 0])
        index = np.stack(np.unravel_index(np.arange(n), grid.shape), axis=-1)
        rows, columns, values = [], [], []
        away, killed = np.zeros(n), np.zeros(n)
        for k in range(steps.shape[1]):
            live = np.flatnonzero(~inside & (weight[:, k] > 0))
            arms, ends = [], []
            for sign in (1, -1):
                arm, end = _arms(wide, region, grid, index[live], live, sign * steps[live, k], inside, walls)
                arms.append(arm)
                ends.append(end)
            up, down = _pair(weight[live, k], along[live, k], *arms)
            for rate, end in ((up, ends[0]), (down, ends[1])):
                rate = np.where(end == _WALL, 0.0, rate)
                away[live] += rate
                killed[live] += np.where(end == _TARGET, rate, 0.0)
                on = (end >= 0) & (rate > 0)
                rows.append(live[on])
                columns.append(end[on])
                values.append(-rate[on])
        outside = np.flatnonzero(~inside)
        place = np.full(n, -1)
        place[outside] = np.arange(len(outside))
        r, c = place[np.concatenate(rows)], place[np.concatenate(columns)]
        matrix = scipy.sparse.coo_matrix((np.concatenate(values), (r, c)), shape=(len(outside),) * 2)
        matrix = scipy.sparse.csc_matrix(matrix + scipy.sparse.diags(away[outside]))
        return cls(grid, outside, matrix, killed[outside], _weights(grid, start, place))

    def moments(self) -> tuple[float, float]:
        """Mean and variance of the time from the start."""
        if not self.killed.any():  # a matrix that rounding alone keeps from being singular
            raise ValueError("no cell of the box lies in the target: the mean passage time is infinite, or the box too small")
        solve = _factor(self.matrix)
        time = solve(np.ones(len(self.outside)))
        jumps = np.abs(time).max() * self.matrix.diagonal().max()
        if not jumps < _MOST_JUMPS or time.min() < -1e-9 * np.abs(time).max() or not time @ self.weights > 0:
            raise ValueError(_NEVER)
        # L v = −Σ rate (T(y) − T(x))²: no difference of large numbers
        moves = scipy.sparse.coo_matrix(self.matrix)
        off = np.asarray(moves.row != moves.col)
        rate, r, c = np.negative(moves.data)[off], moves.row[off], moves.col[off]
        spread = np.bincount(r, rate * (time[c] - time[r]) ** 2, len(time)) + self.killed * time**2
        return float(self.weights @ time), float(self.weights @ solve(spread))

    def resolvent(self, z: complex) -> complex:
        shifted = (self.matrix + z * scipy.sparse.identity(len(self.outside))).tocsc()
        return complex(self.weights @ _factor(shifted)(np.ones(len(self.outside), complex)))

    def occupation(self) -> np.ndarray:
        """The time spent in each cell of the grid on the way from the start."""
        spent = np.zeros(int(np.prod(self.grid.shape)))
        spent[self.outside] = _factor(self.matrix.T.tocsc())(self.weights)
        return spent.reshape(self.grid.shape)


_WALL, _TARGET = -2, -1


def _arms(
    wide: Any,
    region: Region,
    grid: Grid,
    index: np.ndarray,
    live: np.ndarray,
    step: np.ndarray,
    inside: np.ndarray,
    walls: str,
) -> tuple[np.ndarray, np.ndarray]:
    """How much of each jump is made, and where it ends: a cell, `_TARGET`, or `_WALL` (not made at all)."""
    shape = np.asarray(grid.shape)
    to = index + step
    beyond = np.asarray(((to < 0) | (to >= shape)).any(axis=1))
    arm = np.ones(len(to))
    if walls == "periodic":
        to, beyond = to % shape, np.zeros(len(to), bool)
    end = np.ravel_multi_index(tuple(np.where(beyond[:, None], 0, to).T), grid.shape)
    end = np.where(beyond, _WALL if walls == "reflecting" else _TARGET, end)
    if walls == "absorbing":  # the wall is half a cell beyond the last centre
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(step > 0, shape - 0.5 - index, np.where(step < 0, index + 0.5, np.inf)) / np.abs(step)
        arm = np.where(beyond, room.min(axis=1), arm)
    cut = (end >= 0) & inside[np.maximum(end, 0)]
    if cut.any():
        start, whole = grid.points[live[cut]], step[cut] * grid.size
        low, high = np.zeros(len(start)), np.ones(len(start))
        for _ in range(45):
            middle = (low + high) / 2
            there = region.inside(wide, start + middle[:, None] * whole)
            low, high = np.where(there, low, middle), np.where(there, middle, high)
        arm[cut], end[cut] = np.maximum(high, _LEAST), _TARGET
    return arm, end


def _pair(weight: np.ndarray, slope: np.ndarray, up: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates of the jumps up and down: odds of leaving (−down, up) by each end over the mean time, with drift weight · slope."""
    plain = (up == 1) & (down == 1)
    s = np.where(np.abs(slope) < 1e-4, 1e-4, np.clip(slope, -300, 300))
    odds = np.expm1(s * down) / (np.exp(s * down) - np.exp(-s * up))
    time = (up * odds - down * (1 - odds)) / (weight * s)
    flat = np.abs(slope) < 1e-4
    straight = up * down / (2 * weight) * (1 + slope * (up - down) / 6)
    time = np.where(flat, straight, time)
    odds = np.where(flat, (slope * weight * time + down) / (up + down), odds)
    return np.where(plain, weight * fitted(slope), odds / time), np.where(
        plain, weight * fitted(-slope), (1 - odds) / time
    )


def _weights(grid: Grid, start: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Interpolation of a function on the cells to the start: cubic, or linear where a cubic would reach into the region."""
    at = (start - grid.lo) / grid.size - 0.5
    for reach in (2, 1):
        parts = []
        for x, n in zip(at, grid.shape, strict=True):
            first = int(np.clip(np.floor(x) - reach + 1, 0, n - 2 * reach))
            nodes = first + np.arange(2 * reach)
            parts.append([(j, np.prod([(x - m) / (j - m) for m in nodes if m != j])) for j in nodes])
        numbers, values = [], []
        for combined in np.ndindex(*(len(p) for p in parts)):
            numbers.append(np.ravel_multi_index([parts[a][i][0] for a, i in enumerate(combined)], grid.shape))
            values.append(math.prod(parts[a][i][1] for a, i in enumerate(combined)))
        if reach == 1 or (place[numbers] >= 0).all():
            break
    weights = np.zeros(int((place >= 0).sum()))
    for number, value in zip(numbers, values, strict=True):
        if place[number] >= 0:
            weights[place[number]] += value
    return weights


def _factor(matrix: Any) -> Callable[[np.ndarray], np.ndarray]:
    try:
        return scipy.sparse.linalg.splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A").solve
    except RuntimeError as error:
        raise ValueError(_NEVER) from error


def _found_box(wide: Any, start: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray]:
    """A box that holds all but `_SHARE` of the time spent outside the region, found by growing and then trimming."""
    d = len(start)
    points = [start]
    if getattr(wide, "problem", None) is not None:
        with contextlib.suppress(ValueError):  # no minimum: the start alone
            points += list(wells(wide.problem)[0])
    points = np.array(points)
    f_at = Grid(start - 1e-3, start + 1e-3, (2,) * d)
    f, diffusion = rates(wide, f_at)
    slope = np.ptp(f, axis=0) / 1e-3
    width = np.sqrt(np.diag(diffusion[0]) / np.maximum(slope, np.diag(diffusion[0]) / (1 + np.abs(points).max()) ** 2))
    lo, hi = points.min(axis=0) - 4 * width, points.max(axis=0) + 4 * width
    far = 1e6 * (1 + np.abs(points).max())

    def scout(lo: np.ndarray, hi: np.ndarray) -> _Killed:
        return _Killed.build(wide, start, region, grid_of(lo, hi, _SCOUT[d]), "reflecting")

    while not scout(lo, hi).killed.any():  # reflected for ever: what is spent where says nothing
        lo, hi = lo - 0.3 * (hi - lo), hi + 0.3 * (hi - lo)
        if max(np.abs(lo).max(), np.abs(hi).max()) > far:
            raise ValueError(
                "the target is not reached from the start: no box around it has a cell in the target; give box=(lo, hi)"
            )

    def occupation(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        spent = scout(lo, hi).occupation()
        if not (np.isfinite(spent).all() and spent.sum() > 0):
            raise ValueError(_NEVER)
        return np.abs(spent)

    box = enclosing(lo, hi, occupation, _SHARE, 60, far, "process")
    if not scout(*box).killed.any():
        raise ValueError("the target is reached too rarely: the process spends no time near it; see kramers, or give box=(lo, hi)")
    return box
