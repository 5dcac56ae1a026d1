"""The code by which statistics take in samples: numbers of each chain that are updated, and boxes that are counted.

    for some chains, and each entry of the schedule of a launch:
        the kernel takes steps, and leaves samples
        for each vector of chains:
            for each window of samples:         as far as nothing rare happens
                for each group of numbers:      the samples of the window, the numbers in registers
                where something rare happens:   one sample, with all that may happen
            for each window of samples:         the boxes of all of them, then the counts

The operations on a number are the same by either way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..scalar.graph import Graph, Node, ordered
from . import kernel, updates
from .build import Machine
from .seen import LANES
from .updates import Traced
from .vectors import Printer
from .writer import TYPES, Writer, stored

ARGUMENTS = (
    "ptr %kernel, ptr %state, ptr %tables, ptr %chain0, ptr %chain1, ptr %alive, ptr %survived, ptr %out, ptr %out_alive, "
    "i64 %chains, i64 %each, i32 %key0, i32 %key1, i64 %every, i64 %room, ptr %scratch, ptr %numbers, ptr %leaves, ptr %counts, "
    "ptr %bases, ptr %living, ptr %when, ptr %schedule, i64 %entries"
)
_LOOK = (
    "ptr noalias %numbers, ptr noalias %leaves, ptr noalias %out, ptr noalias %out_alive, ptr noalias %counts, "
    "ptr noalias %bases, ptr noalias %living, ptr noalias %times, i64 %begin, i64 %end, i64 %samples, i64 %room"
)
_FEWEST = 12  # numbers updated alike that are worth a loop, where they are updated seldom
_WINDOW = 16  # samples that a number takes in before it goes back to memory: their positions stay in the nearest cache


class Never(Graph):
    """A graph in which what is rare does not happen, and which remembers when it would."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.flags: list[Node] = []

    def op(self, name: str, dtype: Any, *args: Any) -> Node:
        if name != "rarely":
            return super().op(name, dtype, *args)
        self.flags.append(args[0])
        return self.literal(False, bool)


def slot_bytes(kinds: Iterable[Any]) -> int:
    """Room for any of the numbers of a vector of chains, which are of these types."""
    return LANES * max((np.dtype(kind).itemsize for kind in kinds), default=1)


def source(own: list[Traced], counting: list[Traced], dim: int, dtype: np.dtype, machine: Machine) -> str:
    """The module, as text: one function `advance`. `own` and `counting` are graphs as they are, and as they are where nothing rare
    happens (`Never`). Its arguments (`ARGUMENTS`):

    kernel … scratch   the code that takes steps and what it is given (`kernel.source`), but for the chains and the steps
    chains, each       how many chains the tile has, and how many of them are taken at a time: `out` has room for those
    numbers            of each vector of chains: its numbers [numbers, LANES], a slot each
    leaves             pointers to the arrays of the statistics
    counts, bases      pointers to the counts of each statistic that counts, and to the first of each chain's
    living             whether each chain is to be seen, bytes
    when               the times of the samples
    schedule, entries  [entries, 4]: the first step and the last, the steps until the first sample, and how many samples
    """
    return _Source(own, counting, dim, dtype, machine).text()


