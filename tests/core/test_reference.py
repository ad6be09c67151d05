"""The reference kernel: its floating-point environment, its norm, its memory, and what it refuses."""

from __future__ import annotations

import ctypes
import math
import threading
import tracemalloc
from dataclasses import astuple

import numpy as np
import pytest
from support.environments import MODES, environment
from support.stepping import KERNELS, same_bits, table

from adamas.errors import ArgumentError, ArrayError, KernelError
from adamas.kernels import Plan, choose, cpu, reference
from adamas.rule import Clip, Clipping, Hyper, Rule


def control_register() -> bytes:
    """The whole fenv_t: modes, and the exception flags too."""
    buffer = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).fegetenv(buffer)
    return bytes(buffer)


@pytest.mark.parametrize("mode", MODES)
def test_inside_it_is_ieee_and_afterwards_as_before(mode: str) -> None:
    sub, third = np.full(3, 1e-40, np.float32), np.array([-1.0, 1.0, 2.0]) / np.array([7.0, 7.0, 7.0])
    with environment(mode):
        before = control_register()
        with reference.ieee():
            assert np.count_nonzero((sub * np.float32(0.5)).view(np.uint32)) == 3
            assert np.array_equal(np.array([-1.0, 1.0, 2.0]) / np.array([7.0, 7.0, 7.0]), third)
            assert math.sqrt(2.0) == float.fromhex("0x1.6a09e667f3bcdp+0")
        assert control_register() == before
        with pytest.raises(ZeroDivisionError), reference.ieee():
            raise ZeroDivisionError
        assert control_register() == before


def test_warnings_of_the_caller_do_not_matter() -> None:
    p, m, v = (np.array([1.0, 2.0], np.float32) for _ in range(3))
    plan = reference.Plan(Rule(), ["p"], [p], [[m], [v]])
    with np.errstate(all="raise"):
        plan.step([np.array([np.inf, 1e38], np.float32)], np.array([1]), table(Hyper(lr=1e30)), clip=Clip("torch", 1.0))
    assert np.isnan(p[0])


def test_without_the_c_library_a_wrong_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_environment", lambda: None)
    with reference.ieee():
        pass
    for mode in ("flush", "upward"):
        with environment(mode), pytest.raises(KernelError, match="call it from a thread"), reference.ieee():
            pass


