"""Nodes of a graph as LLVM IR: a node that differs between chains is a vector of `lanes` chains, any other a scalar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..scalar.graph import CONSTANT, OWN, Graph, Node, Unsupported, ordered
from .examples import Examples
from .products import Words
from .rows import columns_of
from .writer import TYPES, Writer, short

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "rem": "frem"}
_INTEGER = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_ORDERED = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_INTRINSIC = {
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "rint": "roundeven",
    "copysign": "copysign",
    "fma": "fma",
}
# What the C library has, called chain by chain: for functions without a formula of their own, and for float64.
LIBRARY = {
    "exp": "exp", "exp2": "exp2", "log": "log", "log1p": "log1p", "expm1": "expm1", "tanh": "tanh", "sin": "sin", "cos": "cos",
    "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh", "asinh": "asinh",
    "acosh": "acosh", "atanh": "atanh", "erf": "erf", "erfc": "erfc", "lgamma": "lgamma", "cbrt": "cbrt", "pow": "pow",
    "atan2": "atan2",
}  # fmt: skip


def constant(node: Node) -> str:
    """A literal in LLVM's words."""
    value = node.value
    if node.dtype.kind == "f":
        return f"0x{np.float64(value).view(np.uint64):016X}"
    return ("true" if value else "false") if node.dtype.kind == "b" else str(int(value))


