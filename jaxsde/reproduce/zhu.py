"""Zhu, Wu, Yu, Wu and Ma: noise that is aligned with the curvature leaves a minimum faster."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..engine.simulate import iterate
from ..problems.finite_sums import squared_error
from ..problems.potentials import quadratic
from ..problems.problem import finite_sum, potential
from ..report.style import canvas, panel, side_labels, styled
from ..stepping.chains import sgd
from .figures import BESIDE, DASHES, MEASURED, dots
from .statement import Entry, Statement, together, vector

_ETA, _STEPS, _DIM, _ROWS = 0.01, 200, 10, 200


def _design() -> np.ndarray:
    """Rows of a regression whose Hessian has a few sharp directions, turned out of the axes."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(_ROWS, _DIM)) * 2.0 ** (-np.arange(_DIM) / 2)
    return x @ np.linalg.qr(rng.normal(size=(_DIM, _DIM)))[0]


def _loss(phi: Any) -> Any:
    """The loss above its minimum."""
    return quadratic(phi, hessian=tuple(map(tuple, _hessian().tolist())))


@functools.cache
def _hessian() -> Any:
    return _design().T @ _design() / _ROWS


def zhu(key: Any, *, chains: Count = 32768, noise: Positive = 1.0) -> Statement:
    """From a minimum SGD's loss rises by ¼ tr((I − e^{−2Ht}) ηΣ), and faster than under isotropic noise of equal trace.

    Least squares in d = 10, every row twice with residuals ±1, so that Σ = H at the minimum; SGD of one example a step starts
    there. Beside it, gradient descent with Gaussian noise of covariance (tr Σ/d) I. `noise` multiplies SGD's Σ at the minimum.
    """
    x = _design()
    rows, h = np.concatenate([x, x]), _hessian()
    residuals = np.sqrt(noise) * np.r_[np.ones(_ROWS), -np.ones(_ROWS)]
    real = finite_sum(squared_error, (rows, residuals), np.zeros(_DIM))
    level = float(np.trace(h)) / _DIM
    round_ = potential(_loss, np.zeros(_DIM), noise_covariance=level)
    every, times, courses, groups = _STEPS // 20, [0.0], [], []
    for i, problem in enumerate((real, round_)):
        course = [np.zeros(chains)]
        chain = sgd(problem, learning_rate=_ETA)
        for run in iterate(chain, np.zeros(_DIM), key=jax.random.fold_in(key, i), chains=chains, steps=_STEPS, chunk=every):
            at = run.positions.astype(np.float64)
            course.append(0.5 * np.einsum("ci,ij,cj->c", at, h, at))  # L − L(Φ*)
            times += [run.time] if not i else []
        courses.append(np.stack(course, axis=1))
        groups.append(run.group)  # pyright: ignore[reportPossiblyUnboundVariable]
    samples = list(zip(courses, groups, strict=True))
    measured = together(lambda a, b: np.r_[a[1], a[-1], a[1] / b[1]], samples, estimator="means over chains")
    t = np.array(times)
    formula = np.stack([_rise(h, _ETA * sigma, t) for sigma in (h, level * np.eye(_DIM))])
    exact = np.stack([_recursion(h, x, every), _recursion(h, None, every, level)])
    first = np.trace(h @ h) * _DIM / np.trace(h) ** 2
    expected = vector(formula[0, 1], formula[0, -1], first)
    chain = vector(exact[0, 1], exact[0, -1], exact[0, 1] / exact[1, 1])
    whole = together(lambda a, b: np.stack([a, b]), samples)

    def draw() -> Figure:
        with styled():
            made = canvas(
                2.7, f"SGD leaves a minimum {measured.value[2]:.2f} times as fast as isotropic noise, by the formula {first:.2f}",
                "Mean loss above the minimum. Dots with 95 % intervals were measured; lines are ¼ tr((I − exp(−2Ht)) ηΣ), "
                "dashes ½ t tr(HηΣ).",
            )  # fmt: skip
            axes = panel(made, 0.7, 0.45, 4.9, 2.1)
            names = (("Σ of SGD", MEASURED), ("isotropic, equal trace", BESIDE))
            for i, (_, colour) in enumerate(names):
                axes.plot(t, formula[i], color=colour, lw=1.2)
                axes.plot(t, t / 2 * _ETA * np.trace(h @ (h, level * np.eye(_DIM))[i]), color=colour, lw=0.8, ls=DASHES)
                dots(axes, t, whole, i, colour=colour, size=3)
            axes.set(xlabel="time t = Σ η", ylabel="E L(θₜ) − L(θ₀)", xlim=(0, 1.02 * t[-1]), ylim=(0, 1.15 * formula.max()))
            side_labels(axes, [(formula[i, -1], *name) for i, name in enumerate(names)])
            return made

    return Statement(
        "SGD’s escape from a minimum is measured by tr(HΣ): noise aligned with the curvature leaves faster than isotropic noise.",
        "E[L(θₜ) − L(θ₀)] = ¼ tr((I − e^{−2Ht}) Σₜ) ≈ (t/2) tr(HΣₜ), Σₜ = ηΣ;  over isotropic noise: tr(HΣ)·d/(tr H · tr Σ)",
        (f"E L(θₜ) − L(θ₀) at t = {t[1]:g}", f"E L(θₜ) − L(θ₀) at t = {t[-1]:g}", f"ratio to isotropic noise at t = {t[1]:g}"),
        measured, expected, chain, 0.05, draw,
    )  # fmt: skip


def _rise(h: np.ndarray, sigma: np.ndarray, t: np.ndarray) -> np.ndarray:
    """¼ tr((I − e^{−2Ht}) Σ) at each t."""
    values, vectors = np.linalg.eigh(h)
    along = np.einsum("ik,ij,jk->k", vectors, sigma, vectors)
    return 0.25 * (-np.expm1(-2 * np.outer(t, values)) * along).sum(axis=1)


def _recursion(h: np.ndarray, x: np.ndarray | None, every: int, level: float = 0.0) -> np.ndarray:
    """½ tr(HS) by the chain's own second moments, S' = S − η(HS + SH) + η²(E xxᵀSxxᵀ + Σ), or with noise of one level."""
    s, found = np.zeros_like(h), [0.0]
    for k in range(1, _STEPS + 1):
        if x is None:
            grown = h @ s @ h + level * np.eye(len(h))
        else:
            grown = (x * np.einsum("ni,ij,nj->n", x, s, x)[:, None]).T @ x / len(x) + h
        s = s - _ETA * (h @ s + s @ h) + _ETA**2 * grown
        found += [0.5 * float(np.trace(h @ s))] if k % every == 0 else []
    return np.array(found)


ZHU = {
    "zhu": Entry(
        zhu,
        authors="Zhu, Wu, Yu, Wu and Ma",
        title="The Anisotropic Noise in Stochastic Gradient Descent: Its Behavior of Escaping from Sharp Minima and "
        "Regularization Effects",
        where="ICML, PMLR 97, 7654",
        year=2019,
        quick={"chains": 2048},
    )
}
