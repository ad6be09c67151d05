"""docs/formats.md once more, in its symbols, one element at a time: the formats give the same bits; golden bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamas.errors import ArgumentError
from adamas.formats import BFloat16, Blocks, Float16, Halves, Int8, Key, Nearest, Split, name_key, random_bits
from adamas.kernels.reference import ieee

WORD = 2**64
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(autouse=True)
def _ieee() -> Iterator[None]:
    with ieee():
        yield


# The specification. Integers are Python's; every operation on floats is one of np.float32.
def bits(x: np.float32) -> int:
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def number(n: int) -> np.float32:
    return np.frombuffer(struct.pack("<I", n), "<f4")[0]


def absorb(word: int, a: int) -> int:
    z = ((word ^ a) + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def r(key: Key, element: int) -> int:
    word = absorb(absorb(absorb(absorb(0, key.seed % WORD), key.name), key.step), key.slot)
    word = absorb(word, element // 4096)
    a, b = word % 2**32, word // 2**32
    return (a * (element % 4096) + b) % 2**32


def bfloat16(x: np.float32, random: int) -> int:
    sign, size = bits(x) >> 31 << 15, bits(x) % 2**31
    if size >= 0x7F800000:
        return sign | (0x7F80 if size == 0x7F800000 else 0x7FC0)
    return sign | min(size + (random >> 16), 0x7F7FFFFF) >> 16


def float16(x: np.float32, random: int) -> int:
    sign, size = bits(x) >> 31 << 15, bits(x) % 2**31
    if size >= 0x7F800000:
        return sign | (0x7C00 if size == 0x7F800000 else 0x7E00)
    if number(size) >= np.float32(2.0**-14):
        h = ((size + (random >> 19)) >> 13) - (112 << 10)
    else:
        h = ((bits(number(size) + np.float32(2.0**-14)) + (random >> 19)) >> 13) - (113 << 10)
    return sign | min(h, 0x7BFF)


def split(x: np.float32, random: int) -> tuple[int, int]:
    sign, size = bits(x) >> 31 << 15, bits(x) % 2**31
    if size >= 0x7F800000:
        return sign | (0x7F80 if size == 0x7F800000 else 0x7FC0), 0
    n = min((size + (random >> 24)) >> 8, 0x7F7F7F)
    upper = (n + 0x80) >> 8
    return sign | upper, n - (upper << 8)


def joined(upper: int, lower: int) -> np.float32:
    size = max((upper % 2**15 << 16) + 256 * lower, 0)
    return number(upper >> 15 << 31 | size)


LAWS = {  # u as bits, K, F, S0, TOP
    "signed": (115 << 23, 66, 2, 16 << 23, 127),
    "non-negative": (108 << 23, 118, 4, 23 << 23, 255),
}


def int8_scale(kind: str, block: list[np.float32]) -> np.float32:
    top = max(bits(x) % 2**31 for x in block)
    if top >= 0x7F800000:
        return number(0x7FC00000)
    return np.float32(0.0) if top == 0 else number(min(max(top, LAWS[kind][3]), 0x7F700000))


def int8(kind: str, x: np.float32, scale: np.float32, random: int) -> int:
    u, knee, factor, _, top = LAWS[kind]
    if not scale > 0:
        return 0
    i = bits(number(bits(x) % 2**31) * (np.float32(1.0) / scale) + number(u)) - u
    y = max(i, factor * i - ((factor - 1) * knee << 20))
    c = min((y + (random >> 12)) >> 20, top)
    if kind == "signed":
        return -c if x < 0 else c
    return max(c, 1) if x > 0 else 0


def int8_value(kind: str, code: int, scale: np.float32) -> np.float32:
    u, knee, factor, _, _ = LAWS[kind]
    steps = abs(code) + (factor - 1) * min(abs(code), knee)
    z = number((steps << (19 if factor == 2 else 18)) + u)
    value = (z - number(u)) * scale
    return -value if code < 0 else value


SPECIAL = """0 80000000 1 807fffff 00800000 7f7fffff ff7fffff 7f700000 7f700001 7f800000 ff800000 7fc00000 33000000
38800000 387fffff 477fe000 477ff000 47800000 07800000 077fffff 0b800000"""
patterns = st.integers(0, 2**32 - 1) | st.sampled_from([int(pattern, 16) for pattern in SPECIAL.split()])
near = st.integers(0x3F000000, 0x40FFFFFF)  # magnitudes like each other, as in most blocks
arrays = st.lists(patterns, max_size=70) | st.lists(near | patterns, min_size=60, max_size=140)
keys = st.builds(
    Key,
    st.integers(-5, 2**70),
    st.integers(0, WORD - 1),
    st.integers(1, 2**63),
    st.integers(0, 255),
    st.integers(0, 200).map(lambda block: 64 * block),
)


def from_patterns(given: list[int]) -> np.ndarray:
    return np.array(given, np.uint32).view(np.float32)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, a NaN equal to any NaN."""
    a, b = np.atleast_1d(a).astype(np.float32), np.atleast_1d(b).astype(np.float32)
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays, keys)
def test_random_bits_and_16_bit_formats(given: list[int], key: Key) -> None:
    check_16_bit_formats(from_patterns(given), key)


