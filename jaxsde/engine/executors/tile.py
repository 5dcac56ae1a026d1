"""What every executor takes and gives: a tile of chains, a span of steps, and how the statistics look at a tile."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ... import random
from ...types import Statistic


class Tile(NamedTuple):
    """What a launch advances: leaves [lanes, ...] for the chains, [rows, ...] for the accumulators."""

    state: PyTree
    accumulators: dict[str, PyTree]
    alive: Any  # bool[lanes]
    survived: Any  # uint32[lanes]: steps of this launch that the chain completed


class Span(NamedTuple):
    """Which steps: those numbered [begin, end) from `clock`, the start of a sampling interval. Dynamic scalars."""

    clock: random.Clock
    begin: Any
    end: Any
    collect: Any  # whether the statistics see this launch (false during burn-in)
    intervals: Any  # sampling intervals that the span touches


def divergence_limit(dtype: Any) -> float:
    """A chain has diverged when a coordinate is NaN or beyond this: its square and a product of two are still finite."""
    return float(jnp.finfo(dtype).max) ** 0.4


def observe(
    statistics: dict[str, Statistic], accumulators: dict[str, PyTree], time: Any, x: Any, alive: Any, rows: int
) -> dict[str, PyTree]:
    """The accumulators after one look at the positions x ["lanes d"], row by row. Traced."""
    x, alive = x.reshape(rows, -1, x.shape[-1]), alive.reshape(rows, -1)
    return {
        name: jax.vmap(lambda a, xr, lr, s=s: s.update(a, time, xr, lr))(accumulators[name], x, alive)
        for name, s in statistics.items()
    }


def number(clock: random.Clock, dtype: Any) -> Any:
    """The step number as a float: the time of a time-dependent drift needs no more."""
    return clock.step[0].astype(dtype) + clock.step[1].astype(dtype) * jnp.asarray(2.0**32, dtype)
