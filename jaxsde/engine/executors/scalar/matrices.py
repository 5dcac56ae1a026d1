"""Factorisations of small matrices and what is solved with them, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .graph import Graph, Node
from .indexing import entries


def cholesky(g: Graph, avals: list, x: Any, **params: Any) -> list:
    """L with L Lᵀ = x, of which the lower half is read; NaN where x is not positive definite."""
    return _each(lambda a: [_cholesky(g, a)], entries(g, x))


def _cholesky(g: Graph, a: np.ndarray) -> np.ndarray:
    size, dtype = len(a), a.flat[0].dtype
    out = np.empty(a.shape, object)
    out[...] = g.literal(0, dtype)
    positive: Node = g.literal(True, bool)
    for j in range(size):
        square = _less(g, a[j, j], out[j, :j], out[j, :j])
        positive = g.op("and", bool, positive, g.op("gt", bool, square, g.literal(0, dtype)))
        out[j, j] = g.op("sqrt", dtype, square)
        inverse = g.op("div", dtype, g.literal(1, dtype), out[j, j])
        for i in range(j + 1, size):
            out[i, j] = g.op("mul", dtype, _less(g, a[i, j], out[i, :j], out[j, :j]), inverse)
    for i, j in zip(*np.tril_indices(size), strict=True):
        out[i, j] = g.op("select", dtype, positive, out[i, j], g.literal(np.nan, dtype))
    return out


def triangular_solve(
    g: Graph, avals: list, a: Any, b: Any, *, left_side: bool, lower: bool, transpose_a: bool, unit_diagonal: bool,
    **params: Any,
) -> list:  # fmt: skip
    """x with a x = b, or x a = b, for a triangular a or its transpose."""

    def solve(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        turned = transpose_a == left_side  # x a = b is aᵀ xᵀ = bᵀ
        rows = a.T if turned else a
        columns = b if left_side else b.T
        x = _substituted(g, rows, columns, down=lower != turned, unit=unit_diagonal)
        return [x if left_side else x.T]

    return _each(solve, entries(g, a), entries(g, b))


def _substituted(g: Graph, a: np.ndarray, b: np.ndarray, *, down: bool, unit: bool) -> np.ndarray:
    size, dtype = len(a), b.flat[0].dtype
    x = np.empty(b.shape, object)
    for i in range(size)[:: 1 if down else -1]:
        known = slice(0, i) if down else slice(i + 1, size)
        for k in range(b.shape[1]):
            rest = _less(g, b[i, k], a[i, known], x[known, k])
            inverse = g.literal(1, dtype) if unit else g.op("div", dtype, g.literal(1, dtype), a[i, i])
            x[i, k] = g.op("mul", dtype, rest, inverse)
    return x


def lu(g: Graph, avals: list, x: Any, **params: Any) -> list:
    """(L and U in one matrix, the row that each step exchanged, the order of the rows), by partial pivoting: the first of the
    largest entries of a column, as in LAPACK. Each chain has exchanges of its own, so every entry is a choice."""
    return _each(lambda a: _lu(g, a), entries(g, x))


def _lu(g: Graph, a: np.ndarray) -> list[np.ndarray]:
    (rows, columns), dtype = a.shape, a.flat[0].dtype
    a, steps = a.copy(), min(a.shape)
    order, pivots = np.empty(rows, object), np.empty(steps, object)
    for i in range(rows):
        order[i] = g.literal(i, np.int32)
    for k in range(steps):
        best, at = g.op("abs", dtype, a[k, k]), g.literal(k, np.int32)
        for i in range(k + 1, rows):
            size = g.op("abs", dtype, a[i, k])
            larger = g.op("gt", bool, size, best)
            best = g.op("select", dtype, larger, size, best)
            at = g.op("select", np.int32, larger, g.literal(i, np.int32), at)
        pivots[k] = at
        whole = np.concatenate([a, order[:, None]], axis=1)
        first = whole[k].copy()
        for i in range(k + 1, rows):
            here = g.op("eq", bool, at, g.literal(i, np.int32))
            for j in range(columns + 1):
                up, down = whole[i, j], first[j]
                whole[k, j] = g.op("select", up.dtype, here, up, whole[k, j])
                whole[i, j] = g.op("select", up.dtype, here, down, up)
        a, order = whole[:, :columns], whole[:, columns]
        singular = g.op("eq", bool, a[k, k], g.literal(0, dtype))
        for i in range(k + 1, rows):
            a[i, k] = g.op("select", dtype, singular, a[i, k], g.op("div", dtype, a[i, k], a[k, k]))
            for j in range(k + 1, columns):
                a[i, j] = _less(g, a[i, j], a[i, k : k + 1], a[k : k + 1, j])
    return [a, pivots, order]


def _less(g: Graph, start: Node, x: np.ndarray, y: np.ndarray) -> Node:
    """start − x·y"""
    for u, v in zip(x, y, strict=True):
        start = g.op("sub", start.dtype, start, g.op("mul", start.dtype, u, v))
    return start


def _each(function: Callable[..., list[np.ndarray]], *arrays: np.ndarray) -> list[np.ndarray]:
    """The function for each pair of matrices of two stacks."""
    stack = arrays[0].shape[:-2]
    results = {i: function(*(a[i] for a in arrays)) for i in np.ndindex(stack)}
    found = []
    for k, one in enumerate(next(iter(results.values()))):
        whole = np.empty((*stack, *one.shape), object)
        for i, several in results.items():
            whole[i] = several[k]
        found.append(whole)
    return found


MATRICES: dict[str, Any] = {"cholesky": cholesky, "triangular_solve": triangular_solve, "lu": lu}
