"""First passages of a run: simulated SGD against its transfer operator, intervals that cover, a band around the survival curve.

Statistical tests pass at 5 standard deviations of the theory (a false alarm in two million) or at the level that they name.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_runs import FakeRun, accumulate, concatenated
from numpy.testing import assert_allclose

import jaxsde as js
import jaxsde.theory as theory

ETA, CHAINS, STEPS = 0.2, 8192, 300


def well(noise=1.0):
    return js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, -jnp.ones(1), noise_covariance=noise)


def beyond(x):
    return x[0] >= 0


def sgd(sampling="two_point", noise=1.0):
    return js.sgd(well(noise), learning_rate=ETA, sampling=sampling)


@functools.cache
def runs():
    statistics = {"first_passage": js.FirstPassage(beyond, bins=100)}
    return {
        sampling: js.simulate(
            sgd(sampling), -np.ones(1), key=js.key(5), chains=CHAINS, steps=STEPS, every=1, statistics=statistics
        )
        for sampling in ("two_point", "gaussian")
    }


def censored(survival):
    """The value that T/r tends to with a censoring at the last time of `survival` (steps 0, 1, …), and its one-chain sd."""
    steps = np.arange(1, len(survival))
    odds = np.append(survival[:-1] - survival[1:], survival[-1])
    waited, arrived = np.append(steps, steps[-1]) * ETA, np.append(np.ones(len(steps)), 0.0)
    share = odds @ arrived
    value = odds @ waited / share
    return value, np.sqrt(odds @ (waited - value * arrived) ** 2) / share


def agree(run, law):
    """Estimate and curve of a run against a law, at 5 sd of the one and at 1e-6 for the whole of the other."""
    found = js.metrics.passage_times(run)
    value, sd = censored(law.survival(ETA * np.arange(STEPS + 1)))
    assert abs(found.mean.value - value) <= 5 * sd / np.sqrt(CHAINS)
    reach = np.sqrt(np.log(2 / 1e-6) / (2 * CHAINS))
    assert np.abs(found.survival - law.survival(found.times)).max() <= reach


@pytest.mark.parametrize("sampling", ["two_point", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_sgd_leaves_its_well_as_its_transfer_operator_says(sampling):
    run, law = runs()[sampling], theory.mean_first_passage(sgd(sampling), -1.0, 0.0)
    agree(run, law)
    found = js.metrics.passage_times(run)
    assert found.arrived + found.censored == CHAINS and found.diverged == 0
    assert_allclose(run["first_passage"].value, found.mean.value, rtol=1e-6)
    _, sd = censored(law.survival(ETA * np.arange(STEPS + 1)))
    assert_allclose(found.mean.stderr, sd / np.sqrt(CHAINS), rtol=0.5)  # of 16 groups or more
    # twins: the other noise of the same covariance, noise × 1.05, and the SDE
    others = [
        theory.mean_first_passage(sgd("gaussian" if sampling == "two_point" else "two_point"), -1.0, 0.0),
        theory.mean_first_passage(sgd(sampling, 1.05**2), -1.0, 0.0),
        theory.mean_first_passage(js.sgd_sde(well(), learning_rate=ETA), -1.0, 0.0),
    ]
    for other in others:
        with pytest.raises(AssertionError):
            agree(run, other)


def test_an_sde_that_is_looked_at_on_a_grid():
    """An Ornstein–Uhlenbeck process by its exact steps: seen late, as `watched` says (what that leaves out is below h/4), and not as
    the SDE itself is."""
    h, eta, end = 0.04, 0.4, 0.9
    process = js.sgd_sde(js.potential(lambda x: x @ x / 2, jnp.zeros(1), noise_covariance=0.8), learning_rate=eta)
    run = js.simulate(
        js.integrate(process, js.ExactLinear(), dt=h), np.full(1, -0.2), key=js.key(6), chains=CHAINS, steps=8000, every=1,
        statistics={"first_passage": js.FirstPassage(lambda x: x[0] - end)},
    )  # fmt: skip
    found = js.metrics.passage_times(run)
    assert found.censored == 0
    seen, itself = (theory.mean_first_passage(process, -0.2, end, **how) for how in ({"watched": h}, {}))
    reach = 5 * seen.std / np.sqrt(CHAINS) + h / 4
    assert abs(found.mean.value - seen.mean) <= reach < abs(found.mean.value - itself.mean)


@pytest.mark.slow
def test_sgd_on_examples_in_the_plane():
    rng = np.random.default_rng(4)
    data = rng.normal(size=(6, 2))
    data = data - data.mean(axis=0)

    def example_loss(p, shift):
        return (p[0] ** 2 - 1) ** 2 / 4 + p[1] ** 2 / 2 + p @ shift

    problem = js.finite_sum(example_loss, data, np.array([-1.0, 0.0]))
    chain = js.sgd(problem, learning_rate=ETA)
    region = lambda x: x[0] + 0.3 * x[1]
    law = theory.mean_first_passage(chain, [-1.0, 0.0], region)
    run = js.simulate(
        chain, problem.start, key=js.key(8), chains=CHAINS, steps=STEPS, every=1,
        statistics={"first_passage": js.FirstPassage(region)},
    )  # fmt: skip
    found = js.metrics.passage_times(run)
    survival = law.survival(ETA * np.arange(STEPS + 1))
    value, sd = censored(survival)
    grid = law.error / law.mean * value  # of the solver, as it says itself
    assert grid < 0.05 * value
    assert abs(found.mean.value - value) <= 5 * sd / np.sqrt(CHAINS) + grid
    gaussian = js.sgd(problem, learning_rate=ETA, sampling="gaussian")
    surrogate = theory.mean_first_passage(gaussian, [-1.0, 0.0], region, cells=56)
    assert abs(surrogate.mean / law.mean - 1) > 0.05


def run_of_times(times, looks, groups=1):
    """A run whose chains are first seen inside at the looks `times` ["c"], of `looks` in all."""
    statistic = js.FirstPassage(beyond, bins=looks)
    x = np.where(np.arange(1, looks + 1)[:, None] >= times, 1.0, -1.0)[..., None].astype(np.float32)
    every = accumulate(statistic, x)
    parts = [statistic.merge(jax.tree.map(lambda a, i=i: a[i], every)) for i in np.array_split(np.arange(len(times)), groups)]
    run = FakeRun({"first_passage": statistic}, {"first_passage": concatenated(parts)})
    run.estimate = lambda name: js.Estimate.unknown("no groups", estimator="none")
    return run


def test_the_curve_is_that_of_numpy_and_the_band_is_massarts():
    times = np.array([1, 3, 3, 7, 9, 12, 99, 99])
    found = js.metrics.passage_times(run_of_times(times, 12, groups=4))
    assert_allclose(found.times, np.arange(13))
    assert_allclose(found.survival, [(times > k).mean() for k in range(13)])
    reach = np.sqrt(np.log(2 / 0.05) / 16)
    assert_allclose(found.low, np.clip(found.survival - reach, 0, 1))
    assert_allclose(found.high, np.clip(found.survival + reach, 0, 1))
    assert_allclose(found.mean.value, np.minimum(times, 12).sum() / 6)
    assert (found.arrived, found.censored) == (6, 2)
    assert "fewer than 30" in str(found.mean.note)


def test_intervals_cover_the_mean_and_bands_the_curve():
    # geometric times of mean 200, censored at 150: 400 runs of 40 chains, as one accumulator each
    rng, looks, mean, runs_, chains = np.random.default_rng(11), 150, 200.0, 400, 40
    times = rng.geometric(1 / mean, size=(runs_, chains))
    covered = banded = 0
    truth = (1 - 1 / mean) ** np.arange(looks + 1)
    many = run_of_times(times.ravel(), looks, groups=runs_)
    for one in range(runs_):
        part = jax.tree.map(lambda a, i=one: a[i : i + 1], many.partials("first_passage"))
        run = FakeRun(many.statistics, {"first_passage": part})
        run.estimate = many.estimate
        found = js.metrics.passage_times(run)
        covered += found.mean.low <= mean <= found.mean.high
        banded += bool(((found.low <= truth) & (truth <= found.high)).all())
    slack = 5 * np.sqrt(0.95 * 0.05 * runs_)
    assert covered >= 0.95 * runs_ - slack and banded >= 0.95 * runs_ - slack
    # the plain mean of those that arrived is far below
    assert times[times <= looks].mean() < 0.5 * mean


def test_no_arrival_is_a_lower_bound_and_none_alive_is_nothing():
    found = js.metrics.passage_times(run_of_times(np.full(20, 99), 10))
    assert not found.mean.known and "above 66.76" in found.mean.reason  # 200/−log(.05)
    assert (found.arrived, found.censored) == (0, 20) and (found.survival == 1).all()


def test_a_chain_that_falls_off_the_other_side_has_arrived():
    # a cubic barrier: beyond it there is nothing, and SGD overflows soon after it has been seen there
    problem = js.potential(lambda x: x[0] ** 2 / 2 - x[0] ** 3 / 3, jnp.zeros(1), noise_covariance=1.0)
    chain = js.sgd(problem, learning_rate=0.3, sampling="gaussian")
    run = js.simulate(
        chain, np.zeros(1), key=js.key(2), chains=1024, steps=400, every=1,
        statistics={"first_passage": js.FirstPassage(lambda x: x[0] - 1.5)},
    )  # fmt: skip
    found = js.metrics.passage_times(run)
    assert found.diverged > 500 and found.arrived + found.censored > 1020 and found.arrived >= found.diverged - 4
    assert 0.5 < found.mean.value / theory.mean_first_passage(chain, 0.0, 1.5, box=(-2.5, 1.5)).mean < 2


def test_wrong_use_is_refused():
    with pytest.raises(TypeError, match="function of the position"):
        js.FirstPassage(3.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="bins"):
        js.FirstPassage(beyond, bins=0)
    with pytest.raises(TypeError, match="one bool"):
        js.FirstPassage(lambda x: x).init(jnp.zeros((2, 1)))
    with pytest.raises(TypeError, match="the run that simulate returns"):
        js.metrics.passage_times("run")
    run = FakeRun({"first_passage": js.Mean()}, {})
    with pytest.raises(TypeError, match="reads a FirstPassage"):
        js.metrics.passage_times(run)
