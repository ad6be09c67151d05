"""adamas.keras, Keras' Adam and TensorFlow's own fused op, also while a value that was read before is still held."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import adamas.keras
from adamas.bench.job import Job
from adamas.bench.peak import peak_of
from adamas.bench.peers.tensorflow_step import WAYS, Step, keras_step, resource_step, state_bytes

MAKES = {"adamas.keras": adamas.keras.Adam, "Keras Adam": keras.optimizers.Adam}


def peers(shapes: list[list[int]], what: str) -> dict[str, Callable[[], Job]]:
    if what == "training":
        return {}  # the formats are measured with NumPy and torch
    values = [np.full(shape, 0.5, np.float32) for shape in shapes]
    if what == "state":
        return {name: partial(_state, make, values) for name, make in MAKES.items()}
    grads = [tf.constant(0.01, shape=shape) for shape in shapes]

    @cache  # every way steps the same variables
    def made(name: str) -> Step:
        return keras_step(MAKES[name], values, grads) if name in MAKES else resource_step(values, grads)

    def job(name: str, way: str, hold: bool) -> Job:
        apply, variables, _ = made(name)
        step = WAYS[way](apply)

        def holding() -> list[Any]:
            read = [tf.convert_to_tensor(variable) for variable in variables]
            step()
            return read

        return peak_of(holding if hold else step)

    rows = [(name, way) for name in MAKES for way in ("eager", "graph")]
    rows += [("Keras Adam", "XLA"), ("ResourceApplyAdam", "eager"), ("ResourceApplyAdam", "graph")]
    return {
        f"{name} {way}" + ", a value held" * hold: partial(job, name, way, hold)
        for hold in (False, True)
        for name, way in rows
    }


def _state(make: Callable[..., Any], values: list[np.ndarray]) -> Job:
    optimizer = make(learning_rate=1e-3)
    optimizer.build([keras.Variable(value) for value in values])
    return Job(lambda: float(state_bytes(optimizer)))
