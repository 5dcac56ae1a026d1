"""The SDEs:  dX = drift(t, X) dt + scale · Σ(X)^½ dW,  Itô.

| name          | drift | scale · Σ^½ | stationary law                                    |
|---------------|-------|--------------|---------------------------------------------------|
| sgd_sde       | −∇L   | √η (Σ_B)^½   | Gibbs at kT = η s²/2B when Σ = s²I; else not Gibbs |
| langevin      | −∇L   | √(2kT) I     | Gibbs, exp(−L/kT)/Z                               |
| brownian      | 0     | √η I         | none: covariance η t I                            |
| gradient_flow | −∇L   | 0            | a minimum                                         |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..problems.problem import FiniteSum, Potential, check_covariance
from ..struct import static, struct
from . import noise as noises
from .gradients import SAMPLINGS


@struct
class Descent:
    """drift = −∇L."""

    problem: Any

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return -self.problem.grad(x)


@struct
class NoDrift:
    """drift = 0."""

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.zeros_like(x)


@struct
class Drift:
    """A user's drift(t, x)."""

    function: Callable[[Any, Any], Any] = static()

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.function(t, x)


@struct
class Diffusion:
    """dX = drift(t, X) dt + scale · Σ(X)^½ dW, read as Itô. Made by the functions below."""

    drift: Any
    noise: Any
    scale: Any
    dim: int = static()

    @property
    def problem(self) -> Any:
        """The problem whose −∇L is the drift; None for another drift."""
        return getattr(self.drift, "problem", None)

    def diffusion(self, x: Float[Array, " d"]) -> Float[Array, "d d"]:
        """D(x) = scale² Σ(x)/2, the matrix of the Fokker–Planck equation."""
        return jnp.asarray(self.scale, x.dtype) ** 2 / 2 * self.noise.covariance(x)


def sgd_sde(
    problem: FiniteSum | Potential,
    *,
    learning_rate: Any,
    batch_size: int = 1,
    order: int = 1,
    sampling: str = "with_replacement",
    frozen_at: Any = None,
) -> Diffusion:
    """SGD's order-1 SDE, dΦ = −∇L dt + √η (Σ_B(Φ))^½ dW, on the clock t = Σ η.

    Σ_B is the covariance of the batch gradient: Σ/B with replacement, Σ/B·(n−B)/(n−1) without. With `frozen_at` (params, or
    a flat position) Σ is held at its value there: an Ornstein–Uhlenbeck noise.

    Source: Li, Tai and E (2017), Stochastic modified equations; the lecture's dΦ = −g dt + ε√dt, ε ~ N(0, ηΣ).
    """
    if order != 1:
        raise ValueError(f"order must be 1 (dX = −∇L dt + √η Σ^½ dW), got {order!r}")
    positive(learning_rate, "learning_rate")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    if not problem.examples and sampling in ("without_replacement", "random_reshuffling"):
        raise ValueError(f'sampling="{sampling}" needs examples, and a potential has none: leave sampling out')
    if problem.examples and sampling in ("without_replacement", "random_reshuffling") and batch_size > problem.examples:
        raise ValueError(f"batch_size {batch_size} exceeds the {problem.examples} examples that {sampling} draws from")
    noise = noises.of_problem(problem) if frozen_at is None else noises.frozen(problem, flat(problem, frozen_at))
    by = noises.batch_factor(int(batch_size), problem.examples, sampling)
    return Diffusion(
        Descent(problem), noises.scaled(noise, by), jnp.sqrt(jnp.asarray(learning_rate, float)), problem.dim
    )


def langevin(problem: FiniteSum | Potential, *, temperature: Any) -> Diffusion:
    """Overdamped Langevin, dX = −∇L dt + √(2kT) dW, whose stationary law is Gibbs at that temperature."""
    positive(temperature, "temperature")
    scale = jnp.sqrt(2 * jnp.asarray(temperature, float))
    return Diffusion(Descent(problem), noises.Isotropic(jnp.asarray(1.0), problem.dim), scale, problem.dim)


