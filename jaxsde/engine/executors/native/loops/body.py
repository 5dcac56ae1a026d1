"""The operations of one basic block, with entries in memory and counters of loops among their operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...scalar.graph import CHAIN, Graph, Node, Unsupported
from ..vectors import Printer
from ..writer import TYPES, stored
from .arrays import Array, At, Index

if TYPE_CHECKING:
    from .nests import Buffer, Nests


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
        if not base.wide:
            (name,) = self.need([node])
            start = b.let(f"sext i32 {self.printer.scalar(base)} to i64")
            return b.store(scalar, name, n.address(buffer, at, start))
        entries, name = self.need([base, node])
        return n.scatter(scalar, name, n.address(buffer, at), n.own(entries))

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
            if buffer in n.waiting:
                raise Unsupported("a product that is read before it is made")
            if base and base[0].wide:
                self.names[node.number] = self._own(buffer, at, base[0])
            else:
                start = b.let(f"sext i32 {self.use(base[0], False)} to i64") if base else None
                self.names[node.number] = b.load(scalar, n.address(buffer, at, start))
        elif node.op == "datum":
            leaf, at, *base = node.args
            if base and base[0].wide:
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
        n, scalar = self.nests, TYPES[buffer.dtype.name]
        return n.gather(scalar, n.address(buffer, at), n.own(self.use(base, True)))

    def _row(self, leaf: Any, at: At, base: Node, scalar: str) -> str:
        n = self.nests
        return n.gather(scalar, n.place(n.table(leaf), scalar, n.number(at)), self.use(base, True))
