"""adamas.keras and Keras' Adam with the features of Keras' base class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import adamas.keras
from benchmarks.job import Job
from benchmarks.peers.tensorflow_step import WAYS, keras_step


def peers(shapes: list[list[int]], way: str, features: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Job]]:
    rng = np.random.default_rng(0)
    grads = [tf.constant(0.01 * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    values = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]

    def job(make: Callable[..., Any], settings: dict[str, Any]) -> Job:
        apply, _ = keras_step(partial(make, **settings), values, grads)
        return Job(WAYS[way](apply))

    return {
        f"{name}, {feature}": partial(job, make, settings)
        for name, make in (("adamas.keras", adamas.keras.Adam), ("Keras Adam", keras.optimizers.Adam))
        for feature, settings in features.items()
    }
