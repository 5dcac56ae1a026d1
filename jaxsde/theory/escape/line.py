"""Times of first passage on the line, by quadrature, for any drift and noise.

With s = exp(−ψ), m = exp(ψ)/D, ψ = ∫ f/D (dX = f dt + scale · Σ^½ dW, D = scale² Σ/2), S = ∫ s, the time T and its variance V are

    T(x) = ∫ G(x, z) m(z) dz        V(x) = ∫ G(x, z) m(z) 2D(z) T′(z)² dz

G(x, z) = S(b) − S(max(x, z)) for passing b from below with nothing to stop the way back, and (S(x∧z) − S(a)) (S(b) − S(x∨z)) /
(S(b) − S(a)) for leaving (a, b). All terms are positive and kept as logarithms, so barriers of hundreds of kT cost no digit.

The distribution is that of a birth-death process on the edges of the panels, with exact S between them and m lumped by hats that
are linear in S: its mean times are those of the SDE to rounding, everything else to second order, extrapolated to fourth.

Sources: Gardiner, Handbook of Stochastic Methods, §5.2.7; Karlin and Taylor (1981), A Second Course in Stochastic Processes, §15.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy.special import logsumexp

from ..laws.density import _Rates

_COUNT = 16
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_COUNT)
_DEEP = 40.0
_AGAIN, _BEHIND = 3.4, 30.0  # the end may be a barrier with more behind it: once more, thirty times as far
_FARTHEST = 300.0
_MOST = 1 << 13  # panels on a side


def _partial_integrals() -> np.ndarray:
    """Q with (Q f)ᵢ = ∫ from −1 to node i of the polynomial through f at the nodes."""
    legendre = np.polynomial.legendre
    values = legendre.legvander(_NODES, _COUNT - 1)
    integrals = np.stack([legendre.legval(_NODES, legendre.legint(row, lbnd=-1)) for row in np.eye(_COUNT)], axis=1)
    return integrals @ np.linalg.inv(values)


_PARTIAL = _partial_integrals()


@dataclass(frozen=True)
class Line:
    """Panels between `lo` and `hi` with `start` among their edges. `open_end`: below `lo` nothing but the drift brings the process
    back (it is not absorbed there). Arrays ["panels nodes"] unless said otherwise; all but `x` logarithms."""

    edges: np.ndarray
    begin: int  # the edge of the start
    open_end: bool
    x: np.ndarray
    weight: np.ndarray
    speed: np.ndarray  # log m
    scale: np.ndarray  # log s
    diffusion: np.ndarray

    @classmethod
    def build(cls, rates: Rates, edges: np.ndarray, begin: int, open_end: bool) -> Line:
        half = np.diff(edges)[:, None] / 2
        x = edges[:-1, None] + half * (1 + _NODES)
        with np.errstate(over="ignore", invalid="ignore"):
            f, d = rates(x)
            slope = f / d
            each = half[:, 0] * (slope @ _WEIGHTS)
            # outwards from the start, so that what overflows far away spoils nothing nearer
            at = np.r_[-np.cumsum(each[:begin][::-1])[::-1], 0.0, np.cumsum(each[begin:])]
            psi = np.where(
                np.arange(len(half))[:, None] < begin,
                at[1:, None] - half * (slope @ (_WEIGHTS - _PARTIAL).T),
                at[:-1, None] + half * (slope @ _PARTIAL.T),
            )
            lost = ~np.isfinite(psi)
            log_d = np.where(lost, 0.0, np.log(d))
        return cls(
            edges,
            begin,
            open_end,
            x,
            np.log(half * _WEIGHTS),
            np.where(lost, -np.inf, psi - log_d),
            np.where(lost, 0, -psi),
            log_d,
        )

    def below(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log ∫ from the lower end of exp(values): at the nodes, and at the edges ["panels + 1"]."""
        each = logsumexp(values + self.weight, axis=1)
        at = np.logaddexp.accumulate(np.r_[-np.inf, each])
        return np.logaddexp(at[:-1, None], self._within(values, _PARTIAL)), at

    def above(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log ∫ up to the upper end of exp(values)."""
        each = logsumexp(values + self.weight, axis=1)
        at = np.logaddexp.accumulate(np.r_[-np.inf, each[::-1]])[::-1]
        return np.logaddexp(at[1:, None], self._within(values, _WEIGHTS - _PARTIAL)), at

    def _within(self, values: np.ndarray, rule: np.ndarray) -> np.ndarray:
        top = values.max(axis=1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        half = np.diff(self.edges)[:, None] / 2
        with np.errstate(divide="ignore"):
            return top + np.log(np.maximum(half * (np.exp(values - top) @ rule.T), 0.0))

    def integrands(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The logarithms of G m and of G m 2D T′², with the weights of the nodes, and the odds of leaving by the upper end."""
        m, k = self.speed, self.begin
        up, up_at = self.above(self.scale)  # S(b) − S
        if self.open_end:
            green = np.where(np.arange(len(m))[:, None] < k, up_at[k], up)
            slope = self.scale + self.below(m)[0]
            odds = 1.0
        else:
            down, down_at = self.below(self.scale)  # S − S(a)
            total = down_at[-1]
            green = np.where(np.arange(len(m))[:, None] < k, down + up_at[k], up + down_at[k]) - total
            from_a, from_b = self.below(m + down)[0], self.above(m + up)[0]
            high, low = np.maximum(from_a, from_b), np.minimum(from_a, from_b)
            with np.errstate(divide="ignore", invalid="ignore"):
                gap = high + np.log1p(-np.exp(np.minimum(low - high, 0.0)))
            slope = self.scale + np.where(np.isneginf(high), -np.inf, gap) - total
            odds = float(np.exp(down_at[k] - total))
        time = green + m + self.weight
        return time, time + np.log(2) + self.diffusion + 2 * slope, odds

    def chain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The birth-death process on the edges: rates down and up ["panels + 1"]. An absorbing end has rates 0 and is left out by
        whoever solves; which edges are absorbing comes third."""
        half = np.diff(self.edges)[:, None] / 2
        jump = np.asarray(logsumexp(self.scale + self.weight, axis=1))
        top = self.scale.max(axis=1, keepdims=True)
        grown = half * (np.exp(self.scale - top) @ _PARTIAL.T)
        share = np.clip(grown / np.exp(jump[:, None] - top), 0.0, 1.0)
        with np.errstate(divide="ignore"):
            left = np.asarray(logsumexp(self.speed + self.weight + np.log1p(-share), axis=1))
            right = np.asarray(logsumexp(self.speed + self.weight + np.log(share), axis=1))
        mass = np.logaddexp(np.r_[left, -np.inf], np.r_[-np.inf, right])
        absorbing = np.zeros(len(self.edges), bool)
        absorbing[-1], absorbing[0] = True, not self.open_end
        with np.errstate(over="ignore"):
            up = np.r_[np.exp(np.minimum(-jump - mass[:-1], 700.0)), 0.0]
            down = np.r_[0.0, np.exp(np.minimum(-jump - mass[1:], 700.0))]
        return down, up, absorbing


@dataclass(frozen=True)
class Rates:
    """f and D at arrays of positions of a line that runs the other way for `sign` = −1."""

    of: _Rates
    sign: float

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self.sign * self.of.drift(self.sign * x), self.of.diffusion(self.sign * x)
        except ValueError as error:
            raise ValueError(
                str(error).replace("no stationary density is known", "no passage time is known")
            ) from error


@dataclass(frozen=True)
class LinePassage:
    """Mean, variance, the relative error of the quadrature, the odds of the upper end, and the resolvent at the start."""

    mean: float
    variance: float
    error: float
    odds: float
    resolvent: Callable[[complex], complex]


def passage(wide: Any, start: float, lo: float | None, hi: float | None) -> LinePassage:
    """From `start` to `hi` (`lo` None), to `lo` (`hi` None), or to either."""
    if hi is None:
        assert lo is not None
        rates, start, lo, hi = Rates(_Rates(wide), -1.0), -start, None, -lo
    else:
        rates = Rates(_Rates(wide), 1.0)
    if lo is not None:
        return _settled(lambda n: Line.build(rates, *_closed(lo, start, hi, n), False))
    width = _width(rates, start)
    reach = float(np.arcsinh(50 * (1 + abs(start) + hi - start) / width))
    while not (
        _far_enough(Line.build(rates, *_open(start, hi, width, reach, 256), True))
        and _nothing_beyond(Line.build(rates, *_open(start, hi, width, reach + _AGAIN, 256), True), width * np.sinh(reach))
    ):
        reach *= 1.4
        if reach > _FARTHEST:
            raise ValueError(
                "the mean first passage time, or its variance, is infinite: nothing brings the process back from far away on the "
                "other side; give two ends"
            )
    return _settled(lambda n: Line.build(rates, *_open(start, hi, width, reach, n), True))


def _closed(lo: float, start: float, hi: float, count: int) -> tuple[np.ndarray, int]:
    return np.r_[np.linspace(lo, start, count + 1)[:-1], np.linspace(start, hi, count + 1)], count


def _open(start: float, hi: float, width: float, reach: float, count: int) -> tuple[np.ndarray, int]:
    away = start - width * np.sinh(np.linspace(reach, 0, count + 1)[:-1])
    return np.r_[away, np.linspace(start, hi, count + 1)], count


def _width(rates: Rates, start: float) -> float:
    """A length over which the drift's potential changes by about one at the start, at most the size of the problem."""
    size = 1 + abs(start)
    near = start + size * np.array([-1e-3, 0.0, 1e-3])
    f, d = rates(near)
    slope = abs(f[2] - f[0]) / (2e-3 * size)
    return float(min(size, np.sqrt(d[1] / slope) if slope > 0 else size, d[1] / abs(f[1]) if f[1] else size))


def _far_enough(line: Line) -> bool:
    for log_terms in line.integrands()[:2]:
        panels = np.asarray(logsumexp(log_terms, axis=1))
        ends = panels[:4]
        if not np.isfinite(panels).any() or np.nanmax(ends) > np.logaddexp.reduce(panels) - _DEEP:
            return False
    return True


def _nothing_beyond(line: Line, distance: float) -> bool:
    """Whether what is further than so far below the start, perhaps behind a barrier, takes no time."""
    beyond = line.edges[1:] <= line.edges[line.begin] - distance
    for log_terms in line.integrands()[:2]:
        panels = np.asarray(logsumexp(log_terms, axis=1))
        if not np.nanmax(panels[beyond], initial=-np.inf) < np.logaddexp.reduce(panels[~beyond]) - _BEHIND:
            return False
    return True


def _settled(build: Callable[[int], Line]) -> LinePassage:
    old, count = None, 128
    while True:
        line = build(count)
        time, spread, odds = line.integrands()
        new = np.array([logsumexp(time), logsumexp(spread)])
        error = np.inf if old is None else float(np.abs(new - old).max())
        if error < 1e-13 * (1 + np.abs(new).max()) or count >= _MOST:
            break
        old, count = new, 2 * count
    with np.errstate(over="ignore"):
        mean, variance = (float(v) for v in np.exp(new))
    made: list[_Chain] = []

    def resolvent(z: complex) -> complex:
        if not made:
            fine = min(max(count, 512), 2048)
            made.extend(_Chain.of(build(n)) for n in (fine, fine // 2))
        fine, coarse = (chain(z) for chain in made)
        return fine + (fine - coarse) / 3

    return LinePassage(mean, variance, error, odds, resolvent)


@dataclass(frozen=True)
class _Chain:
    """The birth-death process without its absorbing edges, as bands of −L."""

    bands: np.ndarray
    begin: int

    @classmethod
    def of(cls, line: Line) -> _Chain:
        down, up, absorbing = line.chain()
        keep = ~absorbing
        first = int(absorbing[0])
        bands = np.stack([np.r_[0.0, -up[keep][:-1]], (down + up)[keep], np.r_[-down[keep][1:], 0.0]])
        return cls(bands, line.begin - first)

    def __call__(self, z: complex) -> complex:
        bands = self.bands.astype(complex)
        bands[1] += z
        return complex(scipy.linalg.solve_banded((1, 1), bands, np.ones(bands.shape[1], complex))[self.begin])
