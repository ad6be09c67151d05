"""One step over the parameters of a `torch.optim` optimizer, over torch's own state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamas import formats, parts, storage
from adamas.errors import ArgumentError, ArrayError, FaultError, StateError
from adamas.formats import Blocks, Key, name_key
from adamas.kernels import choose
from adamas.kernels.reference import ieee
from adamas.parts import Part
from adamas.rule import Hyper, Rule
from adamas.storage import Description, Storage
from adamas.telemetry import COLUMNS, Statistics, of_step
from adamas.torch.checks import Settings, check_correction, check_parameter, check_state, keys_of, names_of, read_group
from adamas.torch.memory import as_array, entries, gradient, scales_key, stored

Asked = tuple[Rule, str, str]  # of a group: its rule, moments and weights


@dataclass
class Prepared:
    """Everything that stays as it is from one step to the next, until something was replaced."""

    params: list[Tensor] = field(default_factory=list)
    stepped: list[bool] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)  # of every parameter that has one, in torch's order
    watched: list[Any] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)  # among the watched
    pointers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)  # of each part: shares memory with state[p]["step"]
    nonfinite: str = "propagate"


class Stepper:
    """Steps the parameters of a `torch.optim.Adam` or one of its family natively, over torch's own state.

    It remembers where all buffers are from one step to the next, and looks again when one was replaced.

    Args:
        settings: what torch has no arguments for. None: only what torch's own step computes too, to rounding; so no
            parameters of 16 bits, whose moments torch keeps in 16 bits.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings, self._low = settings or Settings(), settings is not None
        self._prepared = Prepared()
        self._table: tuple[list[Hyper], np.ndarray] = ([], np.zeros((0, 0)))
        self._took_part: list[bool] | None = None
        self.skipped = 0

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of every parameter that has a gradient.

        Raises:
            UnsupportedError, ArrayError, ArgumentError, StateError, NonFiniteError: see `Adam.step`. Nothing has been
                changed.
        """
        groups = optimizer.param_groups
        read = [read_group(group, optimizer) for group in groups]
        asked = [(rule, *self._stored(group)) for (rule, _), group in zip(read, groups, strict=True)]
        params: list[Tensor] = [p for group in groups for p in group["params"]]
        grads = [p.grad for p in params]
        table = self._tabulate([hyper for _, hyper in read])
        if not self._still_fits(optimizer, asked, params, grads):
            self._prepare(optimizer, asked, params, grads)
        if not self._prepared.parts:
            return
        arrays = self._arrays(grads, groups)
        stepped = [p for p, g in zip(params, grads, strict=True) if g is not None]
        try:
            taken = self._run_contiguous(arrays, table)
        except FaultError:
            torch.autograd.graph.increment_version(stepped)
            raise
        if taken:  # what autograd has saved of a parameter is out of date, as after any operation in place
            torch.autograd.graph.increment_version(stepped)

    def stats(self) -> Statistics:
        """What the last step did.

        Raises:
            ArgumentError: there is none, or it was not told to collect statistics.
        """
        if not self._settings.stats:
            raise ArgumentError("the optimizer collects no statistics; make it with stats=True")
        if self._took_part is None:
            raise ArgumentError("there is no step yet to have statistics of; call step first")
        now = self._prepared
        taken = [
            (now.names[i], now.params[i].numel(), sums)
            for part in now.parts
            for i, sums in zip(part.members, part.sums.tolist(), strict=True)
            if self._took_part[i]
        ]
        steps = max(int(part.taken.max()) for part in now.parts)
        return of_step(steps, self.skipped, taken, 1.0)

    def describe(self, optimizer: torch.optim.Optimizer) -> Description:
        """How the state of each parameter is stored, once it has taken a step."""
        groups = optimizer.param_groups
        found, names = [], iter(keys_of(groups))
        for k, group in enumerate(groups):
            rule, _ = read_group(group, optimizer)
            for p in group["params"]:
                name, dtype = next(names), as_array(p.detach()).dtype
                how = self._how(rule, group, name, p)
                found.append(storage.described(rule, how, name, tuple(p.shape), dtype, f"group {k}"))
        return Description(found)

    def check_stored(self, group: dict[str, Any], names: Sequence[str], optimizer: object) -> None:
        """Nothing if the parameters of a group, of these names, can be stored as it asks for.

        Raises:
            ArgumentError: they cannot; names the first.
        """
        rule, _ = read_group(group, optimizer)
        for name, p in zip(names, group["params"], strict=True):
            self._how(rule, group, name, p)

    def _run_contiguous(self, arrays: parts.Gradients, table: np.ndarray) -> bool:
        try:
            return self._run(arrays, table)
        except ArrayError:  # nothing was written: a gradient is not contiguous, or shares memory with a parameter
            return self._run([g if g is None else np.array(g, order="C") for g in arrays], table)

    def _run(self, arrays: parts.Gradients, table: np.ndarray) -> bool:
        """The step; False where it was skipped."""
        now = self._prepared
        check = now.nonfinite != "propagate"
        for part, steps in zip(now.parts, now.steps, strict=True):
            part.taken[:] = steps
        try:
            norm = parts.step(now.parts, arrays, table, check=check, statistics=self._settings.stats)
        except FaultError:  # the step has been taken
            self._took_part = [g is not None for g in arrays]
            raise
        finally:  # Ctrl-C finds moments and steps that belong together
            for part, steps in zip(now.parts, now.steps, strict=True):
                steps[:] = part.taken
        if norm is not None and not parts.can_square(now.parts, norm):
            if now.nonfinite == "raise":
                raise parts.not_finite(now.parts, now.names, arrays)
            self.skipped += 1
            return False
        if self._settings.stats:
            self._took_part = [g is not None for g in arrays]
        return True

    def _stored(self, group: dict[str, Any]) -> tuple[str, str]:
        return group.get("moments", self._settings.moments), group.get("weights", self._settings.weights)

    def _how(self, rule: Rule, group: dict[str, Any], name: str, p: Tensor) -> Storage:
        try:
            return storage.choose(rule, as_array(p.detach()).dtype, p.numel(), *self._stored(group))
        except ArgumentError as error:
            raise ArgumentError(f"parameter {name}: {error}") from None

    def _tabulate(self, hypers: list[Hyper]) -> np.ndarray:
        if hypers != self._table[0]:
            self._table = (hypers, np.array([astuple(hyper) for hyper in hypers], np.float64))
        return self._table[1]

    def _still_fits(
        self, optimizer: Any, asked: list[Asked], params: list[Tensor], grads: Sequence[Tensor | None]
    ) -> bool:
        """Whether all that was prepared is still so. It runs at each step: no Python code a tensor but lookups."""
        now = self._prepared
        if asked != now.asked or not _same(list(optimizer.state.values()), now.states):
            return False
        if not _same([*params, *_entries(now.states)], now.watched):
            return False
        if not all(now.stepped) and any(
            g is not None for g, known in zip(grads, now.stepped, strict=True) if not known
        ):
            return False
        return list(map(Tensor.data_ptr, now.tensors)) == now.pointers

    def _prepare(
        self, optimizer: Any, asked: list[Asked], params: list[Tensor], grads: Sequence[Tensor | None]
    ) -> None:
        """Make what is missing of the state, and a plan for each rule and dtype; everything is checked first."""
        groups = optimizer.param_groups
        names, keys = names_of(groups), keys_of(groups)
        group_of = [k for k, group in enumerate(groups) for _ in group["params"]]
        storage.check_weights(
            (as_array(p.detach()).dtype, asked[of][2])
            for of, p in zip(group_of, params, strict=True)
            if asked[of][2] != "nearest"
        )
        alike: dict[tuple[Any, ...], list[int]] = {}
        hows: dict[int, Storage] = {}
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            state, rule = optimizer.state.get(p, {}), asked[group_of[i]][0]
            if state or g is not None:
                check_parameter(names[i], p, self._low)
                gradient(names[i], g)
                if state:
                    check_state(names[i], rule, state, p)
                hows[i] = self._how(rule, groups[group_of[i]], names[i], p)
                check_correction(names[i], state, hows[i].weights)
                alike.setdefault((rule, p.dtype, hows[i].weights), []).append(i)

        now = Prepared(params, [i in hows for i in range(len(params))], asked, names=keys)
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
                key = Key(self._settings.seed, name_key(keys[i]), int(taken), 0, 0)
                kept.append(_kept(rule, hows[i], params[i], state, key))
                slots: dict[str, Tensor] = {}
                for name, held in kept[-1].items():
                    slots |= entries(rule, name, held)
                carries = {c.name: carry[k, n] for n, c in enumerate(rule.carries)}
                new.append((i, {"step": steps[k], **carries, **slots}))
            counts = steps.numpy()
            plan = choose().plan(
                rule,
                [keys[i] for i in members],
                [as_array(params[i].detach()) for i in members],
                [[held[slot] for held in kept] for slot in kept[0]],
                self._settings.seed,
                [hows[i].formats for i in members],
                weights,
                False,
                self._settings.verify,
            )
            rows = None if len(groups) == 1 else np.array([group_of[i] for i in members], np.int32)
            sums = np.zeros((len(members), COLUMNS))
            now.parts.append(Part(plan, members, rows, counts.astype(np.int64), carry.numpy(), sums))
            now.steps.append(counts)
        if len(now.parts) > 1:
            parts.check_ready(now.parts, [[None] * len(part.members) for part in now.parts])

        for i, own in new:
            state = optimizer.state[params[i]]
            for slot in asked[group_of[i]][0].slots:
                state.pop(scales_key(asked[group_of[i]][0], slot.name), None)
            state.update(own)
        now.nonfinite = parts.when_not_finite(self._settings.nonfinite, hows.values())
        now.states = list(optimizer.state.values())
        now.watched = [*params, *_entries(now.states)]
        now.tensors = [value for value in now.watched if isinstance(value, Tensor)]
        now.pointers = list(map(Tensor.data_ptr, now.tensors))
        self._prepared = now

    def _arrays(self, grads: list[Tensor | None], groups: Sequence[dict[str, Any]]) -> parts.Gradients:
        """The gradients as NumPy arrays over the same memory."""
        try:
            return [g if g is None else as_array(g) for g in grads]
        except (TypeError, RuntimeError):
            return [gradient(name, g) for name, g in zip(names_of(groups), grads, strict=True)]


def _kept(rule: Rule, how: Storage, p: Tensor, state: dict[str, Any], key: Key) -> dict[str, np.ndarray | Blocks]:
    """What is kept beside a parameter: what its state holds, in the right format, or a fresh one."""
    param = as_array(p.detach())
    kept = storage.fresh(rule, how, param) if not state or "correction" not in state else {}
    if not state:
        return kept
    computed = formats.compute_dtype(param.dtype)
    with ieee():
        for number, (slot, name) in enumerate(zip(rule.slots, how.formats, strict=True)):
            held = stored(rule, state, slot.name)
            same = storage.name_of(held) == name
            fits = same and (isinstance(held, Blocks) or name != "float32" or held.dtype == computed)
            kept[slot.name] = held if fits else storage.convert(held, slot, name, computed, key._replace(slot=number))
    if how.weights == "split" and "correction" in state:
        kept["correction"] = as_array(state["correction"].contiguous())
    return kept


def _entries(states: list[dict[str, Any]]) -> list[Any]:
    return [value for state in states if type(state) is dict for value in state.values()]


def _step_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _same(these: Sequence[Any], those: Sequence[Any]) -> bool:
    return len(these) == len(those) and all(map(is_, these, those))
