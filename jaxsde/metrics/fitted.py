"""Divergences from a Gibbs law on the boxes of a histogram, at a given temperature or at the one that makes them least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from scipy import optimize

from ..estimate import Unknown
from ..statistics import Histogram
from . import binned
from .cells import Cells

# The law is known at this many temperatures, Chebyshev points of log T within ±WIDTH of the best one.
NODES, WIDTH = 7, 0.2

# (masses ["boxes+1"], log q at the temperatures on the full and on the halved grid) -> KL at each temperature
Divergence = Callable[[np.ndarray, "list[np.ndarray]"], np.ndarray]


class LogMasses:
    """log q of the Gibbs laws at a few temperatures, with which the best temperature of any p nearby is found at once.

    `p` ["boxes+1"] says where to look. With a given temperature there is just that one. Raises Unknown as `Cells`.
    """

    def __init__(self, problem: Any, histogram: Histogram, p: np.ndarray, temperature: float | None):
        self.cells = Cells(problem, tuple(np.asarray(e, np.float64) for e in histogram.edges), histogram.components)
        self.shape = histogram.shape
        self.given = temperature
        self._centre = np.log(temperature if temperature is not None else self._begin(p))
        self._lay()

    @property
    def temperature(self) -> float:
        """The middle of the temperatures that are laid out."""
        return float(np.exp(self._centre))

    def at(self, temperature: float) -> np.ndarray:
        """log q ["boxes+1"]."""
        return self.cells.log_masses(temperature)

    def forward(self, p: np.ndarray, levels: list[np.ndarray]) -> np.ndarray:
        """KL(p‖q) at every temperature."""

        def level(i: int) -> np.ndarray:
            return binned.forward_kl(binned.halved(p, self.shape, np.add) if i else p, levels[i])

        return binned.extrapolated(level, self.shape)

    def reverse(self, p: np.ndarray, groups: np.ndarray) -> Divergence:
        """KL(q‖p), where boxes that p has hardly visited are joined with the outside."""
        labels = [binned.joined(p, groups)]
        if binned.can_halve(self.shape):
            labels.append(
                binned.joined(binned.halved(p, self.shape, np.add), binned.halved(groups, self.shape, np.add))
            )

        def divergence(p: np.ndarray, levels: list[np.ndarray]) -> np.ndarray:
            def level(i: int) -> np.ndarray:
                x = binned.gather(binned.halved(p, self.shape, np.add) if i else p, labels[i])
                y = binned.gather(np.exp(levels[i]), labels[i])
                if (x == 0).any():
                    raise Unknown("a box that the Gibbs law fills is visited by too few groups: use wider boxes")
                return (y * (np.log(np.maximum(y, 1e-300)) - np.log(x))).sum(axis=-1)

            return binned.extrapolated(level, self.shape)

        return divergence

    def check_visited(self, q: np.ndarray, p: np.ndarray, groups: np.ndarray) -> None:
        """Unknown when much of the Gibbs law q lies where the chains have hardly been: KL(q‖p) is made there."""
        hidden = float(binned.gather(q, binned.joined(p, groups))[0])
        if hidden > binned.MOST_OUTSIDE:
            raise Unknown(
                f"{100 * hidden:.3g} % of the Gibbs law lies where the chains have hardly been: KL(Gibbs‖p) needs more samples"
            )

    def best_temperature(self, divergence: Divergence, p: np.ndarray) -> float:
        """Where the divergence of p is least; moves the temperatures there. The given one where it is given."""
        if self.given is not None:
            return self.given
        for _ in range(24):
            u, _ = self._minimum(divergence, p)
            if abs(u) < 0.5:
                return float(np.exp(self._centre + WIDTH * u))
            self._centre += WIDTH * (u if abs(u) < 1 else 4 * u)
            self._lay()
        raise Unknown("no temperature makes the divergence least: it keeps falling as the temperature is changed")

    def least(self, divergence: Divergence, p: np.ndarray) -> float:
        """The divergence of p at its own best temperature (at the given one where it is given)."""
        return self._minimum(divergence, p)[1]

    def _minimum(self, divergence: Divergence, p: np.ndarray) -> tuple[float, float]:
        """(u, value) of the least divergence, T = exp(centre + WIDTH u), −1 ≤ u ≤ 1."""
        values = divergence(p, self._levels)
        if not np.isfinite(values).all():
            raise Unknown("the run's law has mass where the loss is infinite: KL is infinite")
        if self.given is not None:
            return 0.0, float(values[0])
        series = chebyshev.chebfit(self._nodes, values, NODES - 1)
        found = optimize.minimize_scalar(
            lambda u: chebyshev.chebval(u, series), bounds=(-1, 1), method="bounded", options={"xatol": 1e-7}
        )
        u = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
        return u if abs(u) < 0.999 else float(np.sign(u)), float(chebyshev.chebval(u, series))

    def _lay(self) -> None:
        """log q at the temperatures around the centre, on the full grid and on the halved one."""
        self._nodes = chebyshev.chebpts1(NODES) if self.given is None else np.zeros(1)
        full = np.stack([self.at(float(t)) for t in np.exp(self._centre + WIDTH * self._nodes)])
        self._levels = [full]
        if binned.can_halve(self.shape):
            self._levels.append(binned.halved(full, self.shape, np.logaddexp))

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
        start = np.log(2 * excess / len(self.shape))

        def divergence(log_t: float) -> float:
            return float(binned.forward_kl(inside, self.cells.guess(float(np.exp(log_t)))))

        found = optimize.minimize_scalar(divergence, bracket=(start - 1, start, start + 1), tol=1e-3)
        return float(np.exp(np.clip(found.x, start - 20, start + 20)))  # pyright: ignore[reportAttributeAccessIssue]
