"""Stationary laws with exact references: what a sampler is asked for.

Each law says what is averaged (`observe`), what should come out (`target`), and how long is long enough. Second moments only
where a fourth exists: an average must have an error bar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from . import exact

CHAINS = 2048


@dataclass(frozen=True)
class Law:
    """A stationary law. `target` ["k"] is the exact mean of `observe` (["d"] → ["k"], in jax); `start(rng, n)` draws positions
    from it; `time` is averaged over, after `burn_in`, on the clock of the process. What follows is what defines the process,
    where it has it: dX = −∇L dt + √(2T) dW, or dX = A X dt + B dW, or data."""

    name: str
    dim: int
    labels: tuple[str, ...]
    observe: Callable[[Any], Any]
    target: np.ndarray
    start: Callable[[np.random.Generator, int], np.ndarray]
    time: float
    burn_in: float
    loss: Callable[[Any], Any] | None = None
    temperature: float = 1.0
    drift: np.ndarray | None = None
    factor: np.ndarray | None = None
    data: exact.LeastSquares | None = None

    def second(self, s: np.ndarray) -> np.ndarray:
        """What `observe` averages to under zero mean and covariance S, for the laws that observe first and second moments."""
        return np.concatenate([np.zeros(self.dim), s[np.triu_indices(self.dim)]])


class Entry(NamedTuple):
    """A law of the catalogue: a function that makes it."""

    function: Callable[[], Law]


HESSIAN = np.array([[1.0, 0.3], [0.3, 2.0]])
NOISE = np.array([[2.0, -0.5], [-0.5, 0.6]])
ETA, FRICTION, MOMENTUM = 0.1, 1.5, 0.7


def quadratic(x: Any) -> Any:
    return 0.5 * x @ jnp.asarray(HESSIAN, x.dtype) @ x


def well(x: Any) -> Any:
    return jnp.sum((x**2 - 1) ** 2) / 4


def bent(x: Any) -> Any:
    return x[0] ** 2 / 2 + (x[1] - x[0] ** 2 / 2) ** 2


def squared_error(p: Any, e: Any) -> Any:
    return 0.5 * (e[0] @ p - e[1]) ** 2


def moments(dim: int, centre: Any = 0.0) -> Callable[[Any], Any]:
    """[xᵢ …, xᵢxⱼ …] about a centre."""
    i, j = np.triu_indices(dim)

    def observe(x: Any) -> Any:
        e = x - jnp.asarray(centre, x.dtype)
        return jnp.concatenate([e, e[i] * e[j]])

    return observe


def names(dim: int) -> tuple[str, ...]:
    return (*(f"x{i}" for i in range(dim)), *(f"x{i}x{j}" for i in range(dim) for j in range(i, dim)))


def gaussian_start(covariance: np.ndarray, centre: Any = 0.0) -> Callable[[np.random.Generator, int], np.ndarray]:
    root = np.linalg.cholesky(covariance)
    return lambda rng, n: centre + rng.normal(size=(n, len(root))) @ root.T


def grid_start(points: np.ndarray, weights: np.ndarray) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, n: points[rng.choice(len(points), size=n, p=weights)]


@cache
def gaussian() -> Law:
    """The Gibbs law of an anisotropic quadratic loss in the plane, T = 0.5."""
    temperature = 0.5
    target = temperature * np.linalg.inv(HESSIAN)
    a, b = -HESSIAN, np.sqrt(2 * temperature) * np.eye(2)
    law = Law(
        "gaussian",
        2,
        names(2),
        moments(2),
        np.zeros(5),
        gaussian_start(target),
        24.0,
        8.0,
        quadratic,
        temperature,
        a,
        b,
    )
    return _with(law, law.second(target))


@cache
def current() -> Law:
    """dX = −HX dt + √η C^½ dW with C that does not commute with H: Gaussian, not Gibbs, and out of equilibrium."""
    a, b = -HESSIAN, np.sqrt(ETA) * np.linalg.cholesky(NOISE)
    s = exact.expm_law(a, b)
    law = Law("current", 2, names(2), moments(2), np.zeros(5), gaussian_start(s), 24.0, 8.0, quadratic, 1.0, a, b)
    return _with(law, law.second(s))


@cache
def double_well() -> Law:
    """The Gibbs law of (x² − 1)²/4 on the line, T = 0.5: two modes, exchanged often."""
    temperature = 0.5
    x, w = exact.gibbs_grid(lambda p: (p[:, 0] ** 2 - 1) ** 2 / 4, temperature, [np.linspace(-6, 6, 4001)])
    target = w @ double_well_observed(x)
    return Law(
        "double_well", 1, ("x", "x²", "L"), _observe_well, target, grid_start(x, w), 60.0, 10.0, well, temperature
    )


def _observe_well(x: Any) -> Any:
    return jnp.stack([x[0], x[0] ** 2, well(x)])


def double_well_observed(x: np.ndarray) -> np.ndarray:
    """x, x² and L at points ["n 1"], in NumPy."""
    x = x[:, 0]
    return np.stack([x, x**2, (x**2 - 1) ** 2 / 4], axis=1)


@cache
def student() -> Law:
    """dx = −x dt + √(0.3 + 0.15 x²) dW: Student's t with 14.3 degrees of freedom; noise that depends on the position."""
    variance = 0.3 / (2 - 0.15)
    start = gaussian_start(np.array([[variance]]))
    return Law("student", 1, ("x", "x²"), moments(1), np.array([0.0, variance]), start, 40.0, 8.0)


