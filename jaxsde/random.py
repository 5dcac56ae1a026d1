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

import enum
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from jaxsde.types import Drawn, Draws

Words = tuple[Any, Any]  # a 64-bit unsigned integer as (low, high) uint32 words, scalars or arrays
Quad = tuple[Array, Array, Array, Array]  # what one Philox call gives

_u32 = np.uint32
_MULTIPLIERS = (_u32(0xD2511F53), _u32(0xCD9E8D57))
_WEYL = (_u32(0x9E3779B9), _u32(0xBB67AE85))
_TAG = _u32(0x6A617873)  # "jaxs": the last counter word of a lane key, the key of a folded key

# of swap-or-not: within 1e-6 of a uniform permutation for n = 2 .. 8 (tests/test_random_indices.py computes it)
ROUNDS = 40


class Purpose(enum.IntEnum):
    """What a stream is for. Streams of different purposes never share a key."""

    NOISE = 0
    SIGNS = 1
    THREE_POINT = 2
    INDICES = 3
    EPOCH = 4
    DISTINCT = 5
    INITIAL = 6


# --- keys -----------------------------------------------------------------------------------------------------------


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
    return jax.random.wrap_key_data(data, impl="threefry2x32")


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
    folded = philox4x32((words[0], words[1], words[2], words[3]), (_TAG, _u32(4)))
    return jnp.stack(folded[:2])


def _one_key(got: str) -> str:
    return (
        f"key is {got}: one key seeds all chains, because every draw is a function of (key, chain, step); "
        "give a single key, such as keys[0]"
    )


# --- the generator --------------------------------------------------------------------------------------------------


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any], rounds: int = 10) -> Quad:
    """Philox4x32: four uint32 words from a counter of four words and a key of two; all broadcast against each other."""
    shape = jnp.broadcast_shapes(*(jnp.shape(w) for w in (*counter, *key)))
    a, b, c, d = (jnp.broadcast_to(jnp.asarray(w, jnp.uint32), shape) for w in counter)
    p, q = (jnp.asarray(w, jnp.uint32) for w in key)
    for _ in range(rounds):
        (high0, low0), (high1, low1) = _multiply(_MULTIPLIERS[0], a), _multiply(_MULTIPLIERS[1], c)
        a, b, c, d = high1 ^ b ^ p, low1, high0 ^ d ^ q, low0
        p, q = p + _WEYL[0], q + _WEYL[1]
    return a, b, c, d


def _multiply(m: Any, x: Array) -> tuple[Array, Array]:
    """The high and the low word of the 64-bit product m·x."""
    return lax.mulhi(jnp.broadcast_to(jnp.asarray(m, jnp.uint32), x.shape), x), m * x


def _add(word: Words, i: Any) -> Words:
    low = word[0] + i
    return low, word[1] + (low < word[0]).astype(jnp.uint32)


def _lane_key(words: UInt32[Array, "2"], purpose: Purpose, lane: Any, sharing: int = 1) -> tuple[Array, Array]:
    return philox4x32((lane, _u32(purpose), _u32(sharing), _TAG), (words[0], words[1]))[:2]


# --- from words to variables ----------------------------------------------------------------------------------------

_LOG = (  # of log(1 + f) = f - f²/2 + f³·P(f) on [√½ - 1, √2 - 1]: Cephes logf (Moshier)
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)  # Cephes sinf, cosf on [-π/4, π/4]
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1.0)


def box_muller(a: UInt32[Array, "..."], b: UInt32[Array, "..."], dtype: Any = np.float32) -> tuple[Array, Array]:
    """Two independent standard normals from two words, without a branch (Box and Muller 1958).

        √(-2 log u) (cos, sin)(ϑ),    u = (a + ½) 2^-32,    ϑ = ±(π/4 + s) or ±(3π/4 - s),    s = π/4 · b 2^-31

    with `b` read as signed and its two lowest bits choosing the quadrant. All 32 bits of `a` count, so |z| reaches
    √(2 log 2^33) = 6.76 (24 bits would end at 5.9). In float32 u is kept as u - 1 where it is near 1, and log, sin and
    cos are polynomials; the result is within 1e-6 of the float64 one from the same words, never subnormal or NaN.
    """
    signed = lax.bitcast_convert_type(b, jnp.int32)
    w = _signed_uniform(a, dtype)
    angle = signed.astype(dtype) * np.asarray(np.pi / 4 / 2**31, dtype)
    if np.dtype(dtype) == np.float64:
        half = -jnp.log1p(jnp.where(w < 0, w, w - 1.0))
        sin, cos = jnp.sin(angle), jnp.cos(angle)
    else:
        half = _minus_log(w)
        square = angle * angle
        sin = angle + angle * (square * _horner(square, _SIN))
        cos = _horner(square, _COS)
    radius = jnp.sqrt(half)
    one = np.asarray(1.0, dtype)
    # multiplying by ±1 from a bit is exact, so both dtypes share this line
    first = one - ((b & _u32(1)) << _u32(1)).astype(jnp.int32).astype(dtype)
    second = one - (b & _u32(2)).astype(jnp.int32).astype(dtype)
    return radius * (cos - sin) * first, radius * (cos + sin) * second


