"""Adam for Keras 3: `model.compile(optimizer=adamas.keras.Adam())`.

The same class as in `adamas.tensorflow`. Keras must run on TensorFlow.
"""

from __future__ import annotations

import os
from typing import Any

import keras

from adamas.errors import UnsupportedError

if keras.backend.backend() != "tensorflow":
    raise UnsupportedError(
        f"Keras runs on {keras.backend.backend()!r} here and adamas.keras serves TensorFlow; set "
        "KERAS_BACKEND=tensorflow before Keras is imported"
    )

from adamas.tensorflow import Adam, AdamW

__all__ = ["Adam", "AdamW", "load_model"]


def load_model(path: str | os.PathLike[str], custom_objects: dict[str, Any] | None = None, **options: Any) -> Any:
    """`keras.models.load_model`, with Adamas in the place of Keras' own Adam and AdamW.

    A model that was saved with `keras.optimizers.Adam` or `AdamW` goes on with the native step, from the moments in the
    file. One that was saved with Adamas needs no more than `keras.models.load_model` after `import adamas.keras`.

    Args:
        path: a `.keras` file.
        custom_objects, options: as for `keras.models.load_model`.

    Example:
        >>> import os, tempfile, keras, numpy as np
        >>> import adamas.keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer="adam", loss="mse")
        >>> _ = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.keras")
        ...     model.save(path)
        ...     model = adamas.keras.load_model(path)
        >>> isinstance(model.optimizer, adamas.keras.Adam)
        True
    """
    model = keras.models.load_model(path, custom_objects=custom_objects, **options)
    old: Any = getattr(model, "optimizer", None)
    ours = {keras.optimizers.Adam: Adam, keras.optimizers.AdamW: AdamW}.get(type(_inner(old)))
    if ours is None:
        return model
    config = model.get_compile_config()
    place, key = config, "optimizer"
    if config["optimizer"]["class_name"] == "LossScaleOptimizer":  # the user's own; Keras' own is added by compile
        place, key = config["optimizer"]["config"], "inner_optimizer"
    place[key] = keras.saving.serialize_keras_object(ours.from_config(_inner(old).get_config()))
    model.compile_from_config(config)
    state: dict[str, Any] = {}
    _inner(old).save_own_variables(state)
    _inner(model.optimizer).load_own_variables(state)
    if _inner(old) is not old:
        model.optimizer.dynamic_scale.assign(old.dynamic_scale)
        model.optimizer.step_counter.assign(old.step_counter)
    return model


def _inner(optimizer: Any) -> Any:
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer
