"""The stationary density of an SDE: by quadrature in one dimension, for any drift and noise; in closed form where there is one.

    p(x) ∝ (1/D(x)) exp ∫ f/D dx          D = scale² Σ(x)/2,  dX = f dt + scale · Σ^½ dW  (Itô)

solves the Fokker–Planck equation with no current, f p = (D p)′. The line is cut in panels, uniform in t with x = c + s·sinh t, each
with Gauss–Legendre nodes; ∫ f/D over a part of a panel is again a Gauss–Legendre sum. The range grows until the density (times
x² where the variance exists) is negligible, and the panels are halved until log Z settles.

Source: Gardiner, Handbook of Stochastic Methods, §5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks, float64
from ..linear import find_root, lyapunov
from ..linearise import autonomous, covariance, drift, of_sde, rest_point
from .gibbs import Gibbs, gibbs

if TYPE_CHECKING:
    from ..diffusion.fokker_planck import FokkerPlanck

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_DEEP = 40.0
_FARTHEST = 300.0  # sinh of it is still a float64, and so is its square
# The end of a law may be a barrier, with more behind it: once more, thirty times as far; so much of the mass may lie there.
_AGAIN, _BEHIND = 3.4, 1e-13
_CERTAIN = 1e-6  # of log Z


@dataclass(frozen=True)
class LineDensity:
    """A density on the line. `mean` ["1"] and `covariance` ["1 1"] are infinite where the tails are too heavy for them."""

    mean: np.ndarray
    covariance: np.ndarray
    _panels: _Panels = field(repr=False)

    @property
    def dim(self) -> int:
        return 1

    def log_density(self, x: Any) -> np.ndarray:
        """log p at positions of any shape (a last axis of length 1 is dropped), in nats; −∞ outside what was integrated."""
        x = np.asarray(x, np.float64)
        x = x[..., 0] if x.ndim and x.shape[-1] == 1 else x
        return self._panels.log_density(x.ravel()).reshape(x.shape)

    def expectation(self, f: Callable[[np.ndarray], np.ndarray]) -> float:
        """E f(X), `f` on a plain array of positions."""
        kept = self._panels.mass > 0
        return float(np.sum(self._panels.mass[kept] * np.asarray(f(self._panels.x[kept]))))

    def cdf(self, x: Any) -> np.ndarray:
        """P(X ≤ x)."""
        x = np.asarray(x, np.float64)
        return self._panels.cdf(x.ravel()).reshape(x.shape)

    def quantile(self, q: float) -> float:
        """x with P(X ≤ x) = q, 0 < q < 1."""
        if not 0 < q < 1:
            raise ValueError(f"q must lie strictly between 0 and 1, got {q}")
        edges, below = self._panels.edges, self._panels.below
        i = int(np.clip(np.searchsorted(below, q) - 1, 0, len(edges) - 2))
        low, high = float(edges[max(i - 1, 0)]), float(edges[min(i + 2, len(edges) - 1)])
        return find_root(lambda x: float(self.cdf(x)) - q, low, high, 1e-14 * (1 + abs(low) + abs(high)))


@dataclass(frozen=True)
class GaussianDensity:
    """N(mean, covariance)."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def dim(self) -> int:
        return len(self.mean)

    def log_density(self, x: Any) -> np.ndarray:
        """log p at positions [... d], in nats. `ValueError` for a singular covariance: it has no density."""
        sign, log_det = np.linalg.slogdet(2 * np.pi * self.covariance)
        if sign <= 0 or np.linalg.cond(self.covariance) > 1e14:
            raise ValueError("the stationary covariance is singular: the law has no density")
        shift = np.asarray(x, np.float64) - self.mean
        quadratic = np.einsum("...i,...i->...", shift @ np.linalg.inv(self.covariance), shift)
        return np.asarray(-0.5 * (quadratic + log_det))


def stationary_density(sde: Any) -> LineDensity | GaussianDensity | Gibbs | FokkerPlanck:
    """The stationary density of an SDE: an object with `log_density`, `mean`, `covariance` and `dim`.

    Exact for any drift and noise in one dimension (quadrature); for −∇L with constant isotropic noise, the Gibbs law at
    T = scale² σ²/2; and for a linear drift with constant noise, a Gaussian. Any other SDE in two or three dimensions is solved on
    grids (`fokker_planck`), with error bars.

    Raises `ValueError` for another SDE, one without noise, noise that vanishes somewhere, a drift that depends on time, or an SDE
    that does not settle.
    """
    checks.sde(sde)
    wide = float64.widen(sde)
    autonomous(wide)
    if sde.dim == 1:
        return _on_the_line(sde, wide)
    temperature = isotropic_temperature(sde)
    if temperature is not None:
        return gibbs(sde.problem, temperature)
    local = of_sde(sde)
    if not local.exact or local.feedback is not None:
        return _on_a_grid(sde)
    if not local.covariance.any():
        raise ValueError("the SDE has no noise: its stationary law is a point and has no density")
    return GaussianDensity(local.centre, lyapunov(local.drift, local.covariance))


