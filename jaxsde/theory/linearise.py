"""The linear model of noisy descent around a point: exact where the loss is quadratic, the leading order elsewhere.

With e = Φ − Φ* the drift is A e + O(e²) (A = −H for descent), and the covariance of the noise, averaged over a zero-mean e of
covariance S, is

    E Σ(Φ* + e) = C + F(S)         C = Σ(Φ*),   F(S) = (1/n) Σᵢ (Hᵢ − H) S (Hᵢ − H)   for a finite sum

and where e has a mean m, E Σ(Φ* + e) = C + K(m) + F(S + mmᵀ) with K linear. For least squares (each example's Hessian Hᵢ
constant) all of it is exact, so second moments close. Whether that is so is found numerically, by moving to a few far points: the
objects do not declare it.
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
from .examples import examples_at
from .linear import Feedback
from .minimum import minimum

# Relative departure from a law (affine, constant, quadratic) that is rounding: the probes are far, where curvature shows.
_ROUNDING = 1e-7
Cross = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Noise:
    """Σ(centre + e) = C + K(e) + F(e eᵀ): `covariance` C, `cross` K and `feedback` F (both None: Σ is constant). `reason` is ""
    when that is exact."""

    covariance: np.ndarray
    cross: Cross | None = None
    feedback: Feedback | None = None
    reason: str = ""

    def scaled(self, by: float) -> Noise:
        """Σ times a number."""
        return replace(
            self, covariance=by * self.covariance, cross=scaled(self.cross, by), feedback=scaled(self.feedback, by)
        )

    def pushed(self, g: np.ndarray, d: int) -> Noise:
        """G Σ Gᵀ, for a state of which the first d entries are the position; G ["D d"]."""
        cross, feedback = self.cross, self.feedback
        return replace(
            self,
            covariance=g @ self.covariance @ g.T,
            cross=None if cross is None else lambda m: g @ cross(m[:d]) @ g.T,
            feedback=None if feedback is None else lambda s: g @ feedback(s[:d, :d]) @ g.T,
        )


@dataclass(frozen=True)
class Local:
    """Around `centre`: the drift matrix A and the noise. `reason` is "" when that is exact."""

    centre: np.ndarray
    drift: np.ndarray
    noise: Noise
    reason: str

    @property
    def exact(self) -> bool:
        return not self.reason

    @property
    def covariance(self) -> np.ndarray:
        return self.noise.covariance

    @property
    def feedback(self) -> Feedback | None:
        return self.noise.feedback


def of_problem(problem: Any, centre: np.ndarray | None = None) -> Local:
    """Descent on a problem around its minimum, or around another point (where only the noise and H are meant), with the noise Σ of
    one example's gradient (B = 1, with replacement)."""
    centre = minimum(problem) if centre is None else centre
    wide = float64.widen(problem)
    h = float64.evaluate(float64.hessian, wide, centre)
    noise = problem_noise(wide, centre)
    reason = noise.reason
    if not reason and not is_affine(lambda phi: float64.evaluate(float64.grad, wide, phi), centre):
        reason = "the loss is not quadratic: linearised at its minimum"
    return Local(centre, -(h + h.T) / 2, noise, reason)


def of_sde(sde: Any, *, isolated: bool = True) -> Local:
    """An SDE around the rest point of its drift, with the covariance of scale · Σ^½ dW."""
    sde = settled(sde)
    wide = float64.widen(sde)
    centre = rest_point(sde, isolated=isolated)
    a = float64.evaluate(drift_jacobian, wide, centre)
    if getattr(sde, "problem", None) is not None:
        a = (a + a.T) / 2
    noise = _noise(wide, centre)
    reason = noise.reason
    if not is_affine(lambda x: float64.evaluate(drift, wide, x), centre):
        reason = "the drift is not linear: linearised at its rest point"
    return Local(centre, a, noise.scaled(float(np.asarray(wide.scale)) ** 2), reason)


def rest_point(sde: Any, *, isolated: bool = True) -> np.ndarray:
    """Where the drift vanishes: the minimum of the SDE's problem (one of a flat set, unless it has to be `isolated`), or a root
    found from the origin."""
    if getattr(sde, "problem", None) is not None:
        return minimum(sde.problem, isolated=isolated)
    sde = settled(sde)
    wide = float64.widen(sde)
    autonomous(wide)

    def f(x: np.ndarray) -> np.ndarray:
        return float64.evaluate(drift, wide, x)

    # a larger state, or a drift made of a problem's gradient, rests at or near the problem's minimum
    origin, problem = np.zeros(sde.dim), getattr(sde.drift, "problem", None)
    if problem is not None:
        origin[: problem.dim] = minimum(problem, isolated=isolated)
    found = scipy.optimize.root(
        f, origin, jac=lambda x: float64.evaluate(drift_jacobian, wide, x), tol=1e-13
    )
    scale = np.abs(float64.evaluate(drift_jacobian, wide, found.x)).max() * (1 + np.abs(found.x).max())
    if not np.abs(f(found.x)).max() <= 1e-9 * scale:
        raise ValueError(
            "the drift has no rest point that a root search from the origin or the minimum finds: no stationary law is known"
        )
    return np.asarray(found.x)


