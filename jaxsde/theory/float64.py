"""Any function of a pytree, in float64 on the host's CPU, whatever dtype the run uses.

Theory reads the very objects that are simulated, but a minimum or a Hessian in float32 is good to four digits only. Here
the object's floating-point leaves are widened (their values stay what they are) and the function is traced in float64.
A float32 constant that a user's loss closes over keeps its value and joins float64 arithmetic.

The way to it is `jax_explicit_x64_dtypes` for the duration of a call, not `jax.enable_x64`. Under the latter JAX caches a
NumPy array that a loss closes over as float64, by the array's identity, and a later float32 trace of the same loss finds it
there and fails ("lax.mul requires arguments to have the same dtypes"): asking for a minimum would break the next run.
`enable_x64` is the fallback, for a loss whose loops start from default-dtype zeros and so cannot be traced otherwise.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..compiled import jitted

# Numbers that a batch of positions may hold at once: bounds the memory of `evaluate_many`.
_BLOCK_NUMBERS = 1 << 22
_EXPLICIT = "jax_explicit_x64_dtypes"
_lock = threading.RLock()


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """Float64 arrays are honoured where their dtype is explicit; the setting is put back on the way out."""
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        with jax.default_device(_cpu()):
            yield
        return
    with _lock, jax.default_device(_cpu()):
        before = getattr(jax.config, _EXPLICIT)
        jax.config.update(_EXPLICIT, "allow")
        try:
            yield
        finally:
            jax.config.update(_EXPLICIT, before)


def _cpu() -> Any:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names an accelerator alone
        return jax.devices()[0]


def widen(tree: Any) -> Any:
    """The same pytree with every floating-point leaf in float64, on the CPU."""

    def leaf(a: Any) -> Any:
        if jnp.issubdtype(getattr(a, "dtype", np.int32), jax.dtypes.prng_key):
            return a
        host = np.asarray(a)
        return _wide(host) if jnp.issubdtype(host.dtype, jnp.floating) else jnp.asarray(host)

    with _float64():
        return jax.tree.map(leaf, tree)


def _wide(a: Any) -> jax.Array:
    return jax.device_put(jnp.asarray(np.asarray(a, np.float64), jnp.float64))


def _one(function: Callable[..., Any], tree: Any, args: tuple[Any, ...]) -> Any:
    return jitted(function, tree)(tree, *args)


def _many(function: Callable[..., Any], tree: Any, points: Any) -> Any:
    return jitted(function, tree, each=True)(tree, points)


def evaluate(function: Callable[..., Any], tree: Any, *args: Any) -> Any:
    """`function(tree, *args)` in float64, as NumPy arrays. `tree` comes from `widen`; `function` is a module-level function,
    so that its compilation is reused."""
    with _float64():
        return jax.tree.map(np.asarray, _run(_one, function, tree, tuple(_wide(a) for a in args)))


def evaluate_many(function: Callable[..., Any], tree: Any, points: np.ndarray, cost: int = 1) -> np.ndarray:
    """`function(tree, p)` at each of `points` ["k d"], in blocks; `cost` is how many numbers one evaluation holds."""
    points = np.asarray(points, np.float64)
    block = max(1, min(len(points), _BLOCK_NUMBERS // max(1, cost)))
    parts = []
    with _float64():
        for lo in range(0, len(points), block):
            part = points[lo : lo + block]
            # The last block is filled up to the size of the others: one compilation for all of them.
            full = (
                part if len(part) == block else np.concatenate([part, np.repeat(part[-1:], block - len(part), axis=0)])
            )
            parts.append(np.asarray(_run(_many, function, tree, _wide(full)))[: len(part)])
    return np.concatenate(parts)


def _run(compiled: Any, function: Callable[..., Any], tree: Any, args: Any) -> Any:
    try:
        return compiled(function, tree, args)
    except TypeError:
        with jax.enable_x64(True):
            return compiled(function, tree, args)


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
