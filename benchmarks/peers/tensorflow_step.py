"""adamas.keras, Keras' Adam and TensorFlow's own fused op, each eager and in a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import adamas.keras
from benchmarks.job import Job


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    rng = np.random.default_rng(0)
    grads = [tf.constant(0.01 * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    values = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    makes = {
        "adamas.keras": (partial(keras_step, adamas.keras.Adam, values, grads), ("eager", "graph")),
        "Keras Adam": (partial(keras_step, keras.optimizers.Adam, values, grads), ("eager", "graph", "XLA")),
        "ResourceApplyAdam": (partial(resource_step, values, grads), ("eager", "graph")),
    }
    return {
        f"{name} {way}": lambda make=make, way=way: Job(WAYS[way](make()[0]))
        for name, (make, ways) in makes.items()
        for way in ways
    }


WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda apply: apply,
    "graph": tf.function,
    "XLA": partial(tf.function, jit_compile=True),
}


def keras_step(
    make: Callable[..., Any], values: list[np.ndarray], grads: list[Any]
) -> tuple[Callable[[], None], list[Any]]:
    """A step of a Keras optimizer, and the variables that it changes."""
    variables = [keras.Variable(value) for value in values]
    optimizer = make(learning_rate=1e-3)
    optimizer.build(variables)

    def apply() -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return apply, variables


def resource_step(values: list[np.ndarray], grads: list[Any]) -> tuple[Callable[[], None], list[Any]]:
    """A step of TensorFlow's own fused op, and the variables that it changes."""
    variables = [tf.Variable(value) for value in values]
    means, squares = ([tf.Variable(tf.zeros_like(value)) for value in values] for _ in range(2))
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

    return apply, variables
