"""Examples as a flat tuple of tensors, and how they lie in what Keras calls a batch: (x, y, sample_weight)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras


class Layout:
    """Where each of a flat sequence of tensors lies in (x, y, sample_weight), each nested as the model takes it.

    Two layouts are equal, and hash alike, if they pack alike.

    Args:
        x, y, sample_weight: nested dictionaries, lists and tuples. What is None stays None; anything else is a place.

    Example:
        >>> layout = Layout({"left": "a", "right": "b"}, ("c", None))
        >>> layout.pack([1, 2, 3])
        ({'left': 1, 'right': 2}, (3, None), None)
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None):
        numbers = itertools.count()
        self._places = keras.tree.map_structure(
            lambda leaf: None if leaf is None else next(numbers), (x, y, sample_weight)
        )
        self._told = repr(self._places)

    def pack(self, flat: Sequence[Any]) -> Any:
        """(x, y, sample_weight) with the tensors at their places."""
        return keras.tree.map_structure(lambda place: None if place is None else flat[place], self._places)

    def flatten(self, x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, ...]:
        """The tensors of such a batch, in the order that `pack` takes."""
        return tuple(leaf for leaf in keras.tree.flatten((x, y, sample_weight)) if leaf is not None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._told == other._told

    def __hash__(self) -> int:
        return hash(self._told)

    def __repr__(self) -> str:
        return f"Layout{self._told}"


@dataclass(frozen=True)
class Rows:
    """Examples as tensors with one row an example each, and their places in a batch."""

    tensors: tuple[Any, ...]
    layout: Layout

    @property
    def count(self) -> int:
        """How many examples."""
        return int(self.tensors[0].shape[0])

    @property
    def kinds(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype of each tensor."""
        return tuple((tuple(values.shape), values.dtype.name) for values in self.tensors)
