"""Kullback–Leibler divergences in nats, from histograms and from moments, with intervals over groups and a noise floor.

Three errors are taken out of the histogram's. Sampling: a plug-in Σ p̂ log(p̂/q) is too large by ½ Σ Var(p̂_i)/p_i, which for
independent samples is Miller and Madow's (boxes − 1)/2N; chains are correlated, so their N is unknown, but groups of chains
are not, and the jackknife over groups removes the term whatever it is. Rare boxes, where that is not enough, are pooled
with neighbours (`binned`), and a smooth reference that follows p makes pooling cost nothing (`reference`). Binning: boxes
of width h hide (h²/24) E|∇ log p/q|²; the histogram is halved, and h² is extrapolated away, (4 KL_h − KL_2h)/3.

What is left is of either sign when the true KL is zero; a KL is never negative, so value and interval end at 0. `floor` is
what the estimator would report on average for identical laws, with this many boxes and samples.

Sources: G. Miller (1955); L. Paninski, Neural Computation 15 (2003) 1191.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from ..estimate import Estimate, Unknown, jackknife, jackknife_two
from ..statistics import Covariance, Histogram
from ..theory.laws.gaussian import gaussian_kl
from . import binned
from .fitted import LogMasses
from .reference import Tilt
from .sources import (
    MeanAndCovariance,
    Measured,
    Source,
    each_moments,
    find,
    moments,
    null_spread,
    read_covariance,
    read_histogram,
    with_outside,
)
from .temperature import Direction, Local, check_direction, check_regular

Method = Literal["auto", "histogram", "gaussian"]


def kl_to_gibbs(
    run: Measured,
    problem: Any,
    temperature: float | None = None,
    *,
    method: Method = "auto",
    direction: Direction = "forward",
    statistic: str | None = None,
) -> Estimate:
    """KL(p‖Gibbs) (forward) or KL(Gibbs‖p) (reverse) in nats, p the law that the run sampled.

    `temperature` None takes the Gibbs law that is closest in this KL. "histogram" needs a Histogram of all components of the
    problem (of some: their marginals are compared, which bounds the KL from below, and the estimator's name says so);
    "gaussian" needs a Covariance and a loss that is quadratic at the law's scale, and is the KL of the Gaussian with the
    measured mean and covariance: a lower bound where p is not Gaussian. "auto" prefers the histogram. `statistic` names
    the statistic to read, else the first of its kind is.

    The value is None, with a reason, where it cannot be known: fewer than 4 groups, no Gibbs law, more than 5 % of either
    law outside the boxes, boxes too wide, identical points, a loss that is not quadratic.
    Raises ValueError for an unknown method or direction and a temperature that is not positive.
    """
    check_direction(direction)
    if temperature is not None:
        temperature = float(temperature)
        if not (np.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return _first_that_knows(
        {
            "histogram": lambda: _histogram_to_gibbs(run, problem, temperature, direction, statistic),
            "gaussian": lambda: _gaussian_to_gibbs(run, problem, temperature, direction, statistic),
        },
        method,
        run,
        statistic,
    )


def kl_between(run_a: Measured, run_b: Measured, *, method: Method = "auto", statistic: str | None = None) -> Estimate:
    """KL(p_a‖p_b) in nats of the laws that two runs sampled.

    "histogram": both runs need a Histogram of the same components and edges; boxes that fewer than half of b's groups have
    visited are joined with the outside (joining can only lower a KL). "gaussian": the closed form from both means and
    covariances, the KL of the laws themselves only when both are Gaussian. "auto" prefers the histogram. Where the runs
    have as many groups, these are left out of both together, so runs that share random numbers have the right interval.

    The value is None, with a reason, where it cannot be known: see `kl_to_gibbs`; also where the laws hardly overlap.
    Raises ValueError for histograms with different edges or runs of different dimensions.
    """
    return _first_that_knows(
        {
            "histogram": lambda: _histogram_between(run_a, run_b, statistic),
            "gaussian": lambda: _gaussian_between(run_a, run_b, statistic),
        },
        method,
        run_a,
        statistic,
    )


def _first_that_knows(tries: dict[str, Any], method: str, run: Measured, statistic: str | None) -> Estimate:
    if method not in ("auto", *tries):
        raise ValueError(f"method is 'auto', 'histogram' or 'gaussian', got {method!r}")
    names = [method]
    if method == "auto":
        names = list(tries)
        if statistic is not None:
            names = ["gaussian" if isinstance(run.statistic(statistic), Covariance) else "histogram"]
        elif (find(run, Covariance, None) is None) != (find(run, Histogram, None) is None):
            names = ["gaussian" if find(run, Histogram, None) is None else "histogram"]
    refusals = []
    for name in names:
        try:
            return tries[name]()
        except Unknown as why:
            refusals.append(f"{name}: {why}" if len(names) > 1 else str(why))
    return Estimate.unknown("; ".join(refusals), estimator=" or ".join(names))


def _histogram_to_gibbs(
    run: Measured, problem: Any, temperature: float | None, direction: Direction, statistic: str | None
) -> Estimate:
    source = read_histogram(run, statistic)
    shape, groups = source.statistic.shape, binned.group_masses(source)
    p = with_outside(source.result())
    binned.check_inside(p, "the run's law")
    binned.check_resolved(p, shape, "the run's law")
    parts = binned.partitions(p, groups, shape, divisor=direction == "reverse")
    binned.check_parts(parts)
    law = LogMasses(problem, source.statistic, p, parts, temperature, direction)
    try:
        best = law.best_temperature(p)
    except Unknown:
        if direction == "reverse":  # a law that runs away from the chains: that is the better reason
            _check_visited(np.exp(law.at(law.temperature)), parts)
        raise
    q = np.exp(law.at(best))
    binned.check_inside(q, f"the Gibbs law at T = {best:.4g}")
    binned.check_resolved(q, shape, f"the Gibbs law at T = {best:.4g}")
    if direction == "reverse":
        _check_visited(q, parts)
    partial = "" if law.cells.whole else f" of components {source.statistic.components}: a lower bound"
    estimate = jackknife(
        source.statistic,
        source.partials,
        lambda masses: law.least(with_outside(masses)),
        estimator=f"{direction}, {binned.name_of(shape, parts)}{partial}",
        bias_corrected=True,
    )
    note = f"at the {'given' if temperature is not None else 'best'} temperature T = {best:.6g}"
    return _reported(estimate, null_spread(binned.null_features(groups, source.counts, parts), source.counts), note)


def _check_visited(q: np.ndarray, parts: list[binned.Partition]) -> None:
    """Unknown when much of the Gibbs law q lies where the chains have hardly been: KL(q‖p) is made there."""
    hidden = float(parts[0].gather(q)[0])
    if hidden > binned.MOST_OUTSIDE:
        raise Unknown(
            f"{100 * hidden:.3g} % of the Gibbs law lies where the chains have hardly been: KL(Gibbs‖p) needs more samples"
        )


def _gaussian_to_gibbs(
    run: Measured, problem: Any, temperature: float | None, direction: Direction, statistic: str | None
) -> Estimate:
    source = read_covariance(run, statistic)
    mean, covariance = moments(source)
    check_regular(covariance)
    local = Local(problem, mean, covariance)
    inverse = np.linalg.inv(local.hessian)

    def divergence(result: tuple[np.ndarray, np.ndarray]) -> float:
        m, s = result
        t = local.best_temperature(m, s, direction) if temperature is None else temperature
        gibbs = (local.centre, t * inverse)
        return gaussian_kl(m, s, *gibbs) if direction == "forward" else gaussian_kl(*gibbs, m, s)

    estimate = jackknife(
        MeanAndCovariance(),
        source.partials,
        divergence,
        estimator=f"{direction}, Gaussian plug-in from mean and covariance{local.caveat}, bias removed by jackknife",
        bias_corrected=True,
    )
    best = local.best_temperature(mean, covariance, direction) if temperature is None else temperature
    note = f"at the {'given' if temperature is not None else 'best'} temperature T = {best:.6g}"
    features = gaussian_features(source, mean, covariance, fitted=temperature is None)
    return _reported(estimate, null_spread([(1.0, features)], source.counts), note)


def _histogram_between(run_a: Measured, run_b: Measured, statistic: str | None) -> Estimate:
    a, b = read_histogram(run_a, statistic), read_histogram(run_b, statistic)
    check_same_boxes(a, b)
    shape = a.statistic.shape
    p, q = with_outside(a.result()), with_outside(b.result())
    for masses, what in ((p, "the first run's law"), (q, "the second run's law")):
        binned.check_inside(masses, what)
        binned.check_resolved(masses, shape, what)
    each = [binned.group_masses(s) for s in (a, b)]
    fewest = min(len(groups) for groups in each)
    parts = binned.partitions(np.stack([p, q]), np.stack([_regrouped(g, fewest) for g in each]), shape, divisor=True)
    # part 0 is all that one of the runs has hardly visited: if much of the first is there, nothing is known of the ratio
    hidden = float(parts[0].gather(p)[0])
    if hidden > binned.MOST_OUTSIDE:
        raise Unknown(
            f"{100 * hidden:.3g} % of the first run's law lies where one of the two has hardly been: the supports overlap "
            "too little, or the samples are too few, to compare them"
        )
    binned.check_parts(parts)

    edges = tuple(np.asarray(e, np.float64) for e in a.statistic.edges)
    log_sizes = np.log(np.prod(np.meshgrid(*map(np.diff, edges), indexing="ij"), axis=0)).ravel()
    tilts = Tilt(edges, p), Tilt(edges, q)

    def divergence(masses_a: np.ndarray, masses_b: np.ndarray) -> np.ndarray:
        x, y = with_outside(masses_a), with_outside(masses_b)
        log_r, log_s = (np.append(t.fit(m, log_sizes), -np.inf) for t, m in zip(tilts, (x, y), strict=True))
        with np.errstate(divide="ignore"):
            log_y = np.log(y)
        both = [part.divergence(x, log_y, log_r, rare="both", log_s=log_s) for part in parts]
        return np.stack(binned.extrapolated(both))

    estimate = jackknife_two(
        (a.statistic, a.partials),
        (b.statistic, b.partials),
        divergence,
        estimator=binned.name_of(shape, parts),
        bias_corrected=True,
    )
    spread = sum(
        null_spread(binned.null_features(g, s.counts, parts), s.counts) for g, s in zip(each, (a, b), strict=True)
    )
    return _reported(estimate, float(spread))


def _regrouped(groups: np.ndarray, fewest: int) -> np.ndarray:
    """Groups ["G boxes+1"] put together until there are only so many, to ask of two runs how many have visited a box."""
    return np.add.reduceat(groups, np.arange(fewest) * len(groups) // fewest, axis=0)


def _gaussian_between(run_a: Measured, run_b: Measured, statistic: str | None) -> Estimate:
    a, b = read_covariance(run_a, statistic), read_covariance(run_b, statistic)
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    if len(mean_a) != len(mean_b):
        raise ValueError(f"the runs have {len(mean_a)} and {len(mean_b)} components")
    check_regular(cov_a)
    check_regular(cov_b)
    statistic_of_both = MeanAndCovariance()
    estimate = jackknife_two(
        (statistic_of_both, a.partials),
        (statistic_of_both, b.partials),
        lambda x, y: gaussian_kl(*x, *y),
        estimator="Gaussian plug-in from means and covariances, bias removed by jackknife",
        bias_corrected=True,
    )
    # Var ½|f_a − f_b|² = ½ tr (A + B)², and A is nearly a multiple of B when the laws are the same
    spread = sum(null_spread([(1.0, gaussian_features(s, *moments(s), fitted=False))], s.counts) for s in (a, b))
    return _reported(estimate, float(spread))


def gaussian_features(source: Source, mean: np.ndarray, covariance: np.ndarray, *, fitted: bool) -> np.ndarray:
    """Coordinates ["G k"] of each group's mean and covariance in which a Gaussian KL is ½|f|² near zero.

    f = (R⁻¹(m − mean), (R⁻¹SR⁻ᵀ − I)/√2) with covariance = RRᵀ; a fitted temperature takes out the trace.
    """
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    rows = []
    for m, s in each_moments(source):
        w = root @ s @ root.T - np.eye(len(mean))
        if fitted:
            w = w - np.trace(w) / len(mean) * np.eye(len(mean))
        rows.append(np.concatenate([root @ (m - mean), w.ravel() / np.sqrt(2)]))
    return np.stack(rows)


def check_same_boxes(a: Source, b: Source) -> None:
    """ValueError unless both histograms have the same components and edges."""
    same = a.statistic.components == b.statistic.components and a.statistic.shape == b.statistic.shape
    if not same or any(
        np.abs(np.asarray(x) - np.asarray(y)).max() > 1e-6 * np.ptp(np.asarray(x))
        for x, y in zip(a.statistic.edges, b.statistic.edges, strict=True)
    ):
        raise ValueError("the two runs' histograms have different components or edges: give both the same Histogram")


def _reported(estimate: Estimate, spread: float, note: str | None = None) -> Estimate:
    """The estimate cut at 0, with its floor E max(0, N(0, spread²)) = spread/√(2π).

    A vector is (value, what extrapolation in box width added): the interval reaches a third of that further, for what
    extrapolation may leave.
    """
    floor = spread / np.sqrt(2 * np.pi)
    if not estimate.known:
        return dataclasses.replace(estimate, floor=floor, note=note)
    value, stderr, low, high = (np.atleast_1d(getattr(estimate, k)) for k in ("value", "stderr", "low", "high"))
    reach = binned.LEFT_BY_EXTRAPOLATION * abs(float(value[1])) if len(value) > 1 else 0.0
    if reach > stderr[0]:
        coarse = f"the width of the boxes matters by {reach:.2g}: narrower ones would give a smaller interval"
        note = coarse if note is None else f"{note}; {coarse}"
    return dataclasses.replace(
        estimate,
        value=max(0.0, float(value[0])),
        stderr=float(stderr[0]),
        low=max(0.0, float(low[0]) - reach),
        high=max(floor, float(high[0]) + reach),
        floor=float(floor),
        note=note,
    )