def test_memory_is_bounded() -> None:
    size = 2_000_000
    p, g, m, v = (np.ones(size, np.float64) for _ in range(4))
    plan = reference.Plan(Rule(), ["p"], [p], [[m], [v]])
    tracemalloc.start()
    try:
        plan.step([g], np.array([1]), table(Hyper()), clip=Clip("torch", 1.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6, "blocks only; one copy of the parameter would be 16 MB"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_is_the_one_defined(dtype: type[np.floating]) -> None:
    """design: float64 squares in 16 lanes over blocks of 4096, lanes by halving, blocks, then tensors, in order."""
    rng = np.random.default_rng(1)
    grads = [rng.standard_normal(n).astype(dtype) for n in (0, 1, 17, 4095, 9000, 40000)]
    total = 0.0
    for g in grads:
        tensor = 0.0
        for begin in range(0, g.size, 4096):
            lanes = [0.0] * 16
            for j, x in enumerate(g[begin : begin + 4096].tolist()):
                lanes[j % 16] += x * x
            while len(lanes) > 1:
                half = len(lanes) // 2
                lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
            tensor += lanes[0]
        total += tensor
    assert reference.sum_of_squares([*grads[:2], None, *grads[2:]]) == total


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("kind", ["value", "norm", "global_norm", "torch"])
def test_gradients_are_scaled_and_then_clipped(kind: Clipping, scale: float) -> None:
    """With betas of 0 the first moment is the gradient that the formula saw."""
    rng = np.random.default_rng(2)
    grads: list[np.ndarray | None] = [rng.standard_normal(40), 100.0 * rng.standard_normal(9), None, np.zeros(3)]
    params, moments = [np.zeros(n) for n in (40, 9, 5, 3)], [[np.zeros(n) for n in (40, 9, 5, 3)] for _ in range(2)]
    kernel = reference.Plan(Rule(), list("abcd"), params, moments)
    numbers = table(Hyper(beta1=0.0, beta2=0.0))
    given = kernel.step(grads, np.ones(4, np.int64), numbers, grad_scale=scale, clip=Clip(kind, 3.0))
    scaled = [np.zeros(5) if g is None else scale * g for g in grads]
    norms = [float(np.linalg.norm(g)) for g in scaled]
    whole = math.hypot(*norms)
    expected = {
        "value": [np.clip(g, -3.0, 3.0) for g in scaled],
        "norm": [g * 3.0 / max(n, 3.0) for g, n in zip(scaled, norms, strict=True)],
        "global_norm": [g * 3.0 / whole for g in scaled],
        "torch": [g * 3.0 / (whole + 1e-6) for g in scaled],
    }[kind]
    assert given == (pytest.approx(whole, rel=1e-14) if kind in ("global_norm", "torch") else None)
    for m, right in zip(moments[0], expected, strict=True):
        np.testing.assert_allclose(m, right, rtol=1e-14)


def test_clipping_by_value_keeps_nan() -> None:
    p, m, v = (np.zeros(4) for _ in range(3))
    plan = reference.Plan(Rule(), ["p"], [p], [[m], [v]])
    gradient = np.array([np.nan, np.inf, -np.inf, 0.5])
    plan.step([gradient], np.array([1]), table(Hyper(beta1=0.0)), clip=Clip("value", 2.0))
    assert np.array_equal(m, [np.nan, 2.0, -2.0, 0.5], equal_nan=True)


@pytest.mark.parametrize("plan", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize(
    ("t", "numbers", "rows"),
    [
        (np.array([0, 1]), table(Hyper()), None),
        (np.array([1, 1], np.int32), table(Hyper()), None),
        (np.array([1]), table(Hyper()), None),
        (np.array([1, 1]), table(Hyper()).astype(np.float32), None),
        (np.array([1, 1]), table(Hyper()), np.array([0, 1], np.int32)),
        (np.array([1, 1]), table(Hyper()), np.array([0, -1], np.int32)),
        (np.array([1, 1]), table(Hyper()), np.array([0, 0], np.int64)),
        (np.array([1, 1]), table(Hyper()), np.array([0], np.int32)),
        (np.array([1, 1]), table(Hyper())[:0], None),
        (np.array([1, 1]), table(Hyper())[0], None),
        (np.array([1, 1]), table(Hyper())[:, :5].copy(), None),
    ],
)
def test_bad_tables_are_refused_before_anything_is_written(
    plan: type[Plan], t: np.ndarray, numbers: np.ndarray, rows: np.ndarray | None
) -> None:
    params = [np.ones(3), np.ones(2)]
    slots = [[np.zeros(3), np.zeros(2)] for _ in range(2)]
    kernel = plan(Rule(), ["a", "b"], params, slots)
    with pytest.raises(ValueError, match=r"t |table|row"):
        kernel.step([np.ones(3), np.ones(2)], t, numbers, rows)
    assert all((p == 1).all() for p in params)
    assert not any(a.any() for slot in slots for a in slot)


@pytest.mark.parametrize("plan", KERNELS.values(), ids=KERNELS)
def test_the_steps_taken_are_written_where_a_tensor_takes_part(plan: type[Plan]) -> None:
    params = [np.ones(3), np.ones(2), np.ones(1)]
    kernel = plan(Rule(), ["a", "b", "c"], params, [[np.zeros_like(p) for p in params] for _ in range(2)])
    taken, t = np.array([4, 5, 6]), np.array([7, 8, 9])
    read_only = taken.copy()
    read_only.flags.writeable = False
    for wrong in (taken[:2], taken.astype(np.int32), read_only):
        with pytest.raises(ValueError, match="taken"):
            kernel.step([np.ones(3), None, np.ones(1)], t, table(Hyper()), taken=wrong)
    with pytest.raises(ArrayError):
        kernel.step([np.ones(3), None, np.ones(2)], t, table(Hyper()), taken=taken)
    with pytest.raises(ValueError, match="t must be at least 1"):
        kernel.step([np.ones(3), None, np.ones(1)], np.array([7, 8, 0]), table(Hyper()), taken=taken)
    assert all((p == 1).all() for p in params)
    assert taken.tolist() == [4, 5, 6]
    kernel.step([np.ones(3), None, np.ones(1)], t, table(Hyper()), taken=taken)
    assert taken.tolist() == [7, 5, 9]


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_carried_moves_where_a_step_was_taken(kernel: str) -> None:
    rule, carry = Rule(nesterov="scheduled"), np.ones((3, 1))
    params = [np.ones(n) for n in (3, 4, 2)]
    plan = KERNELS[kernel](rule, list("abc"), params, [[np.zeros_like(p) for p in params] for _ in range(2)])
    t, numbers = np.array([1, 5, 2]), table(Hyper(beta1=0.5, momentum_decay=0.0))
    plan.step([np.ones(3), None, np.ones(2)], t, numbers, carry=carry)
    assert carry.tolist() == [[0.25], [1.0], [0.25]]
    plan.step([np.full(3, np.nan), None, np.ones(2)], t + 1, numbers, check=True, carry=carry)
    assert carry.tolist() == [[0.25], [1.0], [0.25]], "a step that is not taken carries nothing on"
    read_only = carry.copy()
    read_only.flags.writeable = False
    kept = [p.copy() for p in params]
    for wrong in (None, carry[:2], carry.astype(np.float32), read_only):
        with pytest.raises(ValueError, match="carry"):
            plan.step([np.ones(3), None, np.ones(2)], t, numbers, carry=wrong)
    assert all(same_bits(p, q) for p, q in zip(params, kept, strict=True))


def test_illegal_numbers_are_refused_by_the_reference() -> None:
    p = np.ones(3)
    kernel = reference.Plan(Rule(), ["a"], [p], [[np.zeros(3)], [np.zeros(3)]])
    with pytest.raises(ArgumentError, match="lr"):
        kernel.step([np.ones(3)], np.array([1]), np.array([[-1.0, *astuple(Hyper())[1:]]]))
    assert (p == 1).all()


def test_no_tensor_or_no_gradient_is_no_step() -> None:
    for plan in KERNELS.values():
        assert plan(Rule(), [], [], [[], []]).step([], np.zeros(0, np.int64), table(Hyper())) is None
        p = np.ones(3)
        kernel = plan(Rule(), ["a"], [p], [[np.zeros(3)], [np.zeros(3)]])
        assert kernel.step([None], np.array([0]), table(Hyper()), clip=Clip("torch", 1.0)) == 0.0
        assert (p == 1).all()


def test_the_choice_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose()
    assert choice.plan is cpu.Plan
    assert str(choice).startswith("cpu: libadamas, ")
    monkeypatch.setattr(cpu, "why_not", lambda: "there was no compiler")
    choice = choose()
    assert choice.plan is reference.Plan
    assert str(choice) == "reference: the same numbers from NumPy, slowly, because there was no compiler"


def test_environments_belong_to_their_thread() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with reference.ieee():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with environment("flush"):
        thread.start()
        inside.wait(10)
        flushed = np.full(2, 1e-40, np.float32) * np.float32(0.5)
    leave.set()
    thread.join()
    assert np.count_nonzero(flushed.view(np.uint32)) == 0
