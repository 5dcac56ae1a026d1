"""Any function of a pytree, in float64 on the host's CPU, whatever dtype the run uses and with no global setting touched.

Theory reads the very objects that are simulated, but a minimum or a Hessian in float32 is good to four digits only. Here
the object's floating-point leaves are widened (their values stay what they are) and the function is traced in float64.
A float32 constant that a user's loss closes over keeps its value and joins float64 arithmetic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Numbers that a batch of positions may hold at once: bounds the memory of `evaluate_many`.
_BLOCK_NUMBERS = 1 << 22


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


def widen(tree: Any) -> Any:
    """The same pytree with every floating-point leaf in float64, on the CPU."""

    def leaf(a: Any) -> Any:
        if jax.dtypes.issubdtype(getattr(a, "dtype", np.int32), jax.dtypes.prng_key):
            return a
        host = np.asarray(a)
        return jnp.asarray(host, jnp.float64 if jnp.issubdtype(host.dtype, jnp.floating) else None)

    with _float64():
        return jax.tree.map(leaf, tree)


def _call(function: Callable[..., Any], tree: Any, args: tuple[Any, ...]) -> Any:
    return function(tree, *args)


_one = jax.jit(_call, static_argnums=0)
_many = jax.jit(
    lambda function, tree, points: jax.vmap(lambda p: function(tree, p))(points),
    static_argnums=0,
)


def evaluate(function: Callable[..., Any], tree: Any, *args: Any) -> Any:
    """`function(tree, *args)` in float64, as NumPy arrays. `tree` comes from `widen`; `function` is a module-level function,
    so that its compilation is reused."""
    with _float64():
        return jax.tree.map(np.asarray, _one(function, tree, tuple(np.asarray(a, np.float64) for a in args)))


def evaluate_many(function: Callable[..., Any], tree: Any, points: np.ndarray, cost: int = 1) -> np.ndarray:
    """`function(tree, p)` at each of `points` ["k d"], in blocks; `cost` is how many numbers one evaluation holds."""
    points = np.asarray(points, np.float64)
    block = max(1, min(len(points), _BLOCK_NUMBERS // max(1, cost)))
    parts = []
    with _float64():
        for lo in range(0, len(points), block):
            part = points[lo : lo + block]
            # The last block is filled up to the size of the others: one compilation for all of them.
            full = part if len(part) == block else np.concatenate([part, np.repeat(part[-1:], block - len(part), axis=0)])
            parts.append(np.asarray(_many(function, tree, full))[: len(part)])
    return np.concatenate(parts)


def loss(problem: Any, phi: Any) -> Any:
    return problem.loss(phi)


def grad(problem: Any, phi: Any) -> Any:
    return problem.grad(phi)


def hessian(problem: Any, phi: Any) -> Any:
    return problem.hessian(phi)


def noise_covariance(problem: Any, phi: Any) -> Any:
    return problem.noise_covariance(phi)


def example_gradients(problem: Any, phi: Any) -> Any:
    return problem.example_gradients(phi)


def example_hessians(problem: Any, phi: Any) -> Any:
    return problem.example_hessians(phi)
