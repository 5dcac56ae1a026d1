"""Sums of products with the rows of examples, worked out on rows as they lie.

A loss reads an example in two ways: the product of its row with weights (`dot`, one for each example), and the sum of the
batch's rows, each times a number (`mix`, one for each column: what `jax.grad` makes of the first). Column by column, every row
has to be turned into vectors of chains, which is most of the work where rows are long. Row by row, only the weights are turned,
once for all examples, and the sum. Which of them is less is counted (`cost`), the same way for every width of vector: a dot is
always 64 bytes' worth of interleaved sums, then a tree, so its bits do not depend on the machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..scalar.graph import Graph, Node, ordered
from .rows import columns_of, turned
from .writer import TYPES, Writer

if TYPE_CHECKING:
    from .vectors import Printer

_BYTES = 64  # of a row at a time
_SINGLE = 2  # columns that are read one by one, a target, with the products
_SUMS = 8  # registers of columns that are summed side by side


def total(g: Graph, terms: list[Any], dtype: np.dtype) -> Node | None:
    """The sum of `terms`, pairs of factors or nodes, as one operation, if each is an entry of an example times a number."""
    if dtype not in (np.float32, np.float64) or len(terms) < 2:
        return None
    pairs = []
    for term in terms:
        factors = term if not isinstance(term, Node) else term.args if term.op == "mul" else ()
        rows = [x for x in factors if x.op == "row" and x.wide and x.dtype == dtype]
        if len(rows) != 1:
            return None
        pairs.append((rows[0], factors[1] if factors[0] is rows[0] else factors[0]))
    tables, bases, columns = ({row.args[i] for row, _ in pairs} for i in range(3))
    if len(tables) > 1:
        return None
    leaf = tables.pop()
    if len(bases) == 1 and len(columns) == len(pairs) == max(columns) - min(columns) + 1:
        weights = [w for _, w in sorted(pairs, key=lambda pair: pair[0].args[2])]
        if all(w.wide for w in weights):
            return g.made("dot", dtype, leaf, min(columns), bases.pop(), *weights)
    if len(columns) == 1 and len(bases) == len(pairs):
        return g.made("mix", dtype, leaf, columns.pop(), *itertools.chain(*((row.args[1], s) for row, s in pairs)))
    return None


def cost(roots: Iterable[Node]) -> int:
    """Instructions of a step, about, for sixteen chains with registers of sixteen numbers."""
    turning, label = 64, 32  # sixteen vectors of as many numbers; one column of sixteen rows
    rows: dict[Any, set[int]] = {}
    weights, mixes, found = {}, {}, 0
    for node in ordered(roots):
        if node.op == "row" and node.wide:
            rows.setdefault((node.args[0], node.args[1].number), set()).add(node.args[2])
            continue
        found += node.wide
        if node.op == "dot":
            blocks = _blocks(node)
            found += 16 * len(blocks) + 45
            weights[_together(node)] = len(blocks)
        elif node.op == "mix":
            mixes.setdefault(_together(node), set()).add(node.args[1] // 16)
    found += sum((turning + 16) * blocks for blocks in weights.values())
    found += sum((turning + 12 * len(batch)) * len(blocks) for (_, _, *batch), blocks in mixes.items())
    for columns in rows.values():
        for block in {c // 16 for c in columns}:
            few = sum(c // 16 == block for c in columns)
            found += min(label * few, turning if few > 8 else 36 if few > 4 else 20)
        found += 2 * len(columns) if len(columns) > 4 else 0  # more than stay in registers until they are needed again
    return found


def _blocks(node: Node) -> range:
    """Which parts of a row, _BYTES each, a dot reads."""
    lanes, start = _BYTES // node.dtype.itemsize, node.args[1]
    return range(start // lanes, (start + len(node.args) - 4) // lanes + 1)


def _together(node: Node) -> tuple:
    """What those have in common that are worked out together: dots their weights, columns of one sum all but the column."""
    args = (*node.args[:2], *node.args[3:]) if node.op == "dot" else (node.args[0], *node.args[2:])
    return (node.dtype, *(a.number if isinstance(a, Node) else ("static", a) for a in args))


class Examples:
    """Prints these operations for one printer of nodes: as loops over the examples, over the chains, for a step has to stay in
    the cache of instructions."""

    def __init__(self, graph: Graph, printer: Printer):
        self.printer = printer
        self.dots: dict[tuple, list[Node]] = {}
        self.mixes: dict[tuple, list[Node]] = {}
        for node in graph.nodes.values():
            if node.op in ("dot", "mix"):
                (self.dots if node.op == "dot" else self.mixes).setdefault(_together(node), []).append(node)

    def print(self, node: Node) -> None:
        """And with it all that use the same weights, or are columns of the same sum."""
        if node.op == "mix":
            return self._mix(self.mixes.pop(_together(node)))
        waiting = self.dots[_together(node)]
        # an example that is chosen by what another says comes after it
        group = [n for n in waiting if n is node or not any(m.op == "dot" for m in ordered([n.args[2]]))]
        self.dots[_together(node)] = [n for n in waiting if n not in group]
        return self._dots(group)

    def _dots(self, nodes: list[Node]) -> None:
        """`lanes` sums of a row's products side by side, then the sums of that many chains together down to one number each."""
        p, scalar, (leaf, start, _, *weights) = self.printer, TYPES[nodes[0].dtype.name], nodes[0].args
        out, dtype, blocks = p.body, nodes[0].dtype, _blocks(nodes[0])
        lanes, bases = _BYTES // dtype.itemsize, [node.args[2] for node in nodes]
        kind, row, places = f"<{lanes} x {scalar}>", len(blocks) * lanes, p.kept(bases)
        weights_of = self._turned(weights, start - lanes * blocks[0], row, scalar)
        sums = p.scratch(scalar, len(nodes) * out.lanes)
        columns = {n.args[2] for b in bases for n in p.rows.get((leaf, b.number, dtype), ()) if n.number not in p.names}
        singles = {c: p.scratch(scalar, len(nodes) * out.lanes) for c in columns} if len(columns) <= _SINGLE else {}

        def example(k: str) -> None:
            first = out.let(f"mul i64 {k}, {out.lanes}")
            pointers = p.pointers(leaf, scalar, out.at("i32", places, first))

            def product(chain: int) -> str:
                total = ""
                for block in blocks:
                    inside = [start <= lanes * block + i < start + len(weights) for i in range(lanes)]
                    x = self._load(kind, scalar, pointers[chain], lanes * block)
                    at = out.at(scalar, weights_of, chain * row + lanes * (block - blocks[0]))
                    w = out.let(f"load {kind}, ptr {at}, align {_BYTES}")
                    more = out.intrinsic("fma", kind, x, w, total) if total else out.let(f"fmul {kind} {x}, {w}")
                    if not all(inside):  # what else lies in the row may be anything
                        flags = ", ".join(f"i1 {str(flag).lower()}" for flag in inside)
                        more = out.let(
                            f"select <{lanes} x i1> <{flags}>, {kind} {more}, {kind} {total or 'zeroinitializer'}"
                        )
                    total = more
                return total

            parts = [_summed(out, scalar, lanes, product, chain) for chain in range(0, out.lanes, lanes)]
            total = out.joined(scalar, parts, lanes)
            out.line(f"store {out.vector(scalar)} {total}, ptr {out.at(scalar, sums, first)}, align {_BYTES}")
            for column, room in singles.items():
                (values,) = columns_of(out, scalar, pointers, column, 1)
                out.line(f"store {out.vector(scalar)} {values}, ptr {out.at(scalar, room, first)}, align {_BYTES}")

        out.repeat(len(nodes), example)
        for k, node in enumerate(nodes):
            p.names[node.number] = self._read(scalar, sums, k)
            for n in p.rows.get((leaf, node.args[2].number, dtype), ()):
                if n.args[2] in singles:
                    p.names[n.number] = self._read(scalar, singles[n.args[2]], k)

    def _turned(self, weights: list[Node], before: int, row: int, scalar: str) -> str:
        """Where the weights lie as rows, one for each chain, with zeros around them."""
        p = self.printer
        out, item = p.body, weights[0].dtype.itemsize
        columns = ["zeroinitializer"] * row
        columns[before : before + len(weights)] = [p.use(weight, True) for weight in weights]
        room, size = p.scratch(scalar, out.lanes * row), _size(out, item)
        for first, column in itertools.product(range(0, out.lanes, size), range(0, row, size)):
            few = [out.lanes_of(scalar, name, first, size) for name in columns[column : column + size]]
            for chain, vector in enumerate(turned(out, scalar, few, size)):
                place = out.at(scalar, room, (first + chain) * row + column)
                out.line(f"store <{size} x {scalar}> {vector}, ptr {place}, align {size * item}")
        return room

    def _mix(self, nodes: list[Node]) -> None:
        """All columns of one sum."""
        p, scalar, dtype = self.printer, TYPES[nodes[0].dtype.name], nodes[0].dtype
        out, leaf, batch = p.body, nodes[0].args[0], nodes[0].args[2:]
        places, factors = p.kept(batch[::2]), p.kept(batch[1::2])
        size = _size(out, dtype.itemsize)
        kind, wanted = f"<{size} x {scalar}>", sorted({node.args[1] // size for node in nodes})
        row, columns = size * len(wanted), {}
        room = p.scratch(scalar, out.lanes * row)

        def chain_of(few: list[int]) -> Any:
            def chain(i: str) -> None:
                sums: dict[int, str] = {}
                for k in range(len(batch) // 2):
                    at = out.let(f"add i64 {i}, {k * out.lanes}")
                    (pointer,) = p.pointers(leaf, scalar, out.at("i32", places, at), 1)
                    s = out.splat(scalar, out.let(f"load {scalar}, ptr {out.at(scalar, factors, at)}"), size)
                    for block in few:
                        x = self._load(kind, scalar, pointer, size * block)
                        sums[block] = (
                            out.intrinsic("fma", kind, x, s, sums[block]) if k else out.let(f"fmul {kind} {x}, {s}")
                        )
                here = out.at(scalar, room, out.let(f"mul i64 {i}, {row}"))
                for block in few:
                    place = out.at(scalar, here, size * wanted.index(block))
                    out.line(f"store {kind} {sums[block]}, ptr {place}, align {size * dtype.itemsize}")

            return chain

        for few in range(0, len(wanted), _SUMS):
            out.repeat(out.lanes, chain_of(wanted[few : few + _SUMS]))
        for first, (k, block) in itertools.product(range(0, out.lanes, size), enumerate(wanted)):
            rows = [self._load(kind, scalar, room, (first + i) * row + k * size, size * dtype.itemsize) for i in range(size)]
            for i, name in enumerate(turned(out, scalar, rows, size)):
                columns.setdefault(size * block + i, []).append(name)
        for node in nodes:
            p.names[node.number] = out.joined(scalar, columns[node.args[1]], size)

    def _load(self, kind: str, scalar: str, place: str, entries: int, align: int = 0) -> str:
        """Of a row of the table, or of a room that this code wrote."""
        out = self.printer.body
        at, rest = out.at(scalar, place, entries), f"align {align}" if align else "align 4, !invariant.load !0"
        return out.let(f"load {kind}, ptr {at}, {rest}")

    def _read(self, scalar: str, room: str, k: int) -> str:
        return self.printer.body.load(scalar, self.printer.body.at(scalar, room, k * self.printer.body.lanes))


def _summed(out: Writer, scalar: str, lanes: int, vector: Callable[[int], str], chain: int, distance: int = 1) -> str:
    """Entry i: the sum of every `distance`-th number of the vector of chain `chain + i`, without i's lower bits. Each is asked for
    when it is needed, so that few are held."""
    if distance == lanes:
        return vector(chain)
    a, b = (_summed(out, scalar, lanes, vector, c, 2 * distance) for c in (chain, chain + distance))
    other = [lanes * (i & distance != 0) for i in range(lanes)]
    stay = out.shuffle(scalar, lanes, a, b, (i + o for i, o in enumerate(other)))
    move = out.shuffle(scalar, lanes, a, b, ((i ^ distance) + o for i, o in enumerate(other)))
    return out.let(f"fadd <{lanes} x {scalar}> {stay}, {move}")


def _size(out: Writer, item: int) -> int:
    return min(out.lanes, out.register // (8 * item))
