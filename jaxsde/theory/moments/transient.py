"""The law of a chain before it is stationary, at any step from a given start, and the mean loss above the minimum.

About the rest point y* a step with fresh draws sends the mean m and the covariance S of the whole state to

    m' = A m,    S' = A S Aᵀ + C + K(m) + F(S + m mᵀ)                     A, C, K and F of `linearise`

which is a linear map of (1, m, m mᵀ, S): few steps are taken one by one, many as a power of its matrix. Under orders of the
data the moments of epochs are carried on, then those of the steps that are left (`reshuffling`, `orbits`). Nothing here has to be
stable.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dynamics.equations import Diffusion
from ...stepping.chains import DiffusionChain, OptimizerChain
from .. import checks, float64
from ..laws.density import isotropic_temperature, stationary_density
from ..laws.gibbs import gibbs
from ..linear import pack, unpack
from ..linearise import is_affine
from ..minimum import minimum
from ..updates import start_of
from .epochs import epoch_of, is_by_epochs
from .orbits import along_orders
from .reshuffling import moments_at, moments_of_epochs
from .stationary import Position, System, stationary_law, system

# Up to this many unknowns the map of the moments is a matrix.
_DENSE = 700


@dataclass(frozen=True)
class Transient:
    """`mean` ["d"] and `covariance` ["d d"] of the position after `steps` steps, each with a leading axis where several were asked
    for. `method` names how they were found; `reason` is "" when they are exact, else what was approximated."""

    steps: Any
    mean: np.ndarray
    covariance: np.ndarray
    method: str
    reason: str

    @property
    def exact(self) -> bool:
        return not self.reason


def transient(chain: Any, start: Any, steps: int | Iterable[int]) -> Transient:
    """Mean and covariance, over chains that all begin at `start` ["d"], after `steps` steps, or after each of several.

    As exact as `stationary_law`: for least squares and quadratic potentials with any sampling, linear optimiser (whose momentum
    starts at rest, as it runs) or scheme; else to leading order around the rest point, with a `UserWarning`. There need be no
    stationary law: beyond the stability edge the covariance grows, and along the flat directions of more parameters than data the
    start is kept.

    Raises `TypeError` for what is no chain and `ValueError` for a start or steps of the wrong shape, no minimum, or a law that
    is not covered (see `stationary_law`).
    """
    if isinstance(chain, Diffusion):
        raise TypeError("an SDE has no steps: transient needs a chain, such as integrate(sde, dt=…)")
    if not isinstance(chain, OptimizerChain | DiffusionChain):
        raise TypeError(f"a DiffusionChain or OptimizerChain is needed, got {type(chain).__name__}")
    start = checks.vector(start, chain.dim, "start")
    wanted = _whole(steps)
    if isinstance(chain, DiffusionChain) and hasattr(chain.sde.drift, "settled"):
        raise ValueError("the drift of this SDE changes at first (it corrects its start): its transient is not covered")
    order = sorted(set(wanted))
    if is_by_epochs(chain):
        means, covariances, method, reason = _by_epochs(chain, start, order)
    else:
        found = system(chain, isolated=False)
        means, covariances = _moments(found, start_of(chain, start) - found.centre, order)
        d = chain.dim
        means, covariances = found.centre[:d] + means[:, :d], covariances[:, :d, :d]
        method, reason = found.method, found.reason
    if reason:
        warnings.warn(f"not exact: {reason}", UserWarning, stacklevel=2)
    if isinstance(steps, Iterable):
        at = [order.index(k) for k in wanted]
        return Transient(np.array(wanted), means[at], covariances[at], method, reason)
    return Transient(wanted[0], means[0], covariances[0], method, reason)


def excess_loss(x: Any, position: Position = 0) -> float:
    """The stationary mean loss above the minimum, E L(Φ) − L*, which is ½ tr H (S + m mᵀ) for a quadratic loss, m = E Φ − Φ*.

    Exact where `stationary_law` is and the loss is quadratic, and for the laws on the line and of Langevin that are found by
    quadrature; else to leading order, with a `UserWarning`. `ValueError` without a problem or a stationary law.
    """
    if not isinstance(x, Diffusion | DiffusionChain | OptimizerChain):
        raise TypeError(f"a Diffusion, DiffusionChain or OptimizerChain is needed, got {type(x).__name__}")
    problem = getattr(x, "problem", None)
    if problem is None:
        raise ValueError("excess_loss needs a loss: this object was made from a drift, and has no problem")
    law = stationary_law(x, position)
    wide, best = float64.widen(problem), minimum(problem, isolated=False)
    if "quadrature" in law.method:
        lowest = float(float64.evaluate(float64.loss, wide, best))
        temperature = isotropic_temperature(x)
        if temperature is not None:
            return gibbs(problem, temperature).mean_loss - lowest
        density: Any = stationary_density(x)
        return density.expectation(lambda p: float64.evaluate_many(float64.loss, wide, p[:, None])) - lowest
    reason = law.reason
    if not reason and not is_affine(lambda phi: float64.evaluate(float64.grad, wide, phi), best):
        reason = "the loss is not quadratic: its second derivatives at the minimum are taken"
    if reason:
        warnings.warn(f"not exact: {reason}", UserWarning, stacklevel=2)
    m = law.mean - best
    return float(np.sum(float64.evaluate(float64.hessian, wide, best) * (law.covariance + np.outer(m, m))) / 2)


def _by_epochs(chain: Any, start: np.ndarray, steps: list[int]) -> tuple[np.ndarray, np.ndarray, str, str]:
    epoch, reason = epoch_of(chain, isolated=False)
    y = start_of(chain, start) - epoch.update.rest
    sampling = chain.gradient.sampling
    if sampling == "random_reshuffling":
        law = moments_of_epochs(epoch)
        means, covariances, error = moments_at(law, y, steps)
        method = f"moments of an epoch, {law.method}"
    else:
        means, covariances, error, method = along_orders(epoch, sampling, y, steps)
    if error is not None:
        estimated = f"averaged over sampled orders of the data, with a relative standard error of {error:.2g}"
        reason = f"{reason}; {estimated}" if reason else estimated
    return epoch.update.rest[: chain.dim] + means, covariances, method, reason


def _moments(found: System, m: np.ndarray, steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances of the whole state about its rest after each of `steps`, which grow."""
    a, noise, size = found.drift, found.noise, len(m)
    packed = size * (size + 1) // 2
    unknowns = 1 + size + 2 * packed

    def step(one: float, m: np.ndarray, square: np.ndarray, s: np.ndarray) -> tuple[Any, ...]:
        grown = a @ s @ a.T + one * noise.covariance
        if noise.cross is not None:
            grown = grown + noise.cross(m)
        if noise.feedback is not None:
            grown = grown + noise.feedback(s + square)
        return one, a @ m, a @ square @ a.T, grown

    def flat(state: tuple[Any, ...]) -> np.ndarray:
        one, m, square, s = state
        return np.concatenate([[one], m, pack(square), pack(s)])

    def whole(v: np.ndarray) -> tuple[Any, ...]:
        return v[0], v[1 : 1 + size], unpack(v[1 + size : 1 + size + packed]), unpack(v[1 + size + packed :])

    matrix: Any = None
    state: tuple[Any, ...] = (1.0, m, np.outer(m, m), np.zeros((size, size)))
    done, means, covariances = 0, [], []
    for k in steps:
        if k - done > unknowns and unknowns <= _DENSE:
            matrix = np.stack([flat(step(*whole(e))) for e in np.eye(unknowns)], axis=1) if matrix is None else matrix
            state = whole(np.linalg.matrix_power(matrix, k - done) @ flat(state))
        else:
            for _ in range(k - done):
                state = step(*state)
        done = k
        means.append(state[1])
        covariances.append(state[3])
    return np.stack(means), np.stack(covariances)


def _whole(steps: int | Iterable[int]) -> list[int]:
    given: list[Any] = list(steps) if isinstance(steps, Iterable) and not isinstance(steps, str) else [steps]
    for k in given:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0:
            raise ValueError(f"steps must be a whole number >= 0, or several, got {k!r}")
    if not given:
        raise ValueError("steps is empty: give at least one number of steps")
    return [int(k) for k in given]
