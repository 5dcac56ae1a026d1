"""Primitives that work element by element, as operations on scalars: `ELEMENTWISE[name](graph, *nodes, **params)`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .graph import Graph, Node, Unsupported

# Operations whose result has the dtype of the first operand and that every printer knows by this name.
_SAME = (
    "add", "sub", "mul", "div", "max", "min", "neg", "abs", "sqrt", "floor", "ceil", "and", "or", "xor", "not", "rem", "exp",
    "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh",
    "acosh", "atanh", "erf", "erfc", "erf_inv", "lgamma", "digamma", "bessel_i0e", "bessel_i1e", "cbrt", "atan2",
    "population_count", "clz",
)  # fmt: skip
_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")


def _same(name: str) -> Any:
    return lambda g, *args, **params: g.op(name, args[0].dtype, *args)


def _compare(name: str) -> Any:
    return lambda g, x, y, **params: g.op(name, bool, x, y)


def _ordered(name: str) -> Any:
    """In the order in which NaN has a place, beyond the infinities, and −0 is below 0."""
    return lambda g, x, y, **params: g.op(name, bool, _rank(g, x), _rank(g, y))


def _rank(g: Graph, x: Node) -> Node:
    """An integer, for a float: its bits, all but the sign turned over below 0."""
    if x.dtype.kind != "f":
        return x
    kind = np.dtype(f"int{8 * x.dtype.itemsize}")
    bits = g.op("bitcast", kind, x)
    sign = g.op("sar", kind, bits, g.literal(8 * kind.itemsize - 1, kind))
    return g.op("xor", kind, bits, g.op("and", kind, sign, g.literal(np.iinfo(kind).max, kind)))


def _shift(name: str) -> Any:
    return lambda g, x, by, **params: g.op(name, x.dtype, x, by)


def integer_pow(g: Graph, x: Node, y: int, **params: Any) -> Node:
    if y < 0:
        return g.op("div", x.dtype, g.literal(1, x.dtype), integer_pow(g, x, -y))
    result, square = None, x
    while y:
        if y & 1:
            result = square if result is None else g.op("mul", x.dtype, result, square)
        y >>= 1
        if y:
            square = g.op("mul", x.dtype, square, square)
    return result if result is not None else g.literal(1, x.dtype)


def power(g: Graph, x: Node, y: Node, **params: Any) -> Node:
    if y.dtype.kind != "f":
        y = convert(g, y, x.dtype)
    if y.op == "literal" and y.value == 2:
        return g.op("mul", x.dtype, x, x)
    if y.op == "literal" and y.value == 0.5:
        return g.op("sqrt", x.dtype, x)
    return g.op("pow", x.dtype, x, y)


def convert(g: Graph, x: Node, new_dtype: Any, **params: Any) -> Node:
    new = np.dtype(new_dtype)
    if new.kind not in "fiub" or new.itemsize not in ((4, 8) if new.kind == "f" else (1, 2, 4, 8)):
        raise Unsupported(f"numbers of type {new}")
    if x.dtype == new:
        return x
    if new.kind == "b":
        return g.op("ne", bool, x, g.literal(0, x.dtype))
    if x.dtype.kind == "b":
        return g.op("select", new, x, g.literal(1, new), g.literal(0, new))
    return g.op("convert", new, x)


def bitcast(g: Graph, x: Node, new_dtype: Any, **params: Any) -> Node:
    if np.dtype(new_dtype).itemsize != x.dtype.itemsize:
        raise Unsupported("bitcast_convert_type between widths")
    return g.op("bitcast", new_dtype, x)


def sign(g: Graph, x: Node, **params: Any) -> Node:
    zero, one = g.literal(0, x.dtype), g.literal(1, x.dtype)
    if x.dtype.kind == "u":
        return g.op("select", x.dtype, g.op("eq", bool, x, zero), zero, one)
    up, down = g.op("gt", bool, x, zero), g.op("lt", bool, x, zero)
    minus = g.literal(-1, x.dtype)
    return g.op("select", x.dtype, up, one, g.op("select", x.dtype, down, minus, x))  # 0, -0 and NaN stay


def select_n(g: Graph, which: Node, *cases: Node, **params: Any) -> Node:
    if which.dtype.kind == "b":
        return g.op("select", cases[0].dtype, which, cases[1], cases[0]) if len(cases) == 2 else cases[0]
    result = cases[-1]
    for i in range(len(cases) - 2, -1, -1):
        at = g.op("eq", bool, which, g.literal(i, which.dtype))
        result = g.op("select", result.dtype, at, cases[i], result)
    return result


def polygamma(g: Graph, m: Node, x: Node, **params: Any) -> Node:
    if m.op != "literal" or m.value != 1:
        raise Unsupported("the primitive polygamma, but for derivatives of the first order")
    return g.op("trigamma", x.dtype, x)


def round_(g: Graph, x: Node, rounding_method: Any, **params: Any) -> Node:
    if int(rounding_method) == 1:
        return g.op("rint", x.dtype, x)
    size = g.op("abs", x.dtype, x)
    whole = g.op("floor", x.dtype, size)
    up = g.op("ge", bool, g.op("sub", x.dtype, size, whole), g.literal(0.5, x.dtype))
    rounded = g.op("select", x.dtype, up, g.op("add", x.dtype, whole, g.literal(1, x.dtype)), whole)
    return g.op("copysign", x.dtype, rounded, x)


ELEMENTWISE: dict[str, Any] = {name: _same(name) for name in _SAME} | {name: _compare(name) for name in _COMPARE}
ELEMENTWISE |= {
    "add_any": _same("add"),
    "mulhi": _same("mulhi"),
    "shift_left": _shift("shl"),
    "shift_right_logical": _shift("shr"),
    "shift_right_arithmetic": _shift("sar"),
    "square": lambda g, x, **params: g.op("mul", x.dtype, x, x),
    "rsqrt": lambda g, x, **params: g.op("div", x.dtype, g.literal(1, x.dtype), g.op("sqrt", x.dtype, x)),
    "integer_pow": integer_pow,
    "pow": power,
    "polygamma": polygamma,
    "lt_to": _ordered("lt"),
    "le_to": _ordered("le"),
    "sign": sign,
    "round": round_,
    "select_n": select_n,
    "clamp": lambda g, low, x, high, **params: g.op("min", x.dtype, g.op("max", x.dtype, x, low), high),
    "is_finite": lambda g, x, **params: g.op("lt", bool, g.op("abs", x.dtype, x), g.literal(np.inf, x.dtype)),
    "convert_element_type": convert,
    "bitcast_convert_type": bitcast,
    "copy": lambda g, x, **params: x,
    "copy_p": lambda g, x, **params: x,
    "stop_gradient": lambda g, x, **params: x,
    "rarely": lambda g, x, **params: g.op("rarely", bool, x),
    "real": lambda g, x, **params: x,
}
