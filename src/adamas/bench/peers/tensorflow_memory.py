"""adamas.keras, Keras' Adam and TensorFlow's own fused op, also while a value that was read before is still held."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import adamas.keras
import adamas.tensorflow
from adamas.bench.formats import MOMENTS, WEIGHTS, Format, rows
from adamas.bench.job import Job
from adamas.bench.peak import peak_of
from adamas.bench.peers.tensorflow_step import WAYS, Step, keras_step, resource_step, state_bytes

MAKES = {"adamas.keras": adamas.keras.Adam, "Keras Adam": keras.optimizers.Adam}


def peers(shapes: list[list[int]], what: str) -> dict[str, Callable[[], Job]]:
    if what == "training":
        return {
            name: partial(_training, shapes, form) for name, form in rows("adamas.keras", MOMENTS | WEIGHTS).items()
        }
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

    found = [(name, way) for name in MAKES for way in ("eager", "graph")]
    found += [("Keras Adam", "XLA"), ("ResourceApplyAdam", "eager"), ("ResourceApplyAdam", "graph")]
    return {
        f"{name} {way}" + ", a value held" * hold: partial(job, name, way, hold)
        for hold in (False, True)
        for name, way in found
    }


def _state(make: Callable[..., Any], values: list[np.ndarray]) -> Job:
    optimizer = make(learning_rate=1e-3)
    optimizer.build([keras.Variable(value) for value in values])
    return Job(lambda: float(state_bytes(optimizer)))


def _training(shapes: list[list[int]], form: Format) -> Job:
    """Variables, gradients of half the sum of their squares, optimizer, step: all of it is made in the run."""
    settings = {name: form.settings[name] for name in ("moments", "weights") if name in form.settings}

    def run() -> object:
        variables = [tf.Variable(tf.fill(shape, tf.constant(0.5, form.weights))) for shape in shapes]
        grads = [tf.identity(variable) for variable in variables]
        optimizer = adamas.tensorflow.Adam(learning_rate=1e-3, **settings)
        optimizer.apply_gradients(list(zip(grads, variables, strict=True)))
        return variables, grads, optimizer

    return peak_of(run, expected=form.bytes * sum(math.prod(shape) for shape in shapes))
