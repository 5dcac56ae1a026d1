"""Azizian, Iutzeler, Malick and Mertikopoulos: SGD weighs minima by an energy of loss and noise."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.sparse as sparse
import scipy.sparse.linalg
from matplotlib.figure import Figure

from ..catalogue import Count, Positive
from ..dynamics.noise import scaled
from ..engine.simulate import simulate
from ..estimate import jackknife_many
from ..problems.problem import potential
from ..report.style import INK, MUTED, canvas, panel, styled
from ..statistics import Mean, of
from ..stepping.chains import sgd
from ..struct import replace
from ..theory.linear import find_root
from .figures import MEASURED, THEORY, dots, word
from .statement import Entry, Statement, line, vector

_TILT = 0.03
_RATES = (0.22, 0.18, 0.15)
_WALL = 2.2  # no chain comes near it: the noise is bounded
_LEFT, _SADDLE, _RIGHT = np.sort(np.roots([1.0, 0.0, -1.0, _TILT]).real)


def _slope(x: Any) -> Any:
    return x**3 - x + _TILT


def _loss(x: Any) -> Any:
    return (x**2 - 1) ** 2 / 4 + _TILT * x


def _spread(x: Any, xp: Any = np) -> Any:
    """s(x), the size of the gradient noise ±s: .9 on the left, .65 on the right."""
    return 0.775 - 0.125 * xp.tanh(2 * x)


@functools.cache
def _wells() -> Any:
    """One object, so that all runs are one compiled program."""
    return potential(lambda p: _loss(p[0]), np.zeros(1), noise_covariance=lambda p: _spread(p[0], jnp) ** 2)


def azizian(key: Any, *, chains: Count = 16384, noise: Positive = 1.0) -> Statement:
    """The odds of two minima go as exp(−(E₁ − E₂)/η), and the deeper minimum of the loss may be the rarer.

    A double well whose left minimum is the deeper, with gradient noise ±s(x) that is larger there. Occupations are measured at
    three learning rates; the energy is the intercept of η log(odds) over η. `noise` multiplies the variance s² of what runs.
    """

    def made(eta: float) -> Any:
        chain = sgd(_wells(), learning_rate=eta, sampling="two_point")
        return replace(chain, gradient=replace(chain.gradient, noise=scaled(chain.gradient.noise, noise)))

    sources, exact = [], []
    for i, eta in enumerate(_RATES):
        odds, relax = _law(eta)
        exact.append(eta * np.log(odds))
        steps = round(16 * relax)
        start = np.where(np.arange(chains) % 100 < 100 * odds / (1 + odds), _RIGHT, _LEFT)[:, None]
        run = simulate(
            made(eta), start.astype(np.float32), key=jax.random.fold_in(key, i), chains=chains, burn_in=steps // 4, steps=steps,
            every=max(round(relax / 16), 1), statistics={"right": of(_on_the_right, Mean())},
        )  # fmt: skip
        sources.append((run.statistic("right"), run.partials("right")))

    def found(*shares: Any) -> np.ndarray:
        logs = [eta * np.log(float(p) / (1 - float(p))) for eta, p in zip(_RATES, shares, strict=True)]
        return vector(line(_RATES, logs)[0], *logs)

    measured = jackknife_many(sources, found, estimator="share of time on the right of the saddle")
    gaps = {name: _energy(p) for name, p in (("sgd", _momentum), ("gaussian", _gaussian))}
    # at a finite η the odds are those of the chain: the formula speaks of the intercept alone
    expected = vector(gaps["sgd"], *exact)

    def draw() -> Figure:
        with styled():
            figure = canvas(
                2.75, f"The deeper minimum is the rarer: energy {measured.value[0]:.3f} in its disfavour, by the formula "
                f"{gaps['sgd']:.3f}",
                "Left: loss, and E of SGD and of its SDE. Right: dots with 95 % intervals were measured; the line is the exact law "
                "of the chain, marks at η = 0 are the energies E(left) − E(right).",
            )  # fmt: skip
            axes = panel(figure, 0.6, 0.45, 2.6, 2.1)
            x = np.linspace(-1.24, 1.2, 301)  # beyond, bounded noise cannot climb
            axes.plot(x, _loss(x), color=INK, lw=1.2)
            for name, p, colour in (("E of SGD", _momentum, MEASURED), ("E of its SDE", _gaussian, THEORY)):
                energy = scipy.integrate.cumulative_simpson([p(v) for v in x], x=x, initial=0.0)
                energy -= energy.min()
                axes.plot(x, energy, color=colour, lw=1.4)
                top = (0.0, float(np.interp(0.0, x, energy)))
                word(axes, name, top, (0, 4 if colour == MEASURED else -34), colour, ha="center")
            word(axes, "loss", (0.0, _loss(0.0)), (-3, 4), INK)
            axes.set(xlabel="Φ", ylim=(-0.1, 1.4))
            right = panel(figure, 4.05, 0.45, 2.6, 2.1)
            fine = np.linspace(0.12, 0.24, 5)
            right.plot(fine, [e * np.log(_law(e)[0]) for e in fine], color=MEASURED, lw=1.0)
            dots(right, _RATES, measured, slice(1, None), size=4)
            dots(right, [0.0], measured, slice(0, 1), size=4, mfc="none")
            for name, colour, words in (("sgd", MEASURED, "SGD"), ("gaussian", THEORY, "its SDE")):
                right.plot([-0.006, 0.03], [gaps[name]] * 2, color=colour, lw=2)
                word(right, words, (0.034, gaps[name]), (0, 0), colour, va="center")
            right.axvline(0, color=MUTED, lw=0.6)
            right.set(xlabel="learning rate η", ylabel="η log(odds right : left)", xlim=(-0.012, 0.25), ylim=(0.15, 0.36))
            return figure

    return Statement(
        "SGD’s long-run law weighs minima by exp(−E/η), with an energy E of loss and noise: the global minimum need not win.",
        "η log(p_right/p_left) → E(left) − E(right) = ∫ left→right of −p(x) dx,  E exp(−p ĝ) = 1, here e^{−pf′} cosh(ps) = 1",
        ("E(left) − E(right), the limit η → 0", *(f"η log(odds) at η = {e:g}" for e in _RATES)),
        measured, expected, vector(line(_RATES, exact)[0], *exact), 0.05, draw,
        note=f"Gaussian noise of the same variance, and so the SDE, has {gaps['gaussian']:.4f}; by the loss alone left wins.",
    )  # fmt: skip


def _on_the_right(phi: Any) -> Any:
    return jnp.where(phi[0] > _SADDLE, 1.0, 0.0)


def _momentum(x: float) -> float:
    """p(x) ≠ 0 with E exp(−p ĝ) = e^{−p f′} cosh(p s) = 1: the slope of the energy for noise ±s."""
    s = float(_spread(x))
    r = float(_slope(x)) / s
    if abs(r) < 1e-7:
        return 2 * r / s
    rate = lambda q: q + float(np.log1p(np.exp(-2 * q))) - np.log(2) - q * abs(r)
    return float(np.sign(r)) * find_root(rate, abs(r), 700.0, 1e-14) / s if abs(r) < 0.999 else np.inf


def _gaussian(x: float) -> float:
    """The same for Gaussian noise, and for the SDE: 2f′/s²."""
    return float(2 * _slope(x) / _spread(x) ** 2)


def _energy(p: Any) -> float:
    """E(left) − E(right) = (barrier seen from the right) − (barrier seen from the left)."""
    return -float(scipy.integrate.quad(p, _LEFT, _RIGHT, epsabs=1e-10, limit=200, points=[_SADDLE])[0])


@functools.cache
def _law(eta: float) -> tuple[float, float]:
    """(odds right : left, relaxation time in steps) of the chain, from its transition matrix on two grids, extrapolated."""
    coarse, fine = _on_grid(eta, 2000), _on_grid(eta, 4000)
    odds, relax = (float(np.exp((4 * np.log(b) - np.log(a)) / 3)) for a, b in zip(coarse, fine, strict=True))
    return odds, relax


def _on_grid(eta: float, cells: int) -> tuple[float, float]:
    """The chain between nodes, each image shared by two of them: this adds a variance, second order in their distance."""
    x = np.linspace(-_WALL, _WALL, cells + 1)
    node, rows, columns, odds = np.arange(cells + 1), [], [], []
    for sign in (1, -1):
        at = np.clip((x - eta * (_slope(x) + sign * _spread(x)) + _WALL) / (x[1] - x[0]), 0, cells)
        low = np.minimum(at.astype(int), cells - 1)
        rows += [node, node]
        columns += [low, low + 1]
        odds += [0.5 * (1 + low - at), 0.5 * (at - low)]
    step = sparse.csr_matrix((np.concatenate(odds), (np.concatenate(rows), np.concatenate(columns))), (cells + 1, cells + 1))
    # λ = 1 and the slow one beside it, whose left vectors are the law and the exchange between the wells
    pairs: Any = scipy.sparse.linalg.eigs(step.T.tocsc(), k=2, sigma=1 + 1e-6, v0=np.ones(cells + 1))
    values, vectors = pairs
    first, second = np.argsort(-values.real)
    law = np.abs(vectors[:, first].real)
    return float(law[x > _SADDLE].sum() / law[x < _SADDLE].sum()), float(-1 / np.log(values[second].real))


AZIZIAN = {
    "azizian": Entry(
        azizian,
        authors="Azizian, Iutzeler, Malick and Mertikopoulos",
        title="What is the Long-Run Distribution of Stochastic Gradient Descent? A Large Deviations Analysis",
        where="ICML, PMLR 235, 2168",
        year=2024,
        quick={"chains": 1024},
    )
}
