"""The step on Keras' torch backend: one native call for all variables on the CPU, torch's own operations elsewhere.

These are the same formula, one operation at a time, and within a few roundings of the native step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch

from adamas import parts, scalars
from adamas import rule as mathematics
from adamas.errors import ArrayError, KernelError, UnsupportedError
from adamas.formats import Blocks
from adamas.keras import optimizer
from adamas.keras.kept import Kept, Memory, array
from adamas.kernels import choose, cpu
from adamas.parts import Part
from adamas.rule import Hyper, Scalars
from adamas.telemetry import COLUMNS
from adamas.torch.memory import as_array

_ARRAYS = SimpleNamespace(
    abs=torch.abs,
    sqrt=torch.sqrt,
    where=lambda condition, a, b: (
        (a if condition else b) if isinstance(condition, bool) else torch.where(condition, a, b)
    ),
    zeros_like=torch.zeros_like,
)
_NATIVE_READS = cpu.reads(torch.Tensor)


@dataclass
class Prepared:
    """What stays as it is from one step to the next, until a tensor is replaced or moves in memory.

    tensors   all that a step writes
    pointers  where they are
    """

    parts: list[Part]
    tensors: list[torch.Tensor]
    pointers: list[int]

    def fits(self) -> bool:
        return list(map(torch.Tensor.data_ptr, self.tensors)) == self.pointers


class Optimizer(optimizer.Optimizer):
    """An optimizer that steps by libadamas on the CPU, and by the array expression elsewhere."""

    _prepared: Prepared | None = None

    def _draw_by(self, seed: int, names: Sequence[str]) -> None:
        super()._draw_by(seed, names)
        self._prepared = None

    @property
    def kernel(self) -> str:
        """Which kernel serves on the CPU, and why; on other devices it is the array expression."""
        if self._ours["kernel"] == "xla":
            return "xla: the array expression, by torch's operations, because it was asked for"
        return str(choose())

    def _check_variables(self, variables: Sequence[Any], hows: Sequence[Any]) -> None:
        if self._ours["kernel"] == "native" and (reason := cpu.why_not()) is not None:
            raise KernelError(f"kernel='native' cannot serve: {reason}")
        for variable, how in zip(variables, hows, strict=True):
            device = variable.value.device.type
            if self._ours["kernel"] == "native" and device != "cpu":
                raise KernelError(f"kernel='native' serves the CPU, and variable {variable.path!r} is on {device}")
            plain = set(how.formats) == {"float32"} and how.weights == "nearest"
            if not plain and (device != "cpu" or self._ours["kernel"] == "xla"):
                raise UnsupportedError(
                    f"variable {variable.path!r} on {device}, moments={self._ours['moments']!r} and "
                    f"weights={self._ours['weights']!r}: on torch only the native kernel, on the CPU, serves them; "
                    "keep float32 and 'nearest', or use KERAS_BACKEND=jax"
                )

    @torch.compiler.disable
    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        if not isinstance(learning_rate, (keras.Variable, torch.Tensor)):
            learning_rate = np.asarray(learning_rate, keras.config.floatx())
        memory, own = self._ready(), self._numbers(lr=float(array(learning_rate)))
        steps = int(array(self.iterations))
        carry = tuple(float(array(one)) for one in memory.carries)
        given = {self._index[self._var_key(v)]: g for v, g in zip(trainable_variables, grads, strict=True)}
        with torch.no_grad():
            if steps == 0:
                memory.begin(steps)
            if self._by_expression(memory):
                taken = self._express(memory, given, own, steps, carry)
            else:
                taken = self._run(memory, given, own, steps, carry)
        if not taken:
            self._iterations.assign_sub(1)  # Keras adds 1 when this has returned
            self._skipped.assign_add(1)
            return
        for variable, number in zip(memory.carries, scalars.carry_on(memory.rule, own, steps + 1, carry), strict=True):
            variable.assign(number)

    def _by_expression(self, memory: Memory) -> bool:
        first = memory.variables[0]
        value = first.value
        # In a keras.StatelessScope a variable's value is another tensor, which must not change.
        return self._ours["kernel"] == "xla" or value.device.type != "cpu" or value is not first._value

    def _run(self, memory: Memory, given: Mapping[int, Any], own: Hyper, steps: int, carry: tuple[float, ...]) -> bool:
        """One native call; False where it changed nothing."""
        if self._prepared is None or not self._prepared.fits():
            self._prepared = _prepare(memory)
        now = self._prepared
        spared = [not self._use_weight_decay(variable) for variable in memory.variables]
        for part in now.parts:
            part.taken[:] = steps
            part.carry[:] = carry
            if part.rows is not None:
                part.rows[:] = [spared[i] for i in part.members]
        table = np.array([astuple(own), astuple(replace(own, weight_decay=0.0))], np.float64)
        every = range(len(memory.variables))
        found: list[Any] = [given.get(i) for i in every]
        found = [g if g is None else g.detach().to(memory.variables[i].value.dtype) for i, g in enumerate(found)]
        if not _NATIVE_READS:
            found = [g if g is None else as_array(g) for g in found]
        try:
            norm = parts.step(now.parts, found, table, check=self._skips)
        except ArrayError:  # one is not contiguous, or shares memory with a variable; nothing has been changed
            found = [g if g is None else np.array(as_array(torch.as_tensor(g).resolve_neg()), order="C") for g in found]
            norm = parts.step(now.parts, found, table, check=self._skips)
        if norm is not None and not parts.can_square(now.parts, norm):
            return False
        torch.autograd.graph.increment_version([memory.variables[i].value for i in given])
        return True

    def _express(
        self, memory: Memory, given: Mapping[int, Any], own: Hyper, steps: int, carry: tuple[float, ...]
    ) -> bool:
        """The same by torch's operations, one variable after the other."""
        if memory.rule.reduces:
            raise UnsupportedError(
                f"{type(self).__name__} needs norms of whole tensors, which only the native kernel computes: on the "
                "CPU, outside stateless_apply, without kernel='xla'"
            )
        if self._skips:
            squares = [
                torch.sum(torch.square(g.to(torch.promote_types(g.dtype, torch.float32)))) for g in given.values()
            ]
            if not bool(torch.isfinite(torch.stack([one.float() for one in squares]).sum())):
                return False
        t, rule = steps + 1, memory.rule
        after = scalars.carry_on(rule, own, t, carry)
        rows = [scalars.scalars(rule, hyper, t, carry=after) for hyper in (own, replace(own, weight_decay=0.0))]
        for i, g in given.items():
            variable, entries = memory.variables[i], memory.of(i)
            p = variable.value
            computed = torch.promote_types(p.dtype, torch.float32)
            wide = np.float64 if computed == torch.float64 else np.float32
            s = Scalars(*(float(wide(number)) for number in rows[0 if self._use_weight_decay(variable) else 1]))
            new, slots = mathematics.update(
                rule,
                p.to(computed),
                g.to(computed),
                [entry.values.value for entry in entries],
                s,
                coupled=False,
                tiny=float(np.finfo(wide).tiny),
                xp=_ARRAYS,
            )
            variable.assign(new.to(p.dtype))
            for entry, value in zip(entries, slots, strict=True):
                entry.values.assign(value)
        return True


