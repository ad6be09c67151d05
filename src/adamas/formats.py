"""How a moment is stored.

A format turns an array of moments into what is kept between steps and back:

    stored = encode(x, key)        x = decode(stored)

`key` says which elements of which tensor are being written at which step, so that a format that rounds stochastically
gives bits that depend on nothing but (seed, parameter name, step, element), however a kernel cuts the tensor. `Native`
keeps the parameter's own dtype and ignores it.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

import numpy as np


class Key(NamedTuple):
    """Which random numbers an encoding may use.

    seed, name, step  of the optimizer; `name_key` of the parameter; t
    first             index of the first element that is encoded, in the whole parameter in C order
    """

    seed: int
    name: int
    step: int
    first: int


def name_key(name: str) -> int:
    """The 64-bit key of a parameter's name: the first 8 bytes of its BLAKE2b digest (UTF-8), little endian."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Format(Protocol):
    """One way to store a moment."""

    name: str

    def encode(self, x: np.ndarray, key: Key) -> np.ndarray:
        """What is kept of x, a float32 or float64 array."""
        ...

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """The array that the next step computes with."""
        ...


class Native:
    """The parameter's own dtype, float32 or float64: nothing is lost."""

    name = "native"

    def encode(self, x: np.ndarray, key: Key) -> np.ndarray:
        return x

    def decode(self, stored: np.ndarray) -> np.ndarray:
        return stored


NATIVE = Native()
