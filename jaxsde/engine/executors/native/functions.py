"""Functions as arithmetic on nodes, by name: those of each precision (`floats.py`, `doubles.py`), what both make of their
parts, and those that are worked out in float64 (`special.py`). `FUNCTIONS[name](graph, *nodes)` is None where a precision has
no formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..scalar.graph import Graph, Node
from . import doubles, floats, special
from .arithmetic import Number, where

_PRECISIONS: dict[Any, Any] = {np.dtype(np.float32): floats, np.dtype(np.float64): doubles}


def _parts(f: Number) -> tuple[Number, Number, Number, Any]:
    """(n, e^r − 1, e^|x| / 2, the functions of this precision) with |x| = n ln 2 + r."""
    precision, size = _PRECISIONS[f.node.dtype], f.do("abs")
    most = 712.0 if precision is doubles else 91.0
    n, p = precision.reduced_exp(where(size.test("gt", most), most, size))
    return n, p, precision.scaled(p + 1.0, n - 1.0), precision


def cosh(g: Graph, x: Node) -> Node:
    f = Number(g, x)
    half = _parts(f)[2]
    return where(f.test("ne", f), f, half + 0.25 / half).node


def sinh(g: Graph, x: Node) -> Node:
    """(t + t / (t + 1)) / 2 with t = e^|x| − 1 where that is not large."""
    f = Number(g, x)
    n, p, half, precision = _parts(f)
    small = n.test("lt", 30.0)
    power = precision.scaled(f.known(1.0), where(small, n, n.known(0.0)))
    t = p.fma(power, power - 1.0)
    value = where(small, (t + t / (t + 1.0)) * 0.5, half)
    return where(f.test("eq", 0.0), f, value.do("copysign", f)).node


def tan(g: Graph, x: Node) -> Node:
    return (Number(g, g.op("sin", x.dtype, x)) / Number(g, g.op("cos", x.dtype, x))).node


def exp2(g: Graph, x: Node) -> Node:
    f, double = Number(g, x), x.dtype == np.float64
    low, high = (-1080.0, 1030.0) if double else (-155.0, 130.0)
    inside = where(f.test("lt", low), low, where(f.test("gt", high), high, f))
    n = inside.do("rint")
    precision = _PRECISIONS[x.dtype]
    return precision.scaled(precision.small_expm1((inside - n) * float(np.log(2.0))) + 1.0, n).node


def _both(name: str) -> Callable[..., Node]:
    return lambda g, x: getattr(_PRECISIONS[x.dtype], name)(g, x)


def _float32_only(function: Callable[..., Number]) -> Callable[..., Node | None]:
    """By way of float64: the value is rounded once more, at the end."""

    def by_doubles(g: Graph, *args: Node) -> Node | None:
        if args[0].dtype != np.float32:
            return None
        wide = (Number(g, a).convert(np.float64) for a in args)
        return function(*wide).convert(np.float32).node

    return by_doubles


def _through_doubles(function: Callable[..., Number]) -> Callable[..., Node]:
    def either(g: Graph, x: Node) -> Node:
        wide = function(Number(g, g.op("convert", np.float64, x)))
        return g.op("convert", x.dtype, wide.node)

    return either


FUNCTIONS: dict[str, Any] = {name: _both(name) for name in ("exp", "expm1", "log", "log1p", "tanh", "logistic")}
FUNCTIONS |= {
    "sin": lambda g, x: _PRECISIONS[x.dtype].sin_cos(g, x, 0),
    "cos": lambda g, x: _PRECISIONS[x.dtype].sin_cos(g, x, 1),
    "tan": tan,
    "sinh": sinh,
    "cosh": cosh,
    "exp2": exp2,
}
FUNCTIONS |= {name: _float32_only(f) for name, f in special.FLOAT32.items()}
FUNCTIONS |= {name: _through_doubles(f) for name, f in special.EITHER.items()}
