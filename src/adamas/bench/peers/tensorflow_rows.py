"""Keras' Adam and ours, dense and lazy, with the gradient as the `tf.IndexedSlices` that an embedding gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import adamas.keras
from adamas.bench.job import Job


def peers(rows: int, width: int, touched: int) -> dict[str, Callable[[], Job]]:
    rng = np.random.default_rng(0)
    gradient = tf.IndexedSlices(
        tf.constant(0.01 * rng.standard_normal((touched, width), dtype=np.float32)),
        tf.constant(rng.choice(rows, touched, replace=False).astype(np.int32)),
        tf.constant([rows, width]),
    )

    @cache  # the eager step and the graph share table and moments: four of them would not fit into 16 GB
    def step(make: Callable[[], Any]) -> Callable[[], None]:
        table = keras.Variable(lambda shape, dtype: tf.fill(shape, 0.5), shape=(rows, width))
        optimizer = make()
        optimizer.build([table])

        def apply() -> None:
            optimizer.apply_gradients([(gradient, table)])

        return apply

    def lazy() -> Any:
        return adamas.keras.Adam(sparse="lazy")

    return {
        "adamas.keras eager, lazy": lambda: Job(step(lazy)),
        "adamas.keras graph, lazy": lambda: Job(tf.function(step(lazy))),
        "adamas.keras eager, dense": lambda: Job(step(adamas.keras.Adam)),
        "adamas.keras graph, dense": lambda: Job(tf.function(step(adamas.keras.Adam))),
        "Keras Adam eager": lambda: Job(step(keras.optimizers.Adam)),
        "Keras Adam graph": lambda: Job(tf.function(step(keras.optimizers.Adam))),
    }
