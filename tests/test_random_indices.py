"""Indices, permutations, signs and three-point variables: exact where that can be computed, else chi-square tests.

A chi-square test passes if its p-value exceeds 1e-6; about 60 of them make a false-alarm budget of 6e-5 over seeds, and
with the fixed seeds used here the outcome is fixed.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxsde import random
from jaxsde.random import permutations
from jaxsde.types import Draws

ALPHA = 1e-6
WORDS, ZERO = np.array([1, 2], np.uint32), np.uint32(0)


def ids(count, high=0):
    return jnp.arange(count, dtype=jnp.uint32), jnp.full(count, high, jnp.uint32)


@functools.partial(jax.jit, static_argnames=("draws", "length", "chains"))
def block(draws, length, chains, clock):
    return random.block(WORDS, draws, ids(chains), clock, length)


def draw(draws, length, chains, step=0):
    return jax.tree.map(np.asarray, block(draws, length, chains, random.clock(step, draws)))


def indices(n, b, length, chains, scheme="independent"):
    return draw(Draws(indices=b, population=n, scheme=scheme), length, chains).indices


def p_value(cells, count, expected=None):
    """Of `cells` (integers below `count`) against equal odds, or the odds `expected`."""
    observed = np.bincount(np.ravel(cells), minlength=count)
    assert observed.size == count
    odds = np.full(count, 1 / count) if expected is None else np.asarray(expected)
    return scipy.stats.chisquare(observed, odds * observed.sum()).pvalue


# --- indices below n ---


def test_below_is_the_128_bit_product():
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 2**32, (2, 300), dtype=np.uint32)
    high[:4], low[:4] = [0, 2**32 - 1, 0, 2**32 - 1], [0, 2**32 - 1, 2**32 - 1, 0]
    for n in (1, 2, 3, 10, 569, 2**16 + 1, 3 * 2**29, 2**31 - 1):
        want = [(int(h) * 2**32 + int(w)) * n // 2**64 for h, w in zip(high, low, strict=True)]
        np.testing.assert_array_equal(random.below(high, low, n), want)
        # just below and at the boundary of each of a few cells: the carry from the lower word counts
        for k in {1, n // 2, n - 1} - {0, n}:
            edge = -(-k * 2**64 // n)
            words = np.array([divmod(e, 2**32) for e in (edge - 1, edge)], np.uint32).T
            np.testing.assert_array_equal(random.below(*words, n), [k - 1, k])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 64, 569, 4099])
def test_indices_are_uniform(n):
    drawn = indices(n, 4, 32, 8192)
    assert drawn.dtype == np.int32 and drawn.min() >= 0 and drawn.max() < n
    assert n == 1 or p_value(drawn, n) > ALPHA


@pytest.mark.parametrize("n", [2**20 + 7, 3 * 2**29, 2**31 - 1])
def test_indices_of_large_populations(n):
    """3·2^29 is where a remainder of 32 bits is worst; the twin is that remainder."""
    drawn = indices(n, 4, 32, 8192).astype(np.int64)
    assert drawn.min() >= 0 and drawn.max() < n
    assert p_value(drawn * 48 // n, 48) > ALPHA
    words = np.random.default_rng(0).integers(0, 2**32, drawn.size)
    assert p_value(words % (3 * 2**29) * 48 // (3 * 2**29), 48) < ALPHA


@pytest.mark.parametrize("b, stream", [(b, s) for s in random.STREAMS for b in (1, 2, 4, 9)])
def test_indices_are_independent(b, stream):
    """Pairs across chain, step and lane fill all 100 cells evenly."""
    drawn = draw(Draws(indices=b, population=10, stream=stream), 64, 8192).indices
    pairs = {
        "chain": (drawn[..., 1::2], drawn[..., ::2]),
        "step": (drawn[1::2], drawn[::2]),
        "step 4": (drawn[4:8], drawn[:4]),
    }
    if b > 1:
        pairs["lane"] = drawn[:, 1], drawn[:, 0]
    for name, (x, y) in pairs.items():
        assert p_value(10 * x + y, 100) > ALPHA, name
    assert p_value(11 * drawn[::2], 100) < ALPHA  # the twin: a step reused


# --- samples without repeats ---


@pytest.mark.parametrize("n, b", [(5, 3), (6, 2), (4, 4), (7, 6), (3, 1)])
def test_distinct_samples(n, b):
    """No repeats, every subset equally likely, and every position uniform by itself."""
    drawn = indices(n, b, 32, 4096, "distinct")
    ordered = np.sort(drawn, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all() and ordered.min() >= 0 and ordered.max() < n
    number = {s: i for i, s in enumerate(itertools.combinations(range(n), b))}
    code = {sum(1 << i for i in s): k for s, k in number.items()}
    subset = np.vectorize(code.__getitem__)(np.sum(1 << drawn, axis=1))
    for j in range(b):
        assert p_value(drawn[:, j], n) > ALPHA
    if len(number) > 1:
        assert p_value(subset, len(number)) > ALPHA
        count = len(number)
        assert p_value(count * subset[1::2] + subset[::2], count**2) > ALPHA  # steps
        assert p_value(count * subset[:, 1::2] + subset[:, ::2], count**2) > ALPHA  # chains
    if 1 < b < n - 1:  # the twin: neighbours on a circle have no repeats and uniform positions, and are not all subsets
        twin = (drawn[:, :1] + np.arange(b)[:, None]) % n
        codes = np.vectorize(code.__getitem__)(np.sum(1 << twin, axis=1))
        assert p_value(codes, count) < ALPHA


def test_large_distinct_samples():
    drawn = indices(569, 64, 8, 512, "distinct")
    ordered = np.sort(drawn, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all() and ordered.min() >= 0 and ordered.max() < 569
    # each step takes 64 of 569 cells, so counts vary by 1 - 64/569 of the multinomial's variance
    observed = np.bincount(drawn.ravel(), minlength=569)
    mean = drawn.size / 569
    chi2 = np.sum((observed - mean) ** 2) / mean / (1 - 64 / 569) * (568 / 569)
    assert abs(chi2 - 568) < 5 * np.sqrt(2 * 568)


# --- permutations ---


@functools.partial(jax.jit, static_argnames=("n", "chains", "epochs"))
def permutation_table(n, chains, epochs, first=ZERO):
    """[epochs, n, chains]"""
    epoch = (jnp.arange(epochs, dtype=jnp.uint32) + first)[:, None, None]
    return random.permutation_at(WORDS, ids(chains), (epoch, epoch * 0), jnp.arange(n)[:, None], n)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 16, 17, 100, 1000, 4099])
def test_permutations_are_permutations(n):
    table = np.asarray(permutation_table(n, 5, 3))
    assert table.dtype == np.int32
    assert (np.sort(table, axis=1) == np.arange(n)[:, None]).all()


def test_permutation_of_the_largest_population():
    n = 2**31 - 1
    places = np.concatenate([np.arange(5000), n - 1 - np.arange(5000), np.arange(2**30, 2**30 + 5000)])
    image = np.asarray(random.permutation_at(WORDS, ids(3), (ZERO, ZERO), places[:, None], n))
    assert image.min() >= 0 and image.max() < n
    assert all(np.unique(image[:, c]).size == places.size for c in range(3))
    assert p_value(image.astype(np.int64) * 16 // n, 16) > ALPHA


def lehmer(table):
    """[epochs, n, chains] permutations -> their ranks below n!"""
    n = table.shape[1]
    rank = np.zeros(table.shape[::2], np.int64)
    for i in range(n):
        rank = rank * (n - i) + np.sum(table[:, i + 1 :] < table[:, i : i + 1], axis=1)
    return rank


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_permutations_are_uniform_over_epochs_and_chains(n, monkeypatch):
    count = math.factorial(n)
    rank = lehmer(np.asarray(permutation_table(n, 2048, 64)))
    assert p_value(rank, count) > ALPHA
    pairs = {"epoch": (rank[1::2], rank[::2]), "chain": (rank[:, 1::2], rank[:, ::2])}
    for name, (x, y) in pairs.items():
        x, y = (x % 24, y % 24) if n == 5 else (x, y)
        assert p_value(min(count, 24) * x + y, min(count, 24) ** 2) > ALPHA, name
    # the twin: too few rounds do not mix
    monkeypatch.setattr(permutations, "ROUNDS", 4)
    few = permutation_table.__wrapped__(n, 2048, 64)
    assert p_value(lehmer(np.asarray(few)), count) < ALPHA


@pytest.mark.parametrize("n", [100, 1001])
def test_pairs_of_places_of_a_large_permutation(n):
    """(π(0), π(1)) in 8 × 8 cells: uniform over ordered pairs without repeats. And four places in halves."""
    table = np.asarray(permutation_table(n, 4096, 32))
    cell = np.arange(n) * 8 // n
    sizes = np.bincount(cell)
    odds = (np.outer(sizes, sizes) - np.diag(sizes)) / (n * (n - 1))
    for i, j in ((0, 1), (1, 2), (0, n - 1), (n // 2, n // 2 + 1)):
        assert p_value(8 * cell[table[:, i]] + cell[table[:, j]], 64, odds.ravel()) > ALPHA
    assert p_value(8 * cell[table[:, 0]] + cell[(table[:, 0] + 1) % n], 64, odds.ravel()) < ALPHA  # twin: a rotation
    high, sizes = np.arange(n) >= n // 2, (n // 2, n - n // 2)
    falling = [math.perm(sizes[0], 4 - k) * math.perm(sizes[1], k) / math.perm(n, 4) for k in range(5)]
    odds = [falling[sum(bits)] for bits in itertools.product((0, 1), repeat=4)]
    four = [8 * high[table[:, a]] + 4 * high[table[:, a + 1]] + 2 * high[table[:, a + 4]] + high[table[:, a + 5]] for a in (0, 7)]
    assert p_value(four, 16, odds) > ALPHA
    rounds = [high[table[:, a]] for a in (0, 1, 4)]  # the twin: the fourth makes the number of ones even
    assert p_value(8 * rounds[0] + 4 * rounds[1] + 2 * rounds[2] + (rounds[0] ^ rounds[1] ^ rounds[2]), 16, odds) < ALPHA


def bits_law(points):
    """The odds of the bits of a round's hash at small `points`, over slope a and offset b. In units of 2^32 a bit changes where
    a·m + b passes 0 or ½: for given a the parts of b are linear in a between multiples of 1/840 (differences of points up to 7
    divide 420), so the midpoint rule is exact."""
    law: dict[tuple[bool, ...], float] = {}
    for a in (np.arange(840) + 0.5) / 840:
        cuts = np.unique([0.0, 1.0, *((half - a * m) % 1 for m in points for half in (0.0, 0.5))])
        for low, high in itertools.pairwise(cuts):
            bits = tuple(bool((a * m + (low + high) / 2) % 1 >= 0.5) for m in points)
            law[bits] = law.get(bits, 0.0) + (high - low) / 840
    return law


def test_bits_of_a_round_are_fair_and_pairwise_independent():
    """So two places move as under independent bits; of four points with a + d = b + c the odds of an even number of ones are 2/3."""
    for points in itertools.combinations(range(8), 2):
        np.testing.assert_allclose(list(bits_law(points).values()), 1 / 4, atol=1e-12)
    four = bits_law((1, 2, 5, 6))
    assert sum(w for bits, w in four.items() if sum(bits) % 2 == 0) == pytest.approx(2 / 3, abs=1e-12)
    # the very function, at chosen points: both partners of a pair, K = 7 of n = 8, go or stay together, as the law says
    slope, offset = np.random.default_rng(3).integers(0, 2**32, (2, 1, 100_000), dtype=np.uint32)
    x = np.arange(8, dtype=np.uint32)[:, None]
    moved = np.asarray(permutations.one_round(x, np.uint32(7), slope, offset, 8))
    swapped = moved != x
    assert (np.where(swapped, 7 - x, x) == moved).all() and (swapped == swapped[::-1]).all()
    law = bits_law((4, 5, 6, 7))
    odds = [law.get(bits, 0.0) for bits in itertools.product((False, True), repeat=4)]
    kept = np.array(odds) > 0
    cells = swapped[4:].T @ [8, 4, 2, 1]
    assert kept[cells].all() and p_value(np.cumsum(kept)[cells] - 1, kept.sum(), np.array(odds)[kept]) > ALPHA
    assert p_value(cells, 16) < ALPHA  # the twin: four bits that are independent


def distance_to_uniform(n, rounds):
    """Exactly: total variation between swap-or-not and uniform, by convolution over all n!."""
    perms = np.array(list(itertools.permutations(range(n))))
    place = n ** np.arange(n)
    codes = perms @ place
    order = np.argsort(codes)
    moves: dict[tuple[int, ...], float] = {}
    for pivot in range(n):
        pairs = sorted({tuple(sorted((x, (pivot - x) % n))) for x in range(n) if x != (pivot - x) % n})
        for bits, odds in bits_law([high for _, high in pairs]).items():
            move = list(range(n))
            for x, y in itertools.compress(pairs, bits):
                move[x], move[y] = y, x
            moves[tuple(move)] = moves.get(tuple(move), 0.0) + odds / n
    tables = [(w, order[np.searchsorted(codes[order], np.array(m)[perms] @ place)]) for m, w in moves.items()]
    law = np.zeros(len(perms))
    law[0] = 1.0
    for _ in range(rounds):
        law = sum(w * law[t] for w, t in tables)
    return np.sum(np.abs(law - 1 / len(perms))) / 2


@pytest.mark.parametrize("n", range(2, 9))
def test_rounds_are_enough_for_small_populations(n):
    assert distance_to_uniform(n, random.ROUNDS) < 1e-6
    assert distance_to_uniform(n, 8) > 1e-3


@pytest.mark.parametrize("n, b", [(7, 2), (8, 2), (5, 1), (6, 6), (100, 7)])
def test_epochs_walk_through_one_permutation(n, b):
    """n // b steps take what permutation_at says, in order, with no repeats; a block may begin anywhere."""
    draws, per_epoch = Draws(indices=b, population=n, scheme="epoch"), n // b
    drawn = draw(draws, 5 * per_epoch, 6).indices
    epochs = drawn.reshape(5, per_epoch * b, 6)
    table = np.asarray(permutation_table(n, 6, 5))
    np.testing.assert_array_equal(epochs, table[:, : per_epoch * b])
    assert (epochs[0] != epochs[1]).any() and (n == b or (drawn[..., 0] != drawn[..., 1]).any())
    late = per_epoch * (2**32 - 2) + 1
    far = draw(draws, 3 * per_epoch - 1, 6, late).indices
    last = np.asarray(permutation_table(n, 6, 2, np.uint32(2**32 - 2)))[:, : per_epoch * b].reshape(2 * per_epoch, b, 6)
    np.testing.assert_array_equal(far[: 2 * per_epoch - 1], last[1:])


