"""Counter-based draws: every random number is a pure function of (key, chain, step, lane).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Its
128-bit counter holds two 64-bit integers, (chain lo, chain hi, step lo, step hi), so nothing is carried from one step
to the next, and no chunk size, number of chains, restart or device can change a draw.

The lane, which numbers the words that one step needs beyond the four of one call, and the purpose (noise, indices, …)
enter through the key: the key of a lane is the first half of Philox(key; (lane, purpose, sharing, tag)). For one user
key that maps distinct (purpose, lane) to practically independent 64-bit keys, each of which owns a whole 2^128 counter
space, so (chain 64 bit, step 64 bit, lane 32 bit, purpose) all count in full. It is scalar work that no loop repeats.

Where a step needs one or two words, four or two consecutive steps share a call (step >> 2 or step >> 1 is counted, and
`sharing` keeps these streams apart), so no word is wasted. Chains are the minor axis of every result.
"""

from __future__ import annotations

from .blocks import block, initial_normals, place
from .clocks import Clock, advance, clock, steps_per_epoch
from .keys import key, key_words
from .permutations import ROUNDS, one_round, permutation_at, two_rounds
from .philox import Purpose, philox4x32
from .variables import below, box_muller, signs, three_point

__all__ = [
    "ROUNDS",
    "Clock",
    "Purpose",
    "advance",
    "below",
    "block",
    "box_muller",
    "clock",
    "initial_normals",
    "key",
    "key_words",
    "one_round",
    "permutation_at",
    "philox4x32",
    "place",
    "signs",
    "steps_per_epoch",
    "three_point",
    "two_rounds",
]
