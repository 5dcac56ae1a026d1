"""The box that holds the law of a chain, and how many cells it is cut into."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from ..diffusion.lattice import Grid
from ..laws.confine import tails, wells
from ..moments.stationary import stationary_law
from .step_law import StepLaw, typical_step
from .transfer import CELLS, MANY, MOST_ENTRIES, stationary, transport

_SCOUT = {1: 192, 2: 32}
_TIGHTER = 3  # times that a box is made smaller
_NEAR = 0.05  # of an interval, how far its ends may be from where they are guessed to end
_TAIL = {1: 1e-12, 2: 1e-9}
_WIDEST = {1: 60.0, 2: 14.0}  # of a box, in standard deviations of a law with heavy tails


def found_box(law: StepLaw) -> tuple[np.ndarray, np.ndarray]:
    """The hull of the support on the line, where it is bounded and not much wider than the law; else a box that holds all but a
    `_TAIL` of the mass or, where the tails are too heavy for that, `_WIDEST` standard deviations of its core."""
    d, points = law.dim, anchors(law)
    _check_loss(law, points)
    step = 4 * typical_step(law, points) + 1e-3 * (1 + np.abs(points).max())
    lo, hi = points.min(axis=0) - step, points.max(axis=0) + step
    size = 1 + np.abs(points).max()
    try:
        core = np.sqrt(np.diag(stationary_law(law.wide).covariance))
    except ValueError:
        core = np.full(d, np.inf)
    done, tightened = False, 0
    for _ in range(100):
        grid = Grid(lo, hi, (_SCOUT[d],) * d)
        mass = np.maximum(stationary(transport(law, grid, smooth=False)[0], d), 0).reshape(grid.shape)
        share = [mass.sum(axis=tuple(b for b in range(d) if b != a)) for a in range(d)]
        middle = np.array(
            [np.ptp(np.interp((0.16, 0.84), np.cumsum(s), x)) / 2 for s, x in zip(share, grid.axes, strict=True)]
        )
        narrow = np.minimum(core, np.maximum(middle, grid.size / 2))
        enough = hi - lo > _WIDEST[d] * narrow + np.ptp(points, axis=0)
        low, high = (
            np.array([s[part].max() > _TAIL[d] for s in share]) & ~enough for part in (slice(0, 2), slice(-2, None))
        )
        if low.any() or high.any():
            if done:
                break
            lo, hi = lo - np.where(low, 0.3 * (hi - lo), 0), hi + np.where(high, 0.3 * (hi - lo), 0)
            if max(np.abs(lo).max(), np.abs(hi).max()) > 1e5 * size:
                raise _runs_away()
            continue
        # on a smaller box the cells are smaller and blur the law less: once more, until that changes nothing
        spans = [np.flatnonzero(s > _TAIL[d]) for s in share]
        if not all(len(s) for s in spans):
            raise _runs_away()
        first, last = (np.array([s[end] + by for s in spans]) for end, by in ((0, -2), (-1, 3)))
        tight = np.maximum(lo + first * grid.size, lo), np.minimum(lo + last * grid.size, hi)
        tightened += 1
        done = bool((tight[1] - tight[0] > 0.8 * (hi - lo)).all())
        if not done and tightened > _TIGHTER:  # on a smaller one the law does not end: a box holds it that is larger than need be
            break
        lo, hi = tight
        if done:
            break
    else:
        raise ValueError("no box holds the chain's law: give box=(lo, hi)")
    hull = None if law.gaussian or d > 1 else _hull(law, points)
    return hull if hull is not None and (hull[1] - hull[0] < 2 * (hi - lo)).all() else (lo, hi)


def _runs_away() -> ValueError:
    return ValueError("no stationary law: the chain runs away (a learning rate beyond the stability edge, or tails too heavy)")


def _check_loss(law: StepLaw, points: np.ndarray) -> None:
    """Noise without bounds leaves the wells of a loss that does not rise, and no box shows it."""
    problem = getattr(law.wide, "problem", None)
    if problem is None or not law.gaussian:
        return
    found = tails(problem, points[0], 1 + float(np.abs(points).max()), np.eye(law.dim))
    with np.errstate(invalid="ignore"):
        rises = found.far - found.near
    if (rises <= 0).any():
        ray = np.array2string(found.rays[int(np.argmax(rises <= 0))], precision=3)
        raise ValueError(f"no stationary law: the loss does not rise along {ray}, so nothing keeps the chain; add a regulariser")


def anchors(law: StepLaw) -> np.ndarray:
    """The minima of the chain's loss, or its start, or the origin ["k d"]."""
    problem = getattr(law.wide, "problem", None)
    if problem is None:
        return np.zeros((1, law.dim))
    try:
        return np.unique(np.round(wells(problem)[0], 9), axis=0)
    except ValueError:
        return np.asarray(problem.start, np.float64)[None]


