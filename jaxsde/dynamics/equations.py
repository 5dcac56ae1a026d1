"""The SDEs:  dX = drift(t, X) dt + scale · Σ(X)^½ dW,  Itô.

Those with momenta are in `kinetic.py`, those of Adam and its kin in `adaptive.py`.

| name          | drift | scale · Σ^½ | stationary law                                    |
|---------------|-------|--------------|---------------------------------------------------|
| sgd_sde       | −∇L   | √η (Σ_B)^½   | Gibbs at kT = η s²/2B when Σ = s²I; else not Gibbs |
| … order=2     | −∇(L + η/4 |∇L|²) | √η (Σ_B)^½ | closer to SGD by a power of η            |
| homogenized_sgd | −∇L | √η (2LH/B)^½ | not Gibbs                                         |
| … preconditioner=P | −P∇L + kT ∇·P | √(2kT) P^½ | Gibbs                                  |
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
from ..struct import replace, static, struct
from ..types import NoiseKind
from . import noise as noises
from .gradients import SAMPLINGS


@struct
class Descent:
    """drift = −∇L."""

    problem: Any

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return -self.problem.grad(x)


@struct
class ModifiedDescent:
    """drift = −∇(L + η/4 |∇L|²) = −(I + η/2 ∇²L) ∇L."""

    problem: Any
    learning_rate: Any

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        g = self.problem.grad(x)
        curved = jax.jvp(self.problem.grad, (x,), (g,))[1]
        return -g - jnp.asarray(self.learning_rate, x.dtype) / 2 * curved


@struct
class ConstantPreconditioner:
    """drift = −P ∇L with a constant P, the covariance of `noise`."""

    problem: Any
    noise: Any

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return -self.noise.covariance(x) @ self.problem.grad(x)


@struct
class LocalPreconditioner:
    """drift = −P ∇L + kT ∇·P."""

    problem: Any
    noise: Any
    temperature: Any

    def __call__(self, t: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        p = self.noise.covariance
        divergence = jnp.trace(jax.jacfwd(p)(x), axis1=1, axis2=2)
        return -p(x) @ self.problem.grad(x) + jnp.asarray(self.temperature, x.dtype) * divergence


@struct
class LossNoise:
    """Σ(Φ) = 2 L(Φ) H, with `root` = H^½."""

    problem: Any
    root: Float[Array, "d d"]
    dim: int = static()
    kind: NoiseKind = static()

    def product(self, phi: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.sqrt(2 * self.problem.loss(phi)) * (jnp.asarray(self.root, phi.dtype) @ z)

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        root = jnp.asarray(self.root, phi.dtype)
        return 2 * self.problem.loss(phi) * (root @ root.T)


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
    # How many leading components are the position; the rest are momenta or averages. None: all of them are.
    position_dim: int | None = static(default=None)

    def flatten(self) -> Diffusion:
        """The same SDE with its whole state as the position."""
        return replace(self, position_dim=None)

    @property
    def problem(self) -> Any:
        """The problem whose −∇L is the drift; None for another drift."""
        return self.drift.problem if isinstance(self.drift, Descent) else None

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
    """SGD's SDE, dΦ = −∇L dt + √η (Σ_B(Φ))^½ dW, on the clock t = Σ η; with order=2 the drift is −∇(L + η/4 |∇L|²).

    Averages over a fixed time differ from SGD's by O(η), and by O(η²) with order=2, whose diffusion is the same.

    Σ_B is the covariance of the batch gradient: Σ/B with replacement, Σ/B·(n−B)/(n−1) without. With `frozen_at` (params, or
    a flat position) Σ is held at its value there: an Ornstein–Uhlenbeck noise.

    Source: Li, Tai and E (2017, 2019), Stochastic modified equations; the lecture's dΦ = −g dt + ε√dt, ε ~ N(0, ηΣ).
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 (drift −∇L) or 2 (drift −∇(L + η/4 |∇L|²)), got {order!r}")
    positive(learning_rate, "learning_rate")
    noise = sgd_noise(problem, batch_size, sampling, frozen_at)
    eta = jnp.asarray(learning_rate, float)
    drift = Descent(problem) if order == 1 else ModifiedDescent(problem, eta)
    return Diffusion(drift, noise, jnp.sqrt(eta), problem.dim)


