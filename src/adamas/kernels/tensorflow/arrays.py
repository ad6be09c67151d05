"""Where the moments of TensorFlow variables live: arrays of numbers as they are stored, by parameter.

`Arena` puts all tensors' arrays of one kind into one variable, so that a step passes and locks three variables a
parameter less than a variable per moment would (500 tensors of 1000: 1.3 against 3.0 ms eager, 2.9 against 5.7 ms in a
graph). `Separate` has a variable per array, as TensorFlow's own op needs them, and XLA too: in a loop that it compiles,
an arena is copied at every step (2 cores, network of width 512: 1.8 against 1.1 ms a step, 2026-11-22).

Both read and write by parameter, so that a checkpoint never shows which of the two it came from. What the arrays mean
is in slots.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

BLOCK = 4096  # elements: where a parameter begins in its arena; the unit of libadamas' sums and of storage formats

NewVariable = Callable[[tuple[int, ...], str, str], Any]
"""(shape, dtype, name) -> a new keras.Variable of zeros."""


class Array(NamedTuple):
    """One array that is kept for a parameter.

    slot   which slot it belongs to
    name   what it is called in the names of variables
    dtype
    block  how many elements of the parameter go with one of it: then it is a vector; 1 for an array of its shape
    """

    slot: int
    name: str
    dtype: str
    block: int = 1

    def shape(self, parameter: Sequence[int]) -> tuple[int, ...]:
        """Its shape for a parameter of this shape."""
        return tuple(parameter) if self.block == 1 else (-(-math.prod(parameter) // self.block),)


class Layout(NamedTuple):
    """All that is kept for a parameter of a dtype, and how it is rounded itself ("nearest" where that is not asked).

    Parameters with one layout are stepped by one call of the op.
    """

    dtype: str
    arrays: tuple[Array, ...]
    weights: str = "nearest"

    @property
    def rounds(self) -> bool:
        """Whether anything of it is rounded by random numbers."""
        return self.weights != "nearest" or any(array.dtype in ("bfloat16", "int8", "uint8") for array in self.arrays)

    def of(self, slot: int) -> list[int]:
        """Which arrays belong to a slot."""
        return [a for a, array in enumerate(self.arrays) if array.slot == slot]


class Arrays(Protocol):
    """The arrays of a list of parameters, by their numbers in the parameter's layout."""

    def read(self, array: int, i: int) -> Any:
        """An array of parameter i as a tensor."""
        ...

    def write(self, array: int, i: int, value: Any) -> None:
        """Replace it; in a graph, when the graph runs."""
        ...

    def replace(self, array: int, values: Mapping[int, Any]) -> None:
        """Replace it for all parameters in `values`, which have one layout; tensors of the right shapes and dtypes."""
        ...

    def group(self, i: int) -> Any:
        """Parameters of one group are stepped by one call of the op; hashable."""
        ...

    def places(self, indices: Sequence[int]) -> tuple[list[list[Any]], list[int]]:
        """For the op: the variables of parameters of one group, by array, and each parameter's offset in them."""
        ...


