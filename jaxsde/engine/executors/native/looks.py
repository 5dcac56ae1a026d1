"""The statistics as machine code: what each adds for one chain, as a graph of scalars, over vectors of chains.

For an accumulator that each chain has of its own, the graph of `update`, kept in registers from sample to sample. For counts
that chains share, the graph of `boxes`, and a loop that counts. What a statistic calls rare (`sums.rarely`) is a branch. The
statistics that are neither stay with XLA.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..scalar import Unsupported, block, evaluate
from ..scalar.graph import CHAIN, STEP, Graph
from ..scalar.indexing import entries
from ..scalar.plans import Plans
from . import build, memory
from .functions import FUNCTIONS
from .samples import Never, slot_bytes, source
from .seen import LANES
from .updates import Traced

_NUMBERS = 8_000  # of each chain's accumulators, and operations on them: beyond, Python takes longer to print than XLA to run
_OPERATIONS = 80_000
_COPIES = 4  # of the counts of a row
_COUNTED = 1 << 32  # samples and more that a count has no room for
_ARGUMENTS = (
    *[ctypes.c_void_p] * 9, *[ctypes.c_int64] * 2, *[ctypes.c_uint32] * 2, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 8,
    ctypes.c_int64,
)  # fmt: skip


class Looks:
    """The code for these statistics: `own` are those with accumulators of each chain, `counting` those that count."""

    def __init__(self, statistics: dict, x: Any, dtype: np.dtype):
        self.dim, self.dtype = x.shape[0], dtype
        names = sorted(statistics)  # the order of a tree's leaves
        try:
            self.own, self.counting, graphs = self._graphs(statistics, names)
        except Unsupported:  # as many as there is code for
            kept: list[str] = []
            for name in names:
                with contextlib.suppress(Unsupported):
                    self._graphs(statistics, [*kept, name])
                    kept.append(name)
            self.own, self.counting, graphs = self._graphs(statistics, kept)
        self.call: Any = None
        if self.own or self.counting:
            own, counting = graphs
            self.built = build.build(source(own, counting, self.dim, dtype, build.machine()))
            self.call = ctypes.CFUNCTYPE(None, *_ARGUMENTS)(self.built.address("advance"))

    def _graphs(self, statistics: dict, names: list[str]) -> tuple[list[str], list[str], list[list[Traced]]]:
        """The statistics with accumulators of each chain, those that count, and one sample of one chain for both."""
        counting = [name for name in names if hasattr(statistics[name], "boxes")]
        rest = [name for name in names if name not in counting]
        own = [name for name in rest if _per_chain(statistics[name], self.dim, self.dtype)]
        return own, counting, [
            [_graph(kind, statistics, *chosen, self.dim, self.dtype) for kind in (Graph, Never)]
            for chosen in ((own, []), ([], counting))
        ]


looks = Plans(Looks)


class Looking:
    """The accumulators of one tile while a launch lasts."""

    def __init__(self, code: Looks, statistics: dict, accumulators: dict, lanes: int, rows: int):
        self.code, self.accumulators, self.lanes = code, accumulators, lanes
        self.own = {name: accumulators[name] for name in code.own}
        # What belongs to a vector of chains lies together: [lanes / LANES, numbers, LANES], in bytes.
        leaves = jax.tree.leaves(self.own)
        entries = sum(leaf.size for leaf in leaves) // lanes
        self.vectors = memory.aligned(lanes // LANES, entries, slot_bytes(a.dtype for a in leaves))
        for leaf, place in zip(leaves, self._places(), strict=True):
            if leaf.strides[0] or leaf[0].any():  # and not the zeros that a run begins with, which all rows share
                place[...] = np.reshape(leaf, (lanes // LANES, LANES, -1)).transpose(0, 2, 1)
        shapes = [_counters(statistics[name]) for name in code.counting]
        self.counts = [np.zeros((rows, copies, size), np.uint32) for size, copies in shapes]
        row, lane = np.arange(lanes) // (lanes // rows), np.arange(lanes)
        self.bases = [np.ascontiguousarray((row * copies + lane % copies) * size, np.int32) for size, copies in shapes]
        self.tables = memory.tables(jax.tree.leaves({n: statistics[n] for n in sorted(statistics)}))
        self.pointers = [memory.pointers(arrays) for arrays in (self.tables, self.counts, self.bases)]
        self.pending = 0

    def _places(self) -> list[np.ndarray]:
        """Where the leaves of the accumulators are: ["vectors", entries, LANES] each."""
        found, first = [], 0
        for leaf in jax.tree.leaves(self.own):
            kind, entries = memory.row_bytes(leaf.dtype), leaf.size // self.lanes
            found.append(self.vectors[:, first : first + entries, : LANES * kind.itemsize].view(kind))
            first += entries
        return found

    def advance(self, code: Any, given: Sequence[int], living: np.ndarray, times: np.ndarray, schedule: np.ndarray) -> None:
        """The steps of the schedule [entries, 4] by a kernel that is given all this but for the steps, and their samples seen."""
        samples = int(schedule[:, 3].sum()) * self.lanes
        if self.pending + samples >= _COUNTED:
            self._settle()
        self.pending += samples
        schedule = np.ascontiguousarray(schedule)
        self.code.call(
            code.address, *given, self.vectors.ctypes.data, *(p.ctypes.data for p in self.pointers), living.ctypes.data,
            times.ctypes.data, schedule.ctypes.data, len(schedule),
        )  # fmt: skip

    def done(self) -> dict:
        """The accumulators after all that was seen, of these statistics: their entries, in their order."""
        self._settle()
        leaves, structure = jax.tree.flatten(self.own)
        back = [
            place.transpose(0, 2, 1).astype(leaf.dtype, copy=False)
            for place, leaf in zip(self._places(), leaves, strict=True)
        ]
        return {name: self.accumulators[name] for name in self.code.counting} | structure.unflatten(back)

    def _settle(self) -> None:
        for name, counts in zip(self.code.counting, self.counts, strict=True):
            self.accumulators = {
                **self.accumulators, name: self.accumulators[name].added(counts[..., :-1].sum(1, dtype=np.int64))
            }  # fmt: skip
            counts[:] = 0
        self.pending = 0


def _counters(statistic: Any) -> tuple[int, int]:
    """(boxes, copies): with what is outside and what is nowhere; neighbouring chains count in copies of their own, where all
    of them stay in the cache: in one box, each would wait for the last one."""
    size = int(np.prod(statistic.shape)) + 2
    return size, _COPIES if size <= 2048 else 1


def _per_chain(statistic: Any, dim: int, dtype: np.dtype) -> bool:
    """Whether every leaf of the accumulator has one entry for each chain, and not too many."""
    one, two = (jax.tree.leaves(_empty(statistic, c, dim, dtype)) for c in (1, 2))
    own = all(b.shape == (2, *a.shape[1:]) and a.shape[:1] == (1,) for a, b in zip(one, two, strict=True))
    return own and sum(int(np.prod(a.shape)) for a in one) <= _NUMBERS


def _empty(statistic: Any, chains: int, dim: int, dtype: np.dtype) -> Any:
    return jax.eval_shape(lambda s, x: s.init(x), statistic, jax.ShapeDtypeStruct((chains, dim), dtype))


def _graph(kind: Any, statistics: dict, own: list[str], counting: list[str], dim: int, dtype: np.dtype) -> Traced:
    """One sample of one chain."""
    leaves, structure = jax.tree.flatten({n: statistics[n] for n in sorted(statistics)})
    shapes = [jax.ShapeDtypeStruct(np.shape(a), jnp.result_type(a)) for a in leaves]
    g = kind(FUNCTIONS, _OPERATIONS)
    places = block.arrange([(a.shape, np.dtype(a.dtype)) for a in shapes])
    tables = [p.view(a.shape, np.dtype(a.dtype)) for p, a in zip(places, shapes, strict=True)]
    shared = [t if t.size > 1 else entries(g, t) for t in tables]
    x = np.empty((1, dim), object)
    x[0] = [g.input("x", dtype, CHAIN, j) for j in range(dim)]
    alive, time = np.empty(1, object), np.empty((), object)
    alive[0], time[()] = g.input("live", bool, CHAIN), g.input("time", dtype, STEP)
    given = [jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((1, dim), dtype), jax.ShapeDtypeStruct((1,), bool)]
    before, after, boxes = [], [], []
    for name in own:
        held, tree = jax.tree.flatten(_empty(statistics[name], 1, dim, dtype))
        nodes = []
        for leaf in held:
            array = np.empty(leaf.shape, object)
            for i in np.ndindex(leaf.shape):
                array[i] = g.input("number", leaf.dtype, CHAIN, len(before))
                before.append(array[i])
            nodes.append(array)

        def update(ls: list, held: list, t: Any, x: Any, alive: Any, name: str = name, tree: Any = tree) -> list:
            return jax.tree.leaves(structure.unflatten(ls)[name].update(tree.unflatten(held), t, x, alive))

        new = evaluate(g, jax.make_jaxpr(update)(shapes, held, *given), *shared, *nodes, time, x, alive)
        after += [node for leaf in new for node in leaf.ravel()]
    for name in counting:
        find = lambda ls, x, alive, name=name: structure.unflatten(ls)[name].boxes(x, alive)
        boxes.append(evaluate(g, jax.make_jaxpr(find)(shapes, *given[1:]), *shared, x, alive)[0].item())
    return Traced(g, before, after, boxes)