class Printer:
    """Prints the nodes of one graph, of which `roots` (all, if nothing is said) will be needed. `known` maps input nodes to names;
    constants of the launch go to `preamble`, what a chain keeps for the launch to `own`, where there is such a place."""

    def __init__(
        self, graph: Graph, body: Writer, preamble: Writer, known: dict[Node, str], table: Any, scratch: Any,
        own: Any = None, roots: Iterable[Node] | None = None,
    ):  # fmt: skip
        self.graph, self.body, self.preamble, self.own = graph, body, preamble, body if own is None else own
        self.names = {node.number: name for node, name in known.items()}
        self.splats: dict[Writer, dict[int, str]] = {}
        self.table, self.scratch = table, scratch  # leaf -> pointer name; (type, entries) -> stack room
        self.rows: dict[tuple, list[Node]] = {}
        self.indices: dict[int, str] = {}  # where those of rows are kept
        self.words = Words(graph, body.lanes, self) if body.halves else None
        self.examples = Examples(graph, self)
        # Constants that are made once and kept in memory, as the entries of arrays are: there may be hundreds.
        self.kept_apart: dict[Node, str] = {}
        for kind in {node.dtype for node in graph.coefficients}:
            apart = [n for n in graph.coefficients if n.dtype == kind and n.op not in ("literal", "entry")]
            scalar = TYPES[kind.name]
            room = scratch(scalar, len(apart)) if apart else ""
            self.kept_apart |= {n: preamble.at(scalar, room, i) for i, n in enumerate(sorted(apart, key=lambda n: n.number))}
        for node in graph.nodes.values() if roots is None else ordered(roots):
            if node.op == "row":  # of what is used: a sum over rows as they lie has no entries of its own
                self.rows.setdefault((node.args[0], node.args[1].number, node.dtype), []).append(node)

    def need(self, roots: Iterable[Node]) -> list[str]:
        """Prints what the roots need and is not there yet; their names, as vectors."""
        roots = list(roots)
        for node in ordered(roots):
            if node.op != "literal" and not self._known(node):
                self._print(node)
        return [self.use(node, True) for node in roots]

    def place(self, node: Node) -> Writer:
        """Where a node is printed."""
        return self.preamble if node.rate == CONSTANT else self.own if node.rate == OWN else self.body

    def _known(self, node: Node) -> bool:
        return node.number in self.names or (self.words is not None and node.number in self.words.halves)

    def use(self, node: Node, wide: bool, out: Writer | None = None) -> str:
        """The name of a value, spread over the lanes where `out` (the body, if nothing is said) wants a vector of a scalar."""
        scalar = TYPES[node.dtype.name]
        if node.op == "literal":
            return f"splat ({scalar} {constant(node)})" if wide else constant(node)
        if self.words is not None and node.number not in self.names:
            self.names[node.number] = self.words.together(node)
        name, spot = self.names[node.number], self.kept_apart.get(node)
        out = self.body if out is None else out
        if spot is not None:
            name = out.let(f"load {scalar}, ptr {spot}")
            return out.splat(scalar, name) if wide else name
        if not wide or node.wide:
            return name
        if out is self.body and node.rate == CONSTANT and node.op != "entry" and not out.spreads:
            out = self.preamble
        spread = self.splats.setdefault(out, {})
        if node.number not in spread:
            spread[node.number] = out.splat(scalar, name)
        return spread[node.number]

    def forget(self) -> None:
        """What is spread from here on is spread anew: a value of one basic block need not reach the next."""
        self.splats.pop(self.body, None)

    def _print(self, node: Node) -> None:
        if node.op == "row" and node.wide:
            return self._rows(node)
        if node.op in ("dot", "mix"):
            return self.examples.print(node)
        if self.words is not None and node.wide and self.words.takes(node):
            return self.words.print(node)
        if node in self.kept_apart:
            place, scalar = self.kept_apart[node], TYPES[node.dtype.name]
            self.preamble.line(f"store {scalar} {self._operation(self.preamble, node, False)}, ptr {place}")
            self.names[node.number] = ""
            return None
        # an entry is read where it is used: the compiler folds the load into the arithmetic
        out = self.body if node.op == "entry" else self.place(node)
        self.names[node.number] = self._operation(out, node, node.wide)
        return None

    def _operand(self, out: Writer, node: Node, wide: bool) -> str:
        """An operand; a table's entry that is needed before the body is read there."""
        if out is not self.body and node.op == "entry":
            return self._entry(out, node)
        return self.use(node, wide, out)

    def _entry(self, out: Writer, node: Node) -> str:
        leaf, at = node.args
        kind = TYPES[node.dtype.name]
        stored = "i8" if kind == "i1" else kind
        place = out.let(f"getelementptr {stored}, ptr {self.table(leaf)}, i64 {at}")
        value = out.let(f"load {stored}, ptr {place}, !invariant.load !0")
        return out.let(f"trunc i8 {value} to i1") if kind == "i1" else value

    def _operation(self, out: Writer, node: Node, wide: bool) -> str:
        op, dtype = node.op, node.dtype
        if op == "entry":
            return self._entry(out, node)
        if op == "row":  # the index is the same for all chains
            leaf, base, static = node.args
            index = out.let(f"sext i32 {self._operand(out, base, False)} to i64")
            place = out.let(f"getelementptr {TYPES[dtype.name]}, ptr {self.table(leaf)}, i64 {index}")
            place = out.let(f"getelementptr {TYPES[dtype.name]}, ptr {place}, i64 {static}")
            return out.let(f"load {TYPES[dtype.name]}, ptr {place}, !invariant.load !0")
        if wide and (tested := _tested_bit(out, node)) is not None:
            x, bit = tested
            high = out.let(f"shl {out.vector('i32')} {self._operand(out, x, wide)}, splat (i32 {31 - bit})")
            return out.let(f"icmp {'slt' if op == 'ne' else 'sge'} {out.vector('i32')} {high}, zeroinitializer")
        kind = out.vector(TYPES[dtype.name]) if wide else TYPES[dtype.name]
        args = [self._operand(out, a, wide) for a in node.args if isinstance(a, Node)]
        first = node.args[0].dtype if node.args and isinstance(node.args[0], Node) else dtype
        given = out.vector(TYPES[first.name]) if wide else TYPES[first.name]
        return _emit(out, op, dtype, first, kind, given, args, wide)

    def _rows(self, node: Node) -> None:
        """All entries that a chain reads of one row, at once: rows of several chains, turned into vectors of chains."""
        leaf, base, dtype = node.args[0], node.args[1], node.dtype
        group = sorted(self.rows[leaf, base.number, dtype], key=lambda n: n.args[2])
        group = [n for n in group if n.number not in self.names]
        out, scalar = self.body, TYPES[dtype.name]
        if base.number not in self.indices:
            self.indices[base.number] = self.kept([base])
        pointers = self.pointers(leaf, scalar, self.indices[base.number])
        while group:
            start = group[0].args[2]
            width = 1
            while 8 * width * dtype.itemsize < self.body.register and any(n.args[2] >= start + width for n in group):
                width *= 2
            inside = [n for n in group if n.args[2] < start + width]
            group = group[len(inside) :]
            if width < 4 or scalar not in ("float", "i32", "double", "i64"):
                inside, rest = inside[:1], inside[1:]
                group, width = rest + group, 1
            columns = columns_of(out, scalar, pointers, start, width)
            for n in inside:
                self.names[n.number] = columns[n.args[2] - start]

    def kept(self, nodes: Iterable[Node]) -> str:
        """Where nodes of one type lie in memory as vectors, one after the other."""
        nodes, out = list(nodes), self.body
        names, scalar = self.need(nodes), TYPES[nodes[0].dtype.name]
        room = self.scratch(scalar, len(nodes) * out.lanes)
        for k, name in enumerate(names):
            out.line(f"store {out.vector(scalar)} {name}, ptr {out.at(scalar, room, k * out.lanes)}, align 64")
        return room

    def pointers(self, leaf: int, scalar: str, indices: str, count: int | None = None) -> list[str]:
        """Of the rows whose numbers are kept there: one for each lane, unless another count is said."""
        out, found = self.body, []
        for i in range(out.lanes if count is None else count):
            index = out.let(f"load i32, ptr {out.at('i32', indices, i)}")
            found.append(out.at(scalar, self.table(leaf), out.let(f"sext i32 {index} to i64")))
        return found


