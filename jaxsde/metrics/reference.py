"""A smooth law that follows the measured one closely, so that pooling rare boxes costs nothing.

For any reference r,   KL(p‖q) = Σ p log(p/r) + Σ p log(r/q).   The second sum is linear in p: no bias, no pooling. The first
is small where r is close to p, and loses next to nothing when it is computed on pools of boxes. Here
r_i ∝ base_i exp(polynomial at the box's centre), with the moments of p up to the polynomial's degree: the maximum-entropy
tilt of the base. A poor fit makes the answer less sharp, never wrong.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from scipy.special import logsumexp

# Degree of the polynomial by the number of components of the histogram: 4, 14 and 9 coefficients.
DEGREE = {1: 4, 2: 4, 3: 2}


class Tilt:
    """Fits the reference to masses p ["boxes+1"]; from the second fit on it starts where the first ended."""

    def __init__(self, edges: tuple[np.ndarray, ...], p: np.ndarray):
        centres = np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij")
        points = np.stack([c.ravel() for c in centres], axis=1)
        weight = p[:-1] / p[:-1].sum()
        mean = weight @ points
        root = np.sqrt(weight @ (points - mean) ** 2)
        z = (points - mean) / np.where(root > 0, root, 1.0)
        terms = [
            np.prod(z[:, list(which)], axis=1)
            for degree in range(1, DEGREE[len(edges)] + 1)
            for which in combinations_with_replacement(range(len(edges)), degree)
        ]
        self._features = np.stack(terms, axis=1)
        self._start: np.ndarray | None = None

    def restart(self) -> None:
        """Forgets the last fit: the base has changed."""
        self._start = None

    def fit(self, p: np.ndarray, log_base: np.ndarray) -> np.ndarray:
        """log r ["boxes"], inside the boxes only, up to a constant."""
        on = np.isfinite(log_base)
        features, base = self._features[on], log_base[on]
        weight = p[:-1][on] / p[:-1][on].sum()
        target = weight @ features
        theta = np.zeros(features.shape[1]) if self._start is None else self._start
        log_r, value = _tilted(base, features, theta, target)
        for _ in range(60 if self._start is None else 4):
            r = np.exp(log_r)
            mean = r @ features
            gap = target - mean
            spread = (features * r[:, None]).T @ features - np.outer(mean, mean)
            step = np.linalg.solve(
                spread + 1e-10 * np.trace(spread) * np.eye(len(theta)) + 1e-14 * np.eye(len(theta)), gap
            )
            gain, size = float(gap @ step), 1.0
            if gain < 1e-13:
                break
            while size > 1e-6:
                new_log_r, new_value = _tilted(base, features, theta + size * step, target)
                if new_value >= value + 1e-4 * size * gain:
                    break
                size /= 2
            else:
                break
            theta, log_r, value = theta + size * step, new_log_r, new_value
        if self._start is None:
            self._start = theta
        out = np.full(len(log_base), -np.inf)
        out[on] = log_r
        return out


def _tilted(base: np.ndarray, features: np.ndarray, theta: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """log r, normalised, and the concave dual objective θ·target − log Σ base e^(θ·f)."""
    log_r = base + features @ theta
    norm = float(logsumexp(log_r))
    return log_r - norm, float(theta @ target) - norm
