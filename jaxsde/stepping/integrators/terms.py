"""What integrators are made of: the noise of a step, the columns of b = scale · Σ^½ and their derivatives, and what can be
found of an SDE: whether its noises commute, whether its drift is linear."""

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
    """An integrator and what it declares of itself: the errors, `jaxsde list`, configs and tests read nothing else.

    `noise` is what it covers: "any", or "additive" (Σ constant). `drift`: "any", "linear", or "kinetic" (a position and its
    momentum). `strong` and `weak` are its orders by kind of noise: "none", "additive", "diagonal" (with one noise, all noise
    is), "commutative" and "general"; both are empty where it is exact. `laws` are what it may draw its increments from.
    `derivatives`: it differentiates the noise, entry by entry where that is diagonal. `needs`: for a kind of noise, settings
    that it asks for (beyond commuting noises, which are "general" too).
    """

    function: Any
    calculus: str
    noise: str
    strong: dict[str, float]
    weak: dict[str, float]
    drift: str = "any"
    laws: tuple[str, ...] = ("gaussian",)
    derivatives: bool = False
    needs: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def covers(self, kind: str) -> bool:
        return kind in ("none", "additive") or self.noise == "any"

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


def check_law(name: str, entry: Entry) -> None:
    """`ValueError` for a law that the scheme may not draw from, with those it may and the schemes that draw from this one."""
    if name not in entry.laws:
        from .fitting import INTEGRATORS

        others = [e.function.__name__ for e in INTEGRATORS.values() if name in e.laws]
        raise ValueError(
            f"{entry.function.__name__} draws its noise from {' or '.join(entry.laws)}, got noise={name!r}"
            + (f", which goes with {', '.join(others)}" if others else "")
        )


def of_law(name: str, count: int, signs: int = 0) -> Draws:
    """`count` variables of a law, and `signs` fair coins beside them."""
    if name == "two_point":
        return Draws(signs=count + signs)
    return Draws(signs=signs)._replace(**{LAWS[name]: count})


def cross_dependence(sde: SDE) -> tuple[int, int] | None:
    """(i, j) where entry i of 'diagonal' noise depends on component j ≠ i at a few random points; None where none does."""

    slopes = np.asarray(_slopes(sde, _points(sde)))
    cross = np.nan_to_num(np.abs(slopes * (1 - np.eye(sde.dim))))
    if cross.max() <= 1e-6 * max(float(np.nan_to_num(np.abs(slopes)).max()), 1e-30):
        return None
    _, i, j = np.unravel_index(cross.argmax(), cross.shape)
    return int(i), int(j)


def commutes(sde: SDE) -> tuple[int, int] | None:
    """None where (∂bₖ) bⱼ = (∂bⱼ) bₖ for all pairs at a few random points; else two noises that do not commute.

    Random mixtures of the noises are tried first, which commute if all do: with many noises there are too many pairs.
    """
    points, m = _points(sde), sde.noise.dim
    mixed = jnp.asarray(np.random.default_rng(1).normal(size=(2, len(points), 1, m)), points.dtype)
    one, two = (np.asarray(_derivatives(sde, points, *pair), np.float64) for pair in (mixed, mixed[::-1]))
    size = max(np.nan_to_num(np.abs(one)).max(), np.nan_to_num(np.abs(two)).max(), 1e-30)
    if np.nan_to_num(np.abs(one - two)).max() <= 1e-4 * size:
        return None
    shown = jnp.eye(min(m, 16), m, dtype=points.dtype)  # the worst pair of the first ones is named
    shown = jnp.broadcast_to(shown, (len(points), *shown.shape))
    table = np.asarray(_derivatives(sde, points, shown, shown), np.float64)
    apart = np.nan_to_num(np.abs(table - table.swapaxes(1, 2))).max(axis=(0, 3))
    j, k = np.unravel_index(apart.argmax(), apart.shape)
    return int(min(j, k)), int(max(j, k))


@jax.jit
def _slopes(sde: Any, points: Array) -> Array:
    """∂ᵢ of every entry of diagonal noise."""
    return jax.vmap(jax.jacfwd(lambda x: sde.noise.product(x, jnp.ones_like(x))))(points)


@jax.jit
def _derivatives(sde: Any, points: Array, ks: Array, js: Array) -> Array:
    """[point, k, j]: (∂bₖ) bⱼ of mixtures of noises, rows of ks and js ["points m"] for every point."""

    def along(x: Array, k: Array, j: Array) -> Array:
        return jax.jvp(lambda y: increment(sde, y, k, 1.0), (x,), (increment(sde, x, j, 1.0),))[1]

    pairs = jax.vmap(jax.vmap(along, in_axes=(None, None, 0)), in_axes=(None, 0, None))
    return jax.vmap(pairs)(points, ks, js)


def linear_drift(sde: SDE) -> tuple[np.ndarray, np.ndarray] | None:
    """A ["d d"] and c ["d"] of a drift A x + c that does not depend on time; None where a few far points say that it is another."""
    zero = jnp.zeros(sde.dim, float)
    a = np.asarray(jax.jacfwd(lambda x: sde.drift(0.0, x))(zero), np.float64)
    c = np.asarray(sde.drift(0.0, zero), np.float64)
    tolerance = 100 * float(jnp.finfo(zero.dtype).eps)
    for i, x in enumerate(np.random.default_rng(0).normal(size=(6, sde.dim)) * 3):
        got = np.asarray(sde.drift(1.37 * (i % 2), jnp.asarray(x, float)), np.float64)
        if not np.abs(got - a @ x - c).max() <= tolerance * (np.abs(a) @ np.abs(x) + np.abs(c)).max() + 1e-30:
            return None
    return a, c


def _points(sde: SDE) -> Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, sde.dim)), float)
