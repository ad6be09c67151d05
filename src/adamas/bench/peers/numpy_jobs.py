"""What the rows of adamas.numpy have in common."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import adamas.numpy
from adamas.bench.formats import Format

Arrays = list[np.ndarray]


def made(shapes: list[list[int]], form: Format, **more: Any) -> tuple[adamas.numpy.Adam, Arrays, Arrays]:
    """An optimizer, its parameters, and gradients for them."""
    params, grads = ([numbers(shape, scale, form.weights) for shape in shapes] for scale in (1.0, 0.01))
    return adamas.numpy.Adam(params, lr=1e-3, **{**form.settings, **more}), params, grads


def numbers(shape: list[int], scale: float, dtype: str) -> np.ndarray:
    """Normally distributed; from a million on they repeat, which makes them quickly and no step faster."""
    found = np.empty(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    flat = found.reshape(-1)
    some = np.random.default_rng(0).standard_normal(min(flat.size, 2**20), dtype=np.float32) * np.float32(scale)
    for start in range(0, flat.size, some.size):
        piece = flat[start : start + some.size]
        piece[:] = some[: piece.size]
    return found


def note(optimizer: adamas.numpy.Adam) -> str:
    """What must be known where libadamas does not serve."""
    return "" if optimizer.kernel.startswith("cpu") else optimizer.kernel
