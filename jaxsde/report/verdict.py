"""The verdict: is the stationary law Gibbs, at what temperature, how far off, and which assumption failed?

Four questions, each answered "yes", "no" or "undecided" with the estimate behind it:

- stationary: do the means of Φ, of its squares and of L drift from the first half of the run to the second?
- gibbs: KL(p‖Gibbs) at the closest temperature, against a tolerance and against the estimator's own noise floor
- equilibrium: ⟨Φᵢ(t+τ)Φⱼ(t)⟩ is symmetric in i, j when time has no direction; its antisymmetric part is the area rate times τ
- reasons: what makes SGD's law differ from Gibbs, each with the size of its effect
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from scipy import stats

from ..estimate import Estimate, from_left_out
from ..metrics import fit_temperature, kl_to_gibbs
from ..statistics import Autocovariance, Course, Covariance, Mean, MeanLoss, Of, of
from ..types import Problem, Statistic
from .reasons import Reason, reasons

Reading = Literal["yes", "no", "undecided"]

# The odds that a check that tests for a difference finds one where there is none, over all its components.
FALSE_ALARM = 1e-3
# What an interval must resolve for "no current" to be a finding: a hundredth of the product of the standard deviations.
RESOLUTION = 0.01


@dataclasses.dataclass(frozen=True)
class Check:
    """One question: the `reading`, the estimate with the value `expected` if the answer were plain yes, the largest |z| of
    its components with the critical value, and a sentence."""

    name: str
    reading: Reading
    sentence: str
    estimate: Estimate | None = None
    expected: float | None = None
    z: float | None = None
    critical: float | None = None

    def to_json(self) -> dict[str, Any]:
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.z is not None and not np.isfinite(self.z):
            out["z"] = None  # a drift without any spread; JSON has no infinity, and the sentence says it
        return out | {"estimate": None if self.estimate is None else self.estimate.to_json()}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What `is_gibbs` found. `temperature` and `kl` are unknown, with the reason, where they would mean nothing."""

    stationary: Check
    gibbs: Check
    equilibrium: Check
    temperature: Estimate
    kl: Estimate
    reasons: tuple[Reason, ...]
    diverged: int
    sentence: str

    def __str__(self) -> str:
        lines = [self.sentence]
        lines += [
            f"  {c.name:<12} {c.reading:<10} {c.sentence}" for c in (self.stationary, self.gibbs, self.equilibrium)
        ]
        lines += [f"  {'reason' if r.holds else 'not':<12} {r.name:<22} {r.sentence}" for r in self.reasons]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        checks = {c.name: c.reading for c in (self.stationary, self.gibbs, self.equilibrium)}
        details = {c.name: c.to_json() for c in (self.stationary, self.gibbs, self.equilibrium)}
        return checks | {
            "sentence": self.sentence,
            "reasons": [r.to_json() for r in self.reasons],
            "checks": details,
        }


def verdict_statistics(problem: Problem) -> dict[str, Statistic]:
    """The statistics that `is_gibbs` reads: give them to `simulate`, with a `Histogram` beside them for a loss that is not
    quadratic."""
    return {
        "mean": Mean(),
        "covariance": Covariance(),
        "loss": MeanLoss(problem),
        "course": of(Partial(_watched, problem), Course(8)),
        "lagged": Autocovariance((1, 2, 4, 8)),
    }


def _watched(problem: Problem, phi: Any) -> Any:
    """What must not drift: every component, its square (a free diffusion has no drift, it spreads), and the loss."""
    spread = (phi - problem.start.astype(phi.dtype)) ** 2
    return jnp.concatenate([phi, spread, problem.loss(phi)[None]])


def is_gibbs(run: Any, problem: Problem, *, temperature: float | None = None, tolerance: float = 0.01) -> Verdict:
    """Is the law that `run` sampled the Gibbs law of `problem`?

    `run` needs a `Covariance` or a `Histogram` (for the KL), and better all of `verdict_statistics(problem)`. `temperature`
    None takes the closest Gibbs law, T* = argmin KL(p‖Gibbs_T). The law counts as Gibbs when the interval of the KL lies
    below `tolerance` nats, as not Gibbs when it lies above both the tolerance and the estimator's noise floor, and as
    undecided otherwise. A law that is not stationary yet gets no KL.
    """
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be a positive number of nats, got {tolerance}")
    gone = int(np.sum(run.diverged))
    if gone == run.chains:
        return _nothing(
            run, f"all {gone} chains diverged, the last at step {int(run.diverged_at.max())}: there is no law"
        )
    alpha = getattr(getattr(run.chain, "gradient", None), "alpha", None)
    if alpha is not None and float(alpha) < 2:
        return _nothing(run, f"the law has no finite variance (alpha = {float(alpha):g}), so no temperature: it is not Gibbs")
    stationary = stationarity(run)
    if stationary.reading == "no":
        kl = divergence(run, problem, temperature)
        return _nothing(run, "not stationary yet: run longer, or discard more", stationary, _gibbs(kl, tolerance))
    fitted = fit_temperature(run, problem) if temperature is None else _given(temperature)
    kl = divergence(run, problem, temperature)
    gibbs = _gibbs(kl, tolerance)
    equilibrium = _equilibrium(run)
    why = reasons(run, problem)
    return Verdict(
        stationary, gibbs, equilibrium, fitted, kl, why, gone, _sentence(run, gibbs, equilibrium, fitted, kl, why, gone)
    )


