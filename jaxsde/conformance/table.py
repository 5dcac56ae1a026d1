"""The table: who samples which law correctly, each row with a planted error that must be found.

A row compares the averages of many independent chains with an exact reference, component by component:

    z = (mean − reference)/stderr,    a row is wrong if max |z| exceeds the critical value

The critical value is Student's at the odds FALSE_ALARM divided by all components of all rows (Bonferroni), so chance alone calls
any row of the whole table wrong once in a thousand tables. The reference is the exact stationary value of the sampler's own
scheme at its step, where that is known: then a row asks whether the scheme is implemented rightly, and the distance of the scheme's
law from the target is a number without noise, its bias. Elsewhere the reference is the target, at a step whose bias is well below
what the row resolves.

Power. The twin's noise is 1.05 times too strong, which makes a variance V = 1.1025 times too large. An average of x² over N
independent Gaussian samples has the standard error V√(2/N), so the twin shows z = .1025 √(N/2)/1.1025, and is found with the odds
.999 if that exceeds the critical value (5.1 for 170 components) by 3.1: N ≥ 15 600. A chain's average of x² over a time t is worth
t·λ/(1 + …) ≥ tλ/2 independent samples for a relaxation rate λ; the slowest direction of the laws here has λ ≥ .4 and t ≥ 24, and
2048 chains are worth 2048·24·.4 = 19 700 or more. Each row's own power is worked out from what it measured, and shown.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from ..catalogue import did_you_mean
from . import ours, peers
from .laws import LAWS, Law
from .ours import OURS, Sampler, Seen
from .peers import PEERS

FALSE_ALARM = 1e-3
PLANTED = 1.05
_ROUNDING = 1e-9  # a bias below which there is none

SAMPLERS: dict[str, Sampler] = OURS | PEERS
Verdict = Literal["exact", "as its scheme", "on target", "WRONG", "not installed"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One sampler on one law. `bias` is the distance of the scheme's exact law from the target, in parts of the largest target;
    None where only the target is known, and then `resolution` says how far off would have been seen."""

    law: str
    sampler: str
    package: str
    step: float
    verdict: Verdict
    z: float | None = None
    component: str = ""
    critical: float | None = None
    mean: tuple[float, ...] = ()
    stderr: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()
    target: tuple[float, ...] = ()
    bias: float | None = None
    resolution: float | None = None
    planted_z: float | None = None
    power: float | None = None
    seconds: float = 0.0

    @property
    def caught(self) -> bool:
        """Whether the planted error was found."""
        return self.planted_z is not None and self.critical is not None and not self.planted_z <= self.critical

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        match self.verdict:
            case "as its scheme":
                return f"its scheme rightly; the scheme's law is {100 * (self.bias or 0):.2g} % off"
            case "on target":
                return f"the target, to {100 * (self.resolution or 0):.1g} %"
            case "exact":
                return "the target exactly"
            case "not installed":
                return f"not installed: pip install {self.package}"
            case _:
                return (
                    f"WRONG: {self.component} is off by {self.z:.1f} standard errors" if self.z is not None else "WRONG"
                )


