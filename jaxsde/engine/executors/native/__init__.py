"""The executor for CPUs that compiles the user's own step: the graph of its scalars, printed as LLVM IR over vectors of
chains, with the draws inside.

The steps run without Python's lock, one thread a tile. Where the statistics look, the positions go to a buffer in the cache,
which XLA reads when it is full.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .... import random
from ..scalar import Unsupported, block
from ..scalar.graph import CHAIN, TooLarge, ordered
from ..scalar.plans import Plans
from ..tile import Span, Tile, divergence_limit, number, observe
from ..xla import compiled, memory_bytes, waits
from . import build, examples, kernel, loops, memory
from .functions import FUNCTIONS
from .looks import Looking, looks
from .seen import LANES

_BUFFER_BYTES = 1 << 20  # of the positions of a tile, between two looks of XLA
_SAMPLES = 64  # between two looks of the statistics
_CALLS = 1024  # of the code, that Python plans at once
_LONGEST, _SHORT = 32, 2000  # steps that are taken together, and their operations
_SCALARS = 2_500  # a step of more operations than this is faster, and much sooner compiled, as loops
_ROW = 100  # operations that an example of each chain's own is worth, to the compiler
_BY_ROWS = 8_000  # instructions of a step whose examples go row by row, in loops of their own: two seconds of the compiler
_PATIENT = 7_000  # the same, where a primitive has no loops
WIDEST = 64  # chains that a tile may have however large their steps: it is worked through vector by vector
_SCRATCH_BYTES = 1 << 20  # of two vectors of chains side by side
_ARGUMENTS = (*[ctypes.c_void_p] * 8, *[ctypes.c_int64] * 2, *[ctypes.c_uint32] * 2, *[ctypes.c_int64] * 5, ctypes.c_void_p)


def refuses(chain: Any, state: Any, dtype: Any, platform: str, *, wanted: bool) -> str | None:
    """Why this executor cannot run a chain, None if it can. `state` is like one chain's."""
    if platform != "cpu":
        return f"it is for CPUs, and the device is {platform}"
    if why := build.missing():
        return why
    try:
        plan_of(chain, state, dtype)
    except Unsupported as error:
        return str(error)
    return None


def program(arguments: tuple, *, every: int, rows: int, platform: str) -> Program:
    """The compiled program for tiles like this one."""
    chain, statistics, _, _, span, tile = arguments
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a)[1:], a.dtype), tile.state)
    dtype = _position(chain, one).dtype
    return Program(plan_of(chain, one, dtype), chain, statistics, span, tile, every, rows)


class _Plan:
    """What one structure of chain is printed from, and the machine code of each width of vector that was asked for: scalars,
    or loops where there are too many of them."""

    def __init__(self, chain: Any, state: Any, dtype: np.dtype):
        self.limit, self.dtype = divergence_limit(dtype), dtype
        self.codes: dict[tuple[int, bool], _Code] = {}
        self.graphs: _Graphs | None = None
        try:
            self._in_scalars(_Graphs(chain, state, dtype, self.limit, _SCALARS))
        except Unsupported as error:
            traced = block.trace(chain, state, dtype, length=1)
            try:
                self._in_loops(traced)
            except Unsupported:
                if not isinstance(error, TooLarge):
                    raise
                self._in_scalars(_Graphs(chain, state, dtype, self.limit, _PATIENT))

    def _in_scalars(self, graphs: _Graphs) -> None:
        self.graphs, (fast, _) = graphs, graphs.near
        self.dim = len(fast.positions[0])
        size = sum(node.rate == CHAIN for node in ordered(fast.roots)) * 4 // max(4, fast.length)
        # A short step waits for its own results: several vectors at once fill the time. A long one needs the registers.
        self.vectors = 1 if graphs.by_rows else 4 if size < 400 else 2 if size < 1200 else 1

    def _in_loops(self, traced: block.Traced) -> None:
        self.traced = traced
        self.dim = int(np.prod(traced.position.out_avals[0].shape))
        printed = loops.source(traced, self.limit, LANES, build.machine())  # `Unsupported` now, not when it is to run
        self.printed = {LANES: printed}
        # Two share what they read of matrices. Those of each chain's own want the registers and the nearest cache for one.
        self.vectors = 1 if printed.multiplies or 2 * printed.scratch > _SCRATCH_BYTES else 2

    def code(self, lanes: int, near: bool = True) -> _Code:
        """The code for tiles of `lanes` chains, whose numbers have the same upper word if they are `near`: all that there are,
        but for a tile in which a number passes 2^32."""
        machine, width = build.machine(), LANES
        wanted = self.vectors * machine.lanes(self.dtype.itemsize)
        while width < wanted and lanes % (2 * width) == 0:
            width *= 2
        near = near or self.graphs is None  # loops do not care
        if (width, near) not in self.codes:
            if self.graphs is not None:
                graphs = self.graphs.near if near else self.graphs.far()
                source = kernel.source(*graphs, self.graphs.begin(near), width, machine)
                self.codes[width, near] = _Code(source, width, 0)
            else:
                printed = self.printed.pop(width, None) or loops.source(self.traced, self.limit, width, machine)
                self.codes[width, near] = _Code(printed.text, width, printed.scratch)
        return self.codes[width, near]


