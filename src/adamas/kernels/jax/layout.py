"""What is kept of each leaf, and where: in an array of its own, or in arenas that all leaves share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from adamas.formats import SCALED, compute_dtype
from adamas.rule import Rule

_APART = 64  # elements: parts of an arena begin at multiples of it, as the groups of int8 do


class Kept(NamedTuple):
    """One array that is kept of a leaf.

    slot   the index of its slot in `rule.slots`; behind the last one the correction of a split weight
    scale  whether it holds the scales of a slot in int8
    """

    slot: int
    scale: bool
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Leaf:
    """A parameter: its shape and dtype, the format of each slot, and how the parameter itself is rounded."""

    shape: tuple[int, ...]
    dtype: str
    formats: tuple[str, ...]
    weights: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def computed(self) -> np.dtype[Any]:
        """The dtype that a step computes in."""
        return compute_dtype(jnp.dtype(self.dtype))

    @property
    def plain(self) -> bool:
        """Whether nothing of it is rounded to fewer bits than float32 has, but for the parameter itself."""
        return set(self.formats) == {"float32"} and self.weights == "nearest"

    def kept(self, rule: Rule) -> list[Kept]:
        """The arrays that are kept of it."""
        found = []
        for s, (slot, name) in enumerate(zip(rule.slots, self.formats, strict=True)):
            if name == "int8":
                found.append(Kept(s, False, "int8" if slot.kind == "signed" else "uint8", self.shape))
                found.append(Kept(s, True, "float32", (-(-self.size // SCALED),)))
            else:
                found.append(Kept(s, False, "bfloat16" if name == "bfloat16" else self.computed.name, self.shape))
        if self.weights == "split":
            found.append(Kept(len(rule.slots), False, "int8", self.shape))
        return found


class Place(NamedTuple):
    """Which array of the state, and the first element in it."""

    array: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """Where everything that is kept of these leaves lies.

    packed  in arenas, one for each slot and dtype; else in an array for each
    """

    rule: Rule
    leaves: tuple[Leaf, ...]
    packed: bool

    @property
    def plain(self) -> bool:
        """Whether all leaves are."""
        return all(leaf.plain for leaf in self.leaves)

    @cached_property
    def kept(self) -> list[list[Kept]]:
        """Of each leaf."""
        return [leaf.kept(self.rule) for leaf in self.leaves]

    @cached_property
    def _laid(self) -> tuple[list[list[Place]], list[tuple[str, int]]]:
        places: list[list[Place]] = []
        if not self.packed:
            arrays = [(kept.dtype, kept.size) for own in self.kept for kept in own]
            first = 0
            for own in self.kept:
                places.append([Place(first + k, 0) for k in range(len(own))])
                first += len(own)
            return places, arrays
        keys: dict[tuple[int, bool, str], int] = {}
        ends: list[int] = []
        for own in self.kept:
            places.append([])
            for kept in own:
                array = keys.setdefault((kept.slot, kept.scale, kept.dtype), len(keys))
                if array == len(ends):
                    ends.append(0)
                places[-1].append(Place(array, ends[array]))
                ends[array] += -(-kept.size // _APART) * _APART
        return places, [(dtype, end) for (_, _, dtype), end in zip(keys, ends, strict=True)]

    @property
    def places(self) -> list[list[Place]]:
        """Of each leaf, one for each array that is kept of it."""
        return self._laid[0]

    @property
    def arrays(self) -> list[tuple[str, int]]:
        """The dtype and the number of elements of each array."""
        return self._laid[1]

    def join(self, kept: Sequence[Sequence[Any]]) -> list[Any]:
        """The arrays, from what is kept of each leaf."""
        if not self.packed:
            return [array for own in kept for array in own]
        parts: list[list[Any]] = [[] for _ in self.arrays]
        for own, places in zip(kept, self.places, strict=True):
            for array, place in zip(own, places, strict=True):
                flat = jnp.ravel(array)
                parts[place.array].append(jnp.pad(flat, (0, -flat.size % _APART)))
        return [jnp.concatenate(part) for part in parts]

    def split(self, arrays: Sequence[Any]) -> list[list[Any]]:
        """What is kept of each leaf, from the arrays."""
        if not self.packed:
            return [[arrays[place.array] for place in places] for places in self.places]
        return [
            [
                arrays[place.array][place.offset : place.offset + kept.size].reshape(kept.shape)
                for kept, place in zip(own, places, strict=True)
            ]
            for own, places in zip(self.kept, self.places, strict=True)
        ]
