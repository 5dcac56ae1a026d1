"""A relation as two functions of the position whose averages agree at stationarity, and what a run says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from ..estimate import Estimate
from ..statistics import Mean, Of
from ..struct import static, struct

Reading = Literal["holds", "fails", "not stationary", "unknown"]


@struct
class Balance:
    """⟨left(y)⟩ = ⟨right(y)⟩, for `sides(arrays, y)` → (left ["k"], right ["k"]) of a position or whole state y.

    `arrays` is what the two sides need, as leaves; `labels` name the k components; `formula` is the relation in words of
    mathematics; `caveat` is "" where it is a theorem for the chain, else what stands between.
    """

    arrays: Any
    sides: Callable[[Any, Any], tuple[Any, Any]] = static()
    name: str = static()
    formula: str = static()
    labels: tuple[str, ...] = static()
    examples: int = static(default=0)
    caveat: str = static(default="")


@dataclass(frozen=True)
class Row:
    """What a run says of one relation. `left` and `right` are its two sides ["k"], `difference` their difference with its error
    over groups of chains, `z` the largest |difference/stderr| of the k components and `component` its name, `critical` what
    chance alone exceeds with the odds of the report."""

    relation: str
    formula: str
    left: np.ndarray
    right: np.ndarray
    difference: Estimate
    z: float | None
    component: str
    critical: float | None
    reading: Reading
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; a number that is not finite is null."""

        def plain(x: Any) -> Any:
            return [float(v) if np.isfinite(v) else None for v in np.ravel(x)]

        z = None if self.z is None or not np.isfinite(self.z) else self.z
        return {
            "relation": self.relation, "formula": self.formula, "left": plain(self.left), "right": plain(self.right),
            "difference": self.difference.to_json(), "z": z, "component": self.component, "critical": self.critical,
            "reading": self.reading, "sentence": self.sentence,
        }  # fmt: skip


def _both(balance: Balance, y: Array) -> Array:
    return jnp.concatenate([jnp.ravel(side) for side in balance.sides(balance.arrays, y)])


def averaged(balance: Balance) -> Of:
    """The statistic of a relation: the means of both its sides."""
    return Of(Partial(_both, balance), Mean(), balance.examples)


def balance_of(statistic: Any) -> Balance | None:
    """The relation that a statistic averages; None for another statistic."""
    given = getattr(getattr(statistic, "function", None), "args", ())
    return given[0] if given and isinstance(given[0], Balance) else None


def halves(both: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(left, right) of what `averaged` found."""
    left, right = np.split(np.asarray(both, np.float64), 2)
    return left, right


def pairs(d: int) -> tuple[str, ...]:
    """The names of the entries of the upper triangle of a symmetric matrix."""
    return tuple(f"{i},{j}" for i in range(d) for j in range(i, d))


def upper(matrix: Array) -> Array:
    """The upper triangle of a matrix, row by row."""
    return matrix[jnp.triu_indices(matrix.shape[0])]


def either(a: Array, b: Array) -> Array:
    """a bᵀ + b aᵀ."""
    product = a[:, None] * b
    return product + product.T