def _on_a_grid(sde: Any) -> Any:
    from ..diffusion.fokker_planck import fokker_planck  # which measures distances to the densities of this file

    why = "no closed stationary density for this SDE (isotropic noise with −∇L and constant noise with a linear drift have one)"
    if sde.dim > 3:
        raise ValueError(f"{why}, and none on a grid in more than three dimensions; stationary_law gives mean and covariance")
    try:
        return fokker_planck(sde)
    except ValueError as error:
        raise ValueError(f"{why}, and on a grid: {error}") from error


def isotropic_temperature(sde: Any) -> float | None:
    """T of dX = −∇L dt + √(2T) dW, or None when the drift is not a gradient or the noise not constant and isotropic."""
    if getattr(sde, "problem", None) is None:
        return None
    wide = float64.widen(sde)
    rng = np.random.default_rng(4)
    start = np.asarray(float64.widen(sde.problem).start)
    first = None
    for scale in (0.0, 1.0, 10.0):
        sigma = float64.evaluate(covariance, wide, start + scale * (1 + np.abs(start).max()) * rng.normal(size=sde.dim))
        first = sigma[0, 0] if first is None else first
        if not first > 0 or np.abs(sigma - first * np.eye(sde.dim)).max() > 1e-12 * first:
            return None
    return float(np.asarray(wide.scale)) ** 2 * float(first) / 2 if first is not None else None


def _on_the_line(sde: Any, wide: Any) -> LineDensity:
    try:
        centre = float(rest_point(sde)[0])
    except ValueError:
        problem = getattr(sde, "problem", None)
        centre = 0.0 if problem is None else float(np.asarray(float64.widen(problem).start)[0])
    size = 1 + abs(centre)
    rates = _Rates(wide)
    step = 1e-4 * size
    slope = abs(float(np.diff(rates.drift(np.array([centre - step, centre + step])))[0])) / (2 * step)
    strength = float(rates.diffusion(np.array([centre]))[0])
    width = min(np.sqrt(strength / slope), size) if slope > 1e-9 * strength else size
    reach, vanishing = float(np.arcsinh(50 * size / width)), None
    while True:
        try:
            panels = _Panels.build(rates, centre, width, reach, 512)
        except _NoNoise as error:  # the law may end before the noise does, as that of a sign does
            reach, vanishing = 0.9 * float(np.arcsinh(np.abs(error.where - centre).min() / width)), error
            if reach < 1:
                raise
            continue
        moments, enough = panels.tails(reach)
        if enough and (vanishing is not None or not _Panels.build(rates, centre, width, reach + _AGAIN, 512).beyond(reach)):
            break
        if vanishing is not None:
            raise vanishing
        reach *= 1.4
        if reach > _FARTHEST:
            raise ValueError("no stationary density: its tails fall too slowly to be integrated")
    count, old = 512, panels
    while count < 1 << 15:
        count *= 2
        old, panels = panels, _Panels.build(rates, centre, width, reach, count)
        if abs(panels.log_z - old.log_z) < 1e-12 * (1 + abs(panels.log_z)):
            break
    else:
        change = abs(panels.log_z - old.log_z)
        if not change < _CERTAIN:
            raise ValueError(
                f"no stationary density was found: log Z is uncertain by {change:.2g} (the drift or the noise jumps, or changes on "
                "lengths that are small against the law)"
            )
    mean = float(panels.mass @ panels.x) if moments >= 1 else np.inf
    variance = float(panels.mass @ (panels.x - mean) ** 2) if moments >= 2 else np.inf
    return LineDensity(np.array([mean]), np.array([[variance]]), panels)


class _NoNoise(ValueError):
    """The noise vanishes at the points `where`."""

    def __init__(self, where: np.ndarray) -> None:
        super().__init__(f"no stationary density is known: the noise vanishes at x = {where[0]:.6g}")
        self.where = where


@dataclass(frozen=True)
class _Rates:
    """f(x) and D(x) of a widened 1-d SDE on arrays of positions."""

    wide: Any

    def drift(self, x: np.ndarray) -> np.ndarray:
        return float64.evaluate_many(drift, self.wide, x.reshape(-1, 1))[:, 0].reshape(x.shape)

    def diffusion(self, x: np.ndarray) -> np.ndarray:
        d = float64.evaluate_many(_diffusion, self.wide, x.reshape(-1, 1)).reshape(x.shape)
        if not (d > 0).all():
            raise _NoNoise(x[~(d > 0)])
        return d


