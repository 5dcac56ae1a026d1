"""ĝ: the stochastic gradients that drive SGD. Each declares the draws that one evaluation consumes and is then a pure function.

| sampling             | ĝ                                                            | covariance of ĝ          |
|----------------------|--------------------------------------------------------------|--------------------------|
| with_replacement     | mean over B independent uniform examples                     | Σ/B                      |
| without_replacement  | mean over B distinct examples, fresh at every step           | Σ/B · (n−B)/(n−1)        |
| random_reshuffling   | the next B of a permutation, new every ⌊n/B⌋ steps           | the same, and correlated |
| shuffle_once         | the next B of one permutation, drawn once per chain          | the same, and periodic   |
| cyclic               | the next B in the order of the data                          | the same, averaged over orders of the data |
| full_batch           | ∇L                                                           | 0                        |
| gaussian             | ∇L + (Σ/B)^½ z, z standard normals                           | Σ/B                      |
| two_point            | the same with z = ±1                                         | Σ/B                      |
| three_point          | the same with z = ±√3 (odds 1/6 each) or 0                   | Σ/B                      |
| alpha_stable         | ∇L + (Σ/B)^½ ξ, ξ symmetric α-stable, independent entries    | infinite for α < 2       |

Under random reshuffling with B no divisor of n, the n mod B examples left over sit an epoch out (others the next time).
`shuffle_once` and `cyclic` read their order round and round, so that every example counts as often: a batch may straddle its end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..problems.problem import FiniteSum, Potential
from ..struct import static, struct
from ..types import Drawn, Draws
from . import noise as noises


@struct
class Minibatch:
    """ĝ = (1/B) Σ ∇ℓᵢ over B examples of the data, drawn as the sampling says."""

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
    batch_size: Any
    sampling: str = static(default="full_batch")
    draws: Draws = static(default=Draws())

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        return self.problem.grad(phi)


@struct
class Surrogate:
    """ĝ = ∇L + (Σ/B)^½ z: noise of the same covariance but of a chosen law."""

    problem: Any
    noise: Any
    batch_size: Any
    sampling: str = static()
    draws: Draws = static()

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        z = getattr(drawn, SAMPLINGS[self.sampling].law)
        return self.problem.grad(phi) + self.noise.product(phi, z)


@struct
class StableSurrogate:
    """ĝ = ∇L + (Σ/B)^½ ξ with independent, symmetric α-stable entries: heavy tails, standard normal at α = 2.

    E e^{ikξ} = e^{−|k/√2|^α}; ξ by Chambers, Mallows and Stuck (1976), J. Am. Stat. Assoc. 71, 340: with V uniform on
    (−π/2, π/2) and W exponential, ξ√2 = sin(αV)/(cos V)^{1/α} · (cos((1 − α)V)/W)^{(1−α)/α}. Two normals make both: the
    angle of their sizes and half their squared length. Where Σ is not diagonal the law depends on the root taken, not on Σ alone.
    """

    problem: Any
    noise: Any
    alpha: Any
    batch_size: Any
    sampling: str = static()
    draws: Draws = static()

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        a, b = jnp.split(drawn.normals, 2)
        alpha = jnp.asarray(self.alpha, phi.dtype)
        # |V| is the angle of (|a|, |b|), and the sign that of b: then −z gives −ξ. δ is |V|, or π/2 − |V| where that is smaller:
        # the tail is where |V| is near π/2, and δ has all its digits there
        size_a, size_b = jnp.abs(a), jnp.abs(b)
        delta = jnp.arctan2(jnp.minimum(size_a, size_b), jnp.maximum(size_a, size_b))
        delta, w, far = jnp.maximum(delta, 2.0**-33), (a * a + b * b) / 2, size_b > size_a  # a may be 0
        rest = (2 - alpha) * (np.pi / 2)
        sine = jnp.sin(jnp.where(far, rest + alpha * delta, alpha * delta))  # sin α|V|
        other = jnp.sin(jnp.where(far, rest + (alpha - 1) * delta, np.pi / 2 + (1 - alpha) * delta))  # cos (1 − α)V
        cosine = jnp.where(far, jnp.sin(delta), jnp.cos(delta))
        size = sine / cosine ** (1 / alpha) * (other / w) ** ((1 - alpha) / alpha) * np.sqrt(0.5)
        xi = jnp.where(b < 0, -size, size)
        return self.problem.grad(phi) + self.noise.product(phi, xi)


@struct
class Svag:
    """ĝ = ½(1 + √(2l − 1)) ĝ₁ + ½(1 − √(2l − 1)) ĝ₂ from two independent gradients: the same mean, l times the covariance."""

    gradient: Any
    l: int = static()
    draws: Draws = static()

    @property
    def problem(self) -> Any:
        return self.gradient.problem

    @property
    def batch_size(self) -> Any:
        return self.gradient.batch_size

    @property
    def sampling(self) -> str:
        return self.gradient.sampling

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]:
        halves = [jnp.split(v, 2) if len(v) else (v, v) for v in drawn]
        first, second = (self.gradient(phi, Drawn(*(h[i] for h in halves)), k) for i in (0, 1))
        root = np.sqrt(2 * self.l - 1)
        return jnp.asarray((1 + root) / 2, phi.dtype) * first + jnp.asarray((1 - root) / 2, phi.dtype) * second


def svag_gradient(base: Any, l: int) -> Any:
    """The SVAG gradient of another; that gradient itself at l = 1."""
    if isinstance(l, bool) or not isinstance(l, int | np.integer) or l < 1:
        raise ValueError(f"l must be a whole number >= 1, got {l!r}")
    if l == 1:
        return base
    if base.draws.scheme != "independent":
        raise ValueError(
            f'SVAG needs two independent gradients a step, and sampling="{base.sampling}" draws no two: use "with_replacement" '
            'or a surrogate such as "gaussian"'
        )
    d = base.draws
    twice = d._replace(normals=2 * d.normals, signs=2 * d.signs, three_point=2 * d.three_point, indices=2 * d.indices)
    return Svag(base, int(l), twice)


class Sampling(NamedTuple):
    """A sampling: its gradient, what it does in words, the `scheme` of its examples (`types.Draws`) or the `law` of its noise."""

    function: Any
    says: str
    scheme: str = ""
    law: str = ""


SAMPLINGS = {
    "with_replacement": Sampling(Minibatch, says="B independent uniform examples", scheme="independent"),
    "without_replacement": Sampling(Minibatch, says="B distinct examples, fresh at every step", scheme="distinct"),
    "random_reshuffling": Sampling(Minibatch, says="the next B of a permutation, new every epoch", scheme="epoch"),
    "shuffle_once": Sampling(Minibatch, says="the next B of one permutation, drawn once per chain", scheme="once"),
    "cyclic": Sampling(Minibatch, says="the next B in the order of the data", scheme="cyclic"),
    "full_batch": Sampling(FullBatch, says="all examples, no noise"),
    "gaussian": Sampling(Surrogate, says="z standard normals", law="normals"),
    "two_point": Sampling(Surrogate, says="z = ±1", law="signs"),
    "three_point": Sampling(Surrogate, says="z = ±√3 (odds 1/6 each) or 0", law="three_point"),
    "alpha_stable": Sampling(StableSurrogate, says="needs alpha, in (0, 2]: the tail index"),
}


def gradient(
    problem: FiniteSum | Potential, batch_size: int = 1, sampling: str | None = None, alpha: Any = None
) -> Any:
    """The stochastic gradient of a problem. `sampling` defaults to "with_replacement" for a finite sum and to "gaussian"
    for a potential, which has no examples to draw. `ValueError` for a pair that does not fit."""
    batch_size = noises.whole_batch(batch_size)
    finite = isinstance(problem, FiniteSum)
    if sampling is None:
        sampling = "with_replacement" if finite else "gaussian"
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}")
    if (alpha is not None) != (sampling == "alpha_stable"):
        raise ValueError('alpha, in (0, 2], belongs to sampling="alpha_stable": give both or neither')
    leaf = np.asarray(batch_size)  # where it sets no shape, nothing is traced again for another
    if sampling == "full_batch":
        return FullBatch(problem, leaf)
    if sampling == "alpha_stable":
        if not isinstance(alpha, Tracer) and (isinstance(alpha, bool) or not 0 < float(np.asarray(alpha)) <= 2):
            raise ValueError(f"alpha must be in (0, 2], got {alpha!r}: 2 is Gaussian, smaller has heavier tails")
        noise = noises.scaled(noises.of_problem(problem), 1.0 / batch_size)
        draws = Draws(normals=2 * noise.dim)
        return StableSurrogate(problem, noise, jnp.asarray(alpha, float), leaf, sampling, draws)
    if law := SAMPLINGS[sampling].law:
        noise = noises.scaled(noises.of_problem(problem), 1.0 / batch_size)
        return Surrogate(problem, noise, leaf, sampling, Draws(**{law: noise.dim}))
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
    if sampling in ("shuffle_once", "cyclic") and np.lcm(batch_size, problem.examples) >= 1 << 32:
        raise ValueError(
            f"{sampling} reads batches of {batch_size} from {problem.examples} examples round and round, and the round is longer "
            "than 2^32 examples: use a batch size that divides the number of examples"
        )
    draws = Draws(indices=batch_size, population=problem.examples, scheme=SAMPLINGS[sampling].scheme)  # pyright: ignore
    return Minibatch(problem, batch_size, sampling, draws)


def noise_factor(grad: Any) -> float:
    """The covariance of ĝ over that of one example's gradient. `ValueError` where it has none."""
    if isinstance(grad, StableSurrogate):
        raise ValueError(
            'sampling="alpha_stable" has no finite covariance for alpha < 2: ask for a Histogram, or for quantiles of Samples'
        )
    if isinstance(grad, Svag):
        return grad.l * noise_factor(grad.gradient)
    if isinstance(grad, Surrogate):
        return 1.0 / grad.batch_size
    if isinstance(grad, FullBatch):
        return 0.0
    return noises.batch_factor(grad.batch_size, grad.problem.examples, grad.sampling)


def noise_of(grad: Any) -> Any:
    """The covariance of ĝ as a noise: Σ(Φ) of the problem, scaled for the batch size and the sampling."""
    if isinstance(grad, Surrogate):
        return grad.noise
    return noises.scaled(noises.of_problem(grad.problem), noise_factor(grad))
