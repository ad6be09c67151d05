"""How moments and low-precision weights are stored. docs/formats.md is the specification, byte for byte.

A format turns an array of numbers into what is kept between steps and back:

    stored = encode(x, key)        x = decode(stored)

Everything that is smaller than the dtype of computation is rounded stochastically: up or down at random, so that the
expected value of what is stored is x. Rounded to nearest, a second moment that falls by a thousandth a step would never
fall at all. `key` says which elements of which tensor are being written at which step, so the bits depend on nothing
but (seed, parameter name, step, slot, element), however a kernel cuts the tensor.

Call everything here inside `adamas.kernels.reference.ieee()` where subnormal numbers may be flushed to zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import ml_dtypes
import numpy as np

from adamas.errors import ArgumentError

NAMES = ("float32", "bfloat16", "int8")  # of moments
Kind: TypeAlias = Literal["signed", "non-negative", "weight"]  # adamas.rule.Slot.kind
Weights: TypeAlias = Literal["nearest", "stochastic", "split"]
SCALED = 64  # consecutive elements that share the scale of an int8 block
RANDOM = 4096  # consecutive elements that share a word of random bits
PARAMETER = 255  # the number of the "slot" whose random bits round the parameter itself

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)


class Key(NamedTuple):
    """Which random numbers an encoding may use.

    seed, name, step  of the optimizer; `name_key` of the parameter; t
    slot              its index in `rule.slots`; PARAMETER for the parameter itself
    first             index of the first element that is encoded, in the whole parameter in C order
    """

    seed: int
    name: int
    step: int
    slot: int
    first: int


class Blocks(NamedTuple):
    """What int8 keeps of an array.

    codes   int8 for signed numbers, uint8 for non-negative ones; of the array's shape
    scales  float32, one for each 64 consecutive elements in C order, the last block may be short
    """

    codes: np.ndarray
    scales: np.ndarray


class Halves(NamedTuple):
    """A weight of 24 bits: `weight` in bfloat16, and `correction` in int8, the 8 bits that follow."""

    weight: np.ndarray
    correction: np.ndarray


Stored: TypeAlias = np.ndarray | Blocks | Halves


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which a step computes parameters of this one: float64 for float64, float32 for all others."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def name_key(name: str) -> int:
    """The 64-bit key of a parameter's name: the first 8 bytes of its BLAKE2b digest (UTF-8), little endian."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def random_bits(key: Key, n: int) -> np.ndarray:
    """uint32 for each of n elements from `key.first` on; the upper bits are the random ones.

    Element j of the k-th block of 4096 gets a_k j + b_k mod 2^32. a_k and b_k are the halves of a 64-bit word, a hash
    of the key and k. Over the words, the upper 21 bits of two elements of a block are uniform and independent, exactly
    (Dietzfelbinger 1996, "Universal hashing and k-wise independent random variables via integer arithmetic").
    """
    start = key.first // RANDOM
    word = np.zeros(1, np.uint64)
    for number in (key.seed, key.name, key.step, key.slot):
        word = _absorb(word, np.array([number % 2**64], np.uint64))
    words = _absorb(word, np.arange(start, -(-(key.first + n) // RANDOM), dtype=np.uint64))
    a, b = words.astype(np.uint32), (words >> np.uint64(32)).astype(np.uint32)
    bits = a[:, None] * np.arange(RANDOM, dtype=np.uint32) + b[:, None]
    offset = key.first - start * RANDOM
    own: np.ndarray = bits.reshape(-1)[offset : offset + n]
    return own


def _absorb(word: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Mix a number into a 64-bit hash: splitmix64 (Steele, Lea & Flood 2014)."""
    z = (word ^ number) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


class Format(Protocol):
    """One way to store an array."""

    name: str

    def encode(self, x: np.ndarray, key: Key) -> Any:
        """What is kept of x (float32; Native: any), in its shape."""
        ...

    def decode(self, stored: Any) -> np.ndarray:
        """The array that the next step computes with."""
        ...


class Native:
    """The dtype that the step computes in, float32 or float64: nothing is lost."""

    name = "float32"

    def encode(self, x: np.ndarray, key: Key) -> np.ndarray:
        return x

    def decode(self, stored: np.ndarray) -> np.ndarray:
        return stored


class Nearest:
    """Weights in bfloat16 or float16, rounded to nearest even as IEEE 754 says."""

    name = "nearest"

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype

    def encode(self, x: np.ndarray, key: Key) -> np.ndarray:
        return x.astype(self._dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        return stored.astype(np.float32)


class BFloat16:
    """bfloat16, rounded stochastically: the upper 16 bits of a float32 after random bits were added to the lower 16.

    Exactly unbiased. A finite number stays finite.
    """

    name = "bfloat16"

    def encode(self, x: np.ndarray, key: Key) -> np.ndarray:
        bits = _bits(x)
        size = bits & _MAGNITUDE
        rounded = np.minimum(size + (random_bits(key, x.size) >> np.uint32(16)), np.uint32(0x7F7FFFFF)) >> np.uint32(16)
        kept = _unless_finite(size, rounded, infinity=0x7F80, nan=0x7FC0)
        return _half(kept, bits, ml_dtypes.bfloat16).reshape(x.shape)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        bits = stored.reshape(-1).view(np.uint16).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(stored.shape)


class Float16:
    """float16, rounded stochastically. A finite number stays finite: beyond 65504 it becomes 65504."""

    name = "float16"

    def encode(self, x: np.ndarray, key: Key) -> np.ndarray:
        bits = _bits(x)
        size = bits & _MAGNITUDE
        # Below 2^-14 float16 is linear: 2^-14 more, and float32 is too.
        lift = size < np.uint32(113 << 23)
        lifted = np.where(lift, size.view(np.float32) + np.float32(2.0**-14), size.view(np.float32)).view(np.uint32)
        rounded = (lifted + (random_bits(key, x.size) >> np.uint32(19))) >> np.uint32(13)
        rounded = np.minimum(rounded - np.where(lift, np.uint32(113 << 10), np.uint32(112 << 10)), np.uint32(0x7BFF))
        kept = _unless_finite(size, rounded, infinity=0x7C00, nan=0x7E00)
        return _half(kept, bits, np.float16).reshape(x.shape)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        return stored.astype(np.float32)


class Split:
    """A weight of 24 bits, the upper ones of a float32 rounded stochastically: bfloat16 and 8 bits of correction.

    The bfloat16 number is what the model computes with, the nearest to the 24 bits. The idea is FlashOptim's, which
    scales the correction by the weight's unit in the last place and rounds to nearest.
    """

    name = "split"

    def encode(self, x: np.ndarray, key: Key) -> Halves:
        bits = _bits(x)
        size = bits & _MAGNITUDE
        whole = np.minimum((size + (random_bits(key, x.size) >> np.uint32(24))) >> np.uint32(8), np.uint32(0x7F7F7F))
        upper = (whole + np.uint32(0x80)) >> np.uint32(8)
        lower = np.where(size < _INFINITY, whole.astype(np.int32) - (upper << np.uint32(8)).astype(np.int32), 0)
        upper = _unless_finite(size, upper, infinity=0x7F80, nan=0x7FC0)
        weight = _half(upper, bits, ml_dtypes.bfloat16)
        return Halves(weight.reshape(x.shape), lower.astype(np.int8).reshape(x.shape))

    def decode(self, stored: Halves) -> np.ndarray:
        upper = stored.weight.reshape(-1).view(np.uint16).astype(np.int32)
        # Somebody may have set the weight to 0 where the correction is negative: the maximum keeps it a number.
        size = np.maximum(((upper & 0x7FFF) << 16) + stored.correction.reshape(-1).astype(np.int32) * 256, 0)
        bits: np.ndarray = size | (upper & 0x8000) << 16
        return bits.view(np.float32).reshape(stored.weight.shape)


class Int8:
    """Eight bits a number, and a scale s for 64 of them: the largest magnitude of the block.

    A code counts steps on a grid of z = |x|/s + u: floating-point numbers with 3 bits of fraction from z = u on, and
    with 4 (signed) or 5 (non-negative) nearer to z = 1. So it is linear below u and about logarithmic above, zero is
    code 0, and between two codes z is linear in its own bits: adding random bits below the last one that is kept
    rounds without bias. Neither division nor root is needed for an element.

    kind          u      finest step    steps of z from 1 down   for
    signed        2^-12  2^-15 of s     1/16, 1/8                first moments
    non-negative  2^-19  2^-22 of s     1/32, 1/8                second moments; a number above 0 never gets code 0

    A block that holds an infinity or NaN decodes to NaN.
    """

    name = "int8"

    def __init__(self, kind: Literal["signed", "non-negative"]) -> None:
        signed = kind == "signed"
        self._signed, self.dtype = signed, np.int8 if signed else np.uint8
        self._u = np.float32(2.0**-12 if signed else 2.0**-19)
        self._knee = 66 if signed else 118  # codes below it are `_coarse` times as far apart as those above
        self._coarse, self._last, self._shift = (2, 127, 19) if signed else (4, 255, 18)
        # Scales keep within these: every number decodes to 0 or a normal number, and to a finite one.
        self._least = np.float32(2.0**-111 if signed else 2.0**-104).view(np.int32)
        self._most = np.int32(0x7F700000)

    def encode(self, x: np.ndarray, key: Key) -> Blocks:
        if key.first % SCALED:
            raise ArgumentError(f"first={key.first}: int8 is encoded from a multiple of {SCALED} on")
        whole = np.zeros((-(-x.size // SCALED), SCALED), np.float32)
        whole.reshape(-1)[: x.size] = x.reshape(-1)
        size = (whole.view(np.uint32) & _MAGNITUDE).view(np.float32)
        top = size.view(np.int32).max(axis=1)
        scale = np.clip(top, self._least, self._most).view(np.float32)
        z = size * (np.float32(1.0) / scale)[:, None] + self._u
        i = z.view(np.int32) - self._u.view(np.int32)
        y = np.maximum(i, self._coarse * i - ((self._coarse - 1) * self._knee << 20))
        random = random_bits(key, whole.size).reshape(whole.shape) >> np.uint32(12)
        code = np.minimum((y + random.view(np.int32)) >> 20, self._last)
        bits = whole.view(np.int32)
        code = np.where(bits < 0, -code, code) if self._signed else np.where(bits > 0, np.maximum(code, 1), 0)
        finite = top < _INFINITY.view(np.int32)
        code = np.where(finite[:, None], code, 0).astype(self.dtype)
        scales = np.where(finite, np.where(top == 0, np.float32(0.0), scale), np.float32(np.nan))
        return Blocks(code.reshape(-1)[: x.size].reshape(x.shape), scales)

    def decode(self, stored: Blocks) -> np.ndarray:
        codes = stored.codes.reshape(-1).astype(np.int32)
        steps = np.abs(codes)
        steps += (self._coarse - 1) * np.minimum(steps, self._knee)
        z = ((steps << self._shift) + self._u.view(np.int32)).view(np.float32)
        x: np.ndarray = (z - self._u) * np.repeat(stored.scales, SCALED)[: codes.size]
        return np.where(codes < 0, -x, x).reshape(stored.codes.shape)


NATIVE = Native()
_MOMENTS: dict[tuple[str, str], Format] = {
    ("float32", "signed"): NATIVE,
    ("float32", "non-negative"): NATIVE,
    ("float32", "weight"): NATIVE,
    ("bfloat16", "signed"): BFloat16(),
    ("bfloat16", "non-negative"): BFloat16(),
    ("int8", "signed"): Int8("signed"),
    ("int8", "non-negative"): Int8("non-negative"),
}


def moment(name: str, kind: Kind) -> Format:
    """The format of a slot of this kind.

    Raises:
        ArgumentError: there is none of that name, or it would store a weight below the weights' precision.
    """
    if name not in NAMES:
        raise ArgumentError(f"moments={name!r}: give one of {', '.join(map(repr, NAMES))}")
    if (name, kind) not in _MOMENTS:
        raise ArgumentError(f"a slot of kind {kind!r} is kept in 'float32', not in {name!r}")
    return _MOMENTS[name, kind]


def of_slots(name: str, kinds: Iterable[Kind]) -> tuple[str, ...]:
    """The names of the formats of slots of these kinds, where moments are stored as `name`: weights stay "float32"."""
    return tuple("float32" if kind == "weight" else moment(name, kind).name for kind in kinds)


def weight(mode: str, dtype: np.dtype[Any]) -> Format:
    """How parameters of this dtype (float32, float64, bfloat16 or float16) are stored.

    Raises:
        ArgumentError: there is no such mode, or not for this dtype.
    """
    if mode not in ("nearest", "stochastic", "split"):
        raise ArgumentError(f"weights={mode!r}: give one of 'nearest', 'stochastic', 'split'")
    if mode == "nearest":
        return NATIVE if dtype in (np.float32, np.float64) else Nearest(dtype)
    if dtype == ml_dtypes.bfloat16:
        return BFloat16() if mode == "stochastic" else Split()
    if dtype == np.float16 and mode == "stochastic":
        return Float16()
    allowed = "bfloat16 or float16" if mode == "stochastic" else "bfloat16"
    raise ArgumentError(f"weights={mode!r} is for parameters of {allowed}, not {dtype}; use weights='nearest'")


def zeros(format: Format, shape: tuple[int, ...], dtype: np.dtype[Any] | type = np.float32) -> np.ndarray | Blocks:
    """What a new slot of this shape is stored as, all zero. dtype: that of computation."""
    if isinstance(format, Int8):
        size = int(np.prod(shape, dtype=np.int64))
        return Blocks(np.zeros(shape, format.dtype), np.zeros(-(-size // SCALED), np.float32))
    return np.zeros(shape, ml_dtypes.bfloat16 if isinstance(format, BFloat16) else dtype)


def arrays(stored: Stored) -> tuple[np.ndarray, ...]:
    """The arrays that hold it."""
    return (stored,) if isinstance(stored, np.ndarray) else tuple(stored)


def piece(stored: Stored, begin: int, end: int) -> Stored:
    """The elements begin ... end - 1 in C order, as a view. Of int8, begin is a multiple of 64, and end or the last."""
    if isinstance(stored, Blocks):
        return Blocks(stored.codes.reshape(-1)[begin:end], stored.scales[begin // SCALED : -(-end // SCALED)])
    if isinstance(stored, Halves):
        return Halves(stored.weight.reshape(-1)[begin:end], stored.correction.reshape(-1)[begin:end])
    return stored.reshape(-1)[begin:end]


def write(where: Stored, stored: Stored) -> None:
    """Copy what a format has encoded into arrays of the same layout."""
    for target, source in zip(arrays(where), arrays(stored), strict=True):
        target[...] = source


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).reshape(-1).view(np.uint32)


def _unless_finite(size: np.ndarray, finite: np.ndarray, infinity: int, nan: int) -> np.ndarray:
    return np.where(size < _INFINITY, finite, np.where(size == _INFINITY, np.uint32(infinity), np.uint32(nan)))


def _half(size: np.ndarray, bits: np.ndarray, dtype: Any) -> np.ndarray:
    """An array of a 16-bit dtype: these magnitudes, and the signs of these float32 bits."""
    half: np.ndarray = (size | (bits >> np.uint32(16) & np.uint32(0x8000))).astype(np.uint16)
    return half.view(dtype)
