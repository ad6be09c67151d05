"""What one training gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adamas.train.runs.config import Optimizer
from adamas.train.runs.progress import Epoch


@dataclass(frozen=True)
class Outcome:
    """Numbers and weights of one training.

    epochs       one entry an epoch
    best         the epoch with the lowest validation loss, from 1
    best_weights, last_weights  after that epoch, and after the last one, in the order of `model.get_weights`
    seconds      of the training itself, compilation included where it was the first
    """

    optimizer: Optimizer
    learning_rate: float
    epochs: tuple[Epoch, ...]
    best: int
    best_weights: list[np.ndarray]
    last_weights: list[np.ndarray]
    seconds: float

    @property
    def best_epoch(self) -> Epoch:
        """The numbers of the epoch with the lowest validation loss."""
        return self.epochs[self.best - 1]
