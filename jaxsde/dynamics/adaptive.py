"""SDEs of optimisers that divide by, or take the sign of, the gradient, on the clock t = Σ η. σᵢ² = Σ_B(x)ᵢᵢ, P = √v + ε.

| name         | state     | equation                                                                                |
|--------------|-----------|-----------------------------------------------------------------------------------------|
| sign_sgd_sde | x         | dxᵢ = −mᵢ dt + √η √(1 − mᵢ²) dWᵢ,  mᵢ = erf(gᵢ/√2 σᵢ)                                    |
| rmsprop_sde  | (x, v)    | dx = −P⁻¹(∇L dt − √η Σ_B^½ dW),  dv = ρ(∇L² + σ² − v) dt,  ρ = (1 − β)/η                  |
| adam_sde     | (x, m, v) | dx = −c(t) P⁻¹ m dt,  dm = ρ₁((∇L − m) dt + √η Σ_B^½ dW),  dv = ρ₂(∇L² + σ² − v) dt        |

In all three the noise of the gradient enters as a Gaussian. v and m divide and move x as they are after a step's update, as the
optimisers have it: then a start at v = m = 0 is no singularity. These are the equations of Compagnoni, Liu, Islamov, Proske,
Orvieto and Lucchi (2024), "Adaptive methods through the lens of SDEs"; those of Malladi, Lyu, Panigrahi and Arora (2022), "On
the SDEs and scaling rules for adaptive gradient algorithms", are their limit of noise far above the gradient (σ² for ∇L² + σ²).
The position of such a chain is x; `flatten()` shows the whole state.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problems.problem import FiniteSum, Potential
from ..struct import static, struct
from ..types import NoiseKind
from .equations import Diffusion, fraction, positive, sgd_noise


@struct
class SignDrift:
    """drift = −E sign ĝ = −erf(g/√2 σ), entry by entry, for a Gaussian ĝ."""

    problem: Any
    noise: Any

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return -self.mean(x)

    def mean(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        variance = jnp.diagonal(self.noise.covariance(x))
        g = self.problem.grad(x)
        noisy = variance > 0
        return jnp.where(noisy, jax.lax.erf(g / jnp.sqrt(2 * jnp.where(noisy, variance, 1))), jnp.sign(g))


@struct
class SignNoise:
    """Σ = diag(1 − mᵢ²), the variances of independent signs of mean mᵢ."""

    signs: SignDrift
    dim: int = static()
    kind: NoiseKind = static()

    def product(self, phi: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.sqrt(self._variances(phi)) * z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return jnp.diag(self._variances(phi))

    def _variances(self, phi: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.maximum(1 - self.signs.mean(phi) ** 2, jnp.finfo(phi.dtype).tiny)


@struct
class Rmsprop:
    """The drift of (x, v)."""

    problem: Any
    noise: Any
    learning_rate: Any
    decay: Any
    eps: Any

    def __call__(self, t: Any, x: Float[Array, " e"]) -> Float[Array, " e"]:
        g, speed, root = self.parts(x)
        return jnp.concatenate([-g / root, speed / jnp.asarray(self.learning_rate, x.dtype)])

    def parts(self, x: Float[Array, " e"]) -> tuple[Array, Array, Array]:
        """∇L, the change of v in a step of RMSprop, and the root of v after it, which is what divides the gradient."""
        phi, v = jnp.split(x, 2)
        g = self.problem.grad(phi)
        change = (1 - jnp.asarray(self.decay, x.dtype)) * (g * g + jnp.diagonal(self.noise.covariance(phi)) - v)
        return g, change, jnp.sqrt(jnp.maximum(v + change, 0)) + jnp.asarray(self.eps, x.dtype)


@struct
class RmspropNoise:
    """P⁻¹ Σ_B(x)^½ on x, none on v."""

    drift: Rmsprop
    dim: int = static()
    kind: NoiseKind = static(default="general")

    def product(self, phi: Float[Array, " e"], z: Float[Array, " m"]) -> Float[Array, " e"]:
        x, v = jnp.split(phi, 2)
        return jnp.concatenate([self.drift.noise.product(x, z) / self.drift.parts(phi)[2], jnp.zeros_like(v)])

    def covariance(self, phi: Float[Array, " e"]) -> Float[Array, "e e"]:
        x, inverse = phi[: phi.size // 2], 1 / self.drift.parts(phi)[2]
        block = inverse[:, None] * self.drift.noise.covariance(x) * inverse
        return jnp.zeros((phi.size, phi.size), phi.dtype).at[: x.size, : x.size].set(block)


@struct
class Adam:
    """The drift of (x, m, v); c(t) = √(1 − β₂ᵏ)/(1 − β₁ᵏ) with k = t/η + 1, Adam's own correction of its start."""

    problem: Any
    noise: Any
    learning_rate: Any
    b1: Any
    b2: Any
    eps: Any

    def __call__(self, t: Any, x: Float[Array, " e"]) -> Float[Array, " e"]:
        phi, m, v = jnp.split(x, 3)
        g, (eta, b1, b2) = self.problem.grad(phi), (jnp.asarray(a, x.dtype) for a in (self.learning_rate, self.b1, self.b2))
        k = t / eta + 1
        dm, dv = (1 - b1) * (g - m), (1 - b2) * (g * g + jnp.diagonal(self.noise.covariance(phi)) - v)
        root = jnp.sqrt(jnp.maximum(v + dv, 0) / (1 - b2**k)) + jnp.asarray(self.eps, x.dtype)
        return jnp.concatenate([-(m + dm) / (1 - b1**k) / root, dm / eta, dv / eta])


