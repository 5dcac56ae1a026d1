"""Counter-based draws: every random number is a pure function of (key, chain, step, lane).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Its
128-bit counter holds two 64-bit integers, (chain lo, chain hi, step lo, step hi), so nothing is carried from one step
to the next, and no chunk size, number of chains, restart or device can change a draw.

The lane, which numbers the words that one step needs beyond the four of one call, and the purpose (noise, indices, …)
enter through the key: the key of a lane is the first half of Philox(key; (lane, purpose, sharing, tag)). For one user
key that maps distinct (purpose, lane) to practically independent 64-bit keys, each of which owns a whole 2^128 counter
space, so (chain 64 bit, step 64 bit, lane 32 bit, purpose) all count in full. It is scalar work that no loop repeats.

Where a step needs half a call or less, a power of two of consecutive steps share it (step >> k is counted, and `sharing` keeps
these streams apart): four normals, two indices, 128 signs or 16 three-point variables to a call. Chains are the minor axis of
every result. `LAYOUT` numbers all this: what draws otherwise has another number.

There are two streams (`STREAMS`). Seven rounds are the fewest with which the cipher passes BigCrush (Salmon et al., table 2);
keys of lanes and permutations, made once, and initial states take ten in both.
"""

from __future__ import annotations

from .blocks import block, initial_normals, place
from .calls import steps_per_call
from .clocks import Clock, advance, clock, steps_per_epoch
from .keys import key, key_words
from .permutations import ROUNDS, four_words, one_round, permutation_at, pivot_of
from .philox import Purpose, philox4x32
from .variables import below, box_muller, sign, three_point

STREAMS = {"philox4x32-10": 10, "philox4x32-7": 7}  # rounds; the first is the default
LAYOUT = 2  # 1: a word for each step's signs and each three-point variable; permutations of 36 rounds

__all__ = [
    "LAYOUT",
    "ROUNDS",
    "STREAMS",
    "Clock",
    "Purpose",
    "advance",
    "below",
    "block",
    "box_muller",
    "clock",
    "four_words",
    "initial_normals",
    "key",
    "key_words",
    "one_round",
    "permutation_at",
    "philox4x32",
    "pivot_of",
    "place",
    "sign",
    "steps_per_call",
    "steps_per_epoch",
    "three_point",
]
