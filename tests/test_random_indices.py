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


@pytest.mark.parametrize("b", [1, 2, 4])
def test_indices_are_independent(b):
    """Pairs across chain, step and lane fill all 100 cells evenly."""
    drawn = indices(10, b, 64, 8192)
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
    monkeypatch.setattr(permutations, "ROUNDS", 6)
    few = permutation_table.__wrapped__(n, 2048, 64)
    assert p_value(lehmer(np.asarray(few)), count) < ALPHA


@pytest.mark.parametrize("n", [100, 1001])
def test_pairs_of_places_of_a_large_permutation(n):
    """(π(0), π(1)) in 8 × 8 cells: uniform over ordered pairs without repeats."""
    table = np.asarray(permutation_table(n, 4096, 32))
    cell = np.arange(n) * 8 // n
    sizes = np.bincount(cell)
    odds = (np.outer(sizes, sizes) - np.diag(sizes)) / (n * (n - 1))
    for i, j in ((0, 1), (1, 2), (0, n - 1), (n // 2, n // 2 + 1)):
        assert p_value(8 * cell[table[:, i]] + cell[table[:, j]], 64, odds.ravel()) > ALPHA
    assert p_value(8 * cell[table[:, 0]] + cell[(table[:, 0] + 1) % n], 64, odds.ravel()) < ALPHA  # twin: a rotation


def distance_to_uniform(n, rounds):
    """Exactly: total variation between swap-or-not with independent fair bits and uniform, by convolution over all n!."""
    perms = np.array(list(itertools.permutations(range(n))))
    place = n ** np.arange(n)
    codes = perms @ place
    order = np.argsort(codes)
    moves: dict[tuple[int, ...], float] = {}
    for pivot in range(n):
        pairs = sorted({tuple(sorted((x, (pivot - x) % n))) for x in range(n) if x != (pivot - x) % n})
        for bits in itertools.product((False, True), repeat=len(pairs)):
            move = list(range(n))
            for x, y in itertools.compress(pairs, bits):
                move[x], move[y] = y, x
            moves[tuple(move)] = moves.get(tuple(move), 0.0) + 1 / n / 2 ** len(pairs)
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


def test_signs_are_fair_and_independent():
    drawn = draw(Draws(signs=40), 64, 2048).signs
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    n = drawn.size

    def score(products):
        return abs(np.sum(products, dtype=np.float64)) / np.sqrt(np.size(products))

    assert score(drawn) < 5
    for x, y in ((drawn[1:], drawn[:-1]), (drawn[..., 1:], drawn[..., :-1])):
        assert score(x * y) < 5
    for lag in (1, 2, 8, 31, 32, 39):
        assert score(drawn[:, lag:] * drawn[:, :-lag]) < 5
    each = np.sum(drawn, axis=(0, 2), dtype=np.float64) / np.sqrt(n / 40)
    assert np.max(np.abs(each)) < 5
    reused = np.concatenate([drawn[:, :32], drawn[:, :8]], axis=1)  # the twin: the second word is the first
    assert score(reused[:, 32:] * reused[:, :8]) > 5


def test_three_point_odds_are_exact():
    """The words of each value are an interval, of length within one of 2^32/6, 2^32·4/6 and 2^32/6."""
    low, high = -(-(2**32) // 6), -(-5 * 2**32 // 6)
    words = np.array([0, low - 1, low, 2**31, high - 1, high, 2**32 - 1], np.uint32)
    r = np.float32(np.sqrt(3))
    np.testing.assert_array_equal(random.three_point(words), [-r, -r, 0, 0, 0, r, r])
    assert max(abs(low / 2**32 - 1 / 6), abs((2**32 - high) / 2**32 - 1 / 6)) < 2**-31


def test_three_point_moments():
    """Mean 0, variance 1, skewness 0, fourth moment 3, like a normal; ±√3 with equal odds would have fourth moment 9."""
    drawn = draw(Draws(three_point=3), 64, 8192).three_point.astype(np.float64)
    n = drawn.size
    truth = {k: 3 ** (k // 2) / 3 if k % 2 == 0 else 0.0 for k in range(1, 13)}
    for k in range(1, 7):
        assert abs(np.mean(drawn**k) - truth[k]) < 5 * np.sqrt((truth[2 * k] - truth[k] ** 2) / n)
    assert abs(np.mean((1.05 * drawn) ** 2) - 1) > 5 * np.sqrt(2 / n)
    for x, y in ((drawn[1:], drawn[:-1]), (drawn[..., 1:], drawn[..., :-1]), (drawn[:, 1:], drawn[:, :-1])):
        assert abs(np.mean(x * y)) < 5 / np.sqrt(x.size)
        assert abs(np.mean((x**2 - 1) * (y**2 - 1))) < 5 * 2 / np.sqrt(x.size)
