"""What an optimizer keeps for each parameter, as Keras and TensorFlow expect to find it: a variable of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from adamas.errors import StateError
from adamas.kernels.tensorflow.slots import Slots, label

_KEY = "VARIABLE_VALUE"  # a variable's name for its number in a TensorFlow checkpoint


class Moment(tf.__internal__.tracking.Trackable):
    """One slot of one parameter: behaves as the variable that `keras.optimizers.Adam` has there.

    The numbers may be part of an arena. Through this class neither a file nor a checkpoint shows where they are, and
    both have the layout that Keras gives them.
    """

    trainable = False

    def __init__(self, slots: Slots, slot: int, i: int, parameter: Any, owner: str) -> None:
        self._slots, self._slot, self._i = slots, slot, i
        self.name = f"{label(parameter)}_{slots.names[slot]}"
        self.path = f"{owner}/{self.name}"
        self.shape = tf.TensorShape(parameter.shape)
        self.dtype = tf.as_dtype(parameter.dtype).name

    @property
    def value(self) -> Any:
        """The numbers as a tensor."""
        return self._slots.read(self._slot, self._i)

    @property
    def ndim(self) -> int:
        return int(self.shape.rank)

    def numpy(self) -> Any:
        return np.array(self.value)

    def assign(self, value: Any) -> None:
        """Replace the numbers; in a graph, when the graph runs.

        Raises:
            StateError: `value` has another shape. Nothing has been changed.
        """
        shape = value.shape if tf.is_tensor(value) else np.shape(value)
        if not self.shape.is_compatible_with(shape):
            raise StateError(f"{self.path} has the shape {self.shape}, not {shape}; nothing was written to it")
        self._slots.write(self._slot, self._i, value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.numpy().astype(dtype or self.dtype, copy=False)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return tf.convert_to_tensor(self.value, dtype, name=name)

    def __repr__(self) -> str:
        return f"<Moment path={self.path}, shape={self.shape}, dtype={self.dtype}>"

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {_KEY: self.value}

    def _restore_from_tensors(self, restored: dict[str, Any]) -> None:
        self.assign(restored[_KEY])
