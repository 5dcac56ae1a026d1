"""Windows that slide: convolutions, and sums or extremes of what a window covers.

    out[n, o, p] = Σ_{i, k} x[n, i, s p + r k] y[o, i, k]

with the operand padded, and spread where it is dilated, in memory. A tile of outputs is worked out together, as many as
there are registers for; the order of a sum is that of the window, whatever the tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ...scalar.graph import CHAIN, Node, Unsupported
from ..writer import TYPES
from .arrays import Array, At, Index, literal
from .body import Body
from .nests import Nests
from .structure import COPIED, pad, transposed
from .sums import converted, neutral, regions, summed, tiles

_UNROLLED = 16  # entries of a window that are no loop


def convolution(
    nests: Nests, avals: list, x: Array, y: Array, *, window_strides: Sequence[int], padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int], rhs_dilation: Sequence[int], dimension_numbers: Any, feature_group_count: int,
    batch_group_count: int, **params: Any,
) -> Array:  # fmt: skip
    (aval,), numbers = avals, dimension_numbers
    if not x.size or not y.size:
        raise Unsupported("a convolution of nothing")
    x, y = converted(x, aval.dtype), converted(y, aval.dtype)
    x = _padded(nests, transposed(nests, x, numbers.lhs_spec), [(0, 0), (0, 0), *padding], [1, 1, *lhs_dilation], 0)
    y = nests.ready(transposed(nests, y, numbers.rhs_spec))
    shape = [aval.shape[d] for d in numbers.out_spec]
    groups = max(feature_group_count, batch_group_count)
    features, channels, *window = y.shape
    features //= groups
    out = nests.view(nests.buffer(int(np.prod(shape)), aval.dtype), shape)
    strides, dilation = ([int(s) for s in steps] for steps in (window_strides, rhs_dilation))
    kind = nests.body.vector(TYPES[aval.dtype.name])
    tile_o, tile_p = tiles(features, shape[-1], y.uniform, x.uniform, nests.registers)
    outer = [(0, channels), *((0, n) for n in window)]
    unrolled = 0  # axes of the window, the last ones, that are no loop
    while unrolled < len(outer) - 1 and np.prod(window[len(window) - unrolled - 1 :]) <= _UNROLLED:
        unrolled += 1
    looped, flat = outer[: len(outer) - unrolled], outer[len(outer) - unrolled :]

    def step(here: Index, tile: list, body: Body, sums: list[Node], inner: Index, count: int) -> list[Node]:
        """A tile's sums with what one channel adds, or one place of the window."""
        group, n, o, *places = here
        new = list(sums)
        for rest in itertools.product(*(range(size) for _, size in flat)):
            i, *at = [*inner, *(At(k) for k in rest)]
            batch, channel = (n.plus(group, shape[0]), i) if batch_group_count > 1 else (n, i.plus(group, channels))
            for t, (a, b) in enumerate(tile):
                spots = [p.plus(b if d == len(places) - 1 else 0).times(s).plus(k, r)
                         for d, (p, s, k, r) in enumerate(zip(places, strides, at, dilation, strict=True))]  # fmt: skip
                left = body.entry(x, (batch, channel, *spots))
                right = body.entry(y, (o.plus(a).plus(group, features), i, *at))
                new[t] = body.multiplied(left, right, new[t], aval.dtype)
        return new

    nests.time += 1
    for (rows, to), (columns, tp) in itertools.product(regions(features, tile_o), regions(shape[-1], tile_p)):
        middle = [(0, n) for n in shape[2:-1]]
        ranges = [(0, groups), (0, shape[0]), rows, *middle, columns]
        with nests.loops(ranges, [1, 1, to, *[1] * len(middle), tp]) as here:
            tile = list(itertools.product(range(to), range(tp)))
            *loops, (_, last) = looped
            start = ["zeroinitializer"] * len(tile)
            sums = summed(nests, loops, last, 1, [kind] * len(tile), start, partial(step, here, tile), aval.dtype)
            group, n, o, *places = here
            body = nests.graph()
            for (a, b), name in zip(tile, sums, strict=True):
                at = (n, o.plus(a).plus(group, features), *places[:-1], places[-1].plus(b))
                body.store(out, at, body.given(name, aval.dtype))
    nests.time += 1
    return transposed(nests, out, [list(numbers.out_spec).index(d) for d in range(len(shape))])


