"""Masses in boxes and what is computed of them: halved grids, joined boxes, plug-in divergences, checks, noise floors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..estimate import Unknown
from .sources import Source, with_outside

# More mass than this outside of the boxes, of either law, and their divergence is no longer that of the laws.
MOST_OUTSIDE = 0.05
# A law that fills fewer boxes than this along a component (e to its entropy) is not resolved.
FEWEST_FILLED = 4.0
# Boxes that fewer than this share of the groups have visited are joined with the outside before anything is divided by them.
SEEN_BY = 0.5


def halved(flat: np.ndarray, shape: tuple[int, ...], add: np.ufunc) -> np.ndarray:
    """Neighbouring boxes joined along every component; `flat` ["... boxes+1"], the last entry is the outside.

    `add` is np.add for masses and np.logaddexp for their logarithms.
    """
    lead = flat.shape[:-1]
    grid = flat[..., :-1].reshape(*lead, *(n for m in shape for n in (m // 2, 2)))
    for i in reversed(range(len(shape))):
        grid = add.reduce(grid, axis=len(lead) + 2 * i + 1)
    return np.concatenate([grid.reshape(*lead, -1), flat[..., -1:]], axis=-1)


def can_halve(shape: tuple[int, ...]) -> bool:
    """Whether every component has an even number of boxes, and enough of them that half still resolve a law."""
    return all(n % 2 == 0 and n >= 16 for n in shape)


def extrapolated(value: Callable[[int], Any], shape: tuple[int, ...]) -> Any:
    """(4 value(0) − value(1))/3, where value(1) is on the halved grid: the error h² of box width drops out."""
    return (4 * value(0) - value(1)) / 3 if can_halve(shape) else value(0)


def forward_kl(p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Σ p (log p − log q) for one p ["boxes"] and many q ["... boxes"]."""
    on = p > 0
    return p[on] @ np.log(p[on]) - log_q[..., on] @ p[on]


def joined(masses: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Labels ["boxes+1"] of a coarser partition in which every part was visited by at least half of the groups.

    `masses` are all groups' together, `groups` ["G boxes+1"] each one's. Rare boxes join the outside as one part
    (number 0), and if that is still too rare, so do the emptiest of the others.
    """
    visited = (groups > 0).mean(axis=0)
    rare = visited < SEEN_BY
    rare[-1] = True
    for box in np.argsort(np.where(rare, np.inf, masses)):
        if (groups[:, rare].sum(axis=1) > 0).mean() >= SEEN_BY or rare[box]:
            break
        rare[box] = True
    labels = np.zeros(len(masses), np.int64)
    labels[~rare] = 1 + np.arange((~rare).sum())
    return labels


def gather(masses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The masses ["... boxes"] of the parts that `labels` names."""
    out = np.zeros((*masses.shape[:-1], labels.max() + 1))
    np.add.at(out, (..., labels), masses)
    return out


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


def null_features(groups: np.ndarray, counts: np.ndarray, shape: tuple[int, ...]) -> list[tuple[float, np.ndarray]]:
    """Weighted coordinates ["G k"] in which the divergence is a sum of weight · ½|f|² near zero: see `null_spread`."""

    def level(masses: np.ndarray) -> np.ndarray:
        mean = counts @ masses / counts.sum()
        on = mean > 0
        return masses[:, on] / np.sqrt(mean[on])

    if not can_halve(shape):
        return [(1.0, level(groups))]
    return [(4 / 3, level(groups)), (-1 / 3, level(halved(groups, shape, np.add)))]


def name_of(shape: tuple[int, ...]) -> str:
    """What the estimator calls itself."""
    width = ", extrapolated in box width" if can_halve(shape) else ""
    return f"histogram of {'×'.join(map(str, shape))} boxes, bias removed by jackknife over groups{width}"
