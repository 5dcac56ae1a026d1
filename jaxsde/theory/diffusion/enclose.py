"""A box around the stationary law of an SDE, outside of which there is next to nothing of it.

It starts as the hull of Gaussians at the rest points of the drift (of the linearised law, where that is stable). The density is
then solved on a coarse grid with reflecting walls, again and again: a wall moves out while the density at it counts, and in where
there is none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.optimize

from .. import checks, float64
from ..laws.confine import DEEP, wells
from ..laws.gibbs import gibbs
from ..linear import Equation, lyapunov
from ..linearise import covariance, drift, drift_jacobian, of_sde
from .lattice import Grid, Jumps, jumps, rates
from .markov import check_mixing, roughly, stationary

_COARSE = {1: 256, 2: 48, 3: 24}
_FINEST = {1: 2048, 2: 192, 3: 32}
# Edges whose rates differ by more than e to this power smear what goes along them.
_STEEP = 3.0
_PATIENCE = 4  # walls moved out on the finest grid while it smears
# The density of one component at a wall, over its largest, below which the wall stays.
_NOTHING = 1e-10
# Standard deviations to a wall at first: a Gaussian is 1e-11 of its largest there.
_REACH = 7.2
# Tails that fall like a power are cut off where a box has this many widths of the law and the density at the wall is this small.
_WIDE, _LITTLE = 60.0, 1e-6
# A box this many times as long as the first is none.
_LARGEST = 1e5


def enclose(sde: Any, wide: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """(lo ["d"], hi ["d"], an estimate of the mass outside). `ValueError` where there is no stationary law, or none to be boxed."""
    if (found := _of_linear(sde)) is not None:
        return found
    lo, hi = _first(sde, wide)
    dim, length = len(lo), hi - lo
    n, first, smeared = _COARSE[dim], True, 0
    for _ in range(100):
        grid = Grid(lo, hi, (n,) * dim)
        f, d = rates(wide, grid)
        found = jumps(f, d, grid, ("reflecting",) * dim)
        generator = found.generator(len(f))
        try:
            p = stationary(generator, grid.shape)
            if first:  # later the walls may have left a well behind
                check_mixing(generator, grid.shape, p)
        except ValueError as error:
            unbounded = _at_walls(roughly(generator, grid.shape).reshape(grid.shape)) > 0.5
            raise ValueError(_UNBOUNDED if unbounded else f"{error}{no_gibbs(wide)}") from error
        first = False
        new_lo, new_hi, outside = _moved(grid, p.reshape(grid.shape))
        if np.array_equal(new_lo, lo) and np.array_equal(new_hi, hi):
            return lo, hi, outside
        outwards = (new_lo < lo).any() or (new_hi > hi).any()
        if outwards and _steepest(found, p) > _STEEP:
            if n < _FINEST[dim]:
                n = min(2 * n, _FINEST[dim])
                continue
            smeared += 1
            if smeared > _PATIENCE:
                raise ValueError(_SMEARED)
        lo, hi = new_lo, new_hi
        if not (hi - lo < _LARGEST * length).all():
            break
    raise ValueError(_UNBOUNDED)


def _steepest(found: Jumps, p: np.ndarray) -> float:
    """log of the largest ratio of the two rates of an edge, where the density counts."""
    edges = found.edges
    there, back = found.rate[:edges], found.rate[edges : 2 * edges]
    counts = p[found.source[:edges]] > _NOTHING * p.max()
    with np.errstate(divide="ignore"):
        return float(np.abs(np.log(there[counts]) - np.log(back[counts])).max())


_UNBOUNDED = (
    "no stationary law was found: its density does not fall towards the walls of any box (the drift does not confine, or the noise "
    "grows so fast that the tails are too heavy); give a box to see the law between reflecting walls"
)
_SMEARED = (
    "no box was found: the drift is so fast beside the noise that a grid smears the law; give a box, or rotate and scale the "
    "variables so that neither the noise nor the drift is near to degenerate"
)


def _of_linear(sde: Any) -> tuple[np.ndarray, np.ndarray, float] | None:
    """The box of a Gaussian, where the drift is linear and the noise constant."""
    try:
        local = of_sde(sde)
    except ValueError:  # the drift rests nowhere that is easily found
        return None
    if not local.exact or local.feedback is not None or not local.covariance.any():
        return None
    reach = _REACH * np.sqrt(np.diag(lyapunov(local.drift, local.covariance)))
    return local.centre - reach, local.centre + reach, len(reach) * math.erfc(_REACH / math.sqrt(2))


def no_gibbs(wide: Any) -> str:
    """Why a loss does not confine at the strength of this noise; empty where it does."""
    problem = getattr(wide, "problem", None)
    if problem is None:
        return ""
    noise = np.linalg.eigvalsh(float64.evaluate(covariance, wide, np.asarray(problem.start)))[-1]
    try:
        gibbs(problem, max(float(np.asarray(wide.scale)) ** 2 * float(noise) / 2, 1e-300))
    except ValueError as error:
        return f" (there is {error})"
    return ""


def _at_walls(p: np.ndarray) -> float:
    """The share of the mass in the cells next to the walls."""
    inner = tuple(slice(n // 24, n - n // 24) for n in p.shape)
    return 1 - float(p[inner].sum())


def _moved(grid: Grid, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The walls a step further, and the mass beyond them."""
    lo, hi, outside = grid.lo.copy(), grid.hi.copy(), 0.0
    for axis, h in enumerate(grid.size):
        line = p.sum(axis=tuple(k for k in range(p.ndim) if k != axis))
        level, n = line / line.max(), len(line)
        cumulative = np.cumsum(line)
        inner = np.interp([0.25, 0.75], cumulative, np.arange(n))
        width = n / max(inner[1] - inner[0], 1.0)
        for edge, sign in ((0, -1), (n - 1, 1)):
            enough = _NOTHING if width < _WIDE else _LITTLE
            if level[edge] > enough:
                if width > 20 * _WIDE:
                    raise ValueError(_UNBOUNDED)
                step = (0.5 if level[edge] > 1e-4 else 0.15) * (grid.hi - grid.lo)[axis]
            else:
                empty = int(np.argmax((level if sign < 0 else level[::-1]) > 1e-4 * enough)) - 2
                step = -h * empty if empty > 1 + n // 50 else 0.0
                ratio = min(line[edge] / max(line[edge - sign], 1e-300), 0.9)
                outside += float(line[edge] * ratio / (1 - ratio))
            if sign < 0:
                lo[axis] -= step
            else:
                hi[axis] += step
    return lo, hi, outside


