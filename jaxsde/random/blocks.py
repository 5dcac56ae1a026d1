"""What each step of each chain receives, a block of steps at a time."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Drawn, Draws
from .calls import Steps, called, paired, signs, three_points
from .clocks import Clock, advance, steps_per_epoch
from .permutations import distinct, round_keys, swap_or_not
from .philox import Key, Purpose, Words, add
from .streams import STREAMS
from .variables import below, box_muller

_u32 = np.uint32


def block(
    words: Key,
    draws: Draws,
    chain: Words,
    clock: Clock,
    length: int,
    dtype: Any = np.float32,
    *,
    aligned: int = 1,
    state: Any = None,
) -> Drawn:
    """The draws of `length` consecutive steps from `clock` on, of the chains numbered `chain` = (lo, hi) ["c"].

    Leaves [length, q, c] with q the counts of `draws`; `indices` are int32, the rest `dtype`. A pure function of
    (key, chain, step): row i is bit for bit what a block of one gives at `advance(clock, i, draws)`. `aligned` promises
    that the first step is a multiple of it, a power of two, which saves the rest of a shared call; `state` is that of the
    generator before the first step, where it is `carried`.
    """
    steps = Steps(words, chain, clock.step, length, aligned, STREAMS[draws.stream], state)
    return Drawn(
        normals=paired(steps, Purpose.NOISE, draws.normals, 1, _normals(dtype)) if draws.normals else (),
        signs=signs(steps, draws.signs, dtype) if draws.signs else (),
        three_point=three_points(steps, draws.three_point, dtype) if draws.three_point else (),
        indices=_indices(steps, draws, clock),
    )


def initial_normals(words: Key, chain: Words, count: int, dtype: Any = np.float32) -> Float[Array, "count c"]:
    """`count` standard normals per chain for its initial state, independent of those of every step."""
    steps = Steps(words, chain, (_u32(0), _u32(0)), 1, 4, STREAMS["philox4x32-10"])
    return paired(steps, Purpose.INITIAL, count, 1, _normals(dtype))[0]


def _normals(dtype: Any) -> Any:
    return lambda a, b: box_muller(a, b, dtype)


def _indices(steps: Steps, draws: Draws, clock: Clock) -> Any:
    n, b = draws.population, draws.indices
    words, chain, length = steps.words, steps.chain, steps.length
    if b == 0:
        return ()
    if draws.scheme not in ("independent", "distinct", "epoch", "once", "cyclic"):
        raise ValueError(f"scheme = {draws.scheme!r}: give 'independent', 'distinct', 'epoch', 'once' or 'cyclic'")
    if not 1 <= n < 2**31:
        raise ValueError(f"population = {n}: indices are drawn from 1 to 2^31 - 1 examples")
    if draws.scheme != "independent" and b > n:
        raise ValueError(
            f"indices = {b} without repeats out of population = {n}: take at most {n}, or draw independently"
        )
    if draws.scheme == "epoch":
        return _epoch(words, draws, chain, clock, length)
    if draws.scheme in ("once", "cyclic"):
        return _round(words, draws, chain, clock, length)
    if draws.scheme == "distinct" and b > 1:
        return distinct(lambda *what: called(steps, *what), n, b)
    return paired(steps, Purpose.INDICES, b, 2, lambda high, low: [below(high, low, n)]).astype(jnp.int32)


def place(draws: Draws, position: Any, j: Any) -> Any:
    """Where in the order of an epoch the `j`-th example of its `position`-th step stands."""
    at = position * _u32(draws.indices) + j
    return at if draws.scheme == "epoch" else at % _u32(draws.population)  # the others read on from the beginning


def _epoch(words: Key, draws: Draws, chain: Words, clock: Clock, length: int) -> Array:
    """Each step's slice of its epoch's permutation; round keys are made once for each epoch that the block can touch."""
    n, b, per_epoch = draws.population, draws.indices, steps_per_epoch(draws)
    epochs = (per_epoch + length - 2) // per_epoch + 1
    now = advance(clock, jnp.arange(length, dtype=jnp.uint32), draws)
    low, high = add(clock.epoch, jnp.arange(epochs, dtype=jnp.uint32)[:, None])
    keys = round_keys(words, chain, (low, high), n)
    which = (now.epoch[0] - clock.epoch[0]).astype(jnp.int32)
    places = place(draws, now.position[:, None, None], jnp.arange(b, dtype=jnp.uint32)[:, None])
    places = jnp.broadcast_to(places, (length, b, keys[0].shape[-1]))
    return swap_or_not(places, keys, n, lambda key: key[which][:, None])


def _round(words: Key, draws: Draws, chain: Words, clock: Clock, length: int) -> Array:
    """Each step's slice of an order that never changes: that of the data, or the permutation of epoch 0."""
    n, b = draws.population, draws.indices
    now = advance(clock, jnp.arange(length, dtype=jnp.uint32), draws)
    places = place(draws, now.position[:, None, None], jnp.arange(b, dtype=jnp.uint32)[:, None])
    places = jnp.broadcast_to(places, (length, b, jnp.shape(chain[0])[-1]))
    if draws.scheme == "cyclic":
        return places.astype(jnp.int32)
    return swap_or_not(places, round_keys(words, chain, (_u32(0), _u32(0)), n), n, lambda key: key)
