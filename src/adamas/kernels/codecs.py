"""Storage formats as array expressions: the bytes of adamas/formats.py, for compilers such as XLA.

Arithmetic on integers and single additions of floats only, so that XLA gives the same bits too. docs/formats.md has the
definitions. The operations come from an array module, `xp`:

    where, minimum, maximum, abs, reshape, concat      as everywhere
    cast(x, dtype)                                     a conversion; of unsigned integers modulo 2^n
    bitcast(x, dtype)                                  the same bits
    left(x, n), right(x, n)                            shifts by a Python integer; of signed integers arithmetic
    arange(n), zeros(n, like), constant(x, dtype)      uint32; of like's dtype; a scalar
    largest(x)                                         over the last dimension
    int8, uint8, uint16, int32, uint32, uint64, float16, bfloat16, float32    its dtypes
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from adamas.formats import RANDOM, SCALED

_GOLDEN = 0x9E3779B97F4A7C15
_INFINITY = 0x7F800000  # the bits of a float32's magnitude from which it is not finite
_NAN = 0x7FC00000


class _Grid(NamedTuple):
    """Where the codes of int8 lie; see docs/formats.md."""

    u: int  # bits
    linear: int
    factor: int
    least: int  # bits of the smallest scale
    shift: int
    most: int


_SIGNED = _Grid(115 << 23, 66, 2, 16 << 23, 19, 127)
_NON_NEGATIVE = _Grid(108 << 23, 118, 4, 23 << 23, 18, 255)


class Codecs:
    """The formats of one array module."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def draw(self, n: int, *numbers: Any) -> Any:
        """uint32 [n]: the random bits of n elements. numbers: uint64 seed, name, step and slot of a `formats.Key`."""
        xp = self._xp
        word = xp.constant(0, xp.uint64)
        for number in numbers:
            word = self._absorb(word, number)
        words = self._absorb(word, xp.cast(xp.arange(-(-n // RANDOM)), xp.uint64))
        slope, start = xp.cast(words, xp.uint32), xp.cast(xp.right(words, 32), xp.uint32)
        return xp.reshape(slope[:, None] * xp.arange(min(n, RANDOM)) + start[:, None], (-1,))[:n]

    def _absorb(self, word: Any, number: Any) -> Any:
        xp = self._xp
        z = (word ^ number) + xp.constant(_GOLDEN, xp.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ xp.right(z, shift)) * xp.constant(factor, xp.uint64)
        return z ^ xp.right(z, 31)

    def _upper(self, bits: Any, shift: int) -> Any:
        """Random bits shifted to the right, as int32."""
        return self._xp.cast(self._xp.right(bits, shift), self._xp.int32)

    def _magnitude(self, x: Any) -> Any:
        """The bits of |x| as int32."""
        return self._xp.bitcast(x, self._xp.int32) & 0x7FFFFFFF

    def _with_sign(self, magnitude: Any, x: Any, dtype: Any) -> Any:
        """16 bits of a floating dtype from their magnitude, an int32, and the float32 x for the sign."""
        xp = self._xp
        sign = xp.where(xp.bitcast(x, xp.int32) < 0, 0x8000, 0)
        return xp.bitcast(xp.cast(magnitude + sign, xp.uint16), dtype)

    def encode_bfloat16(self, x: Any, random: Any) -> Any:
        """float32 to bfloat16, stochastically. `random`: uint32, one for each element."""
        xp, bits = self._xp, self._magnitude(x)
        finite = xp.right(xp.minimum(bits + self._upper(random, 16), 0x7F7FFFFF), 16)
        special = xp.where(bits == _INFINITY, 0x7F80, 0x7FC0)
        return self._with_sign(xp.where(bits < _INFINITY, finite, special), x, xp.bfloat16)

    def encode_float16(self, x: Any, random: Any) -> Any:
        """float32 to float16, stochastically."""
        xp, bits, noise = self._xp, self._magnitude(x), self._upper(random, 19)
        normal = xp.right(bits + noise, 13) - (112 << 10)
        lifted = xp.bitcast(xp.abs(x) + 2.0**-14, xp.int32)
        small = xp.right(lifted + noise, 13) - (113 << 10)
        finite = xp.minimum(xp.where(bits >= (127 - 14) << 23, normal, small), 0x7BFF)
        special = xp.where(bits == _INFINITY, 0x7C00, 0x7E00)
        return self._with_sign(xp.where(bits < _INFINITY, finite, special), x, xp.float16)

    def encode_split(self, x: Any, random: Any) -> tuple[Any, Any]:
        """float32 to bfloat16 and its int8 correction, stochastically rounded to 24 bits."""
        xp, bits = self._xp, self._magnitude(x)
        finite = bits < _INFINITY
        n = xp.minimum(xp.right(bits + self._upper(random, 24), 8), 0x7F7F7F)
        high = xp.right(n + 0x80, 8)
        low = xp.where(finite, n - high * 256, 0)
        special = xp.where(bits == _INFINITY, 0x7F80, 0x7FC0)
        return self._with_sign(xp.where(finite, high, special), x, xp.bfloat16), xp.cast(low, xp.int8)

    def decode_split(self, high: Any, low: Any) -> Any:
        """The 24-bit weight as float32."""
        xp = self._xp
        wide = xp.left(xp.cast(xp.bitcast(high, xp.uint16), xp.int32), 16)  # the sign is in place
        bits = xp.maximum((wide & 0x7FFFFFFF) + xp.cast(low, xp.int32) * 256, 0)
        return xp.bitcast(bits | xp.where(wide < 0, -(2**31), 0), xp.float32)

    def _float(self, bits: Any) -> Any:
        return self._xp.bitcast(bits, self._xp.float32)

    def _rows(self, x: Any) -> Any:
        """[n] as [., 64], with zeros at its end."""
        xp, n = self._xp, math.prod(x.shape)
        return xp.reshape(xp.concat([x, xp.zeros(-n % SCALED, x)]), (-1, SCALED))

    def encode_int8(self, x: Any, random: Any, signed: bool) -> tuple[Any, Any]:
        """float32 [n] to codes, int8 or uint8 [n], and one float32 scale for 64 of them.

        XLA may fuse the multiplication and the addition; then a few codes are their neighbours.
        """
        xp, grid, n = self._xp, _SIGNED if signed else _NON_NEGATIVE, math.prod(x.shape)
        u = xp.constant(grid.u, xp.int32)
        x, random = self._rows(x), self._rows(random)
        top = xp.largest(self._magnitude(x))
        finite = top < _INFINITY
        scale = self._float(xp.minimum(xp.maximum(top, grid.least), 0x7F700000))
        i = xp.bitcast(xp.abs(x) * (1.0 / scale)[:, None] + self._float(u), xp.int32) - u
        y = xp.maximum(i, grid.factor * i - ((grid.factor - 1) * grid.linear << 20))
        code = xp.minimum(xp.right(y + self._upper(random, 12), 20), grid.most)
        code = xp.where(x < 0, -code, code) if signed else xp.where(x > 0, xp.maximum(code, 1), 0)
        code = xp.where(finite[:, None], code, 0)
        nan = self._float(xp.constant(_NAN, xp.int32))
        scale = xp.where(finite, xp.where(top == 0, xp.constant(0.0, xp.float32), scale), nan)
        return xp.cast(xp.reshape(code, (-1,))[:n], xp.int8 if signed else xp.uint8), scale

    def decode_int8(self, codes: Any, scales: Any) -> Any:
        """float32 [n] from what `encode_int8` gave."""
        xp, n = self._xp, math.prod(codes.shape)
        grid = _SIGNED if codes.dtype == xp.int8 else _NON_NEGATIVE
        code, u = self._rows(xp.cast(codes, xp.int32)), xp.constant(grid.u, xp.int32)
        k = xp.abs(code)
        steps = xp.left(k + (grid.factor - 1) * xp.minimum(k, grid.linear), grid.shift)
        value = (self._float(u + steps) - self._float(u)) * scales[:, None]
        return xp.reshape(xp.where(code < 0, -value, value), (-1,))[:n]
