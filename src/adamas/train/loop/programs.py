"""Step programs: many training steps in one call into TensorFlow.

A program is one function of (order of the rows, piece, rows): it gathers batch after batch by index, and gives each one
to the model's own `train_step` (or `test_step`), so that losses, metrics, moving statistics and random states are what
Keras makes of them.

    graph     TensorFlow runs the loop; the optimizer is what it is in a `tf.function` (ours: the native op)
    xla       the same, with all but the optimizer compiled by XLA
    xla-loop  XLA compiles the loop with everything in it; the optimizer is an array expression

The number of steps is an argument: calls of any length share one compiled program.
"""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, TypeVar

import keras
import tensorflow as tf

from adamas.errors import UnsupportedError
from adamas.train.loop.batches import Layout, Rows
from adamas.train.loop.xla_step import refused, xla_step

Role = Literal["train", "test"]
Logs = dict[str, Any]
Made = TypeVar("Made")

# A call into TensorFlow cannot be interrupted: signals and progress wait for its end. A piece is planned to last
# TARGET, so that it stays below 0.25 s even if the machine slows down to half in the middle of it.
TARGET = 0.1  # seconds
# Compiled programs kept for one model: training and validation, of a few shapes each.
KEPT = 16


class Key(NamedTuple):
    """What a compiled program depends on besides the model as it was compiled."""

    kind: str
    role: Role
    batch: int
    rows: tuple[tuple[tuple[int, ...], str], ...]  # shape and dtype of each tensor
    layout: Layout  # how they make up x, y and sample weights
    resets: bool  # whether the program can set the metrics to zero itself


class Program:
    """One compiled program: `steps` steps from row `start` of the order, for any `start` and `steps`.

    The last batch of the rows holds what is left. It is part of the program: as a call of its own it took a sixth of
    the time of an epoch (digits, width 64, xla-loop: 431,000 samples/s with it, 521,000 without; 2 cores, 2026-11).

    Making it compiles it, for data like `order` and `rows`, and changes nothing of the model.
    """

    def __init__(self, model: Any, key: Key, order: Any, rows: tuple[Any, ...]):
        self._model = model
        self.batch = key.batch
        self.resets = key.resets
        self._rate = 0.0  # seconds a step, as last seen
        self._longest = 1
        self._function = tf.function(
            functools.partial(_steps, model, key), jit_compile=True if key.kind == "xla-loop" else None, autograph=False
        )
        self._piece = functools.lru_cache(64)(lambda *numbers: tf.constant(numbers, order.dtype))
        nothing = self._piece(0, 0, 0)
        self._call = self._function.get_concrete_function(
            *(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in (order, nothing, *rows))
        )
        try:
            self._call(order, nothing, *rows)  # XLA compiles at the first call: let it be one of no steps
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if key.kind != "xla-loop":
                raise
            raise refused(error) from error

    def run(
        self,
        order: Any,
        rows: tuple[Any, ...],
        start: int,
        steps: int,
        *,
        reset: bool,
        limit: int | None,
        done: Callable[[int, Logs], bool] | None = None,
    ) -> Logs:
        """Run `steps` steps in pieces, and return the metrics after the last one, as tensors.

        Args:
            order: index tensor [number of rows].
            rows: the tensors, of the shapes that the program was made for.
            start: position in `order` of the first row of the first batch.
            steps: at least 1.
            reset: set the metrics to zero first.
            limit: at most this many steps a piece; None: as many as fit into TARGET seconds.
            done: told the number of steps of each piece after it and the metrics; says whether to stop.
        """
        logs: Logs = {}
        if reset and not self.resets:
            self._model.reset_metrics()
        while steps:
            piece = min(steps, limit if limit is not None else self._fitting())
            began = time.perf_counter()
            logs = self._call(order, self._piece(start, piece, int(reset)), *rows)
            self._saw((time.perf_counter() - began) / piece, piece)
            reset = False
            steps -= piece
            start += piece * self.batch
            if done is not None and done(piece, logs):
                break
        return logs

    def _fitting(self) -> int:
        """Steps that fit into TARGET; grows eightfold at most, for the first steps may be unlike the later ones."""
        if not self._rate:
            return 1
        return max(1, min(int(TARGET / self._rate), 8 * self._longest))

    def _saw(self, rate: float, piece: int) -> None:
        self._rate = max(rate, 0.5 * (rate + self._rate)) if self._rate else rate
        self._longest = piece if rate * piece > TARGET else max(self._longest, piece)


def one_step(model: Any, kind: str, role: Role, batch: Any) -> None:
    """One step on a batch (x, y, sample_weight), as operations of the program being made."""

    def step(batch: Any) -> Any:
        if getattr(model._compile_loss, "metrics", None):
            # Keras' loss of each of several outputs is a mean over batches, by rows if it knows how many while it
            # traces. `model.fit` does not where the last batch is smaller, and every program shall give the same
            # numbers.
            batch = keras.tree.map_structure(_of_unknown_rows, batch)
        return (model.train_step if role == "train" else model.test_step)(batch)

    logs = xla_step(model, step, batch) if kind == "xla" else step(batch)
    expected = model.get_metrics_result()
    if not isinstance(logs, dict) or set(logs) != set(expected):
        raise UnsupportedError(
            f"compute_metrics of {type(model).__name__} returns {logs!r}, which is not the results of its metrics "
            f"({', '.join(expected)}); adamas.train.fit reports metrics once an epoch, from their own state: use "
            "model.fit"
        )


