"""Where SGD stops being stable in mean square: the learning rate at which the second moment of the parameters explodes.

Around the minimum, e' = e − η ĝ gives S' = S − η(HS + SH) + η²(HSH + κF(S)) + η²κC with F of `linearise` and κ = 1/B with
replacement, (n−B)/(n−1)/B without. At the edge η* a covariance is left unchanged by the homogeneous part, so

    1/η* = spectral radius of  S ↦ L⁻¹(HSH + κF(S)),        L(S) = HS + SH

(a map of covariances to covariances: its radius is an eigenvalue). Without noise that is η* = 2/λmax; with it, earlier.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..dynamics.equations import fraction
from ..dynamics.noise import batch_factor, whole_batch
from . import checks, float64
from .linear import Equation, Feedback
from .linearise import is_affine, problem_noise
from .minimum import FLAT, minimum

_SAMPLINGS = ("with_replacement", "without_replacement", "full_batch", "gaussian", "two_point", "three_point")


def stability_edge(
    problem: Any, batch_size: int = 1, sampling: str = "with_replacement", momentum: float = 0.0
) -> float:
    """The learning rate η* below which the variance of SGD's parameters stays bounded, and above which it explodes.

    Exact for least squares and for quadratic potentials (the surrogates "gaussian", "two_point", "three_point" have the
    same second moments as sampling with replacement). For another loss it is the edge of the loss linearised at its minimum,
    and a `UserWarning` says so. Directions in which the loss is flat (a design of deficient rank) are left out: SGD does not
    move there. `momentum` μ is the heavy ball's: v' = μv − ηĝ, Φ' = Φ + v'.

    Raises `ValueError` for "random_reshuffling" (its steps are not independent), a batch larger than the data where it is
    drawn without repeats, a momentum outside [0, 1), or a problem without a minimum.
    """
    checks.problem(problem)
    if sampling == "random_reshuffling":
        raise ValueError(
            "no stability edge for random_reshuffling: the batches of an epoch depend on each other, so the second moment of one "
            'step does not close; sampling="without_replacement" is the nearest law that it does for'
        )
    checks.one_of(sampling, _SAMPLINGS, "sampling")
    batch_size = whole_batch(batch_size)
    if sampling == "without_replacement" and batch_size > problem.examples:
        raise ValueError(f"batch_size {batch_size} exceeds the {problem.examples} examples, drawn without repeats")
    fraction(momentum, "momentum")
    h, feedback, reason = _solid(problem)
    if reason:
        warnings.warn(f"stability_edge: {reason}", UserWarning, stacklevel=2)
    factor = batch_factor(batch_size, problem.examples, sampling)
    if momentum:
        return _edge_with_momentum(h, feedback, factor, float(momentum))

    def growth(s: np.ndarray) -> np.ndarray:
        return h @ s @ h + (factor * feedback(s) if feedback is not None and factor else 0.0)

    return 1.0 / Equation(-h, discrete=False, feedback=growth).gain()


def _solid(problem: Any) -> tuple[np.ndarray, Feedback | None, str]:
    """H, F and what is not exact about them, in the directions in which the loss is not flat."""
    centre = minimum(problem, isolated=False)
    wide = float64.widen(problem)
    noise = problem_noise(wide, centre)
    feedback, reason = noise.feedback, noise.reason
    if not reason and not is_affine(lambda phi: float64.evaluate(float64.grad, wide, phi), centre):
        reason = "the loss is not quadratic: linearised at its minimum"
    values, vectors = np.linalg.eigh(float64.evaluate(float64.hessian, wide, centre))
    solid = values > FLAT * max(values[-1], 1e-300)
    if not solid.any():
        raise ValueError("the Hessian vanishes at the minimum: the linearised loss gives no stability edge")
    basis = vectors[:, solid]
    if feedback is None:
        return np.diag(values[solid]), None, reason
    inner = feedback
    return np.diag(values[solid]), lambda s: basis.T @ inner(basis @ s @ basis.T) @ basis, reason


def _edge_with_momentum(h: np.ndarray, feedback: Feedback | None, factor: float, momentum: float) -> float:
    """The same edge of (e, v)' = (e + v', v'), v' = μv − ηĝ: no linear pencil in η, so by bisection on stability."""
    d = len(h)
    eye = np.eye(d)

    def stable(rate: float) -> bool:
        def growth(s: np.ndarray) -> np.ndarray:
            assert feedback is not None
            block = rate**2 * factor * feedback(s[:d, :d])
            return np.block([[block, block], [block, block]])

        a = np.block([[eye - rate * h, momentum * eye], [-rate * h, momentum * eye]])
        return Equation(a, discrete=True, feedback=growth if feedback is not None and factor else None).is_stable()

    high = 2 * (1 + momentum) / float(np.diag(h).max())  # the edge of the mean, which the second moment cannot pass
    low = high
    while stable(low) is False:
        low /= 2
        if low < high * 1e-12:
            raise ValueError(
                "no learning rate is stable: the noise grows with the position faster than the drift contracts"
            )
    if low == high:
        return high
    high = 2 * low
    while high - low > 1e-10 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return (low + high) / 2
