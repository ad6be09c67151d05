"""Step programs: many training steps in one call into TensorFlow.

A program is one function of (order of the rows, parts, rows): it gathers batch after batch by index, and gives each one
to the model's own `train_step` (or `test_step`), so that losses, metrics, moving statistics and random states are what
Keras makes of them.

    graph     TensorFlow runs the loop; the optimizer is what it is in a `tf.function` (ours: the native op)
    xla       the same, with all but the optimizer compiled by XLA
    xla-loop  XLA compiles the loop with everything in it; the optimizer is an array expression

What to do is an argument: calls of any length share one compiled program.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from adamas.errors import UnsupportedError
from adamas.train.loop.batches import Layout
from adamas.train.loop.forms import forms_for_xla
from adamas.train.loop.xla_step import refused, xla_step

Role = Literal["train", "test"]
Logs = dict[str, Any]

# A call into TensorFlow cannot be interrupted: signals and progress wait for its end. A call is planned to last
# TARGET, so that it stays below 0.25 s even if the machine slows down to half in the middle of it.
TARGET = 0.1  # seconds


class Key(NamedTuple):
    """What a compiled program depends on besides the model as it was compiled."""

    kind: str
    role: Role
    batch: int
    passes: int  # how many passes over the rows the order holds
    rows: tuple[tuple[tuple[int, ...], str], ...]  # shape and dtype of each tensor
    layout: Layout  # how they make up x, y and sample weights
    resets: bool  # whether the program can set the metrics to zero itself


class Part(NamedTuple):
    """Consecutive steps of one epoch."""

    start: int  # position in the order of the first row
    steps: int
    reset: bool  # set the metrics to zero first


class Program:
    """One compiled program: any steps on rows in any order, as many epochs in a call as there are passes in the order.

    The last batch of a pass holds what is left. It is part of the program: as a call of its own it took a sixth of the
    time of an epoch (digits, width 64, xla-loop: 431,000 samples/s with it, 521,000 without; 2 cores, 2026-11).

    Making it compiles it, for data like `order` and `rows`, and changes nothing of the model.
    """

    def __init__(self, model: Any, key: Key, order: Any, rows: tuple[Any, ...]):
        self._model = model
        self.batch = key.batch
        self._resets = key.resets
        self._rate = 0.0  # seconds a step, as last seen
        self._longest = 1
        self._dtype = order.dtype
        self._nothing = np.zeros((key.passes, len(Part._fields)), order.dtype.as_numpy_dtype)
        function = tf.function(
            functools.partial(_steps, model, key), jit_compile=True if key.kind == "xla-loop" else None, autograph=False
        )
        nothing = tf.constant(self._nothing)
        self._call = function.get_concrete_function(
            *(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in (order, nothing, *rows))
        )
        try:
            self._call(order, nothing, *rows)  # XLA compiles at the first call: let it be one of no steps
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if key.kind != "xla-loop":
                raise
            raise refused(error) from error

    def call(
        self, order: Any, rows: tuple[Any, ...], parts: Sequence[Part], limit: int | None
    ) -> list[tuple[int, Logs]]:
        """Run the first of these steps, as many as fit into one call.

        Args:
            order: index tensor [passes * number of rows].
            rows: the tensors, of the shapes that the program was made for.
            parts: at least one, of at least one step each.
            limit: at most this many steps; None: as many as fit into TARGET seconds.

        Returns:
            For each part that was begun, how many of its steps were done, and the metrics after them.
        """
        left = limit if limit is not None else self._fitting()
        table = self._nothing.copy()
        taken: list[int] = []
        for part in parts[: len(table) if self._resets else 1]:
            table[len(taken)] = part._replace(steps=min(part.steps, left))
            taken.append(min(part.steps, left))
            left -= taken[-1]
            if not left:
                break
        if parts[0].reset and not self._resets:
            self._model.reset_metrics()
        began = time.perf_counter()
        logs = {name: value.numpy() for name, value in self._call(order, tf.constant(table), *rows).items()}
        self._saw((time.perf_counter() - began) / sum(taken), sum(taken))
        return [(steps, {name: value[i] for name, value in logs.items()}) for i, steps in enumerate(taken)]

    def run(
        self,
        order: Any,
        rows: tuple[Any, ...],
        part: Part,
        limit: int | None,
        done: Callable[[int, Logs], bool],
    ) -> Logs:
        """Run the steps of one part in as many calls as it takes, and return the metrics after the last one.

        Args:
            order, rows, limit: as for `call`.
            done: told the number of steps of each call after it and the metrics; says whether to stop.
        """
        while True:
            [(steps, logs)] = self.call(order, rows, [part], limit)
            part = Part(part.start + steps * self.batch, part.steps - steps, reset=False)
            if done(steps, logs) or not part.steps:
                return logs

    def _fitting(self) -> int:
        """Steps that fit into TARGET; grows eightfold at most, for the first steps may be unlike the later ones."""
        if not self._rate:
            return 1
        return max(1, min(int(TARGET / self._rate), 8 * self._longest))

    def _saw(self, rate: float, steps: int) -> None:
        self._rate = max(rate, 0.5 * (rate + self._rate)) if self._rate else rate
        self._longest = steps if rate * steps > TARGET else max(self._longest, steps)


def one_step(model: Any, kind: str, role: Role, batch: Any) -> None:
    """One step on a batch (x, y, sample_weight), as operations of the program being made."""

    def step(batch: Any) -> Any:
        if getattr(model._compile_loss, "metrics", None):
            # Keras' loss of each of several outputs is a mean over batches, by rows if it knows how many while it
            # traces. `model.fit` does not where the last batch is smaller, and every program shall give the same
            # numbers.
            batch = keras.tree.map_structure(_of_unknown_rows, batch)
        return (model.train_step if role == "train" else model.test_step)(batch)

    if kind == "xla":
        logs = xla_step(model, step, batch)
    else:
        with forms_for_xla(model) if kind == "xla-loop" else nullcontext():
            logs = step(batch)
    expected = model.get_metrics_result()
    if not isinstance(logs, dict) or set(logs) != set(expected):
        raise UnsupportedError(
            f"compute_metrics of {type(model).__name__} returns {logs!r}, which is not the results of its metrics "
            f"({', '.join(expected)}); adamas.train.fit reports metrics once an epoch, from their own state: use "
            "model.fit"
        )


def reset_metrics_if(model: Any, wanted: tf.Tensor) -> None:
    """Set the model's metrics to zero where `wanted`, as an operation of the program being made."""

    def reset() -> tf.Tensor:
        model.reset_metrics()
        return tf.constant(True)

    tf.cond(wanted, reset, lambda: tf.constant(False))


