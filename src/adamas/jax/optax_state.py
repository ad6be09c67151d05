"""The state of optax's own Adam family, to and from the portable checkpoint.

from adamas.rule import PRESETS

state.save("optimizer.safetensors", from_optax(opt_state, *PRESETS["optax.adamw"]))     # go on in any framework
opt_state = to_optax(state.load("optimizer.safetensors"), opt_state, PRESETS["optax.adamw"].rule)       # and back
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adamas.errors import StateError, UnsupportedError
from adamas.jax.states import path_name
from adamas.rule import Hyper, Rule
from adamas.state import State
from adamas.storage import check_optional

_ADAM = {"m": "mu", "v": "nu"}
_AMSGRAD = {**_ADAM, "vmax": "nu_max"}
_NUMBERS = {  # what optax.inject_hyperparams calls them
    "lr": "learning_rate",
    "beta1": "b1",
    "beta2": "b2",
    "eps": "eps",
    "eps_root": "eps_root",
    "weight_decay": "weight_decay",
}


def from_optax(opt_state: Any, rule: Rule, hyper: Hyper) -> State:
    """A copy of what optax's adam, adamw, amsgrad, nadam, nadamw, adamax, adamaxw, radam or adopt carries, exactly.

    Args:
        opt_state: of one of them, by itself or anywhere in a chain, `masked` or `inject_hyperparams`. Leaves go by
            their path, joined with "/".
        rule: what the transformation computes: `PRESETS["optax.adamw"].rule`. optax's state does not say it.
        hyper: its numbers, which optax's state does not hold either, but for those that are injected: they replace
            the ones given. For leaves with other numbers `dataclasses.replace` the state's `hypers` and `groups`.

    Raises:
        UnsupportedError: the state has no Adam in it, or several (`multi_transform`); or arrays of other processes.
        StateError: it is not of this rule.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from adamas.jax import from_optax
        >>> from adamas.rule import PRESETS
        >>> optimizer, params = optax.adamw(1e-3), {"dense": {"kernel": jnp.ones(3)}}
        >>> updates, opt_state = optimizer.update(params, optimizer.init(params), params)
        >>> from_optax(opt_state, *PRESETS["optax.adamw"]).steps
        {'dense/kernel': 1}
    """
    adam, fields = _adam(opt_state, rule)
    columns = {slot: _named(getattr(adam, field)) for slot, field in fields.items()}
    names = list(columns["m"])
    given = {
        ours: float(injected.hyperparams[theirs])
        for injected in _found(opt_state, _is_injected)
        for ours, theirs in _NUMBERS.items()
        if theirs in injected.hyperparams
    }
    return State(
        rule=rule,
        slots={name: {slot: _array(name, column[name]) for slot, column in columns.items()} for name in names},
        steps=dict.fromkeys(names, int(adam.count)),
        hypers=[replace(hyper, **given)],
    )


def to_optax(state: State, opt_state: Any, rule: Rule) -> Any:
    """The state of one of optax's transformations with the moments and the count of a portable one.

    Schedules go on from the same count, and injected numbers are those of the state; all other numbers are the
    transformation's own. int8 and bfloat16 are decoded.

    Args:
        state: of the same formula, over leaves of the same names (`State.renamed`).
        opt_state: of the transformation, as `init` gives it; not changed. Arrays are placed as its own are.
        rule: what the transformation computes.

    Returns:
        A tree like `opt_state`.

    Raises:
        UnsupportedError: as `from_optax`; or leaves of 16 bits, whose moments optax rounds.
        StateError: the state does not fit; lists the differences.
    """
    adam, fields = _adam(opt_state, rule)
    columns = {slot: _named(getattr(adam, field)) for slot, field in fields.items()}
    for slot, column in columns.items():
        for name, leaf in column.items():
            if leaf.dtype not in (jnp.float32, jnp.float64):
                raise UnsupportedError(
                    f"{fields[slot]} of {name!r} is {leaf.dtype} in optax's state; only float32 and float64 move "
                    "exactly. Leave out mu_dtype and keep the parameters in float32, or use adamas.jax"
                )
    leaves = columns["m"]
    state.check_fits(
        rule,
        {name: leaf.shape for name, leaf in leaves.items()},
        {name: leaf.dtype.name for name, leaf in leaves.items()},
    )
    for name in leaves:
        check_optional(name, {}, state.slots[name])
    step, _ = state.in_step()
    if step >= 2**31:
        raise StateError(f"step {step} is more than optax's count in int32 can hold")
    hypers = {state.hypers[state.groups[name]] for name in leaves}

    def moved(node: Any) -> Any:
        if node is adam:
            trees = {
                field: jax.tree_util.tree_map_with_path(
                    lambda path, leaf, slot=slot: _like(leaf, state.numbers(path_name(path), slot)),
                    getattr(node, field),
                )
                for slot, field in fields.items()
            }
            return node._replace(count=_like(node.count, step), **trees)
        if isinstance(node, optax.ScaleByScheduleState):
            return node._replace(count=_like(node.count, step))
        if _is_injected(node):
            inner = jax.tree.map(moved, node.inner_state, is_leaf=_stops)
            own = {"inner_state": inner, "hyperparams": _injected(node.hyperparams, hypers)}
            if hasattr(node, "hyperparams_states"):  # the counts of its schedules
                own["hyperparams_states"] = {
                    name: kept._replace(count=_like(kept.count, step)) if hasattr(kept, "count") else kept
                    for name, kept in node.hyperparams_states.items()
                }
            return node._replace(count=_like(node.count, step), **own)
        return node

    return jax.tree.map(moved, opt_state, is_leaf=_stops)


def _adam(opt_state: Any, rule: Rule) -> tuple[Any, dict[str, str]]:
    """The one part of a state that is Adam's, and the fields of its slots."""
    found = _found(opt_state, _is_adam)
    if len(found) != 1:
        raise UnsupportedError(
            f"the state of optax has {len(found)} states of Adam in it, and one is wanted: give that of one adam, "
            "adamw, amsgrad, nadam, adamax, radam or adopt; of multi_transform one after the other "
            "(inner_states[label])"
        )
    (adam,) = found
    fields = _AMSGRAD if isinstance(adam, optax.ScaleByAmsgradState) else _ADAM
    kept = [slot.name for slot in rule.slots]
    if list(fields) != kept or rule.carries:
        carries = [carry.name for carry in rule.carries]
        raise StateError(
            f"{type(adam).__name__} of optax holds {list(fields)}, and {rule} keeps {[*kept, *carries]}; give the rule "
            "that the transformation computes, such as PRESETS['optax.adamw'].rule"
        )
    return adam, fields


