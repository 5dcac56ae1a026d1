"""Functions of float32 as arithmetic on nodes, within two units in the last place, infinities and NaN as in XLA.

Sources: Cephes (S. L. Moshier), and W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980), for
the reductions.
"""

from __future__ import annotations

import numpy as np

from ..scalar.graph import Graph, Node
from .arithmetic import Number, clamped, log_ends, reduced_exp, where
from .softplus import slope_of_softplus

_F, _I = np.dtype(np.float32), np.dtype(np.int32)


def _integer(n: Number) -> Node:
    """Of a number that is an integer already."""
    return n.g.op("nearby", _I, n.node)


def _from_bits(g: Graph, bits: Node) -> Number:
    return Number(g, g.op("bitcast", _F, bits))


EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
LN2 = (0.693359375, -2.12194440e-4)


def scaled(y: Number, n: Number) -> Number:
    """y · 2^n for n from −160 to 160."""
    return y.do("ldexp", n)


def _two_to(g: Graph, n: Node) -> Number:
    """2^n for n from −126 to 127."""
    biased = g.op("add", _I, n, g.literal(127, _I))
    return _from_bits(g, g.op("shl", _I, biased, g.literal(23, _I)))


def exp(g: Graph, x: Node) -> Node:
    if (v := slope_of_softplus(g, x)) is not None:
        return g.op("logistic", x.dtype, v)
    n, p = reduced_exp(clamped(Number(g, x), -104.0, 89.0), LN2, EXP)
    return scaled(p + 1.0, n).node


def expm1(g: Graph, x: Node) -> Node:
    f = Number(g, x)
    n, p = reduced_exp(clamped(f, -30.0, 89.0), LN2, EXP)
    half = g.op("sar", _I, _integer(n), g.literal(1, _I))
    scale, rest = _two_to(g, half), _two_to(g, g.op("sub", _I, _integer(n), half))
    big = (p * scale * rest) + (scale * rest - 1.0)
    huge = (p + 1.0) * scale * rest
    whole = where(n.test("gt", 60.0), huge, big)
    return where(n.test("eq", 0.0), where(f.test("eq", 0.0), f, p), whole).node


_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
    -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


def _log_parts(g: Graph, u: Number) -> tuple[Number, Node]:
    """(f, e) with u = 2^e (1 + f), √½ ≤ 1 + f < √2, for a normal u."""
    bits = u.bits()
    e = g.op("sar", _I, g.op("sub", _I, bits, g.literal(0x3F3504F3, _I)), g.literal(23, _I))
    mantissa = _from_bits(g, g.op("sub", _I, bits, g.op("shl", _I, e, g.literal(23, _I))))
    return mantissa - 1.0, e


def _log_of(g: Graph, f: Number, e: Number) -> Number:
    square = f * f
    y = f.polynomial(_LOG) * f * square
    y = e.fma(LN2[1], y)
    y = square.fma(-0.5, y)
    return e.fma(LN2[0], f + y)


def log(g: Graph, x: Node) -> Node:
    f = Number(g, x)
    small = f.test("lt", float(np.finfo(np.float32).tiny))
    u = where(small, f * 2.0**25, f)
    m, e = _log_parts(g, u)
    shift = g.op("select", _I, small, g.literal(25, _I), g.literal(0, _I))
    exponent = Number(g, g.op("convert", _F, g.op("sub", _I, e, shift)))
    return log_ends(f, _log_of(g, m, exponent)).node


def log1p(g: Graph, x: Node) -> Node:
    """log u with u = 1 + x rounded, and what was lost put back (where u = 1 + f is near 1, that makes f of x itself)."""
    f = Number(g, x)
    u = f + 1.0
    m, e = _log_parts(g, u)
    inverse = _two_to(g, g.op("sub", _I, g.literal(0, _I), g.op("min", _I, e, g.literal(126, _I))))
    m = (f - (u - 1.0)).fma(inverse, m)
    result = _log_of(g, m, Number(g, g.op("convert", _F, e)))
    return log_ends(u, where(f.test("eq", 0.0), f, result)).node


def tanh(g: Graph, x: Node) -> Node:
    """e / (e + 2) with e = exp(2|x|) − 1, which is small where x is: one formula for all x. (Where n is not 0 that e is large,
    so that ln 2 in one part is exact enough.)"""
    f = Number(g, x)
    size = f.do("abs")
    doubled = where(size.test("gt", 10.0), 20.0, size + size)
    n, p = reduced_exp(doubled, (np.log(2),), EXP)
    scale = _two_to(g, _integer(n))
    e = p.fma(scale, scale - 1.0)
    return g.op("copysign", _F, (e / (e + 2.0)).node, x)


_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1.0)
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17)


def sin_cos(g: Graph, x: Node, quarter: int) -> Node:
    """sin(x + quarter · π/2), reduced to a quarter turn in float64; beyond 1e15, where float32 knows no angle, 0 or 1."""
    double = np.dtype(np.float64)
    f = Number(g, x)
    known = g.op("select", _F, f.test("gt", 1e15), g.literal(0, _F), x)
    known = g.op("select", _F, f.test("lt", -1e15), g.literal(0, _F), known)
    wide = g.op("convert", double, known)
    turns = g.op("rint", double, g.op("mul", double, wide, g.literal(2 / np.pi, double)))
    rest = wide
    for c in _HALF_PI:
        rest = g.op("fma", double, turns, g.literal(-c, double), rest)
    fours = g.op("floor", double, g.op("mul", double, turns, g.literal(0.25, double)))
    q = g.op("nearby", _I, g.op("fma", double, fours, g.literal(-4, double), turns))
    q = g.op("add", _I, q, g.literal(quarter, _I))
    r = Number(g, g.op("convert", _F, rest))
    square = r * r
    sin = (square.polynomial(_SIN) * square).fma(r, r)
    cos = square.polynomial(_COS)
    odd = g.op("ne", bool, g.op("and", _I, q, g.literal(1, _I)), g.literal(0, _I))
    value = Number(g, g.op("select", _F, odd, cos.node, sin.node))
    sign = g.op("shl", _I, g.op("and", _I, q, g.literal(2, _I)), g.literal(30, _I))
    signed = _from_bits(g, g.op("xor", _I, value.bits(), sign))
    infinite = g.op("eq", bool, g.op("abs", _F, x), g.literal(np.inf, _F))
    return where(infinite, np.nan, signed).node