class _Graphs:
    """The steps without masks and with them. Of as many as share a call of the generator, as far as they are short; the draws that
    steps share are nothing beside a very long one, which is taken by itself. `TooLarge` for a step of more than `most`
    operations, unless it is one that only scalars can run."""

    def __init__(self, chain: Any, state: Any, dtype: np.dtype, limit: float, most: int):
        self.limit = limit
        # Entries of arrays that chains share are nodes, too, but no operations.
        carried = random.carried(chain.draws)
        longest = block.length_of(chain.draws, _LONGEST) if carried is None else carried.at_once
        lengths = {longest: _SHORT, block.length_of(chain.draws, 4): _SHORT, 1: 2 * most}
        for length, self.operations in lengths.items():
            self.traced = block.trace(chain, state, dtype, length, carry=True)
            try:
                self._choose(most)
            except TooLarge:
                if length == 1:
                    raise
            else:
                break

    def _choose(self, most: int) -> None:
        """Sums over examples row by row, or column by column, whichever is less work (and no more than a compiler takes)."""
        self.by_rows = True
        self.near = by_rows = self._made(near=True)
        self.by_rows = any(node.op in ("dot", "mix") for node in by_rows[0].graph.nodes.values())
        if not self.by_rows:  # nothing to choose
            nodes = max(len(steps.graph.nodes) for steps in by_rows)
            if nodes > self.operations or (self.traced.length == 1 and self._cost() > most):
                raise TooLarge(f"a step of more than {most} scalar operations")
            return
        work, allowed = examples.cost(by_rows[0].roots), max(_BY_ROWS, most)
        self.by_rows = False
        with contextlib.suppress(TooLarge):
            self.near = self._made(near=True)
            if self._cost() <= most and (work > allowed or examples.cost(self.near[0].roots) <= work):
                return
        if work > allowed:
            raise TooLarge(f"a step of more than {most} scalar operations")
        self.by_rows, self.near = True, by_rows

    def _cost(self) -> int:
        """Operations that differ from chain to chain, to the compiler."""
        wide = [node for node in ordered(self.near[0].roots) if node.wide]
        return len(wide) + _ROW * len({node.args[1].number for node in wide if node.op == "row"})

    def far(self) -> tuple[block.Steps, block.Steps]:
        return self._made(near=False)

    def begin(self, near: bool) -> kernel.Begin | None:
        """How the state of a generator begins that is carried along."""
        carried = self.traced.carried
        return None if carried is None else kernel.Begin(*block.begin(self.traced, near), carried.steps)

    def _made(self, near: bool) -> tuple[block.Steps, block.Steps]:
        functions, operations = FUNCTIONS, self.operations
        if self.by_rows:
            functions = functions | {"total": examples.total}
            operations = max(operations, 2 * _PATIENT) if self.traced.length == 1 else operations
        fast, masked = (block.steps(self.traced, self.limit, m, functions, operations, near) for m in (False, True))
        return fast, masked


class _Code:
    """Machine code, ready to be called, and the bytes of memory that a call works in."""

    def __init__(self, source: str, width: int, scratch: int):
        self.built, self.width, self.scratch = build.build(source), width, scratch
        self.address = self.built.address("advance")
        self.call = ctypes.CFUNCTYPE(None, *_ARGUMENTS)(self.address)


