"""The law of one step of a chain from a given position: finitely many outcomes with their odds, or a Gaussian.

| chain | law of a step |
|---|---|
| SGD on examples | every minibatch with its odds: n for B = 1, C(n + B − 1, B) with replacement, C(n, B) without |
| two_point and three_point surrogates, weak schemes | 2ᵐ and 3ᵐ outcomes of m variables |
| gaussian surrogate, Euler–Maruyama | N(x − η∇L, η²Σ/B) and N(x + f dt, dt scale²Σ) |
| another integrator | Gauss–Hermite nodes in each normal: all moments of the draws up to order 31 |
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...dynamics.gradients import Surrogate, Svag, noise_of
from ...stepping.chains import DiffusionChain, OptimizerChain
from ...stepping.integrators import EulerMaruyama
from ...types import Drawn
from .. import float64
from ..linearise import autonomous

MOST_OUTCOMES = 1 << 14
_HERMITE = 16


@dataclass(frozen=True)
class StepLaw:
    """`odds` ["m"] of the outcomes `drawn` (leaves ["m …"]); for a Gaussian law `gaussian` is true, and the outcomes are its
    quadrature. `wide` is the chain in float64."""

    wide: Any
    drawn: Drawn
    odds: np.ndarray
    gaussian: bool
    method: str

    @property
    def dim(self) -> int:
        return self.wide.dim

    @property
    def dt(self) -> float:
        return float(np.asarray(self.wide.dt))

    def images(self, points: np.ndarray, some: slice = slice(None)) -> np.ndarray:
        """Where each outcome takes each point: ["k m d"]."""
        drawn = Drawn(*(a[some] for a in self.drawn))
        tree = (self.wide, float64.widen(drawn))
        return float64.evaluate_many(_images, tree, points, cost=8 * len(self.odds[some]) * self.dim)

    def log_jacobians(self, points: np.ndarray) -> np.ndarray:
        """log |det| of the Jacobian of a step, averaged over its outcomes, at each point ["k"]."""
        total = np.zeros(len(points))
        for lo in range(0, len(self.odds), 4096):
            some = slice(lo, lo + 4096)
            tree = (self.wide, float64.widen((Drawn(*(a[some] for a in self.drawn)), self.odds[some])))
            total += float64.evaluate_many(_log_jacobian, tree, points, cost=8 * len(self.odds[some]) * self.dim**2)
        return total

    def moments(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean ["k d"] and covariance ["k d d"] of a Gaussian step from each point."""
        cost = self.dim**2 * max(1, min(getattr(self.wide.problem, "examples", 0) or 1, 4096))
        both = float64.evaluate_many(_moments, self.wide, points, cost=cost)
        return both[:, 0], both[:, 1:]


def step_law(chain: Any) -> StepLaw:
    """The law of one step. `ValueError` for a chain whose position alone is not Markov, or with too many outcomes."""
    if not isinstance(chain, OptimizerChain | DiffusionChain):
        raise TypeError(f"a chain from sgd or integrate is needed, got {type(chain).__name__}")
    if isinstance(chain, OptimizerChain):
        if chain.optimizer is not None:
            raise ValueError("a transfer operator needs a chain whose state is its position: leave optimizer out")
        if chain.draws.scheme not in ("independent", "distinct"):
            raise ValueError(
                f'under sampling="{chain.gradient.sampling}" the batches of an epoch depend on each other: '
                'sampling="without_replacement" is the nearest chain whose position is Markov'
            )
        if chain.gradient.sampling == "alpha_stable":
            raise ValueError('sampling="alpha_stable" has no finite covariance to put on a grid: simulate a Histogram')
        gaussian = isinstance(chain.gradient, Surrogate) and chain.gradient.sampling == "gaussian"
    else:
        if chain.sde.dim > chain.dim or chain._remembers:
            raise ValueError(
                "a transfer operator needs a chain whose state is its position: no momenta, no remembered noise"
            )
        autonomous(float64.widen(chain.sde))
        gaussian = (
            isinstance(chain.integrator, EulerMaruyama) and chain.draws.normals > 0 and chain.sde.noise.kind != "none"
        )
    odds, drawn = _outcomes(chain, gaussian)
    wide = float64.widen(chain)
    method = f"{len(odds)} outcomes a step" + (", Gauss–Hermite" if chain.draws.normals else "")
    return StepLaw(wide, drawn, odds, gaussian, method)


