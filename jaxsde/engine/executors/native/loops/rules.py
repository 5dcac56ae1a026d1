"""A jaxpr of one chain as formulas and loops: structure is a matter of indices, sums and products are loops.

An entry-by-entry operation stays a formula; one of some length that is read more than once is worked out and stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np
from jax.extend import core

from ...scalar.elementwise import ELEMENTWISE
from ...scalar.evaluate import CALLS, IDENTITIES, platform_branch
from ...scalar.graph import Graph, Node, Unsupported
from .arrays import Array, At, Index, Parts, View, contiguous, literal
from .indices import INDICES
from .nests import Nests
from .structure import STRUCTURE, row_of
from .sums import SUMS, dot_general
from .windows import WINDOWS

_AGAIN = 3  # operations that are cheaper once more than in memory
_CHEAP = {
    "add", "sub", "mul", "neg", "abs", "max", "min", "select_n", "square", "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge",
}  # fmt: skip
_MOVES, _ALIKE = {"transpose", "reshape", "squeeze", "pad"}, {*_CHEAP, "add_any", "convert_element_type", "div"}
_DEAR = 8  # operations that another one is worth


class Rules:
    """Evaluates jaxprs. `stores`: whether a formula that is read more than once is stored; else it is repeated, which is cheaper
    where all that read it end in one loop."""

    def __init__(self, nests: Nests, *, stores: bool):
        self.nests, self.stores = nests, stores

    def evaluate(self, closed: Any, *arguments: Array, written: bool = False) -> list[Array]:
        """The results; `written`: whoever asks writes them to memory before anything else."""
        return self._evaluate(closed.jaxpr, [self.constant(c) for c in closed.consts], list(arguments), written)

    def constant(self, value: Any) -> Array:
        """An array known now."""
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            raise Unsupported(f"a constant of type {value.dtype}")
        if not value.size or (value == value.flat[0]).all():
            return literal(value.flat[0] if value.size else 0, value.shape, value.dtype)
        return View(self.nests.constant(value), At(), contiguous(value.shape), value.dtype).array(value.shape)

    def _evaluate(self, jaxpr: Any, constants: list, arguments: list, written: bool = False) -> list[Array]:
        values: dict[Any, Array] = dict(zip(jaxpr.constvars, constants, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))
        known = _same(jaxpr)
        name_of = lambda v: known.get(v, v)
        equations = [e for e in jaxpr.eqns if not all(v in known for v in e.outvars)]
        uses = Counter(name_of(v) for v in jaxpr.outvars if not isinstance(v, core.Literal))
        for e in reversed(equations):  # what nobody needs does not read either
            if any(uses[v] for v in e.outvars):
                uses.update(name_of(v) for v in e.invars if not isinstance(v, core.Literal))

        def read(v: Any) -> Array:
            if isinstance(v, core.Literal):
                return self.constant(np.asarray(v.val, getattr(v.aval, "dtype", None)))
            return values[name_of(v)]

        # A product that is only read the other way round (the gradient of a matrix) lies in memory that way.
        turned = {
            name_of(e.invars[0])
            for e in equations
            if e.primitive.name == "transpose" and tuple(e.params["permutation"]) == (1, 0)
        }
        equations = [e for e in equations if any(uses[v] for v in e.outvars)]
        readers = {name_of(v): e for e in equations for v in e.invars if not isinstance(v, core.Literal)}
        ends = set[Any]()
        for equation in equations:
            first = equation.outvars[0]
            once = uses[first] == 1 and first in turned
            end = _written(first, uses, readers, written) if equation.primitive.name == "dot_general" and self.stores else None
            results = self._apply(equation, [read(v) for v in equation.invars], once, end is not None)
            ends.add(end)
            for v, x in zip(equation.outvars, results, strict=True):
                again = self.stores and uses[v] > 1 and x.work > _AGAIN and not x.uniform
                values[v] = self.nests.stored(x) if again or (v in ends and uses[v] > 1 and self.nests.waiting) else x
        return [read(v) for v in jaxpr.outvars]

    def _apply(self, equation: Any, operands: list[Array], turned: bool, waits: bool) -> list[Array]:
        name, params = equation.primitive.name, equation.params
        avals = [v.aval for v in equation.outvars]
        if name in IDENTITIES:
            return operands
        if name in CALLS and params.get("name") == "rarely":
            return operands
        inner = params["jaxpr"] if name in CALLS else None
        if name.startswith("custom_"):
            inner = params.get("call_jaxpr") or params.get("fun_jaxpr")
        if inner is not None:
            constants = [self.constant(c) for c in getattr(inner, "consts", ())]
            return self._evaluate(getattr(inner, "jaxpr", inner), constants, operands)
        for a in avals:
            if np.dtype(a.dtype).kind not in "fiub":
                raise Unsupported(f"the primitive {name}, which makes numbers of type {a.dtype}")
        if name in ELEMENTWISE:
            return [self.elementwise(name, avals[0], operands, params)]
        if name in _FLOW:
            return _FLOW[name](self, avals, *operands, **params)
        if name == "dot_general":
            return [dot_general(self.nests, avals, *operands, turned=turned, waits=waits, **params)]
        if name in _PRIMITIVES:
            found = _PRIMITIVES[name](self.nests, avals, *operands, **params)
            return found if isinstance(found, list) else [found]
        raise Unsupported(f"the primitive {name}")

    def elementwise(self, name: str, aval: Any, operands: list[Array], params: dict) -> Array:
        rule, shape = ELEMENTWISE[name], tuple(aval.shape)

        def parts(i: Index) -> Parts:
            return [(x, of(x, i)) for x in operands], lambda g, *nodes: rule(g, *nodes, **params)

        def of(x: Array, i: Index) -> Index:
            """Axes of length one, and single numbers, go with any other."""
            return tuple(k if n == m else At() for k, n, m in zip(i, x.shape, shape, strict=True)) if x.shape else ()

        operands = [
            self.nests.stored(x) if x.work and not x.uniform and x.size < int(np.prod(shape)) else x for x in operands
        ]
        cuts = [frozenset[int]().union(*(x.cuts[d] for x in operands if x.shape)) for d in range(len(shape))]
        work = (1 if name in _CHEAP else _DEAR) + sum(x.work for x in operands)
        return Array(shape, aval.dtype, parts, uniform=all(x.uniform for x in operands), cuts=cuts, work=work)

    def scan(
        self, avals: list, *operands: Array, jaxpr: Any, length: int, reverse: bool, num_consts: int, num_carry: int,
        **params: Any,
    ) -> list[Array]:  # fmt: skip
        """A loop; what it carries lies in memory."""
        n = self.nests
        if not length:
            raise Unsupported("a loop of no rounds")
        shared = [n.ready(x) for x in operands[:num_consts]]
        rows = [n.ready(x) for x in operands[num_consts + num_carry :]]
        carry = [n.fill(x, n.buffer(x.size, x.dtype)) for x in operands[num_consts : num_consts + num_carry]]
        columns = [n.view(n.buffer(int(np.prod(a.shape)), a.dtype), a.shape) for a in avals[num_carry:]]
        constants = [self.constant(c) for c in jaxpr.consts]
        with n.loop(0, length) as loop:
            n.time += 1
            at = loop.at.times(-1).plus(length - 1) if reverse else loop.at
            out = self._evaluate(jaxpr.jaxpr, constants, [*shared, *carry, *(row_of(self.nests, x, at) for x in rows)])
            new = [n.fill(x, n.buffer(x.size, x.dtype)) for x in out[:num_carry]]
            for x, column in zip(out[num_carry:], columns, strict=True):
                assert column.view is not None
                self._copied(x, column.view, at)
            for x, held in zip(new, carry, strict=True):
                assert held.view is not None
                n.fill(x, held.view.source)
        return [*carry, *columns]

    def _copied(self, x: Array, column: View, at: At) -> None:
        into = column._replace(offset=column.offset.plus(at, column.strides[0]), strides=column.strides[1:]).array(x.shape)
        self.nests.each(x, lambda body, index, node: body.store(into, index, node))

    def cond(self, avals: list, which: Array, *operands: Array, branches: tuple, **params: Any) -> list[Array]:
        """Every branch, then a choice, as `vmap` has it."""
        which, operands = self.nests.stored(which), tuple(self.nests.ready(x) for x in operands)
        results = [
            self._evaluate(b.jaxpr, [self.constant(c) for c in b.consts], list(operands)) for b in branches
        ]
        last = len(branches) - 1

        def choose(g: Graph, index: Node, *cases: Node) -> Node:
            result = cases[last]
            for i in range(last - 1, -1, -1):  # an index out of range takes the nearest branch
                here = g.op("le" if i == 0 else "eq", bool, index, g.literal(i, index.dtype))
                result = g.op("select", result.dtype, here, cases[i], result)
            return result

        chosen = []
        for aval, *cases in zip(avals, *results, strict=True):
            cases = [self.nests.ready(c) for c in cases]
            shape = tuple(aval.shape)
            chosen.append(Array(shape, aval.dtype, lambda i, cases=cases: ([(which, ()), *((c, i) for c in cases)], choose),
                                uniform=False))  # fmt: skip
        return chosen

    def platform_index(self, avals: list, *, platforms: tuple, **params: Any) -> list[Array]:
        return [literal(platform_branch(platforms), (), avals[0].dtype)]

    def empty(self, avals: list, **params: Any) -> list[Array]:
        return [literal(0, avals[0].shape, avals[0].dtype)]


def _written(v: Any, uses: Counter, readers: dict[Any, Any], results: bool) -> Any:
    """The vector that is written to memory, entry by entry, and is all that v is read for: one that is read more than once, or a
    result of the jaxpr, if its `results` are written. None if there is no such thing."""
    start = v
    while uses[v] == 1 and v in readers:
        name, after = readers[v].primitive.name, readers[v].outvars[0]
        if name not in _MOVES and (name not in _ALIKE or after.aval.size != v.aval.size):
            return None
        v = after
    found = v is not start and v.aval.ndim == 1 and (uses[v] > 1 or results)
    return v if found else None


def _same(jaxpr: Any) -> dict[Any, Any]:
    """For each result that an earlier equation has, too, that one's."""
    found: dict[Any, Any] = {}
    known: dict[Any, Any] = {}

    def operand(v: Any) -> Any:
        return ("literal", str(v.aval), np.asarray(v.val).tobytes()) if isinstance(v, core.Literal) else known.get(v, v)

    for e in jaxpr.eqns:
        params = tuple((k, v if isinstance(v, Hashable) else id(v)) for k, v in sorted(e.params.items()))
        try:
            first = found.setdefault((e.primitive, tuple(operand(v) for v in e.invars), params), e)
        except TypeError:  # a parameter with a list inside
            continue
        if first is not e:
            known |= {v: w for v, w in zip(e.outvars, first.outvars, strict=True) if not isinstance(v, core.DropVar)}
    return known


_FLOW: dict[str, Any] = {
    "scan": Rules.scan, "cond": Rules.cond, "platform_index": Rules.platform_index, "empty": Rules.empty, "empty2": Rules.empty,
}  # fmt: skip
_PRIMITIVES: dict[str, Any] = STRUCTURE | INDICES | SUMS | WINDOWS
