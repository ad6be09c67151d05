"""Parameters of torch, their gradients, and what an optimizer holds of them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.stepping import same_bits

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def problem(*shapes: tuple[int, ...], dtype: Any = None) -> list[Any]:
    generator = torch.Generator().manual_seed(7)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def give(params: Sequence[Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def values(optimizer: Any) -> list[np.ndarray]:
    """Every parameter and all of its state, as copies."""
    found = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            found += [p.detach().numpy().copy(), *(v.numpy().copy() for v in optimizer.state.get(p, {}).values())]
    return found


def equal(these: Sequence[np.ndarray], those: Sequence[np.ndarray]) -> bool:
    return len(these) == len(those) and all(map(same_bits, these, those))
