"""Scalars of one chain: nodes of a graph, made once each, with constants folded and multiply-adds fused.

A node is an operation on other nodes. Its *rate* says with what its value changes: with nothing within a launch (`CONSTANT`: a
learning rate, an entry of a matrix), with the step (`STEP`: the step number), with the chain (`OWN`: its number), or with both
(`CHAIN`: its state).

Products are fused into the sum that uses them here, and nowhere else: the bits of a chain then do not depend on what a
compiler makes of the code around it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

CONSTANT, STEP, OWN, CHAIN = range(4)  # a bit for the step, a bit for the chain


class Unsupported(NotImplementedError):
    """This step cannot be taken apart into scalars; the message names what stands in the way."""


class TooLarge(Unsupported):
    """The step has more operations than a compiler takes in its stride."""


class Node:
    """One operation. `args` holds nodes, and plain integers or strings where an operation has static parameters."""

    __slots__ = ("args", "dtype", "number", "op", "rate")

    def __init__(self, number: int, op: str, dtype: np.dtype, args: tuple, rate: int):
        self.number, self.op, self.dtype, self.args, self.rate = number, op, dtype, args, rate

    @property
    def value(self) -> Any:
        """The value of a literal, as a NumPy scalar of its dtype."""
        return self.args[0]

    @property
    def wide(self) -> bool:
        """Whether chains differ in it."""
        return self.rate & OWN != 0

    def __repr__(self) -> str:
        inner = ", ".join(f"%{a.number}" if isinstance(a, Node) else repr(a) for a in self.args)
        return f"%{self.number} = {self.op}({inner}): {self.dtype}"


class Table(NamedTuple):
    """A view of an array that all chains share and that is too large to be taken apart: leaf, strides in elements."""

    leaf: int
    offset: int
    strides: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


_FOLD = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "floor": np.floor,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
}  # fmt: skip


class Graph:
    """The nodes of one program. `limit` nodes at most: beyond, a compiler would take longer than the run.

    `functions` replaces operations on real numbers by others, where it can: `functions[name](graph, *args)`. One named "total"
    makes sums: `total(graph, terms, dtype)`.
    """

    def __init__(self, functions: Mapping[str, Any] | None = None, limit: int = 16_000):
        self.functions = functions or {}
        self.limit = limit
        self.nodes: dict[tuple, Node] = {}
        self.arguments: dict[tuple[str, int], Node] = {}
        self.sums: dict[int, list[Any]] = {}  # the terms of a sum
        self.coefficients: set[Node] = set()  # made of what is constant, for `_joined`

    def argument(self, name: str, node: Node) -> Node | None:
        """x where `node` was made as the function `name` of x."""
        return self.arguments.get((name, node.number))

    def input(self, name: str, dtype: Any, rate: int, *static: Any) -> Node:
        """A value from outside: the state of a chain, the step number, an entry of an array that chains share."""
        return self._node(name, np.dtype(dtype), static, rate)

    def literal(self, value: Any, dtype: Any) -> Node:
        dtype = np.dtype(dtype)
        scalar = dtype.type(value)
        key = ("literal", dtype, scalar.tobytes())
        if key not in self.nodes:
            self.nodes[key] = Node(len(self.nodes), "literal", dtype, (scalar,), CONSTANT)
        return self.nodes[key]

    def op(self, name: str, dtype: Any, *args: Any) -> Node:
        """The node of an operation: an equal one that is there already, or a simpler one of the same value."""
        dtype = np.dtype(dtype)
        with np.errstate(all="ignore"):
            simple = self._simplified(name, dtype, args)
        if simple is not None:
            return simple
        if name in self.functions and dtype.kind == "f" and (made := self.functions[name](self, *args)) is not None:
            self.arguments[name, made.number] = args[0]
            return made
        return self.made(name, dtype, *args)

    def made(self, name: str, dtype: np.dtype, *args: Any) -> Node:
        """The node of an operation as it is."""
        return self._node(name, dtype, args, _rate(args))

    def _node(self, name: str, dtype: np.dtype, args: tuple, rate: int) -> Node:
        key = (name, dtype, *(a.number if isinstance(a, Node) else ("static", a) for a in args))
        if key not in self.nodes:
            if len(self.nodes) >= self.limit:
                raise TooLarge(f"a step of more than {self.limit} scalar operations")
            self.nodes[key] = Node(len(self.nodes), name, dtype, args, rate)
        return self.nodes[key]

    def _simplified(self, name: str, dtype: np.dtype, args: tuple) -> Node | None:
        if name == "rarely":  # `statistics.sums.rarely`: no more than its argument, unless a printer makes a branch of it
            return args[0]
        known = [a.op == "literal" if isinstance(a, Node) else False for a in args]
        if name in _FOLD and all(known):
            return self.literal(_FOLD[name](*(a.value for a in args)), dtype)
        if name == "select":
            if known[0]:
                return args[1] if args[0].value else args[2]
            return args[1] if args[1] is args[2] else None
        if name == "convert" and (args[0].dtype == dtype or known[0]):
            return args[0] if args[0].dtype == dtype else self.literal(_converted(args[0].value, dtype), dtype)
        if name == "bitcast" and (args[0].dtype == dtype or known[0]):
            return args[0] if args[0].dtype == dtype else self.literal(args[0].value.view(dtype), dtype)
        if name in ("shl", "shr", "sar") and known[1]:
            return self._shift(name, dtype, args, known[0])
        if name in ("add", "sub", "mul", "div", "fma", "and", "or", "xor"):
            return self._arithmetic(name, dtype, args, known)
        return None

    def _shift(self, name: str, dtype: np.dtype, args: tuple, known: bool) -> Node | None:
        by, bits = int(args[1].value), dtype.itemsize * 8
        if by >= bits:
            return (
                self.literal(0, dtype)
                if name != "sar"
                else self.op("sar", dtype, args[0], self.literal(bits - 1, dtype))
            )
        if by == 0:
            return args[0]
        if not known:
            return None
        unsigned = np.dtype(f"uint{bits}")
        if name == "shr":
            return self.literal((args[0].value.view(unsigned) >> unsigned.type(by)).view(dtype), dtype)
        return self.literal(
            args[0].value << dtype.type(by) if name == "shl" else args[0].value >> dtype.type(by), dtype
        )

    def _arithmetic(self, name: str, dtype: np.dtype, args: tuple, known: list[bool]) -> Node | None:
        zero = [k and a.value == 0 for k, a in zip(known, args, strict=True)]
        one = [k and a.value == 1 for k, a in zip(known, args, strict=True)]
        exact = dtype.kind != "f"  # 0 · x is no zero where x is infinite or NaN
        if name == "add" and any(zero):
            return args[1 - zero.index(True)]
        if name == "sub" and zero[1]:
            return args[0]
        if name in ("or", "xor") and any(zero):
            return args[1 - zero.index(True)]
        if name == "and" and any(zero):
            return self.literal(0, dtype)
        if name == "mul" and any(one):
            return args[1 - one.index(True)]
        if name == "mul" and any(zero) and exact:
            return self.literal(0, dtype)
        if name == "div" and one[1]:
            return args[0]
        if exact:
            return None
        if name == "div" and known[1] and not known[0] and _power_of_two(args[1].value):
            return self.op("mul", dtype, args[0], self.literal(1 / args[1].value, dtype))
        if name == "fma":
            for factor, x in (args[:2], args[1::-1]):
                if x.number in self.sums and (joined := self._joined(factor, x, args[2], dtype)) is not None:
                    return joined
            if any(one[:2]):
                return self._node("add", dtype, (args[1 - one.index(True)], args[2]), _rate(args))
            if zero[2]:
                return self.op("mul", dtype, *args[:2])
        if name in ("mul", "fma"):
            found = self._multiple(dtype, *args[:2]) or (self._scaled(*args[:2]) if name == "fma" else None)
            return None if found is None else self.op(name, dtype, *found, *args[2:])
        return self._fused(name, dtype, args)

    def _multiple(self, dtype: np.dtype, *factors: Node) -> tuple[Node, Node] | None:
        """Of a product with two constants, the one constant and the rest: a learning rate times the 1/B of a mean, or times the 2
        of a square's slope."""
        (a, p), (b, q) = (self._multiple_of(factor) for factor in factors)
        rest = p if p is not None else q
        if a is None or b is None or rest is None:
            return None
        both = self.op("mul", dtype, a, b)
        if both.op == "literal" and not np.finfo(dtype).tiny <= abs(both.value) < np.inf:
            return None  # one after the other they may not leave the range
        if p is None or q is None:
            return both, rest
        return self._onto_one(both, p, q)

    def _multiple_of(self, x: Node) -> tuple[Node | None, Node | None]:
        """A constant that x is a multiple of, None if there is none, and of what: None if it is the constant itself."""
        if x.rate == CONSTANT:
            return x, None
        if x.op == "neg":
            return self.literal(-1, x.dtype), x.args[0]
        if x.op == "add" and x.args[0] is x.args[1]:
            return self.literal(2, x.dtype), x.args[0]
        for a, rest in (x.args, x.args[::-1]) if x.op == "mul" else ():
            if a.rate == CONSTANT:
                return a, rest
        return None, x

    def _scaled(self, *factors: Node) -> tuple[Node, Node] | None:
        """Of a constant times the product of two, one of them times the constant, and the other."""
        for a, x in (factors, factors[::-1]):
            if a.rate == CONSTANT != x.rate and x.op == "mul":
                return self._onto_one(a, *x.args)
        return None

    def _onto_one(self, constant: Node, p: Node, q: Node) -> tuple[Node, Node]:
        """One of two times the constant, and the other: rather what was worked out than an example's feature, for the residual that
        all features are multiplied with is then multiplied once."""
        p, q = (p, q) if p.op != "row" else (q, p)
        return self.op("mul", p.dtype, constant, p), q

    def _fused(self, name: str, dtype: np.dtype, args: tuple) -> Node | None:
        """a·b + c and its relatives, rounded once (a product that changes less often than the sum is left to itself)."""
        if name not in ("add", "sub"):
            return None
        x, y = args
        if y.number in self.sums:
            sign = self.literal(1 if name == "add" else -1, dtype)
            if (joined := self._joined(sign, y, x, dtype)) is not None:
                return joined
        rate = x.rate | y.rate
        if y.op == "mul" and y.rate == rate:
            factor = y.args[0] if name == "add" else self.op("neg", dtype, y.args[0])
            return self.op("fma", dtype, factor, y.args[1], x)
        if x.op == "mul" and x.rate == rate:
            return self.op("fma", dtype, *x.args, y if name == "add" else self.op("neg", dtype, y))
        return None

    def _joined(self, factor: Node, x: Node, y: Node, dtype: np.dtype) -> Node | None:
        """factor · x + y as one sum, where both are sums over the same times constants: H φ + Hᵀ φ, which `jax.grad` makes of
        φᵀ H φ. What is constant is added once."""
        if factor.rate != CONSTANT or y.number not in self.sums:
            return None
        ours, theirs = (self._factors(self.sums[n.number], dtype) for n in (x, y))
        if ours is None or theirs is None or ours.keys() != theirs.keys():
            return None
        joined = {v: self.op("fma", dtype, factor, a, theirs[v]) for v, a in ours.items()}
        self.coefficients |= set(joined.values())
        return self.total(joined.items(), dtype, len(ours))

    def _factors(self, terms: list[Any], dtype: np.dtype) -> dict[Node, Node] | None:
        """The constant that each term is multiplied with: of a multiple, the whole."""
        found: dict[Node, Node] = {}
        for term in terms:
            if isinstance(term, Node) or (term[0].rate == CONSTANT) == (term[1].rate == CONSTANT):
                return None
            a, x = term if term[0].rate == CONSTANT else term[::-1]
            b, rest = self._multiple_of(x)
            if b is not None and rest is not None:
                a, x = self.op("mul", dtype, a, b), rest
            found[x] = a if x not in found else self.op("add", dtype, found[x], a)
        return found

    def total(self, terms: Iterable[Any], dtype: Any, beside: int = 1) -> Node:
        """The sum of terms, each a node or a pair of factors, in one fixed order: four interleaved sums when there are many, so
        that one addition need not wait for the last, unless so many are made `beside` each other that others fill the time."""
        terms, dtype = list(terms), np.dtype(dtype)
        if not terms:
            return self.literal(0, dtype)
        if "total" in self.functions and (whole := self.functions["total"](self, terms, dtype)) is not None:
            return whole
        lanes = 4 if len(terms) >= (16 if beside >= 4 else 8) else 1
        sums: list[Node | None] = [None] * lanes
        for i, term in enumerate(terms):
            before = sums[i % lanes]
            if isinstance(term, Node):
                sums[i % lanes] = term if before is None else self.op("add", dtype, before, term)
            elif before is None or dtype.kind != "f":
                product = self.op("mul", dtype, *term)
                sums[i % lanes] = product if before is None else self.op("add", dtype, before, product)
            else:
                sums[i % lanes] = self.op("fma", dtype, *term, before)
        while len(sums) > 1:
            sums = [self.op("add", dtype, sums[i], sums[i + 1]) for i in range(0, len(sums), 2)]
        assert sums[0] is not None
        if len(terms) > 3 and dtype.kind == "f":
            self.sums[sums[0].number] = terms
        return sums[0]


def _rate(args: tuple) -> int:
    return functools.reduce(operator.or_, (a.rate for a in args if isinstance(a, Node)), CONSTANT)


def _power_of_two(value: Any) -> bool:
    if value == 0 or not np.isfinite(value):
        return False
    inverse = 1 / float(value)
    return abs(float(np.frexp(value)[0])) == 0.5 and float(np.finfo(value.dtype).tiny) <= abs(inverse) < float("inf")


def _converted(value: Any, dtype: np.dtype) -> Any:
    """As XLA converts: floats to integers are clamped, and NaN is 0."""
    if value.dtype.kind == "f" and dtype.kind in "iu":
        if np.isnan(value):
            return 0
        info = np.iinfo(dtype)
        return int(
            max(info.min, min(info.max, int(value) if np.isfinite(value) else (info.max if value > 0 else info.min)))
        )
    return value.astype(dtype)


def ordered(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots need, operands first, each as late as its first user: few values live at once."""
    seen: set[int] = set()
    out: list[Node] = []
    for root in roots:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                out.append(node)
            elif node.number not in seen:
                seen.add(node.number)
                stack.append((node, True))
                stack.extend((a, False) for a in reversed(node.args) if isinstance(a, Node) and a.number not in seen)
    return out