def divergence(run: Any, problem: Problem, temperature: float | None = None) -> Estimate:
    """KL(p‖Gibbs) by the estimator that suits the dimension: boxes up to two, beyond them Gaussian moments where the loss is
    quadratic at the law's scale (boxes of three dimensions are coarse and slow, and there are none of four)."""
    if problem.dim > 2 and _find(run.statistics, Covariance) is not None:
        kl = kl_to_gibbs(run, problem, temperature, method="gaussian")
        if kl.known:
            return kl
    return kl_to_gibbs(run, problem, temperature)


def _nothing(run: Any, reason: str, stationary: Check | None = None, gibbs: Check | None = None) -> Verdict:
    """No number, and why; of the Gibbs law only that there is none, which needs no run."""
    if gibbs is not None and gibbs.reading == "no" and not (gibbs.estimate and gibbs.estimate.known):
        reason = f"not stationary, and not Gibbs whatever the run: {gibbs.sentence}"
    else:
        gibbs = None
    unknown = Estimate.unknown(reason)
    undecided = {n: Check(n, "undecided", reason) for n in ("stationary", "gibbs", "equilibrium")}
    stationary = stationary or undecided["stationary"]
    gone = int(np.sum(run.diverged))
    return Verdict(
        stationary,
        gibbs or undecided["gibbs"],
        undecided["equilibrium"],
        unknown,
        unknown,
        (),
        gone,
        reason[0].upper() + reason[1:] + ".",
    )


def _given(temperature: float) -> Estimate:
    return Estimate(temperature, 0.0, temperature, temperature, 0, "given")


def stationarity(run: Any) -> Check:
    """Whether means drift along the run: from its Course, else from its Covariance and last positions."""
    name = _find(run.statistics, Course)
    if name is not None:
        drift = run.estimate(name, _halves)
        if not drift.known:
            return Check("stationary", "undecided", drift.reason or "", drift, 0.0)
        what = "from the first half to the second"
    else:
        drift = _end_against_average(run)
        if not drift.known:
            return Check("stationary", "undecided", drift.reason or "", drift, 0.0)
        what = "from the average over time to the last positions"
    z, critical = float(np.max(np.abs(drift.z(0.0)))), _critical(drift)
    if z > critical:
        sentence = f"means drift {what}: largest |z| {z:.1f}, critical {critical:.1f}"
        return Check("stationary", "no", sentence, drift, 0.0, z, critical)
    return Check("stationary", "yes", f"no drift {what}: largest |z| {z:.1f} < {critical:.1f}", drift, 0.0, z, critical)


def _halves(windows: np.ndarray) -> np.ndarray:
    half = len(windows) // 2
    if half == 0:
        return np.full(windows.shape[-1], np.nan)
    return windows[-half:].mean(axis=0) - windows[:half].mean(axis=0)


def _end_against_average(run: Any) -> Estimate:
    """E[Φ] and E[ΦᵢΦᵢ] of the last positions less those over time, by groups."""
    # of the positions themselves, not of an observable
    name = next((n for n, s in run.statistics.items() if isinstance(s, Covariance)), None)
    if name is None:
        return Estimate.unknown("stationarity is not known: add Course or Covariance to the run's statistics")
    statistic, partials, alive = run.statistic(name), run.partials(name), ~run.diverged
    rows = []
    for g in range(len(run.group_sizes)):
        own = jax.tree.map(lambda a, g=g: a[g : g + 1], partials)
        x = run.positions[(run.group == g) & alive]
        if len(x):
            mean, variance = statistic.mean(own), np.diag(np.atleast_2d(statistic.result(own)))
            rows.append(np.concatenate([x.mean(0) - mean, (x**2).mean(0) - variance - mean**2]))
    if len(rows) < 4:
        return Estimate.unknown("fewer than 4 groups with chains: stationarity is not known")
    each = np.asarray(rows)
    left_out = (each.sum(0) - each) / (len(each) - 1)
    return from_left_out(each.mean(0), left_out, np.ones(len(each)), estimator="last positions less time average")


