"""Other packages' samplers, asked for the same laws through their public functions. Each is imported when it is asked for.

A sampler is a function law, step → (one chain, the exact mean of what is observed under its scheme or None). One chain maps a start
["d"], a key, the noise's factor and the numbers of steps to the average ["k"] over the steps after burn-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import exact
from .laws import CHAINS, FRICTION, HESSIAN, MOMENTUM, Law
from .ours import Sampler, Seen, euler_reference, linear_reference, student_variance, well_force, well_reference

# SGHMC: steps from each fresh momentum, and friction
INNER, ALPHA = 8, 8.0

Made = tuple[Callable[..., Any], np.ndarray | None]
_compiled: dict[tuple[Any, ...], Any] = {}


def observed(made: Made, law: Law, step: float, seed: int, louder: float) -> Seen:
    """What the chains average to, with their noise multiplied by `louder`. Each chain is one independent part."""
    burn_in, steps = round(law.burn_in / step), round(law.time / step)
    start = jnp.asarray(law.start(np.random.default_rng(seed), CHAINS), jnp.float32)
    keys = jax.random.split(jax.random.key(seed), CHAINS)
    if made[0] not in _compiled:
        _compiled.clear()  # a row and its twin share one program
        _compiled[made[0]] = jax.jit(  # pyright: ignore[reportArgumentType]
            lambda x, k, by: jax.vmap(lambda x, k: made[0](x, k, by, burn_in, steps))(x, k)
        )
    each = np.asarray(_compiled[made[0]](start, keys, jnp.float32(louder)), np.float64)  # pyright: ignore[reportArgumentType]
    return Seen(each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(len(each)), len(each))


def chain(
    law: Law, begin: Callable[[Any], Any], step: Callable[..., Any], position: Callable[[Any], Any]
) -> Callable[..., Any]:
    """One chain of a kernel step(key, state, louder): the loop that its user writes."""

    def one(x: Any, key: Any, louder: Any, burn_in: int, steps: int) -> Any:
        def body(carry: Any, i: Any) -> tuple[Any, None]:
            state, total = carry
            state = step(jax.random.fold_in(key, i), state, louder)
            seen = law.observe(position(state))
            return (state, total + jnp.where(i >= burn_in, seen, 0)), None

        first = (begin(x), jnp.zeros(len(law.labels), jnp.float32))
        return jax.lax.scan(body, first, jnp.arange(burn_in + steps))[0][1] / steps

    return one


def itself(x: Any) -> Any:
    return x


def sgld(law: Law, step: float) -> Made:
    """blackjax.sgld with the whole gradient: Euler–Maruyama on Langevin."""
    import blackjax

    kernel: Any = blackjax.sgld(lambda x, _: -jax.grad(_loss(law))(x))
    one = chain(
        law, kernel.init, lambda key, x, by: kernel.step(key, x, jnp.float32(0), step, law.temperature * by**2), itself
    )  # fmt: skip
    return one, euler_reference(law, step)


def sghmc(law: Law, step: float) -> Made:
    """blackjax.sghmc on the log-density −L/T: forward Euler between fresh momenta."""
    return _sghmc(law, step, 1.0), law.second(exact.sghmc(HESSIAN / law.temperature, step, INNER, ALPHA, 1.0))


def sghmc_temperature(law: Law, step: float) -> Made:
    """blackjax.sghmc on −L with its argument temperature=T: fresh momenta are drawn at temperature 1 all the same."""
    return _sghmc(law, step, law.temperature), law.second(exact.sghmc(HESSIAN, step, INNER, ALPHA, law.temperature))


def _sghmc(law: Law, step: float, temperature: float) -> Callable[..., Any]:
    import blackjax

    by_hand = law.temperature / temperature  # what the log-density is divided by
    kernel: Any = blackjax.sghmc(lambda x, _: -jax.grad(_loss(law))(x) / by_hand, INNER, ALPHA, 0.0)
    return chain(
        law, kernel.init, lambda key, x, by: kernel.step(key, x, jnp.float32(0), step, temperature * by**2), itself
    )  # fmt: skip


def mala(law: Law, step: float) -> Made:
    """blackjax.mala on −L/T: exact at any step. A louder noise is a temperature that much higher: proposals are corrected."""
    import blackjax

    loss = _loss(law)

    def log_density(x: Any, by: Any) -> Any:
        return -loss(x) / (law.temperature * by**2)

    def begin(x: Any) -> Any:
        return blackjax.mala.init(x, lambda y: log_density(y, 1.0))

    build: Any = blackjax.mala.build_kernel()

    def move(key: Any, state: Any, by: Any) -> Any:
        # what the state remembers of the log-density is made anew, so that one program serves any temperature
        fresh = blackjax.mala.init(state.position, lambda y: log_density(y, by))
        return build(key, fresh, lambda y: log_density(y, by), step)[0]

    return chain(law, begin, move, lambda state: state.position), law.target


def euler(law: Law, step: float) -> Made:
    """diffrax.Euler, read as Itô."""
    import diffrax

    return _diffrax(law, step, diffrax.Euler()), euler_reference(law, step)


def ito_milstein(law: Law, step: float) -> Made:
    """diffrax.ItoMilstein."""
    import diffrax

    return _diffrax(law, step, diffrax.ItoMilstein()), np.array([0.0, student_variance(step, True)])


def shark(law: Law, step: float) -> Made:
    """diffrax.ShARK."""
    import diffrax

    made = _diffrax(law, step, diffrax.ShARK())
    if law.name != "double_well":
        return made, linear_reference(exact.shark, law, step)

    def move(x: np.ndarray, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        b, start = np.sqrt(step) * z, x + np.sqrt(step / 12) * y
        slope = well_force(start)
        return x + step * (0.4 * slope + 0.6 * well_force(start + 5 / 6 * (step * slope + b))) + b

    return made, well_reference(move, law, 2)


def sra1(law: Law, step: float) -> Made:
    """diffrax.SRA1."""
    import diffrax

    return _diffrax(law, step, diffrax.SRA1()), linear_reference(exact.sra1, law, step)


def quicsort(law: Law, step: float) -> Made:
    """diffrax.QUICSORT on underdamped Langevin."""
    import diffrax

    return _underdamped(law, step, diffrax.QUICSORT(0.1)), None


def align(law: Law, step: float) -> Made:
    """diffrax.ALIGN on underdamped Langevin."""
    import diffrax

    return _underdamped(law, step, diffrax.ALIGN(0.1)), None


def _diffrax(law: Law, step: float, solver: Any) -> Callable[..., Any]:
    import diffrax
    import lineax

    if law.name == "student":
        force = lambda x: -x
        field = lambda x: jnp.sqrt(0.3 + 0.15 * x**2)
    else:
        force = lambda x: -jax.grad(_loss(law))(x)
        root = np.sqrt(2 * law.temperature) * np.eye(law.dim) if law.factor is None else law.factor
        field = lambda x: jnp.asarray(root, x.dtype)
    area = diffrax.SpaceTimeLevyArea if isinstance(solver, diffrax.ShARK | diffrax.SRA1) else diffrax.BrownianIncrement

    def one(x: Any, key: Any, louder: Any, burn_in: int, steps: int) -> Any:
        path: Any = diffrax.UnsafeBrownianPath(jax.ShapeDtypeStruct((law.dim,), x.dtype), key, levy_area=area)

        def noise(t: Any, y: Any, args: Any) -> Any:
            values = louder * field(y)
            return (
                lineax.DiagonalLinearOperator(values) if law.name == "student" else lineax.MatrixLinearOperator(values)
            )

        terms = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, args: force(y)), diffrax.ControlTerm(noise, path))
        return _solved(law, terms, solver, x, step, burn_in, steps, itself)

    return one


def _underdamped(law: Law, step: float, solver: Any) -> Callable[..., Any]:
    import diffrax

    def one(x: Any, key: Any, louder: Any, burn_in: int, steps: int) -> Any:
        half = jax.ShapeDtypeStruct((2,), x.dtype)
        path: Any = diffrax.UnsafeBrownianPath(half, key, levy_area=diffrax.SpaceTimeTimeLevyArea)
        gamma, u = jnp.full(2, FRICTION, x.dtype), jnp.full(2, law.temperature, x.dtype)
        # dv = −γv dt − u∇f dt + √(2γu) dW has the law exp(−f − v²/2u): with u = T and f = L/T, Gibbs. A louder noise needs a u that
        # is louder², and an f that keeps u∇f
        u = u * louder**2
        drift = diffrax.UnderdampedLangevinDriftTerm(gamma, u, lambda q, *_: jax.grad(_loss(law))(q) / u)
        noise = diffrax.UnderdampedLangevinDiffusionTerm(gamma, u, path)
        terms = diffrax.MultiTerm(drift, noise)
        return _solved(law, terms, solver, (x[:2], x[2:]), step, burn_in, steps, jnp.concatenate)

    return one


def _solved(
    law: Law, terms: Any, solver: Any, start: Any, step: float, burn_in: int, steps: int, position: Callable[[Any], Any]
) -> Any:
    import diffrax

    total = burn_in + steps
    times = np.arange(total + 1) * step
    solution = diffrax.diffeqsolve(
        terms, solver, 0.0, times[-1], None, start, stepsize_controller=diffrax.StepTo(jnp.asarray(times, jnp.float32)),
        saveat=diffrax.SaveAt(steps=True, fn=lambda t, y, args: law.observe(position(y))), adjoint=diffrax.DirectAdjoint(),
        max_steps=total, throw=False,
    )  # fmt: skip
    assert solution.ys is not None
    return solution.ys[burn_in:].mean(axis=0)


def optax_sgd(law: Law, step: float) -> Made:
    """optax.sgd on one random example a step."""
    import optax

    return _optax(law, optax.sgd(step)), law.target


def optax_momentum(law: Law, step: float) -> Made:
    """optax.sgd with momentum on one random example a step."""
    import optax

    return _optax(law, optax.sgd(step, momentum=MOMENTUM)), law.target


def optax_adds_noise(law: Law, step: float) -> Made:
    """optax.add_noise before optax.sgd, of variance 2T/η: the Langevin step."""
    import optax

    def one(x: Any, key: Any, louder: Any, burn_in: int, steps: int) -> Any:
        made = optax.chain(optax.add_noise(2 * law.temperature / step * louder**2, 0.0, key), optax.sgd(step))

        def move(_: Any, state: tuple[Any, Any], by: Any) -> tuple[Any, Any]:
            updates, inner = made.update(jax.grad(_loss(law))(state[0]), state[1])
            return optax.apply_updates(state[0], updates), inner

        return chain(law, lambda y: (y, made.init(y)), move, lambda state: state[0])(x, key, louder, burn_in, steps)

    return one, euler_reference(law, step)


def _optax(law: Law, made: Any) -> Callable[..., Any]:
    import optax

    assert law.data is not None
    x, y = jnp.asarray(law.data.x, jnp.float32), jnp.asarray(law.data.y, jnp.float32)

    def gradient(p: Any, xs: Any, ys: Any) -> Any:
        return jax.grad(lambda p: 0.5 * jnp.mean((xs @ p - ys) ** 2))(p)

    def move(key: Any, state: Any, louder: Any) -> Any:
        p, inner = state
        i = jax.random.randint(key, (1,), 0, len(x))
        mean = gradient(p, x, y)
        updates, inner = made.update(mean + louder * (gradient(p, x[i], y[i]) - mean), inner, p)
        return optax.apply_updates(p, updates), inner

    return chain(law, lambda p: (p, made.init(p)), move, lambda state: state[0])


def _loss(law: Law) -> Callable[[Any], Any]:
    assert law.loss is not None
    return law.loss


PEERS = {
    "blackjax.sgld": Sampler(
        sgld, package="blackjax", steps={"gaussian": 0.2, "double_well": 0.1}, quick=("gaussian",)
    ),
    "blackjax.sghmc": Sampler(sghmc, package="blackjax", steps={"gaussian": 0.05}),
    "blackjax.sghmc+temperature": Sampler(sghmc_temperature, package="blackjax", steps={"gaussian": 0.05}),
    "blackjax.mala": Sampler(
        mala,
        package="blackjax",
        steps={"gaussian": 0.5, "double_well": 0.3, "bent_valley": 0.3},
        quick=("double_well",),
    ),
    "diffrax.Euler": Sampler(euler, package="diffrax", steps={"current": 0.2, "double_well": 0.1}, quick=("current",)),
    "diffrax.ItoMilstein": Sampler(ito_milstein, package="diffrax", steps={"student": 0.1}),
    "diffrax.ShARK": Sampler(shark, package="diffrax", steps={"current": 0.3, "double_well": 0.1, "bent_valley": 0.05}),
    "diffrax.SRA1": Sampler(sra1, package="diffrax", steps={"current": 0.3}),
    "diffrax.QUICSORT": Sampler(quicsort, package="diffrax", steps={"harmonic": 0.2}),
    "diffrax.ALIGN": Sampler(align, package="diffrax", steps={"harmonic": 0.1}),
    "optax.sgd": Sampler(optax_sgd, package="optax", steps={"least_squares": 0.1}, quick=("least_squares",)),
    "optax.sgd+momentum": Sampler(optax_momentum, package="optax", steps={"heavy_ball": 0.025}),
    "optax.add_noise": Sampler(optax_adds_noise, package="optax", steps={"gaussian": 0.2, "double_well": 0.1}),
}
