"""The native step gives the bits of the rule's NumPy reference: eagerly, in graphs, in loops in graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from reference import DISCRIMINATING, SHAPES, Reference, gradients, same_bits, tensors

from adamas.tensorflow import Adam, AdamW

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "decay": {"learning_rate": 0.01, "weight_decay": 0.05},
    "amsgrad": {"learning_rate": 0.01, "amsgrad": True},
    "discriminating": DISCRIMINATING,
    "betas": {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 0.0, "learning_rate": 0.3},
}
STEPS = 6


def _matches(optimizer: Adam, variables: list[tf.Variable], reference: Reference) -> None:
    assert optimizer.kernel.startswith("native")
    assert int(optimizer.iterations) == reference.t
    state = optimizer.portable_state()
    for i, name in enumerate(state.names):
        assert same_bits(variables[i].numpy(), reference.params[i]), (name, variables[i].shape)
        for slot, array in zip(state.slots[name].values(), reference.slots[i], strict=True):
            assert same_bits(slot, array), (name, variables[i].shape)


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_reference(setting: str, dtype: str, mode: str, rng: np.random.Generator) -> None:
    start = tensors(rng, SHAPES, dtype)
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = Adam(**SETTINGS[setting]), Reference(start, **SETTINGS[setting])

    def step(grads: list[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    run = tf.function(step) if mode == "function" else step
    for _ in range(STEPS):
        grads = gradients(rng, SHAPES, dtype)
        run([tf.constant(g) for g in grads])
        reference.step(grads)
    _matches(optimizer, variables, reference)


@pytest.mark.parametrize("setting", ["defaults", "discriminating"])
def test_loop_in_graph(setting: str, rng: np.random.Generator) -> None:
    start = tensors(rng, SHAPES)
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = Adam(**SETTINGS[setting]), Reference(start, **SETTINGS[setting])
    grads = [np.stack(step) for step in zip(*(gradients(rng, SHAPES) for _ in range(STEPS)), strict=True)]

    @tf.function
    def train() -> None:
        for i in tf.range(STEPS):
            optimizer.apply_gradients(zip([tf.constant(g)[i] for g in grads], variables, strict=True))

    train()
    for i in range(STEPS):
        reference.step([np.asarray(g[i]) for g in grads])
    _matches(optimizer, variables, reference)


def test_both_dtypes_in_one_step(rng: np.random.Generator) -> None:
    shapes = [(5,), (4097,), (2, 2)]
    start = [*tensors(rng, shapes), *tensors(rng, shapes, "float64")]
    variables = [tf.Variable(start[i]) for i in (0, 3, 1, 4, 2, 5)]
    reference = Reference([v.numpy() for v in variables], **DISCRIMINATING)
    optimizer = Adam(**DISCRIMINATING)
    for _ in range(STEPS):
        grads = [np.asarray(rng.normal(size=v.shape), v.dtype.as_numpy_dtype) for v in variables]
        optimizer.apply_gradients(zip([tf.constant(g) for g in grads], variables, strict=True))
        reference.step(grads)
    _matches(optimizer, variables, reference)


def test_special_values(rng: np.random.Generator) -> None:
    """Infinities, subnormals and signed zeros; TensorFlow's threads flush subnormals to zero, the step must not."""
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1e-40, -1e-45, 1e38, 1e-20, 3.0], np.float32)
    p, g = (np.array(part) for part in np.broadcast_arrays(special[:, None], special[None, :]))
    variable, optimizer, reference = tf.Variable(p), Adam(weight_decay=0.1), Reference([p], weight_decay=0.1)
    with np.errstate(all="ignore"):
        for _ in range(3):
            optimizer.apply_gradients([(tf.constant(g), variable)])
            reference.step([g])
    expected = reference.params[0]
    given = variable.numpy()
    assert np.array_equal(np.isnan(given), np.isnan(expected))
    assert same_bits(np.nan_to_num(given), np.nan_to_num(expected))


def test_many_tensors_with_missing_gradients(rng: np.random.Generator) -> None:
    shapes = [(int(n),) for n in rng.integers(1, 300, size=200)]
    start = tensors(rng, shapes)
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = AdamW(), Reference(start, weight_decay=0.004)
    for step in range(4):
        grads = [None if (i + step) % 3 == 0 else g for i, g in enumerate(gradients(rng, shapes))]
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply_gradients(
                zip([None if g is None else tf.constant(g) for g in grads], variables, strict=True)
            )
        reference.step(grads)
    _matches(optimizer, variables, reference)


def test_equals_numpy_adapter(rng: np.random.Generator) -> None:
    """The same gradients and the same learning rate give the same bits as `adamas.numpy`, moments included."""
    from adamas import state
    from adamas.numpy import Adam as NumpyAdam

    start = dict(zip("abc", tensors(rng, [(3,), (64, 65), ()]), strict=True))
    variables = [tf.Variable(p, name=name) for name, p in start.items()]
    optimizer = Adam(learning_rate=0.01)
    optimizer.build(variables)
    theirs = {name: np.array(p) for name, p in start.items()}
    other = NumpyAdam(theirs, lr=float(np.float32(0.01)), like="keras")
    for _ in range(5):
        grads = gradients(rng, [(3,), (64, 65), ()])
        optimizer.apply(grads, variables)
        other.step(dict(zip("abc", grads, strict=True)))
    for variable, p in zip(variables, theirs.values(), strict=True):
        assert same_bits(variable.numpy(), p)
    mine, its = optimizer.portable_state(), other.portable_state()
    assert isinstance(mine, state.State)
    assert mine.names == its.names
    assert mine.rule == its.rule
    for name in mine.names:
        for slot in mine.slots[name]:
            assert same_bits(mine.slots[name][slot], its.slots[name][slot])


def test_separate_layout(rng: np.random.Generator) -> None:
    start = tensors(rng, SHAPES)
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = Adam(**DISCRIMINATING), Reference(start, **DISCRIMINATING)
    optimizer.expect_xla()
    for _ in range(STEPS):
        grads = gradients(rng, SHAPES)
        optimizer.apply_gradients(zip([tf.constant(g) for g in grads], variables, strict=True))
        reference.step(grads)
    _matches(optimizer, variables, reference)
