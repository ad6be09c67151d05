"""The ways to do one step on TensorFlow variables; each says why it cannot serve.

    Native       the op over libadamas: all variables in one call; CPU
    Resource     TensorFlow's own ResourceApplyAdam: one call a variable
    Expression   the array expression, compiled by XLA: CPU and GPU, and inside functions traced for XLA

A step is `step(batch, grads, numbers, settings)`: dense gradients of their variables' dtypes, one for each variable of
the batch. The rule's decay is decoupled, as Keras' is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from adamas.kernels import cpu, xla
from adamas.kernels.tensorflow import op
from adamas.kernels.tensorflow.settings import Row, Settings
from adamas.kernels.tensorflow.slots import Slots
from adamas.rule import Rule
from adamas.scalars import power


@dataclass
class Group:
    """The variables of a batch whose moments are in the same variables, as the op takes them.

    packed: all handles in one tensor, for eager steps: TensorFlow takes about 0.8 us for each input of an op (500
    tensors of 1000: 1.7 ms a step with a handle an input, 1.3 ms so; 2 cores, TensorFlow 2.21, 2026-11-22). A graph
    must see each handle, to put the step in order with what else uses the variable.
    """

    positions: list[int]
    handles: list[Any]
    packed: list[Any]
    slots: list[Any]
    scales: list[Any]
    offsets: Any
    keys: Any
    rows: Any
    dtype: Any
    formats: list[int]
    weights: int


@dataclass
class Batch:
    """Variables that are stepped together, and what the engines worked out about them once.

    variables   tf.Variables
    indices     their numbers in the optimizer
    decays      whether weight decay applies to each
    cast        whether the last gradients had another dtype than their variables
    """

    variables: list[Any]
    indices: list[int]
    decays: list[bool]
    cast: bool = False
    groups: list[Group] = field(default_factory=list)
    compiled: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Numbers:
    """What a step is taken with, as tensors.

    lr          float32 or float64 scalar
    iterations  the steps before this one
    row         `Settings.row`
    others      sum of squares of gradients that are stepped elsewhere and that a global norm counts, or None
    carry       what the rule carries from step to step, after this one: float64, one for each of `rule.carries`
    """

    lr: Any
    iterations: Any
    row: Any
    others: Any = None
    carry: Sequence[Any] = ()


_FORMATS = {"bfloat16": 1, "int8": 2, "uint8": 2}  # ADAMAS_FORMAT_...; 0: as it is computed
_WEIGHTS = {"nearest": 0, "stochastic": 1, "split": 2}  # ADAMAS_WEIGHTS_...


class Native:
    """One call of the op for all variables of an arena: usually one in all, one more for each dtype or later build."""

    def __init__(self, rule: Rule, slots: Slots) -> None:
        self._ops = op.load()
        self._count = len(rule.slots)
        self._rule = list(cpu.rule_codes(rule))
        self._slots = slots
        with tf.init_scope(), tf.device("CPU:0"):
            self._none = tf.constant(0.0, tf.float64)
            self._empty = tf.zeros(0, tf.float64)

    def step(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Any:
        """One step; returns the sum of squares of `grads` where they are clipped by their global norm."""
        groups, eager = batch.groups or self._group(batch), tf.executing_eagerly()
        parts = [grads] if len(groups) == 1 else [[grads[i] for i in group.positions] for group in groups]
        others = self._none if numbers.others is None else numbers.others
        carry = tf.stack(numbers.carry) if numbers.carry else self._empty
        together = settings.clip is not None and settings.clip.kind == "global_norm"
        sums = [self._ops.adamas_squares(tensors=part) for part in parts] if together and len(groups) > 1 else None
        squares = None
        for i, (group, part) in enumerate(zip(groups, parts, strict=True)):
            squares = self._ops.adamas_step(
                params=group.packed if eager else group.handles,
                slots=group.slots,
                scales=group.scales,
                grads=part,
                lr=numbers.lr,
                iterations=numbers.iterations,
                numbers=numbers.row,
                rows=group.rows,
                offsets=group.offsets,
                keys=group.keys,
                carry=carry,
                others=others if sums is None else tf.add_n([others, *sums[:i], *sums[i + 1 :]]),
                n=len(group.handles),
                k=self._count,
                T=group.dtype,
                formats=group.formats,
                weights=group.weights,
                seed=(self._slots.storage.seed + 2**63) % 2**64
                - 2**63,  # its bits as the signed number that attributes are
                unscale=settings.unscales,
                clip=cpu.clip_code(settings.clip),
                rule=self._rule,
            )
        return squares if sums is None else tf.add_n(sums)

    def carry_on(self, carry: Sequence[Any], numbers: Numbers, settings: Settings) -> list[Any]:
        """What the rule carries after this step."""
        after = self._ops.adamas_carry_on(
            lr=numbers.lr,
            iterations=numbers.iterations,
            numbers=numbers.row,
            carry=tf.stack(carry),
            rule=self._rule,
        )
        return list(tf.unstack(tf.ensure_shape(after, [len(carry)])))

    def _group(self, batch: Batch) -> list[Group]:
        positions: dict[Any, list[int]] = {}
        for position, index in enumerate(batch.indices):
            positions.setdefault(self._slots.arrays.group(index), []).append(position)
        with tf.init_scope(), tf.device("CPU:0"):
            groups = []
            for members in positions.values():
                indices = [batch.indices[i] for i in members]
                arrays, offsets = self._slots.arrays.places(indices)
                kept = list(zip(self._slots.layouts[indices[0]].arrays, arrays, strict=True))
                dtype = batch.variables[members[0]].dtype
                handles = [batch.variables[i].handle for i in members]
                groups.append(
                    Group(
                        positions=members,
                        handles=handles,
                        packed=[tf.stack(handles)],
                        slots=[v.value.handle for array, variables in kept if array.block == 1 for v in variables],
                        scales=[v.value.handle for array, variables in kept if array.block > 1 for v in variables],
                        offsets=tf.constant(offsets, tf.int64),
                        keys=tf.bitcast(tf.constant([self._slots.keys[i] for i in indices], tf.uint64), tf.int64),
                        rows=tf.constant([0 if batch.decays[i] else 1 for i in members], tf.int32),
                        dtype=dtype,
                        formats=[_FORMATS.get(a.dtype, 0) for a, _ in kept if a.block == 1 and a.slot < self._count],
                        weights=_WEIGHTS[self._slots.storage.weights] if dtype.size < 4 else 0,
                    )
                )
            batch.groups = groups
        return batch.groups


class Resource:
    """TensorFlow's ResourceApplyAdam, or ...WithAmsgrad. It knows Keras' epsilon and no weight decay.

    It does not unscale or clip either: that is done first, by operations of its own.
    """

    def __init__(self, rule: Rule, slots: Slots) -> None:
        self._amsgrad = rule.amsgrad != "off"
        self._slots = slots

    def step(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Any:
        """One step; returns the sum of squares of `grads` where they are clipped by their global norm."""
        row = settings.unpack(numbers.row)
        power1, power2 = self._powers(numbers, settings)
        new, squares = self._changed(grads, numbers, settings, row)
        for variable, index, gradient in zip(batch.variables, batch.indices, new, strict=True):
            moments = [moment.value.handle for (moment,) in self._slots.arrays.places([index])[0]]
            arguments = {
                "beta1_power": tf.cast(power1, variable.dtype),
                "beta2_power": tf.cast(power2, variable.dtype),
                "lr": tf.cast(numbers.lr, variable.dtype),
                "beta1": tf.cast(row.beta1, variable.dtype),
                "beta2": tf.cast(row.beta2, variable.dtype),
                "epsilon": tf.cast(row.eps, variable.dtype),
                "grad": gradient,
                "use_locking": True,
            }
            if self._amsgrad:
                m, v, vhat = moments
                tf.raw_ops.ResourceApplyAdamWithAmsgrad(var=variable.handle, m=m, v=v, vhat=vhat, **arguments)
            else:
                m, v = moments
                tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=m, v=v, use_nesterov=False, **arguments)
        return squares

    def _powers(self, numbers: Numbers, settings: Settings) -> Any:
        if tf.executing_eagerly():
            t = int(numbers.iterations) + 1
            betas = (settings.hyper.beta1, settings.hyper.beta2)
            return [tf.constant(power(beta, t), tf.float64) for beta in betas]
        return tf.unstack(xla.powers(numbers.row[:2], tf.cast(numbers.iterations, tf.int64) + 1))

    def _changed(
        self, grads: Sequence[Any], numbers: Numbers, settings: Settings, row: Row
    ) -> tuple[Sequence[Any], Any]:
        """The gradients unscaled and clipped, and their sum of squares before that if it was needed."""
        kind = None if settings.clip is None else settings.clip.kind
        if kind is None and not settings.unscales:
            return grads, None
        scales = xla.grad_scales(kind, grads, row.grad_scale, row.bound(kind), numbers.others)
        new = [tf.cast(one, gradient.dtype) * gradient for one, gradient in zip(scales, grads, strict=True)]
        if kind == "value":
            limits = [tf.cast(row.value, gradient.dtype) for gradient in new]
            new = [tf.clip_by_value(gradient, -x, x) for gradient, x in zip(new, limits, strict=True)]
        return new, xla.sum_of_squares(grads) if kind == "global_norm" else None


class Expression:
    """The array expression; compiled here unless it is traced into a function that XLA compiles as a whole."""

    def __init__(self, rule: Rule, slots: Slots) -> None:
        self._rule = rule
        self._slots = slots
        self._lock = threading.Lock()

    def step(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Any:
        """One step; returns the sum of squares of `grads` where they are clipped by their global norm."""
        if in_xla():
            return self._write(batch, grads, numbers, settings)
        with self._lock:
            compiled = batch.compiled.get(settings.static)
            if compiled is None:

                def step(grads: Sequence[Any], lr: Any, iterations: Any, row: Any, others: Any, carry: Any) -> Any:
                    return self._write(batch, grads, Numbers(lr, iterations, row, others, carry), settings)

                compiled = batch.compiled[settings.static] = tf.function(step, jit_compile=True, autograph=False)
        lr, iterations = tf.convert_to_tensor(numbers.lr), tf.convert_to_tensor(numbers.iterations)
        return compiled(list(grads), lr, iterations, numbers.row, numbers.others, list(numbers.carry))

    def carry_on(self, carry: Sequence[Any], numbers: Numbers, settings: Settings) -> list[Any]:
        """What the rule carries after this step."""
        t = tf.cast(numbers.iterations, tf.int64) + 1
        return list(xla.carry_on(self._rule, settings.unpack(numbers.row), numbers.lr, t, carry))

    def _write(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Any:
        t = tf.cast(numbers.iterations, tf.int64) + 1
        row = settings.unpack(numbers.row)
        kind = None if settings.clip is None else settings.clip.kind
        scales = xla.grad_scales(kind, grads, row.grad_scale, row.bound(kind), numbers.others)
        scalars = {
            decays: xla.scalars(self._rule, row.hyper(decays), numbers.lr, t, clip=row.value, carry=numbers.carry)
            for decays in sorted(set(batch.decays))
        }
        news = []
        for i, (variable, index, gradient) in enumerate(zip(batch.variables, batch.indices, grads, strict=True)):
            old = [self._slots.read(slot, index) for slot in range(len(self._slots.names))]
            s = scalars[batch.decays[i]]
            s = s._replace(grad_scale=s.grad_scale * scales[i])
            p = self._slots.read_weight(index, variable)
            p, new = xla.update(self._rule, s, p, tf.cast(gradient, p.dtype), old, clipped=kind == "value")
            news.append(new)
            self._slots.write_weight(index, variable, p, t)
        for slot, values in enumerate(zip(*news, strict=True)):
            self._slots.replace(slot, dict(zip(batch.indices, values, strict=True)), t)
        return xla.sum_of_squares(grads) if kind == "global_norm" else None


def in_xla() -> bool:
    """Whether what is traced now will be compiled by XLA."""
    if tf.executing_eagerly():
        return False
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))
