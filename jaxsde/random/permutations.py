"""Permutations that are never stored, and samples without repeats."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from .philox import Key, Purpose, Words, lane_key, multiply, philox4x32
from .variables import below

_u32 = np.uint32

# of swap-or-not, a multiple of four: within 1e-6 of a uniform permutation for n = 2 .. 8 (tests/test_random_indices.py computes it)
ROUNDS = 32


def permutation_at(words: Key, chain: Words, epoch: Words, positions: Any, n: int) -> Int[Array, "..."]:
    """The images of `positions` (each in 0 .. n - 1) under the random permutation of n of (key, chain, epoch).

    `chain`, `epoch` and `positions` broadcast against each other. Nothing is stored: it is a swap-or-not shuffle
    (Hoang, Morris, Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012), a permutation of exactly n
    points for any n from 1 to 2^31 - 1. Each round pairs x with K - x mod n and swaps the two if a hashed bit says so.
    """
    keys = round_keys(words, chain, epoch, n)
    shape = jnp.broadcast_shapes(jnp.shape(positions), keys[0].shape[1:])
    return swap_or_not(jnp.broadcast_to(jnp.asarray(positions, jnp.uint32), shape), keys, n, lambda key: key)


def round_keys(words: Key, chain: Words, epoch: Words, n: int) -> tuple[Array, Array, Array]:
    """Per round the pivot K below n, and the slope and the offset of its hash: [ROUNDS, ...] each."""

    def some(_: None, lane: Array) -> tuple[None, Array]:
        return None, four_words(words, chain, epoch, lane)

    _, drawn = lax.scan(some, None, jnp.arange(3 * ROUNDS // 4, dtype=jnp.uint32))
    drawn = drawn.reshape(3, ROUNDS, *drawn.shape[2:])
    return pivot_of(drawn[0], n), drawn[1], drawn[2]


def four_words(words: Key, chain: Words, epoch: Words, lane: Any) -> Array:
    """Words 4·lane … 4·lane + 3 of the keys, [4, ...]: first those of all pivots, then all slopes, then all offsets."""
    return jnp.stack(philox4x32((*chain, *epoch), lane_key(words, Purpose.PERMUTATION, lane)))


def pivot_of(word: Array, n: int) -> Array:
    """The pivot from its word. Its bias, n/2^32, leaves uniform permutations uniform and only touches the speed of mixing."""
    return multiply(_u32(n), word)[0]


def swap_or_not(x: Array, keys: tuple[Array, Array, Array], n: int, expand: Any) -> Array:
    """`expand` brings the keys of one round to the shape of x, round by round, so that they never exist all at once."""

    def swap(x: Array, keys: tuple[Array, Array, Array]) -> tuple[Array, None]:
        pivot, slope, offset = (expand(key) for key in keys)
        return one_round(x, pivot, slope, offset, n), None

    return lax.scan(swap, x, keys)[0].astype(jnp.int32)


def one_round(x: Array, pivot: Array, slope: Array, offset: Array, n: int) -> Array:
    """Where one round brings x: to its partner K - x mod n, or nowhere.

    One bit for both partners, the highest of slope · max(x, partner) + offset mod 2^32: the bits of any two pairs are fair and
    independent, exactly (Dietzfelbinger, "Universal hashing and k-wise independent random variables via integer arithmetic
    without primes", STACS 1996), so that two places move as under independent bits.
    """
    across = pivot - x  # mod 2^32: where x is beyond the pivot, larger than with n added
    partner = lax.min(across, across + _u32(n))
    hashed = slope * lax.max(x, partner) + offset
    return jnp.where(hashed >= _u32(1 << 31), partner, x)


def distinct(fill: Any, n: int, b: int) -> Array:
    """A uniform subset of b of n: Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", CACM 1987).

    The j-th draw is uniform below n - b + j + 1; where it repeats an earlier one, n - b + j is taken. A last draw rotates
    the values, so that every position is uniform by itself; beyond that the order within a step means nothing.
    """
    bounds = np.ones((-(-(b + 1) // 2), 2, 1), np.uint32)  # [lanes, 2, 1]: each Philox call makes two draws
    bounds.flat[: b + 1] = [*range(n - b + 1, n + 1), n]

    def transform(*w: Array) -> tuple[Array, Array]:
        return below(w[0], w[1], bounds[:, 0]), below(w[2], w[3], bounds[:, 1])

    drawn = fill(Purpose.INDICES, b + 1, 2, transform)
    place = jnp.arange(b, dtype=jnp.int32)[:, None]

    def take(j: Array, chosen: Array) -> Array:
        candidate = lax.dynamic_slice_in_dim(chosen, j, 1, axis=1)
        repeats = jnp.any((chosen == candidate) & (place < j), axis=1, keepdims=True)
        candidate = jnp.where(repeats, (n - b + j).astype(jnp.uint32), candidate)
        return lax.dynamic_update_slice_in_dim(chosen, candidate, j, axis=1)

    chosen = lax.fori_loop(1, b, take, drawn[:, :b])
    left = _u32(n) - drawn[:, b:]
    return jnp.where(chosen >= left, chosen - left, chosen + drawn[:, b:]).astype(jnp.int32)
