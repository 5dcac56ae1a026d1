"""Mandt, Hoffman and Blei: the learning rate at which SGD's stationary law is closest to a posterior."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..engine.simulate import simulate
from ..estimate import jackknife_many
from ..problems.potentials import quadratic
from ..problems.problem import potential
from ..report.style import MUTED, canvas, panel, styled
from ..statistics import Covariance
from ..stepping.chains import sgd
from ..theory import lyapunov, stationary_covariance
from .figures import BAND, DASHES, THEORY, dots, ticks, word
from .statement import Entry, Statement, components, vector

_H = np.array([[1.0, 0.3], [0.3, 2.0]])
_C = np.array([[2.0, -0.5], [-0.5, 0.6]])
_N, _S = 1000, 1  # data points, minibatch
_FACTORS = np.array([0.4, 0.6, 0.8, 1.0, 1.3, 1.8, 2.6])  # learning rates, in units of the best


def _loss(phi: Any) -> Any:
    return quadratic(phi, hessian=tuple(map(tuple, _H.tolist())))


def _half(covariance: np.ndarray) -> np.ndarray:
    """KL(N(0, S) ‖ N(0, (N H)⁻¹)), the posterior of N data points under a flat prior."""
    hs = _N * _H @ covariance
    return 0.5 * (np.trace(hs) - len(hs) - np.linalg.slogdet(hs)[1])


def _best(rates: np.ndarray, kls: np.ndarray) -> float:
    """ε* of the curve a + (D/2)(ε/ε* − log ε), which KL is over ε where S is proportional to ε: least squares in a and 1/ε*."""
    d = len(_H)
    a = np.stack([np.ones(len(rates)), d / 2 * rates], axis=1)
    return float(1 / np.linalg.lstsq(a, kls + d / 2 * np.log(rates), rcond=None)[0][1])


def mandt(key: Any, *, chains: Count = 4096, noise: Positive = 1.0) -> Statement:
    """KL(SGD‖posterior) is least at the learning rate ε* = 2(S/N)·D/tr(BBᵀ).

    A quadratic loss of N = 1000 points in D = 2, noise of covariance C = BBᵀ, S = 1. SGD runs at seven learning rates; ε* is that
    of the curve through its seven KLs. `noise` plants an error: it multiplies the covariance of the noise that runs.
    """
    best = 2 * _S / _N * len(_H) / np.trace(_C)
    rates = best * _FACTORS
    problem, honest = (potential(_loss, np.zeros(2), noise_covariance=factor * _C) for factor in (noise, 1.0))
    sources = []
    for i, rate in enumerate(rates):
        relax = round(1 / (rate * np.linalg.eigvalsh(_H)[0]))  # steps
        run = simulate(
            sgd(problem, learning_rate=rate), np.zeros(2), key=jax.random.fold_in(key, i), chains=chains, burn_in=8 * relax,
            steps=16 * relax, every=max(relax // 8, 1), statistics={"covariance": Covariance()},
        )  # fmt: skip
        sources.append((run.statistic("covariance"), run.partials("covariance")))

    def found(*covariances: np.ndarray) -> np.ndarray:
        kls = np.array([_half(s) for s in covariances])
        return np.r_[_best(rates, kls), kls]

    all_of_it = jackknife_many(sources, found, estimator="least squares through KLs of fitted Gaussians")
    at = 1 + int(np.flatnonzero(_FACTORS == 1)[0])
    measured = components(all_of_it, [0, at])
    ideal = lyapunov(-_H, best * _C)
    expected = vector(best, _half(ideal))
    # of the chain, where the formula has its SDE
    whole = found(*(stationary_covariance(sgd(honest, learning_rate=rate)) for rate in rates))

    def draw() -> Figure:
        with styled():
            made = canvas(
                2.6, f"SGD is closest to the posterior at ε = {measured.value[0]:.6f}; the formula says {best:.6f}",
                "KL(SGD’s stationary law ‖ posterior): dots with 95 % intervals were measured, the line is the formula.",
            )  # fmt: skip
            axes = panel(made, 0.7, 0.5, 5.9, 1.95)
            fine = best * np.geomspace(0.33, 3.2, 200)
            axes.plot(fine * 1e3, [_half(r / best * ideal) for r in fine], color=THEORY, lw=1.2)
            dots(axes, rates * 1e3, all_of_it, slice(1, None))
            axes.axvline(best * 1e3, color=MUTED, lw=0.8, ls=DASHES)
            axes.axvspan(measured.low[0] * 1e3, measured.high[0] * 1e3, color=BAND, alpha=0.5, lw=0)
            word(axes, "ε*, and its interval", (best * 1e3, axes.get_ylim()[1]), (4, -8))
            axes.set(xscale="log", xlabel="learning rate ε, thousandths", ylabel="KL (nats)")
            ticks(axes, "x", [0.5, 0.7, 1, 1.5, 2, 3, 4, 5])
            return made

    return Statement(
        "Of all constant learning rates, ε* = 2(S/N)·D/tr(BBᵀ) brings SGD's stationary law closest to the posterior.",
        "KL(ε) = ½[N tr(HΣ) − D − log det(N HΣ)],  HΣ + ΣH = ε BBᵀ;  least at ε* = 2(S/N)·D/tr(BBᵀ)",
        ("ε*, where KL is least", "KL(SGD‖posterior) at ε*, nats"),
        measured, expected, whole[[0, at]], 0.01, draw,
    )  # fmt: skip


MANDT = {
    "mandt": Entry(
        mandt,
        authors="Mandt, Hoffman and Blei",
        title="Stochastic Gradient Descent as Approximate Bayesian Inference",
        where="J. Mach. Learn. Res. 18, 134",
        year=2017,
        quick={"chains": 512},
    )
}
