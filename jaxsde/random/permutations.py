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

# of swap-or-not: within 1e-6 of a uniform permutation for n = 2 .. 8 (tests/test_random_indices.py computes it)
ROUNDS = 36


def permutation_at(words: Key, chain: Words, epoch: Words, positions: Any, n: int) -> Int[Array, "..."]:
    """The images of `positions` (each in 0 .. n - 1) under the random permutation of n of (key, chain, epoch).

    `chain`, `epoch` and `positions` broadcast against each other. Nothing is stored: it is a swap-or-not shuffle
    (Hoang, Morris, Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012), a permutation of exactly n
    points for any n from 1 to 2^31 - 1. Each round pairs x with K - x mod n and swaps the two if a hashed bit says so.
    """
    pivots, hashes = round_keys(words, chain, epoch, n)
    shape = jnp.broadcast_shapes(jnp.shape(positions), pivots.shape[1:])
    return swap_or_not(
        jnp.broadcast_to(jnp.asarray(positions, jnp.uint32), shape), pivots, hashes, n, lambda keys: keys
    )


def round_keys(words: Key, chain: Words, epoch: Words, n: int) -> tuple[Array, Array]:
    """Per round the pivot K below n and the hash key: [ROUNDS, ...]."""

    def pair(_: None, lane: Array) -> tuple[None, tuple[Array, Array]]:
        return None, two_rounds(words, chain, epoch, n, lane)

    _, (pivots, hashes) = lax.scan(pair, None, jnp.arange(ROUNDS // 2, dtype=jnp.uint32))
    return pivots.reshape(ROUNDS, *pivots.shape[2:]), hashes.reshape(ROUNDS, *hashes.shape[2:])


def two_rounds(words: Key, chain: Words, epoch: Words, n: int, lane: Any) -> tuple[Array, Array]:
    """The pivots and the hash keys of rounds 2·lane and 2·lane + 1: [2, ...]. Whatever law K has, uniform permutations stay so:
    the bias n/2^32 of a single word only touches the speed of mixing."""
    a, b, c, d = philox4x32((*chain, *epoch), lane_key(words, Purpose.PERMUTATION, lane))
    return multiply(_u32(n), jnp.stack([a, c]))[0], jnp.stack([b, d])


def swap_or_not(x: Array, pivots: Array, hashes: Array, n: int, expand: Any) -> Array:
    """`expand` brings the keys of one round to the shape of x, round by round, so that they never exist all at once."""

    def swap(x: Array, keys: tuple[Array, Array]) -> tuple[Array, None]:
        return one_round(x, expand(keys[0]), expand(keys[1]), n), None

    return lax.scan(swap, x, (pivots, hashes))[0].astype(jnp.int32)


def one_round(x: Array, pivot: Array, hashed: Array, n: int) -> Array:
    """Where one round brings x: to its partner K - x mod n, or nowhere."""
    across = pivot - x  # mod 2^32: where x is beyond the pivot, larger than with n added
    partner = lax.min(across, across + _u32(n))
    # one bit for both partners, of murmur3's finaliser (whose last shift leaves the top bit alone)
    h = lax.max(x, partner) ^ hashed
    h = (h ^ (h >> _u32(16))) * _u32(0x85EBCA6B)
    h = (h ^ (h >> _u32(13))) * _u32(0xC2B2AE35)
    return jnp.where(h >= _u32(1 << 31), partner, x)


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
