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

from ...scalar.graph import Node, Unsupported
from ..rows import columns_of
from ..vectors import constant
from ..writer import TYPES, Writer, stored
from .arrays import Array, At, Index, Var, View, contiguous
from .body import Body

_PIECES = 64  # formulas that one array may be made of
_ALWAYS = 1 << 62
_UNROLLED = 16  # entries along an axis whose formula changes at each

Finish = Callable[[Body, Sequence[tuple[At, Node]]], None]


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
        self.multiplies = False  # matrices, of which each chain has its own
        # What is worked out when it is read: who prints its loops, given what is to be done with the entries of a tile.
        self.waiting: dict[Buffer, Callable[[Finish], None]] = {}
        self.buffers: list[Buffer] = []
        self.block = ""  # the label of the basic block that is being printed
        self.names = itertools.count()
        self.rooms: dict[str, str] = {}
        self.globals: list[str] = []

    def buffer(self, size: int, dtype: Any, *, lasts: bool = False) -> Buffer:
        """Memory from now on, or for as long as the code runs if it `lasts`."""
        buffer = Buffer(size, dtype, 0 if lasts else self.time, f"%room{len(self.buffers)}")
        buffer.last = _ALWAYS if lasts else buffer.last
        self.buffers.append(buffer)
        return buffer

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
                buffer.last = max(buffer.last, self.time)

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

    def stored(self, x: Array) -> Array:
        """x in memory."""
        if x.view is None:
            return self.fill(x, self.buffer(x.size, x.dtype))
        self.settle(x.view.source)
        return x

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
        for buffer in list(self.waiting) if any(unrolled) else ():
            self.settle(buffer)
        for ranges in itertools.product(*axes):
            if self.waiting and self._made_on_the_way(x, ranges, use):
                continue
            looped = [(0, 1) if u else r for r, u in zip(ranges, unrolled, strict=True)]
            with self.loops(looped) as index:
                body = self.graph()
                places = [[At(k) for k in range(n)] if u else [i] for i, u, n in zip(index, unrolled, x.shape, strict=True)]
                entries = [(at, body.entry(x, at)) for at in itertools.product(*places)]
                body.need([node for _, node in entries])
                for at, node in entries:
                    use(body, at, node)
        self.time += 1

    def _made_on_the_way(self, x: Array, ranges: Sequence[tuple[int, int]], use: Callable[[Body, Index, Node], None]) -> bool:
        """The same for one formula, in the loops of a product that it reads entry by entry, if there is one: the product then never
        lies in memory. Any others that it reads do from now on."""
        probe = [At.of(Var(f"%probe{d}", low, high)) if high - low > 1 else At(low) for d, (low, high) in enumerate(ranges)]
        body = self.graph()
        body.entry(x, tuple(probe))
        read = {n.args[:2] for n in body.g.nodes.values() if n.op == "cell" and n.args[0] in self.waiting}
        long = [d for d, at in enumerate(probe) if at.terms]
        if len(read) == len(long) == 1:
            ((buffer, at),), (low, high) = read, ranges[long[0]]
            if at == probe[long[0]].plus(-low) and high - low == buffer.size:
                self.waiting.pop(buffer)(self._finishing(x, buffer, probe, long[0], low, use))
                buffer.size = 0
                return True
        for buffer, _ in read:
            self.settle(buffer)
        return False

    def _finishing(
        self, x: Array, buffer: Buffer, probe: Sequence[At], axis: int, low: int, use: Callable[[Body, Index, Node], None]
    ) -> Finish:
        def finish(body: Body, entries: Sequence[tuple[At, Node]]) -> None:
            names = body.need([node for _, node in entries])
            places = [(*probe[:axis], at.plus(low), *probe[axis + 1 :]) for at, _ in entries]
            found = [body.entry(x, place) for place in places]
            known = {(at.const, frozenset(at.terms)): name for (at, _), name in zip(entries, names, strict=True)}
            for cell in body.g.nodes.values():
                if cell.op == "cell" and cell.args[0] is buffer:
                    at = cell.args[1]
                    body.printer.names[cell.number] = known[at.const, frozenset(at.terms)]
            body.need(found)
            for place, node in zip(places, found, strict=True):
                use(body, place, node)

        return finish

    def settle(self, buffer: Any) -> None:
        """Puts into memory what waits for its reader."""

        def finish(body: Body, entries: Sequence[tuple[At, Node]]) -> None:
            names = body.need([node for _, node in entries])
            for (at, _), name in zip(entries, names, strict=True):
                self.body.store(TYPES[buffer.dtype.name], name, self.address(buffer, at))

        if buffer in self.waiting:
            self.waiting.pop(buffer)(finish)

    def ready(self, x: Array) -> Array:
        """x so that its entries may be read many times."""
        return x if x.view is None and x.uniform and x.whole else self.stored(x)

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

    def own(self, entries: str) -> str:
        """Where an entry (an i32) of each chain's own is, in numbers."""
        b = self.body
        kind, lanes = b.vector("i32"), ", ".join(f"i32 {i}" for i in range(b.lanes))
        return b.let(f"add {kind} {b.let(f'mul {kind} {entries}, splat (i32 {b.lanes})')}, <{lanes}>")

    def gather(self, scalar: str, start: str, places: str) -> str:
        """A vector of the numbers that lie so far from the start, an i32 for each chain."""
        b, result = self.body, "poison"
        if b.gathers:
            return b.gather(scalar, start, places)
        kept = stored(scalar)
        for i, place in enumerate(self.lanes_of(places, "i32")):
            value = b.let(f"load {kept}, ptr {self.place(start, scalar, b.let(f'sext i32 {place} to i64'))}")
            result = b.let(f"insertelement {b.vector(kept)} {result}, {kept} {value}, i64 {i}")
        return b.let(f"icmp ne {b.vector(kept)} {result}, zeroinitializer") if scalar == "i1" else result

    def scatter(self, scalar: str, value: str, start: str, places: str) -> None:
        """Writes a vector there."""
        b = self.body
        if b.gathers:
            return b.scatter(scalar, value, start, places)
        values = self.lanes_of(value, scalar)
        for one, place in zip(values, self.lanes_of(places, "i32"), strict=True):
            b.line(f"store {stored(scalar)} {one}, ptr {self.place(start, scalar, b.let(f'sext i32 {place} to i64'))}")
        return None

    def write(self, out: Array, index: Index, name: str) -> None:
        assert out.view is not None
        self.body.store(TYPES[out.dtype.name], name, self.address(out.view.source, out.view.place(index)))