plan_of = Plans(_Plan)


class _Launch(NamedTuple):
    """Steps to take, and what all tiles want to know of them: the clock as an integer and as a real number, the time of a step."""

    span: Span
    clock: int
    dt: np.ndarray
    number: np.ndarray

    @classmethod
    def of(cls, chain: Any, span: Span, dtype: np.dtype) -> _Launch:
        clock = int(span.clock.step[0]) + (int(span.clock.step[1]) << 32)
        return cls(span, clock, np.asarray(chain.dt, dtype), np.asarray(number(span.clock, dtype)))


class Program:
    """The code together with the statistics, for one shape of tile."""

    def __init__(
        self, plan: _Plan, chain: Any, statistics: dict, span: Span, tile: Tile, every: int, rows: int
    ):
        self.dim, self.dtype, self.every, self.rows = plan.dim, plan.dtype, every, rows
        self.plan, self.lanes = plan, len(tile.alive)
        self.code = plan.code(self.lanes)
        self._leaves: list[Any] = []
        self._tables: list[np.ndarray] = []
        each = plan.dim * self.dtype.itemsize
        self.look, self.looks, self.bytes = None, None, 4 * each * self.lanes
        self.alone = False  # as far as the code goes; statistics that XLA looks after may be
        self.samples, self.part = 1, self.lanes  # of the buffer, and chains that fill it
        if statistics:
            x = jax.ShapeDtypeStruct((plan.dim,), self.dtype)
            self.looks = looks(statistics, x, self.dtype)
            packed = [leaf for name in self.looks.own for leaf in jax.tree.leaves(tile.accumulators[name])]
            self.bytes += sum(leaf.nbytes for leaf in packed)
            self.samples, self.part = _SAMPLES, self.code.width
        if rest := self._rest(statistics):
            self.samples, self.part = max(1, min(_SAMPLES, _BUFFER_BYTES // (each * self.lanes))), self.lanes
            shapes = [
                *(jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(self._shapes(), (self.dtype, bool), strict=True)),
                jax.ShapeDtypeStruct((), np.int32),
                jax.ShapeDtypeStruct((), np.int32),
            ]
            jitted = jax.jit(functools.partial(_look, every=every, rows=rows))
            held = self._rest(tile.accumulators)
            lowered = jitted.lower(chain, rest, held, span.clock, *shapes)
            self.alone = waits(lowered, "cpu")
            self.look = compiled(lowered, "cpu", self.alone)
            analysis = self.look.memory_analysis()
            self.bytes += memory_bytes(analysis) if analysis is not None else 0

    def _rest(self, named: dict) -> dict:
        """What belongs to the statistics that XLA looks after."""
        ours = () if self.looks is None else (*self.looks.own, *self.looks.counting)
        return {name: value for name, value in named.items() if name not in ours}

    def bind(self, shared: tuple, words: Any, span: Span) -> Callable[[tuple, Tile], Tile]:
        chain, statistics = shared
        leaves = jax.tree.leaves(chain)
        if len(self._leaves) != len(leaves) or any(a is not b for a, b in zip(self._leaves, leaves, strict=True)):
            self._leaves, self._tables = leaves, memory.tables(leaves)
        tables, launch = self._tables, _Launch.of(chain, span, self.dtype)
        return lambda ids, tile: self._advance(chain, statistics, tables, words, launch, ids, tile)

    def _advance(
        self, chain: Any, statistics: Any, tables: list, words: Any, launch: _Launch, ids: Any, tile: Tile
    ) -> Tile:
        alive = np.array(tile.alive, bool)
        if not alive.any():
            return tile
        leaves, structure = jax.tree.flatten(tile.state)
        rows = [
            np.array(np.reshape(leaf, (self.lanes, -1)).T, memory.row_bytes(leaf.dtype), order="C") for leaf in leaves
        ]
        # A frozen lane (or an empty one) runs along as a copy of a living one, so that whole vectors go the fast way.
        frozen = np.flatnonzero(~alive)
        kept = [r[:, frozen] for r in rows]
        for r in rows:
            r[:, frozen] = r[:, [np.flatnonzero(alive)[0]]]
        held = Tile(rows, tile.accumulators, np.ones(self.lanes, np.uint8), np.array(tile.survived, np.uint32))
        accumulators = self._run(chain, statistics, tables, words, launch, ids, held, alive)
        for r, old in zip(rows, kept, strict=True):
            r[:, frozen] = old
        survived = np.where(alive, held.survived, tile.survived)
        back = [
            np.ascontiguousarray(r.T).reshape(np.shape(leaf)).astype(leaf.dtype, copy=False)
            for r, leaf in zip(rows, leaves, strict=True)
        ]
        return Tile(structure.unflatten(back), accumulators, alive & (held.alive != 0), survived)

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the buffer: positions, and whether the chains live."""
        blocks = self.part // LANES
        return (blocks, self.samples, self.dim, LANES), (blocks, self.samples, LANES)

    def _run(
        self, chain: Any, statistics: Any, tables: list, words: Any, launch: _Launch, ids: Any, held: Tile, alive: np.ndarray
    ) -> Any:
        """The kernel over the span, and the statistics whenever the buffer is full."""
        accumulators, rest, span = held.accumulators, self._rest(statistics), launch.span
        looking = bool(statistics) and bool(span.collect)
        ours = None
        if looking and self.looks is not None and self.looks.call:
            ours = Looking(self.looks, statistics, accumulators, self.lanes, self.rows)
        near = bool((ids[1] == ids[1][0]).all())
        code = self.code if near else self.plan.code(self.lanes, near)
        out, seen = (np.empty(shape, kind) for shape, kind in zip(self._shapes(), (self.dtype, np.uint8), strict=True))
        shared, state, scratch = (
            memory.pointers(tables), memory.pointers_to_rows(held.state), memory.aligned(code.scratch)
        )  # fmt: skip
        takes = tuple(a.ctypes.data for a in (state, shared, *ids, held.alive, held.survived, out, seen))
        key, last = (int(words[0]), int(words[1])), (self.every, self.samples, scratch.ctypes.data)
        for calls, first_look, times in self._schedule(launch, looking, 1 if rest else _CALLS):
            if ours is not None:
                ours.advance(code, (*takes, self.lanes, self.part, *key, *last), alive.view(np.uint8), times, calls)
            else:
                for first, stop, until, _ in calls.tolist():
                    code.call(*takes, 0, self.lanes, *key, first, stop, until, *last)
            if rest and (due := calls[0, 3]):
                assert self.look is not None
                full = (seen != 0) & alive.reshape(-1, 1, LANES)
                found = self.look(
                    chain, rest, self._rest(accumulators), span.clock, out, full, np.int32(first_look), np.int32(due)
                )
                accumulators = {**accumulators, **jax.block_until_ready(found)}  # before the buffer is written again
        return accumulators if ours is None else {**accumulators, **ours.done()}

    def _schedule(
        self, launch: _Launch, looking: bool, at_once: int
    ) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
        """A few calls of the code at a time, so that memory does not grow with the steps: (first step, last, steps until the first
        look, looks) of each [calls, 4], with no more looks than the buffer has room for and none beyond a `turn`; their first
        look, counted from the clock; and the times of all their looks."""
        span, clock, dt, number_of = launch
        start, last, every, full = int(span.begin), int(span.end), self.every, self.samples * self.every
        while start < last:
            stop, before = min(last, kernel.turn(clock + start) - clock), start // every * every
            if looking:
                stop = min(stop, before + at_once * full)
                stops = np.append(np.arange(before + full, stop, full), stop)
            else:
                stops = np.array([stop])
            starts = np.append(start, stops[:-1])
            first_looks = (starts // every + 1) * every
            due = np.maximum((stops - first_looks) // every + 1, 0) if looking else np.zeros_like(stops)
            until = first_looks - starts if looking else np.full_like(stops, kernel.NEVER)
            times = (number_of + (before + every * np.arange(1, due.sum() + 1)).astype(self.dtype)) * dt
            yield np.stack([clock + starts, clock + stops, until, due], axis=1), before + every, times
            start = stop


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
        x, living = (lax.dynamic_index_in_dim(a, i, axis=1, keepdims=False) for a in (out, alive))
        x = jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1])
        return observe(statistics, accumulators, time, x, living.reshape(-1), rows)

    return lax.fori_loop(0, due, one, accumulators)


def _position(chain: Any, state: Any) -> Any:
    return jax.eval_shape(lambda c, s: c.position(s), chain, state)
