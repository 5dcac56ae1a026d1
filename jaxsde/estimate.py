"""A number with its error bar, and the jackknife over groups of chains that makes it.

Chains, not samples, are the independent unit: samples of one chain are correlated, and error bars that ignore it cover
.3 to .8 of the time instead of .95. A group of chains is left out at a time, whatever is estimated is computed again
from the rest, and the spread of these values is the standard error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from scipy import stats

from .statistics.sums import Count, integers

# Fewer groups give no interval worth the name: Student's t at 3 degrees of freedom is already 3.2 standard errors wide.
FEWEST_GROUPS = 4
CONFIDENCE = 0.95


@runtime_checkable
class Summary(Protocol):
    """The half of a Statistic that works on the host."""

    def merge(self, acc: Any) -> Any: ...
    def result(self, acc: Any) -> Any: ...


@dataclasses.dataclass(frozen=True, repr=False)
class Estimate:
    """A value (a float or an array), its standard error and 95 % interval, the number of groups behind it.

    Where it cannot be known `value`, `stderr`, `low` and `high` are None and `reason` says why: there is an interval
    whenever there is a number. `estimator` names how it was made; `floor`, where an estimator has one, is what it would
    report (95th percentile) if the true answer were zero; `note` is a caveat beside a value.
    """

    value: Any = None
    stderr: Any = None
    low: Any = None
    high: Any = None
    groups: int = 0
    estimator: str = ""
    reason: str | None = None
    floor: float | None = None
    note: str | None = None

    @classmethod
    def unknown(cls, reason: str, *, groups: int = 0, estimator: str = "", floor: float | None = None) -> Estimate:
        """No number, and why."""
        return cls(groups=groups, estimator=estimator, reason=reason, floor=floor)

    @property
    def known(self) -> bool:
        return self.value is not None

    def z(self, truth: Any) -> Any:
        """(value − truth) / stderr, elementwise; 0/0 is 0. Raises ValueError where nothing is known."""
        if not self.known:
            raise ValueError(f"no estimate to compare: {self.reason}")
        gap = np.asarray(self.value, np.float64) - np.asarray(truth, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(gap == 0, 0.0, gap / np.asarray(self.stderr, np.float64))
        return float(z) if z.ndim == 0 else z

    def contains(self, truth: Any) -> Any:
        """Whether the interval holds the truth, elementwise; False where nothing is known."""
        if not self.known:
            return False
        inside = (np.asarray(self.low) <= truth) & (np.asarray(truth) <= self.high)
        return bool(inside) if inside.ndim == 0 else inside

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold: finite numbers and lists, null with a reason where there is none."""
        out: dict[str, Any] = {name: _plain(getattr(self, name)) for name in ("value", "low", "high", "stderr")}
        out |= {"estimator": self.estimator, "groups": self.groups}
        out |= {name: _plain(v) for name in ("reason", "floor", "note") if (v := getattr(self, name)) is not None}
        return out

    def __repr__(self) -> str:
        if not self.known:
            return f"unknown ({self.reason})"
        if np.ndim(self.value) == 0:
            return f"{_rounded(float(self.value), float(self.stderr))} ({self.groups} groups)"
        if np.size(self.value) <= 16:
            pairs = zip(np.ravel(self.value), np.ravel(self.stderr), strict=True)
            cells = np.array([_rounded(float(v), float(s)) for v, s in pairs], object).reshape(np.shape(self.value))
            return f"{_nested(cells)} ({self.groups} groups)"
        return f"Estimate of shape {np.shape(self.value)} ({self.groups} groups)"


def richardson_romberg(coarse: Estimate, fine: Estimate, *, order: float = 1.0, ratio: float = 2.0) -> Estimate:
    """(rᵖ·fine − coarse)/(rᵖ − 1): free of the error of order p in a step (η or dt) that is r times smaller in `fine`.

    For two independent runs, whose errors add in squares; along common paths the difference is far quieter
    (`two_levels`, `extrapolated`). Source: Talay and Tubaro (1990). `ValueError` for an estimate without a value, order or
    ratio that is none.
    """
    if not order > 0 or not ratio > 1:
        raise ValueError(f"order must be positive and ratio above 1, got order={order!r}, ratio={ratio!r}")
    for name, estimate in (("coarse", coarse), ("fine", fine)):
        if not estimate.known:
            raise ValueError(f"{name} is unknown ({estimate.reason}): there is nothing to extrapolate")
    by, groups = ratio**order, min(coarse.groups, fine.groups)
    value = (by * np.asarray(fine.value) - np.asarray(coarse.value)) / (by - 1)
    stderr = np.hypot(by * np.asarray(fine.stderr), np.asarray(coarse.stderr)) / (by - 1)
    reach = stats.t.isf((1 - CONFIDENCE) / 2, max(groups - 1, 1)) * stderr
    made = [float(v) if np.ndim(v) == 0 else v for v in (value, stderr, value - reach, value + reach)]
    return Estimate(*made, groups=groups, estimator=f"Richardson–Romberg extrapolation of order {order:g}")


