"""What a parameter's slots hold, whatever the format in which they are stored: see arrays.py for where.

Every value has the parameter's shape, and the dtype that a step computes in: float64 for a float64 parameter, else
float32. Storing it in bfloat16 or int8 rounds stochastically, with random numbers that depend on nothing but the seed,
the parameter's name, the step, the slot and the element, as adamas/formats.py defines them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import tensorflow as tf

from adamas.errors import ArgumentError
from adamas.formats import PARAMETER, SCALED, Weights, name_key
from adamas.kernels.tensorflow import codecs
from adamas.kernels.tensorflow.arrays import Array, Arrays, Joined, Layout
from adamas.rule import Rule
from adamas.storage import Described, Moments, Storage, check_seed, choose, described


def wide(dtype: str) -> str:
    """The dtype that parameters of this dtype are computed in."""
    return "float64" if dtype == "float64" else "float32"


@dataclass(frozen=True)
class StoragePolicy:
    """How an optimizer keeps moments and weights, and what its random numbers are drawn from.

    moments  float32 stands for the dtype that is computed in
    weights  of bfloat16 and float16 variables, and for "split" of bfloat16 ones
    seed     of stochastic rounding
    """

    moments: Moments = "float32"
    weights: Weights = "nearest"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("moments", get_args(Moments)), ("weights", get_args(Weights))):
            if getattr(self, name) not in allowed:
                raise ArgumentError(f"{name}={getattr(self, name)!r}: give one of {', '.join(map(repr, allowed))}")
        check_seed(self.seed)
        object.__setattr__(self, "seed", int(self.seed))  # a configuration becomes JSON

    def layout(self, rule: Rule, names: Sequence[str], variable: Any) -> Layout:
        """The arrays that are kept for a variable, whose rule's slots are called `names`."""
        arrays, how = [], self.choose(rule, variable)
        for s, (slot, name, kept) in enumerate(zip(rule.slots, names, how.formats, strict=True)):
            if kept == "int8":
                arrays.append(Array(s, name, "int8" if slot.kind == "signed" else "uint8"))
                arrays.append(Array(s, f"{name}_scale", "float32", SCALED))
            else:
                arrays.append(Array(s, name, "bfloat16" if kept == "bfloat16" else wide(variable.dtype.name)))
        if how.weights == "split":
            arrays.append(Array(len(rule.slots), "correction", "int8"))
        return Layout(variable.dtype.name, tuple(arrays), how.weights)

    def choose(self, rule: Rule, variable: Any) -> Storage:
        """How a variable and its slots are stored."""
        dtype = np.dtype(variable.dtype.as_numpy_dtype)
        return choose(rule, dtype, math.prod(variable.shape), self.moments, self.weights)

    def describe(self, rule: Rule, variable: Any, name: str, group: str) -> Described:
        """How the slots of a variable, which goes by this name, are stored."""
        dtype = np.dtype(variable.dtype.as_numpy_dtype)
        return described(rule, self.choose(rule, variable), name, tuple(variable.shape), dtype, group)


