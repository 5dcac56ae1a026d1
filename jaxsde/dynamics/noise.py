"""Σ: square roots of a covariance, as operators that map m standard normals to a vector of that covariance.

Two exact routes to Σ(Φ)^½ z when Σ is the covariance of example gradients (neither takes a matrix root of d×d where n < d):

- weights: with w = (z − z̄)/√n over the n examples, Σ^½ z = ∇ Σᵢ wᵢ ℓᵢ(Φ). Any d, any rank, n normals, one reverse pass.
- factor: Σ(Φ) = R Rᵀ by a Cholesky factorisation that tolerates rank deficiency; d normals. Cheaper for small d.

They agree in law; `example_noise` chooses by an operation count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..problems.problem import FiniteSum, Potential, check_covariance
from ..struct import static, struct
from ..types import NoiseKind


@struct
class NoNoise:
    """Σ = 0."""

    dim: int = static(default=0)
    kind: NoiseKind = static(default="none")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return jnp.zeros_like(phi)

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return jnp.zeros((phi.size, phi.size), phi.dtype)


@struct
class Isotropic:
    """Σ = variance · I."""

    variance: Any
    dim: int = static()
    kind: NoiseKind = static(default="additive")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return jnp.sqrt(jnp.asarray(self.variance, phi.dtype)) * z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return jnp.asarray(self.variance, phi.dtype) * jnp.eye(phi.size, dtype=phi.dtype)


@struct
class Diagonal:
    """Σ = diag(variances)."""

    variances: Float[Array, " d"]
    dim: int = static()
    kind: NoiseKind = static(default="additive")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return jnp.sqrt(jnp.asarray(self.variances, phi.dtype)) * z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return jnp.diag(jnp.asarray(self.variances, phi.dtype))


@struct
class DiagonalFunction:
    """Σ(Φ) = diag(σᵢ(Φᵢ)²) with `deviations(phi)` the vector σ, whose i-th entry may depend on Φᵢ alone."""

    deviations: Callable[[Any], Any] = static()
    dim: int = static()
    kind: NoiseKind = static(default="diagonal")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return jnp.broadcast_to(self.deviations(phi), phi.shape) * z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return jnp.diag(jnp.broadcast_to(self.deviations(phi), phi.shape) ** 2)


@struct
class Constant:
    """Σ = factor · factorᵀ, any rank m ≤ d."""

    factor: Float[Array, "d m"]
    dim: int = static()
    kind: NoiseKind = static(default="additive")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return jnp.asarray(self.factor, phi.dtype) @ z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        factor = jnp.asarray(self.factor, phi.dtype)
        return factor @ factor.T


@struct
class MatrixFunction:
    """Σ(Φ) = R(Φ) R(Φ)ᵀ with `factor(phi)` a d×m matrix."""

    factor: Callable[[Any], Any] = static()
    dim: int = static()
    kind: NoiseKind = static(default="general")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return self.factor(phi) @ z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        factor = self.factor(phi)
        return factor @ factor.T


@struct
class SquareFunction:
    """Σ(Φ) = `matrix`(Φ) itself: a number, a diagonal or a positive definite matrix."""

    matrix: Callable[[Any], Any] = static()
    dim: int = static()
    kind: NoiseKind = static(default="general")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        p = jnp.asarray(self.matrix(phi), phi.dtype)
        return cholesky_product(p, z) if p.ndim == 2 else jnp.sqrt(p) * z

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        p = jnp.asarray(self.matrix(phi), phi.dtype)
        return p if p.ndim == 2 else jnp.diag(jnp.broadcast_to(p, phi.shape))


@struct
class ProblemNoise:
    """Σ(Φ) of a problem by the factor route: R(Φ) = chol(Σ(Φ)), d normals."""

    problem: Any
    dim: int = static()
    kind: NoiseKind = static(default="general")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return cholesky_product(self.problem.noise_covariance(phi), z)

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return self.problem.noise_covariance(phi)


@struct
class ExampleNoise:
    """Σ(Φ) of a finite sum by the weights route: Σ^½ z = ∇ Σᵢ wᵢ ℓᵢ, w = (z − z̄)/√n, n normals."""

    problem: FiniteSum
    dim: int = static()
    kind: NoiseKind = static(default="general")

    def product(self, phi: Float[Array, " d"], z: Float[Array, " n"]) -> Float[Array, " d"]:
        w = (z - jnp.mean(z)) * (self.problem.examples**-0.5)
        return self.problem.weighted_grad(phi, w)

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return self.problem.noise_covariance(phi)


@struct
class Scaled:
    """Σ(Φ) of another noise times a constant factor: 1/B for a batch, (n−B)/(n−1)/B without replacement."""

    noise: Any
    by: Any
    dim: int = static()
    kind: NoiseKind = static()

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]:
        return jnp.sqrt(jnp.asarray(self.by, phi.dtype)) * self.noise.product(phi, z)

    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        return jnp.asarray(self.by, phi.dtype) * self.noise.covariance(phi)


def cholesky_product(matrix: Float[Array, "d d"], z: Float[Array, " d"]) -> Float[Array, " d"]:
    """R z with R the lower Cholesky factor of a positive semidefinite matrix of any rank.

    A pivot that is zero up to rounding gives a zero column instead of NaN. Written column by column on vectors, so that a
    batch of small factorisations stays vectorised over the batch. O(d³).
    """
    dim = matrix.shape[0]
    floor = dim * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.diag(matrix))
    rows = jnp.arange(dim)
    total = jnp.zeros_like(z)
    for j in range(dim):
        pivot = matrix[j, j]
        ok = pivot > floor
        root = jnp.sqrt(jnp.where(ok, pivot, 1))
        column = jnp.where((rows >= j) & ok, matrix[:, j] / root, 0)
        total = total + column * z[j]
        matrix = matrix - column[:, None] * column[None, :]
    return total


def constant(covariance: Any, dim: int, name: str = "noise_covariance") -> Isotropic | Diagonal | Constant | NoNoise:
    """The cheapest noise of a constant covariance: a number, `dim` variances or a matrix of any rank (rank deficiency is
    found and its zero directions are dropped). `ValueError` for what is no covariance."""
    matrix = check_covariance(covariance, dim, name)
    if not matrix.any():
        return NoNoise()
    if matrix.ndim == 0:
        return Isotropic(jnp.asarray(matrix, float), dim)
    if matrix.ndim == 1:
        return Diagonal(jnp.asarray(matrix, float), dim)
    if not (matrix - np.diag(np.diag(matrix))).any():
        return Diagonal(jnp.asarray(np.diag(matrix), float), dim)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    keep = values > 1e-7 * values[-1]
    factor = vectors[:, keep] * np.sqrt(values[keep])
    if keep.all():
        factor = np.linalg.cholesky((matrix + matrix.T) / 2)  # triangular: half the products
    return Constant(jnp.asarray(factor, float), int(keep.sum()))


def of_problem(problem: FiniteSum | Potential, route: str = "auto") -> Any:
    """The noise whose covariance is the problem's Σ(Φ): `route` is "auto", "weights" or "factor"."""
    if isinstance(problem, Potential):
        if problem.covariance_function is not None:
            # in one dimension every noise is diagonal, which more integrators cover
            return ProblemNoise(problem, problem.dim, "diagonal" if problem.dim == 1 else "general")
        if problem.covariance.ndim == 0:
            return Isotropic(problem.covariance, problem.dim)
        if problem.covariance.ndim == 1:
            return Diagonal(problem.covariance, problem.dim)
        if isinstance(problem.covariance, Tracer):  # under a transformation: its rank cannot be looked at
            return ProblemNoise(problem, problem.dim, "additive")
        return constant(problem.covariance, problem.dim)
    if route not in ("auto", "weights", "factor"):
        raise ValueError(f'route is "auto", "weights" or "factor", got {route!r}')
    if route == "auto":
        route = "factor" if _factor_is_cheaper(problem.examples, problem.dim) else "weights"
    kind: NoiseKind = "diagonal" if problem.dim == 1 else "general"
    return ProblemNoise(problem, problem.dim, kind) if route == "factor" else ExampleNoise(problem, problem.examples)