def jackknife(
    statistic: Summary,
    partials: Any,
    f: Callable[[Any], Any] | None = None,
    *,
    estimator: str = "",
    bias_corrected: bool = False,
) -> Estimate:
    """The statistic's result, or f of it, with the error of leaving out one group at a time.

    `partials` is an accumulator whose leading axis is the group. With n_g positions in group g, h_g = n / n_g and
    θ_(g) the value without group g,

        stderr² = (1/G) Σ_g [h_g θ − (h_g − 1) θ_(g) − θ_J]² / (h_g − 1),   θ_J = Gθ − Σ_g (1 − n_g/n) θ_(g),

    which for equal groups is the usual (G−1)/G Σ (θ_(g) − mean)². The value reported is θ, or θ_J with `bias_corrected`.
    Groups without data are left out; fewer than 4 groups give no number.
    Source: F. M. T. A. Busing, E. Meijer, R. van der Leeden, Statistics and Computing 9 (1999) 3.
    """
    return jackknife_many([(statistic, partials)], f, estimator=estimator, bias_corrected=bias_corrected)


def jackknife_many(
    sources: list[tuple[Summary, Any]],
    f: Callable[..., Any] | None = None,
    *,
    estimator: str = "",
    bias_corrected: bool = False,
) -> Estimate:
    """The jackknife of f(result, …) of several statistics of the same run, whose groups are left out together."""
    rows = len(jax.tree.leaves(sources[0][1])[0])
    counts = _counts(sources[0][1], rows)
    live = np.flatnonzero(counts > 0)
    groups = len(live)
    if groups == 0:
        return Estimate.unknown("no samples: every chain diverged, or none was taken", estimator=estimator)
    if groups < FEWEST_GROUPS:
        reason = f"{groups} group{'s' * (groups > 1)} with data, an interval needs at least {FEWEST_GROUPS}: use more"
        return Estimate.unknown(reason + " chains or groups", groups=groups, estimator=estimator)

    results = []  # [source][whole, without group 0, without group 1, …]
    for statistic, partials in sources:
        kept = jax.tree.map(lambda a: np.asarray(a)[live], partials)
        results.append([statistic.result(statistic.merge(kept)), *_left_out(statistic, kept, groups)])
    if f is None and not isinstance(results[0][0], np.ndarray | np.generic | float):
        reason = f"{type(sources[0][0]).__name__} is a record, not an average: it has no error bar"
        return Estimate.unknown(reason, groups=groups, estimator=estimator)
    try:
        values = [np.asarray(r[0] if f is None else f(*r), np.float64) for r in zip(*results, strict=True)]
    except Unknown as why:
        return Estimate.unknown(str(why), groups=groups, estimator=estimator)
    return from_left_out(
        values[0], np.stack(values[1:]), counts[live], estimator=estimator, bias_corrected=bias_corrected
    )


def jackknife_two(
    first: tuple[Summary, Any],
    second: tuple[Summary, Any],
    f: Callable[[Any, Any], Any],
    *,
    estimator: str = "",
    bias_corrected: bool = False,
) -> Estimate:
    """The jackknife of f(result of one run, result of another).

    With as many groups in both, group g is left out of both together: right whether the runs are independent or share
    their random numbers. Otherwise they must be independent: each is jackknifed with the other whole, and variances
    and biases add.
    """
    sizes = [_counts(partials, len(jax.tree.leaves(partials)[0])) for _, partials in (first, second)]
    if len(sizes[0]) == len(sizes[1]) and ((sizes[0] > 0) == (sizes[1] > 0)).all():
        return jackknife_many([first, second], f, estimator=estimator, bias_corrected=bias_corrected)
    whole = [merged(*source) for source in (first, second)]
    parts = [
        jackknife(*first, lambda a: f(a, whole[1]), estimator=estimator, bias_corrected=bias_corrected),
        jackknife(*second, lambda b: f(whole[0], b), estimator=estimator, bias_corrected=bias_corrected),
    ]
    for part in parts:
        if not part.known:
            return part
    value = parts[0].value + parts[1].value - np.asarray(f(*whole), np.float64) if bias_corrected else parts[0].value
    variances = [np.asarray(part.stderr) ** 2 for part in parts]
    # Welch and Satterthwaite's degrees of freedom
    with np.errstate(divide="ignore", invalid="ignore"):
        fewest = min(part.groups for part in parts) - 1
        freedom = sum(variances) ** 2 / sum(v**2 / (part.groups - 1) for v, part in zip(variances, parts, strict=True))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, np.where(np.isfinite(freedom), freedom, fewest)) * np.sqrt(sum(variances))
    value, stderr, low, high = (
        _scalar(np.asarray(a)) for a in (value, np.sqrt(sum(variances)), value - half, value + half)
    )
    return Estimate(value, stderr, low, high, min(part.groups for part in parts), estimator)


