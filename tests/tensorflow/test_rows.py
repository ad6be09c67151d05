"""Sparse gradients, lazily: steps eagerly, in graphs, in XLA, in Keras models."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from lazy import (
    SETTINGS,
    STEPS,
    Gradient,
    Lazy,
    clocks,
    data,
    matches,
    model,
    moments,
    problem,
    runner,
    tensor,
    tensors,
    with_int64,
)
from reference import same_bits

from adamas.kernels.tensorflow import stepper
from adamas.tensorflow import Adam, AdamW


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_reference(setting: str, dtype: str, mode: str, rng: np.random.Generator) -> None:
    start, steps = problem(rng, dtype)
    variables = [tf.Variable(p) for p in start]
    optimizer, right = Adam(**SETTINGS[setting], sparse="lazy"), Lazy(start, **SETTINGS[setting])
    optimizer.build(variables)

    def step(grads: list[Any]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    run = runner(mode, step)
    for grads in steps:
        run(tensors(grads))
        right.step(grads)
    assert optimizer.kernel.startswith("native")
    assert sum(int(seen[-1]) for seen in right.seen) > 5
    matches(optimizer, variables, right)


EXPRESSIONS = [
    ("discriminating", "auto", "xla"),
    ("global_clipnorm", "xla", "xla"),
    *((setting, "xla", "eager") for setting in SETTINGS),
    ("discriminating", "xla", "function"),
    ("clipnorm", "resource", "eager"),
]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(("setting", "kernel", "mode"), EXPRESSIONS)
def test_the_expression_is_close_to_the_reference(
    setting: str, kernel: Any, mode: str, rng: np.random.Generator
) -> None:
    """Each step moves an element by at most about lr / (1 - beta_1), with a relative error below 64 eps."""
    settings = SETTINGS[setting]
    start, steps = problem(rng, "float64")
    if mode != "eager":  # two traces; XLA takes seconds for each
        steps = [with_int64(grads) for step, grads in zip(STEPS, steps, strict=True) if step in ("sssdd", "sdsdd")]
    variables = [tf.Variable(p) for p in start]
    optimizer, right = Adam(**settings, kernel=kernel, sparse="lazy"), Lazy(start, **settings)
    optimizer.build(variables)

    def step(grads: list[Any]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    run = runner(mode, step)
    for grads in steps:
        run(tensors(grads))
        right.step(grads)
    eps = float(np.finfo(np.float64).eps)
    for i, variable in enumerate(variables):
        np.testing.assert_allclose(variable.numpy(), right.params[i], rtol=8 * eps, atol=8 * 64 * eps)
        for slot, array in zip(moments(optimizer, i), right.slots[i], strict=True):
            np.testing.assert_allclose(slot, array, rtol=64 * eps, atol=64 * eps * np.abs(array).max(initial=0.0))
    for mine, its in zip(clocks(optimizer), right.seen, strict=False):
        assert np.array_equal(mine, its)


@pytest.mark.parametrize("setting", SETTINGS)
def test_rows_that_never_rest_are_the_dense_answer(setting: str, rng: np.random.Generator) -> None:
    """The bits of sparse="dense", duplicates and clips included."""
    start = [np.asarray(rng.normal(size=shape), np.float32) for shape in [(30, 5), (8,)]]
    lazy, dense = ([tf.Variable(p) for p in start] for _ in range(2))
    one, other = Adam(**SETTINGS[setting], sparse="lazy"), Adam(**SETTINGS[setting])
    for _ in range(5):
        indices = np.concatenate([rng.permutation(30), rng.integers(0, 30, 11)])
        values = np.asarray(rng.normal(size=(41, 5)), np.float32)
        grads = [tf.IndexedSlices(values, indices, (30, 5)), tf.constant(rng.normal(size=8), tf.float32)]
        one.apply(grads, lazy)
        other.apply(grads, dense)
    for a, b in zip(lazy, dense, strict=True):
        assert same_bits(a.numpy(), b.numpy())
    for i in range(2):
        assert all(same_bits(a, b) for a, b in zip(moments(one, i), moments(other, i), strict=True))


def test_loop_in_a_graph(rng: np.random.Generator) -> None:
    start = np.asarray(rng.normal(size=(50, 3)), np.float32)
    indices, values = rng.integers(0, 50, (12, 7)), np.asarray(rng.normal(size=(12, 7, 3)), np.float32)
    variable, optimizer, right = tf.Variable(start), AdamW(0.02, sparse="lazy"), Lazy([start], 0.02, weight_decay=0.004)
    optimizer.build([variable])

    @tf.function
    def train() -> None:
        for i in tf.range(12):
            grad = tf.IndexedSlices(tf.constant(values)[i], tf.constant(indices)[i], (50, 3))
            optimizer.apply([grad], [variable])

    train()
    for i in range(12):
        right.step([(indices[i], values[i])])
    matches(optimizer, [variable], right)


def test_gradients_of_unknown_length(rng: np.random.Generator) -> None:
    """One trace for batches of every size, the empty one too."""
    start = np.asarray(rng.normal(size=(20, 3)), np.float32)
    variable, optimizer, right = tf.Variable(start), Adam(0.1, sparse="lazy"), Lazy([start], 0.1)
    optimizer.build([variable])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec(None, tf.float32)])
    def run(indices: tf.Tensor, values: tf.Tensor) -> None:
        optimizer.apply([tf.IndexedSlices(values, indices, (20, 3))], [variable])

    for n in (5, 1, 0, 9):
        grad = rng.integers(0, 20, n), np.asarray(rng.normal(size=(n, 3)), np.float32)
        run(*grad)
        right.step([grad])
    matches(optimizer, [variable], right)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        run(np.arange(2), np.zeros((2, 4), np.float32))
    matches(optimizer, [variable], right)


def test_tables_excluded_from_weight_decay() -> None:
    """A tiny gradient and a huge epsilon: the decay alone moves a row, and only a row with a gradient."""
    decayed, kept = tf.Variable(tf.ones((3, 2)), name="decayed"), tf.Variable(tf.ones((3, 2)), name="kept")
    optimizer = AdamW(0.1, weight_decay=0.5, epsilon=1e30, sparse="lazy")
    optimizer.exclude_from_weight_decay(var_names=["kept"])
    grad = tf.IndexedSlices(tf.ones((1, 2)), [1], (3, 2))
    for _ in range(2):
        optimizer.apply([grad, grad], [decayed, kept])
    np.testing.assert_allclose(decayed.numpy()[:, 0], [1.0, 0.95**2, 1.0], rtol=1e-6)
    assert (kept.numpy() == 1.0).all()


def test_variables_added_later(rng: np.random.Generator) -> None:
    start = [np.asarray(rng.normal(size=shape), np.float32) for shape in [(6, 2), (5, 3)]]
    variables = [tf.Variable(p) for p in start]
    optimizer, right = Adam(0.1, sparse="lazy"), Lazy(start, 0.1)
    grads: list[Gradient] = [(np.array([1, 1]), np.ones((2, 2), np.float32)), None]
    optimizer.apply([tensor(grads[0], (6, 2))], variables[:1])
    right.step(grads)
    optimizer.build(variables)
    grads = [(np.array([3]), np.ones((1, 2), np.float32)), (np.array([4]), np.ones((1, 3), np.float32))]
    optimizer.apply([tensor(grads[0], (6, 2)), tensor(grads[1], (5, 3))], variables)
    right.step(grads)
    matches(optimizer, variables, right)
    assert [tuple(v.shape) for v in optimizer.variables[2:]] == [(6, 2), (6, 2), (5, 3), (5, 3), (7,), (6,)]


def test_a_keras_model(rng: np.random.Generator) -> None:
    """Keras' fit, the loop of adamas.train.fit, and a loop by hand over the same batches give the same bits."""
    from adamas.train import fit

    x, y = data(rng)
    fitted, looped, by_hand = model(), model(), model()
    begin = fitted.layers[0].embeddings.numpy()
    fitted.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    history = fit(looped, x, y, batch_size=32, epochs=2, shuffle=False, verbose=0, program="graph")
    assert history.params["program"] == "graph"
    loss = keras.losses.MeanSquaredError()
    for i in [0, 32, 64] * 2:
        with tf.GradientTape() as tape:
            value = loss(y[i : i + 32], by_hand(x[i : i + 32]))
        grads = tape.gradient(value, [v.value for v in by_hand.trainable_variables])
        assert isinstance(grads[0], tf.IndexedSlices)
        by_hand.optimizer.apply(grads, by_hand.trainable_variables)
    end = fitted.layers[0].embeddings.numpy()
    assert same_bits(end[400:], begin[400:])
    assert (end[np.unique(x)] != begin[np.unique(x)]).any()
    assert clocks(fitted.optimizer)[0][-1] == 6
    for one, two, three in zip(fitted.get_weights(), looped.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one, three, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("program", ["xla", "xla-loop"])
def test_programs_of_fit(program: str, rng: np.random.Generator) -> None:
    """The other programs of adamas.train.fit take the gradient's rows out of XLA, or step them inside it."""
    from adamas.train import fit

    x, y = data(rng)
    plain, other = model(), model()
    begin = plain.layers[0].embeddings.numpy()
    fit(plain, x, y, batch_size=32, epochs=2, shuffle=False, verbose=0, program="graph")
    fit(other, x, y, batch_size=32, epochs=2, shuffle=False, verbose=0, program=program)
    for one, two in zip(plain.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert same_bits(other.layers[0].embeddings.numpy()[400:], begin[400:])
    for one, two in zip(clocks(plain.optimizer), clocks(other.optimizer), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("way", ["eager", "function", "fit", "train.fit"])
def test_the_table_is_not_copied(way: str, rng: np.random.Generator) -> None:
    """Steps happen where the table is: the forward pass has let go of what it read of it."""
    from adamas.train import fit

    x, y = data(rng)
    trained = model()
    table, optimizer = trained.layers[0].embeddings.value, trained.optimizer
    loss = keras.losses.MeanSquaredError()

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            value = loss(y, trained(x))
        optimizer.apply(
            tape.gradient(value, [v.value for v in trained.trainable_variables]), trained.trainable_variables
        )

    if way in ("fit", "train.fit"):

        def run() -> None:
            if way == "fit":
                trained.fit(x, y, batch_size=32, shuffle=False, verbose=0)
            else:
                fit(trained, x, y, batch_size=32, verbose=0, program="graph")

    else:
        call = tf.function(step) if way == "function" else step

        def run() -> None:
            for i in (0, 32, 64):
                call(tf.constant(x[i : i + 32]), tf.constant(y[i : i + 32]))

    run()
    places = [table, *(moment.value for (moment,) in optimizer._ready().slots.arrays.places([0])[0])]
    before, addresses = table.numpy().copy(), [address(place) for place in places]
    run()
    assert not np.array_equal(table.numpy(), before)
    assert [address(place) for place in places] == addresses


def address(variable: tf.Variable) -> int:
    return int(np.from_dlpack(variable.read_value()).__array_interface__["data"][0])


def test_a_table_that_somebody_holds_is_copied(rng: np.random.Generator) -> None:
    variable, optimizer = tf.Variable(tf.ones((100, 4))), Adam(0.1, sparse="lazy")
    optimizer.build([variable])
    held = variable.read_value()
    optimizer.apply([tf.IndexedSlices(tf.ones((1, 4)), [5], (100, 4))], [variable])
    assert (held.numpy() == 1).all()
    assert variable.numpy()[5, 0] < 1


def test_without_the_op(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(stepper.op, "why_not", lambda: "no compiler")
    start = np.asarray(rng.normal(size=(6, 2)), np.float32)
    variable, optimizer, right = tf.Variable(start), Adam(0.1, sparse="lazy"), Lazy([start], 0.1)
    for step in range(3):
        grad = np.array([step, step + 1, step]), np.ones((3, 2), np.float32)
        optimizer.apply([tensor(grad, (6, 2))], [variable])
        right.step([grad])
    assert optimizer.kernel.startswith("resource")
    np.testing.assert_allclose(variable.numpy(), right.params[0], rtol=1e-5)
