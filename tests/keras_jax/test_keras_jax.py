"""adamas.keras where Keras runs on JAX: what it must do on every backend, and what is JAX' own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("keras", reason="Keras is not installed")

import keras
from support.keras_backends import *  # noqa: F403
from support.keras_backends import data, model, problem, same, tensor

import adamas.keras
from adamas.errors import StateError
from adamas.keras.kept import array


def test_a_new_learning_rate_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    optimizer = adamas.keras.Adam(0.01)
    step = optimizer._backend_update_step
    monkeypatch.setattr(type(optimizer), "_backend_update_step", lambda self, *args: (traced.append(1), step(*args))[1])
    built = model(optimizer)
    built.fit(*data(), batch_size=32, verbose=0)
    before = built.get_weights()
    optimizer.learning_rate = 0.0
    built.fit(*data(), batch_size=32, verbose=0)
    assert len(traced) == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, built.get_weights(), strict=True))


@pytest.mark.parametrize("settings", [{}, {"moments": "int8", "seed": 5}], ids=["float32", "int8"])
def test_the_array_expression_is_within_roundings_of_the_native_step(settings: dict[str, Any]) -> None:
    start, steps = problem(3)
    results = []
    for kernel in ("native", "xla"):
        variables = [keras.Variable(p) for p in start]
        optimizer = adamas.keras.AdamW(0.01, kernel=kernel, **settings)
        for grads in steps:
            optimizer.apply([tensor(g) for g in grads], variables)
        assert optimizer.kernel.startswith(kernel)
        results.append([array(v) for v in variables])
    for native, xla in zip(*results, strict=True):
        # In int8 a rounding may move a moment to the next code, 1/127 of the largest in its block.
        np.testing.assert_allclose(native, xla, rtol=1e-5, atol=1e-6 if not settings else 0.01)
    assert any(not same(a, b) for a, b in zip(*results, strict=True)) or not settings


def test_other_random_numbers_are_refused_where_a_compiled_function_holds_its_own() -> None:
    for moments, refused in (("int8", True), ("float32", False)):
        built = model(adamas.keras.Adam(0.01, moments=moments, seed=1))
        built.fit(*data(), batch_size=32, verbose=0)
        optimizer = built.optimizer
        own = optimizer.portable_state()
        optimizer.load_portable_state(own)  # draws by the same
        other = dataclasses.replace(own, seed=2, steps=dict.fromkeys(own.steps, 7))
        if refused:
            with pytest.raises(StateError, match="before the first step in such a function"):
                optimizer.load_portable_state(other)
        else:
            optimizer.load_portable_state(other)
        assert (optimizer.portable_state().seed, int(array(optimizer.iterations))) == ((1, 3) if refused else (2, 7))
