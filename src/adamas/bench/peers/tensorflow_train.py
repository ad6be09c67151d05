"""The same Keras model trained by `model.fit` with Keras' Adam, with ours, and by `adamas.train.fit`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

import adamas.keras
from adamas.bench.job import Job
from adamas.bench.tasks import CHECKED, Task, task
from adamas.train import fit


def peers(lazy: bool = False, **arguments: Any) -> dict[str, Callable[[], Job]]:
    given = task(**arguments)
    rate = given.learning_rate

    def keras_fit(model: Any, **how: Any) -> None:
        model.fit(given.x, given.y, **how)

    def our_fit(model: Any, **how: Any) -> None:
        fit(model, given.x, given.y, **how)

    if lazy:
        return {
            name: partial(_lazy, given, train)
            for name, train in (("adamas.train.fit", our_fit), ("model.fit, adamas.keras.Adam", keras_fit))
        }
    theirs = "squares the gradients of a repeated id one by one" if given.has_table else ""
    return {
        "adamas.train.fit": lambda: _job(given, adamas.keras.Adam(rate), our_fit),
        "model.fit, adamas.keras.Adam": lambda: _job(given, adamas.keras.Adam(rate), keras_fit),
        "model.fit, Keras Adam": lambda: _job(given, keras.optimizers.Adam(rate), keras_fit, theirs),
    }


def _lazy(given: Task, train: Callable[..., None]) -> Job:
    return _job(given, adamas.keras.Adam(given.learning_rate, sparse="lazy"), train)


def _job(given: Task, optimizer: Any, train: Callable[..., None], differs: str = "") -> Job:
    model = MODELS[given.architecture](**given.sizes)
    model.set_weights(given.weights)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)

    def run(shuffle: bool = True) -> None:
        train(model, batch_size=given.batch, epochs=given.epochs, shuffle=shuffle, verbose=0)

    def restart() -> None:
        model.set_weights(given.weights)
        for variable in optimizer.variables:
            if variable is not optimizer.learning_rate:
                variable.assign(keras.ops.zeros_like(variable))

    def current() -> float:
        return float(np.mean(loss(given.y[:CHECKED], model(given.x[:CHECKED]))))

    def trial() -> tuple[float, float]:
        before = current()
        run(shuffle=False)
        return before, current()

    parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    return Job(run, restart if given.restarts else None, trial, parameters, differs)


def _mlp(hidden: list[int]) -> Any:
    layers = [keras.layers.Dense(width, "relu") for width in hidden]
    return keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])


def _embedding(rows: int, width: int, ids: int, hidden: int) -> Any:
    return keras.Sequential(
        [
            keras.Input((ids,), dtype="int32"),
            keras.layers.Embedding(rows, width, embeddings_initializer="zeros"),
            keras.layers.Flatten(),
            keras.layers.Dense(hidden, "relu"),
            keras.layers.Dense(2),
        ]
    )


def _cnn(filters: list[int], hidden: int) -> Any:
    layers = [keras.Input((32, 32, 1))]
    for count in filters:
        layers += [keras.layers.Conv2D(count, 3, padding="same", activation="relu"), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dense(hidden, "relu"), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def _transformer(vocabulary: int, length: int, width: int, heads: int, blocks: int) -> Any:
    tokens = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(vocabulary, width)(tokens)
    for _ in range(blocks):
        h = keras.layers.LayerNormalization(epsilon=1e-5)(x)
        h = keras.layers.MultiHeadAttention(heads, width // heads)(h, h, use_causal_mask=True)
        x = keras.layers.Add()([x, h])
        h = keras.layers.LayerNormalization(epsilon=1e-5)(x)
        h = keras.layers.Dense(4 * width, "gelu")(h)
        x = keras.layers.Add()([x, keras.layers.Dense(width)(h)])
    x = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model(tokens, keras.layers.Dense(vocabulary)(x))


MODELS: dict[str, Callable[..., Any]] = {"mlp": _mlp, "embedding": _embedding, "cnn": _cnn, "transformer": _transformer}
