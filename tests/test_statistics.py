"""Laws of every statistic: a commutative monoid over chains, carried through time, equal to NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_runs import accumulate, concatenated
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxsde.problems.problem import finite_sum, potential
from jaxsde.statistics import (
    STATISTICS,
    Autocovariance,
    Covariance,
    Extremes,
    FirstPassage,
    Histogram,
    Mean,
    MeanLoss,
    Moments,
    Samples,
    Thinned,
    of,
)
from jaxsde.statistics.sums import integers, words

TIMES, CHAINS, DIM = 12, 6, 2
WELL = potential(lambda x: jnp.sum((x**2 - 1) ** 2) / 4, jnp.zeros(DIM))
EDGES = (np.linspace(-2, 2, 9), np.array([-3.0, -1.0, 0.5, 1.0, 4.0]))
CASES = {
    "mean": Mean(),
    "moments": Moments(6),
    "covariance": Covariance(),
    "histogram": Histogram(EDGES),
    "autocovariance": Autocovariance((0, 3, 1)),
    "extremes": Extremes(),
    "samples": Samples(4),
    "of": of(lambda phi: jnp.stack([phi[0] * phi[1], phi[0], phi[1] ** 2]), Covariance()),
    "mean_loss": MeanLoss(WELL),
    "course": STATISTICS["course"](4),
    "first_passage": FirstPassage(lambda phi: phi[0] + phi[1] ** 2 > 1.5, bins=5),
}
# shared by all chains: what a chain did before it diverged stays in
SHARED = {"histogram"}
# a chain that arrived before it diverged has arrived
ARRIVALS = {"first_passage"}
by_name = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def _update(name):
    return jax.jit(lambda acc, x, alive: CASES[name].update(acc, 0.0, x, alive))


def _run(name, x, acc=None, alive=None):
    acc = CASES[name].init(x[0]) if acc is None else acc
    for i, now in enumerate(x):
        acc = _update(name)(acc, now, np.ones(x.shape[1], bool) if alive is None else alive[i])
    return acc


def _positions(seed, scale=1.0, shift=0.0):
    return (shift + scale * np.random.default_rng(seed).normal(size=(TIMES, CHAINS, DIM))).astype(np.float32)


def _numbers(result):
    return np.sort(result.positions.ravel()) if isinstance(result, Thinned) else np.asarray(result)


def _agree(a, b, rtol=1e-10, atol=1e-9):
    assert_allclose(_numbers(a), _numbers(b), rtol=rtol, atol=atol)


def test_every_statistic_of_the_catalogue_is_tested():
    assert set(CASES) == set(STATISTICS)


@by_name
@given(seeds, st.integers(1, TIMES - 1))
@settings(max_examples=10, deadline=None)
def test_a_run_cut_in_time_is_the_run(name, seed, cut):
    x = _positions(seed)
    whole, parts = _run(name, x), _run(name, x[cut:], _run(name, x[:cut]))
    jax.tree.map(assert_array_equal, jax.device_get(whole), jax.device_get(parts))


@by_name
@given(seeds, st.permutations(range(CHAINS)))
@settings(max_examples=10, deadline=None)
def test_merging_is_associative_and_commutative(name, seed, order):
    statistic, x = CASES[name], _positions(seed)
    whole = statistic.merge(jax.device_get(_run(name, x)))
    # tiles are separate runs, merged into groups, merged into the run, in any order
    tiles = [jax.device_get(_run(name, x[:, order[i : i + 2]])) for i in (0, 2, 4)]
    one = statistic.merge(concatenated(tiles))
    a, b, c = (statistic.merge(tile) for tile in tiles)

    def join(*parts):
        return statistic.merge(concatenated(parts))

    for other in (one, join(a, b, c), join(join(a, b), c), join(a, join(b, c)), join(c, b, a)):
        assert all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(other))
        _agree(statistic.result(other), statistic.result(whole))
        assert integers(other.counted).sum() == integers(whole.counted).sum()


@by_name
def test_merging_gives_the_same_bytes_again(name):
    acc = jax.device_get(_run(name, _positions(3)))
    a, b = CASES[name].merge(acc), CASES[name].merge(acc)
    jax.tree.map(assert_array_equal, a, b)
    once_more = CASES[name].merge(a)
    _agree(CASES[name].result(once_more), CASES[name].result(a), rtol=1e-15, atol=0)


@by_name
def test_init_reads_shapes_only_and_memory_does_not_grow(name):
    x = _positions(4)
    start, other = CASES[name].init(jnp.asarray(x[0])), CASES[name].init(jnp.full_like(x[0], 1e3))
    jax.tree.map(assert_array_equal, start, other)
    after = jax.eval_shape(lambda a: CASES[name].update(a, 0.0, x[0], np.ones(CHAINS, bool)), start)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), start) == jax.tree.map(lambda a: (a.shape, a.dtype), after)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(start)} <= {1, CHAINS}


@by_name
@given(seeds, st.integers(0, CHAINS - 1), st.integers(1, TIMES - 1))
@settings(max_examples=10, deadline=None)
def test_a_chain_that_dies_leaves_no_trace(name, seed, dead, when):
    x = _positions(seed)
    alive = np.ones((TIMES, CHAINS), bool)
    alive[when:, dead] = False
    broken = x.copy()
    broken[when:, dead] = np.nan
    statistic = CASES[name]
    got = jax.device_get(_run(name, broken, alive=alive))
    if name in SHARED:
        assert integers(got.counted).sum() == alive.sum()
        return
    stays = name in ARRIVALS and bool((x[:when, dead, 0] + x[:when, dead, 1] ** 2 > 1.5).any())
    never = np.ones((TIMES, CHAINS), bool)
    never[:, dead] = stays
    expected = _run(name, x, alive=never)
    _agree(statistic.result(statistic.merge(got)), statistic.result(statistic.merge(jax.device_get(expected))))
    assert integers(got.counted).reshape(-1)[dead] == (TIMES if stays else 0)


@by_name
def test_nothing_seen_is_not_a_number(name):
    statistic = CASES[name]
    acc = jax.device_get(statistic.init(jnp.zeros((CHAINS, DIM))))
    result = statistic.result(statistic.merge(acc))
    assert _numbers(result).size == 0 or np.isnan(_numbers(result)).all()


@given(seeds, st.sampled_from([0.0, -3.0, 1e3]), st.sampled_from([1.0, 1e-2, 30.0]))
@settings(max_examples=15, deadline=None)
def test_results_are_those_of_numpy(seed, shift, scale):
    x = _positions(seed, scale, shift)
    flat = x.reshape(-1, DIM).astype(np.float64)
    results = {name: CASES[name].result(CASES[name].merge(jax.device_get(_run(name, x)))) for name in CASES}
    mean, centred = flat.mean(axis=0), flat - flat.mean(axis=0)
    ulp = np.float32(abs(shift) + scale) * 1e-7
    assert_allclose(results["mean"], mean, atol=1e-6 * scale)
    assert_allclose(results["covariance"], centred.T @ centred / len(flat), atol=2e-6 * scale**2)
    for k in range(2, 7):
        assert_allclose(results["moments"][k - 1], (centred**k).mean(axis=0), atol=1e-4 * (3 * scale) ** k)
    assert_array_equal(results["extremes"], [flat.min(axis=0), flat.max(axis=0)])
    counts = np.histogramdd(x.reshape(-1, DIM), [e.astype(np.float32) for e in EDGES])[0]
    assert_allclose(results["histogram"], counts / len(flat), atol=1e-15)
    z = x.astype(np.float64) - mean
    for row, lag in zip(results["autocovariance"], CASES["autocovariance"].lags, strict=True):
        expected = np.einsum("tci,tcj->ij", z[lag:], z[: TIMES - lag]) / ((TIMES - lag) * CHAINS)
        assert_allclose(row, expected, atol=3e-6 * scale * (scale + ulp))
    inside = x[..., 0].astype(np.float64) + x[..., 1].astype(np.float64) ** 2 > 1.5
    first = np.where(inside.any(axis=0), inside.argmax(axis=0) + 1, TIMES)
    with np.errstate(divide="ignore"):
        assert_allclose(results["first_passage"], np.float64(first.sum()) / inside.any(axis=0).sum(), rtol=1e-12)
    losses = ((flat**2 - 1) ** 2).sum(axis=1) / 4
    assert np.ndim(results["mean_loss"]) == 0
    assert_allclose(results["mean_loss"], losses.mean(), rtol=1e-5)


def test_autocovariance_is_a_matrix_in_the_stated_order_of_its_indices():
    # x(t) = (s(t), s(t − 1)): the second component follows the first, so only E[x₁(t+1) x₀(t)] is 1
    s = np.random.default_rng(0).choice([-1.0, 1.0], size=(4001, 8))
    x = np.stack([s[1:], s[:-1]], axis=-1).astype(np.float32)
    statistic = Autocovariance([1])
    found = statistic.result(statistic.merge(accumulate(statistic, x)))[0]
    assert_allclose(found, [[0, 0], [1, 0]], atol=5 / np.sqrt(32_000))
    assert abs(found.T - [[0, 0], [1, 0]]).max() > 0.9  # the transpose fails


@pytest.mark.parametrize("capacity, times", [(4, 3), (4, 4), (4, 5), (8, 100), (2, 33)])
def test_samples_are_every_stride_th_position(capacity, times):
    x = np.random.default_rng(1).normal(size=(times, 3, 2)).astype(np.float32)
    statistic = Samples(capacity)
    kept = statistic.result(accumulate(statistic, x))
    n = kept.positions.shape[1]
    assert capacity // 2 < n <= capacity or times <= capacity
    assert_array_equal(kept.positions, np.moveaxis(x[:: kept.stride], 1, 0)[:, :n])
    assert kept.stride * n >= times


def test_samples_keep_the_first_chains_that_lived():
    x = _positions(5)
    alive = np.ones((TIMES, CHAINS), bool)
    alive[3:, 0] = False
    statistic = Samples(4, keep=2)
    parts = [statistic.merge(accumulate(statistic, x[:, p], alive[:, p])) for p in (slice(0, 1), slice(1, 6))]
    kept = statistic.result(statistic.merge(concatenated(parts)))
    assert_array_equal(kept.positions[:, :, 0], x[:: kept.stride, 1:3, 0].T)


def test_of_a_method_takes_its_data_along_as_an_argument():
    data = jnp.arange(3000.0)
    problem = finite_sum(lambda w, e: (w[0] - e) ** 2 / 2, data, jnp.zeros(1))
    statistic = MeanLoss(problem)
    assert any(leaf is data or np.shape(leaf) == (3000,) for leaf in jax.tree.leaves(statistic))
    traces = []

    @jax.jit
    def update(statistic, acc, x):
        traces.append(1)
        return statistic.update(acc, 0.0, x, jnp.ones(2, bool))

    x = jnp.ones((2, 1))
    for scale in (1.0, 2.0):
        scaled = jax.tree.map(lambda a, s=scale: a * s, statistic)
        acc = update(scaled, scaled.init(x), x)
        expected = ((1.0 - scale * np.arange(3000.0)) ** 2).mean() / 2
        assert_allclose(scaled.result(scaled.merge(jax.device_get(acc))), expected, rtol=1e-5)
    assert len(traces) == 1


def test_the_mean_loss_of_many_chains_and_examples_is_cut_into_batches(monkeypatch):
    monkeypatch.setattr("jaxsde.statistics.observables.EVALUATIONS", 64)
    problem = finite_sum(lambda w, e: (w[0] - e) ** 2, jnp.arange(20.0), jnp.zeros(1))
    x = np.random.default_rng(0).normal(size=(2, 11, 1)).astype(np.float32)
    statistic = MeanLoss(problem)
    expected = ((x.astype(np.float64) - np.arange(20.0)) ** 2).mean()
    assert_allclose(statistic.result(statistic.merge(accumulate(statistic, x))), expected, rtol=1e-5)


def test_a_number_and_a_vector_of_length_one_are_told_apart():
    x = _positions(7)
    for f, shape in ((lambda p: p[0], ()), (lambda p: p[:1], (1,))):
        statistic = of(f, Mean())
        assert statistic.result(statistic.merge(accumulate(statistic, x))).shape == shape


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: Moments(0), ValueError, "from 1 to 8"),
        (lambda: Moments(9), ValueError, "from 1 to 8"),
        (lambda: Moments(2.5), TypeError, "integer"),  # pyright: ignore[reportArgumentType]
        (lambda: Autocovariance([]), ValueError, "at least one"),
        (lambda: Autocovariance([1, -1]), ValueError, "≥ 0"),
        (lambda: Autocovariance([0.5]), ValueError, "integers"),
        (lambda: Samples(3), ValueError, "even"),
        (lambda: Samples(4, keep=0), ValueError, "keep"),
        (lambda: of(3, Mean()), TypeError, "function"),  # pyright: ignore[reportArgumentType]
        (lambda: of(lambda x: x, Mean), TypeError, "Mean\\(\\)"),
        (lambda: of(lambda x: x > 0, Mean()).init(jnp.zeros((2, 1))), TypeError, "floats"),
        (lambda: of(lambda x: jnp.outer(x, x), Mean()).init(jnp.zeros((2, 2))), TypeError, "vector"),
        (lambda: MeanLoss(jnp.sum), TypeError, "problem"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_wrong_use_is_refused_at_once(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_words_hold_every_count():
    n = np.array([0, 1, 2**32 - 1, 2**32, 10**10, 2**62])
    assert_array_equal(integers(words(n)), n)
