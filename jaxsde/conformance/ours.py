"""jaxsde's own chains, asked for the laws. A sampler is a function law, step → (chain, the exact mean of what is observed under its
scheme, or None where the step is so small that the scheme's own bias is far below what is resolved)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..dynamics.equations import langevin, sde, sgd_sde
from ..dynamics.gradients import Surrogate
from ..dynamics.kinetic import underdamped
from ..dynamics.noise import scaled
from ..engine.simulate import simulate
from ..problems.problem import finite_sum, potential
from ..random import key as make_key
from ..statistics import Mean, of
from ..stepping import integrators
from ..stepping.chains import DiffusionChain, integrate, sgd
from ..stepping.optimizers import momentum as momentum_of
from ..struct import replace, static, struct
from ..types import Drawn, Draws
from . import exact
from .laws import CHAINS, ETA, FRICTION, HESSIAN, MOMENTUM, NOISE, Law, double_well_observed, squared_error

GROUPS = 128


class Seen(NamedTuple):
    """The means ["k"] of what is observed, their standard errors over independent parts, and how many parts."""

    mean: np.ndarray
    stderr: np.ndarray
    parts: int


class Sampler(NamedTuple):
    """A sampler of the catalogue: the function that makes it, its package, the laws that it is asked for, with its step, and
    those of the short table in `quick`."""

    function: Callable[..., Any]
    package: str
    steps: dict[str, float]
    quick: tuple[str, ...] = ()


def observed(made: tuple[Any, np.ndarray | None], law: Law, step: float, seed: int, louder: float) -> Seen:
    """What the chain averages to, with its noise multiplied by `louder`."""
    chain = made[0] if louder == 1 else with_noise(made[0], louder)
    start = law.start(np.random.default_rng(seed), CHAINS)
    run = simulate(
        chain, start.astype(np.float32), key=make_key(seed), chains=CHAINS, burn_in=round(law.burn_in / step),
        steps=round(law.time / step), every=1, groups=GROUPS, statistics={"seen": of(law.observe, Mean())},
    )  # fmt: skip
    if run.diverged.any():
        return Seen(np.full(len(law.labels), np.nan), np.zeros(len(law.labels)), GROUPS)
    found = run["seen"]
    return Seen(np.asarray(found.value), np.asarray(found.stderr), found.groups)


@struct
class Louder:
    """∇L + by (ĝ − ∇L): a gradient whose noise is planted to be wrong."""

    gradient: Any
    by: Any
    draws: Draws = static()

    @property
    def problem(self) -> Any:
        return self.gradient.problem

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        mean = self.problem.grad(phi)
        return mean + jnp.asarray(self.by, phi.dtype) * (self.gradient(phi, drawn, k) - mean)


def with_noise(chain: Any, by: float) -> Any:
    """The chain with its noise multiplied."""
    if isinstance(chain, DiffusionChain):
        if isinstance(chain.integrator, integrators.ExactLinear):
            return replace(chain, integrator=replace(chain.integrator, factor=chain.integrator.factor * by))
        return replace(chain, sde=replace(chain.sde, scale=chain.sde.scale * by))
    gradient = chain.gradient
    if isinstance(gradient, Surrogate):
        return replace(chain, gradient=replace(gradient, noise=scaled(gradient.noise, by**2)))
    return replace(chain, gradient=Louder(gradient, jnp.asarray(by, float), gradient.draws))


def _equation(law: Law) -> Any:
    """The SDE of a law."""
    if law.name == "student":
        return sde(_back, _student_noise, dim=1)
    if law.name == "least_squares_sde":
        return sgd_sde(_examples(law), learning_rate=ETA)
    assert law.loss is not None
    if law.name == "current":
        problem = potential(law.loss, jnp.zeros(law.dim), noise_covariance=NOISE)
        return sgd_sde(problem, learning_rate=ETA)
    return langevin(potential(law.loss, jnp.zeros(law.dim)), temperature=law.temperature)


def _back(t: Any, x: Any) -> Any:
    return -x


def _student_noise(x: Any) -> Any:
    return jnp.sqrt(0.3 + 0.15 * x**2)


def _examples(law: Law) -> Any:
    assert law.data is not None
    return finite_sum(squared_error, (law.data.x, law.data.y), jnp.asarray(law.data.minimum, float))


def student_variance(h: float, milstein: bool) -> float:
    """V = ((1 − h)² + ½(0.15h)²[Milstein]) V + h(0.3 + 0.15V)."""
    kept = (1 - h) ** 2 + (0.5 * (0.15 * h) ** 2 if milstein else 0) + 0.15 * h
    return 0.3 * h / (1 - kept)


def euler_reference(law: Law, h: float, by: float = 1.0) -> np.ndarray | None:
    """The exact law of x' = x + h f + √h b z for each law whose scheme closes; None for the others."""
    if law.name == "student":
        return np.array([0.0, student_variance(h, False)])
    if law.name == "least_squares_sde":
        assert law.data is not None
        return law.second(law.data.sde(ETA, 1.0, h, by))
    if law.drift is not None and law.factor is not None:
        return law.second(exact.euler(law.drift, by * law.factor, h))
    if law.name == "double_well":
        return well_reference(lambda x, z: x + h * well_force(x) + by * np.sqrt(h) * z, law, 1)
    return None


