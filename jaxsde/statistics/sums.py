"""What every statistic adds with: exact 64-bit counts and compensated sums of float32, and the merge of many into one.

Traced code (`count_up`, `add`, `cleared`) works in the dtype of the positions on the device; the rest is NumPy float64
on the host, where accumulators are merged in one fixed order so that their bytes never depend on where they were made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


class Count(NamedTuple):
    """An integer below 2^64 in two uint32 words: float32 stops counting at 2^24 and int32 wraps at 2^31."""

    lo: Any
    hi: Any


class Sum(NamedTuple):
    """A sum in two floats of the same dtype, hi + lo, with |lo| at most half a unit in the last place of hi."""

    hi: Any
    lo: Any


def no_count(shape: tuple[int, ...]) -> Count:
    """Zero, of the given shape."""
    return Count(jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.uint32))


def no_sum(shape: tuple[int, ...], dtype: Any) -> Sum:
    """Zero, of the given shape."""
    return Sum(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def count_up(count: Count, by: Any) -> Count:
    """count + by, with the carry; by < 2^32."""
    by = jnp.asarray(by, jnp.uint32)
    lo = count.lo + by
    return Count(lo, count.hi + (lo < by).astype(jnp.uint32))


def add(total: Sum, y: Any) -> Sum:
    """total + y to about 2^-48 of the total: Knuth's two-sum (6 flops), then a renormalisation (3 flops).

    Without the renormalisation `lo` would be a plain float32 sum of everything that no longer reaches `hi`.
    Source: T. J. Dekker (1971); D. E. Knuth, TAOCP 2, §4.2.2.
    """
    s = total.hi + y
    v = s - total.hi
    lo = total.lo + ((total.hi - (s - v)) + (y - v))
    hi = s + lo
    return Sum(hi, lo - (hi - s))


CARRY = 64  # samples that are added plainly before they go into a compensated sum


@jax.jit
def rarely(flag: Any) -> Any:
    """The flag itself. An executor may take it that it is almost always false, and branch where another selects."""
    return flag


def carried(count: Count, totals: tuple[Sum, ...], parts: tuple[Any, ...]) -> tuple[tuple[Sum, ...], tuple[Any, ...]]:
    """The parts go into the totals whenever a chain has counted another `CARRY` samples.

    A part is a plain sum of at most `CARRY` terms: it loses no more than its terms had lost, the compensated addition is paid
    once for all of them, and when it comes depends on the samples alone.
    """
    due = rarely((count.lo & jnp.uint32(CARRY - 1)) == 0)

    def spread(leaf: Any) -> Any:
        return due.reshape(due.shape + (1,) * (leaf.ndim - 1))

    def chosen(total: Sum, part: Any) -> Sum:
        return Sum(*(jnp.where(spread(part), new, old) for new, old in zip(add(total, part), total, strict=True)))

    totals = tuple(chosen(t, p) for t, p in zip(totals, parts, strict=True))
    return totals, tuple(jnp.where(spread(p), jnp.zeros((), p.dtype), p) for p in parts)


def cleared(acc: T, alive: Any) -> T:
    """`acc` where the chain is alive, zero where it is not: what a chain did before it diverged is not averaged in."""

    def clear(leaf: Any) -> Any:
        return jnp.where(alive.reshape(alive.shape + (1,) * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(clear, acc)


def integers(count: Count) -> np.ndarray:
    """The counts as int64, exact below 2^63."""
    return (np.asarray(count.hi, np.int64) << 32) + np.asarray(count.lo, np.int64)


def words(n: np.ndarray) -> Count:
    """The inverse of `integers`."""
    n = np.asarray(n, np.int64)
    return Count((n & 0xFFFFFFFF).astype(np.uint32), (n >> 32).astype(np.uint32))


def value(total: Sum) -> np.ndarray:
    """hi + lo in float64."""
    return np.asarray(total.hi, np.float64) + np.asarray(total.lo, np.float64)


def collected(count: Count, total: Sum, part: Any = None) -> np.ndarray:
    """The sum so far in float64: total and part, and zero for a chain that counts nothing (it has diverged)."""
    both = value(total) + (0.0 if part is None else np.asarray(part, np.float64))
    counts = integers(count) > 0
    return np.where(counts.reshape(counts.shape + (1,) * (both.ndim - 1)), both, 0.0)


def whole(x: np.ndarray) -> Sum:
    """A float64 array as a Sum."""
    x = np.asarray(x, np.float64)
    return Sum(x, np.zeros_like(x))


def fold(rows: T, combine: Callable[[T, T], T]) -> T:
    """Folds the first axis of every leaf to length 1: neighbours first, then neighbours of neighbours.

    The tree has a fixed shape for a given number of rows, so the bytes of the answer are reproducible, and rounding
    grows with the logarithm of that number. `combine` works on whole levels at once.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count == 0:
        raise ValueError("nothing to merge: the accumulator has no rows")
    while count > 1:
        even = count - count % 2
        left, right = (jax.tree.map(lambda a, i=i, even=even: a[i:even:2], rows) for i in (0, 1))
        paired = combine(left, right)
        if even < count:
            paired = jax.tree.map(lambda a, b: np.concatenate([a, b[-1:]]), paired, rows)
        rows, count = paired, (count + 1) // 2
    return rows
