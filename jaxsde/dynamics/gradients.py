"""ĝ: the stochastic gradients that drive SGD. Each declares the draws that one evaluation consumes and is then a pure function.

| sampling             | ĝ                                                            | covariance of ĝ          |
|----------------------|--------------------------------------------------------------|--------------------------|
| with_replacement     | mean over B independent uniform examples                     | Σ/B                      |
| without_replacement  | mean over B distinct examples, fresh at every step           | Σ/B · (n−B)/(n−1)        |
| random_reshuffling   | the next B of a permutation, new every ⌊n/B⌋ steps           | the same, and correlated |
| full_batch           | ∇L                                                           | 0                        |
| gaussian             | ∇L + (Σ/B)^½ z, z standard normals                           | Σ/B                      |
| two_point            | the same with z = ±1                                         | Σ/B                      |
| three_point          | the same with z = ±√3 (odds 1/6 each) or 0                   | Σ/B                      |

Under random reshuffling with B no divisor of n, the n mod B examples left over sit an epoch out (others the next time).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..problems.problem import FiniteSum, Potential
from ..struct import static, struct
from ..types import Drawn, Draws
from . import noise as noises


@struct
class Minibatch:
    """ĝ = (1/B) Σ ∇ℓᵢ over B examples drawn by one of the three samplings of data."""

    problem: FiniteSum
    batch_size: int = static()
    sampling: str = static()
    draws: Draws = static()

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        return self.problem.minibatch_grad(phi, drawn.indices)


@struct
class FullBatch:
    """ĝ = ∇L."""

    problem: Any
    batch_size: int = static()
    sampling: str = static(default="full_batch")
    draws: Draws = static(default=Draws())

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        return self.problem.grad(phi)


@struct
class Surrogate:
    """ĝ = ∇L + (Σ/B)^½ z: noise of the same covariance but of a chosen law."""

    problem: Any
    noise: Any
    batch_size: int = static()
    sampling: str = static()
    draws: Draws = static()

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        z = {"gaussian": drawn.normals, "two_point": drawn.signs, "three_point": drawn.three_point}[self.sampling]
        return self.problem.grad(phi) + self.noise.product(phi, z)


_SCHEMES = {"with_replacement": "independent", "without_replacement": "distinct", "random_reshuffling": "epoch"}
_LAWS = {"gaussian": "normals", "two_point": "signs", "three_point": "three_point"}

SAMPLINGS = {
    "with_replacement": Minibatch,
    "without_replacement": Minibatch,
    "random_reshuffling": Minibatch,
    "full_batch": FullBatch,
    "gaussian": Surrogate,
    "two_point": Surrogate,
    "three_point": Surrogate,
}


def gradient(problem: FiniteSum | Potential, batch_size: int = 1, sampling: str | None = None) -> Any:
    """The stochastic gradient of a problem. `sampling` defaults to "with_replacement" for a finite sum and to "gaussian"
    for a potential, which has no examples to draw. `ValueError` for a pair that does not fit."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    batch_size = int(batch_size)
    finite = isinstance(problem, FiniteSum)
    if sampling is None:
        sampling = "with_replacement" if finite else "gaussian"
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}")
    if sampling == "full_batch":
        return FullBatch(problem, batch_size)
    if sampling in _LAWS:
        noise = noises.scaled(noises.of_problem(problem), 1.0 / batch_size)
        return Surrogate(problem, noise, batch_size, sampling, Draws(**{_LAWS[sampling]: noise.dim}))
    if not finite:
        raise ValueError(
            f'sampling="{sampling}" needs examples, and a potential has none: use "gaussian", "two_point", "three_point" '
            '(noise of its own covariance) or "full_batch"'
        )
    if sampling != "with_replacement" and batch_size > problem.examples:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {problem.examples} examples, which {sampling} draws without repeats: "
            'use a smaller batch or sampling="with_replacement"'
        )
    draws = Draws(indices=batch_size, population=problem.examples, scheme=_SCHEMES[sampling])  # pyright: ignore
    return Minibatch(problem, batch_size, sampling, draws)


def noise_of(grad: Any) -> Any:
    """The covariance of ĝ as a noise: Σ(Φ) of the problem, scaled for the batch size and the sampling."""
    if isinstance(grad, Surrogate):
        return grad.noise
    by = noises.batch_factor(grad.batch_size, grad.problem.examples, grad.sampling)
    return noises.scaled(noises.of_problem(grad.problem), by)


def sample_noises(grad: Any, phi: Any, drawn: Drawn) -> Array:
    """ĝ − ∇L at one position for many draws (leaves ["k ..."]): what the law of large numbers is shown on. ["k d"]."""
    mean = grad.problem.grad(phi)
    return jax.vmap(lambda d: grad(phi, d, jnp.zeros((), phi.dtype)) - mean)(drawn)
