"""Paquette, Paquette, Adlam and Pennington: in high dimension the loss of SGD on least squares follows a Volterra equation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..engine.simulate import iterate
from ..problems.finite_sums import squared_error
from ..problems.problem import finite_sum
from ..report.style import MUTED, canvas, panel, side_labels, styled
from ..stepping.chains import sgd
from ..struct import replace, struct
from ..types import Draws
from .figures import BAND, DASHES, THEORY, dots, ticks
from .statement import Entry, Statement, together, vector

_ROWS, _DIM = 240, 120
_ETA = 0.8  # rows have E|x|² = 1
_EPOCHS, _LOOKS = 4, 24
_SHOWN = (3, 9, 24)  # looks whose losses are the quantities


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian rows of unit length on average, labels of a random direction with noise, and a start away from it."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(_ROWS, _DIM)) / np.sqrt(_DIM)
    return x, 0.5 * rng.normal(size=_ROWS), rng.normal(size=_DIM)


@struct
class Louder:
    """∇L + factor · (ĝ − ∇L): a gradient whose noise is multiplied."""

    gradient: Any
    factor: Any

    @property
    def draws(self) -> Draws:
        return self.gradient.draws

    def __call__(self, phi: Any, drawn: Any, k: Any) -> Any:
        mean = self.gradient.problem.grad(phi)
        return mean + jnp.asarray(self.factor, phi.dtype) * (self.gradient(phi, drawn, k) - mean)


def paquette(key: Any, *, chains: Count = 1024, noise: Positive = 1.0) -> Statement:
    """The loss of SGD on high-dimensional least squares is ψ(t) = F(t) + ∫ K(t − s) ψ(s) ds.

    n = 240 Gaussian rows in d = 120 dimensions, one example a step; ψ is the mean loss over chains, F the loss of gradient flow and
    K(t) = η tr(H² e^{−2Ht}). `noise` multiplies the covariance of the gradient that runs.
    """
    x, y, start = _data()
    problem = finite_sum(squared_error, (x, y), start)
    chain = sgd(problem, learning_rate=_ETA)
    if noise != 1:
        chain = replace(chain, gradient=Louder(chain.gradient, jnp.sqrt(noise)))
    every, times, course = _EPOCHS * _ROWS // _LOOKS, [0.0], []
    for run in iterate(chain, start, key=key, chains=chains, steps=_EPOCHS * _ROWS, chunk=every):
        course.append(_losses(run.positions, x, y))
        times.append(_ETA * run.step)
    group = run.group  # pyright: ignore[reportPossiblyUnboundVariable]
    losses = np.stack([np.full(chains, _losses(start[None], x, y)[0]), *course], axis=1)
    whole = together(lambda a: a, [(losses, group)])
    measured = together(lambda a: a[list(_SHOWN)], [(losses, group)], estimator="mean over chains")
    t = np.array(times)
    volterra, exact, flow = _volterra(x, y, start, t), _recursion(x, y, start, every), _flow(x, y, start, t)
    spread = losses.std(axis=0)

    def draw() -> Figure:
        with styled():
            figure = canvas(
                2.75, f"SGD’s loss after {_EPOCHS} epochs is {measured.value[-1]:.4f}, by the Volterra equation {volterra[-1]:.4f}",
                f"Mean loss of SGD, n = {_ROWS}, d = {_DIM}. Dots with 95 % intervals were measured; the band is where two thirds "
                "of single runs are; dashes are gradient flow, to which SGD without noise would keep.",
            )  # fmt: skip
            axes = panel(figure, 0.7, 0.45, 4.9, 2.1)
            epochs = t / (_ETA * _ROWS)
            axes.fill_between(epochs, whole.value - spread, whole.value + spread, color=BAND, alpha=0.5, lw=0)
            axes.plot(epochs, volterra, color=THEORY, lw=1.4)
            axes.plot(epochs, flow, color=MUTED, lw=0.9, ls=DASHES)
            dots(axes, epochs, whole, size=3)
            axes.set(yscale="log", xlabel="epochs", ylabel="loss", xlim=(0, _EPOCHS))
            ticks(axes, "y", [0.05, 0.1, 0.2, 0.5])
            side_labels(axes, [(volterra[-1], "Volterra, and SGD", THEORY), (flow[-1], "gradient flow", MUTED)])
            return figure

    return Statement(
        "In high dimension the loss of SGD on least squares concentrates on the solution of a Volterra equation.",
        "ψ(t) = F(t) + ∫₀ᵗ K(t − s) ψ(s) ds,  F the loss of gradient flow,  K(t) = (η/B) tr(H² e^{−2Ht})",
        tuple(f"loss after {t[i] / (_ETA * _ROWS):g} epochs" for i in _SHOWN),
        measured, vector(*volterra[list(_SHOWN)]), exact[list(_SHOWN)], 0.05, draw,
        note=f"Single runs are {spread[-1] / volterra[-1]:.0%} (one standard deviation) about it at this size.",
    )  # fmt: skip


def _losses(positions: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """L of each position ["c"], in float64."""
    return 0.5 * ((positions.astype(np.float64) @ x.T - y) ** 2).mean(axis=1)


def _modes(x: np.ndarray, y: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Eigenvalues of H, the squares of the start’s distance from the minimum along each, and the least loss."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    return values, (vectors.T @ (start - best)) ** 2, float(_losses(best[None], x, y)[0])


def _flow(x: np.ndarray, y: np.ndarray, start: np.ndarray, t: np.ndarray) -> np.ndarray:
    """F(t) = L(Φ*) + ½ Σ λ c² e^{−2λt}."""
    values, squares, least = _modes(x, y, start)
    return least + 0.5 * np.exp(-2 * np.outer(t, values)) @ (values * squares)


def _volterra(x: np.ndarray, y: np.ndarray, start: np.ndarray, t: np.ndarray) -> np.ndarray:
    """ψ at evenly spaced times. K is a sum of exponentials, so ψ = L* + ½ Σ λᵢ vᵢ with vᵢ′ = −2λᵢ vᵢ + 2ηλᵢ ψ: a linear system."""
    values, squares, least = _modes(x, y, start)
    d = len(values)
    a = np.zeros((d + 1, d + 1))  # of (v, 1)
    a[:d, :d] = np.diag(-2 * values) + _ETA * np.outer(values, values)
    a[:d, d] = 2 * _ETA * values * least
    move, state, found = scipy.linalg.expm(a * (t[1] - t[0])), np.r_[squares, 1.0], []
    for _ in t:
        found.append(least + 0.5 * float(values @ state[:d]))
        state = move @ state
    return np.array(found)


def _recursion(x: np.ndarray, y: np.ndarray, start: np.ndarray, every: int) -> np.ndarray:
    """E L of SGD itself by its own moments: m of e = Φ − Φ*, and S = E eeᵀ, one example with residual rᵢ − xᵢ·e a step."""
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    r, e = y - x @ best, start - best
    least, s, found = 0.5 * float((r**2).mean()), np.outer(e, e), []
    h, m = x.T @ x / len(x), e
    for k in range(_EPOCHS * _ROWS + 1):
        found += [least + 0.5 * float((h * s).sum())] if k % every == 0 else []
        along = x @ m
        size = np.einsum("ni,ni->n", x @ s, x) - 2 * r * along + r**2  # E (xᵢ·e − rᵢ)²
        hs = h @ s
        # E e gᵀ with g = x (x·e − r): H S, and nothing of r, since Σ rᵢ xᵢ = 0
        s = s - _ETA * (hs + hs.T) + _ETA**2 * (x * (size / len(x))[:, None]).T @ x
        m = m - _ETA * (h @ m)
    return np.array(found)


PAQUETTE = {
    "paquette": Entry(
        paquette,
        authors="Paquette, Paquette, Adlam and Pennington",
        title="Homogenization of SGD in high-dimensions: Exact dynamics and generalization properties",
        where="arXiv:2205.07069",
        year=2022,
        quick={"chains": 128},
    )
}