def linear_reference(scheme: Callable[..., np.ndarray], law: Law, h: float) -> np.ndarray | None:
    """The exact law of a scheme on a linear equation; None for another."""
    if law.drift is None or law.factor is None:
        return None
    return law.second(scheme(law.drift, law.factor, h))


def well_force(x: np.ndarray) -> np.ndarray:
    """−L′ of the double well."""
    return x - x**3


def well_reference(step: Callable[..., np.ndarray], law: Law, normals: int) -> np.ndarray:
    """The exact law of a scheme in the double well; its step takes x and z in units in which 2T = 1."""
    assert 2 * law.temperature == 1
    x, w = exact.scheme_law(step, normals, 4.0)
    return w @ double_well_observed(x[:, None])


def euler_maruyama(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """Euler–Maruyama."""
    return integrate(_equation(law), integrators.EulerMaruyama(), dt=step), euler_reference(law, step)


def heun(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """Heun."""
    made = integrate(_equation(law), integrators.Heun(), dt=step)
    if law.name != "double_well":
        return made, linear_reference(exact.heun, law, step)

    def move(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        b = np.sqrt(step) * z
        return x + step / 2 * (well_force(x) + well_force(x + step * well_force(x) + b)) + b

    return made, well_reference(move, law, 1)


def milstein(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """Milstein."""
    return integrate(_equation(law), integrators.Milstein(), dt=step), np.array([0.0, student_variance(step, True)])


def platen(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """Platen's weak scheme of order 2."""
    return integrate(_equation(law), integrators.Platen(), dt=step), None


def sra1(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """SRA1."""
    return integrate(_equation(law), integrators.SRA1(), dt=step), linear_reference(exact.sra1, law, step)


def exact_linear(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """The exact step of a linear SDE."""
    return integrate(_equation(law), integrators.ExactLinear(), dt=step), law.target


def leimkuhler_matthews(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """Leimkuhler–Matthews."""
    made = integrate(_equation(law), integrators.LeimkuhlerMatthews(), dt=step)
    return made, linear_reference(exact.leimkuhler_matthews, law, step)


def _kinetic(law: Law, step: float, integrator: Any, letters: str) -> tuple[Any, np.ndarray | None]:
    assert law.loss is not None
    equation = underdamped(potential(law.loss, jnp.zeros(2)), temperature=law.temperature, friction=FRICTION)
    chain = integrate(equation.flatten(), integrator, dt=step)
    return chain, law.second(exact.splitting(letters, HESSIAN, FRICTION, law.temperature, step))


def baoab(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """BAOAB."""
    return _kinetic(law, step, integrators.BAOAB(), "BAOAB")


def obabo(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """OBABO."""
    return _kinetic(law, step, integrators.OBABO(), "OBABO")


def plain_sgd(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """Discrete SGD: on data, or with Gaussian noise of the law's covariance."""
    if law.data is not None:
        batch, sampling = (4, "without_replacement") if law.name == "least_squares_batch" else (1, "with_replacement")
        return sgd(_examples(law), learning_rate=step, batch_size=batch, sampling=sampling), law.target
    assert law.loss is not None
    # η² C is what a step of the SDE adds in time η: C = B Bᵀ/η
    covariance = 2 * law.temperature / step if law.factor is None else law.factor @ law.factor.T / step
    problem = potential(law.loss, jnp.zeros(law.dim), noise_covariance=covariance)
    return sgd(problem, learning_rate=step), euler_reference(law, step)


def heavy_ball(law: Law, step: float) -> tuple[Any, np.ndarray | None]:
    """Discrete SGD with momentum."""
    return sgd(_examples(law), learning_rate=step, optimizer=momentum_of(MOMENTUM)), law.target


OURS = {
    "sgd": Sampler(
        plain_sgd,
        package="jaxsde",
        quick=("least_squares", "double_well"),
        steps={"least_squares": 0.1, "least_squares_batch": 0.1, "current": 0.2, "double_well": 0.1},
    ),
    "momentum": Sampler(heavy_ball, package="jaxsde", steps={"heavy_ball": 0.025}, quick=("heavy_ball",)),
    "euler_maruyama": Sampler(
        euler_maruyama,
        package="jaxsde",
        quick=("current", "student"),
        steps={"gaussian": 0.2, "current": 0.2, "double_well": 0.1, "student": 0.1, "least_squares_sde": 0.1},
    ),
    "heun": Sampler(heun, package="jaxsde", steps={"current": 0.3, "double_well": 0.05}),
    "milstein": Sampler(milstein, package="jaxsde", steps={"student": 0.1}),
    "platen": Sampler(platen, package="jaxsde", steps={"student": 0.05}),
    "sra1": Sampler(sra1, package="jaxsde", steps={"current": 0.3}),
    "exact_linear": Sampler(exact_linear, package="jaxsde", steps={"current": 0.5}, quick=("current",)),
    "leimkuhler_matthews": Sampler(
        leimkuhler_matthews, package="jaxsde", steps={"gaussian": 0.3, "bent_valley": 0.05}, quick=("gaussian",)
    ),
    "baoab": Sampler(baoab, package="jaxsde", steps={"harmonic": 0.4}, quick=("harmonic",)),
    "obabo": Sampler(obabo, package="jaxsde", steps={"harmonic": 0.4}),
}
