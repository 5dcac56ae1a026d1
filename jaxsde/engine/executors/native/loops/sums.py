"""Sums along axes and products of matrices, as loops that carry what they add up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...scalar.elementwise import ELEMENTWISE
from ...scalar.graph import STEP, Graph, Node, Unsupported
from ..writer import TYPES
from .arrays import Array, At, Index, Parts, View
from .body import Body
from .nests import Finish, Nests
from .structure import reshape, transposed

_KEPT = 5  # numbers of its factors for one of a product, at most, where they are kept until who reads it comes
_ROUNDS = 4  # of a loop that is not worth one, and products of a sum that is not


def fold(nests: Nests, operation: str, x: Array, axes: Sequence[int]) -> Array:
    """The sum (or what the operation makes of them) of the entries along some axes."""
    kept = [d for d in range(len(x.shape)) if d not in axes]
    shape, count = [x.shape[d] for d in kept], int(np.prod([x.shape[d] for d in axes]))
    if not x.whole or not count:
        x = nests.stored(x)
    out = nests.view(nests.buffer(int(np.prod(shape)), x.dtype), shape)
    if not count:
        raise Unsupported(f"a reduction ({operation}) of nothing")
    kind = nests.body.vector(TYPES[x.dtype.name])
    *outer, last = axes
    together = 4 if x.shape[last] >= 8 else 1
    nests.time += 1
    with nests.loops([(0, n) for n in shape]) as at:

        def combine(body: Body, sums: list[Node], entries: list[Node]) -> list[Node]:
            return [body.g.op(operation, x.dtype, s, e) for s, e in zip(sums, entries, strict=True)]

        def entries(body: Body, inner: Index, count: int) -> list[Node]:
            found = []
            for j in range(count):
                index = dict(zip(kept, at, strict=True)) | dict(zip(axes, inner, strict=True))
                index[last] = index[last].plus(j)
                found.append(body.entry(x, tuple(index[d] for d in range(len(x.shape)))))
            return found

        body = nests.graph()
        start = body.need(neutral(body.g, operation, x.dtype, together))
        sums = summed(
            nests, [(0, x.shape[d]) for d in outer], x.shape[last], together, [kind] * together, start,
            lambda body, accs, inner, n: combine(body, accs, entries(body, inner, n)), x.dtype,
        )  # fmt: skip
        body = nests.graph()
        nodes = [body.given(name, x.dtype) for name in sums]
        while len(nodes) > 1:
            nodes = [body.g.op(operation, x.dtype, a, b) for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
        body.store(out, at, nodes[0])
    nests.time += 1
    return out


def running(nests: Nests, operation: str, x: Array, axis: int, reverse: bool) -> Array:
    """The sums (or what the operation makes of them) of the entries up to each, along an axis."""
    x = x if x.whole else nests.stored(x)
    out = nests.view(nests.buffer(x.size, x.dtype), x.shape)
    kind, length = nests.body.vector(TYPES[x.dtype.name]), x.shape[axis]
    nests.time += 1
    with nests.loops([(0, n) for d, n in enumerate(x.shape) if d != axis]) as at:
        start = nests.graph().need(neutral(nests.graph().g, operation, x.dtype, 1))
        with nests.loop(0, length, 1, [kind], start) as loop:
            body = nests.graph()
            k = loop.at.times(-1).plus(length - 1) if reverse else loop.at
            index = (*at[:axis], k, *at[axis:])
            node = body.g.op(operation, x.dtype, body.given(loop.carried[0], x.dtype), body.entry(x, index))
            loop.next = body.need([node])
            body.store(out, index, node)
    nests.time += 1
    return out


def extreme(nests: Nests, compare: str, x: Array, axis: int, index_dtype: Any) -> Array:
    """Where the largest or the smallest entry along an axis is; the first NaN wins, as in NumPy."""
    x = x if x.whole else nests.stored(x)
    shape = [n for d, n in enumerate(x.shape) if d != axis]
    out = nests.view(nests.buffer(int(np.prod(shape)), index_dtype), shape)
    kinds = [nests.body.vector(TYPES[np.dtype(t).name]) for t in (x.dtype, np.int32)]
    nests.time += 1
    with nests.loops([(0, n) for n in shape]) as at:
        body = nests.graph()
        start = body.need([body.entry(x, (*at[:axis], At(), *at[axis:])), body.g.literal(0, np.int32)])
        with nests.loop(0, x.shape[axis], 1, kinds, start) as loop:
            body = nests.graph()
            g, best, where = body.g, body.given(loop.carried[0], x.dtype), body.given(loop.carried[1], np.int32)
            entry = body.entry(x, (*at[:axis], loop.at, *at[axis:]))
            better = g.op(compare, bool, entry, best)
            if x.dtype.kind == "f":
                unknown, before = g.op("ne", bool, entry, entry), g.op("ne", bool, best, best)
                better = g.op("and", bool, g.op("or", bool, better, unknown), g.op("not", bool, before))
            place = g.input("index", np.int32, STEP, loop.at)
            loop.next = body.need([
                g.op("select", x.dtype, better, entry, best), g.op("select", np.int32, better, place, where)
            ])  # fmt: skip
        body = nests.graph()
        body.store(out, at, body.g.op("convert", index_dtype, body.given(loop.next[1], np.int32)))
    nests.time += 1
    return out


def summed(
    nests: Nests, outer: list[tuple[int, int]], length: int, together: int, kinds: list[str], starts: list[str],
    step: Callable[[Body, list[Node], Index, int], list[Node]], dtype: Any,
) -> list[str]:  # fmt: skip
    """Carried values through loops over `outer` and then over `length`, several at once and then what remains one by one."""
    if outer:
        (low, high), *rest = outer
        with nests.loop(low, high, 1, kinds, starts) as loop:
            loop.next = summed(
                nests, rest, length, together, kinds, loop.carried, lambda b, a, i, n: step(b, a, (loop.at, *i), n), dtype
            )
        return loop.next
    whole, values = length - length % together, starts
    if whole <= _ROUNDS * together:  # no loop
        for k in range(0, whole, together):
            body = nests.graph()
            values = body.need(step(body, [body.given(name, dtype) for name in values], (At(k),), together))
    else:
        with nests.loop(0, whole, together, kinds, starts) as loop:
            body = nests.graph()
            nodes = [body.given(name, dtype) for name in loop.carried]
            loop.next = body.need(step(body, nodes, (loop.at,), together))
        values = loop.next
    for k in range(whole, length):
        body = nests.graph()
        nodes = [body.given(name, dtype) for name in values]
        share = len(nodes) // together
        new = step(body, nodes[:share], (At(k),), 1)
        values = [*body.need(new), *values[share:]]
    return values


def product(nests: Nests, x: Array, y: Array, dtype: Any, turned: bool = False, waits: bool = False) -> Array:
    """Σ_k x[b, m, k] y[b, n, k] as [b, m, n]; `turned`: in the memory of [b, n, m]; it may be worked out where it is read, if it
    `waits`."""
    (batch, m, depth), n = x.shape, y.shape[1]
    nests.multiplies |= min(m, n) > 1 and not (x.uniform or y.uniform)
    tile_m, tile_n = tiles(m, n, x.uniform, y.uniform, nests.registers)
    x = x if n <= tile_n and x.whole else nests.ready(x)  # what is read once is worked out where it is read
    y = y if m <= tile_m and y.whole else nests.ready(y)
    buffer = nests.buffer(batch * m * n, dtype)
    strides = (m * n, 1, m) if turned else (m * n, n, 1)
    out = View(buffer, At(), strides, buffer.dtype)
    kind = nests.body.vector(TYPES[np.dtype(dtype).name])
    # So many sums side by side that none waits for its own last addition; the tile has no say in the order of a sum.
    together = 1
    while m * n * together < 8 and 2 * together <= depth:
        together *= 2

    def tiled(b: At, i: At, j: At, tile: list[tuple[int, int]], finish: Finish) -> None:
        def step(body: Body, sums: list[Node], inner: Index, count: int) -> list[Node]:
            new = []
            for t in range(count):
                k = inner[0].plus(t)
                for p, q in tile:
                    left, right = body.entry(x, (b, i.plus(p), k)), body.entry(y, (b, j.plus(q), k))
                    new.append(body.multiplied(left, right, sums[len(new)], dtype))
            return new

        size = len(tile) * together
        sums = summed(nests, [], depth, together, [kind] * size, ["zeroinitializer"] * size, step, dtype)
        body = nests.graph()
        nodes = [body.given(name, dtype) for name in sums]
        while len(nodes) > len(tile):
            half = len(nodes) // 2
            nodes = [body.g.op("add", dtype, u, v) for u, v in zip(nodes[:half], nodes[half:], strict=True)]
        places = [out.place((b, i.plus(p), j.plus(q))) for p, q in tile]
        finish(body, list(zip(places, nodes, strict=True)))

    def made(finish: Finish) -> None:
        nests.time += 1
        for rows, tm in regions(m, tile_m):
            for columns, tn in regions(n, tile_n):
                with nests.loops([(0, batch), rows, columns], [1, tm, tn]) as (b, i, j):
                    tiled(b, i, j, list(itertools.product(range(tm), range(tn))), finish)
        nests.time += 1

    nests.waiting[buffer] = made
    if not waits or (m + n) * depth > _KEPT * m * n:
        nests.settle(buffer)
    return out.array((batch, m, n))


def dot_general(
    nests: Nests, avals: list, x: Array, y: Array, *, dimension_numbers: Any, turned: bool, waits: bool, **params: Any
) -> Array:
    """As one product of two matrices for each entry of the batch; `turned`: the result is only read transposed; `waits`: it is
    read once, entry by entry, by what is then written."""
    (cx, cy), (bx, by) = dimension_numbers
    aval = avals[0]
    if not x.size or not y.size:
        raise Unsupported("a product of nothing")
    x, y = converted(x, aval.dtype), converted(y, aval.dtype)

    def flat(a: Array, contracted: Sequence[int], batch: Sequence[int]) -> tuple[Array, list[int]]:
        free = [d for d in range(len(a.shape)) if d not in (*contracted, *batch)]
        sizes = [[a.shape[int(d)] for d in axes] for axes in (batch, free, contracted)]
        turned = transposed(nests, a, [*batch, *free, *contracted])
        return reshape(nests, [], turned, new_sizes=tuple(int(np.prod(s)) for s in sizes)), sizes[1]

    (left, rows), (right, columns) = flat(x, cx, bx), flat(y, cy, by)
    batch = [x.shape[int(d)] for d in bx]
    shape = (*batch, *rows, *columns)
    depth = left.shape[2]
    if depth <= _ROUNDS and min(left.shape[1], right.shape[1]) == 1:  # so few products: a formula
        left, right = (nests.ready(a) for a in (left, right))

        def parts(i: Index) -> Parts:
            return [(a, (i[0], i[1 + side], At(k))) for k in range(depth) for side, a in enumerate((left, right))], added

        def added(g: Graph, *factors: Node) -> Node:
            return g.total(zip(factors[::2], factors[1::2], strict=True), aval.dtype)

        shape_of = (left.shape[0], left.shape[1], right.shape[1])
        work, uniform = depth + left.work + right.work, left.uniform and right.uniform
        few = Array(shape_of, aval.dtype, parts, uniform=uniform, work=work)
        return reshape(nests, [], few, new_sizes=shape)
    flat_product = product(nests, left, right, aval.dtype, turned and not batch, waits)
    return reshape(nests, [], flat_product, new_sizes=shape)


def converted(x: Array, dtype: Any) -> Array:
    """The entries as numbers of another type."""
    if x.dtype == dtype:
        return x

    def rule(g: Graph, node: Node) -> Node:
        return ELEMENTWISE["convert_element_type"](g, node, dtype)

    return Array(x.shape, dtype, lambda i: ([(x, i)], rule), uniform=x.uniform, cuts=x.cuts, work=x.work + 1)


def neutral(g: Graph, operation: str, dtype: np.dtype, count: int) -> list[Node]:
    """What an operation begins with."""
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (False, True) if dtype.kind == "b" else (
        np.iinfo(dtype).min, np.iinfo(dtype).max)  # fmt: skip
    value = {"add": 0, "mul": 1, "max": low, "min": high, "and": -1 if dtype.kind == "i" else high, "or": 0, "xor": 0}
    return [g.literal(value[operation], dtype)] * count


def tiles(m: int, n: int, x_uniform: bool, y_uniform: bool, registers: int) -> tuple[int, int]:
    """Entries of a product that are worked out together: as many as there are registers for. A number that chains share comes
    with the multiplication, so that side may be long."""
    registers = max(1, registers)
    if x_uniform != y_uniform:
        own, shared = (n, m) if x_uniform else (m, n)
        few = _even(own, 2 if registers >= 12 else 1)
        many = _even(shared, min(12, registers // few))
        return (many, few) if x_uniform else (few, many)
    side = max(1, int(np.sqrt(registers)) - 1)
    if side == 1:  # one of a column with many of a row, which the multiplications read where they lie
        long = max(1, registers - 2)
        return (_even(m, long), 1) if min(m, long) >= min(n, long) else (1, _even(n, long))
    tm = _even(m, side)
    return tm, _even(n, registers // tm - 2 if tm < side else side)


def _even(size: int, most: int) -> int:
    """A tile of at most so many that leaves a last one of nearly the same size."""
    return -(-size // -(-size // max(1, most)))


def regions(size: int, tile: int) -> list[tuple[tuple[int, int], int]]:
    whole = size - size % tile
    return [(r, t) for r, t in (((0, whole), tile), ((whole, size), size - whole)) if t and r[1] > r[0]]


def _reduce(operation: str) -> Any:
    def rule(nests: Nests, avals: list, x: Array, *, axes: tuple, **params: Any) -> Array:
        return fold(nests, operation, x, [int(d) for d in axes]) if axes else x

    return rule


def _cumulative(operation: str) -> Any:
    def rule(nests: Nests, avals: list, x: Array, *, axis: int, reverse: bool, **params: Any) -> Array:
        return running(nests, operation, x, axis, reverse)

    return rule


def _place(compare: str) -> Any:
    def rule(nests: Nests, avals: list, x: Array, *, axes: tuple, index_dtype: Any, **params: Any) -> Array:
        return extreme(nests, compare, x, int(axes[0]), index_dtype)

    return rule


_OPERATIONS = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}
SUMS: dict[str, Any] = {"argmax": _place("gt"), "argmin": _place("lt")}
SUMS |= {f"reduce_{name}": _reduce(op) for name, op in (*_OPERATIONS.items(), ("and", "and"), ("or", "or"))}
SUMS |= {f"cum{name}": _cumulative(op) for name, op in _OPERATIONS.items()}