def _hull(law: StepLaw, points: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The smallest interval that every outcome maps into itself and that holds the points' images; None where it is not found."""

    def image(ends: np.ndarray) -> np.ndarray:
        at = law.images(np.linspace(ends[0], ends[1], 65)[:, None])
        return np.array([at.min(), at.max()])

    ends = np.array([points.min(), points.max()])
    for step in range(4000):
        new = image(ends)
        new = np.array([min(ends[0], new[0]), max(ends[1], new[1])])
        size = np.ptp(new)
        if not np.isfinite(size) or size > 1e6 * (1 + np.abs(points).max()):
            return None
        if np.abs(new - ends).sum() <= 1e-15 * size:
            return (ends[:1], ends[1:]) if size > 0 else None
        if step % 16 == 15:  # the ends come nearer by a factor a step, which for a weak pull is near one
            limit = _limit(image, new)
            if limit is not None:
                return limit[:1], limit[1:]
        ends = new
    return None


def _limit(image: Any, ends: np.ndarray) -> np.ndarray | None:
    """Where repeated images of an interval end, by Steffensen's extrapolation; None where it is not near or does not attract."""
    at, size = ends, np.ptp(ends)
    for _ in range(6):
        first = image(at)
        second = image(first)
        before, after = first - at, second - first
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(np.abs(before) > 1e-13 * size, after / before, 0.0)
        if not ((factor >= 0) & (factor < 1)).all():
            return None
        at = second + after * factor / (1 - factor)
        if not (np.abs(at - ends) < _NEAR * size).all():
            return None
        if (np.abs(image(at) - at) <= 1e-14 * size).all():
            wider = at + np.array([-1e-6, 1e-6]) * size
            inside = image(wider)
            return at if inside[0] > wider[0] and inside[1] < wider[1] else None
    return None


def grid_of(lo: np.ndarray, hi: np.ndarray, count: int) -> Grid:
    return Grid(lo, hi, tuple(max(16, 2 * round(count * s / 2)) for s in (hi - lo) / (hi - lo).max()))


def count_of(law: StepLaw, lo: np.ndarray, hi: np.ndarray) -> int:
    """Cells along the longest side: a few to a standard deviation of a step's noise, or as many as are cheap."""
    most = CELLS[law.dim]
    if not law.gaussian and len(law.odds) < MANY:
        return 2 * most
    points = Grid(lo, hi, (16,) * law.dim).points
    narrow = (
        np.sqrt(np.linalg.eigvalsh(law.moments(points)[1])[:, 0].min().clip(0))
        if law.gaussian
        else typical_step(law, points, np.min).min()
    )
    if not narrow > 0:
        return most
    wanted = 4 if law.dim == 1 else 1.6 if law.gaussian else 2.5
    if not law.gaussian:  # as many as can be summed over all outcomes
        most = min(most, int((MOST_ENTRIES / (len(law.odds) * 4**law.dim)) ** (1 / law.dim)) - 1)
    return min(
        max(2 * round(wanted * float((hi - lo).max()) / narrow / 2), 128 if law.dim == 1 else 48), 2 * (most // 2)
    )


def given_box(box: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = checks.box(box, dim)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < hi).all()):
        raise ValueError(f"the box {lo} … {hi} is empty or not finite")
    return lo, hi


def even(cells: Any) -> int:
    if isinstance(cells, bool) or not isinstance(cells, int | np.integer) or cells < 32 or cells % 2:
        raise ValueError(f"cells must be an even number of at least 32, got {cells!r}")
    return int(cells)
