"""Estimates: the jackknife against its textbook formulas, and what an estimate says where it cannot know."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_runs import run_of_samples
from numpy.testing import assert_allclose
from scipy import stats

from jaxsde.estimate import Estimate, Unknown, from_left_out, jackknife, jackknife_two, merged
from jaxsde.statistics import Covariance, Extremes, Mean, Samples
from jaxsde.statistics.moments import Powers
from jaxsde.statistics.sums import whole, words


def _means(values, counts):
    """Accumulators of a Mean with one group for each value."""
    values = np.asarray(values, np.float64)[:, None]
    return Powers(words(np.asarray(counts)), values, (whole(np.zeros_like(values)),))


def test_the_jackknife_of_a_mean_is_the_standard_error():
    x = np.random.default_rng(0).normal(size=12)
    found = jackknife(Mean(), _means(x, [5] * 12))
    stderr = x.std(ddof=1) / np.sqrt(12)
    assert_allclose([found.value[0], found.stderr[0]], [x.mean(), stderr])
    half = stats.t.ppf(0.975, 11) * stderr
    assert_allclose([found.low[0], found.high[0]], [x.mean() - half, x.mean() + half])
    assert found.groups == 12


def test_groups_of_different_sizes_are_weighted_as_busing_meijer_and_van_der_leeden_do():
    rng = np.random.default_rng(1)
    x, m = rng.normal(2, 1, size=9), rng.integers(1, 40, size=9)
    found = jackknife(Mean(), _means(x, m), lambda mean: np.exp(mean[0]), bias_corrected=True)
    n, theta = m.sum(), np.exp((m * x).sum() / m.sum())
    left = np.array([np.exp(((m * x).sum() - m[g] * x[g]) / (n - m[g])) for g in range(9)])
    h = n / m
    corrected = 9 * theta - ((1 - m / n) * left).sum()
    pseudo = h * theta - (h - 1) * left
    assert_allclose(found.value, corrected)
    assert_allclose(found.stderr, np.sqrt(((pseudo - corrected) ** 2 / (h - 1)).mean()))
    assert_allclose(jackknife(Mean(), _means(x, m), lambda mean: np.exp(mean[0])).value, theta)


def test_bias_of_a_square_is_removed_exactly():
    # E mean² = µ² + σ²/G: the jackknife takes out mean of squares over groups
    x = np.random.default_rng(2).normal(size=20)
    found = jackknife(Mean(), _means(x, [7] * 20), lambda mean: mean[0] ** 2, bias_corrected=True)
    assert_allclose(found.value, x.mean() ** 2 - x.var(ddof=1) / 20)


@pytest.mark.parametrize("groups", [0, 1, 2, 3])
def test_few_groups_give_no_number_but_a_reason(groups):
    counts = [5] * groups + [0] * (8 - groups)
    found = jackknife(Mean(), _means(np.arange(8.0), counts))
    assert found.value is None and found.low is None and found.high is None and found.stderr is None
    assert found.reason and ("no samples" if groups == 0 else "at least 4") in found.reason
    assert found.groups == groups and not found.known and not found.contains(0)
    with pytest.raises(ValueError, match="no estimate"):
        found.z(0)


def test_groups_without_data_are_left_out():
    x = np.arange(8.0)
    found = jackknife(Mean(), _means(x, [3, 3, 0, 3, 3, 3, 0, 3]))
    kept = x[[0, 1, 3, 4, 5, 7]]
    assert found.groups == 6
    assert_allclose([found.value[0], found.stderr[0]], [kept.mean(), kept.std(ddof=1) / np.sqrt(6)])


def test_matrices_are_estimated_elementwise():
    x = np.random.default_rng(3).normal(size=(8, 50, 2)) @ np.array([[1.0, 0.5], [0, 1]])
    run = run_of_samples(x)
    found = jackknife(Covariance(), run.partials("cov"))
    assert_allclose(found.value, np.cov(x.reshape(-1, 2).T, ddof=0))
    assert found.low.shape == found.high.shape == found.stderr.shape == (2, 2)
    assert (np.abs(found.z([[1.0, 0.5], [0.5, 1.25]])) < 5).all()
    assert found.contains(found.value).all()
    assert_allclose(merged(Covariance(), run.partials("cov")), found.value)


def test_a_value_that_is_not_finite_is_not_reported():
    found = jackknife(Mean(), _means(np.arange(8.0), [1] * 8), lambda mean: np.where(mean == 3.5, np.nan, mean))
    assert found.value is None and "finite" in str(found.reason)


def test_a_reason_raised_within_the_jackknife_is_the_reason():
    def refuse(_):
        raise Unknown("because")

    assert jackknife(Mean(), _means(np.arange(8.0), [1] * 8), refuse).reason == "because"


def test_a_record_has_no_error_bar():
    statistic = Samples(4)
    acc = statistic.init(jnp.zeros((5, 2)))
    rows = jax.device_get(statistic.update(acc, 0.0, jnp.ones((5, 2)), jnp.ones(5, bool)))
    parts = statistic.merge(rows)
    partials = jax.tree.map(lambda a: np.concatenate([a] * 6), parts)
    assert "record" in str(jackknife(statistic, partials).reason)


def test_extremes_are_reported():
    statistic = Extremes()
    x = np.random.default_rng(4).normal(size=(6, 1, 2)).astype(np.float32)
    rows = [statistic.merge(jax.device_get(statistic.update(statistic.init(g), 0.0, g, jnp.ones(1, bool)))) for g in jnp.asarray(x)]
    partials = jax.tree.map(lambda *a: np.concatenate(a), *rows)
    assert_allclose(jackknife(statistic, partials).value, [x.min(axis=(0, 1)), x.max(axis=(0, 1))])


@pytest.mark.parametrize("groups", [(10, 10), (10, 7)])
def test_two_runs_have_both_their_errors(groups):
    rng = np.random.default_rng(5)
    a, b = (rng.normal(size=g) for g in groups)
    found = jackknife_two(
        (Mean(), _means(a, [4] * groups[0])), (Mean(), _means(b, [4] * groups[1])), lambda x, y: x - y
    )
    assert_allclose(found.value[0], a.mean() - b.mean())
    if groups[0] == groups[1]:  # left out together: right for runs that share their random numbers too
        stderr = (a - b).std(ddof=1) / np.sqrt(10)
    else:
        stderr = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    assert_allclose(found.stderr[0], stderr)
    assert found.low[0] < found.value[0] < found.high[0]


def test_bias_is_removed_from_both_runs():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=12), rng.normal(size=9)
    found = jackknife_two(
        (Mean(), _means(a, [4] * 12)),
        (Mean(), _means(b, [4] * 9)),
        lambda x, y: float(((x - y) ** 2).sum()),
        bias_corrected=True,
    )
    noise = a.var(ddof=1) / 12 + b.var(ddof=1) / 9
    assert_allclose(found.value, (a.mean() - b.mean()) ** 2 - noise)


def test_intervals_cover():
    # 400 repeats of a binomial of .95: 5 standard deviations are .055
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(400):
        x = rng.normal(1, 1, size=(8, 30, 1))
        run = run_of_samples(x)
        inside += bool(jackknife(Covariance(), run.partials("cov"), lambda s: np.log(s[0, 0])).contains(0.0))
    assert abs(inside / 400 - 0.95) < 0.055


def test_an_interval_from_samples_of_one_chain_would_not_cover():
    # the failing twin: correlated samples dealt to groups as if they were independent
    rng = np.random.default_rng(8)
    inside = {"chains": 0, "samples": 0}
    for _ in range(200):
        x = np.zeros((200, 16))
        for i in range(1, 200):
            x[i] = 0.95 * x[i - 1] + np.sqrt(1 - 0.95**2) * rng.normal(size=16)
        inside["chains"] += bool(jackknife(Mean(), _means(x.mean(axis=0), [200] * 16)).contains(0.0)[0])
        shuffled = rng.permutation(x.ravel()).reshape(16, 200).mean(axis=1)
        inside["samples"] += bool(jackknife(Mean(), _means(shuffled, [200] * 16)).contains(0.0)[0])
    assert inside["chains"] / 200 > 0.95 - 5 * np.sqrt(0.95 * 0.05 / 200)
    assert inside["samples"] / 200 < 0.6


def test_json_holds_numbers_or_null_with_a_reason():
    known = from_left_out(np.array([1.0, 2.0]), np.random.default_rng(0).normal(size=(5, 2)), np.ones(5), estimator="e")
    plain = json.loads(json.dumps(known.to_json(), allow_nan=False))
    assert plain["value"] == [1.0, 2.0] and plain["estimator"] == "e" and plain["groups"] == 5 and "reason" not in plain
    unknown = json.loads(json.dumps(Estimate.unknown("why", estimator="e").to_json(), allow_nan=False))
    assert unknown == {
        "value": None, "low": None, "high": None, "stderr": None, "estimator": "e", "groups": 0, "reason": "why"
    }  # fmt: skip


def test_it_reads_as_a_number_with_its_error():
    assert repr(Estimate(0.36704, 0.0042, 0.35, 0.38, 32)) == "0.3670 ± 0.0042 (32 groups)"
    assert repr(Estimate(1234567.0, 321.0, 0.0, 1.0, 8)) == "1234567 ± 321 (8 groups)"
    assert repr(Estimate(2.0, 0.0, 2.0, 2.0, 4)) == "2 ± 0 (4 groups)"
    assert "why" in repr(Estimate.unknown("why"))


def test_z_scores():
    found = Estimate(np.array([1.0, 2.0]), np.array([0.5, 0.0]), np.zeros(2), np.ones(2), 4)
    assert_allclose(found.z([0.0, 2.0]), [2.0, 0.0])
    assert Estimate(1.0, 0.5, 0.0, 2.0, 4).z(2.0) == -2.0
