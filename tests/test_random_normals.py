"""Normals, statistically: moments to order 8, tails, Kolmogorov-Smirnov, and no correlation across chain, step, lane, key.

Everything is a z-score of one statistic against its exact law, so that a stream passes if all |z| < 5. With fixed seeds
the outcome is fixed; over seeds, a file of 6e2 scores would raise a false alarm with probability 6e2 · 6e-7 < 4e-4.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxsde import random
from jaxsde.types import Draws

LIMIT, CHAINS, BINS, FAR = 5.0, 8192, 1024, np.uint32(2**16)
TAILS = (3.0, 4.0, 5.0, 5.5)


# Streams with a fault: the cipher with too few rounds, alone and as the state of the generator.
PLANTED = {"2 rounds": random.Stream(2), "5 rounds": random.Stream(5), "xoshiro of 2 rounds": random.Stream(2, 16)}


@pytest.fixture(autouse=True)
def _planted(monkeypatch):
    for name, stream in PLANTED.items():
        monkeypatch.setitem(random.STREAMS, name, stream)


def normals_of(name):
    """A stream: [steps, lanes, chains] normals of the chains (lo, hi) from `clock` on."""

    def stream(words, chain, clock, lanes):
        return random.block(words, Draws(normals=lanes, stream=name), chain, clock, 64 // lanes).normals

    stream.__name__ = name
    return stream


STREAMS = [normals_of(name) for name in random.STREAMS]
default = STREAMS[0]
two_rounds, five_rounds, xoshiro_of_two_rounds = (normals_of(name) for name in PLANTED)


@functools.partial(jax.jit, static_argnames=("stream", "lanes"))
def drawn(stream, words, chain, clock, lanes):
    return stream(words, chain, clock, lanes)


def initial(words, chain, clock, lanes):
    return random.initial_normals(words, chain, lanes)


def summary(stream, words, chain, clock, lanes):
    """`sums` over one block. Only the draws are compiled for each stream, not the sums."""

    def draw(w=words, c=chain, t=clock, f=stream):
        return drawn(f, w, c, t, lanes)

    step = (clock.step[0], clock.step[1] + np.uint32(1))
    beside = {
        "chain + 2^16": draw(c=(chain[0] + FAR, chain[1])),
        "chain + 2^32": draw(c=(chain[0], chain[1] + np.uint32(1))),
        "step + 2^32": draw(t=clock._replace(step=step)),
        "key + 1": draw(w=words + np.array([0, 1], np.uint32)),
    }
    return sums(draw(), beside, draw(f=initial))


@jax.jit
def sums(z, beside, first):
    """Of normals, per chain: powers 1 .. 8; tail counts; products with every kind of neighbour and of squares."""
    pairs = {
        "chain + 1": (z[..., 1:], z[..., :-1]),
        "step + 1": (z[1:], z[:-1]),
        "step + 4": (z[4:], z[:-4]),
        "initial": (z[0], first),
        **{name: (z, other) for name, other in beside.items()},
    }
    if z.shape[1] > 1:
        pairs["lane + 1"] = z[:, 1:], z[:, :-1]
    products = {}
    for name, (x, y) in pairs.items():
        square = (x * x - 1) * (y * y - 1)
        products[name] = jnp.array([x.size]), jnp.sum(x * y, range(x.ndim - 1)), jnp.sum(square, range(x.ndim - 1))
    tails = jnp.stack([jnp.sum(jnp.abs(z) > t) for t in TAILS])
    bins = jnp.clip((jax.scipy.special.ndtr(z) * BINS).astype(jnp.int32), 0, BINS - 1)
    return (
        jnp.stack([jnp.sum(z**k, (0, 1)) for k in range(1, 9)]),
        products,
        tails,
        jnp.bincount(bins.ravel(), length=BINS),
    )


def scores(stream, blocks, lanes, seed=0):
    """|z| of every statistic of `blocks` blocks of 64 · 8192 normals."""
    words, chains = random.key_words(random.key(seed)), np.arange(CHAINS, dtype=np.uint32)
    chain = jnp.asarray(chains), jnp.zeros(CHAINS, jnp.uint32)
    total = None
    for i in range(blocks):
        clock = random.clock(i * (64 // lanes), Draws(normals=lanes))
        new = summary(stream, words, chain, clock, lanes)
        new = jax.tree.map(lambda x: np.sum(np.asarray(x, np.float64), -1), new[:2]), *map(np.asarray, new[2:])
        total = new if total is None else jax.tree.map(np.add, total, new)
    assert total is not None
    (powers, products), tails, bins = total
    n, out = blocks * 64 * CHAINS, {}
    moment = {k: float(scipy.special.factorial2(k - 1)) if k % 2 == 0 else 0.0 for k in range(1, 17)}
    for k in range(1, 9):
        out[f"moment {k}"] = (powers[k - 1] / n - moment[k]) / np.sqrt((moment[2 * k] - moment[k] ** 2) / n)
    for name, (count, linear, square) in products.items():
        out[name], out[name + ", squares"] = linear / np.sqrt(count), square / 2 / np.sqrt(count)
    for t, count in zip(TAILS, tails, strict=True):
        expected = n * 2 * scipy.stats.norm.sf(t)
        p = min(scipy.stats.poisson.cdf(count, expected), scipy.stats.poisson.sf(count - 1, expected))
        out[f"beyond {t}"] = scipy.stats.norm.isf(min(p, 0.5))
    gap = np.max(np.abs(np.cumsum(bins) / n - np.arange(1, BINS + 1) / BINS))
    out["Kolmogorov-Smirnov"] = scipy.stats.norm.isf(scipy.stats.kstwobign.sf(gap * np.sqrt(n)) / 2)
    chi2 = np.sum((bins - n / BINS) ** 2) * BINS / n
    out["chi-square"] = (chi2 - (BINS - 1)) / np.sqrt(2 * (BINS - 1))
    return {name: abs(float(z)) for name, z in out.items()}


def failures(found):
    return {name: round(z, 1) for name, z in found.items() if not z < LIMIT}


@pytest.mark.parametrize("stream", STREAMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_normals(stream, lanes):
    """4e6 of each layout: steps share a call, as many as it has room for."""
    assert not failures(scores(stream, 8, lanes))


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda f: f.__name__)
def test_1e8_normals(stream, lanes):
    assert not failures(scores(stream, 200, lanes, seed=1))


# --- twins: streams with one fault each, which must be found ---


def louder(words, chain, clock, lanes):
    return np.float32(1.05) * default(words, chain, clock, lanes)


def shifted(words, chain, clock, lanes):
    return default(words, chain, clock, lanes) + np.float32(0.005)


def lane_reused(words, chain, clock, lanes):
    return jnp.tile(default(words, chain, clock, lanes)[:, : lanes // 2], (1, 2, 1))


def sign_only(words, chain, clock, lanes):
    """Neighbouring lanes share their size and not their sign: uncorrelated, yet not independent."""
    z = default(words, chain, clock, lanes)
    return jnp.abs(z[:, :1]) * jnp.sign(z)


def short_chain_numbers(words, chain, clock, lanes):
    return default(words, (chain[0] & np.uint32(0xFFFF), chain[1]), clock, lanes)


def low_chain_word(words, chain, clock, lanes):
    return default(words, (chain[0], chain[1] * 0), clock, lanes)


def low_step_word(words, chain, clock, lanes):
    return default(words, chain, clock._replace(step=(clock.step[0], np.uint32(0))), lanes)


def step_reused(words, chain, clock, lanes):
    z = default(words, chain, clock, lanes)
    return jnp.concatenate([z[:4], z[:-4]])


def key_ignored(words, chain, clock, lanes):
    return default(words * 0, chain, clock, lanes)


def short_tail(words, chain, clock, lanes):
    """What an 11-bit uniform does: the tail ends at 3.9."""
    return jnp.clip(default(words, chain, clock, lanes), -3.9, 3.9)


def uniform(words, chain, clock, lanes):
    """The first two moments of a normal, and none of the others."""
    return (jax.scipy.special.ndtr(default(words, chain, clock, lanes)) - 0.5) * np.float32(np.sqrt(12))


def pcg4d(words, chain, clock, lanes):
    """A hash that is popular in graphics (Jarzynski and Olano 2020); its marginals pass, neighbouring counters correlate."""
    steps = jnp.arange(64 // lanes, dtype=jnp.uint32)[:, None, None] + clock.step[0]
    lane = jnp.arange(lanes, dtype=jnp.uint32)[:, None]
    v = jnp.broadcast_arrays(chain[0] + words[0], steps + words[1], lane, chain[1] + clock.step[1])
    x, y, z, w = (u * np.uint32(1664525) + np.uint32(1013904223) for u in v)
    for again in (True, False):
        x = x + y * w
        y = y + z * x
        z = z + x * y
        w = w + y * z
        if again:
            x, y, z, w = (u ^ (u >> np.uint32(16)) for u in (x, y, z, w))
    return random.box_muller(x, y)[0]


TWINS = {
    louder: ["moment 2", "moment 8", "Kolmogorov-Smirnov", "beyond 4.0"],
    shifted: ["moment 1", "Kolmogorov-Smirnov"],
    lane_reused: ["lane + 1"],
    sign_only: ["lane + 1, squares"],
    short_chain_numbers: ["chain + 2^16"],
    low_chain_word: ["chain + 2^32"],
    low_step_word: ["step + 2^32"],
    step_reused: ["step + 4"],
    key_ignored: ["key + 1"],
    short_tail: ["beyond 4.0"],
    uniform: ["moment 4", "chi-square", "beyond 3.0"],
    pcg4d: ["chain + 1"],
    two_rounds: ["moment 2", "chain + 1", "step + 4", "chi-square"],
    five_rounds: ["chain + 2^32"],
    xoshiro_of_two_rounds: ["chain + 1", "chi-square"],
}


@pytest.mark.parametrize("twin", TWINS, ids=lambda f: f.__name__)
def test_twins_are_found(twin):
    found = failures(scores(twin, 4, 2))
    assert set(TWINS[twin]) <= set(found), found


# --- the far tail, by conditioning on a small first word ---


def tail_gap(mask):
    """Kolmogorov-Smirnov of the squared radius where a < 2^12, that is beyond 5.3: it is exponential, given that.

    10^5 draws there are worth 10^11 unconditioned ones. `mask` clears bits of the first word.
    """
    rng = np.random.default_rng(7)
    a, b = rng.integers(0, 2**12, 100_000, dtype=np.uint32), rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    x, y = jax.jit(random.box_muller)(a & np.uint32(mask), b)
    level = np.exp(-(np.asarray(x, np.float64) ** 2 + np.asarray(y, np.float64) ** 2) / 2) * 2**20
    return scipy.stats.kstest(level, "uniform").pvalue


def test_far_tail():
    """Exact far beyond what 1e8 draws can show; a first word of 24 bits is not."""
    assert tail_gap(0xFFFFFFFF) > 1e-6
    assert tail_gap(0xFFFFFF00) < 1e-6


# --- the words of one call, beside each other ---


def pairs_in_a_call(draw):
    """z-scores over 2^18 states, all pairs of 16 words: product, product of squares, and the parity of any two bits."""
    rng = np.random.default_rng(11)
    states = tuple(jnp.asarray(w) for w in rng.integers(0, 2**32, (4, 2**18), dtype=np.uint32))
    words = np.asarray(draw(states)[0])
    n, out = words.shape[1], {}
    centred = (words.astype(np.float64) + 0.5) / 2**32 - 0.5
    square = centred**2 - 1 / 12
    upper = np.triu_indices(16, 1)
    out["product"] = (centred @ centred.T)[upper] * 12 / np.sqrt(n)
    out["squares"] = (square @ square.T)[upper] * 180 / np.sqrt(n)
    for bit in (0, 1, 2, 15, 30, 31):
        sign = 1.0 - 2.0 * (words >> np.uint32(bit) & 1)
        out[f"bit {bit}"] = (sign @ sign.T)[upper] / np.sqrt(n)
        out[f"bits {bit}, of three"] = np.einsum("an,bn,cn->abc", sign[:4], sign[4:8], sign[8:]).ravel() / np.sqrt(n)
    sign = 1.0 - 2.0 * (words >> np.uint32(31))
    low = 1.0 - 2.0 * (words & np.uint32(1))
    out["highest and lowest bit"] = (sign @ low.T).ravel() / np.sqrt(n)
    return {name: np.abs(z).max() for name, z in out.items()}


def test_words_of_a_call_are_independent():
    """About 2100 scores beyond 6 with a probability of 4e-6 together. The twin begins again after eight."""
    assert max(pairs_in_a_call(lambda state: random.burst(state, 16)).values()) < 6

    def again(state):
        words, _ = random.burst(state, 8)
        return jnp.concatenate([words, words]), None

    assert max(pairs_in_a_call(again).values()) > 6


def test_lowest_bits_of_a_call_are_free():
    """They are linear in the 128 bits of the state: any 16 in a row are independent if, as linear forms, they are."""
    states = np.zeros((4, 129), np.uint32)
    for i in range(128):
        states[i // 32, i] = np.uint32(1) << np.uint32(i % 32)
    bits = np.asarray(random.burst(tuple(jnp.asarray(w) for w in states), 128)[0][:, :128] & 1, np.int64)
    assert rank(bits) == 128 and rank(bits[:16]) == 16
    with_one_that_others_make = np.concatenate([bits[:16], bits[:1] ^ bits[5:6]])
    assert rank(with_one_that_others_make) == 16


def rank(bits):
    """Of a matrix over the field of two: rows as integers, each reduced by those before."""
    pivots: dict[int, int] = {}
    for row in bits:
        value = int("".join(map(str, row)), 2)
        while value and value.bit_length() in pivots:
            value ^= pivots[value.bit_length()]
        if value:
            pivots[value.bit_length()] = value
    return len(pivots)
