"""A number from grids of several sizes, extrapolated to cells of size zero, with an error bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Refined:
    """`value` (a number or an array) in the limit of small cells, and how far off it may be (`error`, of the same shape)."""

    value: Any
    error: Any

    def __float__(self) -> float:
        return float(self.value)


def extrapolate(values: Sequence[Any], sizes: Sequence[float]) -> Refined:
    """Richardson's extrapolation of a quantity of second order, from grids of cells of `sizes`, the finest first.

    Of two grids E = v₀ + (v₀ − v₁)/((h₁/h₀)² − 1). The error bar is |E₀₁ − E₁₂|, which is some three times the error of E₀₁ where
    the expansion in h² holds, and stays large where it does not; at least a twentieth of the correction, and with two grids all
    of it.
    """
    v = [np.asarray(value) for value in values]
    pairs = zip(v, v[1:], sizes, sizes[1:], strict=False)
    limits = [a + (a - b) / ((coarse / fine) ** 2 - 1) for a, b, fine, coarse in pairs]
    correction = np.abs(limits[0] - v[0])
    error = np.maximum(np.abs(limits[0] - limits[1]), correction / 20) if len(limits) > 1 else correction
    error = error + 1e-14 * np.abs(v[0])
    return Refined(*(x.item() if x.ndim == 0 else x for x in (limits[0], error)))
