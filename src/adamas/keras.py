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
        f"Keras runs on {keras.backend.backend()!r} here and adamas.keras serves TensorFlow; set KERAS_BACKEND=tensorflow "
        "before Keras is imported"
    )

from adamas.tensorflow import Adam, AdamW

__all__ = ["Adam", "AdamW", "load_model"]


def load_model(path: str | os.PathLike[str], custom_objects: dict[str, Any] | None = None, **options: Any) -> Any:
    """`keras.models.load_model`, with Adamas in the place of Keras' own Adam and AdamW.

    A model that was trained with `keras.optimizers.Adam` or `AdamW` goes on with the native step and the moments in
    the file; one that was trained with Adamas, too.

    Args:
        path: a `.keras` file.
        custom_objects, options: as for `keras.models.load_model`.
    """
    model = keras.models.load_model(path, custom_objects=custom_objects, **options)
    return model
