"""The streams: what all words come from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

from .philox import Quad

_u32 = np.uint32


class Stream(NamedTuple):
    """Philox4x32 of so many `rounds`, four words to a call; where a call gives more `words`, its four are the state of a
    xoshiro128+ that makes them."""

    rounds: int
    words: int = 4


# The first is the default. Seven rounds are the fewest with which the cipher passes BigCrush (Salmon et al., table 2).
STREAMS = {"xoshiro128+": Stream(7, 16), "philox4x32-10": Stream(10)}


def burst(state: Quad, count: int) -> tuple[UInt32[Array, "count ..."], Quad]:
    """The first `count` words of xoshiro128+ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", ACM TOMS
    2021) from a state of four words, and the state after them.

    Its weakness, lowest bits that are linear in the state, needs more than 128 words in a row to show: any 128 of them are
    independent for a uniform state, and a state makes fewer.
    """

    def word(state: Quad, _: None) -> tuple[Quad, Array]:
        a, b, c, d = state
        out, shifted = a + d, b << _u32(9)
        c, d = c ^ a, d ^ b
        b, a = b ^ c, a ^ d
        return (a, b, c ^ shifted, (d << _u32(11)) | (d >> _u32(21))), out

    after, words = lax.scan(word, state, length=count)
    return words, after
