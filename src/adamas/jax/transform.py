"""`update` as optax wants it: what is to be added to the parameters."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from adamas.errors import ArgumentError, ArrayError, UnsupportedError
from adamas.jax.advance import advance
from adamas.jax.decay import decays, masked
from adamas.jax.settings import Settings, is_array, table
from adamas.jax.states import FIELDS, Int8, Leaves, Packed, State, checked_dtype, path_name
from adamas.kernels.jax.layout import Leaf

# Elements of leaves with plain moments, from which on kernel="auto" leaves `update` to the array expression: what the
# native engine returns must lie in memory, while XLA adds it to the parameter in the same loop. update and
# apply_updates in one compiled call, native / array expression / optax, two busy cores, November 2026: 500 leaves of
# 1000 22 / 39 / 31 ms, 2 M in one leaf 3.3 / 4.4 / 3.8 ms, 8 M 95 / 56 / 53 ms (`step` takes 28 ms there).
_LARGE = 2**22
_NO_PARAMS = (
    "this optimizer needs the parameters: call update(grads, state, params), as for every transformation of optax that "
    "decays or averages weights"
)


def update(settings: Settings, grads: Any, state: State, params: Any = None, **extra: Any) -> tuple[Any, State]:
    """What is to be added to the parameters, and the new state.

    The step of the rule from 0 is minus what it subtracts; the decay is added here, as optax does, and fuses with the
    sum of `apply_updates`. Schedule-free, whose step depends on the parameter, gives the difference.
    """
    del extra  # is for other transformations of a chain
    if isinstance(state, Packed):
        raise UnsupportedError("a packed state is for step(params, grads, state); unpack it for update")
    free = settings.rule.schedule_free
    decaying = decays(settings) and not free
    if params is None and (decaying or free):
        raise ArgumentError(_NO_PARAMS)
    own = _leaves(settings, state, grads, params)
    gradients = own.flat(grads, "gradients")
    weights: list[Any] = [None] * len(gradients) if params is None else own.flat(params, "parameters")
    exact, arrays = settings.resolved(state.count)
    lr: Any = arrays.get("lr", exact.get("lr"))
    decay = 0.0 if free else arrays.pop("weight_decay", exact.pop("weight_decay", 0.0))
    start = [_start(leaf, p if free else None) for leaf, p in zip(own.leaves, weights, strict=True)]
    narrow = [None if g is None else jnp.asarray(g, leaf.dtype) for leaf, g in zip(own.leaves, gradients, strict=True)]
    alike = [True] * len(gradients)
    plain = all(leaf.plain for leaf in own.leaves)
    native = settings.kernel == "native" or not plain or sum(leaf.size for leaf in own.leaves) < _LARGE
    new, state, ok = advance(settings, own, state, start, narrow, alike, jnp.asarray(table(exact)), arrays, native)
    chosen = masked(settings, own, params) if decaying else [False] * len(new)
    updates: list[Any] = []
    for g, u, begun, p, shrinks in zip(gradients, new, start, weights, chosen, strict=True):
        if g is None:
            updates.append(None)
        elif free:
            updates.append(u - begun)
        else:
            updates.append(_decayed(u, lr, decay, ok, p) if shrinks else u)
    return own.treedef.unflatten(updates), state


def _start(leaf: Leaf, p: Any) -> Any:
    return jnp.zeros(leaf.shape, leaf.dtype) if p is None else jnp.asarray(p, leaf.dtype)


def _decayed(u: Any, lr: Any, decay: Any, ok: Any, p: Any) -> Any:
    """u - lr decay p, where the step is taken."""
    wide = jnp.promote_types(u.dtype, jnp.float32)
    if is_array(lr) or is_array(decay):
        lr = jnp.asarray(lr, wide)
    shrink = jnp.where(ok, jnp.asarray(lr * decay, wide), 0.0)
    return (u.astype(wide) - shrink * p.astype(wide)).astype(u.dtype)


def _leaves(settings: Settings, state: State, grads: Any, params: Any) -> Leaves:
    """The leaves: shapes and formats are those of the state, the dtype is that of what update returns.

    Raises:
        UnsupportedError: a dtype is not served, or weights would have to be rounded otherwise than to nearest.
        ArrayError: gradients or parameters do not fit the state.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(state.nu, is_leaf=lambda node: isinstance(node, Int8))
    own = Leaves(settings.rule, treedef, tuple(path_name(path) for path, _ in paths), ())
    columns = [own.flat(getattr(state, FIELDS[slot.name]), "moments") for slot in settings.rule.slots]
    gradients = own.flat(grads, "gradients")
    weights = [None] * len(gradients) if params is None else own.flat(params, "parameters")
    leaves = []
    for i, name in enumerate(own.names):
        moments = [column[i] for column in columns]
        first = moments[0].codes if isinstance(moments[0], Int8) else moments[0]
        given = [("the gradient of", gradients[i]), ("parameter", weights[i])]
        dtype = _dtype(name, first, [(what, array) for what, array in given if array is not None])
        if settings.weights != "nearest" and jnp.dtype(dtype).itemsize == 2:
            raise UnsupportedError(
                f"weights={settings.weights!r}: what update returns is added by optax.apply_updates, which rounds "
                f"{name!r} to the nearest {dtype}; use optimizer.step(params, grads, state)"
            )
        leaves.append(Leaf(tuple(first.shape), dtype, tuple(map(_format, moments)), "nearest"))
    return replace(own, leaves=tuple(leaves))


def _dtype(name: str, moment: Any, given: Sequence[tuple[str, Any]]) -> str:
    """That of what update returns for a leaf: as optax has it, but that a moment is never below float32."""
    dtypes = []
    for what, array in given:
        dtypes.append(jnp.dtype(checked_dtype(what, name, array)))
        if tuple(array.shape) != tuple(moment.shape):
            raise ArrayError(f"{name!r}: its moments have the shape {tuple(moment.shape)}, {what} it {array.shape}")
    if moment.dtype == jnp.float64:
        return "float64"
    wanted = functools.reduce(jnp.promote_types, dtypes) if dtypes else jnp.dtype(jnp.float32)
    return "float32" if wanted == jnp.float64 else str(wanted.name)


def _format(moment: Any) -> str:
    if isinstance(moment, Int8):
        return "int8"
    return "bfloat16" if moment.dtype == jnp.bfloat16 else "float32"