def _signed_uniform(a: Array, dtype: Any) -> Array:
    """u = (a + ½) 2^-32 where it is below ½ and u - 1 where it is not: either way with full relative precision."""
    scale, half = np.asarray(2.0**-32, dtype), np.asarray(2.0**-33, dtype)
    return lax.bitcast_convert_type(a, jnp.int32).astype(dtype) * scale + half


def _minus_log(w: Array) -> Array:
    """-log u in float32 from w = u (w > 0) or u - 1 (w < 0). No sum has two products: fusing multiply-adds has one way."""
    f32 = np.float32
    u = w + jnp.where(w < 0, f32(1), f32(0))
    bits = lax.bitcast_convert_type(u, jnp.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    mantissa = lax.bitcast_convert_type(bits - (exponent << np.int32(23)), jnp.float32)
    f = jnp.where(exponent == 0, w, mantissa - f32(1))  # with exponent 0, u is above √½, so w is u - 1, unrounded
    y = f + (f * f) * (f * _horner(f, _LOG) - f32(0.5))
    return -(exponent.astype(jnp.float32) * f32(np.log(2)) + y)


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    p: Any = np.asarray(coefficients[0], x.dtype)
    for c in coefficients[1:]:
        p = p * x + np.asarray(c, x.dtype)
    return p


def three_point(word: UInt32[Array, "..."], dtype: Any = np.float32) -> Array:
    """√3, -√3 (odds 1/6 each) or 0 (2/3): moments 0, 1, 0, 3 of a normal. The odds are off by less than 2^-31."""
    sixth = _multiply(_u32(6), word)[0]
    size = np.asarray(np.sqrt(3.0), dtype)
    return jnp.where(sixth == 0, -size, jnp.where(sixth == 5, size, np.asarray(0.0, dtype)))


def below(high: UInt32[Array, "..."], low: UInt32[Array, "..."], n: Any) -> UInt32[Array, "..."]:
    """floor((high, low) · n / 2^64): uniform on 0 .. n - 1, every probability within 2^-64 of 1/n. 1 <= n < 2^31."""
    n = jnp.asarray(n, jnp.uint32)
    whole, part = _multiply(n, high)
    carried = part + _multiply(n, low)[0]
    return whole + (carried < part).astype(jnp.uint32)


# --- permutations ---------------------------------------------------------------------------------------------------


def permutation_at(
    words: UInt32[Array, "2"], chain: Words, epoch: Words, positions: Any, n: int, purpose: Purpose = Purpose.EPOCH
) -> Int[Array, "..."]:
    """The images of `positions` (each in 0 .. n - 1) under the random permutation of n of (key, chain, epoch).

    `chain`, `epoch` and `positions` broadcast against each other. Nothing is stored: it is a swap-or-not shuffle
    (Hoang, Morris, Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012), a permutation of exactly n
    points for any n from 1 to 2^31 - 1. Each round pairs x with K - x mod n and swaps the two if a hashed bit says so.
    """
    return _swap_or_not(jnp.asarray(positions, jnp.uint32), *_round_keys(words, chain, epoch, n, purpose), n)


def _round_keys(words: Array, chain: Words, epoch: Words, n: int, purpose: Purpose) -> tuple[Array, Array]:
    """Per round the pivot K below n and the hash key: [ROUNDS, ...]. Whatever law K has, uniform permutations stay so:
    the bias n/2^32 of a single word only touches the speed of mixing."""

    def two_rounds(_: None, lane: Array) -> tuple[None, tuple[Array, Array]]:
        a, b, c, d = philox4x32((*chain, *epoch), _lane_key(words, purpose, lane))
        return None, (_multiply(_u32(n), jnp.stack([a, c]))[0], jnp.stack([b, d]))

    _, (pivots, hashes) = lax.scan(two_rounds, None, jnp.arange(ROUNDS // 2, dtype=jnp.uint32))
    return pivots.reshape(ROUNDS, *pivots.shape[2:]), hashes.reshape(ROUNDS, *hashes.shape[2:])


def _swap_or_not(x: Array, pivots: Array, hashes: Array, n: int) -> Array:
    x = jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, pivots.shape[1:]))

    def swap(x: Array, keys: tuple[Array, Array]) -> tuple[Array, None]:
        pivot, hashed = keys
        partner = jnp.where(pivot >= x, pivot - x, pivot - x + _u32(n))
        # one bit for both partners, of murmur3's finaliser (whose last shift leaves the top bit alone)
        h = lax.max(x, partner) ^ hashed
        h = (h ^ (h >> _u32(16))) * _u32(0x85EBCA6B)
        h = (h ^ (h >> _u32(13))) * _u32(0xC2B2AE35)
        return jnp.where(h >= _u32(1 << 31), partner, x), None

    return lax.scan(swap, x, (pivots, hashes))[0].astype(jnp.int32)


# --- time -----------------------------------------------------------------------------------------------------------


class Clock(NamedTuple):
    """A step as words: its number (64 bit), its epoch (64 bit) and the position of the step within the epoch."""

    step: Words
    epoch: Words
    position: Any


def clock(step: int, draws: Draws) -> Clock:
    """The `Clock` of a step given as a Python integer in [0, 2^64). On the host: exact without 64-bit arrays."""
    if not 0 <= step < 2**64:
        raise ValueError(f"step = {step} is outside [0, 2^64)")
    epoch, position = divmod(step, _steps_per_epoch(draws))
    return Clock(_halves(step), _halves(epoch), _u32(position))


def advance(clock: Clock, i: Any, draws: Draws) -> Clock:
    """The clock `i` steps later, traced; i below 2^31."""
    i = jnp.asarray(i).astype(jnp.uint32)
    if draws.scheme != "epoch":  # then every step is its own epoch
        return Clock(_add(clock.step, i), _add(clock.epoch, i), clock.position)
    per_epoch = _u32(_steps_per_epoch(draws))
    total = clock.position + i
    return Clock(_add(clock.step, i), _add(clock.epoch, total // per_epoch), total % per_epoch)


def _steps_per_epoch(draws: Draws) -> int:
    if draws.scheme != "epoch":
        return 1
    return draws.population // draws.indices


def _halves(value: int) -> Words:
    return _u32(value & 0xFFFFFFFF), _u32(value >> 32)


# --- what a step receives -------------------------------------------------------------------------------------------


def block(
    words: UInt32[Array, "2"],
    draws: Draws,
    chain: Words,
    clock: Clock,
    length: int,
    dtype: Any = np.float32,
    *,
    aligned: bool = False,
) -> Drawn:
    """The draws of `length` consecutive steps from `clock` on, of the chains numbered `chain` = (lo, hi) ["c"].

    Leaves [length, q, c] with q the counts of `draws`; `indices` are int32, the rest `dtype`. A pure function of
    (key, chain, step): row i is bit for bit what a block of one gives at `advance(clock, i, draws)`. `aligned` promises
    that the first step is a multiple of four, which saves the rest of a shared call.
    """

    def fill(purpose: Purpose, count: int, words_each: int, transform: Any) -> Any:
        if count == 0:
            return ()
        return _fill(words, purpose, chain, clock.step, length, count, words_each, transform, aligned)

    normals = fill(
        Purpose.NOISE, draws.normals, 1, lambda a, b, c, d: (*box_muller(a, b, dtype), *box_muller(c, d, dtype))
    )
    third = fill(Purpose.THREE_POINT, draws.three_point, 1, lambda *w: tuple(three_point(x, dtype) for x in w))
    packed = fill(Purpose.SIGNS, -(-draws.signs // 32), 1, lambda *w: w)
    signs = () if draws.signs == 0 else _unpack_signs(packed, draws.signs, dtype)
    return Drawn(normals, signs, third, _indices(words, draws, chain, clock, length, fill))


def initial_normals(
    words: UInt32[Array, "2"], chain: Words, count: int, dtype: Any = np.float32
) -> Float[Array, "count c"]:
    """`count` standard normals per chain for its initial state, independent of those of every step."""

    def transform(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, ...]:
        return *box_muller(a, b, dtype), *box_muller(c, d, dtype)

    start = (_u32(0), _u32(0))
    return _fill(words, Purpose.INITIAL, chain, start, 1, count, 1, transform, aligned=True)[0]


def _fill(
    words: Array,
    purpose: Purpose,
    chain: Words,
    step: Words,
    length: int,
    count: int,
    words_each: int,
    transform: Any,
    aligned: bool,
) -> Array:
    """[length, count, c] variables, `transform` of Philox quads; each takes `words_each` (1 or 2) words."""
    needed = count * words_each
    sharing = 4 // needed if needed <= 2 else 1  # consecutive steps that one call serves
    lanes, rows = -(-needed // 4), -(-length // sharing) if aligned else -(-(length + sharing - 1) // sharing)
    shift = _u32(sharing.bit_length() - 1)
    low, high = (jnp.asarray(w, jnp.uint32) for w in step)
    if sharing > 1:
        low, high = (low >> shift) | (high << (_u32(32) - shift)), high >> shift
    low, high = _add((low, high), jnp.arange(rows, dtype=jnp.uint32)[:, None, None])
    lane_key = _lane_key(words, purpose, jnp.arange(lanes, dtype=jnp.uint32)[:, None], sharing)
    quad = transform(*philox4x32((jnp.asarray(chain[0]), jnp.asarray(chain[1]), low, high), lane_key))
    # XLA:CPU computes each component in its own loop and writes it in place: four times the cipher, yet the fastest
    # of the plain forms (a select over an iota: the same; packing into complex128, which shares it: 1.35x)
    out = jnp.stack(quad, axis=2)
    size = out.shape[-1]
    if sharing == 1:
        return out.reshape(rows, -1, size)[:length, :count]
    out = out.reshape(rows * sharing, count, size)
    if aligned:
        return out[:length]
    offset = jnp.asarray(step[0], jnp.uint32) & _u32(sharing - 1)
    return lax.dynamic_slice_in_dim(out, offset.astype(jnp.int32), length)


def _unpack_signs(packed: Array, count: int, dtype: Any) -> Array:
    bits = (packed[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[:, None]) & _u32(1)
    signs = np.asarray(1, dtype) - (bits << _u32(1)).astype(jnp.int32).astype(dtype)
    return signs.reshape(packed.shape[0], -1, packed.shape[-1])[:, :count]


def _indices(words: Array, draws: Draws, chain: Words, clock: Clock, length: int, fill: Any) -> Any:
    n, b = draws.population, draws.indices
    if b == 0:
        return ()
    if draws.scheme == "independent":
        drawn = fill(Purpose.INDICES, b, 2, lambda a0, a1, a2, a3: (below(a0, a1, n), below(a2, a3, n)))
        return drawn.astype(jnp.int32)
    lanes = jnp.arange(b, dtype=jnp.uint32)[:, None]
    now = advance(clock, jnp.arange(length, dtype=jnp.uint32), draws)
    if draws.scheme == "distinct":
        keys = _round_keys(words, chain, (now.step[0][:, None], now.step[1][:, None]), n, Purpose.DISTINCT)
        return _swap_or_not(lanes, keys[0][:, :, None], keys[1][:, :, None], n)
    # epoch: the round keys of every epoch that the block can touch, then each step picks its own
    per_epoch = _steps_per_epoch(draws)
    epochs = (per_epoch + length - 2) // per_epoch + 1
    low, high = _add(clock.epoch, jnp.arange(epochs, dtype=jnp.uint32)[:, None])
    pivots, hashes = _round_keys(words, chain, (low, high), n, Purpose.EPOCH)
    which = ((clock.position + jnp.arange(length, dtype=jnp.uint32)) // _u32(per_epoch)).astype(jnp.int32)
    start = now.position[:, None, None] * _u32(b) + lanes
    return _swap_or_not(start, pivots[:, which][:, :, None], hashes[:, which][:, :, None], n)
