"""Stationary mean and covariance of what is simulated: an SDE, an integrated SDE, or the minibatch chain itself.

| object         | equation for S (A = −H for descent, κ the batch factor, C and F of `linearise`)          |
|----------------|-------------------------------------------------------------------------------------------|
| SDE            | A S + S Aᵀ + scale²(C + F(S)) = 0; for SGD's SDE HS + SH = ηκ(C + F(S))                   |
| Euler–Maruyama | S = (I + A h) S (I + A h)ᵀ + h·scale²(C + F(S))                                            |
| another scheme | S = J S Jᵀ + N Nᵀ, J and N the derivatives of its step in x and z                          |
| SGD            | S = (I − ηH) S (I − ηH) + η²κ(C + F(S)); for constant noise SH + HS − ηHSH = ηC            |
| SGD + optimiser | the same for its whole state y' = P y + G ĝ, where that is linear (momentum, weight averages) |

Exact for quadratic losses (least squares with its per-example Hessians included), for any law on the line and for Langevin up
to d = 3; the leading order in small noise elsewhere, and then the result says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..dynamics.equations import Diffusion
from ..dynamics.gradients import noise_factor
from ..dynamics.noise import EPOCHS
from ..stepping.chains import DiffusionChain, OptimizerChain, as_drawn
from ..stepping.integrators import EulerMaruyama
from ..struct import replace, static, struct
from ..types import Drawn, Draws
from . import float64
from .density import isotropic_temperature, stationary_density
from .linear import Equation
from .linearise import drift, is_affine, of_problem, of_sde, scaled, settled


@dataclass(frozen=True)
class StationaryLaw:
    """Stationary `mean` ["d"] and `covariance` ["d d"] of a position. `method` names how they were found; `reason` is "" when they
    are exact, else what was approximated."""

    mean: np.ndarray
    covariance: np.ndarray
    method: str
    reason: str

    @property
    def exact(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class System:
    """The linear(ised) dynamics of a state y whose first d entries are the position: the equation, the noise Q of S = … + Q + F(S),
    and the time `dt` that a step lasts (None in continuous time)."""

    centre: np.ndarray
    equation: Equation
    noise: np.ndarray
    dt: float | None
    method: str
    reason: str

    def covariance(self) -> np.ndarray:
        """Stationary covariance of the whole state."""
        if not self.noise.any():  # without noise it rests, if it is stable at all
            Equation(self.equation.a, self.equation.discrete).solve(self.noise)
            return np.zeros_like(self.noise)
        return self.equation.solve(self.noise)


def stationary_mean(x: Any) -> np.ndarray:
    """The stationary mean ["d"] of a `Diffusion`, `DiffusionChain` or `OptimizerChain`.

    Exact or, with a `UserWarning` that says why not, to leading order in small noise; `ValueError` where there is no stationary
    law or it is not covered. `stationary_law` returns the same with its method.
    """
    return _warned(stationary_law(x)).mean


def stationary_covariance(x: Any) -> np.ndarray:
    """The stationary covariance ["d d"] of a `Diffusion`, `DiffusionChain` or `OptimizerChain`; see `stationary_mean`."""
    return _warned(stationary_law(x)).covariance


def stationary_law(x: Any) -> StationaryLaw:
    """Stationary mean and covariance of the position, with how they were found and whether that is exact. Never warns.

    Raises `ValueError` when there is no stationary law (no isolated minimum, learning rate or step beyond the stability edge,
    noise that grows faster than the drift contracts) or none that is covered (random reshuffling, a nonlinear optimiser);
    `TypeError` for another object.
    """
    if isinstance(x, Diffusion) and x.noise.kind != "none":
        wide = float64.widen(x)
        origin = np.asarray(float64.widen(x.problem).start) if x.problem is not None else np.zeros(x.dim)
        if not is_affine(lambda p: float64.evaluate(drift, wide, p), origin) and (
            x.dim == 1 or (x.dim <= 3 and isotropic_temperature(x) is not None)
        ):
            density = stationary_density(x)
            return StationaryLaw(density.mean, density.covariance, "quadrature of the stationary density", "")
    found = system(x)
    d = getattr(x, "position_dim", None) or x.dim  # of a larger state, with momenta, the position alone
    return StationaryLaw(found.centre[:d], found.covariance()[:d, :d], found.method, found.reason)


def system(x: Any) -> System:
    """The linear(ised) dynamics of an SDE or a chain around its rest point."""
    if isinstance(x, Diffusion):
        local = of_sde(x)
        return System(
            local.centre,
            Equation(local.drift, False, local.feedback),
            local.covariance,
            None,
            "Lyapunov equation",
            local.reason,
        )
    if isinstance(x, DiffusionChain):
        return _integrated(x)
    if isinstance(x, OptimizerChain):
        return _optimised(x)
    raise TypeError(f"a Diffusion, DiffusionChain or OptimizerChain is needed, got {type(x).__name__}")


def _integrated(chain: DiffusionChain) -> System:
    chain = replace(chain, sde=settled(chain.sde))
    local = of_sde(chain.sde)
    dt = float(np.asarray(chain.dt))
    name = type(chain.integrator).__name__
    if isinstance(chain.integrator, EulerMaruyama):
        a = np.eye(chain.sde.dim) + dt * local.drift
        equation = Equation(a, True, scaled(local.feedback, dt))
        return System(
            local.centre, equation, dt * local.covariance, dt, f"second-moment equation of {name}", local.reason
        )
    wide = float64.widen(chain)
    still = np.zeros(chain.draws.normals + chain.draws.three_point + chain.draws.signs)
    y = float64.evaluate(_fresh_state, wide, local.centre)
    a, n = float64.evaluate(_chain_jacobians, wide, y, still)
    reason = local.reason
    if not reason and chain.sde.noise.kind not in ("none", "additive"):
        reason = f"the noise depends on the position, which {name} does not treat linearly: held at its value at the rest point"
    rest = float64.evaluate(_chain_step, wide, y, still)
    if not reason and not _is_linear(lambda x, z: float64.evaluate(_chain_step, wide, x, z), y, a, n):
        reason = f"a step of {name} is not linear, though the SDE is: linearised at its rest point"
    if reason and np.abs(rest - y).max() > 1e-9 * (1 + np.abs(y).max()):
        reason += "; the scheme's own shift of the mean is left out"
    # the whole state is what moves, and the position comes first in it
    return System(y, Equation(a, True), n @ n.T, dt, f"second-moment equation of {name}", reason)


def _is_linear(step: Callable[[Any, Any], np.ndarray], y: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether step(y + e, u) = step(y, 0) + a e + b u, at small and large e and u."""
    rng, still = np.random.default_rng(5), step(y, np.zeros(b.shape[1]))
    for scale in (0.1, 1.0, 30.0):
        e, u = scale * rng.normal(size=y.size), scale * rng.normal(size=b.shape[1])
        moved = step(y + e, u)
        if not np.abs(moved - still - a @ e - b @ u).max() <= 1e-9 * (np.abs(moved).max() + np.abs(still).max()):
            return False
    return True


