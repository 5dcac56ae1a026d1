"""The Gibbs law on the boxes of a histogram, as a function of the temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..estimate import Unknown
from ..theory import float64
from ..theory.laws.gibbs import Gibbs, gibbs

# Points at which a loss is evaluated at most, over all boxes.
MOST_POINTS = 1 << 23
# A box's mass is settled when two orders of quadrature agree to this, summed over the boxes.
SETTLED = 1e-7
# The mass outside is 1 minus the mass inside: below this it is rounding, and this stands for it.
SMALLEST_OUTSIDE = 1e-12


class Cells:
    """log masses ["boxes + 1"] of the Gibbs laws of a problem in the boxes of a histogram and (last) outside of them.

    Within a box the density exp(−L/T)/Z is integrated by Gauss–Legendre quadrature of the loss, which is evaluated once for
    all temperatures; Z comes from the whole space (`theory.gibbs`). For a histogram of fewer components than the
    problem has, the law's marginal is used.

    Raises Unknown where there is no Gibbs law, or no way to integrate it.
    """

    def __init__(self, problem: Any, edges: tuple[np.ndarray, ...], components: tuple[int, ...]):
        if max(components) >= problem.dim:
            raise ValueError(f"the histogram has component {max(components)}, the problem {problem.dim} components")
        self.problem, self.edges, self.components = problem, tuple(np.asarray(e, np.float64) for e in edges), components
        self.boxes = int(np.prod([e.size - 1 for e in self.edges]))
        self.whole = sorted(components) == list(range(problem.dim))
        self._laws: dict[float, Gibbs] = {}
        self._losses: dict[int, np.ndarray] = {}
        self._order = 3 if len(components) > 1 else 4
        if self.boxes * 2 ** len(edges) > MOST_POINTS:
            raise Unknown(f"{self.boxes} boxes are too many to integrate the Gibbs law over: use fewer")

    def law(self, temperature: float) -> Gibbs:
        """The Gibbs law at this temperature."""
        if temperature not in self._laws:
            try:
                self._laws[temperature] = gibbs(self.problem, temperature)
            except ValueError as error:
                raise Unknown(str(error)) from error
        law = self._laws[temperature]
        if not law.exact:
            raise Unknown("the Gibbs law's Z is not known beyond Laplace's approximation in this many dimensions")
        return law

    def log_masses(self, temperature: float) -> np.ndarray:
        """log q: every box in C order, then the outside."""
        law = self.law(temperature)
        if not self.whole:
            with np.errstate(divide="ignore"):
                inside = np.log(law.masses(self.edges, self.components).ravel())
        else:
            inside = self._integrate(law, self._order)
            while True:
                higher = self._order + 2
                if self.boxes * higher ** len(self.edges) > MOST_POINTS:
                    break
                finer = self._integrate(law, higher)
                settled = np.abs(np.exp(finer) - np.exp(inside)).sum() < SETTLED
                inside = finer
                if settled:
                    break
                self._order = higher
        outside = max(1.0 - float(np.exp(logsumexp(inside))), SMALLEST_OUTSIDE)
        return np.append(inside, np.log(outside))

    def mean_losses(self) -> np.ndarray:
        """The loss averaged over each box ["boxes"], to begin a search for a temperature."""
        if not self.whole:
            raise Unknown("the histogram does not cover all components: give the temperature")
        order = 2
        losses = self._loss(order)
        return losses.reshape(self.boxes, -1).mean(axis=1)

    def guess(self, temperature: float) -> np.ndarray:
        """log masses as if nothing lay outside: quick, to begin a search for a temperature."""
        inside = self._cell_sums(-self._loss(2) / temperature, 2)
        return inside - logsumexp(inside)

    def _integrate(self, law: Gibbs, order: int) -> np.ndarray:
        if law.method == "laplace":  # quadratic: the law is Gaussian, whatever the loss costs
            shift = self._points(order) - law.mean
            whitened = np.linalg.solve(np.linalg.cholesky(law.covariance), shift.T)
            log_norm = 0.5 * np.linalg.slogdet(2 * np.pi * law.covariance)[1]
            return self._cell_sums(-0.5 * (whitened**2).sum(axis=0) - log_norm, order)
        return self._cell_sums(-self._loss(order) / law.temperature - law.log_z, order)

    def _loss(self, order: int) -> np.ndarray:
        if order not in self._losses:
            wide = float64.widen(self.problem)
            cost = wide.dim * max(1, min(wide.examples, 4096))
            values = float64.evaluate_many(float64.loss, wide, self._points(order), cost=cost)
            self._losses[order] = np.where(np.isnan(values), np.inf, values)
        return self._losses[order]

    def _points(self, order: int) -> np.ndarray:
        """Gauss points ["boxes · order^k  d"], box by box, in the problem's order of components."""
        nodes, _ = np.polynomial.legendre.leggauss(order)
        axes = [((e[1:] + e[:-1])[:, None] + np.diff(e)[:, None] * nodes) / 2 for e in self.edges]  # each [n_i, order]
        k = len(axes)
        grids = []
        for i, a in enumerate(axes):
            shape = [1] * (2 * k)
            shape[i], shape[k + i] = a.shape
            full = [b.shape[0] for b in axes] + [order] * k
            grids.append(np.broadcast_to(a.reshape(shape), full).ravel())
        return np.stack([grids[self.components.index(c)] for c in sorted(self.components)], axis=1)

    def _cell_sums(self, log_density: np.ndarray, order: int) -> np.ndarray:
        """log ∫ of the density over each box."""
        k = len(self.edges)
        _, weights = np.polynomial.legendre.leggauss(order)
        log_w = np.zeros((order,) * k)
        log_size = np.zeros([e.size - 1 for e in self.edges])
        for i, e in enumerate(self.edges):
            log_w = log_w + np.log(weights / 2).reshape([order if j == i else 1 for j in range(k)])
            log_size = log_size + np.log(np.diff(e)).reshape([-1 if j == i else 1 for j in range(k)])
        return logsumexp(log_density.reshape(self.boxes, -1) + log_w.ravel(), axis=1) + log_size.ravel()
