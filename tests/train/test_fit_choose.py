"""The program is chosen by kinds, and every kind in the table trains with every program."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import adamas.keras
from adamas.errors import ArgumentError
from adamas.train import PROGRAMS, choose_program, fit
from adamas.train.loop import choose

layers = keras.layers


def compiled(model: keras.Model, **settings: object) -> keras.Model:
    model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **settings})
    return model


def sequential(*inner: keras.layers.Layer, shape: tuple[int, ...] = (8, 4)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *inner])


class Subclass(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class OwnLayer(keras.layers.Dense):
    pass


class OwnOptimizer(keras.optimizers.SGD):
    pass


def own_function(x, y=None):
    return x


@pytest.mark.parametrize(
    ("model", "settings", "program"),
    [
        (lambda: sequential(layers.Flatten(), layers.Dense(3, "relu"), layers.Dropout(0.1)), {}, "xla-loop"),
        (lambda: sequential(layers.Dense(2)), {"optimizer": adamas.keras.Adam()}, "xla-loop"),
        (lambda: sequential(sequential(layers.Dense(2)), layers.Dense(2)), {}, "xla-loop"),
        (lambda: sequential(layers.Conv1D(2, 3)), {}, "graph"),
        (lambda: sequential(sequential(layers.Conv1D(2, 3)), layers.Flatten()), {}, "graph"),
        (lambda: sequential(layers.LSTM(2)), {}, "graph"),
        (lambda: sequential(layers.Embedding(1 << 13, 16), shape=(8,)), {}, "xla-loop"),
        (lambda: sequential(layers.Embedding((1 << 13) + 1, 16), shape=(8,)), {}, "graph"),
        (lambda: sequential(layers.Dense(1 << 18, use_bias=False)), {}, "xla-loop"),
        (lambda: sequential(layers.Dense(1 << 18)), {}, "graph"),
        (lambda: sequential(layers.Dense(1 << 18, trainable=False), layers.Dense(1)), {}, "xla-loop"),
        (lambda: sequential(layers.Conv1D(2, 3)), {"jit_compile": True}, "xla-loop"),
        (lambda: sequential(OwnLayer(2)), {}, "graph"),
        (Subclass, {}, "graph"),
        (lambda: sequential(layers.Lambda(own_function)), {}, "graph"),
        (lambda: sequential(layers.Dense(2, activation=own_function)), {}, "graph"),
        (lambda: sequential(layers.Dense(2, kernel_regularizer=own_function)), {}, "graph"),
        (lambda: sequential(layers.Dense(2)), {"optimizer": OwnOptimizer()}, "graph"),
        (lambda: sequential(layers.Dense(2)), {"loss": own_function}, "graph"),
    ],
)
def test_kinds_decide(model, settings: dict, program: str) -> None:
    assert choose_program(compiled(model(), **settings)) == program


def test_operations_between_layers_count() -> None:
    inputs = keras.Input((8, 4))
    assert choose_program(compiled(keras.Model(inputs, layers.Dense(2)(inputs)))) == "xla-loop"
    assert choose_program(compiled(keras.Model(inputs, keras.ops.roll(layers.Dense(2)(inputs), 1)))) == "graph"


def own_metric(y_true, y_pred):
    return keras.ops.mean(y_pred)


@pytest.mark.parametrize(
    ("metric", "program"),
    [
        ("accuracy", "xla-loop"),
        ("mae", "xla-loop"),
        (keras.metrics.BinaryAccuracy(), "xla-loop"),
        (keras.metrics.MeanMetricWrapper(keras.metrics.mean_squared_error, name="a"), "xla-loop"),
        ("AUC", "graph"),
        (keras.metrics.AUC(), "graph"),
        (own_metric, "graph"),
        (keras.metrics.MeanMetricWrapper(own_metric, name="b"), "graph"),
    ],
    ids=str,
)
def test_metrics_decide_too_before_and_after_the_first_batch(metric: object, program: str) -> None:
    x, y = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    model = compiled(sequential(layers.Dense(1, "sigmoid"), shape=(2,)), metrics=[metric])
    assert choose_program(model) == program
    model.evaluate(x, y, verbose=0)
    assert choose_program(model) == program


def test_what_is_no_compiled_model_is_refused() -> None:
    with pytest.raises(ArgumentError, match="not compiled"):
        choose_program(sequential(layers.Dense(1)))
    with pytest.raises(ArgumentError, match="not int"):
        choose_program(3)


def everything() -> keras.Model:
    """A model of every kind of layer in the table."""
    keras.utils.set_random_seed(6)
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8)(tokens)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)])
    x = layers.LayerNormalization()(x)
    x = layers.Subtract()([x, layers.Attention()([x, x])])
    x = layers.EinsumDense("abc,cd->abd", output_shape=(6, 8), bias_axes="d")(x)
    x = layers.SpatialDropout1D(0.1)(layers.PReLU()(x))
    x = layers.Permute((2, 1))(layers.Reshape((6, 8))(layers.Flatten()(x)))
    a, b = layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)
    x = layers.Concatenate()([layers.Average()([a, b]), layers.Maximum()([a, b]), layers.Minimum()([a, b])])
    x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Dense(8)(x)))
    x = layers.GaussianNoise(0.1)(layers.GaussianDropout(0.1)(layers.Dropout(0.1)(x)))
    x = layers.Multiply()([x, layers.Softmax()(layers.ReLU()(x))])
    x = layers.ActivityRegularization(l2=0.01)(layers.ELU()(layers.LeakyReLU()(x)))
    x = layers.Identity()(layers.Rescaling(0.5)(x))
    y = layers.RepeatVector(3)(layers.UnitNormalization()(x))
    x = layers.Concatenate()([x, layers.Flatten()(layers.Dot((2, 2))([y, y]))])
    return compiled(keras.Model(tokens, layers.Dense(1)(x)), optimizer=keras.optimizers.Adam(0.01), loss="mse")


def test_every_kind_in_the_table_trains_with_every_program() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 11, (16, 6)), rng.normal(size=(16, 1))
    model = everything()
    assert {type(layer).__name__ for layer in model.layers} == choose._LAYERS
    assert choose_program(model) == "xla-loop"
    for program in PROGRAMS:
        model = everything()
        history = fit(model, x, y, batch_size=8, epochs=15, program=program, verbose=0)
        losses = history.history["loss"]
        assert np.all(np.isfinite(losses))
        assert losses[-1] < 0.9 * losses[0]


def test_a_convolution_trains() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 1)), rng.integers(0, 2, 16)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(2)]
    )
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = fit(model, x, y, batch_size=8, epochs=10, verbose=0)
    assert history.params["program"] == "graph"
    assert history.history["loss"][-1] < history.history["loss"][0]
