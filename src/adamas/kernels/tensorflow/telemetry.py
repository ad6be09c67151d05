"""What steps tell: how many were not taken, what the last one did, and what is wrong with its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from adamas.kernels import xla
from adamas.kernels.tensorflow.engines import below
from adamas.telemetry import COLUMNS


class Row(NamedTuple):
    """What a variable's last step with statistics did: `COLUMNS` sums, then

    t           the step
    grad_scale  what its gradients were multiplied by
    number      of the step among those that have been told of; the last one is the largest
    """

    sums: Sequence[float]
    t: int
    grad_scale: float
    number: int


class Told:
    """Variables that steps write, in graphs too. They belong to no optimizer's `variables`, and are not saved."""

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._parts: list[Any] = []  # [variables, COLUMNS + 3], one for each call of `add`
        self._where: list[tuple[int, int]] = []
        self._last: tuple[tuple[int, ...], list[tuple[Any, Any, Any]]] | None = None
        with tf.init_scope(), tf.device(device):
            self._skipped = tf.Variable(0, trainable=False, dtype=tf.int64, name="adamas_skipped")
            self._number = tf.Variable(0.0, trainable=False, dtype=tf.float64, name="adamas_told")

    def add(self, count: int) -> None:
        """Make room for some more variables' statistics."""
        self._where += [(len(self._parts), i) for i in range(count)]
        with tf.init_scope(), tf.device(self._device):
            zeros = tf.zeros((count, COLUMNS + 3), tf.float64)
            self._parts.append(tf.Variable(zeros, trainable=False, name="adamas_statistics"))

    @property
    def skipped(self) -> int:
        """How many steps were not taken."""
        return int(self._skipped)

    def skip(self, taken: Any) -> None:
        """Count a step, if it was not taken."""
        self._skipped.assign_add(1 - tf.cast(taken, tf.int64))

    def write(self, indices: Sequence[int], sums: Any, t: Any, grad_scale: Any, taken: Any) -> None:
        """The statistics [variables, COLUMNS] of a step, if it was taken (None: it was), of the variables `indices`."""
        number = tf.identity(self._number) + (1.0 if taken is None else tf.cast(taken, tf.float64))
        end = tf.stack([tf.cast(t, tf.float64), tf.cast(grad_scale, tf.float64), number])
        rows = tf.concat([sums, tf.tile(end[None], [len(indices), 1])], 1)
        self._number.assign(number)
        for part, at, places in self._shares(indices):
            old = tf.convert_to_tensor(part)
            new = tf.tensor_scatter_nd_update(old, places, tf.gather(rows, at))
            part.assign(new if taken is None else tf.where(taken, new, old))

    def _shares(self, indices: Sequence[int]) -> list[tuple[Any, Any, Any]]:
        """Each part that has some of these variables, which of them, and their places in it; kept for eager steps."""
        key = tuple(indices)
        if tf.executing_eagerly() and self._last is not None and self._last[0] == key:
            return self._last[1]
        shares = []
        for k, part in enumerate(self._parts):
            at = [i for i, index in enumerate(indices) if self._where[index][0] == k]
            if at:
                places = [[self._where[indices[i]][1]] for i in at]
                shares.append((part, tf.constant(at), tf.constant(places)))
        if tf.executing_eagerly():
            self._last = (key, shares)
        return shares

    def read(self) -> list[Row | None]:
        """Of each variable: what the last step did, None where it did not take part."""
        last, tables = int(self._number), [part.numpy().tolist() for part in self._parts]
        found: list[Row | None] = []
        for part, place in self._where:
            *sums, t, grad_scale, number = tables[part][place]
            found.append(Row(sums, int(t), grad_scale, int(number)) if 0 < number == last else None)
        return found


def complaint(names: Sequence[str], grads: Sequence[Any], grad_scale: Any, limit: float) -> Any:
    """What is wrong with gradients whose norm is not below the limit, as a string tensor: names the first at fault."""
    norms = tf.stack([xla.sum_of_squares([gradient]) for gradient in grads])
    nan = tf.stack([tf.math.count_nonzero(tf.math.is_nan(gradient)) for gradient in grads])
    infinite = tf.stack([tf.math.count_nonzero(tf.math.is_inf(gradient)) for gradient in grads])
    # Not tf.logical_not: TensorFlow's graph optimizer makes "not less" into "greater or equal", which NaN is not.
    wrong = tf.where(below(limit, norms, grad_scale), 0, 1)
    i = tf.argmax(wrong)
    wide = "float64" if limit == math.inf else "float32"
    sizes = tf.stack([tf.size(gradient, tf.int64) for gradient in grads])
    parts = [
        *(
            "tensor '",
            tf.gather(list(names), i),
            "': of ",
            tf.strings.as_string(sizes[i]),
            " elements of its gradient ",
        ),
        *(tf.strings.as_string(nan[i]), " are NaN and ", tf.strings.as_string(infinite[i]), " infinite"),
        tf.where(nan[i] + infinite[i] > 0, "", f", but their squares overflow {wide}"),
        "; nothing was changed. Look at the batch and at the loss, lower the learning rate, or skip such steps with "
        'nonfinite="skip"',
    ]
    together = "the squares of all gradients together overflow; nothing was changed"
    return tf.where(tf.reduce_max(wrong) > 0, tf.strings.join(parts), together)
