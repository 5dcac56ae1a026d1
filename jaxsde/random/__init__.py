"""Counter-based draws: every random number is a pure function of (key, chain, step, lane).

The cipher is Philox4x32 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Its
128-bit counter holds two 64-bit integers, (chain lo, chain hi, step lo, step hi), so nothing is carried from one step
to the next, and no chunk size, number of chains, restart or device can change a draw.

The lane, which numbers the words that one step needs beyond those of one call, and the purpose (noise, indices, …)
enter through the key: the key of a lane is the first half of Philox(key; (lane, purpose, sharing, tag)). For one user
key that maps distinct (purpose, lane) to practically independent 64-bit keys, each of which owns a whole 2^128 counter
space, so (chain 64 bit, step 64 bit, lane 32 bit, purpose) all count in full. It is scalar work that no loop repeats.

There are two streams (`STREAMS`). In "philox4x32-10" every word is the cipher's, four to a call. In "xoshiro128+", the default,
the four words of a call (of seven rounds, the fewest with which the cipher passes BigCrush) are the state of a generator that
makes sixteen, for less than half of the work: so few that its one weakness cannot show (`streams.py`). Signs, three-point variables
and examples without repeats take the cipher's own words in both; keys of lanes and permutations, made once, and initial states
take ten rounds.

Where a step needs little of a call, a power of two of consecutive steps share it (step >> k is counted, and `sharing` keeps
these streams apart): of the cipher's, four normals, two indices, 128 signs or 16 three-point variables; of a long one, sixteen
normals or eight indices. Chains are the minor axis of every result. `LAYOUT` numbers all this: what draws otherwise has another
number.
"""

from __future__ import annotations

from .blocks import block, initial_normals, place
from .calls import Steps, carried, steps_per_call
from .clocks import Clock, advance, clock, steps_per_epoch
from .keys import key, key_words
from .permutations import ROUNDS, four_words, one_round, permutation_at, pivot_of
from .philox import Purpose, philox4x32
from .streams import STREAMS, Stream, burst
from .variables import below, box_muller, sign, three_point

# 1: a word for each step's signs and each three-point variable; permutations of 36 rounds. 2: two normals' signs from two bits.
LAYOUT = 3

__all__ = [
    "LAYOUT",
    "ROUNDS",
    "STREAMS",
    "Clock",
    "Purpose",
    "Steps",
    "Stream",
    "advance",
    "below",
    "block",
    "box_muller",
    "burst",
    "carried",
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
