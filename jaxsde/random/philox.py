"""Philox4x32, the bijection that all draws come from, and the keys of its streams."""

from __future__ import annotations

import enum
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

Key = UInt32[Array, "2"] | UInt32[np.ndarray, "2"]  # the words of a user's key
Words = tuple[Any, Any]  # a 64-bit unsigned integer as (low, high) uint32 words, scalars or arrays
Quad = tuple[Array, Array, Array, Array]  # what one Philox call gives

_u32 = np.uint32
_MULTIPLIERS = (_u32(0xD2511F53), _u32(0xCD9E8D57))
_WEYL = (_u32(0x9E3779B9), _u32(0xBB67AE85))
TAG = _u32(0x6A617873)  # "jaxs": the last counter word of a lane key, the key of a folded key


class Purpose(enum.IntEnum):
    """What a stream is for. Streams of different purposes never share a key."""

    NOISE = 0
    SIGNS = 1
    THREE_POINT = 2
    INDICES = 3
    PERMUTATION = 4
    INITIAL = 5


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any], rounds: int = 10) -> Quad:
    """Philox4x32: four uint32 words from a counter of four words and a key of two; all broadcast against each other."""
    shape = jnp.broadcast_shapes(*(jnp.shape(w) for w in (*counter, *key)))
    a, b, c, d = (jnp.broadcast_to(jnp.asarray(w, jnp.uint32), shape) for w in counter)
    p, q = (jnp.asarray(w, jnp.uint32) for w in key)
    for _ in range(rounds):
        (high0, low0), (high1, low1) = multiply(_MULTIPLIERS[0], a), multiply(_MULTIPLIERS[1], c)
        a, b, c, d = high1 ^ b ^ p, low1, high0 ^ d ^ q, low0
        p, q = p + _WEYL[0], q + _WEYL[1]
    return a, b, c, d


def multiply(m: Any, x: Array) -> tuple[Array, Array]:
    """The high and the low word of the 64-bit product m·x."""
    return lax.mulhi(jnp.broadcast_to(jnp.asarray(m, jnp.uint32), x.shape), x), m * x


def add(word: Words, i: Any) -> Words:
    """The 64-bit integer `word` plus a uint32, with its carry."""
    low = word[0] + i
    return low, word[1] + (low < word[0]).astype(jnp.uint32)


def lane_key(words: Key, purpose: Purpose, lane: Any, sharing: int = 1) -> tuple[Array, Array]:
    """The key of one lane of one purpose, in a stream of which `sharing` steps share each call."""
    return philox4x32((lane, _u32(purpose), _u32(sharing), TAG), (words[0], words[1]))[:2]
