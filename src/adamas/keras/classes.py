"""The optimizers, for the backend that Keras runs on."""

import keras

from adamas.errors import UnsupportedError

if keras.backend.backend() != "tensorflow":
    raise UnsupportedError(
        f"Keras runs on {keras.backend.backend()!r} here and adamas.keras serves TensorFlow; set "
        "KERAS_BACKEND=tensorflow before Keras is imported"
    )

from adamas.tensorflow import ADOPT, Adam, Adamax, AdamW, Lamb, Nadam, RAdam, ScheduleFreeAdamW

__all__ = ["ADOPT", "Adam", "AdamW", "Adamax", "Lamb", "Nadam", "RAdam", "ScheduleFreeAdamW"]
