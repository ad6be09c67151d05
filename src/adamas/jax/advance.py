"""One step of all leaves, from trees to the kernel and back: what `update` and `step` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from adamas.jax.settings import Settings
from adamas.jax.states import Leaves, Packed, State
from adamas.kernels.jax import expression, stepper
from adamas.kernels.jax.stepper import Call, Operands


def advance(
    settings: Settings,
    own: Leaves,
    state: State | Packed,
    params: Sequence[Any],
    grads: Sequence[Any],
    decays: Sequence[bool],
    table: Any,
    arrays: Mapping[str, Any],
    native: bool = True,
) -> tuple[list[Any], Any, Any]:
    """The new values of all leaves, the new state, and whether the step was taken.

    Args:
        params, grads: one for each leaf, of its dtype; where a gradient is None, nothing changes.
        decays: whether a leaf decays.
        table: `settings.table` of the numbers that are Python's.
        arrays: the other numbers.
        native: whether the native engine may serve.
    """
    ok = expression.finite([g for g in grads if g is not None]) if settings.skips else jnp.array(True)
    before = jnp.zeros((0, 2), jnp.uint32) if state.carry is None else state.carry
    new, after = list(params), before
    if isinstance(state, Packed):
        own.check_packed(state)
    kept: Any = [] if isinstance(state, Packed) else own.kept(state)
    arenas: list[Any] = []
    for number, members in enumerate(own.groups):
        packed = isinstance(state, Packed)
        layout = own.layout(members, packed)
        taking = [i for i in members if grads[i] is not None]
        call = Call(
            layout,
            tuple(members.index(i) for i in taking),
            tuple(0 if decays[i] else 1 for i in taking),
            tuple(arrays),
            native and settings.kernel != "xla" and stepper.native_everywhere(layout),
        )
        operands = Operands(
            table,
            state.count,
            ok,
            before,
            _names(state, taking) if not layout.plain else jnp.zeros((0, 2), jnp.uint32),
            list(arrays.values()),
            [params[i] for i in taking],
            [grads[i] for i in taking],
            list(state.arenas[number]) if isinstance(state, Packed) else layout.join([kept[i] for i in members]),
        )
        stepped, now, moved = stepper.step(call, operands)
        after = moved if taking else after
        for i, value in zip(taking, stepped, strict=True):
            new[i] = value
        if packed:
            arenas.append(now)
        else:
            for i, of_leaf in zip(members, layout.split(now), strict=True):
                kept[i] = of_leaf
    count = jnp.where(ok, optax.safe_increment(state.count), state.count)
    common = {"count": count, "carry": None if state.carry is None else after}
    if isinstance(state, Packed):
        return new, state._replace(arenas=arenas, **common), ok
    return new, state._replace(**common, **own.stored(kept)), ok


def _names(state: State | Packed, taking: Sequence[int]) -> Any:
    """uint32 [1 + leaves, 2]: the seed and the keys of these leaves."""
    keys = state.rounding.keys
    if len(taking) != keys.shape[0]:
        keys = keys[np.array(taking, np.int32)]
    return jnp.concatenate([state.rounding.seed[None], keys])