def sgd_noise(problem: FiniteSum | Potential, batch_size: int, sampling: str, frozen_at: Any = None) -> Any:
    """Σ_B(Φ) of SGD's equations, or its value at one position. `ValueError` for a batch or sampling that the problem has not."""
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}")
    if sampling == "alpha_stable":
        raise ValueError('sampling="alpha_stable" has no covariance, so no diffusion: use js.sgd(…) itself')
    batch_size = noises.whole_batch(batch_size)
    distinct = sampling in noises.WITHOUT_REPEATS
    if not problem.examples and distinct:
        raise ValueError(f'sampling="{sampling}" needs examples, and a potential has none: leave sampling out')
    if problem.examples and distinct and batch_size > problem.examples:
        raise ValueError(f"batch_size {batch_size} exceeds the {problem.examples} examples that {sampling} draws from")
    noise = noises.of_problem(problem) if frozen_at is None else noises.frozen(problem, flat(problem, frozen_at))
    return noises.scaled(noise, noises.batch_factor(batch_size, problem.examples, sampling))


def homogenized_sgd(problem: FiniteSum, *, learning_rate: Any, batch_size: int = 1) -> Diffusion:
    """Homogenised SGD for least squares, dX = −∇L dt + √(2η L(X)/B) H^½ dW: SGD where the dimension is high and the data generic.

    Σ(X) is replaced by 2 L(X) H, which it is on average over the residuals. Its mean loss follows a Volterra equation.
    `ValueError` where the Hessian is not constant. Source: Paquette, Paquette, Adlam and Pennington (2022), "Homogenization of
    SGD in high-dimensions"; Paquette and Paquette (2021).
    """
    positive(learning_rate, "learning_rate")
    if not problem.examples:
        raise ValueError("homogenized_sgd is for least squares over examples, and a potential has none: use sgd_sde or langevin")
    batch_size = noises.whole_batch(batch_size)
    away = jnp.asarray(np.random.default_rng(0).normal(size=problem.dim), problem.start.dtype)
    here, there = (np.asarray(problem.hessian(x), np.float64) for x in (problem.start, problem.start + away))
    if not np.abs(here - there).max() <= 1e-3 * np.abs(here).max():
        raise ValueError("homogenized_sgd is for least squares, and this loss's Hessian depends on the position: use sgd_sde")
    values, vectors = np.linalg.eigh((here + here.T) / 2)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    kind: NoiseKind = "diagonal" if problem.dim == 1 else "general"
    noise = noises.scaled(LossNoise(problem, jnp.asarray(root, float), problem.dim, kind), 1.0 / batch_size)
    return Diffusion(Descent(problem), noise, jnp.sqrt(jnp.asarray(learning_rate, float)), problem.dim)


def langevin(problem: FiniteSum | Potential, *, temperature: Any, preconditioner: Any = None) -> Diffusion:
    """Overdamped Langevin, dX = −∇L dt + √(2kT) dW, whose stationary law is Gibbs at that temperature.

    With a `preconditioner` P, symmetric and positive definite, dX = (−P∇L + kT ∇·P) dt + √(2kT) P^½ dW has the same law:
    P is a number, d numbers (a diagonal) or a matrix, or a function of the position that returns one of these; T(x) = kT P(x)
    is then a local temperature, and (∇·P)ᵢ = Σⱼ ∂ⱼPᵢⱼ the Itô drift that keeps the law. Source: Roberts and Stramer (2002),
    Methodol. Comput. Appl. Probab. 4, 337; Ma, Chen and Fox (2015).
    """
    positive(temperature, "temperature")
    kt, d = jnp.asarray(temperature, float), problem.dim
    scale = jnp.sqrt(2 * kt)
    if preconditioner is None:
        return Diffusion(Descent(problem), noises.Isotropic(jnp.asarray(1.0), d), scale, d)
    if not callable(preconditioner):
        noise = noises.constant(check_covariance(preconditioner, d, "preconditioner"), d, "preconditioner")
        if noise.kind == "none" or not np.linalg.eigvalsh(np.asarray(noise.covariance(problem.start))).min() > 0:
            raise ValueError("preconditioner must be positive definite: it is singular")
        return Diffusion(ConstantPreconditioner(problem, noise), noise, scale, d)
    shape = jax.eval_shape(preconditioner, jax.ShapeDtypeStruct((d,), jnp.result_type(float))).shape
    if shape not in ((), (d,), (d, d)):
        raise ValueError(f"preconditioner(x) must return a number, [{d}] or [{d}, {d}], got shape {shape}")
    kind: NoiseKind = "diagonal" if d == 1 else "general"
    local = noises.SquareFunction(preconditioner, d, kind)
    return Diffusion(LocalPreconditioner(problem, local, kt), local, scale, d)


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


def fraction(value: Any, name: str) -> None:
    """`ValueError` unless it is in [0, 1); values under trace pass."""
    if not isinstance(value, Tracer) and (isinstance(value, bool) or not 0.0 <= float(np.asarray(value)) < 1.0):
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")


EQUATIONS = {
    "sgd_sde": sgd_sde,
    "homogenized_sgd": homogenized_sgd,
    "langevin": langevin,
    "brownian": brownian,
    "gradient_flow": gradient_flow,
}