class Arena:
    """One variable per layout and array; parameter i begins at element `offsets[i]`."""

    def __init__(self, layouts: Sequence[Layout], params: Sequence[Any], new_variable: NewVariable) -> None:
        self.layouts = list(layouts)
        self.shapes = [tuple(p.shape) for p in params]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.offsets: list[int] = []
        ends: dict[Layout, int] = {}
        for layout, size in zip(self.layouts, self.sizes, strict=True):
            self.offsets.append(ends.get(layout, 0))
            ends[layout] = self.offsets[-1] + -(-size // BLOCK) * BLOCK
        with tf.device("CPU:0"):
            self.variables = {
                layout: [
                    new_variable((end // array.block,), array.dtype, f"arena_{array.dtype}_{array.name}")
                    for array in layout.arrays
                ]
                for layout, end in ends.items()
            }

    def _part(self, array: int, i: int) -> slice:
        block = self.layouts[i].arrays[array].block
        begin = self.offsets[i] // block
        return slice(begin, begin - (-self.sizes[i] // block))

    def read(self, array: int, i: int) -> Any:
        layout = self.layouts[i]
        part = self.variables[layout][array].value[self._part(array, i)]
        return tf.reshape(part, layout.arrays[array].shape(self.shapes[i]))

    def write(self, array: int, i: int, value: Any) -> None:
        if self.sizes[i]:
            arena = self.variables[self.layouts[i]][array].value
            arena[self._part(array, i)].assign(tf.reshape(tf.cast(value, arena.dtype), [-1]))

    def replace(self, array: int, values: Mapping[int, Any]) -> None:
        # One concatenation of new and untouched parts: XLA copies the whole arena for every part written by itself.
        written = sorted((i for i in values if self.sizes[i]), key=self.offsets.__getitem__)
        if not written:
            return
        arena = self.variables[self.layouts[written[0]]][array].value
        old, parts, end = tf.convert_to_tensor(arena), [], 0
        for i in written:
            part = self._part(array, i)
            parts += [old[end : part.start], tf.reshape(values[i], [-1])]
            end = part.stop
        arena.assign(tf.concat([*parts, old[end:]], 0))

    def group(self, i: int) -> Any:
        return self.layouts[i]

    def places(self, indices: Sequence[int]) -> tuple[list[list[Any]], list[int]]:
        variables = self.variables[self.layouts[indices[0]]]
        return [[variable] for variable in variables], [self.offsets[i] for i in indices]


class Separate:
    """A variable per array and parameter."""

    def __init__(self, layouts: Sequence[Layout], params: Sequence[Any], new_variable: NewVariable) -> None:
        self.layouts = list(layouts)
        self.variables: list[list[Any]] = []
        for layout, p in zip(layouts, params, strict=True):
            with tf.device(p.device):
                self.variables.append(
                    [new_variable(a.shape(p.shape), a.dtype, f"{label(p)}_{a.name}") for a in layout.arrays]
                )

    def read(self, array: int, i: int) -> Any:
        return tf.convert_to_tensor(self.variables[i][array].value)

    def write(self, array: int, i: int, value: Any) -> None:
        variable = self.variables[i][array].value
        variable.assign(tf.cast(value, variable.dtype))

    def replace(self, array: int, values: Mapping[int, Any]) -> None:
        for i, value in values.items():
            self.write(array, i, value)

    def group(self, i: int) -> Any:
        return self.layouts[i]

    def places(self, indices: Sequence[int]) -> tuple[list[list[Any]], list[int]]:
        return [list(one) for one in zip(*(self.variables[i] for i in indices), strict=True)], [0] * len(indices)


class Joined:
    """Arrays that were made one after another, for parameters that an optimizer came to know one after another.

    What was made first stays where it is, because functions traced before hold on to it.
    """

    def __init__(self) -> None:
        self.parts: list[Arrays] = []
        self._where: list[tuple[int, int]] = []  # of each parameter: which part, and its number there

    def add(self, part: Arrays, count: int) -> None:
        """Put the `count` parameters of `part` behind those that are here."""
        self._where += [(len(self.parts), i) for i in range(count)]
        self.parts.append(part)

    def read(self, array: int, i: int) -> Any:
        part, own = self._where[i]
        return self.parts[part].read(array, own)

    def write(self, array: int, i: int, value: Any) -> None:
        part, own = self._where[i]
        self.parts[part].write(array, own, value)

    def replace(self, array: int, values: Mapping[int, Any]) -> None:
        for number, part in enumerate(self.parts):
            own = {self._where[i][1]: value for i, value in values.items() if self._where[i][0] == number}
            if own:
                part.replace(array, own)

    def group(self, i: int) -> Any:
        part, own = self._where[i]
        return part, self.parts[part].group(own)

    def places(self, indices: Sequence[int]) -> tuple[list[list[Any]], list[int]]:
        return self.parts[self._where[indices[0]][0]].places([self._where[i][1] for i in indices])


def label(variable: Any) -> str:
    """A name for a variable's moments, as Keras makes it."""
    return str(getattr(variable, "path", variable.name)).replace("/", "_").replace(":", "_")