def _prepare(memory: Memory) -> Prepared:
    """A plan for the variables of each dtype whose weights are rounded alike."""
    alike: dict[tuple[str, str], list[int]] = {}
    for i, (variable, how) in enumerate(zip(memory.variables, memory.hows, strict=True)):
        alike.setdefault((variable.dtype, how.weights), []).append(i)
    found = []
    for (_, weights), members in alike.items():
        held = [[_buffer(entry) for entry in memory.of(i)] for i in members]
        plan = choose().plan(
            memory.rule,
            [str(memory.variables[i].path) for i in members],
            [as_array(memory.variables[i].value.detach()) for i in members],
            [list(slot) for slot in zip(*held, strict=True)],
            memory.seed,
            [memory.hows[i].formats for i in members],
            weights,
            rounding_names=[memory.names[i] for i in members],
        )
        count = len(members)
        carry = np.zeros((count, len(memory.rule.carries)))
        rows, taken = np.zeros(count, np.int32), np.zeros(count, np.int64)
        found.append(Part(plan, members, rows, taken, carry, np.zeros((count, COLUMNS))))
    if len(found) > 1:
        parts.check_ready(found, [[None] * len(part.members) for part in found])
    tensors = [variable.value for variable in memory.variables]
    tensors += [v.value for entry in memory.kept for v in (entry.values, entry.scales) if v is not None]
    return Prepared(found, tensors, list(map(torch.Tensor.data_ptr, tensors)))


def _buffer(entry: Kept) -> np.ndarray | Blocks:
    values = as_array(entry.values.value.detach())
    return values if entry.scales is None else Blocks(values, as_array(entry.scales.value.detach()))
