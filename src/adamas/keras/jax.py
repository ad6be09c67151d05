"""The step on Keras' JAX backend: one native call for all variables, inside whatever function JAX compiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from adamas.errors import KernelError, StateError, UnsupportedError
from adamas.formats import name_key
from adamas.keras import optimizer
from adamas.keras.kept import Memory
from adamas.kernels import cpu
from adamas.kernels.jax import expression, op, stepper
from adamas.kernels.jax.layout import Layout, Leaf
from adamas.kernels.jax.stepper import Call, Operands


class Optimizer(optimizer.Optimizer):
    """An optimizer whose step is XLA's typed FFI into libadamas on CPUs, and the array expression elsewhere."""

    _traced = False
    """Whether a function that JAX compiled may hold the seed and the names of the variables."""

    def _draw_by(self, seed: int, names: Sequence[str]) -> None:
        memory = self._ready()
        if self._traced and memory.rounds and (seed, tuple(names)) != (memory.seed, tuple(memory.names)):
            raise StateError(
                "the state rounds with the random numbers of another seed or other names, and a function that JAX "
                "compiled holds this optimizer's; load the state before the first step in such a function, as in fit. "
                "Nothing was loaded"
            )
        super()._draw_by(seed, names)

    @property
    def kernel(self) -> str:
        """Which kernel serves on CPUs, and why; on other devices it is the array expression."""
        reason = "it was asked for" if self._ours["kernel"] == "xla" else op.why_not()
        if reason is not None:
            return f"xla: array expression, because {reason}"
        return f"native: libadamas ({cpu.get_instruction_set()}) through XLA's typed FFI"

    def _check_variables(self, variables: Sequence[Any], hows: Sequence[Any]) -> None:
        if self._rule().reduces:
            raise UnsupportedError(
                f"{type(self).__name__} needs norms of whole tensors, which the kernels for JAX do not compute; use it "
                "where Keras runs on TensorFlow or torch, or keras.optimizers.Lamb"
            )
        if self._ours["kernel"] == "native" and (reason := op.why_not()) is not None:
            raise KernelError(f"kernel='native' cannot serve: {reason}")

    def _add_carry(self, name: str, initial: float) -> Any:
        # JAX has no float64 unless told to, so the halves of one.
        carry = self.add_variable((2,), dtype="uint32", name=name)
        self._carry(carry, initial)
        return carry

    def _carried(self, carry: Any) -> np.ndarray:
        return np.asarray(carry.value).view(np.float64).reshape(())

    def _carry(self, carry: Any, number: float) -> None:
        carry.assign(_halves(number))

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        memory, own = self._ready(), self._numbers()
        self._traced = self._traced or isinstance(self._iterations.value, jax.core.Tracer)
        memory.begin(self.iterations)
        given = {self._index[self._var_key(v)]: g for v, g in zip(trainable_variables, grads, strict=True)}
        ok = expression.finite(list(given.values())) if self._skips else jnp.array(True)
        before = (
            jnp.stack([carry.value for carry in memory.carries]) if memory.carries else jnp.zeros((0, 2), jnp.uint32)
        )
        after, table = before, _table(own, replace(own, weight_decay=0.0))
        for members in _alike(memory):
            call = self._call(memory, members, [i for i in members if i in given])
            taking = [members[k] for k in call.active]
            if not taking:
                continue
            entries = [memory.of(i) for i in members]
            kept = [[v.value for one in own for v in (one.values, one.scales) if v is not None] for own in entries]
            params = [memory.variables[i].value for i in taking]
            operands = Operands(
                table=table,
                count=jnp.asarray(self.iterations, jnp.int32),
                ok=ok,
                carry=before,
                names=jnp.zeros((0, 2), jnp.uint32) if call.layout.plain else _names(memory, taking),
                traced=[_rate(learning_rate)],
                params=params,
                grads=[given[i].astype(p.dtype) for i, p in zip(taking, params, strict=True)],
                arrays=call.layout.join(kept),
            )
            stepped, arrays, after = stepper.step(call, operands)
            for i, value in zip(taking, stepped, strict=True):
                memory.variables[i].assign(value)
            for own_entries, values in zip(entries, call.layout.split(arrays), strict=True):
                variables = [v for one in own_entries for v in (one.values, one.scales) if v is not None]
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
        for carry, number in zip(memory.carries, after, strict=True):
            carry.assign(number)
        if self._skips:  # Keras adds 1 when this has returned
            missed = jnp.where(ok, 0, 1)
            self._iterations.assign(self._iterations.value - missed.astype(self._iterations.dtype))
            self._skipped.assign(self._skipped.value + missed.astype(self._skipped.dtype))

    def _call(self, memory: Memory, members: Sequence[int], taking: Sequence[int]) -> Call:
        leaves = [
            Leaf(
                tuple(memory.variables[i].shape),
                memory.variables[i].dtype,
                memory.hows[i].formats,
                memory.hows[i].weights,
            )
            for i in members
        ]
        layout = Layout(memory.rule, tuple(leaves), packed=False)
        rows = [0 if self._use_weight_decay(memory.variables[i]) else 1 for i in taking]
        native = self._ours["kernel"] != "xla" and stepper.native_everywhere(layout)
        return Call(layout, tuple(members.index(i) for i in taking), tuple(rows), ("lr",), native)


def _alike(memory: Memory) -> list[tuple[int, ...]]:
    """The variables that one call takes: those of one dtype, whose weights are rounded alike."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, (variable, how) in enumerate(zip(memory.variables, memory.hows, strict=True)):
        found.setdefault((variable.dtype, how.weights), []).append(i)
    return [tuple(members) for members in found.values()]


def _names(memory: Memory, taking: Sequence[int]) -> Any:
    """uint32 [1 + variables, 2]: the seed and the keys of these variables."""
    words = [memory.seed, *(name_key(memory.names[i]) for i in taking)]
    return jnp.asarray(np.array(words, np.uint64).reshape(-1, 1).view(np.uint32))


def _rate(rate: Any) -> Any:
    """A learning rate as the kernels take it: float32 or float64. A Python number becomes Keras' float type."""
    if isinstance(rate, keras.Variable):
        rate = rate.value
    elif not isinstance(rate, jax.Array):
        rate = jnp.asarray(rate, keras.config.floatx())
    return rate if rate.dtype in (jnp.float32, jnp.float64) else rate.astype(jnp.float32)


def _halves(values: Any) -> np.ndarray:
    """float64 [...] as uint32 [..., 2], the lower half first."""
    return np.array(values, np.float64, order="C")[..., None].view(np.uint32)


def _table(*hypers: Any) -> Any:
    return jnp.asarray(_halves([astuple(hyper) for hyper in hypers]))
