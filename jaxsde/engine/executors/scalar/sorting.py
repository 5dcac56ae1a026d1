"""Sorting as a network of exchanges, the same for whatever stands in the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import Graph, Node
from .indexing import entries


def sort(g: Graph, avals: list, *operands: Any, dimension: int, num_keys: int, **params: Any) -> list:
    """By the first `num_keys` operands: stable, NaN last, −0 and 0 equal. The places are a key of their own where ties show."""
    columns = [np.moveaxis(entries(g, x), dimension, -1) for x in operands]
    out = [np.empty(c.shape, object) for c in columns]
    for i in np.ndindex(columns[0].shape[:-1]):
        rows = [c[i] for c in columns]
        for o, row in zip(out, _sorted(g, rows, num_keys, descending=False), strict=True):
            o[i] = row
    return [np.moveaxis(o, -1, dimension) for o in out]


def top_k(g: Graph, avals: list, x: Any, *, k: int, axis: int, **params: Any) -> list:
    rows = np.moveaxis(entries(g, x), axis, -1)
    out = [np.empty((*rows.shape[:-1], k), object) for _ in avals]
    for i in np.ndindex(rows.shape[:-1]):
        places = [g.literal(j, avals[1].dtype) for j in range(rows.shape[-1])]
        for o, row in zip(out, _sorted(g, [rows[i], places], 1, descending=True), strict=True):
            o[i] = row[:k]
    return [np.moveaxis(o, -1, axis) for o in out]


def _sorted(g: Graph, rows: Sequence[Any], keys: int, *, descending: bool) -> list[list[Node]]:
    """Rows sorted together by Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M)."""
    size, count = len(rows[0]), len(rows)
    places = [g.literal(j, np.int32) for j in range(size)]
    rows = [*(list(r) for r in rows), *([places] if len(rows) > keys else [])]
    top = 1 << max(size - 1, 0).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while d:
            for i in range(size - d):
                if i & p == r:
                    _exchange(g, rows, i, i + d, keys, descending)
            d, q, r = q - p, q // 2, p
        p //= 2
    return rows[:count]


def _exchange(g: Graph, rows: list[list[Node]], i: int, j: int, keys: int, descending: bool) -> None:
    """What stands at i and at j the right way round."""
    swap: Node = g.literal(False, bool)
    if len(rows) > keys:
        swap = g.op("lt", bool, rows[-1][j], rows[-1][i])
    for row in reversed(rows[:keys]):
        a, b = (row[j], row[i]) if descending else (row[i], row[j])
        less, more = _before(g, b, a), _before(g, a, b)
        swap = g.op("or", bool, less, g.op("and", bool, g.op("not", bool, more), swap))
    for row in rows:
        a, b = row[i], row[j]
        row[i], row[j] = (g.op("select", a.dtype, swap, *pair) for pair in ((b, a), (a, b)))


def _before(g: Graph, a: Node, b: Node) -> Node:
    """Whether a sorts before b: NaN after all numbers."""
    less = g.op("lt", bool, a, b)
    if a.dtype.kind != "f":
        return less
    number, unknown = g.op("eq", bool, a, a), g.op("ne", bool, b, b)
    return g.op("or", bool, less, g.op("and", bool, number, unknown))
