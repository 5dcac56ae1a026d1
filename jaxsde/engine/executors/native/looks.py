"""The statistics as machine code: what each adds for one chain, as a graph of scalars, over vectors of chains.

For an accumulator that each chain has of its own, the graph of `update`, kept in registers from sample to sample. For counts
that chains share, the graph of `boxes`, and a loop that counts. What a statistic calls rare (`sums.rarely`) is a branch. The
statistics that are neither stay with XLA.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..scalar import Unsupported, block, evaluate
from ..scalar.graph import CHAIN, STEP, Graph, Node, ordered
from ..scalar.indexing import entries
from ..scalar.plans import Plans
from . import build, floats, memory
from .vectors import TYPES, Printer
from .writer import Writer, stored

LANES = 16  # a tile is a multiple of this
_ROWS = 400  # numbers of each chain's accumulators: of more, LLVM would take longer than XLA does
_TOGETHER = 4  # samples that a number takes in before it goes back to memory
_COPIES = 4  # of the counts of a row
ARGUMENTS = (
    "ptr noalias %numbers, ptr noalias %tables, ptr noalias %out, ptr noalias %alive, ptr noalias %counts, ptr noalias %bases, "
    "ptr noalias %times, i64 %chains, i64 %samples, i64 %room, i64 %width"
)


class _Never(Graph):
    """A graph in which what is rare does not happen, and which remembers when it would."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.flags: list[Node] = []

    def op(self, name: str, dtype: Any, *args: Any) -> Node:
        if name != "rarely":
            return super().op(name, dtype, *args)
        self.flags.append(args[0])
        return self.literal(False, bool)


class Looks:
    """The code for these statistics: `own` are those with accumulators of each chain, `counting` those that count."""

    def __init__(self, statistics: dict, x: Any, dtype: np.dtype):
        self.dim, self.dtype = x.shape[0], dtype
        self.own: list[str] = []
        self.counting: list[str] = []
        for name, statistic in sorted(statistics.items()):  # the order of a tree's leaves
            try:
                if hasattr(statistic, "boxes"):
                    _graph(Graph, {name: statistic}, [], [name], self.dim, dtype)
                    self.counting.append(name)
                elif _per_chain(statistic, self.dim, dtype):
                    _graph(Graph, {name: statistic}, [name], [], self.dim, dtype)
                    self.own.append(name)
            except Unsupported:
                pass
        self.call: Any = None
        if self.own or self.counting:
            own, counting = (
                [_graph(kind, statistics, *names, self.dim, dtype) for kind in (Graph, _Never)]
                for names in ((self.own, []), ([], self.counting))
            )
            self.built = build.build(_Source(own, counting, self.dim, dtype, build.machine()).text())
            kinds = (*[ctypes.c_void_p] * 7, *[ctypes.c_int64] * 4)
            self.call = ctypes.CFUNCTYPE(None, *kinds)(self.built.address("advance"))


looks = Plans(Looks)


