"""Gradients that are not finite: propagated, skipped or raised, with one norm over all plans; and scaled gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from support.environments import MODES, environment
from support.stepping import KERNELS, different, same_bits, table

from adamas.errors import ArgumentError, ArrayError, NonFiniteError
from adamas.kernels import Plan, cpu, reference
from adamas.numpy import Adam, AdamW
from adamas.rule import Clip, Hyper, Rule

KINDS = pytest.mark.parametrize("plan", KERNELS.values(), ids=KERNELS)
SHAPES = {"a": (7,), "b": (3, 4), "c": (), "d": (0, 2), "e": (5000,)}


def problem(seed: int, mixed: bool = False) -> dict[str, np.ndarray]:
    """Arrays of float32, or of both dtypes: then an optimizer of them has two plans."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(rng.standard_normal(shape), np.float64 if mixed and name in "bd" else np.float32)
        for name, shape in SHAPES.items()
    }


def everything(optimizer: Adam, params: dict[str, np.ndarray]) -> list[np.ndarray]:
    entries = optimizer.state_dict()["state"].values()
    return [*(p.copy() for p in params.values()), *(np.asarray(a) for entry in entries for a in entry.values())]


def unchanged(optimizer: Adam, params: dict[str, np.ndarray], before: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(everything(optimizer, params), before, strict=True))


def kernel(plan: type[Plan], params: list[np.ndarray]) -> tuple[Plan, list[list[np.ndarray]]]:
    slots = [[np.zeros_like(p) for p in params] for _ in range(2)]
    return plan(Rule(), [str(i) for i in range(len(params))], params, slots), slots


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_tensors_sum_of_squares(dtype: type[np.floating], mode: str) -> None:
    rng = np.random.default_rng(1)
    grads: list[np.ndarray | None] = [
        np.asarray(rng.standard_normal(n) * 10.0 ** rng.uniform(-20, 3, n), dtype) for n in (0, 1, 17, 4097, 40_000)
    ]
    grads[2] = None
    params = [np.zeros(n, dtype) for n in (0, 1, 17, 4097, 40_000)]
    with reference.ieee():
        right = np.array([reference.sum_of_squares([g]) for g in grads])
    plan, _ = kernel(reference.Plan, params)
    assert same_bits(plan.squares(grads), right)
    for isa in cpu.instruction_sets():
        cpu.set_instruction_set(isa)
        plan, _ = kernel(cpu.Plan, params)
        with environment(mode):
            found = plan.squares(grads)
        assert same_bits(found, right)
    assert right[2] == 0 != right[4]
    with pytest.raises(ArrayError, match="tensor '1': the gradient has shape"):
        plan.squares([grads[0], np.zeros(2, dtype), *grads[2:]])


def test_a_check_gives_the_same_bits_in_both_kernels() -> None:
    """With every kind of clip, with sums of its own and with those of others, finite or not."""
    rng = np.random.default_rng(2)
    good = [rng.standard_normal(n).astype(np.float32) for n in (5, 5000, 9)]
    bad = [good[0], np.where(np.arange(5000) == 4999, np.float32(np.inf), good[1]), good[2]]
    for grads, kind, squares, scale in itertools.product(
        (good, bad, [None, good[1], None], [bad[0], None, bad[2]]),
        (None, "value", "norm", "global_norm", "torch"),
        (None, 0.0, 1e5, np.inf, np.nan),
        (1.0, -(2.0**-7)),
    ):
        results = []
        for plan in (reference.Plan, cpu.Plan):
            params = [np.ones_like(g) for g in good]
            steps, slots = kernel(plan, params)
            taken = np.zeros(3, np.int64)
            norm = steps.step(
                grads,
                np.ones(3, np.int64),
                table(Hyper(lr=0.1)),
                grad_scale=scale,
                clip=None if kind is None else Clip(kind, 0.5),  # type: ignore[arg-type]
                check=True,
                squares=squares,
                taken=taken,
            )
            assert norm is not None
            if not np.isfinite(norm):
                assert not taken.any()
                assert all((p == 1).all() for p in params)
                assert not any(a.any() for slot in slots for a in slot)
            else:
                assert taken.tolist() == [int(g is not None) for g in grads]
            results.append([np.array(norm), *params, *slots[0], *slots[1]])
        assert not any(different(a, b).any() for a, b in zip(*results, strict=True))
        expected = grads is bad if squares is None else not np.isfinite(squares)
        assert np.isfinite(results[0][0]) == (not expected)


@KINDS
def test_sums_that_are_given_are_not_added_up_again(plan: type[Plan]) -> None:
    """A plan steps as its part of a larger optimizer does: the norm is that of the whole."""
    grads = [np.full(4, 3.0), np.full(4, 4.0)]
    results = []
    for cut in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        params = [np.ones(4), np.ones(4)]
        parts = [(kernel(plan, params[part])[0], grads[part]) for part in cut]
        total = sum(s for steps, own in parts for s in steps.squares(own).tolist())
        norms = [
            steps.step(own, np.ones(len(own), np.int64), table(Hyper()), clip=Clip("torch", 2.0), squares=total)
            for steps, own in parts
        ]
        assert norms == [10.0] * len(parts)
        results.append(params)
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_skip_changes_nothing_and_is_counted(mixed: bool, value: float) -> None:
    params = problem(0, mixed)
    optimizer = AdamW(params, lr=0.1, nonfinite="skip")
    optimizer.step(problem(1, mixed))
    before = everything(optimizer, params)
    for name, max_norm in itertools.product("abce", (None, 1.0)):
        grads = problem(2, mixed)
        grads[name] = np.array(grads[name])
        grads[name].flat[-1] = value
        norm = optimizer.step(grads, max_norm=max_norm)
        assert norm is not None
        assert not np.isfinite(norm)
        assert unchanged(optimizer, params, before)
    assert optimizer.skipped == 8
    optimizer.step(problem(2, mixed))
    assert optimizer.skipped == 8
    other_params = problem(0, mixed)
    other = AdamW(other_params, lr=0.1)
    other.step(problem(1, mixed))
    other.step(problem(2, mixed))
    assert all(same_bits(params[name], other_params[name]) for name in params), "the steps skipped were not counted"