def _first(sde: Any, wide: Any) -> tuple[np.ndarray, np.ndarray]:
    centres = _rest_points(sde, wide)
    lows, highs = [], []
    for x in centres:
        a = float64.evaluate(drift_jacobian, wide, x)
        sigma = float(np.asarray(wide.scale)) ** 2 * float64.evaluate(covariance, wide, x)
        if not sigma.any():
            raise ValueError(f"the noise vanishes where the drift rests, at {x}: the law has no density there")
        try:
            s = np.diag(Equation(a, False).solve((sigma + sigma.T) / 2))
        except ValueError:
            s = np.diag(sigma) / (1e-12 + np.abs(np.linalg.eigvals(a)).max())
        reach = _REACH * np.sqrt(np.maximum(s, 1e-300))
        lows.append(x - reach)
        highs.append(x + reach)
    lo, hi = np.min(lows, axis=0), np.max(highs, axis=0)
    slack = 1e-9 * (1 + np.abs(lo) + np.abs(hi))
    return lo - slack, hi + slack


def _rest_points(sde: Any, wide: Any) -> np.ndarray:
    """Where the drift vanishes ["k d"]: minima of the loss that noise of this size reaches, or roots from several starts."""
    if getattr(sde, "problem", None) is not None:
        try:
            minima, values = wells(wide.problem)
        except ValueError as error:
            raise ValueError(f"no stationary law: {error}") from error
        sizes = [np.linalg.eigvalsh(float64.evaluate(covariance, wide, x))[-1] for x in minima]
        temperature = float(np.asarray(wide.scale)) ** 2 * max(sizes) / 2
        return _distinct(minima[values - values[0] <= DEEP * temperature])
    rng = np.random.default_rng(6)
    problem = getattr(sde.drift, "problem", None)
    origin = np.zeros(wide.dim)
    if problem is not None:  # of a larger state the position comes first
        origin[: problem.dim] = np.asarray(problem.start)
    size = 1 + np.abs(origin).max()
    starts = [origin, *(origin + scale * size * rng.normal(size=wide.dim) for scale in (0.3, 1.0, 3.0) for _ in range(8))]
    found = []
    for start in starts:
        result = scipy.optimize.root(
            lambda x: float64.evaluate(drift, wide, x), start, jac=lambda x: float64.evaluate(drift_jacobian, wide, x), tol=1e-12
        )
        if result.success and np.isfinite(result.x).all() and np.abs(result.x - origin).max() < 1e3 * size:
            found.append(result.x)
    return _distinct(np.array(found)) if found else origin[None]


def _distinct(points: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    for x in points:
        if all(np.abs(x - other).max() > 1e-6 * (1 + np.abs(x).max()) for other in kept):
            kept.append(x)
    return np.array(kept)


def given(box: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) of a box that the user gives: two vectors ["d"], or two numbers for every axis."""
    try:
        lo, hi = box
    except (TypeError, ValueError):
        raise ValueError(f"box must be (lo, hi), two numbers or two vectors [{dim}], got {box!r}") from None
    lo, hi = (checks.vector(np.broadcast_to(side, (dim,)) if np.ndim(side) == 0 else side, dim, "box") for side in (lo, hi))
    if not (lo < hi).all():
        raise ValueError(f"box must have lo < hi on every axis, got {lo} and {hi}")
    return lo, hi
