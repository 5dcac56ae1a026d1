"""Divergences from a Gibbs law on the boxes of a histogram, at a given temperature or at the one that makes them least."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from scipy import optimize

from ..estimate import Unknown
from ..statistics import Histogram
from . import binned
from .cells import Cells
from .reference import Tilt

# The law is known at this many temperatures, Chebyshev points of log T within ±WIDTH of the best one.
NODES, WIDTH = 7, 0.2


class LogMasses:
    """log q of the Gibbs laws at a few temperatures, with which the best temperature of any p nearby is found at once.

    `parts` are the partitions of the boxes on which the laws are compared; `p` ["boxes+1"] says where to look. With a given
    temperature there is just that one. Raises Unknown as `Cells`.
    """

    def __init__(
        self,
        problem: Any,
        histogram: Histogram,
        p: np.ndarray,
        parts: list[binned.Partition],
        temperature: float | None,
        direction: str,
    ):
        self.cells = Cells(problem, tuple(np.asarray(e, np.float64) for e in histogram.edges), histogram.components)
        self.parts, self.given, self.direction = parts, temperature, direction
        self._tilt = Tilt(self.cells.edges, p)
        self._centre = np.log(temperature if temperature is not None else self._begin(p))
        self._lay()

    @property
    def temperature(self) -> float:
        """The middle of the temperatures that are laid out."""
        return float(np.exp(self._centre))

    def at(self, temperature: float) -> np.ndarray:
        """log q ["boxes+1"]."""
        return self.cells.log_masses(temperature)

    def best_temperature(self, p: np.ndarray) -> float:
        """Where the divergence of p is least; moves the temperatures there. The given one where it is given."""
        if self.given is not None:
            return self.given
        for _ in range(24):
            u, _ = self._minimum(p)
            if abs(u) < 0.5:
                return float(np.exp(self._centre + WIDTH * u))
            self._centre += WIDTH * (u if abs(u) < 1 else 4 * u)
            self._lay()
        raise Unknown("no temperature makes the divergence least: it keeps falling as the temperature is changed")

    def least(self, p: np.ndarray) -> np.ndarray:
        """The divergence of p ["boxes+1"] at its own best temperature (or the given one), and what extrapolation added."""
        return self._minimum(p)[1]

    def _minimum(self, p: np.ndarray) -> tuple[float, Any]:
        """u and the values at it, T = exp(centre + WIDTH u), −1 ≤ u ≤ 1."""
        # the reference follows p; its base is the Gibbs law in the middle
        log_r = np.append(self._tilt.fit(p, self._base[:-1]), -np.inf)
        levels = []
        for partition in self.parts:
            if self.direction == "forward":
                levels.append(partition.divergence(p, self._log_q, log_r))
            else:
                with np.errstate(divide="ignore"):
                    levels.append(partition.divergence(np.exp(self._log_q), np.log(p), log_r, rare="second"))
        values, change = binned.extrapolated(levels)
        if not np.isfinite(values).all():
            raise Unknown("one law has mass where the other has none: the divergence is infinite")
        if self.given is not None:
            return 0.0, np.array([values[0], change[0]])
        series = chebyshev.chebfit(self._nodes, np.stack([values, change], axis=1), NODES - 1)
        found = optimize.minimize_scalar(
            lambda u: chebyshev.chebval(u, series[:, 0]), bounds=(-1, 1), method="bounded", options={"xatol": 1e-7}
        )
        u = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
        return u if abs(u) < 0.999 else float(np.sign(u)), chebyshev.chebval(u, series)

    def _lay(self) -> None:
        """The masses of the parts at the temperatures around the centre."""
        self._nodes = chebyshev.chebpts1(NODES) if self.given is None else np.zeros(1)
        self._log_q = np.stack([self.at(float(t)) for t in np.exp(self._centre + WIDTH * self._nodes)])
        self._base = self._log_q[len(self._log_q) // 2]
        self._tilt.restart()

    def _begin(self, p: np.ndarray) -> float:
        """The temperature at which KL(p‖q) inside the boxes is least: the mean losses agree."""
        losses = self.cells.mean_losses()
        inside = p[:-1] / p[:-1].sum()
        with np.errstate(invalid="ignore"):
            excess = float((inside[inside > 0] * losses[inside > 0]).sum() - losses.min())
        if not np.isfinite(excess):
            raise Unknown("the run's law has mass where the loss is infinite: KL is infinite")
        if not excess > 0:
            raise Unknown("the chains sit in the box of lowest loss: use narrower boxes")
        start = np.log(2 * excess / len(self.cells.edges))

        on = inside > 0

        def cross_entropy(log_t: float) -> float:
            return -float(inside[on] @ self.cells.guess(float(np.exp(log_t)))[on])

        # the cross entropy need not be convex in log T for a loss with several wells: look around before going down
        grid = start + np.linspace(-6, 6, 25)
        at = float(grid[np.argmin([cross_entropy(float(t)) for t in grid])])
        found = optimize.minimize_scalar(cross_entropy, bounds=(at - 0.5, at + 0.5), method="bounded")
        forward = float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]
        return forward if self.direction == "forward" else self._begin_reverse(p, forward)

    def _begin_reverse(self, p: np.ndarray, forward: float) -> float:
        """The temperature at which KL(q‖reference) is least: the reference, unlike p, is smooth where nothing was sampled."""
        log_r = self._tilt.fit(p, self.cells.guess(forward))
        self._tilt.restart()

        def divergence(log_t: float) -> float:
            log_q = self.cells.guess(float(np.exp(log_t)))
            on = np.isfinite(log_r) & (log_q > -700)
            return float(np.exp(log_q[on]) @ (log_q[on] - log_r[on]))

        candidates = np.log(forward) + np.linspace(-4, 1, 41)
        return float(np.exp(candidates[np.argmin([divergence(t) for t in candidates])]))
