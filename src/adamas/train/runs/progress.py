"""What a job tells while it runs. The command shows it; from Python it is silent unless a listener is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adamas.train.runs.resolve import Prepared


@dataclass(frozen=True)
class Epoch:
    """One epoch's numbers. `metric` is the accuracy or, in a regression, the mean absolute error (standardised)."""

    phase: str  # "tune" or "train"
    optimizer: str
    learning_rate: float
    epoch: int
    epochs: int
    loss: float
    metric: float
    val_loss: float
    val_metric: float
    metric_name: str


@dataclass(frozen=True)
class Trial:
    """One learning rate's result on the validation part: the epoch with the lowest validation loss."""

    optimizer: str
    learning_rate: float
    epoch: int
    val_loss: float
    val_metric: float
    metric_name: str


class Listener:
    """Hears what happens; this one says nothing. A method may raise to stop the job."""

    def prepared(self, prepared: Prepared) -> None:
        """The data is checked and the configuration resolved; TensorFlow is not loaded yet."""

    def model(self, parameters: int, program: str, threads: int) -> None:
        """The network is built."""

    def tuning(self, optimizer: str, rates: int, epochs: int) -> None:
        """An optimizer's learning rates are about to be tried."""

    def tried(self, trial: Trial) -> None:
        """One of them has been."""

    def training(self, optimizer: str, learning_rate: float, epochs: int) -> None:
        """An optimizer is about to be trained in full."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch, of tuning or of training, has ended."""
