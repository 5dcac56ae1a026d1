"""Which assumption failed: the four things that separate SGD's stationary law from Gibbs, each with the size of its effect.

With N(Φ) the noise rate (ηΣ_B for SGD, scale²Σ for an SDE), H the Hessian at the minimum Φ*, h the time of a step:

| reason                | size                                                                   | holds beyond |
|-----------------------|------------------------------------------------------------------------|--------------|
| anisotropic noise     | KL of N(0, S) to Gibbs, H S + S H = N(Φ*): zero iff N(Φ*) ∝ I           | .01 nats     |
| state-dependent noise | ‖E N(Φ) − N(Φ*)‖ / ‖N(Φ*)‖ over the run's positions                    | 5 %          |
| finite step           | the largest change of a variance at fixed noise: hλ/(2 − hλ) for SGD   | 1 %          |
| non-Gaussian steps    | excess kurtosis of one step's noise in the stiffest direction          | .1           |
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..compiled import jitted
from ..dynamics.equations import sde
from ..dynamics.gradients import Minibatch, StableSurrogate, Surrogate, Svag, noise_of
from ..stepping.chains import OptimizerChain, integrate
from ..struct import replace
from ..theory import gaussian_kl_to_gibbs, lyapunov, minimum, stationary_law

ANISOTROPY_NATS, STATE, STEP, KURTOSIS = 0.01, 0.05, 0.01, 0.1
_POSITIONS = 2048  # positions over which E N(Φ) is taken


@dataclasses.dataclass(frozen=True)
class Reason:
    """`holds` is None where it could not be computed; `phrase` completes "not Gibbs because …"; `figure` shows it."""

    name: str
    holds: bool | None
    value: float | None
    sentence: str
    phrase: str
    figure: str

    def to_json(self) -> dict[str, Any]:
        value = self.value if self.value is not None and np.isfinite(self.value) else None
        return dataclasses.asdict(self) | {"value": value}


def noise_rate(chain: Any, phi: Any) -> Any:
    """N(Φ): the covariance that the noise adds per unit time, ηΣ_B(Φ) for SGD and scale²Σ(Φ) for an SDE. Traced, ["d d"]."""
    if isinstance(chain, OptimizerChain):
        return jnp.asarray(chain.learning_rate, phi.dtype) * noise_of(chain.gradient).covariance(phi)
    return jnp.asarray(chain.sde.scale, phi.dtype) ** 2 * chain.sde.noise.covariance(phi)


def reasons(run: Any, problem: Any) -> tuple[Reason, ...]:
    """The four reasons for a run of SGD or of an SDE; empty for a problem without an isolated minimum and for other dynamics
    (an optimiser, a momentum, a drift made of ∇L that is not −∇L), whose law is not Gibbs, or Gibbs, for other reasons."""
    chain = run.chain
    if isinstance(chain, OptimizerChain):
        if chain.optimizer is not None or isinstance(chain.gradient, StableSurrogate):
            return ()
    elif not hasattr(chain, "sde") or (hasattr(chain.sde.drift, "problem") and chain.sde.problem is None):
        return ()
    try:
        centre = minimum(problem)
    except ValueError:
        return ()
    phi = jnp.asarray(centre, problem.start.dtype)
    hessian = np.asarray(problem.hessian(phi), np.float64)
    rate = np.asarray(jitted(noise_rate, chain)(chain, phi), np.float64)
    if not rate.any():
        return ()
    curvatures, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    return (
        _anisotropic(problem, hessian, rate),
        _state_dependent(run, chain, rate),
        _finite_step(chain, float(curvatures[-1])),
        _non_gaussian(chain, phi, vectors[:, -1]),
    )


def _anisotropic(problem: Any, hessian: np.ndarray, rate: np.ndarray) -> Reason:
    values = np.linalg.eigvalsh((rate + rate.T) / 2)
    name, figure = "anisotropic noise", "covariance"
    try:
        kl = gaussian_kl_to_gibbs(problem, lyapunov(-hessian, rate))
    except ValueError as error:
        return Reason(name, None, None, str(error), "the noise is anisotropic", figure)
    holds = bool(kl > ANISOTROPY_NATS)
    ratio = (
        "has rank below d"
        if values[0] <= 1e-7 * values[-1]
        else f"has eigenvalues in the ratio {values[-1] / values[0]:.3g}"
    )
    sentence = f"the noise covariance at the minimum {ratio}; alone it puts the law {kl:.3g} nats from Gibbs at any learning rate"
    return Reason(name, holds, float(kl), sentence, "the gradient noise is not isotropic", figure)


def _state_dependent(run: Any, chain: Any, rate: np.ndarray) -> Reason:
    positions = run.positions[~run.diverged]
    chosen = positions[:: max(1, len(positions) // _POSITIONS)][:_POSITIONS]

    def average(c: Any, x: Any) -> Any:
        return jnp.mean(jax.lax.map(lambda phi: noise_rate(c, phi), x, batch_size=64), axis=0)

    mean = np.asarray(jax.jit(average)(chain, jnp.asarray(chosen)), np.float64)
    change = float(np.linalg.norm(mean - rate) / np.linalg.norm(rate))
    sentence = f"averaged over the law, the noise covariance differs by {100 * change:.2g} % from that at the minimum"
    return Reason(
        "state-dependent noise", bool(change > STATE), change, sentence, "it depends on the position", "mean_loss"
    )


def _finite_step(chain: Any, curvature: float) -> Reason:
    product = float(chain.dt) * curvature
    name, phrase, figure = "finite step", "the step is finite", "covariance"
    excess = _excess(chain, product) if product > 0 else 0.0
    if excess is None:
        return Reason(name, True, None, f"η λ_max = {product:.3g} is beyond the edge of stability", phrase, figure)
    change = f"{100 * abs(excess):.2g} % {'larger' if excess >= 0 else 'smaller'}"
    sentence = f"a step of η λ_max = {product:.3g} makes the stiffest variance {change} than in the limit"
    return Reason(name, bool(abs(excess) > STEP), excess, sentence, phrase, figure)


def _excess(chain: Any, product: float) -> float | None:
    """The relative change of the stationary variance of dy = −λy dt + dW under the chain's own rule, λh = `product` and h = 1;
    None where there is no stationary law."""
    if isinstance(chain, OptimizerChain):
        return product / (2 - product) if product < 2 else None
    try:
        harmonic = integrate(sde(lambda t, y: -product * y, 1.0, dim=1), chain.integrator, dt=1.0)
        return 2 * product * float(stationary_law(harmonic).covariance[0, 0]) - 1
    except ValueError:
        return None


def _non_gaussian(chain: Any, phi: Any, direction: np.ndarray) -> Reason:
    name, phrase, figure = "non-Gaussian steps", "single steps are not Gaussian", "noise"
    kurtosis = _step_kurtosis(chain, phi, direction)
    sentence = f"one step's noise has excess kurtosis {kurtosis:.3g} in the stiffest direction"
    return Reason(name, bool(abs(kurtosis) > KURTOSIS), kurtosis, sentence, phrase, figure)


def _step_kurtosis(chain: Any, phi: Any, direction: np.ndarray) -> float:
    gradient = getattr(chain, "gradient", None)
    if isinstance(gradient, Svag):  # of a ĝ₁ + b ĝ₂: (a⁴ + b⁴)/(a² + b²)² times that of one
        one = _step_kurtosis(replace(chain, gradient=gradient.gradient), phi, direction)
        return one * (1 + 6 * (2 * gradient.l - 1) + (2 * gradient.l - 1) ** 2) / (8 * gradient.l**2)
    if isinstance(gradient, Minibatch):
        along = np.asarray(gradient.problem.example_gradients(phi), np.float64) @ direction
        along = along - along.mean()
        one = float(np.mean(along**4) / max(np.mean(along**2) ** 2, 1e-300) - 3)
        return one / gradient.batch_size  # independent examples: cumulants add
    if isinstance(gradient, Surrogate) and gradient.sampling == "two_point":
        factor = np.asarray(
            jax.vmap(lambda z: gradient.noise.product(phi, z))(jnp.eye(gradient.noise.dim, dtype=phi.dtype))
        )
        weights = factor @ direction
        return float(-2 * np.sum(weights**4) / max(np.sum(weights**2) ** 2, 1e-300))
    return 0.0