@struct
class AdamNoise:
    """ρ₁ Σ_B(x)^½ on m alone."""

    drift: Adam
    dim: int = static()
    kind: NoiseKind = static()

    def product(self, phi: Float[Array, " e"], z: Float[Array, " m"]) -> Float[Array, " e"]:
        x = phi[: phi.size // 3]
        return jnp.concatenate([jnp.zeros_like(x), self._rate(phi) * self.drift.noise.product(x, z), jnp.zeros_like(x)])

    def covariance(self, phi: Float[Array, " e"]) -> Float[Array, "e e"]:
        d = phi.size // 3
        block = self._rate(phi) ** 2 * self.drift.noise.covariance(phi[:d])
        return jnp.zeros((phi.size, phi.size), phi.dtype).at[d : 2 * d, d : 2 * d].set(block)

    def _rate(self, phi: Array) -> Array:
        return (1 - jnp.asarray(self.drift.b1, phi.dtype)) / jnp.asarray(self.drift.learning_rate, phi.dtype)


def sign_sgd_sde(
    problem: FiniteSum | Potential, *, learning_rate: Any, batch_size: int = 1, sampling: str = "with_replacement"
) -> Diffusion:
    """SignSGD's SDE, dxᵢ = −erf(gᵢ/√2 σᵢ) dt + √η √(1 − erf²) dWᵢ, signs of different components taken as independent.

    Near the minimum of a quadratic of curvature h its variance is (η/2) √(π/2) σ/h. Source: Compagnoni et al. (2024).
    """
    noise = _noise(problem, learning_rate, batch_size, sampling)
    drift, d = SignDrift(problem, noise), problem.dim
    kind: NoiseKind = "diagonal" if d == 1 else "general"
    return Diffusion(drift, SignNoise(drift, d, kind), jnp.sqrt(jnp.asarray(learning_rate, float)), d)


def rmsprop_sde(
    problem: FiniteSum | Potential,
    *,
    learning_rate: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    batch_size: int = 1,
    sampling: str = "with_replacement",
) -> Diffusion:
    """RMSprop's SDE of (x, v), with v' = βv + (1 − β)ĝ² and x' = x − ηĝ/(√v + ε); β is `decay`; v starts at 0.

    Source: Compagnoni et al. (2024); optax.rmsprop has ε inside the root, as here for ε ≪ √v.
    """
    noise = _noise(problem, learning_rate, batch_size, sampling)
    fraction(decay, "decay")
    positive(eps, "eps")
    eta = jnp.asarray(learning_rate, float)
    drift = Rmsprop(problem, noise, eta, jnp.asarray(decay, float), jnp.asarray(eps, float))
    return Diffusion(drift, RmspropNoise(drift, noise.dim), jnp.sqrt(eta), 2 * problem.dim, problem.dim)


def adam_sde(
    problem: FiniteSum | Potential,
    *,
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    batch_size: int = 1,
    sampling: str = "with_replacement",
) -> Diffusion:
    """Adam's SDE of (x, m, v) with its correction of the start; x moves by −η m̂/(√v̂ + ε) in a step.

    Source: Compagnoni et al. (2024).
    """
    noise = _noise(problem, learning_rate, batch_size, sampling)
    fraction(b1, "b1")
    fraction(b2, "b2")
    positive(eps, "eps")
    eta, b1, b2, eps = (jnp.asarray(a, float) for a in (learning_rate, b1, b2, eps))
    drift = Adam(problem, noise, eta, b1, b2, eps)
    kind: NoiseKind = noise.kind if noise.kind in ("none", "additive") else "general"
    return Diffusion(drift, AdamNoise(drift, noise.dim, kind), jnp.sqrt(eta), 3 * problem.dim, problem.dim)


def _noise(problem: Any, learning_rate: Any, batch_size: int, sampling: str) -> Any:
    positive(learning_rate, "learning_rate")
    return sgd_noise(problem, batch_size, sampling)


ADAPTIVE_EQUATIONS = {"sign_sgd_sde": sign_sgd_sde, "rmsprop_sde": rmsprop_sde, "adam_sde": adam_sde}
