"""Whatever a Keras model is made of is trained as `model.fit` trains it: one table of models."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import adamas.keras
from adamas.train import fit

layers = keras.layers
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "mixed_float16": 2.0**-10, "mixed_bfloat16": 2.0**-7}
ROWS, BATCH = 32, 8
RNG = np.random.default_rng(5)
TABLE = RNG.normal(size=(ROWS, 6)).astype(np.float32)
WORDS = RNG.integers(0, 7, (ROWS, 5))
Y = (TABLE[:, :1] + 0.5 * TABLE[:, 1:2]).astype(np.float32)


class Penalty(layers.Layer):
    """Adds a loss and counts its calls."""

    def build(self, shape: tuple) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        if training:
            self.calls.assign_add(1)
        return x


def frozen(layer: keras.layers.Layer) -> keras.layers.Layer:
    layer.trainable = False
    return layer


def sequential(*inner: keras.layers.Layer, shape: tuple = (6,)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *inner, layers.Dense(1)])


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4, "tanh"), layers.BatchNormalization()])
    shared = layers.Dense(4, "relu")
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(1)(layers.Add()([shared(inner(x)), shared(inner(2 * x))])))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = layers.Dense(4, "tanh", kernel_regularizer="l2"), layers.Dense(1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.last(self.inner(x))


def recurrent(layer: keras.layers.Layer, **shape: object) -> keras.Model:
    words = keras.Input((5,), dtype="int32") if not shape else keras.Input(dtype="int32", **shape)
    return keras.Model(words, layers.Dense(1)(layer(layers.Embedding(7, 3, mask_zero=True)(words))))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "regularisers": lambda: sequential(
        layers.Dense(4, "tanh", kernel_regularizer="l1", bias_regularizer="l2", activity_regularizer="l2"),
        layers.Dense(4, kernel_constraint=keras.constraints.MaxNorm(0.5)),
    ),
    "add_loss": lambda: sequential(layers.Dense(4, "tanh"), Penalty()),
    "batch normalisation": lambda: sequential(layers.Dense(4, "tanh"), layers.BatchNormalization(momentum=0.8)),
    "frozen batch normalisation": lambda: sequential(layers.Dense(4, "tanh"), frozen(layers.BatchNormalization())),
    "frozen parts": lambda: sequential(frozen(layers.Dense(4, "tanh")), layers.Dense(4, "tanh")),
    "dropout": lambda: sequential(layers.Dense(8, "tanh"), layers.Dropout(0.4)),
    "nested and shared": nested,
    "subclassed": Subclassed,
    "masks": lambda: recurrent(layers.LSTM(3)),
    "stateful": lambda: recurrent(layers.GRU(3, stateful=True), batch_shape=(BATCH, 5)),
    "convolution": lambda: sequential(layers.Reshape((6, 1)), layers.Conv1D(3, 2), layers.GlobalMaxPooling1D()),
}


def made(make: Callable[[], keras.Model], optimizer: keras.optimizers.Optimizer, **compiled: object) -> keras.Model:
    keras.utils.set_random_seed(8)
    model = make()
    model.compile(optimizer, "mse", metrics=["mae"], **compiled)
    return model


def compare(ours: keras.Model, theirs: keras.Model, x: np.ndarray, program: str, eps: float) -> None:
    data = tf.data.Dataset.from_tensor_slices((x, Y)).batch(BATCH, drop_remainder=True)
    expected = theirs.fit(data, epochs=2, shuffle=False, verbose=0, validation_data=data).history
    history = fit(ours, data, epochs=2, verbose=0, validation_data=data, program=program).history
    assert list(history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=2 * ROWS * eps, err_msg=name)
    for a, b, variable in zip(ours.get_weights(), theirs.get_weights(), ours.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=ROWS * eps, atol=ROWS * eps, err_msg=variable.path)


@pytest.mark.parametrize("kind", MODELS)
def test_models_in_a_graph(kind: str) -> None:
    ours, theirs = (made(MODELS[kind], keras.optimizers.SGD(0.05, momentum=0.5)) for _ in range(2))
    x = WORDS if kind in ("masks", "stateful") else TABLE
    compare(ours, theirs, x, "graph", EPS["float32"])
    for a, b in zip(ours.non_trainable_variables, theirs.non_trainable_variables, strict=True):
        # Statistics, counts, states and random states too
        np.testing.assert_allclose(a, b, rtol=ROWS * EPS["float32"], atol=ROWS * EPS["float32"], err_msg=a.path)


@pytest.mark.parametrize("kind", ["add_loss", "frozen batch normalisation", "nested and shared", "masks"])
def test_models_in_one_program_of_xla(kind: str) -> None:
    ours, theirs = (made(MODELS[kind], keras.optimizers.SGD(0.05, momentum=0.5)) for _ in range(2))
    compare(ours, theirs, WORDS if kind == "masks" else TABLE, "xla-loop", EPS["float32"])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_with_and_without_scaled_losses(policy: str) -> None:
    def make() -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, "tanh", dtype=policy),
                layers.BatchNormalization(dtype=policy),
                layers.Dense(1, dtype="float32"),
            ]
        )

    def optimizer() -> keras.optimizers.Optimizer:
        adam = adamas.keras.Adam(0.01)
        if policy == "mixed_float16":
            return keras.optimizers.LossScaleOptimizer(adam, initial_scale=2.0**8, dynamic_growth_steps=3)
        return adam

    ours, theirs = (made(make, optimizer()) for _ in range(2))
    compare(ours, theirs, TABLE, "graph", EPS[policy])
    if policy == "mixed_float16":
        assert float(ours.optimizer.dynamic_scale.numpy()) == float(theirs.optimizer.dynamic_scale.numpy()) > 2.0**8


class Shrinking(keras.Model):
    """Makes its output small, and compares with nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y_pred))


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (Shrinking, None),
        (Shrinking, "mse"),
        (lambda: keras.Sequential([keras.Input((6,)), layers.Dense(4), Penalty()]), None),
    ],
    ids=["own", "own beside another", "add_loss"],
)
def test_models_whose_loss_needs_no_targets(make: Callable[[], keras.Model], loss: str | None) -> None:
    def model() -> keras.Model:
        keras.utils.set_random_seed(3)
        made = make()
        made.compile(keras.optimizers.SGD(0.05), loss)
        return made

    settings = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (TABLE[:BATCH],)}
    theirs = model().fit(TABLE, **settings).history
    ours = fit(model(), TABLE, program="graph", **settings).history
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, err_msg=name)
