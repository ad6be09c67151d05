"""Tables stepped lazily: only the rows that a sparse gradient has. The mathematics is in adamas.kernels.rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adamas.errors import ArrayError, UnsupportedError
from adamas.kernels import cpu, reference, rows
from adamas.kernels.cpu import rows as native
from adamas.rule import Hyper, Rule
from adamas.torch.checks import EXACT
from adamas.torch.memory import as_array


class Sums(NamedTuple):
    """A sparse gradient, added up: the rows that it has, each once and increasing, and the gradient of each."""

    rows: np.ndarray
    values: np.ndarray
    height: int  # rows of the table

    @property
    def dense(self) -> np.ndarray:
        """The dense gradient."""
        found = np.zeros((self.height, *self.values.shape[1:]), self.values.dtype)
        found[self.rows] = self.values
        return found

    @property
    def squares(self) -> float:
        """The sum of squares of the dense gradient."""
        if cpu.why_not():
            return reference.sum_of_squares([self.dense])
        return native.squares(self.rows, self.values)


class Table:
    """A parameter that has had sparse gradients, its moments, and the clock of its rows.

    Args:
        rule: of its group.
        p: the parameter.
        slots: its moments.
    """

    def __init__(self, rule: Rule, p: np.ndarray, slots: Sequence[Any]) -> None:
        self._rule, self._p, self._slots = rule, p, list(slots)
        self._late: tuple[np.ndarray, Hyper] | None = None  # the clock, and the numbers of the last step

    def step(self, hyper: Hyper, t: int, sums: Sums, grad_scale: float) -> None:
        """The rows that have a gradient take step t, with the gradient times `grad_scale`."""
        seen = np.zeros(sums.height + 1, np.int32) if self._late is None else self._late[0]
        step = rows.step if cpu.why_not() else native.step
        step(self._rule, hyper, t, self._p, self._slots, seen, sums.rows, sums.values, grad_scale)
        self._late = seen, hyper

    def settle(self) -> None:
        """Decay the moments of every row that has missed steps to the present."""
        if self._late is not None:
            seen, hyper = self._late
            (rows.settle if cpu.why_not() else native.settle)(hyper, self._slots, seen)
            self._late = None


def add_up(name: str, gradient: Tensor, p: Tensor) -> Sums:
    """The gradient of each row.

    Raises:
        UnsupportedError: the gradient is not one of whole rows, or not of the parameter's dtype and shape.
        ArrayError: it names a row that the parameter has not.
    """
    if gradient.layout != torch.sparse_coo or gradient.sparse_dim() != 1:
        raise UnsupportedError(
            f"the gradient of parameter {name} is sparse ({gradient.layout}) in another way than by rows, as those of "
            "torch.nn.Embedding(sparse=True) are; use sparse='dense'"
        )
    if p.dtype not in EXACT or gradient.dtype != p.dtype or gradient.shape != p.shape:
        raise UnsupportedError(
            f"the gradient of parameter {name} is {gradient.dtype}{list(gradient.shape)} and the parameter "
            f"{p.dtype}{list(p.shape)}; sparse='lazy' takes rows of float32 and float64 of the parameter's own dtype; "
            "use sparse='dense'"
        )
    given = gradient.detach()
    indices, values = as_array(given._indices()[0].contiguous()), as_array(given._values().contiguous())
    try:
        return Sums(*(rows.add_up if cpu.why_not() else native.add_up)(indices, values, p.shape[0]), p.shape[0])
    except ArrayError as error:
        raise ArrayError(f"parameter {name}: {error}") from None
