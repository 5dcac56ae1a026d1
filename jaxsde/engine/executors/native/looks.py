"""The statistics as machine code: what each adds for one chain, as a graph of scalars, over vectors of chains.

For an accumulator that each chain has of its own, the graph of `update`, kept in registers from sample to sample. For counts
that chains share, the graph of `boxes`, and a loop that counts. What a statistic calls rare (`sums.rarely`) is a branch. The
statistics that are neither stay with XLA.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..scalar import Unsupported, block, evaluate
from ..scalar.graph import CHAIN, STEP, Graph, Node
from ..scalar.indexing import entries
from ..scalar.plans import Plans
from . import build, floats, memory
from .vectors import TYPES, Printer
from .writer import Writer, stored

LANES = 16  # a tile is a multiple of this
_ROWS = 400  # numbers of each chain's accumulators: of more, LLVM would take longer than XLA does
ARGUMENTS = (
    "ptr noalias %rows, ptr noalias %tables, ptr noalias %out, ptr noalias %alive, ptr noalias %counts, ptr noalias %bases, "
    "ptr noalias %times, i64 %chains, i64 %samples"
)


class _Often(Graph):
    """A graph that remembers what is rare."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.flags: list[Node] = []

    def op(self, name: str, dtype: Any, *args: Any) -> Node:
        if name == "rarely":
            self.flags.append(args[0])
        return super().op(name, dtype, *args)


class _Never(Graph):
    """A graph in which what is rare does not happen."""

    def op(self, name: str, dtype: Any, *args: Any) -> Node:
        return self.literal(False, bool) if name == "rarely" else super().op(name, dtype, *args)


class Looks:
    """The code for these statistics: `own` are those with accumulators of each chain, `counting` those that count."""

    def __init__(self, statistics: dict, x: Any, dtype: np.dtype):
        self.dim, self.dtype = x.shape[0], dtype
        self.own: list[str] = []
        self.counting: list[str] = []
        for name, statistic in sorted(statistics.items()):  # the order of a tree's leaves
            try:
                if hasattr(statistic, "boxes"):
                    _graph(_Often, {name: statistic}, [], [name], self.dim, dtype)
                    self.counting.append(name)
                elif _per_chain(statistic, self.dim, dtype):
                    _graph(_Often, {name: statistic}, [name], [], self.dim, dtype)
                    self.own.append(name)
            except Unsupported:
                pass
        self.call: Any = None
        if self.own or self.counting:
            often, never = (_graph(g, statistics, self.own, self.counting, self.dim, dtype) for g in (_Often, _Never))
            self.built = build.build(_source(often, never, build.machine()))
            kinds = (*[ctypes.c_void_p] * 7, ctypes.c_int64, ctypes.c_int64)
            self.call = ctypes.CFUNCTYPE(None, *kinds)(self.built.address("advance"))


looks = Plans(Looks)