def _diffusion(sde: Any, x: Any) -> Any:
    return sde.scale**2 / 2 * sde.noise.covariance(x)[0, 0]


@dataclass(frozen=True)
class _Panels:
    """log p on Gauss–Legendre panels: at their `edges` the potential `phi` = ∫ f/D and mass `below`; nodes `x`, their `mass`."""

    rates: _Rates
    edges: np.ndarray
    phi: np.ndarray
    below: np.ndarray
    x: np.ndarray
    mass: np.ndarray
    log_z: float

    @classmethod
    def build(cls, rates: _Rates, centre: float, width: float, reach: float, count: int) -> _Panels:
        edges = centre + width * np.sinh(np.linspace(-reach, reach, count + 1))
        half = np.diff(edges) / 2
        x = (edges[:-1] + half)[:, None] + half[:, None] * _NODES
        with np.errstate(over="ignore", invalid="ignore"):
            each = half * ((rates.drift(x) / rates.diffusion(x)) @ _WEIGHTS)
            # Summed outwards from the middle, so that a far panel that overflows spoils none nearer.
            middle = count // 2
            phi = np.r_[-np.cumsum(each[:middle][::-1])[::-1], 0.0, np.cumsum(each[middle:])]
            raw = cls(rates, edges, phi, np.zeros(count + 1), x.ravel(), np.zeros(x.size), 0.0)
            log_p = raw.log_density(x.ravel()).reshape(x.shape)
        log_mass = np.where(np.isnan(log_p), -np.inf, log_p) + np.log(half[:, None] * _WEIGHTS)
        top = log_mass.max()
        total = np.exp(log_mass - top).sum()
        log_z = float(top + np.log(total))
        mass = np.exp(log_mass - log_z)
        return cls(rates, edges, phi, np.r_[0.0, np.cumsum(mass.sum(axis=1))], x.ravel(), mass.ravel(), log_z)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        i = np.clip(np.searchsorted(self.edges, x) - 1, 0, len(self.edges) - 2)
        # From the nearer edge of the panel to the middle of the line, whose potential is finite if x's is.
        near = np.where(x >= self.edges[len(self.edges) // 2], i, i + 1)
        half = (x - self.edges[near]) / 2
        nodes = self.edges[near][:, None] + half[:, None] * (_NODES + 1)
        part = half * ((self.rates.drift(nodes) / self.rates.diffusion(nodes)) @ _WEIGHTS)
        inside = (x >= self.edges[0]) & (x <= self.edges[-1])
        return np.where(inside, self.phi[near] + part - np.log(self.rates.diffusion(x)) - self.log_z, -np.inf)

    def cdf(self, x: np.ndarray) -> np.ndarray:
        i = np.clip(np.searchsorted(self.edges, x) - 1, 0, len(self.edges) - 2)
        half = (np.clip(x, self.edges[0], self.edges[-1]) - self.edges[i]) / 2
        nodes = self.edges[i][:, None] + half[:, None] * (_NODES + 1)
        p = np.exp(self.log_density(nodes.ravel())).reshape(nodes.shape)
        return np.clip(self.below[i] + half * (p @ _WEIGHTS), 0.0, 1.0)

    def beyond(self, reach: float) -> bool:
        """Whether there is a mass further out than `reach`, behind a barrier."""
        away = np.abs(self.x - self.edges[len(self.edges) // 2])
        near = np.sinh(reach) / np.sinh(reach + _AGAIN) * np.ptp(self.edges) / 2
        return bool(self.mass[away > near].sum() > _BEHIND)

    def tails(self, reach: float) -> tuple[int, bool]:
        """How many of the first two moments exist, and whether the panels reach far enough for those."""
        middle = self.edges[len(self.edges) // 2]
        x = self.x.reshape(-1, len(_NODES))[:, len(_NODES) // 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            density = np.log(self.mass.reshape(-1, len(_NODES)).sum(axis=1))  # mass a panel: density in t
        far = np.log1p(np.abs(x - middle) / np.diff(self.edges)[len(x) // 2])
        per_t = len(x) / (2 * reach)
        slopes = []
        for end in (0, -1):
            inner = 8 if end == 0 else -9
            with np.errstate(invalid="ignore"):
                slope = (density[end] - density[inner]) * per_t / 8
            slopes.append(-np.inf if np.isnan(slope) or density[end] < -600 else slope)
        worst = max(slopes)
        if reach > 30 and worst > -0.05:
            raise ValueError("no stationary density: its integral does not converge (the SDE does not settle)")
        moments = sum(worst < -order - 0.05 for order in (1, 2)) if reach > 10 else 2
        value = density + moments * far
        top = np.nanmax(value)
        ends = [v if np.isfinite(v) else -np.inf for v in (value[0], value[-1])]
        return int(moments), bool(max(ends) - top < -_DEEP)