def _optimised(chain: OptimizerChain) -> System:
    gradient, d = chain.gradient, chain.dim
    problem, sampling = gradient.problem, gradient.sampling
    if sampling in EPOCHS and gradient.batch_size < problem.examples:
        raise ValueError(
            f"the stationary covariance under {sampling} is not covered: the batches of an epoch depend on each other, so "
            'one step\'s second moment does not close; sampling="without_replacement" is the nearest law that is'
        )
    factor = noise_factor(gradient)
    local = of_problem(problem)
    state, push = _optimizer_matrices(chain, local.centre)
    position = np.eye(d, len(state))
    a = state + push @ (-local.drift) @ position
    inner = local.feedback if factor else None
    feedback = None if inner is None else lambda s: factor * push @ inner(s[:d, :d]) @ push.T
    noise = factor * push @ local.covariance @ push.T
    dt = float(np.asarray(chain.learning_rate))
    return System(
        local.centre, Equation(a, True, feedback), noise, dt, "second-moment equation of the chain", local.reason
    )


@struct
class _Given:
    """A gradient that is handed to the optimiser as it is: the `normals` of the draw."""

    draws: Draws = static(default=Draws())

    def __call__(self, phi: Any, drawn: Any, k: Any) -> Any:
        return drawn.normals


def _optimizer_matrices(chain: OptimizerChain, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P and G of the optimiser's step y' = P y + G ĝ around (centre, fresh state); `ValueError` when it is not linear."""
    d = len(centre)
    if chain.optimizer is None:
        return np.eye(d), -float(np.asarray(chain.learning_rate)) * np.eye(d)
    bare = float64.widen(replace(chain, gradient=_Given()))
    fresh = float64.evaluate(_fresh, bare, centre)
    leaves = jax.tree.leaves(fresh)
    if any(not np.issubdtype(a.dtype, np.floating) for a in leaves):
        raise ValueError(
            "the stationary covariance with this optimiser is not covered: it counts its steps, and a schedule or a bias "
            "correction is not a linear map; covered are plain SGD and linear optimisers such as optax.sgd with momentum"
        )
    y = np.concatenate([np.ravel(a) for a in leaves])
    if not np.array_equal(y[:d], centre):
        raise ValueError(
            "the optimiser's state does not begin with the position: its stationary covariance is not covered"
        )
    still = float64.evaluate(_flat_step, bare, y, np.zeros(d))
    state, push = float64.evaluate(_flat_jacobians, bare, y, np.zeros(d))
    rest = np.abs(still - y).max() <= 1e-9 * (1 + np.abs(y).max())
    affine = _is_linear(lambda x, g: float64.evaluate(_flat_step, bare, x, g), y, state, push)
    if not (affine and rest):
        why = "its step is not linear in the gradient" if not affine else "it moves the minimum (weight decay)"
        raise ValueError(
            f"the stationary covariance with this optimiser is not covered: {why}; covered are plain SGD and linear optimisers "
            "such as optax.sgd with momentum"
        )
    return state, push


def _fresh(chain: Any, phi: Any) -> Any:
    return chain.init(phi)


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


def _chain_jacobians(chain: Any, y: Any, z: Any) -> Any:
    return jax.jacfwd(_chain_step, argnums=1)(chain, y, z), jax.jacrev(_chain_step, argnums=2)(chain, y, z)


def _warned(law: StationaryLaw) -> StationaryLaw:
    if law.reason:
        warnings.warn(f"not exact: {law.reason}", UserWarning, stacklevel=3)
    return law
