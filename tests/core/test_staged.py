"""The C++ kernel in stages gives the bits of the reference: for every form of parameters and moments, averages of the
weights, statistics and verification; for every rule, shape, instruction set, thread count and mode.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from support.environments import MODES, environment
from support.stepping import table

from adamas import formats
from adamas.errors import ArgumentError, ArrayError, KernelError
from adamas.kernels import Plan, cpu, reference
from adamas.rule import Clip, Hyper, Rule

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
RULES = [
    Rule(),
    Rule(decay="coupled", amsgrad="raw", maximize=True),
    Rule(nesterov="scheduled"),
    Rule(schedule_free=True),
    Rule(rectify=True),
    Rule(infinity=True),
    Rule(adopt=True),
    Rule(clip_update=True),
    Rule(trust_ratio="with_decay"),
    Rule(decay="coupled", cautious=True),
]
WEIGHTS = [
    ("float32", "nearest"),
    ("float64", "nearest"),
    (BFLOAT16, "nearest"),
    (BFLOAT16, "stochastic"),
    (BFLOAT16, "split"),
    ("float16", "nearest"),
    ("float16", "stochastic"),
]
# 64 elements share a scale, 256 are a piece, 4096 a block, 32768 a chunk.
SHAPES = [(0,), (), (31,), (63,), (64,), (65,), (257,), (4096,), (4097,), (10, 7000)]
AWKWARD = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 2.0**-126, -1.5 * 2.0**-126, 3.4e38, -3.39e38, 65519.0, 65520.0]
AWKWARD += [2.0**-14, -(2.0**-24), 1.4 * 2.0**-25, 1.83e19]  # the last one's square is close to the largest float32
CLIPS = (None, Clip("value", 1e-2), Clip("norm", 1.0), Clip("torch", 1.0))


class Case(NamedTuple):
    """What a plan is made for."""

    rule: Rule
    dtype: Any
    weights: str
    moments: str
    average: bool = False
    statistics: bool = False
    verify: int = 0


CASES = [
    Case(rule, dtype, weights, moments)
    for rule, (dtype, weights), moments in itertools.product(RULES, WEIGHTS, formats.NAMES)
    if dtype != "float64" or moments == "float32"
]
WATCHED = [
    Case(rule, dtype, weights, moments, average, statistics, verify)
    for rule, (dtype, weights, moments), (average, statistics, verify) in itertools.product(
        RULES,
        [("float32", "nearest", "float32"), ("float64", "nearest", "float32"), (BFLOAT16, "split", "int8")],
        [(True, False, 0), (False, True, 0), (False, False, 2), (True, True, 1)],
    )
]


def name(case: Case) -> str:
    switches = ("schedule_free", "rectify", "infinity", "adopt", "clip_update", "cautious")
    variants = [switch for switch in switches if getattr(case.rule, switch)]
    variants += ["trust_ratio"] if case.rule.trust_ratio != "off" else []
    rule = "-".join(variants) or f"{case.rule.amsgrad}-{case.rule.nesterov}"
    watched = "-".join(k for k in ("average", "statistics", "verify") if getattr(case, k))
    return f"{rule}-{np.dtype(case.dtype).name}-{case.weights}-{case.moments}-{watched}"


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Of every magnitude; in half of the arrays also awkward ones and random bit patterns."""
    usual = np.asarray(rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 2, shape))
    patterns = np.asarray(rng.integers(0, 2**32, shape, np.uint32)).view(np.float32)
    kind = rng.random(shape) if rng.random() < 0.5 else np.zeros(shape)
    with np.errstate(all="ignore"):
        mixed = np.where(kind < 0.5, usual, np.where(kind < 0.8, patterns, rng.choice(AWKWARD, shape)))
        return np.asarray(mixed.astype(np.float32).astype(dtype))


