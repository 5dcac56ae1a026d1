"""Chaudhari and Soatto: out of equilibrium, SGD goes round in loops, and its law is not that of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..engine.simulate import simulate
from ..problems.potentials import quadratic
from ..problems.problem import potential
from ..report.style import COLOURS, GIBBS, INK, canvas, number, panel, styled
from ..statistics import Autocovariance
from ..stepping.chains import sgd
from ..theory import area_rates, linear_entropy_production, lyapunov, stationary_covariance
from .statement import Entry, Statement, vector

_H = np.array([[2.0, 0.6], [0.6, 0.5]])
_C = np.array([[1.0, -0.4], [-0.4, 0.3]])
_ETA = 0.02


def _loss(phi: Any) -> Any:
    return quadratic(phi, hessian=tuple(map(tuple, _H.tolist())))


def _kl(s: np.ndarray) -> float:
    """KL(N(0, S) ‖ exp(−L/T)) at the T that makes it least."""
    hs = _H @ s
    return float(-0.5 * np.linalg.slogdet(hs * len(s) / np.trace(hs))[1])


def chaudhari(key: Any, *, chains: Count = 4096, noise: Positive = 1.0) -> Statement:
    """The stationary law of SGD with anisotropic noise carries a current, so its paths are loops, and is not exp(−f/T).

    A quadratic loss in the plane, noise whose covariance does not commute with H; SGD at η = .02. The area rate is the mean
    signed area that Φ sweeps a unit time; entropy production is that of the current. `noise` multiplies the C of what runs.
    """
    def made(factor: float) -> Any:
        return sgd(potential(_loss, np.zeros(2), noise_covariance=factor * _C), learning_rate=_ETA)

    run = simulate(
        made(noise), np.zeros(2), key=key, chains=chains, burn_in=2500, steps=4000, statistics={"lagged": Autocovariance((0, 1))}
    )
    d = _ETA * _C / 2

    def found(lagged: np.ndarray) -> np.ndarray:
        s, q = _laws(lagged[0], lagged[1])
        return vector(q[0, 1], np.trace(np.linalg.solve(d, q) @ np.linalg.solve(s, q.T)), _kl(s))

    measured = run.estimate("lagged", found)
    s = lyapunov(-_H, _ETA * _C)
    q = _H @ s - d
    expected = vector(q[0, 1], linear_entropy_production(-_H, d), _kl(s))
    exact, rates = stationary_covariance(made(1.0)), area_rates(made(1.0))
    chain = vector(rates[0, 1], np.trace(np.linalg.solve(d, rates) @ np.linalg.solve(exact, rates.T)), _kl(exact))

    def draw() -> Figure:
        with styled():
            figure = canvas(
                3.0, f"SGD circulates: area rate {number(measured.value[0])} a unit time, by the formula {number(expected[0])}",
                "Left: SGD’s law (1 and 2 sd) with its current, on the Gibbs law of the loss in grey. Right: over the formula, "
                "measured with 95 % intervals, and (ticks) the exact law of SGD at this η.",
            )  # fmt: skip
            axes = panel(figure, 0.65, 0.45, 2.9, 2.45)
            t = float(np.trace(_H @ s) / 2)
            for scale in (1, 2):
                for law, colour, width in ((t * np.linalg.inv(_H), GIBBS, 1.2), (s, COLOURS["sgd"][0], 1.6)):
                    circle = np.stack([np.cos(_TURN), np.sin(_TURN)]) * scale
                    axes.plot(*(np.linalg.cholesky(law) @ circle), color=colour, lw=width)
            at = np.linalg.cholesky(s) @ np.stack([np.cos(_TURN[::15]), np.sin(_TURN[::15])]) * 1.5
            velocity = q.T @ np.linalg.solve(s, at)  # of the current: j/p = −(A + D S⁻¹)x with the sign of Q
            unit = {"angles": "xy", "scale_units": "xy", "scale": np.abs(velocity).max() / 0.12}
            axes.quiver(*at, *velocity, color=COLOURS["many"][0], width=0.006, **unit)
            axes.set(xlabel="Φ[0]", ylabel="Φ[1]")
            right = panel(figure, 5.0, 0.6, 1.95, 2.1)
            names = ("area rate", "entropy production", "KL to Gibbs")
            value, reach = np.asarray(measured.value) / expected, (measured.high - measured.low) / 2 / np.abs(expected)
            right.axvline(1, color=COLOURS["sde"][0], lw=1)
            right.errorbar(value, range(3), xerr=reach, fmt="o", ms=4, color=COLOURS["sgd"][0], capsize=2, lw=1)
            right.plot(chain / expected, range(3), "|", ms=14, color=INK, mew=1.2)
            right.set_yticks(range(3), names)
            right.set(ylim=(-0.6, 2.6), xlabel="measured / formula")
            right.invert_yaxis()
            return figure

    return Statement(
        "With noise that is not isotropic SGD’s stationary law has a current and is not the Gibbs law of the loss.",
        "ρ ∝ exp(−½ xᵀS⁻¹x), HS + SH = ηC;  j = ρ·Q S⁻¹x up to sign, Q = HS − ηC/2 ≠ 0;  ė = tr(D⁻¹QS⁻¹Qᵀ), D = ηC/2",
        ("area rate Q₁₂ a unit time", "entropy production, nats a unit time", "KL(SGD‖nearest exp(−f/T)), nats"),
        measured, expected, chain, 0.03, draw,
    )  # fmt: skip


def _laws(now: np.ndarray, lagged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, Q) of the covariances at lags 0 and 1; `lagged` is E x(t + η) x(t)ᵀ."""
    turned = lagged.T / _ETA
    return now, (turned - turned.T) / 2


_TURN = np.linspace(0, 2 * np.pi, 181)

CHAUDHARI = {
    "chaudhari": Entry(
        chaudhari,
        authors="Chaudhari and Soatto",
        title="Stochastic gradient descent performs variational inference, converges to limit cycles for deep networks",
        where="ICLR",
        year=2018,
        quick={"chains": 512},
    )
}
