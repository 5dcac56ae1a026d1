"""The Gibbs law p(Φ) = exp(−L(Φ)/T)/Z of a problem: its normalisation, moments, density and marginals.

- d ≤ 3: quadrature. The box starts around every minimum that counts, in axes along the Hessian's eigenvectors and in units of
  √(T/λ), grows face by face until the density on it is negligible, and the trapezoidal rule (which converges exponentially
  for a smooth integrand that has died at the ends) is refined until Z and the moments settle. Heavy tails are integrated in
  y = sinh t.
- otherwise Laplace: N(Φ*, T H⁻¹), Z = e^(−L*/T) √det(2πT H⁻¹), exact when the loss is quadratic (then used for any d).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...problems.problem import FiniteSum, Potential
from .. import checks, float64
from ..linearise import is_affine
from ..minimum import FLAT, minimum
from .confine import DEEP, Tails, tail_power, tails, wells
from .integrals import Integral, integrate

_REACH = 9.5  # widths to where a Gaussian is e^−45 of its height
_NODES = 1 << 21  # of the cells of a histogram, at the most


@dataclass(frozen=True)
class Gibbs:
    """A Gibbs law. `method` is "quadrature" or "laplace"; `exact` says that nothing but rounding and the quadrature's own
    error `log_z_error` stands between these numbers and the law (Laplace of a loss that is not quadratic is not).

    Moments that do not exist (heavy tails) are infinite; where one exists but cannot be integrated it is NaN.
    """

    problem: Any
    temperature: float
    method: str
    exact: bool
    log_z: float
    log_z_error: float
    mean: np.ndarray
    covariance: np.ndarray
    mean_loss: float
    _wide: Any = field(repr=False)
    _integral: Integral | None = field(repr=False, default=None)

    @property
    def dim(self) -> int:
        return len(self.mean)

    def log_density(self, phi: Any) -> np.ndarray:
        """log p at positions [... d]: −L/T − log Z, in nats. For d = 1 a plain array of positions will do too."""
        points = np.asarray(phi, np.float64)
        if self.dim == 1 and (points.ndim == 0 or points.shape[-1] != 1):
            points = points[..., None]
        if points.ndim == 0 or points.shape[-1] != self.dim:
            raise ValueError(f"phi has shape {np.shape(phi)}: give positions [..., {self.dim}]")
        flat = points.reshape(-1, self.dim)
        if not len(flat):
            return np.zeros(points.shape[:-1])
        return (-_losses(self._wide, flat) / self.temperature - self.log_z).reshape(points.shape[:-1])

    def marginal(self, component: int, grid: Any) -> np.ndarray:
        """The density of one component at the values in `grid` ["k"]."""
        return self.marginal_density((component,), np.asarray(grid, np.float64).reshape(-1, 1))

    def marginal_density(self, components: tuple[int, ...], points: Any) -> np.ndarray:
        """The joint density of some components at `points` ["k len(components)"]."""
        points = np.asarray(points, np.float64)
        if len(set(components)) != len(components) or not all(0 <= c < self.dim for c in components) or not components:
            raise ValueError(f"components must be distinct numbers in 0…{self.dim - 1}, got {components}")
        if points.ndim != 2 or points.shape[1] != len(components):
            raise ValueError(f"points has shape {points.shape}: give [k, {len(components)}]")
        if self._integral is None:
            pick = list(components)
            shift = points - self.mean[pick]
            cov = self.covariance[np.ix_(pick, pick)]
            exponent = np.einsum("ki,ki->k", shift @ np.linalg.inv(cov), shift)
            return np.exp(-exponent / 2) / np.sqrt(np.linalg.det(2 * np.pi * cov))
        others = [c for c in range(self.dim) if c not in components]
        if not others:
            order = np.argsort(components)
            return np.exp(self.log_density(points[:, order]))
        nodes, log_weights = self._integral.slice_nodes(others)
        density = np.empty(len(points))
        for k, point in enumerate(points):
            full = np.empty((len(nodes), self.dim))
            full[:, others] = nodes
            full[:, list(components)] = point
            density[k] = np.exp(self.log_density(full) + log_weights).sum()
        return density

    def masses(self, edges: tuple[Any, ...], components: tuple[int, ...] | None = None) -> np.ndarray:
        """The probability of each cell of a histogram with these edges (one 1-d increasing array a component)."""
        components = tuple(range(self.dim)) if components is None else tuple(components)
        sides = [np.asarray(e, np.float64) for e in edges]
        if len(sides) != len(components):
            raise ValueError(f"edges has {len(sides)} axes for {len(components)} components: give one array for each")
        if any(e.ndim != 1 or e.size < 2 or not (np.diff(e) > 0).all() for e in sides):
            raise ValueError("edges must be increasing 1-d arrays of at least two numbers")
        nodes, weights = np.polynomial.legendre.leggauss(4)
        stretches, spacing = self._stretches(list(components)), 1.0
        # Cells wider than the density's own width are cut where there is density, and their parts added up again.
        while True:
            cut = [_cut(e, [(s.low[c], s.high[c], s.middle[c], spacing * s.width[c], s.heavy) for s in stretches])
                   for c, e in enumerate(sides)]  # fmt: skip
            excess = np.prod([nodes.size * (e.size - 1) for e in cut], dtype=float) / _NODES
            if excess <= 1 or all(c.size == e.size for c, e in zip(cut, sides, strict=True)):
                break
            spacing *= max(1.1, excess ** (1 / len(sides)))
        axes = [((e[:-1] + e[1:])[:, None] / 2 + np.diff(e)[:, None] / 2 * nodes).ravel() for e in cut]
        each = [(np.diff(e)[:, None] / 2 * weights).ravel() for e in cut]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(sides))
        total = self.marginal_density(components, points).reshape([a.size for a in axes])
        for axis, (w, small, e) in enumerate(zip(each, cut, sides, strict=True)):
            total = total * np.expand_dims(w, tuple(i for i in range(len(sides)) if i != axis))
            total = np.add.reduceat(total, nodes.size * np.searchsorted(small, e[:-1]), axis=axis)
        return total

    def _stretches(self, pick: list[int]) -> list[_Stretch]:
        """Where the law of some components has density, and its widths there with the others of them held."""

        def held(covariance: np.ndarray) -> np.ndarray:
            return np.diag(np.linalg.inv(covariance[np.ix_(pick, pick)])) ** -0.5

        if self._integral is None:
            reach, mean = _REACH * np.sqrt(np.diag(self.covariance))[pick], self.mean[pick]
            return [_Stretch(mean - reach, mean + reach, mean, held(self.covariance), False)]
        out = []
        for box, bounds, _ in self._integral.boxes:
            shape = box.axes @ box.axes.T
            low, high = bounds[0][pick], bounds[1][pick]
            # a well of its own may be narrower than the lowest, by whose widths all are measured
            narrow = np.minimum(1.0, (high - low) / (2 * _REACH * np.sqrt(np.diag(shape))[pick]))
            out.append(_Stretch(low, high, box.centre[pick], narrow * held(shape), box.heavy))
        return out


class _Stretch(NamedTuple):
    """low … high of each component, where its density is widest spread from, a width, and whether its tails are powers."""

    low: np.ndarray
    high: np.ndarray
    middle: np.ndarray
    width: np.ndarray
    heavy: bool


def _cut(edges: np.ndarray, stretches: list[tuple[float, float, float, float, bool]]) -> np.ndarray:
    """The edges, with as many between them as leave no cell wider than the width of a stretch (low, high, middle, width, heavy)
    that it meets; on a heavy one widths grow with the distance from its middle."""
    found = [edges]
    for low, high, middle, width, heavy in stretches:
        for left, right in itertools.pairwise(edges):
            a, b = max(left, low), min(right, high)
            if right - left <= width or a >= b:
                continue
            if heavy:
                t, u = np.arcsinh((np.array([a, b]) - middle) / width)
                inner = middle + width * np.sinh(np.linspace(t, u, int(np.ceil(2 * (u - t))) + 1))
            else:
                inner = np.linspace(a, b, int(np.ceil((b - a) / width)) + 1)
            found.append(inner[(inner > left) & (inner < right)])
    return np.unique(np.concatenate(found))


def gibbs(problem: Any, temperature: Any) -> Gibbs:
    """The Gibbs law exp(−L/T)/Z at `temperature` (kT, in the units of the loss).

    Raises `ValueError` beginning with "no Gibbs law:" where Z is infinite: a loss that falls for ever, is flat or periodic in
    some direction, or rises more slowly than T·d·log r; for d > 3 also where the minimum is not isolated.
    """
    checks.problem(problem)
    temperature = checks.positive(temperature, "temperature")
    return family(problem)(temperature)


def family(problem: Any) -> Callable[[float], Gibbs]:
    """T ↦ the Gibbs law at T, with the search for minima and the look at the tails done once."""
    # Our own problems never change, so the last few are remembered: a fit of T asks for dozens of laws of one problem.
    return _remembered(problem) if isinstance(problem, FiniteSum | Potential) else _family(problem)


def _family(problem: Any) -> Callable[[float], Gibbs]:
    wide = float64.widen(problem)
    quadratic = is_affine(lambda phi: float64.evaluate(float64.grad, wide, phi), np.asarray(wide.start))
    if quadratic or problem.dim > 3:
        return lambda temperature: _laplace(problem, wide, temperature, quadratic)
    minima, losses = wells(wide)
    seen: dict[float, Tails] = {}
    return lambda temperature: _quadrature(
        problem, wide, temperature, minima[losses - losses[0] <= DEEP * temperature], seen
    )


_remembered = functools.lru_cache(maxsize=4)(_family)


def _laplace(problem: Any, wide: Any, temperature: float, quadratic: bool) -> Gibbs:
    if quadratic:
        values, vectors = np.linalg.eigh(float64.evaluate(float64.hessian, wide, np.asarray(wide.start)))
        if values[0] <= FLAT * np.abs(values).max():
            how = "falls" if values[0] < -FLAT * np.abs(values).max() else "does not rise"
            ray = np.array2string(vectors[:, 0], precision=3, threshold=6)
            raise ValueError(
                f"no Gibbs law: exp(−L/T) has no finite integral, the loss {how} along {ray}; add a regulariser"
            )
    try:
        centre = minimum(problem)
    except ValueError as error:
        raise ValueError(f"no Gibbs law: {error}") from error
    h = float64.evaluate(float64.hessian, wide, centre)
    values, vectors = np.linalg.eigh((h + h.T) / 2)
    if not quadratic:
        tail_power(tails(wide, centre, 1 + np.abs(centre).max(), vectors.T), temperature)
    lowest = float(float64.evaluate(float64.loss, wide, centre))
    log_z = -lowest / temperature + 0.5 * float(np.sum(np.log(2 * np.pi * temperature / values)))
    covariance = temperature * (vectors / values) @ vectors.T
    mean_loss = lowest + problem.dim * temperature / 2
    return Gibbs(problem, temperature, "laplace", quadratic, log_z, 0.0, centre, covariance, mean_loss, wide)


def _quadrature(problem: Any, wide: Any, temperature: float, minima: np.ndarray, seen: dict[float, Tails]) -> Gibbs:
    """`seen` holds what is known of the tails, by the size of the region of the minima."""
    centre, d = minima[0], problem.dim
    lowest = float(float64.evaluate(float64.loss, wide, centre))
    size = 1 + float(np.abs(minima).max())
    h = float64.evaluate(float64.hessian, wide, centre)
    values, vectors = np.linalg.eigh((h + h.T) / 2) if np.isfinite(h).all() else (np.zeros(d), np.eye(d))
    if size not in seen:
        seen[size] = tails(wide, centre, size, vectors.T)
    power = tail_power(seen[size], temperature)
    # Lengths of the axes: thermal widths, and for a direction that is flat at the minimum no more than the loss's own size.
    solid = values > 1e-4 * max(np.abs(values).max(), 1e-300)
    widths = np.full(d, size)
    widths[solid] = np.sqrt(temperature / values[solid])
    widths[~solid] = np.maximum(size, widths[solid].max(initial=0.0))

    def energy(points: np.ndarray) -> np.ndarray:
        u = (_losses(wide, points) - lowest) / temperature
        return np.where(np.isnan(u), np.inf, u)

    # A moment just short of infinite exists, but its integrand falls too slowly to be summed.
    moments = sum(power > d + order + 0.2 for order in (1, 2))
    budget = (1 << 24) // max(1, problem.examples // 16)
    # A loss that grows like a power shows p of many thousands here; only logarithms give a small one.
    found = integrate(energy, minima, vectors * widths, moments, heavy=power < 200, deep=DEEP, budget=budget)
    missing = [np.nan if power > d + order + 0.02 else np.inf for order in (1, 2)]
    mean = found.mean if moments > 0 else np.full(d, missing[0])
    covariance = found.covariance if moments > 1 else np.full((d, d), missing[1])
    mean_loss = lowest + temperature * found.mean_energy
    log_z = found.log_z - lowest / temperature
    return Gibbs(problem, temperature, "quadrature", True, log_z, found.error, mean, covariance, mean_loss, wide, found)


def _losses(wide: Any, points: np.ndarray) -> np.ndarray:
    return float64.evaluate_many(float64.loss, wide, points, cost=wide.dim * max(1, min(wide.examples, 4096)))
