"""Means, central moments and covariances: sums of powers about each chain's own first sample.

With the shift s (the chain's first sample) and y = x − s the sums Σy, Σy², … lose nothing to cancellation when the
mean is large against the spread. On the host they are turned into central moments in float64 and merged with

    M_k(A ∪ B) = Σ_j C(k, j) [M_j(A) δ_A^{k−j} + M_j(B) δ_B^{k−j}],   δ_A = mean(A) − mean(A ∪ B),  M_0 = n,  M_1 = 0.

Source: T. F. Chan, G. H. Golub, R. J. LeVeque (1979); P. Pébay, SAND2008-6212.
"""

from __future__ import annotations

from math import comb
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..struct import static, struct
from .sums import (
    Count,
    Sum,
    carried,
    cleared,
    collected,
    count_up,
    fold,
    integers,
    no_count,
    no_sum,
    rarely,
    value,
    whole,
    words,
)


class Powers(NamedTuple):
    """counted ["c"], shift ["c d"] and, for k = 1 … order, Σ (x − shift)^k ["c d"]: what has been carried, and the rest."""

    counted: Count
    shift: Any
    sums: tuple[Sum, ...]
    parts: tuple[Any, ...] = ()


class Products(NamedTuple):
    """counted ["c"], shift ["c d"], Σ y ["c d"] and Σ y yᵀ with y = x − shift: what has been carried, and the rest.

    While a run lasts, of the symmetric Σ y yᵀ only the upper triangle is kept, row by row ["c d(d+1)/2"]; merged, it is
    ["c d d"], and there are no parts.
    """

    counted: Count
    shift: Any
    first: Sum
    second: Sum
    parts: tuple[Any, ...] = ()


def shifted(count: Count, shift: Array, x: Array, alive: Array) -> tuple[Array, Array]:
    """(shift, x − shift), where a living chain that has counted nothing yet takes x as its shift; of others, (shift, 0)."""
    fresh = rarely(alive & ((count.lo | count.hi) == 0))[:, None]
    shift = jnp.where(fresh, x, shift)
    return shift, jnp.where(alive[:, None], x - shift, jnp.zeros((), x.dtype))