def _steps(model: Any, key: Key, order: tf.Tensor, parts: tf.Tensor, *rows: tf.Tensor) -> Logs:
    """The program: parts [key.passes, 3] of type `Part`, up to the first one without steps.

    Returns:
        The metrics after each part, [key.passes, ...].
    """
    count = int(rows[0].shape[0])
    rest = count % key.batch

    def step(start: tf.Tensor, batch: int) -> None:
        # Not tf.slice: XLA wants to know where a slice begins, and compiles anew for each value of `start`.
        index = tf.gather(order, start + tf.range(batch, dtype=order.dtype))
        one_step(model, key.kind, key.role, key.layout.pack([tf.gather(values, index) for values in rows]))

    def part(i: tf.Tensor, found: Any) -> tuple[tf.Tensor, Any]:
        start, steps, reset = tf.unstack(tf.gather(parts, i))
        full = tf.minimum(steps, (count - start % count) // key.batch) if rest else steps

        def body(j: tf.Tensor) -> tuple[tf.Tensor]:
            step(start + j * key.batch, key.batch)
            return (j + 1,)

        def last() -> tf.Tensor:
            step(start + full * key.batch, rest)
            return tf.constant(True)

        if key.resets:
            reset_metrics_if(model, reset > 0)
        # One iteration at a time: the steps change variables.
        tf.while_loop(lambda j: j < full, body, (tf.zeros_like(steps),), parallel_iterations=1)
        if rest:
            tf.cond(steps > full, last, lambda: tf.constant(False))
        results = model.get_metrics_result()
        return i + 1, {name: array.write(i, results[name]) for name, array in found.items()}

    def goes_on(i: tf.Tensor, _: Any) -> tf.Tensor:
        return (i < key.passes) & (tf.gather(parts, tf.minimum(i, key.passes - 1))[1] > 0)

    none = {
        name: tf.TensorArray(value.dtype, key.passes, element_shape=value.shape)
        for name, value in model.get_metrics_result().items()
    }
    _, found = tf.while_loop(goes_on, part, (tf.constant(0), none), parallel_iterations=1)
    return {name: array.stack() for name, array in found.items()}


def _of_unknown_rows(values: Any) -> Any:
    """The same values, of a number of rows that tracing does not see."""
    if not isinstance(values, tf.Tensor):
        return values
    return tf.compat.v1.placeholder_with_default(values, [None, *values.shape[1:]])