def _is_adam(node: Any) -> bool:
    return isinstance(node, (optax.ScaleByAdamState, optax.ScaleByAmsgradState))


def _is_injected(node: Any) -> bool:
    """Whether it is the state of `optax.inject_hyperparams`, of whichever class."""
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def _stops(node: Any) -> bool:
    return _is_adam(node) or _is_injected(node) or isinstance(node, optax.ScaleByScheduleState)


def _found(opt_state: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """The parts of a state that are wanted, wherever they are."""
    found: list[Any] = []
    for node in jax.tree.leaves(opt_state, is_leaf=_stops):
        if wanted(node):
            found.append(node)
        if _is_injected(node):
            found += _found(node.inner_state, wanted)
    return found


def _named(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _array(name: str, leaf: Any) -> np.ndarray:
    """A copy of the whole array; float16 in float32."""
    if not getattr(leaf, "is_fully_addressable", True):
        raise UnsupportedError(
            f"{name!r} lies in part on devices of other processes; gather it first with "
            "jax.experimental.multihost_utils.process_allgather"
        )
    array = np.array(leaf)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _like(leaf: Any, value: Any) -> Any:
    """A value as an array of a leaf's dtype, where that lies."""
    array = np.asarray(value, leaf.dtype)
    return jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array


def _injected(numbers: dict[str, Any], hypers: set[Hyper]) -> dict[str, Any]:
    """The numbers of `inject_hyperparams`, as the state has them."""
    names = {theirs: ours for ours, theirs in _NUMBERS.items() if theirs in numbers}
    if names and len(hypers) > 1:
        raise StateError(
            f"the state has several groups of numbers, and optax injects one for all leaves: {sorted(names)}"
        )
    own = next(iter(hypers), None)
    return numbers if own is None else {**numbers, **{n: _like(numbers[n], getattr(own, names[n])) for n in names}}
