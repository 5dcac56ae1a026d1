"""Entries whose index is worked out while the program runs: by all chains alike, or by each for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...scalar.graph import CHAIN, STEP, Graph, Node, Unsupported
from ...scalar.indexing import clamped, inside_slice, lowest
from .arrays import Array, At, Index, Parts, contiguous, literal
from .body import Body
from .nests import Nests
from .structure import reshape, transposed


def gather(
    nests: Nests, avals: list, x: Array, indices: Array, *, dimension_numbers: Any, slice_sizes: tuple, mode: Any, fill_value: Any,
    **params: Any,
) -> Array:  # fmt: skip
    numbers = dimension_numbers
    rank, offset_dims = len(avals[0].shape), [int(d) for d in numbers.offset_dims]
    batch_out = [d for d in range(rank) if d not in offset_dims]
    windowed = [
        d for d in range(len(x.shape)) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    ]
    start = _starts(nests, x.shape, indices, numbers.start_index_map, numbers.operand_batching_dims,
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

    return _picked(nests,
        avals[0], x, indices, start, slice_sizes, clip, fill_value if fills else None,
        batch=lambda i: tuple(i[d] for d in batch_out), within=lambda i: within([i[d] for d in offset_dims]),
        batch_shape=indices.shape[:-1], window_out=offset_dims, windowed=windowed,
    )  # fmt: skip


def dynamic_slice(nests: Nests, avals: list, x: Array, *starts: Array, slice_sizes: tuple, **params: Any) -> Array:
    def start(b: Index) -> tuple[list[tuple[Array, Index]], Callable[[list[Node], Graph], list[Node]]]:
        return [(s, ()) for s in starts], lambda nodes, g: nodes

    dims = list(range(len(x.shape)))
    uniform = literal(0, (1,), np.int32) if all(s.uniform for s in starts) else starts[0]
    return _picked(nests, avals[0], x, uniform, start, slice_sizes, True, None, batch=lambda i: (), within=lambda i: i,
                        batch_shape=(), window_out=dims, windowed=dims)  # fmt: skip


def dynamic_update_slice(nests: Nests, avals: list, x: Array, update: Array, *starts: Array, **params: Any) -> Array:
    needs = [(s, ()) for s in starts]
    return _written(nests, x, update, lambda i: (needs, lambda nodes, g: nodes), update.shape, lambda i: i, None, True)


def _written(
    nests: Nests, x: Array, updates: Array, start: Any, sizes: Sequence[int], within: Callable[[Index], Index], combine: str | None,
    everywhere: bool,
) -> Array:  # fmt: skip
    """x with updates put into it, one after the other; unless they go `everywhere`, those that lie outside are dropped."""
    out = nests.fill(x, nests.buffer(x.size, x.dtype))
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

    nests.each(updates if updates.whole else nests.stored(updates), put)
    return out


def _starts(nests: Nests, shape: tuple, indices: Array, index_map: tuple, batching: tuple, index_batching: tuple) -> Any:
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
    nests: Nests, aval: Any, x: Array, indices: Array, start: Any, sizes: tuple, clip: bool, fill: Any, *, batch: Any, within: Any,
    batch_shape: tuple, window_out: list[int], windowed: list[int],
) -> Array:  # fmt: skip
    if x.view is None:
        x = nests.stored(x) if not x.uniform else x
    if x.view is None:
        raise Unsupported("an index into an array that is worked out anew for each entry")
    view, uniform = x.view, x.uniform and indices.uniform
    indices = nests.ready(indices)

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
            rate = STEP | where.rate if shared else CHAIN
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
        bases = nests.stored(Array(batch_shape, np.int32, base, uniform=False))
        flat = reshape(nests, [], bases, new_sizes=(count,))
        rows = nests.rows(view, flat, (count, columns))
        window = [int(sizes[d]) for d in windowed]
        found = reshape(nests, [], rows, new_sizes=(*batch_shape, *window))
        back = [d for d in range(len(aval.shape)) if d not in window_out] + list(window_out)
        return transposed(nests, found, [back.index(d) for d in range(len(aval.shape))])
    return Array(aval.shape, aval.dtype, parts, uniform=uniform)


def _scatter(combine: str | None) -> Any:
    def rule(
        nests: Nests, avals: list, x: Array, indices: Array, updates: Array, *, dimension_numbers: Any, mode: Any, **params: Any
    ) -> Array:
        numbers = dimension_numbers
        windows = [int(d) for d in numbers.update_window_dims]
        batch = [d for d in range(len(updates.shape)) if d not in windows]
        windowed = [d for d in range(len(x.shape)) if d not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)]
        sizes = [1] * len(x.shape)
        for d, u in zip(windowed, windows, strict=True):
            sizes[d] = updates.shape[u]
        start = _starts(nests, x.shape, nests.ready(indices), numbers.scatter_dims_to_operand_dims,
                             numbers.operand_batching_dims, numbers.scatter_indices_batching_dims)  # fmt: skip

        def places(i: Index) -> Index:
            within = [At()] * len(x.shape)
            for d, u in zip(windowed, windows, strict=True):
                within[d] = i[u]
            return tuple(within)

        everywhere = "CLIP" in str(mode) or "PROMISE" in str(mode)
        return _written(nests, x, updates, lambda i: start(tuple(i[d] for d in batch)), sizes, places, combine, everywhere)

    return rule


INDICES: dict[str, Any] = {
    "gather": gather, "dynamic_slice": dynamic_slice, "dynamic_update_slice": dynamic_update_slice, "scatter": _scatter(None),
} | {f"scatter-{name}": _scatter(name) for name in ("add", "sub", "mul", "min", "max")}  # fmt: skip
