"""Simulated ensembles against known answers, each with a twin that must fail.

A value is compared at five standard errors: |estimate − truth| ≤ 5 · sd₁/√N with sd₁ the standard deviation of one sample from
theory and N the number of independent chains (samples of one chain over time only make it better). Under the normal law one
comparison raises a false alarm with probability 5.7e-7; there are fewer than 100 here. Seeds are fixed.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import jaxsde as js

KEY = js.key(2024)


def halfsquare(phi):
    return 0.5 * jnp.sum(phi**2)


def q1(phi):
    return 0.5 * phi @ jnp.array([[1.0, 0.3], [0.3, 2.0]]) @ phi


def squared_error(phi, example):
    x, y = example
    return 0.5 * (x @ phi - y) ** 2


def well(phi):
    return jnp.sum((phi**2 - 1) ** 2) / 4


def off(measured, truth, sd1, n):
    """The largest deviation in units of sd₁/√n."""
    return float(np.max(np.abs(np.asarray(measured) - truth) / (np.asarray(sd1) / np.sqrt(n))))


def gaussian_sd(s):
    """The standard deviation of (xᵢ − mᵢ)(xⱼ − mⱼ) under a Gaussian law of covariance s."""
    s = np.asarray(s)
    return np.sqrt(np.outer(np.diag(s), np.diag(s)) + s**2)


def last_covariance(chain, start, steps, chains=20_000, key=KEY):
    x = js.simulate(chain, start, key=key, chains=chains, steps=steps).positions.astype(np.float64)
    return np.cov(x.T, ddof=0).reshape(x.shape[1], x.shape[1]), chains


def test_brownian_motion_has_covariance_eta_t():
    chain = js.integrate(js.brownian(2, learning_rate=0.1), dt=0.01)
    truth = 0.5 * np.eye(2)
    measured, n = last_covariance(chain, np.zeros(2), 500)
    assert off(measured, truth, gaussian_sd(truth), n) < 5
    twin, n = last_covariance(js.integrate(js.brownian(2, learning_rate=0.1 * 1.05**2), dt=0.01), np.zeros(2), 500)
    assert off(twin, truth, gaussian_sd(truth), n) > 5


def test_two_point_sgd_variance_and_autocorrelation():
    eta = 0.1
    chain = js.sgd(js.potential(halfsquare, jnp.zeros(1)), learning_rate=eta, sampling="two_point")
    n = 16_384
    run = js.simulate(
        chain, jnp.zeros(1), key=KEY, chains=n, steps=4, burn_in=200, statistics={"c": js.Autocovariance((0, 1, 3))}
    )
    covariance = run["c"].value[:, 0, 0]
    truth = eta / (2 - eta)
    sd1 = np.sqrt(2) * truth  # the law is sub-Gaussian: its fourth moment is below 3 variances squared
    assert off(covariance[0], truth, sd1, n) < 5
    assert off(covariance[0], eta / 2, sd1, n) > 2.5, "the SDE's variance, η/2, is another"
    more = js.simulate(chain, jnp.zeros(1), key=KEY, chains=8 * n, steps=0, burn_in=200).positions.astype(np.float64)
    assert off(more.var(), truth, sd1, 8 * n) < 5
    assert off(more.var(), eta / 2, sd1, 8 * n) > 5, "the SDE's variance, η/2, must fail"
    for lag, c in zip((1, 3), covariance[1:], strict=True):
        assert off(c, truth * (1 - eta) ** lag, sd1, n) < 5


def diab3():
    data = load_diabetes()
    x = data.data[:, [data.feature_names.index(f) for f in ("bmi", "bp", "s5")]]
    y = data.target
    return js.finite_sum(squared_error, ((x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()), np.zeros(3))


DIAB3 = np.array(
    [
        [0.01508217, -0.00279780, -0.00107325],
        [-0.00279780, 0.01480969, -0.00164754],
        [-0.00107325, -0.00164754, 0.01353124],
    ]
)


def test_sgd_on_real_data_has_its_exact_covariance():
    chain = js.sgd(diab3(), learning_rate=0.05)
    np.testing.assert_allclose(js.theory.stationary_covariance(chain), DIAB3, atol=1e-8)
    chains, steps = 8192, 4000
    run = js.simulate(
        chain, js.theory.minimum(chain.problem), key=KEY, chains=chains, steps=steps, burn_in=600, every=20,
        statistics={"cov": js.Covariance()},
    )  # fmt: skip
    slowest = np.linalg.eigvalsh(np.asarray(chain.problem.hessian(jnp.zeros(3))))[0]
    n = chains * 0.05 * steps * slowest
    assert off(run["cov"].value, DIAB3, gaussian_sd(DIAB3), n) < 5
    assert off(run["cov"].value * 1.05, DIAB3, gaussian_sd(DIAB3), n) > 5
    frozen = js.theory.stationary_covariance(js.sgd_sde(chain.problem, learning_rate=0.05, frozen_at=np.zeros(3)))
    assert off(run["cov"].value, frozen, gaussian_sd(DIAB3), n) > 5, "constant noise must fail"


Q1 = np.array([[2.0, -0.5], [-0.5, 0.6]])


def q1_problem(c=Q1):
    return js.potential(q1, jnp.zeros(2), noise_covariance=c)


def test_discrete_sgd_with_constant_noise():
    """SH + HS − ηHSH = ηC; the SDE's HS + SH = ηC must fail."""
    eta, h = 0.3, np.array([[1.0, 0.3], [0.3, 2.0]])
    eye = np.eye(2)
    operator = np.kron(eye, h) + np.kron(h, eye)
    truth = np.linalg.solve(operator - eta * np.kron(h, h), eta * Q1.ravel()).reshape(2, 2)
    sde = np.linalg.solve(operator, eta * Q1.ravel()).reshape(2, 2)
    measured, n = last_covariance(js.sgd(q1_problem(), learning_rate=eta), np.zeros(2), 120)
    assert off(measured, truth, gaussian_sd(truth), n) < 5
    assert off(measured, sde, gaussian_sd(truth), n) > 5


