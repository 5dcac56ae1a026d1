"""Draws, exactly: the cipher against its published vectors and a second implementation in Python integers, keys, purity."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_default import some
from jax import lax

from jaxsde import random
from jaxsde.types import Draws

WORD = 2**32
EVERYTHING = Draws(normals=3, signs=37, three_point=2, indices=2, population=7)
KINDS = {
    "one normal": Draws(normals=1),
    "two normals": Draws(normals=2),
    "three normals": Draws(normals=3),
    "ten normals": Draws(normals=10),
    "one sign": Draws(signs=1),
    "three signs": Draws(signs=3),
    "forty signs": Draws(signs=40),
    "one three-point": Draws(three_point=1),
    "three three-point": Draws(three_point=3),
    "ten three-point": Draws(three_point=10),
    "one index": Draws(indices=1, population=10),
    "three indices": Draws(indices=3, population=10),
    "distinct": Draws(indices=3, population=7, scheme="distinct"),
    "epochs of 3": Draws(indices=2, population=7, scheme="epoch"),
    "epochs of 1": Draws(indices=5, population=7, scheme="epoch"),
    "epochs of 100": Draws(indices=1, population=100, scheme="epoch"),
    "everything": EVERYTHING,
}


# each shape by itself where there is time; by default all of them at once, and one of each
SOME = ("one normal", "three three-point", "epochs of 100", "everything")
BY_KIND = some(KINDS, SOME)


# --- a second implementation, in Python integers, of the published algorithm and of the documented layout ---


def philox(counter, key, rounds=10):
    a, b, c, d = counter
    p, q = key
    for _ in range(rounds):
        x, y = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (y // WORD) ^ b ^ p, y % WORD, (x // WORD) ^ d ^ q, x % WORD
        p, q = (p + 0x9E3779B9) % WORD, (q + 0xBB67AE85) % WORD
    return a, b, c, d


def xoshiro(state, count):
    """xoshiro128+, as its authors' C code has it."""
    s, out = list(state), []
    for _ in range(count):
        out.append((s[0] + s[3]) % WORD)
        t = (s[1] << 9) % WORD
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = (s[3] << 11) % WORD | s[3] >> 21
    return out


