"""Xie, Sato and Sugiyama: with noise like the Hessian, the time to leave a valley is exponential in B/η and in its flatness."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..dynamics.equations import sgd_sde
from ..problems.problem import potential
from ..report.style import MUTED, canvas, panel, styled
from ..stepping.chains import integrate
from ..struct import replace
from .figures import DASHES, MEASURED, THEORY, dots, word
from .passage import exit_steps, mean_exit_steps
from .statement import Entry, Statement, line, together, vector

_CLIMB = 0.25  # ΔL
_VALLEYS = {"flat": (1.0, 1.0), "sharp": (3.0, 1.0)}  # H_a at the minimum, which is at 0, and |H_b| at the pass
_RATIOS = (6.0, 9.0, 12.0)  # B/η
# Euler's dt: Σ jumps at the turn of the sharp valley, which costs the scheme half an order there
_STEPS = {"flat": 0.05, "sharp": 0.005}


def _shape(valley: str) -> tuple[float, float, float, float]:
    """H_a, |H_b|, the pass b and the turn c, where the two parabolas meet with one slope."""
    a, b = _VALLEYS[valley]
    far = np.sqrt(2 * _CLIMB * (a + b) / (a * b))
    return a, b, far, far * b / (a + b)


def _loss(valley: str, x: Any, xp: Any = np) -> Any:
    a, b, far, turn = _shape(valley)
    return xp.where(x < turn, 0.5 * a * x**2, _CLIMB - 0.5 * b * (x - far) ** 2)


def _sharpness(valley: str, x: Any, xp: Any = np) -> Any:
    """|L″|, which is Σ."""
    a, b, _, turn = _shape(valley)
    return xp.where(x < turn, a, b)


@functools.cache
def _problem(valley: str) -> Any:
    """One object a valley, so that all its runs are one compiled program."""
    return potential(lambda p: _loss(valley, p[0], jnp), np.zeros(1), noise_covariance=lambda p: _sharpness(valley, p[0], jnp))


def _exponent(valley: str) -> float:
    """2ΔL (s/H_a + (1 − s)/|H_b|), s the share of the climb before the turn."""
    a, b, _, turn = _shape(valley)
    s = 0.5 * a * turn**2 / _CLIMB
    return 2 * _CLIMB * (s / a + (1 - s) / b)


def _end(valley: str, ratio: float) -> float:
    """Where a run stops: so far beyond the pass that 3 in 10⁴ would return."""
    return _shape(valley)[2] + 2.5 / np.sqrt(ratio)


def xie(key: Any, *, chains: Count = 512, passages: Count = 24, noise: Positive = 1.0) -> Statement:
    """log(mean escape time) is a line in B/η with slope 2ΔL (s/H_a + (1 − s)/|H_b|) when Σ = H.

    A valley and a pass on the line, two parabolas that meet; SGD's SDE with Σ = |L″|, stopped well beyond the pass. Two valleys of
    one depth, a flat one and a sharp one, at three B/η each, for as long as `passages` of them take. `noise` multiplies Σ.
    """
    samples, exact = [], []
    for number, valley in enumerate(_VALLEYS):
        for i, ratio in enumerate(_RATIOS):
            eta, end = 1 / ratio, _end(valley, ratio)
            exact.append(_chain_time(valley, eta, end))
            sde = sgd_sde(_problem(valley), learning_rate=eta)
            chain = integrate(replace(sde, scale=jnp.sqrt(noise * eta)), dt=_STEPS[valley])
            counts, group = exit_steps(
                chain, 0.0, -4.0, end, key=jax.random.fold_in(key, 16 * number + i), chains=chains,
                horizon=round(passages * exact[-1] / _STEPS[valley]),
            )  # fmt: skip
            samples.append((counts * [_STEPS[valley], 1.0], group))
    n = len(_RATIOS)

    def slopes(logs: Any) -> np.ndarray:
        return vector(*(line(_RATIOS, logs[n * j : n * (j + 1)])[1] for j in range(len(_VALLEYS))))

    def logs_of(*means: Any) -> np.ndarray:
        return np.array([np.log(time / exits) for time, exits in means])

    measured = together(lambda *means: slopes(logs_of(*means)), samples, estimator="time over passages")
    logs = together(logs_of, samples)
    expected = vector(*(_exponent(v) for v in _VALLEYS))
    a, b = _VALLEYS["sharp"]
    beside = float(np.exp(logs.value[-1])) / (2 * np.pi / b * np.exp(_RATIOS[-1] * expected[1]))

    def draw() -> Figure:
        with styled():
            figure = canvas(
                2.75, f"Escape is exponential in B/η: slope {measured.value[0]:.3f} from the flat valley, "
                f"{measured.value[1]:.3f} from the sharp",
                f"The formula says {expected[0]:.3f} and {expected[1]:.3f}. Left: the valleys. Right: dots (95 % intervals below "
                "their size) were measured, lines are the exact law of what ran, dashes the formula’s slope.",
            )  # fmt: skip
            left, right = panel(figure, 0.6, 0.45, 2.4, 2.1), panel(figure, 3.85, 0.45, 2.8, 2.1)
            for j, valley in enumerate(_VALLEYS):
                colour = (THEORY, MEASURED)[j]
                x = np.linspace(-0.7, 1.45, 300)
                left.plot(x, _loss(valley, x), color=colour, lw=1.4)
                fine = np.linspace(_RATIOS[0] - 1, _RATIOS[-1] + 1, 9)
                curve = np.array([np.log(_chain_time(valley, 1 / r, _end(valley, r))) for r in fine])
                right.plot(fine, curve, color=colour, lw=1.2)
                right.plot(fine, curve[-1] + _exponent(valley) * (fine - fine[-1]), color=MUTED, lw=0.8, ls=DASHES)
                dots(right, _RATIOS, logs, slice(n * j, n * (j + 1)), colour=colour)
                word(right, valley, (fine[-1], curve[-1]), (4, 0), colour, va="center")
                left.plot([_shape(valley)[2]], [_CLIMB], "o", ms=4, mfc="none", color=colour)
            word(left, "pass", (1.0, _CLIMB), (0, 6), ha="center")
            left.set(xlabel="Φ", ylabel="loss", ylim=(-0.02, 0.42))
            right.set(xlabel="B/η", ylabel="log mean escape time", xlim=(None, 14.5))
            return figure

    return Statement(
        "With noise of covariance Σ = H the mean time to escape is exponential in B/η, and shorter from a sharp valley.",
        "τ = (2π/|H_b|) exp[(2BΔL/η)(s/H_a + (1 − s)/|H_b|)],  s = share of the climb where Σ is that of the minimum",
        ("slope of log τ over B/η, flat valley", "slope of log τ over B/η, sharp valley"),
        measured, expected, slopes(np.log(exact)), 0.1, draw,
        note=f"The prefactor 2π/|H_b| is that of noise read at the end of a step. SGD’s SDE, read as Itô, has 2π/H_a: {b / a:.2g} "
        f"of it in the sharp valley, where {beside:.2g} was measured at B/η = {_RATIOS[-1]:g}.",
    )  # fmt: skip


def _chain_time(valley: str, eta: float, end: float) -> float:
    """Mean passage time 0 → end of the Euler chain with step dt, from its transition density."""
    a, b, far, c = _shape(valley)
    dt = _STEPS[valley]
    spread = np.sqrt(eta * dt * min(a, b))
    parts = [(-4.5 * np.sqrt(eta), c), (c, end)]
    cells = np.unique(np.concatenate([np.linspace(lo, hi, int(np.ceil(3 * (hi - lo) / spread)) + 1) for lo, hi in parts]))

    def density(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        slope = np.where(x < c, a * x, -b * (x - far))
        sd = np.sqrt(eta * dt * _sharpness(valley, x))
        return np.exp(-0.5 * ((y - x + slope * dt) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    return dt * mean_exit_steps(density, 0.0, cells)


XIE = {
    "xie": Entry(
        xie,
        authors="Xie, Sato and Sugiyama",
        title="A Diffusion Theory For Deep Learning Dynamics: Stochastic Gradient Descent Exponentially Favors Flat Minima",
        where="ICLR",
        year=2021,
        quick={"chains": 192, "passages": 4},
    )
}
