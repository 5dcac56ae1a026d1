"""Nodes of a graph as XLA operations: a node that differs between chains is an array over the chains, any other a scalar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .block import Place, arrange
from .graph import Node, Unsupported, ordered

_UNARY = {
    "neg": lax.neg, "abs": lax.abs, "sqrt": lax.sqrt, "floor": lax.floor, "ceil": lax.ceil, "not": lax.bitwise_not,
    "rint": lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), "exp": lax.exp, "exp2": lax.exp2, "log": lax.log,
    "log1p": lax.log1p, "expm1": lax.expm1, "tanh": lax.tanh, "logistic": lax.logistic, "sin": lax.sin, "cos": lax.cos,
    "tan": lax.tan, "asin": lax.asin, "acos": lax.acos, "atan": lax.atan, "sinh": lax.sinh, "cosh": lax.cosh,
    "asinh": lax.asinh, "acosh": lax.acosh, "atanh": lax.atanh, "erf": lax.erf, "erfc": lax.erfc, "lgamma": lax.lgamma,
    "digamma": lax.digamma, "trigamma": lambda x: lax.polygamma(lax.full_like(x, 1), x), "erf_inv": lax.erf_inv,
    "bessel_i0e": lax.bessel_i0e, "bessel_i1e": lax.bessel_i1e, "cbrt": lax.cbrt, "population_count": lax.population_count,
    "clz": lax.clz,
}  # fmt: skip
_BINARY = {
    "add": lax.add, "sub": lax.sub, "mul": lax.mul, "div": lax.div, "max": lax.max, "min": lax.min, "and": lax.bitwise_and,
    "or": lax.bitwise_or, "xor": lax.bitwise_xor, "rem": lax.rem, "eq": lax.eq, "ne": lax.ne, "lt": lax.lt, "le": lax.le,
    "gt": lax.gt, "ge": lax.ge, "shl": lax.shift_left, "shr": lax.shift_right_logical, "sar": lax.shift_right_arithmetic,
    "mulhi": lax.mulhi, "pow": lax.pow, "atan2": lax.atan2,
    "copysign": lambda x, y: lax.select(_negative(y), -lax.abs(x), lax.abs(x)),
}  # fmt: skip

OPERATIONS: dict[str, Callable[..., Any]] = {**_UNARY, **_BINARY, "select": lax.select}
# What may end in a product, and what a compiler may fuse a product into.
_PRODUCTS = {"mul", "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "tan", "asin", "acos", "atan",
             "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "lgamma", "digamma", "trigamma", "bessel_i0e",
             "bessel_i1e", "cbrt", "pow", "atan2"}  # fmt: skip
_SUMS = {"add", "sub", "neg", "abs", "select", "max", "min"}


def evaluated(
    roots: Iterable[Node],
    known: dict[str, Any],
    read: Callable[[int, Any], Any],
    shape: tuple[int, ...],
    zero: Any,
    operations: dict[str, Callable[..., Any]] = OPERATIONS,
) -> list[Any]:
    """The values of nodes, each an array of `shape`. Traced.

    A compiler fuses a product into the sum that uses it where it pleases, so the same step, compiled twice, would differ by
    roundings. Here every product that meets a sum is rounded first: `zero` is an int32 that the compiler cannot know, and
    an exclusive or with it is nothing that it can look through. (Unless `operations` have an "fma" of the chains' own numbers,
    which no compiler looks into.)

    `known` holds what comes from outside, by name, one entry for each number that an input node is made with; `read(table,
    index)` is entry `index` of a table of the launch, for a scalar or for every chain.
    """
    roots = list(roots)
    values: dict[int, Any] = {}
    spread: dict[int, Any] = {}

    def operand(node: Node, wide: bool) -> Any:
        value = node.value if node.op == "literal" else values[node.number]
        if not wide or np.ndim(value):
            return jnp.asarray(value, node.dtype)
        if node.number not in spread:
            spread[node.number] = lax.full(shape, value, node.dtype)
        return spread[node.number]

    def rounded(x: Any) -> Any:
        kind = np.dtype(f"int{x.dtype.itemsize * 8}")
        bits = lax.bitcast_convert_type(x, kind)
        mask = lax.convert_element_type(zero, kind)
        return lax.bitcast_convert_type(lax.bitwise_xor(bits, jnp.broadcast_to(mask, x.shape)), x.dtype)

    order = ordered(roots)
    summed = {a.number for node in order if node.op in _SUMS for a in node.args if isinstance(a, Node)}
    fused = operations.get("fma")
    summed |= {node.args[2].number for node in order if node.op == "fma" and (fused is None or not node.wide)}
    for node in order:
        if node.op in known:
            values[node.number] = known[node.op][node.args[0] if node.args else 0]
        elif node.op == "entry":
            values[node.number] = read(node.args[0], np.int32(node.args[1]))
        elif node.op == "row":
            table, base, static = node.args
            index = operand(base, False)
            values[node.number] = read(table, lax.add(index, lax.full_like(index, static)))
        elif node.op != "literal":
            given = [a.value if a.op == "literal" else values[a.number] for a in node.args]
            wide = any(np.ndim(v) for v in given)  # also where a caller has spread what all chains share
            args = [operand(a, wide) for a in node.args]
            if node.op == "convert":
                values[node.number] = lax.convert_element_type(args[0], node.dtype)
            elif node.op == "bitcast":
                values[node.number] = lax.bitcast_convert_type(args[0], node.dtype)
            elif node.op == "fma" and wide and fused is not None:
                values[node.number] = fused(*args)
            elif node.op == "fma":
                values[node.number] = lax.add(rounded(lax.mul(args[0], args[1])), args[2])
            elif node.op in operations:
                value = operations[node.op](*args)
                loose = node.op in _PRODUCTS and node.dtype.kind == "f" and node.number in summed
                values[node.number] = rounded(value) if loose else value
            else:
                raise Unsupported(f"the operation {node.op} on {node.dtype}")
    return [operand(node, True) for node in roots]


def tables(leaves: Sequence[Any]) -> list[Any]:
    """The arrays that chains share, flat, each table laid out as `arrange` says. Traced."""
    places = arrange([(a.shape, np.dtype(a.dtype)) for a in leaves])
    parts: dict[int, list[tuple[Place, Any]]] = {}
    for leaf, place in zip(leaves, places, strict=True):
        parts.setdefault(place.table, []).append((place, leaf))
    out = []
    for number in range(len(parts)):
        rows = [jnp.reshape(leaf, (leaf.shape[0] if leaf.ndim else 1, -1)) for _, leaf in parts[number]]
        joined = jnp.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]
        stride = parts[number][0][0].stride
        out.append(jnp.pad(joined, ((0, 0), (0, stride - joined.shape[1]))).ravel())
    return out


def _negative(x: jax.Array) -> jax.Array:
    """Whether the sign is set, also that of −0."""
    bits = lax.bitcast_convert_type(x, np.dtype(f"int{x.dtype.itemsize * 8}"))
    return lax.lt(bits, lax.full_like(bits, 0))
