"""The minimum Φ* of a problem's loss, to float64 accuracy: Newton in a trust region, or L-BFGS where d is large.

A point is accepted when the Newton step H⁻¹g that is left is rounding. The gradient's size alone cannot tell: the gradient of
a loss that decreases for ever (logistic loss on separable data) is as small as one likes, its Newton step is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize
from jaxtyping import Float

from . import checks, float64

# Above this many parameters the search goes by L-BFGS: a Hessian a step costs more than it saves.
_NEWTON_DIM = 300
# An eigenvalue of H below this share of the largest counts as zero: the direction is flat.
FLAT = 1e-9


def minimum(problem: Any, start: Any = None, method: str = "auto", *, isolated: bool = True) -> Float[np.ndarray, " d"]:
    """The local minimum Φ* reached from `start` (flat ["d"]; default: the problem's own initial point), ∇L(Φ*) = 0.

    `method` is "newton" (trust region, exact Hessians), "lbfgs", or "auto" (Newton up to d = 300, with L-BFGS where it fails).
    A search that lands on a saddle leaves it downhill and goes on. All arithmetic is float64.

    Raises `ValueError` when there is no such point: the loss keeps falling, the search does not converge, it cannot leave a
    saddle, or the minimum is not isolated (flat directions: H is singular); `isolated=False` accepts the last.
    """
    checks.problem(problem)
    checks.one_of(method, ("auto", "newton", "lbfgs"), "method")
    wide = float64.widen(problem)
    x = np.asarray(wide.start) if start is None else checks.vector(start, problem.dim, "start")
    found, failure = _search(wide, x, method)
    if failure:
        raise ValueError(f"no minimum found from the start: {failure}")
    if isolated:
        values, vectors = np.linalg.eigh(float64.evaluate(float64.hessian, wide, found))
        flat = values <= FLAT * _curvature(wide, x, values)
        if flat.any():
            direction = np.array2string(vectors[:, 0], precision=3, threshold=6)
            raise ValueError(
                f"the minimum is not isolated: the loss is flat in {int(flat.sum())} of {problem.dim} directions (one is "
                f"{direction}); add a regulariser, or pass isolated=False for any point of the flat set"
            )
    return found


def _search(wide: Any, start: np.ndarray, method: str) -> tuple[np.ndarray, str]:
    """A point and why it is no minimum ("" when it is one)."""
    methods = [method]
    if method == "auto":
        methods = ["newton", "lbfgs"] if len(start) <= _NEWTON_DIM else ["lbfgs"]
    x, failure = start, ""
    for name in methods:
        x = start
        for _ in range(4):
            x, failure = _polish(wide, start, _descend(wide, x, name))
            if failure != "saddle":
                break
            x = _leave_saddle(wide, x)
        if not failure:
            return x, ""
    if failure == "saddle":
        failure = "the search ends on a saddle (the Hessian has a negative eigenvalue); give another start"
    return x, failure


def _descend(wide: Any, x: np.ndarray, method: str) -> np.ndarray:
    if method == "lbfgs":
        options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-11, "maxcor": 30}
        result = scipy.optimize.minimize(_loss_and_grad, x, (wide,), "L-BFGS-B", jac=True, options=options)
    else:
        result = scipy.optimize.minimize(
            _loss_and_grad, x, (wide,), "trust-exact", jac=True, hess=_hessian, options={"maxiter": 500, "gtol": 1e-9}
        )
    return np.asarray(result.x)


def _polish(wide: Any, start: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, str]:
    """Newton steps until what is left is rounding, and the verdict on where that is."""
    best, best_step, last, stalled = x, np.inf, np.inf, 0
    for _ in range(60):
        if not np.abs(x).max() < 1e12 * (1 + np.abs(start).max()):
            return x, f"the loss keeps falling: the search has reached |Φ| = {np.abs(x).max():.3g}"
        g = float64.evaluate(float64.grad, wide, x)
        h = float64.evaluate(float64.hessian, wide, x)
        if not (np.isfinite(g).all() and np.isfinite(h).all()):
            return best, f"the loss or its derivatives are not finite at |Φ| = {np.linalg.norm(x):.3g}"
        values, vectors = np.linalg.eigh(h)
        scale = _curvature(wide, start, values)
        if values[0] < -1e-7 * scale:
            if np.linalg.norm(g) <= 1e-6 * scale * (1 + np.linalg.norm(x)):
                return x, "saddle"
            return x, f"it stops at a point with gradient norm {np.linalg.norm(g):.3g} where the loss still curves down"
        solid = values > 1e-12 * max(np.abs(values).max(), 1e-300)
        # In a flat direction there is no Newton step; the gradient itself must vanish there.
        along = vectors.T @ g
        step = vectors[:, solid] @ (along[solid] / values[solid])
        slope = float(np.linalg.norm(along[~solid]))
        size = float(np.linalg.norm(step)) + slope / max(scale, 1e-300)
        # Steps that do not shrink run after a loss that falls for ever (a quartic minimum still shrinks them by 2/3).
        stalled = stalled + 1 if size > 0.95 * last and size > 1e-6 * (1 + np.linalg.norm(x)) else 0
        if stalled > 6:
            break
        last = size
        length = 1 + np.linalg.norm(x)
        done = size <= 1e-14 * length or (size > 0.5 * best_step and best_step <= 1e-9 * length)
        if size < best_step:
            best, best_step = x, size
        if done:
            break
        x = x - step
    if stalled <= 6 and best_step <= 1e-8 * (1 + np.linalg.norm(best)):
        return best, "saddle" if _falls_nearby(wide, best) else ""
    value = float(float64.evaluate(float64.loss, wide, best))
    return best, (
        f"not converged: at |Φ| = {np.linalg.norm(best):.4g}, loss {value:.6g}, a Newton step of length {best_step:.3g} is left; "
        "the loss may have no minimum (it keeps falling), or give another start"
    )


def _falls_nearby(wide: Any, x: np.ndarray) -> bool:
    """Whether the loss is lower a little way along its flattest direction, where second derivatives decide nothing (x³ at 0)."""
    values, vectors = np.linalg.eigh(float64.evaluate(float64.hessian, wide, x))
    if values[0] > 1e-4 * _curvature(wide, x + 0.1 * (1 + np.abs(x)), values):
        return False
    here = float(float64.evaluate(float64.loss, wide, x))
    length = 0.01 * (1 + np.linalg.norm(x))
    around = [float(float64.evaluate(float64.loss, wide, x + s * length * vectors[:, 0])) for s in (-1, 1)]
    return min(around) < here - 1e-9 * (abs(here) + max(abs(v - here) for v in around))


def _leave_saddle(wide: Any, x: np.ndarray) -> np.ndarray:
    """A point downhill of a saddle, along the direction that curves down most."""
    _, vectors = np.linalg.eigh(float64.evaluate(float64.hessian, wide, x))
    away = vectors[:, 0] * np.sign(vectors[np.abs(vectors[:, 0]).argmax(), 0])
    here = float(float64.evaluate(float64.loss, wide, x))
    length = 0.1 * (1 + np.linalg.norm(x))
    for k in range(80):
        step = (-1) ** k * length * 2.0 ** -(k // 2)
        if float(float64.evaluate(float64.loss, wide, x + step * away)) < here:
            return x + step * away
    return x + length * away


def _curvature(wide: Any, start: np.ndarray, values: np.ndarray) -> float:
    """The size that makes an eigenvalue of the Hessian large or small: the largest here or at the start."""
    here = float(np.abs(values).max())
    h = float64.evaluate(float64.hessian, wide, start)
    return max(here, float(np.abs(h).max()) if np.isfinite(h).all() else 0.0, 1e-300)


def _loss_and_grad(x: np.ndarray, wide: Any) -> tuple[float, np.ndarray]:
    value, gradient = float64.evaluate(_value_and_grad, wide, x)
    return float(value), np.asarray(gradient)


def _value_and_grad(problem: Any, phi: Any) -> Any:
    return problem.loss(phi), problem.grad(phi)


def _hessian(x: np.ndarray, wide: Any) -> np.ndarray:
    return float64.evaluate(float64.hessian, wide, x)
