"""Functions of float32 as arithmetic on nodes, within two units in the last place, infinities and NaN as in XLA.

Sources: Cephes (S. L. Moshier), and W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980), for
the reductions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..scalar.graph import Graph, Node

_F, _I = np.dtype(np.float32), np.dtype(np.int32)


class _Float:
    """Arithmetic on float32 nodes in the usual notation."""

    __slots__ = ("g", "node")

    def __init__(self, g: Graph, node: Node):
        self.g, self.node = g, node

    def _of(self, y: Any) -> Node:
        return y.node if isinstance(y, _Float) else self.g.literal(y, _F)

    def _do(self, name: str, *others: Any) -> _Float:
        return _Float(self.g, self.g.op(name, _F, self.node, *(self._of(y) for y in others)))

    def __add__(self, y: Any) -> _Float:
        return self._do("add", y)

    def __sub__(self, y: Any) -> _Float:
        return self._do("sub", y)

    def __rsub__(self, y: Any) -> _Float:
        return _Float(self.g, self.g.op("sub", _F, self._of(y), self.node))

    def __mul__(self, y: Any) -> _Float:
        return self._do("mul", y)

    def __truediv__(self, y: Any) -> _Float:
        return self._do("div", y)

    def __rtruediv__(self, y: Any) -> _Float:
        return _Float(self.g, self.g.op("div", _F, self._of(y), self.node))

    def __neg__(self) -> _Float:
        return self._do("neg")

    def fma(self, a: Any, b: Any) -> _Float:
        """self · a + b"""
        return self._do("fma", a, b)

    def unary(self, name: str) -> _Float:
        return self._do(name)

    def test(self, name: str, y: Any) -> Node:
        return self.g.op(name, bool, self.node, self._of(y))

    def integer(self) -> Node:
        """Of a number that is an integer already."""
        return self.g.op("nearby", _I, self.node)

    def bits(self) -> Node:
        return self.g.op("bitcast", _I, self.node)

    def polynomial(self, coefficients: tuple[float, ...]) -> _Float:
        """Horner's rule, the highest power first."""
        p: Any = _Float(self.g, self.g.literal(coefficients[0], _F))
        for c in coefficients[1:]:
            p = p.fma(self, c)
        return p


def _where(test: Node, yes: Any, no: _Float) -> _Float:
    return _Float(no.g, no.g.op("select", _F, test, no._of(yes), no.node))


def _from_bits(g: Graph, bits: Node) -> _Float:
    return _Float(g, g.op("bitcast", _F, bits))


_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LN2 = (0.693359375, -2.12194440e-4)


def _reduced_exp(x: _Float) -> tuple[_Float, _Float]:
    """(n, e^r − 1) with x = n ln 2 + r, |r| ≤ ln 2 / 2."""
    n = (x * 1.44269504088896341).unary("rint")
    r = n.fma(-_LN2[0], x)
    r = n.fma(-_LN2[1], r)
    return n, (r.polynomial(_EXP) * r).fma(r, r)


def _two_to(g: Graph, n: Node) -> _Float:
    """2^n for n from −126 to 127."""
    biased = g.op("add", _I, n, g.literal(127, _I))
    return _from_bits(g, g.op("shl", _I, biased, g.literal(23, _I)))


def exp(g: Graph, x: Node) -> Node:
    if (v := _of_softplus(g, x)) is not None:
        return logistic(g, v)
    f = _Float(g, x)
    inside = _where(f.test("lt", -104.0), -104.0, _where(f.test("gt", 89.0), 89.0, f))  # NaN stays
    n, p = _reduced_exp(inside)
    return g.op("ldexp", _F, (p + 1.0).node, n.node)


def _of_softplus(g: Graph, x: Node) -> Node | None:
    """v where x is v − log(1 + e^v), as JAX writes the derivative of `logaddexp(v, 0)`: e^x is then the logistic function, at a
    third of the price and without the difference of large numbers. (JAX puts 0 for +∞ on either side: 1, too.)"""
    if x.op != "sub":
        return None
    v, w = (_finite_part(g, a) for a in x.args)
    if w.op == "select" and w.args[0].op == "ne" and w.args[0].args[0] is w.args[0].args[1]:  # where v is NaN
        if not _same_size(w.args[0].args[0], v):
            return None
        w = w.args[2]
    if w.op != "add":
        return None
    zero = g.literal(0, _F)
    for large, log in (w.args, w.args[::-1]):
        if large.op == "max" and zero in large.args and v in large.args and (e := g.argument("log1p", log)) is not None:
            size = g.argument("exp", e)
            if size is not None and size.op == "neg" and size.args[0].op == "abs" and _same_size(size.args[0].args[0], v):
                return v
    return None


def _finite_part(g: Graph, x: Node) -> Node:
    """v where x is v, or 0 where v is infinite."""
    infinite = x.op == "select" and x.args[0].op == "eq" and x.args[0].args == (x.args[2], g.literal(np.inf, _F))
    return x.args[2] if infinite and x.args[1] is g.literal(0, _F) else x


def _same_size(x: Node, y: Node) -> bool:
    """Whether x is known to be y or −y."""
    if x is y or (x.op == "neg" and x.args[0] is y):
        return True
    if x.op == "sub" and x.args[1] is y:
        return x.args[0].op == "literal" and x.args[0].value == 0
    if not x.op == y.op == "mul" or x.args[1] is not y.args[1]:
        return False
    return _same_size(x.args[0], y.args[0]) or _same_size(y.args[0], x.args[0])


