"""The storage formats as operations of TensorFlow: the bytes of adamas.formats, eagerly and compiled by XLA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from adamas import formats
from adamas.formats import PARAMETER, Key, name_key
from adamas.kernels.reference import ieee
from adamas.kernels.tensorflow import codecs

SIZES = [1, 63, 64, 65, 4096, 4097, 9000]


def numbers(rng: np.random.Generator, n: int, *, signed: bool = True) -> np.ndarray:
    """Of many magnitudes, zeros, whole blocks of zeros, and infinities and NaN in the last block of 64."""
    x = np.asarray(rng.normal(size=n) * 10.0 ** rng.uniform(-30, 30), np.float32)
    x *= np.asarray(10.0 ** rng.integers(-6, 3, n), np.float32)
    x[rng.random(n) < 0.1] = 0.0
    if n > 128:
        x[64:128] = 0.0
    if n > 4096:
        x[-3:] = np.inf, np.nan, -np.inf
    return x if signed else np.abs(x)


def draw(n: int, slot: int, jit: bool, encode: Any, x: np.ndarray) -> list[np.ndarray]:
    """What `encode` gives for x and the random bits of seed -3, step 2^33 and a slot."""

    @tf.function(jit_compile=jit)
    def run(x: tf.Tensor, step: tf.Tensor) -> Any:
        return encode(x, codecs.Draw(-3, name_key("dense/kernel"), step).bits(slot, n))

    found = run(tf.constant(x), tf.constant(2**33, tf.int64))
    return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]


def key(slot: int) -> Key:
    return Key(-3, name_key("dense/kernel"), 2**33, slot, 0)


def same(found: list[np.ndarray], right: Any) -> None:
    for one, other in zip(found, formats.arrays(right), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_random_bits(n: int, jit: bool) -> None:
    (found,) = draw(n, 1, jit, lambda x, bits: bits, np.zeros(n, np.float32))
    assert np.array_equal(found, formats.random_bits(key(1), n))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "split"])
def test_weights(kind: str, n: int, jit: bool, rng: np.random.Generator) -> None:
    x = numbers(rng, n)
    if kind == "float16":  # normal and subnormal float16, and too large for it
        x = np.asarray(np.sign(x) * 2.0 ** rng.uniform(-27, 18, n), np.float32)
    encode = {"bfloat16": codecs.encode_bfloat16, "float16": codecs.encode_float16, "split": codecs.encode_split}[kind]
    right = {"bfloat16": formats.BFloat16(), "float16": formats.Float16(), "split": formats.Split()}[kind]
    found = draw(n, PARAMETER, jit, encode, x)
    same(found, right.encode(x, key(PARAMETER)))
    if kind == "split":
        (decoded,) = draw(n, 0, jit, lambda x, _: codecs.decode_split(*(tf.constant(part) for part in found)), x)
        assert decoded.tobytes() == formats.Split().decode(formats.Halves(*found)).tobytes()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["signed", "non-negative"])
def test_int8(kind: Any, n: int, rng: np.random.Generator) -> None:
    x, signed = numbers(rng, n, signed=kind == "signed"), kind == "signed"
    format = formats.Int8(kind)
    with ieee():
        right = format.encode(x, key(0))
        back = format.decode(right)
    found = draw(n, 0, False, lambda x, bits: codecs.encode_int8(x, bits, signed), x)
    same(found, right)
    (decoded,) = draw(n, 0, False, lambda x, _: codecs.decode_int8(*(tf.constant(part) for part in found)), x)
    assert decoded.tobytes() == back.tobytes()
    # XLA may fuse a product and a sum: a code in some thousands is its neighbour's.
    codes, scales = draw(n, 0, True, lambda x, bits: codecs.encode_int8(x, bits, signed), x)
    off = np.abs(codes.astype(int) - found[0].astype(int))
    assert off.max() <= 1
    assert off.sum() <= 1 + n // 500
    assert scales.tobytes() == found[1].tobytes()
