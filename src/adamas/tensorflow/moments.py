"""What an optimizer keeps for each parameter, as Keras and TensorFlow expect to find it: a variable of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from adamas.errors import StateError
from adamas.kernels.tensorflow.arrays import label
from adamas.kernels.tensorflow.slots import Slots, wide

KEYS = ("VARIABLE_VALUE", "SCALES")
"""What `stored` is called in a TensorFlow checkpoint: as a variable's numbers, and besides."""


class Moment(tf.__internal__.tracking.Trackable):
    """One slot of one parameter: behaves as the variable that `keras.optimizers.Adam` has there.

    The numbers may be part of an arena, and stored in another format; here they are those that a step computes with.
    Through this class neither a file nor a checkpoint shows where they are, and both have the layout that Keras gives
    them.

    Args:
        slots, slot, i: which one it is.
        parameter: the variable.
        owner: name of the optimizer.
        step: the optimizer's count of steps, for rounding what is assigned.
    """

    trainable = False

    def __init__(self, slots: Slots, slot: int, i: int, parameter: Any, owner: str, step: Any) -> None:
        self._slots, self.slot, self._i, self._step = slots, slot, i, step
        kept = slots.layouts[i].arrays[slots.layouts[i].of(slot)[0]]
        self.name = f"{label(parameter)}_{kept.name}"
        self.path = f"{owner}/{self.name}"
        self.shape = tf.TensorShape(parameter.shape)
        self.is_correction = slot == len(slots.names)  # of a split weight: Keras has none
        self.dtype = "int8" if self.is_correction else wide(slots.layouts[i].dtype)

    @property
    def value(self) -> Any:
        """The numbers as a tensor."""
        return self._slots.read(self.slot, self._i)

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
        self._slots.write(self.slot, self._i, value, self._step)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.numpy().astype(dtype or self.dtype, copy=False)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return tf.convert_to_tensor(self.value, dtype, name=name)

    def __repr__(self) -> str:
        return f"<Moment path={self.path}, shape={self.shape}, dtype={self.dtype}>"

    def stored(self) -> list[Any]:
        """What is kept, as it is: one tensor, or int8 codes and their scales."""
        return self._slots.stored(self.slot, self._i)

    def restore(self, tensors: Sequence[Any]) -> None:
        """Put back what `stored` of this or of another moment gave; exactly where both have one format."""
        self._slots.take_over(self.slot, self._i, tensors, self._step)

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return dict(zip(KEYS, self.stored(), strict=False))

    def _restore_from_tensors(self, restored: dict[str, Any]) -> None:
        self.restore([restored[key] for key in KEYS if key in restored])
