"""The small Keras network of a run, with initial weights that depend on the seed alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from adamas.train.runs.config import Optimizer
from adamas.train.runs.resolve import Prepared

if TYPE_CHECKING:
    import keras

MOMENTUM = 0.9  # of SGD
NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}  # as a reader knows them


def build(prepared: Prepared) -> keras.Model:
    """A multilayer perceptron with relu, uncompiled: one output a class (logits), or one a target.

    Each layer's initialiser has a seed of its own, made from the run's seed and the layer's place, so the weights
    depend on nothing that happened in the process before.
    """
    import keras

    config, spec = prepared.config, prepared.spec
    hidden = config.model.hidden or ()

    def dense(place: int, width: int, activation: str | None, name: str) -> keras.layers.Layer:
        return keras.layers.Dense(
            width,
            activation=activation,
            kernel_initializer=_initialiser(config.model.init, config.seed, place),
            name=name,
        )

    inputs = keras.Input((spec.inputs,), name="x")
    x = inputs
    for place, width in enumerate(hidden):
        x = dense(place, width, "relu", f"hidden_{place + 1}")(x)
    name = "logits" if prepared.task == "classification" else "values"
    return keras.Model(inputs, dense(len(hidden), spec.outputs, None, name)(x), name="mlp")


def loss_and_metrics(prepared: Prepared) -> tuple[keras.losses.Loss, list[keras.metrics.Metric]]:
    """Cross-entropy of logits and accuracy, or the mean squared and absolute error of standardised targets."""
    import keras

    if prepared.task == "classification":
        return (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )
    return keras.losses.MeanSquaredError(), [keras.metrics.MeanAbsoluteError(name="mae")]


def build_optimizer(settings: Optimizer, learning_rate: float) -> keras.optimizers.Optimizer:
    """The optimizer that the settings name; decay leaves out biases."""
    import keras

    from adamas.keras import Adam, AdamW

    decay = settings.weight_decay
    optimizer: keras.optimizers.Optimizer
    if settings.name == "adamw":
        optimizer = AdamW(learning_rate, weight_decay=decay)
    elif settings.name == "adam":
        optimizer = Adam(learning_rate, weight_decay=decay or None)
    else:
        optimizer = keras.optimizers.SGD(learning_rate, momentum=MOMENTUM, weight_decay=decay or None)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def describe(settings: Optimizer) -> str:
    """An optimizer's name as a reader knows it."""
    return NAMES[settings.name]


def _initialiser(name: str, seed: int, place: int) -> keras.initializers.Initializer:
    import keras

    if name == "zeros":
        return keras.initializers.Zeros()
    kind = getattr(keras.initializers, "".join(word.capitalize() for word in name.split("_")))
    own = int(np.random.SeedSequence([seed, 2, place]).generate_state(1)[0] >> 1)
    return cast("keras.initializers.Initializer", kind(seed=own))


def forward(model: keras.Model, x: np.ndarray, batch: int = 1024) -> np.ndarray:
    """The network's outputs for x, float32 [rows, outputs]; the last batch is filled up, so one shape is compiled."""
    parts = []
    for start in range(0, len(x), batch):
        rows = x[start : start + batch]
        full = np.concatenate([rows, np.zeros((batch - len(rows), *x.shape[1:]), x.dtype)])
        parts.append(np.asarray(model(full, training=False))[: len(rows)])
    return np.concatenate(parts)