class Looking:
    """The accumulators of one tile while a launch lasts."""

    def __init__(self, code: Looks, statistics: dict, accumulators: dict, lanes: int, rows: int):
        self.code, self.statistics, self.accumulators, self.lanes = code, statistics, accumulators, lanes
        self.own = {name: accumulators[name] for name in code.own}
        self.numbers = [
            np.array(np.reshape(leaf, (lanes, -1)).T, memory.row_bytes(leaf.dtype), order="C")
            for leaf in jax.tree.leaves(self.own)
        ]
        sizes = [int(np.prod(statistics[name].shape)) + 2 for name in code.counting]
        self.counts = [np.zeros((rows, size), np.uint32) for size in sizes]
        row = np.arange(lanes) // (lanes // rows)
        self.bases = [np.ascontiguousarray(row * size, np.int32) for size in sizes]
        self.tables = memory.tables(jax.tree.leaves({n: statistics[n] for n in sorted(statistics)}))
        self.pending = 0

    def part(self, lanes: slice) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
        """`see(out, alive, times)` for some of the lanes: positions ["samples d lanes"], of which those of living chains count."""
        rows = memory.pointers([row for leaf in self.numbers for row in leaf], lanes.start)
        tables, counts, bases = (memory.pointers(a) for a in (self.tables, self.counts, [b[lanes] for b in self.bases]))
        size = lanes.stop - lanes.start

        def see(out: np.ndarray, alive: np.ndarray, times: np.ndarray) -> None:
            if self.pending + len(times) * size >= 1 << 32:
                self._settle()
            self.pending += len(times) * size
            at = ctypes.addressof
            self.code.call(
                at(rows), at(tables), out.ctypes.data, alive.ctypes.data, at(counts), at(bases), times.ctypes.data, size, len(times)
            )

        return see

    def done(self) -> dict:
        """The accumulators after all that was seen, of these statistics."""
        self._settle()
        leaves, structure = jax.tree.flatten(self.own)
        back = [
            np.ascontiguousarray(n.T).reshape(np.shape(leaf)).astype(leaf.dtype, copy=False)
            for n, leaf in zip(self.numbers, leaves, strict=True)
        ]
        return {name: self.accumulators[name] for name in self.code.counting} | structure.unflatten(back)

    def _settle(self) -> None:
        for name, counts in zip(self.code.counting, self.counts, strict=True):
            self.accumulators = {
                **self.accumulators, name: self.accumulators[name].added(counts[:, :-1].astype(np.int64))
            }  # fmt: skip
            counts[:] = 0
        self.pending = 0


class _Traced(NamedTuple):
    """The numbers of the accumulators before and after a sample, and the box of each statistic that counts."""

    graph: Any
    before: list[Node]
    after: list[Node]
    boxes: list[Node]


def _per_chain(statistic: Any, dim: int, dtype: np.dtype) -> bool:
    """Whether every leaf of the accumulator has one entry for each chain, and not too many."""
    one, two = (jax.tree.leaves(_empty(statistic, c, dim, dtype)) for c in (1, 2))
    own = all(b.shape == (2, *a.shape[1:]) and a.shape[:1] == (1,) for a, b in zip(one, two, strict=True))
    return own and sum(int(np.prod(a.shape)) for a in one) <= _ROWS


def _empty(statistic: Any, chains: int, dim: int, dtype: np.dtype) -> Any:
    return jax.eval_shape(lambda s, x: s.init(x), statistic, jax.ShapeDtypeStruct((chains, dim), dtype))


def _graph(kind: Any, statistics: dict, own: list[str], counting: list[str], dim: int, dtype: np.dtype) -> _Traced:
    """One sample of one chain."""
    leaves, structure = jax.tree.flatten({n: statistics[n] for n in sorted(statistics)})
    shapes = [jax.ShapeDtypeStruct(np.shape(a), jnp.result_type(a)) for a in leaves]
    g = kind(floats.FUNCTIONS)
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
        find = lambda ls, x, alive, name=name: structure.unflatten(ls)[name].boxes(x, alive)  # noqa: E731
        boxes.append(evaluate(g, jax.make_jaxpr(find)(shapes, *given[1:]), *shared, x, alive)[0].item())
    return _Traced(g, before, after, boxes)


