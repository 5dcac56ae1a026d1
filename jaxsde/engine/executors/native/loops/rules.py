"""A jaxpr of one chain as formulas and loops: structure is a matter of indices, sums and products are loops.

An entry-by-entry operation stays a formula until it is read more than once; then it is worked out and stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from ...scalar.elementwise import ELEMENTWISE
from ...scalar.evaluate import CALLS, IDENTITIES, platform_branch
from ...scalar.graph import CHAIN, STEP, Graph, Node, Unsupported
from ...scalar.indexing import clamped, inside_slice, lowest
from .arrays import Array, At, Index, Parts, View, contiguous, literal, moved, same
from .nests import Body, Nests

_COPIED = 1 << 16  # the most numbers that all chains share of which each vector of chains may have a copy


class Rules:
    """Evaluates jaxprs. `stores`: whether a formula that is read more than once is stored; else it is repeated, which is cheaper
    where all that read it end in one loop."""

    def __init__(self, nests: Nests, *, stores: bool):
        self.nests, self.stores = nests, stores
        self.turned = False  # whether the result of the equation at hand is only read transposed

    def evaluate(self, closed: Any, *arguments: Array) -> list[Array]:
        return self._evaluate(closed.jaxpr, [self.constant(c) for c in closed.consts], list(arguments))

    def constant(self, value: Any) -> Array:
        """An array known now."""
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            raise Unsupported(f"a constant of type {value.dtype}")
        if not value.size or (value == value.flat[0]).all():
            return literal(value.flat[0] if value.size else 0, value.shape, value.dtype)
        return View(self.nests.constant(value), At(), contiguous(value.shape), value.dtype).array(value.shape)

    def _evaluate(self, jaxpr: Any, constants: list, arguments: list) -> list[Array]:
        values: dict[Any, Array] = dict(zip(jaxpr.constvars, constants, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))
        uses = Counter(v for v in jaxpr.outvars if not isinstance(v, core.Literal))
        for e in reversed(jaxpr.eqns):  # what nobody needs does not read either
            if any(uses[v] for v in e.outvars):
                uses.update(v for v in e.invars if not isinstance(v, core.Literal))

        def read(v: Any) -> Array:
            return self.constant(np.asarray(v.val, getattr(v.aval, "dtype", None))) if isinstance(v, core.Literal) else values[v]

        # A product that is only read the other way round (the gradient of a matrix) lies in memory that way.
        turned = {
            e.invars[0] for e in jaxpr.eqns if e.primitive.name == "transpose" and tuple(e.params["permutation"]) == (1, 0)
        }
        for equation in jaxpr.eqns:
            if not any(uses[v] for v in equation.outvars):
                continue
            self.turned = uses[equation.outvars[0]] == 1 and equation.outvars[0] in turned
            results = self._apply(equation, [read(v) for v in equation.invars])
            for v, x in zip(equation.outvars, results, strict=True):
                again = self.stores and uses[v] > 1 and x.work and not x.uniform
                values[v] = self.nests.stored(x) if again else x
        return [read(v) for v in jaxpr.outvars]

    def _apply(self, equation: Any, operands: list[Array]) -> list[Array]:
        name, params = equation.primitive.name, equation.params
        avals = [v.aval for v in equation.outvars]
        for a in avals:
            if np.dtype(a.dtype).kind not in "fiub":
                raise Unsupported(f"numbers of type {a.dtype}")
        if name in IDENTITIES:
            return operands
        if name in CALLS and params.get("name") == "rarely":
            return operands
        if name in ELEMENTWISE:
            return [self.elementwise(ELEMENTWISE[name], avals[0], operands, params)]
        inner = params["jaxpr"] if name in CALLS else None
        if name.startswith("custom_"):
            inner = params.get("call_jaxpr") or params.get("fun_jaxpr")
        if inner is not None:
            constants = [self.constant(c) for c in getattr(inner, "consts", ())]
            return self._evaluate(getattr(inner, "jaxpr", inner), constants, operands)
        if name in _RULES:
            found = _RULES[name](self, avals, *operands, **params)
            return found if isinstance(found, list) else [found]
        raise Unsupported(f"the primitive {name}")

    def elementwise(self, rule: Any, aval: Any, operands: list[Array], params: dict) -> Array:
        shape = tuple(aval.shape)

        def parts(i: Index) -> Parts:
            return [(x, of(x, i)) for x in operands], lambda g, *nodes: rule(g, *nodes, **params)

        def of(x: Array, i: Index) -> Index:
            """Axes of length one, and single numbers, go with any other."""
            return tuple(k if n == m else At() for k, n, m in zip(i, x.shape, shape, strict=True)) if x.shape else ()

        operands = [
            self.nests.stored(x) if x.work and not x.uniform and x.size < int(np.prod(shape)) else x for x in operands
        ]
        cuts = [frozenset[int]().union(*(x.cuts[d] for x in operands if x.shape)) for d in range(len(shape))]
        return Array(shape, aval.dtype, parts, uniform=all(x.uniform for x in operands), cuts=cuts)

    # ---- structure

    def broadcast_in_dim(
        self, avals: list, x: Array, *dynamic: Any, shape: tuple, broadcast_dimensions: tuple, **params: Any
    ) -> Array:
        if x.work and not x.uniform and x.size < int(np.prod(shape)):
            x = self.nests.stored(x)
        axes = [int(d) for d in broadcast_dimensions]
        kept = [n != 1 or shape[d] == 1 for d, n in zip(axes, x.shape, strict=True)]
        cuts = [frozenset[int]()] * len(shape)
        for d, keep, c in zip(axes, kept, x.cuts, strict=True):
            cuts[d] = c if keep else frozenset()
        view = None
        if x.view is not None:
            strides = [0] * len(shape)
            for d, keep, s in zip(axes, kept, x.view.strides, strict=True):
                strides[d] = s if keep else 0
            view = x.view._replace(strides=tuple(strides))
        return moved(x, shape, lambda i: tuple(i[d] if keep else At() for d, keep in zip(axes, kept, strict=True)), cuts, view)

    def reshape(self, avals: list, x: Array, *dynamic: Any, new_sizes: tuple, **params: Any) -> Array:
        """Axes of length one come and go; anything else is read from memory."""
        new = tuple(int(n) for n in new_sizes)
        old_axes, new_axes = ([d for d, n in enumerate(s) if n != 1] for s in (x.shape, new))
        if [x.shape[d] for d in old_axes] != [new[d] for d in new_axes]:
            if x.uniform and x.size > _COPIED and (x.view is None or x.view.strides != contiguous(x.shape)):
                raise Unsupported(f"{x.size} numbers that chains share, {x.shape} as {new}")
            x = self.nests.stored(x)
            assert x.view is not None
            if x.view.strides != contiguous(x.shape):
                x = self.nests.fill(x, self.nests.buffer(x.size, x.dtype))
            return x.view._replace(strides=contiguous(new)).array(new)  # pyright: ignore[reportOptionalMemberAccess]
        back = dict(zip(old_axes, new_axes, strict=True))
        forth = {b: a for a, b in back.items()}
        cuts = [x.cuts[forth[d]] if d in forth else frozenset[int]() for d in range(len(new))]
        view = None
        if x.view is not None:
            view = x.view._replace(strides=tuple(x.view.strides[forth[d]] if d in forth else 0 for d in range(len(new))))
        return moved(x, new, lambda i: tuple(i[back[d]] if d in back else At() for d in range(len(x.shape))), cuts, view)

    def squeeze(self, avals: list, x: Array, **params: Any) -> Array:
        return self.reshape(avals, x, new_sizes=avals[0].shape)

    def transpose(self, avals: list, x: Array, *, permutation: tuple, **params: Any) -> Array:
        order = [int(d) for d in permutation]
        where = lambda i: tuple(i[order.index(d)] for d in range(len(order)))  # noqa: E731
        view = x.view._replace(strides=tuple(x.view.strides[d] for d in order)) if x.view is not None else None
        return moved(x, avals[0].shape, where, [x.cuts[d] for d in order], view)

    def slice(self, avals: list, x: Array, *, start_indices: tuple, strides: Any, **params: Any) -> Array:
        starts, steps, shape = start_indices, strides or (1,) * len(start_indices), avals[0].shape
        return self._affine(x, shape, [int(s) for s in starts], [int(s) for s in steps])

    def rev(self, avals: list, x: Array, *, dimensions: tuple, **params: Any) -> Array:
        return self._affine(
            x, x.shape, [n - 1 if d in dimensions else 0 for d, n in enumerate(x.shape)],
            [-1 if d in dimensions else 1 for d in range(len(x.shape))],
        )  # fmt: skip

    def _affine(self, x: Array, shape: Sequence[int], starts: list[int], steps: list[int]) -> Array:
        """Entry start + step · i along each axis."""

        def where(i: Index) -> Index:
            return tuple(k.times(step).plus(start) for k, start, step in zip(i, starts, steps, strict=True))

        cuts = []
        for found, n, start, step in zip(x.cuts, shape, starts, steps, strict=True):
            first = (-((start - c) // step) if step > 0 else -((c - 1 - start) // -step) for c in found)
            cuts.append(frozenset(k for k in first if 0 < k < n))
        view = None
        if x.view is not None:
            offset = x.view.place(tuple(At(s) for s in starts))
            view = x.view._replace(offset=offset, strides=tuple(s * k for s, k in zip(x.view.strides, steps, strict=True)))
        return moved(x, shape, where, cuts, view)

    def split(self, avals: list, x: Array, *, sizes: tuple, axis: int, **params: Any) -> list[Array]:
        starts = np.cumsum([0, *sizes])[:-1]
        return [
            self._affine(x, a.shape, [int(s) if d == axis else 0 for d in range(len(x.shape))], [1] * len(x.shape))
            for a, s in zip(avals, starts, strict=True)
        ]

    def unstack(self, avals: list, x: Array, *, axis: int, **params: Any) -> list[Array]:
        parts = self.split([np.empty((*x.shape[:axis], 1, *x.shape[axis + 1 :]))] * x.shape[axis], x,
                           sizes=(1,) * x.shape[axis], axis=axis)  # fmt: skip
        return [self.reshape([], p, new_sizes=avals[0].shape) for p in parts]

    def concatenate(self, avals: list, *parts: Array, dimension: int, **params: Any) -> Array:
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([x.shape[dimension] for x in parts])
        pieces = [(x, int(end) - x.shape[dimension], int(end)) for x, end in zip(parts, ends, strict=True) if x.size]
        return self._joined(avals[0], [(x, dimension, a, b) for x, a, b in pieces], dimension)

    def stack(self, avals: list, *parts: Array, axis: int, **params: Any) -> Array:
        wide = [self._expanded(x, axis) for x in parts]
        return self.concatenate(avals, *wide, dimension=axis)

    def _expanded(self, x: Array, axis: int) -> Array:
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        return self.reshape([], x, new_sizes=shape)

    def _joined(self, aval: Any, pieces: list[tuple[Array, int, int, int]], axis: int) -> Array:
        def parts(i: Index) -> Parts:
            for x, _, a, b in pieces:
                if a <= i[axis].low and i[axis].high < b:
                    return [(x, tuple(k.plus(-a) if d == axis else k for d, k in enumerate(i)))], same
            raise AssertionError("a loop goes across a joint")

        cuts = []
        for d in range(len(aval.shape)):
            found = set()
            for x, _, a, b in pieces:
                found |= {a + c for c in x.cuts[d]} | {a, b} if d == axis else x.cuts[d]
            cuts.append(frozenset(c for c in found if 0 < c < aval.shape[d]))
        return Array(aval.shape, aval.dtype, parts, uniform=all(x.uniform for x, *_ in pieces), cuts=cuts,
                     work=any(x.work for x, *_ in pieces))  # fmt: skip

    def pad(self, avals: list, x: Array, fill: Array, *, padding_config: tuple, **params: Any) -> Array:
        if any(inner for _, _, inner in padding_config):
            return self._spread(avals[0], x, fill, padding_config)
        low = [int(a) for a, _, _ in padding_config]
        shape = avals[0].shape
        spans = [(max(0, a), min(n, a + m)) for a, n, m in zip(low, shape, x.shape, strict=True)]

        def parts(i: Index) -> Parts:
            if all(a <= k.low and k.high < b for k, (a, b) in zip(i, spans, strict=True)):
                return [(x, tuple(k.plus(-a) for k, a in zip(i, low, strict=True)))], same
            return [(fill, ())], same

        cuts = [
            frozenset(c for c in {*(a + c for c in x.cuts[d]), *spans[d]} if 0 < c < n)
            for d, (a, n) in enumerate(zip(low, shape, strict=True))
        ]
        return Array(shape, avals[0].dtype, parts, uniform=x.uniform and fill.uniform, cuts=cuts, work=x.work)

    def _spread(self, aval: Any, x: Array, fill: Array, padding_config: tuple) -> Array:
        """With padding between the entries, too."""
        if any(low < 0 or high < 0 for low, high, _ in padding_config):
            raise Unsupported("padding between entries and fewer of them")
        whole = self.broadcast_in_dim([], self.nests.ready(fill), shape=aval.shape, broadcast_dimensions=())
        out = self.nests.fill(whole, self.nests.buffer(whole.size, aval.dtype))

        def put(body: Body, i: Index, node: Node) -> None:
            where = (k.times(inner + 1).plus(low) for k, (low, _, inner) in zip(i, padding_config, strict=True))
            body.store(out, tuple(where), node)

        self.nests.each(x, put)
        return out

    def iota(self, avals: list, *, dimension: int, **params: Any) -> Array:
        aval = avals[0]

        def parts(i: Index) -> Parts:
            at = i[dimension]

            def rule(g: Graph) -> Node:
                counter = g.input("index", np.int32, STEP, at) if at.terms else g.literal(at.const, np.int32)
                return ELEMENTWISE["convert_element_type"](g, counter, aval.dtype)

            return (), rule

        return Array(aval.shape, aval.dtype, parts, uniform=True, work=False)

    # ---- sums and products

    def dot_general(self, avals: list, x: Array, y: Array, *, dimension_numbers: Any, **params: Any) -> Array:
        (cx, cy), (bx, by) = dimension_numbers
        aval = avals[0]
        if x.dtype != aval.dtype or y.dtype != aval.dtype or not x.size or not y.size:
            raise Unsupported(f"a product of {x.dtype} and {y.dtype}")

        def flat(a: Array, contracted: Sequence[int], batch: Sequence[int]) -> tuple[Array, list[int]]:
            free = [d for d in range(len(a.shape)) if d not in (*contracted, *batch)]
            sizes = [[a.shape[int(d)] for d in axes] for axes in (batch, free, contracted)]
            turned = self._transposed(a, [*batch, *free, *contracted])
            return self.reshape([], turned, new_sizes=tuple(int(np.prod(s)) for s in sizes)), sizes[1]

        (left, rows), (right, columns) = flat(x, cx, bx), flat(y, cy, by)
        batch = [x.shape[int(d)] for d in bx]
        shape = (*batch, *rows, *columns)
        if left.shape[2] == 1:  # of two vectors: a formula
            left, right = (self.nests.ready(a) for a in (left, right))
            outer = Array(
                (left.shape[0], left.shape[1], right.shape[1]), aval.dtype,
                lambda i: (
                    [(left, (i[0], i[1], At())), (right, (i[0], i[2], At()))], lambda g, a, b: g.op("mul", aval.dtype, a, b)
                ),
                uniform=left.uniform and right.uniform,
            )  # fmt: skip
            return self.reshape([], outer, new_sizes=shape)
        flat_product = self.nests.product(left, right, aval.dtype, self.turned and not batch)
        return self.reshape([], flat_product, new_sizes=shape)

    def _transposed(self, x: Array, order: Sequence[int]) -> Array:
        order = [int(d) for d in order]
        if order == list(range(len(order))):
            return x
        view = x.view._replace(strides=tuple(x.view.strides[d] for d in order)) if x.view is not None else None
        where = lambda i: tuple(i[order.index(d)] for d in range(len(order)))  # noqa: E731
        return moved(x, [x.shape[d] for d in order], where, [x.cuts[d] for d in order], view)

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
            out = self._evaluate(jaxpr.jaxpr, constants, [*shared, *carry, *(self._row(x, at) for x in rows)])
            new = [n.fill(x, n.buffer(x.size, x.dtype)) for x in out[:num_carry]]
            for x, column in zip(out[num_carry:], columns, strict=True):
                assert column.view is not None
                self._copied(x, column.view, at)
            for x, held in zip(new, carry, strict=True):
                assert held.view is not None
                n.fill(x, held.view.source)
        return [*carry, *columns]

    def _row(self, x: Array, at: At) -> Array:
        view = None
        if x.view is not None:
            view = x.view._replace(offset=x.view.offset.plus(at, x.view.strides[0]), strides=x.view.strides[1:])
        return moved(x, x.shape[1:], lambda i: (at, *i), x.cuts[1:], view)

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

    def platform_index(self, avals: list, *, platforms: tuple, **params: Any) -> Array:
        return literal(platform_branch(platforms), (), avals[0].dtype)

    def empty(self, avals: list, **params: Any) -> Array:
        return literal(0, avals[0].shape, avals[0].dtype)

    # ---- entries whose index a chain works out

    def gather(
        self, avals: list, x: Array, indices: Array, *, dimension_numbers: Any, slice_sizes: tuple, mode: Any, fill_value: Any,
        **params: Any,
    ) -> Array:  # fmt: skip
        numbers = dimension_numbers
        rank, offset_dims = len(avals[0].shape), [int(d) for d in numbers.offset_dims]
        batch_out = [d for d in range(rank) if d not in offset_dims]
        windowed = [
            d for d in range(len(x.shape)) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        ]
        start = self._starts(x.shape, indices, numbers.start_index_map, numbers.operand_batching_dims,
                             numbers.start_indices_batching_dims)  # fmt: skip
        fills = "FILL" in str(mode)
        clip = "PROMISE" not in str(mode)
        if fills and fill_value is None:
            fill_value = np.nan if x.dtype.kind == "f" else lowest(x.dtype)

        def within(w: Sequence[At]) -> Index:
            at = [At()] * len(x.shape)
            for d, k in zip(windowed, w, strict=True):
                at[d] = k
            return tuple(at)

        return self._picked(
            avals[0], x, indices, start, slice_sizes, clip, fill_value if fills else None,
            batch=lambda i: tuple(i[d] for d in batch_out), within=lambda i: within([i[d] for d in offset_dims]),
            batch_shape=indices.shape[:-1], window_out=offset_dims, windowed=windowed,
        )  # fmt: skip

    def dynamic_slice(self, avals: list, x: Array, *starts: Array, slice_sizes: tuple, **params: Any) -> Array:
        def start(b: Index) -> tuple[list[tuple[Array, Index]], Callable[[list[Node], Graph], list[Node]]]:
            return [(s, ()) for s in starts], lambda nodes, g: nodes

        dims = list(range(len(x.shape)))
        uniform = literal(0, (1,), np.int32) if all(s.uniform for s in starts) else starts[0]
        return self._picked(avals[0], x, uniform, start, slice_sizes, True, None, batch=lambda i: (), within=lambda i: i,
                            batch_shape=(), window_out=dims, windowed=dims)  # fmt: skip

    def dynamic_update_slice(self, avals: list, x: Array, update: Array, *starts: Array, **params: Any) -> Array:
        needs = [(s, ()) for s in starts]
        return self._written(x, update, lambda i: (needs, lambda nodes, g: nodes), update.shape, lambda i: i, None, True)

    def _written(
        self, x: Array, updates: Array, start: Any, sizes: Sequence[int], within: Callable[[Index], Index], combine: str | None,
        everywhere: bool,
    ) -> Array:  # fmt: skip
        """x with updates put into it, one after the other; unless they go `everywhere`, those that lie outside are dropped."""
        out = self.nests.fill(x, self.nests.buffer(x.size, x.dtype))
        assert out.view is not None
        view = out.view

        def put(body: Body, i: Index, node: Node) -> None:
            needs, places = start(i)
            g = body.g
            starts = places([body.entry(a, at) for a, at in needs], g)
            where: Node = g.literal(0, np.int32)
            for p, n, k, s in zip(starts, x.shape, sizes, view.strides, strict=True):
                place = g.op("convert", np.int32, clamped(g, p, n - int(k)))
                where = g.op("add", np.int32, where, g.op("mul", np.int32, place, g.literal(s, np.int32)))
            at = view.place(within(i))
            old = g.input("cell", x.dtype, CHAIN, view.source, at, where)
            new = node if combine is None else g.op(combine, x.dtype, old, node)
            if not everywhere:
                new = g.op("select", x.dtype, inside_slice(g, starts, x.shape, tuple(sizes)), new, old)
            body.put(view.source, at, where, new)

        self.nests.each(updates if updates.whole else self.nests.stored(updates), put)
        return out

    def _starts(self, shape: tuple, indices: Array, index_map: tuple, batching: tuple, index_batching: tuple) -> Any:
        """Where the slice of one batch entry starts, along each axis: the entries it needs, and what to make of them."""

        def start(b: Index) -> tuple[list[tuple[Array, Index]], Callable[[list[Node], Graph], list[Node]]]:
            needs = [(indices, (*b, At(k))) for k in range(len(index_map))]

            def places(nodes: list[Node], g: Graph) -> list[Node]:
                kind = indices.dtype
                found = [g.literal(0, kind) for _ in shape]
                for d, node in zip(index_map, nodes, strict=True):
                    found[int(d)] = node
                for d, k in zip(batching, index_batching, strict=True):
                    at = b[int(k)]
                    found[int(d)] = g.input("index", kind, STEP, at) if at.terms else g.literal(at.const, kind)
                return found

            return needs, places

        if any(int(k) for k in index_batching) and indices.dtype != np.int32:
            raise Unsupported(f"indices of type {indices.dtype}")
        return start

    def _picked(
        self, aval: Any, x: Array, indices: Array, start: Any, sizes: tuple, clip: bool, fill: Any, *, batch: Any, within: Any,
        batch_shape: tuple, window_out: list[int], windowed: list[int],
    ) -> Array:  # fmt: skip
        if x.view is None:
            x = self.nests.stored(x) if not x.uniform else x
        if x.view is None:
            raise Unsupported("an index into an array that is worked out anew for each entry")
        view, uniform = x.view, x.uniform and indices.uniform
        indices = self.nests.ready(indices)

        def base(b: Index, bounded: bool = clip) -> Parts:
            """The entry of memory where a slice starts."""
            needs, places = start(b)

            def rule(g: Graph, *nodes: Node) -> Node:
                total: Node = g.literal(0, np.int32)
                for p, n, k, s in zip(places(list(nodes), g), x.shape, sizes, view.strides, strict=True):
                    p = clamped(g, p, n - int(k)) if bounded else p
                    far = g.op("mul", np.int32, g.op("convert", np.int32, p), g.literal(s, np.int32))
                    total = g.op("add", np.int32, total, far)
                return total

            return needs, rule

        def parts(i: Index) -> Parts:
            b = batch(i)
            needs, rule = base(b)
            _, places = start(b)
            at = view.place(within(i))

            def entry(g: Graph, *nodes: Node) -> Node:
                where = rule(g, *nodes)
                shared = isinstance(view.source, int | str)
                rate = max(STEP, where.rate) if shared else CHAIN
                value = g.input("datum" if shared else "cell", view.dtype, rate, view.source, at, where)
                if fill is None:
                    return value
                known = inside_slice(g, places(list(nodes), g), x.shape, sizes)
                return g.op("select", value.dtype, known, value, g.literal(fill, value.dtype))

            return needs, entry

        columns = int(np.prod([sizes[d] for d in windowed]))
        inner = [view.strides[d] for d in windowed]
        if (
            x.uniform and not uniform and fill is None and columns >= 4 and isinstance(view.source, int)
            and x.dtype.itemsize in (4, 8) and inner == list(contiguous([int(sizes[d]) for d in windowed]))
        ):  # fmt: skip
            count = int(np.prod(batch_shape))
            bases = self.nests.stored(Array(batch_shape, np.int32, base, uniform=False))
            flat = self.reshape([], bases, new_sizes=(count,))
            rows = self.nests.rows(view, flat, (count, columns))
            window = [int(sizes[d]) for d in windowed]
            found = self.reshape([], rows, new_sizes=(*batch_shape, *window))
            back = [d for d in range(len(aval.shape)) if d not in window_out] + list(window_out)
            return self._transposed(found, [back.index(d) for d in range(len(aval.shape))])
        return Array(aval.shape, aval.dtype, parts, uniform=uniform)


_NAMES = (
    "broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "rev", "split", "unstack", "concatenate", "stack", "pad",
    "iota", "dot_general", "scan", "cond", "platform_index", "empty", "gather", "dynamic_slice", "dynamic_update_slice",
)  # fmt: skip
_RULES: dict[str, Any] = {name: getattr(Rules, name) for name in _NAMES}
_RULES |= {"empty2": Rules.empty, "expand_dims": Rules.squeeze}


def _reduce(operation: str) -> Any:
    def rule(self: Rules, avals: list, x: Array, *, axes: tuple, **params: Any) -> Array:
        return self.nests.fold(operation, x, [int(d) for d in axes]) if axes else x

    return rule


_RULES |= {f"reduce_{name}": _reduce(op) for name, op in (
    ("sum", "add"), ("max", "max"), ("min", "min"), ("prod", "mul"), ("and", "and"), ("or", "or"))}  # fmt: skip


def _cumulative(operation: str) -> Any:
    def rule(self: Rules, avals: list, x: Array, *, axis: int, reverse: bool, **params: Any) -> Array:
        return self.nests.running(operation, x, axis, reverse)

    return rule


_RULES |= {f"cum{name}": _cumulative(op) for name, op in (("sum", "add"), ("prod", "mul"), ("max", "max"), ("min", "min"))}


def _arg(compare: str) -> Any:
    def rule(self: Rules, avals: list, x: Array, *, axes: tuple, index_dtype: Any, **params: Any) -> Array:
        return self.nests.extreme(compare, x, int(axes[0]), index_dtype)

    return rule


_RULES |= {"argmax": _arg("gt"), "argmin": _arg("lt")}


def _scatter(combine: str | None) -> Any:
    def rule(
        self: Rules, avals: list, x: Array, indices: Array, updates: Array, *, dimension_numbers: Any, mode: Any, **params: Any
    ) -> Array:
        numbers = dimension_numbers
        windows = [int(d) for d in numbers.update_window_dims]
        batch = [d for d in range(len(updates.shape)) if d not in windows]
        windowed = [d for d in range(len(x.shape)) if d not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)]
        sizes = [1] * len(x.shape)
        for d, u in zip(windowed, windows, strict=True):
            sizes[d] = updates.shape[u]
        start = self._starts(x.shape, self.nests.ready(indices), numbers.scatter_dims_to_operand_dims,
                             numbers.operand_batching_dims, numbers.scatter_indices_batching_dims)  # fmt: skip

        def places(i: Index) -> Index:
            within = [At()] * len(x.shape)
            for d, u in zip(windowed, windows, strict=True):
                within[d] = i[u]
            return tuple(within)

        everywhere = "CLIP" in str(mode) or "PROMISE" in str(mode)
        return self._written(x, updates, lambda i: start(tuple(i[d] for d in batch)), sizes, places, combine, everywhere)

    return rule


_RULES |= {"scatter": _scatter(None)} | {
    f"scatter-{name}": _scatter(op) for name, op in (("add", "add"), ("sub", "sub"), ("mul", "mul"), ("min", "min"), ("max", "max"))
}