def _tested_bit(out: Writer, node: Node) -> tuple[Node, int] | None:
    """The word and the bit of it whose being set is asked for, where a register's sign chooses between two others (AVX2, where it
    is a shift; a comparison costs two)."""
    if node.op not in ("eq", "ne") or not out.halves or out.spreads:
        return None
    masked, zero = node.args
    if masked.op != "and" or masked.dtype.itemsize != 4 or zero.op != "literal" or int(zero.value) != 0:
        return None
    x, mask = masked.args
    if mask.op != "literal" or not x.wide or int(mask.value).bit_count() != 1:
        return None
    return x, int(mask.value).bit_length() - 1


def _emit(
    out: Writer, op: str, dtype: np.dtype, first: np.dtype, kind: str, given: str, args: list[str], wide: bool
) -> str:
    """One operation; `kind` is the type of the result, `given` that of the operands."""
    floating = first.kind == "f"
    if op in _FLOAT and floating:
        return out.let(f"{_FLOAT[op]} {kind} {args[0]}, {args[1]}")
    if op in _INTEGER and not floating:
        return out.let(f"{_INTEGER[op]} {kind} {args[0]}, {args[1]}")
    if op in ("div", "rem"):
        return _divide(out, op, first.kind == "u", kind, args, first.itemsize * 8, wide)
    if op in _ORDERED:
        word = _ORDERED[op] if floating else op if op in ("eq", "ne") else ("s" if first.kind == "i" else "u") + op
        return out.let(f"{'fcmp' if floating else 'icmp'} {word} {given} {args[0]}, {args[1]}")
    if op == "select":
        chosen = out.vector("i1") if wide else "i1"
        return out.let(f"select {chosen} {args[0]}, {kind} {args[1]}, {kind} {args[2]}")
    if op in _INTRINSIC:
        return out.intrinsic(_INTRINSIC[op], kind, *args)
    if op == "neg":
        return out.let(f"fneg {kind} {args[0]}") if floating else out.let(f"sub {kind} {_zero(kind)}, {args[0]}")
    if op == "abs":
        return out.intrinsic("fabs", kind, *args) if floating else out.intrinsic("abs", kind, *args, extra="false")
    if op in ("max", "min"):
        return _extreme(out, op, first, kind, args, wide)
    if op == "not":
        return out.let(f"xor {kind} {args[0]}, {_all_ones(kind, wide)}")
    if op == "bitcast":
        return out.let(f"bitcast {given} {args[0]} to {kind}")
    if op == "nearby":  # of a number that is known to be an integer in range, or NaN, of which anything is made
        return out.let(f"freeze {kind} {out.let(f'fptosi {given} {args[0]} to {kind}')}")
    if op == "ldexp":
        return _scaled(out, kind, args, wide)
    if op == "convert":
        return _convert(out, first, dtype, given, kind, args[0], wide)
    if op in ("shl", "shr", "sar"):
        word = {"shl": "shl", "shr": "lshr", "sar": "ashr"}[op]
        bits = first.itemsize * 8
        spread = lambda v: f"splat ({TYPES[first.name]} {v})" if wide else str(v)
        if args[1].lstrip("-").isdigit() or args[1].startswith("splat"):
            return out.let(f"{word} {kind} {args[0]}, {args[1]}")
        inside = out.let(f"icmp ult {kind} {args[1]}, {spread(bits)}")
        by = out.let(f"and {kind} {args[1]}, {spread(bits - 1)}")
        shifted = out.let(f"{word} {kind} {args[0]}, {by}")
        beyond = out.let(f"ashr {kind} {args[0]}, {spread(bits - 1)}") if op == "sar" else _zero(kind)
        return out.let(f"select {out.vector('i1') if wide else 'i1'} {inside}, {kind} {shifted}, {kind} {beyond}")
    if op == "mulhi":
        return _high_product(out, first, kind, args, wide)
    if op in ("population_count", "clz"):
        return (
            out.intrinsic("ctpop", kind, *args)
            if op == "population_count"
            else out.intrinsic("ctlz", kind, *args, extra="false")
        )
    if op in LIBRARY and floating:
        return _library(out, op, first, kind, args, wide)
    raise Unsupported(f"the operation {op} on {first}")


