"""The two kinds of Markov chain: an optimiser on stochastic gradients, and an integrated SDE. Everything after sees only `Chain`.

A step draws nothing: it is a pure function of its state and of the random numbers that `draws` declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..dynamics.equations import positive
from ..dynamics.gradients import gradient
from ..problems.problem import FiniteSum, Potential
from ..struct import static, struct
from ..types import SDE, Drawn, Draws, Integrator
from .integrators import EulerMaruyama


@struct
class OptimizerChain:
    """Φ' = Φ − η ĝ(Φ), or any optax optimiser fed with ĝ. Made by `sgd`. One step lasts dt = η.

    The state is the position for plain SGD, and (position, optax state) with an optimiser.
    """

    gradient: Any
    learning_rate: Any
    optimizer: Any = static()
    draws: Draws = static()
    dim: int = static()

    @property
    def dt(self) -> Any:
        return self.learning_rate

    @property
    def problem(self) -> Any:
        return self.gradient.problem

    def init(self, x0: Float[Array, " d"]) -> PyTree:
        if self.optimizer is None:
            return x0
        return x0, self._transformation(x0.dtype).init(x0)

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        if self.optimizer is None:
            return state - jnp.asarray(self.learning_rate, state.dtype) * self.gradient(state, drawn, k)
        phi, inner = state
        updates, inner = self._transformation(phi.dtype).update(self.gradient(phi, drawn, k), inner, phi)
        return optax.apply_updates(phi, updates), inner

    def position(self, state: PyTree) -> Float[Array, " d"]:
        return state if self.optimizer is None else state[0]

    def _transformation(self, dtype: Any) -> optax.GradientTransformation:
        if isinstance(self.optimizer, optax.GradientTransformation):
            return self.optimizer
        return self.optimizer(jnp.asarray(self.learning_rate, dtype))


@struct
class DiffusionChain:
    """An SDE under an integrator with a fixed step `dt`. Made by `integrate`. The state is the position."""

    sde: Any
    dt: Any
    integrator: Any
    draws: Draws = static()
    dim: int = static()

    @property
    def problem(self) -> Any:
        return self.sde.problem

    def init(self, x0: Float[Array, " d"]) -> PyTree:
        return x0

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        dt = jnp.asarray(self.dt, state.dtype)
        return self.integrator.step(self.sde, k * dt, state, dt, drawn.normals)

    def position(self, state: PyTree) -> Float[Array, " d"]:
        return state


def sgd(
    problem: FiniteSum | Potential,
    *,
    learning_rate: Any,
    batch_size: int = 1,
    sampling: str | None = None,
    optimizer: optax.GradientTransformation | Callable[[Any], optax.GradientTransformation] | None = None,
) -> OptimizerChain:
    """Minibatch SGD at a fixed learning rate, Φ' = Φ − η ĝ, as a Markov chain on the clock t = Σ η.

    `sampling` is one of `SAMPLINGS` (default: "with_replacement" for a finite sum, "gaussian" for a potential). `optimizer`
    replaces the plain update: a function of the learning rate such as `optax.adam` or
    `functools.partial(optax.sgd, momentum=0.9)` keeps η an argument of the compiled program; a ready
    `optax.GradientTransformation` is used as it is, and `learning_rate` is then only the clock.

    Raises `ValueError` for a learning rate that is not positive, a batch size that is no positive integer or larger than
    the data where examples are not repeated, and a sampling that the problem does not have.
    """
    if not isinstance(problem, FiniteSum | Potential):
        raise TypeError(f"problem must come from finite_sum or potential, got {type(problem).__name__}")
    positive(learning_rate, "learning_rate")
    ok = optimizer is None or isinstance(optimizer, optax.GradientTransformation) or callable(optimizer)
    if not ok:
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation or a function of the learning rate, got {type(optimizer).__name__}"
        )
    ghat = gradient(problem, batch_size, sampling)
    return OptimizerChain(ghat, jnp.asarray(learning_rate, float), optimizer, ghat.draws, problem.dim)


def integrate(sde: SDE, integrator: Integrator | None = None, *, dt: Any) -> DiffusionChain:
    """The Markov chain of an SDE under an integrator (default Euler–Maruyama) with step `dt`.

    Raises `ValueError` for a step that is not positive or an integrator that does not cover the SDE's noise.
    """
    positive(dt, "dt")
    if isinstance(integrator, type):
        raise TypeError(f"integrator must be an object: write {integrator.__name__}()")
    chosen: Integrator = EulerMaruyama() if integrator is None else integrator
    return DiffusionChain(sde, jnp.asarray(dt, float), chosen, chosen.draws(sde), sde.dim)
