"""Schemes whose averages are close to the SDE's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...struct import static, struct
from ...types import SDE, Calculus, Draws
from .terms import Entry, check_law, columns, increment, of_law


@struct
class Platen:
    """Platen's explicit scheme of weak order 2 for any Itô noise; for additive noise it is Heun's.

        x̄ = x + f h + Σ bⱼΔWⱼ,   x±ʲ = x + f h ± bⱼ√h,   y±ʲ = x ± bⱼ√h
        x' = x + ½(f + f(x̄)) h + ¼ Σⱼ [bⱼ(x₊ʲ) + bⱼ(x₋ʲ) + 2bⱼ + Σ_{r≠j} (bⱼ(y₊ʳ) + bⱼ(y₋ʳ) − 2bⱼ)] ΔWⱼ
               + ¼ h^-½ Σⱼ [(bⱼ(x₊ʲ) − bⱼ(x₋ʲ)) (ΔWⱼ² − h) + Σ_{r≠j} (bⱼ(y₊ʳ) − bⱼ(y₋ʳ)) (ΔWⱼΔWᵣ + Vᵣⱼ)]

    with Vᵣⱼ = −Vⱼᵣ = ±h, a fair coin for each pair. `noise` is the law of ΔW: "gaussian" or "three_point". A step with m
    noises evaluates b some 2m + 2 times, and m(m − 1)/2 coins are drawn. Source: Kloeden and Platen (1992), (15.1.3).
    """

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=2.0)
    calculus: Calculus = static(default="ito")
    noise: str = static(default="gaussian")

    def __post_init__(self) -> None:
        check_law(self.noise, WEAK["platen"])

    def draws(self, sde: SDE) -> Draws:
        m = sde.noise.dim
        return of_law(self.noise, m, m * (m - 1) // 2 if sde.noise.kind == "general" else 0)

    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]:
        m = sde.noise.dim
        w = z[:m]
        f, b = sde.drift(t, x), increment(sde, x, w, dt)
        drifted = x + f * dt
        mean = x + (f + sde.drift(t + dt, drifted + b)) * (dt / 2)
        if sde.noise.kind in ("none", "additive"):
            return mean + b
        root = jnp.sqrt(jnp.asarray(dt, x.dtype))
        if sde.noise.kind == "diagonal":
            ones = jnp.ones((m,), x.dtype)
            own = increment(sde, x, ones, dt)
            up, down = increment(sde, drifted + own, ones, dt), increment(sde, drifted - own, ones, dt)
            return mean + (up + down + 2 * own) * w / 4 + (up - down) * (w * w - 1) / 4
        b = columns(sde, x)  # [m d]

        def moved(base: Array, sign: int) -> Array:
            """bⱼ(base ± bᵣ √h) as [r, j, d]."""
            return jax.vmap(lambda v: columns(sde, base + sign * root * v))(b)

        up, down, above, below = moved(drifted, 1), moved(drifted, -1), moved(x, 1), moved(x, -1)
        own, others = jnp.eye(m, dtype=x.dtype), 1 - jnp.eye(m, dtype=x.dtype)
        coins = jnp.zeros((m, m), x.dtype).at[np.triu_indices(m, 1)].set(z[m:])
        coins = coins - coins.T  # [r, j]: Vᵣⱼ/h
        linear = jnp.einsum("rj,rjd->jd", own, up + down + 2 * b) + jnp.einsum("rj,rjd->jd", others, above + below - 2 * b)
        pairs = w[:, None] * w + coins
        square = jnp.einsum("rj,rjd->d", own * (pairs - 1), up - down) + jnp.einsum("rj,rjd->d", others * pairs, above - below)
        return mean + root / 4 * (w @ linear + square)


WEAK = {
    "platen": Entry(
        Platen, calculus="ito", noise="any", laws=("gaussian", "three_point"), derivatives=True,
        strong={"none": 2.0, "additive": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 0.5},
        weak={"none": 2.0, "additive": 2.0, "diagonal": 2.0, "commutative": 2.0, "general": 2.0},
    ),
}  # fmt: skip
