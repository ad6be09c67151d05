"""adamas.keras, Keras' Adam and TensorFlow's own fused op, each eager and in a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import adamas.keras
from adamas.bench.formats import MOMENTS, largest, rows
from adamas.bench.job import Job


class Step(NamedTuple):
    """A step, the variables that it changes, and the bytes of the optimizer's state."""

    apply: Callable[[], None]
    variables: list[Any]
    state: int


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    @cache
    def given() -> tuple[list[Any], list[Any]]:
        return values(shapes)

    def job(make: Callable[..., Step], way: str) -> Job:
        step = make(*given())
        weights = sum(value.nbytes for value in given()[0])
        return Job(WAYS[way](step.apply), weights=weights, state=lambda: step.state)

    makes: dict[str, tuple[Callable[..., Step], tuple[str, ...]]] = {
        "adamas.keras": (partial(keras_step, adamas.keras.Adam), ("eager", "graph")),
        "Keras Adam": (partial(keras_step, keras.optimizers.Adam), ("eager", "graph", "XLA")),
        "ResourceApplyAdam": (resource_step, ("eager", "graph")),
    }
    found: dict[str, Callable[[], Job]] = {
        f"{name} {way}": partial(job, make, way) for name, (make, ways) in makes.items() for way in ways
    }
    for name, form in rows("adamas.keras graph", MOMENTS, largest(shapes)).items():
        make = partial(adamas.keras.Adam, moments=form.settings.get("moments", "float32"))
        found[name] = partial(job, partial(keras_step, make), "graph")
    return found


def values(shapes: list[list[int]]) -> tuple[list[Any], list[Any]]:
    """Parameters and gradients."""
    rng = np.random.default_rng(0)
    grads = [tf.constant(0.01 * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes], grads


WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda apply: apply,
    "graph": tf.function,
    "XLA": partial(tf.function, jit_compile=True),
}


def keras_step(make: Callable[..., Any], values: list[Any], grads: list[Any]) -> Step:
    """A step of a Keras optimizer."""
    variables = [keras.Variable(value) for value in values]
    optimizer = make(learning_rate=1e-3)
    optimizer.build(variables)

    def apply() -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return Step(apply, variables, state_bytes(optimizer))


def state_bytes(optimizer: Any) -> int:
    """Of ours as it tells, since its variables are decoded when they are read; of Keras' own, all variables."""
    if hasattr(optimizer, "describe"):
        return int(optimizer.describe().bytes)
    return sum(int(np.prod(v.shape)) * int(tf.as_dtype(v.dtype).size) for v in optimizer.variables)


def resource_step(values: list[Any], grads: list[Any]) -> Step:
    """A step of TensorFlow's own fused op."""
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

    return Step(apply, variables, 2 * sum(value.nbytes for value in values))
