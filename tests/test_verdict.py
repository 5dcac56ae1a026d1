"""The verdict on laws whose answer is known: each of its four questions, and what it refuses to say.

Each check raises a false alarm with probability 1e-3 (`verdict.FALSE_ALARM`); about 25 of them are asserted here, on fixed
seeds: 2.5e-2 for the file under new ones. KL and T* are compared at five of their standard errors plus what dt adds.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from by_default import some

import jaxsde as js
from jaxsde.dynamics.equations import sde as user_sde

KEY = js.key(77)
H = np.array([[1.0, 0.3], [0.3, 2.0]])
C = np.array([[2.0, -0.5], [-0.5, 0.6]])


def q1(phi):
    return 0.5 * phi @ jnp.array([[1.0, 0.3], [0.3, 2.0]]) @ phi


def axes(phi):
    return 0.5 * (phi[0] ** 2 + 2 * phi[1] ** 2)


def well(phi):
    return jnp.sum((phi**2 - 1) ** 2) / 4


def made(loss, c=1.0, dim=2):
    return js.potential(loss, np.zeros(dim) if dim > 1 else np.ones(1), noise_covariance=c)


def judged(chain, problem, *, start=None, chains=1024, steps=600, burn_in=200, every=5, extra=None, **given):
    statistics = js.verdict_statistics(problem) | (extra or {})
    start = np.asarray(problem.start) if start is None else start
    run = js.simulate(
        chain, start, key=KEY, chains=chains, steps=steps, burn_in=burn_in, every=every, statistics=statistics
    )
    verdict = js.is_gibbs(run, problem, **given)
    text = json.dumps(verdict.to_json(), allow_nan=False)  # no NaN, whatever the law
    assert verdict.sentence in json.loads(text).values() and verdict.sentence in str(verdict)
    for estimate in (verdict.kl, verdict.temperature):  # an interval with every number, a reason without
        assert (estimate.low is not None) == estimate.known and (estimate.known or estimate.reason)
    return verdict


def readings(verdict):
    return verdict.stationary.reading, verdict.gibbs.reading, verdict.equilibrium.reading


def held(verdict):
    return {reason.name for reason in verdict.reasons if reason.holds}


def test_langevin_is_gibbs_and_in_equilibrium():
    problem = made(q1, C)  # the problem's own Σ does not matter to Langevin
    chain = js.integrate(js.langevin(problem, temperature=0.1), js.Heun(), dt=0.05)
    verdict = judged(chain, problem, chains=2048)
    assert readings(verdict) == ("yes", "yes", "yes")
    assert abs(verdict.temperature.value - 0.1) < 5 * verdict.temperature.stderr + 5e-4
    assert verdict.kl.value < 1e-3 and "is Gibbs at T*" in verdict.sentence
    assert not held(verdict)  # Heun's step is of second order: a half per cent here, where SGD's would make five
    wrong = judged(chain, problem, temperature=0.12)
    assert (
        wrong.gibbs.reading == "no" and wrong.temperature.value == 0.12
    )  # a law at another temperature is another law


@pytest.mark.slow
def test_anisotropic_noise_is_neither():
    """Q1 of the OU laws: T* = .065, KL = .28763678, area rate .00133."""
    problem = made(q1, C)
    chain = js.integrate(js.sgd_sde(problem, learning_rate=0.1), js.Heun(), dt=0.05)
    verdict = judged(chain, problem, chains=8192, steps=2000)
    assert readings(verdict) == ("yes", "no", "no")
    assert abs(verdict.temperature.value - 0.065) < 5 * verdict.temperature.stderr + 1e-4
    assert abs(verdict.kl.value - 0.28763678) < 5 * verdict.kl.stderr + 1e-3
    assert held(verdict) == {"anisotropic noise"}
    assert "carries a current" in verdict.sentence and "not isotropic" in verdict.sentence
    reason = next(r for r in verdict.reasons if r.name == "anisotropic noise")
    assert abs(reason.value - 0.28763678) < 1e-6


def test_a_strong_current_is_seen_at_once():
    problem = js.potential(
        lambda x: 0.5 * x @ jnp.array([[2.0, 0.6], [0.6, 0.5]]) @ x,
        np.zeros(2),
        noise_covariance=[[1, -0.4], [-0.4, 0.3]],
    )
    chain = js.integrate(js.sgd_sde(problem, learning_rate=0.02), js.Heun(), dt=0.05)
    verdict = judged(chain, problem, burn_in=800)
    assert readings(verdict) == ("yes", "no", "no")
    assert abs(verdict.kl.value - 0.16054458) < 5 * verdict.kl.stderr + 1e-3


@pytest.mark.slow
def test_commuting_anisotropic_noise_has_no_current():
    """H and Σ diagonal: no current, yet not Gibbs. KL = −½ Σ log(Cᵢ/mean C)."""
    problem = made(axes, [2.0, 0.5])
    chain = js.integrate(js.sgd_sde(problem, learning_rate=0.1), js.Heun(), dt=0.05)
    verdict = judged(chain, problem, chains=4096)
    assert readings(verdict) == ("yes", "no", "yes")
    assert abs(verdict.kl.value + 0.5 * np.log(np.array([2.0, 0.5]) / 1.25).sum()) < 5 * verdict.kl.stderr + 2e-3


@pytest.mark.slow
def test_isotropic_sgd_is_gibbs_within_the_tolerance():
    """SGD with Σ = I at η = .02: variances 1/(2 − ηλ) η/λ, so T* = η/2 (1 + ηλ/2) and a KL of order (ηλ)²."""
    verdict = judged(js.sgd(made(axes), learning_rate=0.02), made(axes), chains=2048, steps=1500, burn_in=500, every=10)
    assert readings(verdict)[:2] == ("yes", "yes")
    assert abs(verdict.temperature.value - 0.01) < 5 * verdict.temperature.stderr + 3e-4
    coarse = judged(js.sgd(made(axes), learning_rate=0.8), made(axes), steps=600, every=2)
    assert coarse.gibbs.reading == "no" and held(coarse) == {"finite step"}  # variances η/(2 − ηλ)λ


def test_steps_that_are_not_gaussian_are_named():
    chain = js.sgd(made(axes), learning_rate=0.5, sampling="two_point")
    verdict = judged(chain, made(axes), every=2)
    assert "non-Gaussian steps" in held(verdict)
    assert "non-Gaussian steps" not in held(judged(js.sgd(made(axes), learning_rate=0.5), made(axes), every=2))


def test_data_gives_state_dependent_noise():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 2))
    y = x @ [1.0, -1.0] + 0.5 * rng.normal(size=60)
    problem = js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (x, y), np.zeros(2))
    verdict = judged(js.sgd(problem, learning_rate=0.2), problem, steps=1000, every=4)
    assert {"state-dependent noise", "finite step", "non-Gaussian steps"} <= held(verdict)
    fixed = js.sgd_sde(problem, learning_rate=0.2, frozen_at=js.theory.minimum(problem))
    frozen = judged(js.integrate(fixed, dt=0.02), problem, steps=1000, every=10)
    assert "state-dependent noise" not in held(frozen)


FAR = np.full(2, 30.0)


@pytest.mark.parametrize(
    "chain,problem,start",
    [
        (js.integrate(js.langevin(made(axes), temperature=0.1), dt=0.01), made(axes), FAR),
        (js.integrate(js.brownian(2, learning_rate=0.1), dt=0.05), made(axes), None),
        (js.integrate(js.gradient_flow(made(axes)), dt=0.01), made(axes), np.ones(2)),
        (js.integrate(user_sde(lambda t, x: 0.3 + 0 * x, 0.1, dim=2), dt=0.05), made(axes), None),
        # the means stand still; the law spreads
        (
            js.integrate(user_sde(lambda t, x: -0.001 * x, 1.0, dim=2), dt=0.05),
            made(lambda x: jnp.sum(jnp.cos(x))),
            None,
        ),
    ],
    ids=["far", "brownian", "flow", "drifting", "spreading"],
)
def test_not_stationary_yet(chain, problem, start):
    verdict = judged(chain, problem, start=start, steps=200, burn_in=0)
    assert verdict.stationary.reading == "no" and "ot stationary" in verdict.sentence
    assert not verdict.kl.known and "ot stationary" in verdict.kl.reason
    assert not verdict.temperature.known
    assert verdict.gibbs.reading == verdict.equilibrium.reading == "undecided"


def test_the_same_without_the_course():
    """From the last positions against the average over time, where only a covariance was gathered."""
    chain = js.integrate(js.langevin(made(axes), temperature=0.1), js.Heun(), dt=0.05)

    def verdict(start, burn_in):
        run = js.simulate(chain, start, key=KEY, chains=2048, steps=400, burn_in=burn_in, every=5,
                          statistics={"square": js.of(axes, js.Covariance()), "cov": js.Covariance()})  # fmt: skip
        return js.is_gibbs(run, made(axes))

    assert readings(verdict(FAR, 0)) == ("no", "undecided", "undecided")
    settled = verdict(np.zeros(2), 300)
    assert settled.stationary.reading == "yes" and settled.equilibrium.reading == "undecided"
    assert "add Autocovariance" in settled.equilibrium.sentence


def test_all_chains_diverged():
    cubic = made(lambda x: -jnp.sum(x**4))
    verdict = judged(js.sgd(cubic, learning_rate=0.5), cubic, start=np.ones(2), chains=64, steps=50, burn_in=0)
    assert readings(verdict) == ("undecided",) * 3 and verdict.diverged == 64
    assert "All 64 chains diverged" in verdict.sentence and "diverged" in verdict.kl.reason


def test_some_chains_diverged():
    """Those that are left are judged, and the sentence says how many are not among them."""
    problem = made(axes)
    start = np.zeros((1024, 2))
    start[::64] = 1e30
    chain = js.integrate(js.langevin(problem, temperature=0.1), js.Heun(), dt=0.05)
    verdict = judged(chain, problem, start=start)
    assert verdict.diverged == 16 and readings(verdict)[:2] == ("yes", "yes")
    assert "16 of 1024 chains diverged and are left out" in verdict.sentence


OPEN = {
    "slope": lambda x: jnp.sum(x),
    "saddle": lambda x: -jnp.sum(x**2) / 2,
    "flat": lambda x: 0 * jnp.sum(x),
    "valley": lambda x: x[0] ** 2 / 2,
}


@pytest.mark.parametrize("loss", some(OPEN, ("saddle", "valley")))
def test_a_loss_that_does_not_confine_has_no_gibbs_law(loss):
    """The process is stationary (its drift is the user's), the loss it is compared with has no finite Z."""
    chain = js.integrate(user_sde(lambda t, x: -x, 0.2, dim=2), dt=0.05)
    problem = made(OPEN[loss])
    edges = np.linspace(-1.5, 1.5, 25)
    verdict = judged(chain, problem, extra={"hist": js.Histogram((edges, edges), components=(0, 1))})
    assert verdict.gibbs.reading == "no", verdict
    assert not verdict.kl.known and "no Gibbs law" in verdict.kl.reason
    assert "no Gibbs law" in verdict.sentence


@pytest.mark.parametrize("chains", [1, 2, 3])
def test_too_few_chains_give_a_reason_and_no_number(chains):
    chain = js.integrate(js.langevin(made(axes), temperature=0.1), dt=0.05)
    verdict = judged(chain, made(axes), chains=chains)
    assert readings(verdict) == ("undecided",) * 3
    assert f"{chains} group" in verdict.kl.reason and not verdict.temperature.known


@pytest.mark.slow
def test_the_double_well_by_histogram():
    """1-d, L = (x² − 1)²/4: Langevin is Gibbs though not Gaussian; multiplicative Itô noise is not, with KL = .04532763."""
    edges = np.linspace(-2.6, 2.6, 105)
    extra = {"hist": js.Histogram(edges, components=0)}
    flat = made(well, 1.0, 1)
    start = np.where(np.arange(2048)[:, None] % 2, 1.0, -1.0)
    chain = js.integrate(js.langevin(flat, temperature=0.2), js.Heun(), dt=0.02)
    verdict = judged(chain, flat, start=start, chains=2048, steps=3000, burn_in=600, every=10, extra=extra)
    assert readings(verdict) == ("yes", "yes", "yes")
    assert abs(verdict.temperature.value - 0.2) < 5 * verdict.temperature.stderr + 1e-3
    bent = js.potential(well, np.ones(1), noise_covariance=lambda x: 0.2 + x**2)
    chain = js.integrate(js.sgd_sde(bent, learning_rate=0.3), js.Milstein(), dt=0.01)
    verdict = judged(chain, bent, start=start, chains=2048, steps=6000, burn_in=6000, every=20, extra=extra)
    assert readings(verdict) == ("yes", "no", "yes")
    assert abs(verdict.kl.value - 0.04532763) < 5 * verdict.kl.stderr + 2e-3
    assert abs(verdict.temperature.value - 0.18812506) < 5 * verdict.temperature.stderr + 2e-3
    assert "state-dependent noise" in held(verdict)


@pytest.mark.parametrize("tolerance", [0, -1, np.nan, np.inf])
def test_a_tolerance_that_is_none(tolerance):
    with pytest.raises(ValueError, match="tolerance must be a positive number"):
        js.is_gibbs(None, made(axes), tolerance=tolerance)


def test_the_tolerance_decides():
    """A KL of about .004 nats is Gibbs to a hundredth and not to a thousandth."""
    problem = made(axes, [1.0, 0.84])
    chain = js.integrate(js.sgd_sde(problem, learning_rate=0.1), js.Heun(), dt=0.05)
    run = js.simulate(chain, np.zeros(2), key=KEY, chains=4096, steps=1000, burn_in=200, every=5,
                      statistics=js.verdict_statistics(problem))  # fmt: skip
    truth = -0.5 * np.log(np.array([1.0, 0.84]) / 0.92).sum()
    assert 0.003 < truth < 0.005
    assert js.is_gibbs(run, problem).gibbs.reading == "yes"
    assert js.is_gibbs(run, problem, tolerance=1e-3).gibbs.reading == "no"
    kl = js.is_gibbs(run, problem).kl
    assert js.is_gibbs(run, problem, tolerance=float(kl.value)).gibbs.reading == "undecided"
