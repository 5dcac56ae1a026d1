"""float32 accumulators that stay exact over 1e10 samples, and counts that pass 2^31 and 2^32."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_runs import accumulate
from numpy.testing import assert_allclose, assert_array_equal

from jaxsde.statistics import Covariance, Histogram, Mean, Moments
from jaxsde.statistics.histogram import Boxes
from jaxsde.statistics.sums import Count, Sum, add, count_up, integers, value


@functools.partial(jax.jit, static_argnums=2)
def _added(total, y, repeats):
    """The sum after y, `repeats` times over."""

    def body(i, total):
        return add(total, jax.lax.dynamic_index_in_dim(y, i % y.shape[0], keepdims=False))

    return jax.lax.fori_loop(0, repeats, body, total)


@pytest.mark.parametrize("start", [0.0, 1e10, -3e12])
def test_a_compiled_sum_keeps_what_float32_loses(start):
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 1, size=(1000, 4)).astype(np.float32)
    hi = np.float32(start)
    total = Sum(jnp.full(4, hi), jnp.full(4, np.float32(start - float(hi))))
    repeats = 200_000
    got = value(jax.device_get(_added(total, y, repeats)))
    increments = np.array([math.fsum(column.tolist()) for column in y.astype(np.float64).T]) * (repeats / len(y))
    base = float(hi) + float(np.float32(start - float(hi)))
    # 2^-49 per addition; as the same 1000 numbers come 200 times, their roundings add up instead of averaging out
    assert_allclose(got, base + increments, rtol=200 * np.sqrt(1000) * 2.0**-49)
    if start:  # what a plain float32 sum makes of it
        naive = np.float32(start)
        for v in y[:100, 0]:
            naive = np.float32(naive + v)
        assert naive == np.float32(start)


def test_integers_are_summed_without_any_error():
    # 1e10 ones and zeros: exactly representable in hi + lo all the way
    total = Sum(jnp.array([1e10], jnp.float32), jnp.zeros(1, jnp.float32))
    y = np.random.default_rng(1).integers(0, 2, size=(1000, 1)).astype(np.float32)
    got = value(jax.device_get(_added(total, y, 100_000)))
    assert got[0] == float(np.float32(1e10)) + 100 * int(y.sum())


def test_a_variance_of_a_million_samples_far_from_zero():
    rng = np.random.default_rng(2)
    x = (1000 + rng.normal(size=(1 << 20, 1, 1))).astype(np.float32)
    exact = x.astype(np.float64).reshape(-1)
    for statistic, read in ((Moments(2), lambda r: r[1, 0]), (Covariance(), lambda r: r[0, 0])):
        got = read(statistic.result(statistic.merge(accumulate(statistic, x))))
        assert_allclose(got, exact.var(), rtol=3e-8)
    naive = np.float32(np.cumsum(x.ravel() ** 2, dtype=np.float32)[-1]) / len(x) - np.float32(exact.mean()) ** 2
    assert abs(naive / exact.var() - 1) > 1e-2


def test_ten_billion_samples_of_a_chain_keep_their_mean_and_variance():
    # an accumulator as it stands after 1e10 samples of N(0, 1) shifted by −2, and 1e5 samples more
    n, rng = 10**10, np.random.default_rng(3)
    first, second = 2.0 * n, (1 + 4.0) * n

    def split(v):
        hi = np.float32(v)
        return Sum(jnp.full((1, 1), hi), jnp.full((1, 1), np.float32(v - float(hi))))

    statistic = Moments(2)
    acc = statistic.init(jnp.zeros((1, 1)))
    counted = Count(jnp.array([n & 0xFFFFFFFF], jnp.uint32), jnp.array([n >> 32], jnp.uint32))
    acc = acc._replace(counted=counted, shift=jnp.full((1, 1), -2.0), sums=(split(first), split(second)))
    x = (5 + rng.normal(size=(100_000, 1, 1))).astype(np.float32)
    after = statistic.merge(accumulate(statistic, x, acc=acc))
    y = x.astype(np.float64).ravel() + 2
    total, square, count = first + math.fsum(y), second + math.fsum(y**2), n + len(y)
    mean, variance = statistic.result(after).ravel()
    assert integers(after.counted)[0] == count
    # these samples moved the mean by 5e-5 and the variance by 2.5e-4: they are all there
    assert_allclose(mean, total / count - 2, atol=1e-13)
    assert_allclose(variance, square / count - (total / count) ** 2, atol=1e-12)


@pytest.mark.parametrize("start", [2**31 - 3, 2**32 - 3, 3 * 2**32 - 1])
def test_counts_carry(start):
    count = Count(jnp.array([start & 0xFFFFFFFF], jnp.uint32), jnp.array([start >> 32], jnp.uint32))
    for _ in range(5):
        count = jax.jit(count_up)(count, 1)
    assert integers(jax.device_get(count))[0] == start + 5
    mean = Mean()
    acc = mean.init(jnp.zeros((1, 1)))._replace(
        counted=Count(jnp.array([start & 0xFFFFFFFF], jnp.uint32), jnp.array([start >> 32], jnp.uint32))
    )
    assert integers(accumulate(mean, np.ones((5, 1, 1), np.float32), acc=acc).counted)[0] == start + 5


@pytest.mark.parametrize("start", [2**31 - 4, 2**32 - 4, 2**40 - 4])
def test_boxes_count_beyond_a_word(start):
    statistic = Histogram(np.array([0.0, 1.0, 2.0]))
    acc = statistic.init(jnp.zeros((3, 1)))
    # as after `start` samples in the first box, since the last emptying of the low words
    lo, hi = start % 2**31, start // 2**31
    acc = Boxes(
        Count(acc.counts.lo.at[0, 0].set(lo), acc.counts.hi.at[0, 0].set(hi)), jnp.array([max(lo, 1)], jnp.uint32)
    )
    x = np.full((5, 3, 1), 0.5, np.float32)
    merged = statistic.merge(accumulate(statistic, x, acc=acc))
    assert_array_equal(statistic.counts(merged), [start + 15, 0, 0])
    assert_array_equal(statistic.counts(statistic.merge(merged)), [start + 15, 0, 0])
    assert integers(merged.counted)[0] == start + 15


def test_ten_million_samples_of_one_chain():
    x = np.random.default_rng(5).normal(3, 0.1, size=(10_000_000, 1, 1)).astype(np.float32)
    exact = x.ravel().astype(np.float64)
    statistic = Moments(4)
    got = statistic.result(statistic.merge(accumulate(statistic, x))).ravel()
    centred = exact - exact.mean()
    assert_allclose(got[0], exact.mean(), rtol=1e-11)
    for k in (2, 4):
        assert_allclose(got[k - 1], (centred**k).mean(), rtol=1e-7)
