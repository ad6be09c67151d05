"""Steps lists of TensorFlow variables: picks the engine, by reasons, and remembers what it worked out about a list."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from adamas.errors import ArgumentError, KernelError, StateError, UnsupportedError
from adamas.kernels import cpu, xla
from adamas.kernels import rows as lazy
from adamas.kernels.tensorflow import op
from adamas.kernels.tensorflow.arrays import Arena, Layout, NewVariable, Separate
from adamas.kernels.tensorflow.checks import check, conform
from adamas.kernels.tensorflow.engines import (
    Batch,
    Expression,
    Native,
    Numbers,
    Outcome,
    Resource,
    below,
    in_xla,
    when,
)
from adamas.kernels.tensorflow.rows import Rows
from adamas.kernels.tensorflow.settings import Settings
from adamas.kernels.tensorflow.slots import Slots, StoragePolicy
from adamas.kernels.tensorflow.telemetry import Told
from adamas.rule import Hyper, Rule

Kernel = Literal["auto", "native", "resource", "xla"]
KERNELS: tuple[Kernel, ...] = ("auto", "native", "resource", "xla")

_log = logging.getLogger("adamas")
_said: set[str] = set()
_EagerTensor = type(tf.constant(0))
_KEPT = 64  # lists of variables remembered; a training loop has one, or a few with missing gradients


class Stepper:
    """Moments of a list of variables, and the engine that steps them.

    Args:
        rule: with Keras' epsilon.
        slot_names: what its slots are called in the names of variables.
        kernel: "auto", or the engine to use and no other.
        variables: tf.Variables.
        settings: what the first steps are taken with.
        for_xla: lay the moments out for functions compiled by XLA, though the native engine can step them too. An
            engine for steps outside XLA is then chosen when the first one comes: the op may take 20 s to build.
        lazy: gradients that are tf.IndexedSlices step their rows only.
        storage: how the moments of each variable, and the variable itself, are stored.
        seed: of stochastic rounding.

    Raises:
        UnsupportedError: a variable cannot be stepped.
        ArgumentError: a variable was given twice, or cannot be stored so.
        KernelError: the kernel that was asked for cannot serve; nothing was made.
    """

    def __init__(
        self,
        rule: Rule,
        slot_names: Sequence[str],
        kernel: Kernel,
        variables: Sequence[Any],
        *,
        settings: Settings,
        for_xla: bool,
        lazy: bool,
        storage: Sequence[StoragePolicy],
        seed: int,
    ) -> None:
        check(rule, variables, storage, lazy)
        self.rule, self.slots = rule, Slots(slot_names, seed)
        self.variables, self.storage = list(variables), list(storage)
        self.shapes = [tuple(variable.shape) for variable in variables]
        self.layouts = self._layouts(variables, storage)
        self._asked, self._settings, self._for_xla = kernel, settings, for_xla
        self._lazy, self._forced = lazy, kernel != "auto"
        self._batches: dict[tuple[int, ...], tuple[Sequence[Any], Batch]] = {}
        self._traced = False
        if self._forced or not for_xla:
            _ = self._choice  # what cannot serve is said before anything is made

    @property
    def kind(self) -> str:
        """The engine outside functions compiled by XLA: "native", "resource" or "xla"."""
        return self._choice[0]

    @property
    def kernel(self) -> str:
        """The engine, and why it is not the native one."""
        return self._choice[1]

    @functools.cached_property
    def _choice(self) -> tuple[str, str]:
        kind, reason = _choose(self._asked, self.variables, self._settings, _plain(self.rule, self.layouts))
        description = _describe(kind, reason)
        if reason and not self._forced and description not in _said:
            _said.add(description)
            _log.warning("adamas: kernel %s", description)
        return kind, description

    @functools.cached_property
    def _native(self) -> Native:
        return Native(self.rule, self.slots)

    def make(self, names: Sequence[str], new_variable: NewVariable) -> None:
        """Make the variables for the moments, all zero.

        Args:
            names: of the variables, for random numbers; no two are equal.
            new_variable: makes one.
        """
        self._new_variable = new_variable
        self.rows = Rows(self.rule, self.slots, new_variable) if self._lazy else None
        self.told = Told(self.device)
        self._make(self.variables, self.layouts, names)
        self.carries = [new_variable((), "float64", carry.name) for carry in self.rule.carries]
        for variable, carry in zip(self.carries, self.rule.carries, strict=True):
            variable.assign(carry.initial)
        self._resource = Resource(self.rule, self.slots)
        self._expression = Expression(self.rule, self.slots)

    def _make(self, variables: Sequence[Any], layouts: Sequence[Layout], names: Sequence[str]) -> None:
        # Rows of a table are stepped where they are; an arena would have to be copied whole for whoever reads a part.
        kind = Separate if self._lazy or self._for_xla or self.kind != "native" else Arena
        shapes = [tuple(variable.shape) for variable in variables]
        self.slots.add(kind(layouts, variables, self._new_variable), layouts, shapes, names)
        for s, slot in enumerate(self.rule.slots):
            for i, variable in enumerate(variables, len(self.slots.layouts) - len(variables)):
                if slot.initial == "parameter":
                    self.slots.begin(s, i, variable)
        if self.rows is not None:
            self.rows.add(variables)
        self.told.add(len(variables))

    def _layouts(self, variables: Sequence[Any], storage: Sequence[StoragePolicy]) -> list[Layout]:
        names = self.slots.names
        return [how.layout(self.rule, names, variable) for variable, how in zip(variables, storage, strict=True)]

    def draw_by(self, seed: int, names: Sequence[str]) -> None:
        """Draw random numbers by another seed and other names from now on, as the optimizer that a state is of.

        Raises:
            StateError: a function was traced, and holds the old ones.
        """
        if (seed, list(names)) == (self.slots.seed, self.slots.rounding_names):
            return
        if self._traced and any(layout.rounds for layout in self.layouts):
            raise StateError(
                "the state rounds with the random numbers of another seed or other names, and this optimizer has been "
                "traced into a tf.function with its own; load the state before the first step in a graph. Nothing was "
                "loaded"
            )
        self.slots.seed, self.slots.rounding_names = seed, list(names)
        self.forget()

    def check_more(self, variables: Sequence[Any], storage: Sequence[StoragePolicy]) -> None:
        """Whether `more` can take these.

        Raises:
            UnsupportedError, ArgumentError: it cannot; nothing was made.
        """
        check(self.rule, [*self.variables, *variables], [*self.storage, *storage], self._lazy)
        elsewhere = _elsewhere(variables)
        if elsewhere and not self._for_xla and self.kind == "native":
            raise UnsupportedError(
                f"variable {elsewhere[0].name!r} is on {elsewhere[0].device}, and this optimizer was built for "
                "variables on the CPU; make another optimizer for it"
            )

    def more(self, variables: Sequence[Any], storage: Sequence[StoragePolicy], names: Sequence[str]) -> None:
        """Step these from now on too, from zero moments; what was traced before stays valid. See `check_more`."""
        layouts = self._layouts(variables, storage)
        self._make(variables, layouts, names)
        self.layouts += layouts
        self.storage += storage
        self.variables += variables
        self.shapes += [tuple(variable.shape) for variable in variables]

    @property
    def device(self) -> str | None:
        """Where the first variable is: what the steps read besides must be there too where XLA compiles them."""
        return str(self.variables[0].device) if self.variables else None

    def step(
        self,
        variables: Sequence[Any],
        grads: Sequence[Any],
        numbers: Numbers,
        settings: Settings,
        make_batch: Callable[[Sequence[Any]], Batch],
    ) -> tuple[Outcome, list[Any]]:
        """One step of `variables`, each with its gradient; `told` remembers its statistics.

        Args:
            numbers, settings: what the step is taken with.
            make_batch: called once for each new list of variables.

        Returns:
            What came of it; and tensors that a graph must have computed before it writes anything of this step, the
            counter included: they check the gradients whose shapes are known only when it runs.

        Raises:
            ArrayError: a gradient does not fit its variable; nothing was changed.
        """
        self._traced = self._traced or not tf.executing_eagerly()
        if self.rows is not None:
            return self._step_rows(self.rows, variables, grads, numbers, settings, make_batch)
        self.begin(numbers.iterations)
        before = [tf.convert_to_tensor(carry.value) for carry in self.carries]
        if self.carries:
            numbers = replace(numbers, carry=self._engine(settings).carry_on(before, numbers, settings))
        outcome, checks = self._step(variables, grads, numbers, settings, make_batch)
        with tf.control_dependencies(checks):
            for carry, old, new in zip(self.carries, before, numbers.carry, strict=True):
                carry.value.assign(new if outcome.taken is None else tf.where(outcome.taken, new, old))
        self._tell(outcome, checks, variables, numbers, settings, make_batch)
        return outcome, checks

    def _tell(
        self,
        outcome: Outcome,
        checks: Sequence[Any],
        variables: Sequence[Any],
        numbers: Numbers,
        settings: Settings,
        make_batch: Callable[[Sequence[Any]], Batch],
    ) -> None:
        if outcome.statistics is not None:
            with tf.control_dependencies(checks):
                self.told.write(
                    self._batch(variables, make_batch).indices,
                    outcome.statistics,
                    tf.cast(numbers.iterations, tf.int64) + 1,
                    settings.grad_scale(numbers.table),
                    outcome.taken,
                )

    def decide(self, variables: Sequence[Any], grads: Sequence[Any], grad_scale: Any) -> Any:
        """Whether a step with these dense gradients can be taken. Nothing is changed."""
        return below(Batch(list(variables), [], []).limit, self._squares(grads), grad_scale)

    def _squares(self, grads: Sequence[Any]) -> Any:
        """The sum of the squares of dense gradients."""
        if self.kind == "native" and not in_xla():
            return self._native.squares(grads)
        return xla.sum_of_squares(grads)

    def begin(self, iterations: Any) -> None:
        """At the first step, slots that start as the parameter do: since `make`, weights may have been loaded."""
        slots = [s for s, slot in enumerate(self.rule.slots) if slot.initial == "parameter"]
        if not slots:
            return

        def write() -> bool:
            for s in slots:
                for i, variable in enumerate(self.variables):
                    self.slots.begin(s, i, variable)
            return True

        if not tf.executing_eagerly():
            tf.cond(tf.equal(iterations, 0), write, lambda: True)
        elif int(iterations) == 0:
            write()

    def _step(
        self,
        variables: Sequence[Any],
        grads: Sequence[Any],
        numbers: Numbers,
        settings: Settings,
        make_batch: Callable[[Sequence[Any]], Batch],
    ) -> tuple[Outcome, list[Any]]:
        """One step of variables and slots, with dense gradients."""
        batch = self._batch(variables, make_batch)
        eager = tf.executing_eagerly() and set(map(type, grads)) == {_EagerTensor}
        if eager and len(batch.groups) == 1 and self.kind == "native" and not batch.cast:
            try:
                return self._native.step(batch, grads, numbers, settings), []
            except tf.errors.InvalidArgumentError:
                pass  # the op checks before it writes; find out below what is wrong, or put it right
        dense, checks = conform(grads, batch.variables)
        with tf.control_dependencies(checks):
            outcome = self._engine(settings).step(batch, dense, numbers, settings)
        if eager:  # gradients of another dtype stay so as a rule, and the op's exception costs more than this look
            batch.cast = any(map(operator.is_not, grads, dense))
        return outcome, checks

    def _step_rows(
        self,
        rows: Rows,
        variables: Sequence[Any],
        grads: Sequence[Any],
        numbers: Numbers,
        settings: Settings,
        make_batch: Callable[[Sequence[Any]], Batch],
    ) -> tuple[Outcome, list[Any]]:
        """One step, lazy for those variables whose gradients are tf.IndexedSlices. Everything is checked first."""
        native = not in_xla() and self.kind == "native"
        sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in grads]
        some = [g for g, is_sparse in zip(grads, sparse, strict=True) if is_sparse]
        whole = [g for g, is_sparse in zip(grads, sparse, strict=True) if not is_sparse]
        tables = self._batch([v for v, is_sparse in zip(variables, sparse, strict=True) if is_sparse], make_batch)
        others = self._batch([v for v, is_sparse in zip(variables, sparse, strict=True) if not is_sparse], make_batch)
        if set(tables.indices) & set(others.indices):
            raise ArgumentError(_TWICE)
        dense, checks = conform(whole, others.variables)
        norms = settings.needs_norm or settings.kind == "norm"
        sums = [
            rows.add_up(gradient, variable, native=native, squares=norms)
            for gradient, variable in zip(some, tables.variables, strict=True)
        ]
        checks += [one.rows for one in sums]
        with tf.control_dependencies(checks):
            total, taken = None, None
            if settings.needs_norm:
                total = tf.add_n([*([self._squares(dense)] if dense else []), *(one.squares for one in sums)])
            if settings.checks:
                limit = min(tables.limit, others.limit)
                taken, settings = (
                    below(limit, total, settings.grad_scale(numbers.table)),
                    replace(settings, checks=False),
                )

            def write() -> None:
                rows.settle(others.indices, others.rows, numbers, native=native)
                if dense:
                    self._engine(settings).step(others, dense, replace(numbers, squares=total), settings)
                for one, variable, index, row in zip(sums, tables.variables, tables.indices, tables.rows, strict=True):
                    squares = total if settings.kind == "global_norm" else one.squares
                    rows.step(variable, index, row, one, squares, numbers, settings, native=native)

            when(taken, write)
        return Outcome(taken), checks

    def _batch(self, variables: Sequence[Any], make_batch: Callable[[Sequence[Any]], Batch]) -> Batch:
        key = tuple(map(id, variables))
        known = self._batches.get(key)
        if known is None:
            batch = make_batch(variables)
            if len(set(batch.indices)) != len(batch.indices):
                raise ArgumentError(_TWICE)
            if len(self._batches) >= _KEPT:
                self._batches.clear()
            known = self._batches[key] = (tuple(variables), batch)  # the variables keep their ids
        return known[1]

    def places(self) -> list[tuple[int, int]]:
        """(slot, parameter) in the order of Keras' files: m and v by turns, then every vmax; then our corrections."""
        count = len(self.variables)
        return [(s, i) for i in range(count) for s in (0, 1)] + [
            (s, i) for s in range(2, len(self.rule.slots) + 1) for i in range(count) if self.layouts[i].of(s)
        ]

    def stored_dtypes(self) -> list[str]:
        """In which dtype each of these is stored."""
        return [self.layouts[i].arrays[self.layouts[i].of(slot)[0]].dtype for slot, i in self.places()]

    def settled(self, i: int, hyper: Hyper) -> list[np.ndarray]:
        """Copies of parameter i's moments as they would be without lazy steps: all rows decayed to the present."""
        moments = [np.array(self.slots.read(slot, i)) for slot in range(len(self.rule.slots))]
        seen = None if self.rows is None else self.rows.seen[i]
        if seen is not None:
            lazy.settle(hyper, moments, seen.numpy())
        return moments

    def clock_shapes(self) -> list[tuple[int, ...]]:
        """Of what `clocks` returns, before it is made too."""
        return [(shape[0] + 1,) for shape in self.shapes if shape] if self._lazy else []

    def reset_clocks(self) -> None:
        """Take the moments of every row to be of the present, because they have just been written."""
        for clock in self.clocks():
            clock.assign(np.zeros(clock.shape, np.int32))

    def clocks(self) -> list[Any]:
        """With lazy steps, the clock of each variable's rows; see kernels/rows.py."""
        return [] if self.rows is None else [seen for seen in self.rows.seen if seen is not None]

    def forget(self) -> None:
        """Work everything out again at the next step, because weight decay applies to other variables now."""
        self._batches.clear()

    def _engine(self, settings: Settings) -> Any:
        if in_xla() or self.kind == "xla":
            return self._expression
        if self.kind == "native":
            return self._native
        if settings.decays:
            if self._forced:
                raise KernelError(f"kernel='resource' {_NO_DECAY}; use kernel='auto'")
            return self._expression
        return self._resource


