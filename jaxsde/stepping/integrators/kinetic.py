"""Splittings for a position and its momentum, dq = p/m dt, dp = −∇L dt − γ p dt + b dW: A drifts, B kicks, O is the exact
Ornstein–Uhlenbeck step of the momentum.

The equations `underdamped` and `momentum_sde` are of that form (`dynamics/kinetic.py`).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...struct import static, struct
from ...types import SDE, Calculus, Draws
from .terms import Entry, check_law, of_law


@struct
class BAOAB:
    """BAOAB: half kick, half drift, exact friction and noise, half drift, half kick; for kinetic SDEs.

    In a harmonic well with constant noise the position's variance is exact at any stable step, and the momentum's is
    kT m (1 − h²k/4m). Weak order 2. Source: Leimkuhler and Matthews (2013), Appl. Math. Res. Express 2013, 34.
    """

    strong_order: float = static(default=1.0)
    weak_order: float = static(default=2.0)
    calculus: Calculus = static(default="ito")
    noise: str = static(default="gaussian")

    def __post_init__(self) -> None:
        check_law(self.noise, KINETIC["baoab"])

    def draws(self, sde: SDE) -> Draws:
        return of_law(self.noise, sde.noise.dim)

    def step(self, sde: Any, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        q, p = jnp.split(x, 2)
        p = p + sde.drift.force(q) * (dt / 2)
        q = q + sde.drift.velocity(p) * (dt / 2)
        p = _friction(sde, q, p, dt, z)
        q = q + sde.drift.velocity(p) * (dt / 2)
        return jnp.concatenate([q, p + sde.drift.force(q) * (dt / 2)])


@struct
class OBABO:
    """OBABO: exact friction and noise for half a step, velocity Verlet, and again; for kinetic SDEs.

    Two normals a noise. Weak order 2. Source: Bussi and Parrinello (2007), Phys. Rev. E 75, 056707.
    """

    strong_order: float = static(default=1.0)
    weak_order: float = static(default=2.0)
    calculus: Calculus = static(default="ito")
    noise: str = static(default="gaussian")

    def __post_init__(self) -> None:
        check_law(self.noise, KINETIC["obabo"])

    def draws(self, sde: SDE) -> Draws:
        return of_law(self.noise, 2 * sde.noise.dim)

    def step(self, sde: Any, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        q, p = jnp.split(x, 2)
        first, second = jnp.split(z, 2)
        p = _friction(sde, q, p, dt / 2, first) + sde.drift.force(q) * (dt / 2)
        q = q + sde.drift.velocity(p) * dt
        p = p + sde.drift.force(q) * (dt / 2)
        return jnp.concatenate([q, _friction(sde, q, p, dt / 2, second)])


def _friction(sde: Any, q: Array, p: Array, time: Any, z: Any) -> Array:
    """p after `time` of dp = −γ p dt + b(q) dW with q held: exact."""
    rate = jnp.asarray(sde.drift.friction, p.dtype)
    kept = jnp.exp(-rate * time)
    spread = jnp.sqrt(-jnp.expm1(-2 * rate * time) / (2 * rate))
    return kept * p + (spread * jnp.asarray(sde.scale, p.dtype)) * sde.noise.on_momentum(q, z)


KINETIC = {
    "baoab": Entry(
        BAOAB, calculus="ito", noise="any", drift="kinetic", laws=("gaussian", "three_point"),
        strong={"none": 2.0, "additive": 1.0, "commutative": 1.0, "general": 1.0},
        weak={"none": 2.0, "additive": 2.0, "commutative": 2.0, "general": 2.0},
    ),
    "obabo": Entry(
        OBABO, calculus="ito", noise="any", drift="kinetic", laws=("gaussian", "three_point"),
        strong={"none": 2.0, "additive": 1.0, "commutative": 1.0, "general": 1.0},
        weak={"none": 2.0, "additive": 2.0, "commutative": 2.0, "general": 2.0},
    ),
}  # fmt: skip
