"""What integrators are made of: the noise of a step, the columns of b = scale · Σ^½ and their derivatives, and the checks of
what an SDE's noise allows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...types import SDE, Draws

# The laws that a weak scheme may draw its increments from, by how many moments of the normal law they share.
LAWS = {"gaussian": "normals", "three_point": "three_point", "two_point": "signs"}


class Entry(NamedTuple):
    """An integrator and what it declares of itself.

    `noise` says what it covers: "any", "additive" (Σ constant), "diagonal", or "kinetic" (a position and its velocity).
    `strong` and `weak` are its orders by kind of noise: "none", "additive", "diagonal" (with one noise, all noise is),
    "commutative" and "general"; a kind that is missing is not covered.
    """

    function: Any
    calculus: str
    noise: str
    strong: dict[str, float]
    weak: dict[str, float]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def increment(sde: SDE, x: Array, z: Any, dt: Any) -> Array:
    """scale · Σ(x)^½ z · √dt."""
    if sde.noise.kind == "none":
        return jnp.zeros_like(x)
    return (jnp.asarray(sde.scale, x.dtype) * jnp.sqrt(jnp.asarray(dt, x.dtype))) * sde.noise.product(x, z)


def columns(sde: SDE, x: Float[Array, " d"]) -> Float[Array, "m d"]:
    """b₁ … b_m at x, one in each row."""
    basis = jnp.eye(sde.noise.dim, dtype=x.dtype)
    return jax.vmap(lambda e: increment(sde, x, e, 1.0))(basis)


def along(sde: SDE, x: Float[Array, " d"], directions: Float[Array, "m d"]) -> Float[Array, " d"]:
    """Σₖ (∂bₖ) vₖ: the change of each column along a direction of its own."""
    basis = jnp.eye(sde.noise.dim, dtype=x.dtype)

    def term(e: Array, v: Array) -> Array:
        return jax.jvp(lambda y: increment(sde, y, e, 1.0), (x,), (v,))[1]

    return jnp.sum(jax.vmap(term)(basis, directions), axis=0)


def ito_correction(sde: SDE, x: Float[Array, " d"]) -> Float[Array, " d"]:
    """c(x) = ½ Σₖ (∂bₖ) bₖ: an Itô SDE with drift f is the Stratonovich SDE with drift f − c."""
    if sde.noise.kind in ("none", "additive"):
        return jnp.zeros_like(x)
    if sde.noise.kind == "diagonal":  # column k has the k-th entry alone: one product does all
        return diagonal(sde, x) / 2
    return along(sde, x, columns(sde, x)) / 2


def diagonal(sde: SDE, x: Float[Array, " d"]) -> Array:
    """b′ b, entry by entry, of diagonal noise."""

    def b(y: Array) -> Array:
        return increment(sde, y, jnp.ones((sde.noise.dim,), x.dtype), 1.0)

    return jax.jvp(b, (x,), (b(x),))[1]


def law(name: str, allowed: tuple[str, ...], who: str) -> str:
    """The name of a law that a scheme may draw from; `ValueError` with those it may."""
    if name not in allowed:
        raise ValueError(f"{who} draws its noise from {' or '.join(allowed)}, got noise={name!r}")
    return name


def of_law(name: str, count: int, signs: int = 0) -> Draws:
    """`count` variables of a law, and `signs` fair coins beside them."""
    if name == "two_point":
        return Draws(signs=count + signs)
    return Draws(signs=signs)._replace(**{LAWS[name]: count})


def check_additive(sde: SDE, who: str) -> None:
    if sde.noise.kind not in ("none", "additive"):
        raise ValueError(
            f"{who} covers noise that does not depend on the position, and this SDE's does: use EulerMaruyama(), Heun() or Platen()"
        )


def check_diagonal(sde: SDE, who: str, cure: str) -> None:
    """Refuses 'diagonal' noise whose i-th entry depends on another component, found at a few random points."""

    def entry(x: Array) -> Array:
        return sde.noise.product(x, jnp.ones_like(x))

    slopes = np.asarray(jax.vmap(jax.jacfwd(entry))(_points(sde)))
    cross = np.abs(slopes * (1 - np.eye(sde.dim)))
    if np.nanmax(cross) > 1e-6 * max(float(np.nanmax(np.abs(slopes))), 1e-30):
        _, i, j = np.unravel_index(np.nanargmax(cross), cross.shape)
        raise ValueError(
            f"{who} needs diagonal noise whose entry i depends on component i alone; here entry {i} depends on component {j}: "
            f"{cure}"
        )


def commutes(sde: SDE) -> tuple[int, int] | None:
    """None where (∂bₖ) bⱼ = (∂bⱼ) bₖ for all pairs at a few random points; else the first pair of noises that do not commute."""

    def pairs(x: Array) -> Array:  # [j, k] = (∂bₖ) bⱼ
        b = columns(sde, x)
        return jax.vmap(lambda v: jax.jvp(lambda y: columns(sde, y), (x,), (v,))[1])(b)

    table = np.asarray(jax.vmap(pairs)(_points(sde)), np.float64)
    apart = np.abs(table - table.swapaxes(1, 2)).max(axis=(0, 3))
    if np.nanmax(apart) <= 1e-4 * max(float(np.nanmax(np.abs(table))), 1e-30):
        return None
    j, k = np.unravel_index(np.nanargmax(apart), apart.shape)
    return int(min(j, k)), int(max(j, k))


def _points(sde: SDE) -> Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, sde.dim)), float)
