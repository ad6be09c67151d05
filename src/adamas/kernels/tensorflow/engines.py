"""The ways to do one step on TensorFlow variables; each says why it cannot serve.

    Native       the op over libadamas: all variables in one call; CPU
    Resource     TensorFlow's own ResourceApplyAdam: one call a variable
    Expression   the array expression, compiled by XLA: CPU and GPU, and inside functions traced for XLA

A step is `step(batch, grads, numbers, settings)`: dense gradients of their variables' dtypes, one for each variable of
the batch. The rule's decay is decoupled, as Keras' is. Each engine reads the gradients once to find their norm, where
something depends on it, and says what came of the step in an `Outcome`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf

from adamas.kernels import cpu, xla
from adamas.kernels.tensorflow import op
from adamas.kernels.tensorflow.settings import Row, Settings
from adamas.kernels.tensorflow.slots import Slots
from adamas.rule import Rule
from adamas.scalars import eps_bound, power
from adamas.telemetry import COLUMNS


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
    rows        of each: twice its line of numbers; 1 more if it does not decay
    cast        whether the last gradients had another dtype than their variables
    """

    variables: list[Any]
    indices: list[int]
    rows: list[int]
    cast: bool = False
    groups: list[Group] = field(default_factory=list)
    compiled: dict[Any, Any] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """Below it, gradients of this norm can be squared; as `kernels.reference.norm_limit`."""
        return math.inf if all(variable.dtype == tf.float64 for variable in self.variables) else 2.0**64


@dataclass
class Numbers:
    """What a step is taken with, as tensors.

    lr          float32 or float64 scalar
    iterations  the steps before this one
    table       `Settings.table`
    squares     sum of squares of all gradients that a global norm counts; None: of those of this step
    carry       what the rule carries from step to step, after this one: float64, one for each of `rule.carries`
    """

    lr: Any
    iterations: Any
    table: Any
    squares: Any = None
    carry: Sequence[Any] = ()


class Outcome(NamedTuple):
    """What came of a step, as tensors.

    taken       whether it was taken, or nothing was changed; None: it was
    statistics  float64 [variables, 4], as `kernels.reference.Plan.step` defines them; None: not collected
    fault       which variable's step was computed twice and gave two results; -1; None: nothing was computed twice
    """

    taken: Any = None
    statistics: Any = None
    fault: Any = None


