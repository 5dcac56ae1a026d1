"""The linear model of noisy descent around a point: exact where the loss is quadratic, the leading order elsewhere.

With e = Φ − Φ* the drift is A e + O(e²) (A = −H for descent), and the covariance of the noise, averaged over a zero-mean e of
covariance S, is

    E Σ(Φ* + e) = C + F(S)         C = Σ(Φ*),   F(S) = (1/n) Σᵢ (Hᵢ − H) S (Hᵢ − H)   for a finite sum

For least squares (each example's Hessian Hᵢ constant) both are exact, so second moments close. Whether that is so is found
numerically, by moving to a few far points: the objects do not declare it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.optimize

from ..dynamics.noise import ExampleNoise, ProblemNoise, Scaled
from ..struct import replace
from . import float64
from .linear import Feedback
from .minimum import minimum

# Relative departure from a law (affine, constant, quadratic) that is rounding: the probes are far, where curvature shows.
_ROUNDING = 1e-7
# Numbers of example Hessians held at once, and kept for good.
_BLOCK_NUMBERS = 1 << 22
_KEPT_NUMBERS = 1 << 26


@dataclass(frozen=True)
class Local:
    """Around `centre`: the drift matrix A, the noise C and F (None: Σ is constant). `reason` is "" when that is exact."""

    centre: np.ndarray
    drift: np.ndarray
    covariance: np.ndarray
    feedback: Feedback | None
    reason: str

    @property
    def exact(self) -> bool:
        return not self.reason


def of_problem(problem: Any) -> Local:
    """Descent on a problem around its minimum, with the noise Σ of one example's gradient (B = 1, with replacement)."""
    centre = minimum(problem)
    wide = float64.widen(problem)
    h = float64.evaluate(float64.hessian, wide, centre)
    c, feedback, reason = problem_noise(wide, centre)
    if not reason and not is_affine(lambda phi: float64.evaluate(float64.grad, wide, phi), centre):
        reason = "the loss is not quadratic: linearised at its minimum"
    return Local(centre, -(h + h.T) / 2, c, feedback, reason)


def of_sde(sde: Any) -> Local:
    """An SDE around the rest point of its drift, with the covariance of scale · Σ^½ dW."""
    sde = settled(sde)
    wide = float64.widen(sde)
    centre = rest_point(sde)
    a = float64.evaluate(_drift_jacobian, wide, centre)
    if getattr(sde, "problem", None) is not None:
        a = (a + a.T) / 2
    c, feedback, reason = _noise(wide, centre)
    if not is_affine(lambda x: float64.evaluate(drift, wide, x), centre):
        reason = "the drift is not linear: linearised at its rest point"
    factor = float(np.asarray(wide.scale)) ** 2
    return Local(centre, a, factor * c, scaled(feedback, factor), reason)


def rest_point(sde: Any) -> np.ndarray:
    """Where the drift vanishes: the minimum of the SDE's problem, or a root found from the origin."""
    if getattr(sde, "problem", None) is not None:
        return minimum(sde.problem)
    sde = settled(sde)
    wide = float64.widen(sde)
    autonomous(wide)

    def f(x: np.ndarray) -> np.ndarray:
        return float64.evaluate(drift, wide, x)

    # a larger state, or a drift made of a problem's gradient, rests at or near the problem's minimum
    origin, problem = np.zeros(sde.dim), getattr(sde.drift, "problem", None)
    if problem is not None:
        origin[: problem.dim] = minimum(problem)
    found = scipy.optimize.root(
        f, origin, jac=lambda x: float64.evaluate(_drift_jacobian, wide, x), tol=1e-13
    )
    scale = np.abs(float64.evaluate(_drift_jacobian, wide, found.x)).max() * (1 + np.abs(found.x).max())
    if not np.abs(f(found.x)).max() <= 1e-9 * scale:
        raise ValueError(
            "the drift has no rest point that a root search from the origin or the minimum finds: no stationary law is known"
        )
    return np.asarray(found.x)


