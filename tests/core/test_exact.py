"""The C++ kernel gives the bits of the reference: for every setting, shape, thread count, instruction set and mode.

The arrays hold every bad number there is, in the gradients and in the starting state: the products of NaN, infinities,
subnormals, signed zeros, huge and tiny values in p, g, m and v, and random bit patterns of every magnitude.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.environments import MODES, environment
from support.stepping import carries, different, table

from adamas.errors import ArgumentError
from adamas.kernels import Plan, cpu, reference
from adamas.rule import Clip, Hyper, Rule

RULES = [
    Rule(eps_mode, decay, amsgrad, maximize)
    for eps_mode, decay, amsgrad, maximize in itertools.product(
        ("paper", "keras"), ("decoupled", "coupled"), ("off", "raw", "corrected"), (False, True)
    )
    if (eps_mode, amsgrad) != ("keras", "corrected")
]
RULES += [
    Rule(decay="coupled", nesterov="scheduled"),
    Rule(nesterov="constant", maximize=True),
    Rule(schedule_free=True),
    Rule("keras", "coupled", rectify=True),
    Rule(decay="coupled", infinity=True),
    Rule("keras", infinity=True),
    Rule(decay="coupled", adopt=True),
    Rule(adopt=True, maximize=True),
    Rule("keras", schedule_free=True, maximize=True),
    Rule(clip_update=True),
    Rule("keras", maximize=True, clip_update=True),
    Rule(trust_ratio="with_decay"),
    Rule("keras", maximize=True, trust_ratio="without_decay"),
    Rule(cautious=True),
    Rule("keras", "coupled", maximize=True, cautious=True),
]
# 4096 is a block, 32768 a chunk; tensors of every size share chunks, the largest is cut.
SHAPES = [(0,), (), (31,), (1,), (4096,), (4097,), (5, 7, 11), (4095,), (2, 0, 3), (3, 11003)]
HYPERS = (
    Hyper(),
    Hyper(weight_decay=0.1),
    Hyper(0.02, 0.8, 0.95, 1e-3, 1e-4, 0.1, 0.3, 1000, 2, 1),
    Hyper(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    Hyper(3e3, 0.9, 0.999999, 1e-30, 0.0, 1e-2),
)


def awkward(dtype: type[np.floating]) -> list[float]:
    info = np.finfo(dtype)
    tiny, large = float(info.tiny), float(info.max)
    sub = float(info.smallest_subnormal)
    return [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, sub, -tiny / 4, tiny, -1.5 * tiny, large, -large / 8]


class Start(NamedTuple):
    """Parameters, slots and the gradients of three steps."""

    params: list[np.ndarray]
    slots: list[list[np.ndarray]]
    gradients: list[list[np.ndarray | None]]


def start(dtype: type[np.floating], seed: int) -> Start:
    rng = np.random.default_rng(seed)
    bits = np.uint32 if dtype is np.float32 else np.uint64

    def wild(shape: tuple[int, ...]) -> np.ndarray:
        """Half numbers that a training has, a third random bit patterns, the rest awkward ones."""
        usual = rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 2, shape)
        patterns = rng.integers(0, np.iinfo(bits).max, shape, bits, endpoint=True).view(dtype)
        kind = rng.random(shape)
        with np.errstate(all="ignore"):
            mixed = np.where(kind < 0.5, usual, np.where(kind < 0.85, patterns, rng.choice(awkward(dtype), shape)))
            return np.asarray(mixed.astype(dtype))

    grid = np.array(list(itertools.product(awkward(dtype), repeat=3)), dtype)  # g, m, v in every combination
    params, gradients = [wild(shape) for shape in SHAPES], [[wild(shape) for shape in SHAPES] for _ in range(3)]
    slots = [[wild(shape) for shape in SHAPES] for _ in range(3)]
    params.append(rng.choice(np.array(awkward(dtype), dtype), len(grid)))
    for step in gradients:
        step.append(grid[:, 0].copy())
    for slot, values in zip(slots, (grid[:, 1], grid[:, 2], rng.permutation(grid[:, 2])), strict=True):
        slot.append(values.copy())
    return Start(params, slots, gradients)


def steps(plan: type[Plan], rule: Rule, begin: Start, seed: int, mode: str = "ieee") -> list[np.ndarray]:
    """Three steps: of all tensors, and of some, scaled; each tensor at its own t and with its own numbers."""
    rng = np.random.default_rng(seed)
    params = [p.copy() for p in begin.params]
    slots = [[a.copy() for a in slot] for slot in begin.slots[: len(rule.slots)]]
    n = len(params)
    numbers, rows = table(*HYPERS), rng.integers(0, len(HYPERS), n).astype(np.int32)
    t = rng.choice([1, 2, 3, 10, 1000, 123_456_789], n)
    with environment(mode):
        kernel = plan(rule, [f"tensor{i}" for i in range(n)], params, slots)
    carry = carries(rule, n)
    clips = (None, Clip("value", 1e-3), Clip("value", 2.0**-130))
    for step, (scale, share, clip) in enumerate(zip((1.0, 2.0**-10, -3.7), (1.0, 0.7, 0.5), clips, strict=True)):
        gradients = [g if rng.random() < share else None for g in begin.gradients[step]]
        with environment(mode):
            kernel.step(
                gradients, t + step, numbers, rows if step < 2 else None, grad_scale=scale, clip=clip, carry=carry
            )
    return [carry, *params, *itertools.chain(*slots)]


@pytest.fixture(autouse=True)
def _automatic_again() -> Iterator[None]:
    yield
    cpu.set_threads(None)
    cpu.set_instruction_set(None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: "-".join(map(str, astuple(r))))
def test_every_setting(rule: Rule, dtype: type[np.floating]) -> None:
    seed = RULES.index(rule)
    begin = start(dtype, seed)
    expected = steps(reference.Plan, rule, begin, seed)
    for threads, isa, mode in itertools.product((1, 2, 3), cpu.instruction_sets(), MODES):
        cpu.set_threads(threads)
        cpu.set_instruction_set(isa)
        assert (cpu.get_threads(), cpu.get_instruction_set()) == (threads, isa)
        for mine, right in zip(steps(cpu.Plan, rule, begin, seed, mode), expected, strict=True):
            wrong = different(mine, right)
            assert not wrong.any(), f"{threads} threads, {isa}, {mode}: {mine[wrong][:3]} for {right[wrong][:3]}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_reference_in_every_mode(dtype: type[np.floating], mode: str) -> None:
    rule = Rule(decay="coupled", amsgrad="raw")
    begin = start(dtype, 99)
    for mine, right in zip(
        steps(reference.Plan, rule, begin, 99, mode), steps(reference.Plan, rule, begin, 99), strict=True
    ):
        assert not different(mine, right).any()


def test_flushing_would_have_been_noticed() -> None:
    """The control of this file's method: in these modes NumPy itself computes other bits."""
    sub, whole = np.full(8, 1e-40, np.float32), np.arange(-4, 4, dtype=np.float32)
    seven = np.full(8, 7, np.float32)
    with environment("flush"):
        flushed = sub * np.float32(0.5)
    with environment("upward"):
        upward = whole / seven
    assert np.count_nonzero(flushed.view(np.uint32)) == 0
    assert different(upward, whole / seven).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_and_clipping(dtype: type[np.floating], mode: str) -> None:
    """The global norm to the bit, for tensors that end anywhere in a block or a lane, and what is done with it."""
    rng = np.random.default_rng(3)
    shapes = [(0,), (), (15,), (16,), (17,), (4095,), (4096,), (4097,), (3, 11003)]
    gradients = [np.asarray(rng.standard_normal(s) * 10.0 ** rng.uniform(-20, 3, s), dtype) for s in shapes]
    some: list[np.ndarray | None] = [g if i % 3 else None for i, g in enumerate(gradients)]
    broken = [*gradients[:-1], np.full(shapes[-1], np.nan, dtype)]
    huge = [*gradients[:-1], np.full(shapes[-1], np.finfo(dtype).max, dtype)]
    t = np.ones(len(shapes), np.int64)
    for tried, kind, (scale, limit) in itertools.product(
        (gradients, some, broken, huge),
        ("norm", "global_norm", "torch"),
        ((1.0, 1.0), (2.0**-10, 1e-3), (-7.0, 1e30), (1e-3, np.inf), (0.0, 1.0)),
    ):
        results = []
        for plan, threads, isa in [
            (reference.Plan, 1, None),
            *((cpu.Plan, n, i) for n in (1, 3) for i in cpu.instruction_sets()),
        ]:
            cpu.set_threads(threads)
            cpu.set_instruction_set(isa)
            params = [np.ones(s, dtype) for s in shapes]
            slots = [[np.zeros(s, dtype) for s in shapes] for _ in range(2)]
            kernel = plan(Rule(), [str(i) for i in range(len(shapes))], params, slots)
            with environment(mode if plan is cpu.Plan else "ieee"):
                norm = kernel.step(tried, t, table(Hyper(lr=0.1)), grad_scale=scale, clip=Clip(kind, limit))
            results.append([np.array(norm, np.float64), *params, *slots[0], *slots[1]])
        for other in results[1:]:
            for mine, right in zip(other, results[0], strict=True):
                assert not different(mine, right).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_of_one_tensor_of_any_length(dtype: type[np.floating]) -> None:
    """Alone, because a sum over many tensors hides the order in which a short one was added up; so does the root."""
    rng = np.random.default_rng(6)
    for n in (*range(1, 34), 4095, 4096, 4097, 4111, 8191, 32769):
        p, slots = np.zeros(n, dtype), [[np.zeros(n, dtype)] for _ in range(2)]
        kernel = cpu.Plan(Rule(), ["p"], [p], slots)
        for _ in range(20):
            gradient = rng.standard_normal(n).astype(dtype)
            with reference.ieee():
                right = np.sqrt(reference.sum_of_squares([gradient]))
            for isa in cpu.instruction_sets():
                cpu.set_instruction_set(isa)
                assert kernel.step([gradient], np.array([1]), table(Hyper()), clip=Clip("torch", 1.0)) == right


