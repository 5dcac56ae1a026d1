"""A jaxpr of one chain, evaluated with a node for each scalar: structure costs nothing, calls and loops are unrolled.

An array is a NumPy array of nodes, or a `Table` where it comes from outside and all chains share it. Each rule takes the
graph, the operands and the equation's parameters, and gives the results.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from jax.extend import core

from .elementwise import ELEMENTWISE
from .graph import Graph, Node, Table, Unsupported
from .indexing import INDEXING, entries
from .matrices import MATRICES
from .sorting import sort, top_k

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
_VIEWS = ("convert_element_type", "copy", "copy_p", "stop_gradient")  # of a table, where the type stays
IDENTITIES = ("optimization_barrier", "reshard", "sharding_constraint", "mesh_cast", "pvary", "pcast")


def evaluate(graph: Graph, closed: Any, *arguments: Any) -> list[np.ndarray]:
    """The outputs of a closed jaxpr for arguments that are arrays of nodes or tables. `Unsupported` names what it cannot."""
    constants = [constant(graph, c) for c in closed.consts]
    return [entries(graph, out) for out in _evaluate(graph, closed.jaxpr, constants, list(arguments))]


def constant(graph: Graph, value: Any) -> np.ndarray:
    """An array known now, as literals."""
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.size > graph.limit:
        raise Unsupported(f"a constant of {array.size} numbers of type {array.dtype}: make it data of the problem")
    out = np.empty(array.shape, object)
    for i in np.ndindex(array.shape):
        out[i] = graph.literal(array[i], array.dtype)
    return out


def _evaluate(g: Graph, jaxpr: Any, constants: list, arguments: list) -> list:
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(v: Any) -> Any:
        return constant(g, np.asarray(v.val, getattr(v.aval, "dtype", None))) if isinstance(v, core.Literal) else values[v]

    for equation in jaxpr.eqns:
        results = _apply(g, equation, [read(v) for v in equation.invars])
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _apply(g: Graph, equation: Any, operands: list) -> list:
    name, params = equation.primitive.name, equation.params
    if name in IDENTITIES:
        return operands
    if name in ELEMENTWISE:
        if isinstance(operands[0], Table) and name in _VIEWS and equation.outvars[0].aval.dtype == operands[0].dtype:
            return operands
        return [elementwise(g, name, operands, params)]
    if name == "custom_linear_solve":
        return _evaluate(g, *_solver(g, params, operands))
    inner = None
    if name in CALLS and params.get("name") == "rarely":
        return [elementwise(g, "rarely", operands, {})]
    if name in CALLS:
        inner = params["jaxpr"]
    elif name.startswith("custom_"):
        inner = params.get("call_jaxpr") or params.get("fun_jaxpr")
    if inner is not None:
        constants = [constant(g, c) for c in getattr(inner, "consts", ())]
        return _evaluate(g, getattr(inner, "jaxpr", inner), constants, operands)
    if name in INDEXING:
        return [INDEXING[name](g, *operands, **params)]
    if name in _RULES:
        avals = [v.aval for v in equation.outvars]
        return _RULES[name](g, avals, *operands, **params)
    raise Unsupported(f"the primitive {name}")


def _solver(g: Graph, params: dict, operands: list) -> tuple[Any, list, list]:
    """What solves a linear system, its constants, and its arguments."""
    lengths, solve = params["const_lengths"], params["jaxprs"].solve
    first, last = lengths.matvec + lengths.vecmat, sum(lengths)
    mine = operands[first : first + lengths.solve]
    return solve.jaxpr, [constant(g, c) for c in solve.consts], [*mine, *operands[last:]]


def elementwise(g: Graph, name: str, operands: list, params: dict) -> np.ndarray:
    """The rule of one scalar at every entry; scalars go with arrays."""
    arrays = [entries(g, x) for x in operands]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    arrays = [np.broadcast_to(a, shape) for a in arrays]
    rule = ELEMENTWISE[name]
    out = np.empty(shape, object)
    for i in np.ndindex(shape):
        out[i] = rule(g, *(a[i] for a in arrays), **params)
    return out


def _dot_general(g: Graph, avals: list, x: Any, y: Any, *, dimension_numbers: Any, **params: Any) -> list:
    x, y = (elementwise(g, "convert_element_type", [v], {"new_dtype": avals[0].dtype}) for v in (x, y))
    (cx, cy), (bx, by) = dimension_numbers
    free_x = [d for d in range(x.ndim) if d not in (*cx, *bx)]
    free_y = [d for d in range(y.ndim) if d not in (*cy, *by)]
    batch, rows = [x.shape[d] for d in bx], [x.shape[d] for d in free_x]
    columns, depth = [y.shape[d] for d in free_y], int(np.prod([x.shape[d] for d in cx]))
    b, m, n = (int(np.prod(s)) for s in (batch, rows, columns))
    if b * m * n * depth > g.limit:
        raise Unsupported(f"a product of {b * m * n * depth} multiplications")
    left = x.transpose(*bx, *free_x, *cx).reshape(b, m, depth)
    right = y.transpose(*by, *free_y, *cy).reshape(b, n, depth)
    dtype = avals[0].dtype
    out = np.empty((b, m, n), object)
    for i, j, k in itertools.product(range(b), range(m), range(n)):
        out[i, j, k] = g.total(zip(left[i, j], right[i, k], strict=True), dtype, b * m * n)
    return [out.reshape([*batch, *rows, *columns])]


def _reduce(operation: str) -> Any:
    def rule(g: Graph, avals: list, x: Any, *, axes: tuple, **params: Any) -> list:
        x = entries(g, x)
        kept = [d for d in range(x.ndim) if d not in axes]
        rows = x.transpose(*kept, *axes).reshape(
            [*(x.shape[d] for d in kept), int(np.prod([x.shape[d] for d in axes]))]
        )
        out = np.empty(rows.shape[:-1], object)
        for i in np.ndindex(out.shape):
            out[i] = _folded(g, operation, rows[i], avals[0].dtype)
        return [out]

    return rule


def _folded(g: Graph, operation: str, terms: np.ndarray, dtype: Any) -> Node:
    if operation == "add":
        return g.total(terms, dtype)
    if not len(terms):
        raise Unsupported(f"a reduction ({operation}) of nothing")
    result = terms[0]
    for term in terms[1:]:
        result = g.op(operation, dtype, result, term)
    return result


def _arg_reduce(compare: str) -> Any:
    def rule(g: Graph, avals: list, x: Any, *, axes: tuple, index_dtype: Any, **params: Any) -> list:
        rows = np.moveaxis(entries(g, x), axes[0], -1)
        out = np.empty(rows.shape[:-1], object)
        for i in np.ndindex(out.shape):
            best, at = rows[i][0], g.literal(0, index_dtype)
            for j, candidate in enumerate(rows[i][1:], start=1):
                better = g.op(compare, bool, candidate, best)
                if candidate.dtype.kind == "f":  # the first NaN wins, as in NumPy
                    is_nan, was_nan = g.op("ne", bool, candidate, candidate), g.op("ne", bool, best, best)
                    better = g.op("and", bool, g.op("or", bool, better, is_nan), g.op("not", bool, was_nan))
                best = g.op("select", best.dtype, better, candidate, best)
                at = g.op("select", index_dtype, better, g.literal(j, index_dtype), at)
            out[i] = at
        return [out]

    return rule


def _cumulative(operation: str) -> Any:
    def rule(g: Graph, avals: list, x: Any, *, axis: int, reverse: bool, **params: Any) -> list:
        rows = np.moveaxis(entries(g, x), axis, -1)
        out = np.empty(rows.shape, object)
        for i in np.ndindex(rows.shape[:-1]):
            total = None
            for j in range(rows.shape[-1])[:: -1 if reverse else 1]:
                total = rows[i][j] if total is None else g.op(operation, avals[0].dtype, total, rows[i][j])
                out[(*i, j)] = total
        return [np.moveaxis(out, -1, axis)]

    return rule


def _split(g: Graph, avals: list, x: Any, *, sizes: tuple, axis: int, **params: Any) -> list:
    x, ends = entries(g, x), np.cumsum(sizes)[:-1]
    return list(np.split(x, ends, axis))


def _unstack(g: Graph, avals: list, x: Any, *, axis: int, **params: Any) -> list:
    rows = np.moveaxis(entries(g, x), axis, 0)
    return [rows[i : i + 1].reshape(rows.shape[1:]) for i in range(len(rows))]


def _tile(g: Graph, avals: list, x: Any, *, reps: tuple, **params: Any) -> list:
    return [np.tile(entries(g, x), reps)]


def _iota(g: Graph, avals: list, *operands: Any, dimension: int, **params: Any) -> list:
    shape, dtype = avals[0].shape, avals[0].dtype
    out = np.empty(shape, object)
    for i in np.ndindex(shape):
        out[i] = g.literal(i[dimension], dtype)
    return [out]


def _scan(
    g: Graph,
    avals: list,
    *operands: Any,
    jaxpr: Any,
    length: int,
    reverse: bool,
    num_consts: int,
    num_carry: int,
    **params: Any,
) -> list:
    """Unrolled: the limit of the graph ends one that is too long."""
    shared, carry, rows = (
        operands[:num_consts],
        list(operands[num_consts : num_consts + num_carry]),
        operands[num_consts + num_carry :],
    )
    if length > g.limit:
        raise Unsupported(f"a loop of {length} rounds")
    rows = [entries(g, x) for x in rows]
    constants = [constant(g, c) for c in jaxpr.consts]
    stacked: list[list] = [[None] * length for _ in avals[num_carry:]]
    for i in range(length)[:: -1 if reverse else 1]:
        out = _evaluate(g, jaxpr.jaxpr, constants, [*shared, *carry, *(np.asarray(x[i], object) for x in rows)])
        carry = out[:num_carry]
        for column, value in zip(stacked, out[num_carry:], strict=True):
            column[i] = entries(g, value)
    columns = []
    for column, aval in zip(stacked, avals[num_carry:], strict=True):
        array = np.empty(aval.shape, object)
        for i, value in enumerate(column):
            array[i] = value if value.ndim else value.item()
        columns.append(array)
    return [*carry, *columns]


def _cond(g: Graph, avals: list, which: Any, *operands: Any, branches: tuple, **params: Any) -> list:
    """Every branch, then a choice, as `vmap` has it."""
    index = entries(g, which).item()
    results = []
    if index.op == "literal":
        branches = (branches[max(0, min(int(index.value), len(branches) - 1))],)
    for branch in branches:
        constants = [constant(g, c) for c in branch.consts]
        results.append([entries(g, x) for x in _evaluate(g, branch.jaxpr, constants, list(operands))])
    chosen = results[-1]
    for i in range(len(results) - 2, -1, -1):
        # an index out of range takes the nearest branch
        test = ("le", 0) if i == 0 else ("eq", i)
        at = np.asarray(g.op(test[0], bool, index, g.literal(test[1], index.dtype)), object)
        chosen = [elementwise(g, "select_n", [at, no, yes], {}) for yes, no in zip(results[i], chosen, strict=True)]
    return chosen


def _platform_index(g: Graph, avals: list, *, platforms: tuple, **params: Any) -> list:
    """Of the branch for no platform in particular."""
    out = np.empty((), object)
    out[()] = g.literal(platform_branch(platforms), avals[0].dtype)
    return [out]


def platform_branch(platforms: tuple) -> int:
    return next(i for i, names in enumerate(platforms) if names is None or "cpu" in names)


def _empty(g: Graph, avals: list, **params: Any) -> list:
    out = np.empty(avals[0].shape, object)
    out[...] = g.literal(0, avals[0].dtype)
    return [out]


_RULES: dict[str, Any] = {
    "platform_index": _platform_index,
    "empty": _empty,
    "empty2": _empty,
    "dot_general": _dot_general,
    "reduce_sum": _reduce("add"),
    "reduce_max": _reduce("max"),
    "reduce_min": _reduce("min"),
    "reduce_prod": _reduce("mul"),
    "reduce_and": _reduce("and"),
    "reduce_or": _reduce("or"),
    "argmax": _arg_reduce("gt"),
    "argmin": _arg_reduce("lt"),
    "cumsum": _cumulative("add"),
    "cumprod": _cumulative("mul"),
    "cummax": _cumulative("max"),
    "cummin": _cumulative("min"),
    "split": _split,
    "unstack": _unstack,
    "tile": _tile,
    "sort": sort,
    "top_k": top_k,
    "iota": _iota,
    "scan": _scan,
    "cond": _cond,
} | MATRICES
