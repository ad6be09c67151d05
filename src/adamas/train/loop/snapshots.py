"""The state of a training in memory: weights, random states and the optimizer's state, to go back to."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from adamas.errors import ArgumentError, StateError
from adamas.train.loop.choose import choose_program
from adamas.train.loop.programs import lay_out


class Snapshot:
    """The values that `snapshot` copied; `restore` writes them back. See `snapshot`."""

    def __init__(self, model: Any):
        self._model = model
        self._variables = _variables(model)
        self._values = [np.array(v.numpy()) for v in self._variables]

    def restore(self) -> None:
        """Write the copied values back into the model and its optimizer; nothing has to be compiled again.

        Raises:
            StateError: the model or its optimizer has other variables by now, for instance after `model.compile` with
                another optimizer. Nothing is written.
        """
        now = _variables(self._model)
        if len(now) != len(self._variables) or any(a is not b for a, b in zip(now, self._variables, strict=True)):
            raise StateError(
                "the snapshot was taken of other variables than the model and its optimizer have now; take it again "
                "after model.compile, and after adding or replacing layers"
            )
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)


def snapshot(model: Any) -> Snapshot:
    """Copy everything that training changes: weights, random states (dropout) and the optimizer's variables.

    `Model.get_weights` leaves out the states of dropout's random numbers and the optimizer. With a snapshot, trainings
    that start from the same state and differ in the learning rate alone share one compiled program:

        start = snapshot(model)
        for rate in (1e-2, 1e-3, 1e-4):
            start.restore()
            model.optimizer.learning_rate = rate
            history = fit(model, x, y, epochs=5)

    Args:
        model: a built and compiled Keras model. Its optimizer is built if it was not.

    Returns:
        A `Snapshot`. It holds a copy of each variable in main memory; the learning rate is one of them, so assign a new
        one after `restore`, not before.

    Raises:
        ArgumentError: the model has no weights yet, or is not compiled.
    """
    return Snapshot(model)


def _variables(model: Any) -> list[Any]:
    if not isinstance(model, keras.Model):
        raise ArgumentError(f"snapshot takes a keras.Model, not {type(model).__name__}")
    if not model.built:
        raise ArgumentError("the model has no weights yet: give it an Input, call it on a batch, or call model.build")
    if not model.compiled or model.optimizer is None:
        raise ArgumentError("the model is not compiled: call model.compile(optimizer=..., loss=...)")
    if not model.optimizer.built:
        lay_out(model, choose_program(model))
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]
