"""adamas.keras, Keras' Adam and TensorFlow's own fused op, each eager and in a graph; and both ways to fit a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import adamas.keras
from adamas.train import fit as adamas_fit
from benchmarks.digits import BATCH, digits


def step(shapes: list[list[int]]) -> dict[str, Callable[[], None]]:
    rng = np.random.default_rng(0)
    grads = [tf.constant(0.01 * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    jobs: dict[str, Callable[[], None]] = {}
    for name, make, hows in (
        ("adamas.keras", adamas.keras.Adam, ("eager", "graph")),
        ("Keras Adam", keras.optimizers.Adam, ("eager", "graph", "XLA")),
    ):
        variables = [keras.Variable(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
        optimizer = make(learning_rate=1e-3)
        optimizer.build(variables)
        for how in hows:
            jobs[f"{name} {how}"] = _ways(
                lambda o=optimizer, v=variables: o.apply_gradients(zip(grads, v, strict=True))
            )[how]
    op = _resource_apply_adam(shapes, grads, rng)
    jobs |= {f"ResourceApplyAdam {how}": _ways(op)[how] for how in ("eager", "graph")}
    return jobs


def _ways(apply: Callable[[], Any]) -> dict[str, Callable[[], None]]:
    def eager() -> None:
        apply()

    return {"eager": eager, "graph": tf.function(eager), "XLA": tf.function(eager, jit_compile=True)}


def _resource_apply_adam(shapes: list[list[int]], grads: list[Any], rng: np.random.Generator) -> Callable[[], None]:
    variables = [tf.Variable(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    means = [tf.Variable(tf.zeros(shape)) for shape in shapes]
    squares = [tf.Variable(tf.zeros(shape)) for shape in shapes]
    powers = [tf.Variable(0.9), tf.Variable(0.999)]
    lr, beta1, beta2, epsilon = (tf.constant(value) for value in (1e-3, 0.9, 0.999, 1e-7))

    def apply() -> None:
        power1, power2 = powers[0].read_value(), powers[1].read_value()
        for variable, mean, square, gradient in zip(variables, means, squares, grads, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=power1,
                beta2_power=power2,
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon,
                grad=gradient,
            )
        powers[0].assign(power1 * beta1)
        powers[1].assign(power2 * beta2)

    return apply


def fit(width: int, epochs: int) -> dict[str, Callable[[], None]]:
    x, y = digits()

    def model(optimizer: Any) -> Any:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(width, "relu"), keras.layers.Dense(width, "relu"), keras.layers.Dense(10)]
        network = keras.Sequential([keras.Input((64,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
        return network

    theirs, ours = model(keras.optimizers.Adam()), model(adamas.keras.Adam())
    how: dict[str, Any] = {"batch_size": BATCH, "epochs": epochs, "verbose": 0}

    def keras_fit() -> None:
        theirs.fit(x, y, **how)

    def our_fit() -> None:
        adamas_fit(ours, x, y, **how)

    return {"adamas.train.fit": our_fit, "model.fit": keras_fit}
