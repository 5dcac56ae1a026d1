"""Schemes for any SDE dX = f(t, X) dt + b(X) dW, of low order: Euler–Maruyama, Heun, and Euler for drifts that grow fast."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...struct import static, struct
from ...types import SDE, Calculus, Draws
from .terms import Entry, check_law, increment, ito_correction, of_law


@struct
class EulerMaruyama:
    """Euler–Maruyama, x' = x + f h + b √h z.

    `noise` is the law of z: "gaussian", or "three_point" or "two_point", which share its first five or three moments: the
    weak order is kept, the paths are not those of a Brownian motion. Source: Maruyama (1955); Kloeden and Platen (1992),
    §10.2, and §14.1 for the simplified laws.
    """

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")
    noise: str = static(default="gaussian")

    def __post_init__(self) -> None:
        check_law(self.noise, ITO["euler_maruyama"])

    def draws(self, sde: SDE) -> Draws:
        return of_law(self.noise, sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        return x + sde.drift(t, x) * dt + increment(sde, x, z, dt)


@struct
class TamedEuler:
    """Tamed Euler, x' = x + f h/(1 + h |f|) + b √h z: converges where the drift grows faster than linearly and Euler's explodes.

    `noise` is the law of z, as for `EulerMaruyama`. Source: Hutzenthaler, Jentzen and Kloeden (2012), Ann. Appl. Probab. 22, 1611.
    """

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")
    noise: str = static(default="gaussian")

    def __post_init__(self) -> None:
        check_law(self.noise, ITO["tamed_euler"])

    def draws(self, sde: SDE) -> Draws:
        return of_law(self.noise, sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        f = sde.drift(t, x)
        largest = jnp.maximum(jnp.max(jnp.abs(f)), 1)  # a square would overflow where the taming is needed
        square = jnp.sum((f / largest) ** 2)
        length = jnp.where(square > 0, largest * jnp.sqrt(jnp.where(square > 0, square, 1)), 0)  # smooth to autodiff at f = 0
        return x + f * (dt / (1 + dt * length)) + increment(sde, x, z, dt)


@struct
class Heun:
    """Heun's trapezoidal rule, x̄ = x + f h + b √h z,  x' = x + ½(f + f̄) h + ½(b + b̄) √h z, for Stratonovich SDEs.

    `calculus` says how the SDE's coefficients are read. "ito" (as everywhere in this package) subtracts the Itô–Stratonovich
    correction ½ Σₖ (∂bₖ) bₖ from the drift, by autodiff, one forward-mode product per noise dimension; it is zero, and
    skipped, for additive noise. "stratonovich" reads them as Stratonovich. `noise` may be "three_point" where weak order is
    all that is asked. Source: Rüemelin (1982); Kloeden and Platen, §4.9.
    """

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")
    noise: str = static(default="gaussian")

    def __post_init__(self) -> None:
        if self.calculus not in ("ito", "stratonovich"):
            raise ValueError(f'calculus is "ito" or "stratonovich", got {self.calculus!r}')
        check_law(self.noise, ITO["heun"])

    def draws(self, sde: SDE) -> Draws:
        return of_law(self.noise, sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        corrected = self.calculus == "ito" and sde.noise.kind not in ("none", "additive")

        def drift(time: Any, position: Array) -> Array:
            f = sde.drift(time, position)
            return f - ito_correction(sde, position) if corrected else f

        f, b = drift(t, x), increment(sde, x, z, dt)
        guess = x + f * dt + b
        return x + (f + drift(t + dt, guess)) * (dt / 2) + (b + increment(sde, guess, z, dt)) / 2


@struct
class LeimkuhlerMatthews:
    """Leimkuhler–Matthews, x' = x + f h + b √h (z + z₋)/2 with z₋ the noise of the step before: stationary bias O(h²).

    For additive noise. The chain remembers z₋ (zero before the first step). Its averages over a stationary law are of order
    2, over a path of order 1; a path lags by half an increment of the noise, O(√h). Source: Leimkuhler and Matthews (2013),
    Appl. Math. Res. Express 2013, 34.
    """

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")
    remembers: bool = static(default=True)

    def draws(self, sde: SDE) -> Draws:
        return Draws(normals=sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        """`z` holds the noise of the step before, then that of this one."""
        before, now = jnp.split(z, 2)
        return x + sde.drift(t, x) * dt + increment(sde, x, (before + now) / 2, dt)


ITO = {
    "euler_maruyama": Entry(
        EulerMaruyama, calculus="ito", noise="any", laws=("gaussian", "three_point", "two_point"),
        strong={"none": 1.0, "additive": 1.0, "diagonal": 0.5, "commutative": 0.5, "general": 0.5},
        weak={"none": 1.0, "additive": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 1.0},
    ),
    "heun": Entry(
        Heun, calculus="ito or stratonovich", noise="any", laws=("gaussian", "three_point"), derivatives=True,
        strong={"none": 2.0, "additive": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 0.5},
        weak={"none": 2.0, "additive": 2.0, "diagonal": 1.0, "commutative": 1.0, "general": 1.0},
    ),
    "tamed_euler": Entry(
        TamedEuler, calculus="ito", noise="any", laws=("gaussian", "three_point", "two_point"),
        strong={"none": 1.0, "additive": 1.0, "diagonal": 0.5, "commutative": 0.5, "general": 0.5},
        weak={"none": 1.0, "additive": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 1.0},
    ),
    "leimkuhler_matthews": Entry(
        LeimkuhlerMatthews, calculus="ito", noise="additive",
        strong={"none": 1.0, "additive": 0.5}, weak={"none": 1.0, "additive": 1.0},
    ),
}  # fmt: skip