def _source(often: _Traced, never: _Traced, machine: build.Machine) -> str:
    b, p = Writer(LANES, machine.bits), Writer(LANES, machine.bits)
    b.declarations, b.helpers = p.declarations, p.helpers
    p.fresh = 1_000_000  # names of the two writers stay apart
    scalars = [TYPES[n.dtype.name] for n in often.before]
    loaded: dict[tuple[str, int], str] = {}

    def pointer(array: str, i: int) -> str:
        if (array, i) not in loaded:
            loaded[array, i] = p.let(f"load ptr, ptr {p.let(f'getelementptr ptr, ptr %{array}, i64 {i}')}")
        return loaded[array, i]

    def place(scalar: str, array: str, index: str) -> str:
        return b.let(f"getelementptr {stored(scalar)}, ptr {array}, i64 {index}")

    b.label("vector")
    b.line("%i = phi i64 [ 0, %entry ], [ %i.next, %store ]")
    first = [b.load(s, place(s, pointer("rows", r), "%i")) for r, s in enumerate(scalars)]
    bases = [b.load("i32", place("i32", pointer("bases", k), "%i")) for k in range(len(often.boxes))]
    b.line("br label %sample")
    b.label("sample")
    b.line("%s = phi i64 [ 0, %vector ], [ %s.next, %latch ]")
    for r, s in enumerate(scalars):
        b.line(f"%n{r} = phi {b.vector(s)} [ {first[r]}, %vector ], [ %n{r}.next, %latch ]")
    inputs = [n for n in often.graph.nodes.values() if n.op == "x"]
    real, dim = TYPES[inputs[0].dtype.name], len(inputs)
    x = []
    for j in range(dim):
        row = b.let(f"add i64 {b.let(f'mul i64 %s, {dim}')}, {j}")
        x.append(b.load(real, place(real, "%out", b.let(f"add i64 {b.let(f'mul i64 {row}, %chains')}, %i"))))
    live = b.load("i1", place("i1", "%alive", b.let(f"add i64 {b.let('mul i64 %s, %chains')}, %i")))
    time = b.let(f"load {real}, ptr {place(real, '%times', '%s')}")
    known = {"x": x, "live": [live], "time": [time], "number": [f"%n{r}" for r in range(len(scalars))]}
    printers = []
    for traced in (often, never):
        names = {n: known[n.op][n.args[0] if n.args else 0] for n in traced.graph.nodes.values() if n.op in known}
        room = lambda scalar, size: p.let(f"alloca [{size} x {scalar}], align 64")  # noqa: E731
        printers.append(Printer(traced.graph, b, p, names, lambda leaf: pointer("tables", leaf), room))
    flags = printers[0].need(often.graph.flags)
    printers[0].forget()
    rare = "false"
    for flag in flags:
        rare = b.let(f"or i1 {rare}, {b.any(flag)}")
    b.line(f"br i1 {rare}, label %often, label %seldom")
    results = []
    for label, traced, printer in zip(("often", "seldom"), (often, never), printers, strict=True):
        b.label(label)
        results.append(printer.need([*traced.after, *traced.boxes]))
        b.line("br label %latch")
    b.label("latch")
    kinds = [*scalars, *["i32"] * len(often.boxes)]
    names = [*(f"%n{r}.next" for r in range(len(scalars))), *(f"%box{k}" for k in range(len(often.boxes)))]
    for kind, name, left, right in zip(kinds, names, *results, strict=True):
        b.line(f"{name} = phi {b.vector(kind)} [ {left}, %often ], [ {right}, %seldom ]")
    room = p.let(f"alloca [{LANES} x i32], align 64") if bases else ""
    for k, base in enumerate(bases):
        wide = b.vector("i32")
        b.line(f"store {wide} {b.let(f'add {wide} %box{k}, {base}')}, ptr {room}, align 64")
        for lane in range(LANES):
            box = b.let(f"load i32, ptr {place('i32', room, str(lane))}")
            where = place("i32", pointer("counts", k), b.let(f"sext i32 {box} to i64"))
            more = b.let(f"add i32 {b.let(f'load i32, ptr {where}')}, 1")
            b.line(f"store i32 {more}, ptr {where}")
    b.line("%s.next = add i64 %s, 1")
    b.line(f"br i1 {b.let('icmp slt i64 %s.next, %samples')}, label %sample, label %store")
    b.label("store")
    for r, s in enumerate(scalars):
        b.store(s, f"%n{r}.next", place(s, pointer("rows", r), "%i"))
    b.line(f"%i.next = add i64 %i, {LANES}")
    b.line(f"br i1 {b.let('icmp slt i64 %i.next, %chains')}, label %vector, label %exit")
    b.label("exit")
    b.line("ret void")
    lines = [
        *p.helpers.values(), f"define void @advance({ARGUMENTS}) #0 {{", "entry:", *p.lines, "  br label %vector", *b.lines, "}",
        *p.declarations.values(), f"attributes #0 = {{ nounwind {machine.attributes} }}", "!0 = !{}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