def _factor_is_cheaper(n: int, d: int) -> bool:
    # Beyond the example gradients that both need: n·d² for Σ and d³ for its factor, against about 30 operations a normal.
    return n * d * d + d**3 / 3 < 30 * n


def frozen(problem: FiniteSum | Potential, phi: Any) -> Any:
    """The constant noise Σ(Φ₀) of the problem at one flat position."""
    return constant(
        np.asarray(problem.noise_covariance(jnp.asarray(phi, problem.start.dtype)), np.float64), problem.dim
    )


# Samplings whose steps depend on each other through an epoch, and those whose batches hold no example twice.
EPOCHS = ("random_reshuffling", "shuffle_once", "cyclic")
WITHOUT_REPEATS = ("without_replacement", *EPOCHS)


def whole_batch(batch_size: Any) -> int:
    """The batch size as an int; `ValueError` for what is none."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    return int(batch_size)


def batch_factor(batch_size: int, examples: int, sampling: str) -> float:
    """Σ_B / Σ: 1/B with replacement; (n−B)/(n−1)/B for a batch of distinct examples; 0 for the full batch."""
    if sampling == "full_batch":
        return 0.0
    if examples and sampling in WITHOUT_REPEATS:
        return (examples - batch_size) / max(examples - 1, 1) / batch_size
    return 1.0 / batch_size


def scaled(noise: Any, by: float) -> Any:
    """The same noise with its covariance multiplied by a constant."""
    if by == 0.0:
        return NoNoise()
    return noise if by == 1.0 or noise.kind == "none" else Scaled(noise, jnp.asarray(by, float), noise.dim, noise.kind)
