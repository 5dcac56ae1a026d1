"""Masses in boxes and what is computed of them: halved grids, pooled boxes, plug-in divergences, checks, noise floors.

Boxes that are hardly visited are the trouble of every histogram: their p log p is biased by as much as it is worth. They
are pooled with their neighbours, in blocks of 2, 4, 8 … boxes a side, until a pool has been visited often enough.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..estimate import Unknown
from .sources import Source, with_outside

# More mass than this outside of the boxes, of either law, and their divergence is no longer that of the laws.
MOST_OUTSIDE = 0.05
# A law that fills fewer boxes than this along a component (e to its entropy) is not resolved.
FEWEST_FILLED = 4.0
# A part is known when as many groups have visited it as would have with this many independent visits in all.
VISITS = 20.0
# What is left of the error of box width after extrapolation, as a share of the correction, at most: measured on Gaussians,
# .07 where boxes are half as wide as the narrower law, .3 where they are wider than it.
LEFT_BY_EXTRAPOLATION = 1 / 3


class Partition(NamedTuple):
    """A coarser partition of a grid (of `shape`) and its outside: `labels` ["boxes+1"], part 0 holds the outside.

    `halvings`: 0 for the histogram's own grid, 1 for the one with neighbouring boxes joined.
    """

    shape: tuple[int, ...]
    halvings: int
    labels: np.ndarray

    def on_grid(self, flat: np.ndarray, add: np.ufunc = np.add) -> np.ndarray:
        """Masses (or with np.logaddexp their logarithms) on this partition's own grid."""
        return halved(flat, self.shape, add) if self.halvings else flat

    def gather(self, masses: np.ndarray) -> np.ndarray:
        """The masses of the parts ["... parts"] from those on this partition's grid ["... boxes+1"]."""
        flat = masses.reshape(-1, masses.shape[-1])
        parts = self.labels.max() + 1
        out = np.stack([np.bincount(self.labels, row, parts) for row in flat])
        return out.reshape(*masses.shape[:-1], parts)

    def divergence(
        self,
        p: np.ndarray,
        log_q: np.ndarray,
        log_r: np.ndarray,
        *,
        rare: str = "first",
        log_s: np.ndarray | None = None,
    ) -> np.ndarray:
        """Σ p log(p/q) with the help of references; all but p are logarithms, on the histogram's grid, with the outside.

        `rare` says which of p and q is measured, and so pooled: "first", with reference r for p; "second", r for q; or
        "both", with r for p and s for q. Part 0 is compared as it is. One of p and log_q may be a stack of laws.
        """
        p, log_q, log_r = self.on_grid(p), self.on_grid(log_q, np.logaddexp), self.on_grid(log_r, np.logaddexp)
        log_s = None if log_s is None else self.on_grid(log_s, np.logaddexp)
        parts_p, parts_q = self.gather(p), self.gather(np.exp(log_q))
        total = _terms(parts_p[..., :1], _log(parts_q[..., :1])).sum(axis=-1)
        in_parts = self.labels > 0
        # outside of the boxes there is no reference: part 0 does without
        log_r = np.where(in_parts, log_r, 0.0)
        log_s = None if log_s is None else np.where(in_parts, log_s, 0.0)
        if rare == "first":
            smooth = log_r - log_q
            pools = _terms(parts_p, _log(self.gather(np.exp(log_r))))
        elif rare == "second":
            # p is known: Σ p log(p/r) box by box, Σ p log(r/q) on pools
            smooth = _log(p) - log_r
            pools = parts_p * (_log(self.gather(np.exp(log_r))) - _log(parts_q))
        else:
            assert log_s is not None
            smooth = log_r - log_s
            pools = _terms(parts_p, _log(self.gather(np.exp(log_r)))) - parts_p * (
                _log(parts_q) - _log(self.gather(np.exp(log_s)))
            )
        fine = np.where((p > 0) & in_parts, p * np.where(p > 0, smooth, 0.0), 0.0)
        return total + pools[..., 1:].sum(axis=-1) + fine.sum(axis=-1)


