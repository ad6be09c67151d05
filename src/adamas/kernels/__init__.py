"""Kernels: one implementation of the rule for one device each.

    reference   NumPy, `adamas.rule.update` itself over blocks; runs everywhere, slow
    cpu         libadamas, C++: all tensors in one call, at the speed of memory
    xla         `adamas.rule.update` as an array expression of TensorFlow, for XLA
    tensorflow  the TensorFlow op: a shim over libadamas, built on first use
    jax         the handler of XLA's typed FFI: a shim over libadamas, built on first use; and
                JAX's array expression
    torch       what hands PyTorch's tensors to libadamas: a shim, built on first use

`reference` and `cpu` share the interface `Plan` (see `reference.py`); `choose()` picks between them and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from adamas.formats import Stored
from adamas.kernels.arrays import Formats
from adamas.rule import Clip, Rule


class Plan(Protocol):
    """What a kernel for NumPy arrays offers; documented in `reference.py`."""

    limit: float

    def __init__(
        self,
        rule: Rule,
        names: Sequence[str],
        params: Sequence[np.ndarray],
        slots: Sequence[Sequence[Stored]],
        seed: int = 0,
        formats: Formats = None,
        weights: str = "nearest",
        average: bool = False,
        verify: int = 0,
        rounding_names: Sequence[str] | None = None,
    ) -> None: ...

    def step(
        self,
        grads: Sequence[np.ndarray | None],
        t: np.ndarray,
        table: np.ndarray,
        rows: np.ndarray | None = None,
        *,
        grad_scale: float = 1.0,
        clip: Clip | None = None,
        check: bool = False,
        squares: float | None = None,
        taken: np.ndarray | None = None,
        carry: np.ndarray | None = None,
        average_decay: float | None = None,
        statistics: np.ndarray | None = None,
    ) -> float | None: ...

    def ready(self, grads: Sequence[np.ndarray | None], others: Sequence[Any] = ()) -> None: ...

    def squares(self, grads: Sequence[np.ndarray | None]) -> np.ndarray: ...


class Choice(NamedTuple):
    """A kernel and why it was chosen: `str()` of it is a line for people."""

    name: str
    plan: type[Plan]
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def choose() -> Choice:
    """The best kernel for NumPy arrays that can serve here. Results do not depend on it, speed does."""
    from adamas.kernels import cpu

    why_not = cpu.why_not()
    if why_not is None:
        reason = f"libadamas, {cpu.get_instruction_set()} instructions, up to {cpu.get_threads()} threads"
        return Choice("cpu", cpu.Plan, reason)
    from adamas.kernels import reference

    return Choice("reference", reference.Plan, f"the same numbers from NumPy, slowly, because {why_not}")
