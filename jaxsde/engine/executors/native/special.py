"""Functions worked out in float64: of float32 to its last place, and the gamma function's for both precisions.

The polynomials are interpolations at Chebyshev's points. Asymptotic series: Abramowitz and Stegun, Handbook of Mathematical
Functions (1964), 6.1.41, 6.3.18, 6.4.12, and 6.1.17, 6.3.7, 6.4.7 for what lies below 0. The variables of erf⁻¹: M. Giles,
Approximating the erfinv function, in GPU Computing Gems (2011).
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
_TRIGAMMA = (43867 / 798, -3617 / 510, 7 / 6, -691 / 2730, 5 / 66, -1 / 30, 1 / 42, -1 / 30, 1 / 6)  # in 1/z², over z
_HALF_LOG_TWO_PI = 0.9189385332046727
_ERF_INV_NEAR = (  # erf⁻¹(x)/x in w/3.125 − 1 for w = −log(1 − x²) below 6.25: 2^-55, as all from here on
    7.801712199036253e-10, -8.577966939639941e-11, -8.627191009014394e-09, 9.07207594789291e-09, 3.931511157646558e-08,
    -1.0514990713371436e-07, -1.0412692841159635e-08, 5.456420572209782e-07, -1.0591188098187532e-06, -6.87655180725494e-07,
    7.12993974314695e-06, -1.1255653983969421e-05, -1.5027665773117194e-05, 9.336692787624058e-05, -0.0001168888508125076,
    -0.00026439358646646055, 0.0012324855702994214, -0.0012716922769885114, -0.004137314377547895, 0.0178083618187569,
    -0.022604447453444733, -0.0589225671037876, 0.7504943200799635, 1.6536545626831027,
)  # fmt: skip
_ERF_INV_MIDDLE = (  # in (√w − 3.25)/0.75 for √w from 2.5 to 4
    -6.385846404875191e-11, 3.929056598182976e-12, 9.85047133124713e-10, -2.7195823537882847e-09, -3.6086983146965074e-10,
    2.6703991718481456e-08, -9.46984593753811e-08, 9.267642775523117e-08, 5.264680305425013e-07, -2.6646983082852556e-06,
    5.127314470348767e-06, 2.4058391918338327e-06, -4.739182677882865e-05, 0.00016966502592018017, -0.0004006356984211825,
    0.0007883078509981353, -0.0015825410894034398, 0.00302113943638407, 0.7539442257706239, 3.0838856104922208,
)  # fmt: skip
_ERF_INV_FAR = (  # in (√w − 5.005)/1.005 for √w from 4 to 6.01
    -2.153871368808515e-11, 4.47487964335088e-11, 7.584876822803947e-11, -4.6562362701570107e-10, 1.3823554923051641e-09,
    -3.6066428361020856e-09, 8.06135109219589e-09, -1.562664359084267e-08, 2.9637689564882193e-08, -6.916205707196453e-08,
    2.3524555480981242e-07, -1.0188859289837069e-06, 4.627895607275655e-06, -2.0040082722510046e-05, 7.702638881687429e-05,
    -0.00021673389058913275, -0.0001433562777342592, 1.0153505568899488, 4.854957900238093,
)  # fmt: skip
_I0_NEAR = (  # e^−x I₀(x) in x/4 − 1 for x on [0, 8]
    4.394426308340083e-09, -1.631130691668671e-08, 2.679771004975793e-08, -8.594601526025913e-08, 3.659216730162776e-07,
    -1.1419495259048662e-06, 3.232396382443255e-06, -9.183910794736519e-06, 2.5198651465609148e-05, -6.55678677969644e-05,
    0.0001624084559061418, -0.0003828654139905961, 0.0008563135177565376, -0.0018119029764120445, 0.0036171271654272855,
    -0.006792394821044967, 0.011960077703464203, -0.019682655784004566, 0.03017791206221918, -0.04298594929673067,
    0.05677703201501785, -0.06954119563154397, 0.07927522590752974, -0.08496338091542556, 0.08734341617550884,
    -0.08904344136077733, 0.09451562853995125, -0.11300432688620536, 0.2070019212239867,
)  # fmt: skip
_I0_FAR = (  # √x e^−x I₀(x) in 16/x − 1 beyond
    -2.4421972688131832e-11, 9.114760157514253e-11, 1.7698085539456536e-10, -6.494591114401118e-10, -6.327909921997027e-10,
    2.163681278413876e-09, 1.6084886155781772e-09, -4.5305710768621196e-09, -3.5862834111582305e-09, 6.522264862032271e-09,
    7.600254486433509e-09, -5.0175940345046716e-09, -1.3427511481900905e-08, -6.856484545962442e-09, 7.559364098665437e-09,
    2.156780676115673e-08, 3.932512321137824e-08, 8.872014585661555e-08, 2.9735992084667734e-07, 1.4838476780922646e-06,
    1.114303378845176e-05, 0.00013621607438951463, 0.0033605519836678913, 0.4021765094450081,
)  # fmt: skip
_I1_NEAR = (  # e^−x I₁(x)/x in x/4 − 1 for x on [0, 8]
    3.6696752013169966e-10, -1.4165980180332847e-09, 2.644330576999187e-09, -8.986801013193351e-09, 3.7901404602356164e-08,
    -1.2424046295570417e-07, 3.7617292810159424e-07, -1.1327198008251626e-06, 3.29361514435675e-06, -9.136529630106953e-06,
    2.4233987591498262e-05, -6.142361409267038e-05, 0.00014842110758080817, -0.0003411760229204836, 0.0007445123998749739,
    -0.001538874564273584, 0.0030057624040464932, -0.005534567846988655, 0.009583962153764291, -0.015571309244077562,
    0.023686016957350876, -0.03367135552107505, 0.044674572621282986, -0.05528003922699226, 0.06376740371340611,
    -0.0684826062058269, 0.06805759990951162, -0.061124338029666284, 0.044687709875608835,
)  # fmt: skip
_I1_FAR = (  # √x e^−x I₁(x) in 16/x − 1 beyond
    7.347992441734663e-11, 1.7502497778701306e-11, -5.388285995923524e-10, -1.342266320082222e-10, 1.8513716745511988e-09,
    5.146498826087142e-10, -4.047785403711858e-09, -1.4171698018664596e-09, 6.4870195719816896e-09, 3.406636130196794e-09,
    -8.044231276166508e-09, -7.630751970065577e-09, 6.040877342160988e-09, 1.4029693589852716e-08, 6.715795128085017e-09,
    -8.426622829598154e-09, -2.337059627111857e-08, -4.312935369971356e-08, -1.0001323461066435e-07, -3.483855609009937e-07,
    -1.8349101134666435e-06, -1.5038547201176271e-05, -0.00021923576383430274, -0.009749577193235728, 0.38939845902587233,
)  # fmt: skip


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


def trigamma(x: Number) -> Number:
    """The slope of digamma: down from 8 on by 1/x² + … + 1/(x + 7)², in pairs; below 0 by reflection."""
    below, r, few, z = _raised(x)
    inverse = 1.0 / z
    square = inverse * inverse
    value = inverse + square.fma(0.5, inverse * square * square.polynomial(_TRIGAMMA))
    y = r * (r + 7.0)
    for more, rest in ((0.0, 49.0), (6.0, 25.0), (10.0, 9.0), (12.0, 1.0)):
        product = y + more
        value = where(few, value + (product + product + rest) / product / product, value)
    ratio = np.pi / _reduced_angle(x).do("sin")
    value = where(below, ratio * ratio - value, value)
    return where(_pole(x), np.inf, value)


def erf_inv(x: Number) -> Number:
    w = -((x + 1.0) * (1.0 - x)).do("log")
    root = w.do("sqrt")
    value = ((root - 5.005) * (1 / 1.005)).polynomial(_ERF_INV_FAR)
    value = where(root.test("lt", 4.0), ((root - 3.25) * (1 / 0.75)).polynomial(_ERF_INV_MIDDLE), value)
    value = where(w.test("lt", 6.25), (w * (1 / 3.125) - 1.0).polynomial(_ERF_INV_NEAR), value)
    return x * where(w.test("eq", np.inf), np.inf, value)


def bessel_i0e(x: Number) -> Number:
    size = x.do("abs")
    far = (16.0 / size - 1.0).polynomial(_I0_FAR) / size.do("sqrt")
    return where(size.test("lt", 8.0), (size * 0.25 - 1.0).polynomial(_I0_NEAR), far)


def bessel_i1e(x: Number) -> Number:
    size = x.do("abs")
    far = ((16.0 / size - 1.0).polynomial(_I1_FAR) / size.do("sqrt")).do("copysign", x)
    return where(size.test("lt", 8.0), x * (size * 0.25 - 1.0).polynomial(_I1_NEAR), far)


FLOAT32: dict[str, Callable[..., Number]] = {"erf": erf, "erfc": erfc, "pow": power, "cbrt": cube_root}
EITHER: dict[str, Callable[..., Number]] = {
    "digamma": digamma, "trigamma": trigamma, "lgamma": log_gamma, "erf_inv": erf_inv, "bessel_i0e": bessel_i0e,
    "bessel_i1e": bessel_i1e,
}  # fmt: skip