class _Source:
    def __init__(self, own: list[Traced], counting: list[Traced], dim: int, dtype: np.dtype, machine: Machine):
        self.own, self.counting, self.dim, self.real, self.machine = own, counting, dim, TYPES[dtype.name], machine
        self.slot = slot_bytes(n.dtype for n in own[0].before)
        self.b, self.p = Writer(LANES, machine.bits), Writer(LANES, machine.bits)
        self.b.declarations, self.b.helpers = self.p.declarations, self.p.helpers
        self.p.fresh = 1_000_000  # names of the two writers stay apart
        self.loaded: dict[tuple[str, int], str] = {}
        self.kinds = [TYPES[n.dtype.name] for n in own[0].before]
        # Three quarters of the registers, of which there are 32 where they have 512 bits, are for the numbers.
        registers = 32 if machine.bits == 512 or not machine.x86 else 16
        self.held = max(1, registers * machine.bits // (LANES * dtype.itemsize * 8) * 3 // 4)

    def text(self) -> str:
        b, p = self.b, self.p
        b.label("vector")
        b.line("%i = phi i64 [ %begin, %entry ], [ %i.next, %store ]")
        before = b.let("sub i64 %i, %begin")
        b.line(f"%before = mul i64 {b.let(f'udiv i64 {before}, {LANES}')}, %room")  # samples of the vectors before
        b.line(f"%seen = {self._flags('%living', '%i')}")
        first = b.let(f"mul i64 %i, {len(self.kinds) * self.slot // LANES}")
        held = b.let(f"getelementptr i8, ptr %numbers, i64 {first}")
        self.slots = [b.let(f"getelementptr i8, ptr {held}, i64 {r * self.slot}") for r in range(len(self.kinds))]
        b.line(f"br label %{'look' if self.kinds else 'boxes'}")
        if self.kinds:
            self._accumulate()
        b.label("boxes")
        if self.counting[0].boxes:
            self._count()
        else:
            b.line("br label %store")
        b.label("store")
        b.line(f"%i.next = add i64 %i, {LANES}")
        b.line(f"br i1 {b.let('icmp slt i64 %i.next, %end')}, label %vector, label %exit")
        b.label("exit")
        b.line("ret void")
        lines = [
            *p.helpers.values(), f"define internal void @look({_LOOK}) noinline #0 {{", "entry:", *p.lines, "  br label %vector",
            *b.lines, "}", *self._launch(), *p.declarations.values(),
            f"attributes #0 = {{ nounwind {self.machine.attributes} }}", "!0 = !{}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def _launch(self) -> list[str]:
        """The schedule for some chains after others, so that what belongs to them stays in the cache."""
        b = Writer(LANES, self.machine.bits)
        b.label("entry")
        b.line("br label %part")
        b.label("part")
        b.line("%begin = phi i64 [ 0, %entry ], [ %end, %done ]")
        b.line("%far = add i64 %begin, %each")
        b.line("%inside = icmp slt i64 %far, %chains")
        b.line("%end = select i1 %inside, i64 %far, i64 %chains")
        b.line("br label %call")
        b.label("call")
        b.line("%e = phi i64 [ 0, %part ], [ %e.next, %next ]")
        b.line("%times = phi ptr [ %when, %part ], [ %times.next, %next ]")
        row = b.let("getelementptr [4 x i64], ptr %schedule, i64 %e")
        for j, name in enumerate(("first", "last", "until", "samples")):
            place = b.let(f"getelementptr i64, ptr {row}, i64 {j}")
            b.line(f"%{name} = load i64, ptr {place}")
        b.line(f"call void %kernel({kernel.ARGUMENTS.replace('noalias ', '')})")
        b.line(f"br i1 {b.let('icmp sgt i64 %samples, 0')}, label %see, label %next")
        b.label("see")
        b.line(f"call void @look({_LOOK.replace('noalias ', '')})")
        b.line("br label %next")
        b.label("next")
        b.line(f"%times.next = getelementptr {self.real}, ptr %times, i64 %samples")
        b.line("%e.next = add i64 %e, 1")
        b.line(f"br i1 {b.let('icmp slt i64 %e.next, %entries')}, label %call, label %done")
        b.label("done")
        b.line(f"br i1 {b.let('icmp slt i64 %end, %chains')}, label %part, label %exit")
        b.label("exit")
        b.line("ret void")
        return [f"define void @advance({ARGUMENTS}) #0 {{", *b.lines, "}"]

    def _accumulate(self) -> None:
        b, (often, never) = self.b, self.own
        watched, groups = updates.grouped(never, self.held)
        b.label("look")
        b.line("%s = phi i64 [ 0, %vector ], [ %s.next, %taken ]")
        self._window("%s", "%s.end")
        begun = {r: self._load(r) for r in watched}
        b.line("br label %scan")

        b.label("scan")  # how far nothing rare happens
        b.line("%k = phi i64 [ %s, %look ], [ %k.next, %scan.on ]")
        phis = len(b.lines)
        b.line("%k.more = icmp slt i64 %k, %s.end")
        b.line("br i1 %k.more, label %scan.see, label %plain")
        b.label("scan.see")
        flags = never.graph.flags
        printer = self._printer(never, "%k", [*flags, *(never.after[r] for r in watched)], "scan", watched)
        rare = self._any(printer.need(flags))
        printer.forget()
        b.line(f"br i1 {rare}, label %plain, label %scan.on")
        b.label("scan.on")
        after = dict(zip(watched, printer.need([never.after[r] for r in watched]), strict=True))
        b.lines[phis:phis] = self._carried("scan", begun, after, "look", "scan.on")
        b.line("%k.next = add i64 %k, 1")
        b.line("br label %scan")

        b.label("plain")
        b.line("%rare = phi i1 [ false, %scan ], [ true, %scan.see ]")
        b.line("%some = icmp slt i64 %s, %k")
        b.line("br i1 %some, label %group0, label %taking")
        for g, (stored_numbers, carried) in enumerate(groups):
            self._group(f"group{g}", f"group{g + 1}", stored_numbers, carried)
        b.label(f"group{len(groups)}")
        for r in watched:
            b.store(self.kinds[r], f"%scan.{r}", self.slots[r])
        b.line("br label %taking")
        b.label("taking")
        b.line("br i1 %rare, label %one, label %taken")

        b.label("one")
        kinds = updates.kinds(often)
        if all(len(kind.members) < _FEWEST for kind in kinds):
            self._update(often, [r for kind in kinds for member in kind.members for r in member])
        else:
            for kind in kinds:
                if len(kind.members) < _FEWEST:
                    self._update(often, [r for member in kind.members for r in member])
                else:
                    self._repeated(often, kind)
        b.line("%s.one = add i64 %k, 1")
        b.line("br label %one.end")
        b.label("one.end")
        b.line("br label %taken")
        b.label("taken")
        b.line("%s.next = phi i64 [ %k, %taking ], [ %s.one, %one.end ]")
        b.line(f"br i1 {b.let('icmp slt i64 %s.next, %samples')}, label %look, label %boxes")

    def _update(self, traced: Traced, numbers: list[int]) -> None:
        """These numbers take in sample k."""
        roots = [traced.after[r] for r in numbers]
        for r, name in zip(numbers, self._printer(traced, "%k", roots).need(roots), strict=True):
            self.b.store(self.kinds[r], name, self.slots[r])

    def _repeated(self, traced: Traced, kind: updates.Kind) -> None:
        """The numbers of one member after the other take in sample k."""
        b, first = self.b, kind.members[0]
        before = self._printer(traced, "%k", kind.outside)
        before.need(kind.outside)
        known = {node: before.use(node, False) for node in ordered(kind.outside) if node.op != "literal"}
        inputs = [kind.inputs[0][i] for i in kind.varying]
        rows = [
            [self._offset(member[i]) for i in kind.varying] + [r * self.slot for r in numbers]
            for member, numbers in zip(kind.inputs, kind.members, strict=True)
        ]
        table = f"@members{len(b.declarations)}"
        words = ", ".join(f"i64 {word}" for row in rows for word in row)
        b.declarations[table] = f"{table} = private unnamed_addr constant [{len(rows) * len(rows[0])} x i64] [{words}]"
        sample = self._place(self.real, "%out", b.let(f"mul i64 {b.let('add i64 %before, %k')}, {self.dim * LANES}"))

        def body(m: str) -> None:
            row = self._place("i64", table, b.let(f"mul i64 {m}, {len(rows[0])}"))
            places = [b.let(f"load i64, ptr {self._place('i64', row, str(column))}") for column in range(len(rows[0]))]
            given, kept = places[: len(inputs)], places[len(inputs) :]
            for node, place in zip(inputs, given, strict=True):
                array, scalar = (self.slots[0], TYPES[node.dtype.name]) if node.op == "number" else (sample, self.real)
                known[node] = b.load(scalar, self._place("i8", array, place))
            roots = [traced.after[r] for r in first]
            printer = Printer(traced.graph, b, self.p, known, lambda leaf: self._pointer("leaves", leaf), self._room)
            for r, name, place in zip(first, printer.need(roots), kept, strict=True):
                b.store(self.kinds[r], name, self._place("i8", self.slots[0], place))

        b.repeat(len(rows), body)

    def _offset(self, node: Node) -> int:
        """Where a number, or a coordinate of a sample, lies: bytes."""
        return node.args[0] * (self.slot if node.op == "number" else LANES * node.dtype.itemsize)

    def _group(self, label: str, following: str, kept: list[int], carried: list[int]) -> None:
        """The samples from s up to k, of which these numbers are kept; those that are carried, they depend on."""
        b, (_, never) = self.b, self.own
        b.label(label)
        begun = {r: self._load(r) for r in carried}
        b.line(f"br label %{label}.loop")
        b.label(f"{label}.loop")
        k = f"%{label}.k"
        b.line(f"{k} = phi i64 [ %s, %{label} ], [ {k}.next, %{label}.loop ]")
        phis, roots = len(b.lines), [never.after[r] for r in carried]
        after = dict(zip(carried, self._printer(never, k, roots, label, carried).need(roots), strict=True))
        b.lines[phis:phis] = self._carried(label, begun, after, label, f"{label}.loop")
        b.line(f"{k}.next = add i64 {k}, 1")
        b.line(f"br i1 {b.let(f'icmp slt i64 {k}.next, %k')}, label %{label}.loop, label %{label}.end")
        b.label(f"{label}.end")
        for r in kept:
            b.store(self.kinds[r], after[r], self.slots[r])
        b.line(f"br label %{following}")

    def _count(self) -> None:
        b, (often, never) = self.b, self.counting
        wide, statistics = b.vector("i32"), range(len(never.boxes))
        bases = [b.load("i32", self._place("i32", self._pointer("bases", q), "%i")) for q in statistics]
        rooms = [self._room("i32", _WINDOW * LANES) for _ in statistics]
        b.line("br label %boxes.look")
        b.label("boxes.look")
        b.line("%c = phi i64 [ 0, %boxes ], [ %c.end, %counts.end ]")
        self._window("%c", "%c.end")
        b.line("br label %box")

        b.label("box")
        b.line("%e = phi i64 [ %c, %boxes.look ], [ %e.next, %boxed ]")
        flags = never.graph.flags
        printer = self._printer(never, "%e", [*flags, *never.boxes])
        rare = self._any(printer.need(flags))
        seldom = printer.need(never.boxes)
        b.line(f"br i1 {rare}, label %near, label %boxed")
        b.label("near")
        close = self._printer(often, "%e", often.boxes).need(often.boxes)
        b.line("br label %boxed")
        b.label("boxed")
        for q in statistics:
            b.line(f"%box{q} = phi {wide} [ {seldom[q]}, %box ], [ {close[q]}, %near ]")
        first = b.let(f"mul i64 {b.let('sub i64 %e, %c')}, {LANES}")
        for q in statistics:
            counter = b.let(f"add {wide} %box{q}, {bases[q]}")
            b.line(f"store {wide} {counter}, ptr {self._place('i32', rooms[q], first)}, align 64")
        b.line("%e.next = add i64 %e, 1")
        b.line(f"br i1 {b.let('icmp slt i64 %e.next, %c.end')}, label %box, label %counts.begin")

        # Counters of boxes that were stored long ago are there at once: right after the store, each would wait for it.
        b.label("counts.begin")
        b.line(f"%counted = mul i64 {b.let('sub i64 %c.end, %c')}, {LANES}")
        b.line("br label %counts.see")
        b.label("counts.see")
        b.line("%f = phi i64 [ 0, %counts.begin ], [ %f.next, %counts.see ]")
        for q in statistics:
            for lane in range(LANES):
                at = self._place("i32", rooms[q], b.let(f"add i64 %f, {lane}"))
                box = b.let(f"zext i32 {b.let(f'load i32, ptr {at}')} to i64")
                where = self._place("i32", self._pointer("counts", q), box)
                more = b.let(f"add i32 {b.let(f'load i32, ptr {where}')}, 1")
                b.line(f"store i32 {more}, ptr {where}")
        b.line(f"%f.next = add i64 %f, {LANES}")
        b.line(f"br i1 {b.let('icmp slt i64 %f.next, %counted')}, label %counts.see, label %counts.end")
        b.label("counts.end")
        b.line(f"br i1 {b.let('icmp slt i64 %c.end, %samples')}, label %boxes.look, label %store")

    def _window(self, start: str, end: str) -> None:
        far = self.b.let(f"add i64 {start}, {_WINDOW}")
        inside = self.b.let(f"icmp slt i64 {far}, %samples")
        self.b.line(f"{end} = select i1 {inside}, i64 {far}, i64 %samples")

    def _load(self, r: int) -> str:
        return self.b.load(self.kinds[r], self.slots[r])

    def _carried(self, label: str, begun: dict[int, str], after: dict[int, str], before: str, again: str) -> list[str]:
        """The lines that begin a loop: the numbers that go round in it, %label.r."""
        kinds = {r: self.b.vector(self.kinds[r]) for r in begun}
        return [
            f"  %{label}.{r} = phi {kinds[r]} [ {begun[r]}, %{before} ], [ {after[r]}, %{again} ]" for r in begun
        ]

    def _printer(
        self, traced: Traced, sample: str, roots: list[Node], label: str | None = None, carried: Iterable[int] = ()
    ) -> Printer:
        """For one sample: what the roots need of its positions, flags and time is there, and of the numbers: those that are
        carried round the loop of that label, the others from memory."""
        b, known, carried = self.b, {}, set(carried) if label else set()
        at = b.let(f"add i64 %before, {sample}")
        for node in ordered(roots):
            if node.op == "x":
                row = self._place(self.real, "%out", b.let(f"mul i64 {at}, {self.dim * LANES}"))
                known[node] = b.load(self.real, self._place(self.real, row, str(node.args[0] * LANES)))
            elif node.op == "live":
                flags = b.let(self._flags("%out_alive", b.let(f"mul i64 {at}, {LANES}")))
                known[node] = b.let(f"and {b.vector('i1')} {flags}, %seen")
            elif node.op == "time":
                known[node] = b.let(f"load {self.real}, ptr {self._place(self.real, '%times', sample)}")
            elif node.op == "number":
                r = node.args[0]
                known[node] = f"%{label}.{r}" if r in carried else self._load(r)
        return Printer(traced.graph, b, self.p, known, lambda leaf: self._pointer("leaves", leaf), self._room)

    def _flags(self, array: str, at: str) -> str:
        kind = self.b.vector("i8")
        flags = self.b.let(f"load {kind}, ptr {self._place('i8', array, at)}, align 1")
        return f"icmp ne {kind} {flags}, zeroinitializer"

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
