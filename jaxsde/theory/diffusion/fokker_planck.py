"""The Fokker–Planck equation of an SDE in one to three dimensions, with the full Σ(Φ), Itô:

    ∂ₜ p = −∇·J,   J = f p − ∇·(D p),   D = scale² Σ(x)/2

solved as a Markov jump process on a grid (`lattice`), so that densities are positive and mass is kept, on three grids, cells 1, 4/3
and 2 times as long. Every number is extrapolated from them to cells of size zero and has an error bar (`refined`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize

from .. import checks, float64
from ..linearise import autonomous
from .distance import Distance
from .enclose import enclose, given, no_gibbs
from .lattice import WALLS, Grid
from .levels import Level
from .markov import check_mixing, evolve, mean_time, relaxation
from .refined import Refined, extrapolate

_CELLS = {1: 1024, 2: 200, 3: 48}
_MOST = {1: 8192, 2: 480, 3: 72}
# Cells whose equations fit into the memory of a small machine, as a whole.
_LIMIT = {1: 1 << 20, 2: 1 << 20, 3: 1 << 19}
# Cells up to which a spectrum is computed in three dimensions: it takes a full LU.
_SPECTRUM = 50_000
_CAVEAT = "with absorbing walls there is no stationary law, and so no "


@dataclass(frozen=True, eq=False)
class FokkerPlanck:
    """The stationary law of an SDE on a grid; between absorbing walls the quasi-stationary one, of what is not absorbed yet.

    `density` ["n₁ … n_d"] is that of the finest grid at the centres of its cells, positive, with Σ density · volume = 1, and
    `density_error` its distance in total variation from the one that the two finest grids are extrapolated to. `mean` ["d"] and
    `covariance` ["d d"] are extrapolated, with error bars of the same shapes. `outside` estimates the mass beyond the walls of a
    box that was chosen automatically: it is not in the error bars.
    """

    grid: Grid
    walls: tuple[str, ...]
    density: np.ndarray = field(repr=False)
    density_error: float
    mean: np.ndarray
    mean_error: np.ndarray
    covariance: np.ndarray
    covariance_error: np.ndarray
    outside: float
    _levels: tuple[Level, ...] = field(repr=False)
    _problem: Any = field(repr=False)
    _given: bool = field(repr=False)

    @property
    def dim(self) -> int:
        return len(self.grid.shape)

    @property
    def points(self) -> np.ndarray:
        """The centres of the cells ["N d"], in the order of `density.ravel()`."""
        return self.grid.points

    def log_density(self, x: Any) -> np.ndarray:
        """log p at positions [... d], in nats, extrapolated, by cubic splines; −∞ outside the box. On a line x may be [...]."""
        x = np.asarray(x, np.float64)
        if self.dim == 1 and (x.ndim == 0 or x.shape[-1] != 1):
            x = x[..., None]
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x has shape {x.shape}: give positions [..., {self.dim}]")
        points, (fine, coarse, *_) = x.reshape(-1, self.dim), self._levels
        found = fine.log_p(points)
        inside = np.isfinite(found)
        change = (found[inside] - coarse.log_p(points[inside])) / ((coarse.size / fine.size) ** 2 - 1)
        found[inside] += np.clip(change, -1.0, 1.0)  # far out, where the density is next to nothing, grids may differ by more
        return found.reshape(x.shape[:-1])

    def marginal(self, component: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions, density) of one component, on the finest grid."""
        if component not in range(self.dim):
            raise ValueError(f"component must be one of 0…{self.dim - 1}, got {component!r}")
        others = tuple(k for k in range(self.dim) if k != component)
        line = self._levels[0].p.reshape(self.grid.shape).sum(axis=others)
        return self.grid.axes[component], line / self.grid.size[component]

    def expectation(self, f: Callable[[np.ndarray], np.ndarray]) -> Refined:
        """E f(X); `f` takes positions ["k d"] and returns values ["k …"]. Where f jumps the error is of first order."""
        return self._refined(lambda level: level.mean(_values(f, level.grid.points)))

    def kl_to_gibbs(self, problem: Any = None, temperature: Any = None, direction: str = "forward") -> Refined:
        """KL in nats to the Gibbs law of a problem (default: the SDE's), at `temperature` or (None) at the best one.

        "forward" is KL(p‖Gibbs), "reverse" KL(Gibbs‖p). In a box that was given the Gibbs law is that of the box, else that of all
        space. In reverse the error bar holds what of Gibbs lies outside the box. `ValueError` where there is no Gibbs law, and in
        reverse where more than .001 of it lies outside.
        """
        return self._distance(problem, direction).kl(direction, temperature)

    def best_temperature(self, problem: Any = None, direction: str = "forward") -> Refined:
        """The temperature whose Gibbs law is closest to p; see `kl_to_gibbs`."""
        return self._distance(problem, direction).best(direction)

    @property
    def current(self) -> np.ndarray:
        """J = f p − ∇·(D p) at the centres ["n₁ … n_d d"], on the finest grid."""
        self._stationary("current")
        return self._levels[0].current.reshape(*self.grid.shape, self.dim)

    def entropy_production(self) -> Refined:
        """∫ Jᵀ D⁻¹ J/p, in nats a unit time: 0 iff the law is in equilibrium."""
        self._stationary("entropy production")
        return self._refined(lambda level: level.entropy)

    def area_rates(self) -> Refined:
        """Q ["d d"], Qᵢⱼ = ½ ∫ (xᵢ Jⱼ − xⱼ Jᵢ): the mean signed area a unit time in each plane, positive from i towards j."""
        self._stationary("area rate")
        if "periodic" in self.walls:
            raise ValueError("no area is swept around a periodic axis: mean_velocity says how fast it is run around")
        return self._refined(lambda level: level.areas)

    def mean_velocity(self) -> Refined:
        """∫ J = E dX/dt ["d"], the speed at which periodic axes are run around; 0 along the others."""
        self._stationary("mean velocity")
        return self._refined(lambda level: level.velocity)

    def relaxation_rates(self, count: int = 4) -> Refined:
        """The `count` slowest rates at which a density returns to this one (complex: it turns while it does), by real parts.

        They are minus the eigenvalues of the generator that are nearest 0, without 0 itself; with absorbing walls the first is the
        rate of loss of what is left. One whose imaginary part is many times all others' may be missed.
        """
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= 50:
            raise ValueError(f"count must be an integer from 1 to 50, got {count!r}")
        levels = [v for v in self._levels if self.dim < 3 or len(v.p) <= _SPECTRUM or v is self._levels[-1]]
        first = levels[0]
        scale, turn = first.rate, first.turn
        found = [relaxation(v.generator, v.grid.shape, v.p, int(count) + (4 if v is not first else 0), scale, turn) for v in levels]
        if len(found) == 1:
            return Refined(found[0], np.abs(found[0]))
        # Rates of one mode may stand in another order on another grid.
        found[1:] = [v[scipy.optimize.linear_sum_assignment(np.abs(found[0][:, None] - v))[1]] for v in found[1:]]
        rates = extrapolate(found, [v.size for v in levels])
        order = np.argsort(np.round(rates.value.real / (1e-8 * scale)), kind="stable")
        return Refined(rates.value[order], rates.error[order])

    def spectral_gap(self) -> Refined:
        """The slowest rate of relaxation, the least real part of `relaxation_rates`."""
        rates = self.relaxation_rates(1)
        return Refined(float(rates.value[0].real), float(rates.error[0]))

    def evolve(self, start: Any, times: Any) -> Evolution:
        """The density on its way from a position ["d"] or a density (a function of positions ["k d"], any scale), at rising times.

        By uniformisation: exact in time, positive, and mass is kept to rounding (absorbing walls apart).
        """
        times = checks.vector(times, None, "times")
        if not ((times >= 0).all() and (np.diff(times) > 0).all()):
            raise ValueError(f"times must increase from 0 or later, got {times}")
        if not callable(start):
            start = checks.vector(start, self.dim, "start")
            if not ((start > self.grid.lo) & (start < self.grid.hi)).all():
                raise ValueError(f"start {start} is outside the box {self.grid.lo} … {self.grid.hi}: give a box that holds it")
        found = []
        for level in self._levels:
            if callable(start):
                first = np.maximum(_values(start, level.grid.points), 0.0)
                if not 0 < first.sum() < np.inf:
                    raise ValueError("start must be a density: finite and not zero everywhere on the grid")
                first = first / first.sum()
            else:
                first = level.spread(start)
            found.append(evolve(level.generator, first, times))
        sizes = [level.size for level in self._levels]
        left = [p.sum(axis=1) for p in found]
        means = [p @ v.grid.points / m[:, None] for p, v, m in zip(found, self._levels, left, strict=True)]
        mean = extrapolate(means, sizes)
        seconds = [_second(p / m[:, None], v.grid.points, c) for p, v, m, c in zip(found, self._levels, left, means, strict=True)]
        covariance, mass = extrapolate(seconds, sizes), extrapolate(left, sizes)
        density = found[0].reshape(-1, *self.grid.shape) / self.grid.volume
        return Evolution(
            times, self.grid, density, mean.value, mean.error, covariance.value, covariance.error, mass.value, mass.error
        )

    def mean_exit_time(self, start: Any) -> Refined:
        """The mean time until an absorbing wall is hit from a position ["d"]."""
        if "absorbing" not in self.walls:
            raise ValueError('nothing is absorbed by these walls: pass walls="absorbing" to fokker_planck')
        point = checks.vector(start, self.dim, "start")[None]
        return self._refined(lambda v: v.between(mean_time(v.generator, v.grid.shape), point)[0])

    def _refined(self, f: Callable[[Level], Any]) -> Refined:
        return extrapolate([f(level) for level in self._levels], [level.size for level in self._levels])

    def _stationary(self, what: str) -> None:
        if "absorbing" in self.walls:
            raise ValueError(_CAVEAT + what)

    def _distance(self, problem: Any, direction: str) -> Distance:
        checks.one_of(direction, ("forward", "reverse"), "direction")
        self._stationary("distance to Gibbs")
        problem = self._problem if problem is None else problem
        if problem is None:
            raise ValueError("the SDE has no problem, so there is no loss to compare with: pass problem=")
        checks.problem(problem)
        if problem.dim != self.dim:
            raise ValueError(f"the problem has {problem.dim} parameters and the law {self.dim}")
        return Distance(problem, self._levels, self._given)


