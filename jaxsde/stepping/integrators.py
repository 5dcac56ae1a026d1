"""One step of an SDE  dX = f(t, X) dt + b(X) dW  with b = scale · Σ^½, from standardised draws z (ΔW = √h z).

| integrator      | calculus            | noise                | strong order                       | weak order |
|-----------------|---------------------|----------------------|------------------------------------|------------|
| EulerMaruyama   | Itô                 | any                  | 1/2 (1 when additive)              | 1          |
| Heun            | Stratonovich or Itô | any                  | 1 when it commutes, else 1/2       | 1 (2 when additive) |
| Milstein        | Itô                 | additive or diagonal | 1                                  | 1          |
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..struct import static, struct
from ..types import SDE, Calculus, Draws


@struct
class EulerMaruyama:
    """x' = x + f h + b √h z. Source: Maruyama (1955); Kloeden and Platen (1992), §10.2."""

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")

    def draws(self, sde: SDE) -> Draws:
        return Draws(normals=sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        return x + sde.drift(t, x) * dt + _noise(sde, x, z, dt)


@struct
class Heun:
    """x̄ = x + f h + b √h z,  x' = x + ½(f + f̄) h + ½(b + b̄) √h z: the trapezoidal rule for Stratonovich SDEs.

    `calculus` says how the SDE's coefficients are read. "ito" (as everywhere in this package) subtracts the Itô–Stratonovich
    correction ½ Σₖ (∂bₖ) bₖ from the drift, by autodiff, one forward-mode product per noise dimension; it is zero, and
    skipped, for additive noise. "stratonovich" reads them as Stratonovich. Source: Rüemelin (1982); Kloeden and Platen, §4.9.
    """

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")

    def __post_init__(self) -> None:
        if self.calculus not in ("ito", "stratonovich"):
            raise ValueError(f'calculus is "ito" or "stratonovich", got {self.calculus!r}')

    def draws(self, sde: SDE) -> Draws:
        if sde.noise.kind == "diagonal" and self.calculus == "ito":
            _check_diagonal(sde, "Heun, read as Itô,", "give the noise as a matrix, jnp.diag(σ(x)), or use EulerMaruyama()")
        return Draws(normals=sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        corrected = self.calculus == "ito" and sde.noise.kind not in ("none", "additive")

        def drift(time: Any, position: Array) -> Array:
            f = sde.drift(time, position)
            return f - ito_correction(sde, position) if corrected else f

        f, b = drift(t, x), _noise(sde, x, z, dt)
        guess = x + f * dt + b
        return x + (f + drift(t + dt, guess)) * (dt / 2) + (b + _noise(sde, guess, z, dt)) / 2


@struct
class Milstein:
    """x' = x + f h + b √h z + ½ b b′ h (z² − 1), for noise whose i-th entry is bᵢ(xᵢ) alone.

    Refuses other noise when the chain is built. Source: Milstein (1974); Kloeden and Platen, §10.3.
    """

    strong_order: float = static(default=1.0)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")

    def draws(self, sde: SDE) -> Draws:
        if sde.noise.kind == "general":
            raise ValueError(
                "Milstein covers additive and diagonal noise, and this SDE's noise matrix depends on the position: "
                "use EulerMaruyama() or Heun()"
            )
        if sde.noise.kind == "diagonal":
            _check_diagonal(sde, "Milstein", "use EulerMaruyama() or Heun()")
        return Draws(normals=sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        euler = x + sde.drift(t, x) * dt + _noise(sde, x, z, dt)
        if sde.noise.kind != "diagonal":
            return euler
        b, slope = jax.jvp(lambda y: _noise(sde, y, jnp.ones_like(z), 1.0), (x,), (jnp.ones_like(x),))
        return euler + b * slope * (dt / 2) * (z * z - 1)


INTEGRATORS = {"euler_maruyama": EulerMaruyama, "heun": Heun, "milstein": Milstein}


def ito_correction(sde: SDE, x: Float[Array, " d"]) -> Float[Array, " d"]:
    """c(x) = ½ Σₖ (∂bₖ) bₖ: an Itô SDE with drift f is the Stratonovich SDE with drift f − c."""
    basis = jnp.eye(sde.noise.dim, dtype=x.dtype)

    def term(e: Array) -> Array:
        column = lambda y: _noise(sde, y, e, 1.0)  # noqa: E731
        return jax.jvp(column, (x,), (column(x),))[1]

    if sde.noise.kind in ("none", "additive"):
        return jnp.zeros_like(x)
    if sde.noise.kind == "diagonal":  # column k has the k-th entry alone: one product does all
        b = lambda y: _noise(sde, y, jnp.ones((sde.noise.dim,), x.dtype), 1.0)  # noqa: E731
        return jax.jvp(b, (x,), (b(x),))[1] / 2
    return jnp.sum(jax.vmap(term)(basis), axis=0) / 2


def _noise(sde: SDE, x: Array, z: Any, dt: Any) -> Array:
    """scale · Σ(x)^½ z · √dt."""
    if sde.noise.kind == "none":
        return jnp.zeros_like(x)
    return (jnp.asarray(sde.scale, x.dtype) * jnp.sqrt(jnp.asarray(dt, x.dtype))) * sde.noise.product(x, z)


def _check_diagonal(sde: SDE, who: str, cure: str) -> None:
    """Refuses 'diagonal' noise whose i-th entry depends on another component, found at a few random points."""
    points = np.random.default_rng(0).normal(size=(4, sde.dim))
    entry = lambda x: sde.noise.product(x, jnp.ones_like(x))  # noqa: E731
    slopes = np.asarray(jax.vmap(jax.jacfwd(entry))(jnp.asarray(points, float)))
    cross = np.abs(slopes * (1 - np.eye(sde.dim)))
    if np.nanmax(cross) > 1e-6 * max(float(np.nanmax(np.abs(slopes))), 1e-30):
        _, i, j = np.unravel_index(np.nanargmax(cross), cross.shape)
        raise ValueError(
            f"{who} needs diagonal noise whose entry i depends on component i alone; here entry {i} depends on component {j}: "
            f"{cure}"
        )