def test_16_bit_formats_on_many_numbers() -> None:
    """Of all exponents, and of those that float16 has: ties and carries that a short list seldom meets."""
    rng = np.random.default_rng(0)
    anywhere, near_one = rng.integers(0, 2**32, 2000), rng.integers(0x37000000, 0x48000000, 2000)
    check_16_bit_formats(from_patterns([*anywhere.tolist(), *near_one.tolist()]), KEY)


def check_16_bit_formats(x: np.ndarray, key: Key) -> None:
    randoms = [r(key, key.first + k) for k in range(len(x))]
    assert random_bits(key, len(x)).tolist() == randoms
    pairs = list(zip(x, randoms, strict=True))
    stored = BFloat16().encode(x, key)
    assert stored.dtype == BFLOAT16
    assert stored.view(np.uint16).tolist() == [bfloat16(*pair) for pair in pairs]
    assert same(BFloat16().decode(stored), from_patterns([bfloat16(*pair) << 16 for pair in pairs]))
    stored = Float16().encode(x, key)
    assert stored.dtype == np.float16
    assert stored.view(np.uint16).tolist() == [float16(*pair) for pair in pairs]
    halves = Split().encode(x, key)
    assert list(zip(halves.weight.view(np.uint16).tolist(), halves.correction.tolist(), strict=True)) == [
        split(*pair) for pair in pairs
    ]
    assert same(Split().decode(halves), np.array([joined(*split(*pair)) for pair in pairs], np.float32))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays, keys, st.sampled_from(["signed", "non-negative"]), st.booleans())
