"""From a chain to the statistics of its relations, and from a run to what it says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array
from scipy import stats

from ..catalogue import did_you_mean
from ..estimate import Estimate
from ..report.verdict import FALSE_ALARM, Check, stationarity
from ..statistics import Course, Of, of
from ..stepping.whole import Whole
from ..types import Statistic
from .balance import Balance, Reading, Row, averaged, balance_of, halves
from .fluctuation import FLUCTUATION, PathEntropy, path_entropy
from .generator import GENERATOR
from .gibbs import GIBBS_IDENTITIES
from .moments import MOMENTS, located

_PATH = "path_entropy"
_SAID = {"holds": "holds", "fails": "FAILS", "not stationary": "not stationary", "unknown": "unknown"}


@dataclass(frozen=True)
class Report:
    """The rows of a run, whether it was stationary at all, and the odds that chance alone fails any row."""

    rows: tuple[Row, ...]
    stationary: Check
    false_alarm: float

    @property
    def holds(self) -> bool:
        """Whether every relation was tested and holds."""
        return bool(self.rows) and all(row.reading == "holds" for row in self.rows)

    def __getitem__(self, relation: str) -> Row:
        found = {row.relation: row for row in self.rows}
        if relation not in found:
            raise KeyError(f"this run has no relation {relation!r}; it has {', '.join(found) or 'none'}")
        return found[relation]

    def __str__(self) -> str:
        lines = [f"{'relation':<24}{'left':>12} {'right':>12}{'difference':>24}{'|z|':>8}{'critical':>10}  reading"]
        for r in self.rows:
            if not r.difference.known:
                lines.append(f"{r.relation:<24}{r.sentence}")
                continue
            i = _worst(r.difference)
            value, stderr = (np.ravel(a)[i] for a in (r.difference.value, r.difference.stderr))
            gap = f"{value:.3g} ± {stderr:.1g}"
            numbers = f"{np.ravel(r.left)[i]:>12.5g} {np.ravel(r.right)[i]:>12.5g}{gap:>24}{r.z:>8.2f}{r.critical:>10.2f}"
            which = f"  [{r.component}]" if r.component else ""
            lines.append(f"{r.relation:<24}{numbers}  {_SAID[r.reading]}  {r.formula}{which}")
        lines.append(f"stationary: {self.stationary.reading} ({self.stationary.sentence})")
        lines.append(f"odds that chance alone fails a row: {self.false_alarm:g}")
        lines += dict.fromkeys(r.sentence.rsplit("; ", 1)[-1] for r in self.rows if "bias" in r.sentence)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        rows = [row.to_json() for row in self.rows]
        return {"rows": rows, "stationary": self.stationary.to_json(), "false_alarm": self.false_alarm}


def relation(name: str, chain: Any, **options: Any) -> Balance:
    """One relation of the catalogue for a chain; `ValueError` with a sentence where it is no theorem for that chain.

    `averaged` of it is the statistic. Options: `temperature` and `approximate`, where the relation takes them.
    """
    _known(name)
    if name in FLUCTUATION:
        raise ValueError(f"{name} is read from path_entropy(chain), a statistic of its own")
    return _ENTRIES[name](chain, **options)


def statistics(
    chain: Any, relations: Iterable[str] | None = None, *, temperature: Any = None, approximate: bool = False
) -> dict[str, Statistic]:
    """The statistics of every relation that is a theorem for the chain (or of the named ones), and of its course in time.

    Give them to `simulate`, with any others beside them, and the run to `check`. With `temperature` the identities of the Gibbs
    law at that temperature join in, as a question to any chain with a loss; with `approximate` those of an SDE, up to the bias
    of its scheme. The fluctuation theorems need `every=1`.

    `ValueError` where a named relation is no theorem for the chain, and where none is; `refusals(chain)` says why.
    """
    named = relations is not None
    wanted = _names(relations)
    found: dict[str, Statistic] = {}
    reasons: dict[str, str] = {}
    for name in wanted:
        try:
            if name in FLUCTUATION:
                found.setdefault(_PATH, path_entropy(chain))
            else:
                found[name] = averaged(_made(name, chain, temperature, approximate))
        except (ValueError, TypeError) as why:
            if named:
                raise
            reasons[name] = str(why)
    if not found:
        raise ValueError(f"no relation is a theorem for this chain: {next(iter(reasons.values()), 'none was named')}")
    return {**found, "course": _course(chain)}


def refusals(chain: Any, *, temperature: Any = None, approximate: bool = False) -> dict[str, str]:
    """Why each of the other relations is no theorem for the chain: a sentence by name."""
    reasons = {}
    for name in _names(None):
        try:
            path_entropy(chain) if name in FLUCTUATION else _made(name, chain, temperature, approximate)
        except (ValueError, TypeError) as why:
            reasons[name] = str(why)
    return reasons


def check(run: Any, *, false_alarm: float = FALSE_ALARM) -> Report:
    """What a run says of the relations among its statistics: both sides of each, their difference ± its standard error over groups
    of chains, the largest |z| and a reading.

    A relation fails when |z| of one of its components exceeds what chance alone exceeds, over all components of all rows, with
    the odds `false_alarm`. In a run whose means drift all are read as "not stationary": nothing is a theorem there yet.
    `ValueError` for a run without relations.
    """
    if not hasattr(run, "statistics"):
        raise TypeError(f"check reads the run that simulate returns, got {type(run).__name__}")
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must lie between 0 and 1, got {false_alarm!r}")
    tested: list[tuple[str, str, str, Any, tuple[str, ...], str]] = []
    for name, statistic in run.statistics.items():
        balance = balance_of(statistic)
        if balance is not None:
            tested.append((balance.name, balance.formula, name, halves, balance.labels, balance.caveat))
        elif isinstance(statistic, PathEntropy):
            tested += _paths(name, statistic)
    if not tested:
        raise ValueError("this run has no relations: give simulate the statistics of jaxsde.relations.statistics(chain)")
    stationary = stationarity(run)
    components = sum(len(labels) for *_, labels, _ in tested)
    rows = tuple(_row(run, *one, stationary, false_alarm / components) for one in tested)
    return Report(rows, stationary, false_alarm)


def _paths(name: str, statistic: PathEntropy) -> list[tuple[str, str, str, Any, tuple[str, ...], str]]:
    between = tuple(f"{a:g} to {b:g}" for a, b in zip(statistic.edges, statistic.edges[1:], strict=False))
    given = [
        ("integral_fluctuation", "⟨e^{−ΔS}⟩ = 1", ("window",)),
        ("detailed_fluctuation", "P(−ΔS) = e^{−ΔS} P(ΔS)", ("tanh", *between)),
    ]
    if statistic.mean is not None:
        given.append(("entropy_production", "⟨ΔS⟩ = its exact value", ("window",)))
    return [(which, formula, name, Partial(FLUCTUATION[which], statistic), labels, "") for which, formula, labels in given]


def _row(
    run: Any, name: str, formula: str, source: str, sides: Any, labels: tuple[str, ...], caveat: str, stationary: Check, odds: float
) -> Row:
    def gap(result: np.ndarray) -> np.ndarray:
        left, right = sides(result)
        return left - right

    nothing = np.full(len(labels), np.nan)
    if isinstance(run.statistic(source), PathEntropy) and run.every != 1:
        reason = f"a path must be seen at every step, and this run looked every {run.every}: simulate(…, every=1)"
        return Row(name, formula, nothing, nothing, Estimate.unknown(reason), None, "", None, "unknown", reason)
    difference = run.estimate(source, gap)
    if not difference.known:
        reason = difference.reason or ""
        return Row(name, formula, nothing, nothing, difference, None, "", None, "unknown", reason)
    statistic = run.statistic(source)
    left, right = sides(np.asarray(statistic.result(statistic.merge(run.partials(source)))))
    z, i = float(np.max(np.abs(difference.z(0.0)))), _worst(difference)
    critical = float(stats.t.isf(odds / 2, max(difference.groups - 1, 1)))
    reading: Reading = "holds" if z <= critical else "fails"
    sentence = f"|z| {z:.2f} {'≤' if z <= critical else '>'} {critical:.2f}"
    if stationary.reading == "no":
        reading, sentence = "not stationary", f"the run is not stationary yet: {stationary.sentence}; {sentence}"
    return Row(
        name, formula, left, right, difference, z, labels[i] if len(labels) > 1 else "", critical, reading,
        sentence + (f"; {caveat}" if caveat else ""),
    )  # fmt: skip


def _worst(difference: Estimate) -> int:
    return int(np.argmax(np.abs(np.ravel(difference.z(0.0)))))


def _made(name: str, chain: Any, temperature: Any, approximate: bool) -> Balance:
    if name in GENERATOR:
        return GENERATOR[name](chain, approximate=approximate)
    if name == "kinetic_equipartition":
        return GIBBS_IDENTITIES[name](chain, approximate=approximate)
    if name in GIBBS_IDENTITIES:
        return GIBBS_IDENTITIES[name](chain, temperature=temperature, approximate=approximate)
    return MOMENTS[name](chain)


_ENTRIES = MOMENTS | GENERATOR | GIBBS_IDENTITIES


def _names(relations: Iterable[str] | None) -> tuple[str, ...]:
    every = (*_ENTRIES, *FLUCTUATION)
    if relations is None:
        return every
    names = (relations,) if isinstance(relations, str) else tuple(relations)
    for name in names:
        _known(name)
    return names


def _known(name: str) -> None:
    every = (*_ENTRIES, *FLUCTUATION)
    if name not in every:
        raise ValueError(f"no relation {name!r}; {did_you_mean(str(name), every)}")


def _course(chain: Any) -> Of:
    """What must not drift: every component of the position and its square, about a point near by."""
    inner = chain.chain if isinstance(chain, Whole) else chain
    problem = getattr(inner, "problem", None)
    centre = np.zeros(chain.dim)
    if problem is not None and problem.dim <= chain.dim:
        centre[: problem.dim] = located(problem)
    return of(Partial(_watched, jnp.asarray(centre, float)), Course(8))


def _watched(centre: Array, y: Array) -> Array:
    return jnp.concatenate([y, (y - centre.astype(y.dtype)) ** 2])
