"""Products of 32-bit words whose high half is wanted, and what is made of them, with a word in each 64 bits.

Processors multiply 32-bit words into 64 bits, one for every 64 bits of a register. A vector of chains is then two halves, of
the even and of the odd chains: a product's low word is where the next product wants it, its high word one shift away, and
exclusive ors work on halves as they do on whole vectors. The rounds of a cipher stay in halves; only what comes out is put
together.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from ..scalar.graph import CONSTANT, Graph, Node, ordered
from .writer import Writer

_WORD, _LOW = np.dtype(np.uint32), (1 << 32) - 1
_SHIFTED = "lshr {kind} {0}, splat (i64 32)"


class Halves(NamedTuple):
    """Vectors of 64-bit numbers, of the even and of the odd chains. The word is the low half of each, whatever the upper one
    holds; where `high`, it is the upper half."""

    even: str
    odd: str
    high: bool = False


class Words:
    """The 32-bit vectors of one printer that are in halves, and how they get there and back."""

    def __init__(self, graph: Graph, lanes: int, printer: Any):
        self.graph, self.printer = graph, printer
        self.lanes, self.whole, self.kind = lanes, f"<{lanes} x i32>", f"<{lanes // 2} x i64>"
        products = [node for node in graph.nodes.values() if node.op == "mulhi" and node.dtype == _WORD]
        inside = ordered(itertools.chain(*(node.args for node in products)))
        self.multiplied = {node.number for node in inside}  # what a product is made of, sooner or later
        self.halves: dict[int, Halves] = {}
        self.products: dict[tuple, Halves] = {}

    def takes(self, node: Node) -> bool:
        """Whether this node, a vector, is printed here."""
        if node.dtype != _WORD:
            return False
        if node.op in ("mul", "mulhi"):
            return ("mulhi", _WORD, *_factors(node)) in self.graph.nodes
        return _mixed(node) or (node.number in self.multiplied and node.op == "xor" and any(map(_mixed, node.args)))

    def print(self, node: Node) -> None:
        out = self.printer.place(node)
        if node.op == "xor":
            self.halves[node.number] = self._both(out, "xor {kind} {0}, {1}", *(self._low(out, a) for a in node.args))
            return
        factors = _factors(node)
        if factors not in self.products:
            self.products[factors] = self._both(out, "mul {kind} {0}, {1}", *(self._alone(out, a) for a in node.args))
        self.halves[node.number] = self.products[factors]._replace(high=node.op == "mulhi")

    def together(self, node: Node) -> str:
        """The vector of all chains."""
        out, (even, odd, high) = self.printer.place(node), self.halves[node.number]
        a, b = (out.let(f"bitcast {self.kind} {half} to {self.whole}") for half in (even, odd))
        chosen = ", ".join(f"i32 {i + high}, i32 {i + high + self.lanes}" for i in range(0, self.lanes, 2))
        return out.let(f"shufflevector {self.whole} {a}, {self.whole} {b}, <{self.lanes} x i32> <{chosen}>")

    def _alone(self, out: Writer, node: Node) -> Halves:
        """A factor: its words, and nothing above them."""
        low = self._low(out, node)
        return self._both(out, f"and {{kind}} {{0}}, splat (i64 {_LOW})", low) if node.wide else low

    def _low(self, out: Writer, node: Node) -> Halves:
        """Halves whose low words are the node's, for an operation that `out` writes."""
        use, place = self.printer.use, self.printer.place(node)
        if node.number in self.halves:
            found = self.halves[node.number]
            if found.high:
                found = self.halves[node.number] = self._both(place, _SHIFTED, found)
            return found
        if node.op == "literal":
            same = f"splat (i64 {int(node.value)})"
            return Halves(same, same)
        if not node.wide:
            keep = node.rate == CONSTANT and not out.spreads
            out = self.printer.preamble if keep else out
            wider = out.let(f"zext i32 {use(node, False)} to i64")
            same = out.splat("i64", wider, self.lanes // 2)
            if keep:
                self.halves[node.number] = Halves(same, same)
            return Halves(same, same)
        even = place.let(f"bitcast {self.whole} {use(node, True)} to {self.kind}")
        self.halves[node.number] = Halves(even, place.let(_SHIFTED.format(even, kind=self.kind)))
        return self.halves[node.number]

    def _both(self, out: Writer, operation: str, *operands: Halves) -> Halves:
        """One operation on either half."""
        even, odd = (out.let(operation.format(*(o[h] for o in operands), kind=self.kind)) for h in (0, 1))
        return Halves(even, odd)


def _mixed(node: Node) -> bool:
    """An exclusive or of a product's high half: the first of two in a round of the cipher. (A generator's are in no such round.)"""
    return node.op == "xor" and any(a.op == "mulhi" for a in node.args)


def _factors(node: Node) -> tuple[int, ...]:
    return tuple(a.number for a in node.args)
