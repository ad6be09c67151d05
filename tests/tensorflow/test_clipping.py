"""Clipping and unscaling in the native call: the reference's bits. Other engines: to rounding. NaN: as in Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import DISCRIMINATING, SHAPES, Reference, gradients, same_bits, tensors

from adamas.errors import ArgumentError
from adamas.tensorflow import Adam

EPS = 2.0**-23
KINDS: dict[str, dict[str, Any]] = {
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 3.0},
    "clipvalue": {"clipvalue": 0.01},
    "scale": {"loss_scale_factor": 10.0},
    "clipnorm, scale": {"clipnorm": 0.05, "loss_scale_factor": 10.0},
    "global_clipnorm, scale": {"global_clipnorm": 3.0, "loss_scale_factor": 10.0},
    "clipvalue, scale": {"clipvalue": 0.01, "loss_scale_factor": 10.0},
}


def runner(optimizer: Adam, variables: list[tf.Variable], mode: str) -> Any:
    def step(grads: list[tf.Tensor | None]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "jit")


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_reference(kind: str, dtype: str, mode: str, rng: np.random.Generator) -> None:
    settings = {**DISCRIMINATING, **KINDS[kind]}
    start = tensors(rng, SHAPES, dtype)
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = Adam(**settings), Reference(start, **settings)
    run = runner(optimizer, variables, mode)
    for _ in range(5):
        grads = gradients(rng, SHAPES, dtype)
        run([tf.constant(g) for g in grads])
        reference.step(grads)
    assert optimizer.kernel.startswith("native")
    state = optimizer.portable_state()
    for i, name in enumerate(state.names):
        assert same_bits(variables[i].numpy(), reference.params[i])
        for slot, array in zip(state.slots[name].values(), reference.slots[i], strict=True):
            assert same_bits(slot, array)


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_a_global_norm_counts_both_dtypes_and_what_was_added_later(mode: str, rng: np.random.Generator) -> None:
    """Three calls of the op, one norm."""
    shapes = [(5,), (4097,), (2, 2), (40, 40)]
    start = [np.asarray(rng.normal(size=s), d) for s, d in zip(shapes, ("f4", "f8", "f4", "f4"), strict=True)]
    variables = [tf.Variable(p) for p in start]
    optimizer = Adam(learning_rate=0.01, global_clipnorm=2.0)
    reference = Reference(start, learning_rate=0.01, global_clipnorm=2.0)
    optimizer.build(variables[:3])
    optimizer.build(variables)
    run = runner(optimizer, variables, mode)
    for _ in range(4):
        grads = [np.asarray(rng.normal(size=v.shape), v.dtype.as_numpy_dtype) for v in variables]
        run([tf.constant(g) for g in grads])
        reference.step(grads)
    for variable, p in zip(variables, reference.params, strict=True):
        np.testing.assert_allclose(variable.numpy(), p, rtol=EPS)  # the tensors are added up in another order
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in grads))
    assert norm > 4.0  # far above the bound, so a norm of one call alone would be far off


@pytest.mark.parametrize(("kernel", "mode"), [("resource", "eager"), ("resource", "function"), ("xla", "eager")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_other_engines(kind: str, kernel: Any, mode: str, rng: np.random.Generator) -> None:
    shapes = [(31,), (3, 5)]
    settings = {**DISCRIMINATING, **KINDS[kind], "weight_decay": None}
    start = tensors(rng, shapes)
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = Adam(**settings, kernel=kernel), Reference(start, **settings)
    run = runner(optimizer, variables, mode)
    for _ in range(5):
        grads = [np.float32(3.0) * g for g in tensors(rng, shapes)]
        run([tf.constant(g) for g in grads])
        reference.step(grads)
    assert optimizer.kernel.startswith(kernel)
    for variable, p, first in zip(variables, reference.params, start, strict=True):
        # Each of the 5 steps moves an element by at most about lr / (1 - beta_1); its relative error is below 64 eps.
        np.testing.assert_allclose(variable.numpy(), p, rtol=5 * EPS, atol=5 * 0.1 * 64 * EPS)
        assert abs(p - first).max() > 0.01


@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_numbers_that_are_not_finite(kind: str, bad: float, mode: str) -> None:
    """Which elements become NaN, and which stay numbers, is as in Keras."""
    grads = [tf.constant([1.0, bad, -2.0, 0.0]), tf.constant([3.0, 0.5])]
    results = []
    for optimizer in (Adam(0.1, **KINDS[kind]), keras.optimizers.Adam(0.1, **KINDS[kind])):
        variables = [tf.Variable(tf.ones(4)), tf.Variable(tf.ones(2))]
        optimizer.build(variables)
        runner(optimizer, variables, mode)(grads)
        results.append([v.numpy() for v in variables])
    for mine, its in zip(*results, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5)  # and NaN where there is NaN


def test_gradients_whose_squares_overflow_float32() -> None:
    variable, optimizer = tf.Variable(tf.zeros(2)), Adam(0.1, clipnorm=1.0, epsilon=1.0)
    optimizer.apply([tf.constant([3e25, 4e25])], [variable])
    # g = (0.6, 0.8) after clipping, m = 0.1 g, v = 0.001 g^2, alpha = 0.1 sqrt(0.001) / 0.1
    g = np.array([0.6, 0.8])
    expected = -np.sqrt(0.001) * 0.1 * g / (np.sqrt(0.001) * g + 1.0)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5)


def test_a_missing_gradient_counts_nothing() -> None:
    variables = [tf.Variable(tf.zeros(2)), tf.Variable(tf.zeros(3))]
    one, two = Adam(0.1, global_clipnorm=1.0, epsilon=1.0), Adam(0.1, global_clipnorm=1.0, epsilon=1.0)
    one.build(variables)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        one.apply([tf.constant([3.0, 4.0]), None], variables)
    alone = tf.Variable(tf.zeros(2))
    two.apply([tf.constant([3.0, 4.0])], [alone])
    assert np.array_equal(variables[0].numpy(), alone.numpy())
    assert not variables[1].numpy().any()


@pytest.mark.parametrize("name", ["clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"])
def test_bounds_are_checked(name: str) -> None:
    for bad in (-1.0, np.inf, np.nan, "1", True):
        with pytest.raises(ArgumentError, match=name):
            Adam(**{name: bad})
    optimizer = Adam(**{name: 1.0})
    with pytest.raises(ArgumentError, match=name):
        setattr(optimizer, name, -2.0)
    assert getattr(optimizer, name) == 1.0
    other = "clipvalue" if name == "clipnorm" else "clipnorm"
    if name != "loss_scale_factor":
        Adam(**{name: 0})  # off, as in Keras
        with pytest.raises(ArgumentError, match="set one of"):
            setattr(optimizer, other, 1.0)
        with pytest.raises(ValueError, match="Only one of"):
            Adam(**{name: 1.0, other: 1.0})