@dataclass(frozen=True, eq=False)
class Evolution:
    """Densities ["T n₁ … n_d"] at `times` ["T"] on the finest grid, and, extrapolated with error bars of the same shape, the `mean`
    ["T d"] and `covariance` ["T d d"] of what has not been absorbed and the `mass` ["T"] that this is."""

    times: np.ndarray
    grid: Grid
    density: np.ndarray = field(repr=False)
    mean: np.ndarray
    mean_error: np.ndarray
    covariance: np.ndarray
    covariance_error: np.ndarray
    mass: np.ndarray
    mass_error: np.ndarray


def fokker_planck(
    sde: Any, box: Any = None, walls: Any = "reflecting", cells: Any = None, *, tolerance: float = 1e-3
) -> FokkerPlanck:
    """The stationary law of an SDE in one to three dimensions by its Fokker–Planck equation, with all that follows from it.

    - `box`: (lo, hi), two numbers or two vectors; None: one that holds all but some 1e-9 of the law, found by itself.
    - `walls`: "reflecting", "periodic" or "absorbing", or a word for each axis. Other than reflecting ones need a box.
    - `cells`: their number along each axis (an integer or one an axis, rounded up to multiples of 4) on the finest of the three
      grids; None: enough for the error bar of the variances to be below `tolerance` times them (200², 48³, at most 480², 72³).

    Raises `ValueError` where there is no stationary law, D is degenerate (momenta, fewer noises than dimensions), the drift depends
    on time, or d > 3.
    """
    checks.sde(sde)
    if not 1 <= sde.dim <= 3:
        raise ValueError(f"the Fokker–Planck equation is solved in one to three dimensions, and the SDE has {sde.dim}")
    words = (walls,) * sde.dim if isinstance(walls, str) or np.ndim(walls) == 0 else tuple(walls)
    if len(words) != sde.dim or any(word not in WALLS for word in words):
        raise ValueError(f"walls must be {', '.join(WALLS)}, or one of these for each of {sde.dim} axes; got {walls!r}")
    if box is None and words != ("reflecting",) * sde.dim:
        raise ValueError("periodic and absorbing walls need a box: pass box=(lo, hi)")
    counts = _counts(cells, sde.dim)
    tolerance = checks.positive(tolerance, "tolerance")
    wide = float64.widen(sde)
    autonomous(wide)
    lo, hi, outside = enclose(sde, wide) if box is None else (*given(box, sde.dim), 0.0)
    while True:
        levels: list[Level] = []
        for share in (1, 2, 3, 4):
            grid = Grid(lo, hi, tuple(share * n // 4 for n in counts))
            levels.insert(0, Level.solve(wide, grid, words, levels[0] if levels else None))
        if "absorbing" not in words:
            try:
                check_mixing(levels[-1].generator, levels[-1].grid.shape, levels[-1].p)
            except ValueError as error:
                raise ValueError(f"{error}{no_gibbs(wide) if box is None else ''}") from error
        law = _law(tuple(levels[:3]), outside, sde, box is not None)
        error = float((np.diag(law.covariance_error) / np.diag(law.covariance)).max())
        larger = tuple(-(-min(_MOST[sde.dim], 3 * n // 2) // 4) * 4 for n in counts)
        if cells is not None or error <= tolerance or larger == counts:
            return law
        counts = larger


def _law(levels: tuple[Level, ...], outside: float, sde: Any, boxed: bool) -> FokkerPlanck:
    sizes = [level.size for level in levels]
    moments = [level.moments for level in levels]
    mean, covariance = (extrapolate([m[k] for m in moments], sizes) for k in (0, 1))
    fine, coarse = levels[0], levels[1]
    density = fine.p / fine.grid.volume
    other = np.exp(coarse.log_p(fine.grid.points))
    other *= fine.p.sum() / (other.sum() * fine.grid.volume)
    shift = np.abs(density - other).sum() * fine.grid.volume / 2 / ((sizes[1] / sizes[0]) ** 2 - 1)
    problem = getattr(sde.drift, "problem", None)
    return FokkerPlanck(
        fine.grid,
        fine.walls,
        density.reshape(fine.grid.shape),
        float(shift),
        mean.value,
        mean.error,
        covariance.value,
        covariance.error,
        outside,
        levels,
        problem,
        boxed,
    )


def _counts(cells: Any, dim: int) -> tuple[int, ...]:
    if cells is None:
        return (_CELLS[dim],) * dim
    counts = (cells,) * dim if np.ndim(cells) == 0 else tuple(cells)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in counts)
    if len(counts) != dim or not whole or min(counts) < 16:
        raise ValueError(f"cells must be an integer from 16, or {dim} of them, got {cells!r}")
    if (total := math.prod(int(n) for n in counts)) > _LIMIT[dim]:
        raise ValueError(f"cells={cells!r} makes {total} cells, and the equations of at most {_LIMIT[dim]} are solved: give fewer")
    return tuple(-(-int(n) // 4) * 4 for n in counts)


def _values(f: Callable[[np.ndarray], Any], points: np.ndarray) -> np.ndarray:
    values = np.asarray(f(points), np.float64)
    if values.ndim == 0 or len(values) != len(points):
        raise ValueError(f"the function returned shape {values.shape} for {len(points)} positions: return one value for each")
    return values


def _second(p: np.ndarray, points: np.ndarray, means: np.ndarray) -> np.ndarray:
    return np.array([((points - m).T * q) @ (points - m) for q, m in zip(p, means, strict=True)])