def _scaled(out: Writer, kind: str, args: list[str], wide: bool) -> str:
    """y · 2^n of float32, for n from −160 to 160, rounded once: in two steps, so that neither factor overflows."""
    y, n = args
    if wide and out.scales:
        return out.scaled(y, n)
    whole, spread = out.vector("i32") if wide else "i32", lambda v: f"splat (i32 {v})" if wide else str(v)
    exponent = out.let(f"freeze {whole} {out.let(f'fptosi {kind} {n} to {whole}')}")
    half = out.let(f"ashr {whole} {exponent}, {spread(1)}")
    for part in (half, out.let(f"sub {whole} {exponent}, {half}")):
        bits = out.let(f"shl {whole} {out.let(f'add {whole} {part}, {spread(127)}')}, {spread(23)}")
        y = out.let(f"fmul {kind} {y}, {out.let(f'bitcast {whole} {bits} to {kind}')}")
    return y


def _zero(kind: str) -> str:
    return "zeroinitializer" if kind.startswith("<") else "0"


def _all_ones(kind: str, wide: bool) -> str:
    scalar = kind.split(" x ")[-1].rstrip(">")
    value = "true" if scalar == "i1" else "-1"
    return f"splat ({scalar} {value})" if wide else value


def _extreme(out: Writer, op: str, first: np.dtype, kind: str, args: list[str], wide: bool) -> str:
    if first.kind == "b":
        return out.let(f"{'or' if op == 'max' else 'and'} {kind} {args[0]}, {args[1]}")
    if first.kind in "iu":
        return out.intrinsic(("s" if first.kind == "i" else "u") + op, kind, *args)
    # NaN from either side goes through
    flag = out.vector("i1") if wide else "i1"
    beyond = out.let(f"fcmp {'ogt' if op == 'max' else 'olt'} {kind} {args[0]}, {args[1]}")
    if args[0].startswith(("splat", "0x")):
        return out.let(f"select {flag} {beyond}, {kind} {args[0]}, {kind} {args[1]}")
    unknown = out.let(f"fcmp uno {kind} {args[0]}, {args[0]}")
    either = out.let(f"or {flag} {beyond}, {unknown}")
    return out.let(f"select {flag} {either}, {kind} {args[0]}, {kind} {args[1]}")


def _convert(out: Writer, old: np.dtype, new: np.dtype, given: str, kind: str, x: str, wide: bool) -> str:
    if old.kind == "f" and new.kind == "f":
        return out.let(f"{'fpext' if new.itemsize > old.itemsize else 'fptrunc'} {given} {x} to {kind}")
    if old.kind == "f":
        return _to_integer(out, old, new, given, kind, x, wide)
    if new.kind == "f":
        return out.let(f"{'sitofp' if old.kind == 'i' else 'uitofp'} {given} {x} to {kind}")
    if new.itemsize == old.itemsize:
        return x
    word = "trunc" if new.itemsize < old.itemsize else "sext" if old.kind == "i" else "zext"
    return out.let(f"{word} {given} {x} to {kind}")


