"""Leaving a well: SGD with noise ±1, with Gaussian noise of the same covariance, and their SDE, as eta -> 0. A path: a figure."""

import sys

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

import jaxsde as js

problem = js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, -jnp.ones(1), noise_covariance=1.0)
rates, rows = np.array([0.3, 0.2, 0.14, 0.1, 0.07, 0.05, 0.035, 0.025]), []
for eta in rates:
    chains = [js.sgd(problem, learning_rate=eta, sampling=s) for s in ("two_point", "gaussian")]
    rows.append([js.theory.mean_first_passage(x, -1.0, 0.0).mean for x in (*chains, js.sgd_sde(problem, learning_rate=eta))])
    print(f"eta {eta:<5}  SGD / SDE {rows[-1][0] / rows[-1][2]:8.3f}   Gaussian surrogate / SDE {rows[-1][1] / rows[-1][2]:.3f}")
# the cost of a way up: p with log E exp(p noise) = p L'; log cosh p for two values, p²/2 (so 2 L') for Gaussian noise
cost = quad(lambda x: brentq(lambda p: np.log(np.cosh(p)) - p * (x**3 - x), 1e-9, 30) if -1 < x < 0 else 0.0, -1, 0)[0]
print(f"eta log(time) tends to {cost:.4f} for SGD and to 0.5 for the SDE: they never agree")
run = js.simulate(js.sgd(problem, learning_rate=0.2, sampling="two_point"), problem.start, key=js.key(0), chains=4096,
                  steps=500, every=1, statistics={"passage": js.FirstPassage(lambda x: x[0] >= 0)})  # fmt: skip
print("simulated at eta 0.2:", js.metrics.passage_times(run, "passage"), "exact:", f"{rows[1][0]:.3f}")
if sys.argv[1:]:
    plt.semilogy(1 / rates, rows, "o-", ms=4, label=["SGD, noise ±1", "SGD, Gaussian noise", "SDE"])
    plt.gca().set(xlabel="1/η", ylabel="mean time from −1 to 0", title="Escape: SGD and its SDE part as η → 0")
    plt.legend()
    plt.savefig(sys.argv[1], dpi=150, bbox_inches="tight")
