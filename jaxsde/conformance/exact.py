"""Exact references, in NumPy and SciPy alone: nothing here reads the code that is tested.

Linear steps x' = A x + N z have second moments S = A S Aᵀ + N Nᵀ; any step on the line has a stationary law that collocation
finds, with an error that falls exponentially; Gibbs laws are summed on a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg


def second_moments(
    a: np.ndarray, noise: np.ndarray, feedback: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """S = A S Aᵀ + Q + F(S), by one linear system for the d² entries."""
    d = len(a)
    basis = np.eye(d * d).reshape(d * d, d, d)
    images = [s - a @ s @ a.T - (0 if feedback is None else feedback(s)) for s in basis]
    return np.linalg.solve(np.stack([i.ravel() for i in images], axis=1), noise.ravel()).reshape(d, d)


def lyapunov(
    a: np.ndarray, noise: np.ndarray, feedback: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """A S + S Aᵀ + Q + F(S) = 0."""
    d = len(a)
    basis = np.eye(d * d).reshape(d * d, d, d)
    images = [-(a @ s + s @ a.T) - (0 if feedback is None else feedback(s)) for s in basis]
    return np.linalg.solve(np.stack([i.ravel() for i in images], axis=1), noise.ravel()).reshape(d, d)


def euler(a: np.ndarray, b: np.ndarray, h: float) -> np.ndarray:
    """Euler–Maruyama on dX = A X dt + B dW."""
    return second_moments(np.eye(len(a)) + h * a, h * b @ b.T)


def heun(a: np.ndarray, b: np.ndarray, h: float) -> np.ndarray:
    """Heun: x̄ = x + hAx + BΔW, x' = x + ½h(Ax + Ax̄) + BΔW."""
    eye = np.eye(len(a))
    n = (eye + h / 2 * a) @ b * np.sqrt(h)
    return second_moments(eye + h * a + h * h / 2 * a @ a, n @ n.T)


def sra1(a: np.ndarray, b: np.ndarray, h: float) -> np.ndarray:
    """SRA1: H = x + ¾hAx + 3/2 B J, x' = x + h(Ax/3 + ⅔AH) + BΔW; Var J = h/3, Cov(J, ΔW) = h/2."""
    eye, joint = np.eye(len(a)), np.linalg.cholesky([[h, h / 2], [h / 2, h / 3]])  # of ΔW and J
    columns = [b * joint[0, j] + h * a @ b * joint[1, j] for j in range(2)]
    n = np.hstack(columns)
    return second_moments(eye + h * a + h * h / 2 * a @ a, n @ n.T)


def shark(a: np.ndarray, b: np.ndarray, h: float) -> np.ndarray:
    """ShARK: ỹ = x + B𝓗, y = ỹ + ⅚(hAỹ + BΔW), x' = x + h(⅖Aỹ + ⅗Ay) + BΔW; 𝓗 ~ N(0, h/12), independent of ΔW.

    Source: Foster, dos Reis and Strange (2023), arXiv 2210.17543, (6.1).
    """
    eye = np.eye(len(a))
    moved = h * a + h * h / 2 * a @ a  # of ỹ: ⅖hA + ⅗hA(1 + ⅚hA)
    n = np.hstack([(eye + h / 2 * a) @ b * np.sqrt(h), moved @ b * np.sqrt(h / 12)])
    return second_moments(eye + moved, n @ n.T)


def leimkuhler_matthews(a: np.ndarray, b: np.ndarray, h: float) -> np.ndarray:
    """x' = x + hAx + B√h(z + z₋)/2, z₋ the noise of the step before: the state is (x, z₋)."""
    d, m = b.shape
    half = b * np.sqrt(h) / 2
    step = np.block([[np.eye(d) + h * a, half], [np.zeros((m, d + m))]])
    n = np.vstack([half, np.eye(m)])
    return second_moments(step, n @ n.T)[:d, :d]


def splitting(letters: str, hessian: np.ndarray, friction: float, temperature: float, h: float) -> np.ndarray:
    """BAOAB, OBABO and the like in a harmonic well, unit mass: S of (q, p). A letter that occurs twice takes half a step."""
    d = len(hessian)
    eye, zero = np.eye(d), np.zeros((d, d))
    step, q = np.eye(2 * d), np.zeros((2 * d, 2 * d))
    for letter in letters:
        t = h / letters.count(letter)
        kept = np.exp(-friction * t)
        move = {
            "A": np.block([[eye, t * eye], [zero, eye]]),
            "B": np.block([[eye, zero], [-t * hessian, eye]]),
            "O": np.block([[eye, zero], [zero, kept * eye]]),
        }[letter]
        step, q = move @ step, move @ q @ move.T
        if letter == "O":
            q[d:, d:] += temperature * (1 - kept**2) * eye
    return second_moments(step, q)