class Unknown(ValueError):
    """Raised inside a function that is being jackknifed: there is no answer, and the message is the reason."""


def from_left_out(
    value: np.ndarray,
    left_out: np.ndarray,
    counts: np.ndarray,
    *,
    estimator: str = "",
    bias_corrected: bool = False,
) -> Estimate:
    """The Estimate from θ and the values without each group ["G ..."]; see `jackknife`."""
    value, counts = np.asarray(value, np.float64), np.asarray(counts, np.float64)
    groups = len(left_out)
    if not (np.isfinite(value).all() and np.isfinite(left_out).all()):
        return Estimate.unknown("the value is not finite", groups=groups, estimator=estimator)
    shape = (groups,) + (1,) * value.ndim
    portion = (counts / counts.sum()).reshape(shape)
    corrected = groups * value - ((1 - portion) * left_out).sum(axis=0)
    # (h θ − (h−1) θ_(g) − θ_J)² / (h−1) with h = 1/portion, written without the difference of large numbers
    pseudo = value - (1 - portion) / portion * (left_out - value)
    spread = ((pseudo - corrected) ** 2 * portion / (1 - portion)).mean(axis=0)
    stderr = np.sqrt(spread)
    centre = corrected if bias_corrected else value
    half = stats.t.ppf((1 + CONFIDENCE) / 2, groups - 1) * stderr
    value, stderr, low, high = (_scalar(a) for a in (centre, stderr, centre - half, centre + half))
    return Estimate(value, stderr, low, high, groups, estimator)


def merged(statistic: Summary, partials: Any) -> Any:
    """The result over all groups."""
    return statistic.result(statistic.merge(partials))


def _left_out(statistic: Summary, partials: Any, groups: int) -> list[Any]:
    """The result without each group in turn: merges of everything before with everything after, 3 G merges in all."""

    def at(i: int) -> Any:
        return jax.tree.map(lambda a: a[i : i + 1], partials)

    def join(a: Any, b: Any) -> Any:
        if a is None or b is None:
            return b if a is None else a
        return statistic.merge(jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b))

    after = [None] * (groups + 1)
    for i in range(groups - 1, 0, -1):
        after[i] = join(at(i), after[i + 1])
    before, out = None, []
    for i in range(groups):
        out.append(statistic.result(join(before, after[i + 1])))
        before = join(before, at(i))
    return out


def _counts(partials: Any, rows: int) -> np.ndarray:
    """Positions per group; ones for a statistic that does not count."""
    count = getattr(partials, "counted", None)
    if not isinstance(count, Count):
        return np.ones(rows)
    return integers(count).reshape(rows, -1).sum(axis=1).astype(np.float64)


def _scalar(a: Any) -> Any:
    return float(a) if a.ndim == 0 else a


def _plain(x: Any) -> Any:
    if x is None or isinstance(x, str | bool):
        return x
    x = np.asarray(x, np.float64).tolist()

    def finite(v: Any) -> Any:
        return [finite(i) for i in v] if isinstance(v, list) else (v if math.isfinite(v) else None)

    return finite(x)


def _rounded(value: float, stderr: float) -> str:
    """The value to the second digit of its error, as in 0.3670 ± 0.0042."""
    if not (math.isfinite(value) and math.isfinite(stderr)) or stderr == 0:
        return f"{value:.6g} ± {stderr:.2g}"
    digits = 1 - math.floor(math.log10(stderr))
    if -3 <= digits <= 9:
        return f"{value:.{max(digits, 0)}f} ± {stderr:.{max(digits, 0)}f}"
    return f"{value:.6g} ± {stderr:.2g}"


def _nested(cells: np.ndarray) -> str:
    return f"[{', '.join(_nested(c) if isinstance(c, np.ndarray) else c for c in cells)}]"