# --- signs and three-point variables ---


def score(products, sd=1.0):
    return abs(np.sum(products, dtype=np.float64)) / (sd * np.sqrt(np.size(products)))


LAGS = (1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 64, 128)  # of steps: the same word, the same call, and beyond


@pytest.mark.parametrize("count, stream", [(c, s) for s in random.STREAMS for c in (1, 3, 10, 40)])
def test_signs_are_fair_and_independent(count, stream):
    drawn = draw(Draws(signs=count, stream=stream), 192, 1024).signs
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert score(drawn) < 5
    for lag in LAGS:
        assert score(drawn[lag:] * drawn[:-lag]) < 5
        assert score(drawn[lag:, :, 1:] * drawn[:-lag, :, :-1]) < 5
    for lag in (1, 2, 64):
        assert score(drawn[..., lag:] * drawn[..., :-lag]) < 5
    for lag in range(1, count):
        assert score(drawn[:, lag:] * drawn[:, :-lag]) < 5
    each = np.sum(drawn, axis=(0, 2), dtype=np.float64) / np.sqrt(drawn.size / count)
    assert np.max(np.abs(each)) < 5
    # eight in a row, in the order in which words are read
    bits = drawn.reshape(192 * count // 8, 8, 1024) > 0
    assert p_value(np.tensordot(2 ** np.arange(8), bits, (0, 1)), 256) > ALPHA
    # twins: the second word is the first, and a call that is used twice
    again = np.concatenate([drawn[:32], drawn[:32]])
    assert score(again[32:] * again[:-32]) > 5
    bits[:, 7] = bits[:, 3] ^ bits[:, 0]
    assert p_value(np.tensordot(2 ** np.arange(8), bits, (0, 1)), 256) < ALPHA


def test_three_point_odds_are_exact():
    """The words of each value are an interval, of length within one of 2^32/6, 2^32·4/6 and 2^32/6. Later digits are those of
    64 bits."""
    low, high = -(-(2**32) // 6), -(-5 * 2**32 // 6)
    words = np.array([0, low - 1, low, 2**31, high - 1, high, 2**32 - 1], np.uint32)
    r = np.float32(np.sqrt(3))
    np.testing.assert_array_equal(random.three_point(words, 0 * words, np.array(0)), [-r, -r, 0, 0, 0, r, r])
    assert max(abs(low / 2**32 - 1 / 6), abs((2**32 - high) / 2**32 - 1 / 6)) < 2**-31
    digits = np.array(list(itertools.product((0, 2, 5), repeat=8)))
    least = digits.astype(object) @ [6 ** (7 - i) for i in range(8)]
    for next_cell, inside in ((0, 2**40), (1, -(2**40))):  # near both ends of the cell of numbers with these digits
        x = [(k + next_cell) * 2**64 // 6**8 + inside for k in least]
        words = [np.array([n >> shift & 0xFFFFFFFF for n in x], np.uint32) for shift in (32, 0)]
        for place in range(8):
            want = np.choose(digits[:, place] // 2, [-r, 0, r])
            np.testing.assert_array_equal(random.three_point(*words, np.array(place)), want)


@pytest.mark.parametrize("count, stream", [(c, s) for s in random.STREAMS for c in (1, 3, 9)])
def test_three_point_moments(count, stream):
    """Mean 0, variance 1, skewness 0, fourth moment 3, like a normal; ±√3 with equal odds would have fourth moment 9."""
    drawn = draw(Draws(three_point=count, stream=stream), 192, 2048).three_point.astype(np.float64)
    n = drawn.size
    truth = {k: 3 ** (k // 2) / 3 if k % 2 == 0 else 0.0 for k in range(1, 13)}
    for k in range(1, 7):
        assert abs(np.mean(drawn**k) - truth[k]) < 5 * np.sqrt((truth[2 * k] - truth[k] ** 2) / n)
    assert abs(np.mean((1.05 * drawn) ** 2) - 1) > 5 * np.sqrt(2 / n)
    pairs = [(drawn[lag:], drawn[:-lag]) for lag in LAGS[:-2]]
    pairs += [(drawn[..., lag:], drawn[..., :-lag]) for lag in (1, 2, 64)]
    pairs += [(drawn[:, lag:], drawn[:, :-lag]) for lag in range(1, count)]
    for x, y in pairs:
        assert score(x * y) < 5 and score((x**2 - 1) * (y**2 - 1), 2) < 5
    # four in a row, in the order in which words are read: 81 patterns
    digits = np.rint(drawn.reshape(192 * count // 4, 4, 2048) / np.sqrt(3) + 1).astype(int)
    odds = [math.prod((1, 4, 1)[d] / 6 for d in pattern) for pattern in itertools.product(range(3), repeat=4)]
    assert p_value(np.tensordot([27, 9, 3, 1], digits, (0, 1)), 81, odds) > ALPHA
    digits[:, 3] = np.where(digits[:, 1] == 1, digits[:, 3], digits[:, 0])  # the twin
    assert p_value(np.tensordot([27, 9, 3, 1], digits, (0, 1)), 81, odds) < ALPHA


@pytest.mark.parametrize("words", [4, 16])
def test_two_rounds_are_found(words, monkeypatch):
    """The twin of a cipher with too few rounds, in each kind of draw: neighbouring chains are alike."""
    monkeypatch.setitem(random.STREAMS, f"two rounds, {words} words", random.Stream(2, words))
    drawn = draw(Draws(signs=10, three_point=3, indices=1, population=10, stream=f"two rounds, {words} words"), 64, 2048)
    assert score(drawn.signs[..., 1:] * drawn.signs[..., :-1]) > 5
    assert score(drawn.three_point[..., 1:] * drawn.three_point[..., :-1]) > 5
    assert p_value(10 * drawn.indices[..., 1::2] + drawn.indices[..., ::2], 100) < ALPHA
