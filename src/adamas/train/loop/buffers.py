"""Batches that come in turn, for programs that XLA compiles: gathered into a buffer, over which the program runs.

XLA compiles a program for sizes that are fixed, so a buffer has one size, however many batches are in it. While a
program runs over one buffer, the next one is filled. Results do not depend on how batches fall into buffers.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from adamas.train.loop.batches import Layout, Rows
from adamas.train.loop.programs import Programs
from adamas.train.loop.sources import batch_of
from adamas.train.loop.steps import Logs, Part, Role

# A buffer holds at most this much, and there are two of them (and a copy while one is filled).
LARGEST = 32 << 20  # bytes
MOST = 512  # batches; more bring nothing: a call costs about 0.2 ms, this many steps 20 ms at least
# Filling ends after so long, so that a slow source does not keep the training waiting for a full buffer.
PATIENCE = 0.1  # seconds
# Shapes of batches that XLA compiles programs for. Further ones are trained by the program "graph", which takes any.
SHAPES = 8
# How long an interrupted training waits for the thread that fills a buffer.
PARTING = 1.0  # seconds

Shape = tuple[tuple[int, ...], ...]


class Buffer(NamedTuple):
    """Some batches of one shape, one after the other in the rows of `rows`; the rest of it is unused."""

    rows: Rows
    shape: Shape  # of each tensor of one batch
    batches: int


class Gatherer:
    """Takes batches from the iterators of one source, into buffers."""

    def __init__(self, programs: Programs, spec: Any, layout: Layout):
        self._programs, self._spec, self._layout = programs, spec, layout
        self._main: Shape | None = None  # of the first batch; all but the last are usually like it
        self._pending: Any = None  # a batch that was taken and did not fit, as Optional
        self._from: Any = None  # the iterator that it came from

    def take(self, iterator: Any, most: int | None) -> tuple[Buffer | None, bool]:
        """The next batches of one shape, at most `most`, or None if there are none; and whether the data has ended."""
        first = self._pending if self._from is iterator and self._pending is not None else _next(iterator)
        self._pending, self._from = None, iterator
        if not first.has_value():
            return None, True
        tensors = self._layout.flatten(*batch_of(first.get_value()))
        shape: Shape = tuple(tuple(t.shape) for t in tensors)
        self._main = self._main or shape
        size = _size(tensors) if shape == self._main else 1
        if size == 1:
            return Buffer(Rows(tensors, self._layout), shape, 1), False
        fill = self._programs.kept(
            ("fill", size, shape, repr(self._spec)),
            lambda: tf.function(functools.partial(_fill, self._spec, self._layout, size, shape), autograph=False),
        )
        limit = size if most is None else min(size, most)
        count, pending, filled = fill(iterator, tf.constant(limit, tf.int64), first)
        ended = int(count) < limit and not pending.has_value()
        if not ended and pending.has_value():
            self._pending = pending
        return Buffer(Rows(tuple(filled), self._layout), shape, int(count)), ended


class BufferedProgram:
    """Steps on the next batches of an iterator, with the interface of `StreamProgram`."""

    def __init__(self, programs: Programs, kind: str, role: Role, spec: Any, layout: Layout):
        self._programs, self._kind, self._role = programs, kind, role
        self._gatherer = Gatherer(programs, spec, layout)
        self._shapes: set[Shape] = set()

    def run(
        self,
        iterator: Any,
        most: int | None,
        *,
        limit: int | None,
        done: Callable[[int, Logs], bool] | None = None,
    ) -> tuple[Logs, int, bool]:
        """As `StreamProgram.run`."""
        logs: Logs = {}
        total, stopped = 0, False

        def heard(steps: int, logs: Logs) -> bool:
            nonlocal stopped
            stopped = done is not None and done(steps, logs)
            return stopped

        buffer, ended = self._gatherer.take(iterator, most)
        while buffer is not None:
            rest = None if most is None else most - total - buffer.batches
            later = None if ended or rest == 0 else _Later(functools.partial(self._gatherer.take, iterator, rest))
            try:
                logs = self._steps(buffer, total == 0, limit, heard)
                total += buffer.batches
            except BaseException:
                if later is not None:
                    later.leave()
                raise
            if stopped and later is not None:
                later.leave()
            buffer, ended = later.result() if later is not None and not stopped else (None, ended)
        if not logs:
            self._programs.reset_metrics()
        return logs, total, ended

    def _steps(self, buffer: Buffer, reset: bool, limit: int | None, done: Callable[[int, Logs], bool]) -> Logs:
        kind = self._kind
        if buffer.shape in self._shapes or len(self._shapes) < SHAPES:
            self._shapes.add(buffer.shape)
        else:
            kind = "graph"
        order = tf.range(buffer.rows.count, dtype=tf.int32)
        program = self._programs.get(kind, self._role, buffer.shape[0][0], order, buffer.rows)
        return program.run(order, buffer.rows.tensors, Part(0, buffer.batches, reset), limit, done)


class _Later:
    """A call in a thread, and its result."""

    def __init__(self, call: Callable[[], Any]):
        self._call = call
        self._outcome: tuple[Any, BaseException | None] = (None, None)
        # The process does not wait for it at its end: it may be in user's code that waits for data for ever.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = (self._call(), None)
        except BaseException as error:
            self._outcome = (None, error)

    def result(self) -> Any:
        self._thread.join()
        value, error = self._outcome
        if error is not None:
            raise error
        return value

    def leave(self) -> None:
        """The result is not wanted."""
        self._thread.join(PARTING)


def _size(tensors: tuple[Any, ...]) -> int:
    """How many batches like this a buffer holds."""
    size: int = sum(t.shape.num_elements() * t.dtype.size for t in tensors)
    return max(1, min(MOST, LARGEST // max(size, 1)))


def _next(iterator: Any) -> Any:
    return iterator.get_next_as_optional()


def _fill(
    spec: Any, layout: Layout, size: int, shape: Shape, iterator: Any, limit: tf.Tensor, first: Any
) -> tuple[tf.Tensor, Any, list[tf.Tensor]]:
    """Take batches of this shape, `limit` at most; return how many, what was taken and did not fit, and the rows."""
    until = tf.timestamp() + PATIENCE

    def tensors(optional: Any) -> tuple[tf.Tensor, ...]:
        return layout.flatten(*batch_of(optional.get_value()))

    def fits(optional: Any) -> tf.Tensor:
        def alike() -> tf.Tensor:
            return tf.reduce_all(
                [tf.reduce_all(tf.shape(t) == s) for t, s in zip(tensors(optional), shape, strict=True)]
            )

        return tf.cond(optional.has_value(), alike, lambda: tf.constant(False))

    def goes_on(count: tf.Tensor, optional: Any, fit: tf.Tensor, arrays: Any) -> tf.Tensor:
        return fit & (count < limit) & ((tf.timestamp() < until) | (count == 0))

    def body(count: tf.Tensor, optional: Any, fit: tf.Tensor, arrays: Any) -> tuple[Any, ...]:
        index = tf.cast(count, tf.int32)
        arrays = [
            array.write(index, tf.ensure_shape(t, s))
            for array, t, s in zip(arrays, tensors(optional), shape, strict=True)
        ]
        # Not one batch too many: the source may wait long for it.
        following = tf.cond(count + 1 < limit, lambda: _next(iterator), lambda: tf.experimental.Optional.empty(spec))
        return count + 1, following, fits(following), arrays

    empty = [
        tf.TensorArray(leaf.dtype, size, element_shape=s) for leaf, s in zip(_leaves(spec, layout), shape, strict=True)
    ]
    count, rest, _, arrays = tf.while_loop(
        goes_on, body, (tf.constant(0, tf.int64), first, tf.constant(True), empty), parallel_iterations=1
    )
    return count, rest, [tf.reshape(a.stack(), [size * s[0], *s[1:]]) for a, s in zip(arrays, shape, strict=True)]


def _leaves(spec: Any, layout: Layout) -> tuple[Any, ...]:
    return layout.flatten(*batch_of(spec))
