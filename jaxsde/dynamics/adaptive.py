"""SDEs of optimisers that divide by, or take the sign of, the gradient, on the clock t = Σ η. σᵢ² = Σ_B(x)ᵢᵢ, P = √v + ε.

| name         | state     | equation                                                                                |
|--------------|-----------|-----------------------------------------------------------------------------------------|
| sign_sgd_sde | x         | dx = −m dt + √η C^½ dW,  mᵢ = erf(gᵢ/√2 σᵢ),  C the covariance of sign ĝ                   |
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
import numpy as np
from jaxtyping import Array, Float

from ..problems.problem import FiniteSum, Potential
from ..struct import replace, static, struct
from ..types import NoiseKind
from .equations import Diffusion, fraction, positive, sgd_noise
from .noise import Diagonal, DiagonalFunction, Isotropic, NoNoise, Scaled, cholesky_product


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
    """C = Cov(sign ĝ) for a Gaussian ĝ: Cᵢᵢ = 1 − mᵢ², and with aᵢ = gᵢ/σᵢ and ρ the correlation of ĝᵢ and ĝⱼ

        Cᵢⱼ = (2/π) ∫ exp(−(aᵢ² − 2 aᵢaⱼ sin θ + aⱼ²)/2cos²θ) dθ  over θ from 0 to arcsin ρ,

    (2/π) arcsin ρ at a minimum. Source: Plackett (1954), Biometrika 41, 351. `correlated` says whether ρ may be other than 0.
    """

    signs: SignDrift
    correlated: bool = static()
    dim: int = static()
    kind: NoiseKind = static()

    def product(self, phi: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, " d"]:
        return cholesky_product(self.covariance(phi), z) if self.correlated else jnp.sqrt(self._variances(phi)) * z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        own = self._variances(phi)
        if not self.correlated:
            return jnp.diag(own)
        covariance, g = self.signs.noise.covariance(phi), self.signs.problem.grad(phi)
        variance = jnp.diagonal(covariance)
        inverse = jnp.where(variance > 0, 1 / jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
        rho = jnp.clip(inverse[:, None] * covariance * inverse, -1, 1) * (1 - jnp.eye(self.dim, dtype=phi.dtype))
        a, end = g * inverse, jnp.arcsin(rho)[..., None]
        theta = end * jnp.asarray((_NODES + 1) / 2, phi.dtype)
        squares, product = (a[:, None] ** 2 + a**2)[..., None], (a[:, None] * a)[..., None]
        below = jnp.maximum(jnp.cos(theta) ** 2, jnp.finfo(phi.dtype).tiny)
        inside = jnp.exp(-(squares / 2 - product * jnp.sin(theta)) / below)
        return jnp.diag(own) + (end[..., 0] / np.pi) * (inside @ jnp.asarray(_WEIGHTS, phi.dtype))

    def _variances(self, phi: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.maximum(1 - self.signs.mean(phi) ** 2, jnp.finfo(phi.dtype).tiny)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)


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
    """The drift of (x, m, v); c(t) = √(1 − β₂ᵏ)/(1 − β₁ᵏ) with k = t/η + 1, Adam's own correction of its start.

    Once it is over (`corrects` false) the drift no longer depends on time: that is the equation of the stationary law.
    """

    problem: Any
    noise: Any
    learning_rate: Any
    b1: Any
    b2: Any
    eps: Any
    corrects: bool = static(default=True)

    def settled(self) -> Adam:
        """The drift after a long time."""
        return replace(self, corrects=False)

    def __call__(self, t: Any, x: Float[Array, " e"]) -> Float[Array, " e"]:
        phi, m, v = jnp.split(x, 3)
        g, (eta, b1, b2) = self.problem.grad(phi), (jnp.asarray(a, x.dtype) for a in (self.learning_rate, self.b1, self.b2))
        k = t / eta + 1
        dm, dv = (1 - b1) * (g - m), (1 - b2) * (g * g + jnp.diagonal(self.noise.covariance(phi)) - v)
        root = jnp.sqrt(jnp.maximum(v + dv, 0) / (1 - (b2**k if self.corrects else 0))) + jnp.asarray(self.eps, x.dtype)
        return jnp.concatenate([-(m + dm) / (1 - (b1**k if self.corrects else 0)) / root, dm / eta, dv / eta])


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
    """SignSGD's SDE, dx = −E sign ĝ dt + √η Cov(sign ĝ)^½ dW for a Gaussian ĝ.

    In one dimension that is dx = −erf(g/√2 σ) dt + √η √(1 − erf²) dW, and near the minimum of a quadratic of curvature h its
    variance is (η/2) √(π/2) σ/h. Where the noises of ĝ are correlated, their signs are, too. Source: Compagnoni et al. (2024),
    whose equation for uncorrelated noise is the case of a diagonal Σ.
    """
    noise = _noise(problem, learning_rate, batch_size, sampling)
    drift, d = SignDrift(problem, noise), problem.dim
    inner = noise.noise if isinstance(noise, Scaled) else noise
    correlated = d > 1 and not isinstance(inner, NoNoise | Isotropic | Diagonal | DiagonalFunction)
    kind: NoiseKind = "diagonal" if d == 1 else "general"
    return Diffusion(drift, SignNoise(drift, correlated, d, kind), jnp.sqrt(jnp.asarray(learning_rate, float)), d)


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
