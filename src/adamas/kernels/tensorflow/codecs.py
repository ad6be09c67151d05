"""Storage formats as operations of TensorFlow, eagerly, in graphs and inside XLA: `adamas.kernels.codecs`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import tensorflow as tf

from adamas.kernels.codecs import Codecs

_XP = SimpleNamespace(
    where=tf.where,
    minimum=tf.minimum,
    maximum=tf.maximum,
    abs=tf.abs,
    reshape=tf.reshape,
    concat=lambda parts: tf.concat(parts, 0),
    cast=tf.cast,
    bitcast=tf.bitcast,
    left=lambda x, n: tf.bitwise.left_shift(x, tf.constant(n, x.dtype)),
    right=lambda x, n: tf.bitwise.right_shift(x, tf.constant(n, x.dtype)),
    arange=lambda n: tf.cast(tf.range(n), tf.uint32),
    zeros=lambda n, like: tf.zeros(n, like.dtype),
    constant=tf.constant,
    largest=lambda x: tf.reduce_max(x, axis=-1),
    **{name: getattr(tf, name) for name in "int8 uint8 uint16 int32 uint32 uint64 float16 bfloat16 float32".split()},
)
_CODECS = Codecs(_XP)
encode_bfloat16, encode_float16 = _CODECS.encode_bfloat16, _CODECS.encode_float16
encode_split, decode_split = _CODECS.encode_split, _CODECS.decode_split
encode_int8, decode_int8 = _CODECS.encode_int8, _CODECS.decode_int8


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
        seed, name, own = (tf.constant(number, tf.uint64) for number in (self.seed % 2**64, self.name, slot))
        return _CODECS.draw(n, seed, name, tf.cast(self.step, tf.uint64), own)
