"""The executor for CPUs that compiles the user's own step: the graph of its scalars, printed as LLVM IR over vectors of
chains, with the draws inside.

The steps run without Python's lock, one thread a tile. Where the statistics look, the positions go to a buffer in the cache,
which XLA reads when it is full.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..scalar import Unsupported, block
from ..scalar.graph import CHAIN, TooLarge, ordered
from ..scalar.plans import Plans
from ..tile import Span, Tile, divergence_limit, number, observe
from ..xla import compiled, memory_bytes
from . import build, floats, kernel

_BUFFER_BYTES = 1 << 19  # of positions, between two looks of the statistics
_SAMPLES = 64
_ARGUMENTS = (*[ctypes.c_void_p] * 8, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint32, *[ctypes.c_int64] * 4)


def refuses(chain: Any, state: Any, dtype: Any, platform: str, *, wanted: bool) -> str | None:
    """Why this executor cannot run a chain, None if it can. `state` is like one chain's."""
    if platform != "cpu":
        return f"it is for CPUs, and the device is {platform}"
    if why := build.missing():
        return why
    try:
        _plan(chain, state, dtype)
    except Unsupported as error:
        return str(error)
    return None


def program(arguments: tuple, *, every: int, rows: int, platform: str) -> Program:
    """The compiled program for tiles like this one."""
    chain, statistics, _, _, span, tile = arguments
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a)[1:], a.dtype), tile.state)
    dtype = _position(chain, one).dtype
    return Program(_plan(chain, one, dtype), chain, statistics, span, tile, every, rows)


class _Plan:
    """The graphs of one structure of chain, and the machine code of each width of vector that was asked for."""

    def __init__(self, chain: Any, state: Any, dtype: np.dtype):
        limit = divergence_limit(dtype)
        try:
            self.fast, self.masked = _graphs(block.trace(chain, state, dtype), limit)
        except TooLarge:  # the draws that steps share are nothing beside such a step: one at a time
            self.fast, self.masked = _graphs(block.trace(chain, state, dtype, length=1), limit)
        self.dim, self.dtype = len(self.fast.positions[0]), dtype
        size = sum(node.rate == CHAIN for node in ordered([*self.fast.after, self.fast.alive]))
        # A short step waits for its own results: several vectors at once fill the time. A long one needs the registers.
        self.vectors = 4 if size < 400 else 2 if size < 1200 else 1
        self.codes: dict[int, _Code] = {}

    def code(self, lanes: int) -> _Code:
        """The code for tiles of `lanes` chains."""
        machine, width = build.machine(), 16
        wanted = self.vectors * machine.lanes(self.dtype.itemsize)
        while width < wanted and lanes % (2 * width) == 0:
            width *= 2
        width = min(width, wanted)
        if width not in self.codes:
            self.codes[width] = _Code(kernel.source(self.fast, self.masked, width, machine))
        return self.codes[width]


def _graphs(traced: block.Traced, limit: float) -> tuple[block.Steps, block.Steps]:
    return block.steps(traced, limit, False, floats.FUNCTIONS), block.steps(traced, limit, True, floats.FUNCTIONS)


class _Code:
    """Machine code, ready to be called."""

    def __init__(self, source: str):
        self.built = build.build(source)
        self.call = ctypes.CFUNCTYPE(None, *_ARGUMENTS)(self.built.address("advance"))


_plan = Plans(_Plan)


