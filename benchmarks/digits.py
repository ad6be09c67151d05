"""The task of the `fit` cases: the 1797 handwritten digits that ship inside scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

BATCH = 32


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x / 16.0).astype(np.float32), y.astype(np.int32)


def order(epoch: int) -> np.ndarray:
    """A new order of the examples for each epoch, the same for every peer that takes one."""
    return np.random.default_rng(epoch).permutation(1797)