def when(taken: Any, do: Callable[[], Any], otherwise: Callable[[], Any] = lambda: None) -> Any:
    """What `do` returns where the step is taken (None: always), else what `otherwise` does; in a graph, tensors."""
    if taken is None:
        return do()
    if tf.executing_eagerly():
        return do() if taken else otherwise()

    def complete(function: Callable[[], Any]) -> Callable[[], Any]:
        def branch() -> Any:
            found = function()
            return tf.constant(0) if found is None else found

        return branch

    return tf.cond(taken, complete(do), complete(otherwise))


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

    def squares(self, grads: Sequence[Any]) -> Any:
        """The sum of the squares of some gradients."""
        return self._ops.adamas_squares(tensors=grads)

    def step(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Outcome:
        """One step."""
        groups, eager = batch.groups or self._group(batch), tf.executing_eagerly()
        parts = [grads] if len(groups) == 1 else [[grads[i] for i in group.positions] for group in groups]
        carry = tf.stack(numbers.carry) if numbers.carry else self._empty
        unknown = settings.needs_norm and numbers.squares is None
        squares = self.squares(grads) if unknown and len(groups) > 1 else numbers.squares
        found = []
        for group, part in zip(groups, parts, strict=True):
            one = self._ops.adamas_step(
                params=group.packed if eager else group.handles,
                slots=group.slots,
                scales=group.scales,
                grads=part,
                lr=numbers.lr,
                iterations=numbers.iterations,
                numbers=numbers.table,
                rows=group.rows,
                offsets=group.offsets,
                keys=group.keys,
                carry=carry,
                squares=self._none if squares is None else squares,
                n=len(group.handles),
                k=self._count,
                T=group.dtype,
                formats=group.formats,
                weights=group.weights,
                seed=(self._slots.seed + 2**63) % 2**64 - 2**63,  # its bits as the signed number that attributes are
                unscale=settings.unscales,
                clip=cpu.clip_code(settings.clip),
                measure=unknown and squares is None,
                limit=batch.limit if settings.checks else 0.0,
                tell=settings.statistics,
                verify=settings.verify,
                rule=self._rule,
            )
            found.append(Outcome(one.taken, one.statistics, one.fault))
        return self._join(groups, found, settings)

    def _join(self, groups: Sequence[Group], found: Sequence[Outcome], settings: Settings) -> Outcome:
        """What came of all calls of one step; each decided by the same norm."""
        statistics = fault = None
        if settings.statistics:
            statistics = found[0].statistics
            if len(groups) > 1:
                order = sorted(
                    range(sum(len(g.positions) for g in groups)),
                    key=[i for g in groups for i in g.positions].__getitem__,
                )
                statistics = tf.gather(tf.concat([one.statistics for one in found], 0), order)
        if settings.verify:
            own = [tf.gather([-1, *g.positions], one.fault + 1) for g, one in zip(groups, found, strict=True)]
            fault = tf.reduce_max(tf.stack(own))
        return Outcome(found[0].taken if settings.checks else None, statistics, fault)

    def carry_on(self, carry: Sequence[Any], numbers: Numbers, settings: Settings) -> list[Any]:
        """What the rule carries after this step."""
        after = self._ops.adamas_carry_on(
            lr=numbers.lr,
            iterations=numbers.iterations,
            numbers=numbers.table,
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
                        keys=tf.bitcast(tf.constant([self._slots.key(i) for i in indices], tf.uint64), tf.int64),
                        rows=tf.constant([batch.rows[i] for i in members], tf.int32),
                        dtype=dtype,
                        formats=[_FORMATS.get(a.dtype, 0) for a, _ in kept if a.block == 1 and a.slot < self._count],
                        weights=_WEIGHTS[self._slots.layouts[indices[0]].weights],
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

    def step(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Outcome:
        """One step."""
        (row,) = settings.unpack(numbers.table)
        squares, taken = _norm(batch, grads, numbers, settings, row)
        when(taken, lambda: self._write(batch, grads, numbers, settings, row, squares))
        return Outcome(taken)

    def _write(
        self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings, row: Row, squares: Any
    ) -> None:
        power1, power2 = self._powers(numbers, settings)
        new = self._changed(grads, settings, row, squares)
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

    def _powers(self, numbers: Numbers, settings: Settings) -> Any:
        if tf.executing_eagerly():
            t = int(numbers.iterations) + 1
            hyper = settings.lines[0].hyper
            betas = (hyper.beta1, hyper.beta2)
            return [tf.constant(power(beta, t), tf.float64) for beta in betas]
        (row,) = settings.unpack(numbers.table)
        return tf.unstack(xla.powers(tf.stack([row.beta1, row.beta2]), tf.cast(numbers.iterations, tf.int64) + 1))

    def _changed(self, grads: Sequence[Any], settings: Settings, row: Row, squares: Any) -> Sequence[Any]:
        """The gradients unscaled and clipped."""
        kind = settings.kind
        if kind is None and not settings.unscales:
            return grads
        scales = xla.grad_scales(kind, grads, row.grad_scale, row.bound(kind), squares)
        new = [tf.cast(one, gradient.dtype) * gradient for one, gradient in zip(scales, grads, strict=True)]
        if kind == "value":
            limits = [tf.cast(row.value, gradient.dtype) for gradient in new]
            new = [tf.clip_by_value(gradient, -x, x) for gradient, x in zip(new, limits, strict=True)]
        return new


class Expression:
    """The array expression; compiled here unless it is traced into a function that XLA compiles as a whole."""

    def __init__(self, rule: Rule, slots: Slots) -> None:
        self._rule = rule
        self._slots = slots
        self._lock = threading.Lock()

    def step(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Outcome:
        """One step."""
        if in_xla():
            return self._step(batch, grads, numbers, settings)
        with self._lock:
            compiled = batch.compiled.get(settings.static)
            if compiled is None:

                def step(grads: Sequence[Any], lr: Any, iterations: Any, table: Any, squares: Any, carry: Any) -> Any:
                    return self._step(batch, grads, Numbers(lr, iterations, table, squares, carry), settings)

                compiled = batch.compiled[settings.static] = tf.function(step, jit_compile=True, autograph=False)
        lr, iterations = tf.convert_to_tensor(numbers.lr), tf.convert_to_tensor(numbers.iterations)
        found: Outcome = compiled(list(grads), lr, iterations, numbers.table, numbers.squares, list(numbers.carry))
        return found

    def carry_on(self, carry: Sequence[Any], numbers: Numbers, settings: Settings) -> list[Any]:
        """What the rule carries after this step."""
        t, row = tf.cast(numbers.iterations, tf.int64) + 1, settings.unpack(numbers.table)[0]
        return list(xla.carry_on(self._rule, row, row.rate(numbers.lr), t, carry))

    def _step(self, batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings) -> Outcome:
        rows = settings.unpack(numbers.table)
        squares, taken = _norm(batch, grads, numbers, settings, rows[0])
        none = tf.zeros((len(batch.indices), COLUMNS), tf.float64) if settings.statistics else None
        statistics = when(
            taken, lambda: self._write(batch, grads, numbers, settings, rows, squares), otherwise=lambda: none
        )
        return Outcome(taken, statistics if settings.statistics else None)

    def _write(
        self,
        batch: Batch,
        grads: Sequence[Any],
        numbers: Numbers,
        settings: Settings,
        rows: Sequence[Row],
        squares: Any,
    ) -> Any:
        """Write new variables and slots; returns the statistics, or None."""
        t, kind, row = tf.cast(numbers.iterations, tf.int64) + 1, settings.kind, rows[0]
        scales = xla.grad_scales(kind, grads, row.grad_scale, row.bound(kind), squares)
        scalars = {
            r: xla.scalars(
                self._rule,
                rows[r // 2].hyper(r % 2 == 0),
                rows[r // 2].rate(numbers.lr),
                t,
                clip=row.value,
                carry=numbers.carry,
            )
            for r in sorted(set(batch.rows))
        }
        news, statistics = [], []
        for i, (variable, index, gradient) in enumerate(zip(batch.variables, batch.indices, grads, strict=True)):
            old = [self._slots.read(slot, index) for slot in range(len(self._slots.names))]
            s = scalars[batch.rows[i]]
            s = s._replace(grad_scale=s.grad_scale * scales[i])
            before = self._slots.read_weight(index, variable)
            g = tf.cast(gradient, before.dtype)
            p, new = xla.update(self._rule, s, before, g, old, clipped=kind == "value")
            if settings.statistics:
                bound = tf.cast(eps_bound(self._rule, s), p.dtype)
                second = new[
                    [slot.name for slot in self._rule.slots].index("v" if self._rule.amsgrad == "off" else "vmax")
                ]
                sums = [xla.sum_of_squares([x]) for x in (g, p - before, p)]
                statistics.append([*sums, tf.cast(tf.math.count_nonzero(second < bound), tf.float64)])
            news.append(new)
            self._slots.write_weight(index, variable, p, t)
        for slot, values in enumerate(zip(*news, strict=True)):
            self._slots.replace(slot, dict(zip(batch.indices, values, strict=True)), t)
        return tf.convert_to_tensor(statistics) if settings.statistics else None


def _norm(batch: Batch, grads: Sequence[Any], numbers: Numbers, settings: Settings, row: Row) -> tuple[Any, Any]:
    """The sum of squares that the global norm is the root of, and whether the step is taken; None where not needed."""
    squares = numbers.squares
    if settings.needs_norm and squares is None:
        squares = xla.sum_of_squares(grads)
    return squares, below(batch.limit, squares, row.grad_scale) if settings.checks else None


def below(limit: float, squares: Any, grad_scale: Any) -> Any:
    """Whether gradients can be stepped whose squares, before they are scaled, have this sum; false for NaN."""
    return tf.abs(grad_scale) * tf.sqrt(squares) < limit


def in_xla() -> bool:
    """Whether what is traced now will be compiled by XLA."""
    if tf.executing_eagerly():
        return False
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))