not_negative = st.floats(0, 1e300) | st.floats(0, 2) | st.sampled_from([0.0, 5e-324, 1e-320, 2.0**-126])
whole, few = st.integers(0, 2**40), st.integers(0, 16)
rates = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 0.9, 0.999, 1 - 2.0**-53])


@given(
    st.sampled_from(RULES),
    st.builds(
        Hyper, not_negative, rates, rates, not_negative, not_negative, not_negative, not_negative, whole, few, few
    ),
    st.integers(1, 2**40),
    st.floats() | st.floats(-2, 2),
    st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 70),
)
def test_any_numbers(
    rule: Rule, hyper: Hyper, t: int, scale: float, seed: int, dtype: type[np.floating], size: int
) -> None:
    """Numbers that nobody trains with: scalars that overflow, underflow, vanish or are NaN."""
    clip = (
        None if seed % 3 == 0 else Clip(("value", "norm", "global_norm", "torch")[seed % 4], 10.0 ** (seed % 80 - 40))
    )
    rng = np.random.default_rng(seed)
    bits = np.uint32 if dtype is np.float32 else np.uint64
    begin = [rng.integers(0, np.iinfo(bits).max, size, bits, endpoint=True).view(dtype) for _ in range(4)]
    begin = [np.where(rng.random(size) < 0.5, a, rng.standard_normal(size).astype(dtype)) for a in begin]
    gradient = rng.standard_normal(size).astype(dtype)
    results = []
    for plan in (reference.Plan, cpu.Plan):
        own = [a.copy() for a in begin[: 1 + len(rule.slots)]]
        plan(rule, ["p"], own[:1], [[a] for a in own[1:]]).step(
            [gradient], np.array([t]), table(hyper), grad_scale=scale, clip=clip, carry=carries(rule, 1)
        )
        results.append(own)
    assert not any(different(a, b).any() for a, b in zip(*results, strict=True))


