"""Kullback–Leibler divergences in nats, from histograms and from moments, with intervals over groups and a noise floor.

Two biases are taken out. Sampling: a plug-in Σ p̂ log(p̂/q) is too large by ½ Σ Var(p̂_i)/p_i, which for independent samples
is Miller and Madow's (boxes − 1)/2N; chains are correlated, so their N is unknown, but groups of chains are not, and the
jackknife over groups removes the term whatever it is. Binning: boxes of width h hide (h²/24) E|∇ log p/q|²; a histogram
with even numbers of boxes is halved, and h² is extrapolated away, (4 KL_h − KL_2h)/3.

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
from ..theory.gaussian import gaussian_kl
from . import binned
from .fitted import LogMasses
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
        elif find(run, Covariance, None) is None or find(run, Histogram, None) is None:
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
    shape = source.statistic.shape
    groups = binned.group_masses(source)
    p = with_outside(source.result())
    binned.check_inside(p, "the run's law")
    binned.check_resolved(p, shape, "the run's law")
    law = LogMasses(problem, source.statistic, p, temperature)
    divergence = law.forward if direction == "forward" else law.reverse(p, groups)
    try:
        best = law.best_temperature(divergence, p)
    except Unknown:
        if direction == "reverse":  # a law that runs away from the chains: that is the better reason
            law.check_visited(np.exp(law.at(law.temperature)), p, groups)
        raise
    q = np.exp(law.at(best))
    binned.check_inside(q, f"the Gibbs law at T = {best:.4g}")
    binned.check_resolved(q, shape, f"the Gibbs law at T = {best:.4g}")
    if direction == "reverse":
        law.check_visited(q, p, groups)
    partial = "" if law.cells.whole else f" of components {source.statistic.components}: a lower bound"
    estimate = jackknife(
        source.statistic,
        source.partials,
        lambda masses: law.least(divergence, with_outside(masses)),
        estimator=f"{direction}, {binned.name_of(shape)}{partial}",
        bias_corrected=True,
    )
    note = f"at the {'given' if temperature is not None else 'best'} temperature T = {best:.6g}"
    return _ended_at_zero(
        estimate, null_spread(binned.null_features(groups, source.counts, shape), source.counts), note
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
    return _ended_at_zero(estimate, null_spread([(1.0, features)], source.counts), note)


def _histogram_between(run_a: Measured, run_b: Measured, statistic: str | None) -> Estimate:
    a, b = read_histogram(run_a, statistic), read_histogram(run_b, statistic)
    check_same_boxes(a, b)
    shape = a.statistic.shape
    p, q = with_outside(a.result()), with_outside(b.result())
    for masses, what in ((p, "the first run's law"), (q, "the second run's law")):
        binned.check_inside(masses, what)
        binned.check_resolved(masses, shape, what)
    groups = binned.group_masses(b)
    levels = [(q, groups)]
    if binned.can_halve(shape):
        levels.append((binned.halved(q, shape, np.add), binned.halved(groups, shape, np.add)))
    labels = [binned.joined(*level) for level in levels]
    # part 0 is all that b has hardly visited: if much of a is there, nothing is known of the ratio
    hidden = binned.gather(p, labels[0])[0]
    if hidden > binned.MOST_OUTSIDE:
        raise Unknown(
            f"{100 * hidden:.3g} % of the first run's law lies where the second has hardly been: the supports overlap too "
            "little to compare them"
        )

    def divergence(masses_a: np.ndarray, masses_b: np.ndarray) -> float:
        def level(i: int) -> float:
            x, y = with_outside(masses_a), with_outside(masses_b)
            if i:
                x, y = binned.halved(x, shape, np.add), binned.halved(y, shape, np.add)
            x, y = binned.gather(x, labels[i]), binned.gather(y, labels[i])
            if (y[x > 0] == 0).any():
                raise Unknown("a box that one run visits is empty in the other: use more groups or wider boxes")
            return float((x[x > 0] * np.log(x[x > 0] / y[x > 0])).sum())

        return binned.extrapolated(level, shape)

    estimate = jackknife_two(
        (a.statistic, a.partials),
        (b.statistic, b.partials),
        divergence,
        estimator=binned.name_of(shape),
        bias_corrected=True,
    )
    spread = two_run_spread(
        a, b, lambda s: [(w, f) for w, f in binned.null_features(binned.group_masses(s), s.counts, shape)]
    )
    return _ended_at_zero(estimate, spread)


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
    spread = two_run_spread(a, b, lambda s: [(1.0, gaussian_features(s, *moments(s), fitted=False))])
    return _ended_at_zero(estimate, spread)


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


def two_run_spread(a: Source, b: Source, features: Any) -> float:
    """`null_spread` for the difference of two runs: their noises add."""
    # Var ½|f_a − f_b|² = ½ tr (A + B)², and A ≈ B under the null up to the number of samples.
    x, y = null_spread(features(a), a.counts), null_spread(features(b), b.counts)
    return x + y


def check_same_boxes(a: Source, b: Source) -> None:
    """ValueError unless both histograms have the same components and edges."""
    same = a.statistic.components == b.statistic.components and a.statistic.shape == b.statistic.shape
    if not same or any(
        np.abs(np.asarray(x) - np.asarray(y)).max() > 1e-6 * np.ptp(np.asarray(x))
        for x, y in zip(a.statistic.edges, b.statistic.edges, strict=True)
    ):
        raise ValueError("the two runs' histograms have different components or edges: give both the same Histogram")


def _ended_at_zero(estimate: Estimate, spread: float, note: str | None = None) -> Estimate:
    """The estimate cut at 0, with its floor: E max(0, N(0, spread²)) = spread/√(2π)."""
    floor = spread / np.sqrt(2 * np.pi)
    if not estimate.known:
        return dataclasses.replace(estimate, floor=floor)
    value, low, high = max(0.0, estimate.value), max(0.0, estimate.low), max(floor, estimate.high)
    return dataclasses.replace(estimate, value=value, low=low, high=high, floor=floor, note=note)
