"""What the figures of this folder share: measured dots with their intervals, words beside lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..report.style import COLOURS, MUTED, Axes

MEASURED, THEORY, BESIDE = (COLOURS[name][0] for name in ("sgd", "sde", "langevin"))
BAND = COLOURS["few"][0]
DASHES = (0, (4, 2))


def dots(
    axes: Axes, x: Any, estimate: Any, part: Any = slice(None), *, colour: str = MEASURED, size: float = 3.5, **more: Any
) -> None:
    """Some components of an estimate over x, with their 95 % intervals."""
    value, low, high = (np.asarray(getattr(estimate, name))[part] for name in ("value", "low", "high"))
    axes.errorbar(x, value, (high - low) / 2, fmt=more.pop("mark", "o"), ms=size, color=colour, capsize=2, lw=0.9, **more)


def word(
    axes: Axes, words: str, at: tuple[float, float], shift: tuple[float, float] = (4, 0), colour: str = MUTED, **more: Any
) -> None:
    """Words beside a point of the data, moved by `shift` points."""
    axes.annotate(words, at, shift, textcoords="offset points", color=colour, fontsize=7.5, **more)


def ticks(axes: Axes, which: str, values: Any) -> None:
    """Plain numbers on a logarithmic axis."""
    getattr(axes, f"set_{which}ticks")(values, [f"{v:g}" for v in values])
    getattr(axes, f"{which}axis").minorticks_off()
