"""What is minimised: sums over examples, potentials, and the data. Lazy, so that data is read without starting JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import DATASETS as DATASETS
    from .data import load as load
    from .finite_sums import LOSSES as LOSSES
    from .potentials import POTENTIALS as POTENTIALS
    from .problem import FiniteSum as FiniteSum
    from .problem import Potential as Potential
    from .problem import finite_sum as finite_sum
    from .problem import potential as potential
    from .tables import read_table as read_table

_HOMES = {
    "DATASETS": "data",
    "FiniteSum": "problem",
    "LOSSES": "finite_sums",
    "POTENTIALS": "potentials",
    "Potential": "problem",
    "finite_sum": "problem",
    "load": "data",
    "potential": "problem",
    "read_table": "tables",
}
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *_HOMES
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
