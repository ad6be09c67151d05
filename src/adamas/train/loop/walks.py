"""One walk over the data: an epoch of training, or a validation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from adamas.train.loop.batches import Rows
from adamas.train.loop.buffers import BufferedProgram
from adamas.train.loop.order import epoch_order
from adamas.train.loop.programs import Logs, Program, Programs, Role
from adamas.train.loop.sources import Source, batch_of, check_dense
from adamas.train.loop.streams import StreamKey, StreamProgram

Done = Callable[[int, Logs], bool]


class Walk(Protocol):
    """What `fit` needs of its data."""

    @property
    def steps(self) -> int | None:
        """Steps an epoch, None if that is not known yet."""

    @property
    def example(self) -> Any:
        """(x, y, sample_weight) of a batch, as tensors or their specifications."""

    @property
    def varies(self) -> bool:
        """Whether batches may differ in more than their number of rows."""

    def prepare(self, programs: Programs, kind: str) -> None:
        """Compile what can be compiled before the first batch is there. Costs nothing if that has been done."""

    def begin(self) -> None:
        """A training begins."""

    def run(self, epoch: int, limit: int | None, done: Done | None = None) -> dict[str, Any]:
        """Walk once; return the metrics as Python numbers where they are numbers."""


class ArrayWalk:
    """Full batches of rows in memory, then the last one with what is left.

    Args:
        rows: all examples.
        batch: rows a step.
        steps: steps an epoch; None: all. The next epoch goes on where the last one ended.
        seed: of the order, a new one for each pass over the rows; None: as they lie.
    """

    varies = False

    def __init__(self, role: Role, rows: Rows, batch: int, steps: int | None, seed: int | None):
        self._role, self._rows, self._batch, self._given, self._seed = role, rows, batch, steps, seed
        self._batches = math.ceil(rows.count / batch)
        self._in_turn = tf.range(rows.count, dtype="int32" if rows.count < 2**31 else "int64")
        self._program: Program | None = None

    @property
    def steps(self) -> int:
        return self._given or self._batches

    @property
    def example(self) -> Any:
        return self._rows.layout.pack([values[: self._batch] for values in self._rows.tensors])

    def prepare(self, programs: Programs, kind: str) -> None:
        batch = min(self._batch, self._rows.count)
        self._program = programs.get(kind, self._role, batch, self._in_turn, self._rows)

    def begin(self) -> None:
        pass

    def run(self, epoch: int, limit: int | None, done: Done | None = None) -> dict[str, Any]:
        walk, first, count = self._part(epoch)
        if count < self.steps:
            warnings.warn(
                f"The {'' if self._role == 'train' else 'validation '}data ran out after {count} of {self.steps} "
                f"batches of an epoch: {self._rows.count} rows give {self._batches}.",
                stacklevel=3,
            )
        order = self._in_turn if self._seed is None else tf.constant(epoch_order(self._rows.count, self._seed, walk))
        assert self._program is not None  # `prepare` comes first
        at = first * self._batch
        logs = self._program.run(order, self._rows.tensors, at, count, reset=True, limit=limit, done=done)
        return numbers(logs)

    def _part(self, epoch: int) -> tuple[int, int, int]:
        """Which pass over the rows this epoch belongs to, its first batch there, and how many batches it has."""
        if self._role == "test" or self._given is None or self._given >= self._batches:
            return epoch, 0, min(self.steps, self._batches)
        walk, part = divmod(epoch, math.ceil(self._batches / self._given))
        first = part * self._given
        return walk, first, min(self._given, self._batches - first)


class SourceWalk:
    """Batches of a source, as they come."""

    def __init__(self, role: Role, source: Source):
        self._role, self._source = role, source
        self._program: Any = None

    @property
    def steps(self) -> int | None:
        return self._source.steps

    @property
    def example(self) -> Any:
        return batch_of(self._source.spec)

    @property
    def varies(self) -> bool:
        return self._source.varies

    def prepare(self, programs: Programs, kind: str) -> None:
        spec = self._source.spec
        if kind != "graph":
            check_dense(spec)
        if kind == "xla-loop":
            self._program = self._program or BufferedProgram(programs, kind, self._role, spec, self._source.layout)
            return
        key = StreamKey(kind, self._role, repr(spec), programs.can_reset)
        self._program = programs.kept(key, lambda: StreamProgram(programs.model, key, spec))

    def begin(self) -> None:
        self._source.restart()

    def run(self, epoch: int, limit: int | None, done: Done | None = None) -> dict[str, Any]:
        if self._role == "test":
            self._source.restart()
        iterator, most = self._source.begin(epoch)
        try:
            logs, taken, ended = self._program.run(iterator, most, limit=limit, done=done)
        except tf.errors.OpError as error:
            failure = self._source.failure(error)
            if failure is error:
                raise
            raise failure from error
        self._source.end(taken, ended)
        return numbers(logs)


def numbers(logs: Logs) -> dict[str, Any]:
    values = {name: np.asarray(value) for name, value in logs.items()}
    return {name: float(value) if value.ndim == 0 else value for name, value in values.items()}