def call_of_step(key, purpose, chain, step, count, served=1, stream="xoshiro128+"):
    """All words of the call that one step of one chain, of `count` words, takes part in, and where its own begin. A call gives
    four, or sixteen normals and indices where the four are the state of a xoshiro128+."""
    long = stream == "xoshiro128+" and purpose in (random.Purpose.NOISE, random.Purpose.INDICES)
    rounds, per = 7 if stream == "xoshiro128+" else 10, 16 if long else 4
    sharing = shared(count, per) if count <= 4 else 1
    out = []
    for lane in range(-(-count // per)):
        lane_key = philox((lane, purpose, sharing * served, 0x6A617873), key)[:2]
        call = step // sharing
        words = philox((chain % WORD, chain // WORD, call % WORD, call // WORD), lane_key, rounds)
        out += xoshiro(words, per) if long else words
    return out, step % sharing * count


def words_of_step(key, purpose, chain, step, count, served=1, stream="xoshiro128+"):
    """The `count` words that one step of one chain owns; or, of a group of words, the steps that it serves."""
    words, start = call_of_step(key, purpose, chain, step, count, served, stream)
    return words[start : start + count]


def normals_of_step(key, chain, step, count, stream="xoshiro128+"):
    """Two of each pair of words, of which a step may own one."""
    words, start = call_of_step(key, random.Purpose.NOISE, chain, step, count, stream=stream)
    return np.ravel([exact_normals(*words[i : i + 2]) for i in range(0, len(words), 2)])[start : start + count]


def shared(count, per):
    """Steps that share a group of `per` variables: the largest power of two."""
    return max((2**k for k in range(6) if 2**k * count <= per), default=1)


def exact_signs(key, chain, step, count, stream="xoshiro128+"):
    """The bits of a group's word, from the lowest on."""
    m = shared(count, 32)
    words = words_of_step(key, random.Purpose.SIGNS, chain, step // m, -(-count // 32), m, stream)
    places = [step % m * count + j for j in range(count)]
    return [1 - 2 * (words[i // 32] >> i % 32 & 1) for i in places]


def exact_three_point(key, chain, step, count, stream="xoshiro128+"):
    """The digits in base 6 of a group's 64 bits, from the highest on."""
    m = shared(count, 8)
    words = words_of_step(key, random.Purpose.THREE_POINT, chain, step // m, 2 * -(-count // 8), m, stream)
    places = [step % m * count + j for j in range(count)]
    bits = [words[i // 8 * 2] * WORD + words[i // 8 * 2 + 1] for i in places]
    digits = [x * 6 ** (i % 8) % 2**64 * 6 // 2**64 for x, i in zip(bits, places, strict=True)]
    return [{0: -np.sqrt(3), 5: np.sqrt(3)}.get(digit, 0.0) for digit in digits]


def exact_normals(a, b):
    """Box-Muller from words in float64: u = (a + ½)/2^32; b signed gives the angle, a half turn, its lowest bit the sign."""
    a, b = np.asarray(a, np.uint32), np.asarray(b, np.uint32)
    minus_one = np.where(a >= 2**31, a.astype(float) + 0.5 - WORD, a.astype(float) + 0.5) / WORD - (a < 2**31)
    radius = np.sqrt(-2 * np.log1p(minus_one)) * np.where(b & 1, -1, 1)
    angle = b.view(np.int32) * (np.pi / 2 / 2**31)
    return radius * np.cos(angle), radius * np.sin(angle)


def halves(value):
    return np.uint32(value % WORD), np.uint32(value // WORD)


def ids(chains):
    chains = np.asarray(chains, np.uint64)
    return jnp.asarray(chains % WORD, jnp.uint32), jnp.asarray(chains // WORD, jnp.uint32)


@functools.partial(jax.jit, static_argnames=("draws", "length", "dtype", "aligned"))
def compiled(words, draws, chain, clock, length, dtype=np.float32, aligned=1):
    return random.block(words, draws, chain, clock, length, dtype, aligned=aligned)


def block(draws, step, length, chains=(0, 1, 2), seed=3, **kwargs):
    words, clock = random.key_words(random.key(seed)), random.clock(step, draws)
    return jax.tree.map(np.asarray, compiled(words, draws, ids(chains), clock, length, **kwargs))


def assert_same(x, y):
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_array_equal(a, b)


# --- the cipher ---

RANDOM123 = {  # kat_vectors of the Random123 distribution, philox4x32 10
    ((0, 0, 0, 0), (0, 0)): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)): (
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    ),
}


@pytest.mark.parametrize("counter, key", RANDOM123)
def test_known_answers(counter, key):
    uint = tuple(np.uint32(w) for w in counter), tuple(np.uint32(w) for w in key)
    for run in (random.philox4x32, jax.jit(random.philox4x32)):
        assert tuple(int(w) for w in run(*uint)) == RANDOM123[counter, key]
    assert philox(counter, key) == RANDOM123[counter, key]


def test_agrees_with_integers_everywhere():
    words = np.random.default_rng(0).integers(0, WORD, (6, 200), dtype=np.uint64).astype(np.uint32)
    words[:, :6] = [[0, 1, 2**31, 2**31 - 1, WORD - 1, WORD - 2]] * 6
    for rounds in (1, 7, 10):
        got = np.stack(random.philox4x32(tuple(words[:4]), tuple(words[4:]), rounds))
        want = [philox(tuple(map(int, w[:4])), tuple(map(int, w[4:])), rounds) for w in words.T]
        np.testing.assert_array_equal(got.T, want)


def test_xoshiro_of_its_authors():
    """What their C code makes of the state 1, 2, 3, 4, and any word of it, in both implementations."""
    known = [5, 12295, 25178119, 27286542, 39879690, 1140358681, 3276312097, 4110231701, 399823256, 2144435200]
    assert xoshiro((1, 2, 3, 4), 10) == known
    states = np.random.default_rng(2).integers(0, WORD, (4, 50), dtype=np.uint64).astype(np.uint32)
    words, after = random.burst(tuple(states), 11)
    np.testing.assert_array_equal(words.T, [xoshiro(map(int, s), 11) for s in states.T])
    np.testing.assert_array_equal(random.burst(after, 5)[0].T, [xoshiro(map(int, s), 16)[11:] for s in states.T])


@pytest.mark.parametrize("stream", random.STREAMS)
def test_layout_of_the_counter(stream):
    """Chain and step count with all 64 bits, lanes beyond what a call gives, and purposes apart."""
    chains, key = [0, 5, 2**32 + 5, 2**64 - 1], (0, 3)
    for step in (0, 3, 2**32 - 1, 2**40 + 2, 2**64 - 1):
        drawn = block(EVERYTHING._replace(stream=stream), step, 1, chains)
        for c, chain in enumerate(chains):
            np.testing.assert_allclose(drawn.normals[0, :, c], normals_of_step(key, chain, step, 3, stream), atol=1e-6)
            np.testing.assert_array_equal(drawn.signs[0, :, c], exact_signs(key, chain, step, 37, stream))
            np.testing.assert_allclose(drawn.three_point[0, :, c], exact_three_point(key, chain, step, 2, stream), rtol=1e-7)
            w = words_of_step(key, random.Purpose.INDICES, chain, step, 4, stream=stream)
            assert list(drawn.indices[0, :, c]) == [(w[i] * WORD + w[i + 1]) * 7 // 2**64 for i in (0, 2)]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 16, 17, 40])
def test_layout_of_long_calls(count):
    """Steps of up to four words share sixteen; a longer one has its own, sixteen to a lane."""
    draws, start, chain, key = Draws(normals=count), 2**32 - 9, 2**33 + 1, (0, 3)
    drawn = block(draws, start, 40, [chain]).normals[..., 0]
    for t in (start, start + 1, start + 6, start + 39):
        np.testing.assert_allclose(drawn[t - start], normals_of_step(key, chain, t, count), atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 17, 33, 70])
def test_layout_of_shared_words(count):
    """Every step of the words that it shares with others has its own part, and what is left of them is nobody's."""
    draws, start, chain, key = Draws(signs=count, three_point=count), 2**32 - 9, 2**33 + 1, (0, 3)
    drawn = block(draws, start, 150, [chain])
    steps = range(start, start + 150)
    np.testing.assert_array_equal(drawn.signs[..., 0], [exact_signs(key, chain, t, count) for t in steps])
    np.testing.assert_allclose(drawn.three_point[..., 0], [exact_three_point(key, chain, t, count) for t in steps], rtol=1e-7)


# --- purity ---


@pytest.mark.parametrize("kind", BY_KIND)
def test_block_is_a_function_of_key_chain_and_step(kind):
    """Where a block starts, how long it is and which other chains share it changes no bit."""
    draws, start, length = KINDS[kind], 2**32 - 5, 11
    whole = block(draws, start, length, range(6))
    for i in (0, 1, 2, 3, 10):
        assert_same(jax.tree.map(lambda x, i=i: x[i : i + 1, :, 1:4], whole), block(draws, start + i, 1, range(1, 4)))
    assert_same(jax.tree.map(lambda x: x[3:10], whole), block(draws, start + 3, 7, range(6)))
    for aligned, size in ((1, length), (8, length), (8, 8), (4, 4), (32, 40)):
        start = 2**32 - aligned
        assert_same(block(draws, start, size), block(draws, start, size, aligned=aligned))
    other = block(draws, start, length, range(6), seed=4)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize("kind", BY_KIND)
def test_block_in_vmap_and_scan(kind):
    draws = KINDS[kind]
    words, chain, clock = random.key_words(random.key(3)), ids([4, 2**33]), random.clock(2**32 - 2, draws)

    def piece(_, i):
        return None, random.block(words, draws, chain, random.advance(clock, i, draws), 2)

    pieces = lax.scan(piece, None, jnp.arange(0, 6, 2))[1]
    whole = block(draws, 2**32 - 2, 6, [4, 2**33])
    assert_same(whole, jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), pieces))
    mapped = jax.vmap(lambda w: compiled(w, draws, chain, clock, 2))(jnp.stack([words, words + 1]))
    assert_same(jax.tree.map(lambda x: x[0], mapped), jax.tree.map(lambda x: x[:2], whole))


def test_shapes_and_types():
    drawn = block(EVERYTHING, 0, 5)
    assert [x.shape for x in drawn] == [(5, 3, 3), (5, 37, 3), (5, 2, 3), (5, 2, 3)]
    assert [str(x.dtype) for x in drawn] == ["float32"] * 3 + ["int32"]
    assert block(Draws(), 0, 5) == ((), (), (), ())
    initial = random.initial_normals(random.key_words(random.key(3)), ids([1, 2]), 3)
    assert initial.shape == (3, 2)
    assert not np.isin(np.asarray(initial), block(Draws(normals=3), 0, 4).normals).any()


def test_float64_follows_the_same_noise():
    with jax.enable_x64(True):
        wide = block(EVERYTHING, 7, 100, range(50), dtype=np.float64)
        assert [str(x.dtype) for x in wide] == ["float64"] * 3 + ["int32"]
    narrow = block(EVERYTHING, 7, 100, range(50))
    np.testing.assert_array_equal(wide.signs, narrow.signs)
    np.testing.assert_array_equal(wide.indices, narrow.indices)
    np.testing.assert_allclose(wide.normals, narrow.normals, atol=1e-6)
    np.testing.assert_allclose(wide.three_point, narrow.three_point, rtol=1e-7)
    assert (wide.normals != narrow.normals).any()


def test_wrong_draws_are_refused():
    for draws, says in (
        (Draws(indices=1), "population = 0"),
        (Draws(indices=1, population=2**31), "2147483648"),
        (Draws(indices=8, population=7, scheme="distinct"), "without repeats"),
        (Draws(indices=8, population=7, scheme="epoch"), "without repeats"),
        (Draws(indices=1, population=7, scheme="shuffled"), "shuffled"),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(ValueError, match=says):
            block(draws, 0, 1)


# --- normals, word by word ---


def extreme_words():
    powers = [2**k + d for k in range(33) for d in range(-40, 41)]
    below = [WORD - 2**k + d for k in range(32) for d in range(-20, 21)]
    edges = [int(WORD * x) + d for x in (2**-0.5, 0.5, 0.75, 2**-1.5, 2**-2.5) for d in range(-40, 41)]
    return np.unique(np.array([w % WORD for w in powers + below + edges], np.uint32))


def worst(a, b, transform=random.box_muller):
    got = [np.asarray(z) for z in jax.jit(transform)(a, b)]
    for z in got:
        assert np.isfinite(z).all()
        assert ((z == 0) | (np.abs(z) > np.finfo(np.float32).tiny)).all()
    exact = exact_normals(a, b)
    return max((np.abs(z - e) / np.hypot(*exact)).max() for z, e in zip(got, exact, strict=True))


def test_normals_of_any_words():
    """Finite, never subnormal and within 3e-7 of the radius of float64's at every power of two, its neighbours, and at random words;
    those of float64 are NumPy's."""
    edge, rng = extreme_words(), np.random.default_rng(1)
    a, b = (x.ravel() for x in np.meshgrid(edge, edge[::7]))
    anything = rng.integers(0, WORD, (2, 2_000_000), dtype=np.uint32)
    assert worst(a, b) <= 3e-7
    assert worst(*anything) <= 3e-7
    assert worst(np.resize(edge, anything[1].size), anything[1]) <= 3e-7
    assert worst(anything[0], np.resize(edge, anything[0].size)) <= 3e-7

    with jax.enable_x64(True):
        assert worst(a, b, functools.partial(random.box_muller, dtype=np.float64)) <= 2e-15

    def rounded(a, b):  # the twin: u itself in float32, which loses the small radii near u = 1
        w = (a.astype(jnp.float32) + 0.5) * np.float32(2.0**-32)
        radius = jnp.sqrt(-2 * jnp.log(w))
        ones = [z / jnp.hypot(*random.box_muller(a * 0, b)) for z in random.box_muller(a * 0, b)]
        return radius * ones[0], radius * ones[1]

    assert worst(a, b, rounded) > 1e-4


def test_largest_normal():
    """All 32 bits reach the radius; the twin keeps 24 and ends below six standard deviations."""
    a, b = np.meshgrid(np.arange(256, dtype=np.uint32), np.arange(8, dtype=np.uint32))
    largest = np.max(np.abs(random.box_muller(jnp.asarray(a), jnp.asarray(b))))
    assert largest == pytest.approx(np.sqrt(2 * np.log(2.0**33)), rel=1e-6)
    twin = np.max(np.abs(random.box_muller(jnp.asarray(a | 255), jnp.asarray(b))))
    assert twin < 5.8


# --- time ---


@pytest.mark.parametrize("kind", ["one normal", "epochs of 3", "epochs of 1", "epochs of 100"])
def test_clock_counts_64_bits(kind):
    draws = KINDS[kind]
    for step in (0, 1, 2**32 - 1, 2**32, 2**40 + 17, 3 * 2**32 - 2, 2**63, 2**64 - 2**31):
        for i in (0, 1, 2, 99, 2**31 - 1):
            got, want = random.advance(random.clock(step, draws), i, draws), random.clock(step + i, draws)
            assert [int(w) for w in jax.tree.leaves(got)] == [int(w) for w in jax.tree.leaves(want)]
    for step in (-1, 2**64):
        with pytest.raises(ValueError, match="outside"):
            random.clock(step, draws)


# --- keys ---


def test_seeds_have_64_bits():
    assert not jax.config.jax_enable_x64
    seeds = [0, 5, 2**32, 2**32 + 5, 2**63, 2**64 - 1]
    words = {tuple(np.asarray(random.key_words(random.key(s)))) for s in seeds}
    assert words == {halves(s)[::-1] for s in seeds}
    np.testing.assert_array_equal(jax.random.key_data(random.key(7)), jax.random.key_data(jax.random.key(7)))
    five, far = (block(Draws(normals=1), 0, 50, seed=s).normals for s in (5, 2**32 + 5))
    assert (five != far).all()
    # the twin: JAX's own constructor drops the upper half
    assert (random.key_words(jax.random.key(5)) == random.key_words(jax.random.key(2**32 + 5))).all()


@pytest.mark.parametrize("seed", [-1, 2**64, np.int64(-5)])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=r"2\^64"):
        random.key(seed)


@pytest.mark.parametrize("seed", [1.5, 2.0, "1", None, True, np.bool_(False), np.float32(1), [1], jnp.arange(2)])
def test_seed_of_wrong_type(seed):
    with pytest.raises(TypeError, match="integer"):
        random.key(seed)


def test_every_key_is_taken():
    typed = jax.random.key(11)
    raw = jax.random.PRNGKey(11)
    want = np.asarray(random.key_words(typed))
    np.testing.assert_array_equal(random.key_words(raw), want)
    np.testing.assert_array_equal(random.key_words(np.asarray(raw)), want)
    np.testing.assert_array_equal(jax.jit(random.key_words)(typed), want)
    seen = set()
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        for seed in range(20):
            words = random.key_words(jax.random.key(seed, impl=impl))
            assert words.shape == (2,) and words.dtype == jnp.uint32
            np.testing.assert_array_equal(words, random.key_words(jax.random.key_data(jax.random.key(seed, impl=impl))))
            seen.add((impl == "threefry2x32", *map(int, words)))
    assert len(seen) == 40  # the two rbg kinds share their data, and nothing else coincides
    wide = random.key_words(np.array([1, 2, 3, 4], np.uint32))
    for i in range(4):  # every word of a wide key counts
        changed = np.array([1, 2, 3, 4], np.uint32)
        changed[i] += 1
        assert (np.asarray(random.key_words(changed)) != wide).any()


@pytest.mark.parametrize(
    "key", [0, 5, 1.0, None, True, "key", (0, 5), [0, 5], np.float32(1), np.arange(2), np.zeros(2)]
)
def test_what_is_no_key(key):
    with pytest.raises(TypeError, match=r"not a random key.*jax\.random\.key"):
        random.key_words(key)


@pytest.mark.parametrize("key", [np.uint32(4), np.zeros(3, np.uint32), np.zeros(0, np.uint32)])
def test_words_of_no_key(key):
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        random.key_words(key)


def test_arrays_of_keys_are_refused_with_the_reason():
    typed = jax.random.split(jax.random.key(0), 3)
    for keys in (typed, typed[:1], jax.random.key_data(typed), jax.random.split(jax.random.PRNGKey(0), 2)):
        with pytest.raises(ValueError, match=r"one key seeds all chains.*single key"):
            random.key_words(keys)
