"""What every optimizer for NumPy arrays is, whatever its rule: groups, the step, the state."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

import numpy as np

from adamas import formats, parts, storage
from adamas.errors import ArgumentError, FaultError, StateError, UnsupportedError
from adamas.formats import Key, Weights, name_key
from adamas.groups import Group, LiveGroup, Numbers
from adamas.kernels import choose
from adamas.kernels.reference import ieee
from adamas.numpy.parameters import Arrays, Gradients, Parameters
from adamas.parts import Nonfinite, Part
from adamas.rule import Hyper, Rule
from adamas.state import State
from adamas.storage import Description, Moments, Storage
from adamas.telemetry import COLUMNS, Statistics, of_step


class Common(TypedDict, total=False):
    """The keyword arguments that every optimizer takes; `Adam` documents them."""

    groups: Sequence[Group]
    no_decay: bool
    moments: Moments
    weights: Weights
    seed: int
    nonfinite: Nonfinite | None
    stats: bool
    ema: float | None
    verify: int


class Optimizer:
    """What `Adam` and its family share; each member makes a rule and numbers of arguments of its own.

    Args:
        params: see `Adam`.
        rule: the switches.
        hyper: the numbers, of the tensors that no group gives others.
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: see `Adam`.
    """

    def __init__(
        self,
        params: Arrays,
        rule: Rule,
        hyper: Hyper,
        *,
        groups: Sequence[Group] = (),
        no_decay: bool = False,
        moments: Moments = "float32",
        weights: Weights = "nearest",
        seed: int = 0,
        nonfinite: Nonfinite | None = None,
        stats: bool = False,
        ema: float | None = None,
        verify: int = 0,
    ) -> None:
        parts.check_settings(seed, nonfinite, stats, verify, ema)
        self._rule, self._seed, self._skipped = rule, int(seed), 0
        self._stats, self._ema, self._verify = bool(stats), None if ema is None else float(ema), int(verify)
        self._parameters = Parameters(params)
        self._names, self._params = self._parameters.names, self._parameters.arrays
        self._rounding_names = list(self._names)
        self._numbers = Numbers(self._names, [param.shape for param in self._params], hyper, groups, no_decay)
        self._storage = self._stored_how(moments, weights)
        self._kept = [
            storage.fresh(rule, how, param, ema is not None)
            for how, param in zip(self._storage, self._params, strict=True)
        ]
        self._nonfinite = parts.when_not_finite(nonfinite, self._storage)
        self._lock = threading.RLock()  # re-entrant: a signal handler may save the state of a step it interrupts
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i, (how, param) in enumerate(zip(self._storage, self._params, strict=True)):
            alike.setdefault((param.dtype, how.weights), []).append(i)
        self._parts = [self._part(members, self._seed, self._rounding_names) for members in alike.values()]
        self._last: tuple[list[bool], float] | None = None  # who took part in the last step; its grad_scale
        if len(self._parts) > 1:
            parts.check_ready(self._parts, [[None] * len(part.members) for part in self._parts])

    @property
    def lr(self) -> float:
        """The learning rate of the next step; setting it leaves alone the groups that were given one of their own."""
        return self.hyper.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._numbers.set_lr(value)

    @property
    def groups(self) -> tuple[LiveGroup, ...]:
        """The groups, with settable `lr`; the first one is of the tensors that no other matches."""
        return self._numbers.groups()

    @property
    def rule(self) -> Rule:
        """The switches of this optimizer."""
        return self._rule

    @property
    def hyper(self) -> Hyper:
        """The numbers of the next step, for the tensors that are in no group."""
        return self._numbers.hypers[0]

    @property
    def skipped(self) -> int:
        """How many steps were skipped because a gradient was not finite."""
        return self._skipped

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; with how many threads now."""
        return str(choose())

    def __repr__(self) -> str:
        size = sum(param.size for param in self._params)
        return f"{type(self).__name__}({len(self._names)} tensors of {size} elements, {self._rule}, {self.hyper})"

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            f"an {type(self).__name__} changes arrays that it does not own, so it cannot be copied or pickled; keep "
            "state_dict() and load it into an optimizer made over the other arrays"
        )

    def step(self, grads: Gradients, *, max_norm: float | None = None, grad_scale: float = 1.0) -> float | None:
        """Update every parameter that has a gradient, in place.

        Args:
            grads: one array per parameter, of its shape and dtype: in the order of a list of parameters, by name for a
                dict. A parameter whose gradient is None (or absent from a dict) keeps its value, its moments and its
                step count. Gradients are only read; they may share memory with each other, not with parameters.
            max_norm: clip the gradients' global norm n to this, above 0, as `torch.nn.utils.clip_grad_norm_` does:
                where max_norm / (n + 1e-6) is below 1, every gradient counts as multiplied by it.
            grad_scale: every gradient counts as multiplied by this first, a finite number above 0: 1 / loss_scale
                where the loss was scaled.

        Returns:
            n, of the scaled gradients, where `max_norm` is given or the optimizer looks for gradients that are not
            finite; else None. Where the step was skipped, it is not finite, or 2^64 or more (`nonfinite`).

        Raises:
            ArrayError: a gradient does not fit, or a parameter was replaced by another array; names the tensor.
            ArgumentError: `grads` is not what `params` was, names an unknown parameter, or a number is out of range.
            NonFiniteError: a gradient is not finite, with nonfinite="raise"; names the first such tensor.
            FaultError: with `verify`: a block gave two results, so this machine is faulty. The step has been taken.

        Nothing has been changed when one of the others is raised. A Ctrl-C (KeyboardInterrupt) leaves each parameter,
        its moments and its step count as they were or as the step makes them, never between; where there is no native
        kernel (`kernel`), but for the one tensor in which it struck.
        """
        clip, grad_scale = parts.check_scaling(max_norm, grad_scale)
        check = self._nonfinite != "propagate"
        with self._lock:
            ordered = self._parameters.in_order(grads)
            try:
                norm = parts.step(
                    self._parts,
                    ordered,
                    self._numbers.table,
                    clip=clip,
                    grad_scale=grad_scale,
                    check=check,
                    average_decay=self._ema,
                    statistics=self._stats,
                )
            except FaultError:  # the step has been taken
                self._remember(ordered, grad_scale)
                raise
            if check and norm is not None and not parts.can_square(self._parts, norm):
                if self._nonfinite == "raise":
                    raise parts.not_finite(self._parts, self._names, ordered, grad_scale)
                self._skipped += 1
            else:
                self._remember(ordered, grad_scale)
            return norm

    def _remember(self, grads: list[np.ndarray | None], grad_scale: float) -> None:
        if self._stats:
            self._last = [grad is not None for grad in grads], grad_scale

    def stats(self) -> Statistics:
        """What the last step did, for each tensor and in total: norms, their ratio, how much epsilon decides.

        Raises:
            ArgumentError: the optimizer was made without stats=True, or has taken no step.
        """
        if not self._stats:
            raise ArgumentError("the optimizer collects no statistics; make it with stats=True")
        if self._last is None:
            raise ArgumentError("there is no step yet to have statistics of; call step first")
        with self._lock:
            taking_part, grad_scale = self._last
            sums = np.zeros((len(self._names), COLUMNS))
            for part in self._parts:
                sums[part.members] = part.sums
            taken = [
                (name, param.size, own)
                for name, param, own, took in zip(self._names, self._params, sums.tolist(), taking_part, strict=True)
                if took
            ]
            steps = max(int(part.taken.max()) for part in self._parts)
            return of_step(steps, self._skipped, taken, grad_scale)

    def average(self, name: str) -> np.ndarray:
        """A copy of the average of a parameter's values after each of its steps, in float32 (float64 for float64).

            average <- average + (1 - ema) (p - average)            starting at p

        A parameter of a list is named by its place, "0", "1", ...

        Raises:
            ArgumentError: the optimizer keeps no averages, or there is no such parameter.
        """
        if self._ema is None:
            raise ArgumentError("the optimizer keeps no averages; make it with ema=0.999 or so")
        if name not in self._names:
            raise ArgumentError(f"no parameter is named {name!r}; they are {self._names}")
        with self._lock:
            return np.array(self._kept[self._names.index(name)]["average"])

    def describe(self) -> Description:
        """How each tensor is stored, its group and its bytes of state; `print` it."""
        groups = [group.name for group in self._numbers.groups()]
        tensors = [
            storage.described(self._rule, how, name, param.shape, param.dtype, groups[of], self._ema is not None)
            for name, param, how, of in zip(
                self._names, self._params, self._storage, self._numbers.group_of, strict=True
            )
        ]
        return Description(tensors)

    def state_dict(self) -> dict[str, Any]:
        """Everything a later run needs to go on exactly: plain dicts, numbers, and arrays that are copies.

        Returns:
            {"rule": {...}, "hypers": [{...}, ...], "seed": int, "state": {name: {"step": int, "group": int,
            "rounding_name": str, "m": array, ...}}}; a list's parameters are named "0", "1", ... "group" is an index
            into "hypers"; "carry" is there where the rule carries numbers. The second moments of amsgrad are in "vmax".
            What is stored in int8 is `adamas.formats.Blocks`.
        """
        state = self.portable_state()
        return {
            "rule": asdict(state.rule),
            "hypers": [asdict(hyper) for hyper in state.hypers],
            "seed": state.seed,
            "state": {
                name: {
                    "step": state.steps[name],
                    "group": state.groups[name],
                    "rounding_name": state.rounding_names[name],
                    **({"carry": state.carries[name]} if state.rule.carries else {}),
                    **slots,
                }
                for name, slots in state.slots.items()
            },
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave: moments, step counts, numbers (lr, betas, ...) and the seed.

        Moments in another format than this optimizer's are decoded, and stored in this one's.

        Raises:
            StateError: it belongs to other parameters or another formula, or is damaged; lists the differences. Nothing
                has been changed.
        """
        try:
            given, keys = dict(state_dict), {"rule", "hypers", "seed", "state"}
            if set(given) != keys:
                raise StateError(f"a state_dict has the keys {sorted(keys)}, this one {sorted(map(str, given))}")
            entries, beside = given["state"], ("step", "group", "carry", "rounding_name")
            state = State(
                rule=Rule(**given["rule"]),
                slots={
                    name: {key: slot for key, slot in entry.items() if key not in beside}
                    for name, entry in entries.items()
                },
                steps={name: entry["step"] for name, entry in entries.items()},
                hypers=[Hyper(**hyper) for hyper in given["hypers"]],
                groups={name: entry["group"] for name, entry in entries.items()},
                carries={name: entry["carry"] for name, entry in entries.items() if "carry" in entry},
                seed=given["seed"],
                rounding_names={name: entry["rounding_name"] for name, entry in entries.items()},
            )
        except StateError:
            raise
        except (ArgumentError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a state_dict of {type(self).__name__} ({error!r}); nothing was loaded") from error
        self.load_portable_state(state)

    def portable_state(self) -> State:
        """A copy of everything carried from step to step, for `adamas.state.save`."""
        with self._lock:
            carried = [
                (self._names[i], taken, tuple(carry))
                for part in self._parts
                for i, taken, carry in zip(part.members, part.taken.tolist(), part.carry.tolist(), strict=True)
            ]
            return State(
                rule=self._rule,
                slots={
                    name: {slot: storage.copied(stored) for slot, stored in kept.items()}
                    for name, kept in zip(self._names, self._kept, strict=True)
                },
                steps={name: taken for name, taken, _ in carried},
                hypers=self._numbers.hypers,
                groups=dict(zip(self._names, self._numbers.row_of.tolist(), strict=True)),
                carries={name: carry for name, _, carry in carried},
                seed=self._seed,
                rounding_names=dict(zip(self._names, self._rounding_names, strict=True)),
            )

    def load_portable_state(self, state: State) -> None:
        """Take over a `State`, as `adamas.state.load` gives it: moments, step counts, numbers (lr, betas, ...), seed.

        Moments in another format than this optimizer's are decoded, and stored in this one's.

        Raises:
            StateError: it does not fit these parameters, this formula or these groups; lists the differences. Nothing
                has been changed.
        """
        state.check_fits(
            self._rule,
            {name: param.shape for name, param in zip(self._names, self._params, strict=True)},
            {name: formats.compute_dtype(p.dtype).name for name, p in zip(self._names, self._params, strict=True)},
        )
        hypers = self._numbers.fit(state.hypers, state.groups)
        for name, kept in zip(self._names, self._kept, strict=True):
            storage.check_optional(name, kept, state.slots[name])
        seed = self._seed if state.seed is None else state.seed
        drawn_by = [
            state.rounding_names.get(name, own) for name, own in zip(self._names, self._rounding_names, strict=True)
        ]
        with self._lock, ieee():
            taken = []  # all is converted before the first is written
            for i, (name, how, param) in enumerate(zip(self._names, self._storage, self._params, strict=True)):
                key = Key(seed, name_key(drawn_by[i]), state.steps[name], 0, 0)
                taken.append(storage.fitting(self._rule, how, param, state.slots[name], key))
            loaded = self._parts
            if (seed, drawn_by) != (self._seed, self._rounding_names):
                loaded = [self._part(part.members, seed, drawn_by) for part in self._parts]
            for kept, new in zip(self._kept, taken, strict=True):
                for slot, own in kept.items():
                    formats.write(own, new[slot])
            for part in loaded:
                part.taken[:] = [state.steps[self._names[i]] for i in part.members]
                if self._rule.carries:
                    part.carry[:] = [state.carries[self._names[i]] for i in part.members]
            self._parts, self._seed, self._rounding_names, self._last = loaded, seed, drawn_by, None
            self._numbers.set(hypers)

    def _stored_how(self, moments: Moments, weights: Weights) -> list[Storage]:
        """How each tensor is stored, by what was asked for it or its group."""
        wanted = list(
            zip(self._numbers.setting("moments", moments), self._numbers.setting("weights", weights), strict=True)
        )
        storage.check_weights((param.dtype, mode) for (_, mode), param in zip(wanted, self._params, strict=True))
        found = []
        for name, param, own in zip(self._names, self._params, wanted, strict=True):
            try:
                found.append(storage.choose(self._rule, param.dtype, param.size, *own))
            except ArgumentError as error:
                raise ArgumentError(f"tensor {name!r}: {error}") from None
        return found

    def _part(self, members: list[int], seed: int, rounding_names: list[str]) -> Part:
        plan = choose().plan(
            self._rule,
            [self._names[i] for i in members],
            [self._params[i] for i in members],
            [[self._kept[i][slot] for i in members] for slot in self._kept[members[0]]],
            seed,
            [self._storage[i].formats for i in members],
            self._storage[members[0]].weights,
            self._ema is not None,
            self._verify,
            [rounding_names[i] for i in members],
        )
        rows = None if self._numbers.rows is None else self._numbers.rows[members]
        carry = np.tile([carry.initial for carry in self._rule.carries], (len(members), 1))
        sums = np.zeros((len(members), COLUMNS))
        return Part(plan, members, rows, np.zeros(len(members), np.int64), carry, sums)