def test_hundreds_of_small_tensors_in_one_call() -> None:
    rng = np.random.default_rng(5)
    params = [rng.standard_normal(rng.integers(0, 900)).astype(np.float32) for _ in range(300)]
    gradients = [rng.standard_normal(p.shape).astype(np.float32) for p in params]
    results = []
    for plan in (reference.Plan, cpu.Plan):
        own, slots = [p.copy() for p in params], [[np.zeros_like(p) for p in params] for _ in range(2)]
        kernel = plan(Rule(), [str(i) for i in range(300)], own, slots)
        for t in range(1, 4):
            kernel.step(gradients, np.full(300, t), table(Hyper()))
        results.append([*own, *slots[0], *slots[1]])
    assert not any(different(a, b).any() for a, b in zip(*results, strict=True))


def test_other_tensors_in_each_step() -> None:
    """As many as in the step before, but others, of other sizes: no list of chunks may be left over from it."""
    rng = np.random.default_rng(7)
    params = [rng.standard_normal(n) for n in (50_000, 3, 70_000, 9, 5000)]
    gradients = [rng.standard_normal(p.shape) for p in params]
    results = []
    for plan in (reference.Plan, cpu.Plan):
        own, slots = [p.copy() for p in params], [[np.zeros_like(p) for p in params] for _ in range(2)]
        kernel = plan(Rule(), list("abcde"), own, slots)
        norms = []
        for t, active in enumerate(({0, 1}, {1, 2}, {0, 4}, {3, 4}, {3, 4}, {0, 1, 2, 3, 4}, {2, 3}, set(), {0}), 1):
            given = [g if i in active else None for i, g in enumerate(gradients)]
            norms.append(kernel.step(given, np.full(5, t), table(Hyper()), clip=Clip("torch", 1.0)))
        results.append([np.array(norms), *own, *slots[0], *slots[1]])
    assert not any(different(a, b).any() for a, b in zip(*results, strict=True))


def test_threads_and_instruction_sets_are_checked() -> None:
    for bad in (0, -1, 2.0, True, 100_000):
        with pytest.raises(ArgumentError, match="set_threads"):
            cpu.set_threads(bad)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="scalar"):
        cpu.set_instruction_set("avx9")
