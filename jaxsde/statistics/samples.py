"""The range of the positions, and a thinned record of them that never grows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..struct import static, struct
from .sums import Count, cleared, count_up, integers, no_count, rarely, words


class Range(NamedTuple):
    """counted ["c"], lowest and highest ["c d"] (zero while the count is)."""

    counted: Count
    low: Any
    high: Any


@struct
class Extremes:
    """The lowest and the highest value that each component took. Result ["2 d"].

    This is what was seen, not an estimate of the law's support: its jackknife interval says how much the value depends
    on single groups, no more.
    """

    def init(self, x: Float[Array, "c d"]) -> Range:
        return Range(no_count(x.shape[:1]), jnp.zeros_like(x), jnp.zeros_like(x))

    def update(self, acc: Range, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Range:
        fresh = rarely(alive & ((acc.counted.lo | acc.counted.hi) == 0))[:, None]
        low = jnp.where(fresh, x, jnp.minimum(acc.low, x))
        high = jnp.where(fresh, x, jnp.maximum(acc.high, x))
        return cleared(Range(count_up(acc.counted, 1), low, high), alive)

    def merge(self, acc: Range) -> Range:
        n = integers(acc.counted)
        some = (n > 0)[:, None]
        low = np.where(some, np.asarray(acc.low, np.float64), np.inf).min(axis=0, keepdims=True)
        high = np.where(some, np.asarray(acc.high, np.float64), -np.inf).max(axis=0, keepdims=True)
        return Range(words(n.sum(keepdims=True)), low, high)

    def result(self, acc: Range) -> Float[np.ndarray, "2 d"]:
        acc = self.merge(acc)
        both = np.stack([acc.low[0], acc.high[0]])
        return both if integers(acc.counted)[0] else np.full(both.shape, np.nan)


class Kept(NamedTuple):
    """The record of a tile: `positions` ["c capacity d"], `counted` ["c"] (0 for a chain that diverged), and, shared by all
    chains ["1"], the number `valid` of filled slots, the `stride` between them and the samples to skip until the next.

    Merged: `positions` ["1 keep capacity d"], `counted` ["1 keep"].
    """

    counted: Count
    positions: Any
    valid: Any
    stride: Any
    skip: Any


class Thinned(NamedTuple):
    """positions ["chains n d"]; sample i of a chain is number i · stride of those offered; rows are in chain order."""

    positions: np.ndarray
    stride: int


@struct
class Samples:
    """A thinned record of each chain: at most `capacity` positions, evenly spaced, whatever the number of steps.

    When it is full every second position is dropped and the stride doubles, so a record depends on nothing but the
    chain. Merging keeps the first `keep` chains that lived. Result: a `Thinned`, of which no error bar exists.
    Raises ValueError unless capacity is even and at least 2, and keep at least 1.
    """

    capacity: int = static()
    keep: int = static()

    def __init__(self, capacity: int = 64, keep: int = 1024):
        if isinstance(capacity, bool) or int(capacity) != capacity or capacity < 2 or capacity % 2:
            raise ValueError(f"Samples: capacity must be an even integer of at least 2, got {capacity!r}")
        if isinstance(keep, bool) or int(keep) != keep or keep < 1:
            raise ValueError(f"Samples: keep must be an integer of at least 1, got {keep!r}")
        object.__setattr__(self, "capacity", int(capacity))
        object.__setattr__(self, "keep", int(keep))

    def init(self, x: Float[Array, "c d"]) -> Kept:
        c, d = x.shape
        none = jnp.zeros((1,), jnp.uint32)
        return Kept(no_count((c,)), jnp.zeros((c, self.capacity, d), x.dtype), none, none + 1, none)

    def update(self, acc: Kept, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Kept:
        def store(acc: Kept) -> Kept:
            positions = acc.positions.at[:, acc.valid[0].astype(jnp.int32)].set(x)
            return acc._replace(positions=positions, valid=acc.valid + 1, skip=acc.stride)

        def halve(acc: Kept) -> Kept:
            # a full record keeps its even slots; this sample is a multiple of the doubled stride, so it is next
            doubled = jnp.maximum(acc.stride, acc.stride * 2)  # 2^31 stays
            thinned = jnp.concatenate([acc.positions[:, ::2], jnp.zeros_like(acc.positions[:, ::2])], axis=1)
            return acc._replace(positions=thinned, valid=acc.valid // 2, stride=doubled)

        # loops that run once or not at all: a `cond` would copy the record at every sample
        acc = jax.lax.while_loop(lambda a: (a.skip[0] == 0) & (a.valid[0] == self.capacity), halve, acc)
        acc = jax.lax.while_loop(lambda a: a.skip[0] == 0, store, acc)
        return acc._replace(counted=cleared(count_up(acc.counted, 1), alive), skip=acc.skip - 1)

    def merge(self, acc: Kept) -> Kept:
        n = integers(acc.counted).reshape(-1)
        positions = np.asarray(acc.positions)
        positions = positions.reshape(-1, *positions.shape[-2:])
        if len(set(np.asarray(acc.stride).tolist())) > 1 or len(set(np.asarray(acc.valid).tolist())) > 1:
            raise ValueError("Samples: records of different numbers of samples cannot be merged")
        rows = np.flatnonzero(n > 0)[: self.keep]
        kept = np.zeros((1, self.keep, *positions.shape[1:]), positions.dtype)
        counts = np.zeros((1, self.keep), np.int64)
        kept[0, : len(rows)] = positions[rows]
        counts[0, : len(rows)] = n[rows]
        valid, stride, skip = (np.asarray(a)[:1] for a in (acc.valid, acc.stride, acc.skip))
        return Kept(words(counts), kept, valid, stride, skip)

    def result(self, acc: Kept) -> Thinned:
        acc = self.merge(acc)
        rows = integers(acc.counted)[0] > 0
        positions = np.asarray(acc.positions[0, rows, : int(acc.valid[0])], np.float64)
        return Thinned(positions, int(acc.stride[0]))


SAMPLES = {"extremes": Extremes, "samples": Samples}
