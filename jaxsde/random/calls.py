"""Calls of a stream for the variables of consecutive steps: how many steps share a call, and which part of it is whose.

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
from .philox import Key, Purpose, Quad, Words, add, lane_key, philox4x32
from .streams import STREAMS, Stream, burst
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
    stream: Stream
    state: Quad | None = None  # what the words of these steps come from, where it is at hand: of `Carried` chains


def sharing(count: int, per: int) -> int:
    """Steps that share what gives `per` variables when each takes `count`."""
    return 1 << (per // count).bit_length() - 1 if count <= per else 1


def together(words: int, per: int) -> int:
    """Steps that share a call of so many words (`per`). A step of more than four has one of its own: who takes one step at a time
    would make those of the others, too."""
    return sharing(words, per) if words <= 4 else 1


class Carried(NamedTuple):
    """Steps that share a call of many words: `steps` of them, `words` each."""

    purpose: Purpose
    words: int
    steps: int

    @property
    def at_once(self) -> int:
        """Steps that are best taken together: of four words, or two of an odd number, for a pair of words makes two normals."""
        return min(self.steps, max(sharing(self.words, 4), 1 + self.words % 2))

    def begin(self, steps: Steps) -> Quad:
        """The state from which the first of `steps` draws: the first of a call."""
        a, b, c, d = (word[0, 0] for word in _quads(steps, self.purpose, 1, 1, self.steps))
        return a, b, c, d

    def after(self, state: Quad, steps: int) -> Quad:
        """The state so many steps later."""
        return burst(state, steps * self.words)[1]


def carried(draws: Draws) -> Carried | None:
    """What who takes the steps one after the other may carry along: the state of a generator in the middle of its call."""
    per, indices = STREAMS[draws.stream].words, 2 * draws.indices if draws.scheme == "independent" else 0
    if per == 4 or bool(draws.normals) == bool(indices):
        return None
    words = draws.normals or indices
    found = Carried(Purpose.NOISE if draws.normals else Purpose.INDICES, words, together(words, per))
    return found if found.steps > 1 else None


def steps_per_call(draws: Draws) -> int:
    """The most steps that share a call of any of these draws, those that come in an order left out."""
    per = STREAMS[draws.stream].words
    indices = (2 * draws.indices, per) if draws.scheme == "independent" else (draws.indices, 4)
    found = [together(count, per) for count, per in ((draws.normals, per), indices) if count]
    for count, (per, words) in ((draws.signs, SIGNS), (draws.three_point, THREE_POINT)):
        if count:
            found.append(sharing(count, per) * sharing(-(-count // per) * words, 4))
    return max(found, default=1)


def called(steps: Steps, purpose: Purpose, count: int, words_each: int, transform: Any, served: int = 1) -> Array:
    """[length, count, c] variables, `transform` of Philox quads; each takes `words_each` (1 or 2) words. What is a step here
    serves so many (`served`) of the chain."""
    return _called(steps, purpose, count, words_each, 4, lambda quad, _: transform(*quad), served)


def paired(steps: Steps, purpose: Purpose, count: int, words_each: int, transform: Any) -> Array:
    """The same of what the stream of the run gives: `transform` makes of two words the two or the one variable."""
    long = steps.stream.words > 4

    def of_burst(state: Quad, words: int) -> Array:
        drawn, _ = burst(state, words)
        found = jnp.stack(transform(drawn[::2], drawn[1::2]), axis=1)
        return found.reshape(-1, *found.shape[2:])

    if steps.state is not None:
        drawn = of_burst(steps.state, steps.length * count * words_each)
        return drawn.reshape(steps.length, count, *drawn.shape[1:])

    def variables(quad: Quad, words: int) -> list[Array]:
        return list(of_burst(quad, words)) if long else [*transform(*quad[:2]), *transform(*quad[2:])]

    return _called(steps, purpose, count, words_each, steps.stream.words, variables)


def _called(
    steps: Steps, purpose: Purpose, count: int, words_each: int, per: int, variables: Any, served: int = 1
) -> Array:
    """Of calls that give so many words (`per`); `variables` makes them of a quad, from as many words as are asked for."""
    needed = count * words_each
    shared = together(needed, per)
    rows = _touched(steps, shared)
    quad = _quads(steps, purpose, rows, -(-needed // per), shared, served)
    # XLA:CPU computes each component in its own loop and writes it in place: four times the cipher, yet the fastest
    # of the plain forms (a select over an iota: the same; packing into complex128, which shares it: 1.35x)
    out = jnp.stack(variables(quad, min(per, needed * shared + needed * shared % 2)), axis=2)
    size = out.shape[-1]
    if shared == 1:
        return out.reshape(rows, -1, size)[: steps.length, :count]
    out = out.reshape(rows * shared, count, size)
    if steps.aligned % shared == 0:
        return out[: steps.length]
    return lax.dynamic_slice_in_dim(out, _within(steps, shared).astype(jnp.int32), steps.length)


def _quads(steps: Steps, purpose: Purpose, rows: int, lanes: int, shared: int, served: int = 1) -> Quad:
    """Of consecutive calls, each of so many lanes, the first of them that of the first step: [rows, lanes, c] each."""
    low, high = add(_over(steps.first, shared), jnp.arange(rows, dtype=jnp.uint32)[:, None, None])
    keys = lane_key(steps.words, purpose, jnp.arange(lanes, dtype=jnp.uint32)[:, None], shared * served)
    return philox4x32((jnp.asarray(steps.chain[0]), jnp.asarray(steps.chain[1]), low, high), keys, steps.stream.rounds)


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
        chosen = out[:1] if rows == 1 else out.at[row].get(mode="promise_in_bounds", wrap_negative_indices=False)
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
