"""The law at any step from a start, and the mean excess loss: recursions written out, closed forms, and simulations."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from written_out import EPOCHS, MOMENTA, courses, moments, regression, squared_error, step_maps

import jaxsde as js

STEPS = (0, 1, 3, 7, 500)  # within an epoch, across its end, and by powers of matrices


def recursion(sampling, b, step, y, n):
    """Second moments of (Φ − Φ*, …, 1) after each of STEPS from the state y."""
    if sampling in ("with_replacement", "without_replacement"):
        draws = itertools.product(range(n), repeat=b) if sampling == "with_replacement" else itertools.combinations(range(n), b)
        course = np.array([[np.eye(len(y)), step(batch)] for batch in draws])
    else:
        course = courses(n, b, sampling, step)
    m, found = course.shape[1] - 1, []
    for k in STEPS:
        if sampling in ("shuffle_once", "cyclic"):
            ends = np.stack([t[k % m] @ np.linalg.matrix_power(t[-1], k // m) @ y for t in course])
            found.append(ends.T @ ends / len(ends))
            continue
        x = np.outer(y, y)
        for _ in range(k // m):
            x = np.mean(course[:, -1] @ x @ np.swapaxes(course[:, -1], 1, 2), axis=0)
        found.append(np.mean(course[:, k % m] @ x @ np.swapaxes(course[:, k % m], 1, 2), axis=0))
    return found


@pytest.mark.parametrize("sampling", [*EPOCHS, "with_replacement", "without_replacement"])
@pytest.mark.parametrize("b", [1, 2])
def test_against_recursions(sampling, b):
    """n = 5 in two dimensions with Hessians of rank two, plain, heavy ball and Nesterov."""
    n, d, eta = 5, 2, 0.08
    problem, hessians, gradients, best = regression(n, d, 2)
    start = best + np.array([1.0, -2.0])
    y = np.concatenate([start - best, np.zeros(d), [1.0]])
    for momentum in MOMENTA[:3]:
        made = js.momentum(momentum["mu"], nesterov=momentum.get("nesterov", False)) if momentum else None
        with jax.enable_x64(True):
            chain = js.sgd(problem, learning_rate=eta, batch_size=b, sampling=sampling, optimizer=made)
        found = js.theory.transient(chain, start, STEPS)
        assert found.exact
        for k, x in enumerate(recursion(sampling, b, lambda s, m=momentum: step_maps(hessians, gradients, eta, s, **m), y, n)):
            mean, covariance = moments(x, d)
            assert_allclose(found.mean[k] - best, mean, atol=1e-12)
            assert_allclose(found.covariance[k], covariance, atol=1e-12)
        one = js.theory.transient(chain, start, 7)
        assert_allclose(one.covariance, found.covariance[3], atol=1e-12)
        assert one.mean.shape == (d,) and one.steps == 7
        assert_allclose(found.covariance[-1], js.theory.stationary_covariance(chain, 500 % 5 if b == 1 else 0), atol=1e-9)


@pytest.mark.parametrize("sampling", ["with_replacement", "random_reshuffling", "cyclic"])
def test_more_parameters_than_data(sampling):
    """No isolated minimum: every moment about any of them all the same, and what no example sees stays where it began."""
    n, d, eta = 3, 4, 0.05
    problem, hessians, gradients, best = regression(n, d)
    start = best + np.array([1.0, -2.0, 0.5, 1.5])
    y = np.concatenate([start - best, np.zeros(d), [1.0]])
    with jax.enable_x64(True):
        chain = js.sgd(problem, learning_rate=eta, sampling=sampling, optimizer=js.momentum(0.6))
    found = js.theory.transient(chain, start, STEPS)
    assert found.exact
    for k, x in enumerate(recursion(sampling, 1, lambda s: step_maps(hessians, gradients, eta, s, mu=0.6), y, n)):
        mean, covariance = moments(x, d)
        assert_allclose(found.mean[k] - best, mean, atol=1e-11)
        assert_allclose(found.covariance[k], covariance, atol=1e-11)
    unseen = np.linalg.svd(hessians.mean(axis=0))[0][:, n:]
    assert_allclose(unseen.T @ found.mean.T, np.repeat(unseen.T @ start[:, None], len(STEPS), axis=1), atol=1e-9)
    if sampling != "cyclic":
        assert np.trace(found.covariance[2]) > 1e-3 > np.trace(found.covariance[-1])  # it comes to rest: no noise is left
    with pytest.raises(ValueError, match="not isolated"):
        js.theory.stationary_law(chain)


@pytest.mark.parametrize("n,b", [(4, 1), (5, 2)])
def test_equal_hessians_of_any_number(n, b):
    """The closed forms for equal Hessians against every order, and Σ over n = 300 examples without enumeration."""
    y = np.random.default_rng(n).normal(size=n)
    with jax.enable_x64(True):
        problem = js.finite_sum(lambda q, e: 0.5 * (q[0] - e) ** 2, y, np.zeros(1))
        many = js.finite_sum(lambda q, e: 0.5 * (q[0] - e) ** 2, np.resize(y, 300), np.zeros(1))
        for sampling in EPOCHS:
            chain = js.sgd(problem, learning_rate=0.1, batch_size=b, sampling=sampling)
            found = js.theory.transient(chain, np.array([2.0]), STEPS)
            step = lambda s: step_maps(np.ones((n, 1, 1)), (y.mean() - y)[:, None], 0.1, s)
            for k, x in enumerate(recursion(sampling, b, step, np.array([2.0 - y.mean(), 0.0, 1.0]), n)):
                mean, covariance = moments(x, 1)
                assert_allclose(found.mean[k] - y.mean(), mean, atol=1e-13)
                assert_allclose(found.covariance[k], covariance, atol=1e-13)
        once = js.theory.transient(js.sgd(many, learning_rate=0.1, sampling="shuffle_once"), np.zeros(1), 90_000)
        settled = js.theory.stationary_covariance(js.sgd(many, learning_rate=0.1, sampling="shuffle_once"))
    assert_allclose(once.covariance, settled, rtol=1e-9)


def test_closed_forms():
    """Constant noise: S_k = S(1 − b²ᵏ), b = 1 − ηh; its SDE under Euler–Maruyama is the same chain; SVAG has l times the noise."""
    eta, h, c, x0 = 0.3, 1.7, 1.3, 2.5
    with jax.enable_x64(True):
        problem = js.potential(lambda q: 0.5 * h * q @ q, np.zeros(1), noise_covariance=c)
        k, b = np.array([0, 1, 5, 40, 1000]), 1 - eta * h
        expected = eta**2 * c * (1 - b ** (2 * k)) / (1 - b * b)
        for chain in (js.sgd(problem, learning_rate=eta), js.integrate(js.sgd_sde(problem, learning_rate=eta), dt=eta)):
            found = js.theory.transient(chain, np.array([x0]), k)
            assert_allclose(found.mean[:, 0], x0 * b**k, atol=1e-14)
            assert_allclose(found.covariance[:, 0, 0], expected, rtol=1e-12)
        fast = js.svag(problem, learning_rate=eta, l=3)
        b = 1 - eta * h / 3
        assert_allclose(js.theory.transient(fast, np.zeros(1), 4).covariance, [[eta**2 / 3 * c * (1 - b**8) / (1 - b * b)]], rtol=1e-12)
        wild = js.sgd(problem, learning_rate=1.5)  # beyond the edge: no stationary law, and a transient all the same
        assert_allclose(js.theory.transient(wild, np.zeros(1), 3).covariance, [[1.5**2 * c * (1 + 1.55**2 + 1.55**4)]], rtol=1e-12)
        with pytest.raises(ValueError, match="unstable"):
            js.theory.stationary_covariance(wild)


def test_excess_loss():
    """½ tr H(S + mmᵀ); the mean loss over every order; an SDE on the line by quadrature; Gibbs has d kT/2 where H is quadratic."""
    problem, hessians, _, best = regression(5, 2)
    h = hessians.mean(axis=0)
    with jax.enable_x64(True):
        for sampling, position in (("with_replacement", 0), ("random_reshuffling", 3), ("cyclic", "average")):
            chain = js.sgd(problem, learning_rate=0.08, sampling=sampling)
            law = js.theory.stationary_law(chain, position)
            m = law.mean - best
            assert_allclose(js.theory.excess_loss(chain, position), (np.trace(h @ law.covariance) + m @ h @ m) / 2, rtol=1e-10)
        steep = js.potential(lambda q: 0.5 * 3.0 * q @ q, np.zeros(3), noise_covariance=1.0)
        assert_allclose(js.theory.excess_loss(js.langevin(steep, temperature=0.2)), 0.3, rtol=1e-10)
        quartic = js.potential(lambda q: q[0] ** 4 / 4, np.ones(1), noise_covariance=1.0)
        assert_allclose(js.theory.excess_loss(js.langevin(quartic, temperature=0.2)), 0.05, rtol=1e-6)  # kT/4
        wavy = js.potential(lambda q: (q[0] ** 2 - 1) ** 2 / 4, np.ones(1), noise_covariance=lambda q: (0.2 + q[0] ** 2).reshape(1, 1))
        x = np.linspace(-6, 6, 24_001)
        speed = 0.2 + x**2  # p ∝ exp(∫ 2f/g)/g of dX = f dt + √g dW with f = x − x³, g = .3(.2 + x²)
        p = np.exp(2 / 0.3 * (0.6 * np.log(speed) - x**2 / 2)) / speed
        assert_allclose(js.theory.excess_loss(js.sgd_sde(wavy, learning_rate=0.3)), np.sum(p * (x**2 - 1) ** 2 / 4) / p.sum(), rtol=1e-6)
        with pytest.warns(UserWarning, match="not quadratic"):
            js.theory.excess_loss(js.sgd(wavy, learning_rate=0.01))
        with pytest.raises(ValueError, match="needs a loss"):
            js.theory.excess_loss(js.sde(lambda t, x: -x, np.eye(2), dim=2))


def test_what_is_refused():
    with pytest.raises(TypeError, match="is needed, got str"):
        js.theory.excess_loss("chain")
    problem, *_ = regression(5, 2)
    chain = js.sgd(problem, learning_rate=0.05)
    bad: Any = ((np.zeros(3), 1, "start"), (np.zeros(2), -1, "whole number"), (np.zeros(2), 1.5, "whole number"), (np.zeros(2), [], "empty"))
    for start, steps, said in bad:
        with pytest.raises(ValueError, match=said):
            js.theory.transient(chain, start, steps)
    with pytest.raises(TypeError, match="no steps"):
        js.theory.transient(js.sgd_sde(problem, learning_rate=0.05), np.zeros(2), 1)
    with pytest.raises(TypeError, match="DiffusionChain"):
        js.theory.transient(problem, np.zeros(2), 1)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["with_replacement", "random_reshuffling"])
def test_the_mean_loss_of_a_run(sampling):
    """Above the minimum, at the end of an epoch, with momentum: 5 standard errors over groups of chains; noise that is 5 % stronger
    must fail."""
    problem, *_, best = regression(6, 2, seed=3)
    problem = js.finite_sum(squared_error, problem.data, best)
    chain = js.sgd(problem, learning_rate=0.05, batch_size=2, sampling=sampling, optimizer=js.momentum(0.5))
    run = js.simulate(chain, best, key=js.key(4), chains=32_768, burn_in=300, steps=60, every=3, statistics={"loss": js.MeanLoss(problem)})
    lowest = float(problem.loss(problem.start))
    excess, error = float(run["loss"].value) - lowest, float(run["loss"].stderr)
    wanted = js.theory.excess_loss(chain)
    assert abs(excess - wanted) < 5 * error < abs(1.05**2 * excess - wanted)


@pytest.mark.parametrize("sampling", ["with_replacement", pytest.param("random_reshuffling", marks=pytest.mark.slow)])
def test_simulated(sampling):
    """Four steps and a half epoch from a far start, with Nesterov momentum: 5 standard errors, of the fourth moments that the sample
    itself shows; the law one step earlier, and noise that is 5 % stronger, must fail."""
    problem, *_ = regression(6, 2, seed=3)
    problem = js.finite_sum(squared_error, problem.data, np.zeros(2))
    chain = js.sgd(problem, learning_rate=0.05, batch_size=2, sampling=sampling, optimizer=js.momentum(0.6, nesterov=True))
    start, n = np.array([2.0, -1.0]), 16_384
    e = js.simulate(chain, start, key=js.key(2), chains=n, steps=7).positions.astype(float)
    law, before = js.theory.transient(chain, start, 7), js.theory.transient(chain, start, 6)
    centred = e - e.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    error = 5 * products.std(axis=0) / np.sqrt(n)
    assert (np.abs(products.mean(axis=0) - law.covariance) < error).all()
    assert (np.abs(e.mean(axis=0) - law.mean) < 5 * np.sqrt(np.diag(law.covariance) / n)).all()
    assert (np.abs(1.05**2 * products.mean(axis=0) - law.covariance) > error).any()
    assert (np.abs(e.mean(axis=0) - before.mean) > 5 * np.sqrt(np.diag(law.covariance) / n)).any()
