"""Structure: views, joins, gathers and scatters of arrays of nodes. Only an index that a chain computes costs anything.

An index into a `Table` becomes an address. Into an array of nodes it becomes a choice among the entries it may mean, so
that is for short arrays.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .graph import CONSTANT, Graph, Node, Table, Unsupported

_SMALL = 4096  # a table of at most this many entries may be taken apart
_CHOICES = 256  # the most entries that an index into an array of nodes may mean


def entries(g: Graph, x: Any) -> np.ndarray:
    """The array of nodes of a table, read entry by entry; an array of nodes as it is."""
    if isinstance(x, np.ndarray):
        return x
    if x.size > _SMALL:
        raise Unsupported(f"arithmetic on all {x.size} numbers of an array that chains share")
    out = np.empty(x.shape, object)
    for i in np.ndindex(x.shape):
        at = x.offset + sum(k * s for k, s in zip(i, x.strides, strict=True))
        out[i] = g.input("entry", x.dtype, CONSTANT, x.leaf, at)
    return out


def broadcast_in_dim(g: Graph, x: Any, *dynamic: Any, shape: tuple, broadcast_dimensions: tuple, **params: Any) -> Any:
    if isinstance(x, Table):
        strides = [0] * len(shape)
        for d, n, s in zip(broadcast_dimensions, x.shape, x.strides, strict=True):
            strides[int(d)] = s if n != 1 else 0
        return x._replace(strides=tuple(strides), shape=tuple(shape))
    expanded = [1] * len(shape)
    for d, n in zip(broadcast_dimensions, x.shape, strict=True):
        expanded[int(d)] = n
    return np.broadcast_to(x.reshape(expanded), shape)


def reshape(g: Graph, x: Any, *dynamic: Any, new_sizes: tuple, **params: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x.reshape(new_sizes)
    core = [(n, s) for n, s in zip(x.shape, x.strides, strict=True) if n != 1]
    if [n for n, _ in core] == [n for n in new_sizes if n != 1]:
        inner = iter(s for _, s in core)
        return x._replace(strides=tuple(0 if n == 1 else next(inner) for n in new_sizes), shape=tuple(new_sizes))
    if x.strides != _contiguous(x.shape):
        return entries(g, x).reshape(new_sizes)
    return x._replace(strides=_contiguous(new_sizes), shape=tuple(new_sizes))


def squeeze(g: Graph, x: Any, *, dimensions: tuple, **params: Any) -> Any:
    return reshape(g, x, new_sizes=tuple(n for d, n in enumerate(x.shape) if d not in dimensions))


def expand_dims(g: Graph, x: Any, *, dimensions: tuple, **params: Any) -> Any:
    sizes = list(x.shape)
    for d in sorted(dimensions):
        sizes.insert(d, 1)
    return reshape(g, x, new_sizes=tuple(sizes))


def transpose(g: Graph, x: Any, *, permutation: tuple, **params: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x.transpose(permutation)
    return x._replace(strides=tuple(x.strides[d] for d in permutation), shape=tuple(x.shape[d] for d in permutation))


def slice_(g: Graph, x: Any, *, start_indices: tuple, limit_indices: tuple, strides: Any, **params: Any) -> Any:
    steps = strides or (1,) * len(start_indices)
    if isinstance(x, np.ndarray):
        return x[tuple(slice(a, b, s) for a, b, s in zip(start_indices, limit_indices, steps, strict=True))]
    offset = x.offset + sum(a * s for a, s in zip(start_indices, x.strides, strict=True))
    shape = tuple(-(-(b - a) // s) for a, b, s in zip(start_indices, limit_indices, steps, strict=True))
    return x._replace(offset=offset, strides=tuple(k * s for k, s in zip(x.strides, steps, strict=True)), shape=shape)


def rev(g: Graph, x: Any, *, dimensions: tuple, **params: Any) -> np.ndarray:
    return np.flip(entries(g, x), dimensions)


def concatenate(g: Graph, *parts: Any, dimension: int, **params: Any) -> np.ndarray:
    return np.concatenate([entries(g, x) for x in parts], dimension)


def stack(g: Graph, *parts: Any, axis: int, **params: Any) -> np.ndarray:
    return np.stack([entries(g, x) for x in parts], axis)


def pad(g: Graph, x: Any, fill: Any, *, padding_config: tuple, **params: Any) -> np.ndarray:
    x = entries(g, x)
    shape = [
        max(0, low + high + n + max(0, n - 1) * inner)
        for n, (low, high, inner) in zip(x.shape, padding_config, strict=True)
    ]
    out = np.empty(shape, object)
    out[...] = entries(g, fill).item()
    for i in np.ndindex(x.shape):
        at = tuple(low + k * (inner + 1) for k, (low, _, inner) in zip(i, padding_config, strict=True))
        if all(0 <= k < n for k, n in zip(at, shape, strict=True)):
            out[at] = x[i]
    return out


def dynamic_slice(g: Graph, x: Any, *starts: Any, slice_sizes: tuple, **params: Any) -> Any:
    places = [
        clamped(g, entries(g, s).item(), n - size) for s, n, size in zip(starts, x.shape, slice_sizes, strict=True)
    ]
    out = np.empty(slice_sizes, object)
    for i in np.ndindex(*slice_sizes):
        out[i] = _entry(g, x, places, i, slice_sizes)
    return out


def dynamic_update_slice(g: Graph, x: Any, update: Any, *starts: Any, **params: Any) -> np.ndarray:
    x, update = entries(g, x).copy(), entries(g, update)
    places = [clamped(g, entries(g, s).item(), n - k) for s, n, k in zip(starts, x.shape, update.shape, strict=True)]
    spans = [_span(p, n - k) for p, n, k in zip(places, x.shape, update.shape, strict=True)]
    _few(spans)
    result = x.copy()
    for start in itertools.product(*spans):
        here = _matches(g, places, start)
        for i in np.ndindex(update.shape):
            at = tuple(a + b for a, b in zip(start, i, strict=True))
            result[at] = update[i] if here is None else g.op("select", x[at].dtype, here, update[i], result[at])
    return result


def gather(
    g: Graph,
    x: Any,
    indices: Any,
    *,
    dimension_numbers: Any,
    slice_sizes: tuple,
    mode: Any,
    fill_value: Any,
    **params: Any,
) -> np.ndarray:
    numbers, indices = dimension_numbers, entries(g, indices)
    batch_shape = indices.shape[:-1]
    windowed = [
        d for d in range(len(x.shape)) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    ]
    rank = len(batch_shape) + len(numbers.offset_dims)
    batch_out = [d for d in range(rank) if d not in numbers.offset_dims]
    window = tuple(slice_sizes[d] for d in windowed)
    shape = [0] * rank
    for d, n in zip(batch_out, batch_shape, strict=True):
        shape[d] = n
    for d, n in zip(numbers.offset_dims, window, strict=True):
        shape[d] = n
    out = np.empty(shape, object)
    for b in np.ndindex(*batch_shape):
        places = _starts(g, x.shape, indices[b], b, numbers.start_index_map, numbers.operand_batching_dims,
                         numbers.start_indices_batching_dims)  # fmt: skip
        inside = None
        if "FILL" in str(mode):
            inside = inside_slice(g, places, x.shape, slice_sizes)
        if "PROMISE" not in str(mode):
            places = [clamped(g, p, n - k) for p, n, k in zip(places, x.shape, slice_sizes, strict=True)]
        for w in np.ndindex(*window):
            within = [0] * len(x.shape)
            for d, k in zip(windowed, w, strict=True):
                within[d] = k
            value = _entry(g, x, places, tuple(within), slice_sizes)
            if inside is not None:
                fill = (
                    fill_value
                    if fill_value is not None
                    else (np.nan if value.dtype.kind == "f" else lowest(value.dtype))
                )
                value = g.op("select", value.dtype, inside, value, g.literal(fill, value.dtype))
            at = [0] * rank
            for d, k in zip((*batch_out, *numbers.offset_dims), (*b, *w), strict=True):
                at[d] = k
            out[tuple(at)] = value
    return out


def _scatter(combine: str | None) -> Any:
    def rule(
        g: Graph, x: Any, indices: Any, updates: Any, *, dimension_numbers: Any, mode: Any, **params: Any
    ) -> np.ndarray:
        numbers = dimension_numbers
        x, indices, updates = entries(g, x), entries(g, indices), entries(g, updates)
        result = x.copy()
        batch = [d for d in range(updates.ndim) if d not in numbers.update_window_dims]
        windowed = [
            d for d in range(x.ndim) if d not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        ]
        sizes = [1] * x.ndim
        for d, u in zip(windowed, numbers.update_window_dims, strict=True):
            sizes[d] = updates.shape[u]
        for i in np.ndindex(updates.shape):
            b = tuple(i[d] for d in batch)
            places = _starts(g, x.shape, indices[b], b, numbers.scatter_dims_to_operand_dims, numbers.operand_batching_dims,
                             numbers.scatter_indices_batching_dims)  # fmt: skip
            if "CLIP" in str(mode):
                places = [clamped(g, p, n - k) for p, n, k in zip(places, x.shape, sizes, strict=True)]
            spans = [_span(p, n - k) for p, n, k in zip(places, x.shape, sizes, strict=True)]
            _few(spans)
            within = [0] * x.ndim
            for d, u in zip(windowed, numbers.update_window_dims, strict=True):
                within[d] = i[u]
            for start in itertools.product(*spans):
                at = tuple(a + k for a, k in zip(start, within, strict=True))
                new = updates[i] if combine is None else g.op(combine, updates[i].dtype, result[at], updates[i])
                here = _matches(g, places, start)
                result[at] = new if here is None else g.op("select", new.dtype, here, new, result[at])
        return result

    return rule


def _starts(
    g: Graph, shape: tuple, row: np.ndarray, b: tuple, index_map: tuple, batching: tuple, index_batching: tuple
) -> list[Node]:
    """Where the slice of one batch entry starts, along each dimension of the operand."""
    dtype = row[0].dtype if len(row) else np.dtype(np.int32)
    places = [g.literal(0, dtype) for _ in shape]
    for d, node in zip(index_map, row, strict=True):
        places[d] = node
    for d, k in zip(batching, index_batching, strict=True):
        places[d] = g.literal(b[k], dtype)
    return places


def _entry(g: Graph, x: Any, places: list[Node], within: tuple, sizes: tuple) -> Node:
    """x at places + within."""
    if isinstance(x, Table):
        static = x.offset + sum(k * s for k, s in zip(within, x.strides, strict=True))
        base: Node = g.literal(0, np.int32)
        for p, s in zip(places, x.strides, strict=True):
            moved = g.op("mul", np.int32, g.op("convert", np.int32, p), g.literal(s, np.int32))
            base = g.op("add", np.int32, base, moved)
        if base.op == "literal":
            return g.input("entry", x.dtype, CONSTANT, x.leaf, static + int(base.value))
        return g.op("row", x.dtype, x.leaf, base, static)
    spans = [_span(p, n - k) for p, n, k in zip(places, x.shape, sizes, strict=True)]
    _few(spans)
    result = None
    for start in itertools.product(*spans):
        value = x[tuple(a + k for a, k in zip(start, within, strict=True))]
        here = None if result is None else _matches(g, places, start)
        result = value if here is None else g.op("select", value.dtype, here, value, result)
    assert result is not None
    return result


def _span(place: Node, last: int) -> list[int]:
    """The starts that an index may mean."""
    if place.op == "literal":
        return [int(place.value)] if 0 <= int(place.value) <= last else []
    return list(range(last + 1))


def _few(spans: list[list[int]]) -> None:
    if (n := int(np.prod([len(s) for s in spans]))) > _CHOICES:
        raise Unsupported(f"an index into {n} numbers that each chain has of its own")


def _matches(g: Graph, places: list[Node], start: tuple) -> Node | None:
    """Whether the computed index means this start; None if it cannot mean another."""
    result = None
    for p, k in zip(places, start, strict=True):
        if p.op != "literal":
            here = g.op("eq", bool, p, g.literal(k, p.dtype))
            result = here if result is None else g.op("and", bool, result, here)
    return result


def clamped(g: Graph, place: Node, last: int) -> Node:
    if place.dtype.kind == "u":
        return g.op("min", place.dtype, place, g.literal(last, place.dtype))
    return g.op(
        "min", place.dtype, g.op("max", place.dtype, place, g.literal(0, place.dtype)), g.literal(last, place.dtype)
    )


def inside_slice(g: Graph, places: list[Node], shape: tuple, sizes: tuple) -> Node:
    result = g.literal(True, bool)
    for p, n, k in zip(places, shape, sizes, strict=True):
        if p.dtype.kind != "u":
            result = g.op("and", bool, result, g.op("ge", bool, p, g.literal(0, p.dtype)))
        result = g.op("and", bool, result, g.op("le", bool, p, g.literal(n - k, p.dtype)))
    return result


def lowest(dtype: np.dtype) -> Any:
    return np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max if dtype.kind == "u" else True


def _contiguous(shape: tuple) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


INDEXING: dict[str, Any] = {
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "transpose": transpose,
    "slice": slice_,
    "rev": rev,
    "concatenate": concatenate,
    "stack": stack,
    "pad": pad,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "scatter": _scatter(None),
    "scatter-add": _scatter("add"),
    "scatter-sub": _scatter("sub"),
    "scatter-mul": _scatter("mul"),
    "scatter-min": _scatter("min"),
    "scatter-max": _scatter("max"),
}
