"""SDEs of a position q and its momentum p:  dq = p/m dt,  dp = −∇L dt − γ p dt + b(q) dW.

| name         | mass m | friction γ | b b ᵀ    | stationary law                                       |
|--------------|--------|------------|----------|------------------------------------------------------|
| underdamped  | m      | γ          | 2γ m kT I | Gibbs exp(−(L(q) + p²/2m)/kT)                        |
| momentum_sde | η      | (1 − μ)/η  | η Σ_B(q) | Gibbs in q at kT = η s²/2B(1 − μ) when Σ = s²I       |

The position of such a chain is q (statistics see it alone); `flatten()` shows the whole state (q, p).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problems.problem import FiniteSum, Potential
from ..struct import static, struct
from ..types import NoiseKind
from . import noise as noises
from .equations import Diffusion, fraction, positive, sgd_noise


@struct
class Kinetic:
    """drift(q, p) = (p/m, −∇L(q) − γ p)."""

    problem: Any
    friction: Any
    mass: Any

    def __call__(self, t: Any, x: Float[Array, " e"]) -> Float[Array, " e"]:
        q, p = jnp.split(x, 2)
        return jnp.concatenate([self.velocity(p), self.force(q) - jnp.asarray(self.friction, x.dtype) * p])

    def force(self, q: Float[Array, " d"]) -> Float[Array, " d"]:
        return -self.problem.grad(q)

    def velocity(self, p: Float[Array, " d"]) -> Float[Array, " d"]:
        return p / jnp.asarray(self.mass, p.dtype)


@struct
class OnMomentum:
    """The noise of the momentum alone: Σ(q, p) = diag(0, Σ(q))."""

    noise: Any
    dim: int = static()
    kind: NoiseKind = static()

    def product(self, phi: Float[Array, " e"], z: Float[Array, " m"]) -> Float[Array, " e"]:
        q = phi[: phi.size // 2]
        return jnp.concatenate([jnp.zeros_like(q), self.on_momentum(q, z)])

    def on_momentum(self, q: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        """Σ(q)^½ z."""
        return self.noise.product(q, z)

    def covariance(self, phi: Float[Array, " e"]) -> Float[Array, "e e"]:
        d = phi.size // 2
        return jnp.zeros((2 * d, 2 * d), phi.dtype).at[d:, d:].set(self.noise.covariance(phi[:d]))


def underdamped(problem: FiniteSum | Potential, *, temperature: Any, friction: Any, mass: Any = 1.0) -> Diffusion:
    """Underdamped Langevin, dq = p/m dt, dp = −∇L dt − γ p dt + √(2γ m kT) dW: Gibbs at that temperature, q and p independent.

    `BAOAB()` and `OBABO()` integrate it far better than Euler–Maruyama. Source: Leimkuhler and Matthews (2015), Molecular Dynamics.
    """
    for value, name in ((temperature, "temperature"), (friction, "friction"), (mass, "mass")):
        positive(value, name)
    friction, mass = jnp.asarray(friction, float), jnp.asarray(mass, float)
    scale = jnp.sqrt(2 * friction * mass * jnp.asarray(temperature, float))
    return _kinetic(problem, friction, mass, noises.Isotropic(jnp.asarray(1.0), problem.dim), scale)


def momentum_sde(
    problem: FiniteSum | Potential,
    *,
    learning_rate: Any,
    momentum: Any,
    batch_size: int = 1,
    sampling: str = "with_replacement",
) -> Diffusion:
    """The order-1 SDE of the heavy ball v' = μv − ηĝ, Φ' = Φ + v', on the clock t = Σ η; its p is v.

        dΦ = v/η dt,    dv = −∇L dt − (1 − μ)/η v dt + √η (Σ_B(Φ))^½ dW

    It has the variance ηΣ/2h(1 − μ) of the heavy ball at small η on a quadratic of curvature h.
    Source: Li, Tai and E (2019), J. Mach. Learn. Res. 20, 40, §4.
    """
    positive(learning_rate, "learning_rate")
    fraction(momentum, "momentum")
    eta = jnp.asarray(learning_rate, float)
    noise = sgd_noise(problem, batch_size, sampling)
    return _kinetic(problem, (1 - jnp.asarray(momentum, float)) / eta, eta, noise, jnp.sqrt(eta))


def _kinetic(problem: Any, friction: Any, mass: Any, noise: Any, scale: Any) -> Diffusion:
    kind: NoiseKind = noise.kind if noise.kind in ("none", "additive") else "general"
    d = problem.dim
    return Diffusion(Kinetic(problem, friction, mass), OnMomentum(noise, noise.dim, kind), scale, 2 * d, d)


KINETIC_EQUATIONS = {"underdamped": underdamped, "momentum_sde": momentum_sde}