def share(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """part / total, and 0 where there is nothing."""
    return np.divide(part, total, out=np.zeros(np.broadcast_shapes(part.shape, total.shape)), where=total > 0)


def _powers_init(x: Array, order: int) -> Powers:
    sums = tuple(no_sum(x.shape, x.dtype) for _ in range(order))
    return Powers(no_count(x.shape[:1]), jnp.zeros_like(x), sums, tuple(jnp.zeros_like(x) for _ in range(order)))


def _powers_update(acc: Powers, x: Array, alive: Array) -> Powers:
    shift, y = shifted(acc.counted, acc.shift, x, alive)
    parts, power = [], y
    for i, part in enumerate(acc.parts):
        if i:
            power = power * y
        parts.append(part + power)
    count = count_up(acc.counted, 1)
    sums, parts = carried(count, acc.sums, tuple(parts))
    return Powers(cleared(count, alive), shift, sums, parts)  # where nothing is counted, the rest does not matter


def _powers_merge(acc: Powers) -> Powers:
    """Central form: shift is the mean, the first sum is zero, the others are the central moments times the count."""

    def about(rows: tuple, delta: np.ndarray) -> list[np.ndarray]:
        # sums of powers about (reference + delta) from those about the reference; rows = (n, S_1, S_2, …)
        return [
            np.sum([comb(k, j) * rows[j] * (-delta) ** (k - j) for j in range(k + 1)], axis=0)
            for k in range(2, len(rows))
        ]

    def combine(a: tuple, b: tuple) -> tuple:
        n = a[0] + b[0]
        weight = share(b[0], n)
        gap = np.where(a[0] > 0, b[1] - a[1], 0.0) * (b[0] > 0)
        mean = np.where(a[0] > 0, a[1] + weight * gap, b[1])
        zero = np.zeros_like(mean)
        left = about((a[0], zero, *a[2:]), weight * gap)
        right = about((b[0], zero, *b[2:]), -(1 - weight) * gap)
        return (n, mean, *(p + q for p, q in zip(left, right, strict=True)))

    n = integers(acc.counted).astype(np.float64)[:, None]
    parts = acc.parts or (None,) * len(acc.sums)
    sums = [collected(acc.counted, s, p) for s, p in zip(acc.sums, parts, strict=True)]
    delta = share(sums[0], n)
    rows = (n, np.where(n > 0, acc.shift, 0.0) + delta, *about((n, *sums), delta))
    _, mean, *central = fold(rows, combine)
    total = integers(acc.counted).sum(keepdims=True)
    return Powers(words(total), mean, (whole(np.zeros_like(mean)), *(whole(m) for m in central)))


@struct
class Mean:
    """The mean of the positions over samples and chains. Result ["d"]."""

    def init(self, x: Float[Array, "c d"]) -> Powers:
        return _powers_init(x, 1)

    def update(self, acc: Powers, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Powers:
        return _powers_update(acc, x, alive)

    def merge(self, acc: Powers) -> Powers:
        return _powers_merge(acc)

    def result(self, acc: Powers) -> Float[np.ndarray, " d"]:
        acc = _powers_merge(acc)
        return acc.shift[0] if integers(acc.counted)[0] else np.full(acc.shift.shape[1], np.nan)


@struct
class Moments:
    """The mean and the central moments E[(x − mean)^k], k = 2 … order, of each component. Result ["order d"].

    They are averages over all samples (divided by n, not n − 1). Raises ValueError unless 1 ≤ order ≤ 8.
    """

    order: int = static()

    def __init__(self, order: int = 4):
        if isinstance(order, bool) or not isinstance(order, int):
            raise TypeError(f"Moments: order must be an integer, got {order!r}")
        if not 1 <= order <= 8:
            raise ValueError(f"Moments: order must be from 1 to 8, got {order}: higher powers overflow float32")
        object.__setattr__(self, "order", order)

    def init(self, x: Float[Array, "c d"]) -> Powers:
        return _powers_init(x, self.order)

    def update(self, acc: Powers, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Powers:
        return _powers_update(acc, x, alive)

    def merge(self, acc: Powers) -> Powers:
        return _powers_merge(acc)

    def result(self, acc: Powers) -> Float[np.ndarray, "order d"]:
        acc = _powers_merge(acc)
        n = integers(acc.counted)[0]
        if not n:
            return np.full((self.order, acc.shift.shape[1]), np.nan)
        return np.stack([acc.shift[0], *(value(s)[0] / n for s in acc.sums[1:])])


@struct
class Covariance:
    """The covariance E[(x − mean)(x − mean)ᵀ] over samples and chains (divided by n). Result ["d d"].

    Its accumulator also holds the mean: `Covariance().mean(acc)`.
    """

    def init(self, x: Float[Array, "c d"]) -> Products:
        c, d = x.shape
        sums = no_sum((c, d), x.dtype), no_sum((c, d * (d + 1) // 2), x.dtype)
        return Products(no_count((c,)), jnp.zeros_like(x), *sums, tuple(s.hi for s in sums))

    def update(self, acc: Products, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Products:
        shift, y = shifted(acc.counted, acc.shift, x, alive)
        count = count_up(acc.counted, 1)
        i, j = np.triu_indices(x.shape[1])
        parts = acc.parts[0] + y, acc.parts[1] + y[:, i] * y[:, j]
        (first, second), parts = carried(count, (acc.first, acc.second), parts)
        return Products(cleared(count, alive), shift, first, second, parts)

    def merge(self, acc: Products) -> Products:
        n = integers(acc.counted).astype(np.float64)[:, None]
        parts = acc.parts or (None, None)
        first, second = (collected(acc.counted, s, p) for s, p in zip((acc.first, acc.second), parts, strict=True))
        delta = share(first, n)
        second = _square(second, delta.shape[1]) - n[..., None] * _outer(delta)
        _, mean, second = fold((n, np.where(n > 0, acc.shift, 0.0) + delta, second), combine_products)
        total = integers(acc.counted).sum(keepdims=True)
        return Products(words(total), mean, whole(np.zeros_like(mean)), whole(second))

    def result(self, acc: Products) -> Float[np.ndarray, "d d"]:
        acc = self.merge(acc)
        n = integers(acc.counted)[0]
        second = value(acc.second)[0]
        return second / n if n else np.full(second.shape, np.nan)

    def mean(self, acc: Products) -> Float[np.ndarray, " d"]:
        """The mean of the same samples."""
        acc = self.merge(acc)
        return acc.shift[0] if integers(acc.counted)[0] else np.full(acc.shift.shape[1], np.nan)


def _square(upper: np.ndarray, d: int) -> np.ndarray:
    """A symmetric matrix ["c d d"] from its upper triangle; a square one as it is."""
    if upper.ndim == 3:
        return upper
    full = np.empty((len(upper), d, d))
    i, j = np.triu_indices(d)
    full[:, i, j] = full[:, j, i] = upper
    return full


def _outer(a: np.ndarray) -> np.ndarray:
    return a[..., :, None] * a[..., None, :]


def combine_products(a: tuple, b: tuple) -> tuple:
    """Chan's merge of (n ["r 1"], mean ["r d"], central products ["r d d"])."""
    n = a[0] + b[0]
    weight = share(b[0], n)
    gap = np.where(a[0] > 0, b[1] - a[1], 0.0) * (b[0] > 0)
    mean = np.where(a[0] > 0, a[1] + weight * gap, b[1])
    return n, mean, a[2] + b[2] + (a[0] * weight)[..., None] * _outer(gap)


MOMENTS = {"mean": Mean, "moments": Moments, "covariance": Covariance}
