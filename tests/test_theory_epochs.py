"""SGD by epochs: every order of a few examples written out, at each position, with momentum; closed forms; simulations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from written_out import EPOCHS, MOMENTA, courses, enumerated, moments, regression, squared_error, step_maps

import jaxsde as js
from jaxsde.theory.moments import epochs, reshuffling


@pytest.mark.parametrize("sampling", EPOCHS)
@pytest.mark.parametrize(
    "b,outputs",
    [
        pytest.param(1, 1, marks=pytest.mark.slow, id="1-rank one"),
        pytest.param(2, 1, id="2-rank one"),
        pytest.param(1, 2, id="1-several outputs"),
        pytest.param(2, 2, marks=pytest.mark.slow, id="2-several outputs"),
    ],
)
def test_against_every_order(sampling, b, outputs):
    """n = 5 in two dimensions, at every position and on average; 2 does not divide 5."""
    n, d, eta = 5, 2, 0.08
    problem, hessians, gradients, best = regression(n, d, outputs)
    for momentum in MOMENTA[: 5 if outputs == 1 else 2]:
        course = courses(n, b, sampling, lambda batch, m=momentum: step_maps(hessians, gradients, eta, batch, **m))
        layers = enumerated(course, sampling, d)
        made = js.momentum(momentum["mu"], **{k: v for k, v in momentum.items() if k != "mu"}) if momentum else None
        with jax.enable_x64(True):
            chain, other = (
                js.sgd(problem, learning_rate=eta, batch_size=b, sampling=s, optimizer=made) for s in (sampling, "without_replacement")
            )
        for position in (*range(len(layers)), "average", (0, len(layers) - 1)):
            wanted = [position] if isinstance(position, int) else range(len(layers)) if position == "average" else position
            mean, covariance = moments(np.mean([layers[k] for k in wanted], axis=0), d)
            law = js.theory.stationary_law(chain, position)
            assert law.exact
            assert_allclose(law.mean - best, mean, atol=1e-12)
            assert_allclose(law.covariance, covariance, atol=1e-12)
            if sampling == "random_reshuffling" and position == 0:
                assert np.abs(js.theory.stationary_covariance(other) - covariance).max() > 0.1 * np.abs(covariance).max()


def test_weight_decay_by_epochs_and_step_by_step():
    """Weights that decay move the rest: its mean is that of ridge regression, up to the bias of the order."""
    n, d, eta, decay = 4, 2, 0.1, 0.2
    problem, hessians, gradients, best = regression(n, d)
    optimizer = lambda rate: optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.5))
    with jax.enable_x64(True):
        for sampling in ("random_reshuffling", "with_replacement"):
            chain = js.sgd(problem, learning_rate=eta, sampling=sampling, optimizer=optimizer)
            step = lambda batch: step_maps(hessians, gradients, eta, batch, mu=0.5, decay=decay, best=best)
            if sampling == "random_reshuffling":
                layers = enumerated(courses(n, 1, sampling, step), sampling, d)
            else:  # each step is an epoch of one draw
                layers = enumerated(np.array([[np.eye(2 * d + 1), step([i])] for i in range(n)]), "random_reshuffling", d)
            mean, covariance = moments(layers[0], d)
            law = js.theory.stationary_law(chain)
            assert_allclose(law.mean - best, mean, atol=1e-12)
            assert_allclose(law.covariance, covariance, atol=1e-12)
    ridge = np.linalg.solve(hessians.mean(axis=0) + decay * np.eye(d), hessians.mean(axis=0) @ best)
    assert_allclose(law.mean, ridge, atol=1e-12)  # drawn with replacement


@pytest.mark.parametrize("n,b", [(4, 1), (6, 2), (7, 3)])
def test_equal_hessians(n, b):
    """The closed form, any n: against every order for few; the variance at the end of an epoch of one-dimensional means."""
    rng = np.random.default_rng(n)
    y = rng.normal(size=n)
    eta, decay = 0.1, 0.9
    with jax.enable_x64(True):
        problem = js.finite_sum(lambda q, e: 0.5 * jnp.sum((q - e) ** 2), np.stack([y, -2 * y + 1], axis=1), np.zeros(2))
        chains = {s: js.sgd(problem, learning_rate=eta, batch_size=b, sampling=s) for s in EPOCHS}
    hessians, gradients = np.tile(np.eye(2), (n, 1, 1)), np.mean(y) - y
    gradients = np.stack([gradients, -2 * gradients], axis=1)
    for sampling, chain in chains.items():
        if n < 7:
            layers = enumerated(courses(n, b, sampling, lambda s: step_maps(hessians, gradients, eta, s)), sampling, 2)
            for k, layer in enumerate(layers):
                law = js.theory.stationary_law(chain, k)
                assert_allclose(law.mean - [y.mean(), 1 - 2 * y.mean()], moments(layer, 2)[0], atol=1e-13)
                assert_allclose(law.covariance, moments(layer, 2)[1], atol=1e-13)
    m = n // b
    w = decay ** np.arange(m)
    spread = n / (n - 1) * ((w**2).sum() / b - w.sum() ** 2 / n) * y.var() * eta**2
    law = js.theory.stationary_law(chains["random_reshuffling"])
    assert law.exact and "equal" in law.method
    assert_allclose(law.covariance[0, 0], spread / (1 - decay ** (2 * m)), rtol=1e-10)
    if n % b == 0:  # the one order of each chain comes again and again: its displacements add up, not their squares
        assert_allclose(js.theory.stationary_covariance(chains["shuffle_once"])[0, 0], spread / (1 - decay**m) ** 2, rtol=1e-10)


@pytest.mark.slow
def test_examples_that_are_alike_are_counted(monkeypatch):
    """A hundred examples of two kinds, and the sets of a few examples: the same as all told apart, and as the sampled orders."""
    problem, *_ = regression(3, 2)
    x, y = (np.asarray(a) for a in problem.data)
    with jax.enable_x64(True):
        twice = js.finite_sum(squared_error, (np.tile(x, (2, 1, 1)), np.tile(y, (2, 1))), np.zeros(2))
        chain = js.sgd(twice, learning_rate=0.1, batch_size=2, sampling="random_reshuffling")
        many = js.finite_sum(squared_error, (np.repeat(x[:2], 50, axis=0), np.repeat(y[:2], 50, axis=0)), np.zeros(2))
        long = js.sgd(many, learning_rate=0.02, sampling="random_reshuffling")
    hessians, gradients = (np.tile(a, (2, *[1] * (a.ndim - 1))) for a in regression(3, 2)[1:3])
    layers = enumerated(courses(6, 2, "random_reshuffling", lambda s: step_maps(hessians, gradients, 0.1, s)), "random_reshuffling", 2)
    assert_allclose(js.theory.stationary_covariance(chain), moments(layers[0], 2)[1], atol=1e-13)
    exact = js.theory.stationary_law(long)
    assert exact.exact and "sets" in exact.method
    monkeypatch.setattr(reshuffling, "_ONE", 0)
    sampled = js.theory.stationary_law(long)
    assert not sampled.exact and "standard error" in sampled.reason
    error = float(sampled.reason.split("of ")[-1])
    assert np.linalg.norm(sampled.covariance - exact.covariance) < 4 * error * np.linalg.norm(exact.covariance)
    assert error < 0.03


def test_krylov_and_dense_epochs_agree(monkeypatch):
    problem, *_ = regression(6, 3)
    chain = js.sgd(problem, learning_rate=0.1, sampling="random_reshuffling")
    dense = js.theory.stationary_covariance(chain)
    monkeypatch.setattr(reshuffling, "_BASIS", 0)
    assert_allclose(js.theory.stationary_covariance(chain), dense, rtol=1e-10)


def test_laws_by_epochs_that_do_not_exist():
    problem, *_ = regression(5, 2)
    fine = js.sgd(problem, learning_rate=0.05, sampling="cyclic")
    for sampling, words in zip(EPOCHS, ("mean-square gain of an epoch", "of the orders of the data", "the order of the data"), strict=True):
        chain = js.sgd(problem, learning_rate=2.0, sampling=sampling)
        with pytest.raises(ValueError, match=words):
            js.theory.stationary_law(chain)
        fine = js.sgd(problem, learning_rate=0.05, sampling=sampling)
        bad: Any = ((5, "below the 5 steps"), (-1, "below the 5"), (1.0, "whole number"), ("end", '"average"'), ((), "empty"))
        for position, said in bad:
            with pytest.raises((ValueError, TypeError), match=said):
                js.theory.stationary_law(fine, position)
    with pytest.raises(ValueError, match="its own epoch"):
        js.theory.stationary_law(js.sgd(problem, learning_rate=0.05), 1)
    whole = js.sgd(problem, learning_rate=0.05, batch_size=5, sampling="random_reshuffling")
    assert not js.theory.stationary_covariance(whole).any()
    assert epochs.is_by_epochs(fine) and not epochs.is_by_epochs(whole)


@pytest.mark.slow
def test_simulated_epochs():
    """At the end of an epoch and in its middle, 5 standard errors of a Gaussian's covariance (the law has lighter tails); the law of
    sampling without replacement, and that at the other position, must fail."""
    problem, hessians, _, best = regression(6, 2, seed=3)
    problem = js.finite_sum(squared_error, problem.data, np.zeros(2))  # in float32, as it runs
    n, eta = 16_384, 0.05
    steps = 3 * int(9 / (3 * eta * np.linalg.eigvalsh(hessians.mean(axis=0))[0]))  # e⁻⁹ of a start at the minimum is left
    for sampling in ("random_reshuffling", "shuffle_once"):
        chain = js.sgd(problem, learning_rate=eta, batch_size=2, sampling=sampling)
        for extra in (0, 1):
            run = js.simulate(chain, best, key=js.key(1), chains=n, steps=steps + extra)
            e = run.positions.astype(float)
            law = js.theory.stationary_law(chain, extra)
            v = np.diag(law.covariance)
            error = np.sqrt((law.covariance**2 + np.outer(v, v)) / n)
            assert (np.abs(np.cov(e.T) - law.covariance) < 5 * error).all()
            assert (np.abs(e.mean(axis=0) - law.mean) < 5 * np.sqrt(v / n)).all()
            assert (np.abs(1.05**2 * np.cov(e.T) - law.covariance) > 5 * error).any()
            if sampling == "random_reshuffling":
                assert (np.abs(np.cov(e.T) - js.theory.stationary_covariance(chain, 1 - extra)) > 5 * error).any()
