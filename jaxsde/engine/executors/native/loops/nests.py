"""Loops over the entries of arrays, as LLVM IR: filling memory, sums, products of matrices, rows of examples.

What is printed one after the other runs one after the other; between two loops values go through buffers, whose places in one
block of scratch memory are chosen at the end, when it is known from where to where each is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...scalar.graph import CHAIN, STEP, Graph, Node, Unsupported
from ..rows import columns_of
from ..vectors import TYPES, Printer, constant
from ..writer import Writer, stored
from .arrays import Array, At, Index, Var, View, contiguous

_PIECES = 64  # formulas that one array may be made of
_UNROLLED = 16  # entries along an axis whose formula changes at each


class Buffer:
    """Memory for `size` vectors. Its place is known at the end, unless it has a `pointer` of its own."""

    def __init__(self, size: int, dtype: Any, began: int, pointer: str | None = None):
        self.size, self.dtype, self.first, self.last, self.pointer = size, np.dtype(dtype), began, began, pointer


class Loop:
    """A loop that is being printed. `next` are the values that it carries on: the caller sets them before it ends."""

    def __init__(self, var: Var, carried: list[str]):
        self.var, self.carried, self.next = var, carried, list[str]()

    @property
    def at(self) -> At:
        return At.of(self.var)


class Nests:
    """Prints to `body`, the innermost part of the function; what never changes goes to `preamble`."""

    def __init__(self, body: Writer, preamble: Writer, functions: Any, table: Callable[[Any], str], known: dict, register: int):
        self.body, self.preamble, self.functions, self.table = body, preamble, functions, table
        self.known = known  # (operation, argument) -> name, of the inputs that are not in memory
        self.registers = (28 if register == 512 else 12) // max(1, body.lanes * 32 // register)
        self.time = 0  # loops printed so far
        self.buffers: list[Buffer] = []
        self.block = ""  # the label of the basic block that is being printed
        self.names = itertools.count()
        self.rooms: dict[str, str] = {}
        self.globals: list[str] = []

    # ---- memory

    def buffer(self, size: int, dtype: Any) -> Buffer:
        self.buffers.append(Buffer(size, dtype, self.time, f"%room{len(self.buffers)}"))
        return self.buffers[-1]

    def view(self, buffer: Buffer, shape: Sequence[int], offset: int = 0) -> Array:
        return View(buffer, At(offset), contiguous(shape), buffer.dtype).array(shape)

    def places(self) -> tuple[list[str], int]:
        """Lines that tell where the buffers are in %scratch, and how many bytes they take together."""
        lines, held, total = [], list[tuple[int, int, Buffer]](), 0
        for buffer in self.buffers:
            held = [h for h in held if h[2].last >= buffer.first]
            size = -(-buffer.size * self.body.lanes * np.dtype(buffer.dtype).itemsize // 64) * 64
            start = 0
            for low, high, _ in sorted(held, key=lambda h: h[0]):
                if start + size <= low:
                    break
                start = max(start, high)
            held.append((start, start + size, buffer))
            total = max(total, start + size)
            lines.append(f"  {buffer.pointer} = getelementptr i8, ptr %scratch, i64 {start}")
        return lines, total

    def room(self, scalar: str) -> str:
        """Room on the stack for one vector."""
        if scalar not in self.rooms:
            self.rooms[scalar] = self.preamble.let(f"alloca [{self.body.lanes} x {stored(scalar)}], align 64")
        return self.rooms[scalar]

    def place(self, array: str, scalar: str, at: str) -> str:
        return self.body.let(f"getelementptr {stored(scalar)}, ptr {array}, i64 {at}")

    def address(self, buffer: Buffer, at: At, base: str | None = None) -> str:
        """Where an entry is, `base` (an i64 in entries) further on."""
        buffer.last = max(buffer.last, self.time)
        vectors = self.number(at.times(self.body.lanes))
        if base is not None:
            vectors = self.body.let(f"add i64 {vectors}, {self.body.let(f'mul i64 {base}, {self.body.lanes}')}")
        assert buffer.pointer is not None
        return self.place(buffer.pointer, TYPES[buffer.dtype.name], vectors)

    def number(self, at: At) -> str:
        """An index as an i64."""
        result = str(at.const) if at.const or not at.terms else ""
        for var, n in at.terms:
            term = var.name if n == 1 else self.body.let(f"mul i64 {var.name}, {n}")
            result = self.body.let(f"add i64 {result}, {term}") if result else term
        return result

    def constant(self, value: np.ndarray) -> str:
        """An array that is known now, as part of the code."""
        scalar = stored(TYPES[value.dtype.name])
        entries = (constant(Node(0, "literal", value.dtype, (v,), 0)) for v in value.ravel())
        words = ", ".join(f"{scalar} {dict(true='1', false='0').get(e, e)}" for e in entries)
        name = f"@given{len(self.globals)}"
        self.globals.append(f"{name} = private constant [{value.size} x {scalar}] [{words}], align 64")
        return name

    # ---- loops

    def label(self, name: str) -> None:
        self.body.label(name)
        self.block = name

    def jump(self, name: str) -> None:
        self.body.line(f"br label %{name}")
        self.label(name)

    @contextmanager
    def loop(
        self, low: int, high: int, step: int = 1, kinds: Sequence[str] = (), starts: Sequence[str] = ()
    ) -> Iterator[Loop]:
        """low, low + step, … below high, at least once. The carried values begin as `starts`, of types `kinds`."""
        name, b, before = f"loop{next(self.names)}", self.body, self.block
        self.jump(name)
        loop = Loop(Var(f"%{name}.i", low, high - step + 1), [f"%{name}.c{j}" for j in range(len(kinds))])
        b.line(f"%{name}.i = phi i64 [ {low}, %{before} ], [ %{name}.n, %{name}.latch ]")
        first, phis = self.time, len(b.lines)
        for kind, start, carried in zip(kinds, starts, loop.carried, strict=True):
            b.line(f"{carried} = phi {kind} [ {start}, %{before} ]")
        yield loop
        self._outlive(first)
        self.jump(f"{name}.latch")
        for j, new in enumerate(loop.next):
            b.lines[phis + j] += f", [ {new}, %{name}.latch ]"
        b.line(f"%{name}.n = add i64 %{name}.i, {step}")
        b.line(f"br i1 {b.let(f'icmp slt i64 %{name}.n, {high}')}, label %{name}, label %{name}.end")
        self.label(f"{name}.end")

    def _outlive(self, first: int) -> None:
        """What is read in a loop and was made before it is read again in the next round."""
        self.time += 1
        for buffer in self.buffers:
            if buffer.first <= first <= buffer.last:
                buffer.last = self.time

    @contextmanager
    def loops(self, ranges: Sequence[tuple[int, int]], steps: Sequence[int] | None = None) -> Iterator[Index]:
        """One loop inside the other; a range of one entry is no loop."""
        if not ranges:
            yield ()
            return
        (low, high), step = ranges[0], steps[0] if steps else 1
        rest = steps[1:] if steps else None
        if high - low <= step:
            with self.loops(ranges[1:], rest) as inner:
                yield (At(low), *inner)
        else:
            with self.loop(low, high, step) as loop, self.loops(ranges[1:], rest) as inner:
                yield (loop.at, *inner)

    def graph(self) -> Body:
        return Body(self)

    # ---- what loops do

    def stored(self, x: Array) -> Array:
        """x in memory."""
        return x if x.view is not None else self.fill(x, self.buffer(x.size, x.dtype))

    def fill(self, x: Array, buffer: Buffer, offset: int = 0) -> Array:
        """Writes x to the buffer."""
        out = self.view(buffer, x.shape, offset)
        self.each(x, lambda body, index, node: body.store(out, index, node))
        return out

    def each(self, x: Array, use: Callable[[Body, Index, Node], None]) -> None:
        """`use(body, index, entry)` for every entry, formula by formula."""
        self.time += 1
        axes, unrolled = [], []
        for n, cuts in zip(x.shape, x.cuts, strict=True):
            ends = sorted({0, n, *cuts})
            pieces = list(itertools.pairwise(ends))
            unrolled.append(1 < n <= _UNROLLED and len(pieces) > n // 2)
            axes.append([(0, n)] if unrolled[-1] else pieces)
        if np.prod([len(pieces) for pieces in axes]) > _PIECES:
            raise Unsupported("an array that is joined from very many")
        if not x.size:
            return
        for ranges in itertools.product(*axes):
            looped = [(0, 1) if u else r for r, u in zip(ranges, unrolled, strict=True)]
            with self.loops(looped) as index:
                body = self.graph()
                places = [[At(k) for k in range(n)] if u else [i] for i, u, n in zip(index, unrolled, x.shape, strict=True)]
                entries = [(at, body.entry(x, at)) for at in itertools.product(*places)]
                body.need([node for _, node in entries])
                for at, node in entries:
                    use(body, at, node)
        self.time += 1

    def fold(self, operation: str, x: Array, axes: Sequence[int]) -> Array:
        """The sum (or what the operation makes of them) of the entries along some axes."""
        kept = [d for d in range(len(x.shape)) if d not in axes]
        shape, count = [x.shape[d] for d in kept], int(np.prod([x.shape[d] for d in axes]))
        if not x.whole or not count:
            x = self.stored(x)
        out = self.view(self.buffer(int(np.prod(shape)), x.dtype), shape)
        if not count:
            raise Unsupported(f"a reduction ({operation}) of nothing")
        kind = self.body.vector(TYPES[x.dtype.name])
        *outer, last = axes
        together = 4 if x.shape[last] >= 8 else 1
        self.time += 1
        with self.loops([(0, n) for n in shape]) as at:

            def combine(body: Body, sums: list[Node], entries: list[Node]) -> list[Node]:
                return [body.g.op(operation, x.dtype, s, e) for s, e in zip(sums, entries, strict=True)]

            def entries(body: Body, inner: Index, count: int) -> list[Node]:
                found = []
                for j in range(count):
                    index = dict(zip(kept, at, strict=True)) | dict(zip(axes, inner, strict=True))
                    index[last] = index[last].plus(j)
                    found.append(body.entry(x, tuple(index[d] for d in range(len(x.shape)))))
                return found

            body = self.graph()
            start = body.need(_neutral(body.g, operation, x.dtype, together))
            sums = self._summed(
                [(0, x.shape[d]) for d in outer], x.shape[last], together, [kind] * together, start,
                lambda body, accs, inner, n: combine(body, accs, entries(body, inner, n)), x.dtype,
            )  # fmt: skip
            body = self.graph()
            nodes = [body.given(name, x.dtype) for name in sums]
            while len(nodes) > 1:
                nodes = [body.g.op(operation, x.dtype, a, b) for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
            body.store(out, at, nodes[0])
        self.time += 1
        return out

    def running(self, operation: str, x: Array, axis: int, reverse: bool) -> Array:
        """The sums (or what the operation makes of them) of the entries up to each, along an axis."""
        x = x if x.whole else self.stored(x)
        out = self.view(self.buffer(x.size, x.dtype), x.shape)
        kind, length = self.body.vector(TYPES[x.dtype.name]), x.shape[axis]
        self.time += 1
        with self.loops([(0, n) for d, n in enumerate(x.shape) if d != axis]) as at:
            start = self.graph().need(_neutral(self.graph().g, operation, x.dtype, 1))
            with self.loop(0, length, 1, [kind], start) as loop:
                body = self.graph()
                k = loop.at.times(-1).plus(length - 1) if reverse else loop.at
                index = (*at[:axis], k, *at[axis:])
                node = body.g.op(operation, x.dtype, body.given(loop.carried[0], x.dtype), body.entry(x, index))
                loop.next = body.need([node])
                body.store(out, index, node)
        self.time += 1
        return out

    def extreme(self, compare: str, x: Array, axis: int, index_dtype: Any) -> Array:
        """Where the largest or the smallest entry along an axis is; the first NaN wins, as in NumPy."""
        x = x if x.whole else self.stored(x)
        shape = [n for d, n in enumerate(x.shape) if d != axis]
        out = self.view(self.buffer(int(np.prod(shape)), index_dtype), shape)
        kinds = [self.body.vector(TYPES[np.dtype(t).name]) for t in (x.dtype, np.int32)]
        self.time += 1
        with self.loops([(0, n) for n in shape]) as at:
            body = self.graph()
            start = body.need([body.entry(x, (*at[:axis], At(), *at[axis:])), body.g.literal(0, np.int32)])
            with self.loop(0, x.shape[axis], 1, kinds, start) as loop:
                body = self.graph()
                g, best, where = body.g, body.given(loop.carried[0], x.dtype), body.given(loop.carried[1], np.int32)
                entry = body.entry(x, (*at[:axis], loop.at, *at[axis:]))
                better = g.op(compare, bool, entry, best)
                if x.dtype.kind == "f":
                    unknown, before = g.op("ne", bool, entry, entry), g.op("ne", bool, best, best)
                    better = g.op("and", bool, g.op("or", bool, better, unknown), g.op("not", bool, before))
                place = g.input("index", np.int32, STEP, loop.at)
                loop.next = body.need([
                    g.op("select", x.dtype, better, entry, best), g.op("select", np.int32, better, place, where)
                ])  # fmt: skip
            body = self.graph()
            body.store(out, at, body.g.op("convert", index_dtype, body.given(loop.next[1], np.int32)))
        self.time += 1
        return out

    def _summed(
        self, outer: list[tuple[int, int]], length: int, together: int, kinds: list[str], starts: list[str],
        step: Callable[[Body, list[Node], Index, int], list[Node]], dtype: Any,
    ) -> list[str]:  # fmt: skip
        """Carried values through loops over `outer` and then over `length`, several at once and then what remains one by one."""
        if outer:
            (low, high), *rest = outer
            with self.loop(low, high, 1, kinds, starts) as loop:
                loop.next = self._summed(
                    rest, length, together, kinds, loop.carried, lambda b, a, i, n: step(b, a, (loop.at, *i), n), dtype
                )
            return loop.next
        whole = length - length % together
        values = starts
        if whole:
            with self.loop(0, whole, together, kinds, starts) as loop:
                body = self.graph()
                nodes = [body.given(name, dtype) for name in loop.carried]
                loop.next = body.need(step(body, nodes, (loop.at,), together))
            values = loop.next
        for k in range(whole, length):
            body = self.graph()
            nodes = [body.given(name, dtype) for name in values]
            share = len(nodes) // together
            new = step(body, nodes[:share], (At(k),), 1)
            values = [*body.need(new), *values[share:]]
        return values

    def product(self, x: Array, y: Array, dtype: Any, turned: bool = False) -> Array:
        """Σ_k x[b, m, k] y[b, n, k] as [b, m, n]; `turned`: in the memory of [b, n, m]."""
        (batch, m, depth), n = x.shape, y.shape[1]
        x, y = (self.ready(a) for a in (x, y))
        buffer = self.buffer(batch * m * n, dtype)
        strides = (m * n, 1, m) if turned else (m * n, n, 1)
        out = View(buffer, At(), strides, buffer.dtype).array((batch, m, n))
        tile_m, tile_n = _tiles(m, n, x.uniform, y.uniform, self.registers)
        kind = self.body.vector(TYPES[np.dtype(dtype).name])
        self.time += 1
        # So many sums side by side that none waits for its own last addition; the tile has no say in the order of a sum.
        together = 1
        while m * n * together < 8 and 2 * together <= depth:
            together *= 2
        for rows, tm in _regions(m, tile_m):
            for columns, tn in _regions(n, tile_n):
                with self.loops([(0, batch), rows, columns], [1, tm, tn]) as (b, i, j):
                    tile = list(itertools.product(range(tm), range(tn)))

                    def step(
                        body: Body, sums: list[Node], inner: Index, count: int, b: At = b, i: At = i, j: At = j, tile: list = tile
                    ) -> list[Node]:
                        new = []
                        for t in range(count):
                            k = inner[0].plus(t)
                            for p, q in tile:
                                left, right = body.entry(x, (b, i.plus(p), k)), body.entry(y, (b, j.plus(q), k))
                                new.append(body.multiplied(left, right, sums[len(new)], dtype))
                        return new

                    size = len(tile) * together
                    zero = ["zeroinitializer"] * size
                    sums = self._summed([], depth, together, [kind] * size, zero, step, dtype)
                    body = self.graph()
                    nodes = [body.given(name, dtype) for name in sums]
                    while len(nodes) > len(tile):
                        half = len(nodes) // 2
                        nodes = [body.g.op("add", dtype, u, v) for u, v in zip(nodes[:half], nodes[half:], strict=True)]
                    body.need(nodes)
                    for (p, q), node in zip(tile, nodes, strict=True):
                        body.store(out, (b, i.plus(p), j.plus(q)), node)
        self.time += 1
        return out

    def ready(self, x: Array) -> Array:
        """x so that its entries may be read many times."""
        if x.view is not None or (x.uniform and x.whole):
            return x
        return self.stored(x)

    def rows(self, source: View, base: Array, shape: Sequence[int]) -> Array:
        """Rows of an array that chains share, each chain its own, as vectors of chains ["batch columns"]: `base` ["batch"]
        (int32) is where a row begins."""
        (batch, columns), scalar = shape, TYPES[source.dtype.name]
        out = self.view(self.buffer(batch * columns, source.dtype), shape)
        width = max(w for w in (4, 8, 16) if w * 8 * source.dtype.itemsize <= max(self.body.register, 128))
        self.time += 1
        with self.loops([(0, batch)]) as (b,):
            body = self.graph()
            name = body.need([body.entry(base, (b,))])[0]
            pointers = [
                self.place(self.table(source.source), scalar, self.body.let(f"sext i32 {lane} to i64"))
                for lane in self.lanes_of(name, "i32")
            ]
            whole = columns - columns % width
            for low, high, size in ((0, whole, width), (whole, columns, columns - whole)):
                if high > low:
                    with self.loops([(low, high)], [width]) as (c,):
                        shift = self.number(c.plus(source.offset))
                        moved = [self.place(p, scalar, shift) for p in pointers]
                        found = columns_of(self.body, scalar, moved, 0, width)
                        for j in range(size):
                            self.write(out, (b, c.plus(j)), found[j])
        self.time += 1
        return out

    def lanes_of(self, name: str, scalar: str) -> list[str]:
        """The number of each chain of a vector."""
        b, room = self.body, self.room(scalar)
        b.store(scalar, name, room)
        return [b.let(f"load {stored(scalar)}, ptr {self.place(room, scalar, str(i))}") for i in range(b.lanes)]

    def column(self, entry: str, chain: int) -> str:
        """Where a chain's own entry (an i32) is, in numbers."""
        wide = self.body.let(f"sext i32 {entry} to i64")
        return self.body.let(f"add i64 {self.body.let(f'mul i64 {wide}, {self.body.lanes}')}, {chain}")

    def write(self, out: Array, index: Index, name: str) -> None:
        assert out.view is not None
        self.body.store(TYPES[out.dtype.name], name, self.address(out.view.source, out.view.place(index)))


