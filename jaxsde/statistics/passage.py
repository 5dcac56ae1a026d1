"""First passage: when each chain is first seen in a region, with those that never were counted as such."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from ..struct import static, struct
from .sums import Count, cleared, count_up, integers, no_count, words


class Watch(NamedTuple):
    """Of each chain ["c"]: looks in all, looks until it was first inside (so far, where it never was), whether it was, and the
    times of the first and the last look."""

    counted: Count
    waited: Count
    passed: Any
    first: Any
    last: Any


class Passages(NamedTuple):
    """Of all chains that live ["1"]: looks at all of them, looks while outside, passages, chains, looks at one chain, the time
    between two; and `curve` ["1 bins"], the passages in equal stretches of the looks."""

    counted: Count
    waited: Count
    passed: np.ndarray
    chains: np.ndarray
    looks: np.ndarray
    interval: np.ndarray
    curve: np.ndarray


@struct
class FirstPassage:
    """The mean time to the first look at which a chain is in a region, by right-censored maximum likelihood: a number.

        mean = (time that all chains spent before, or without, being seen inside) / (number of chains seen inside)

    the estimate for an exponential law, and the plain mean where every chain arrived. `region` is a function of the position ["d"]
    that gives a bool, or a number that is positive inside. Time runs from where the statistics begin, and the start itself is
    not looked at. A look every k-th step (`every=k`) misses what happens between: of a diffusion, passages are then late by
    O(√k dt) (`theory.mean_first_passage(…, watched=…)` is the answer to compare with); of a chain with `every=1` they are exact.

    `metrics.passage_times(run, name)` gives the interval, the survival curve with its band, and the censored. It is read at `bins`
    equal stretches of the looks. A chain that diverged before it arrived counts nowhere; one that did later has arrived.

    Raises `TypeError` for a region that is no function, or gives no bool or number.
    """

    region: Any
    bins: int = static()

    def __init__(self, region: Callable[[Array], Any], bins: int = 256):
        if not callable(region):
            raise TypeError(f"FirstPassage: region must be a function of the position, got {type(region).__name__}")
        if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
            raise ValueError(f"FirstPassage: bins must be a whole number of at least 1, got {bins!r}")
        owner = getattr(region, "__self__", None) if inspect.ismethod(region) else None
        if owner is not None and not jax.tree_util.all_leaves([owner]):
            region = Partial(getattr(type(owner), region.__name__), owner)  # its arrays are arguments, not constants
        object.__setattr__(self, "region", region if isinstance(region, Partial) else Partial(region))
        object.__setattr__(self, "bins", int(bins))

    def init(self, x: Float[Array, "c d"]) -> Watch:
        inside = jax.eval_shape(self.region, x[0])
        if getattr(inside, "shape", None) != () or not (
            inside.dtype == bool or jnp.issubdtype(inside.dtype, jnp.floating)
        ):
            got = f"{inside.dtype}{list(inside.shape)}" if hasattr(inside, "shape") else type(inside).__name__
            raise TypeError(
                f"FirstPassage: region must give one bool, or one number that is positive inside; got {got}"
            )
        c = x.shape[:1]
        return Watch(no_count(c), no_count(c), jnp.zeros(c, jnp.uint32), jnp.zeros(c, x.dtype), jnp.zeros(c, x.dtype))

    def update(self, acc: Watch, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Watch:
        value = jax.vmap(self.region)(x)
        inside = value if value.dtype == bool else value > 0
        waiting = acc.passed == 0
        now = jnp.broadcast_to(jnp.asarray(t, x.dtype), alive.shape)
        fresh = (acc.counted.lo | acc.counted.hi) == 0
        new = Watch(
            count_up(acc.counted, 1),
            count_up(acc.waited, waiting.astype(jnp.uint32)),
            acc.passed | inside.astype(jnp.uint32),
            jnp.where(fresh, now, acc.first),
            now,
        )
        # that a chain arrived stays true whatever becomes of it there: beyond a barrier it may well diverge
        return cleared(new, alive | ~waiting)

    def merge(self, acc: Watch | Passages) -> Passages:
        parts = acc if isinstance(acc, Passages) else self._one_by_one(acc)
        looks, interval = np.asarray(parts.looks), np.asarray(parts.interval)
        seen = looks > 0
        if len(set(looks[seen].tolist())) > 1:
            raise ValueError("FirstPassage: chains that were watched for different times cannot be merged")
        some = int(np.argmax(seen))
        return Passages(
            words(integers(parts.counted).sum(keepdims=True)),
            words(integers(parts.waited).sum(keepdims=True)),
            np.asarray(parts.passed).sum(keepdims=True),
            np.asarray(parts.chains).sum(keepdims=True),
            looks[some : some + 1],
            interval[some : some + 1],
            np.asarray(parts.curve).sum(axis=0, keepdims=True),
        )

    def _one_by_one(self, acc: Watch) -> Passages:
        """The chains of a tile, whose clocks are one, as one row."""
        looks, waited = integers(acc.counted), integers(acc.waited)
        live = looks > 0
        passed = live & (np.asarray(acc.passed) > 0)
        total = int(looks.max(initial=0))
        first, last = (np.asarray(a, np.float64)[live].max(initial=-np.inf) for a in (acc.first, acc.last))
        # of the clock itself, so that no step or learning rate need be known; a clock that stands still counts looks
        interval = (last - first) / (total - 1) if total > 1 else float(first)
        bins = -(-waited[passed] * self.bins // max(total, 1)) - 1
        row = (looks[live].sum(), waited[live].sum(), passed.sum(), live.sum(), total)
        counted, at_risk, arrived, chains, total = (np.array([n], np.int64) for n in row)
        curve = np.bincount(bins, minlength=self.bins)[None]
        clock = np.array([interval if np.isfinite(interval) and interval > 0 else 1.0])
        return Passages(words(counted), words(at_risk), arrived, chains, total, clock, curve)

    def result(self, acc: Watch | Passages) -> np.ndarray:
        """NaN where nothing was looked at, infinite where no chain arrived."""
        total = self.merge(acc)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.float64(integers(total.waited)[0] * total.interval[0]) / np.float64(total.passed[0])  # pyright: ignore


PASSAGE = {"first_passage": FirstPassage}
