"""One step of a chain as a map of its whole flat state y, whose first d entries are the position: is it affine, and which is it.

    optimiser         y' = P y + G ĝ + c                       ĝ the stochastic gradient at the position
    integrated SDE    y' = A(z) y + b(z)                       z the draws of the step
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..stepping.chains import as_drawn
from ..struct import replace, static, struct
from ..types import Drawn, Draws
from . import float64
from .linearise import Noise

# Combinations of draws over which a step's moments are summed; nodes of a normal draw (exact for moments below twice that number).
_NODES = 20_000
_NORMAL_NODES = 6


@dataclass(frozen=True)
class Update:
    """y' = P y + G ĝ + c: `carry` P ["D D"], `push` G ["D d"], and the state `rest` ["D"] in which the averaged step leaves y."""

    carry: np.ndarray
    push: np.ndarray
    rest: np.ndarray

    def drift(self, h: np.ndarray) -> np.ndarray:
        """The matrix of the averaged step, P + G (H, 0)."""
        a = self.carry.copy()
        a[:, : len(h)] += self.push @ h
        return a


def update_of(chain: Any, minimum: np.ndarray) -> Update:
    """The update of an `OptimizerChain`, at rest near the problem's `minimum`; `ValueError` when it is not affine."""
    d = len(minimum)
    if chain.optimizer is None:
        return Update(np.eye(d), -float(np.asarray(chain.learning_rate)) * np.eye(d), minimum)
    bare = float64.widen(replace(chain, gradient=_Given(jnp.zeros(()))))
    leaves = jax.tree.leaves(float64.evaluate(_fresh, bare, minimum))
    covered = "covered are plain SGD and linear optimisers such as optax.sgd with momentum or weight decay"
    if any(not np.issubdtype(a.dtype, np.floating) for a in leaves):
        raise ValueError(
            "the stationary covariance with this optimiser is not covered: it counts its steps, and a schedule or a bias "
            f"correction is not a linear map; {covered}"
        )
    y = np.concatenate([np.ravel(a) for a in leaves])
    if not np.array_equal(y[:d], minimum):
        raise ValueError(
            "the optimiser's state does not begin with the position: its stationary covariance is not covered"
        )
    still = float64.evaluate(_flat_step, bare, y, np.zeros(d))
    carry, push = float64.evaluate(_flat_jacobians, bare, y, np.zeros(d))
    if not is_linear(lambda x, g: float64.evaluate(_flat_step, bare, x, g), y, carry, push):
        raise ValueError(
            f"the stationary covariance with this optimiser is not covered: its step is not linear in the gradient; {covered}"
        )
    probe, sloped = np.random.default_rng(3).normal(size=(2, d)), replace(bare, gradient=_Given(jnp.asarray(0.37)))
    moved = np.concatenate([minimum + probe[0], y[d:]])
    there = float64.evaluate(_flat_step, bare, moved, probe[1] + 0.37 * moved[:d])
    if np.abs(float64.evaluate(_flat_step, float64.widen(sloped), moved, probe[1]) - there).max() > 1e-6 * (
        1 + np.abs(there).max()
    ):
        raise ValueError(
            "the stationary covariance with this optimiser is not covered: it asks for gradients at other positions than its "
            f"own; {covered}"
        )
    return Update(carry, push, _rest(chain.problem, y, carry, push, still - carry @ y, d))


def _rest(problem: Any, y: np.ndarray, carry: np.ndarray, push: np.ndarray, offset: np.ndarray, d: int) -> np.ndarray:
    """y = P y + G ∇L(y) + c by Newton's method from the minimum, which is where it rests unless weights decay."""
    wide = float64.widen(problem)
    scale = 1 + np.abs(y).max()
    if np.abs(carry @ y + offset - y).max() <= 1e-9 * scale:
        return y
    for _ in range(100):
        gap = carry @ y + push @ float64.evaluate(float64.grad, wide, y[:d]) + offset - y
        jacobian = carry - np.eye(len(y))
        jacobian[:, :d] += push @ float64.evaluate(float64.hessian, wide, y[:d])
        if np.linalg.cond(jacobian) > 1e12:
            break
        step = np.linalg.solve(jacobian, gap)
        y = y - step
        if np.abs(step).max() <= 1e-13 * scale:
            return y
    raise ValueError("no stationary law: the averaged step of this optimiser leaves no state as it is")


