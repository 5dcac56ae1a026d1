"""Kunin et al.: SGD with momentum moves in phase space; how far it goes a step, and how far in many."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import optax
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..engine.simulate import simulate
from ..problems.finite_sums import squared_error
from ..problems.problem import finite_sum
from ..report.style import MUTED, canvas, panel, side_labels, styled
from ..statistics import Autocovariance
from ..stepping.chains import sgd
from ..theory.moments.stationary import system
from .figures import DASHES, THEORY, dots
from .statement import Entry, Statement, components, vector

_ETA, _BETA, _BATCH, _SIGMA = 0.01, 0.97, 16, 1.0
_CURVATURES = np.array([1.0, 0.3])
_LAGS = (0, 1, 10, 20, 30, 40, 50, 70, 100, 140)


def _data() -> np.ndarray:
    """Rows with (1/n) xᵀx = diag(curvatures), exactly, turned so that no axis is an eigenvector."""
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(64, 2)))
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    return np.sqrt(64) * q * np.sqrt(_CURVATURES) @ turn


def kunin(key: Any, *, chains: Count = 4096, noise: Positive = 1.0) -> Statement:
    """A step of SGD with momentum is E|δ|² = η²σ² tr H/(B(1 − β²)) long, and E|Δ|² oscillates with the lag.

    Least squares, every row twice with residuals ±σ, so that Σ = σ²H at the minimum; heavy ball β = .97. E|Δ|² at a lag is that of
    an underdamped oscillator of mass η(1 + β)/2 and friction 1 − β in every eigendirection. `noise` multiplies σ².
    """
    x = _data()
    rows, h = np.concatenate([x, x]), x.T @ x / len(x)

    def made(factor: float) -> Any:
        labels = np.sqrt(factor) * _SIGMA * np.r_[np.ones(len(x)), -np.ones(len(x))]
        problem = finite_sum(squared_error, (rows, labels), np.zeros(2))
        return sgd(problem, learning_rate=_ETA, batch_size=_BATCH, optimizer=functools.partial(optax.sgd, momentum=_BETA))

    run = simulate(
        made(noise), np.zeros(2), key=key, chains=chains, burn_in=1500, steps=1000, statistics={"lagged": Autocovariance(_LAGS)}
    )
    whole = run.estimate("lagged", lambda c: 2 * np.trace(c[0] - c[1:], axis1=1, axis2=2))
    local = _ETA**2 * _SIGMA**2 * np.trace(h) / (_BATCH * (1 - _BETA**2))
    formula = _displacement(h, np.array(_LAGS[1:]))
    far = int(np.argmax(formula))
    places = [0, far, len(_LAGS) - 2]
    measured, exact = components(whole, places), _chain(made(1.0))
    expected = vector(local, *formula[places[1:]])

    def draw() -> Figure:
        with styled():
            figure = canvas(
                2.75, f"Momentum makes SGD oscillate: E|δ|² of one step {measured.value[0]:.3g}, by the formula {local:.3g}",
                "Mean squared distance after a number of steps. Dots with 95 % intervals were measured; lines are the oscillator, "
                "in all and for each eigendirection; dashes are what friction alone would give.",
            )  # fmt: skip
            axes = panel(figure, 0.75, 0.45, 4.9, 2.1)
            fine = np.linspace(0, 150, 301)
            each = _displacement(h, fine, split=True)
            axes.plot(fine, each.sum(axis=1), color=THEORY, lw=1.4)
            for part in each.T:
                axes.plot(fine, part, color=THEORY, lw=0.7)
            plateau, t = _ETA * _SIGMA**2 / (2 * _BATCH * (1 - _BETA)), _ETA * fine
            slow = 2 * plateau * (1 - np.exp(-np.outer(t, _CURVATURES) / (1 - _BETA)))
            axes.plot(fine, slow.sum(axis=1), color=MUTED, lw=0.9, ls=DASHES)
            dots(axes, _LAGS[1:], whole)
            axes.set(xlabel="steps", ylabel="E|Φ(k + steps) − Φ(k)|²", xlim=(0, 150), ylim=(0, 1.2 * whole.value.max()))
            names = [(p[-1], f"λ = {c:g}", THEORY) for p, c in zip(each.T, np.sort(_CURVATURES), strict=True)]
            side_labels(axes, [*names, (each[-1].sum(), "both", THEORY), (slow[-1].sum(), "no inertia", MUTED)])
            return figure

    return Statement(
        "At stationarity SGD with momentum is an underdamped oscillator in phase space under a modified, isotropic loss.",
        "E|δ|² = η²σ² tr H/(B(1−β²));  E|Δₜ|² = Σ_λ (ησ²/B(1−β)) (1 − e^{−γt/2}(cos ω_λt + (γ/2ω_λ) sin ω_λt)),  "
        "γ = 2(1−β)/η(1+β), ω_λ² = 2λ/η(1+β) − γ²/4",
        ("E|δ|² of one step", f"E|Δ|² after {_LAGS[1 + far]} steps, the farthest", f"E|Δ|² after {_LAGS[-1]} steps"),
        measured, expected, exact[places], 0.05, draw,
    )  # fmt: skip


def _displacement(h: np.ndarray, steps: np.ndarray, split: bool = False) -> np.ndarray:
    """E|Δ|² of the oscillator after a number of steps ["k"], or of each eigendirection ["k d"], the flattest first."""
    t, gamma = _ETA * np.asarray(steps, float)[:, None], 2 * (1 - _BETA) / (_ETA * (1 + _BETA))
    omega = np.emath.sqrt(2 * np.linalg.eigvalsh(h) / (_ETA * (1 + _BETA)) - gamma**2 / 4)
    memory = (np.exp(-gamma * t / 2) * (np.cos(omega * t) + gamma / (2 * omega) * np.sin(omega * t))).real
    each = _ETA * _SIGMA**2 / (_BATCH * (1 - _BETA)) * (1 - memory)
    return each if split else each.sum(axis=1)


def _chain(chain: Any) -> np.ndarray:
    """E|Δ|² of the chain itself at the lags, by the second moments of its whole state."""
    found = system(chain)
    s, a, d = found.covariance(), found.equation.a, chain.dim
    return np.array([2 * np.trace((s - np.linalg.matrix_power(a, lag) @ s)[:d, :d]) for lag in _LAGS[1:]])


KUNIN = {
    "kunin": Entry(
        kunin,
        authors="Kunin, Sagastuy-Brena, Gillespie, Margalit, Tanaka, Ganguli and Yamins",
        title="The Limiting Dynamics of SGD: Modified Loss, Phase-Space Oscillations, and Anomalous Diffusion",
        where="Neural Comput. 36, 151",
        year=2023,
        quick={"chains": 512},
    )
}
