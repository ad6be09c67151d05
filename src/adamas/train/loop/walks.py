"""One walk over the data: an epoch of training, or a validation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from adamas.train.loop.batches import Rows
from adamas.train.loop.buffers import BufferedProgram
from adamas.train.loop.order import epoch_order
from adamas.train.loop.programs import Programs
from adamas.train.loop.sources import Source, batch_of, check_dense
from adamas.train.loop.steps import Logs, Part, Program, Role
from adamas.train.loop.streams import StreamKey, StreamProgram

Done = Callable[[int, Logs], bool]

# Epochs of few rows share a call into TensorFlow, where nobody listens between them: the orders of at most PASSES
# epochs and AHEAD rows are at hand at once.
AHEAD = 1 << 16
PASSES = 1024


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

    def begin(self, epochs: int) -> None:
        """A training begins, that ends before epoch `epochs`."""

    def run(self, epoch: int, until: int, limit: int | None, done: Done | None = None) -> dict[str, Any]:
        """Walk once; return the metrics as Python numbers where they are numbers.

        Args:
            until: a call into TensorFlow may go on with later epochs, up to this one; what it finds is kept for them.
            limit: at most this many steps a call.
            done: told the number of steps of each call after it and the metrics; says whether to stop.
        """

    def begun(self, epoch: int) -> bool:
        """Whether a call went on to this epoch, which was not asked for yet."""


class _Begun(NamedTuple):
    """An epoch of which some steps, or all, have been done."""

    steps: int
    logs: Logs


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
        self._passes = max(1, min(PASSES, AHEAD // rows.count)) if role == "train" else 1
        in_turn = tf.range(rows.count, dtype="int32" if rows.count < 2**31 else "int64")
        self._order = tf.tile(in_turn, [self._passes])
        self._held = range(0)  # which passes `_order` holds, if there is a seed
        self._program: Program | None = None
        self._epochs = 0  # of the training
        self._begun: dict[int, _Begun] = {}
        self._stopped = False

    @property
    def steps(self) -> int:
        return self._given or self._batches

    @property
    def example(self) -> Any:
        rows = min(self._batch, self._rows.count)
        return self._rows.layout.pack([tf.TensorSpec((rows, *v.shape[1:]), v.dtype) for v in self._rows.tensors])

    def prepare(self, programs: Programs, kind: str) -> None:
        batch = min(self._batch, self._rows.count)
        self._program = programs.get(kind, self._role, batch, self._order, self._rows)

    def begin(self, epochs: int) -> None:
        self._epochs = epochs
        self._begun.clear()

    def run(self, epoch: int, until: int, limit: int | None, done: Done | None = None) -> dict[str, Any]:
        assert self._program is not None  # `prepare` comes first
        if not self.begun(epoch):
            self._stopped = False
        _, _, count = self._part(epoch)
        if count < self.steps:
            warnings.warn(
                f"The {'' if self._role == 'train' else 'validation '}data ran out after {count} of {self.steps} "
                f"batches of an epoch: {self._rows.count} rows give {self._batches}.",
                stacklevel=3,
            )
        while not self._stopped and self._done(epoch) < count:
            parts = self._next(epoch, until)
            ran = self._program.call(self._order, self._rows.tensors, parts, limit)
            for number, (steps, logs) in enumerate(ran, epoch):
                self._begun[number] = _Begun(self._done(number) + steps, logs)
            self._stopped = done is not None and done(sum(steps for steps, _ in ran), ran[-1][1])
        return numbers(self._begun.pop(epoch).logs)

    def begun(self, epoch: int) -> bool:
        return epoch in self._begun

    def _done(self, epoch: int) -> int:
        return self._begun[epoch].steps if self.begun(epoch) else 0

    def _next(self, epoch: int, until: int) -> list[Part]:
        """The steps that are left of this epoch, and those of the epochs after it of which the order is at hand."""
        if self._seed is not None and self._part(epoch)[0] not in self._held:
            self._draw(self._part(epoch)[0], self._part(self._epochs - 1)[0])
        parts: list[Part] = []
        for number in range(epoch, until):
            walk, first, count = self._part(number)
            if len(parts) == self._passes or (self._seed is not None and walk not in self._held):
                break
            done = self._done(number)
            place = 0 if self._seed is None else self._held.index(walk) * self._rows.count
            parts.append(Part(place + (first + done) * self._batch, count - done, reset=done == 0))
        return parts

    def _draw(self, first: int, last: int) -> None:
        """Put the orders of these passes at hand, or of as many as the program takes.

        Also where epochs have calls of their own: a tensor of this size for each took a tenth of their time.
        """
        assert self._seed is not None
        self._held = range(first, min(last + 1, first + self._passes))
        order = np.zeros((self._passes, self._rows.count), self._order.dtype.as_numpy_dtype)
        for place, walk in enumerate(self._held):
            order[place] = epoch_order(self._rows.count, self._seed, walk)
        self._order = tf.constant(order.reshape(-1))

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

    def begin(self, epochs: int) -> None:
        self._source.restart()

    def run(self, epoch: int, until: int, limit: int | None, done: Done | None = None) -> dict[str, Any]:
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

    def begun(self, epoch: int) -> bool:
        return False


def numbers(logs: Logs) -> dict[str, Any]:
    values = {name: np.asarray(value) for name, value in logs.items()}
    return {name: float(value) if value.ndim == 0 else value for name, value in values.items()}