@cache
def bent_valley() -> Law:
    """The Gibbs law of x²/2 + (y − x²/2)² in the plane, T = 0.5: a curved valley, not Gaussian."""
    temperature, x = 0.5, np.linspace(-6, 6, 601)
    points, w = exact.gibbs_grid(
        lambda p: p[:, 0] ** 2 / 2 + (p[:, 1] - p[:, 0] ** 2 / 2) ** 2, temperature, [x, np.linspace(-5, 16, 701)]
    )
    u, v = points.T
    seen = np.stack([u, v, u**2, u * v, v**2], axis=1)
    keep = w > 1e-14
    start = grid_start(points[keep], w[keep] / w[keep].sum())
    return Law("bent_valley", 2, names(2), moments(2), w @ seen, start, 60.0, 8.0, bent, temperature)


@cache
def harmonic() -> Law:
    """Underdamped Langevin in an anisotropic harmonic well, T = 0.5, friction 1.5: positions and momenta."""
    temperature = 0.5
    s = np.zeros((4, 4))
    s[:2, :2], s[2:, 2:] = temperature * np.linalg.inv(HESSIAN), temperature * np.eye(2)
    labels = (*(f"q{i}" for i in range(2)), "p0", "p1", *(f"y{i}y{j}" for i in range(4) for j in range(i, 4)))
    law = Law("harmonic", 4, labels, moments(4), np.zeros(14), gaussian_start(s), 40.0, 8.0, quadratic, temperature)
    return _with(law, law.second(s))


def _table() -> exact.LeastSquares:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(24, 2)) @ np.array([[1.0, 0.0], [0.4, 0.7]])
    # in float32, as every sampler is given it
    y = x @ np.array([1.0, -1.0]) + rng.normal(size=24)
    return exact.LeastSquares(*(a.astype(np.float32).astype(np.float64) for a in (x, y)))


def _data_law(name: str, s: np.ndarray, data: exact.LeastSquares) -> Law:
    centre = data.minimum
    law = Law(
        name,
        2,
        names(2),
        moments(2, centre),
        np.zeros(5),
        gaussian_start(s, centre),
        60.0,
        15.0,
        drift=-data.hessian,
        data=data,
    )
    return _with(law, law.second(s))


@cache
def least_squares() -> Law:
    """Discrete SGD on 24 examples, one at a time with replacement: the exact law has each example's own Hessian in it."""
    data = _table()
    return _data_law("least_squares", data.sgd(ETA, data.factor(1, True)), data)


@cache
def least_squares_batch() -> Law:
    """Discrete SGD on the same examples, four distinct ones a step."""
    data = _table()
    return _data_law("least_squares_batch", data.sgd(ETA, data.factor(4, False)), data)


@cache
def least_squares_sde() -> Law:
    """SGD's SDE on the same examples, with its noise Σ(Φ) as it depends on the position."""
    data = _table()
    return _data_law("least_squares_sde", data.sde(ETA, data.factor(1, True)), data)


@cache
def heavy_ball() -> Law:
    """Discrete SGD with momentum 0.7 on the same examples, one at a time."""
    data = _table()
    return _data_law("heavy_ball", data.heavy_ball(ETA / 4, MOMENTUM, data.factor(1, True)), data)


def _with(law: Law, target: np.ndarray) -> Law:
    return Law(**{**vars(law), "target": target})


LAWS = {
    "gaussian": Entry(gaussian),
    "current": Entry(current),
    "double_well": Entry(double_well),
    "student": Entry(student),
    "bent_valley": Entry(bent_valley),
    "harmonic": Entry(harmonic),
    "least_squares": Entry(least_squares),
    "least_squares_batch": Entry(least_squares_batch),
    "least_squares_sde": Entry(least_squares_sde),
    "heavy_ball": Entry(heavy_ball),
}
