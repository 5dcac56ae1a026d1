"""Fluctuation theorems of chains with a Gaussian step, over windows of K steps of one path.

A step x' ~ N(m(x), Q(x)) has a density k(x'|x), so the odds of a path against its reverse are known, for the discrete chain itself:

    ΔS = log p(x₀) − log p(x_K) + Σ log k(x_{t+1}|x_t)/k(x_t|x_{t+1})          p the stationary density

    integral  ⟨e^{−ΔS}⟩ = 1        detailed  P(−ΔS ∈ I) = ⟨1_{ΔS ∈ I} e^{−ΔS}⟩,  ⟨tanh ΔS/2⟩ = ⟨tanh² ΔS/2⟩        ⟨ΔS⟩ = its value

The last two of the detailed form are bounded. For a linear step with constant noise (SGD with Gaussian noise on a quadratic,
Euler–Maruyama of a linear SDE) p is Gaussian and known exactly; then K is the longest window in which e^{−ΔS} has a standard
deviation of at most one, and ⟨ΔS⟩ is known too. Elsewhere p is given. The statistic must see every step.
Source: U. Seifert, Phys. Rev. Lett. 95, 040602 (2005); Rep. Prog. Phys. 75, 126001 (2012).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from ..dynamics.gradients import Surrogate
from ..statistics.sums import Count, Sum, add, cleared, count_up, fold, integers, no_count, no_sum, value, whole, words
from ..stepping.chains import DiffusionChain, OptimizerChain
from ..struct import static, struct
from ..theory import float64
from ..theory.linearise import is_affine
from ..theory.moments.stationary import stationary_law
from .moments import Arrays, described

# Edges of the intervals of |ΔS| in the detailed theorem, and the windows that are tried.
EDGES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
_LONGEST = 64
_REVERSIBLE = 1e-6  # entropy a window below which float32 sees none


class Path(NamedTuple):
    """What one chain ["c"] remembers: windows done, its last position, ΔS so far, steps in this window, the sums ["c k"]."""

    counted: Count
    last: Any
    entropy: Any
    done: Any
    sums: Sum


@struct
class GaussianKernel:
    """x' ~ N(x − η g(x), η² C(x)): `inverse` is the constant Q⁻¹, or None where Q depends on x."""

    arrays: Arrays
    inverse: Any

    def log_odds(self, x: Array, y: Array) -> Array:
        """log k(y|x) − log k(x|y)."""
        forward, backward = y - self.mean(x), x - self.mean(y)
        if self.inverse is not None:
            p = self.inverse.astype(x.dtype)
            # (b − f)ᵀ P (b + f): the difference of two squares that are nearly equal
            return (backward - forward) @ p @ (backward + forward) / 2
        return self._log(forward, x) - self._log(backward, y)

    def mean(self, x: Array) -> Array:
        return x - jnp.asarray(self.arrays.rate, x.dtype) * self.arrays.pull.mean(x)

    def _log(self, e: Array, x: Array) -> Array:
        q = jnp.asarray(self.arrays.rate, x.dtype) ** 2 * self.arrays.pull.covariance(x)
        if x.size == 1:
            return -(e[0] ** 2 / q[0, 0] + jnp.log(q[0, 0])) / 2
        return -(e @ jnp.linalg.solve(q, e) + jnp.linalg.slogdet(q)[1]) / 2


@struct
class Gaussian:
    """log N(x; centre, P⁻¹) without its constant."""

    centre: Any
    inverse: Any

    def __call__(self, x: Array) -> Array:
        e = x - self.centre.astype(x.dtype)
        return -(e @ self.inverse.astype(x.dtype) @ e) / 2


