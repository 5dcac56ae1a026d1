"""The Gibbs law closest to a density, for any loss: its temperature and its distance.

KL(p‖Gibbs_T) = ∫ p log p + E_p L/T + log Z(T) is least where the Gibbs law has the same mean loss, E_T L = E_p L.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import checks, float64
from ..linear import find_root
from ..minimum import minimum
from .density import LineDensity
from .gibbs import family, gibbs


def temperature_of_loss(problem: Any, mean_loss: float) -> float:
    """T whose Gibbs law has this mean loss: the best temperature, in KL(p‖Gibbs), for every p of that mean loss.

    For a quadratic loss T = 2(mean_loss − L*)/d; otherwise found with the integrals of `gibbs` (Laplace for d > 3).
    `ValueError` for a mean loss at or below the minimum, or one that no temperature reaches.
    """
    checks.problem(problem)
    wide = float64.widen(problem)
    lowest = float(float64.evaluate(float64.loss, wide, minimum(problem, isolated=False)))
    excess = float(mean_loss) - lowest
    if not math.isfinite(excess) or excess <= 0:
        raise ValueError(
            f"mean_loss is {mean_loss}, which must be finite and above the minimum of the loss, {lowest:.6g}"
        )
    guess = 2 * excess / problem.dim
    law = family(problem)

    def gap(log_t: float) -> float:
        return law(math.exp(log_t)).mean_loss - float(mean_loss)

    if law(guess).method == "laplace":
        return guess

    low = high = math.log(guess)
    for _ in range(40):
        if gap(low) <= 0:
            break
        low -= math.log(2)
    for _ in range(40):
        if gap(high) >= 0:
            break
        high += math.log(2)
    if low == high:
        return math.exp(low)
    return math.exp(find_root(gap, low, high, 1e-11))


def density_kl_to_gibbs(density: LineDensity, problem: Any, temperature: Any = None) -> tuple[float, float]:
    """(KL, T): KL(p‖Gibbs_T) in nats of a density on the line, at `temperature` or (None) at the best one.

    `ValueError` where there is no Gibbs law.
    """
    if not isinstance(density, LineDensity):
        raise TypeError(f"density must come from stationary_density of a 1-d SDE, got {type(density).__name__}")
    wide = float64.widen(problem)

    def loss(x: np.ndarray) -> np.ndarray:
        return float64.evaluate_many(float64.loss, wide, x[:, None])

    if temperature is None:
        temperature = temperature_of_loss(problem, density.expectation(loss))
    temperature = checks.positive(temperature, "temperature")
    law = gibbs(problem, temperature)
    return density.expectation(lambda x: density.log_density(x) - law.log_density(x[:, None])), temperature
