"""Schemes whose paths are close to the SDE's: Milstein (strong order 1), SRA1 (1.5, additive), the exact step of a linear SDE."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from ...struct import replace, static, struct
from ...types import SDE, Calculus, Draws
from .terms import Entry, along, columns, diagonal, increment, linear_drift


@struct
class Milstein:
    """Milstein, x' = x + f h + Σₖ bₖ ΔWₖ + Σⱼₖ (∂bₖ) bⱼ I₍ⱼₖ₎ with I₍ⱼₖ₎ = ∫∫ dWⱼ dWₖ, the iterated Itô integrals.

    With diagonal noise I is ½(ΔW² − h); with noises that commute, (∂bₖ) bⱼ = (∂bⱼ) bₖ, ½(ΔWⱼ ΔWₖ − δⱼₖ h) is enough, and
    that they do is checked when the chain is built. Noises that do not commute need the Lévy areas, the antisymmetric part:
    `terms` > 0 approximates them by so many terms of a Fourier series and its tail (take terms ≥ 1/√h for strong
    order 1), at 2·terms + 2 normals a noise and one a pair of noises; the tail is Gaussian with the covariance that it has given
    ΔW, so the areas have theirs exactly.

    Source: Milstein (1974); Kloeden and Platen, §10.3 and §5.8; Wiktorsson (2001), Ann. Appl. Probab. 11, 470.
    """

    strong_order: float = static(default=1.0)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")
    terms: int = static(default=0)

    def __post_init__(self) -> None:
        if isinstance(self.terms, bool) or not isinstance(self.terms, int) or self.terms < 0:
            raise ValueError(f"terms must be a whole number >= 0, got {self.terms!r}")

    def draws(self, sde: SDE) -> Draws:
        m = sde.noise.dim
        if sde.noise.kind == "general" and self.terms:
            return Draws(normals=m * (2 + 2 * self.terms) + m * (m - 1) // 2)
        return Draws(normals=m)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        m = sde.noise.dim
        euler = x + sde.drift(t, x) * dt + increment(sde, x, z[:m], dt)
        if sde.noise.kind in ("none", "additive"):
            return euler
        if sde.noise.kind == "diagonal":
            return euler + diagonal(sde, x) * (dt / 2) * (z * z - 1)
        integrals = (z[:m, None] * z[:m] - jnp.eye(m, dtype=x.dtype)) / 2  # I₍ⱼₖ₎/h
        if self.terms:
            integrals = integrals + _levy_areas(z, m, self.terms)
        return euler + dt * along(sde, x, integrals.T @ columns(sde, x))


def _levy_areas(z: Array, m: int, terms: int) -> Array:
    """Antisymmetric ["m m"]: the areas of m Brownian motions over a unit of time, given their increments z[:m]."""
    first, tail, pairs, rest = jnp.split(z, np.cumsum([m, m, m * (m - 1) // 2]))
    rest = rest.reshape(2, terms, m)
    weights = 1 / np.arange(1, terms + 1)
    half = jnp.einsum("rj,rk,r->jk", rest[0], np.sqrt(2.0) * first + rest[1], jnp.asarray(weights, z.dtype)) / (2 * np.pi)
    missing = np.sqrt(1 / 12 - (weights**2).sum() / (2 * np.pi**2))
    half = half + missing * tail[:, None] * first
    half = half.at[np.triu_indices(m, 1)].add(missing * pairs)
    return half - half.T


@struct
class SRA1:
    """SRA1, H = x + ¾ f h + 3/2 b J,  x' = x + h (f/3 + ⅔ f(t + ¾h, H)) + b ΔW,  J = ½√h (z₁ + z₂/√3): strong order 1.5, additive.

    J = ∫∫ dW ds / h; two normals a noise. Source: Rößler (2010), SIAM J. Numer. Anal. 48, 922, SRA1.
    """

    strong_order: float = static(default=1.5)
    weak_order: float = static(default=2.0)
    calculus: Calculus = static(default="ito")

    def draws(self, sde: SDE) -> Draws:
        return Draws(normals=2 * sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        first, second = jnp.split(z, 2)
        f = sde.drift(t, x)
        area = (first + second * (3**-0.5)) / 2
        inner = x + f * (0.75 * dt) + increment(sde, x, area, dt) * 1.5
        return x + (f + 2 * sde.drift(t + 0.75 * dt, inner)) * (dt / 3) + increment(sde, x, first, dt)


@struct
class ExactLinear:
    """The exact step of a linear SDE dX = (A X + c) dt + b dW.

        x' = e^{Ah} x + ∫₀ʰ e^{As} c ds + R z,    R Rᵀ = ∫₀ʰ e^{As} b bᵀ e^{Aᵀs} ds

    The law of every step is that of the SDE, whatever dt. The matrices are worked out once, when the chain is built, in
    float64 (Van Loan, IEEE Trans. Automat. Control 23, 395, 1978). `ValueError` for a drift that is not linear or depends
    on time, noise that depends on the position, and for an SDE or dt under a transformation.
    """

    strong_order: float = static(default=float("inf"))
    weak_order: float = static(default=float("inf"))
    calculus: Calculus = static(default="ito")
    propagator: Any = None
    shift: Any = None
    factor: Any = None

    def prepared(self, sde: SDE, dt: Any) -> ExactLinear:
        """The integrator with the matrices of this SDE and this step."""
        found = linear_drift(sde)
        assert found is not None, "the drift was found to be linear before"
        (a, c), d = found, sde.dim
        h = float(np.asarray(dt))
        b = np.asarray(columns(sde, jnp.zeros(d, float)), np.float64) if sde.noise.kind != "none" else np.zeros((0, d))
        moved = scipy.linalg.expm(np.block([[a, c[:, None]], [np.zeros((1, d + 1))]]) * h)
        paired = scipy.linalg.expm(np.block([[-a, b.T @ b], [np.zeros((d, d)), a.T]]) * h)
        covariance = paired[d:, d:].T @ paired[:d, d:]
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0))
        propagator, shift, factor = (jnp.asarray(v, float) for v in (moved[:d, :d], moved[:d, d], root @ vectors.T))
        return replace(self, propagator=propagator, shift=shift, factor=factor)

    def draws(self, sde: SDE) -> Draws:
        return Draws(normals=0 if sde.noise.kind == "none" else sde.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        if self.propagator is None:
            raise ValueError("ExactLinear steps a chain: jaxsde.integrate(sde, ExactLinear(), dt=dt)")
        moved = jnp.asarray(self.propagator, x.dtype) @ x + jnp.asarray(self.shift, x.dtype)
        return moved if sde.noise.kind == "none" else moved + jnp.asarray(self.factor, x.dtype) @ z


STRONG = {
    "milstein": Entry(
        Milstein, calculus="ito", noise="any", derivatives=True, needs={"general": {"terms": 10}},
        strong={"none": 1.0, "additive": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 1.0},
        weak={"none": 1.0, "additive": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 1.0},
    ),
    "sra1": Entry(
        SRA1, calculus="ito", noise="additive",
        strong={"none": 2.0, "additive": 1.5}, weak={"none": 2.0, "additive": 2.0},
    ),
    "exact_linear": Entry(
        ExactLinear, calculus="ito", noise="additive", drift="linear",
        strong={}, weak={},
    ),
}  # fmt: skip
