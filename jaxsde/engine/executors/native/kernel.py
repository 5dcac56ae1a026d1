"""The loop around the steps: vectors of chains, blocks of steps, and the positions that the statistics ask for.

    for each vector of chains:
        for each block of steps:            the draws of the block, then its steps, in registers
            a whole block, and every chain stays inside the limit:  take it
            otherwise:                      take it again, step by step, each under its mask

A chain's numbers are the same by either way, so they do not depend on the chains beside it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..scalar.block import Steps
from ..scalar.graph import Graph, Node
from .build import Machine
from .seen import Seen
from .shuffled import Shuffled
from .vectors import Printer
from .writer import TYPES, Writer, stored

ARGUMENTS = (
    "ptr noalias %state, ptr noalias %tables, ptr noalias %chain0, ptr noalias %chain1, ptr noalias %alive, "
    "ptr noalias %survived, ptr noalias %out, ptr noalias %out_alive, i64 %begin, i64 %end, i32 %key0, i32 %key1, i64 %first, "
    "i64 %last, i64 %until, i64 %every, i64 %room, ptr noalias %scratch"
)
NEVER = 1 << 62  # steps until a look


class Begin(NamedTuple):
    """How the state of a generator begins that is carried along, anew after so many `steps`."""

    graph: Graph
    state: list[Node]
    steps: int


def source(fast: Steps, masked: Steps, begin: Begin | None, lanes: int, machine: Machine) -> str:
    """The module, as text: one function `advance` for vectors of `lanes` chains. Its arguments (`ARGUMENTS`):

    begin … end        the chains of the tile to take; what is said of chains below has an entry for each of the tile
    state, tables      pointers to the rows of the state, [chains] each, and to the arrays that chains share
    chain0, chain1     the two words of each chain's number; of `near` chains, the second is one
    alive, survived    bytes and uint32, read and written
    out, out_alive     positions [(end - begin) / LANES, room, d, LANES] and whether the chain lived, bytes without the d: room for
                       so many samples (`seen.py`)
    first … last       the steps to take, none beyond `turn(first)`; the statistics look `until` steps after `first`, then every
                       `every` steps
    scratch            memory that this kernel does without
    """
    return _Kernel(fast, masked, begin, lanes, machine).text()


def turn(step: int) -> int:
    """The first step after this one with another upper word, where a call of the code has to end."""
    return (step | 0xFFFFFFFF) + 1


class _Kernel:
    def __init__(self, fast: Steps, masked: Steps, begin: Begin | None, lanes: int, machine: Machine):
        self.begin = begin
        self.fast, self.masked, self.lanes, self.attributes = fast, masked, lanes, machine.attributes
        self.preamble, self.own, self.body = (Writer(lanes, machine.bits, machine.x86) for _ in range(3))
        for writer, names in ((self.own, 1_000_000), (self.preamble, 2_000_000)):  # which stay apart
            writer.declarations, writer.helpers, writer.fresh = self.body.declarations, self.body.helpers, names
        self.rows: dict[int, str] = {}
        self.loaded: dict[int, str] = {}
        self.rooms = 0

    def text(self) -> str:
        b, p = self.body, self.preamble
        size = len(self.fast.state)
        scalars = [TYPES[n.dtype.name] for n in self.fast.state]
        kinds = [b.vector(scalar) for scalar in scalars]
        u32 = b.vector("i32")
        for r in range(size):
            place = p.let(f"getelementptr ptr, ptr %state, i64 {r}")
            self.rows[r] = p.let(f"load ptr, ptr {place}")
        length = self.fast.length
        p.line(f"%start = and i64 %first, {-length if self.begin is None else -self.begin.steps}")
        p.line("%empty = icmp sge i64 %first, %last")
        p.line(f"%clock1 = trunc i64 {p.let('lshr i64 %first, 32')} to i32")

        b.label("vector")
        b.line("%i = phi i64 [ %begin, %entry ], [ %i.next, %store ]")
        self.seen = Seen(b, len(self.fast.positions[0]), self._real())
        before = []
        for r, scalar in enumerate(scalars):
            before.append(b.load(scalar, b.let(f"getelementptr {stored(scalar)}, ptr {self.rows[r]}, i64 %i")))
        chain = [b.load("i32", b.let(f"getelementptr i32, ptr %chain{w}, i64 %i")) for w in (0, 1)]
        survived0 = b.load("i32", b.let("getelementptr i32, ptr %survived, i64 %i"))
        alive0 = b.load("i1", b.let("getelementptr i8, ptr %alive, i64 %i"))
        own = len(b.lines)
        b.line("br label %block")

        b.label("block")
        state = [f"%s{r}" for r in range(size)]
        for r, kind in enumerate(kinds):
            b.line(f"{state[r]} = phi {kind} [ {before[r]}, %vector ], [ %s{r}.next, %latch ]")
        b.line(f"%living = phi {b.vector('i1')} [ {alive0}, %vector ], [ %living.next, %latch ]")
        b.line(f"%done = phi {u32} [ {survived0}, %vector ], [ %done.next, %latch ]")
        for r in range(len(self.fast.generator)):
            b.line(f"%g{r} = phi {u32} [ zeroinitializer, %vector ], [ %g{r}.next, %latch ]")
        b.line("%step = phi i64 [ %start, %vector ], [ %step.next, %latch ]")
        b.line("%wait = phi i64 [ %until, %vector ], [ %wait.next, %latch ]")
        b.line("%slot = phi i64 [ 0, %vector ], [ %slot.next, %latch ]")
        b.line(f"%step.next = add i64 %step, {length}")
        b.line("%clock0 = trunc i64 %step to i32")
        numbers = [b.let(f"uitofp i64 {b.let(f'add i64 %step, {j}')} to {self._real()}") for j in range(length)]
        order, position, examples = self.fast.order, [], []
        if order is not None:
            b.line(f"%epoch = udiv i64 %step, {order.steps}")
            b.line(f"%position = urem i64 %step, {order.steps}")
            position = [b.let("trunc i64 %position to i32")]
            if order.permuted:
                examples = Shuffled(order, b, p, self._room).examples(chain)
        known: dict[str, list[str]] = {
            "key": ["%key0", "%key1"],
            "chain": [chain[0], p.let("load i32, ptr %chain1") if self.fast.near else chain[1]],
            "clock": ["%clock0", "%clock1"],
            "generator": [],
            "state": state,
            "number": numbers,
            "position": position,
            "index": examples,
        }
        skipped = self._carry(known) if self.begin is not None else []
        begun = b.let("icmp sge i64 %step, %first")
        ends = b.let("icmp sle i64 %step.next, %last")
        whole = b.let(f"and i1 {begun}, {ends}")
        all_alive = b.all("%living")
        b.line(f"br i1 {b.let(f'and i1 {whole}, {all_alive}')}, label %fast, label %masked")

        b.label("fast")
        fast_after, generator, wait, slot = self._fast(known)
        kept = b.all(self._need(self.fast_printer, [self.fast.alive])[0])
        add = b.let(f"add {u32} %done, splat (i32 {length})")
        b.line(f"br i1 {kept}, label %fast.end, label %masked")
        b.label("fast.end")
        b.line("br label %latch")

        b.label("masked")
        after, generator_masked, alive, survived, wait_masked, slot_masked = self._masked(known)
        b.line("br label %masked.end")
        b.label("masked.end")
        b.line("br label %latch")

        b.label("latch")

        def merged(name: str, kind: str, fast: str, masked: str, before: str) -> None:
            skip = f", [ {before}, %skip.end ]" if skipped else ""
            b.line(f"{name}.next = phi {kind} [ {fast}, %fast.end ], [ {masked}, %masked.end ]{skip}")

        for r, kind in enumerate(kinds):
            merged(f"%s{r}", kind, fast_after[r], after[r], state[r])
        for r, words in enumerate(zip(generator, generator_masked, skipped, strict=True)):
            merged(f"%g{r}", u32, *words)
        merged("%living", b.vector("i1"), "%living", alive, "%living")
        merged("%done", u32, add, survived, "%done")
        merged("%wait", "i64", wait, wait_masked, "%wait")
        merged("%slot", "i64", slot, slot_masked, "%slot")
        b.line("%more = icmp slt i64 %step.next, %last")
        b.line("br i1 %more, label %block, label %store")

        b.label("store")
        for r, scalar in enumerate(scalars):
            b.store(scalar, f"%s{r}.next", b.let(f"getelementptr {stored(scalar)}, ptr {self.rows[r]}, i64 %i"))
        b.store("i32", "%done.next", b.let("getelementptr i32, ptr %survived, i64 %i"))
        b.store("i1", "%living.next", b.let("getelementptr i8, ptr %alive, i64 %i"))
        b.line(f"%i.next = add i64 %i, {self.lanes}")
        b.line("%again = icmp slt i64 %i.next, %end")
        b.line("br i1 %again, label %vector, label %exit")
        b.label("exit")
        b.line("ret void")
        b.lines[own:own] = self.own.lines

        lines = [
            *self.preamble.helpers.values(),
            f"define void @advance({ARGUMENTS}) #0 {{",
            "entry:",
            *p.lines,
            "  br i1 %empty, label %exit, label %vector",
            *b.lines,
            "}",
            *self.preamble.declarations.values(),
            f"attributes #0 = {{ nounwind {self.attributes} }}",
            "!0 = !{}",
        ]
        return "\n".join(lines) + "\n"

    def _carry(self, known: dict[str, list[str]]) -> list[str]:
        """Makes the state of a generator known, which begins anew now and then. Steps before the first only draw: the state after
        them."""
        b, begin = self.body, self.begin
        assert begin is not None
        b.line("br label %generator")
        b.label("generator")
        anew = b.let(f"icmp eq i64 {b.let(f'and i64 %step, {begin.steps - 1}')}, 0")
        b.line(f"br i1 {anew}, label %anew, label %generated")
        b.label("anew")
        first = self._need(self._printer(begin.graph, known), begin.state)
        b.line("br label %generated")
        b.label("generated")
        u32 = b.vector("i32")
        for r, word in enumerate(first):
            known["generator"].append(b.let(f"phi {u32} [ %g{r}, %generator ], [ {word}, %anew ]"))
        b.line(f"br i1 {b.let('icmp sle i64 %step.next, %first')}, label %skip, label %taken")
        b.label("skip")
        after = self._need(self._printer(self.fast.graph, known), self.fast.generator_after)
        b.line("br label %skip.end")
        b.label("skip.end")
        b.line("br label %latch")
        b.label("taken")
        return after

    def _printer(self, graph: Graph, known: dict[str, list[str]], roots: list[Node] | None = None) -> Printer:
        inputs = _inputs(graph, known)
        return Printer(graph, self.body, self.preamble, inputs, self._table, self._room, self.own, roots)

    def _fast(self, known: dict[str, list[str]]) -> tuple[list[str], list[str], str, str]:
        """A block of steps without masks: where it leaves the state (and that of the generator), and the place in the schedule of
        the statistics."""
        b, steps = self.body, self.fast
        self.fast_printer = self._printer(steps.graph, known, steps.roots)
        wait, slot = "%wait", "%slot"
        for j, position in enumerate(steps.positions):
            at = self._need(self.fast_printer, position)
            b.line(f"br label %fast{j}.test")
            b.label(f"fast{j}.test")
            b.line(f"br i1 {b.let(f'icmp eq i64 {wait}, {j + 1}')}, label %fast{j}.sample, label %fast{j}.next")
            b.label(f"fast{j}.sample")
            self._write(slot, at, None)
            later, following = b.let(f"add i64 {wait}, %every"), b.let(f"add i64 {slot}, 1")
            b.line(f"br label %fast{j}.next")
            b.label(f"fast{j}.next")
            wait, slot = (
                b.let(f"phi i64 [ {old}, %fast{j}.test ], [ {new}, %fast{j}.sample ]")
                for old, new in ((wait, later), (slot, following))
            )
        after, generator = (self._need(self.fast_printer, nodes) for nodes in (steps.after, steps.generator_after))
        return after, generator, b.let(f"sub i64 {wait}, {steps.length}"), slot

    def _masked(self, known: dict[str, list[str]]) -> tuple[list[str], list[str], str, str, str, str]:
        """The same step by step: a step that is not of this launch, or that a chain does not survive, is not taken."""
        b, steps = self.body, self.masked
        going = []
        for j in range(steps.length):
            now = b.let(f"add i64 %step, {j}")
            going.append(b.let(f"and i1 {b.let(f'icmp sge i64 {now}, %first')}, {b.let(f'icmp slt i64 {now}, %last')}"))
        more = {"alive": ["%living"], "survived": ["%done"], "going": going}
        printer = self._printer(steps.graph, known | more, steps.roots)
        wait, slot = "%wait", "%slot"
        for j, position in enumerate(steps.positions):
            at = self._need(printer, position)
            living = self._need(printer, [steps.alives[j]])[0]
            due = b.let(f"and i1 {going[j]}, {b.let(f'icmp eq i64 {wait}, 1')}")
            b.line(f"br i1 {due}, label %masked{j}.sample, label %masked{j}.next")
            b.label(f"masked{j}.sample")
            self._write(slot, at, living)
            b.line(f"br label %masked{j}.next")
            b.label(f"masked{j}.next")
            after = b.let(f"select i1 {due}, i64 %every, i64 {b.let(f'sub i64 {wait}, 1')}")
            wait = b.let(f"select i1 {going[j]}, i64 {after}, i64 {wait}")
            slot = b.let(f"add i64 {slot}, {b.let(f'zext i1 {due} to i64')}")
        assert steps.survived is not None
        alive, survived = self._need(printer, [steps.alive, steps.survived])
        after, generator = (self._need(printer, nodes) for nodes in (steps.after, steps.generator_after))
        return after, generator, alive, survived, wait, slot

    def _write(self, slot: str, values: list[str], living: str | None) -> None:
        """A sample: the positions, and which chains live (all, if nothing is said)."""
        sample = self.seen.sample(slot)
        for d, value in enumerate(values):
            self.seen.component(sample, str(d), value)
        self.seen.living(sample, "splat (i1 true)" if living is None else living)

    def _need(self, printer: Printer, nodes: list[Node]) -> list[str]:
        names = printer.need(nodes)
        printer.forget()
        return names

    def _real(self) -> str:
        return TYPES[self.fast.positions[0][0].dtype.name]

    def _table(self, leaf: int) -> str:
        if leaf not in self.loaded:
            place = self.preamble.let(f"getelementptr ptr, ptr %tables, i64 {leaf}")
            self.loaded[leaf] = self.preamble.let(f"load ptr, ptr {place}")
        return self.loaded[leaf]

    def _room(self, scalar: str, entries: int) -> str:
        """Room on the stack."""
        return self.preamble.let(f"alloca [{entries} x {scalar}], align 64")


def _inputs(graph: Graph, known: dict[str, list[str]]) -> dict[Node, str]:
    found = {}
    for node in graph.nodes.values():
        if node.op in known and node.op != "entry":
            found[node] = known[node.op][node.args[0] if node.args else 0]
    return found
