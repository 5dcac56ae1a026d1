"""What each step of each chain receives, a block of steps at a time."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..types import Drawn, Draws
from .clocks import Clock, advance, steps_per_epoch
from .permutations import distinct, round_keys, swap_or_not
from .philox import Key, Purpose, Words, add, lane_key, philox4x32
from .variables import below, box_muller, signs, three_point

_u32 = np.uint32


def block(
    words: Key,
    draws: Draws,
    chain: Words,
    clock: Clock,
    length: int,
    dtype: Any = np.float32,
    *,
    aligned: bool = False,
) -> Drawn:
    """The draws of `length` consecutive steps from `clock` on, of the chains numbered `chain` = (lo, hi) ["c"].

    Leaves [length, q, c] with q the counts of `draws`; `indices` are int32, the rest `dtype`. A pure function of
    (key, chain, step): row i is bit for bit what a block of one gives at `advance(clock, i, draws)`. `aligned` promises
    that the first step is a multiple of four, which saves the rest of a shared call.
    """

    def fill(purpose: Purpose, count: int, words_each: int, transform: Any) -> Any:
        if count == 0:
            return ()
        return _fill(words, purpose, chain, clock.step, length, count, words_each, transform, aligned)

    return Drawn(
        normals=fill(Purpose.NOISE, draws.normals, 1, _normals(dtype)),
        signs=_signs(fill(Purpose.SIGNS, -(-draws.signs // 32), 1, lambda *w: w), draws.signs, dtype),
        three_point=fill(Purpose.THREE_POINT, draws.three_point, 1, lambda *w: [three_point(x, dtype) for x in w]),
        indices=_indices(words, draws, chain, clock, length, fill),
    )


def initial_normals(words: Key, chain: Words, count: int, dtype: Any = np.float32) -> Float[Array, "count c"]:
    """`count` standard normals per chain for its initial state, independent of those of every step."""
    start = (_u32(0), _u32(0))
    return _fill(words, Purpose.INITIAL, chain, start, 1, count, 1, _normals(dtype), aligned=True)[0]


def _normals(dtype: Any) -> Any:
    return lambda a, b, c, d: [*box_muller(a, b, dtype), *box_muller(c, d, dtype)]


def _signs(packed: Any, count: int, dtype: Any) -> Any:
    if count == 0:
        return ()
    return signs(packed, dtype).reshape(packed.shape[0], -1, packed.shape[-1])[:, :count]


def _fill(
    words: Key,
    purpose: Purpose,
    chain: Words,
    step: Words,
    length: int,
    count: int,
    words_each: int,
    transform: Any,
    aligned: bool,
) -> Array:
    """[length, count, c] variables, `transform` of Philox quads; each takes `words_each` (1 or 2) words."""
    needed = count * words_each
    sharing = 4 // needed if needed <= 2 else 1  # consecutive steps that one call serves
    lanes, rows = -(-needed // 4), -(-length // sharing) if aligned else -(-(length + sharing - 1) // sharing)
    shift = _u32(sharing.bit_length() - 1)
    low, high = (jnp.asarray(w, jnp.uint32) for w in step)
    if sharing > 1:
        low, high = (low >> shift) | (high << (_u32(32) - shift)), high >> shift
    low, high = add((low, high), jnp.arange(rows, dtype=jnp.uint32)[:, None, None])
    keys = lane_key(words, purpose, jnp.arange(lanes, dtype=jnp.uint32)[:, None], sharing)
    quad = transform(*philox4x32((jnp.asarray(chain[0]), jnp.asarray(chain[1]), low, high), keys))
    # XLA:CPU computes each component in its own loop and writes it in place: four times the cipher, yet the fastest
    # of the plain forms (a select over an iota: the same; packing into complex128, which shares it: 1.35x)
    out = jnp.stack(quad, axis=2)
    size = out.shape[-1]
    if sharing == 1:
        return out.reshape(rows, -1, size)[:length, :count]
    out = out.reshape(rows * sharing, count, size)
    if aligned:
        return out[:length]
    offset = jnp.asarray(step[0], jnp.uint32) & _u32(sharing - 1)
    return lax.dynamic_slice_in_dim(out, offset.astype(jnp.int32), length)


def _indices(words: Key, draws: Draws, chain: Words, clock: Clock, length: int, fill: Any) -> Any:
    n, b = draws.population, draws.indices
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
        return distinct(fill, n, b)
    drawn = fill(Purpose.INDICES, b, 2, lambda *w: (below(w[0], w[1], n), below(w[2], w[3], n)))
    return drawn.astype(jnp.int32)


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
    pivots, hashes = round_keys(words, chain, (low, high), n)
    which = (now.epoch[0] - clock.epoch[0]).astype(jnp.int32)
    places = place(draws, now.position[:, None, None], jnp.arange(b, dtype=jnp.uint32)[:, None])
    places = jnp.broadcast_to(places, (length, b, pivots.shape[-1]))
    return swap_or_not(places, pivots, hashes, n, lambda keys: keys[which][:, None])


def _round(words: Key, draws: Draws, chain: Words, clock: Clock, length: int) -> Array:
    """Each step's slice of an order that never changes: that of the data, or the permutation of epoch 0."""
    n, b = draws.population, draws.indices
    now = advance(clock, jnp.arange(length, dtype=jnp.uint32), draws)
    places = place(draws, now.position[:, None, None], jnp.arange(b, dtype=jnp.uint32)[:, None])
    places = jnp.broadcast_to(places, (length, b, jnp.shape(chain[0])[-1]))
    if draws.scheme == "cyclic":
        return places.astype(jnp.int32)
    pivots, hashes = round_keys(words, chain, (_u32(0), _u32(0)), n)
    return swap_or_not(places, pivots, hashes, n, lambda keys: keys)