def expm1(g: Graph, x: Node) -> Node:
    f = _Float(g, x)
    inside = _where(f.test("lt", -30.0), -30.0, _where(f.test("gt", 89.0), 89.0, f))
    n, p = _reduced_exp(inside)
    half = g.op("sar", _I, n.integer(), g.literal(1, _I))
    scale, rest = _two_to(g, half), _two_to(g, g.op("sub", _I, n.integer(), half))
    big = (p * scale * rest) + (scale * rest - 1.0)
    huge = (p + 1.0) * scale * rest
    whole = _where(n.test("gt", 60.0), huge, big)
    return _where(n.test("eq", 0.0), _where(f.test("eq", 0.0), f, p), whole).node


_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
    -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


def _log_parts(g: Graph, u: _Float) -> tuple[_Float, Node]:
    """(f, e) with u = 2^e (1 + f), √½ ≤ 1 + f < √2, for a normal u."""
    bits = u.bits()
    e = g.op("sar", _I, g.op("sub", _I, bits, g.literal(0x3F3504F3, _I)), g.literal(23, _I))
    mantissa = _from_bits(g, g.op("sub", _I, bits, g.op("shl", _I, e, g.literal(23, _I))))
    return mantissa - 1.0, e


def _log_of(g: Graph, f: _Float, e: _Float) -> _Float:
    square = f * f
    y = f.polynomial(_LOG) * f * square
    y = e.fma(_LN2[1], y)
    y = square.fma(-0.5, y)
    return e.fma(_LN2[0], f + y)


def _log_ends(f: _Float, result: _Float) -> _Float:
    """log at 0, infinity, NaN and below 0."""
    result = _where(f.test("eq", 0.0), -np.inf, result)
    result = _where(f.test("eq", np.inf), np.inf, result)
    return _where(f.g.op("not", bool, f.test("ge", 0.0)), np.nan, result)


def log(g: Graph, x: Node) -> Node:
    f = _Float(g, x)
    small = f.test("lt", float(np.finfo(np.float32).tiny))
    u = _where(small, f * 2.0**25, f)
    m, e = _log_parts(g, u)
    shift = g.op("select", _I, small, g.literal(25, _I), g.literal(0, _I))
    exponent = _Float(g, g.op("convert", _F, g.op("sub", _I, e, shift)))
    return _log_ends(f, _log_of(g, m, exponent)).node


def log1p(g: Graph, x: Node) -> Node:
    """log u with u = 1 + x rounded, and what was lost put back (where u = 1 + f is near 1, that makes f of x itself)."""
    f = _Float(g, x)
    u = f + 1.0
    m, e = _log_parts(g, u)
    inverse = _two_to(g, g.op("sub", _I, g.literal(0, _I), g.op("min", _I, e, g.literal(126, _I))))
    m = (f - (u - 1.0)).fma(inverse, m)
    result = _log_of(g, m, _Float(g, g.op("convert", _F, e)))
    return _log_ends(u, _where(f.test("eq", 0.0), f, result)).node


_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)


def tanh(g: Graph, x: Node) -> Node:
    f = _Float(g, x)
    size = f.unary("abs")
    doubled = _where(size.test("gt", 10.0), 20.0, size + size)
    n, p = _reduced_exp(doubled)
    e = (p + 1.0) * _two_to(g, n.integer())
    large = 1.0 - 2.0 / (e + 1.0)
    large = _Float(g, g.op("copysign", _F, large.node, x))
    square = f * f
    small = (square.polynomial(_TANH) * square).fma(f, f)
    result = _where(size.test("lt", 0.625), small, large)
    return _where(f.test("ne", f), f, result).node


def logistic(g: Graph, x: Node) -> Node:
    """1 / (1 + e^−x), and e^x / (1 + e^x) below 0, so that nothing overflows."""
    f = _Float(g, x)
    e = _Float(g, exp(g, (-f.unary("abs")).node))
    share = 1.0 / (e + 1.0)
    return _where(f.test("lt", 0.0), e * share, share).node


_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1.0)
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17)


def _sin_cos(g: Graph, x: Node, quarter: int) -> Node:
    """sin(x + quarter · π/2), reduced to a quarter turn in float64; beyond 1e15, where float32 knows no angle, 0 or 1."""
    double = np.dtype(np.float64)
    f = _Float(g, x)
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
    r = _Float(g, g.op("convert", _F, rest))
    square = r * r
    sin = (square.polynomial(_SIN) * square).fma(r, r)
    cos = square.polynomial(_COS)
    odd = g.op("ne", bool, g.op("and", _I, q, g.literal(1, _I)), g.literal(0, _I))
    value = _Float(g, g.op("select", _F, odd, cos.node, sin.node))
    sign = g.op("shl", _I, g.op("and", _I, q, g.literal(2, _I)), g.literal(30, _I))
    signed = _from_bits(g, g.op("xor", _I, value.bits(), sign))
    infinite = g.op("eq", bool, g.op("abs", _F, x), g.literal(np.inf, _F))
    return _where(infinite, np.nan, signed).node


FUNCTIONS: dict[str, Any] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "tanh": tanh,
    "logistic": logistic,
    "sin": lambda g, x: _sin_cos(g, x, 0),
    "cos": lambda g, x: _sin_cos(g, x, 1),
}
