"""From uint32 words to random variables: normals, signs, three-point variables, integers below n."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

from .philox import multiply

_u32 = np.uint32

# Of -2 log(1 - f/2) = f + f²·(f·P(f) + ¼) for 1 - f/2 on [√½, √2]: minimax in the relative error, 3e-8
_LOG = (
    0.0003398608488, 0.00111464744, 0.002330432409, 0.0051804952,
    0.0124769149, 0.0312516713, 0.08333477685,
)  # fmt: skip
# sin(πx/2)/x and cos(πx/2) in x² on [-1, 1]: minimax in the error of sin and cos, 3e-9 and 5e-8; in float64 below 1e-17
_SIN = (1.5082056451e-4, -4.6722279232e-3, 7.9688480540e-2, -0.6459633598658714, 1.5707962900223686)
_COS = (8.5819061988e-4, -2.0810627520e-2, 0.2536507446359358, -1.2336982146689266, 0.9999999534666713)
_SIN_64 = (
    5.87297574479995014e-12, -6.68441683185608435e-10, 5.69213642809862525e-8, -3.59884302046725752e-6, 1.60441184713091592e-4,
    -4.68175413530425532e-3, 7.96926262461656398e-2, -0.645964097506246201, 1.57079632679489662,
)  # fmt: skip
_COS_64 = (
    6.33173271780790026e-11, -6.38223592452925914e-9, 4.71083074336355749e-7, -2.52020397822287141e-5, 9.19260273943487711e-4,
    -2.08634807631788608e-2, 0.253669507901031062, -1.23370055013616919, 1.0,
)  # fmt: skip


def box_muller(a: UInt32[Array, "..."], b: UInt32[Array, "..."], dtype: Any = np.float32) -> tuple[Array, Array]:
    """Two independent standard normals from two words, without a branch (Box and Muller 1958).

        ±√(-2 log u) (cos s, sin s),    u = (a + ½) 2^-32,    s = π/2 · b 2^-31

    with `b` read as signed, so that s is a half turn; its lowest bit chooses the sign. All 32 bits of `a` count, so |z| reaches
    √(2 log 2^33) = 6.76 (24 bits would end at 5.9). In float32 u is kept as u - 1 where it is near 1. Sin, cos and, in float32,
    log are polynomials; there the result is within 3e-7 of the radius of the float64 one from the same words, never subnormal or
    NaN.
    """
    w = _signed_uniform(a, dtype)
    x = lax.bitcast_convert_type(b, jnp.int32).astype(dtype) * np.asarray(2.0**-31, dtype)
    if np.dtype(dtype) == np.float64:
        square, sines, cosines = -2.0 * jnp.log(jnp.where(w < 0, w + 1.0, w)), _SIN_64, _COS_64  # of an exact u
    else:
        square, sines, cosines = _minus_two_log(w), _SIN, _COS
    radius, turn = jnp.sqrt(square), x * x
    cos, sin = _horner(turn, cosines), x * _horner(turn, sines)
    return _negative_if_odd(radius * cos, b), _negative_if_odd(radius * sin, b)


def _signed_uniform(a: Array, dtype: Any) -> Array:
    """u = (a + ½) 2^-32 where it is below ½ and u - 1 where it is not: either way with full relative precision."""
    scale, half = np.asarray(2.0**-32, dtype), np.asarray(2.0**-33, dtype)
    return lax.bitcast_convert_type(a, jnp.int32).astype(dtype) * scale + half


def _minus_two_log(w: Array) -> Array:
    """-2 log u in float32 from w = u (w > 0) or u - 1 (w < 0). A sum has one product that is rounded, if any: fusing multiply-adds
    has one way."""
    f32, i32 = np.float32, np.int32
    lost = jnp.where(w < 0, f32(1), f32(0))
    size = lax.bitcast_convert_type(w + lost, jnp.int32)
    exponent = (size - i32(0x3F3504F3)) & i32(-(1 << 23))  # of 2 in u / 2^e on [√½, √2], times 2^23
    scale = lax.bitcast_convert_type(i32(-(1 << 30)) - exponent, jnp.float32)  # -2 / 2^e
    f = scale * w + (scale * lost + f32(2))  # 2 - 2 u / 2^e, unrounded where u is near 1
    y = f + (f * f) * (f * _horner(f, _LOG) + f32(0.25))
    return exponent.astype(jnp.float32) * f32(-2 * np.log(2) * 2.0**-23) + y


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    p: Any = np.asarray(coefficients[0], x.dtype)
    for c in coefficients[1:]:
        p = p * x + np.asarray(c, x.dtype)
    return p


def _negative_if_odd(z: Array, word: Array) -> Array:
    """-z where the word's lowest bit is set. By its bits, as the last step: a product there could be fused, unrounded, into the
    sum that uses it."""
    if z.dtype == np.float64:
        return jnp.where((word & _u32(1)) != 0, -z, z)
    bits = lax.bitcast_convert_type(z, jnp.uint32)
    return lax.bitcast_convert_type(bits ^ (word << _u32(31)), jnp.float32)


def sign(word: UInt32[Array, "..."], place: Any, dtype: Any = np.float32) -> Array:
    """±1 with equal odds: the bit at `place` of the word, 0 for 1."""
    return _negative_if_odd(jnp.asarray(1, dtype), word >> jnp.asarray(place, jnp.uint32))


_POWERS = np.array([6**i for i in range(8)], np.uint32)


def three_point(high: UInt32[Array, "..."], low: UInt32[Array, "..."], place: Any, dtype: Any = np.float32) -> Array:
    """√3, -√3 (odds 1/6 each) or 0 (2/3): moments 0, 1, 0, 3 of a normal. The digit at `place` (0 … 7) of (high, low)/2^64 in
    base 6, -√3 for 0 and √3 for 5: of uniform words, the odds of all eight together are off by less than 2^-29."""
    power = _POWERS[place] if isinstance(place, np.ndarray) else jnp.asarray(_POWERS)[place]
    low = jnp.broadcast_to(low, jnp.broadcast_shapes(power.shape, low.shape))
    carried, shifted = multiply(power, low)[0], power * high
    rest = shifted + carried  # the upper word of (high, low)·6^place mod 2^64
    size = np.asarray(np.sqrt(3.0), dtype)
    zero = jnp.where(rest >= _u32(5 * 2**32 // 6 + 1), size, np.asarray(0.0, dtype))
    return jnp.where(rest <= _u32(2**32 // 6), -size, zero)


def below(high: UInt32[Array, "..."], low: UInt32[Array, "..."], n: Any) -> UInt32[Array, "..."]:
    """floor((high, low) · n / 2^64): uniform on 0 .. n - 1, every probability within 2^-64 of 1/n. 1 <= n < 2^31."""
    n = jnp.asarray(n, jnp.uint32)
    whole, part = multiply(n, high)
    carried = part + multiply(n, low)[0]
    return whole + (carried < part).astype(jnp.uint32)
