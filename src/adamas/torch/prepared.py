"""What stays as it is from one step of an optimizer to the next: plans over its parameters and its state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamas import formats, parts, storage
from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.formats import Blocks, Key, name_key
from adamas.kernels import choose
from adamas.kernels.reference import ieee
from adamas.parts import Part
from adamas.rule import Rule
from adamas.state import OPTIONAL
from adamas.storage import Storage
from adamas.telemetry import COLUMNS
from adamas.torch.checks import (
    Settings,
    check_optional,
    check_parameter,
    check_state,
    keys_of,
    names_of,
    seed_of,
    tensor_names,
)
from adamas.torch.memory import as_array, entries, gradient, scales_key, stored
from adamas.torch.tables import Table
from adamas.torch.watch import Watch, is_negated


@dataclass(frozen=True)
class Asked:
    """What a group of parameters asks for."""

    rule: Rule
    moments: str
    weights: str


@dataclass
class Prepared:
    """Everything that stays as it is from one step to the next, until something was replaced.

    params   of all groups
    waiting  the places of those that have had no gradient yet, and so have no state
    single   the places of those with at most one element
    steps    of each part: shares memory with state[p]["step"]
    tables   with sparse="lazy": what may have sparse gradients, by its place
    """

    asked: list[Asked] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    watch: Watch | None = None
    waiting: list[int] = field(default_factory=list)
    single: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)
    nonfinite: str = "propagate"
    tables: dict[int, Table] = field(default_factory=dict)

    def gradients(self, optimizer: Any, asked: list[Asked]) -> list[Tensor | None] | None:
        """The gradients of all parameters; None where this is out of date. It runs at each step, so nothing here is
        Python code for each tensor."""
        if self.watch is None or asked != self.asked:
            return None
        found = self.watch.gradients([group["params"] for group in optimizer.param_groups], optimizer.state)
        if found is not None and any(found[i] is not None for i in self.waiting):
            return None
        return found

    def negated(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether the memory of a gradient holds its values with the other sign."""
        return any(is_negated(grads[i]) for i in self.single)


def stored_as(rule: Rule, p: Tensor, name: str, moments: str, weights: str) -> Storage:
    """How the state of one parameter is stored.

    Raises:
        ArgumentError: it cannot be stored so; names it.
    """
    try:
        return storage.choose(rule, as_array(p.detach()).dtype, p.numel(), moments, weights)
    except ArgumentError as error:
        raise ArgumentError(f"parameter {name}: {error}") from None


