"""The arrays of an optimizer in Keras' files, the same on every backend; no framework is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from adamas.errors import StateError
from adamas.formats import SCALED

SCALES = "scales of {}"  # in Keras' files: of the int8 codes in the array of this number
is_for_keras = ContextVar("adamas-for-keras", default=False)


@contextmanager
def for_keras() -> Iterator[None]:
    """In it, what is saved is what Keras' own optimizer would save."""
    token = is_for_keras.set(True)
    try:
        yield
    finally:
        is_for_keras.reset(token)


def read(store: Any, name: str) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
    """The arrays "0", "1", ... of a file, and the scales of int8 by the number of the array that they belong to.

    Raises:
        StateError: an array of the optimizer of this name is missing.
    """
    names = set(store.keys())
    scales = {i: np.asarray(store[key]) for i in range(len(names)) if (key := SCALES.format(i)) in names}
    try:
        return [np.asarray(store[str(i)]) for i in range(len(names) - len(scales))], scales
    except KeyError as error:
        raise StateError(f"the saved state of {name!r} has no array {error}; the file is damaged") from error


def difference(found: Sequence[tuple[int, ...]], expected: Sequence[tuple[int, ...]]) -> str | None:
    """The first difference between the shapes that were saved and those of an optimizer's variables."""
    if len(found) != len(expected):
        return f"it has {len(found)} arrays, this optimizer {len(expected)}"
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one != other:
            return f"its array {i} has the shape {one}, that of this optimizer {other}"
    return None


def not_numbers(arrays: Sequence[np.ndarray], scales: Mapping[int, np.ndarray]) -> str | None:
    """Why arrays from a file, and the scales that belong to some of them, are not numbers; None if they are."""
    if any(array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16" for array in arrays):
        return "it has arrays of something else than numbers"
    for i, scale in scales.items():
        codes = arrays[i] if i < len(arrays) else np.zeros(0)
        if codes.dtype.itemsize != 1 or scale.dtype != np.float32 or scale.shape != (-(-codes.size // SCALED),):
            return f"its array {i} is {codes.dtype}, and the scales that come with it {scale.dtype}{list(scale.shape)}"
    return None
