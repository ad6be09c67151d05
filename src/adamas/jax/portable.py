"""The portable state of `adamas.state`, from a state of JAX and back."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adamas import state as portable
from adamas import storage
from adamas.errors import StateError
from adamas.formats import Blocks, Key, name_key
from adamas.jax.decay import masked
from adamas.jax.settings import Settings, halves, words
from adamas.jax.states import Leaves, Packed, Rounding, State, of_params, unpack
from adamas.kernels.jax.layout import Leaf
from adamas.kernels.reference import ieee
from adamas.rule import Hyper

_MOST = 2**31 - 1  # steps that the count, an int32, can tell


def save(settings: Settings, state: State | Packed, params: Any) -> portable.State:
    """See `Optimizer.portable_state`."""
    if isinstance(state, Packed):
        state = unpack(settings, state, params)
    own = of_params(settings, params)
    slots = {
        name: _slots(own, leaf, [np.asarray(array) for array in kept])
        for name, leaf, kept in zip(own.names, own.leaves, own.kept(state), strict=True)
    }
    exact, arrays = settings.resolved(state.count)
    hyper = Hyper(**exact, **{name: float(value) for name, value in arrays.items()})
    decays = masked(settings, own, params)
    hypers = [hyper, Hyper(**{**vars(hyper), "weight_decay": 0.0})][: 1 if all(decays) else 2]
    carry = () if state.carry is None else tuple(_doubles(state.carry))
    drawn: dict[str, Any] = {}
    if state.rounding is not None:
        drawn = {"seed": int(_word(state.rounding.seed)), "rounding_names": _names(own, state.rounding)}
    return portable.State(
        rule=settings.rule,
        slots=slots,
        steps=dict.fromkeys(own.names, int(state.count)),
        hypers=hypers,
        groups={name: 0 if decay else 1 for name, decay in zip(own.names, decays, strict=True)},
        carries=dict.fromkeys(own.names, carry),
        **drawn,
    )


def load(settings: Settings, given: portable.State, params: Any) -> State:
    """See `Optimizer.load_portable_state`."""
    own = of_params(settings, params)
    given.check_fits(
        settings.rule,
        {name: leaf.shape for name, leaf in zip(own.names, own.leaves, strict=True)},
        {name: leaf.computed.name for name, leaf in zip(own.names, own.leaves, strict=True)},
    )
    steps, carries = set(given.steps.values()), {tuple(given.carries[name]) for name in own.names}
    if len(steps) > 1 or len(carries) > 1:
        raise StateError(
            f"the parameters of the state have taken different numbers of steps ({sorted(steps)[:5]}): optax's states, "
            "and these, have one count for all; nothing was loaded"
        )
    count = next(iter(steps), 0)
    if count > _MOST:
        raise StateError(f"the state has taken {count} steps, and a count of JAX, an int32, ends at {_MOST}")
    seed, names = given.seed, given.rounding_names
    seed = int(_word(settings.seed_bits())) if seed is None else seed
    kept = []
    for name, leaf, p in zip(own.names, own.leaves, jax.tree.leaves(params), strict=True):
        how = storage.Storage(leaf.formats, leaf.weights, "")
        storage.check_optional(name, {"correction": 0} if leaf.weights == "split" else {}, given.slots[name])
        key = Key(seed, name_key(names.get(name, name)), count, 0, 0)
        with ieee():
            found = storage.fitting(settings.rule, how, np.asarray(p), given.slots[name], key)
        if leaf.weights == "split" and "correction" not in given.slots[name]:
            found["correction"] = np.zeros(leaf.shape, np.int8)
        arrays: list[np.ndarray] = []
        for slot in (
            *(slot.name for slot in settings.rule.slots),
            *(["correction"] if leaf.weights == "split" else []),
        ):
            stored = found[slot]
            arrays += stored if isinstance(stored, Blocks) else [stored]
        kept.append([_placed(array, p) for array in arrays])
    rounding = carry = b1 = None
    if not all(leaf.plain for leaf in own.leaves):
        drawn = [names.get(name, name) for name in own.names]
        adopted = "" if drawn == list(own.names) else "\n".join(drawn)
        if adopted.count("\n") > max(len(drawn) - 1, 0):
            raise StateError("a rounding name of the state has a line end, which this state cannot hold")
        text = jnp.asarray(np.frombuffer(adopted.encode(), np.uint8)) if adopted else None
        keys = jnp.asarray(words([name_key(name) for name in drawn]))
        rounding = Rounding(jnp.asarray(words([seed])[0]), keys, text)
    if settings.rule.carries:
        carry = jnp.asarray(halves(next(iter(carries), [number.initial for number in settings.rule.carries])))
    if settings.rule.schedule_free:
        b1 = jnp.asarray(settings.numbers["beta1"], jnp.float32)
    return State(jnp.asarray(count, jnp.int32), b1=b1, carry=carry, rounding=rounding, **own.stored(kept))


def _slots(own: Leaves, leaf: Leaf, kept: list[np.ndarray]) -> dict[str, np.ndarray | Blocks]:
    found: dict[str, np.ndarray | Blocks] = {}
    for slot, name in zip(own.rule.slots, leaf.formats, strict=True):
        values = kept.pop(0).copy()
        found[slot.name] = Blocks(values, kept.pop(0).copy()) if name == "int8" else values
    if kept:
        found["correction"] = kept.pop(0).copy()
    return found


def _placed(array: np.ndarray, p: Any) -> Any:
    """As an array of JAX, where the parameter is; codes and moments are sharded as it is."""
    if isinstance(p, jax.Array) and math.prod(array.shape) and array.shape == p.shape:
        return jax.device_put(array, p.sharding)
    return jnp.array(array, copy=True)


def _names(own: Leaves, rounding: Rounding) -> dict[str, str]:
    adopted = rounding.adopted
    names = own.names if adopted is None else bytes(np.asarray(adopted)).decode().split("\n")
    return dict(zip(own.names, names, strict=True))


def _word(halves_of_one: Any) -> Any:
    return np.asarray(halves_of_one).view(np.uint64)[0]


def _doubles(carry: Any) -> list[float]:
    found: list[float] = np.ascontiguousarray(carry).view(np.float64).reshape(-1).tolist()
    return found
