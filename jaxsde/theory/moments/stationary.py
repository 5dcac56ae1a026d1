"""Stationary mean and covariance of what is simulated: an SDE, an integrated SDE, or the minibatch chain itself.

| object         | equation for S (A = −H for descent, κ the batch factor, C and F of `linearise`)          |
|----------------|-------------------------------------------------------------------------------------------|
| SDE            | A S + S Aᵀ + scale²(C + F(S)) = 0; for SGD's SDE HS + SH = ηκ(C + F(S))                   |
| Euler–Maruyama | S = (I + A h) S (I + A h)ᵀ + h·scale²(C + F(S))                                            |
| another scheme | S = E A(z) S A(z)ᵀ + E b(z) b(z)ᵀ for a step y' = A(z) y + b(z) with the draws z          |
| SGD            | S = (I − ηH) S (I − ηH) + η²κ(C + F(S)); for constant noise SH + HS − ηHSH = ηC            |
| SVAG           | the same with η/l for η and l κ for κ                                                     |
| SGD + optimiser | the same for its whole state y' = P y + G ĝ + c, where that is affine (momentum, weight decay) |
| SGD by epochs  | the map of a whole epoch, by position in it: `epochs`                                     |

Exact for quadratic losses (least squares with its per-example Hessians included), for any law on the line and for Langevin up
to d = 3; the leading order in small noise elsewhere, and then the result says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dynamics.equations import Diffusion
from ...dynamics.gradients import noise_factor
from ...random.clocks import steps_per_epoch
from ...stepping.chains import DiffusionChain, OptimizerChain
from ...stepping.integrators import EulerMaruyama
from ...struct import replace
from .. import float64
from ..laws.density import isotropic_temperature, stationary_density
from ..linear import Equation
from ..linearise import Noise, drift, is_affine, of_problem, of_sde, settled
from ..minimum import minimum
from ..updates import step_of, update_of
from . import epochs
from .orbits import orbits
from .reshuffling import moments_of_epochs

Position = int | str | Iterable[int]


@dataclass(frozen=True)
class StationaryLaw:
    """Stationary `mean` ["d"] and `covariance` ["d d"] of a position. `method` names how they were found; `reason` is "" when they
    are exact, else what was approximated."""

    mean: np.ndarray
    covariance: np.ndarray
    method: str
    reason: str

    @property
    def exact(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class System:
    """The linear(ised) dynamics of a state y whose first d entries are the position: the matrix A of the averaged step (or of the
    drift), the noise about `centre`, and the time `dt` that a step lasts (None in continuous time)."""

    centre: np.ndarray
    drift: np.ndarray
    noise: Noise
    dt: float | None
    method: str
    reason: str

    @property
    def equation(self) -> Equation:
        return Equation(self.drift, self.dt is not None, self.noise.feedback)

    def covariance(self) -> np.ndarray:
        """Stationary covariance of the whole state."""
        if not self.noise.covariance.any():  # without noise it rests, if it is stable at all
            Equation(self.drift, self.dt is not None).solve(self.noise.covariance)
            return np.zeros_like(self.noise.covariance)
        return self.equation.solve(self.noise.covariance)


def stationary_mean(x: Any, position: Position = 0) -> np.ndarray:
    """The stationary mean ["d"] of a `Diffusion`, `DiffusionChain` or `OptimizerChain`.

    Exact or, with a `UserWarning` that says why not, to leading order in small noise; `ValueError` where there is no stationary
    law or it is not covered. `stationary_law` returns the same with its method.
    """
    return _warned(stationary_law(x, position)).mean


def stationary_covariance(x: Any, position: Position = 0) -> np.ndarray:
    """The stationary covariance ["d d"] of a `Diffusion`, `DiffusionChain` or `OptimizerChain`; see `stationary_mean`."""
    return _warned(stationary_law(x, position)).covariance


def stationary_law(x: Any, position: Position = 0) -> StationaryLaw:
    """Stationary mean and covariance of the position, with how they were found and whether that is exact. Never warns.

    For SGD that goes through its data in epochs the law depends on the `position` in the epoch, the number of steps taken in it:
    0 is the end of one epoch and the start of the next, what `every="epoch"` sees; "average" is the law at a step drawn at random,
    and several positions give the law at one of them drawn at random. It is the law over chains: under "shuffle_once" each chain
    keeps its own order and settles on its own orbit, and under "cyclic" all settle on the same one.

    Raises `ValueError` when there is no stationary law (no isolated minimum, learning rate or step beyond the stability edge,
    noise that grows faster than the drift contracts) or none that is covered (a nonlinear optimiser, an order of the data that is
    neither enumerated nor sampled in reasonable time); `TypeError` for another object.
    """
    if epochs.is_by_epochs(x):
        return _by_epochs(x, position)
    epochs.positions_of(position, 1)
    if isinstance(x, Diffusion) and x.noise.kind != "none":
        wide = float64.widen(x)
        origin = np.asarray(float64.widen(x.problem).start) if x.problem is not None else np.zeros(x.dim)
        if not is_affine(lambda p: float64.evaluate(drift, wide, p), origin) and (
            x.dim == 1 or (x.dim <= 3 and isotropic_temperature(x) is not None)
        ):
            density = stationary_density(x)
            return StationaryLaw(density.mean, density.covariance, "quadrature of the stationary density", "")
    found = system(x)
    d = getattr(x, "position_dim", None) or x.dim  # of a larger state, with momenta, the position alone
    return StationaryLaw(found.centre[:d], found.covariance()[:d, :d], found.method, found.reason)


def _by_epochs(chain: OptimizerChain, position: Position) -> StationaryLaw:
    wanted = epochs.positions_of(position, steps_per_epoch(chain.draws))
    epoch, reason = epochs.epoch_of(chain)
    sampling = chain.gradient.sampling
    if sampling == "random_reshuffling":
        law = moments_of_epochs(epoch)
        mean, covariance, error = law.stationary(wanted)
        method = f"moments of an epoch, {law.method}"
    else:
        mean, covariance, error, method = orbits(epoch, sampling, wanted)
    if error is not None:
        estimated = f"averaged over sampled orders of the data, with a relative standard error of {error:.2g}"
        reason = f"{reason}; {estimated}" if reason else estimated
    return StationaryLaw(epoch.update.rest[: chain.dim] + mean, covariance, method, reason)


def system(x: Any, *, isolated: bool = True) -> System:
    """The linear(ised) dynamics of an SDE or a chain around its rest point; around one of many, unless it has to be `isolated`."""
    if isinstance(x, Diffusion):
        local = of_sde(x, isolated=isolated)
        return System(local.centre, local.drift, local.noise, None, "Lyapunov equation", local.reason)
    if isinstance(x, DiffusionChain):
        return _integrated(x, isolated)
    if isinstance(x, OptimizerChain):
        return _optimised(x, isolated)
    raise TypeError(f"a Diffusion, DiffusionChain or OptimizerChain is needed, got {type(x).__name__}")


def _integrated(chain: DiffusionChain, isolated: bool) -> System:
    chain = replace(chain, sde=settled(chain.sde))
    local = of_sde(chain.sde, isolated=isolated)
    dt = float(np.asarray(chain.dt))
    method = f"second-moment equation of {type(chain.integrator).__name__}"
    if isinstance(chain.integrator, EulerMaruyama):
        a = np.eye(len(local.drift)) + dt * local.drift
        return System(local.centre, a, local.noise.scaled(dt), dt, method, local.reason)
    step = step_of(chain, local.centre, local.exact and chain.sde.noise.kind in ("none", "additive"))
    # the whole state is what moves, and the position comes first in it
    return System(step.rest, step.a, step.noise, dt, method, local.reason or step.reason)


def _optimised(chain: OptimizerChain, isolated: bool) -> System:
    if epochs.is_by_epochs(chain):
        raise ValueError(
            f"the moments of one step do not close under {chain.gradient.sampling}: the batches of an epoch depend on each other; "
            "stationary_law(chain, position) has the law at each position of the epoch, and transient(chain, …) at each step"
        )
    factor = noise_factor(chain.gradient)
    update = update_of(chain, minimum(chain.problem, isolated=isolated))
    d = chain.dim
    local = of_problem(chain.problem, update.rest[:d])
    a = update.drift(-local.drift)
    noise = local.noise.scaled(factor).pushed(update.push, d)
    if not factor:
        noise = Noise(noise.covariance)
    dt = float(np.asarray(chain.learning_rate))
    return System(update.rest, a, noise, dt, "second-moment equation of the chain", local.reason)


def _warned(law: StationaryLaw) -> StationaryLaw:
    if law.reason:
        warnings.warn(f"not exact: {law.reason}", UserWarning, stacklevel=3)
    return law
