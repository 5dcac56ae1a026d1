"""Second moments of linear dynamics: Lyapunov equations in continuous and discrete time, and with multiplicative noise.

    continuous   A S + S Aᵀ + Q + F(S) = 0          dX = A X dt + noise of covariance Q + (what F makes of X) a unit time
    discrete     S = A S Aᵀ + Q + F(S)              X' = A X + noise of the same kind a step

F is a linear map that sends covariances to covariances (the part of the noise that grows with the position); F = 0 for
constant noise. Both are S = G(Q + F(S)) with G the inverse of the equation without F, so one solver does for all: a stationary
covariance exists iff A is stable and the spectral radius of G∘F, the `gain`, is below 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg
from numpy.typing import ArrayLike

from . import checks

Feedback = Callable[[np.ndarray], np.ndarray]
# Up to this many unknowns d(d+1)/2 the equations are solved as a matrix, beyond by Krylov methods on the operator.
_DENSE = 600


def lyapunov(a: ArrayLike, q: ArrayLike) -> np.ndarray:
    """S ["d d"] with A S + S Aᵀ + Q = 0: the stationary covariance of dX = A X dt + Q^½ dW.

    For SGD's SDE A = −H and Q = ηC, which is HS + SH = ηC. Q may have any rank.
    Raises `ValueError` unless A is stable (every eigenvalue has a negative real part).
    """
    a = checks.square(a, None, "a")
    return Equation(a, discrete=False).solve(checks.covariance(q, len(a), "q"))


def discrete_lyapunov(a: ArrayLike, q: ArrayLike) -> np.ndarray:
    """S ["d d"] with S = A S Aᵀ + Q: the stationary covariance of X' = A X + Q^½ z.

    For constant-noise SGD A = I − ηH and Q = η²C, which is SH + HS − ηHSH = ηC. Q may have any rank.
    Raises `ValueError` unless A is stable (every eigenvalue lies inside the unit circle).
    """
    a = checks.square(a, None, "a")
    return Equation(a, discrete=True).solve(checks.covariance(q, len(a), "q"))


@dataclass(frozen=True)
class Equation:
    """The second-moment equation of a linear system: A, discrete or continuous time, F (None for constant noise)."""

    a: np.ndarray
    discrete: bool
    feedback: Feedback | None = None

    def margin(self) -> float:
        """The spectral radius (discrete) or abscissa (continuous) of A; stable below 1, or below 0."""
        values = np.linalg.eigvals(self.a)
        return float(np.abs(values).max()) if self.discrete else float(values.real.max())

    def gain(self) -> float:
        """Spectral radius of G∘F, below 1 iff the second moment is stable (given a stable A)."""
        if self.feedback is None:
            return 0.0
        if self._size <= _DENSE:
            return float(np.abs(np.linalg.eigvals(self._matrix)).max())
        # G∘F sends covariances to covariances: its radius is an eigenvalue, with a covariance as eigenvector.
        options = {"k": 1, "which": "LM", "v0": pack(np.eye(len(self.a))), "tol": 1e-10, "return_eigenvectors": False}
        return float(np.abs(scipy.sparse.linalg.eigs(operator(self._size, self._return), **options)).max())

    def is_stable(self) -> bool:
        """Whether a stationary covariance exists."""
        return self.margin() < (1.0 if self.discrete else 0.0) and self.gain() < 1.0

    def solve(self, q: np.ndarray) -> np.ndarray:
        """The stationary covariance; `ValueError` when there is none."""
        margin = self.margin()
        if self.discrete and margin >= 1 - 1e-13:
            raise ValueError(
                f"no stationary covariance: the mean is unstable (spectral radius {margin:.6g}, must be below 1)"
            )
        if not self.discrete and margin >= -1e-13 * np.abs(self.a).max():
            raise ValueError(
                f"no stationary covariance: the drift is not stable (largest real part {margin:.6g}, must be below 0)"
            )
        without = self._invert(q)
        if self.feedback is None:
            return without
        size = self._size
        if size <= _DENSE:
            if self.gain() >= 1:
                raise self._explosion()
            return unpack(np.linalg.solve(np.eye(size) - self._matrix, pack(without)))
        whole = operator(size, lambda v: v - self._return(v))
        packed, failed = scipy.sparse.linalg.gmres(whole, pack(without), rtol=1e-12, restart=60, maxiter=20)
        solution = unpack(packed)
        # A map of covariances to covariances: the solution is a covariance iff the gain is below 1, so that need not be computed.
        values = np.linalg.eigvalsh(solution)
        if failed or values[0] < -1e-9 * np.abs(values).max():
            raise self._explosion()
        return solution

    def _explosion(self) -> ValueError:
        return ValueError(
            "no stationary covariance: the noise that grows with the position wins over the drift (mean-square gain "
            f"{self.gain():.6g}, must be below 1); a smaller learning rate or a larger batch lowers it"
        )

    @property
    def _size(self) -> int:
        return len(self.a) * (len(self.a) + 1) // 2

    @functools.cached_property
    def _matrix(self) -> np.ndarray:
        """G∘F on packed symmetric matrices."""
        return np.stack([self._return(row) for row in np.eye(self._size)], axis=1)

    def _return(self, v: np.ndarray) -> np.ndarray:
        """G(F(S)) of a packed S."""
        assert self.feedback is not None
        return pack(self._invert(self.feedback(unpack(v))))

    def _invert(self, q: np.ndarray) -> np.ndarray:
        """G(Q), the solution without feedback."""
        a = self.a
        if np.array_equal(a, a.T):
            values, vectors = self._eigen
            rates = 1 - np.outer(values, values) if self.discrete else -(values[:, None] + values)
            return vectors @ ((vectors.T @ q @ vectors) / rates) @ vectors.T
        solution = (
            scipy.linalg.solve_discrete_lyapunov(a, q)
            if self.discrete
            else scipy.linalg.solve_continuous_lyapunov(a, -q)
        )
        return (solution + solution.T) / 2

    @functools.cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.eigh(self.a)


def find_root(f: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """x in [low, high] with f(x) = 0, where f changes sign between the two."""
    root: Any = scipy.optimize.brentq(f, low, high, xtol=tolerance)
    return float(root)


def operator(size: int, apply: Callable[[np.ndarray], np.ndarray]) -> scipy.sparse.linalg.LinearOperator:
    vector = lambda v: apply(np.ravel(v))
    return scipy.sparse.linalg.LinearOperator((size, size), matvec=vector, dtype=np.float64)  # pyright: ignore


def pack(matrix: np.ndarray) -> np.ndarray:
    """The lower triangle of symmetric matrices ["… d d"] as vectors, off-diagonal entries times √2 so that the inner product is
    kept."""
    rows, columns = np.tril_indices(matrix.shape[-1])
    return matrix[..., rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))


def unpack(packed: np.ndarray) -> np.ndarray:
    """The symmetric matrices of `pack`."""
    dim = (int(np.sqrt(8 * packed.shape[-1] + 1)) - 1) // 2
    rows, columns = np.tril_indices(dim)
    matrix = np.zeros((*packed.shape[:-1], dim, dim))
    matrix[..., rows, columns] = packed / np.where(rows == columns, 1.0, np.sqrt(2.0))
    return matrix + np.swapaxes(np.tril(matrix, -1), -1, -2)


def packed_matrix(linear: Feedback, dim: int) -> np.ndarray:
    """A linear map of stacks of symmetric matrices ["r d d"] as a matrix on `pack`ed ones."""
    return pack(linear(unpack(np.eye(dim * (dim + 1) // 2)))).T


def repeated(linear: Feedback, x: np.ndarray, times: int) -> np.ndarray:
    """R(R(…R(X))) for a linear map R of stacks of symmetric matrices ["r d d"]; X ["d d"]."""
    unknowns = len(x) * (len(x) + 1) // 2
    if times > unknowns and unknowns <= _DENSE:
        return unpack(np.linalg.matrix_power(packed_matrix(linear, len(x)), times) @ pack(x))
    for _ in range(times):
        x = linear(x[None])[0]
    return x


def affine_fixed_point(linear: Feedback, dim: int, matrix: np.ndarray | None) -> np.ndarray:
    """X ["d d"] with X = R(X) and X_dd = 1, for a linear map R that leaves that corner as it is; `matrix` is R packed, or None:
    then by a Krylov method."""
    one = np.zeros((dim, dim))
    one[-1, -1] = 1
    constant = pack(linear(one))[:-1]
    if matrix is not None:
        rest = np.linalg.solve(np.eye(len(constant)) - matrix[:-1, :-1], constant)
    else:
        apply = lambda v: v - pack(linear(unpack(np.append(v, 0.0))))[:-1]
        whole = operator(len(constant), apply)
        rest, failed = scipy.sparse.linalg.gmres(whole, constant, rtol=1e-13, restart=80, maxiter=20)
        if failed:
            raise ValueError("no stationary covariance was found: the moments of an epoch do not contract, or very slowly")
    return unpack(np.append(rest, 1.0))
