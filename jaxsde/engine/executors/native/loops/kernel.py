"""The loop around the steps, where a step is itself made of loops.

    for each vector of chains:
        its state goes to memory that stays in the cache
        for each step:      the draws (of examples in an order, the next), the new state beside the old one, and whether
                            each chain stays inside the limit;
                            a chain that does not keeps its old state; the two states change places
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...scalar import block
from ...scalar.graph import CHAIN, CONSTANT, OWN, STEP, Graph, Node
from ..build import Machine
from ..functions import FUNCTIONS
from ..kernel import ARGUMENTS
from ..seen import Seen
from ..shuffled import Shuffled
from ..writer import TYPES, Writer, stored
from .arrays import Array, At, Index, View, scalar
from .body import Body
from .nests import Buffer, Nests
from .rules import Rules
from .structure import reshape
from .sums import fold


class Printed(NamedTuple):
    """A module as text, the bytes of scratch memory that a call needs, and whether matrices are multiplied of which each chain
    has its own."""

    text: str
    scratch: int
    multiplies: bool


def source(traced: block.Traced, limit: float, lanes: int, machine: Machine) -> Printed:
    """One function `advance`, with the arguments of the kernel of scalars, for vectors of `lanes` chains."""
    kernel = _Kernel(traced, limit, lanes, machine)
    return Printed(*kernel.text(), kernel.nests.multiplies)


class _Kernel:
    def __init__(self, traced: block.Traced, limit: float, lanes: int, machine: Machine):
        self.traced, self.limit, self.machine = traced, limit, machine
        self.p, self.b = (Writer(lanes, machine.bits, machine.x86) for _ in range(2))
        self.b.declarations, self.b.helpers = self.p.declarations, self.p.helpers
        self.p.fresh = 1_000_000  # names of the two writers stay apart
        self.loaded: dict[Any, str] = {}
        known = {("key", 0): "%key0", ("key", 1): "%key1", ("clock", 0): "%clock0", ("clock", 1): "%clock1",
                 ("chain", 0): "%word0", ("chain", 1): "%word1", ("number", 0): "%number"}  # fmt: skip
        self.nests = Nests(self.b, self.p, FUNCTIONS, self._table, known, machine.bits)
        self.dtype = traced.position.out_avals[0].dtype
        self.sizes = [int(np.prod(a.shape)) for a in traced.state]
        bytes_of = (n * lanes * a.dtype.itemsize for n, a in zip(self.sizes, traced.state, strict=True))
        self.ends = list(np.cumsum([0, *(-(-size // 64) * 64 for size in bytes_of)]))
        self.now, self.next = ([Buffer(n, a.dtype, 0, f"%{name}{r}") for r, (n, a) in
                                enumerate(zip(self.sizes, traced.state, strict=True))] for name in ("now", "next"))  # fmt: skip

    def text(self) -> tuple[str, int]:
        n, b = self.nests, self.b
        n.label("vector")
        b.line("%i = phi i64 [ %begin, %entry ], [ %i.next, %store ]")
        self.seen = Seen(b, int(np.prod(self.traced.position.out_avals[0].shape)), TYPES[self.dtype.name])
        for w in (0, 1):
            b.line(f"%word{w} = {self._words(w)}")
        survived0 = b.load("i32", b.let("getelementptr i32, ptr %survived, i64 %i"))
        alive0 = b.load("i1", b.let("getelementptr i8, ptr %alive, i64 %i"))
        self._transfer("%first.state", load=True)
        n.jump("start")
        n.jump("step")
        flags, u32 = b.vector("i1"), b.vector("i32")
        b.line(f"%living = phi {flags} [ {alive0}, %start ], [ %living.next, %latch ]")
        b.line(f"%done = phi {u32} [ {survived0}, %start ], [ %done.next, %latch ]")
        b.line("%step.i = phi i64 [ %first, %start ], [ %step.next, %latch ]")
        b.line("%wait = phi i64 [ %until, %start ], [ %wait.next, %latch ]")
        b.line("%slot = phi i64 [ 0, %start ], [ %slot.next, %latch ]")
        b.line("%old = phi ptr [ %first.state, %start ], [ %new, %latch ]")
        b.line("%new = phi ptr [ %second.state, %start ], [ %old, %latch ]")
        for r, start in enumerate(self.ends[:-1]):
            b.line(f"%now{r} = getelementptr i8, ptr %old, i64 {start}")
            b.line(f"%next{r} = getelementptr i8, ptr %new, i64 {start}")
        b.line("%clock0 = trunc i64 %step.i to i32")
        b.line(f"%clock1 = trunc i64 {b.let('lshr i64 %step.i, 32')} to i32")
        b.line(f"%number = uitofp i64 %step.i to {TYPES[self.dtype.name]}")
        inside = self._step(self._examples())
        b.line(f"%living.next = and {flags} %living, {inside}")
        b.line(f"%done.next = add {u32} %done, {b.let(f'zext {flags} %living.next to {u32}')}")
        b.line(f"br i1 {b.all('%living.next')}, label %moved, label %repair")
        n.label("repair")
        for old, new in zip(self._state(self.now), self._state(self.next), strict=True):
            self._choose(old, new)
        n.jump("moved")
        b.line("%due = icmp eq i64 %wait, 1")
        b.line("br i1 %due, label %look, label %latch")
        n.label("look")
        self._look()
        n.jump("looked")
        n.jump("latch")
        b.line(f"%wait.next = select i1 %due, i64 %every, i64 {b.let('sub i64 %wait, 1')}")
        b.line(f"%slot.next = add i64 %slot, {b.let('zext i1 %due to i64')}")
        b.line("%step.next = add i64 %step.i, 1")
        b.line(f"br i1 {b.let('icmp slt i64 %step.next, %last')}, label %step, label %store.state")
        n.label("store.state")
        self._transfer("%new", load=False)
        b.store("i32", "%done.next", b.let("getelementptr i32, ptr %survived, i64 %i"))
        b.store("i1", "%living.next", b.let("getelementptr i8, ptr %alive, i64 %i"))
        n.jump("store")
        b.line(f"%i.next = add i64 %i, {b.lanes}")
        b.line(f"br i1 {b.let('icmp slt i64 %i.next, %end')}, label %vector, label %exit")
        n.label("exit")
        b.line("ret void")

        places, scratch = n.places()
        size = int(self.ends[-1])
        lines = [
            *n.globals, *self.p.helpers.values(), f"define void @advance({ARGUMENTS}) #0 {{", "entry:",
            "  %empty = icmp sge i64 %first, %last", *places, f"  %first.state = getelementptr i8, ptr %scratch, i64 {scratch}",
            f"  %second.state = getelementptr i8, ptr %scratch, i64 {scratch + size}", *self.p.lines,
            "  br i1 %empty, label %exit, label %vector", *b.lines, "}", *self.p.declarations.values(),
            f"attributes #0 = {{ nounwind {self.machine.attributes} }}", "!0 = !{}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n", scratch + 2 * size

    def _words(self, w: int) -> str:
        """Word w of the numbers of these chains."""
        return f"load {self.b.vector('i32')}, ptr {self.b.let(f'getelementptr i32, ptr %chain{w}, i64 %i')}, align 4"

    def _state(self, buffers: list[Buffer]) -> list[Array]:
        return [self.nests.view(buffer, a.shape) for buffer, a in zip(buffers, self.traced.state, strict=True)]

    def _examples(self) -> list[Array]:
        """The examples of a step where they come in an order ["1 b"]; else the step draws them."""
        n, b, order = self.nests, self.b, self.traced.order
        if order is None:
            return []
        b.line(f"%epoch = udiv i64 %step.i, {order.steps}")
        b.line(f"%position = urem i64 %step.i, {order.steps}")
        if not order.permuted:
            n.known["position", 0] = b.let("trunc i64 %position to i32")

            def next_one(g: Graph, j: At) -> Node:
                return order.next(g, g.input("index", np.uint32, STEP, j) if j.terms else g.literal(j.const, np.uint32))

            return [Array((1, order.draws.indices), np.int32, lambda i: ((), lambda g: next_one(g, i[1])), uniform=True)]
        rooms = list[Buffer]()

        def room(scalar: str, entries: int) -> str:  # kept from step to step
            rooms.append(n.buffer(entries // b.lanes, np.int32, lasts=True))
            assert rooms[-1].pointer is not None
            return rooms[-1].pointer

        shuffled = Shuffled(order, b, self.p, room)
        start = shuffled.look_up(["%word0", "%word1"], "%step.i")
        n.block = "ordered"
        n.known["start", 0] = b.let(f"trunc i64 {start} to i32")
        found = rooms[-1]

        def place(g: Graph, j: At) -> Node:
            return g.input("cell", np.int32, CHAIN, found, j, g.input("start", np.int32, STEP))

        return [Array((1, order.draws.indices), np.int32, lambda i: ((), lambda g: place(g, i[1])), uniform=False, work=0)]

    def _step(self, examples: list[Array]) -> str:
        """Prints a step, from the buffers of the old state to those of the new; whether each chain is inside."""
        n, t = self.nests, self.traced
        word = lambda op, i, rate: scalar(lambda g: g.input(op, np.uint32, rate, i), np.uint32, not rate & OWN)
        words = [word(op, i, rate) for op, rate in (("key", CONSTANT), ("chain", OWN), ("clock", STEP)) for i in (0, 1)]
        drawn = Rules(n, stores=False).evaluate(t.draws, *words)
        drawn = [n.stored(x) if x.work else x for x in drawn] + examples
        rules = Rules(n, stores=True)
        one = [reshape(n, [], x, new_sizes=x.shape[1:]) for x in drawn]
        number = scalar(lambda g: g.input("number", self.dtype, STEP, 0), self.dtype, True)
        after = rules.evaluate(t.step, *self._shared(), *self._state(self.now), *one, number, written=True)
        for x, buffer in zip(after, self.next, strict=True):
            n.fill(x, buffer)
        place = self._position(self.next)
        bound, axes = float(self.limit), list(range(len(place.shape)))
        # Flags in registers of their own, or, where there are none (AVX-512 has them), as numbers of the same width.
        masks = self.machine.bits == 512
        flag = np.dtype(bool if masks else f"int{8 * self.dtype.itemsize}")

        def parts(i: Index) -> Any:
            def rule(g: Graph, x: Node) -> Node:  # false for NaN
                inside = g.op("lt", bool, g.op("abs", self.dtype, x), g.literal(bound, self.dtype))
                return inside if masks else g.op("select", flag, inside, g.literal(-1, flag), g.literal(0, flag))

            return [(place, i)], rule

        inside = fold(n, "and", Array(place.shape, flag, parts, uniform=False, cuts=place.cuts), axes)
        body = n.graph()
        found = body.entry(inside, ())
        return body.need([found if masks else body.g.op("ne", bool, found, body.g.literal(0, flag))])[0]

    def _shared(self) -> list[Array]:
        places = block.arrange([(a.shape, np.dtype(a.dtype)) for a in self.traced.shared])
        found = []
        for place, a in zip(places, self.traced.shared, strict=True):
            table = place.view(a.shape, np.dtype(a.dtype))
            found.append(View(table.leaf, At(table.offset), table.strides, table.dtype).array(table.shape))
        return found

    def _position(self, state: list[Buffer]) -> Array:
        return Rules(self.nests, stores=True).evaluate(self.traced.position, *self._shared(), *self._state(state))[0]

    def _choose(self, old: Array, new: Array) -> None:
        """The old entries for the chains that have left."""

        def use(body: Body, at: Index, node: Node) -> None:
            living = body.given("%living.next", bool)
            body.store(new, at, body.g.op("select", new.dtype, living, node, body.entry(old, at)))

        self.nests.each(new, use)

    def _look(self) -> None:
        """Writes the positions where the statistics read them."""
        place, sample = self._position(self.next), self.seen.sample("%slot")

        def use(body: Body, at: Index, node: Node) -> None:
            self.seen.component(sample, self.nests.number(at[0]), body.need([node])[0])

        self.nests.each(place, use)
        self.seen.living(sample, "%living.next")

    def _transfer(self, memory: str, load: bool) -> None:
        """The rows of the state of these chains, into the memory or back."""
        n, b, first = self.nests, self.b, 0
        for size, a, start in zip(self.sizes, self.traced.state, self.ends, strict=False):
            kind = TYPES[np.dtype(a.dtype).name]
            leaf = b.let(f"getelementptr i8, ptr {memory}, i64 {start}")
            if size:
                with n.loops([(0, size)]) as (r,):
                    row = b.let(f"load ptr, ptr {b.let(f'getelementptr ptr, ptr %state, i64 {n.number(r.plus(first))}')}")
                    outer = b.let(f"getelementptr {stored(kind)}, ptr {row}, i64 %i")
                    inner = n.place(leaf, kind, n.number(r.times(b.lanes)))
                    source, target = (outer, inner) if load else (inner, outer)
                    b.store(kind, b.load(kind, source), target)
            first += size

    def _table(self, leaf: Any) -> str:
        if isinstance(leaf, str):
            return leaf
        if leaf not in self.loaded:
            place = self.p.let(f"getelementptr ptr, ptr %tables, i64 {leaf}")
            self.loaded[leaf] = self.p.let(f"load ptr, ptr {place}")
        return self.loaded[leaf]
