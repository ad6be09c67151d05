from collections.abc import Sequence
from typing import Any

import numpy as np

abi: int

class Plan:
    def __init__(
        self,
        rule: Sequence[int],
        params: list[np.ndarray],
        slots: list[list[np.ndarray]],
        scales: list[list[np.ndarray | None]],
        keys: list[int],
        dtype: int,
        formats: list[int],
        weights: int,
        average: bool,
        verify: int,
        seed: int,
    ) -> None: ...
    def step(
        self,
        grads: list[Any],
        t: np.ndarray,
        table: np.ndarray,
        rows: np.ndarray | None,
        grad_scale: float,
        clip: int,
        bound: float,
        check: bool,
        squares: float | None,
        taken: np.ndarray | None,
        carry: np.ndarray | None,
        average_decay: float,
        statistics: np.ndarray | None,
    ) -> tuple[int, float]: ...
    def ready(self, grads: list[Any], others: list[Plan]) -> int: ...
    def squares(self, grads: list[Any], found: np.ndarray) -> int: ...

class Watch:
    def __init__(self, params: list[list[Any]], state: dict[Any, Any]) -> None: ...
    def gradients(self, params: list[list[Any]], state: dict[Any, Any]) -> list[Any] | None: ...

def use_torch(tensor: type | None, view: int, gradient: int, changed: int) -> None: ...
def changed(tensors: list[Any]) -> bool: ...
def reads(type: type) -> bool: ...
def build_info() -> str: ...
def set_threads(n: int) -> None: ...
def get_threads() -> int: ...
def set_isa(isa: int) -> int: ...
def get_isa() -> int: ...
def scalars(
    rule: Sequence[int],
    numbers: Sequence[float],
    t: int,
    grad_scale: float,
    clip: float,
    carry: Sequence[float],
) -> list[float]: ...
def carry_on(rule: Sequence[int], numbers: Sequence[float], t: int, before: Sequence[float]) -> list[float]: ...
def clip_factor(clip: int, norm: float, bound: float) -> float: ...
