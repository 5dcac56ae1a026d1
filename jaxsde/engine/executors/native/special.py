"""Functions worked out in float64: of float32 to its last place, and the gamma function's for both precisions.

The polynomials are interpolations at Chebyshev's points. Asymptotic series: Abramowitz and Stegun, Handbook of Mathematical
Functions (1964), 6.1.41, 6.3.18, and 6.1.17, 6.3.7 for what lies below 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..scalar.graph import Node
from .arithmetic import Number, where

_ERF = (  # erf(x)/x in x² on [0, 1]: 1e-12
    1.058938064107502e-6, -1.39093400218746e-5, 1.195656256820733e-4, -8.54263798709723e-4, 5.223783477189248e-3,
    -2.6866133235095592e-2, 1.1283791308604581e-1, -3.761263888963531e-1, 1.1283791670946767,
)  # fmt: skip
_ERFCX = (  # (1 + 2x) e^x² erfc(x) in (x − 3)/(x + 3) for x on [0, 10.6]: 1e-10
    3.3894403029424128e-5, 0.00012855640133548845, -0.00012632234860442739, -0.00079179416574170255, 0.0018932805941389954,
    0.0025341115126373357, -0.023770635953708996, 0.068307295812407846, -0.11927371729126427, 0.12964520447688312,
    -0.047562290562526126, -0.13562110694978641, 1.2530080582390709,
)  # fmt: skip
_DIGAMMA = (-1 / 12, 691 / 32760, -1 / 132, 1 / 240, -1 / 252, 1 / 120, -1 / 12)  # in 1/z²
_LGAMMA = (1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)  # in 1/z², over z
_HALF_LOG_TWO_PI = 0.9189385332046727


def _tail(size: Number) -> Number:
    """erfc(size) for size ≥ 0."""
    a = where(size.test("gt", 10.6), 10.6, size)
    beyond, above = a + a + 1.0, a + 3.0
    inverse = 1.0 / (beyond * above)
    shape = ((a - 3.0) * beyond * inverse).polynomial(_ERFCX)
    return (-(a * a)).do("exp") * shape * (above * inverse)


def erf(x: Number) -> Number:
    size = x.do("abs")
    near = x * (x * x).polynomial(_ERF)
    return where(size.test("lt", 1.0), near, (1.0 - _tail(size)).do("copysign", x))


def erfc(x: Number) -> Number:
    tail = _tail(x.do("abs"))
    return where(x.test("lt", 0.0), 2.0 - tail, tail)


def power(x: Number, y: Number) -> Number:
    """As C has it: of a negative number only to an integer, and 1 to anything is 1."""
    g = x.g
    size = x.do("abs")
    value = (y * size.do("log")).do("exp")
    whole = y.test("eq", y.do("rint"))
    odd = g.op("and", bool, whole, (y * 0.5).test("ne", (y * 0.5).do("rint")))
    finite = x.test("gt", -np.inf)
    undefined = g.op("and", bool, g.op("and", bool, x.test("lt", 0.0), finite), g.op("not", bool, whole))
    one = g.op("and", bool, size.test("eq", 1.0), y.do("abs").test("eq", np.inf))
    one = g.op("or", bool, g.op("or", bool, one, x.test("eq", 1.0)), y.test("eq", 0.0))
    value = where(odd, value.do("copysign", x), where(undefined, np.nan, value))
    return where(one, 1.0, value)


def cube_root(x: Number) -> Number:
    root = (x.do("abs").do("log") * (1 / 3)).do("exp")
    return root.do("copysign", x)


def _reduced_angle(x: Number) -> Number:
    """π (x − the nearest integer)."""
    return (x - x.do("rint")) * np.pi


def _pole(x: Number) -> Node:
    """Whether x is 0, −1, −2, … (as all large numbers below 0 are)."""
    return x.g.op("and", bool, x.test("le", 0.0), x.test("eq", x.do("floor")))


def _raised(x: Number) -> tuple[Node, Number, Node, Number]:
    """(whether x is below 0; x, or what it is reflected to; whether that is below 8; that, or what is 8 more)"""
    below = x.test("lt", 0.0)
    r = where(below, 1.0 - x, x)
    few = r.test("lt", 8.0)
    return below, r, few, where(few, r + 8.0, r)


def digamma(x: Number) -> Number:
    """Down from 8 on by 1/x + … + 1/(x + 7), in pairs; below 0 by reflection."""
    below, r, few, z = _raised(x)
    inverse = 1.0 / z
    square = inverse * inverse
    value = z.do("log") - inverse.fma(0.5, -(square * square.polynomial(_DIGAMMA)))
    y = r * (r + 7.0)
    a, b, c = y + 6.0, y + 10.0, y + 12.0
    sums = (b * c * (y + a) + y * a * (b + c)) * (r + r + 7.0) / (y * a * b * c)
    value = where(few, value - sums, value)
    angle = _reduced_angle(x)
    value = where(below, value - np.pi / angle.do("tan"), value)
    return where(_pole(x), np.nan, value)


def log_gamma(x: Number) -> Number:
    """log |Γ(x)|: down from 8 on by the logarithm of x (x + 1) … (x + 7), in pairs; below 0 by reflection."""
    below, r, few, z = _raised(x)
    inverse = 1.0 / z
    series = inverse * (inverse * inverse).polynomial(_LGAMMA)
    value = (z - 0.5) * z.do("log") - z + (series + _HALF_LOG_TWO_PI)
    y = r * (r + 7.0)
    product = y * (y + 6.0) * ((y + 10.0) * (y + 12.0))
    sine = _reduced_angle(x).do("sin").do("abs")
    product = where(few, product, product.known(1.0))
    taken = where(below, product * np.pi / sine, product).do("log")
    value = where(below, taken - value, value - taken)
    return where(x.g.op("or", bool, _pole(x), x.test("eq", np.inf)), np.inf, value)


FLOAT32: dict[str, Callable[..., Number]] = {"erf": erf, "erfc": erfc, "pow": power, "cbrt": cube_root}
EITHER: dict[str, Callable[..., Number]] = {"digamma": digamma, "lgamma": log_gamma}