def settled(sde: Any) -> Any:
    """The SDE after a long time, where its drift changes at first (Adam's correction of its start) and says what it becomes."""
    return replace(sde, drift=sde.drift.settled()) if hasattr(sde.drift, "settled") else sde


def autonomous(wide: Any) -> None:
    """`ValueError` for a drift that depends on time, which has no stationary law, and for one that is a number nowhere."""
    rng = np.random.default_rng(0)
    finite = False
    for x in (places := rng.normal(size=(3, wide.dim))):
        now, later = (float64.evaluate(_drift_at, wide, x, t) for t in (0.0, 1.37))
        finite |= bool(np.isfinite(now).all())
        if np.abs(later - now).max() > _ROUNDING * (np.abs(now).max() + np.abs(later).max()):
            raise ValueError("the drift depends on time: there is no stationary law")
    if not finite:
        raise ValueError(f"the drift is not finite at {places[0]}, nor at other places: give one that is a number everywhere")


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


def problem_noise(wide: Any, centre: np.ndarray) -> Noise:
    """A problem's Σ(Φ) around a point."""
    if not wide.examples:
        return _function_noise(float64.noise_covariance, wide, centre)
    c = float64.evaluate(float64.noise_covariance, wide, centre)
    affine = is_affine(lambda phi: float64.evaluate(float64.example_gradients, wide, phi), centre)
    reason = "" if affine else "the examples' losses are not quadratic: linearised at the minimum"
    examples = examples_at(wide, centre)
    if examples.equal:
        return Noise((c + c.T) / 2, reason=reason)
    return Noise((c + c.T) / 2, examples.cross, examples.feedback, reason)


def _probes(centre: np.ndarray) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    size = 1 + np.abs(centre).max()
    for scale in (size, 7 * size, 50 * size):
        yield scale * rng.normal(size=len(centre))


def _drift_at(sde: Any, x: Any, t: Any) -> Any:
    return sde.drift(t, x)


def drift_jacobian(sde: Any, x: Any) -> Any:
    return jax.jacfwd(lambda y: sde.drift(0.0, y))(x)


def scaled(linear: Callable[[np.ndarray], np.ndarray] | None, factor: float) -> Callable[[np.ndarray], np.ndarray] | None:
    """factor · F, or factor · K; None stays None."""
    return None if linear is None else lambda s: factor * linear(s)


def _noise(wide: Any, centre: np.ndarray) -> Noise:
    noise, factor = wide.noise, 1.0
    while isinstance(noise, Scaled):
        noise, factor = noise.noise, factor * float(np.asarray(noise.by))
    if isinstance(noise, ExampleNoise | ProblemNoise):
        return problem_noise(noise.problem, centre).scaled(factor)
    return _function_noise(covariance, wide, centre)


def _function_noise(function: Callable[[Any, Any], Any], tree: Any, centre: np.ndarray) -> Noise:
    """A covariance function Σ(Φ), where it is constant or quadratic in Φ."""
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
        return Noise(c)
    if len(centre) > 32:
        return Noise(c, reason="Σ depends on Φ in more than 32 dimensions: held at its value at the rest point")
    slope, curvature = float64.evaluate(_two_derivatives, (_Function(function), tree), centre)
    for v, up, down in shifted:
        size = np.abs(up).max() + np.abs(c).max()
        even, odd = (up + down) / 2 - c - curvature @ v @ v / 2, (up - down) / 2 - slope @ v
        if not max(np.abs(even).max(), np.abs(odd).max()) <= _ROUNDING * size:
            return Noise(c, reason="Σ(Φ) is not quadratic in Φ: held at its value at the rest point")
    return Noise(c, lambda m: slope @ m, lambda s: np.einsum("abij,ij->ab", curvature, s) / 2)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Function:
    """A module-level function as a pytree without leaves, so that it can travel beside the object it is a function of."""

    call: Callable[[Any, Any], Any]


def _two_derivatives(both: Any, x: Any) -> Any:
    function, tree = both
    of = lambda y: function.call(tree, y)
    return jax.jacfwd(of)(x), jax.hessian(of)(x)