def _to_integer(out: Writer, old: np.dtype, new: np.dtype, given: str, kind: str, x: str, wide: bool) -> str:
    """As XLA: NaN is 0, and what lies outside is the nearest integer. (The intrinsic for that is taken apart lane by lane.)"""
    scalar, whole, flag = TYPES[old.name], TYPES[new.name], out.vector("i1") if wide else "i1"
    info = np.iinfo(new)
    largest = np.nextafter(old.type(info.max), old.type(0)) if float(old.type(info.max)) > info.max else old.type(info.max)
    number = lambda v: f"0x{np.float64(v).view(np.uint64):016X}"
    real = lambda v: f"splat ({scalar} {number(v)})" if wide else number(v)
    integer = lambda v: f"splat ({whole} {v})" if wide else str(v)
    low = out.let(f"fcmp ogt {given} {x}, {real(info.min)}")
    inside = out.let(f"select {flag} {low}, {given} {x}, {given} {real(info.min)}")  # NaN too becomes the least
    high = out.let(f"fcmp ogt {given} {inside}, {real(largest)}")
    inside = out.let(f"select {flag} {high}, {given} {real(largest)}, {given} {inside}")
    result = out.let(f"fpto{'s' if new.kind == 'i' else 'u'}i {given} {inside} to {kind}")
    result = out.let(f"select {flag} {high}, {kind} {integer(info.max)}, {kind} {result}")
    unknown = out.let(f"fcmp uno {given} {x}, {x}")
    return out.let(f"select {flag} {unknown}, {kind} {integer(0)}, {kind} {result}")


def _divide(out: Writer, op: str, unsigned: bool, kind: str, args: list[str], bits: int, wide: bool) -> str:
    """As XLA: x / 0 = −1 and x rem 0 = x; the least integer over −1 is itself, with remainder 0."""
    scalar, flag = f"i{bits}", out.vector("i1") if wide else "i1"
    spread = lambda v: f"splat ({scalar} {v})" if wide else str(v)
    by_zero = out.let(f"icmp eq {kind} {args[1]}, {spread(0)}")
    bad = by_zero
    if not unsigned:
        least = out.let(f"icmp eq {kind} {args[0]}, {spread(-(1 << (bits - 1)))}")
        minus = out.let(f"icmp eq {kind} {args[1]}, {spread(-1)}")
        bad = out.let(f"or {flag} {by_zero}, {out.let(f'and {flag} {least}, {minus}')}")
    safe = out.let(f"select {flag} {bad}, {kind} {spread(1)}, {kind} {args[1]}")
    result = out.let(f"{'u' if unsigned else 's'}{op} {kind} {args[0]}, {safe}")
    instead = spread(-1) if op == "div" else args[0]
    return out.let(f"select {flag} {by_zero}, {kind} {instead}, {kind} {result}")


def _high_product(out: Writer, first: np.dtype, kind: str, args: list[str], wide: bool) -> str:
    bits = first.itemsize * 8
    double = out.vector(f"i{2 * bits}") if wide else f"i{2 * bits}"
    word = "zext" if first.kind == "u" else "sext"
    x, y = (out.let(f"{word} {kind} {a} to {double}") for a in args)
    product = out.let(f"mul {double} {x}, {y}")
    by = f"splat (i{2 * bits} {bits})" if wide else str(bits)
    return out.let(f"trunc {double} {out.let(f'lshr {double} {product}, {by}')} to {kind}")


def _library(out: Writer, op: str, dtype: np.dtype, kind: str, args: list[str], wide: bool) -> str:
    """A call of the C library for every chain, in a function of its own."""
    scalar = TYPES[dtype.name]
    symbol = "@" + LIBRARY[op] + ("f" if dtype.itemsize == 4 else "")
    given = ", ".join([scalar] * len(args))
    out.declarations[symbol] = f"declare {scalar} {symbol}({given})"
    if not wide:
        return out.let(f"call {scalar} {symbol}({', '.join(f'{scalar} {a}' for a in args)})")
    helper = f"@jaxsde_{op}_{short(kind)}"
    if helper not in out.helpers:
        lines = [f"define internal {kind} {helper}({', '.join(f'{kind} %x{j}' for j in range(len(args)))}) noinline #0 {{"]
        result = "poison"
        for i in range(out.lanes):
            for j in range(len(args)):
                lines.append(f"  %e{i}_{j} = extractelement {kind} %x{j}, i64 {i}")
            parts = ", ".join(f"{scalar} %e{i}_{j}" for j in range(len(args)))
            lines.append(f"  %c{i} = call {scalar} {symbol}({parts})")
            lines.append(f"  %r{i} = insertelement {kind} {result}, {scalar} %c{i}, i64 {i}")
            result = f"%r{i}"
        out.helpers[helper] = "\n".join([*lines, f"  ret {kind} {result}", "}"])
    return out.let(f"call {kind} {helper}({', '.join(f'{kind} {a}' for a in args)})")