def steps(plan: type[Plan], case: Case, seed: int, mode: str = "ieee") -> list[np.ndarray]:
    """Four steps with another kind of clipping each, in two of them of some tensors only: all that was written."""
    rng = np.random.default_rng(seed)
    rule, compute = case.rule, formats.compute_dtype(np.dtype(case.dtype))
    params = [numbers(rng, shape, case.dtype) for shape in SHAPES]
    n = len(params)
    own = formats.of_slots(case.moments, [slot.kind for slot in rule.slots])
    each = [own if i % 4 else ("float32",) * len(own) for i in range(n)]  # one plan of several formats
    slots: list[list[Any]] = [
        [formats.zeros(formats.moment(each[i][s], slot.kind), p.shape, compute) for i, p in enumerate(params)]
        for s, slot in enumerate(rule.slots)
    ]
    if rule.schedule_free:
        slots[1] = [np.asarray(p.astype(compute)) for p in params]
    if case.weights == "split":
        slots.append([rng.integers(-128, 128, p.shape, np.int8) for p in params])
        slots[-1][1] = np.asarray(slots[-1][1], np.int8)  # of no dimension
    if case.average:
        slots.append([np.asarray(p.astype(compute)) for p in params])
    kernel = plan(
        rule, [f"tensor{i}" for i in range(n)], params, slots, seed, each, case.weights, case.average, case.verify
    )
    lines = table(Hyper(), Hyper(0.02, 0.8, 0.95, 1e-3, 0.0, 0.1), Hyper(0.1, 0.0, 0.0, 0.0))
    rows = rng.integers(0, 3, n).astype(np.int32)
    carry = np.tile([carry.initial for carry in rule.carries], (n, 1)) if rule.carries else None
    taken, found = np.full(n, 10), []
    for clip, share in zip(CLIPS, (1.0, 0.6, 1.0, 0.6), strict=True):
        gradients = [numbers(rng, p.shape, case.dtype) if rng.random() < share else None for p in params]
        statistics = np.full((n, 4), -1.0) if case.statistics else None
        with environment(mode):
            norm = kernel.step(
                gradients,
                taken + 1,
                lines,
                rows,
                grad_scale=0.7,
                clip=clip,
                taken=taken,
                carry=carry,
                average_decay=0.9 if case.average else None,
                statistics=statistics,
            )
        found += [np.array(norm, np.float64), *([] if statistics is None else [statistics])]
    return [*found, taken, *params, *(array for slot in slots for x in slot for array in formats.arrays(x))]


def different(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays differ in bits, NaN against NaN aside."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    bits = np.dtype(f"u{a.dtype.itemsize}")
    nan = np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64))
    return (
        np.ascontiguousarray(a).view(bits).reshape(nan.shape) != np.ascontiguousarray(b).view(bits).reshape(nan.shape)
    ) & ~nan


def check(case: Case, seed: int, settings: list[tuple[int, str, str]]) -> None:
    expected = steps(reference.Plan, case, seed)
    for threads, isa, mode in settings:
        cpu.set_threads(threads)
        cpu.set_instruction_set(isa)
        for mine, right in zip(steps(cpu.Plan, case, seed, mode), expected, strict=True):
            wrong = different(mine, right)
            assert not wrong.any(), f"{threads} threads, {isa}, {mode}: {mine[wrong][:3]} for {right[wrong][:3]}"


@pytest.fixture(autouse=True)
def _automatic_again() -> Iterator[None]:
    yield
    cpu.set_threads(None)
    cpu.set_instruction_set(None)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_form(case: Case) -> None:
    seed = CASES.index(case)
    check(
        case, seed, [(1 + (seed + i) % 3, isa, MODES[(seed + i) % 3]) for i, isa in enumerate(cpu.instruction_sets())]
    )


@pytest.mark.parametrize("case", WATCHED, ids=name)
def test_averages_statistics_and_verification(case: Case) -> None:
    seed = WATCHED.index(case)
    isas = cpu.instruction_sets()
    check(case, seed, [(1 + seed % 3, isas[seed % len(isas)], MODES[seed % 3])])


@pytest.mark.parametrize("case", [Case(RULES[0], BFLOAT16, "split", "int8", True, True, 3)], ids=name)
def test_every_thread_count_instruction_set_and_mode(case: Case) -> None:
    check(case, 1, list(itertools.product((1, 2, 3), cpu.instruction_sets(), MODES)))


def test_int8_codes_beyond_the_largest_scale() -> None:
    """Whole groups of moments close to the largest float32: m = g, and v = g^2."""
    rng = np.random.default_rng(4)
    for near in (3.3e38, 1.83e19):
        gradient = (near * rng.uniform(0.9, 1.03, 6400)).astype(np.float32)
        results = []
        for kernel, isa in [(reference.Plan, None), *((cpu.Plan, isa) for isa in cpu.instruction_sets())]:
            cpu.set_instruction_set(isa)
            p = np.zeros(6400, np.float32)
            slots: list[Any] = [
                formats.zeros(formats.moment("int8", kind), p.shape) for kind in ("signed", "non-negative")
            ]
            plan = kernel(Rule(), ["p"], [p], [[slot] for slot in slots], formats=("int8", "int8"))
            plan.step([gradient], np.array([1]), table(Hyper(0.1, 0.0, 0.0)))
            results.append([p, *(array for slot in slots for array in slot)])
        assert max(results[0][1].max(), results[0][3].max()) in (127, 255)
        assert all(
            np.array_equal(a, b, equal_nan=True)
            for other in results[1:]
            for a, b in zip(other, results[0], strict=True)
        )


