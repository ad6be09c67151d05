"""One network with one optimizer, trained again and again from the same initial weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from adamas.errors import DataError
from adamas.train.loop.choose import choose_program
from adamas.train.loop.fit import fit
from adamas.train.loop.programs import lay_out
from adamas.train.loop.snapshots import snapshot
from adamas.train.runs import models
from adamas.train.runs.config import Optimizer
from adamas.train.runs.models import forward
from adamas.train.runs.outcome import Outcome
from adamas.train.runs.progress import Epoch
from adamas.train.runs.resolve import Prepared

if TYPE_CHECKING:
    import keras


# Examples from which XLA's longer compilation pays for itself: it took 2.1 s more (half of the 4.2 s of processor time
# between the programs for `adamas train digits --against sgd`) and saves 1.6 us an example on that network (choose.py).
# Two cores of an x86-64 server, TensorFlow 2.21, 2026-11.
XLA_PAYS = 1_300_000


class Trainer:
    """Trains one optimizer on prepared data; every `train` begins at the same weights and an empty optimizer.

    The program is compiled once: only the values of weights, state and learning rate change between trainings.
    """

    def __init__(self, prepared: Prepared, settings: Optimizer) -> None:
        self.prepared = prepared
        self.settings = settings
        self.model: keras.Model = models.build(prepared)
        self.optimizer = models.build_optimizer(settings, 1.0)
        loss, metrics = models.loss_and_metrics(prepared)
        self.model.compile(optimizer=self.optimizer, loss=loss, metrics=metrics)
        self.program: str = prepared.config.training.program
        if self.program == "auto":
            self.program = choose_program(self.model) if prepared.examples >= XLA_PAYS else "graph"
        lay_out(self.model, self.program)
        self.optimizer.build(self.model.trainable_variables)
        self._start = snapshot(self.model)
        self._train = prepared.part(prepared.split.train)
        self._validation = prepared.part(prepared.split.validation)

    def train(self, learning_rate: float, epochs: int, phase: str, hear: Callable[[Epoch], None]) -> Outcome:
        """Trains from the start.

        Args:
            learning_rate: constant over the training.
            epochs: how many.
            phase: "tune" or "train", for the listener.
            hear: called after each epoch.

        Raises:
            DataError: the loss was not finite in any epoch, so there are no best weights.
        """
        self._start.restore()
        self.optimizer.learning_rate = learning_rate
        record = _Record(self.settings.name, learning_rate, epochs, phase, hear)
        training = self.prepared.config.training
        began = time.perf_counter()
        fit(
            self.model,
            *self._train,
            batch_size=training.batch_size,
            epochs=epochs,
            validation_data=self._validation,
            seed=self.prepared.config.seed,
            program=self.program,
            verbose=0,
            callbacks=[_callback(record)],
        )
        seconds = time.perf_counter() - began
        if record.best_weights is None:
            raise DataError(
                f"{models.describe(self.settings)} with learning rate {learning_rate:g} never reached a finite "
                "validation loss; give a smaller --lr"
            )
        return Outcome(
            optimizer=self.settings,
            learning_rate=learning_rate,
            epochs=tuple(record.epochs),
            best=record.best,
            best_weights=record.best_weights,
            last_weights=self.model.get_weights(),
            seconds=seconds,
        )

    def outputs(self, weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
        """What the network with these weights gives for x, float32 [rows, outputs]."""
        self.model.set_weights(weights)
        return forward(self.model, x)


class _Record:
    """Each epoch's numbers, and the weights after the best one."""

    def __init__(self, optimizer: str, rate: float, epochs: int, phase: str, hear: Callable[[Epoch], None]) -> None:
        self.epochs: list[Epoch] = []
        self.best = 0
        self.best_weights: list[np.ndarray] | None = None
        self._lowest = math.inf
        self._head = (phase, optimizer, rate)
        self._total = epochs
        self._hear = hear

    def add(self, model: keras.Model, epoch: int, logs: dict[str, float]) -> None:
        name = "accuracy" if "accuracy" in logs else "mae"
        loss, metric, val_loss, val_metric = (float(logs[key]) for key in ("loss", name, "val_loss", f"val_{name}"))
        record = Epoch(*self._head, epoch + 1, self._total, loss, metric, val_loss, val_metric, name)
        self.epochs.append(record)
        if val_loss < self._lowest:
            self._lowest, self.best, self.best_weights = val_loss, epoch + 1, model.get_weights()
        self._hear(record)


def _callback(record: _Record) -> keras.callbacks.Callback:
    import keras

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            record.add(self.model, epoch, logs or {})

    return Watch()
