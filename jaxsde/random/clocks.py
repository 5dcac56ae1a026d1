"""Steps and epochs as 64-bit integers in two words, exact without 64-bit arrays."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..types import Draws
from .philox import Words, add


class Clock(NamedTuple):
    """A step as words: its number (64 bit), its epoch (64 bit) and the position of the step within the epoch."""

    step: Words
    epoch: Words
    position: Any


def clock(step: int, draws: Draws) -> Clock:
    """The `Clock` of a step given as a Python integer in [0, 2^64). On the host: exact without 64-bit arrays."""
    if not 0 <= step < 2**64:
        raise ValueError(f"step = {step} is outside [0, 2^64)")
    epoch, position = divmod(step, steps_per_epoch(draws))
    return Clock(_halves(step), _halves(epoch), np.uint32(position))


def advance(clock: Clock, i: Any, draws: Draws) -> Clock:
    """The clock `i` steps later, traced; i below 2^31."""
    i = jnp.asarray(i).astype(jnp.uint32)
    if draws.scheme in ("independent", "distinct"):  # then every step is its own epoch
        return Clock(add(clock.step, i), add(clock.epoch, i), clock.position)
    per_epoch = np.uint32(steps_per_epoch(draws))
    total = clock.position + i
    return Clock(add(clock.step, i), add(clock.epoch, total // per_epoch), total % per_epoch)


def steps_per_epoch(draws: Draws) -> int:
    """Steps after which the examples begin afresh, or the same batches come again; 1 where every step is drawn by itself."""
    if draws.scheme in ("independent", "distinct"):
        return 1
    if draws.scheme == "epoch":
        return max(draws.population // draws.indices, 1)
    return draws.population // math.gcd(draws.population, draws.indices)


def _halves(value: int) -> Words:
    return np.uint32(value & 0xFFFFFFFF), np.uint32(value >> 32)