def test_int8(given: list[int], key: Key, kind: str, finite: bool) -> None:
    if finite:  # or one NaN would hide the others in most blocks
        given = [n & ~0x00800000 if n >> 23 & 0xFF == 0xFF else n for n in given]
    if kind == "non-negative":
        given = [n % 2**31 for n in given]
    x = from_patterns(given)
    codes, scales = [], []
    for begin in range(0, len(x), 64):
        block = list(x[begin : begin + 64])
        scales.append(int8_scale(kind, block))
        codes += [int8(kind, y, scales[-1], r(key, key.first + begin + k)) for k, y in enumerate(block)]
    form = Int8(kind)  # type: ignore[arg-type]
    stored = form.encode(x, key)
    assert stored.codes.dtype == (np.int8 if kind == "signed" else np.uint8)
    assert stored.codes.tolist() == codes
    assert same(stored.scales, np.array(scales, np.float32))
    values = [int8_value(kind, c, scales[k // 64]) for k, c in enumerate(codes)]
    assert same(form.decode(stored), np.array(values, np.float32))


@pytest.mark.parametrize("kind", LAWS)
def test_zeros_are_zero_bytes(kind: str) -> None:
    x = np.zeros(200, np.float32)
    x[1] = -0.0
    x[64] = 1.0  # a block that is not all zero
    stored = Int8(kind).encode(x, KEY)  # type: ignore[arg-type]
    assert np.flatnonzero(stored.codes).tolist() == [64]
    assert stored.scales.view(np.uint32).tolist() == [0, bits(np.float32(1.0)), 0, 0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**16 - 1), st.integers(-128, 127))
def test_split_decodes_whatever_is_there(upper: int, lower: int) -> None:
    """Also what was never encoded: a weight that somebody set to 0, or wrote from a file, beside an old correction."""
    halves = Halves(np.array([upper], np.uint16).view(BFLOAT16), np.array([lower], np.int8))
    assert same(Split().decode(halves), np.atleast_1d(joined(upper, lower)))


def test_every_code_decodes() -> None:
    """Also those that are never written with this scale, and scales that no encoder writes."""
    for kind, codes in (("signed", range(-128, 128)), ("non-negative", range(256))):
        for scale in (0.0, 1.0, 3e-39, 1e-45, 3e38, np.inf, np.nan):
            array = np.array(codes, np.int8 if kind == "signed" else np.uint8)
            stored = Blocks(array, np.full(4, scale, np.float32))
            right = [int8_value(kind, c, np.float32(scale)) for c in codes]
            assert same(Int8(kind).decode(stored), np.array(right, np.float32))  # type: ignore[arg-type]


GOLDEN = np.array(
    [0.0, -0.0, 1.0, -0.75, 0.5, -0.1, 0.01, -1e-3, 1e-4, 3e-5, -1e-7, 1e-30, 0.3333333, -0.9, 0.0625, 0.2], np.float32
)
GOLDEN_BYTES = {
    "random": "57410060f7d3dba349741bf089f8a6ce",
    "signed": "00007e8a6eb82aee0301000063854057",
    "signed scale": "0000803f",
    "non-negative": "0000fee2be622d040101010097f25873",
    "non-negative scale": "0000803f",
    "bfloat16": "00000080803f40bf003fcdbd243c83bad138fb37d7b3a30dab3e66bf803d4c3e",
    "float16": "00000080003c00ba003867ae1f2118948d06f70102800000553533bb002c6632",
    "split": "00000080803f40bf003fcdbd243c83bad238fc37d7b3a20dab3e66bf803d4d3e 0000000000cdd712b7a8c042aa6700cd",
    "nearest": "00000080803f40bf003fcdbd243c83bad238fc37d7b3a20dab3e66bf803d4d3e",
}
KEY = Key(seed=7, name=name_key("dense/kernel"), step=1000, slot=0, first=4032)  # the last 64 of a block of 4096


def test_golden_bytes() -> None:
    """These never change within version 1 of the specification, which prints them."""
    document = (Path(__file__).parents[2] / "docs/formats.md").read_text("utf-8")
    assert all(line in document for line in GOLDEN_BYTES.values())
    hexadecimal = {}
    hexadecimal["random"] = random_bits(KEY, 128)[::32].astype("<u4").tobytes().hex()
    signed = Int8("signed").encode(GOLDEN, KEY)
    hexadecimal["signed"] = signed.codes.tobytes().hex()
    hexadecimal["signed scale"] = signed.scales.tobytes().hex()
    squares = Int8("non-negative").encode(GOLDEN * GOLDEN, KEY._replace(slot=1))
    hexadecimal["non-negative"] = squares.codes.tobytes().hex()
    hexadecimal["non-negative scale"] = squares.scales.tobytes().hex()
    hexadecimal["bfloat16"] = BFloat16().encode(GOLDEN, KEY).tobytes().hex()
    hexadecimal["float16"] = Float16().encode(GOLDEN, KEY).tobytes().hex()
    halves = Split().encode(GOLDEN, KEY._replace(slot=255))
    hexadecimal["split"] = halves.weight.tobytes().hex() + " " + halves.correction.tobytes().hex()
    hexadecimal["nearest"] = Nearest(BFLOAT16).encode(GOLDEN, KEY).tobytes().hex()
    assert hexadecimal == GOLDEN_BYTES


def test_int8_begins_at_a_block() -> None:
    with pytest.raises(ArgumentError, match="first=32: int8 is encoded from a multiple of 64 on"):
        Int8("signed").encode(GOLDEN, KEY._replace(first=32))