@struct
class PathEntropy:
    """Averages over windows of `window` steps: e^{−ΔS}, ΔS, tanh(ΔS/2), its square, and for each interval of |ΔS| P(−ΔS in it)
    and ⟨e^{−ΔS}⟩ within it. Result ["4 + 2 intervals"]. Made by `path_entropy`."""

    kernel: Any
    log_density: Any
    mean: Any  # ⟨ΔS⟩ of a window, where it is known
    window: int = static()
    edges: tuple[float, ...] = static()

    def init(self, x: Float[Array, "c d"]) -> Path:
        c, none = x.shape[0], jnp.zeros(x.shape[:1], x.dtype)
        sums = no_sum((c, 2 + 2 * len(self.edges)), x.dtype)
        return Path(no_count((c,)), jnp.zeros_like(x), none, jnp.zeros((c,), jnp.int32) - 1, sums)

    def update(self, acc: Path, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Path:
        begun = acc.done >= 0  # the first look has no step behind it
        last = jnp.where(begun[:, None], acc.last, x)
        entropy = acc.entropy + jax.vmap(self._step)(last, x)
        done = acc.done + 1
        full = done == self.window
        sums = add(acc.sums, jnp.where(full[:, None], self._functions(entropy), 0))
        counted = count_up(acc.counted, full.astype(jnp.uint32))
        entropy, done = jnp.where(full, 0, entropy), jnp.where(full, 0, done)
        return Path(*cleared((counted, x, entropy, done, sums), alive))

    def merge(self, acc: Path) -> Path:
        def combine(a: tuple, b: tuple) -> tuple:
            return a[0] + b[0], a[1] + b[1]

        counted, sums = fold((integers(acc.counted), value(acc.sums)), combine)
        nothing = np.zeros((1, np.shape(acc.last)[1]))
        return Path(words(counted), nothing, np.zeros(1), np.zeros(1, np.int32), whole(sums))

    def result(self, acc: Path) -> Float[np.ndarray, " k"]:
        acc = self.merge(acc)
        n = integers(acc.counted)[0]
        return value(acc.sums)[0] / n if n else np.full(2 + 2 * len(self.edges), np.nan)

    def _step(self, x: Array, y: Array) -> Array:
        return self.log_density(x) - self.log_density(y) + self.kernel.log_odds(x, y)

    def _functions(self, s: Array) -> Array:
        weight, bent = jnp.exp(-s), jnp.tanh(s / 2)
        between = list(pairwise(self.edges))
        seen = [((-s > a) & (-s <= b)).astype(s.dtype) for a, b in between]
        foretold = [jnp.where((s > a) & (s <= b), weight, 0) for a, b in between]
        return jnp.stack([weight, s, bent, bent * bent, *seen, *foretold], axis=1)


def path_entropy(
    chain: Any, *, log_density: Callable[[Any], Any] | None = None, window: int | None = None, edges: tuple[float, ...] = EDGES
) -> PathEntropy:
    """The statistic of the fluctuation theorems: give it to `simulate(…, every=1)` under any name.

    `log_density(x)` is the log of the chain's stationary density, up to a constant; without it the chain must be linear with
    constant noise. `window` is K, chosen where the law is Gaussian. `ValueError` for a chain without a Gaussian step, one with
    singular noise (its reverse path may be impossible), and one that produces no entropy (it is reversible).
    """
    arrays = _gaussian_step(chain)
    edges = tuple(float(e) for e in edges)
    if len(edges) < 2 or edges[0] < 0 or any(b <= a for a, b in pairwise(edges)):
        raise ValueError(f"edges must be increasing and not negative, got {edges}")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"window must be a positive integer, got {window!r}")
    pull = float64.widen(arrays.pull)
    rate, centre = float(np.asarray(arrays.rate)), np.asarray(arrays.centre, np.float64)
    rng = np.random.default_rng(0)
    sampled = [centre, *(centre + s * rng.normal(size=len(centre)) for s in (0.3, 1.0, 3.0))]
    q = [rate**2 * float64.evaluate(_covariance, pull, x) for x in sampled]
    values = np.linalg.eigvalsh(q[0])
    if not values[0] > 1e-9 * values[-1]:
        raise ValueError("the noise of a step is singular, so the reverse of a path may be impossible: its entropy has no value")
    constant = all(np.abs(other - q[0]).max() <= 1e-9 * np.abs(q[0]).max() for other in q)
    kernel = GaussianKernel(arrays, jnp.asarray(np.linalg.inv(q[0]), float) if constant else None)
    if log_density is not None:
        if not callable(log_density):
            raise TypeError(f"log_density must be a function of the position, got {type(log_density).__name__}")
        given = log_density if isinstance(log_density, Partial) else Partial(log_density)
        return PathEntropy(kernel, given, None, window or 1, edges)
    if not constant or not is_affine(lambda x: float64.evaluate(_mean, pull, x), centre):
        raise ValueError(
            "the stationary density of this chain is not known exactly (its step is not linear with constant noise): give "
            "log_density=…"
        )
    law = stationary_law(chain)
    a = np.eye(len(centre)) - rate * float64.evaluate(_jacobian, pull, centre)
    exact = {k: _gaussian_entropy(a, q[0], law.covariance, k) for k in ([window] if window else range(1, _LONGEST + 1))}
    mild = [k for k, (_, spread) in exact.items() if spread <= 1]
    chosen = window or (max(mild) if mild else 1)
    mean = exact[chosen][0]
    if mean < _REVERSIBLE:
        raise ValueError("the chain is reversible: it produces no entropy, and its fluctuation theorems are 1 = 1")
    density = Gaussian(jnp.asarray(law.mean, float), jnp.asarray(np.linalg.inv(law.covariance), float))
    return PathEntropy(kernel, density, jnp.asarray(mean, float), chosen, edges)


