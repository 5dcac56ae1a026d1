"""Functions as arithmetic on nodes, by name: those of each precision (`floats.py`, `doubles.py`), what both make of their
parts, and those that are worked out in float64 (`special.py`). `FUNCTIONS[name](graph, *nodes)` is None where a precision has
no formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..scalar.graph import Graph, Node
from . import doubles, floats, special
from .arithmetic import Number, clamped, reduced_exp, small_expm1, where

_F, _D = np.dtype(np.float32), np.dtype(np.float64)
_PRECISIONS: dict[Any, Any] = {_F: floats, _D: doubles}


def _parts(f: Number) -> tuple[Number, Number, Number, Any]:
    """(n, e^r − 1, e^|x| / 2, the functions of this precision) with |x| = n ln 2 + r."""
    precision, size = _PRECISIONS[f.node.dtype], f.do("abs")
    most = 712.0 if precision is doubles else 91.0
    n, p = reduced_exp(where(size.test("gt", most), most, size), precision.LN2, precision.EXP)
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


def logistic(g: Graph, x: Node) -> Node:
    """1 / (1 + e^−x), and e^x / (1 + e^x) below 0, so that nothing overflows."""
    f = Number(g, x)
    e = (-f.do("abs")).do("exp")
    share = 1.0 / (e + 1.0)
    return where(f.test("lt", 0.0), e * share, share).node


def tan(g: Graph, x: Node) -> Node:
    return (Number(g, g.op("sin", x.dtype, x)) / Number(g, g.op("cos", x.dtype, x))).node


def exp2(g: Graph, x: Node) -> Node:
    precision = _PRECISIONS[x.dtype]
    inside = clamped(Number(g, x), *((-1080.0, 1030.0) if precision is doubles else (-155.0, 130.0)))
    n = inside.do("rint")
    return precision.scaled(small_expm1((inside - n) * float(np.log(2.0)), precision.EXP) + 1.0, n).node


def _both(name: str) -> Callable[..., Node]:
    return lambda g, x: getattr(_PRECISIONS[x.dtype], name)(g, x)


def _in_doubles(function: Callable[..., Number], precisions: tuple[Any, ...]) -> Callable[..., Node | None]:
    """Worked out in float64; the value of a float32 is rounded once more, at the end."""

    def either(g: Graph, *args: Node) -> Node | None:
        dtype = args[0].dtype
        return function(*(Number(g, a).convert(_D) for a in args)).convert(dtype).node if dtype in precisions else None

    return either


FUNCTIONS: dict[str, Any] = {name: _both(name) for name in ("exp", "expm1", "log", "log1p", "tanh")}
FUNCTIONS |= {
    "sin": lambda g, x: _PRECISIONS[x.dtype].sin_cos(g, x, 0),
    "cos": lambda g, x: _PRECISIONS[x.dtype].sin_cos(g, x, 1),
    "tan": tan,
    "logistic": logistic,
    "sinh": sinh,
    "cosh": cosh,
    "exp2": exp2,
}
FUNCTIONS |= {name: _in_doubles(f, (_F,)) for name, f in special.FLOAT32.items()}
FUNCTIONS |= {name: _in_doubles(f, (_F, _D)) for name, f in special.EITHER.items()}
