"""adamas.keras and Keras' Adam with the features of Keras' base class."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import keras

import adamas.keras
from adamas.bench.job import Job
from adamas.bench.peers.tensorflow_step import WAYS, keras_step, values


def peers(shapes: list[list[int]], way: str, features: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Job]]:
    if way not in WAYS:
        return {}
    given = cache(lambda: values(shapes))

    def job(make: Callable[..., Any], settings: dict[str, Any]) -> Job:
        return Job(WAYS[way](keras_step(partial(make, **settings), *given()).apply))

    return {
        f"{name}, {feature}": partial(job, make, settings)
        for name, make in (("adamas.keras", adamas.keras.Adam), ("Keras Adam", keras.optimizers.Adam))
        for feature, settings in features.items()
    }