def settled(sde: Any) -> Any:
    """The SDE after a long time, where its drift changes at first (Adam's correction of its start) and says what it becomes."""
    return replace(sde, drift=sde.drift.settled()) if hasattr(sde.drift, "settled") else sde


def autonomous(wide: Any) -> None:
    """`ValueError` for a drift that depends on time: it has no stationary law."""
    rng = np.random.default_rng(0)
    for x in rng.normal(size=(3, wide.dim)):
        now, later = (float64.evaluate(_drift_at, wide, x, t) for t in (0.0, 1.37))
        if np.abs(later - now).max() > _ROUNDING * (np.abs(now).max() + np.abs(later).max()):
            raise ValueError("the drift depends on time: there is no stationary law")


def drift(sde: Any, x: Any) -> Any:
    return sde.drift(0.0, x)


def covariance(sde: Any, x: Any) -> Any:
    return sde.noise.covariance(x)


def is_affine(f: Callable[[np.ndarray], np.ndarray], centre: np.ndarray) -> bool:
    """Whether f(x) = f(centre) + J (x − centre) along a few far directions: the values at −v, 0, v, 2v lie on a line."""
    base = f(centre)
    for v in _probes(centre):
        back, near, far = f(centre - v), f(centre + v), f(centre + 2 * v)
        size = max(np.abs(near).max(), np.abs(far).max(), np.abs(base).max(), np.abs(back).max())
        if not max(np.abs(far - 2 * near + base).max(), np.abs(back - 2 * base + near).max()) <= _ROUNDING * size:
            return False
    return True


def problem_noise(wide: Any, centre: np.ndarray) -> tuple[np.ndarray, Feedback | None, str]:
    """C, F and why they are not exact ("" when they are) of a problem's Σ(Φ)."""
    if not wide.examples:
        return _function_noise(float64.noise_covariance, wide, centre)
    c = float64.evaluate(float64.noise_covariance, wide, centre)
    affine = is_affine(lambda phi: float64.evaluate(float64.example_gradients, wide, phi), centre)
    reason = "" if affine else "the examples' losses are not quadratic: linearised at the minimum"
    return (c + c.T) / 2, _example_feedback(wide, centre), reason


def _probes(centre: np.ndarray) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    size = 1 + np.abs(centre).max()
    for scale in (size, 7 * size, 50 * size):
        yield scale * rng.normal(size=len(centre))


def _drift_at(sde: Any, x: Any, t: Any) -> Any:
    return sde.drift(t, x)


def _drift_jacobian(sde: Any, x: Any) -> Any:
    return jax.jacfwd(lambda y: sde.drift(0.0, y))(x)


def scaled(feedback: Feedback | None, factor: float) -> Feedback | None:
    """factor · F; None stays None."""
    return None if feedback is None else lambda s: factor * feedback(s)


def _noise(wide: Any, centre: np.ndarray) -> tuple[np.ndarray, Feedback | None, str]:
    noise, factor = wide.noise, 1.0
    while isinstance(noise, Scaled):
        noise, factor = noise.noise, factor * float(np.asarray(noise.by))
    if isinstance(noise, ExampleNoise | ProblemNoise):
        c, feedback, reason = problem_noise(noise.problem, centre)
        return factor * c, scaled(feedback, factor), reason
    return _function_noise(covariance, wide, centre)


