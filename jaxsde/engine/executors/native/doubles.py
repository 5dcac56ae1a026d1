"""Functions of float64 as arithmetic on nodes, within three units in the last place, infinities and NaN as in XLA.

Reductions as in W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980); the polynomials are interpolations
at Chebyshev's points, of relative error below 2^-56. Only what AVX2 has, too: no conversion to 64-bit integers.
"""

from __future__ import annotations

import numpy as np

from ..scalar.graph import Graph, Node
from .arithmetic import Number, clamped, log_ends, reduced_exp, where
from .softplus import slope_of_softplus

_D, _U = np.dtype(np.float64), np.dtype(np.uint64)
_SHIFT = 1.5 * 2.0**52  # an integer n added to it is in the last bits of the sum
LN2 = (0.6931471805599453, 2.3190468138462996e-17)
EXP = (
    2.0914686968086877e-9, 2.5105217004720745e-8, 2.7557273643110295e-7, 2.755725540020642e-6, 2.480158732554774e-5,
    1.984126987482062e-4, 1.3888888888883749e-3, 8.333333333326135e-3, 4.166666666666667e-2, 1.6666666666666671e-1, 0.5,
)  # fmt: skip


def _two_to(n: Number) -> Number:
    """2^n for n from −1022 to 1024 (infinite)."""
    g = n.g
    biased = g.op("add", _U, g.op("bitcast", _U, (n + _SHIFT).node), g.literal(1023, _U))
    return Number(g, g.op("bitcast", _D, g.op("shl", _U, biased, g.literal(52, _U))))


def scaled(y: Number, n: Number) -> Number:
    """y · 2^n for n from −2000 to 2000, rounded once: in two steps, so that neither factor overflows."""
    half = (n * 0.5).do("floor")
    return y * _two_to(half) * _two_to(n - half)


def exp(g: Graph, x: Node) -> Node:
    if (v := slope_of_softplus(g, x)) is not None:
        return g.op("logistic", x.dtype, v)
    n, p = reduced_exp(clamped(Number(g, x), -746.0, 710.0), LN2, EXP)
    return scaled(p + 1.0, n).node


def expm1(g: Graph, x: Node) -> Node:
    f = Number(g, x)
    n, p = reduced_exp(clamped(f, -40.0, 710.0), LN2, EXP)
    power = _two_to(n)
    whole = where(n.test("gt", 1000.0), scaled(p + 1.0, n), p.fma(power, power - 1.0))
    return where(n.test("eq", 0.0), where(f.test("eq", 0.0), f, p), whole).node


_LOG = (
    0.14617807153417325, 0.15331611722055009, 0.18182892432536871, 0.22222211089379496, 0.2857142862625384, 0.3999999999989889,
    0.666666666666667,
)  # fmt: skip
_ROOT_HALF, _ONE, _MANTISSA = 0x3FE6A09E667F3BCD, 0x3FF0000000000000, (1 << 52) - 1


def _log_parts(u: Number) -> tuple[Number, Number]:
    """(f, e) with u = 2^e (1 + f), √½ ≤ 1 + f < √2, for a normal u."""
    g = u.g
    bits = g.op("add", _U, g.op("bitcast", _U, u.node), g.literal(_ONE - _ROOT_HALF, _U))
    mantissa = g.op("add", _U, g.op("and", _U, bits, g.literal(_MANTISSA, _U)), g.literal(_ROOT_HALF, _U))
    exponent = g.op("or", _U, g.op("shr", _U, bits, g.literal(52, _U)), g.literal(0x4330000000000000, _U))  # 2^52 + it
    e = Number(g, g.op("bitcast", _D, exponent)) - (2.0**52 + 1023)
    return Number(g, g.op("bitcast", _D, mantissa)) - 1.0, e


def _log_of(f: Number, e: Number) -> Number:
    """With s = f / (2 + f), log(1 + f) = 2 artanh s = f + s (s² L(s²) − f)."""
    s = f / (f + 2.0)
    square = s * s
    y = s * (square.polynomial(_LOG).fma(square, -f))
    return e.fma(LN2[0], f + e.fma(LN2[1], y))


def log(g: Graph, x: Node) -> Node:
    f = Number(g, x)
    small = f.test("lt", float(np.finfo(np.float64).tiny))
    m, e = _log_parts(where(small, f * 2.0**54, f))
    return log_ends(f, _log_of(m, where(small, e - 54.0, e))).node


def log1p(g: Graph, x: Node) -> Node:
    """log u with u = 1 + x rounded, and what was lost put back (where u = 1 + f is near 1, that makes f of x itself)."""
    f = Number(g, x)
    u = f + 1.0
    m, e = _log_parts(u)
    m = (f - (u - 1.0)).fma(_two_to(-e.do("min", 1022.0)), m)
    return log_ends(u, where(f.test("eq", 0.0), f, _log_of(m, e))).node


def tanh(g: Graph, x: Node) -> Node:
    """t / (t + 2) with t = e^2|x| − 1."""
    f = Number(g, x)
    size = f.do("abs")
    t = Number(g, expm1(g, where(size.test("gt", 20.0), 40.0, size + size).node))
    return where(f.test("ne", f), f, (t / (t + 2.0)).do("copysign", f)).node


_SIN = (
    1.59153232122714e-10, -2.5051092507061386e-8, 2.755731591191116e-6, -1.9841269836387346e-4, 8.3333333333307e-3,
    -1.6666666666666666e-1,
)  # fmt: skip
_COS = (
    -1.138087694816972e-11, 2.0876121658871159e-9, -2.7557317152467040e-7, 2.4801587298533455e-5, -1.3888888888887242e-3,
    4.1666666666666665e-2, -0.5, 1.0,
)  # fmt: skip
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33)


def sin_cos(g: Graph, x: Node, quarter: int) -> Node:
    """sin(x + quarter · π/2), reduced to a quarter turn by three parts of π/2, the first time exactly; beyond 1e15, where
    float64 hardly knows an angle, 0 or 1."""
    f = Number(g, x)
    size = f.do("abs")
    rest = where(size.test("gt", 1e15), 0.0, f)
    turns = (rest * (2 / np.pi)).do("rint")
    for c in _HALF_PI:
        rest = turns.fma(-c, rest)
    q = (turns * 0.25).do("floor").fma(-4.0, turns) + float(quarter)  # 0 … 4
    square = rest * rest
    sin = (square.polynomial(_SIN) * square).fma(rest, rest)
    cos = square.polynomial(_COS)
    odd = g.op("eq", bool, (q - (q * 0.5).do("floor") * 2.0).node, g.literal(1, _D))
    value = Number(g, g.op("select", _D, odd, cos.node, sin.node))
    below = (q - 2.5).do("abs").test("lt", 1.0)  # 2 and 3
    return where(size.test("eq", np.inf), np.nan, where(below, -value, value)).node
