"""Sparse gradients: libadamas gives the reference's bits, and the reference what a dense optimizer gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.environments import environment
from support.problems import HYPER
from support.stepping import different, same_bits
from support.stepping import table as numbers

from adamas.errors import ArrayError, UnsupportedError
from adamas.kernels import cpu, reference, rows
from adamas.kernels.cpu import rows as native
from adamas.rule import Clip, Hyper, Rule, Scalars, update
from adamas.scalars import power, scalars

RULES = [
    Rule("keras"),
    Rule("keras", amsgrad="raw"),
    Rule("paper", "coupled", "corrected", True),
    Rule("paper", "coupled", "raw"),
    Rule("keras", rectify=True),
    Rule(infinity=True),
    Rule(adopt=True),
]
# Rows of one element, of a part of a vector, of whole ones, of several dimensions; longer than a piece and a block.
WIDTHS: list[tuple[int, ...]] = [(), (1,), (7,), (32,), (3, 5), (4099,)]


@pytest.fixture(autouse=True)
def _automatic_again() -> Iterator[None]:
    yield
    cpu.set_instruction_set(None)


def gradient(rng: np.random.Generator, n: int, count: int, width: tuple[int, ...], dtype: Any, index: Any) -> Any:
    """Indices, a third of them twice or more, and values of many sizes."""
    indices = rng.integers(0, count, n).astype(index)
    if n:
        indices[rng.random(n) < 0.3] = indices[0]
    values = rng.standard_normal((n, *width)) * 10.0 ** rng.uniform(-6, 1, (n, *(1,) * len(width)))
    return indices, values.astype(dtype)


def table(
    rng: np.random.Generator, rule: Rule, count: int, width: tuple[int, ...], dtype: Any
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """A parameter, moments of every size, and rows that were last seen at any time, the clock close to its end."""
    p = rng.standard_normal((count, *width)).astype(dtype)
    tiny = float(np.finfo(dtype).tiny)
    slots = [(rng.standard_normal(p.shape) * 10.0 ** rng.uniform(-6, 1, p.shape)).astype(dtype) for _ in rule.slots]
    slots[0][rng.random(p.shape) < 0.1] = 3 * tiny  # falls below tiny within a few silent steps
    for slot in slots[1:]:
        np.abs(slot, out=slot)
    clock = np.uint32(2**31 + 5)
    silent = rng.choice([0, 1, 2, 3, 100, 12345, 2**31 - 1, 2**32 - 1], count).astype(np.uint32)
    seen = np.append(clock - silent, clock).astype(np.uint32).view(np.int32)
    return p, slots, seen


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.eps_mode}-{r.decay}-{r.amsgrad}-{r.maximize}")
def test_native_equals_reference(rule: Rule, dtype: Any, index: Any) -> None:
    rng = np.random.default_rng(RULES.index(rule))
    hyper = Hyper(0.02, 0.8, 0.95, 1e-3, 0.0, 0.1)
    for width, (n, count) in itertools.product(WIDTHS, [(0, 5), (1, 1), (40, 3), (90, 300)]):
        start = table(rng, rule, count, width, dtype)
        p, slots, seen = start[0].copy(), [slot.copy() for slot in start[1]], start[2].copy()
        steps = [gradient(rng, n, count, width, dtype, index) for _ in range(3)]
        for t, (indices, values) in enumerate(steps, 9):
            rows.step(rule, hyper, t, p, slots, seen, *rows.add_up(indices, values, count), grad_scale=0.7)
        settled, at_rest = [slot.copy() for slot in slots], seen.copy()
        rows.settle(hyper, settled, at_rest)
        for cuts, isa, mode in [
            ((), "scalar", "ieee"),
            ((1, 2, 17), cpu.instruction_sets()[-1], "flush"),
            ((30,), None, "upward"),
        ]:
            cpu.set_instruction_set(isa)
            q, mine, clocks = start[0].copy(), [slot.copy() for slot in start[1]], start[2].copy()
            with environment(mode):
                for t, (indices, values) in enumerate(steps, 9):
                    found, sums = native.add_up(indices, values, count, cuts)
                    native.step(rule, hyper, t, q, mine, clocks, found, sums, 0.7, cuts=cuts)
            for a, b in zip((q, *mine), (p, *slots), strict=True):
                assert not different(a, b).any(), (width, n, count, mode)
            assert np.array_equal(clocks, seen)
            with environment(mode):
                native.settle(hyper, mine, clocks, cuts)
            for a, b in zip(mine, settled, strict=True):
                assert not different(a, b).any(), (width, n, count, mode)
            assert not clocks.any()
            assert not at_rest.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_are_added_in_their_order(dtype: Any) -> None:
    """Against a loop over the entries, one by one; other orders give other bits."""
    rng = np.random.default_rng(1)
    indices, values = gradient(rng, 500, 40, (9,), dtype, np.int64)
    sums: dict[int, np.ndarray] = {}
    for i, value in zip(indices.tolist(), values, strict=True):
        sums[i] = sums[i] + value if i in sums else value
    for found, total in (rows.add_up(indices, values, 40), native.add_up(indices, values, 40, (3, 11))):
        assert found.tolist() == sorted(sums)
        assert same_bits(total, np.stack([sums[i] for i in sorted(sums)]))
    found, total = rows.add_up(indices[::-1].copy(), values[::-1].copy(), 40)
    assert not same_bits(total, np.stack([sums[i] for i in sorted(sums)]))


@given(st.lists(st.integers(0, 2**40), max_size=200), st.integers(0, 2**41), st.sampled_from([np.int32, np.int64]))
def test_sorting(indices: list[int], room: int, index: Any) -> None:
    """Tables of any size, indices in any order."""
    given = np.array(indices, np.int64) % (2**31 if index is np.int32 else 2**41)
    count = int(given.max(initial=0)) + 1 + room
    found, distinct, order, ends = native.sort(given.astype(index), count)
    expected, counts = np.unique(given, return_counts=True)
    assert found == len(expected)
    assert np.array_equal(distinct[:found], expected)
    assert np.array_equal(order, np.argsort(given, kind="stable"))
    assert np.array_equal(ends[:found], np.cumsum(counts))


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("wrong", [5, -1, 2**31 - 1, -(2**31)])
def test_an_index_out_of_range(wrong: int, index: Any) -> None:
    indices = np.array([0, 4, wrong, 7, 1], index)
    found, *written = native.sort(indices, 5)
    assert found == -1 - 2
    assert all((array == -1).all() for array in written)
    with pytest.raises(ArrayError, match=rf"index {wrong} at position 2 .* 0 to 4"):
        rows.add_up(indices, np.zeros((5, 2), np.float32), 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_is_that_of_the_dense_gradient(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    for width, count, n in itertools.product(WIDTHS, (1, 50, 3000), (0, 1, 70)):
        if count * int(np.prod(width)) > 10**6:
            continue
        found, sums = native.add_up(*gradient(rng, n, count, width, dtype, np.int64), count)
        dense = np.zeros((count, *width), dtype)
        dense[found] = sums
        with reference.ieee():
            expected = reference.sum_of_squares([dense])
        with environment("flush"):
            assert native.squares(found, sums) == expected, (width, count, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["value", "norm", "global_norm", "torch"])
def test_clipping_is_that_of_a_dense_step(kind: Any, dtype: Any) -> None:
    """One step of fresh rows of a fresh table: the dense plan's bits, whatever is clipped."""
    rng, rule, hyper = np.random.default_rng(3), RULES[3], HYPER
    p = rng.standard_normal((50, 7)).astype(dtype)
    found, sums = rows.add_up(*gradient(rng, 80, 50, (7,), dtype, np.int32), 50)
    dense = np.zeros_like(p)
    dense[found] = sums
    squares = native.squares(found, sums)
    for clip, scale in itertools.product((Clip(kind, 1e30), Clip(kind, 0.01)), (1.0, -0.5)):
        right, slots = p.copy(), [np.zeros_like(p) for _ in rule.slots]
        reference.Plan(rule, ["p"], [right], [[slot] for slot in slots]).step(
            [dense], np.array([4]), numbers(hyper), grad_scale=scale, clip=clip
        )
        for step in (rows.step, native.step):
            q, mine, seen = p.copy(), [np.zeros_like(p) for _ in rule.slots], np.zeros(51, np.int32)
            step(rule, hyper, 4, q, mine, seen, found, sums, grad_scale=scale, clip=clip, squares=squares)
            for a, b in zip((q, *mine), (right, *slots), strict=True):
                assert same_bits(a[found], b[found])


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.eps_mode}-{r.decay}-{r.amsgrad}-{r.maximize}")
def test_rows_that_never_rest_are_a_dense_step(rule: Rule) -> None:
    """Every row in every step, some of them twice: the bits of the dense rule."""
    rng = np.random.default_rng(4)
    p = rng.standard_normal((30, 5)).astype(np.float32)
    q, slots, seen = p.copy(), [np.zeros_like(p) for _ in rule.slots], np.zeros(31, np.int32)
    dense = tuple(np.zeros_like(p) for _ in rule.slots)
    for t in range(1, 8):
        indices = np.concatenate([rng.permutation(30), rng.integers(0, 30, 9)])
        found, sums = native.add_up(indices, rng.standard_normal((39, 5)).astype(np.float32), 30)
        assert found.tolist() == list(range(30))
        native.step(rule, HYPER, t, q, slots, seen, found, sums)
        s = scalars(rule, HYPER, t)
        p, dense = update(
            rule,
            p,
            sums,
            dense,
            Scalars(*map(np.float32, s)),
            coupled=s.coupled != 0,
            tiny=np.finfo(np.float32).tiny,
        )
    assert same_bits(q, p)
    assert all(same_bits(a, b) for a, b in zip(slots, dense, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("amsgrad", ["off", "raw"])
def test_settled_moments_are_those_of_a_dense_optimizer(amsgrad: Any, dtype: Any) -> None:
    """Against the definition in the widest type there is: sums over all steps of beta^(steps since) (1 - beta) g.

    Each step of m + c (g - m) has three roundings of terms that are at most max |g|, and a decay two (the factor's,
    twice for a denser count of its own squarings, and the product's), so after T steps m is off by at most about
    T (4 u) max |g|; v alike with max g^2, of which g g is one more.
    """
    rule, hyper = Rule("keras", amsgrad=amsgrad), HYPER
    rng, count, steps = np.random.default_rng(5), 40, 60
    p = np.zeros((count, 3), dtype)
    slots, seen = [np.zeros_like(p) for _ in rule.slots], np.zeros(count + 1, np.int32)
    wide = np.longdouble
    m, v, vmax, largest = (np.zeros(p.shape, wide) for _ in range(4))
    for t in range(1, steps + 1):
        indices, values = gradient(rng, 12, count, (3,), dtype, np.int32)
        found, sums = rows.add_up(indices, values, count)
        rows.step(rule, hyper, t, p, slots, seen, found, sums)
        g = np.zeros(p.shape, wide)
        g[found] = sums
        m = wide(hyper.beta1) * m + (1 - wide(hyper.beta1)) * g
        v = wide(hyper.beta2) * v + (1 - wide(hyper.beta2)) * g * g
        vmax = np.maximum(v, vmax)
        largest = np.maximum(np.abs(g), largest)
    silent = seen[-1] - seen[:-1]
    assert silent.max() > 10
    raw = [slot.copy() for slot in slots]
    rows.settle(hyper, slots, seen)
    unit = float(np.finfo(dtype).eps) / 2
    for slot, right, size in zip(slots, (m, v, vmax), (largest, largest**2, largest**2), strict=False):
        assert (np.abs(slot - right) <= steps * 5 * unit * size + np.finfo(dtype).tiny * steps).all()
    for before, after, beta in zip(raw, slots, (hyper.beta1, hyper.beta2), strict=False):
        assert (np.abs(before) >= np.abs(after)).all()
        factors = np.array([power(beta, int(k)) for k in silent])[:, None]
        np.testing.assert_allclose(after, before * factors, rtol=4 * unit, atol=np.finfo(dtype).tiny)


def test_only_the_weights_stay_behind() -> None:
    """A row that was silent differs from a dense optimizer's in its weights alone, and by the drift left out."""
    rule, hyper = Rule("keras"), Hyper(0.1, 0.9, 0.99, 1e-3, 0.0, 0.1)
    p, slots, seen = np.ones((2, 1), np.float32), [np.zeros((2, 1), np.float32) for _ in "mv"], np.zeros(3, np.int32)
    weights = []
    for t, row in enumerate((0, 1, 1, 1, 0), 1):
        rows.step(rule, hyper, t, p, slots, seen, np.array([row]), np.full((1, 1), 0.5, np.float32))
        weights.append(p[0, 0])
    assert weights[0] < 1
    assert weights[0] == weights[1] == weights[2] == weights[3]  # neither drift nor decay
    m = 0.05 * 0.9**4 + 0.05  # a dense optimizer's at step 5
    v = 0.0025 * 0.99**4 + 0.0025
    alpha = 0.1 * np.sqrt(1 - 0.99**5) / (1 - 0.9**5)  # of step 5, not of the row's second step
    np.testing.assert_allclose(slots[0][0], m, rtol=1e-6)
    np.testing.assert_allclose(slots[1][0], v, rtol=1e-6)
    np.testing.assert_allclose(p[0, 0], weights[3] * (1 - 0.1 * 0.1) - alpha * m / (np.sqrt(v) + 1e-3), rtol=1e-6)


@pytest.mark.parametrize("rule", [Rule(nesterov="constant"), Rule(schedule_free=True), Rule(clip_update=True)], ids=str)
def test_rules_of_whole_tensors_are_refused(rule: Rule) -> None:
    p, slots, seen = np.ones((3, 2)), [np.zeros((3, 2)) for _ in rule.slots], np.zeros(4, np.int32)
    with pytest.raises(UnsupportedError, match="have no lazy rows; give dense gradients"):
        rows.step(rule, HYPER, 1, p, slots, seen, np.array([1]), np.ones((1, 2)))
    assert (p == 1.0).all()
    assert not seen.any()


def test_an_array_that_is_not_contiguous_is_refused() -> None:
    """By an error that python -O keeps: libadamas would read past it."""
    with pytest.raises(ArrayError, match="not C-contiguous"):
        native.add_up(np.zeros(2, np.int64), np.zeros((4, 3))[::2], 5)