def _gibbs(kl: Estimate, tolerance: float) -> Check:
    if not kl.known:
        reading: Reading = "no" if "no Gibbs law" in str(kl.reason) else "undecided"
        return Check("gibbs", reading, str(kl.reason), kl, 0.0)
    floor = kl.floor or 0.0
    value = f"KL {kl.value:.4g} [{kl.low:.4g}, {kl.high:.4g}] nats, floor {floor:.2g}, tolerance {tolerance:g}"
    if kl.high < tolerance:
        return Check("gibbs", "yes", value, kl, 0.0)
    return Check("gibbs", "no" if kl.low > max(tolerance, floor) else "undecided", value, kl, 0.0)


def _equilibrium(run: Any) -> Check:
    if run.chain.dim == 1:
        return Check("equilibrium", "yes", "one dimension has no room for a current")
    name = _find(run.statistics, Autocovariance)
    if name is None:
        return Check("equilibrium", "undecided", "not measured: add Autocovariance to the run's statistics")
    area = run.estimate(name, _asymmetry)
    if not area.known:
        return Check("equilibrium", "undecided", area.reason or "", area, 0.0)
    z, critical = float(np.max(np.abs(area.z(0.0)))), _critical(area)
    largest = float(np.max(np.abs(area.value)))
    if z > critical:
        sentence = f"time has a direction: lagged correlations differ by up to {largest:.3g} when reversed, |z| {z:.1f}"
        return Check("equilibrium", "no", sentence, area, 0.0, z, critical)
    seen = float(np.max(area.high - area.low)) / 2
    if seen > RESOLUTION:
        return Check("equilibrium", "undecided", "too few samples to see a current", area, 0.0, z, critical)
    sentence = f"no current seen: |z| {z:.1f} < {critical:.1f}, to {seen:.2g} of the lagged correlations"
    return Check("equilibrium", "yes", sentence, area, 0.0, z, critical)


def _asymmetry(lagged: np.ndarray) -> np.ndarray:
    """(Cᵢⱼ(τ) − Cⱼᵢ(τ)) / 2√(Vᵢ Vⱼ) for i < j at every lag; V at the shortest lag bounds the variances from below."""
    i, j = np.triu_indices(lagged.shape[-1], 1)
    scale = np.sqrt(np.abs(np.diagonal(lagged[0])))
    return ((lagged[:, i, j] - lagged[:, j, i]) / 2 / (scale[i] * scale[j])).ravel()


def _critical(estimate: Estimate) -> float:
    """The |z| that the largest of the components exceeds with probability FALSE_ALARM: Bonferroni, Student t."""
    return float(stats.t.isf(FALSE_ALARM / 2 / max(np.size(estimate.value), 1), max(estimate.groups - 1, 1)))


def _find(statistics: Mapping[str, Any], kind: type) -> str | None:
    """The first statistic of a kind, or the first of an observable that is."""
    for name, s in statistics.items():
        if isinstance(s, kind) or (isinstance(s, Of) and isinstance(s.statistic, kind)):
            return name
    return None


def _sentence(
    run: Any, gibbs: Check, equilibrium: Check, fitted: Estimate, kl: Estimate, why: tuple[Reason, ...], gone: int
) -> str:
    at = f"T* = {fitted.value:.4g} [{fitted.low:.4g}, {fitted.high:.4g}]" if fitted.known else "an unknown temperature"
    if gibbs.reading == "yes":
        text = f"The stationary law is Gibbs at {at} to within {kl.high:.2g} nats"
    elif gibbs.reading == "no" and not kl.known:
        text = f"The law is not Gibbs: {kl.reason}"
    elif gibbs.reading == "no":
        away = f"{kl.value:.3g} nats [{kl.low:.3g}, {kl.high:.3g}] away"
        text = f"The stationary law is not Gibbs: from the closest one, at {at}, it is {away}"
    else:
        text = f"Whether the stationary law is Gibbs is undecided: {gibbs.sentence}"
    if equilibrium.reading == "no":
        text += ", and it carries a current"
    held = [r.phrase for r in why if r.holds]
    if held and gibbs.reading == "no":
        text += ", because " + (held[0] if len(held) == 1 else ", ".join(held[:-1]) + " and " + held[-1])
    if gone:
        text += f"; {gone} of {run.chains} chains diverged and are left out"
    return text + "."
