"""The machine code called from a program of XLA: under `jit`, and under `vmap` over positions, keys and every leaf of a chain.

XLA hands over arrays and waits. What runs meanwhile is NumPy and the code itself: JAX would wait for XLA in turn.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ....types import Chain
from ... import layout
from . import kernel, memory, plan_of

_WIDEST = 8192  # chains that one thread takes at a time


def advance(chain: Chain, x0: Array, words: Any, steps: int, first_chain: int, first_step: int) -> Array:
    """Positions ["c d"] after `steps` steps from `x0` ["c d"], NaN for a chain that has diverged. Traced."""
    state = jax.vmap(chain.init)(x0)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), state)
    count, size = x0.shape[0], -(-x0.shape[0] // layout.workers("cpu"))
    lanes = layout.padded(min(_WIDEST, max(size, 1)))
    near = first_chain >> 32 == first_chain + max(count - 1, 0) >> 32
    code = plan_of(chain, one, x0.dtype).code(lanes, near)
    held, structure = jax.tree.flatten(state)
    shared = jax.tree.leaves(chain)
    own = [a.ndim for a in (words, *shared, *held)]  # axes of a leaf; those before them are of `vmap`

    def host(*given: Any) -> tuple[np.ndarray, ...]:
        arrays = [np.asarray(a) for a in given]
        outer = [a.shape[: a.ndim - n] for a, n in zip(arrays, own, strict=True)]
        batch = np.broadcast_shapes(*outer)
        arrays = [np.broadcast_to(a, (*batch, *a.shape[a.ndim - n :])) for a, n in zip(arrays, own, strict=True)]
        key, leaves, starts = arrays[0], arrays[1 : 1 + len(shared)], arrays[1 + len(shared) :]
        results = [np.empty((*batch, *a.shape), a.dtype) for a in held]
        alive = np.empty((*batch, count), bool)
        same = all(n == 1 for shape in outer[1 : 1 + len(shared)] for n in shape)
        tables = memory.tables([a[(0,) * len(batch)] for a in leaves]) if same and alive.size else None

        def part(task: tuple[tuple[int, ...], int]) -> None:
            at, begin = task
            some = slice(begin, min(begin + lanes, count))
            mine = memory.tables([a[at] for a in leaves]) if tables is None else tables
            done = _run(code, mine, key[at], [a[at][some] for a in starts], first_chain + begin, first_step, steps, lanes)
            alive[at][some] = done.alive
            for out, new in zip(results, done.state, strict=True):
                out[at][some] = new

        with ThreadPoolExecutor(layout.workers("cpu")) as pool:
            list(pool.map(part, [(at, begin) for at in np.ndindex(batch) for begin in range(0, count, lanes)]))
        return (*results, alive)

    @jax.custom_jvp
    def call(*given: Any) -> Any:
        shapes = (*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in held), jax.ShapeDtypeStruct((count,), bool))
        return jax.pure_callback(host, shapes, *given, vmap_method="expand_dims")

    @call.defjvp
    def _(given: Any, tangents: Any) -> Any:
        raise ValueError('executor="native" has no derivatives: leave executor out, and `advance` has them')

    *after, alive = call(words, *shared, *held)
    return jnp.where(alive[:, None], jax.vmap(chain.position)(structure.unflatten(after)), jnp.nan)


class _Part(NamedTuple):
    state: list[np.ndarray]
    alive: np.ndarray


def _run(
    code: Any, tables: list, key: np.ndarray, state: list, first_chain: int, first_step: int, steps: int, lanes: int
) -> _Part:
    """At most `lanes` chains, numbered from `first_chain`; the lanes that they leave empty run along as copies of the first."""
    size = len(state[0])
    which = np.where(np.arange(lanes) < size, np.arange(lanes), 0)
    ids = np.uint64(first_chain) + which.astype(np.uint64)
    low, high = ids.astype(np.uint32), (ids >> np.uint64(32)).astype(np.uint32)
    rows = [np.array(a[which].reshape(lanes, -1).T, memory.row_bytes(a.dtype), order="C") for a in state]
    alive, survived = np.ones(lanes, np.uint8), np.zeros(lanes, np.uint32)
    state_at, tables_at = memory.pointers_to_rows(rows), memory.pointers(tables)
    scratch = memory.aligned(code.scratch)
    each = (low, high, alive, survived, survived, survived)  # nobody looks, so nothing is written to the last two
    step, last = first_step, first_step + steps
    while step < last:
        stop = min(last, kernel.turn(step))
        code.call(
            *(a.ctypes.data for a in (state_at, tables_at, *each)), 0, lanes,
            int(key[0]), int(key[1]), step, stop, kernel.NEVER, kernel.NEVER, 0, scratch.ctypes.data,
        )  # fmt: skip
        step = stop
    return _Part([r.T[:size].reshape(a.shape) for r, a in zip(rows, state, strict=True)], alive[:size] != 0)
