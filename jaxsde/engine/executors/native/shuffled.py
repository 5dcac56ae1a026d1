"""The examples that chains take in an order of their own: the keys of the permutation, made once an epoch, and the examples of a
few steps, looked up together.

    a new epoch, or the first step:        the keys of its permutation, to memory
    every few steps, or the first step:    for a few places at a time: load them into registers, through all rounds, to memory
    every step:                            its examples from memory

The rounds of one place wait for each other, so several places go side by side: as many as fill the registers.
"""

from __future__ import annotations

from typing import Any

from .... import random
from ..scalar.orders import Order
from .vectors import Printer
from .writer import Writer

_AHEAD = 64  # places that are looked up together, or those of one step where that takes more
_SIDE_BY_SIDE = 8  # registers of them


class Shuffled:
    """Prints the loops of one kernel; `room(type, entries)` is memory for them."""

    def __init__(self, order: Order, body: Writer, preamble: Writer, room: Any):
        self.order, self.body, self.preamble = order, body, preamble
        batch, lanes = order.draws.indices, body.lanes
        self.together = max(1, _SIDE_BY_SIDE * body.register // (32 * lanes))
        ahead = 1  # steps, a power of two
        while 2 * ahead * batch <= _AHEAD and ahead < order.steps:
            ahead *= 2
        self.ahead, self.groups = ahead, -(-ahead * batch // self.together)
        self.keys = room("i32", 3 * random.ROUNDS * lanes)
        self.found = room("i32", self.groups * self.together * lanes)

    def examples(self, chain: list[str]) -> list[str]:
        """The examples of the step at %position of %epoch, as vectors; `chain` names the words of the chains' numbers. Goes from
        the block that is being written to one of its own, "ordered"."""
        start = self.look_up(chain, "%step")
        return [self._load(self.found, self.body.let(f"add i64 {start}, {j}")) for j in range(self.order.draws.indices)]

    def look_up(self, chain: list[str], step: str) -> str:
        """The same, but they stay in memory: where in `found` those of the step (an i64 of that name) begin, in vectors."""
        b = self.body
        phase = b.let(f"and i64 %position, {self.ahead - 1}")
        begins = b.let(f"icmp eq i64 {step}, %first")
        due = b.let(f"or i1 {begins}, {b.let(f'icmp eq i64 {phase}, 0')}")
        b.line(f"br i1 {due}, label %order, label %ordered")
        b.label("order")
        again = b.let("icmp eq i64 %position, 0") if self.order.draws.scheme == "epoch" else "false"
        b.line(f"br i1 {b.let(f'or i1 {begins}, {again}')}, label %keys, label %places")
        self._keys(chain)
        b.label("places")
        begin = b.let(f"trunc i64 {b.let(f'sub i64 %position, {phase}')} to i32")
        b.line("br label %group")
        self._places(begin)
        b.label("ordered")
        return b.let(f"mul i64 {phase}, {self.order.draws.indices}")

    def _keys(self, chain: list[str]) -> None:
        b = self.body
        b.label("keys")
        b.line("%epoch0 = trunc i64 %epoch to i32")
        b.line(f"%epoch1 = trunc i64 {b.let('lshr i64 %epoch, 32')} to i32")
        b.line("br label %key")
        b.label("key")
        b.line("%lane = phi i32 [ 0, %keys ], [ %lane.next, %key ]")
        known = {"key": ["%key0", "%key1"], "chain": chain, "epoch": ["%epoch0", "%epoch1"], "lane": ["%lane"]}
        graph, roots = self.order.graph_of_keys()
        four = b.let("mul i32 %lane, 4")
        for i, value in enumerate(self._printed(graph, roots, known)):
            self._store(self.keys, b.let(f"zext i32 {b.let(f'add i32 {four}, {i}')} to i64"), value)
        b.line("%lane.next = add i32 %lane, 1")
        more = b.let(f"icmp ult i32 %lane.next, {3 * random.ROUNDS // 4}")
        b.line(f"br i1 {more}, label %key, label %places")

    def _places(self, begin: str) -> None:
        b, count, u32 = self.body, self.together, self.body.vector("i32")
        b.label("group")
        b.line("%g = phi i32 [ 0, %places ], [ %g.next, %placed ]")
        first = b.let(f"mul i32 %g, {count}")
        graph, roots = self.order.graph_of_places(count)
        places = self._printed(graph, roots, {"begin": [begin], "first": [first]})
        b.line("br label %round")
        b.label("round")
        b.line("%r = phi i64 [ 0, %group ], [ %r.next, %round ]")
        for j, place in enumerate(places):
            b.line(f"%place{j} = phi {u32} [ {place}, %group ], [ %place{j}.next, %round ]")
        known = {"place": [f"%place{j}" for j in range(count)]}
        for i, name in enumerate(("pivot", "slope", "offset")):
            known[name] = [self._load(self.keys, b.let(f"add i64 %r, {i * random.ROUNDS}"))]
        graph, roots = self.order.graph_of_round(count)
        for j, moved in enumerate(self._printed(graph, roots, known)):
            b.line(f"%place{j}.next = bitcast {u32} {moved} to {u32}")
        b.line("%r.next = add i64 %r, 1")
        b.line(f"br i1 {b.let(f'icmp ult i64 %r.next, {random.ROUNDS}')}, label %round, label %placed")
        b.label("placed")
        for j in range(count):
            self._store(self.found, b.let(f"zext i32 {b.let(f'add i32 {first}, {j}')} to i64"), f"%place{j}.next")
        b.line("%g.next = add i32 %g, 1")
        b.line(f"br i1 {b.let(f'icmp ult i32 %g.next, {self.groups}')}, label %group, label %ordered")

    def _printed(self, graph: Any, roots: list, known: dict[str, list[str]]) -> list[str]:
        inputs = {n: known[n.op][n.args[0] if n.args else 0] for n in graph.nodes.values() if n.op in known}
        return Printer(graph, self.body, self.preamble, inputs, None, None).need(roots)

    def _at(self, room: str, vector: str) -> str:
        return self.body.let(f"getelementptr {self.body.vector('i32')}, ptr {room}, i64 {vector}")

    def _load(self, room: str, vector: str) -> str:
        return self.body.load("i32", self._at(room, vector))

    def _store(self, room: str, vector: str, value: str) -> None:
        self.body.store("i32", value, self._at(room, vector))
