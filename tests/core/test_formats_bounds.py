"""What docs/formats.md promises of every format: errors, expectation, zero, signs, range, random bits, independence."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamas import formats
from adamas.formats import PARAMETER, BFloat16, Float16, Int8, Key, Split, random_bits
from adamas.kernels.reference import ieee

KEY = Key(3, 5, 7, 0, 0)
MAX = np.finfo(np.float32).max
INT8 = {"signed": Int8("signed"), "non-negative": Int8("non-negative")}
U = {"signed": 2.0**-12, "non-negative": 2.0**-19}
SIXTEEN = {"bfloat16": BFloat16(), "float16": Float16(), "split": Split()}
kinds = pytest.mark.parametrize("kind", INT8)

exponents = st.integers(0, 254)
magnitudes = st.builds(lambda e, f: e << 23 | f, exponents, st.integers(0, 2**23 - 1))
close = st.builds(  # blocks whose elements lie within some octaves of each other
    lambda top, rest: [max(top - drop, 0) for drop in rest],
    magnitudes,
    st.lists(st.integers(0, 25 << 23), min_size=1, max_size=150),
)
finite = st.lists(magnitudes, min_size=1, max_size=150) | close
steps = st.integers(1, 10**6)


@pytest.fixture(autouse=True)
def _ieee() -> Iterator[None]:
    with ieee():
        yield


def array(patterns: list[int], signs: int = 0) -> np.ndarray:
    """float32 of these magnitudes; bit k of `signs` makes element k negative."""
    words = [pattern | (signs >> k & 1) << 31 for k, pattern in enumerate(patterns)]
    return np.array(words, np.uint32).view(np.float32)


def blockmax(x: np.ndarray) -> np.ndarray:
    """float64, for each element the largest magnitude in its block of 64."""
    padded = np.zeros(-(-x.size // 64) * 64)
    padded[: x.size] = np.abs(x.astype(np.float64))
    return np.repeat(padded.reshape(-1, 64).max(1), 64)[: x.size]


def int8_bound(kind: str, x: np.ndarray) -> np.ndarray:
    """docs/formats.md, "Error": the worst case for each element, in float64."""
    least = 2.0**-111 if kind == "signed" else 2.0**-104
    size, s = np.abs(x.astype(np.float64)), np.maximum(blockmax(x), least)
    fine, knee = (1 / 16, 0.079) if kind == "signed" else (1 / 32, 0.055)
    gap = np.where(size > knee * s, fine, 1 / 8)
    gap = np.where(size > 1.875 * 2.0**127, 1 / 16, gap)
    return (gap + 2.0**-21) * (size + U[kind] * s)


@kinds
@settings(max_examples=150, deadline=None, derandomize=True)
@given(finite, st.integers(0, 2**150), steps)
def test_int8_is_within_its_bound_over_the_whole_range(kind: str, patterns: list[int], signs: int, step: int) -> None:
    x = array(patterns, signs if kind == "signed" else 0)
    form = INT8[kind]
    stored = form.encode(x, KEY._replace(step=step))
    value = form.decode(stored)
    assert np.isfinite(value).all()
    assert (np.abs(value.astype(np.float64) - x) <= int8_bound(kind, x)).all()
    assert (value[x == 0] == 0).all()
    assert (value * np.sign(x) >= 0).all(), "no sign changes"
    assert ((value == 0) | (np.abs(value) >= np.finfo(np.float32).tiny)).all(), "never subnormal"
    if kind == "non-negative":
        assert (value[x > 0] > 0).all()
        assert (stored.codes[x > 0] > 0).all()


@kinds
@settings(max_examples=50, deadline=None, derandomize=True)
@given(finite, st.integers(0, 149), st.sampled_from([0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001]), steps)
def test_a_number_that_is_not_finite_makes_its_block_nan(
    kind: str, patterns: list[int], where: int, odd: int, step: int
) -> None:
    where %= len(patterns)
    clean, x = array(patterns), array(patterns)
    x.view(np.uint32)[where] = odd
    before, after = (INT8[kind].encode(a, KEY._replace(step=step)) for a in (clean, x))
    block = slice(where // 64 * 64, where // 64 * 64 + 64)
    assert np.isnan(INT8[kind].decode(after)[block]).all()
    assert not after.codes[block].any()
    others = np.arange(len(x)) // 64 != where // 64
    assert np.array_equal(before.codes[others], after.codes[others])
    assert np.isnan(after.scales).sum() == 1
    assert np.isfinite(INT8[kind].decode(after)[others]).all()


@pytest.mark.parametrize("name", SIXTEEN)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(finite, st.integers(0, 2**150), steps)
def test_16_bit_formats_are_within_their_bounds(name: str, patterns: list[int], signs: int, step: int) -> None:
    x = array(patterns, signs)
    form: Any = SIXTEEN[name]
    value = form.decode(form.encode(x, KEY._replace(step=step))).astype(np.float64)
    fraction, smallest, largest = {
        "bfloat16": (7, -126, np.float64(np.uint32(0x7F7F0000).view(np.float32))),
        "float16": (10, -14, 65504.0),
        "split": (15, -126, np.float64(np.uint32(0x7F7F7F00).view(np.float32))),
    }[name]
    exact = np.clip(x.astype(np.float64), -largest, largest)
    unit = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-200))), smallest) - fraction)
    slack = 2.0**-38 if name == "float16" else 0.0  # of the one float addition below 2^-14
    assert np.isfinite(value).all()
    assert (np.abs(value - exact) < unit + slack).all()
    assert (np.signbit(value) == np.signbit(x)).all()
    assert (value[x == 0] == 0).all()


@pytest.mark.parametrize("name", SIXTEEN)
def test_16_bit_formats_keep_what_is_not_finite(name: str) -> None:
    form: Any = SIXTEEN[name]
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0], np.float32)
    value = form.decode(form.encode(x, KEY))
    assert np.array_equal(value, x, equal_nan=True)
    assert np.signbit(value[[1, 4]]).all()
    payload = np.array([0x7F800001, 0xFF80FFFF], np.uint32).view(np.float32)
    assert np.isnan(form.decode(form.encode(payload, KEY))).all()


def over_all_random_bits(monkeypatch: pytest.MonkeyPatch, form: Any, x: float, top: float, used: int) -> float:
    """The mean of what x is stored as over all values of the upper `used` bits, with `top` in its block."""

    def every(key: Key, n: int) -> np.ndarray:
        return (np.arange(n, dtype=np.uint32) // np.uint32(2)) << np.uint32(32 - used)

    monkeypatch.setattr(formats, "random_bits", every)
    pairs = np.tile(np.array([top, x], np.float32), 2**used)
    value = form.decode(form.encode(pairs, KEY))[1::2]
    assert len(np.unique(value)) <= 2
    return float(value.astype(np.float64).mean())


@kinds
@pytest.mark.parametrize("x", [1.0, 0.7, 0.3333, 0.06, 0.05, 1e-3, 2e-6, 1e-7])
@pytest.mark.parametrize("scale", [1.0, 3.7e-25, 2.9e38])
def test_int8_is_unbiased(monkeypatch: pytest.MonkeyPatch, kind: str, x: float, scale: float) -> None:
    """Exactly in z; in x but for the rounding of three float operations."""
    x32, top = np.float32(x * scale), np.float32(scale)
    mean = over_all_random_bits(monkeypatch, INT8[kind], x32, top, 20)
    if kind == "non-negative" and x < 2.0**-22:
        assert mean == pytest.approx(2.0**-22 * float(top), rel=1e-6), "the finest step, because it is never 0"
    else:
        assert abs(mean - float(x32)) <= 2.0**-21 * (float(x32) + U[kind] * float(top))


@pytest.mark.parametrize(("name", "used"), [("bfloat16", 16), ("float16", 13), ("split", 8)])
@pytest.mark.parametrize("x", [1.0, -0.7, 1.9999999, 6e4, 1e-3, 3e-8, -1.7e-5])
def test_16_bit_formats_are_unbiased(monkeypatch: pytest.MonkeyPatch, name: str, used: int, x: float) -> None:
    """To the bit; but float16 below 2^-14, where a float addition rounds to multiples of 2^-37."""
    x32 = np.float32(x)
    mean = over_all_random_bits(monkeypatch, SIXTEEN[name], x32, 0.0, used)
    assert abs(mean - float(x32)) <= (2.0**-38 if name == "float16" and abs(x) < 2.0**-14 else 0.0)


@kinds
def test_the_mean_over_steps_is_x(kind: str) -> None:
    """With the random bits as they are: 64 numbers over five decades, 65,536 times each; z-scores are normal."""
    x = np.float32(10.0) ** -np.linspace(0, 5, 64, dtype=np.float32)
    values = INT8[kind].decode(INT8[kind].encode(np.tile(x, 4096 * 16), KEY)).reshape(-1, 64).astype(np.float64)
    spread = values.std(0)
    z = (values.mean(0) - x) / np.maximum(spread, 1e-12) * np.sqrt(len(values))
    assert (spread[1:] > 0).all()
    assert np.abs(z[1:]).max() < 4.2
    assert 30 < (z[1:] ** 2).sum() < 110  # chi-square with 63 degrees of freedom: 0.9998 of its mass


def test_random_bits_are_uniform_and_pairwise_independent() -> None:
    """The upper 3 bits of two elements of a block, over 8,000 blocks: chi-square with 63 degrees of freedom."""
    words = random_bits(KEY, 4096 * 8000).reshape(8000, 4096)
    for i, j in ((0, 1), (0, 2), (7, 8), (0, 2048), (1000, 4095), (64, 128)):
        cells = (words[:, i] >> np.uint32(29)) * 8 + (words[:, j] >> np.uint32(29))
        counts = np.bincount(cells, minlength=64)
        assert 25 < ((counts - 125.0) ** 2 / 125.0).sum() < 120, (i, j)


def test_every_part_of_the_key_counts() -> None:
    base = random_bits(KEY, 4096 * 64)
    others = [KEY._replace(**{part: 8}) for part in ("seed", "name", "step", "slot")]
    others += [KEY._replace(slot=PARAMETER), KEY._replace(seed=5, name=3), KEY._replace(name=7, step=5)]
    for other in others:
        bits = random_bits(other, 4096 * 64)
        same_upper_bits = np.count_nonzero((bits ^ base) >> np.uint32(24) == 0)
        assert 600 < same_upper_bits < 1500, other  # 1024 are expected, clustered by blocks
        assert not np.isin(bits[::4096], base[::4096]).any()
    assert np.array_equal(random_bits(KEY._replace(seed=3 + 2**64), 10), base[:10]), "seeds are taken mod 2^64"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 10_000), max_size=6), st.integers(1, 10_000))
def test_bits_do_not_depend_on_how_a_parameter_is_cut(cuts: list[int], size: int) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    for form, unit in [*((form, 1) for form in SIXTEEN.values()), (INT8["signed"], 64), (INT8["non-negative"], 64)]:
        own: Any = form
        y = np.abs(x) if form is INT8["non-negative"] else x
        edges = sorted({0, size, *(cut // unit * unit for cut in cuts if cut // unit * unit < size)})
        whole = formats.arrays(own.encode(y, KEY))
        pieces = [formats.arrays(own.encode(y[a:b], KEY._replace(first=a))) for a, b in pairwise(edges)]
        for k, expected in enumerate(whole):
            assert np.array_equal(np.concatenate([piece[k] for piece in pieces]), expected)


def test_shapes_are_kept() -> None:
    for shape in ((), (0,), (3, 0), (1,), (31,), (4, 5, 6), (4096,), (4097,)):
        x = np.ones(shape, np.float32)
        for form in (*SIXTEEN.values(), *INT8.values()):
            own: Any = form
            stored = own.encode(x, KEY)
            assert isinstance(own.decode(stored), np.ndarray)
            assert formats.arrays(stored)[0].shape == own.decode(stored).shape == shape
        assert INT8["signed"].encode(x, KEY).scales.shape == (-(-x.size // 64),)
        fresh = formats.zeros(INT8["non-negative"], shape)
        assert [a.shape for a in fresh] == [a.shape for a in INT8["non-negative"].encode(0 * x, KEY)]
        assert not INT8["non-negative"].decode(fresh).any()  # type: ignore[arg-type]