class Body:
    """The graph of one basic block, with the names of what is printed of it."""

    def __init__(self, nests: Nests):
        self.nests = nests
        self.g = Graph(nests.functions, 100_000)
        self.found: dict = {}
        self.printer = _Printer(nests, self.g)

    def entry(self, x: Array, index: Index) -> Node:
        return x.entry(self.g, self.found, index)

    def given(self, name: str, dtype: Any) -> Node:
        """A value that is there already."""
        node = self.g.input("given", dtype, CHAIN, name)
        self.printer.names[node.number] = name
        return node

    def need(self, nodes: Sequence[Node]) -> list[str]:
        return self.printer.need(nodes)

    def store(self, out: Array, index: Index, node: Node) -> None:
        self.nests.write(out, index, self.need([node])[0])

    def put(self, buffer: Buffer, at: At, base: Node, node: Node) -> None:
        """Writes an entry whose place is another one for each chain."""
        n, b, scalar = self.nests, self.nests.body, TYPES[buffer.dtype.name]
        if base.rate != CHAIN:
            (name,) = self.need([node])
            start = b.let(f"sext i32 {self.printer.scalar(base)} to i64")
            return b.store(scalar, name, n.address(buffer, at, start))
        lanes, name = self.need([base, node])
        values, start = n.lanes_of(name, scalar), n.address(buffer, at)
        for i, (lane, value) in enumerate(zip(n.lanes_of(lanes, "i32"), values, strict=True)):
            moved = n.column(lane, i)
            b.line(f"store {stored(scalar)} {value}, ptr {n.place(start, scalar, moved)}")
        return None

    def multiplied(self, x: Node, y: Node, total: Node, dtype: Any) -> Node:
        if np.dtype(dtype).kind == "f":
            return self.g.op("fma", dtype, x, y, total)
        return self.g.op("add", dtype, self.g.op("mul", dtype, x, y), total)


