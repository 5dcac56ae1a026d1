"""Escape: how long until a process first enters a region, with the variance and the whole distribution of that time.

| process | how |
|---|---|
| an SDE in one dimension | quadrature (`line`), to rounding |
| an SDE in two or three | the generator on a grid without the region (`grid`), second order, extrapolated, with its error |
| a chain in one or two (SGD itself) | its transfer operator without the region (`chain`) |
| any of these at low temperature | `eyring_kramers`, the leading order |

The distribution comes from the resolvent, S(t) = (1/2πi) ∫ e^(zt) ((z − L)⁻¹ 1)(start) dz along a hyperbola around the spectrum.

Source of the contour: Weideman and Trefethen (2007), Math. Comp. 76, 1341.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize
from scipy.special import zeta

from ...stepping.chains import DiffusionChain, OptimizerChain
from .. import checks, float64
from ..linearise import autonomous, covariance
from ..minimum import minimum
from .chain import chain_passage
from .grid import Region, grid_passage
from .line import passage
from .saddle import polished, saddle_between

# −ζ(1/2)/√(2π) = .5826: by how many standard deviations of a step a Gaussian random walk overshoots a level, on average.
# Siegmund (1979), Adv. Appl. Probab. 11, 701; Broadie, Glasserman and Kou (1997), Math. Finance 7, 325.
OVERSHOOT = float(-zeta(0.5) / np.sqrt(2 * np.pi))
_NODES = 20
_WINDOW = 4.0  # the latest time that one contour serves, over the earliest


@dataclass(frozen=True)
class PassageTime:
    """The time of first passage: `mean` and `variance`, their numerical errors, and how they were found.

    `upper` is the odds of leaving by the upper of two ends (None where there is but one target).
    """

    mean: float
    variance: float
    error: float
    variance_error: float
    method: str
    upper: float | None = None
    _resolvent: Callable[[complex], complex] | None = field(repr=False, default=None)
    _law: Callable[[np.ndarray], np.ndarray] | None = field(repr=False, default=None)

    @property
    def std(self) -> float:
        return float(np.sqrt(self.variance))

    def survival(self, t: Any) -> np.ndarray:
        """P(the passage is later than t), t of any shape. For a chain t is taken down to a whole number of steps."""
        t = np.asarray(t, np.float64)
        if not (t >= 0).all():
            raise ValueError(f"times must be numbers of at least 0, got {t[~(t >= 0)].ravel()[0]}")
        if self._law is not None:
            return self._law(t.ravel()).reshape(t.shape)
        value = _inverted(self._resolvent, t.ravel(), lambda z, f: f)
        return np.where(t == 0, 1.0, np.clip(value.reshape(t.shape), 0.0, 1.0))

    def density(self, t: Any) -> np.ndarray:
        """The density of the time at t > 0. `ValueError` for a chain, whose time is a whole number of steps."""
        if self._law is not None:
            raise ValueError(
                "the passage time of a chain is a whole number of steps and has no density: take differences of survival"
            )
        t = np.asarray(t, np.float64)
        if not (t > 0).all():
            raise ValueError("times must be positive: a density at t = 0 is not defined")
        return np.maximum(-_inverted(self._resolvent, t.ravel(), lambda z, f: z * f).reshape(t.shape), 0.0)


def mean_first_passage(
    x: Any,
    start: Any,
    target: Any,
    *,
    watched: Any = None,
    box: Any = None,
    cells: int | None = None,
    walls: str = "reflecting",
) -> PassageTime:
    """The time until x, from `start`, first enters `target`: L T = −1 outside and T = 0 on the target's boundary.

    x is an SDE in one to three dimensions or, in one or two, an `OptimizerChain` or `DiffusionChain`, whose time (in units of its
    clock, Σ η) is that of its own steps: (I − P) T = dt. `target` is, on the line, a number to be passed or two numbers around the
    start; anywhere, a function of the position ["d"] that gives a bool, or a number that is positive inside.

    `watched`, of an SDE seen only at multiples of that time: the answer for such a watch, to the first order in its square root.
    A path that is seen inside has overshot the boundary, so the boundary counts as moved away by
    .5826·√(watched · nᵀ scale²Σ n), n its normal. (Steps of Euler–Maruyama leave an error of the first order in the step.)

    `box` (lo, hi) ["d"] and `cells` along its longest side are for the grid; by default the box holds all but 1e-9 of the time
    spent. `walls` are "reflecting", or "periodic" or "absorbing" (part of the target), and need a box.

    Sources: Gardiner, Handbook of Stochastic Methods, §5.2.7; Broadie, Glasserman and Kou (1997).
    Raises `ValueError` for a start inside the target, a target that does not enclose it, an infinite mean, noise that vanishes
    or a drift that depends on time.
    """
    if isinstance(x, DiffusionChain | OptimizerChain):
        if watched is not None or walls != "reflecting":
            raise ValueError(
                "watched and walls belong to an SDE: a chain is seen at its own steps, and its grid has no walls"
            )
        place = checks.vector(np.atleast_1d(start), x.dim, "start")
        ends = _ends(target, place)
        found = chain_passage(x, place, ends, _region(target), box, cells)
        errors = found.error, found.variance_error
        return PassageTime(found.mean, found.variance, *errors, found.method, None, None, found.survival)
    checks.sde(x)
    place = checks.vector(np.atleast_1d(start), x.dim, "start")
    checks.one_of(walls, ("reflecting", "periodic", "absorbing"), "walls")
    wide = float64.widen(x)
    autonomous(wide)
    gap = 0.0 if watched is None else OVERSHOOT * float(np.sqrt(checks.positive(watched, "watched")))
    ends = _ends(target, place)
    if ends is not None:
        if box is not None or walls != "reflecting":
            raise ValueError(
                "box and walls are for a target that is a function: numbers on the line are integrated to infinity"
            )
        if x.dim != 1:
            raise ValueError(
                f"target is a number, which is for one dimension, and the SDE has {x.dim}: give a function of the position"
            )
        lo, hi = (e if e is None else e + s * gap * _strength(wide, e) for e, s in zip(ends, (-1, 1), strict=True))
        found = passage(wide, float(place[0]), lo, hi)
        odds = found.odds if lo is not None and hi is not None else None
        relative = found.error + 1e-14
        return PassageTime(
            found.mean,
            found.variance,
            relative * found.mean,
            relative * found.variance,
            "quadrature",
            odds,
            found.resolvent,
        )
    if x.dim > 3:
        raise ValueError(
            f"passage times are solved for in one to three dimensions, and the SDE has {x.dim}: simulate js.FirstPassage"
        )
    found = grid_passage(wide, place, Region(target, gap), box, cells, walls)
    return PassageTime(
        found.mean,
        found.variance,
        found.error,
        found.variance_error,
        f"generator on {found.cells} cells",
        None,
        found.resolvent,
    )


def _region(target: Any) -> Region | None:
    return Region(target, 0.0) if callable(target) else None


def _ends(target: Any, place: np.ndarray) -> tuple[float | None, float | None] | None:
    """(lo, hi) of a target of numbers, None on the side that has none; None for a function."""
    if callable(target):
        return None
    try:
        ends = np.atleast_1d(np.asarray(target, np.float64))
    except (TypeError, ValueError):
        ends = np.empty(0)
    if ends.shape not in ((1,), (2,)) or not np.isfinite(ends).all():
        raise ValueError(
            f"target must be a number, two numbers around the start, or a function of the position; got {target!r}"
        )
    start = float(place[0])
    if len(place) != 1:
        raise ValueError(f"target is a number, and there are {len(place)} dimensions: give a function of the position")
    if len(ends) == 2:
        lo, hi = sorted(float(e) for e in ends)
        if not lo < start < hi:
            raise ValueError(
                f"the start {start:.6g} does not lie between the two ends {lo:.6g} and {hi:.6g}: give the nearer end alone"
            )
        return lo, hi
    if ends[0] == start:
        raise ValueError(f"the start {start:.6g} is the target: its passage time is 0")
    return (None, float(ends[0])) if ends[0] > start else (float(ends[0]), None)


def _strength(wide: Any, x: float) -> float:
    """scale · Σ^½ at a place on the line."""
    return float(np.asarray(wide.scale)) * float(np.sqrt(float64.evaluate(covariance, wide, np.array([x]))[0, 0]))


@functools.cache
def _hyperbola() -> tuple[float, np.ndarray, np.ndarray]:
    """t₁ times z and h z′/π at the nodes of the upper half of the contour, for times from t₁/`_WINDOW` to t₁."""

    def shape(alpha: float) -> float:
        return float(
            np.arccosh(((np.pi - 2 * alpha) * _WINDOW + 4 * alpha - np.pi) / ((4 * alpha - np.pi) * np.sin(alpha)))
        )

    rate = lambda alpha: -(np.pi**2 - 2 * np.pi * alpha) / shape(alpha)
    alpha = float(scipy.optimize.minimize_scalar(rate, bounds=(np.pi / 4 + 1e-3, np.pi / 2 - 1e-3), method="bounded").x)  # pyright: ignore
    h = shape(alpha) / _NODES
    mu = (4 * np.pi * alpha - np.pi**2) / shape(alpha) * _NODES
    u = 1j * h * (np.arange(_NODES) + 0.5) - alpha
    return mu, mu * (1 + np.sin(u)), 1j * mu * np.cos(u) * h / np.pi


def _inverted(resolvent: Any, t: np.ndarray, transform: Callable[[complex, complex], complex]) -> np.ndarray:
    """The function of t whose Laplace transform is transform(z, resolvent(z))."""
    out, waiting = np.zeros(len(t)), t > 0
    _, nodes, weights = _hyperbola()
    while waiting.any():
        last = t[waiting].max()
        now = waiting & (t >= last / _WINDOW)
        z = nodes / last
        values = np.array([transform(complex(p), resolvent(complex(p))) for p in z])
        out[now] = (np.exp(t[now, None] * z) @ (weights / last * values)).imag
        waiting &= ~now
    return out


@dataclass(frozen=True)
class Escape:
    """A rate over a saddle: the mean `time` to cross it, `prefactor` · e^(barrier/T); the `minimum` and the `saddle` ["d"]."""

    time: float
    prefactor: float
    barrier: float
    minimum: np.ndarray
    saddle: np.ndarray


def eyring_kramers(problem: Any, temperature: Any, start: Any, end: Any = None, *, saddle: Any = None) -> Escape:
    """The Eyring–Kramers law: Langevin's mean time from the minimum near `start` over the saddle to `end`, to leading order in T.

        time = (2π/|λ|) √(|det H_s| / det H_m) e^(ΔL/T),      λ the negative eigenvalue of H_s, ΔL = L(saddle) − L(minimum)

    On the line it is Kramers' 2π/√(L″(m) |L″(s)|) e^(ΔL/T). For SGD's SDE with Σ = s²I the temperature is ηs²/2B; with another Σ it
    says nothing. The saddle is the highest point of the path of least ascent between the minima, or polished from `saddle`.

    Sources: Kramers (1940), Physica 7, 284; Hänggi, Talkner and Borkovec (1990), Rev. Mod. Phys. 62, 251; Bovier, Eckhoff, Gayrard
    and Klein (2004). Raises `ValueError` where there is no minimum, or no saddle with one direction down.
    """
    checks.problem(problem)
    temperature = checks.positive(temperature, "temperature")
    if (end is None) == (saddle is None):
        raise ValueError("give the end of the way, or the saddle itself: end=… or saddle=…")
    wide = float64.widen(problem)
    low = minimum(problem, np.atleast_1d(start))
    if saddle is None:
        top = saddle_between(wide, low, minimum(problem, np.atleast_1d(end)))
    else:
        top = polished(wide, checks.vector(np.atleast_1d(saddle), problem.dim, "saddle"))
    h_low, h_top = (np.linalg.eigvalsh(float64.evaluate(float64.hessian, wide, p)) for p in (low, top))
    barrier = float(float64.evaluate(float64.loss, wide, top) - float64.evaluate(float64.loss, wide, low))
    # logarithms, so that a thousand dimensions do not overflow
    root = 0.5 * (np.log(np.abs(h_top)).sum() - np.log(h_low).sum())
    prefactor = float(2 * np.pi / abs(h_top[0]) * np.exp(root))
    with np.errstate(over="ignore"):
        return Escape(float(prefactor * np.exp(barrier / temperature)), prefactor, barrier, low, top)


def kramers(problem: Any, temperature: Any, start: Any, end: Any = None, *, saddle: Any = None) -> float:
    """The time of `eyring_kramers` alone."""
    return eyring_kramers(problem, temperature, start, end, saddle=saddle).time
