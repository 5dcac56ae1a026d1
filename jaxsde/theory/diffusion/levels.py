"""An SDE on one grid: its generator, its stationary law there, and what follows from the two.

The current along an edge from x to y is j = rate(x → y) p(x) − rate(y → x) p(y). All sums over edges converge at second order:

    mean velocity ∫J = Σ j e        area rate Q = ½ Σ j (x eᵀ − e xᵀ)        entropy Σ j log(rate(x → y) p(x)/rate(y → x) p(y))

The last is Schnakenberg's form, which is never negative. With symmetric edges it converges to ∫ Jᵀ D⁻¹ J/p.

Source: Schnakenberg (1976), Rev. Mod. Phys. 48, 571.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.interpolate
import scipy.ndimage

from .lattice import Grid, Jumps, jumps, rates
from .markov import quasi_stationary, stationary

_LOWEST = -690.0  # logarithm of what is left of a density that underflows


@dataclass(frozen=True, eq=False)
class Level:
    """A grid with the SDE's drift on it ["N d"], its jumps and generator, and the law `p` ["N"] of its cells, with sum 1."""

    grid: Grid
    walls: tuple[str, ...]
    drift: np.ndarray
    jumps: Jumps
    generator: Any
    p: np.ndarray

    @classmethod
    def solve(cls, wide: Any, grid: Grid, walls: tuple[str, ...], coarser: Level | None) -> Level:
        f, d = rates(wide, grid)
        found = jumps(f, d, grid, walls)
        generator = found.generator(len(f))
        if "absorbing" in walls:
            p = quasi_stationary(generator, grid.shape)
        else:
            p = stationary(generator, grid.shape, None if coarser is None else np.exp(coarser.log_p(grid.points, 1)))
        return cls(grid, walls, f, found, generator, p)

    @property
    def size(self) -> float:
        """The length of a cell, a mean over the axes."""
        return self.grid.volume ** (1 / len(self.grid.shape))

    @property
    def log_density(self) -> np.ndarray:
        """log p/volume ["N"], at most some 700 below its largest."""
        with np.errstate(divide="ignore"):
            log_p = np.log(self.p)
        return np.maximum(log_p, log_p.max() + _LOWEST) - np.log(self.grid.volume)

    def log_p(self, points: np.ndarray, order: int = 3) -> np.ndarray:
        """log density at points ["k d"], from splines through that at the centres; −∞ outside the box."""
        inside = (points >= self.grid.lo) & (points <= self.grid.hi)
        return np.where(inside.all(axis=1), self.between(self.log_density, points, order), -np.inf)

    def between(self, values: np.ndarray, points: np.ndarray, order: int = 3) -> np.ndarray:
        """Values at the centres ["N"] carried to points ["k d"] by splines of this order, on past the last centre to the wall."""
        values = values.reshape(self.grid.shape)
        for axis, wall in enumerate(self.walls):
            first, last = (np.take(values, k, axis) for k in (0, -1))
            if wall == "periodic":
                parts = [np.take(values, range(-4, 0), axis), values, np.take(values, range(4), axis)]
            else:
                second, before = (np.take(values, k, axis) for k in (1, -2))
                ends = [np.stack([a + k * (a - b) for k in range(1, 5)], axis) for a, b in ((first, second), (last, before))]
                parts = [np.flip(ends[0], axis), values, ends[1]]
            values = np.concatenate(parts, axis)
        place = (points - self.grid.lo) / self.grid.size + 3.5
        return scipy.ndimage.map_coordinates(values, place.T, order=order, mode="nearest")

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Σ p · values ["N …"]."""
        return np.tensordot(self.p, values, 1)

    @property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean ["d"] and covariance ["d d"]."""
        x = self.grid.points
        mean = self.p @ x
        return mean, ((x - mean).T * self.p) @ (x - mean)

    @property
    def flux(self) -> np.ndarray:
        """j of each edge."""
        there, back = self._traffic
        return there - back

    @property
    def velocity(self) -> np.ndarray:
        """∫ J ["d"]."""
        return self.flux @ self.jumps.offset[: self.jumps.edges]

    @property
    def areas(self) -> np.ndarray:
        """Q ["d d"]."""
        mean, _ = self.moments
        x = self.grid.points[self.jumps.source[: self.jumps.edges]] - mean
        swept = (x.T * self.flux) @ self.jumps.offset[: self.jumps.edges]
        return (swept - swept.T) / 2

    @property
    def entropy(self) -> float:
        """Entropy produced a unit time, in nats."""
        there, back = self._traffic
        both = (there > 0) & (back > 0)
        return float(np.sum((there - back)[both] * np.log(there[both] / back[both])))

    @property
    def current(self) -> np.ndarray:
        """J at the centres ["N d"]: of each edge half at either end."""
        edges = self.jumps.edges
        moved = self.flux[:, None] * self.jumps.offset[:edges] / (2 * self.grid.volume)
        ends = (self.jumps.source[:edges], self.jumps.target[:edges])
        return np.stack([sum(np.bincount(e, m, len(self.p)) for e in ends) for m in moved.T], axis=-1)

    @property
    def rate(self) -> float:
        """A typical rate of relaxation, tr E D/tr S: the noise makes up in that time what the law spreads."""
        _, covariance = self.moments
        spread = self.p[self.jumps.source] * self.jumps.rate
        return float(spread @ (self.jumps.offset**2).sum(axis=1) / (2 * np.trace(covariance)))

    @property
    def turn(self) -> float:
        """The fastest frequency of the linear drift nearest to this one, 0 where it is no faster than that drift contracts."""
        mean, covariance = self.moments
        x = self.grid.points - mean
        values = np.linalg.eigvals(np.linalg.solve(covariance, (x.T * self.p) @ self.drift))
        fastest = values[np.abs(values.imag).argmax()]
        return float(abs(fastest.imag)) if abs(fastest.imag) > abs(fastest.real) else 0.0

    @property
    def _traffic(self) -> tuple[np.ndarray, np.ndarray]:
        edges, rate = self.jumps.edges, self.jumps.rate
        source, target = self.jumps.source[:edges], self.jumps.target[:edges]
        return rate[:edges] * self.p[source], rate[edges : 2 * edges] * self.p[target]

    def spread(self, point: np.ndarray) -> np.ndarray:
        """A unit mass at a point shared among the 3ᵈ cells around it ["N"]: its mean is kept, its variance is a quarter of a
        cell's length squared wherever in the cell the point is (so that it is extrapolated away)."""
        shape, walls = np.asarray(self.grid.shape), np.asarray(self.walls)
        place = (point - self.grid.lo) / self.grid.size - 0.5
        near = np.rint(place).astype(int)
        t = place - near
        weights = np.stack([(0.5 - t) ** 2 / 2, 0.75 - t**2, (0.5 + t) ** 2 / 2])
        total = np.zeros(self.grid.shape)
        for corner in np.ndindex(*(3,) * len(shape)):
            cell = near + corner - 1
            lost = ((cell < 0) | (cell >= shape)) & (walls == "absorbing")
            cell = np.where(walls == "periodic", cell % shape, np.clip(cell, 0, shape - 1))
            if not lost.any():
                total[tuple(cell)] += np.prod(weights[corner, range(len(shape))])
        return total.ravel()
