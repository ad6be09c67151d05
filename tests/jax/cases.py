"""The optimizers of adamas.jax, each beside optax's and as a rule of ours, at the discriminating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

import adamas.jax as ours
from adamas import storage
from adamas.formats import Blocks
from adamas.jax.states import FIELDS
from adamas.kernels import reference
from adamas.rule import Hyper, Rule

HYPER = {"learning_rate": 0.02, "b1": 0.8, "b2": 0.95, "eps": 1e-3}
ROOTED = {**HYPER, "eps_root": 1e-4}
DECAYED = {**ROOTED, "weight_decay": 0.1}


class Case(NamedTuple):
    name: str
    ours: Callable[..., ours.Optimizer]
    theirs: Callable[..., optax.GradientTransformation]
    arguments: dict[str, Any]
    rule: Rule
    hyper: Hyper


def _hyper(arguments: Mapping[str, Any]) -> Hyper:
    names = {"learning_rate": "lr", "b1": "beta1", "b2": "beta2"}
    return Hyper(**{names.get(name, name): value for name, value in arguments.items()})


def _case(name: str, arguments: dict[str, Any], rule: Rule) -> Case:
    theirs = optax.contrib.schedule_free_adamw if name == "schedule_free_adamw" else getattr(optax, name)
    return Case(name, getattr(ours, name), theirs, arguments, rule, _hyper(arguments))


CASES = [
    _case("adam", ROOTED, Rule()),
    _case("adamw", DECAYED, Rule()),
    _case("nadam", ROOTED, Rule(nesterov="constant")),
    _case("nadamw", DECAYED, Rule(nesterov="constant")),
    _case("amsgrad", ROOTED, Rule(amsgrad="corrected")),
    _case("radam", {**ROOTED, "learning_rate": 2e-3}, Rule(rectify=True)),
    _case("adamax", HYPER, Rule(infinity=True)),
    _case("adamaxw", {**HYPER, "weight_decay": 0.1}, Rule(infinity=True)),
    _case("schedule_free_adamw", {**HYPER, "weight_decay": 0.1}, Rule(schedule_free=True)),
]
IDS = [case.name for case in CASES]
SHAPES: dict[str, tuple[int, ...]] = {
    "a/bias": (), "a/kernel": (33, 257), "b/0": (0,), "b/1": (31,), "b/2": (4096,), "b/3": (4097,), "c": (1,)
}  # fmt: skip


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by the names of SHAPES as a tree of dicts and lists."""
    tree: dict[str, Any] = {"a": {}, "b": [], "c": flat["c"]}
    for name, value in flat.items():
        if name.startswith("a/"):
            tree["a"][name[2:]] = value
        elif name.startswith("b/"):
            tree["b"].append(value)
    return tree


def numbers(
    rng: np.random.Generator, dtype: str, smallest: float = 0.0, leaves: Sequence[str] = tuple(SHAPES)
) -> dict[str, np.ndarray]:
    """Arrays of SHAPES, with elements of a size of their own from 10^smallest on."""
    found = {}
    for name in leaves:
        shape = SHAPES[name]
        sized = rng.standard_normal(shape) * 10.0 ** rng.uniform(smallest, 0.5, shape)
        found[name] = np.asarray(sized).astype(dtype_of(dtype))
    return found


def dtype_of(name: str) -> Any:
    return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)


def to_jax(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return nested({name: jnp.array(value, copy=True) for name, value in flat.items()})


class Reference:
    """The same steps by the reference kernel, in place, with the names of the tree's paths."""

    def __init__(
        self,
        rule: Rule,
        hyper: Hyper,
        params: Mapping[str, np.ndarray],
        moments: str = "float32",
        weights: str = "nearest",
        seed: int = 0,
    ) -> None:
        self.rule, self.hyper, self.names, self.t = rule, hyper, list(params), 0
        self.params = [np.array(p) for p in params.values()]
        how = [storage.choose(rule, p.dtype, p.size, moments, weights) for p in self.params]
        self.kept = [storage.fresh(rule, own, p) for own, p in zip(how, self.params, strict=True)]
        slots = [[kept[slot.name] for kept in self.kept] for slot in rule.slots]
        if how[0].weights == "split":
            slots.append([kept["correction"] for kept in self.kept])
        self.plan = reference.Plan(
            rule, self.names, self.params, slots, seed, [own.formats for own in how], how[0].weights
        )
        self.carry = np.array([[number.initial for number in rule.carries]] * len(params), np.float64)

    def step(self, grads: Mapping[str, np.ndarray | None]) -> None:
        self.t += 1
        given = [None if grads[name] is None else np.asarray(grads[name]) for name in self.names]
        table = np.array([astuple(self.hyper)], np.float64)
        self.plan.step(given, np.full(len(given), self.t), table, carry=self.carry if self.rule.carries else None)

    def differences(self, params: Any, state: ours.State) -> list[str]:
        """What is not equal to the bit."""
        found = []
        for name, mine, right in zip(self.names, jax.tree.leaves(params), self.params, strict=True):
            if not same(mine, right):
                found.append(name)
        for slot in self.rule.slots:
            tree = getattr(state, FIELDS[slot.name])
            leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, ours.Int8))
            for name, mine, kept in zip(self.names, leaves, self.kept, strict=True):
                if not same_stored(mine, kept[slot.name]):
                    found.append(f"{name} {slot.name}")
        if state.correction is not None:
            for name, mine, kept in zip(self.names, jax.tree.leaves(state.correction), self.kept, strict=True):
                if not same(mine, kept["correction"]):
                    found.append(f"{name} correction")
        if self.rule.carries:
            carried = np.asarray(state.carry).view(np.float64).reshape(-1)
            if not np.array_equal(carried, self.carry[0]):
                found.append("carry")
        return found


def same(given: Any, expected: np.ndarray) -> bool:
    array = np.asarray(given)
    return array.dtype == expected.dtype and array.shape == expected.shape and array.tobytes() == expected.tobytes()


def same_stored(given: Any, expected: np.ndarray | Blocks) -> bool:
    if isinstance(expected, Blocks):
        return isinstance(given, ours.Int8) and all(map(same, given, expected))
    return same(given, expected)


def gradients(
    rng: np.random.Generator, dtype: str, steps: int, leaves: Sequence[str] = tuple(SHAPES)
) -> Sequence[dict[str, np.ndarray]]:
    return [numbers(rng, dtype, -6.0, leaves) for _ in range(steps)]