def _outcomes(chain: Any, gaussian: bool) -> tuple[np.ndarray, Drawn]:
    d = chain.draws
    halves = 2 if isinstance(getattr(chain, "gradient", None), Svag) else 1
    order = _HERMITE
    while order > 4 and order**d.normals > 4096:
        order -= 2
    batch = d.indices // halves
    batches = math.comb(d.population + (batch - 1 if d.scheme == "independent" else 0), batch) ** halves if batch else 1
    total = batches * 2**d.signs * 3**d.three_point * order**d.normals
    if total > MOST_OUTCOMES and gaussian:  # the exact kernel needs no nodes
        order, total = 1, 1
    if total > MOST_OUTCOMES:
        raise ValueError(
            f"a step has {total} outcomes, and at most {MOST_OUTCOMES} can be summed over: use a smaller batch, fewer examples, "
            'or sampling="gaussian", the surrogate of the same covariance'
        )
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    parts: list[tuple[np.ndarray, np.ndarray]] = [
        _product(nodes, weights / weights.sum(), d.normals),
        _product(np.array([-1.0, 1.0]), np.full(2, 0.5), d.signs),
        _product(np.array([-np.sqrt(3), 0.0, np.sqrt(3)]), np.array([1, 4, 1]) / 6, d.three_point),
        _batches(d.population, batch, halves, d.scheme),
    ]
    sizes = [len(w) for _, w in parts]
    index = np.stack(np.meshgrid(*(np.arange(s) for s in sizes), indexing="ij"), axis=-1).reshape(-1, 4)
    normals, signs, three, indices = (v[i] for (v, _), i in zip(parts, index.T, strict=True))
    odds = np.prod([w[i] for (_, w), i in zip(parts, index.T, strict=True)], axis=0)
    return odds, Drawn(normals=normals, signs=signs, three_point=three, indices=indices.astype(np.int32))


def _product(values: np.ndarray, odds: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All combinations of `count` independent variables, with their odds."""
    index = np.array(list(itertools.product(range(len(values)), repeat=count)), int).reshape(
        len(values) ** count, count
    )
    return values[index], np.prod(odds[index], axis=1)


def _batches(population: int, size: int, halves: int, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """All batches up to the order of their examples, with their odds; for SVAG all pairs of them."""
    if not size:
        return np.zeros((1, 0), int), np.ones(1)
    if scheme == "independent":
        rows = np.array(list(itertools.combinations_with_replacement(range(population), size)), int)
        repeats = [
            math.factorial(size) / math.prod(math.factorial(c) for c in np.unique(r, return_counts=True)[1])
            for r in rows
        ]
        odds = np.array(repeats) / float(population) ** size
    else:
        rows = np.array(list(itertools.combinations(range(population), size)), int)
        odds = np.full(len(rows), 1 / len(rows))
    for _ in range(halves - 1):
        rows = np.concatenate([np.repeat(rows, len(odds), axis=0), np.tile(rows, (len(odds), 1))], axis=1)
        odds = np.outer(odds, odds).ravel()
    return rows, odds


def _images(tree: Any, x: Any) -> Any:
    chain, drawn = tree
    return jax.vmap(lambda some: chain.step(x, some, 0))(drawn)


def _log_jacobian(tree: Any, x: Any) -> Any:
    chain, (drawn, odds) = tree
    return odds @ jax.vmap(lambda some: jnp.linalg.slogdet(jax.jacfwd(lambda y: chain.step(y, some, 0))(x))[1])(drawn)


def _moments(chain: Any, x: Any) -> Any:
    if isinstance(chain, OptimizerChain):
        eta = chain.learning_rate
        mean = x - eta * chain.gradient.problem.grad(x)
        covariance = eta**2 * noise_of(chain.gradient).covariance(x)
    else:
        sde = chain.sde
        mean = x + chain.dt * sde.drift(0.0, x)
        covariance = chain.dt * sde.scale**2 * sde.noise.covariance(x)
    return jnp.concatenate([mean[None], covariance])


def typical_step(law: StepLaw, points: np.ndarray, over: Any = np.max) -> np.ndarray:
    """The size of a step's noise, the largest or least of the points, along each axis ["d"]."""
    if law.gaussian:
        return np.sqrt(over(np.einsum("nii->ni", law.moments(points)[1]), axis=0))
    images = law.images(points)
    mean = np.einsum("m,kmd->kd", law.odds, images)
    return np.sqrt(over(np.einsum("m,kmd->kd", law.odds, (images - mean[:, None]) ** 2), axis=0))
