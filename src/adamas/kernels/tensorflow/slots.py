"""Where the moments of TensorFlow variables live.

`Arena` puts all tensors' moments of one slot and dtype into one variable, so that a step passes and locks three
variables a parameter less than a variable per moment would (500 tensors of 1000: 1.3 against 3.0 ms eager, 2.9 against
5.7 ms in a graph). `Separate` has a variable per moment, as TensorFlow's own op needs them, and XLA too: in a loop that
it compiles, an arena is copied at every step (2 cores, network of width 512: 1.8 against 1.1 ms a step, 2026-11-22).

Both read and write by parameter, so that a checkpoint never shows which of the two it came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

BLOCK = 4096  # elements: where a parameter begins in its arena; the unit of libadamas' sums and of storage formats

NewVariable = Callable[[tuple[int, ...], str, str], Any]
"""(shape, dtype, name) -> a new keras.Variable of zeros."""


class Slots(Protocol):
    """The moments of a list of parameters, by slot and by parameter; every value has the parameter's shape."""

    names: tuple[str, ...]

    def read(self, slot: int, i: int) -> Any:
        """Slot number `slot` of parameter i as a tensor."""
        ...

    def write(self, slot: int, i: int, value: Any) -> None:
        """Replace it; in a graph, when the graph runs."""
        ...

    def replace(self, slot: int, values: Mapping[int, Any]) -> None:
        """Replace it for all parameters in `values`, tensors of the parameters' shapes and dtypes."""
        ...

    def group(self, i: int) -> Any:
        """Parameters of one group are stepped by one call of the op; hashable."""
        ...

    def places(self, indices: Sequence[int]) -> tuple[list[Any], list[int]]:
        """For the op: the variables of parameters of one group, slot by slot, and each parameter's offset in them."""
        ...


class Arena:
    """One variable per slot and dtype; parameter i begins at `offsets[i]`."""

    def __init__(self, names: Sequence[str], params: Sequence[Any], new_variable: NewVariable) -> None:
        self.names = tuple(names)
        self.dtypes = [tf.as_dtype(p.dtype).name for p in params]
        self.shapes = [tuple(p.shape) for p in params]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.offsets: list[int] = []
        ends: dict[str, int] = {}
        for dtype, size in zip(self.dtypes, self.sizes, strict=True):
            self.offsets.append(ends.get(dtype, 0))
            ends[dtype] = self.offsets[-1] + -(-size // BLOCK) * BLOCK
        with tf.device("CPU:0"):
            self.variables = {
                dtype: [new_variable((end,), dtype, f"arena_{dtype}_{name}") for name in names]
                for dtype, end in ends.items()
            }

    def _part(self, i: int) -> slice:
        return slice(self.offsets[i], self.offsets[i] + self.sizes[i])

    def read(self, slot: int, i: int) -> Any:
        arena = self.variables[self.dtypes[i]][slot].value
        return tf.reshape(arena[self._part(i)], self.shapes[i])

    def write(self, slot: int, i: int, value: Any) -> None:
        if self.sizes[i]:
            arena = self.variables[self.dtypes[i]][slot].value
            arena[self._part(i)].assign(tf.reshape(tf.cast(value, arena.dtype), (self.sizes[i],)))

    def replace(self, slot: int, values: Mapping[int, Any]) -> None:
        # One concatenation of new and untouched parts: XLA copies the whole arena for every part written by itself.
        for dtype in {self.dtypes[i] for i in values}:
            arena = self.variables[dtype][slot].value
            old, parts, end = tf.convert_to_tensor(arena), [], 0
            for i in sorted(
                (i for i in values if self.dtypes[i] == dtype and self.sizes[i]), key=self.offsets.__getitem__
            ):
                parts += [old[end : self.offsets[i]], tf.reshape(values[i], (self.sizes[i],))]
                end = self.offsets[i] + self.sizes[i]
            arena.assign(tf.concat([*parts, old[end:]], 0))

    def group(self, i: int) -> Any:
        return self.dtypes[i]

    def places(self, indices: Sequence[int]) -> tuple[list[Any], list[int]]:
        return self.variables[self.dtypes[indices[0]]], [self.offsets[i] for i in indices]


class Separate:
    """A variable per slot and parameter."""

    def __init__(self, names: Sequence[str], params: Sequence[Any], new_variable: NewVariable) -> None:
        self.names = tuple(names)
        self.dtypes = [tf.as_dtype(p.dtype).name for p in params]
        self.variables: list[list[Any]] = [[] for _ in names]
        for p in params:
            with tf.device(p.device):
                for made, name in zip(self.variables, names, strict=True):
                    made.append(new_variable(tuple(p.shape), tf.as_dtype(p.dtype).name, f"{label(p)}_{name}"))

    def read(self, slot: int, i: int) -> Any:
        return tf.convert_to_tensor(self.variables[slot][i].value)

    def write(self, slot: int, i: int, value: Any) -> None:
        variable = self.variables[slot][i].value
        variable.assign(tf.cast(value, variable.dtype))

    def replace(self, slot: int, values: Mapping[int, Any]) -> None:
        for i, value in values.items():
            self.write(slot, i, value)

    def group(self, i: int) -> Any:
        return self.dtypes[i]

    def places(self, indices: Sequence[int]) -> tuple[list[Any], list[int]]:
        return [variables[i] for variables in self.variables for i in indices], [0] * len(indices)


class Joined:
    """Slots that were made one after another, for parameters that an optimizer came to know one after another.

    What was made first stays where it is, because functions traced before hold on to it.
    """

    def __init__(self, first: Slots, count: int) -> None:
        self.names = first.names
        self.parts: list[Slots] = []
        self._where: list[tuple[int, int]] = []  # of each parameter: which part, and its number there
        self.add(first, count)

    def add(self, part: Slots, count: int) -> None:
        """Put the `count` parameters of `part` behind those that are here."""
        self._where += [(len(self.parts), i) for i in range(count)]
        self.parts.append(part)

    def read(self, slot: int, i: int) -> Any:
        part, own = self._where[i]
        return self.parts[part].read(slot, own)

    def write(self, slot: int, i: int, value: Any) -> None:
        part, own = self._where[i]
        self.parts[part].write(slot, own, value)

    def replace(self, slot: int, values: Mapping[int, Any]) -> None:
        for number, part in enumerate(self.parts):
            own = {self._where[i][1]: value for i, value in values.items() if self._where[i][0] == number}
            if own:
                part.replace(slot, own)

    def group(self, i: int) -> Any:
        part, own = self._where[i]
        return part, self.parts[part].group(own)

    def places(self, indices: Sequence[int]) -> tuple[list[Any], list[int]]:
        return self.parts[self._where[indices[0]][0]].places([self._where[i][1] for i in indices])


def label(variable: Any) -> str:
    """A name for a variable's moments, as Keras makes it."""
    return str(getattr(variable, "path", variable.name)).replace("/", "_").replace(":", "_")


def as_tensor(gradient: Any, variable: Any) -> Any:
    """The gradient as a dense tensor of the variable's dtype. Rows of an IndexedSlices with one index are added."""
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    elif isinstance(gradient, np.ndarray) or not tf.is_tensor(gradient):
        gradient = tf.convert_to_tensor(gradient)
    return gradient if gradient.dtype == variable.dtype else tf.cast(gradient, variable.dtype)
