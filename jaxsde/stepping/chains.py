"""The two kinds of Markov chain: an optimiser on stochastic gradients, and an integrated SDE. Everything after sees only `Chain`.

A step draws nothing: it is a pure function of its state and of the random numbers that `draws` declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from ..dynamics.equations import positive
from ..dynamics.gradients import gradient, svag_gradient
from ..problems.problem import FiniteSum, Potential
from ..struct import replace, static, struct
from ..types import SDE, Drawn, Draws, Integrator
from .integrators import EulerMaruyama, check, named
from .optimizers import optimizer_of


@struct
class OptimizerChain:
    """Φ' = Φ − η ĝ(Φ), or any optax optimiser fed with ĝ. Made by `sgd`. One step lasts dt = η.

    The state is the position for plain SGD, and (position, optax state) with an optimiser.
    """

    gradient: Any
    learning_rate: Any
    optimizer: Any
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
        return x0, self.optimizer(self.learning_rate, x0.dtype).init(x0)

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        if self.optimizer is None:
            return state - jnp.asarray(self.learning_rate, state.dtype) * self.gradient(state, drawn, k)
        phi, inner = state
        made = self.optimizer(self.learning_rate, phi.dtype)
        # an optimiser that asks for gradients elsewhere (SAM) gets them from the same examples
        again = lambda p, _=None: self.gradient(p, drawn, k)
        updates, inner = made.update(self.gradient(phi, drawn, k), inner, phi, grad_fn=again)
        return optax.apply_updates(phi, updates), inner

    def position(self, state: PyTree) -> Float[Array, " d"]:
        return state if self.optimizer is None else state[0]


@struct
class DiffusionChain:
    """An SDE under an integrator with a fixed step `dt`. Made by `integrate`.

    The state is that of the SDE, whose first `dim` entries are the position (a kinetic SDE has momenta behind them); with an
    integrator that remembers the noise of the step before, it is (that, the noise).
    """

    sde: Any
    dt: Any
    integrator: Any
    draws: Draws = static()
    dim: int = static()

    @property
    def problem(self) -> Any:
        return self.sde.problem

    def init(self, x0: Float[Array, " d"]) -> PyTree:
        state = jnp.concatenate([x0, jnp.zeros(self.sde.dim - self.dim, x0.dtype)]) if self.sde.dim > self.dim else x0
        return (state, jnp.zeros(self.draws.normals, x0.dtype)) if self._remembers else state

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        x, before = state if self._remembers else (state, None)
        dt, z = jnp.asarray(self.dt, x.dtype), standardised(drawn, self.draws)
        given = z if before is None else jnp.concatenate([before, z])
        x = self.integrator.step(self.sde, k * dt, x, dt, given)
        return x if before is None else (x, z)

    def position(self, state: PyTree) -> Float[Array, " d"]:
        x = state[0] if self._remembers else state
        return x[: self.dim] if self.sde.dim > self.dim else x

    @property
    def _remembers(self) -> bool:
        return getattr(self.integrator, "remembers", False)


def standardised(drawn: Drawn, draws: Draws) -> Any:
    """What an integrator is given: the normals, three-point variables and signs of a step, one after the other."""
    given = [d for d, n in zip((drawn.normals, drawn.three_point, drawn.signs), _counts(draws), strict=True) if n]
    return given[0] if len(given) == 1 else jnp.concatenate(given) if given else drawn.normals


def as_drawn(z: Any, draws: Draws) -> Drawn:
    """The step's draws of which `standardised` makes z."""
    normals, three, _ = _counts(draws)
    return Drawn(normals=z[:normals], three_point=z[normals : normals + three], signs=z[normals + three :])


def _counts(draws: Draws) -> tuple[int, int, int]:
    return draws.normals, draws.three_point, draws.signs


def sgd(
    problem: FiniteSum | Potential,
    *,
    learning_rate: Any,
    batch_size: int = 1,
    sampling: str | None = None,
    alpha: Any = None,
    optimizer: optax.GradientTransformation | Callable[[Any], optax.GradientTransformation] | None = None,
) -> OptimizerChain:
    """Minibatch SGD at a fixed learning rate, Φ' = Φ − η ĝ, as a Markov chain on the clock t = Σ η.

    `sampling` is one of `SAMPLINGS` (default: "with_replacement" for a finite sum, "gaussian" for a potential); `alpha` in (0, 2]
    is the tail index of "alpha_stable". `optimizer`
    replaces the plain update: a function of the learning rate such as `optax.adam` or
    `functools.partial(optax.sgd, momentum=0.9)` keeps η, and the floats of the partial, arguments of the compiled program (a
    sweep over them is a `vmap`; `jaxsde.momentum` writes down both conventions of momentum); a ready
    `optax.GradientTransformation` is used as it is, and `learning_rate` is then only the clock.

    Raises `ValueError` for a learning rate that is not positive, a batch size that is no positive integer or larger than
    the data where examples are not repeated, and a sampling that the problem does not have.
    """
    if not isinstance(problem, FiniteSum | Potential):
        raise TypeError(f"problem must come from finite_sum or potential, got {type(problem).__name__}")
    positive(learning_rate, "learning_rate")
    made = optimizer_of(optimizer, jnp.asarray(learning_rate, float), problem.start)
    ghat = gradient(problem, batch_size, sampling, alpha)
    return OptimizerChain(ghat, jnp.asarray(learning_rate, float), made, ghat.draws, problem.dim)


def svag(
    problem: FiniteSum | Potential, *, learning_rate: Any, l: int, batch_size: int = 1, sampling: str | None = None
) -> OptimizerChain:
    """SVAG, the stochastic variance amplified gradient: steps of η/l with l times the noise, so that l → ∞ is SGD's SDE.

    Its clock is its own: dt = η/l, and l steps last as long as one of SGD. l = 1 is SGD, bit for bit.
    Source: Li, Malladi and Arora (2021), "On the validity of modeling SGD with stochastic differential equations".
    """
    whole = sgd(problem, learning_rate=learning_rate, batch_size=batch_size, sampling=sampling)
    ghat = svag_gradient(whole.gradient, l)
    return replace(whole, gradient=ghat, draws=ghat.draws, learning_rate=whole.learning_rate / l if l > 1 else whole.learning_rate)


def integrate(sde: SDE, integrator: Integrator | str | None = None, *, dt: Any) -> DiffusionChain:
    """The Markov chain of an SDE under an integrator (default Euler–Maruyama), or the one of that name, with step `dt`.

    Raises `ValueError` for a step that is not positive, and for an integrator that does not fit the SDE, with those that do.
    """
    positive(dt, "dt")
    if isinstance(integrator, type):
        raise TypeError(f"integrator must be an object: write {integrator.__name__}()")
    if isinstance(integrator, str):
        integrator = named(integrator)
    chosen: Integrator = EulerMaruyama() if integrator is None else integrator
    if hasattr(chosen, "prepared") and any(isinstance(a, Tracer) for a in jax.tree.leaves((sde, dt))):
        name = type(chosen).__name__
        raise ValueError(f"{name} works its matrices out when the chain is built: build it outside jit, vmap and grad")
    check(chosen, sde)
    draws = chosen.draws(sde)
    if hasattr(chosen, "prepared"):
        chosen = chosen.prepared(sde, dt)  # pyright: ignore[reportAttributeAccessIssue]
    return DiffusionChain(sde, jnp.asarray(dt, float), chosen, draws, getattr(sde, "position_dim", None) or sde.dim)
