"""Relations between a gradient and its noise that hold for a discrete chain at any learning rate, and for any loss.

A step that is linear in the state and in the gradient, y' = P y + G ĝ(Φ), leaves a stationary ⟨yyᵀ⟩ as it is:

    ⟨yyᵀ⟩ = ⟨m mᵀ⟩ + G⟨Σ_B⟩Gᵀ,    m = P y + G ∇L(Φ) = E[y' | y]

For plain SGD (P = I, G = −η) that is ⟨Φᵢ∂ⱼL + ∂ᵢL Φⱼ⟩ = η⟨ĝᵢĝⱼ⟩, whose trace is Yaida's first relation; for Euler–Maruyama the
same with η → dt, ∇L → −f and Σ_B → scale² Σ/dt. ⟨ĝĝᵀ⟩ = ∇L∇Lᵀ + Σ_B is averaged over the draws exactly, so these are means of
functions of the position alone. With the velocity in the state (`jaxsde.whole`) come those of momentum.

They need gradients that are unbiased and independent from step to step, given Φ: an epoch without replacement has neither.
Source: S. Yaida, Fluctuation-dissipation relations for stochastic gradient descent, ICLR 2019.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..dynamics.gradients import noise_of
from ..dynamics.noise import EPOCHS
from ..stepping.chains import DiffusionChain, OptimizerChain
from ..stepping.integrators import EulerMaruyama
from ..stepping.whole import Whole
from ..struct import static, struct
from ..theory import float64
from ..theory.linearise import autonomous, is_affine, rest_point
from ..theory.minimum import minimum
from ..theory.updates import update_of
from .balance import Balance, either, pairs, upper


@struct
class Descending:
    """ĝ of SGD: its mean ∇L and its covariance Σ_B."""

    problem: Any
    noise: Any

    def mean(self, x: Array) -> Array:
        return self.problem.grad(x)

    def covariance(self, x: Array) -> Array:
        return self.noise.covariance(x)


@struct
class Drifting:
    """−(x' − x)/dt of Euler–Maruyama: its mean −f and its covariance scale² Σ/dt."""

    sde: Any
    dt: Any

    def mean(self, x: Array) -> Array:
        return -self.sde.drift(jnp.zeros((), x.dtype), x)

    def covariance(self, x: Array) -> Array:
        return jnp.asarray(self.sde.scale, x.dtype) ** 2 / jnp.asarray(self.dt, x.dtype) * self.sde.noise.covariance(x)


@struct
class Arrays:
    """What the relations need: the pull, the rate η (or dt), a point near which the chain lives, and further matrices."""

    pull: Any
    rate: Any
    centre: Any
    more: Any
    dim: int = static()

    def at(self, y: Array) -> tuple[Array, Array, Array]:
        """(Φ − centre, mean of ĝ, covariance of ĝ) at a state whose first `dim` entries are Φ."""
        x = y[: self.dim]
        return x - self.centre.astype(y.dtype), self.pull.mean(x), self.pull.covariance(x)


class Linear(NamedTuple):
    """y' = P y + G ĝ about `rest`."""

    state: np.ndarray
    push: np.ndarray
    rest: np.ndarray


def stationary_gradient(chain: Any) -> Balance:
    """⟨∂ᵢL⟩ = 0: the mean gradient vanishes; for Euler–Maruyama the mean drift."""
    arrays, _ = described(chain, "stationary_gradient")
    return _balance(arrays, _gradient_sides, "stationary_gradient", "⟨∂ᵢL⟩ = 0", _components(arrays.dim))


def yaida(chain: Any) -> Balance:
    """⟨Φ·∇L⟩ = (η/2)⟨|ĝ|²⟩: Yaida's first relation, for plain SGD and Euler–Maruyama at any step and any loss."""
    arrays = _plain(chain, "yaida")
    return _balance(arrays, _yaida_sides, "yaida", "⟨Φ·∇L⟩ = (η/2)⟨|ĝ|²⟩", ("trace",))


def yaida_matrix(chain: Any) -> Balance:
    """⟨Φᵢ∂ⱼL + ∂ᵢL Φⱼ⟩ = η⟨ĝᵢĝⱼ⟩: the first relation as a matrix, for plain SGD and Euler–Maruyama at any step and any loss."""
    arrays = _plain(chain, "yaida_matrix")
    return _balance(arrays, _matrix_sides, "yaida_matrix", "⟨Φᵢ∂ⱼL + ∂ᵢL Φⱼ⟩ = η⟨ĝᵢĝⱼ⟩", pairs(arrays.dim))


def yaida_hessian(chain: Any) -> Balance:
    """⟨|∇L|²⟩ = (η/2)⟨ĝᵀHĝ⟩: Yaida's second relation, exact where the loss is quadratic (elsewhere to O(η²): refused)."""
    arrays = _plain(chain, "yaida_hessian")
    arrays = _with(arrays, _hessian(arrays, "yaida_hessian"))
    return _balance(arrays, _hessian_sides, "yaida_hessian", "⟨|∇L|²⟩ = (η/2)⟨ĝᵀHĝ⟩", ("trace",))


def yaida_momentum(chain: Any) -> Balance:
    """⟨Φ·∇L⟩ = (1 + μ)/2η ⟨|v|²⟩ of the heavy ball v' = μv − ηĝ, Φ' = Φ + v'; any step, any loss.

    With the average m' = μm + (1 − μ)ĝ, Φ' = Φ − ηm' it reads ⟨Φ·∇L⟩ = η(1 + μ)/2(1 − μ) ⟨|m|²⟩: the same two numbers. The
    velocity must be seen: the chain is `jaxsde.whole(sgd(…))`. Both sides grow with the noise, so its size is not tested here:
    that is `velocity_balance`.
    """
    arrays, formula = _ball(chain, "yaida_momentum", "⟨Φ·∇L⟩ = (1 + μ)/2η ⟨|v|²⟩")
    return _balance(arrays, _momentum_sides, "yaida_momentum", formula, ("trace",))


def yaida_momentum_matrix(chain: Any) -> Balance:
    """⟨Φᵢ∂ⱼL + ∂ᵢL Φⱼ⟩ = (1 + μ)/η ⟨vᵢvⱼ⟩: the same as a matrix."""
    arrays, formula = _ball(chain, "yaida_momentum_matrix", "⟨Φᵢ∂ⱼL + ∂ᵢL Φⱼ⟩ = (1 + μ)/η ⟨vᵢvⱼ⟩")
    return _balance(arrays, _momentum_matrix_sides, "yaida_momentum_matrix", formula, pairs(arrays.dim))


def yaida_momentum_hessian(chain: Any) -> Balance:
    """⟨|∇L|²⟩ = (1 + μ)/2η ⟨vᵀHv⟩: the second relation with momentum, exact where the loss is quadratic (elsewhere refused)."""
    arrays, formula = _ball(chain, "yaida_momentum_hessian", "⟨|∇L|²⟩ = (1 + μ)/2η ⟨vᵀHv⟩")
    arrays = _with(arrays, (*arrays.more, _hessian(arrays, "yaida_momentum_hessian")))
    return _balance(arrays, _momentum_hessian_sides, "yaida_momentum_hessian", formula, ("trace",))


def velocity_balance(chain: Any) -> Balance:
    """(1 − μ²)⟨vᵢvⱼ⟩ + μη⟨vᵢ∂ⱼL + ∂ᵢL vⱼ⟩ = η²⟨ĝᵢĝⱼ⟩ of the heavy ball: what friction takes and noise gives; any step, any loss."""
    arrays, formula = _ball(chain, "velocity_balance", "(1 − μ²)⟨vᵢvⱼ⟩ + μη⟨vᵢ∂ⱼL + ∂ᵢL vⱼ⟩ = η²⟨ĝᵢĝⱼ⟩")
    return _balance(arrays, _velocity_sides, "velocity_balance", formula, pairs(arrays.dim))


def second_moments(chain: Any) -> Balance:
    """⟨yyᵀ − m mᵀ⟩ = G⟨Σ_B⟩Gᵀ with m = P y + G∇L: the balance of all second moments of the whole state y, for SGD with any linear
    optimiser (momentum, Nesterov, weight averages) and for Euler–Maruyama; any step, any loss."""
    arrays, linear = described(chain, "second_moments")
    if linear is None:
        e = arrays.dim
        rate = float(np.asarray(arrays.rate))
        linear = Linear(np.eye(e), -rate * np.eye(e), np.asarray(arrays.centre, np.float64))
    moved = linear.state - np.eye(len(linear.state))
    arrays = _with(arrays, tuple(jnp.asarray(a, float) for a in (moved, linear.push, linear.rest)))
    labels = pairs(len(linear.rest))
    return _balance(arrays, _second_sides, "second_moments", "⟨yyᵀ − m mᵀ⟩ = G⟨Σ_B⟩Gᵀ,  m = P y + G∇L", labels)


def described(chain: Any, name: str) -> tuple[Arrays, Linear | None]:
    """What a chain's step is made of; `ValueError` with the relation's name where its moments are not those of one linear step."""
    inner = chain.chain if isinstance(chain, Whole) else chain
    if isinstance(inner, DiffusionChain):
        sde = inner.sde
        if not isinstance(inner.integrator, EulerMaruyama) or isinstance(chain, Whole):
            raise ValueError(
                f"{name} is exact for SGD and for Euler–Maruyama, not for {type(inner.integrator).__name__}: "
                "fluctuation_dissipation is the relation of the SDE"
            )
        if sde.dim > chain.dim:
            raise ValueError(f"{name} needs the momenta, which the position hides: integrate(sde.flatten(), dt=…)")
        autonomous(float64.widen(sde))
        try:
            centre = rest_point(sde)
        except ValueError:
            centre = np.zeros(sde.dim)
        return Arrays(Drifting(sde, inner.dt), inner.dt, jnp.asarray(centre, float), (), sde.dim), None
    if not isinstance(inner, OptimizerChain):
        raise TypeError(f"{name} is for a chain made by sgd, svag or integrate, got {type(inner).__name__}")
    gradient = inner.gradient
    if gradient.sampling in EPOCHS and gradient.batch_size < gradient.problem.examples:
        raise ValueError(
            f"{name} needs gradients that are unbiased and independent at every step, and under {gradient.sampling} the batches of "
            'an epoch depend on each other: sampling="without_replacement" is the nearest law that has it'
        )
    problem = gradient.problem
    centre = located(problem)
    arrays = Arrays(
        Descending(problem, noise_of(gradient)), inner.learning_rate, jnp.asarray(centre, float), (), problem.dim
    )
    if inner.optimizer is None:
        return arrays, None
    try:
        update = update_of(inner, centre)
    except ValueError as why:
        reason = str(why).split("not covered: ", 1)[-1]
        raise ValueError(f"{name} needs an optimiser whose step is linear in its state and the gradient: {reason}") from None
    state, push, d = update.carry, update.push, problem.dim
    if np.abs(update.rest[:d] - centre).max() > 1e-9 * (1 + np.abs(centre).max()):
        raise ValueError(f"{name} needs an optimiser that leaves the minimum where it is, and this one moves it (weight decay)")
    if len(state) > chain.dim:
        raise ValueError(f"{name} needs the optimiser's state, which the position hides: give jaxsde.whole(chain)")
    rest = np.asarray(chain.begin(centre), np.float64) if isinstance(chain, Whole) else centre
    return arrays, Linear(state, push, rest)


def located(problem: Any) -> np.ndarray:
    """A minimum of the loss, or where it starts. Relations hold about any point, and most quietly about one near by."""
    try:
        return minimum(problem, isolated=False)
    except ValueError:
        return np.asarray(problem.start, np.float64)


def _plain(chain: Any, name: str) -> Arrays:
    arrays, linear = described(chain, name)
    if linear is not None:
        rate = -float(linear.push[0, 0])
        still = np.eye(arrays.dim)
        if len(linear.state) == len(still) and np.allclose(linear.state, still) and np.allclose(linear.push, -rate * still):
            # plain SGD, written as an optimiser
            return Arrays(arrays.pull, jnp.asarray(rate, float), arrays.centre, (), arrays.dim)
        raise ValueError(f"{name} is for plain SGD, and this chain has an optimiser: yaida_momentum and second_moments are its own")
    return arrays


def _ball(chain: Any, name: str, formula: str) -> tuple[Arrays, str]:
    """The arrays with μ and the learning rate of the heavy ball; `ValueError` for another optimiser."""
    arrays, linear = described(chain, name)
    d = arrays.dim
    if linear is not None and len(linear.state) == 2 * d:
        (a, mu), eye, zero = (-linear.push[0, 0], linear.state[d, d]), np.eye(d), np.zeros((d, d))
        scale = linear.push[d, 0]  # of what the state remembers: the trace of ĝ, not v itself
        ball = np.block([[eye, -a * mu / scale * eye], [zero, mu * eye]]) if scale else linear.state + 1
        if np.allclose(linear.state, ball, rtol=1e-6, atol=1e-9) and np.allclose(linear.push, np.vstack([-a * eye, scale * eye])):
            more = tuple(jnp.asarray(v, float) for v in (a, mu, -a / scale))
            return _with(arrays, more), formula
    raise ValueError(
        f"{name} is for the heavy ball, v' = μv − ηĝ and Φ' = Φ + v' (jaxsde.momentum, optax.sgd): second_moments covers other "
        "linear optimisers"
    )


def _hessian(arrays: Arrays, name: str) -> Array:
    """The constant Hessian; `ValueError` where it is not constant."""
    pull, centre = float64.widen(arrays.pull), np.asarray(arrays.centre, np.float64)
    if isinstance(arrays.pull, Drifting) and arrays.pull.sde.problem is None:
        raise ValueError(f"{name} is a relation of descent on a loss, and this drift is not −∇L")
    if not is_affine(lambda x: float64.evaluate(_mean, pull, x), centre):
        raise ValueError(f"{name} is exact for quadratic losses alone, and this loss is not: yaida holds for any")
    problem = pull.problem if isinstance(arrays.pull, Descending) else pull.sde.problem
    return jnp.asarray(float64.evaluate(float64.hessian, problem, centre), float)


def _mean(pull: Any, x: Any) -> Any:
    return pull.mean(x)


def _with(arrays: Arrays, more: Any) -> Arrays:
    return Arrays(arrays.pull, arrays.rate, arrays.centre, more, arrays.dim)


def _balance(arrays: Arrays, sides: Any, name: str, formula: str, labels: tuple[str, ...]) -> Balance:
    pull = arrays.pull
    if isinstance(pull, Descending):
        examples = pull.problem.examples
    else:
        formula = formula.replace("∂ᵢL", "(−f)ᵢ").replace("∂ⱼL", "(−f)ⱼ").replace("∇L", "(−f)").replace("η", "dt")
        examples = getattr(pull.sde.problem, "examples", 0)
    return Balance(arrays, sides, name, formula, labels, examples)


def _components(d: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(d))


def _gradient_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    g = arrays.pull.mean(y[: arrays.dim])
    return g, jnp.zeros_like(g)


def _yaida_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    x, g, c = arrays.at(y)
    rate = jnp.asarray(arrays.rate, y.dtype)
    return (x @ g)[None], (rate / 2 * (g @ g + jnp.trace(c)))[None]


def _matrix_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    x, g, c = arrays.at(y)
    return upper(either(x, g)), jnp.asarray(arrays.rate, y.dtype) * upper(g[:, None] * g + c)


def _hessian_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    _, g, c = arrays.at(y)
    h = arrays.more.astype(y.dtype)
    return (g @ g)[None], (jnp.asarray(arrays.rate, y.dtype) / 2 * (g @ h @ g + jnp.sum(h * c)))[None]


def _moving(arrays: Arrays, y: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Φ − centre, ∇L, Σ_B, the velocity v = Φ − (Φ before), and η and μ of the heavy ball."""
    x, g, c = arrays.at(y)
    eta, mu, by = (a.astype(y.dtype) for a in arrays.more[:3])
    return x, g, c, by * y[arrays.dim :], eta, mu


def _momentum_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    x, g, _, v, eta, mu = _moving(arrays, y)
    return (x @ g)[None], ((1 + mu) / (2 * eta) * (v @ v))[None]


def _momentum_matrix_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    x, g, _, v, eta, mu = _moving(arrays, y)
    return upper(either(x, g)), (1 + mu) / eta * upper(v[:, None] * v)


def _momentum_hessian_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    _, g, _, v, eta, mu = _moving(arrays, y)
    return (g @ g)[None], ((1 + mu) / (2 * eta) * (v @ arrays.more[3].astype(y.dtype) @ v))[None]


def _velocity_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    _, g, c, v, eta, mu = _moving(arrays, y)
    taken = (1 - mu * mu) * v[:, None] * v + mu * eta * either(v, g)
    return upper(taken), eta * eta * upper(g[:, None] * g + c)


def _second_sides(arrays: Arrays, y: Array) -> tuple[Array, Array]:
    _, g, c = arrays.at(y)
    moved, push, rest = (a.astype(y.dtype) for a in arrays.more)
    y = y - rest
    change = moved @ y + push @ g
    return -upper(either(change, y) + change[:, None] * change), upper(push @ c @ push.T)


MOMENTS = {
    "stationary_gradient": stationary_gradient,
    "yaida": yaida,
    "yaida_matrix": yaida_matrix,
    "yaida_hessian": yaida_hessian,
    "yaida_momentum": yaida_momentum,
    "yaida_momentum_matrix": yaida_momentum_matrix,
    "yaida_momentum_hessian": yaida_momentum_hessian,
    "velocity_balance": velocity_balance,
    "second_moments": second_moments,
}