def prepare(optimizer: Any, asked: list[Asked], settings: Settings, low: bool) -> Prepared:
    """Make what is missing of the state, and a plan for each rule and dtype; everything is checked first.

    Args:
        optimizer: of torch.
        asked: of each group.
        settings: what torch has no arguments for.
        low: whether parameters of 16 bits and sparse gradients are served, for which torch computes something else.
    """
    groups, average = optimizer.param_groups, settings.ema is not None
    names, keys, seed = names_of(groups), keys_of(groups), seed_of(groups, settings.seed)
    plain = tensor_names(groups)
    group_of = [k for k, group in enumerate(groups) for _ in group["params"]]
    params: list[Tensor] = [p for group in groups for p in group["params"]]
    storage.check_weights(
        (as_array(p.detach()).dtype, asked[of].weights)
        for of, p in zip(group_of, params, strict=True)
        if asked[of].weights != "nearest"
    )
    alike: dict[tuple[Any, ...], list[int]] = {}
    hows: dict[int, Storage] = {}
    for i, p in enumerate(params):
        state, own = optimizer.state.get(p, {}), asked[group_of[i]]
        if state or p.grad is not None:
            check_parameter(names[i], p, low)
            if not (low and p.grad is not None and p.grad.layout != torch.strided):  # those are made dense
                gradient(names[i], p.grad, False)
            if state:
                check_state(names[i], own.rule, state, p)
            hows[i] = stored_as(own.rule, p, names[i], own.moments, own.weights)
            by_rows = settings.sparse == "lazy" and p.grad is not None and p.grad.layout != torch.strided
            if by_rows and not _plain(hows[i]):
                raise UnsupportedError(
                    f"parameter {names[i]} has a sparse gradient and moments in {own.moments}; sparse='lazy' steps "
                    "rows whose moments are float32 or float64; put it into a group with moments='float32'"
                )
            check_optional(names[i], state, hows[i].weights, average)
            alike.setdefault((own.rule, p.dtype, hows[i].weights), []).append(i)

    now = Prepared(asked, params, plain, waiting=[i for i in range(len(params)) if i not in hows])
    now.single = [i for i in hows if params[i].numel() <= 1]
    new: list[tuple[int, dict[str, Any]]] = []
    for (rule, _, weights), members in alike.items():
        steps = torch.zeros(len(members), dtype=_step_dtype())
        carry = torch.zeros((len(members), len(rule.carries)), dtype=torch.float64)
        kept = []
        for k, i in enumerate(members):
            state = optimizer.state.get(params[i], {})
            steps[k] = taken = float(state.get("step", 0.0))
            if not (math.isfinite(taken) and taken >= 0):
                raise StateError(f"a step count of parameter {names[i]} is {taken}, not a number of at least 0")
            carried = {c.name: float(state.get(c.name, c.initial)) for c in rule.carries}
            carry[k] = torch.tensor(list(carried.values()), dtype=torch.float64)
            key = Key(seed, name_key(keys[i]), int(taken), 0, 0)
            kept.append(_kept(rule, hows[i], params[i], state, key, average))
            own_state: dict[str, Any] = {"step": steps[k], **{c.name: carry[k, n] for n, c in enumerate(rule.carries)}}
            for name, held in kept[-1].items():
                own_state |= entries(rule, name, held)
            new.append((i, own_state))
            if settings.sparse == "lazy" and params[i].ndim and _plain(hows[i]):
                now.tables[i] = Table(rule, as_array(params[i].detach()), list(kept[-1].values()))
        counts = steps.numpy()
        plan = choose().plan(
            rule,
            [plain[i] for i in members],
            [as_array(params[i].detach()) for i in members],
            [[held[slot] for held in kept] for slot in kept[0]],
            seed,
            [hows[i].formats for i in members],
            weights,
            average,
            settings.verify,
            [keys[i] for i in members],
        )
        rows = None if len(groups) == 1 else np.array([group_of[i] for i in members], np.int32)
        sums = np.zeros((len(members), COLUMNS))
        now.parts.append(Part(plan, members, rows, counts.astype(np.int64), carry.numpy(), sums))
        now.steps.append(counts)
    if len(now.parts) > 1:
        parts.check_ready(now.parts, [[None] * len(part.members) for part in now.parts])

    for i, own_state in new:
        state, rule = optimizer.state[params[i]], asked[group_of[i]].rule
        for slot in rule.slots:
            state.pop(scales_key(rule, slot.name), None)
        state.update(own_state)
    now.nonfinite = parts.when_not_finite(settings.nonfinite, hows.values())
    now.watch = Watch([group["params"] for group in groups], optimizer.state)
    return now


def _kept(
    rule: Rule, how: Storage, p: Tensor, state: Mapping[str, Any], key: Key, average: bool
) -> dict[str, np.ndarray | Blocks]:
    """What is kept beside a parameter: what its state holds, in the right format, or a fresh one."""
    param = as_array(p.detach())
    kept = storage.fresh(rule, how, param, average)
    if not state:
        return kept
    computed = formats.compute_dtype(param.dtype)
    with ieee():
        for number, (slot, name) in enumerate(zip(rule.slots, how.formats, strict=True)):
            held = stored(rule, state, slot.name)
            same = storage.name_of(held) == name
            fits = same and (isinstance(held, Blocks) or name != "float32" or held.dtype == computed)
            kept[slot.name] = held if fits else storage.convert(held, slot, name, computed, key._replace(slot=number))
    for name in OPTIONAL:
        if name in kept and name in state:
            kept[name] = as_array(state[name].detach().contiguous())
    return kept


def _plain(how: Storage) -> bool:
    return set(how.formats) == {"float32"}


def _step_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