@pytest.mark.parametrize("mixed", [False, True])
def test_raise_names_the_first_tensor_and_changes_nothing(mixed: bool) -> None:
    params = problem(0, mixed)
    optimizer = Adam(params, lr=0.1, nonfinite="raise")
    optimizer.step(problem(1, mixed))
    before = everything(optimizer, params)
    grads = problem(2, mixed)
    grads["e"][3:5] = np.nan
    grads["b"][2, 1] = -np.inf
    with pytest.raises(NonFiniteError, match=r"tensor 'b': of 12 elements of its gradient 0 are NaN and 1 infinite"):
        optimizer.step(grads, max_norm=1.0)
    with pytest.raises(FloatingPointError, match=r"tensor 'e': of 5000 elements of its gradient 2 are NaN"):
        optimizer.step({**grads, "b": None})
    assert unchanged(optimizer, params, before)
    assert optimizer.skipped == 0
    huge = {"b": np.full((3, 4), 1e200)}
    wide = Adam({"b": np.zeros((3, 4))}, nonfinite="raise")
    with pytest.raises(NonFiniteError, match=r"tensor 'b': .* 0 are NaN and 0 infinite, but their squares overflow"):
        wide.step(huge)
    many = Adam([np.zeros(1), np.zeros(1)], nonfinite="raise")
    with pytest.raises(NonFiniteError, match="the squares of all gradients together overflow"):
        many.step([np.full(1, 1.2e154), np.full(1, 1.2e154)])
    assert not wide.state_dict()["state"]["b"]["m"].any()


def test_propagate_is_the_default() -> None:
    params = problem(0)
    optimizer = Adam(params)
    grads = problem(1)
    grads["a"][0] = np.nan
    assert optimizer.step(grads) is None
    assert np.isnan(params["a"]).tolist() == [True] + [False] * 6
    assert optimizer.skipped == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_looked_at_changes_no_bit(mixed: bool) -> None:
    results = []
    for nonfinite in ("propagate", "skip", "raise"):
        params = problem(0, mixed)
        optimizer = AdamW(params, lr=0.1, nonfinite=nonfinite)  # type: ignore[arg-type]
        norms = [optimizer.step(problem(seed, mixed), max_norm=m) for seed, m in ((1, None), (2, 0.5))]
        results.append(everything(optimizer, params))
        with reference.ieee():
            right = float(np.sqrt(reference.sum_of_squares(list(problem(1, mixed).values()))))
        assert norms[0] == (None if nonfinite == "propagate" else right)
        exact = np.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in problem(2, mixed).values()))
        assert norms[1] == pytest.approx(exact, rel=1e-14)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_scaled_gradients_are_unscaled_first(mixed: bool, max_norm: float | None) -> None:
    """A power of two loses nothing: the same bits as without, and the norm is that of the gradients unscaled."""
    results = []
    for scale in (1.0, 2.0**16):
        params = problem(0, mixed)
        optimizer = Adam(params, lr=0.1, nonfinite="skip")
        grads = {name: np.asarray(g * g.dtype.type(scale)) for name, g in problem(1, mixed).items()}
        norm = optimizer.step(grads, max_norm=max_norm, grad_scale=1 / scale)
        results.append([np.array(norm), *everything(optimizer, params)])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("bad", [0, -1.0, np.inf, np.nan, "1", None, True])
def test_a_scale_that_is_none_is_refused(bad: Any) -> None:
    params = problem(0)
    optimizer = Adam(params)
    before = everything(optimizer, params)
    with pytest.raises(ArgumentError, match="grad_scale="):
        optimizer.step(problem(1), grad_scale=bad)
    assert unchanged(optimizer, params, before)


def test_other_words_are_refused() -> None:
    with pytest.raises(ArgumentError, match="nonfinite='ignore': give one of 'propagate', 'skip', 'raise'"):
        Adam(problem(0), nonfinite="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("mixed", [False, True])
def test_squares_that_overflow_float32_are_not_finite(mixed: bool) -> None:
    """1e20 is a number, its square is none in float32: v would be infinite, and NaN one step later."""
    params = problem(0, mixed)
    for nonfinite, grad_scale, value in (("skip", 1.0, 1e20), ("raise", 1.0, 1e20), ("skip", 1e30, 1.0)):
        optimizer = Adam(params, nonfinite=nonfinite)  # type: ignore[arg-type]
        before = everything(optimizer, params)
        grads = {**problem(1, mixed), "a": np.full(7, value, np.float32)}
        if nonfinite == "raise":
            with pytest.raises(NonFiniteError, match=r"tensor 'a': .* but their squares overflow float32"):
                optimizer.step(grads)
        else:
            assert (optimizer.step(grads, grad_scale=grad_scale) or 0.0) > 1e19
            assert optimizer.skipped == 1
        assert unchanged(optimizer, params, before)
    wide = [np.zeros(3)]
    Adam(wide, nonfinite="raise").step([np.full(3, 1e20)])
    assert wide[0].all(), "in float64 it is one"
    large = Adam([np.ones(3, np.float32)], nonfinite="raise")
    for _ in range(3):
        large.step([np.full(3, 2.0**63, np.float32)])
    assert np.isfinite(large.portable_state().slots["0"]["v"]).all()
