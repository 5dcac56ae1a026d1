"""The saddle between two minima: the highest point of the path of least ascent, polished by Newton's method.

The path is a string of points that slide downhill and are spread evenly again; its highest point climbs towards the saddle. Source:
E, Ren and Vanden-Eijnden (2007), "Simplified and improved string method", J. Chem. Phys. 126, 164103.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import float64

_POINTS = 41


def saddle_between(wide: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The saddle with one direction down on the way from minimum a to minimum b. `ValueError` where none is found."""
    if np.linalg.norm(b - a) <= 1e-6 * (1 + np.abs(a).max()):
        raise ValueError(
            f"start and end lie in the valley of one minimum, {np.array2string(a, precision=4)}: give ends in two valleys"
        )
    path = a + np.linspace(0, 1, _POINTS)[:, None] * (b - a)
    last = np.inf
    for round_ in range(400):
        path = _slide(wide, path)
        height = float64.evaluate_many(float64.loss, wide, path)
        top = int(height.argmax())
        if round_ % 10 == 9 or abs(height[top] - last) < 1e-9 * (1 + abs(last)):
            try:
                found = polished(wide, path[top])
            except ValueError:
                found = None
            near = 2 * np.linalg.norm(b - a) / (_POINTS - 1) + 2 * _spacing(path)
            if found is not None and np.linalg.norm(found - path[top]) < near:
                return found
        last = height[top]
    raise ValueError(
        "no saddle with one direction down was found between the two minima: there may be a third valley on the way; give saddle=…"
    )


def polished(wide: Any, x: np.ndarray) -> np.ndarray:
    """The saddle that Newton's method reaches from x: ∇L = 0 with one negative eigenvalue. `ValueError` for another point."""
    for _ in range(60):
        g = float64.evaluate(float64.grad, wide, x)
        values, vectors = np.linalg.eigh(float64.evaluate(float64.hessian, wide, x))
        if not (np.isfinite(g).all() and np.isfinite(values).all()):
            break
        # up along the lowest direction and down along the others, whatever their signs are yet
        curvature = np.abs(values) + 1e-12 * np.abs(values).max() + 1e-300
        curvature[0] *= -1
        step = vectors @ ((vectors.T @ g) / curvature)
        x = x - step
        if np.linalg.norm(step) <= 1e-14 * (1 + np.linalg.norm(x)):
            break
    g = float64.evaluate(float64.grad, wide, x)
    values = np.linalg.eigvalsh(float64.evaluate(float64.hessian, wide, x))
    solid = np.abs(values).max()
    if not (
        np.abs(g).max() <= 1e-8 * solid * (1 + np.abs(x).max())
        and values[0] < -1e-9 * solid
        and (values[1:] > 1e-9 * solid).all()
    ):
        raise ValueError(f"{np.array2string(x, precision=4)} is no saddle with one direction down: give another start")
    return x


def _slide(wide: Any, path: np.ndarray) -> np.ndarray:
    """One damped step downhill for the points between the ends, and the points spread evenly along the path."""
    inner = path[1:-1]
    gradient = float64.evaluate_many(float64.grad, wide, inner)
    sizes = np.linalg.norm(gradient, axis=1, keepdims=True)
    # the largest step that keeps neighbours in order: a fraction of their distance, and of the inverse curvature
    change = np.linalg.norm(np.diff(gradient, axis=0), axis=1) / np.maximum(
        np.linalg.norm(np.diff(inner, axis=0), axis=1), 1e-300
    )
    step = min(0.5 / max(change.max(), 1e-300), 0.5 * _spacing(path) / max(sizes.max(), 1e-300) * 4)
    moved = np.concatenate([path[:1], inner - step * gradient, path[-1:]])
    along = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(moved, axis=0), axis=1))]
    even = np.linspace(0, along[-1], len(path))
    return np.stack([np.interp(even, along, column) for column in moved.T], axis=1)


def _spacing(path: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).mean())