@pytest.mark.parametrize("odd", [0.0, np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("grad_scale", [1.0, 0.7])
def test_int8_groups_of_every_kind(grad_scale: float, odd: float) -> None:
    """From every code, -128 too, and scales of all sizes; groups without a gradient, and an odd number."""
    results = []
    for kernel, isa in [(reference.Plan, None), *((cpu.Plan, isa) for isa in cpu.instruction_sets())]:
        rng = np.random.default_rng(5)
        cpu.set_instruction_set(isa)
        n = 64 * 24 + 70
        groups, p = np.arange(n) // 64, numbers(rng, (n,), "float32")
        scales = [rng.choice([0.0, 2.0**-90, 1e-5, 1.0, 1e5], 26).astype(np.float32) for _ in range(2)]
        slots: list[Any] = [
            formats.Blocks(rng.integers(-128, 128, n, np.int8), scales[0]),
            formats.Blocks(rng.integers(0, 256, n, np.uint8), scales[1]),
        ]
        plan = kernel(Rule(), ["p"], [p], [[slot] for slot in slots], formats=("int8", "int8"))
        for t in range(1, 4):
            gradient = (rng.standard_normal(n) * 10.0 ** rng.uniform(-30, 5, 26)[groups]).astype(np.float32)
            gradient[(groups + t) % 3 == 0] = 0.0
            gradient[700] = odd
            beta = 0.0 if t == 2 else 0.9  # the second step forgets what was there: groups of zeros
            plan.step([gradient], np.array([t]), table(Hyper(0.1, beta, beta)), grad_scale=grad_scale)
            results.append([array.copy() for array in (p, *(array for slot in slots for array in slot))])
    assert (results[1][2] == 0.0).any()
    for k in range(3, len(results)):
        for mine, right in zip(results[k], results[k % 3], strict=True):
            assert not different(mine, right).any()


@pytest.mark.parametrize("dtype", ["float32", "float64", BFLOAT16])
def test_verification_finds_a_gradient_that_changes_while_it_is_read(dtype: Any) -> None:
    """Another thread plays the faulty memory. Verified or not, the step has been taken."""
    n = 300_000
    p, g = np.zeros(n, dtype), np.ones(n, dtype)
    compute = formats.compute_dtype(np.dtype(dtype))
    plan = cpu.Plan(Rule(), ["embedding"], [p], [[np.zeros(n, compute)] for _ in range(2)], verify=1)
    stop, taken = threading.Event(), np.zeros(1, np.int64)

    def disturb() -> None:
        value = 1
        while not stop.is_set():
            value = -value
            np.copyto(g, np.asarray(value, dtype))

    def step_until_it_is_found() -> None:
        for _ in range(2000):  # the machine may be too busy to run the other thread during any one step
            plan.step([g], taken + 1, table(Hyper()), taken=taken)

    plan.step([g], taken + 1, table(Hyper()), taken=taken)
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with pytest.raises(
            KernelError, match=r"tensor 'embedding': .* computed twice .* two results.* older checkpoint"
        ):
            step_until_it_is_found()
    finally:
        stop.set()
        thread.join()
    before = int(taken[0])
    assert before > 1
    plan.step([g], taken + 1, table(Hyper()), taken=taken)
    assert taken[0] == before + 1


@pytest.mark.parametrize("kernel", [reference.Plan, cpu.Plan])
@pytest.mark.parametrize(("before", "after"), [(np.float32, np.int32), (np.float16, BFLOAT16), (BFLOAT16, np.float16)])
def test_a_parameter_whose_dtype_was_changed_is_refused(kernel: type[Plan], before: Any, after: Any) -> None:
    p = np.ones(4, before)
    plan = kernel(Rule(), ["p"], [p], [[np.zeros(4, np.float32)] for _ in range(2)])
    bits = p.tobytes()
    p.dtype = after
    with pytest.raises(ArrayError, match=f"has become {np.dtype(after).name}.* those of {np.dtype(before).name}"):
        plan.step([np.ones(4, after)], np.array([1]), table(Hyper()))
    assert p.tobytes() == bits


def test_what_a_plan_does_not_take() -> None:
    p, slots = np.zeros(3, np.float32), [[np.zeros(3, np.float32)] for _ in range(2)]
    plan = cpu.Plan(Rule(), ["p"], [p], slots)
    with pytest.raises(ValueError, match=r"average_decay=0\.9 for a plan with average=False"):
        plan.step([p + 1], np.array([1]), table(Hyper()), average_decay=0.9)
    with pytest.raises(ValueError, match=r"statistics float64\[n, 4\]"):
        plan.step([p + 1], np.array([1]), table(Hyper()), statistics=np.zeros((1, 3)))
    statistics = np.zeros((1, 4))
    statistics.flags.writeable = False
    with pytest.raises(ValueError, match="given read-only"):
        plan.step([p + 1], np.array([1]), table(Hyper()), statistics=statistics)
    for kernel in (reference.Plan, cpu.Plan):
        with pytest.raises(ArgumentError, match="verify=-1"):
            kernel(Rule(), ["p"], [p], slots, verify=-1)
    averaged = cpu.Plan(Rule(), ["p"], [p], [*slots, [np.zeros(3, np.float32)]], average=True)
    with pytest.raises(ValueError, match="average_decay=None for a plan with average=True"):
        averaged.step([p + 1], np.array([1]), table(Hyper()))
    assert not p.any()