def integral_fluctuation(statistic: PathEntropy, result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """⟨e^{−ΔS}⟩ = 1: the integral fluctuation theorem, for a chain with a Gaussian step."""
    return result[:1], np.ones(1)


def detailed_fluctuation(statistic: PathEntropy, result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(−ΔS)= e^{−ΔS} P(ΔS), in intervals and as ⟨tanh ΔS/2⟩ = ⟨tanh² ΔS/2⟩: the detailed fluctuation theorem."""
    count = len(statistic.edges) - 1
    return np.r_[result[2], result[4 : 4 + count]], np.r_[result[3], result[4 + count :]]


def entropy_production(statistic: PathEntropy, result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """⟨ΔS⟩ = its exact value, where the law is Gaussian: the entropy that a window of the discrete chain produces."""
    return result[1:2], np.asarray(statistic.mean, np.float64).reshape(1)


def _gaussian_step(chain: Any) -> Arrays:
    """The mean and covariance of a step with Gaussian draws; `ValueError` for another."""
    if isinstance(chain, OptimizerChain):
        gaussian = isinstance(chain.gradient, Surrogate) and chain.gradient.sampling == "gaussian" and chain.optimizer is None
    else:
        gaussian = isinstance(chain, DiffusionChain) and getattr(chain.integrator, "noise", "gaussian") == "gaussian"
    if not gaussian:
        raise ValueError(
            "a fluctuation theorem needs the density of a step: it is for Euler–Maruyama and for plain SGD with "
            'sampling="gaussian", whose steps are Gaussian'
        )
    arrays, _ = described(chain, "a fluctuation theorem")
    return arrays


def _gaussian_entropy(a: np.ndarray, q: np.ndarray, s: np.ndarray, steps: int) -> tuple[float, float]:
    """⟨ΔS⟩ over so many steps of x' = A x + N(0, Q), S stationary, and the standard deviation of e^{−ΔS}; inf where it has none.

    A path is Gaussian with precision Π, its reverse with RΠR (R turns the order of time): ΔS = ½ xᵀ(RΠR − Π)x, so ⟨ΔS⟩ =
    ½ tr(Π⁻¹RΠR) − ½ dim, and ⟨e^{−2ΔS}⟩ = (det Π/det(2RΠR − Π))^½.
    """
    d, inverse = len(a), np.linalg.inv(q)
    precision = np.zeros((steps + 1, d, steps + 1, d))
    precision[0, :, 0] += np.linalg.inv(s)
    for t in range(steps):
        precision[t + 1, :, t + 1] += inverse
        precision[t, :, t] += a.T @ inverse @ a
        precision[t + 1, :, t] -= inverse @ a
        precision[t, :, t + 1] -= a.T @ inverse
    size = (steps + 1) * d
    turned = precision[::-1, :, ::-1].reshape(size, size)
    precision = precision.reshape(size, size)
    mean = (np.trace(np.linalg.solve(precision, turned)) - size) / 2
    twice = 2 * turned - precision
    if np.linalg.eigvalsh((twice + twice.T) / 2)[0] <= 0:
        return float(mean), np.inf
    log = (np.linalg.slogdet(precision)[1] - np.linalg.slogdet(twice)[1]) / 2
    return float(mean), float(np.sqrt(max(np.expm1(log), 0.0)))


def _covariance(pull: Any, x: Any) -> Any:
    return pull.covariance(x)


def _mean(pull: Any, x: Any) -> Any:
    return pull.mean(x)


def _jacobian(pull: Any, x: Any) -> Any:
    return jax.jacfwd(pull.mean)(x)


FLUCTUATION = {
    "integral_fluctuation": integral_fluctuation,
    "detailed_fluctuation": detailed_fluctuation,
    "entropy_production": entropy_production,
}
