"""The native engine under JAX gives the bits of the reference: every optimizer, format and dtype, step and update."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax
import jax.numpy as jnp
from cases import CASES, IDS, Case, Reference, gradients, nested, numbers, to_jax

from adamas import jax as ours

FORMATS = ["float32", "bfloat16", "int8"]


def test_the_native_engine_serves_here() -> None:
    """Or nothing below would be tested; test_expression.py is about where it does not."""
    assert ours.adam(1e-3, kernel="native").kernel.startswith("native: libadamas")


@pytest.mark.parametrize("packed", [False, True], ids=["leaves", "packed"])
@pytest.mark.parametrize("moments", FORMATS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("x64", [False, True], ids=["", "x64"])
def test_step_in_every_format(x64: bool, case: Case, moments: str, packed: bool) -> None:
    with jax.enable_x64(x64):
        check_step(case, moments, packed)


def check_step(case: Case, moments: str, packed: bool) -> None:
    rng = np.random.default_rng(1)
    start = numbers(rng, "float32")
    optimizer = case.ours(**case.arguments, moments=moments, seed=5, kernel="native")
    right = Reference(case.rule, case.hyper, start, moments, seed=5)
    params = to_jax(start)
    state = optimizer.init(params)
    if packed:
        state = optimizer.pack(state, params)
    for own in gradients(rng, "float32", 5):
        right.step(own)
        params, state = optimizer.step(params, to_jax(own), state)
    assert int(state.count) == 5
    assert right.differences(params, optimizer.unpack(state, params) if packed else state) == []


@pytest.mark.parametrize(
    ("dtype", "weights", "moments"),
    [
        ("float64", "nearest", "float32"),
        ("bfloat16", "nearest", "float32"),
        ("float16", "nearest", "int8"),
        ("bfloat16", "stochastic", "bfloat16"),
        ("float16", "stochastic", "float32"),
        ("bfloat16", "split", "int8"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["leaves", "packed"])
def test_step_of_other_dtypes(dtype: str, weights: str, moments: str, packed: bool) -> None:
    rng = np.random.default_rng(2)
    start = numbers(rng, dtype)
    case = next(case for case in CASES if case.name == "adamw")
    optimizer = case.ours(**case.arguments, weights=weights, moments=moments, seed=2**63 + 1, kernel="native")
    right = Reference(case.rule, case.hyper, start, moments, weights, 2**63 + 1)
    params = to_jax(start)
    state = optimizer.init(params)
    if packed:
        state = optimizer.pack(state, params)
    for own in gradients(rng, dtype, 4):
        right.step(own)
        params, state = optimizer.step(params, to_jax(own), state)
    assert right.differences(params, optimizer.unpack(state, params) if packed else state) == []


@pytest.mark.parametrize("moments", FORMATS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_update_is_the_step_from_zero(case: Case, moments: str) -> None:
    """Bits of the moments are those of the step, and what is returned is minus what the rule subtracts, less decay."""
    rng = np.random.default_rng(3)
    start = numbers(rng, "float32")
    arguments = {name: value for name, value in case.arguments.items() if name != "weight_decay"}
    if case.name in ("adamw", "nadamw", "adamaxw"):
        arguments["weight_decay"] = 0.0
    optimizer = case.ours(**arguments, moments=moments, kernel="native")
    hyper = case.hyper.__class__(**{**vars(case.hyper), "weight_decay": 0.0})
    free = case.rule.schedule_free
    right = Reference(case.rule, hyper, start if free else {name: p * 0 for name, p in start.items()}, moments)
    params = to_jax(start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for own in gradients(rng, "float32", 4):
        before = [p.copy() for p in right.params]
        if not free:
            for p in right.params:
                p[...] = 0
        right.step(own)
        updates, state = update(to_jax(own), state, params)
        if free:
            updates = jax.tree.unflatten(
                jax.tree.structure(params),
                [jnp.asarray(b) + u for b, u in zip(before, jax.tree.leaves(updates), strict=True)],
            )
            # y + (y' - y) is y' but for one rounding
            for mine, p in zip(jax.tree.leaves(updates), right.params, strict=True):
                assert np.all(np.abs(np.asarray(mine) - p) <= 2.0**-23 * np.maximum(np.abs(p), 1.0))
            params = to_jax(dict(zip(right.names, right.params, strict=True)))
            updates = params
        assert right.differences(updates, state) == []


def test_a_leaf_without_a_gradient_is_left_alone() -> None:
    rng = np.random.default_rng(4)
    start = numbers(rng, "float32")
    case = CASES[1]
    for moments, packed in (("float32", False), ("int8", False), ("int8", True)):
        optimizer = case.ours(**case.arguments, moments=moments, nonfinite="propagate")
        right = Reference(case.rule, case.hyper, start, moments)
        params = to_jax(start)
        state = optimizer.init(params)
        if packed:
            state = optimizer.pack(state, params)
        for k, own in enumerate(gradients(rng, "float32", 4)):
            if k % 2:
                own = {**own, "a/kernel": None, "c": None}
            right.step(own)
            given = nested({name: None if g is None else jnp.asarray(g) for name, g in own.items()})
            params, state = optimizer.step(params, given, state)
        assert right.differences(params, optimizer.unpack(state, params) if packed else state) == []
    updates, _ = optimizer.update(given, optimizer.init(params), params)
    assert updates["a"]["kernel"] is None
    assert updates["c"] is None


def test_mask_and_two_dtypes_at_once() -> None:
    rng = np.random.default_rng(5)
    start = numbers(rng, "float32")
    halves = {name: p.astype(np.float16) for name, p in start.items()}
    case = CASES[1]
    mask = lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)  # noqa: E731
    optimizer = case.ours(**case.arguments, mask=mask)
    plain = case.hyper.__class__(**{**vars(case.hyper), "weight_decay": 0.0})
    rights = [
        {decays: Reference(case.rule, case.hyper if decays else plain, own) for decays in (True, False)}
        for own in (start, halves)
    ]
    params = [to_jax(start), to_jax(halves)]
    state = optimizer.init(params)
    for own in gradients(rng, "float32", 3):
        given = [own, {name: g.astype(np.float16) for name, g in own.items()}]
        for right, g in zip(rights, given, strict=True):
            for each in right.values():
                each.step(g)
        params, state = optimizer.step(params, [to_jax(g) for g in given], state)
    for right, mine in zip(rights, params, strict=True):
        for i, p in enumerate(jax.tree.leaves(mine)):
            assert np.asarray(p).tobytes() == right[p.ndim > 1].params[i].tobytes()


def test_skipping_changes_nothing_and_counts_nothing() -> None:
    rng = np.random.default_rng(6)
    start, own = numbers(rng, "float32"), gradients(rng, "float32", 1)[0]
    for kernel in ("native", "xla"):
        optimizer = ours.adamw(0.1, weight_decay=0.5, moments="int8", kernel=kernel)
        params = to_jax(start)
        params, state = optimizer.step(params, to_jax(own), optimizer.init(params))
        before = jax.tree.map(np.array, (params, state))
        bad = {**own, "c": np.array([np.nan], np.float32)}
        for wrong in (bad, {**own, "c": np.array([1e20], np.float32)}):
            updates, kept = optimizer.update(to_jax(wrong), state, params)
            assert not any(np.any(u) for u in jax.tree.leaves(updates))
            assert jax.tree.all(jax.tree.map(np.array_equal, kept, before[1]))
            params, state = optimizer.step(params, to_jax(wrong), state)
            assert jax.tree.all(jax.tree.map(np.array_equal, (params, state), before))
        params, state = optimizer.step(params, to_jax(own), state)
        assert int(state.count) == 2
    spread = ours.adam(0.1, nonfinite="propagate", moments="int8")
    params, state = spread.step(to_jax(start), to_jax(bad), spread.init(to_jax(start)))
    assert np.isnan(np.asarray(params["c"])).all()
    assert int(state.count) == 1