class _Printer(Printer):
    """Prints the nodes of loops: entries in memory, and counters."""

    def __init__(self, nests: Nests, graph: Graph):
        super().__init__(graph, nests.body, nests.preamble, {}, nests.table, None)
        self.nests = nests

    def _print(self, node: Node) -> None:
        n, b, scalar = self.nests, self.body, TYPES[node.dtype.name]
        if (node.op, node.args[0] if node.args else 0) in n.known:
            self.names[node.number] = n.known[node.op, node.args[0] if node.args else 0]
        elif node.op == "cell":
            buffer, at, *base = node.args
            if base and base[0].rate == CHAIN:
                self.names[node.number] = self._own(buffer, at, base[0])
            else:
                start = b.let(f"sext i32 {self.use(base[0], False)} to i64") if base else None
                self.names[node.number] = b.load(scalar, n.address(buffer, at, start))
        elif node.op == "datum":
            leaf, at, *base = node.args
            if base and base[0].rate == CHAIN:
                self.names[node.number] = self._row(leaf, at, base[0], scalar)
            else:
                shift = n.number(at)
                if base:
                    shift = b.let(f"add i64 {shift}, {b.let(f'sext i32 {self.use(base[0], False)} to i64')}")
                value = b.let(f"load {stored(scalar)}, ptr {n.place(n.table(leaf), scalar, shift)}, !invariant.load !0")
                self.names[node.number] = b.let(f"trunc i8 {value} to i1") if scalar == "i1" else value
        elif node.op == "index":
            at = n.number(node.args[0])
            self.names[node.number] = at if scalar == "i64" else b.let(f"trunc i64 {at} to {scalar}")
        else:
            super()._print(node)

    def scalar(self, node: Node) -> str:
        """The name of a number that all chains share."""
        self.need([node])
        return self.use(node, False)

    def _own(self, buffer: Buffer, at: At, base: Node) -> str:
        """An entry that is another one for each chain."""
        n, b, scalar = self.nests, self.body, TYPES[buffer.dtype.name]
        start, kind, result = n.address(buffer, at), b.vector(stored(scalar)), "poison"
        for i, lane in enumerate(n.lanes_of(self.use(base, True), "i32")):
            moved = n.column(lane, i)
            value = b.let(f"load {stored(scalar)}, ptr {n.place(start, scalar, moved)}")
            result = b.let(f"insertelement {kind} {result}, {stored(scalar)} {value}, i64 {i}")
        return b.let(f"icmp ne {kind} {result}, zeroinitializer") if scalar == "i1" else result

    def _row(self, leaf: Any, at: At, base: Node, scalar: str) -> str:
        n, b = self.nests, self.body
        shift = n.number(at)
        pointers = []
        for lane in n.lanes_of(self.use(base, True), "i32"):
            moved = b.let(f"add i64 {b.let(f'sext i32 {lane} to i64')}, {shift}")
            pointers.append(n.place(n.table(leaf), scalar, moved))
        return columns_of(b, scalar, pointers, 0, 1)[0]


