"""Primitives that move entries about: a matter of indices, and of memory only where axes are joined into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...scalar.elementwise import ELEMENTWISE
from ...scalar.graph import STEP, Graph, Node, Unsupported
from .arrays import Array, At, Index, Parts, contiguous, moved, same
from .body import Body
from .nests import Nests

COPIED = 1 << 16  # the most numbers that all chains share of which each vector of chains may have a copy


def broadcast_in_dim(
    nests: Nests, avals: list, x: Array, *dynamic: Any, shape: tuple, broadcast_dimensions: tuple, **params: Any
) -> Array:
    if x.work and not x.uniform and x.size < int(np.prod(shape)):
        x = nests.stored(x)
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


def reshape(nests: Nests, avals: list, x: Array, *dynamic: Any, new_sizes: tuple, **params: Any) -> Array:
    """Axes of length one come and go; anything else is read from memory."""
    new = tuple(int(n) for n in new_sizes)
    old_axes, new_axes = ([d for d, n in enumerate(s) if n != 1] for s in (x.shape, new))
    if [x.shape[d] for d in old_axes] != [new[d] for d in new_axes]:
        if x.uniform and x.size > COPIED and (x.view is None or x.view.strides != contiguous(x.shape)):
            raise Unsupported(f"{x.size} numbers that chains share, {x.shape} as {new}")
        x = x if x.view is not None else nests.stored(x)
        assert x.view is not None
        if x.view.strides != contiguous(x.shape):
            x = nests.fill(x, nests.buffer(x.size, x.dtype))
        return x.view._replace(strides=contiguous(new)).array(new)  # pyright: ignore[reportOptionalMemberAccess]
    back = dict(zip(old_axes, new_axes, strict=True))
    forth = {b: a for a, b in back.items()}
    cuts = [x.cuts[forth[d]] if d in forth else frozenset[int]() for d in range(len(new))]
    view = None
    if x.view is not None:
        view = x.view._replace(strides=tuple(x.view.strides[forth[d]] if d in forth else 0 for d in range(len(new))))
    return moved(x, new, lambda i: tuple(i[back[d]] if d in back else At() for d in range(len(x.shape))), cuts, view)


def squeeze(nests: Nests, avals: list, x: Array, **params: Any) -> Array:
    return reshape(nests, avals, x, new_sizes=avals[0].shape)


def transpose(nests: Nests, avals: list, x: Array, *, permutation: tuple, **params: Any) -> Array:
    return transposed(nests, x, permutation)


def slice_(nests: Nests, avals: list, x: Array, *, start_indices: tuple, strides: Any, **params: Any) -> Array:
    starts, steps, shape = start_indices, strides or (1,) * len(start_indices), avals[0].shape
    return _affine(nests, x, shape, [int(s) for s in starts], [int(s) for s in steps])


def rev(nests: Nests, avals: list, x: Array, *, dimensions: tuple, **params: Any) -> Array:
    return _affine(nests,
        x, x.shape, [n - 1 if d in dimensions else 0 for d, n in enumerate(x.shape)],
        [-1 if d in dimensions else 1 for d in range(len(x.shape))],
    )  # fmt: skip


def _affine(nests: Nests, x: Array, shape: Sequence[int], starts: list[int], steps: list[int]) -> Array:
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


def split(nests: Nests, avals: list, x: Array, *, sizes: tuple, axis: int, **params: Any) -> list[Array]:
    starts = np.cumsum([0, *sizes])[:-1]
    return [
        _affine(nests, x, a.shape, [int(s) if d == axis else 0 for d in range(len(x.shape))], [1] * len(x.shape))
        for a, s in zip(avals, starts, strict=True)
    ]


def unstack(nests: Nests, avals: list, x: Array, *, axis: int, **params: Any) -> list[Array]:
    parts = split(nests, [np.empty((*x.shape[:axis], 1, *x.shape[axis + 1 :]))] * x.shape[axis], x,
                       sizes=(1,) * x.shape[axis], axis=axis)  # fmt: skip
    return [reshape(nests, [], p, new_sizes=avals[0].shape) for p in parts]


def concatenate(nests: Nests, avals: list, *parts: Array, dimension: int, **params: Any) -> Array:
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([x.shape[dimension] for x in parts])
    pieces = [(x, int(end) - x.shape[dimension], int(end)) for x, end in zip(parts, ends, strict=True) if x.size]
    return _joined(nests, avals[0], [(x, dimension, a, b) for x, a, b in pieces], dimension)


def stack(nests: Nests, avals: list, *parts: Array, axis: int, **params: Any) -> Array:
    wide = [_expanded(nests, x, axis) for x in parts]
    return concatenate(nests, avals, *wide, dimension=axis)


def tile(nests: Nests, avals: list, x: Array, *, reps: Sequence[int], **params: Any) -> Array:
    for axis, times in enumerate(reps):
        x = concatenate(nests, [_like(x, axis, int(times))], *[x] * int(times), dimension=axis) if int(times) != 1 else x
    return x


def _like(x: Array, axis: int, times: int) -> np.ndarray:
    return np.empty([n * times if d == axis else n for d, n in enumerate(x.shape)], x.dtype)


def _expanded(nests: Nests, x: Array, axis: int) -> Array:
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return reshape(nests, [], x, new_sizes=shape)


def _joined(nests: Nests, aval: Any, pieces: list[tuple[Array, int, int, int]], axis: int) -> Array:
    def parts(i: Index) -> Parts:
        for x, _, a, b in pieces:
            if a <= i[axis].low and i[axis].high < b:
                return [(x, tuple(k.plus(-a) if d == axis else k for d, k in enumerate(i)))], same
        raise Unsupported("a loop across a joint")

    cuts = []
    for d in range(len(aval.shape)):
        found = set()
        for x, _, a, b in pieces:
            found |= {a + c for c in x.cuts[d]} | {a, b} if d == axis else x.cuts[d]
        cuts.append(frozenset(c for c in found if 0 < c < aval.shape[d]))
    return Array(aval.shape, aval.dtype, parts, uniform=all(x.uniform for x, *_ in pieces), cuts=cuts,
                 work=max((x.work for x, *_ in pieces), default=0))  # fmt: skip


def pad(nests: Nests, avals: list, x: Array, fill: Array, *, padding_config: tuple, **params: Any) -> Array:
    padding_config = tuple(tuple(int(n) for n in axis) for axis in padding_config)
    if any(inner for _, _, inner in padding_config):
        return _spread(nests, avals[0], x, fill, padding_config)
    low = [int(a) for a, _, _ in padding_config]
    shape = avals[0].shape
    spans = [(max(0, a), min(n, a + m)) for a, n, m in zip(low, shape, x.shape, strict=True)]

    def parts(i: Index) -> Parts:
        if all(a <= k.low and k.high < b for k, (a, b) in zip(i, spans, strict=True)):
            return [(x, tuple(k.plus(-a) for k, a in zip(i, low, strict=True)))], same
        if not any(k.high < a or b <= k.low for k, (a, b) in zip(i, spans, strict=True)):
            raise Unsupported("a loop across the edge of a padding")
        return [(fill, ())], same

    cuts = [
        frozenset(c for c in {*(a + c for c in x.cuts[d]), *spans[d]} if 0 < c < n)
        for d, (a, n) in enumerate(zip(low, shape, strict=True))
    ]
    return Array(shape, avals[0].dtype, parts, uniform=x.uniform and fill.uniform, cuts=cuts, work=x.work)


def _spread(nests: Nests, aval: Any, x: Array, fill: Array, padding_config: tuple) -> Array:
    """With padding between the entries, too."""
    if any(low < 0 or high < 0 for low, high, _ in padding_config):
        raise Unsupported("padding between entries and fewer of them")
    whole = broadcast_in_dim(nests, [], nests.ready(fill), shape=aval.shape, broadcast_dimensions=())
    out = nests.fill(whole, nests.buffer(whole.size, aval.dtype))

    def put(body: Body, i: Index, node: Node) -> None:
        where = (k.times(inner + 1).plus(low) for k, (low, _, inner) in zip(i, padding_config, strict=True))
        body.store(out, tuple(where), node)

    nests.each(x, put)
    return out


def iota(nests: Nests, avals: list, *, dimension: int, **params: Any) -> Array:
    aval = avals[0]

    def parts(i: Index) -> Parts:
        at = i[dimension]

        def rule(g: Graph) -> Node:
            counter = g.input("index", np.int32, STEP, at) if at.terms else g.literal(at.const, np.int32)
            return ELEMENTWISE["convert_element_type"](g, counter, aval.dtype)

        return (), rule

    return Array(aval.shape, aval.dtype, parts, uniform=True, work=0)


def transposed(nests: Nests, x: Array, order: Sequence[int]) -> Array:
    order = [int(d) for d in order]
    if order == list(range(len(order))):
        return x
    view = x.view._replace(strides=tuple(x.view.strides[d] for d in order)) if x.view is not None else None
    where = lambda i: tuple(i[order.index(d)] for d in range(len(order)))
    return moved(x, [x.shape[d] for d in order], where, [x.cuts[d] for d in order], view)


def row_of(nests: Nests, x: Array, at: At) -> Array:
    view = None
    if x.view is not None:
        view = x.view._replace(offset=x.view.offset.plus(at, x.view.strides[0]), strides=x.view.strides[1:])
    return moved(x, x.shape[1:], lambda i: (at, *i), x.cuts[1:], view)


STRUCTURE: dict[str, Any] = {
    "broadcast_in_dim": broadcast_in_dim, "reshape": reshape, "squeeze": squeeze, "expand_dims": squeeze, "transpose": transpose,
    "slice": slice_, "rev": rev, "split": split, "unstack": unstack, "concatenate": concatenate, "stack": stack, "pad": pad,
    "tile": tile, "iota": iota,
}  # fmt: skip
