"""Statistics of functions of the position: `of(f, statistic)`, and the mean loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from ..struct import replace, static, struct
from ..types import Problem, Statistic
from .moments import Mean
from .sums import Count

# A function of all examples is evaluated for a few chains at a time when chains · examples is beyond this.
EVALUATIONS = 1 << 22


class Observed(NamedTuple):
    """The accumulator of the inner statistic; `vector` ["c 0"] if f gives a number, ["c 1"] if it gives a vector."""

    inner: Any
    vector: Any

    @property
    def counted(self) -> Count:
        return self.inner.counted


@struct
class Of:
    """`statistic` of f(position), where f maps ["d"] to a number or a vector ["k"]. Made by `of`."""

    function: Any
    statistic: Any
    examples: int = static()
    of_loss: bool = static(default=False)

    def init(self, x: Float[Array, "c d"]) -> Observed:
        number = jax.eval_shape(self.function, x[0]).ndim == 0
        return Observed(self.statistic.init(jnp.zeros_like(self._values(x))), jnp.zeros((len(x), 0 if number else 1)))

    def update(self, acc: Observed, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Observed:
        return Observed(self.statistic.update(acc.inner, t, self._values(x), alive), acc.vector)

    def merge(self, acc: Observed) -> Observed:
        return Observed(self.statistic.merge(acc.inner), np.asarray(acc.vector)[:1])

    def result(self, acc: Observed) -> Any:
        result = self.statistic.result(acc.inner)
        number = np.shape(acc.vector)[1] == 0
        return np.squeeze(result) if number and isinstance(result, np.ndarray) else result

    def _values(self, x: Array) -> Array:
        if self.examples * x.shape[0] > EVALUATIONS:
            values = jax.lax.map(self.function, x, batch_size=max(1, EVALUATIONS // self.examples))
        else:
            values = jax.vmap(self.function)(x)
        if values.ndim > 2 or not jnp.issubdtype(values.dtype, jnp.floating):
            got = f"{values.dtype}{list(values.shape[1:])}"
            raise TypeError(f"of: f must return a number or a vector of floats, got {got}: return jnp.stack([...])")
        return values.reshape(x.shape[0], -1).astype(x.dtype)


def of(f: Callable[[Array], Array], statistic: Statistic) -> Of:
    """The statistic of an observable: `of(lambda phi: phi @ phi, Mean())`.

    f maps a position ["d"] to a number or a vector ["k"]; for a number the axes of length 1 are dropped from the result.
    A method of a struct (`problem.loss`) and a `jax.tree_util.Partial` take their arrays along as leaves. Raises
    TypeError where f cannot be called or gives anything but floats.
    """
    if not callable(f):
        raise TypeError(f"of: the first argument must be a function of the position, got {type(f).__name__}")
    if isinstance(statistic, type) or not isinstance(statistic, Statistic):
        raise TypeError(f"of: the second argument must be a statistic such as Mean(), got {statistic!r}")
    owner = getattr(f, "__self__", None) if inspect.ismethod(f) else None
    if owner is not None and not jax.tree_util.all_leaves([owner]):
        # the owner's arrays become leaves: data stays an argument of the compiled program
        return Of(Partial(getattr(type(owner), f.__name__), owner), statistic, int(getattr(owner, "examples", 0)))
    return Of(f if isinstance(f, Partial) else Partial(f), statistic, 0)


def MeanLoss(problem: Problem) -> Of:
    """The mean of the loss L(Φ) over samples and chains, a number."""
    if not isinstance(problem, Problem):
        raise TypeError(f"MeanLoss: needs a problem (finite_sum or potential), got {type(problem).__name__}")
    return replace(of(problem.loss, Mean()), of_loss=True)


OBSERVABLES = {"of": of, "mean_loss": MeanLoss}
