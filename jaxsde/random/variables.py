"""From uint32 words to random variables: normals, signs, three-point variables, integers below n."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

from .philox import multiply

_u32 = np.uint32

_LOG = (  # of log(1 + f) = f - f²/2 + f³·P(f) on [√½ - 1, √2 - 1]: Cephes logf (Moshier)
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
# sin(πx/4)/x and cos(πx/4) in x² on [-1, 1]: minimax in the error of sin and cos, 4e-9 and 5e-11
_SIN = (-3.611684050577e-5, 2.490308802094e-3, -8.074560012793e-2, 0.7853981852531433)
_COS = (3.531334577e-6, -3.259420078135e-4, 1.5854327751805e-2, -3.0842513583836e-1, 1.0)


def box_muller(a: UInt32[Array, "..."], b: UInt32[Array, "..."], dtype: Any = np.float32) -> tuple[Array, Array]:
    """Two independent standard normals from two words, without a branch (Box and Muller 1958).

        √(-2 log u) (±cos s, ±sin s) or with the two swapped,    u = (a + ½) 2^-32,    s = π/4 · b 2^-31

    with `b` read as signed; its three lowest bits choose the signs and the swap. All 32 bits of `a` count, so |z| reaches
    √(2 log 2^33) = 6.76 (24 bits would end at 5.9). In float32 u is kept as u - 1 where it is near 1, and log, sin and
    cos are polynomials; the result is within 1e-6 of the float64 one from the same words, never subnormal or NaN.
    """
    w = _signed_uniform(a, dtype)
    x = lax.bitcast_convert_type(b, jnp.int32).astype(dtype) * np.asarray(2.0**-31, dtype)
    if np.dtype(dtype) == np.float64:
        log = jnp.log1p(jnp.where(w < 0, w, w - 1.0))
        sin, cos = jnp.sin(np.pi / 4 * x), jnp.cos(np.pi / 4 * x)
    else:
        log = _log(w)
        square = x * x
        sin, cos = x * _horner(square, _SIN), _horner(square, _COS)
    radius = jnp.sqrt(np.asarray(-2.0, dtype) * log)
    swap = (b & _u32(1)) != 0
    first, second = radius * jnp.where(swap, sin, cos), radius * jnp.where(swap, cos, sin)
    # signs last, by a select: a product as the last step could be fused, unrounded, into the sum that uses it
    return jnp.where((b & _u32(2)) != 0, -first, first), jnp.where((b & _u32(4)) != 0, -second, second)


def _signed_uniform(a: Array, dtype: Any) -> Array:
    """u = (a + ½) 2^-32 where it is below ½ and u - 1 where it is not: either way with full relative precision."""
    scale, half = np.asarray(2.0**-32, dtype), np.asarray(2.0**-33, dtype)
    return lax.bitcast_convert_type(a, jnp.int32).astype(dtype) * scale + half


def _log(w: Array) -> Array:
    """log u in float32 from w = u (w > 0) or u - 1 (w < 0). No sum has two products: fusing multiply-adds has one way."""
    f32 = np.float32
    u = w + jnp.where(w < 0, f32(1), f32(0))
    bits = lax.bitcast_convert_type(u, jnp.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    mantissa = lax.bitcast_convert_type(bits - (exponent << np.int32(23)), jnp.float32)
    f = jnp.where(exponent == 0, w, mantissa - f32(1))  # with exponent 0, u is above √½, so w is u - 1, unrounded
    y = f + (f * f) * (f * _horner(f, _LOG) - f32(0.5))
    return exponent.astype(jnp.float32) * f32(np.log(2)) + y


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    p: Any = np.asarray(coefficients[0], x.dtype)
    for c in coefficients[1:]:
        p = p * x + np.asarray(c, x.dtype)
    return p


def sign(word: UInt32[Array, "..."], place: Any, dtype: Any = np.float32) -> Array:
    """±1 with equal odds: the bit at `place` of the word, 0 for 1."""
    if np.dtype(dtype) == np.float32:  # the bit as the sign of 1
        high = word << (_u32(31) - jnp.asarray(place, jnp.uint32))
        return lax.bitcast_convert_type((high & _u32(1 << 31)) | _u32(0x3F800000), jnp.float32)
    bit = (word >> jnp.asarray(place, jnp.uint32)) & _u32(1)
    return jnp.asarray(1, dtype) - (bit << _u32(1)).astype(jnp.int32).astype(dtype)


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
