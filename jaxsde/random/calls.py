"""Calls of Philox for the variables of consecutive steps: how many steps share a call, and which part of it is whose.

A call gives `per` variables. Where a step needs half of them or fewer, a power of two of consecutive steps share it. Signs and
three-point variables need so little that steps first share a *group* of words, 32 bits for signs, 64 for eight three-point
variables, and groups then share a call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ..types import Draws
from .philox import Key, Purpose, Words, add, lane_key, philox4x32
from .variables import sign, three_point

_u32 = np.uint32


class Steps(NamedTuple):
    """Consecutive steps of some chains: `length` of them from `first` on. Promised: `first` is a multiple of `aligned`, a power of
    two, which saves calls that an unknown start would touch."""

    words: Key
    chain: Words
    first: Words
    length: int
    aligned: int
    rounds: int = 10  # of the cipher


def sharing(count: int, per: int) -> int:
    """Steps that share what gives `per` variables when each takes `count`."""
    return 1 << (per // count).bit_length() - 1 if count <= per else 1


def steps_per_call(draws: Draws) -> int:
    """The most steps that share a call of any of these draws, those that come in an order left out."""
    each = 2 if draws.scheme == "independent" else 1
    found = [sharing(count, per) for count, per in ((draws.normals, 4), (each * draws.indices, 4)) if count]
    for count, (per, words) in ((draws.signs, SIGNS), (draws.three_point, THREE_POINT)):
        if count:
            found.append(sharing(count, per) * sharing(-(-count // per) * words, 4))
    return max(found, default=1)


def called(steps: Steps, purpose: Purpose, count: int, words_each: int, transform: Any, served: int = 1) -> Array:
    """[length, count, c] variables, `transform` of Philox quads; each takes `words_each` (1 or 2) words. What is a step here
    serves so many (`served`) of the chain."""
    needed = count * words_each
    shared = sharing(needed, 4)
    lanes, rows = -(-needed // 4), _touched(steps, shared)
    low, high = add(_over(steps.first, shared), jnp.arange(rows, dtype=jnp.uint32)[:, None, None])
    keys = lane_key(steps.words, purpose, jnp.arange(lanes, dtype=jnp.uint32)[:, None], shared * served)
    quad = transform(*philox4x32((jnp.asarray(steps.chain[0]), jnp.asarray(steps.chain[1]), low, high), keys, steps.rounds))
    # XLA:CPU computes each component in its own loop and writes it in place: four times the cipher, yet the fastest
    # of the plain forms (a select over an iota: the same; packing into complex128, which shares it: 1.35x)
    out = jnp.stack(quad, axis=2)
    size = out.shape[-1]
    if shared == 1:
        return out.reshape(rows, -1, size)[: steps.length, :count]
    out = out.reshape(rows * shared, count, size)
    if steps.aligned % shared == 0:
        return out[: steps.length]
    return lax.dynamic_slice_in_dim(out, _within(steps, shared).astype(jnp.int32), steps.length)


class Group(NamedTuple):
    """Words that give `per` variables."""

    per: int
    words: int


SIGNS, THREE_POINT = Group(32, 1), Group(8, 2)


def signs(steps: Steps, count: int, dtype: Any) -> Array:
    """[length, count, c] of ±1, one bit each."""
    (words,), place = _grouped(steps, Purpose.SIGNS, SIGNS, count)
    return sign(words, place, dtype)


def three_points(steps: Steps, count: int, dtype: Any) -> Array:
    """[length, count, c] of ±√3 or 0, eight of them from 64 bits."""
    (high, low), place = _grouped(steps, Purpose.THREE_POINT, THREE_POINT, count)
    return three_point(high, low, place, dtype)


def _grouped(steps: Steps, purpose: Purpose, group: Group, count: int) -> tuple[list[Array], Any]:
    """Per variable of each step the words of its group, [length, count, c] each, and its place there [length, count, 1]."""
    per, words = group
    shared, groups = sharing(count, per), -(-count // per)
    rows = _touched(steps, shared)
    first = _over(steps.first, shared)
    fewer = steps._replace(first=first, length=rows, aligned=max(1, steps.aligned // shared))
    out = called(fewer, purpose, groups * words, 1, lambda *quad: quad, shared)
    out = out.reshape(rows, groups, words, out.shape[-1])
    variables = np.arange(count)
    if shared == 1:
        place, chosen = (variables % per)[None, :, None], out[:, variables // per]
    else:
        # known now where steps begin with a group
        step: Any = np.arange(steps.length, dtype=_u32) if steps.aligned % shared == 0 else None
        if step is None:
            step = _within(steps, shared) + jnp.arange(steps.length, dtype=jnp.uint32)
        row, within = step // _u32(shared), step % _u32(shared)
        place = (within * _u32(count))[:, None, None] + variables[:, None].astype(_u32)
        chosen = out[:1] if rows == 1 else out.at[row].get(mode="promise_in_bounds")
    return [chosen[:, :, i] for i in range(words)], place


def _touched(steps: Steps, shared: int) -> int:
    """How many calls or groups, each shared by so many steps, the steps touch at most."""
    if steps.aligned % shared == 0:
        return -(-steps.length // shared)
    if steps.length <= steps.aligned:  # which divides what is shared
        return 1
    return -(-(steps.length + shared - 1) // shared)


def _over(step: Words, shared: int) -> Words:
    """A 64-bit number divided by a power of two."""
    low, high = (jnp.asarray(w, jnp.uint32) for w in step)
    if shared == 1:
        return low, high
    shift = _u32(shared.bit_length() - 1)
    return (low >> shift) | (high << (_u32(32) - shift)), high >> shift


def _within(steps: Steps, shared: int) -> Array:
    return jnp.asarray(steps.first[0], jnp.uint32) & _u32(shared - 1)
