"""What the transfer operator of a chain says: its stationary law, how that comes about, and how far it is from a density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from scipy.special import logsumexp

from .. import checks, float64
from ..diffusion.lattice import Grid
from ..diffusion.refined import Refined
from ..laws.gibbs import gibbs
from ..laws.temperature import temperature_of_loss
from .box import count_of, even, found_box, given_box, grid_of
from .step_law import StepLaw, step_law
from .transfer import CELLS, stationary, transport

_NEGATIVE = 1e-5  # of the largest mass: interpolation of a law that is not smooth on the cells goes below zero by more
_LEVELS = 4  # sizes of cells at which a relative entropy is looked at
_LEAK = 1e-15  # of the mass that leaves the box in a step: rounding
_SURE = 1.5  # times what a power law continues a tail by is the error
_GAUSS = 4  # nodes in a cell, along each axis
# What a halving of the cells adds to a relative entropy, over what the last one added: a quarter for a smooth density, a half for
# one with jumps, all of it for a law without a density. Additions below the last number are not looked at.
_SMOOTH, _GROWS, _NOTICED = 0.4, 0.95, 1e-4
# What two halvings of the cells change is five times what one does, at second order; up to so much more or less it is believed.
_ORDERED = 1.5


@dataclass(frozen=True)
class CellKl:
    """A relative entropy in nats. `value` is extrapolated to cells of no size, ± `error`; infinite where it keeps growing or
    where one law has mass outside the other's support, and then `reason` says so. `by_cell_size` has (size, KL of the masses of
    such cells), finest first: each is a lower bound of the value. `temperature` is that of the Gibbs law, if it is one."""

    value: float
    error: float
    by_cell_size: tuple[tuple[float, float], ...]
    temperature: float | None = None
    reason: str = ""

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class TransferOperator:
    """The transfer operator of a chain on a grid of cells, and its stationary law. Made by `transfer_operator`.

    `matrix` P ["N N"] takes row vectors of masses one step on; `mass` is the stationary law on the cells (of the grid's shape), in
    C order. `method` says how a step was put on the grid. `coarse` is the same on cells twice as long, with one on cells twice as
    long again: numbers with an error are extrapolated from them.
    """

    law: StepLaw = field(repr=False)
    grid: Grid
    matrix: scipy.sparse.csr_matrix = field(repr=False)
    mass: np.ndarray = field(repr=False)
    smooth: bool
    method: str
    coarse: TransferOperator | None = field(repr=False, default=None)
    # the second moment that lies beyond the box, relative to the whole, by the power with which the marginals fall at its ends
    beyond: float = 0.0

    @property
    def dim(self) -> int:
        return len(self.grid.shape)

    @property
    def points(self) -> np.ndarray:
        """The centres of the cells ["N d"], in the order of `density.ravel()`."""
        return self.grid.points

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The edges of the cells along each axis."""
        return tuple(
            np.linspace(a, b, n + 1) for a, b, n in zip(self.grid.lo, self.grid.hi, self.grid.shape, strict=True)
        )

    @property
    def density(self) -> np.ndarray:
        """Mass over volume, of the grid's shape: of a law without a density, the histogram."""
        return self.mass / self.grid.volume

    @property
    def mean(self) -> np.ndarray:
        return self._extrapolated(lambda o: o.mass.ravel() @ o.points)[0]

    @property
    def covariance(self) -> np.ndarray:
        return self._extrapolated(lambda o: o._covariance())[0]

    @property
    def mean_error(self) -> np.ndarray:
        """Of the cells, and of what lies beyond the box, whose mean is its second moment over its distance or less ["d"]."""
        mean, error = self._extrapolated(lambda o: o.mass.ravel() @ o.points)
        away = np.minimum(mean - self.grid.lo, self.grid.hi - mean)
        return np.abs(error) + self.beyond * float(np.trace(self._covariance())) / away

    @property
    def covariance_error(self) -> np.ndarray:
        """Of the cells, seen on the coarser ones, and of what lies beyond the box ["d d"]."""
        covariance, error = self._extrapolated(lambda o: o._covariance())
        return np.abs(error) + self.beyond * float(np.trace(covariance))

    @property
    def error(self) -> float:
        """The largest error of the covariance, relative to its trace."""
        covariance, error = self._extrapolated(lambda o: o._covariance())
        return float(np.abs(error).max() / max(np.trace(covariance), 1e-300)) + self.beyond

    def expectation(self, f: Callable[[np.ndarray], np.ndarray]) -> Refined:
        """E f(Φ), for `f` that maps positions ["k d"] to numbers ["k"].

        The error is that of the cells; what lies beyond the box of a law with heavy tails adds to it.
        """
        value, error = self._extrapolated(lambda o: np.asarray(o._average(f)))
        return Refined(float(value), float(abs(error)))

    def evolve(self, start: Any, steps: int) -> np.ndarray:
        """The masses of the cells `steps` steps after `start`: a position ["d"], or masses of the grid's shape."""
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
            raise ValueError(f"steps must be a whole number of at least 0, got {steps!r}")
        given = np.asarray(start, np.float64)
        if given.shape == self.grid.shape and given.size > 1 and given.shape != (self.dim,):
            mass = given.ravel()
        else:
            place = checks.vector(np.atleast_1d(given), self.dim, "start")
            at = np.floor((place - self.grid.lo) / self.grid.size).astype(int)
            if (at < 0).any() or (at >= np.asarray(self.grid.shape)).any():
                raise ValueError(f"the start {place} lies outside the box {self.grid.lo} … {self.grid.hi}")
            mass = np.zeros(self.mass.size)
            mass[np.ravel_multi_index(tuple(at), self.grid.shape)] = 1.0
        transposed = scipy.sparse.csr_matrix(self.matrix.T)
        for _ in range(int(steps)):
            mass = transposed @ mass
        return mass.reshape(self.grid.shape)

    def spectrum(self, count: int = 6) -> np.ndarray:
        """The `count` eigenvalues of P of largest modulus, the first of which is 1; −dt/log|λ₂| is the relaxation time."""
        n = self.mass.size
        if n <= 1024:
            values = np.linalg.eigvals(self.matrix.toarray())
        else:
            start = np.random.default_rng(0).normal(size=n)
            values = scipy.sparse.linalg.eigs(self.matrix, k=count, v0=start, which="LM", return_eigenvectors=False)
        return values[np.argsort(-np.abs(values), kind="stable")][:count]

    def kl_to_gibbs(self, problem: Any = None, temperature: Any = None, direction: str = "forward") -> CellKl:
        """KL(law‖Gibbs_T) ("forward") or KL(Gibbs_T‖law) ("reverse"), at `temperature` or (None) the best one for that direction.

        `problem` defaults to the chain's own. `ValueError` where there is no Gibbs law.
        """
        checks.one_of(direction, ("forward", "reverse"), "direction")
        problem = self.law.wide.problem if problem is None else problem
        if temperature is None:
            temperature = self._best_temperature(problem, direction)
        temperature = checks.positive(temperature, "temperature")
        return self.kl_to(gibbs(problem, temperature), direction, _temperature=temperature)

    def kl_to(self, density: Any, direction: str = "forward", *, _temperature: float | None = None) -> CellKl:
        """KL(law‖density) or ("reverse") KL(density‖law), `density` with `log_density`, such as `stationary_density(sde)`.

        The law is that of the cells. Where a step's outcomes carry less information than the step shrinks volumes by, entropy(odds)
        < −E log |det DT|, the law has no density and the KL to any is infinite: it grows with each halving of the cells, by
        (1 − D) log 2 on the line, D = entropy/contraction. (Noise of two values at η > ½ is so; no noise at all is.)
        Source: Hochman (2014), Ann. Math. 180, 773.
        """
        checks.one_of(direction, ("forward", "reverse"), "direction")
        if not hasattr(density, "log_density"):
            raise TypeError(
                f"density must have log_density, as from stationary_density or gibbs; got {type(density).__name__}"
            )
        forward = direction == "forward"
        log_q = self._log_masses(density)
        if not forward:
            return self._reverse(density, log_q, _temperature)
        values = self._by_level(log_q)
        sizes = tuple((float(self.grid.size.max()) * 2**k, v) for k, v in enumerate(values))
        information, contraction = float(-(self.law.odds * np.log(self.law.odds)).sum()), self._contraction()
        if not self.law.drawn.normals.shape[1] and information < contraction * (1 - 1e-9):
            reason = (
                f"the law has no density: a step draws one of its outcomes, {information:.4g} nats, and shrinks volumes by more, "
                f"{contraction:.4g} nats on average"
            )
            return CellKl(np.inf, 0.0, sizes, _temperature, reason)
        if not np.isfinite(values[0]):
            return CellKl(np.inf, 0.0, sizes, _temperature, "the law has mass where the density is zero")
        if self.coarse is None:
            return CellKl(values[0], np.inf, sizes, _temperature)
        other = self.coarse._by_level(self.coarse._log_masses(density))[0]
        rises = -np.diff(values)
        if len(rises) > 2 and rises[0] > _NOTICED:
            ratio = float((rises[0] + rises[1]) / (rises[1] + rises[2]))
            if ratio > _SMOOTH:  # no smooth density: what is still to come is summed as a geometric series
                left = rises[0] * ratio / (1 - ratio) if ratio < _GROWS else np.inf
                reason = f"the law is rough: halving the cells adds {rises[0]:.2g} nats, {ratio:.2f} of what the last halving did"
                return CellKl(float(values[0] + (left if left < np.inf else 0.0)), float(left), sizes, _temperature, reason)
        return CellKl(*self._combined(values[0], other), sizes, _temperature)

    def _contraction(self) -> float:
        """−E log |det| of a step's Jacobian, over the law and the outcomes, in nats."""
        at, mass = self, self.mass
        while mass.size > 1 << 9 and not any(n % 2 for n in mass.shape):
            mass = _joined(mass, np.sum)
        centres = Grid(at.grid.lo, at.grid.hi, mass.shape).points
        kept = mass.ravel() > 1e-9
        return -float(mass.ravel()[kept] @ self.law.log_jacobians(centres[kept])) / float(mass.ravel()[kept].sum())

    def _combined(self, fine: float, coarse: float) -> tuple[float, float]:
        gap = (fine - coarse) / 3
        value, error = (fine, fine - coarse) if self.smooth else (fine + gap, gap)
        return float(value), float(abs(error) + self.beyond)

    def _reverse(self, density: Any, log_q: np.ndarray, temperature: float | None) -> CellKl:
        def value(o: TransferOperator, log_q: np.ndarray) -> float:
            q, p = np.exp(log_q), o.mass.ravel()
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = np.where(q > 0, q * (log_q - np.log(p)), 0.0)
            # cells that both laws all but leave out decide nothing
            return float(terms[(p > 1e-280) | (q > 1e-9)].sum())

        missing = 1 - float(np.exp(log_q).sum())
        first = value(self, log_q)
        sizes = ((float(self.grid.size.max()), first),)
        bounded = self._bounded()
        if not np.isfinite(first) or (bounded and missing > 1e-9):
            where = (
                f"the density has mass {max(missing, 0.0):.3g} outside the law's bounded support"
                if bounded
                else "the law leaves out cells"
            )
            return CellKl(np.inf, 0.0, sizes, temperature, f"{where}, so that KL(density‖law) is infinite")
        if self.coarse is None:
            return CellKl(first, np.inf, sizes, temperature)
        other = value(self.coarse, self.coarse._log_masses(density))
        return CellKl(*self._combined(first, other), sizes, temperature)

    def _bounded(self) -> bool:
        return not self.law.drawn.normals.shape[1]

    def _by_level(self, log_q: np.ndarray) -> list[float]:
        """KL of the masses on this grid and, as far as it can be halved, on coarser ones."""
        p, log_q, values = self.mass, log_q.reshape(self.grid.shape), []
        for level in range(_LEVELS):
            with np.errstate(divide="ignore", invalid="ignore"):
                values.append(float(np.where(p > 0, p * (np.log(p) - log_q), 0.0).sum()))
            if level + 1 == _LEVELS or self.smooth or any(n % 2 or n < 16 for n in p.shape):
                break
            p, log_q = _joined(p, np.sum), _joined(log_q, logsumexp)
        return values

    def _log_masses(self, density: Any) -> np.ndarray:
        """log of the density's mass in each cell; for a smooth law, of the density at the centres times the volume."""
        if self.smooth:
            return np.asarray(density.log_density(self.points), np.float64).reshape(-1) + np.log(self.grid.volume)
        nodes, weights = np.polynomial.legendre.leggauss(_GAUSS)
        corners = (
            np.stack(np.meshgrid(*[nodes / 2] * self.dim, indexing="ij"), axis=-1).reshape(-1, self.dim)
            * self.grid.size
        )
        each = np.log(
            np.prod(np.stack(np.meshgrid(*[weights / 2] * self.dim, indexing="ij"), axis=-1), axis=-1)
        ).ravel()
        points = (self.points[:, None] + corners).reshape(-1, self.dim)
        values = np.asarray(density.log_density(points), np.float64).reshape(len(self.points), -1)
        return logsumexp(values + each, axis=1) + np.log(self.grid.volume)

    def _best_temperature(self, problem: Any, direction: str) -> float:
        wide = float64.widen(problem)
        loss = lambda x: float64.evaluate_many(float64.loss, wide, x, cost=wide.dim * max(1, min(wide.examples, 4096)))
        best = temperature_of_loss(problem, float(self.expectation(loss)))
        if direction == "forward":
            return best
        import scipy.optimize

        def at(log_t: float) -> float:
            log_q = self._log_masses(gibbs(problem, float(np.exp(log_t))))
            p = self.mass.ravel()
            kept = p > 1e-280
            return float((np.exp(log_q) * log_q)[kept].sum() - (np.exp(log_q)[kept] * np.log(p[kept])).sum())

        found = scipy.optimize.minimize_scalar(at, bracket=(np.log(best), np.log(best) + 0.1), tol=1e-9)
        return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]

    def _average(self, f: Callable[[np.ndarray], np.ndarray]) -> float:
        """E f, with each cell's mass spread evenly over it (at its centre for the Gaussian rule)."""
        if self.smooth:
            return float(self.mass.ravel() @ np.asarray(f(self.points), np.float64))
        nodes, weights = np.polynomial.legendre.leggauss(3)
        total = 0.0
        for offset in np.ndindex(*(3,) * self.dim):
            i = list(offset)
            values = np.asarray(f(self.points + nodes[i] * self.grid.size / 2), np.float64)
            total += float(np.prod(weights[i] / 2)) * float(self.mass.ravel() @ values)
        return total

    def _covariance(self) -> np.ndarray:
        p, shift = self.mass.ravel(), self.points - self.mass.ravel() @ self.points
        inner = np.zeros((self.dim, self.dim)) if self.smooth else np.diag(self.grid.size**2 / 12)
        return (shift.T * p) @ shift + inner

    def _extrapolated(self, of: Callable[[TransferOperator], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        fine = of(self)
        if self.coarse is None:
            return fine, np.full(np.shape(fine), np.inf)
        gap = fine - of(self.coarse)
        if self.smooth or self.coarse.coarse is None:
            return (fine, gap) if self.smooth else (fine + gap / 3, gap / 3)
        # Where the law is rough, numbers of several grids scatter and do not fall at second order: all of the scatter is the error.
        further = fine - of(self.coarse.coarse)
        with np.errstate(divide="ignore", invalid="ignore"):
            ordered = np.abs(further / gap - 5) < _ORDERED
        return fine + gap / 3, np.where(ordered, np.abs(gap) / 3, np.abs(gap) + np.abs(further))


def _joined(a: np.ndarray, over: Any) -> np.ndarray:
    """Neighbouring cells put together, two along each axis."""
    split = [m for n in a.shape for m in (n // 2, 2)]
    return over(a.reshape(split), axis=tuple(range(1, 2 * a.ndim, 2)))


def transfer_operator(chain: Any, box: Any = None, cells: int | None = None) -> TransferOperator:
    """The transfer operator of a chain in one or two dimensions, and from it the exact stationary law, up to a stated error.

    `chain` comes from `sgd` (a sum over examples or minibatches, over the values of two_point and three_point noise, the
    exact Gaussian kernel of "gaussian") or from `integrate`. `box` is (lo, hi), `cells` their even number along its longest side;
    by default the box holds the law, and is its support's hull where that is bounded, and the cells resolve a step.

    Raises `ValueError` for more dimensions, a chain whose position alone is not Markov (momentum, epochs), more outcomes a step
    than can be summed over, or no stationary law.
    """
    law = step_law(chain)
    if law.dim not in CELLS:
        raise ValueError(f"a transfer operator is for one or two dimensions, and the chain has {law.dim}: simulate it")
    lo, hi = found_box(law) if box is None else given_box(box, law.dim)
    count = count_of(law, lo, hi) if cells is None else even(cells)
    fine = _on(law, grid_of(lo, hi, count))
    # smooth rules need no more than a look at another grid; the others are extrapolated from cells twice as long
    coarse = _on(law, grid_of(lo, hi, 2 * round(0.42 * count) if fine.smooth else count // 2))
    if fine.smooth != coarse.smooth:
        coarse = None
    elif not fine.smooth:
        coarse = replace(coarse, coarse=_on(law, grid_of(lo, hi, count // 4), smooth=False))
    return TransferOperator(
        law, fine.grid, fine.matrix, fine.mass, fine.smooth, fine.method, coarse, _beyond(coarse or fine)
    )


def _on(law: StepLaw, grid: Grid, *, smooth: bool = True) -> TransferOperator:
    matrix, smooth = transport(law, grid, smooth=smooth)
    mass = stationary(matrix, law.dim)
    if smooth and not law.gaussian and mass.min() < -_NEGATIVE * mass.max():
        matrix, smooth = transport(law, grid, smooth=False)  # not as smooth as it looked
        mass = stationary(matrix, law.dim)
    how = (
        "the exact Gaussian kernel"
        if smooth and law.gaussian
        else law.method + (", cubics" if smooth else ", Ulam's method")
    )
    mass = np.maximum(mass, 0.0)
    return TransferOperator(law, grid, matrix, (mass / mass.sum()).reshape(grid.shape), smooth, how)


def _beyond(of: TransferOperator) -> float:
    """The second moment beyond the box, relative to that within: nothing where no step leaves it."""
    leaving = 1 - np.asarray(transport(of.law, of.grid, closed=(False, False), smooth=of.smooth)[0].sum(axis=1)).ravel()
    if float(np.abs(leaving) @ of.mass.ravel()) < _LEAK:
        return 0.0
    total, centre = 0.0, of.mass.ravel() @ of.points
    for a, (x, h) in enumerate(zip(of.grid.axes, of.grid.size, strict=True)):
        share = of.mass.sum(axis=tuple(b for b in range(of.dim) if b != a))
        for side in (x < centre[a], x > centre[a]):
            far, p = np.abs(x[side] - centre[a]), share[side] / h
            reach = far.max()
            ends = [float(p[np.abs(far - r * reach) <= 3 * h].mean()) for r in (1.0, 0.75)]
            if ends[0] > 0:
                power = np.log(max(ends[1], ends[0]) / ends[0]) / np.log(1 / 0.75)
                total += ends[0] * reach**3 / max(power - 3, 0.1)
    return _SURE * float(total) / max(float(np.trace(of._covariance())), 1e-300)