@dataclasses.dataclass(frozen=True)
class Table:
    """All rows, as text (`str`), JSON and a figure."""

    rows: tuple[Row, ...]
    components: int
    seed: int

    @property
    def wrong(self) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if r.verdict == "WRONG")

    @property
    def missed(self) -> tuple[Row, ...]:
        """Rows whose planted error was not found."""
        return tuple(r for r in self.rows if r.verdict != "not installed" and not r.caught)

    def __str__(self) -> str:
        head = f"{'law':<20}{'sampler':<30}{'step':>6}{'max |z|':>9}{'critical':>9}{'bias':>8}{'planted |z|':>13}{'power':>8}"
        lines = [f"{head}  verdict"]
        for r in self.rows:
            if r.z is None:
                lines.append(f"{r.law:<20}{r.sampler:<30}{r.step:>6g}{'':>53}  {r.sentence}")
                continue
            bias = "" if r.bias is None else "0" if r.bias < _ROUNDING else f"{100 * r.bias:.2g} %"
            planted = "" if r.planted_z is None else f"{r.planted_z:.1f}"
            power = "" if r.power is None else f"{r.power:.4f}"
            lines.append(
                f"{r.law:<20}{r.sampler:<30}{r.step:>6g}{r.z:>9.2f}{r.critical:>9.2f}{bias:>8}{planted:>13}{power:>8}  {r.sentence}"
                + ("" if r.caught else "; the planted error was MISSED")
            )
        asked = [r for r in self.rows if r.verdict != "not installed"]
        lines.append(
            f"{len(asked)} rows, {len(self.wrong)} wrong; a noise {PLANTED:g} times too strong was found in "
            f"{len(asked) - len(self.missed)} of {len(asked)}; odds that chance alone makes any row wrong: {FALSE_ALARM:g} "
            f"(over {self.components} components)"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        rows = [
            {
                **{name: _finite(value) for name, value in dataclasses.asdict(r).items()},
                "caught": r.caught,
                "sentence": r.sentence,
            }
            for r in self.rows
        ]
        return {
            "rows": rows,
            "wrong": len(self.wrong),
            "missed": len(self.missed),
            "false_alarm": FALSE_ALARM,
            "seed": self.seed,
        }

    def figure(self, file: str | Path) -> Path:
        """|z| of every row and of its planted twin, against the critical value."""
        from .figure import draw

        return draw(self, file)


def conform(
    laws: str | Iterable[str] | None = None,
    samplers: str | Iterable[str] | None = None,
    *,
    quick: bool = False,
    seed: int = 0,
    tell: Callable[[Row], None] | None = None,
) -> Table:
    """Every sampler on every law that it is asked for, beside exact references, and each once more with a planted error.

    `laws` and `samplers` are names of `LAWS` and `SAMPLERS` (a package's name stands for all of its own); `quick` takes the short
    table. `tell` is called with each row. `ValueError` for a name there is not, and for a choice without a row.
    """
    asked = pairs(laws, samplers, quick=quick)
    made = [LAWS[law].function() for law, _ in asked]
    components = sum(len(law.labels) for law in made)
    rows = []
    for number, (law, (_, name)) in enumerate(zip(made, asked, strict=True)):
        rows.append(_row(law, name, components, seed + 1000 * number))
        if tell is not None:
            tell(rows[-1])
    return Table(tuple(rows), components, seed)


def pairs(
    laws: str | Iterable[str] | None, samplers: str | Iterable[str] | None, *, quick: bool = False
) -> list[tuple[str, str]]:
    """The rows that were asked for: (law, sampler), law by law."""
    packages = {s.package for s in SAMPLERS.values()}
    laws, samplers = ([given] if isinstance(given, str) else given for given in (laws, samplers))
    for kind, names, known in (("law", laws, set(LAWS)), ("sampler", samplers, {*SAMPLERS, *packages})):
        for name in names or ():
            if name not in known:
                raise ValueError(f"no {kind} {name!r}; {did_you_mean(name, sorted(known))}")
    chosen_laws, chosen = None if laws is None else set(laws), None if samplers is None else set(samplers)
    found = [
        (law, name)
        for law in LAWS
        for name, sampler in SAMPLERS.items()
        if law in (sampler.quick if quick else sampler.steps)
        and (chosen_laws is None or law in chosen_laws)
        and (chosen is None or name in chosen or sampler.package in chosen)
    ]
    if not found:
        raise ValueError(
            "no row: none of these samplers is asked for any of these laws" + (" in the short table" if quick else "")
        )
    return found


def _row(law: Law, name: str, components: int, seed: int) -> Row:
    sampler = SAMPLERS[name]
    step = sampler.steps[law.name]
    if importlib.util.find_spec(sampler.package) is None:
        return Row(law.name, name, sampler.package, step, "not installed")
    began = time.perf_counter()
    made = sampler.function(law, step)
    observed = ours.observed if name in OURS else peers.observed
    seen, twin = (observed(made, law, step, seed + i, by) for i, by in enumerate((1.0, PLANTED)))
    reference = law.target if made[1] is None else np.asarray(made[1], np.float64)
    size = float(np.abs(law.target).max())
    critical = float(stats.t.isf(FALSE_ALARM / 2 / components, seen.parts - 1))
    z, worst = _largest(seen, reference)
    planted, _ = _largest(twin, reference)
    bias = None if made[1] is None else float(np.abs(reference - law.target).max()) / size
    resolution = critical * float(seen.stderr.max()) / size
    verdict: Verdict = "on target" if bias is None else "exact" if bias < _ROUNDING else "as its scheme"
    if not z <= critical:
        verdict = "WRONG"
    # the odds that a twin's z, of unit spread about what was measured, is beyond the critical value
    power = float(stats.norm.sf(critical - planted)) if np.isfinite(planted) else 1.0
    mean, stderr, wanted, target = (tuple(map(float, a)) for a in (seen.mean, seen.stderr, reference, law.target))
    return Row(
        law.name, name, sampler.package, step, verdict, z=z, component=law.labels[worst], critical=critical, mean=mean,
        stderr=stderr, reference=wanted, target=target, bias=bias, resolution=resolution, planted_z=planted, power=power,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _largest(seen: Seen, reference: np.ndarray) -> tuple[float, int]:
    """The largest |z| and its component; infinite where something is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(seen.mean - reference) / seen.stderr
    z = np.where(np.isfinite(z), z, np.inf)
    worst = int(np.argmax(z))
    return float(z[worst]), worst


def _finite(value: Any) -> Any:
    """What JSON can hold: None for a number that is not finite."""
    if isinstance(value, tuple):
        return [_finite(v) for v in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
