"""The optimizers, for the backend that Keras runs on."""

from typing import TYPE_CHECKING

import keras

from adamas.errors import UnsupportedError

if TYPE_CHECKING or keras.backend.backend() == "tensorflow":
    from adamas.tensorflow import ADOPT, Adam, Adamax, AdamW, Lamb, Nadam, RAdam, ScheduleFreeAdamW
elif keras.backend.backend() in ("jax", "torch"):
    from adamas.keras.others import ADOPT, Adam, Adamax, AdamW, Lamb, Nadam, RAdam, ScheduleFreeAdamW
else:
    raise UnsupportedError(
        f"Keras runs on {keras.backend.backend()!r} here and adamas.keras serves TensorFlow, JAX and torch; set "
        "KERAS_BACKEND to tensorflow, jax or torch before Keras is imported"
    )

__all__ = ["ADOPT", "Adam", "AdamW", "Adamax", "Lamb", "Nadam", "RAdam", "ScheduleFreeAdamW"]