def _function_noise(
    function: Callable[[Any, Any], Any], tree: Any, centre: np.ndarray
) -> tuple[np.ndarray, Feedback | None, str]:
    """C and F of a covariance function Σ(Φ), where it is constant or quadratic in Φ."""
    c = float64.evaluate(function, tree, centre)
    c = (c + c.T) / 2

    def at(x: np.ndarray) -> np.ndarray:
        return float64.evaluate(function, tree, x)

    shifted = [(v, at(centre + v), at(centre - v)) for v in _probes(centre)]
    size = max(np.abs(c).max(), *(np.abs(up).max() for _, up, _ in shifted))
    if all(
        np.abs(up - c).max() <= _ROUNDING * size and np.abs(down - c).max() <= _ROUNDING * size
        for _, up, down in shifted
    ):
        return c, None, ""
    if len(centre) > 32:
        return c, None, "Σ depends on Φ in more than 32 dimensions: held at its value at the rest point"
    curvature = float64.evaluate(_second_derivative, (_Function(function), tree), centre) / 2
    for v, up, down in shifted:
        if not np.abs((up + down) / 2 - c - curvature @ v @ v).max() <= _ROUNDING * (
            np.abs(up).max() + np.abs(c).max()
        ):
            return c, None, "Σ(Φ) is not quadratic in Φ: held at its value at the rest point"
    return c, lambda s: np.einsum("abij,ij->ab", curvature, s), ""


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Function:
    """A module-level function as a pytree without leaves, so that it can travel beside the object it is a function of."""

    call: Callable[[Any, Any], Any]


def _second_derivative(both: Any, x: Any) -> Any:
    function, tree = both
    return jax.hessian(lambda y: function.call(tree, y))(x)


def _example_feedback(wide: Any, centre: np.ndarray) -> Feedback:
    """S ↦ (1/n) Σᵢ Hᵢ S Hᵢ − H S H from every example's Hessian at `centre`.

    A squared error of one output has Hᵢ = xᵢxᵢᵀ: then only the n × d matrix of the xᵢ is kept. Otherwise the Hessians are
    folded into one d² × d² matrix (d ≤ 64), kept whole, or computed anew at each use where they do not fit.
    """
    n, d = wide.examples, len(centre)
    size = max(1, min(n, _BLOCK_NUMBERS // (d * d)))

    def blocks() -> Iterator[np.ndarray]:
        for lo in range(0, n, size):
            part = float64.widen(jax.tree.map(lambda a, lo=lo: np.asarray(a)[lo : lo + size], wide.data))
            yield float64.evaluate(
                float64.example_hessians, replace(wide, data=part, examples=min(size, n - lo)), centre
            )

    rows: list[np.ndarray] = []
    for hessians in blocks():
        root = _rank_one(hessians)
        if root is None:
            break
        rows.append(root)
    else:
        x = np.concatenate(rows)
        h = x.T @ x / n
        return lambda s: (x * np.einsum("ni,ni->n", x @ s, x)[:, None]).T @ x / n - h @ s @ h
    if d <= 64:
        folded, h = np.zeros((d * d, d * d)), np.zeros((d, d))
        for hessians in blocks():
            flat = hessians.reshape(-1, d * d)
            folded += flat.T @ flat / n
            h += hessians.sum(axis=0) / n
        # folded[(a c), (b e)] = ⟨H_ac H_be⟩, contracted with S_ce
        tensor = folded.reshape(d, d, d, d).transpose(0, 2, 1, 3).reshape(d * d, d * d)
        return lambda s: (tensor @ s.reshape(-1)).reshape(d, d) - h @ s @ h
    kept = list(blocks()) if n * d * d <= _KEPT_NUMBERS else None
    h = np.zeros((d, d))
    for hessians in kept or blocks():
        h += hessians.sum(axis=0) / n

    def feedback(s: np.ndarray) -> np.ndarray:
        total = np.zeros_like(s)
        for b in kept or blocks():
            total += np.tensordot(b @ s, b, axes=([0, 2], [0, 1]))
        return total / n - h @ s @ h

    return feedback


def _rank_one(hessians: np.ndarray) -> np.ndarray | None:
    """xᵢ with Hᵢ = xᵢxᵢᵀ for a whole block, or None."""
    diagonal = np.einsum("nii->ni", hessians)
    if (diagonal < 0).any():
        return None
    pivot = diagonal.argmax(axis=1)
    each = np.arange(len(hessians))
    root = np.sqrt(diagonal[each, pivot])
    x = hessians[each, :, pivot] / np.where(root > 0, root, 1)[:, None]
    error = np.abs(hessians - x[:, :, None] * x[:, None, :]).max()
    return x if error <= 1e-12 * max(np.abs(hessians).max(), 1e-300) else None
