"""The ways to do one step on TensorFlow variables; each says why it cannot serve.

    Native       the op over libadamas: all variables in one call; CPU
    Resource     TensorFlow's own ResourceApplyAdam: one call a variable
    Expression   the array expression, compiled by XLA: CPU and GPU, and inside functions traced for XLA

A step is `step(batch, grads, lr, iterations, hyper)`: dense gradients of their variables' dtypes, one for each variable
of the batch; `iterations` counts the steps before this one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from adamas import rule as mathematics
from adamas.kernels import cpu, xla
from adamas.kernels.tensorflow import op
from adamas.kernels.tensorflow.slots import Slots
from adamas.rule import Hyper, Rule


@dataclass
class Group:
    """The variables of a batch that share a dtype, as the op takes them.

    packed: all handles in one tensor, for eager steps: TensorFlow takes about 0.8 us for each input of an op (500
    tensors of 1000: 1.7 ms a step with a handle an input, 1.3 ms so; 2 cores, TensorFlow 2.21, 2026-11-22). A graph
    must see each handle, to put the step in order with what else uses the variable.
    """

    positions: list[int]
    handles: list[Any]
    packed: list[Any]
    slots: list[Any]
    offsets: Any
    rows: Any
    dtype: Any


@dataclass
class Batch:
    """Variables that are stepped together, and what the engines worked out about them once.

    variables   tf.Variables
    indices     their numbers in the optimizer
    decays      whether weight decay applies to each
    """

    variables: list[Any]
    indices: list[int]
    decays: list[bool]
    groups: list[Group] = field(default_factory=list)
    compiled: dict[Any, Any] = field(default_factory=dict)


class Native:
    """One call of the op for all float32 variables, one for all float64 variables."""

    def __init__(self, rule: Rule, slots: Slots) -> None:
        self._op = op.load()
        self._count = len(rule.slots)
        self._rule = list(cpu.rule_codes(rule))
        self._slots = slots
        self._hyper: tuple[Hyper, Any] | None = None

    def step(self, batch: Batch, grads: Sequence[Any], lr: Any, iterations: Any, hyper: Hyper) -> None:
        groups = batch.groups or self._group(batch)
        table, eager = self._table(hyper), tf.executing_eagerly()
        for group in groups:
            self._op(
                params=group.packed if eager else group.handles,
                slots=group.slots,
                grads=grads if len(groups) == 1 else [grads[i] for i in group.positions],
                lr=lr,
                iterations=iterations,
                hyper=table,
                rows=group.rows,
                offsets=group.offsets,
                n=len(group.handles),
                k=self._count,
                T=group.dtype,
                rule=self._rule,
            )

    def _table(self, hyper: Hyper) -> Any:
        """Two rows in the op's order: with weight decay, and without."""
        cached = self._hyper
        if cached is None or cached[0] != hyper:
            numbers = [hyper.beta1, hyper.beta2, hyper.eps, hyper.eps_root]
            with tf.init_scope(), tf.device("CPU:0"):
                table = tf.constant([[*numbers, hyper.weight_decay], [*numbers, 0.0]], tf.float64)
            self._hyper = cached = (hyper, table)
        return cached[1]

    def _group(self, batch: Batch) -> list[Group]:
        positions: dict[str, list[int]] = {}
        for position, variable in enumerate(batch.variables):
            positions.setdefault(variable.dtype.name, []).append(position)
        with tf.init_scope(), tf.device("CPU:0"):
            groups = []
            for dtype, members in positions.items():
                slots, offsets = self._slots.places(dtype, [batch.indices[i] for i in members])
                handles = [batch.variables[i].handle for i in members]
                groups.append(
                    Group(
                        positions=members,
                        handles=handles,
                        packed=[tf.stack(handles)],
                        slots=[variable.value.handle for variable in slots],
                        offsets=tf.constant(offsets, tf.int64),
                        rows=tf.constant([0 if batch.decays[i] else 1 for i in members], tf.int32),
                        dtype=tf.as_dtype(dtype),
                    )
                )
            batch.groups = groups
        return batch.groups