class Program:
    """The code together with the statistics, for one shape of tile."""

    def __init__(
        self, plan: _Plan, chain: Any, statistics: dict, span: Span, tile: Tile, every: int, rows: int
    ):
        self.dim, self.dtype, self.every, self.rows = plan.dim, plan.dtype, every, rows
        self.lanes = len(tile.alive)
        self.code = plan.code(self.lanes)
        self._leaves: list[Any] = []
        self._tables: list[np.ndarray] = []
        each = self.lanes * plan.dim * self.dtype.itemsize
        self.samples = max(1, min(_SAMPLES, _BUFFER_BYTES // each)) if statistics else 1
        self.look, self.bytes = None, 4 * each
        if statistics:
            shapes = [
                jax.ShapeDtypeStruct((self.samples, plan.dim, self.lanes), self.dtype),
                jax.ShapeDtypeStruct((self.samples, self.lanes), bool),
                jax.ShapeDtypeStruct((), np.int32),
                jax.ShapeDtypeStruct((), np.int32),
            ]
            jitted = jax.jit(functools.partial(_look, every=every, rows=rows))
            self.look = compiled(jitted.lower(chain, statistics, tile.accumulators, span.clock, *shapes), "cpu")
            memory = self.look.memory_analysis()
            self.bytes += memory_bytes(memory) if memory is not None else 0

    def bind(self, shared: tuple, words: Any, span: Span) -> Callable[[tuple, Tile], Tile]:
        chain, statistics = shared
        leaves = jax.tree.leaves(chain)
        if len(self._leaves) != len(leaves) or any(a is not b for a, b in zip(self._leaves, leaves, strict=True)):
            self._leaves, self._tables = leaves, _tables(leaves)
        tables = self._tables
        return lambda ids, tile: self._advance(chain, statistics, tables, words, span, ids, tile)

    def _advance(self, chain: Any, statistics: Any, tables: list, words: Any, span: Span, ids: Any, tile: Tile) -> Tile:
        alive = np.array(tile.alive, bool)
        if not alive.any():
            return tile
        leaves, structure = jax.tree.flatten(tile.state)
        rows = [
            np.array(np.reshape(leaf, (self.lanes, -1)).T, kernel.row_bytes(leaf.dtype), order="C") for leaf in leaves
        ]
        # A frozen lane (or an empty one) runs along as a copy of a living one, so that whole vectors go the fast way.
        frozen = np.flatnonzero(~alive)
        kept = [r[:, frozen] for r in rows]
        for r in rows:
            r[:, frozen] = r[:, [np.flatnonzero(alive)[0]]]
        held = Tile(rows, tile.accumulators, np.ones(self.lanes, np.uint8), np.array(tile.survived, np.uint32))
        accumulators = self._run(chain, statistics, tables, words, span, ids, held, alive)
        for r, old in zip(rows, kept, strict=True):
            r[:, frozen] = old
        survived = np.where(alive, held.survived, tile.survived)
        back = [
            np.ascontiguousarray(r.T).reshape(np.shape(leaf)).astype(leaf.dtype, copy=False)
            for r, leaf in zip(rows, leaves, strict=True)
        ]
        return Tile(structure.unflatten(back), accumulators, alive & (held.alive != 0), survived)

    def _run(
        self, chain: Any, statistics: Any, tables: list, words: Any, span: Span, ids: Any, held: Tile, alive: np.ndarray
    ) -> Any:
        """The kernel over the span, and the statistics whenever the buffer is full."""
        out = np.empty((self.samples, self.dim, self.lanes), self.dtype)
        seen = np.empty((self.samples, self.lanes), np.uint8)
        clock = int(span.clock.step[0]) + (int(span.clock.step[1]) << 32)
        step, last = int(span.begin), int(span.end)
        state, shared = _pointers([row for r in held.state for row in r]), _pointers(tables)
        accumulators, looking = held.accumulators, self.look is not None and bool(span.collect)
        never = 1 << 62
        while step < last:
            first_look = (step // self.every + 1) * self.every  # counted from the clock
            stop = min(last, first_look + (self.samples - 1) * self.every) if looking else last
            due = (stop - first_look) // self.every + 1 if looking and stop >= first_look else 0
            self.code.call(
                ctypes.addressof(state), ctypes.addressof(shared), ids[0].ctypes.data, ids[1].ctypes.data,
                held.alive.ctypes.data, held.survived.ctypes.data, out.ctypes.data, seen.ctypes.data, self.lanes,
                int(words[0]), int(words[1]), clock + step, clock + stop, first_look - step if looking else never,
                self.every if looking else never,
            )  # fmt: skip
            if due:
                assert self.look is not None
                lived = (seen != 0) & alive
                accumulators = self.look(
                    chain, statistics, accumulators, span.clock, out, lived, np.int32(first_look), np.int32(due)
                )
                jax.block_until_ready(accumulators)  # before the buffer is written again
            step = stop
        return accumulators


def _look(
    chain: Any,
    statistics: Any,
    accumulators: Any,
    clock: Any,
    out: Any,
    alive: Any,
    first: Any,
    due: Any,
    *,
    every: int,
    rows: int,
) -> Any:
    """The statistics see `due` samples of the buffer, the first taken `first` steps after the clock."""
    dtype = out.dtype
    dt, begin = jnp.asarray(chain.dt, dtype), number(clock, dtype)

    def one(i: Any, accumulators: Any) -> Any:
        time = (begin + (first + i * every).astype(dtype)) * dt
        x = lax.dynamic_index_in_dim(out, i, keepdims=False).T
        return observe(statistics, accumulators, time, x, lax.dynamic_index_in_dim(alive, i, keepdims=False), rows)

    return lax.fori_loop(0, due, one, accumulators)


def _position(chain: Any, state: Any) -> Any:
    return jax.eval_shape(lambda c, s: c.position(s), chain, state)


def _tables(leaves: list[Any]) -> list[np.ndarray]:
    """The arrays that chains share as the kernel reads them: rows that start where vectors do, and room behind the last."""
    arrays = [np.asarray(leaf) for leaf in leaves]
    places = block.arrange([(a.shape, a.dtype) for a in arrays])
    tables: dict[int, np.ndarray] = {}
    for array, place in zip(arrays, places, strict=True):
        kept, count = kernel.row_bytes(array.dtype), array.shape[0] if array.ndim else 1
        if place.table not in tables:
            raw = np.zeros(count * place.stride + 16 + 64 // kept.itemsize, kept)
            start = -raw.ctypes.data % 64 // kept.itemsize
            tables[place.table] = raw[start : start + count * place.stride].reshape(count, place.stride)
        if array.size:
            inner = array.size // count
            tables[place.table][:, place.offset : place.offset + inner] = array.reshape(count, inner)
    return [tables[i] for i in range(len(tables))]


def _pointers(arrays: list[np.ndarray]) -> Any:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
