"""A paper's statement beside its measurement: what passes, and what every paper of this folder uses to say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ..estimate import Estimate, from_left_out

# A true statement fails once in this many runs, for each of its quantities: intervals are widened to Student's t at that level.
FALSE_ALARM = 1e-5


class Entry(NamedTuple):
    """A paper: the function that measures its statement, who wrote it, its title, where and when it appeared.

    `quick` are settings with which the whole takes a second or two and the intervals are wide.
    """

    function: Callable[..., Statement]
    authors: str
    title: str
    where: str
    year: int
    quick: dict[str, int]

    @property
    def reference(self) -> str:
        return f"{self.authors} ({self.year}), {self.title}, {self.where}"


@dataclass(frozen=True)
class Statement:
    """What a paper says (`claim`, `formula`), and `quantities` of it: `measured`, an `Estimate` ["q"], and `expected` ["q"].

    `expected` is the paper's formula, and `exact` ["q"] the exact law of what ran, at its own step and sizes, both in float64: a
    formula of a limit is not exact before it. A quantity passes where the measurement agrees with `exact` and `exact` is within
    `near` · `scale` of the formula; `scale` ["q"] is |expected| where not given. `draw` makes the figure; `note` is what else there
    is to say.
    """

    claim: str
    formula: str
    quantities: tuple[str, ...]
    measured: Estimate
    expected: np.ndarray
    exact: np.ndarray
    near: float
    draw: Callable[[], Any] = field(repr=False)
    scale: np.ndarray | None = None
    note: str = ""

    @property
    def bias(self) -> np.ndarray:
        """exact − expected: what the formula leaves out at these sizes."""
        return self.exact - self.expected

    @property
    def reach(self) -> np.ndarray:
        """How far a measurement may be from the exact value: t · stderr at `FALSE_ALARM`."""
        t = float(stats.t.isf(FALSE_ALARM / 2, max(self.measured.groups - 1, 1)))
        return t * np.asarray(self.measured.stderr)

    @property
    def z(self) -> np.ndarray:
        """(measured − exact) in standard errors."""
        return np.asarray(self.measured.z(self.exact))

    @property
    def agrees(self) -> np.ndarray:
        """For each quantity whether it passes; nothing does that is unknown."""
        if not self.measured.known:
            return np.zeros(len(self.quantities), bool)
        scale = np.abs(self.expected) if self.scale is None else self.scale
        gap = np.abs(np.asarray(self.measured.value) - self.exact)
        return (gap <= self.reach) & (np.abs(self.bias) <= self.near * scale)

    @property
    def passed(self) -> bool:
        return bool(self.agrees.all())

    def rows(self) -> list[dict[str, Any]]:
        """One dict a quantity: name, measured, low, high, expected, exact, z, passed."""
        if not self.measured.known:
            return [{"quantity": q, "measured": None, "reason": self.measured.reason, "passed": False} for q in self.quantities]
        columns = [np.asarray(getattr(self.measured, name)).tolist() for name in ("value", "low", "high")]
        columns += [a.tolist() for a in (self.expected, self.exact, self.z, self.agrees)]
        names = ("quantity", "measured", "low", "high", "expected", "exact", "z", "passed")
        return [dict(zip(names, row, strict=True)) for row in zip(self.quantities, *columns, strict=True)]

    def __str__(self) -> str:
        lines = [self.claim, f"  {self.formula}"]
        for r in self.rows():
            verdict = "pass" if r["passed"] else "FAIL"
            if r["measured"] is None:
                lines.append(f"  {r['quantity']:<44} unknown ({r['reason']})  {verdict}")
                continue
            found = f"{_short(r['measured'])} [{_short(r['low'])}, {_short(r['high'])}]"
            beside = f"exact {_short(r['exact']):<11} formula {_short(r['expected']):<11}"
            lines.append(f"  {r['quantity']:<44} {found:<36} {beside} {verdict}")
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])

    def to_json(self) -> dict[str, Any]:
        told = {"claim": self.claim, "formula": self.formula, "passed": self.passed, "false_alarm": FALSE_ALARM, "near": self.near}
        return {**told, "groups": self.measured.groups, "quantities": self.rows(), **({"note": self.note} if self.note else {})}


def _short(x: float) -> str:
    return f"{x:.5g}"


def together(f: Callable[..., Any], samples: Sequence[tuple[np.ndarray, np.ndarray]], *, estimator: str = "") -> Estimate:
    """f(mean of each sample) with a jackknife in which group g is left out of all samples together.

    A sample is (values ["c ..."], the group of each chain ["c"]); all have the same number of groups. Right for runs that are
    independent of each other, and for runs that are not.
    """
    groups = int(samples[0][1].max()) + 1
    sums, counts = [], []
    for values, group in samples:
        one = np.asarray(values, np.float64)
        total = np.zeros((groups, *one.shape[1:]))
        np.add.at(total, group, one)
        sums.append(total)
        counts.append(np.bincount(group, minlength=groups).astype(float))

    def left(g: int | None) -> np.ndarray:
        keep = np.arange(groups) != (-1 if g is None else g)
        return np.asarray(f(*(s[keep].sum(axis=0) / n[keep].sum() for s, n in zip(sums, counts, strict=True))), np.float64)

    return from_left_out(left(None), np.stack([left(g) for g in range(groups)]), counts[0], estimator=estimator)


def components(whole: Estimate, places: Sequence[int]) -> Estimate:
    """Some components of an estimate of a vector."""
    if not whole.known:
        return whole
    return replace(whole, **{name: np.asarray(getattr(whole, name))[list(places)] for name in ("value", "stderr", "low", "high")})


def line(x: Any, y: Any) -> tuple[float, float]:
    """(intercept, slope) of the least-squares line of y on x."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return float(y.mean() - slope * x.mean()), slope


def vector(*values: Any) -> np.ndarray:
    """float64 ["q"] of numbers."""
    return np.array([float(v) for v in values])
