"""adamas.keras where Keras runs on torch: what it must do on every backend, and what is torch's own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("keras", reason="Keras is not installed")

import keras
from support.keras_backends import *  # noqa: F403
from support.keras_backends import FAMILY, problem, same, tensor

import adamas.keras
from adamas.errors import UnsupportedError
from adamas.keras.kept import array


@pytest.mark.parametrize("case", FAMILY)
def test_the_array_expression_is_within_roundings_of_the_native_step(case: str) -> None:
    """torch computes one operation at a time; a rare element differs in its last place."""
    name, settings = FAMILY[case]
    start, steps = problem(8)
    results = []
    for kernel in ("native", "xla"):
        variables = [keras.Variable(p) for p in start]
        optimizer = getattr(adamas.keras, name)(**settings, kernel=kernel)
        for grads in steps:
            optimizer.apply([tensor(g) for g in grads], variables)
        results.append([array(v) for v in (*variables, *optimizer.variables)])
    for native, other in zip(*results, strict=True):
        np.testing.assert_allclose(native, other, rtol=8 * 2.0**-23, atol=8 * 2.0**-23 * 0.02)
    with pytest.raises(UnsupportedError, match="int8"):
        adamas.keras.Adam(kernel="xla", moments="int8").build([keras.Variable(np.ones(5000, np.float32))])


def test_a_stateless_step_leaves_the_variables_alone() -> None:
    start, steps = problem(1)
    variables = [keras.Variable(p) for p in start]
    optimizer = adamas.keras.Adam(0.01)
    optimizer.build(variables)
    grads = [tensor(g) for g in steps[0]]
    before = [array(v) for v in variables]
    new, state = optimizer.stateless_apply(
        [v.value.clone() for v in optimizer.variables], grads, [v.value.clone() for v in variables]
    )
    assert all(same(array(v), p) for v, p in zip(variables, before, strict=True))
    optimizer.apply(grads)
    for a, b in zip((*new, *state), (*variables, *optimizer.variables), strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=2.0**-22)


def test_tensors_that_move_and_gradients_of_any_layout() -> None:
    start, steps = problem(4)
    results = []
    for odd in (False, True):
        variables = [keras.Variable(p) for p in start]
        optimizer = adamas.keras.Adam(0.01)
        for t, grads in enumerate(steps):
            given = [tensor(g) for g in grads]
            if odd:
                given[2] = tensor(np.ascontiguousarray(grads[2].T)).T
                given[1] = given[1].double()
                if t == 2:
                    variables[2].value.data = variables[2].value.data.clone()
            optimizer.apply(given, variables)
        results.append([array(v) for v in (*variables, *optimizer.variables)])
    assert all(same(a, b) for a, b in zip(*results, strict=True))


def test_autograd_sees_that_a_variable_has_changed() -> None:
    variable = keras.Variable(np.ones(3, np.float32))
    loss = (variable.value**2).sum()
    adamas.keras.Adam(0.1).apply([tensor(np.ones(3, np.float32))], [variable])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