def _steps(model: Any, key: Key, order: tf.Tensor, piece: tf.Tensor, *rows: tf.Tensor) -> Logs:
    """The program: piece = (position of the first row, number of steps, 1 to reset the metrics)."""
    start, steps, reset = piece[0], piece[1], piece[2]
    count = int(order.shape[0])
    rest = count % key.batch
    full = tf.minimum(steps, (count - start) // key.batch) if rest else steps

    def reset_metrics() -> tf.Tensor:
        model.reset_metrics()
        return tf.constant(True)

    def step(i: tf.Tensor, batch: int) -> None:
        # Not tf.slice: XLA wants to know where a slice begins, and compiles anew for each value of `start`.
        index = tf.gather(order, start + i * key.batch + tf.range(batch, dtype=piece.dtype))
        one_step(model, key.kind, key.role, key.layout.pack([tf.gather(values, index) for values in rows]))

    def body(i: tf.Tensor) -> tuple[tf.Tensor]:
        step(i, key.batch)
        return (i + 1,)

    def last() -> tf.Tensor:
        step(full, rest)
        return tf.constant(True)

    if key.resets:
        tf.cond(reset > 0, reset_metrics, lambda: tf.constant(False))
    # One iteration at a time: the steps change variables.
    tf.while_loop(lambda i: i < full, body, (tf.zeros((), piece.dtype),), parallel_iterations=1)
    if rest:
        tf.cond(steps > full, last, lambda: tf.constant(False))
    results: Logs = model.get_metrics_result()
    return results


def _of_unknown_rows(values: Any) -> Any:
    """The same values, of a number of rows that tracing does not see."""
    if not isinstance(values, tf.Tensor):
        return values
    return tf.compat.v1.placeholder_with_default(values, [None, *values.shape[1:]])


class Programs:
    """The compiled programs of one model, kept with it from one `fit` to the next.

    They hold for the model as it was compiled: after `model.compile`, a change of what is trainable, or of a setting
    that a traced step holds constant, they are made anew. New values - weights, optimizer state, learning rate, and of
    our optimizers the betas, epsilon, decay, bounds of clips, loss scale - need no new program.
    """

    _ATTRIBUTE = "_adamas_programs"

    def __init__(self, model: Any):
        self.model = model
        self._made: OrderedDict[Hashable, Any] = OrderedDict()
        self._for: list[Any] = []

    @classmethod
    def of(cls, model: Any) -> Programs:
        """The programs kept with this model; made at the first call."""
        kept: Programs | None = model.__dict__.get(cls._ATTRIBUTE)
        if kept is None or kept.model is not model:
            kept = cls(model)
            # Past Keras' __setattr__, which would look into it for layers and variables to track and save.
            object.__setattr__(model, cls._ATTRIBUTE, kept)
        kept._refresh()
        return kept

    def get(self, kind: str, role: Role, batch: int, order: Any, rows: Rows) -> Program:
        """The program for batches of `batch` rows of this data, at most all of them, compiled if it is new."""
        key = Key(kind, role, batch, rows.kinds, rows.layout, self.can_reset)
        return self.kept(key, lambda: Program(self.model, key, order, rows.tensors))

    def kept(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made under this key for the model as it is compiled, else what `make` makes now."""
        made: Made | None = self._made.get(key)
        if made is None:
            made = self._made[key] = make()
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return made

    def reset_metrics(self) -> None:
        """Set the model's metrics to zero."""
        self.model.reset_metrics()

    @property
    def can_reset(self) -> bool:
        """Whether a program can set the metrics to zero itself."""
        return _metrics_are_keras(self.model)

    def _refresh(self) -> None:
        model = self.model
        now = [
            model.optimizer,
            _settings(model.optimizer),
            model._loss_tracker,  # compile() makes a new one
            *model.trainable_variables,
        ]
        same = len(now) == len(self._for) and all(
            a is b or (isinstance(a, str) and a == b) for a, b in zip(now, self._for, strict=True)
        )
        if not same:
            self._made.clear()
        self._for = now


def lay_out(model: Any, kind: str) -> None:
    """Tell an optimizer of ours that is not built yet which layout of its moments the program reads fastest."""
    if kind == "xla-loop" and not model.optimizer.built and hasattr(model.optimizer, "expect_xla"):
        model.optimizer.expect_xla()


def _settings(optimizer: Any) -> str:
    """All that a traced update has as constants: the configuration without the value of the learning rate (of ours:
    without any number that may change), and what `exclude_from_weight_decay` said, which is no part of it."""
    if hasattr(optimizer, "traced"):
        return str(optimizer.traced())
    config = dict(optimizer.get_config())
    if isinstance(optimizer.learning_rate, keras.Variable):
        config.pop("learning_rate", None)
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of Keras' loss scaling
    if inner is not optimizer:
        config["inner_optimizer"] = _settings(inner)
    if getattr(inner, "weight_decay", None):
        config["decays"] = [inner._use_weight_decay(v) for v in inner._trainable_variables]
    return repr(sorted(config.items(), key=lambda item: item[0]))


def _metrics_are_keras(model: Any) -> bool:
    """Whether all metrics are reset by Keras' own code. A user's might not do the same inside a compiled program."""
    metrics = [wrapped for metric in model.metrics for wrapped in (metric, *getattr(metric, "metrics", ()))]
    return getattr(model.reset_metrics, "__func__", None) is keras.Model.reset_metrics and all(
        type(metric).__module__.startswith("keras.") for metric in metrics
    )
