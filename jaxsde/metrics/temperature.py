"""The temperature of the Gibbs law that is closest to what the chains sample.

Forward, KL(p‖Gibbs(T)) = −h(p) + E_p[L]/T + log Z(T), so T* solves E_Gibbs(T)[L] = E_p[L]: the mean loss is all it depends
on, for any loss and any p. For a quadratic loss E_Gibbs(T)[L] = L* + dT/2, and T* = (tr HS + δᵀHδ)/d with δ = mean − Φ*.
Reverse, KL(Gibbs(T)‖p) for a Gaussian p and a quadratic loss is least at T* = d / tr (HS)⁻¹.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import optimize

from ..estimate import Estimate, Unknown, jackknife
from ..statistics import Covariance
from ..theory import float64
from ..theory.laws.gibbs import gibbs
from ..theory.minimum import minimum
from .sources import MeanAndCovariance, Measured, find, find_mean_loss, moments, read, read_covariance

Direction = Literal["forward", "reverse"]
# Hessians at the law's own scale that differ by less than this (whitened) are those of a quadratic; beyond the second,
# nothing Gaussian is said.
QUADRATIC, NEARLY_QUADRATIC = 1e-3, 0.3


def fit_temperature(
    run: Measured,
    problem: Any,
    *,
    direction: Direction = "forward",
    statistic: str | None = None,
) -> Estimate:
    """T* with a jackknife interval over groups.

    Forward: from the run's MeanLoss where it has one (any loss; d ≤ 3 or a quadratic one), else from its Covariance (a
    quadratic loss); reverse: from its Covariance. `statistic` names the one to use. The value is None, with the reason,
    where there is no Gibbs law, no such statistic, or no interval. Raises ValueError for an unknown direction.
    """
    check_direction(direction)
    estimator = f"{direction} temperature"
    try:
        loss = find_mean_loss(run) if statistic is None else statistic
        if direction == "forward" and loss is not None and getattr(run.statistic(loss), "of_loss", False):
            return _from_mean_loss(run, problem, loss)
        if statistic is None and find(run, Covariance, None) is None:
            raise Unknown("the run has neither MeanLoss nor Covariance: add one to its statistics")
        source = read_covariance(run, statistic)
        local = Local(problem, *moments(source))
        return jackknife(
            MeanAndCovariance(),
            source.partials,
            lambda both: local.best_temperature(both[0], both[1], direction),
            estimator=f"{estimator}, from the covariance{local.caveat}",
            bias_corrected=direction == "reverse",
        )
    except Unknown as why:
        return Estimate.unknown(str(why), estimator=estimator)


class Local:
    """A problem near its minimum, as the quadratic L* + ½ (Φ − Φ*)ᵀ H (Φ − Φ*): exact, nearly so, or refused.

    Hessians at the law's own scale (8 points drawn from N(mean, covariance)) are compared with the one at Φ*. Raises
    Unknown where they differ by more than 30 %, or where the loss has no isolated minimum.
    """

    def __init__(self, problem: Any, mean: np.ndarray, covariance: np.ndarray):
        if len(mean) != problem.dim:
            raise ValueError(f"the run has {len(mean)} components, the problem {problem.dim}")
        try:
            self.centre = minimum(problem)
        except ValueError as error:
            raise Unknown(f"no Gibbs law: {error}") from error
        wide = float64.widen(problem)
        h = float64.evaluate(float64.hessian, wide, self.centre)
        self.hessian = (h + h.T) / 2
        values, vectors = np.linalg.eigh(self.hessian)
        scale = vectors / np.sqrt(values)
        rng = np.random.default_rng(5)
        spread = np.linalg.eigh((covariance + covariance.T) / 2)
        root = spread.eigenvectors * np.sqrt(np.maximum(spread.eigenvalues, 0))
        worst = 0.0
        for _ in range(8):
            there = float64.evaluate(float64.hessian, wide, mean + root @ rng.normal(size=len(mean)))
            worst = max(worst, float(np.abs(scale.T @ (there - h) @ scale).max()))
        if not worst <= NEARLY_QUADRATIC:
            raise Unknown(
                "the loss is not quadratic at the scale of the law (its Hessian changes by "
                f"{100 * worst:.3g} %), so the Gibbs law is not Gaussian: use a Histogram (d ≤ 3)"
            )
        self.quadratic = worst <= QUADRATIC
        self.caveat = "" if self.quadratic else f" (approximate: the Hessian changes by {100 * worst:.2g} %)"

    def best_temperature(self, mean: np.ndarray, covariance: np.ndarray, direction: Direction) -> float:
        """T* of N(mean, covariance) against N(Φ*, T H⁻¹)."""
        d, shift = len(mean), mean - self.centre
        if direction == "forward":
            best = (np.trace(self.hessian @ covariance) + shift @ self.hessian @ shift) / d
        else:
            check_regular(covariance)
            best = d / np.trace(np.linalg.inv(covariance) @ np.linalg.inv(self.hessian))
        if not best > 0:
            raise Unknown("the chains do not move: no temperature fits a single point")
        return float(best)


def check_direction(direction: str) -> None:
    """ValueError unless "forward" or "reverse"."""
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction is 'forward' (KL(p‖Gibbs)) or 'reverse' (KL(Gibbs‖p)), got {direction!r}")


def check_regular(covariance: np.ndarray) -> None:
    """Unknown for a singular covariance: the chains fill no volume, and no density can be compared."""
    sd = np.sqrt(np.maximum(np.diag(covariance), 0))
    if not (sd > 0).all():
        raise Unknown("the chains are at identical points in some component: there is no density, KL is infinite")
    if np.linalg.eigvalsh(covariance / np.outer(sd, sd))[0] < 1e-10 * len(sd):
        raise Unknown("the covariance is singular: the chains stay on a plane of lower dimension, KL is infinite")


def _from_mean_loss(run: Measured, problem: Any, name: str) -> Estimate:
    source = read(run, name)
    mean_loss = float(source.result())
    try:
        lowest_law = gibbs(problem, temperature_scale(problem, mean_loss))
    except ValueError as error:
        raise Unknown(str(error)) from error
    if not lowest_law.exact:
        raise Unknown("the Gibbs law's mean loss is not known beyond Laplace's approximation: add a Covariance")
    curve = MeanLossCurve(problem, mean_loss)
    return jackknife(
        source.statistic,
        source.partials,
        lambda value: curve.temperature(float(value)),
        estimator="forward temperature, from the mean loss",
    )


def temperature_scale(problem: Any, mean_loss: float) -> float:
    """2 (E[L] − L*)/d, the answer for a quadratic loss and the place to begin for another."""
    try:
        centre = minimum(problem, isolated=False)
    except ValueError as error:
        raise Unknown(f"no Gibbs law: {error}") from error
    lowest = float(float64.evaluate(float64.loss, float64.widen(problem), centre))
    scale = 2 * (mean_loss - lowest) / problem.dim
    if not scale > 0:
        raise Unknown("the mean loss is not above the loss at the minimum: no temperature fits")
    return scale


class MeanLossCurve:
    """T as a function of E_Gibbs(T)[L], near one value of it."""

    def __init__(self, problem: Any, mean_loss: float):
        self.problem = problem
        guess = temperature_scale(problem, mean_loss)
        low, high = guess / 2, guess * 2
        for _ in range(40):
            if self._mean_loss(low) <= mean_loss:
                break
            low /= 2
        for _ in range(40):
            if self._mean_loss(high) >= mean_loss:
                break
            high *= 2
        root = optimize.brentq(
            lambda t: self._mean_loss(float(np.exp(t))) - mean_loss, np.log(low), np.log(high), xtol=1e-9
        )
        # a straight line in log T carries the groups' small deviations
        self.at, self.mean = float(root), mean_loss  # pyright: ignore[reportArgumentType]
        step = 1e-3
        self.slope = (self._mean_loss(np.exp(self.at + step)) - self._mean_loss(np.exp(self.at - step))) / (2 * step)

    def temperature(self, mean_loss: float) -> float:
        return float(np.exp(self.at + (mean_loss - self.mean) / self.slope))

    def _mean_loss(self, temperature: float) -> float:
        try:
            return gibbs(self.problem, float(temperature)).mean_loss
        except ValueError as error:
            raise Unknown(str(error)) from error