class Slots:
    """The slots of a list of parameters, by slot and by parameter.

    Args:
        names: of the rule's slots.
        seed: of stochastic rounding.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self.names = tuple(names)
        self.arrays = Joined()
        self.layouts: list[Layout] = []
        self.shapes: list[tuple[int, ...]] = []
        self.rounding_names: list[str] = []
        self.seed = seed

    def add(
        self, part: Arrays, layouts: Sequence[Layout], shapes: Sequence[tuple[int, ...]], names: Sequence[str]
    ) -> None:
        """Some more parameters: where their arrays are, which those are, and the parameters' shapes and names."""
        self.arrays.add(part, len(layouts))
        self.layouts += layouts
        self.shapes += shapes
        self.rounding_names += names

    def key(self, i: int) -> int:
        """What keys the random numbers of parameter i."""
        return name_key(self.rounding_names[i])

    def begin(self, slot: int, i: int, variable: Any) -> None:
        """Give a slot that starts as the parameter its first value."""
        self.restore(slot, i, [tf.cast(tf.convert_to_tensor(variable), wide(self.layouts[i].dtype))])

    def stored(self, slot: int, i: int) -> list[Any]:
        """What is kept of a slot, as it is: one tensor, or codes and scales."""
        return [self.arrays.read(array, i) for array in self.layouts[i].of(slot)]

    def restore(self, slot: int, i: int, tensors: Sequence[Any]) -> None:
        """Put back what `stored` gave."""
        for array, tensor in zip(self.layouts[i].of(slot), tensors, strict=True):
            self.arrays.write(array, i, tensor)

    def take_over(self, slot: int, i: int, tensors: Sequence[Any], step: Any) -> None:
        """What was stored elsewhere: to the bit where it has the same format, else converted; `step` as for `write`."""
        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
        kept = [self.layouts[i].arrays[array].dtype for array in self.layouts[i].of(slot)]
        if [tensor.dtype.name for tensor in tensors] == kept:
            self.restore(slot, i, tensors)
        else:
            self.write(slot, i, self.decode(tensors, wide(self.layouts[i].dtype)), step)

    def read(self, slot: int, i: int) -> Any:
        """Slot number `slot` of parameter i as a tensor; the correction of a split weight as it is."""
        return self.decode(self.stored(slot, i), wide(self.layouts[i].dtype))

    @staticmethod
    def decode(parts: Sequence[Any], dtype: str) -> Any:
        """What `stored` gave as numbers of a dtype; int8 without scales stays as it is."""
        first, *scales = parts
        if scales:
            return tf.reshape(codecs.decode_int8(tf.reshape(first, [-1]), *scales), first.shape)
        return first if first.dtype == tf.int8 else tf.cast(first, dtype)

    def write(self, slot: int, i: int, value: Any, step: Any) -> None:
        """Replace it; in a graph, when the graph runs. `step`: of the random numbers."""
        self.restore(slot, i, self._encode(slot, i, value, step))

    def replace(self, slot: int, values: Mapping[int, Any], step: Any) -> None:
        """Replace it for all parameters in `values`."""
        members: dict[Layout, dict[int, list[Any]]] = {}
        for i, value in values.items():
            members.setdefault(self.layouts[i], {})[i] = self._encode(slot, i, value, step)
        for kept, parts in members.items():
            for k, array in enumerate(kept.of(slot)):
                self.arrays.replace(array, {i: part[k] for i, part in parts.items()})

    def _encode(self, slot: int, i: int, value: Any, step: Any) -> list[Any]:
        first = self.layouts[i].arrays[self.layouts[i].of(slot)[0]]
        value = tf.convert_to_tensor(value)
        if first.dtype in ("float32", "float64") or slot == len(self.names):
            return [tf.cast(value, first.dtype)]
        flat = tf.reshape(tf.cast(value, tf.float32), [-1])
        random = self._draw(i, step).bits(slot, math.prod(self.shapes[i]))
        if first.dtype == "bfloat16":
            return [tf.reshape(codecs.encode_bfloat16(flat, random), self.shapes[i])]
        codes, scales = codecs.encode_int8(flat, random, signed=first.dtype == "int8")
        return [tf.reshape(codes, self.shapes[i]), scales]

    def _draw(self, i: int, step: Any) -> codecs.Draw:
        return codecs.Draw(self.seed, self.key(i), step)

    def read_weight(self, i: int, variable: Any) -> Any:
        """Parameter i as a step computes with it."""
        stored, correction = tf.convert_to_tensor(variable), self.stored(len(self.names), i)
        if correction:
            return codecs.decode_split(stored, *correction)
        return tf.cast(stored, wide(self.layouts[i].dtype))

    def write_weight(self, i: int, variable: Any, value: Any, step: Any) -> None:
        """Store parameter i after a step."""
        if self.layouts[i].weights == "nearest":
            variable.assign(tf.cast(value, variable.dtype))
            return
        shape = self.shapes[i]
        flat, random = tf.reshape(value, [-1]), self._draw(i, step).bits(PARAMETER, math.prod(shape))
        if self.layouts[i].of(len(self.names)):
            high, low = codecs.encode_split(flat, random)
            self.restore(len(self.names), i, [tf.reshape(low, shape)])
        else:
            encode = codecs.encode_bfloat16 if variable.dtype == tf.bfloat16 else codecs.encode_float16
            high = encode(flat, random)
        variable.assign(tf.reshape(high, shape))
