"""Distances between two laws by their moments, and total variation by their histograms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..estimate import Estimate, Unknown, jackknife, jackknife_two
from ..theory.laws.gibbs import Gibbs
from . import binned
from .cells import Cells
from .kl import check_same_boxes
from .sources import (
    MeanAndCovariance,
    Measured,
    Source,
    each_moments,
    moments,
    null_spread,
    read_covariance,
    read_histogram,
    with_outside,
)
from .temperature import check_regular

Moments = tuple[np.ndarray, np.ndarray]


class MomentDistance(NamedTuple):
    """Distances of (mean, covariance) = (m, S) from (m', S'), each an Estimate that cannot be negative.

    `mean`: ((m − m')ᵀ S'⁻¹ (m − m'))^½, in standard deviations of the second law.
    `covariance`: ‖S − S'‖_F / ‖S'‖_F.
    `wasserstein`: the 2-Wasserstein distance of the Gaussians with these moments, in units of the positions,
    W² = |m − m'|² + tr(S + S' − 2 (S'^½ S S'^½)^½); a lower bound on that of the laws.
    """

    mean: Estimate
    covariance: Estimate
    wasserstein: Estimate


def moment_distance(run: Measured, other: Any, *, statistic: str | None = None) -> MomentDistance:
    """How far the mean and covariance of a run are from those of another run, a Gibbs law, or a pair (mean, covariance).

    The squares of the distances are jackknifed, which takes out the positive bias that noise gives a square. `floor` is
    what noise alone would report. Values are None, with a reason, without a Covariance, 4 groups or a regular second
    covariance. Raises ValueError for different dimensions.
    """
    names = ("mean, in standard deviations", "covariance, relative Frobenius", "Gaussian 2-Wasserstein")
    try:
        a = read_covariance(run, statistic)
        own = moments(a)
        b = None if isinstance(other, tuple | Gibbs) else read_covariance(other, statistic)
        theirs = moments(b) if b is not None else _given(other)
        if len(own[0]) != len(theirs[0]):
            raise ValueError(f"the laws have {len(own[0])} and {len(theirs[0])} components")
        check_regular(theirs[1])
    except Unknown as why:
        return MomentDistance(*(Estimate.unknown(str(why), estimator=name) for name in names))
    squares = (_mean_square, _covariance_square, _wasserstein_square)
    return MomentDistance(*(_moment(a, b, theirs, f, name) for f, name in zip(squares, names, strict=True)))


def total_variation(run: Measured, other: Any, *, statistic: str | None = None) -> Estimate:
    """½ Σ |p_i − q_i| over the boxes of a run's histogram; `other` is a run with the same histogram or a Gibbs law.

    Noise makes |p̂ − q̂| too large, by up to `floor` (its value for identical laws) where the laws agree and by nothing
    where they differ: the interval reaches down by the floor. Boxes of finite width can only lower the distance.
    The value is None, with a reason, where it cannot be known (see `kl_to_gibbs`).
    """
    estimator = "total variation"
    try:
        a = read_histogram(run, statistic)
        shape = a.statistic.shape
        estimator = f"total variation on {'×'.join(map(str, shape))} boxes"
        p = with_outside(a.result())
        binned.check_inside(p, "the run's law")
        binned.check_resolved(p, shape, "the run's law")
        if isinstance(other, Gibbs):
            cells = Cells(other.problem, tuple(np.asarray(e) for e in a.statistic.edges), a.statistic.components)
            q = np.exp(cells.log_masses(other.temperature))
            b, variance = None, _variances(a)
        else:
            b = read_histogram(other, statistic)
            check_same_boxes(a, b)
            q = with_outside(b.result())
            variance = _variances(a) + _variances(b)
        binned.check_inside(q, "the second law")
    except Unknown as why:
        return Estimate.unknown(str(why), estimator=estimator)
    if b is None:
        estimate = jackknife(
            a.statistic, a.partials, lambda x: 0.5 * np.abs(with_outside(x) - q).sum(), estimator=estimator
        )
    else:
        estimate = jackknife_two(
            (a.statistic, a.partials),
            (b.statistic, b.partials),
            lambda x, y: 0.5 * np.abs(with_outside(x) - with_outside(y)).sum(),
            estimator=estimator,
        )
    floor = float(0.5 * np.sqrt(2 / np.pi) * np.sqrt(variance).sum())
    if not estimate.known:
        return estimate
    low, high = max(0.0, estimate.low - floor), min(1.0, estimate.high)
    return dataclasses.replace(estimate, low=low, high=high, floor=floor, note="biased up by at most the floor")


def _variances(source: Source) -> np.ndarray:
    """The variance of the mass in each box, from the groups."""
    w = source.counts / source.counts.sum()
    groups = binned.group_masses(source)
    n = len(w)
    return (w**2 @ (groups - w @ groups) ** 2) * n / (n - 1)


def _moment(a: Source, b: Source | None, theirs: Moments, square: Callable[..., float], name: str) -> Estimate:
    statistic = MeanAndCovariance()
    if b is None:
        found = jackknife(statistic, a.partials, lambda x: square(x, theirs), estimator=name, bias_corrected=True)
    else:
        found = jackknife_two(
            (statistic, a.partials), (statistic, b.partials), square, estimator=name, bias_corrected=True
        )
    if not found.known:
        return found
    # under the null the square is |f|² of a linear f: each group's own deviation from the run's moments
    spread = sum(_null(s, theirs, square) for s in (a, b) if s is not None)
    floor = float(np.sqrt(spread / np.sqrt(2 * np.pi)))
    value, low, high = (float(np.sqrt(max(0.0, v))) for v in (found.value, found.low, found.high))
    stderr = found.stderr / (2 * value) if value > floor else (high - low) / 4
    return dataclasses.replace(found, value=value, low=low, high=max(high, floor), stderr=float(stderr), floor=floor)


def _null(source: Source, theirs: Moments, square: Callable[..., float]) -> float:
    """The standard deviation of a square distance that noise alone makes."""
    mean, covariance = moments(source)
    metric = np.linalg.inv(np.linalg.cholesky(theirs[1]))
    rows = []
    for m, s in each_moments(source):
        if square is _mean_square:
            rows.append(metric @ (m - mean))
        elif square is _covariance_square:
            rows.append(((s - covariance) / np.linalg.norm(theirs[1])).ravel())
        else:
            # W² ≈ |δm|² + Σ_ij |δS_ij|²/(2(λ_i + λ_j)) in the eigenbasis of S'
            values, vectors = np.linalg.eigh(theirs[1])
            turned = vectors.T @ (s - covariance) @ vectors
            rows.append(np.concatenate([m - mean, (turned / np.sqrt(2 * (values[:, None] + values))).ravel()]))
    return 2 * null_spread([(1.0, np.stack(rows))], source.counts)


def _mean_square(ours: Moments, theirs: Moments) -> float:
    gap = np.linalg.solve(np.linalg.cholesky(theirs[1]), ours[0] - theirs[0])
    return float(gap @ gap)


def _covariance_square(ours: Moments, theirs: Moments) -> float:
    return float(((ours[1] - theirs[1]) ** 2).sum() / (theirs[1] ** 2).sum())


def _wasserstein_square(ours: Moments, theirs: Moments) -> float:
    values, vectors = np.linalg.eigh(theirs[1])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ ours[1] @ root)
    gap = ours[0] - theirs[0]
    return float(gap @ gap + np.trace(ours[1]) + np.trace(theirs[1]) - 2 * np.sqrt(np.maximum(inner, 0)).sum())


def _given(other: Any) -> Moments:
    mean, covariance = (other.mean, other.covariance) if isinstance(other, Gibbs) else other
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"give (mean [d], covariance [d, d]), got shapes {mean.shape} and {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise Unknown("the second law's mean or covariance is infinite")
    return mean, covariance
