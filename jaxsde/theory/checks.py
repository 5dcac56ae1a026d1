"""What the functions of this folder accept, checked with one sentence each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Relative size of an asymmetry or of a negative eigenvalue that float32 input may carry.
ROUNDING = 1e-5


def vector(given: Any, dim: int | None, name: str) -> np.ndarray:
    """A finite float64 vector of length `dim` (any positive length for None)."""
    array = _array(given, name)
    if array.ndim != 1 or not array.size or (dim is not None and array.size != dim):
        raise ValueError(f"{name} has shape {array.shape}: give a vector [{'d' if dim is None else dim}]")
    return array


def square(given: Any, dim: int | None, name: str) -> np.ndarray:
    """A finite float64 matrix `dim` × `dim` (any size for None)."""
    array = _array(given, name)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size or (dim is not None and len(array) != dim):
        size = "d" if dim is None else dim
        raise ValueError(f"{name} has shape {array.shape}: give a square matrix [{size}, {size}]")
    return array


def symmetric(given: Any, dim: int | None, name: str) -> np.ndarray:
    """A finite symmetric float64 matrix, exactly symmetrised."""
    array = square(given, dim, name)
    if np.abs(array - array.T).max() > ROUNDING * np.abs(array).max():
        raise ValueError(f"{name} is not symmetric: pass ({name} + {name}.T)/2 if that is what you mean")
    return (array + array.T) / 2


def covariance(given: Any, dim: int | None, name: str) -> np.ndarray:
    """A symmetric positive semidefinite matrix of any rank."""
    array = symmetric(given, dim, name)
    lowest = float(np.linalg.eigvalsh(array)[0])
    if lowest < -ROUNDING * np.abs(array).max():
        raise ValueError(f"{name} is indefinite (lowest eigenvalue {lowest:.4g}): a covariance has none below 0")
    return array


def positive(given: Any, name: str) -> float:
    """A finite number above 0."""
    try:
        number = float(given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {type(given).__name__}") from error
    if isinstance(given, bool) or not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} must be positive and finite, got {given}")
    return number


def one_of(given: Any, choices: tuple[str, ...], name: str) -> str:
    """One of the words."""
    if given not in choices:
        raise ValueError(f"{name} is {' or '.join(repr(c) for c in choices)}, got {given!r}")
    return given


def problem(given: Any) -> None:
    """An object with the `Problem` protocol."""
    missing = [m for m in ("loss", "grad", "hessian", "noise_covariance", "start", "dim") if not hasattr(given, m)]
    if missing:
        raise TypeError(f"problem must come from finite_sum or potential, got {type(given).__name__}")


def sde(given: Any) -> None:
    """An object with the `SDE` protocol."""
    if not all(hasattr(given, name) for name in ("drift", "noise", "scale", "dim")):
        raise TypeError(f"an SDE is needed (from sgd_sde, langevin, sde, …), got {type(given).__name__}")


def _array(given: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {type(given).__name__}") from error
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} is not finite at {where}: {array[where]}")
    return array


def box(given: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The corners (lo, hi) of a box, ["d"] each; whether they fit is for the caller to say."""
    try:
        lo, hi = (np.broadcast_to(np.asarray(b, np.float64), (dim,)).copy() for b in given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"box must be (lo, hi), each a number or {dim} of them; got {given!r}") from error
    return lo, hi
