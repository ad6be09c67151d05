"""Which leaves decay."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from adamas.errors import ArgumentError
from adamas.jax.settings import Settings, is_array
from adamas.jax.states import Leaves


def decays(settings: Settings) -> bool:
    """Whether a weight decay may be other than 0."""
    decay = settings.numbers.get("weight_decay", 0.0)
    return callable(decay) or is_array(decay) or decay != 0.0


def masked(settings: Settings, own: Leaves, params: Any) -> list[bool]:
    """Whether each leaf decays.

    Raises:
        ArgumentError: the mask is no tree of bools.
    """
    mask = settings.mask(params) if callable(settings.mask) else settings.mask
    if mask is None:
        return [True] * len(own.leaves)
    spread = jax.tree.map(lambda value, part: jax.tree.map(lambda _: value, part), mask, params)
    found = own.flat(spread, "values of the mask")
    if not all(isinstance(value, (bool, np.bool_)) for value in found):
        raise ArgumentError("mask: give a tree of bools like the parameters, or a function that makes one of them")
    return [bool(value) for value in found]
