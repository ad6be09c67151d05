"""Whether an optimizer's tensors are those of its last step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from operator import is_
from typing import Any

import torch
from torch import Tensor

from adamas.kernels import cpu

# Python takes 0.8 us a parameter to look at what takes libadamas' shim 0.3 us.
READS = cpu.reads(Tensor)


class Watch:
    """The parameters of an optimizer and what it keeps of them, as they were when this was made.

    Args:
        params: the list of each group.
        state: `optimizer.state`.
    """

    def __init__(self, params: list[list[Tensor]], state: dict[Any, Any]) -> None:
        self._objects = list(_objects(params, state))  # the shim compares where they are, so they must live
        self._native = cpu.watch(params, state) if READS else None
        self._tensors = [value for value in self._objects if isinstance(value, Tensor)]
        self._pointers = list(map(Tensor.data_ptr, self._tensors))

    def gradients(self, params: list[list[Tensor]], state: dict[Any, Any]) -> list[Tensor | None] | None:
        """The gradients, None for a parameter without; None where anything was replaced, or has moved in memory."""
        if self._native is not None:
            found: list[Tensor | None] | None = self._native.gradients(params, state)
            return found
        if not all(map(is_, *zip(*zip_longest(_objects(params, state), self._objects), strict=True))):
            return None
        if list(map(Tensor.data_ptr, self._tensors)) != self._pointers:
            return None
        return [p.grad for group in params for p in group]


def _objects(params: list[list[Tensor]], state: dict[Any, Any]) -> Iterator[Any]:
    for group in params:
        yield from group
    for own in state.values():
        if isinstance(own, dict):
            yield own
            yield from own.values()


def is_negated(gradient: Tensor | None) -> bool:
    """Whether the values in memory are to be read with the other sign, of a tensor with at most one element.

    Such views come from imaginary parts of conjugated numbers, and have gaps if they have more elements.
    """
    return gradient is not None and gradient.layout == torch.strided and gradient.is_neg()