def test_q1_theory_and_measurement():
    sde = js.sgd_sde(q1_problem(), learning_rate=0.1)
    s = js.theory.stationary_covariance(sde)
    assert js.theory.best_temperature(q1_problem(), s) == pytest.approx(0.065, rel=1e-6)
    assert js.theory.gaussian_kl_to_gibbs(q1_problem(), s) == pytest.approx(0.28763678, abs=1e-7)
    assert js.theory.entropy_production(sde) == pytest.approx(0.0022456140, rel=1e-5)
    assert js.theory.area_rates(sde)[0, 1] == pytest.approx(0.00133333, rel=1e-5)
    # the twin: the lower half of C transposed into another matrix gives another answer
    other = js.theory.stationary_covariance(js.sgd_sde(q1_problem(Q1[::-1, ::-1]), learning_rate=0.1))
    assert abs(js.theory.gaussian_kl_to_gibbs(q1_problem(), other) - 0.28763678) > 0.01
    measured, n = last_covariance(js.integrate(sde, js.Heun(), dt=0.02), np.zeros(2), 2500)
    assert off(measured, s, gaussian_sd(s), n) < 5
    assert off(measured * 1.05**2, s, gaussian_sd(s), n) > 5


def test_langevin_is_gibbs():
    """The control. Heun's stationary covariance is within (hλ)² ~ 4e-4 of the limit; N sees 2 %."""
    temperature = 0.4
    truth = temperature * np.linalg.inv([[1.0, 0.3], [0.3, 2.0]])
    chain = js.integrate(js.langevin(q1_problem(), temperature=temperature), js.Heun(), dt=0.02)
    measured, n = last_covariance(chain, np.zeros(2), 600)
    assert off(measured, truth, gaussian_sd(truth), n) < 5
    assert off(measured, truth * 1.05**2, gaussian_sd(truth), n) > 5


def test_ito_double_well():
    """E[x²] = .79258271 for Itô; a Stratonovich reading gives .95003."""
    eta = 0.3
    problem = js.potential(well, jnp.ones(1), noise_covariance=lambda x: (0.2 + x**2) * jnp.eye(1))
    sde = js.sgd_sde(problem, learning_rate=eta)
    n = 40_000
    x = js.simulate(js.integrate(sde, dt=0.002), jnp.ones(1), key=KEY, chains=n, steps=15_000).positions.astype(np.float64)
    density = js.theory.stationary_density(sde)
    second, fourth = (density.expectation(lambda x, k=k: x**k) for k in (2, 4))
    assert second == pytest.approx(0.79258271, abs=1e-7)
    sd1 = np.sqrt(fourth - second**2)
    bias = 0.002  # weak order 1: E[x²] changes by less than its own size times the step
    assert off((x**2).mean(), 0.79258271, sd1, n) < 5 + bias / (sd1 / np.sqrt(n))
    assert off((x**2).mean(), 0.95003, sd1, n) > 5


def test_euler_maruyama_on_ou_has_its_own_variance():
    """k = 1.3, s² = .7, dt = .2: .309461 for the chain, .269231 for the equation."""
    sde = js.sde(lambda t, x: -1.3 * x, 0.7, dim=1)
    chain = js.integrate(sde, dt=0.2)
    truth = 0.7 * 0.2 / (1 - (1 - 1.3 * 0.2) ** 2)
    assert truth == pytest.approx(0.309461, abs=5e-7)
    assert js.theory.stationary_covariance(chain)[0, 0] == pytest.approx(truth, rel=1e-6)
    measured, n = last_covariance(chain, np.zeros(1), 60)
    assert off(measured, truth, np.sqrt(2) * truth, n) < 5
    assert off(measured, 0.269231, np.sqrt(2) * truth, n) > 5


def test_yaida_relation_for_sgd():
    """⟨Φ·∇L⟩ = (η/2)⟨|ĝ|²⟩ at stationarity, for any η."""
    eta, problem = 0.05, diab3()
    chain = js.sgd(problem, learning_rate=eta)
    x = js.simulate(chain, js.theory.minimum(problem), key=KEY, chains=20_000, steps=800).positions.astype(np.float64)
    data, target = (np.asarray(a, np.float64) for a in problem.data)
    residual = x @ data.T - target  # [chains, n]
    gradient = residual @ data / len(data)
    squares = (residual**2 * (data**2).sum(1)).mean(1)
    left = ((x - js.theory.minimum(problem)) * gradient).sum(1)
    difference = left - eta / 2 * squares
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(x))
    twin = left - eta * squares
    assert abs(twin.mean()) > 5 * twin.std() / np.sqrt(len(x)), "η for η/2 must fail"
