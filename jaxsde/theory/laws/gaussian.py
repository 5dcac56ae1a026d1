"""KL divergences between Gaussians, and the temperature of the Gibbs law closest to one.

Near a minimum Φ* the Gibbs law of a quadratic loss is N(Φ*, T H⁻¹). For a law N(m, S) of the parameters, δ = m − Φ*:

    KL(N ‖ Gibbs) = ½ [ (tr HS + δᵀHδ)/T − d + d log T − log det HS ]          least at T = (tr HS + δᵀHδ)/d
    KL(Gibbs ‖ N) = ½ [ T tr (HS)⁻¹ + δᵀS⁻¹δ − d − d log T + log det HS ]      least at T = d / tr (HS)⁻¹

At the best temperature the forward one is −½ log det(HS/T) when δ = 0: for the SDE with constant noise it does not depend on η.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import checks, float64
from ..minimum import minimum


def gaussian_kl(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """KL(N(mean1, cov1) ‖ N(mean2, cov2)) in nats: ½ [tr S₂⁻¹S₁ + δᵀS₂⁻¹δ − d − log det S₂⁻¹S₁].

    Infinite where one of the covariances is singular (for numbers; two laws on one common subspace are not told apart from
    laws on two). `ValueError` for means or covariances of the wrong shape, with NaN, not symmetric or indefinite.
    """
    mean1 = checks.vector(mean1, None, "mean1")
    dim = mean1.size
    mean2 = checks.vector(mean2, dim, "mean2")
    first = checks.covariance(cov1, dim, "cov1")
    second = checks.covariance(cov2, dim, "cov2")
    if _singular(first) or _singular(second):
        return math.inf
    root = np.linalg.cholesky(second)
    whitened = np.linalg.solve(root, np.linalg.solve(root, first).T)
    ratio = np.linalg.eigvalsh((whitened + whitened.T) / 2)
    shift = np.linalg.solve(root, mean1 - mean2)
    if ratio[0] <= 0:
        return math.inf
    # x − 1 − log x summed: no cancellation when the laws are close.
    return float(0.5 * (np.sum((ratio - 1) - np.log1p(ratio - 1)) + shift @ shift))


def best_temperature(problem: Any, cov: Any, direction: str = "forward", *, mean: Any = None) -> float:
    """The temperature T* whose Gibbs law, N(Φ*, T H⁻¹), is closest to N(mean, cov): see the equations at the head.

    `direction` "forward" minimises KL(p‖Gibbs), "reverse" KL(Gibbs‖p); `mean` defaults to the minimum Φ*. H is the Hessian
    at Φ*: exact for a quadratic loss, the leading order in small noise for another. `temperature_of_loss` is exact for any loss.

    Raises `ValueError` where the minimum is not isolated (no Gibbs law) and, in reverse, for a singular covariance.
    """
    checks.one_of(direction, ("forward", "reverse"), "direction")
    covariance, centre, h = _local(problem, cov)
    shift = 0.0 if mean is None else checks.vector(mean, problem.dim, "mean") - centre
    if direction == "forward":
        excess = float(shift @ h @ shift) if mean is not None else 0.0
        best = (float(np.trace(h @ covariance)) + excess) / problem.dim
        if best <= 0:
            raise ValueError("the covariance is zero: no temperature fits a single point")
        return best
    if _singular(covariance):
        raise ValueError("cov is singular: KL(Gibbs‖p) is infinite at every temperature")
    return problem.dim / float(np.trace(np.linalg.inv(h) @ np.linalg.inv(covariance)))


def gaussian_kl_to_gibbs(
    problem: Any, cov: Any, temperature: Any = None, direction: str = "forward", *, mean: Any = None
) -> float:
    """KL in nats between N(mean, cov) and the Gibbs law N(Φ*, T H⁻¹), at `temperature` or (None) at the best one.

    "forward" is KL(p‖Gibbs), "reverse" KL(Gibbs‖p). `mean` defaults to Φ*. H is the Hessian at Φ*: exact for a quadratic loss.
    `ValueError` as `best_temperature`; infinite for a singular covariance.
    """
    checks.one_of(direction, ("forward", "reverse"), "direction")
    covariance, centre, h = _local(problem, cov)
    if _singular(covariance):
        return math.inf
    if temperature is None:
        temperature = best_temperature(problem, covariance, direction, mean=mean)
    temperature = checks.positive(temperature, "temperature")
    place = centre if mean is None else checks.vector(mean, problem.dim, "mean")
    gibbs = temperature * np.linalg.inv(h)
    if direction == "forward":
        return gaussian_kl(place, covariance, centre, gibbs)
    return gaussian_kl(centre, gibbs, place, covariance)


def _local(problem: Any, cov: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    checks.problem(problem)
    covariance = checks.covariance(cov, problem.dim, "cov")
    centre = minimum(problem)
    return covariance, centre, float64.evaluate(float64.hessian, float64.widen(problem), centre)


def _singular(matrix: np.ndarray) -> bool:
    scales = np.sqrt(np.maximum(np.diag(matrix), 0))
    if not scales.all():
        return True
    # Correlations, so that axes of very different sizes are not taken for a missing rank.
    values = np.linalg.eigvalsh(matrix / np.outer(scales, scales))
    return bool(values[0] <= 4 * len(values) * np.finfo(float).eps * values[-1])