def brownian(dim: int, *, learning_rate: Any = None, scale: Any = None) -> Diffusion:
    """Brownian motion dX = √η dW (the lecture's g = 0, Σ = I), or dX = scale · dW."""
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {dim!r}")
    if (learning_rate is None) == (scale is None):
        raise ValueError("give either learning_rate (covariance learning_rate·t·I) or scale (covariance scale²·t·I)")
    if scale is None:
        positive(learning_rate, "learning_rate")
        scale = jnp.sqrt(jnp.asarray(learning_rate, float))
    _scale(scale)
    return Diffusion(NoDrift(), noises.Isotropic(jnp.asarray(1.0), int(dim)), jnp.asarray(scale, float), int(dim))


def gradient_flow(problem: FiniteSum | Potential) -> Diffusion:
    """dX = −∇L dt, no noise."""
    return Diffusion(Descent(problem), noises.NoNoise(), jnp.asarray(1.0), problem.dim)


def sde(drift: Callable[[Any, Any], Any], noise: Any = 1.0, *, dim: int, scale: Any = 1.0) -> Diffusion:
    """A user's Itô SDE dX = drift(t, X) dt + scale · Σ(X)^½ dW.

    `noise` is Σ when constant (a number, `dim` variances or a matrix), a function of x, or an object with the `Noise`
    protocol. A function may return a vector [d], the standard deviations σᵢ(xᵢ) of diagonal noise (each depending on its own
    component alone), or a matrix [d, m], a square root of Σ(x).
    """
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {dim!r}")
    _scale(scale)
    dim = int(dim)
    x = jax.ShapeDtypeStruct((dim,), jnp.result_type(float))
    if not callable(drift):
        raise TypeError(f"drift must be a function (t, x) -> [d], got {type(drift).__name__}")
    try:
        out = jax.eval_shape(drift, jax.ShapeDtypeStruct((), x.dtype), x)
    except TypeError as error:
        raise TypeError(
            f"drift(t, x) could not be evaluated ({error}): it takes the time and the position [{dim}]"
        ) from error
    if out.shape != (dim,):
        raise ValueError(f"drift must return shape ({dim},), got {out.shape}")
    wrapped = drift if isinstance(drift, Descent | NoDrift | Drift) else Drift(drift)
    return Diffusion(wrapped, _user_noise(noise, dim, x), jnp.asarray(scale, float), dim)


def _user_noise(noise: Any, dim: int, x: Any) -> Any:
    if hasattr(noise, "product") and hasattr(noise, "covariance"):
        return noise
    if not callable(noise):
        return noises.constant(check_covariance(noise, dim, "noise"), dim, "noise")
    shape = jax.eval_shape(noise, x).shape
    if shape in ((), (dim,)):
        return noises.DiagonalFunction(noise, dim)
    if len(shape) == 2 and shape[0] == dim:
        return noises.MatrixFunction(noise, shape[1], "diagonal" if shape == (1, 1) else "general")
    raise ValueError(
        f"noise(x) must return standard deviations [{dim}] or a square root of Σ [{dim}, m], got shape {shape}"
    )


def flat(problem: FiniteSum | Potential, params: Any) -> Array:
    """A position as the flat vector ["d"], from the user's pytree or from a flat vector."""
    leaves = jax.tree.leaves(params)
    size = sum(int(np.size(a)) for a in leaves)
    if size != problem.dim:
        raise ValueError(f"a position of this problem has {problem.dim} numbers, got {size}")
    return jnp.concatenate([jnp.ravel(jnp.asarray(a, problem.start.dtype)) for a in leaves])


def _scale(value: Any) -> None:
    """`ValueError` unless the scale of a noise is one finite number that is not negative; values under trace pass."""
    if isinstance(value, Tracer):
        return
    if np.ndim(value) or not np.isfinite(value) or value < 0:
        raise ValueError(f"scale must be one finite number, not negative, got {value}")


def positive(value: Any, name: str) -> None:
    """`ValueError` unless it is one number, finite and positive; values under trace pass."""
    if isinstance(value, Tracer):
        return
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from error
    if array.ndim:
        raise ValueError(f"{name} must be one number, got shape {array.shape}: sweep over many with jax.vmap")
    if isinstance(value, bool) or not np.isfinite(array).all() or not (array > 0).all():
        raise ValueError(f"{name} must be positive and finite, got {value}")


EQUATIONS = {"sgd_sde": sgd_sde, "langevin": langevin, "brownian": brownian, "gradient_flow": gradient_flow}
