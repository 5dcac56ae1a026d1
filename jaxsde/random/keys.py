"""From a seed or any JAX key to the two words that key Philox."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from .philox import TAG, philox4x32


def key(seed: int) -> Array:
    """A typed JAX key from all 64 bits of `seed`, whether or not `jax_enable_x64` is on.

    `jax.random.key` drops the upper 32 bits when it is off, so that seeds 5 and 2^32 + 5 would be one stream. Below
    2^32 the two functions agree. TypeError: not an integer. ValueError: outside [0, 2^64).
    """
    if isinstance(seed, bool | np.bool_):
        raise TypeError(f"seed = {seed!r} is a bool: give an integer in [0, 2^64)")
    try:
        value = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed = {seed!r} is a {type(seed).__name__}: give an integer in [0, 2^64)") from None
    if not 0 <= value < 2**64:
        raise ValueError(f"seed = {value} is outside [0, 2^64): give a non-negative integer of at most 64 bits")
    data = np.array([value >> 32, value & 0xFFFFFFFF], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")


def key_words(key: Any) -> UInt32[Array, "2"]:
    """The two words that key Philox, from one JAX key, typed or raw, of any implementation.

    Two-word keys (threefry) are taken as they are; wider ones (rbg, unsafe_rbg: four words) are folded by Philox.
    TypeError: not a key. ValueError: an array of keys.
    """
    cure = "give jax.random.key(seed) or jaxsde.key(seed)"
    if not hasattr(key, "dtype") or not hasattr(key, "shape"):
        raise TypeError(f"key = {key!r} is a {type(key).__name__}, not a random key: {cure}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(_one_key(f"an array of keys of shape {key.shape}"))
        words = jax.random.key_data(key)
    else:
        if key.dtype != np.uint32 or len(key.shape) == 0:
            raise TypeError(f"key is a {key.dtype} array of shape {key.shape}, not a random key: {cure}")
        if len(key.shape) > 1:
            raise ValueError(_one_key(f"raw words of shape {key.shape}, an array of keys"))
        words = jnp.asarray(key)
    if words.ndim != 1 or words.shape[0] not in (2, 4):
        raise TypeError(f"key has words of shape {words.shape}, where a key has 2 or 4: {cure}")
    if words.shape[0] == 2:
        return words
    folded = philox4x32((words[0], words[1], words[2], words[3]), (TAG, np.uint32(4)))
    return jnp.stack(folded[:2])


def _one_key(got: str) -> str:
    return (
        f"key is {got}: one key seeds all chains, because every draw is a function of (key, chain, step); "
        "give a single key, such as keys[0]"
    )
