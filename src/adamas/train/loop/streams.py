"""The program for batches that come in turn: TensorFlow takes them from their iterator, inside the loop.

Any shapes will do, and nothing waits for Python: the loop sees by itself when the data ends, and when its time is up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from adamas.train.loop.sources import batch_of
from adamas.train.loop.steps import Logs, Role, one_step, reset_metrics_if

# Seconds that a call may last before it begins no further step: Ctrl-C and progress wait for its end.
LONGEST = 0.2


class StreamKey(NamedTuple):
    """What such a program depends on besides the model as it was compiled."""

    kind: str
    role: Role
    spec: str  # of the elements
    resets: bool  # whether the program can set the metrics to zero itself


class StreamProgram:
    """One compiled program: steps on the next batches of an iterator. Making it changes nothing of the model."""

    def __init__(self, model: Any, key: StreamKey, spec: Any):
        self._model, self.resets = model, key.resets
        self._call = tf.function(functools.partial(_steps, model, key), autograph=False)
        self._call.get_concrete_function(
            tf.data.IteratorSpec(spec), tf.TensorSpec([2], tf.int64), tf.TensorSpec([], tf.float64)
        )

    def run(
        self,
        iterator: Any,
        most: int | None,
        *,
        limit: int | None,
        done: Callable[[int, Logs], bool] | None = None,
    ) -> tuple[Logs, int, bool]:
        """Steps on at most `most` batches (None: on all), with metrics set to zero first.

        Args:
            iterator: of a `tf.data.Dataset`.
            most: at least 1.
            limit: at most this many steps a call; None: as many as fit into LONGEST seconds.
            done: told the number of steps of each call after it and the metrics; says whether to stop.

        Returns:
            The metrics, how many steps were done, and whether the data ended.
        """
        total, reset = 0, True
        if not self.resets:
            self._model.reset_metrics()
        seconds = tf.constant(LONGEST if limit is None else float("inf"), tf.float64)
        while True:
            rest = (2**62 if most is None else most) - total
            piece = tf.constant([rest if limit is None else min(rest, limit), int(reset)], tf.int64)
            logs, steps, more = self._call(iterator, piece, seconds)
            reset = False
            total += int(steps)
            stop = done is not None and int(steps) > 0 and done(int(steps), logs)
            if stop or not more or total == most:
                return logs, total, not bool(more)


def _steps(
    model: Any, key: StreamKey, iterator: Any, piece: tf.Tensor, seconds: tf.Tensor
) -> tuple[Logs, tf.Tensor, tf.Tensor]:
    """The program: piece = (most steps, 1 to reset the metrics)."""
    until = tf.timestamp() + seconds

    def goes_on(done: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
        in_time = (tf.timestamp() < until) | (done == 0)
        return more & (done < piece[0]) & in_time

    def body(done: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        element = iterator.get_next_as_optional()

        def step() -> tf.Tensor:
            one_step(model, key.kind, key.role, batch_of(element.get_value()))
            return tf.constant(True)

        more = tf.cond(element.has_value(), step, lambda: tf.constant(False))
        return done + tf.cast(more, tf.int64), more

    if key.resets:
        reset_metrics_if(model, piece[1] > 0)
    # One iteration at a time: the steps change variables. A batch that cannot be had ends the loop between two of them.
    steps, more = tf.while_loop(goes_on, body, (tf.constant(0, tf.int64), tf.constant(True)), parallel_iterations=1)
    return model.get_metrics_result(), steps, more