def partitions(masses: np.ndarray, groups: np.ndarray, shape: tuple[int, ...], *, divisor: bool) -> list[Partition]:
    """The partition of a histogram and, unless it has too few boxes, that of the halved grid.

    `groups` ["G boxes+1"] are the masses of every group, `masses` of all together; several runs may be stacked, ["R G …"],
    and a part must then be known in each. With `divisor` something is divided by the masses, so part 0 must be known too.
    """
    levels = [0, 1] if min(shape) >= 8 else [0]
    out = []
    for i in levels:
        m, g = (halved(masses, shape), halved(groups, shape)) if i else (masses, groups)
        grid = tuple((n + 1) // 2 for n in shape) if i else shape
        out.append(Partition(shape, i, _pooled(m, g.reshape(-1, *groups.shape[-2:-1], g.shape[-1]), grid, divisor)))
    return out


def halved(flat: np.ndarray, shape: tuple[int, ...], add: np.ufunc = np.add) -> np.ndarray:
    """Neighbouring boxes joined along every component; `flat` ["... boxes+1"], the last entry is the outside.

    `add` is np.logaddexp for logarithms of masses.
    """
    lead = flat.shape[:-1]
    grid = flat[..., :-1].reshape(*lead, *shape)
    for i, n in enumerate(shape):
        grid = add.reduceat(grid, np.arange(0, n, 2), axis=len(lead) + i)
    return np.concatenate([grid.reshape(*lead, -1), flat[..., -1:]], axis=-1)


def _pooled(masses: np.ndarray, runs: np.ndarray, shape: tuple[int, ...], divisor: bool) -> np.ndarray:
    """The labels of a partition in which every part but 0 is known; runs ["R G boxes+1"]."""
    enough = 1 - np.exp(-VISITS / runs.shape[1])
    boxes = masses.shape[-1] - 1
    place = np.stack(np.unravel_index(np.arange(boxes), shape))
    labels, pending = np.zeros(boxes + 1, np.int64), np.arange(boxes)
    parts, side = 1, 1
    while len(pending) and side < 2 * max(shape):
        grid = tuple(-(-n // side) for n in shape)
        block = np.ravel_multi_index(tuple(place[:, pending] // side), grid)
        names, block = np.unique(block, return_inverse=True)
        known = np.ones(len(names), bool)
        for groups in runs:
            visited = np.zeros(len(names))
            for g in groups:
                visited += np.bincount(block, g[pending], len(names)) > 0
            known &= visited >= enough * len(groups)
        labels[pending] = np.where(known[block], parts + (np.cumsum(known) - 1)[block], 0)
        parts += int(known.sum())
        pending = pending[~known[block]]
        side *= 2
    if divisor:
        labels = _known_outside(masses, runs, labels, enough)
    return labels


def _known_outside(masses: np.ndarray, runs: np.ndarray, labels: np.ndarray, enough: float) -> np.ndarray:
    """Joins the emptiest parts to part 0 until that is known too."""
    total = np.bincount(labels, masses.reshape(-1, masses.shape[-1]).sum(axis=0))
    for part in 1 + np.argsort(total[1:]):
        if all((groups[:, labels == 0].sum(axis=1) > 0).mean() >= enough for groups in runs):
            break
        labels = np.where(labels == part, 0, labels)
    return np.unique(labels, return_inverse=True)[1]


def _terms(p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """p log(p/q), and 0 where p is."""
    with np.errstate(invalid="ignore"):
        return np.where(p > 0, p * (_log(p) - log_q), 0.0)


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, 1e-300))


def extrapolated(levels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(4 fine − coarse)/3 and what this added: the error h² of box width h drops out."""
    if len(levels) == 1:
        return levels[0], np.zeros_like(levels[0])
    change = (levels[0] - levels[1]) / 3
    return levels[0] + change, change


def group_masses(source: Source) -> np.ndarray:
    """["G boxes+1"]: the masses of each group, the outside last."""
    return np.stack([with_outside(m) for m in source.each()])


def check_inside(masses: np.ndarray, what: str) -> None:
    """Unknown when too much of a law lies outside of the boxes."""
    if masses[-1] > MOST_OUTSIDE:
        raise Unknown(f"{100 * masses[-1]:.3g} % of {what} lies outside of the boxes: widen the edges of the Histogram")


def check_resolved(masses: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """Unknown when a law fills too few boxes to have a shape."""
    grid = masses[:-1].reshape(shape)
    for i in range(len(shape)):
        marginal = grid.sum(axis=tuple(j for j in range(len(shape)) if j != i))
        marginal = marginal[marginal > 0] / max(marginal.sum(), 1e-300)
        filled = float(np.exp(-(marginal * np.log(marginal)).sum())) if len(marginal) else 0.0
        if filled < FEWEST_FILLED:
            raise Unknown(
                f"{what} fills {filled:.2g} boxes along component {i} of the Histogram, at least {FEWEST_FILLED:g} are "
                "needed to know its shape: use narrower boxes (or the points are identical)"
            )


def check_parts(parts: list[Partition]) -> None:
    """Unknown when so few parts are known that there is no shape to compare."""
    known = int(parts[0].labels.max())
    if known < FEWEST_FILLED:
        raise Unknown(f"only {known} boxes were visited often enough to know their mass: use more samples")


def null_features(groups: np.ndarray, counts: np.ndarray, parts: list[Partition]) -> list[tuple[float, np.ndarray]]:
    """Weighted coordinates ["G k"] in which the divergence is a sum of weight · ½|f|² near zero: see `null_spread`."""
    features = []
    for partition, weight in zip(parts, (4 / 3, -1 / 3) if len(parts) == 2 else (1.0,), strict=True):
        masses = partition.gather(partition.on_grid(groups))
        mean = counts @ masses / counts.sum()
        on = mean > 0
        features.append((weight, masses[:, on] / np.sqrt(mean[on])))
    return features


def name_of(shape: tuple[int, ...], parts: list[Partition]) -> str:
    """What the estimator calls itself."""
    width = ", extrapolated in box width" if len(parts) == 2 else ""
    return f"histogram of {'×'.join(map(str, shape))} boxes, bias removed by jackknife over groups{width}"
