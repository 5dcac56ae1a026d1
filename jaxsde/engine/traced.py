"""The chains as a pure traced function: `jit`, `vmap` and `grad` go through it, over positions and over every leaf of a chain."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike

from .. import random
from ..types import Chain
from . import launch
from .executors import native
from .executors.native.called import advance as native_advance
from .wrapped import streamed

_BLOCK = 16


def advance(
    chain: Chain,
    x0: ArrayLike,
    *,
    key: Any,
    steps: int,
    first_chain: int = 0,
    first_step: int = 0,
    executor: str = "vmap",
    stream: str = "xoshiro128+",
) -> Array:
    """Positions ["c d"] after `steps` steps from `x0` ["c d"] (or ["d"] for one chain): `simulate` without its bookkeeping.

    Chain i draws what chain `first_chain` + i of `simulate` draws with the same key, from step `first_step` on. `steps` is a
    Python integer, so reverse-mode differentiation works; memory of `grad` grows with it. Nothing is frozen: a diverged
    chain goes on. For example, d⟨Φ⟩/dη and a sweep over η in one program:

        mean = lambda eta: js.advance(js.sgd(problem, learning_rate=eta), x0, key=key, steps=100).mean(0)
        jax.jacfwd(mean)(0.1);  jax.vmap(mean)(jnp.array([0.05, 0.1, 0.2]))

    `executor="native"` runs the same chains as machine code, under `jit` and `vmap` too, to the bit as `simulate` runs them:
    without derivatives, and a chain that diverges is NaN. Where the code cannot be made, a warning says why and XLA runs.
    """
    chain, steps = streamed(chain, stream), operator.index(steps)
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    x0 = jnp.asarray(x0, jnp.result_type(x0, jnp.float32))
    if x0.shape[-1:] != (chain.dim,) or x0.ndim > 2:
        raise ValueError(f"x0 has shape {x0.shape}: give flat positions [{chain.dim}] or [chains, {chain.dim}]")
    if x0.ndim == 1:
        return advance(
            chain, x0[None], key=key, steps=steps, first_chain=first_chain, first_step=first_step, executor=executor, stream=stream
        )[0]
    words, dtype = random.key_words(key), x0.dtype
    if executor not in ("vmap", "native"):
        raise ValueError(f'executor must be "vmap" or "native", got {executor!r}')
    if executor == "native":
        cast = launch.prepared(chain, stream, dtype)
        why = native.refuses(cast, launch.one_state(cast, dtype), dtype, launch.device().platform, wanted=True)
        if why is None:
            return native_advance(cast, x0, jnp.asarray(words), steps, first_chain, first_step)
        warnings.warn(f"executor 'native' cannot run this chain ({why}); XLA does", stacklevel=2)
    low = jnp.arange(x0.shape[0], dtype=jnp.uint32) + jnp.uint32(first_chain & 0xFFFFFFFF)
    carry = (low < jnp.uint32(first_chain & 0xFFFFFFFF)).astype(jnp.uint32)
    ids = (low, jnp.uint32(first_chain >> 32) + carry)
    clock = random.clock(first_step, chain.draws)

    def block(start: Any, state: Any, count: int) -> Any:
        drawn = random.block(words, chain.draws, ids, random.advance(clock, start, chain.draws), count, dtype)

        def step(s: Any, xs: tuple) -> tuple[Any, None]:
            i, z = xs
            k = jnp.asarray(float(first_step), dtype) + (start + i).astype(dtype)
            return jax.vmap(chain.step, in_axes=(0, -1, None))(s, z, k), None

        return lax.scan(step, state, (jnp.arange(count, dtype=jnp.int32), drawn))[0]

    state = jax.vmap(chain.init)(x0)
    whole = steps // _BLOCK
    if whole:
        starts = jnp.arange(whole, dtype=jnp.int32) * _BLOCK
        state = lax.scan(lambda s, start: (block(start, s, _BLOCK), None), state, starts)[0]
    if steps % _BLOCK:
        state = block(jnp.int32(whole * _BLOCK), state, steps % _BLOCK)
    return jax.vmap(chain.position)(state)
