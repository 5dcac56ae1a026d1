"""Rates of the Fokker–Planck equation beside ensembles: how fast a density relaxes, and how long a chain stays in a box.

At 5 standard errors (a false alarm in two million); noise 1.05 times too strong is seen.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
import jaxsde.theory as theory

ETA = 0.3


def test_the_spectral_gap_is_the_rate_at_which_an_ensemble_forgets_its_well():
    def sde(noise=1.0):
        return js.sgd_sde(js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, jnp.ones(1), noise_covariance=noise), learning_rate=ETA)

    def of_chain(dt):
        return -np.log(theory.transfer_operator(js.integrate(sde(), dt=dt)).spectrum()[1].real) / dt

    def of_ensemble(noise, dt=0.05, chains=1 << 18, first=160, last=460):
        """By the means at two times, when all but the slowest mode is gone: E x ∝ e^(−λt)."""
        chain, ask = js.integrate(sde(noise), dt=dt), dict(key=js.key(5), chains=chains)
        x, y = (js.simulate(chain, np.ones(1), steps=n, **ask).positions[:, 0].astype(float) for n in (first, last))
        ratio, time = y.mean() / x.mean(), (last - first) * dt
        return -np.log(ratio) / time, (y - ratio * x).std() / np.sqrt(chains) / y.mean() / time

    gap = theory.fokker_planck(sde()).spectral_gap()
    step = of_chain(0.05)
    # the scheme's rate tends to that of the equation: first order in dt, so a quarter of the first change is left at most
    assert abs(2 * of_chain(0.025) - step - gap.value) < abs(step - gap.value) / 4
    rate, stderr = of_ensemble(1.0)
    assert abs(rate - step) < 5 * stderr
    rate, stderr = of_ensemble(1.05)
    assert abs(rate - step) > 5 * stderr


@pytest.mark.slow
def test_the_mean_exit_time_of_a_box_is_that_of_an_ensemble():
    def sde(noise=1.0):
        problem = js.potential(
            lambda x: 0.25 * (x[0] ** 2 - 1) ** 2 + 0.5 * x[1] ** 2 + 0.2 * x[0] * x[1], jnp.ones(2),
            noise_covariance=noise * np.array([[1.0, 0.4], [0.4, 0.7]]),
        )  # fmt: skip
        return js.sgd_sde(problem, learning_rate=ETA)

    def watched(noise, dt):
        """A look every dt sees a wall .5826 σ√dt further out, so it is put so far in; what is left is of first order in dt."""
        wall = 0.5825971579 * np.sqrt(ETA * noise * dt)
        run = js.simulate(
            js.integrate(sde(noise), dt=dt), np.array([1.0, 0.0]), key=js.key(3), chains=1 << 16, steps=int(250 / dt),
            statistics={"out": js.FirstPassage(lambda x: wall - x[0])},
        )  # fmt: skip
        return js.metrics.passage_times(run, "out").mean

    def z(noise):
        coarse, fine = watched(noise, 0.04), watched(noise, 0.01)
        found = (4 * fine.value - coarse.value) / 3
        return (found - exact.value) / np.hypot(np.hypot(4 * fine.stderr, coarse.stderr) / 3, exact.error)

    walls = dict(box=([0, -3.5], [3.5, 3.5]), walls=["absorbing", "reflecting"])  # the others are out of reach
    exact = theory.fokker_planck(sde(), **walls).mean_exit_time([1.0, 0.0])
    assert abs(z(1.0)) < 5 < abs(z(1.05))
