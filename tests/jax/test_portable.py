"""A checkpoint moves between adamas.numpy and adamas.jax, in any format, and the steps go on with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax
import jax.numpy as jnp
from cases import CASES, Case, Reference, gradients, numbers, same, to_jax

from adamas import jax as ours
from adamas import state as portable
from adamas.errors import StateError
from adamas.numpy import AdamW

FEW = ("a/bias", "a/kernel", "b/0", "c")


def start(dtype: str = "float32") -> dict[str, np.ndarray]:
    return numbers(np.random.default_rng(0), dtype, leaves=FEW)


@pytest.mark.parametrize(
    ("dtype", "moments", "weights"),
    [("float32", "float32", "nearest"), ("float32", "int8", "nearest"), ("bfloat16", "bfloat16", "split")],
)
def test_from_numpy_to_jax_and_back(dtype: str, moments: Any, weights: Any, tmp_path: Path) -> None:
    arguments = {"moments": moments, "weights": weights, "seed": 9}
    numpy_numbers = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "like": "optax"}
    alone, moved = start(dtype), start(dtype)
    staying = AdamW(alone, **numpy_numbers, **arguments)
    first = AdamW(moved, **numpy_numbers, **arguments)
    every = gradients(np.random.default_rng(1), dtype, 6, FEW)
    for own in every:
        staying.step(own)
    for own in every[:2]:
        first.step(own)
    portable.save(tmp_path / "a.safetensors", first.portable_state())
    optimizer = ours.adamw(0.02, 0.8, 0.95, 1e-3, weight_decay=0.1, **{**arguments, "seed": 1})  # another seed: adopted
    params = to_jax(moved)
    state = optimizer.load_portable_state(portable.load(tmp_path / "a.safetensors"), params)
    for own in every[2:4]:
        params, state = optimizer.step(params, to_jax(own), state)
    back = dict(zip(FEW, (np.array(p) for p in jax.tree.leaves(params)), strict=True))
    last = AdamW(back, **numpy_numbers, **arguments)
    last.load_portable_state(optimizer.portable_state(state, params))
    for own in every[4:]:
        last.step(own)
    for name in FEW:
        assert same(back[name], alone[name])


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_optimizers_state_goes_on_exactly(case: Case) -> None:
    optimizer = case.ours(**case.arguments, moments="int8", seed=3)
    right = Reference(case.rule, case.hyper, start(), "int8", seed=3)
    params = to_jax(start())
    state = optimizer.pack(optimizer.init(params), params)
    for k, own in enumerate(gradients(np.random.default_rng(2), "float32", 4, FEW)):
        right.step(own)
        params, state = optimizer.step(params, to_jax(own), state)
        if k == 1:
            state = optimizer.load_portable_state(optimizer.portable_state(state, params), params)
    assert right.differences(params, state) == []


def test_renamed_parameters_keep_their_random_numbers() -> None:
    optimizer = ours.adam(0.1, moments="int8", seed=3)
    params = {"old": jnp.ones(5000, jnp.float32)}
    grads = jnp.linspace(-1, 1, 5000, dtype=jnp.float32)
    params, state = optimizer.step(params, {"old": grads}, optimizer.init(params))
    given = optimizer.portable_state(state, params).renamed({"old": "new"})
    moved = {"new": jnp.array(params["old"], copy=True)}
    other = optimizer.load_portable_state(given, moved)
    assert optimizer.portable_state(other, moved).rounding_names == {"new": "old"}
    for _ in range(3):
        params, state = optimizer.step(params, {"old": grads}, state)
        moved, other = optimizer.step(moved, {"new": grads}, other)
    assert same(moved["new"], np.asarray(params["old"]))
    assert same(other.nu["new"].codes, np.asarray(state.nu["old"].codes))


def test_groups_and_schedules_are_the_numbers_of_the_next_step() -> None:
    optimizer = ours.adamw(lambda count: 0.5 / (1 + count), weight_decay=0.1, mask={"a": True, "b": False})
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    _, state = optimizer.update(params, optimizer.init(params), params)
    given = optimizer.portable_state(state, params)
    assert [given.hypers[given.groups[name]].weight_decay for name in ("a", "b")] == [0.1, 0.0]
    assert given.hypers[0].lr == 0.25


def test_what_does_not_fit_is_refused() -> None:
    optimizer = ours.adam(0.1)
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(3, jnp.float32)}
    given = optimizer.portable_state(optimizer.init(params), params)
    with pytest.raises(StateError, match="b: the state has shape"):
        optimizer.load_portable_state(given, params | {"b": jnp.ones(4, jnp.float32)})
    with pytest.raises(StateError, match="amsgrad"):
        ours.amsgrad(0.1).load_portable_state(given, params)
    apart = AdamW({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)})
    apart.step({"a": np.ones(2, np.float32)})
    with pytest.raises(StateError, match="one count for all"):
        optimizer.load_portable_state(apart.portable_state(), params)
