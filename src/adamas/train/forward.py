"""A network's outputs for many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def forward(model: keras.Model, x: np.ndarray, batch: int = 1024) -> np.ndarray:
    """The network's outputs for x, float32 [rows, outputs]; the last batch is filled up, so one shape is compiled."""
    parts = []
    for start in range(0, len(x), batch):
        rows = x[start : start + batch]
        full = np.concatenate([rows, np.zeros((batch - len(rows), *x.shape[1:]), x.dtype)])
        parts.append(np.asarray(model(full, training=False))[: len(rows)])
    return np.concatenate(parts)