def is_linear(step: Callable[[Any, Any], np.ndarray], y: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether step(y + e, u) = step(y, 0) + a e + b u, at small and large e and u."""
    rng, still = np.random.default_rng(5), step(y, np.zeros(b.shape[1]))
    for scale in (0.1, 1.0, 30.0):
        e, u = scale * rng.normal(size=y.size), scale * rng.normal(size=b.shape[1])
        moved = step(y + e, u)
        if not np.abs(moved - still - a @ e - b @ u).max() <= 1e-9 * (np.abs(moved).max() + np.abs(still).max()):
            return False
    return True


def start_of(chain: Any, position: np.ndarray) -> np.ndarray:
    """The flat state of a chain that begins at a position."""
    return float64.evaluate(_fresh_flat, float64.widen(chain), position)


@dataclass(frozen=True)
class Step:
    """A step of an integrated SDE about `rest`: the averaged map `a`, its `noise`, and why that is not exact ("" when it is)."""

    rest: np.ndarray
    a: np.ndarray
    noise: Noise
    reason: str


def step_of(chain: Any, centre: np.ndarray, additive: bool) -> Step:
    """The step of a `DiffusionChain` near the SDE's rest point: linear in state and draws, or affine in the state for each draw."""
    wide = float64.widen(chain)
    draws = chain.draws
    name = type(chain.integrator).__name__
    still = np.zeros(draws.normals + draws.three_point + draws.signs)
    y = float64.evaluate(_fresh_state, wide, centre)
    a, n = float64.evaluate(_chain_jacobians, wide, y, still)
    if is_linear(lambda x, z: float64.evaluate(_chain_step, wide, x, z), y, a, n):
        return Step(y, a, Noise(n @ n.T), "")
    if not additive:
        found = _averaged(wide, y, draws)
        if found is not None:
            return found
    reason = (
        f"a step of {name} is not linear: linearised at its rest point"
        if additive
        else f"the noise depends on the position, which {name} does not treat linearly: held at its value at the rest point"
    )
    if np.abs(float64.evaluate(_chain_step, wide, y, still) - y).max() > 1e-9 * (1 + np.abs(y).max()):
        reason += "; the scheme's own shift of the mean is left out"
    return Step(y, a, Noise(n @ n.T), reason)


def _averaged(wide: Any, y: np.ndarray, draws: Draws) -> Step | None:
    """A step that is affine in the state for each z, averaged over z: exactly for draws on two or three points, and by
    Gauss–Hermite quadrature, exact for polynomials, over normals. None where it is not affine or z has too many dimensions."""
    x, w = np.polynomial.hermite_e.hermegauss(_NORMAL_NODES)
    normal = [(a, b) for a, b in zip(x, w / w.sum(), strict=True)]
    three = [(-np.sqrt(3), 1 / 6), (0.0, 2 / 3), (np.sqrt(3), 1 / 6)]
    kinds = [normal] * draws.normals + [three] * draws.three_point + [[(-1.0, 0.5), (1.0, 0.5)]] * draws.signs
    if np.prod([float(len(k)) for k in kinds]) > _NODES:
        return None
    z = np.array([[v for v, _ in nodes] for nodes in itertools.product(*kinds)])
    w = np.array([np.prod([p for _, p in nodes]) for nodes in itertools.product(*kinds)])
    far = 10 * np.random.default_rng(2).normal(size=y.size) * (1 + np.abs(y).max())
    found = float64.evaluate_many(_affine_parts, float64.widen((wide, y, far)), z, cost=y.size * (y.size + 2))
    a, here, there = found[:, :, :-2], found[:, :, -2], found[:, :, -1]
    if not np.abs(there - here - a @ far).max() <= 1e-7 * (np.abs(there).max() + np.abs(here).max()):
        return None
    b = here - a @ y
    mean, shift = np.einsum("k,kij->ij", w, a), w @ b
    rest = np.linalg.solve(np.eye(y.size) - mean, shift) if np.linalg.cond(np.eye(y.size) - mean) < 1e12 else y
    if np.abs(mean @ rest + shift - rest).max() > 1e-9 * (1 + np.abs(rest).max()):
        return None
    da, db = a - mean, (a - mean) @ rest + b - shift

    def cross(m: np.ndarray) -> np.ndarray:
        half = np.einsum("k,ka,kb->ab", w, da @ m, db)
        return half + half.T

    def feedback(s: np.ndarray) -> np.ndarray:
        return np.einsum("k,kab,bc,kdc->ad", w, da, s, da, optimize=True)

    return Step(rest, mean, Noise(np.einsum("k,ka,kb->ab", w, db, db), cross, feedback), "")


@struct
class _Given:
    """A gradient that is handed to the optimiser as it is, the `normals` of the draw, plus `slope` times the position."""

    slope: Any
    draws: Draws = static(default=Draws())

    def __call__(self, phi: Any, drawn: Any, k: Any) -> Any:
        return drawn.normals + self.slope * phi


def _fresh(chain: Any, phi: Any) -> Any:
    return chain.init(phi)


def _fresh_flat(chain: Any, phi: Any) -> Any:
    return ravel_pytree(chain.init(phi))[0]


def _unflatten(chain: Any, y: Any) -> Any:
    shape = jax.eval_shape(chain.init, y[: chain.dim])
    leaves, tree = jax.tree.flatten(shape)
    ends = np.cumsum([0, *(int(np.prod(a.shape)) for a in leaves)])
    return jax.tree.unflatten(tree, [y[a:b].reshape(s.shape) for a, b, s in zip(ends, ends[1:], leaves, strict=False)])


def _flat_step(chain: Any, y: Any, g: Any) -> Any:
    return ravel_pytree(chain.step(_unflatten(chain, y), Drawn(normals=g), 0))[0]


def _flat_jacobians(chain: Any, y: Any, g: Any) -> Any:
    return jax.jacfwd(_flat_step, argnums=(1, 2))(chain, y, g)


def _fresh_state(chain: Any, x: Any) -> Any:
    state = chain.init(x[: chain.dim])
    whole = ravel_pytree(state)[0]
    return jnp.concatenate([x, whole[x.size :]])  # the momenta where they rest, too


def _chain_step(chain: Any, y: Any, z: Any) -> Any:
    return ravel_pytree(chain.step(_unflatten(chain, y), as_drawn(z, chain.draws), 0))[0]


def _affine_parts(tree: Any, z: Any) -> Any:
    """The Jacobian of a step in the state, the step, and the step from further off, as columns."""
    chain, y, far = tree
    step = lambda x: _chain_step(chain, x, z)
    return jnp.concatenate([jax.jacfwd(step)(y), step(y)[:, None], step(y + far)[:, None]], axis=1)


def _chain_jacobians(chain: Any, y: Any, z: Any) -> Any:
    return jax.jacfwd(_chain_step, argnums=1)(chain, y, z), jax.jacrev(_chain_step, argnums=2)(chain, y, z)
