"""How far the law on a grid is from the Gibbs laws of a problem, and which of them is the nearest.

    KL(p‖Gibbs_T) = ∫ p log p + E_p L/T + log Z(T)            least where the Gibbs law has the mean loss E_p L
    KL(Gibbs_T‖p) = ∫ q log q/p                               q = exp(−L/T)/Z(T)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.optimize

from .. import checks, float64
from ..laws.gibbs import Gibbs, gibbs
from ..laws.temperature import temperature_of_loss
from ..linear import find_root
from .lattice import everywhere
from .levels import Level
from .refined import Refined, extrapolate


@dataclass(frozen=True, eq=False)
class Distance:
    """Of `levels` of one law to the Gibbs laws of `problem`, on the box of the grid (`boxed`) or on all space."""

    problem: Any
    levels: tuple[Level, ...]
    boxed: bool
    _laws: dict[float, Gibbs] = field(default_factory=dict)

    def kl(self, direction: str, temperature: Any = None) -> Refined:
        best = float(self.best(direction)) if temperature is None else checks.positive(temperature, "temperature")
        if direction == "reverse":
            outside, height = self._beyond(best)
            found = self._refined([self._reverse(k, best) for k in range(len(self.levels))])
            return Refined(found.value, found.error + 2 * outside * height)
        log_z = None if self.boxed else self._law(best).log_z
        return self._refined([self._forward(k, best, log_z) for k in range(len(self.levels))])

    def best(self, direction: str) -> Refined:
        matched = self._refined([self._matched(k, float(v.p @ loss)) for k, (v, loss) in enumerate(self._pairs)])
        if direction == "forward":
            if self._outside(float(matched)) < 1e-10:
                return matched
            mean = self._refined([v.p @ loss for v, loss in self._pairs])
            value = temperature_of_loss(self.problem, mean.value)
            return Refined(value, abs(temperature_of_loss(self.problem, mean.value + mean.error) - value))
        found = self._refined([self._least(k, float(matched)) for k in range(len(self.levels))])
        outside, height = self._beyond(float(found))
        return Refined(found.value, found.error + found.value * outside * height**2)

    @cached_property
    def _losses(self) -> list[np.ndarray]:
        wide = float64.widen(self.problem)
        return [everywhere(float64.loss, wide, level.grid.points) for level in self.levels]

    @property
    def _pairs(self) -> list[tuple[Level, np.ndarray]]:
        return list(zip(self.levels, self._losses, strict=True))

    def _refined(self, values: list[Any]) -> Refined:
        return extrapolate(values, [level.size for level in self.levels])

    def _gibbs(self, k: int, temperature: float) -> tuple[np.ndarray, float]:
        """The masses of the cells under the Gibbs law of the box, and log Z of that."""
        energy = self._losses[k] / temperature
        weight = np.exp(energy.min() - energy)
        total = weight.sum()
        return weight / total, float(np.log(total * self.levels[k].grid.volume) - energy.min())

    def _forward(self, k: int, temperature: float, log_z: float | None) -> float:
        level, loss = self._pairs[k]
        log_z = self._gibbs(k, temperature)[1] if log_z is None else log_z
        return float(level.p @ (level.log_density + loss / temperature) + log_z)

    def _reverse(self, k: int, temperature: float) -> float:
        level, loss = self._pairs[k]
        q, log_z = self._gibbs(k, temperature)
        return float(q @ (-loss / temperature - log_z - level.log_density))

    def _matched(self, k: int, mean_loss: float) -> float:
        """T at which the Gibbs law of the box has this mean loss."""

        def gap(log_t: float) -> float:
            return float(self._gibbs(k, math.exp(log_t))[0] @ self._losses[k]) - mean_loss

        spread = float(np.ptp(self._losses[k]))
        low, high = math.log(1e-8 * spread), math.log(1e8 * spread)
        if not gap(low) < 0 < gap(high):
            raise ValueError(
                f"no temperature is best: no Gibbs law of the box has the mean loss {mean_loss:.6g} at a positive temperature"
            )
        return math.exp(find_root(gap, low, high, 1e-13))

    def _least(self, k: int, centre: float) -> float:
        found: Any = scipy.optimize.minimize_scalar(
            lambda log_t: self._reverse(k, math.exp(log_t)),
            bounds=(math.log(centre / 20), math.log(centre * 20)),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return math.exp(found.x)

    def _law(self, temperature: float) -> Gibbs:
        """The Gibbs law of all space."""
        if temperature not in self._laws:
            self._laws[temperature] = gibbs(self.problem, temperature)
        return self._laws[temperature]

    def _outside(self, temperature: float) -> float:
        """The share of the Gibbs law of all space that lies outside the box."""
        if self.boxed:
            return 0.0
        return 1 - math.exp(self._gibbs(0, temperature)[1] - self._law(temperature).log_z)

    def _beyond(self, temperature: float) -> tuple[float, float]:
        """The share of the Gibbs law of all space outside the box, and log(Gibbs/p) about where it leaves it.

        What is outside adds that share times about that height to KL(Gibbs‖p), whose slope in log T is the height once more.
        """
        outside = max(self._outside(temperature), 0.0)
        if outside > 1e-3:
            raise ValueError(
                f"{outside:.2g} of the Gibbs law at T = {temperature:.4g} lies outside the box, where the density is not known: "
                "give a larger box (the Gibbs law is then that of the box)"
            )
        q, _ = self._gibbs(0, temperature)
        there = q >= max(outside, 1e-12) * q.max()
        height = np.log(q[there] / self.levels[0].grid.volume) - self.levels[0].log_density[there]
        return outside, max(float(height.max()), 1.0)