def _neutral(g: Graph, operation: str, dtype: np.dtype, count: int) -> list[Node]:
    """What an operation begins with."""
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (False, True) if dtype.kind == "b" else (
        np.iinfo(dtype).min, np.iinfo(dtype).max)  # fmt: skip
    value = {"add": 0, "mul": 1, "max": low, "min": high, "and": -1 if dtype.kind == "i" else high, "or": 0, "xor": 0}
    return [g.literal(value[operation], dtype)] * count


def _tiles(m: int, n: int, x_uniform: bool, y_uniform: bool, registers: int) -> tuple[int, int]:
    """Entries of a product that are worked out together: as many as there are registers for. A number that chains share comes
    with the multiplication, so that side may be long."""
    registers = max(1, registers)
    if x_uniform != y_uniform:
        own, shared = (n, m) if x_uniform else (m, n)
        few = _even(own, 2 if registers >= 12 else 1)
        many = _even(shared, min(12, registers // few))
        return (many, few) if x_uniform else (few, many)
    side = max(1, int(np.sqrt(registers)) - 1)
    tm = _even(m, side)
    return tm, _even(n, registers // tm - 2 if tm < side else side)


def _even(size: int, most: int) -> int:
    """A tile of at most so many that leaves a last one of nearly the same size."""
    return -(-size // -(-size // max(1, most)))


def _regions(size: int, tile: int) -> list[tuple[tuple[int, int], int]]:
    whole = size - size % tile
    return [(r, t) for r, t in (((0, whole), tile), ((whole, size), size - whole)) if t and r[1] > r[0]]
