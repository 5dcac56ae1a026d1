"""Simsekli, Sagun and Gurbuzbalaban: with heavy-tailed noise the time to leave a valley is set by its width, not by its depth."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..problems.problem import potential
from ..report.style import SEQUENCE, canvas, number, panel, side_labels, styled
from ..stepping.chains import sgd
from .figures import MEASURED, THEORY, dots, ticks, word
from .passage import exit_steps, mean_exit_steps
from .statement import Entry, Statement, line, together, vector

_ALPHA = 1.5
_ETA = 0.1
_SPREADS = (0.1, 0.2, 0.4)  # s: noise s ξ, ε = η^{1 − 1/α} s/√2 is what the paper calls ε
_BASE = 0.2  # at which widths and depths are compared
_WIDTHS = (1.0, 2.0)  # the valley is (−w, w)


def simsekli(key: Any, *, chains: Count = 512, passages: Count = 40, noise: Positive = 1.0) -> Statement:
    """Under α-stable noise the mean exit time of a valley goes as ε^{−α} w^α and does not depend on how deep the valley is.

    SGD with α = 1.5 in a parabola, from its minimum until it is outside (−w, w), at several sizes of the noise, two widths and two
    depths that differ fourfold, for as long as `passages` of them take. `noise` multiplies the square of the noise's size.
    """
    settings = [*((s, 1.0, 1.0) for s in _SPREADS), (_BASE, 2.0, 1.0), (_BASE, 1.0, 4.0)]
    samples, exact = [], []
    for i, (s, w, h) in enumerate(settings):
        problem = potential(_parabola(h), np.zeros(1), noise_covariance=noise * s**2)
        chain = sgd(problem, learning_rate=_ETA, sampling="alpha_stable", alpha=_ALPHA)
        exact.append(_steps(s / w, h))
        horizon = round(passages * exact[-1])
        samples.append(exit_steps(chain, 0.0, -w, w, key=jax.random.fold_in(key, i), chains=chains, horizon=horizon))
    n = len(_SPREADS)

    def found(steps: Any) -> np.ndarray:
        logs = np.log(np.asarray(steps) * _ETA)
        over_s = line(np.log(_SPREADS), logs[:n])[1]
        base = logs[_SPREADS.index(_BASE)]
        return vector(over_s, (logs[n] - base) / np.log(2), (logs[n + 1] - base) / np.log(4), np.exp(base) * _rate(_BASE, 1.0))

    def of_counts(*means: Any) -> np.ndarray:
        return found([steps / exits for steps, exits in means])

    measured = together(of_counts, samples, estimator="time over passages")
    times = together(lambda *means: np.array([_ETA * steps / exits for steps, exits in means]), samples)

    def draw() -> Figure:
        with styled():
            made = canvas(
                2.75, f"Heavy tails: exit times have the exponent {number(measured.value[0])} in the noise, "
                f"{number(measured.value[1])} in the width",
                f"The theory says −{_ALPHA} and {_ALPHA}, whatever the depth. Dots with 95 % intervals were measured, lines are "
                f"the limit. Gaussian noise of size {_SPREADS[-1]:g} would take {number(_gaussian_time(_SPREADS[-1]), 1)}.",
            )  # fmt: skip
            axes = panel(made, 0.7, 0.5, 4.7, 2.1)
            fine = np.geomspace(0.08, 0.5, 60)
            colours = {(1.0, 1.0): MEASURED, (2.0, 1.0): THEORY, (1.0, 4.0): SEQUENCE[3]}
            for w in _WIDTHS:
                axes.plot(fine, [1 / _rate(s, w) for s in fine], color=colours[w, 1.0], lw=1.2)
            for i, (s, w, h) in enumerate(settings):
                more = {} if h == 1 else {"mark": "D", "mfc": "none", "size": 7}
                dots(axes, [s], times, slice(i, i + 1), colour=colours[w, h], **more)
            axes.set(xscale="log", yscale="log", xlabel="size of the noise s", ylabel="mean exit time", xlim=(0.08, 0.5))
            ticks(axes, "x", _SPREADS)
            axes.set_ylim(25, 2.5e3)
            names = {2.0: "twice as wide", 1.0: "width 1"}
            side_labels(axes, [(1 / _rate(0.5, w), names[w], colours[w, 1.0]) for w in _WIDTHS])
            word(axes, "four times as deep", (_BASE, float(times.value[-1])), (9, 6), colours[1.0, 4.0])
            return made

    return Statement(
        "With α-stable gradient noise a valley is left by one jump: the time is polynomial in its width and blind to its depth.",
        "E τ ≈ 1/λ,  λ = ε^α (2/α) C_α w^{−α},  C_α = Γ(1+α) sin(πα/2)/π,  ε = η^{1−1/α} s/√2  (ε → 0)",
        ("exponent of τ over ε", "exponent of τ over w", "exponent of τ over the depth", f"λ E τ at s = {_BASE:g}"),
        measured, vector(-_ALPHA, _ALPHA, 0, 1), found(exact), 0.1, draw, scale=vector(_ALPHA, _ALPHA, 1, 1),
        note="The theorems on exit times that the paper applies are those of Imkeller and Pavlyukevich (2006).",
    )  # fmt: skip


@functools.cache
def _parabola(h: float) -> Any:
    """One function a depth, so that all its runs are one compiled program."""
    return lambda p: 0.5 * h * p[0] ** 2


def _rate(s: float, w: float) -> float:
    """λ, jumps out of (−w, w) a unit time."""
    c = math.gamma(1 + _ALPHA) * math.sin(math.pi * _ALPHA / 2) / math.pi
    return (_ETA * s / math.sqrt(2)) ** _ALPHA / _ETA * 2 * c / _ALPHA * w**-_ALPHA


def _gaussian_time(s: float) -> float:
    """The mean exit time of the parabola of width 1 under Gaussian noise of that size."""
    kt = _ETA * s**2 / 2
    x = np.linspace(0, 1, 4001)
    inner = np.concatenate([[0.0], np.cumsum(np.exp(-(((x[1:] + x[:-1]) / 2) ** 2) / (2 * kt)) * np.diff(x))])
    return float(np.trapezoid(np.exp(x**2 / (2 * kt)) * inner, x) / kt)


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """The density of a symmetric α-stable number with E e^{ikξ} = e^{−|k|^α}, (1/π) ∫ cos(kx) e^{−k^α} dk, at x ≥ 0."""
    x = np.concatenate([np.linspace(0, 20, 2001), np.geomspace(20.02, 400, 1200)])
    nodes, weights = np.polynomial.legendre.leggauss(64)
    edges = np.linspace(0, 12, 161)
    k = (((edges[1:] + edges[:-1]) / 2)[:, None] + np.diff(edges)[:, None] / 2 * nodes).ravel()
    mass = (np.diff(edges)[:, None] / 2 * weights).ravel() * np.exp(-(k**_ALPHA)) / np.pi
    return x, np.concatenate([np.cos(np.outer(part, k)) @ mass for part in np.array_split(x, 16)])


@functools.cache
def _steps(s: float, h: float) -> float:
    """The mean number of steps of the chain with width 1, from the transition density of |x|; only s/w matters."""
    from scipy.interpolate import CubicSpline

    x, p = _table()
    log_p, unit = CubicSpline(x, np.log(p)), _ETA * s / math.sqrt(2)

    def density(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        to = (1 - _ETA * h) * a
        both = [np.exp(log_p(np.minimum(np.abs(end - to) / unit, x[-1]))) for end in (b, -b)]
        return (both[0] + both[1]) / unit

    return mean_exit_steps(density, 0.0, np.linspace(0, 1, int(np.ceil(5 / unit)) + 1))


SIMSEKLI = {
    "simsekli": Entry(
        simsekli,
        authors="Simsekli, Sagun and Gurbuzbalaban",
        title="A Tail-Index Analysis of Stochastic Gradient Noise in Deep Neural Networks",
        where="ICML, PMLR 97, 5827",
        year=2019,
        quick={"chains": 256, "passages": 6},
    )
}