def _padded(nests: Nests, x: Array, padding: Sequence[tuple[int, int]], dilation: Sequence[int], fill: Any) -> Array:
    """x spread and padded, so that its entries may be read many times."""
    if all(p == (0, 0) for p in padding) and all(d == 1 for d in dilation):
        return nests.ready(x)
    if x.uniform and x.size > COPIED:
        raise Unsupported(f"padding of {x.size} numbers that chains share")
    value = literal(fill, (), x.dtype)
    if any(d > 1 for d in dilation):
        spread = [(0, 0, int(d) - 1) for d in dilation]
        x = _pad(nests, x, value, spread)
    if any(p != (0, 0) for p in padding):
        x = _pad(nests, x, value, [(int(a), int(b), 0) for a, b in padding])
    return nests.stored(x)


def _pad(nests: Nests, x: Array, value: Array, config: list[tuple[int, int, int]]) -> Array:
    sizes = [a + b + n + inner * max(n - 1, 0) for n, (a, b, inner) in zip(x.shape, config, strict=True)]
    return pad(nests, [np.empty(sizes, x.dtype)], x, value, padding_config=tuple(config))


def _inside(i: Index, strides: Sequence[int], offset: Sequence[int]) -> Index:
    """An entry of window i."""
    return tuple(p.times(int(s)).plus(k) for p, s, k in zip(i, strides, offset, strict=True))


def _window(operation: str) -> Any:
    def rule(
        nests: Nests, avals: list, x: Array, *, window_dimensions: Sequence[int], window_strides: Sequence[int],
        padding: Sequence[tuple[int, int]], base_dilation: Sequence[int], window_dilation: Sequence[int], **params: Any,
    ) -> Array:  # fmt: skip
        if int(np.prod(window_dimensions)) > 4 * _UNROLLED:
            raise Unsupported(f"a window of {int(np.prod(window_dimensions))} entries")
        zero = neutral(nests.graph().g, operation, x.dtype, 1)[0].value
        x = _padded(nests, x, padding, base_dilation, zero)
        steps = (range(0, int(n) * int(r), int(r)) for n, r in zip(window_dimensions, window_dilation, strict=True))
        offsets = list(itertools.product(*steps))

        def parts(i: Index) -> Any:
            places = [_inside(i, window_strides, offset) for offset in offsets]

            def combined(g: Any, *nodes: Node) -> Node:
                total = nodes[0]
                for node in nodes[1:]:
                    total = g.op(operation, x.dtype, total, node)
                return total

            return [(x, at) for at in places], combined

        work = int(np.prod(window_dimensions))
        return Array(avals[0].shape, x.dtype, parts, uniform=x.uniform, work=work)

    return rule


def select_and_scatter_add(
    nests: Nests, avals: list, source: Array, x: Array, *, select_prim: Any, window_dimensions: Sequence[int],
    window_strides: Sequence[int], padding: Sequence[tuple[int, int]], **params: Any,
) -> Array:  # fmt: skip
    """The gradient of the extreme of a window: it goes to the first entry that is the extreme."""
    compare = select_prim.name
    if compare not in ("ge", "le"):
        raise Unsupported(f"select_and_scatter_add by {compare}")
    if int(np.prod(window_dimensions)) > _UNROLLED:
        raise Unsupported(f"a window of {int(np.prod(window_dimensions))} entries")
    low = [int(a) for a, _ in padding]
    fill = -np.inf if compare == "ge" else np.inf
    wide = _padded(nests, x, padding, [1] * len(x.shape), fill)
    total = nests.fill(literal(0, wide.shape, x.dtype), nests.buffer(wide.size, x.dtype))
    assert total.view is not None
    view = total.view
    offsets = list(itertools.product(*(range(int(n)) for n in window_dimensions)))

    def put(body: Body, i: Index, node: Node) -> None:
        g = body.g
        places = [_inside(i, window_strides, offset) for offset in offsets]
        entries = [body.entry(wide, at) for at in places]
        best, chosen = entries[0], [g.literal(True, bool)]
        for entry in entries[1:]:
            stays = g.op(compare, bool, best, entry)
            best = g.op("select", x.dtype, stays, best, entry)
            chosen = [*(g.op("and", bool, c, stays) for c in chosen), g.op("not", bool, stays)]
        zero = g.literal(0, x.dtype)
        new = []
        for at, c in zip(places, chosen, strict=True):
            old = g.input("cell", x.dtype, CHAIN, view.source, view.place(at))
            new.append(g.op("add", x.dtype, old, g.op("select", x.dtype, c, node, zero)))
        body.need(new)
        for at, value in zip(places, new, strict=True):
            body.store(total, at, value)

    nests.each(source if source.whole else nests.stored(source), put)
    offset = view.place(tuple(At(a) for a in low))
    return view._replace(offset=offset).array(x.shape)


WINDOWS: dict[str, Any] = {
    "conv_general_dilated": convolution, "reduce_window_sum": _window("add"), "reduce_window_max": _window("max"),
    "reduce_window_min": _window("min"), "select_and_scatter_add": select_and_scatter_add,
}  # fmt: skip