class Looking:
    """The accumulators of one tile while a launch lasts."""

    def __init__(self, code: Looks, statistics: dict, accumulators: dict, lanes: int, rows: int):
        self.code, self.statistics, self.accumulators, self.lanes = code, statistics, accumulators, lanes
        self.own = {name: accumulators[name] for name in code.own}
        # What belongs to a vector of chains lies together: [lanes / LANES, numbers, LANES], in bytes.
        leaves = [np.reshape(leaf, (lanes // LANES, LANES, -1)) for leaf in jax.tree.leaves(self.own)]
        self.vectors = memory.aligned(lanes // LANES, sum(a.shape[-1] for a in leaves), _slot_bytes(a.dtype for a in leaves))
        for leaf, place in zip(leaves, self._places(), strict=True):
            place[...] = leaf.transpose(0, 2, 1)
        shapes = [_counters(statistics[name]) for name in code.counting]
        self.counts = [np.zeros((rows, *shape), np.uint32) for shape in shapes]
        row, lane = np.arange(lanes) // (lanes // rows), np.arange(lanes)
        self.bases = [np.ascontiguousarray(row * (size * copies) + lane % copies, np.int32) for size, copies in shapes]
        self.tables = memory.tables(jax.tree.leaves({n: statistics[n] for n in sorted(statistics)}))
        self.pending = 0

    def _places(self) -> list[np.ndarray]:
        """Where the leaves of the accumulators are: ["vectors", entries, LANES] each."""
        found, first = [], 0
        for leaf in jax.tree.leaves(self.own):
            kind, entries = memory.row_bytes(leaf.dtype), int(np.prod(leaf.shape)) // self.lanes
            found.append(self.vectors[:, first : first + entries, : LANES * kind.itemsize].view(kind))
            first += entries
        return found

    def part(self, lanes: slice) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
        """`see(out, alive, times)` for some of the lanes: positions ["blocks room d width"], flags of living chains
        ["blocks room width"], and the times of as many samples as there are."""
        mine = self.vectors[lanes.start // LANES :]
        tables, counts, bases = (memory.pointers(a) for a in (self.tables, self.counts, [b[lanes] for b in self.bases]))
        size = lanes.stop - lanes.start

        def see(out: np.ndarray, alive: np.ndarray, times: np.ndarray) -> None:
            if self.pending + len(times) * size >= 1 << 32:
                self._settle()
            self.pending += len(times) * size
            at = ctypes.addressof
            self.code.call(
                mine.ctypes.data, at(tables), out.ctypes.data, alive.ctypes.data, at(counts), at(bases), times.ctypes.data,
                size, len(times), *alive.shape[1:],
            )  # fmt: skip

        return see

    def done(self) -> dict:
        """The accumulators after all that was seen, of these statistics."""
        self._settle()
        leaves, structure = jax.tree.flatten(self.own)
        back = [
            np.ascontiguousarray(place.transpose(0, 2, 1)).reshape(np.shape(leaf)).astype(leaf.dtype, copy=False)
            for place, leaf in zip(self._places(), leaves, strict=True)
        ]
        return {name: self.accumulators[name] for name in self.code.counting} | structure.unflatten(back)

    def _settle(self) -> None:
        for name, counts in zip(self.code.counting, self.counts, strict=True):
            self.accumulators = {
                **self.accumulators, name: self.accumulators[name].added(counts[:, :-1].sum(-1, dtype=np.int64))
            }  # fmt: skip
            counts[:] = 0
        self.pending = 0


def _slot_bytes(kinds: Iterable[Any]) -> int:
    """Room for any of the numbers of a vector of chains, which are of these types."""
    return LANES * max((np.dtype(kind).itemsize for kind in kinds), default=1)


class _Traced(NamedTuple):
    """The numbers of the accumulators before and after a sample, and the box of each statistic that counts."""

    graph: Any
    before: list[Node]
    after: list[Node]
    boxes: list[Node]
    copies: list[int]


def _counters(statistic: Any) -> tuple[int, int]:
    """(boxes, copies): with what is outside and what is nowhere; neighbouring chains count in copies of their own, where all
    of them stay in the cache: in one box, each would wait for the last one."""
    size = int(np.prod(statistic.shape)) + 2
    return size, _COPIES if size <= 2048 else 1


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
    return _Traced(g, before, after, boxes, [_counters(statistics[name])[1] for name in counting])


class _Source:
    """The module as text: for each vector of chains the samples as the accumulators see them, then as the boxes do.

    Where nothing rare happens in the next few samples, each number takes in all of
    them before it is put back; else they come one by one, with all that may happen. The operations on a number are the same.
    """

    def __init__(self, own: list[_Traced], counting: list[_Traced], dim: int, dtype: np.dtype, machine: build.Machine):
        self.own, self.counting, self.dim, self.real, self.machine = own, counting, dim, TYPES[dtype.name], machine
        self.slot = _slot_bytes(n.dtype for n in own[0].before)
        self.b, self.p = Writer(LANES, machine.bits), Writer(LANES, machine.bits)
        self.b.declarations, self.b.helpers = self.p.declarations, self.p.helpers
        self.p.fresh = 1_000_000  # names of the two writers stay apart
        self.loaded: dict[tuple[str, int], str] = {}
        self.kinds = [TYPES[n.dtype.name] for n in own[0].before]

    def text(self) -> str:
        b, p = self.b, self.p
        b.label("vector")
        b.line("%i = phi i64 [ 0, %entry ], [ %i.next, %store ]")
        b.line("%column = urem i64 %i, %width")
        b.line(f"%before = mul i64 {b.let('udiv i64 %i, %width')}, %room")  # samples of the blocks before
        first = b.let(f"mul i64 %i, {len(self.kinds) * self.slot // LANES}")
        held = b.let(f"getelementptr i8, ptr %numbers, i64 {first}")
        slots = [b.let(f"getelementptr i8, ptr {held}, i64 {r * self.slot}") for r in range(len(self.kinds))]
        b.line(f"br label %{'look' if self.kinds else 'boxes'}")
        if self.kinds:
            self._accumulate(slots)
        b.label("boxes")
        if self.counting[0].boxes:
            self._count()
        else:
            b.line("br label %store")
        b.label("store")
        b.line(f"%i.next = add i64 %i, {LANES}")
        b.line(f"br i1 {b.let('icmp slt i64 %i.next, %chains')}, label %vector, label %exit")
        b.label("exit")
        b.line("ret void")
        lines = [
            *p.helpers.values(), f"define void @advance({ARGUMENTS}) #0 {{", "entry:", *p.lines, "  br label %vector", *b.lines,
            "}", *p.declarations.values(), f"attributes #0 = {{ nounwind {self.machine.attributes} }}", "!0 = !{}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def _accumulate(self, slots: list[str]) -> None:
        b, (often, never) = self.b, self.own
        b.label("look")
        b.line("%s = phi i64 [ 0, %vector ], [ %s.next, %taken ]")
        b.line(f"%s.last = add i64 %s, {_TOGETHER}")
        b.line(f"br i1 {b.let('icmp sle i64 %s.last, %samples')}, label %several, label %one")
        b.label("several")
        printers = [self._printer(never, b.let(f"add i64 %s, {j}")) for j in range(_TOGETHER)]
        before: dict[int, str] = {}

        def value(r: int, j: int) -> str:
            """Number r before sample j, printed where it is first wanted."""
            if j:
                return need(j - 1, [never.after[r]])[0]
            if r not in before:
                before[r] = b.load(self.kinds[r], slots[r])
            return before[r]

        def need(j: int, roots: list[Node]) -> list[str]:
            for node in ordered(roots):
                if node.op == "number" and node.number not in printers[j].names:
                    printers[j].names[node.number] = value(node.args[0], j)
            return printers[j].need(roots)

        flags = [flag for j in range(_TOGETHER) for flag in need(j, never.graph.flags)]
        for printer in printers:
            printer.forget()
        b.line(f"br i1 {self._any(flags)}, label %one, label %plain")
        b.label("plain")
        for r, (old, new) in enumerate(zip(never.before, never.after, strict=True)):
            if new is not old:
                value(r, 0)  # others may want it, too, and here it is overwritten
                b.store(self.kinds[r], value(r, _TOGETHER), slots[r])
        b.line("br label %taken")
        b.label("one")
        printer = self._printer(often, "%s")
        printer.names |= {
            n.number: b.load(kind, slot) for n, kind, slot in zip(often.before, self.kinds, slots, strict=True)
        }
        for kind, slot, name in zip(self.kinds, slots, printer.need(often.after), strict=True):
            b.store(kind, name, slot)
        b.line("%s.one = add i64 %s, 1")
        b.line("br label %taken")
        b.label("taken")
        b.line("%s.next = phi i64 [ %s.last, %plain ], [ %s.one, %one ]")
        b.line(f"br i1 {b.let('icmp slt i64 %s.next, %samples')}, label %look, label %boxes")

    def _count(self) -> None:
        b, (often, never) = self.b, self.counting
        bases = [b.load("i32", self._place("i32", self._pointer("bases", k), "%i")) for k in range(len(never.boxes))]
        b.line("br label %box")
        b.label("box")
        b.line("%c = phi i64 [ 0, %boxes ], [ %c.next, %counted ]")
        printer = self._printer(never, "%c")
        flags, seldom = printer.need(never.graph.flags), printer.need(never.boxes)
        b.line(f"br i1 {self._any(flags)}, label %near, label %counted")
        b.label("near")
        close = self._printer(often, "%c").need(often.boxes)
        b.line("br label %counted")
        b.label("counted")
        wide, room = b.vector("i32"), self._room("i32", LANES)
        for k in range(len(bases)):
            b.line(f"%box{k} = phi {wide} [ {seldom[k]}, %box ], [ {close[k]}, %near ]")
        for k, base in enumerate(bases):
            counter = b.let(f"mul {wide} %box{k}, splat (i32 {never.copies[k]})")
            b.line(f"store {wide} {b.let(f'add {wide} {counter}, {base}')}, ptr {room}, align 64")
            for lane in range(LANES):
                box = b.let(f"load i32, ptr {self._place('i32', room, str(lane))}")
                where = self._place("i32", self._pointer("counts", k), b.let(f"zext i32 {box} to i64"))
                more = b.let(f"add i32 {b.let(f'load i32, ptr {where}')}, 1")
                b.line(f"store i32 {more}, ptr {where}")
        b.line("%c.next = add i64 %c, 1")
        b.line(f"br i1 {b.let('icmp slt i64 %c.next, %samples')}, label %box, label %store")

    def _printer(self, traced: _Traced, sample: str) -> Printer:
        """For one sample: its positions, flags and time are there."""
        b, known = self.b, {}
        at = b.let(f"add i64 %before, {sample}")
        for node in traced.graph.nodes.values():
            if node.op == "x":
                row = b.let(f"add i64 {b.let(f'mul i64 {at}, {self.dim}')}, {node.args[0]}")
                place = b.let(f"add i64 {b.let(f'mul i64 {row}, %width')}, %column")
                known[node] = b.load(self.real, self._place(self.real, "%out", place))
            elif node.op == "live":
                place = b.let(f"add i64 {b.let(f'mul i64 {at}, %width')}, %column")
                known[node] = b.load("i1", self._place("i1", "%alive", place))
            elif node.op == "time":
                known[node] = b.let(f"load {self.real}, ptr {self._place(self.real, '%times', sample)}")
        return Printer(traced.graph, b, self.p, known, lambda leaf: self._pointer("tables", leaf), self._room)

    def _any(self, flags: list[str]) -> str:
        rare = "false"
        for flag in flags:
            rare = self.b.let(f"or i1 {rare}, {self.b.any(flag)}")
        return rare

    def _room(self, scalar: str, size: int) -> str:
        """Room on the stack."""
        return self.p.let(f"alloca [{size} x {stored(scalar)}], align 64")

    def _pointer(self, array: str, i: int) -> str:
        if (array, i) not in self.loaded:
            place = self.p.let(f"getelementptr ptr, ptr %{array}, i64 {i}")
            self.loaded[array, i] = self.p.let(f"load ptr, ptr {place}")
        return self.loaded[array, i]

    def _place(self, scalar: str, array: str, index: str) -> str:
        return self.b.let(f"getelementptr {stored(scalar)}, ptr {array}, i64 {index}")