def sghmc(hessian: np.ndarray, h: float, steps: int, friction: float, temperature: float) -> np.ndarray:
    """Forward Euler of dx = p dt, dp = −Hx dt − αp dt + √(2αT) dW for so many steps from a fresh p ~ N(0, I): S of x.

    Source: Chen, Fox and Guestrin (2014), ICML.
    """
    d = len(hessian)
    eye, zero = np.eye(d), np.zeros((d, d))
    step = np.block([[eye, h * eye], [-h * hessian, (1 - friction * h) * eye]])
    q = np.block([[zero, zero], [zero, eye]])
    kick = np.block([[zero, zero], [zero, 2 * friction * h * temperature * eye]])
    whole = np.eye(2 * d)
    for _ in range(steps):
        q, whole = step @ q @ step.T + kick, step @ whole
    return second_moments(whole[:d, :d], q[:d, :d])


@dataclass(frozen=True)
class LeastSquares:
    """L = (1/2n) Σ (xᵢ·Φ − yᵢ)² about its minimum: H, C = Σ(Φ*) and F(S) = ⟨HᵢSHᵢ⟩ − HSH, Hᵢ = xᵢxᵢᵀ."""

    x: np.ndarray
    y: np.ndarray

    @property
    def minimum(self) -> np.ndarray:
        return np.linalg.lstsq(self.x, self.y, rcond=None)[0]

    @property
    def hessian(self) -> np.ndarray:
        return self.x.T @ self.x / len(self.x)

    @property
    def noise(self) -> np.ndarray:
        g = (self.x @ self.minimum - self.y)[:, None] * self.x
        return g.T @ g / len(g)

    def feedback(self, s: np.ndarray) -> np.ndarray:
        weights = np.einsum("ni,ij,nj->n", self.x, s, self.x)
        return (self.x * weights[:, None]).T @ self.x / len(self.x) - self.hessian @ s @ self.hessian

    def factor(self, batch: int, replacement: bool) -> float:
        """Σ_B/Σ."""
        n = len(self.x)
        return 1 / batch if replacement else (n - batch) / (n - 1) / batch

    def sgd(self, eta: float, kappa: float, by: float = 1.0) -> np.ndarray:
        """S of plain SGD; `by` multiplies ĝ − ∇L."""
        f = by**2 * eta**2 * kappa
        return second_moments(
            np.eye(len(self.hessian)) - eta * self.hessian, f * self.noise, lambda s: f * self.feedback(s)
        )

    def heavy_ball(self, eta: float, mu: float, kappa: float, by: float = 1.0) -> np.ndarray:
        """S of Φ under v' = μv − ηĝ, Φ' = Φ + v'."""
        h, d = self.hessian, len(self.hessian)
        eye, f, both = np.eye(d), by**2 * eta**2 * kappa, np.ones((2, 2))
        a = np.block([[eye - eta * h, mu * eye], [-eta * h, mu * eye]])
        noise = np.kron(both, f * self.noise)
        return second_moments(a, noise, lambda s: np.kron(both, f * self.feedback(s[:d, :d])))[:d, :d]

    def sde(self, eta: float, kappa: float, h: float | None = None, by: float = 1.0) -> np.ndarray:
        """S of SGD's SDE, dΦ = −∇L dt + √η Σ_B(Φ)^½ dW, or of Euler–Maruyama on it with step h."""
        f = by**2 * eta * kappa
        if h is None:
            return lyapunov(-self.hessian, f * self.noise, lambda s: f * self.feedback(s))
        a = np.eye(len(self.hessian)) - h * self.hessian
        return second_moments(a, h * f * self.noise, lambda s: h * f * self.feedback(s))


def scheme_law(
    step: Callable[..., np.ndarray], normals: int, reach: float, nodes: int = 121, quadrature: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the stationary law of x' = step(x, z₁, …) on the line, z standard normals: any scheme's exact law.

    The mean of u after a step, E u(step(x, z)), is taken at the Chebyshev points of (−reach, reach) for every polynomial u on them,
    z by Gauss and Hermite: a matrix P, and the law is its left eigenvector, π P = π. The error falls exponentially in `nodes` where
    the law has died at ±reach.
    """
    theta = np.pi * (np.arange(nodes) + 0.5) / nodes
    x, t = reach * np.cos(theta), np.arange(nodes)
    z, w = np.polynomial.hermite_e.hermegauss(quadrature)
    grids = np.meshgrid(*[z] * normals, indexing="ij")
    odds = np.prod(np.meshgrid(*[w / w.sum()] * normals, indexing="ij"), axis=0).ravel()
    transform = 2 / nodes * np.cos(t[:, None] * theta)  # values at the nodes -> Chebyshev coefficients
    transform[0] /= 2
    moved = step(x[:, None], *(g.ravel()[None, :] for g in grids))
    angles = np.arccos(np.clip(moved / reach, -1, 1))
    mean = np.stack([np.cos(k * angles) @ odds for k in t], axis=1) @ transform
    system = mean.T - np.eye(nodes)
    system[0] = 1.0  # the mass, in place of one of the balances, of which one follows from the others
    return x, np.linalg.solve(system, np.r_[1.0, np.zeros(nodes - 1)])


def gibbs_grid(
    loss: Callable[..., np.ndarray], temperature: float, axes: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Points ["n d"] and weights ["n"] of exp(−L/T) on a grid wide enough for the trapezoidal rule."""
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    energy = loss(points) / temperature
    weights = np.exp(-(energy - energy.min()))
    return points, weights / weights.sum()


def expm_law(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """S of dX = A X dt + B dW itself."""
    return scipy.linalg.solve_continuous_lyapunov(a, -b @ b.T)
