"""Lazy steps of TensorFlow variables: only the rows that a tf.IndexedSlices has. The mathematics is in kernels/rows.py.

Two ways: the ops of libadamas (rows.cc), and an expression of TensorFlow's own operations, for variables on a GPU, for
functions compiled by XLA, and where the ops cannot be had. The expression has no size that depends on numbers, as XLA
wants it: a row that comes several times is computed several times, with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from adamas import rule as mathematics
from adamas.errors import ArrayError
from adamas.kernels import cpu, xla
from adamas.kernels.tensorflow import op
from adamas.kernels.tensorflow.arrays import NewVariable, label
from adamas.kernels.tensorflow.engines import Numbers, in_xla
from adamas.kernels.tensorflow.settings import Row, Settings
from adamas.kernels.tensorflow.slots import Slots
from adamas.rule import Rule


class Sums(NamedTuple):
    """A sparse gradient, added up.

    rows     int64 [n]: the rows it has; each once and increasing from the op, in order and repeated elsewhere
    values   [n, ...]: the gradient of each
    squares  float64: the sum of squares of the dense gradient; 0 where nobody asked for it
    """

    rows: Any
    values: Any
    squares: Any


class Rows:
    """For each variable but scalars the clock of its rows, `seen`, and the lazy step.

    Args:
        rule: with Keras' epsilon.
        slots: the moments; each in a variable of its own.
        new_variable: makes one.
    """

    def __init__(self, rule: Rule, slots: Slots, new_variable: NewVariable) -> None:
        self.seen: list[Any] = []
        self._rule, self._slots, self._new_variable = rule, slots, new_variable

    def add(self, variables: Sequence[Any]) -> None:
        """Make the clocks of some more variables; None for a scalar, which has no rows."""
        for variable in variables:
            with tf.device(variable.device):
                shape = (variable.shape[0] + 1,) if variable.shape.rank else None
                self.seen.append(self._new_variable(shape, "int32", f"{label(variable)}_seen") if shape else None)

    def add_up(self, gradient: Any, variable: Any, *, native: bool, squares: bool) -> Sums:
        """The gradient of each row; checks the indices, and in a graph whoever writes must wait for it.

        Raises:
            ArrayError: eagerly, an index is no row of the variable.
        """
        indices, values = _conform(gradient, variable)
        try:
            if native:
                load = op.load().adamas_rows
                return Sums(*load(indices=indices, values=values, count=variable.shape[0], norm=squares))
            return _add_up(indices, values, variable.shape[0], squares)
        except tf.errors.InvalidArgumentError as error:
            raise ArrayError(f"the gradient of {variable.name!r}: {error.message}") from error

    def step(
        self,
        variable: Any,
        index: int,
        row: int,
        sums: Sums,
        squares: Any,
        numbers: Numbers,
        settings: Settings,
        *,
        native: bool,
    ) -> None:
        """The lazy step of one variable.

        Args:
            index: its number in the optimizer.
            row: as `Batch.rows` has it.
            squares: what the norm of a clip is the root of.
        """
        if not native:
            self._write(variable, index, row, sums, squares, numbers, settings)
            return
        *moments, seen = self._moments(index)
        op.load().adamas_rows_step(
            param=variable.handle,
            slots=[moment.handle for moment in moments],
            seen=seen.handle,
            rows=sums.rows,
            sums=sums.values,
            lr=numbers.lr,
            iterations=numbers.iterations,
            numbers=numbers.table,
            squares=squares,
            row=row,
            unscale=settings.unscales,
            clip=cpu.clip_code(settings.clip),
            rule=list(cpu.rule_codes(self._rule)),
        )

    def settle(self, indices: Sequence[int], rows: Sequence[int], numbers: Numbers, *, native: bool) -> None:
        """Decay the moments of all rows that missed steps; costs next to nothing where there are none."""
        known = [(index, row // 2) for index, row in zip(indices, rows, strict=True) if self.seen[index] is not None]
        tables, lines = [self._moments(index) for index, _ in known], [line for _, line in known]
        if not native:
            for (m, v, *_, seen), line in zip(tables, lines, strict=True):
                _settle(m, v, seen, Row(*tf.unstack(numbers.table[line])))
        elif tables:
            handles = [variable.handle for m, v, *_, seen in tables for variable in (m, v, seen)]
            moments = [tf.stack(handles)] if tf.executing_eagerly() else handles
            op.load().adamas_rows_settle(moments=moments, numbers=numbers.table, lines=lines)

    def _moments(self, index: int) -> list[Any]:
        """m, v, perhaps vmax, and the clock of the rows, as tf.Variables."""
        arrays, _ = self._slots.arrays.places([index])
        return [*(variable.value for (variable,) in arrays), self.seen[index].value]

    def _write(
        self, variable: Any, index: int, number: int, sums: Sums, squares: Any, numbers: Numbers, settings: Settings
    ) -> None:
        row = settings.unpack(numbers.table)[number // 2]
        scale, kind = row.grad_scale, settings.kind
        if kind is not None:
            norm = tf.abs(scale) * tf.sqrt(squares)
            scale *= mathematics.clip_factor(kind, norm, row.bound(kind), where=tf.where)
        t = tf.cast(numbers.iterations, tf.int64) + 1
        s = xla.scalars(self._rule, row.hyper(number % 2 == 0), row.rate(numbers.lr), t, scale, row.value)
        *moments, seen = self._moments(index)
        clock = seen[-1]
        silent = _silence(clock, tf.gather(seen, sums.rows))
        old = [tf.gather(moment, sums.rows) for moment in moments]
        old[:2] = _decayed(old[:2], silent, row)
        p, new = xla.update(self._rule, s, tf.gather(variable, sums.rows), sums.values, old, clipped=kind == "value")
        with tf.control_dependencies([p, *new, silent]):  # a read must not see what is written below
            for target, values in zip((variable, *moments), (p, *new), strict=True):
                target.scatter_update(tf.IndexedSlices(values, sums.rows))
            last = tf.concat([sums.rows, [tf.cast(variable.shape[0], tf.int64)]], 0)
            seen.scatter_update(tf.IndexedSlices(tf.fill(tf.shape(last), clock + 1), last))


def _conform(gradient: Any, variable: Any) -> tuple[Any, Any]:
    """Indices and values of a tf.IndexedSlices as the kernels take them."""
    indices, values = tf.convert_to_tensor(gradient.indices), tf.convert_to_tensor(gradient.values)
    if not values.dtype.is_floating:
        raise ArrayError(f"the gradient of {variable.name!r} is {values.dtype.name}; give a floating one")
    wanted = tf.TensorShape([indices.shape[0] if indices.shape.rank else None, *variable.shape[1:]])
    if not variable.shape.rank or not values.shape.is_compatible_with(wanted):
        raise ArrayError(
            f"the gradient of {variable.name!r} has rows of the shape {values.shape[1:]}, {indices.shape} of them; the "
            f"variable has the shape {variable.shape}"
        )
    if indices.dtype not in (tf.int32, tf.int64):
        indices = tf.cast(indices, tf.int64)
    if values.dtype != variable.dtype:
        values = tf.cast(values, variable.dtype)
    return indices, values if values.shape.is_fully_defined() else tf.ensure_shape(values, [None, *variable.shape[1:]])


def _add_up(indices: Any, values: Any, count: int, squares: bool) -> Sums:
    indices = tf.cast(indices, tf.int64)
    if not in_xla():  # which knows no checks: there a wrong index is no row, as for tf.gather
        inside = tf.debugging.assert_equal(
            tf.reduce_all((indices >= 0) & (indices < count)), True, f"an index is not from 0 to {count - 1}"
        )
        with tf.control_dependencies([] if inside is None else [inside]):
            indices = tf.identity(indices)
    order = tf.argsort(indices, stable=True)
    rows = tf.gather(indices, order)
    values = tf.gather(values, order)
    first = tf.concat([tf.ones_like(rows[:1], tf.bool), rows[1:] != rows[:-1]], 0)
    segment = tf.cumsum(tf.cast(first, tf.int32)) - 1
    sums = tf.gather(tf.math.unsorted_segment_sum(values, segment, tf.shape(rows)[0]), segment)
    total = tf.zeros((), tf.float64)
    if squares:
        own = tf.where(tf.reshape(first, [-1] + [1] * (values.shape.rank - 1)), sums, tf.zeros_like(sums))
        total = xla.sum_of_squares([own])
    return Sums(rows, sums, total)


def _silence(clock: Any, seen: Any) -> Any:
    """The steps that rows have missed, int64. The clock may have wrapped around."""
    return tf.cast(tf.bitcast(clock - seen, tf.uint32), tf.int64)


def _decayed(moments: Sequence[Any], silent: Any, row: Row) -> list[Any]:
    """Rows of m and v, each times its beta^k; what falls below the smallest normal number becomes 0."""
    factors = tf.unstack(xla.powers(tf.stack([row.beta1, row.beta2]), silent[:, None]), axis=1)
    new = []
    for moment, factor in zip(moments, factors, strict=True):
        shape = [-1] + [1] * (moment.shape.rank - 1)
        value = moment * tf.reshape(tf.cast(factor, moment.dtype), shape)
        tiny = np.finfo(moment.dtype.as_numpy_dtype).tiny
        new.append(tf.where(tf.abs(value) < tiny, tf.zeros_like(value), value))
    return new


def _settle(m: Any, v: Any, seen: Any, row: Row) -> None:
    clock = seen[-1]

    def write() -> Any:
        new = _decayed([tf.convert_to_tensor(m), tf.convert_to_tensor(v)], _silence(clock, seen[:-1]), row)
        with tf.control_dependencies(new):
            for moment, value in zip((m, v), new, strict=True):
                moment.assign(value)
            seen.assign(tf.zeros_like(seen))
        return True

    tf.cond(tf.equal(clock, 0), lambda: True, write)
