"""Storage formats as operations of TensorFlow: the bytes of adamas/formats.py, eagerly, in graphs and inside XLA.

Arithmetic on integers and single additions of floats only, so that XLA gives the same bits too. docs/formats.md has the
definitions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from adamas.formats import RANDOM, SCALED

_GOLDEN = 0x9E3779B97F4A7C15
_INFINITY = 0x7F800000  # the bits of a float32's magnitude from which it is not finite
_NAN = 0x7FC00000


class Draw(NamedTuple):
    """The random numbers of one parameter's step.

    seed  of the optimizer
    name  adamas.formats.name_key of the parameter's name
    step  t, an integer tensor
    """

    seed: int
    name: int
    step: Any

    def bits(self, slot: int, n: int) -> Any:
        """uint32 [n]: those of all elements of one slot."""
        word = _u64(0)
        for number in (_u64(self.seed % 2**64), _u64(self.name), tf.cast(self.step, tf.uint64), _u64(slot)):
            word = _absorb(word, number)
        words = _absorb(word, tf.cast(tf.range(-(-n // RANDOM)), tf.uint64))
        slope, start = tf.cast(words, tf.uint32), tf.cast(tf.bitwise.right_shift(words, _u64(32)), tf.uint32)
        position = tf.cast(tf.range(min(n, RANDOM)), tf.uint32)
        return tf.reshape(slope[:, None] * position + start[:, None], [-1])[:n]


def _u64(value: int) -> Any:
    return tf.constant(value, tf.uint64)


def _absorb(word: Any, number: Any) -> Any:
    z = tf.bitwise.bitwise_xor(word, number) + _u64(_GOLDEN)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _u64(shift))) * _u64(factor)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _u64(31)))


def _upper(bits: Any, shift: int) -> Any:
    """Random bits shifted to the right, as int32."""
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32)), tf.int32)


def _magnitude(x: Any) -> Any:
    """The bits of |x| as int32."""
    return tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), tf.constant(0x7FFFFFFF, tf.int32))


def _with_sign(magnitude: Any, x: Any, dtype: Any) -> Any:
    """16 bits of a floating dtype from their magnitude, an int32, and the float32 x for the sign."""
    sign = tf.where(tf.bitcast(x, tf.int32) < 0, 0x8000, 0)
    return tf.bitcast(tf.cast(magnitude + sign, tf.uint16), dtype)


def encode_bfloat16(x: Any, random: Any) -> Any:
    """float32 to bfloat16, stochastically. `random`: uint32, one for each element."""
    bits = _magnitude(x)
    finite = tf.bitwise.right_shift(tf.minimum(bits + _upper(random, 16), 0x7F7FFFFF), 16)
    special = tf.where(bits == _INFINITY, 0x7F80, 0x7FC0)
    return _with_sign(tf.where(bits < _INFINITY, finite, special), x, tf.bfloat16)


def encode_float16(x: Any, random: Any) -> Any:
    """float32 to float16, stochastically."""
    bits, noise = _magnitude(x), _upper(random, 19)
    normal = tf.bitwise.right_shift(bits + noise, 13) - (112 << 10)
    lifted = tf.bitcast(tf.abs(x) + 2.0**-14, tf.int32)
    small = tf.bitwise.right_shift(lifted + noise, 13) - (113 << 10)
    finite = tf.minimum(tf.where(bits >= (127 - 14) << 23, normal, small), 0x7BFF)
    special = tf.where(bits == _INFINITY, 0x7C00, 0x7E00)
    return _with_sign(tf.where(bits < _INFINITY, finite, special), x, tf.float16)


def encode_split(x: Any, random: Any) -> tuple[Any, Any]:
    """float32 to bfloat16 and its int8 correction, stochastically rounded to 24 bits."""
    bits = _magnitude(x)
    finite = bits < _INFINITY
    n = tf.minimum(tf.bitwise.right_shift(bits + _upper(random, 24), 8), 0x7F7F7F)
    high = tf.bitwise.right_shift(n + 0x80, 8)
    low = tf.where(finite, n - high * 256, 0)
    special = tf.where(bits == _INFINITY, 0x7F80, 0x7FC0)
    return _with_sign(tf.where(finite, high, special), x, tf.bfloat16), tf.cast(low, tf.int8)


def decode_split(high: Any, low: Any) -> Any:
    """The 24-bit weight as float32."""
    wide = tf.bitwise.left_shift(tf.cast(tf.bitcast(high, tf.uint16), tf.int32), 16)  # the sign is in place
    bits = tf.maximum(tf.bitwise.bitwise_and(wide, 0x7FFFFFFF) + tf.cast(low, tf.int32) * 256, 0)
    return tf.bitcast(tf.bitwise.bitwise_or(bits, tf.where(wide < 0, -(2**31), 0)), tf.float32)


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


def _float(bits: Any) -> Any:
    return tf.bitcast(tf.convert_to_tensor(bits, tf.int32), tf.float32)


def encode_int8(x: Any, random: Any, signed: bool) -> tuple[Any, Any]:
    """float32 [n] to codes, int8 or uint8 [n], and one float32 scale for 64 of them.

    XLA may fuse the multiplication and the addition; then a few codes are their neighbours.
    """
    grid, n = _SIGNED if signed else _NON_NEGATIVE, int(x.shape[0])
    rows = -(-n // SCALED)
    x, random = (tf.reshape(tf.pad(a, [[0, rows * SCALED - n]]), (rows, SCALED)) for a in (x, random))
    top = tf.reduce_max(_magnitude(x), axis=1)
    finite = top < _INFINITY
    scale = _float(tf.clip_by_value(top, grid.least, 0x7F700000))
    i = tf.bitcast(tf.abs(x) * (1.0 / scale)[:, None] + _float(grid.u), tf.int32) - grid.u
    y = tf.maximum(i, grid.factor * i - ((grid.factor - 1) * grid.linear << 20))
    code = tf.minimum(tf.bitwise.right_shift(y + _upper(random, 12), 20), grid.most)
    code = tf.where(x < 0, -code, code) if signed else tf.where(x > 0, tf.maximum(code, 1), 0)
    code = tf.where(finite[:, None], code, 0)
    scale = tf.where(finite, tf.where(top == 0, 0.0, scale), _float(_NAN))
    return tf.cast(tf.reshape(code, [-1])[:n], tf.int8 if signed else tf.uint8), scale


def decode_int8(codes: Any, scales: Any) -> Any:
    """float32 [n] from what `encode_int8` gave."""
    grid, n, rows = _SIGNED if codes.dtype == tf.int8 else _NON_NEGATIVE, int(codes.shape[0]), int(scales.shape[0])
    code = tf.reshape(tf.pad(tf.cast(codes, tf.int32), [[0, rows * SCALED - n]]), (rows, SCALED))
    k = tf.abs(code)
    steps = tf.bitwise.left_shift(k + (grid.factor - 1) * tf.minimum(k, grid.linear), grid.shift)
    value = (_float(grid.u + steps) - _float(grid.u)) * scales[:, None]
    return tf.reshape(tf.where(code < 0, -value, value), [-1])[:n]