class Resource:
    """TensorFlow's ResourceApplyAdam, or ...WithAmsgrad. It knows Keras' epsilon and no weight decay."""

    def __init__(self, rule: Rule, slots: Any) -> None:
        self._amsgrad = rule.amsgrad != "off"
        self._slots = slots

    def step(self, batch: Batch, grads: Sequence[Any], lr: Any, iterations: Any, hyper: Hyper) -> None:
        betas = (hyper.beta1, hyper.beta2)
        if tf.executing_eagerly():
            t = int(iterations) + 1
            power1, power2 = (mathematics.power(beta, t) for beta in betas)
        else:
            power1, power2 = tf.unstack(xla.powers(betas, tf.cast(iterations, tf.int64) + 1))
        for variable, index, gradient in zip(batch.variables, batch.indices, grads, strict=True):
            moments = [slot[index].value.handle for slot in self._slots.variables]
            numbers = {
                "beta1_power": tf.cast(power1, variable.dtype),
                "beta2_power": tf.cast(power2, variable.dtype),
                "lr": tf.cast(lr, variable.dtype),
                "beta1": tf.constant(hyper.beta1, variable.dtype),
                "beta2": tf.constant(hyper.beta2, variable.dtype),
                "epsilon": tf.constant(hyper.eps, variable.dtype),
                "grad": gradient,
                "use_locking": True,
            }
            if self._amsgrad:
                m, v, vhat = moments
                tf.raw_ops.ResourceApplyAdamWithAmsgrad(var=variable.handle, m=m, v=v, vhat=vhat, **numbers)
            else:
                m, v = moments
                tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=m, v=v, use_nesterov=False, **numbers)


class Expression:
    """The array expression; compiled here unless it is traced into a function that XLA compiles as a whole."""

    def __init__(self, rule: Rule, slots: Slots) -> None:
        self._rule = rule
        self._slots = slots
        self._lock = threading.Lock()

    def step(self, batch: Batch, grads: Sequence[Any], lr: Any, iterations: Any, hyper: Hyper) -> None:
        if in_xla():
            self._write(batch, grads, lr, iterations, hyper)
            return
        with self._lock:
            compiled = batch.compiled.get(hyper)
            if compiled is None:

                def step(grads: Sequence[Any], lr: Any, iterations: Any) -> None:
                    self._write(batch, grads, lr, iterations, hyper)

                compiled = batch.compiled[hyper] = tf.function(step, jit_compile=True, autograph=False)
        compiled(list(grads), tf.convert_to_tensor(lr), tf.convert_to_tensor(iterations))

    def _write(self, batch: Batch, grads: Sequence[Any], lr: Any, iterations: Any, hyper: Hyper) -> None:
        t = tf.cast(iterations, tf.int64) + 1
        settings = {True: hyper, False: Hyper(hyper.lr, hyper.beta1, hyper.beta2, hyper.eps, hyper.eps_root)}
        scalars = {decays: xla.scalars(self._rule, settings[decays], lr, t) for decays in sorted(set(batch.decays))}
        news = []
        for variable, index, decays, gradient in zip(batch.variables, batch.indices, batch.decays, grads, strict=True):
            old = [self._slots.read(slot, index) for slot in range(len(self._slots.names))]
            p, new = xla.update(
                self._rule, settings[decays], scalars[decays], tf.convert_to_tensor(variable), gradient, old
            )
            news.append(new)
            variable.assign(p)
        for slot, values in enumerate(zip(*news, strict=True)):
            self._slots.replace(slot, dict(zip(batch.indices, values, strict=True)))


def in_xla() -> bool:
    """Whether what is traced now will be compiled by XLA."""
    if tf.executing_eagerly():
        return False
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))