_TWICE = "a variable was given twice in one step; add its gradients and give it once"
_NO_DECAY = "cannot decay weights (TensorFlow's ResourceApplyAdam has no weight decay)"


def _elsewhere(variables: Sequence[Any]) -> list[Any]:
    return [v for v in variables if tf.DeviceSpec.from_string(v.device).device_type not in (None, "CPU")]


def _plain(rule: Rule, layouts: Sequence[Layout]) -> bool:
    """Whether it is Adam or AMSGrad, and all is kept in the variables' own dtypes, float32 or float64."""
    kept = all(array.dtype == layout.dtype for layout in layouts for array in layout.arrays)
    return kept and rule in (Rule("keras"), Rule("keras", amsgrad="raw"))


def _choose(kernel: Kernel, variables: Sequence[Any], settings: Settings, plain: bool) -> tuple[str, str | None]:
    """The engine, and why it is not the native one."""
    plain = plain and len(settings.lines) == 1 and not settings.statistics
    if kernel not in KERNELS:
        raise ArgumentError(f"kernel={kernel!r}: give one of {', '.join(map(repr, KERNELS))}")
    elsewhere = _elsewhere(variables)
    if kernel in ("xla", "resource"):
        if kernel == "resource" and settings.decays:
            raise KernelError(f"kernel='resource' {_NO_DECAY}; use kernel='auto'")
        if kernel == "resource" and not plain:
            raise KernelError(
                "kernel='resource' is for Adam with variables and moments in float32 or float64, without groups and "
                "statistics (TensorFlow's ResourceApplyAdam does nothing else); use kernel='auto'"
            )
        _refuse_verify(settings, "it was asked for")
        return kernel, "it was asked for"
    if elsewhere:
        reason: str | None = f"variable {elsewhere[0].name!r} is on {elsewhere[0].device}"
    else:
        reason = op.why_not()
    if reason is None:
        return "native", None
    if kernel == "native":
        raise KernelError(f"kernel='native' cannot serve: {reason}")
    _refuse_verify(settings, reason)
    return ("xla" if elsewhere or settings.decays or not plain else "resource"), reason


def _refuse_verify(settings: Settings, reason: str) -> None:
    if settings.verify:
        raise KernelError(
            f"verify={settings.verify} needs the native kernel, and another serves because {reason}; leave verify out"
        )


def _describe(kind: str, reason: str | None) -> str:
    if kind == "native":
        return f"native: libadamas ({cpu.get_instruction_set()}) through a TensorFlow op"
    what = "TensorFlow's ResourceApplyAdam" if kind == "resource" else "array expression compiled by XLA"
    return f"{kind}: {what}, because {reason}"
