"""Every loss of the catalogue under every sampling, every potential under every integrator: one chain, whichever executor."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from by_default import some

import jaxsde as js
from jaxsde.dynamics.gradients import SAMPLINGS
from jaxsde.problems import LOSSES, POTENTIALS
from jaxsde.stepping.integrators import INTEGRATORS

KEY = js.key(17)
X = np.random.default_rng(20).normal(size=(12, 3))
STEPS = 64
# Each step makes a few roundings, which a loss that contracts keeps and one with saddles may double a few times.
ROUNDINGS = 4096
# of the plain SDE; the others have conditions on it, and meet the executors in test_integrator_orders.py
PLAIN = ("euler_maruyama", "heun", "milstein", "tamed_euler", "sra1", "platen", "leimkuhler_matthews")


def sgd(name, sampling):
    entry = LOSSES[name]
    classes, rng = 4 if name == "softmax" else 2, np.random.default_rng(21)
    target = rng.normal(size=12) if entry.target == "real" else rng.integers(0, classes, size=12)
    start = jax.tree.map(lambda a: 0.3 * np.cos(np.arange(np.size(a), dtype=float)).reshape(np.shape(a)), entry.start(3, classes))
    problem = js.finite_sum(entry.function, (X, target), start)
    alpha = 1.7 if sampling == "alpha_stable" else None
    return js.sgd(problem, learning_rate=0.02, batch_size=2, sampling=sampling, alpha=alpha), start


def diffusion(name, integrator):
    entry = POTENTIALS[name]
    start = np.array(entry.start() if callable(entry.start) else entry.start, float)
    problem = js.potential(entry.function, start, noise_covariance=entry.variance)
    rate = entry.learning_rate
    return js.integrate(js.sgd_sde(problem, learning_rate=rate), INTEGRATORS[integrator](), dt=rate), start


def check(chain, start, dtype, *executors):
    """Each is as near to `vmap` as roundings are, and the chains went somewhere."""

    def positions(executor):
        run = js.simulate(chain, start, executor=executor, key=KEY, chains=16, steps=STEPS, dtype=dtype)
        assert run.executor == executor and not run.diverged.any()
        return run.positions.astype(np.float64)

    reference = positions("vmap")
    begin = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(start)])
    assert np.abs(reference - begin).max() > 1e-3
    unit = np.finfo(dtype).eps * max(1.0, np.abs(reference).max())
    for executor in executors:
        assert np.abs(positions(executor) - reference).max() < ROUNDINGS * unit, executor


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_losses(name, sampling):
    check(*sgd(name, sampling), np.float32, "native")


# every potential and every integrator by default, and all pairs of them where there is time
PAIRS = [(name, integrator) for name in POTENTIALS for integrator in PLAIN]


@pytest.mark.parametrize("name,integrator", some(PAIRS, [p for p in PAIRS if p[1] == "heun" or p[0] == "double_well"]))
def test_potentials(name, integrator):
    check(*diffusion(name, integrator), np.float32, "native")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_losses_in_double_precision(name, sampling):
    with jax.enable_x64(True):
        check(*sgd(name, sampling), np.float64, "native")


@pytest.mark.slow
@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("integrator", PLAIN)
@pytest.mark.parametrize("dtype, executors", [(np.float32, ["lanes"]), (np.float64, ["native", "lanes"])])
def test_potentials_elsewhere(name, integrator, dtype, executors):
    with jax.enable_x64(dtype is np.float64):
        check(*diffusion(name, integrator), dtype, *executors)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squared_error", "cauchy", "huber", "logistic"])
def test_losses_under_lanes(name):
    check(*sgd(name, "with_replacement"), np.float32, "lanes")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LOSSES, *POTENTIALS])
def test_the_law_over_a_hundred_thousand_steps(name):
    """By then roundings have grown as they like: four moments of each component and the mean loss agree, at 6 standard errors of
    the difference (Student's t, 62 degrees: a false alarm in 2·10^4 for all the 342 numbers), and at a learning rate half as large
    again they do not."""
    if name in LOSSES:
        problem, start = (chain := sgd(name, "with_replacement"))[0].problem, chain[1]
        rate, batch = 0.02, 2
    else:
        start = np.array(POTENTIALS[name].start() if callable(POTENTIALS[name].start) else POTENTIALS[name].start, float)
        problem = js.potential(POTENTIALS[name].function, start, noise_covariance=POTENTIALS[name].variance)
        rate, batch = POTENTIALS[name].learning_rate, 1

    def law(executor, factor=1.0):
        chain = js.sgd(problem, learning_rate=factor * rate, batch_size=batch)
        run = js.simulate(
            chain, start, key=KEY if executor == "native" else js.key(18), chains=256, steps=100_000, burn_in=2_000, every=50,
            statistics={"moments": js.Moments(), "loss": js.MeanLoss(problem)}, executor=executor,
        )  # fmt: skip
        assert run.executor == executor and not run.diverged.any()
        return [run[name] for name in run.statistics]

    def z(a, b):
        return max(np.abs((x.value - y.value) / np.hypot(x.stderr, y.stderr)).max() for x, y in zip(a, b, strict=True))

    reference = law("vmap")
    assert z(law("native"), reference) < 6
    assert z(law("native", 1.5), reference) > 6
