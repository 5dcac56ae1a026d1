"""The box in which a passage is looked at: the one that was given, or one that holds the time spent before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import checks


def enclosing(
    lo: np.ndarray,
    hi: np.ndarray,
    occupation: Callable[[np.ndarray, np.ndarray], np.ndarray],
    share: float,
    tries: int,
    far: float,
    who: str,
    fixed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A box that holds all but `share` of the time spent, found from (lo, hi) by growing and then trimming.

    `occupation` gives the time spent in the cells of a box; ends that are `fixed` ["2 d"] stay. `ValueError` where `who` is never
    brought back from `far` away, or no box is found in so many tries.
    """
    d = len(lo)
    fixed = np.zeros((2, d), bool) if fixed is None else fixed
    for _ in range(tries):
        spent = occupation(lo, hi)
        shares = [spent.sum(axis=tuple(b for b in range(d) if b != a)) / spent.sum() for a in range(d)]
        ends = (slice(0, 2), slice(-2, None))
        near = np.array([[s[part].max() > share for s in shares] for part in ends]) & ~fixed
        if not near.any():
            break
        length = hi - lo
        lo, hi = lo - np.where(near[0], 0.3 * length, 0), hi + np.where(near[1], 0.3 * length, 0)
        if max(np.abs(lo).max(), np.abs(hi).max()) > far:
            raise ValueError(f"the mean first passage time is infinite: nothing brings the {who} back from far away; give a box")
    else:
        raise ValueError(f"no box was found that holds the {who} until it reaches the target: give box=(lo, hi)")
    cell = (hi - lo) / np.array([len(s) for s in shares])
    kept = [np.flatnonzero(s > share / 10) for s in shares]
    first = np.array([max(k[0] - 2, 0) for k in kept])
    last = np.array([min(k[-1] + 3, len(s)) for k, s in zip(kept, shares, strict=True)])
    return np.where(fixed[0], lo, lo + first * cell), np.where(fixed[1], hi, lo + last * cell)


def given_box(box: Any, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = checks.box(box, len(start))
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < start).all() and (start < hi).all()):
        raise ValueError(f"the box {lo} … {hi} does not hold the start {start}")
    return lo, hi


def whole(cells: Any) -> int:
    if isinstance(cells, bool) or not isinstance(cells, int | np.integer) or cells < 32:
        raise ValueError(f"cells must be a whole number of at least 32, got {cells!r}")
    return int(cells)
