"""What an optimizer carries from one step to the next, free of any framework, and what does not fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from adamas.errors import ArgumentError, StateError
from adamas.formats import SCALED, Blocks, moment
from adamas.kernels.reference import ieee
from adamas.rule import Hyper, Rule
from adamas.storage import check_seed, name_of

OPTIONAL = ("average", "correction")  # slots that no rule declares
Names = Mapping[str, str] | Callable[[str], str]
_CODES = {"signed": "int8", "non-negative": "uint8"}
_MOST_STEPS = 2**63 - 2  # the next one still fits an int64


@dataclass(frozen=True, eq=False)
class State:
    """What an optimizer carries from one step to the next, by parameter name, free of any framework.

    Args:
        rule: the switches of the optimizer.
        slots: parameter name -> slot name -> what is stored: an array of float32, float64 or bfloat16, of the
            parameter's shape, or int8 blocks; and "average" and "correction" where the optimizer keeps them. Its order
            is the order of the parameters.
        steps: parameter name -> steps taken so far, 0 or more.
        hypers: the numbers, one entry per group.
        groups: parameter name -> index into `hypers`. Default: every parameter in group 0.
        carries: parameter name -> the numbers of `rule.carries`. Default: their values before the first step.
        seed: of stochastic rounding, which an optimizer that loads this takes over; None: it keeps its own.
        rounding_names: parameter name -> the name that its random numbers are drawn by (docs/formats.md), which an
            optimizer that loads this takes over. Default, an empty mapping: it keeps its own.

    Raises:
        StateError: the parts do not agree with each other.
    """

    rule: Rule
    slots: Mapping[str, Mapping[str, np.ndarray | Blocks]]
    steps: Mapping[str, int]
    hypers: Sequence[Hyper]
    groups: Mapping[str, int] = field(default_factory=dict)
    carries: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seed: int | None = None
    rounding_names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.carries:
            initial = tuple(carry.initial for carry in self.rule.carries)
            object.__setattr__(self, "carries", dict.fromkeys(self.slots, initial))
        if not self.groups:
            object.__setattr__(self, "groups", dict.fromkeys(self.slots, 0))
        problems = self._problems()
        if problems:
            raise StateError("not an optimizer state: " + "; ".join(problems))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the optimizer's order."""
        return tuple(self.slots)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape."""
        return {name: _shape(slots[self.rule.slots[0].name]) for name, slots in self.slots.items()}

    @property
    def dtypes(self) -> dict[str, str]:
        """Parameter name -> dtype that its step computes in, "float32" or "float64"."""
        first = self.rule.slots[0].name
        return {
            name: "float64" if getattr(slots[first], "dtype", None) == np.float64 else "float32"
            for name, slots in self.slots.items()
        }

    def numbers(self, name: str, slot: str) -> np.ndarray:
        """A slot of a parameter as an array of float32 or float64: what the next step would compute with.

        Example:
            >>> import numpy as np
            >>> from adamas.numpy import Adam
            >>> optimizer = Adam({"w": np.zeros(5000, np.float32)}, moments="int8")
            >>> _ = optimizer.step({"w": np.ones(5000, np.float32)})
            >>> optimizer.portable_state().numbers("w", "v").dtype
            dtype('float32')
        """
        stored, kinds = self.slots[name][slot], {own.name: own.kind for own in self.rule.slots}
        if slot not in kinds:
            return np.array(stored)
        with ieee():
            return np.array(moment(name_of(stored), kinds[slot]).decode(stored))

    def renamed(self, names: Names) -> State:
        """The same state for an optimizer that calls its parameters otherwise; the arrays are shared, not copied.

        Their random numbers stay those of the old names, so the next steps have the same bits as without the move.
        Arrays are not transposed: name together what has the same shape and meaning.

        Args:
            names: {name in this state: name in the optimizer}, a name that is left out stays; or a function that
                gives the second for the first.

        Raises:
            ArgumentError: it mentions a parameter that is not in the state, or gives two the same name.

        Example:
            >>> import numpy as np
            >>> from adamas.numpy import Adam
            >>> state = Adam({"dense/kernel": np.zeros(3, np.float32)}).portable_state()
            >>> state.renamed({"dense/kernel": "0.weight"}).names
            ('0.weight',)
            >>> state.renamed(lambda name: name.replace("/", ".")).names
            ('dense.kernel',)
        """
        if callable(names):
            new = {name: names(name) for name in self.slots}
        else:
            unknown = [name for name in names if name not in self.slots]
            if unknown:
                raise ArgumentError(f"names: {unknown} are not in the state, whose parameters are {list(self.slots)}")
            new = {name: names.get(name, name) for name in self.slots}
        if not all(isinstance(name, str) for name in new.values()):
            raise ArgumentError(f"names: give strings, not {list(new.values())}")
        twice = sorted({name for name in new.values() if list(new.values()).count(name) > 1})
        if twice:
            raise ArgumentError(f"names: more than one parameter would be named {twice}")

        def moved(part: Mapping[str, Any]) -> dict[str, Any]:
            return {new[name]: value for name, value in part.items()}

        return replace(
            self,
            slots=moved(self.slots),
            steps=moved(self.steps),
            groups=moved(self.groups),
            carries=moved(self.carries),
            rounding_names=moved(self.rounding_names),
        )

    def without(self, *slots: str) -> State:
        """The same state without "average" or "correction", for an optimizer that does not keep them.

        Raises:
            ArgumentError: a slot that cannot be left out.
        """
        wrong = [slot for slot in slots if slot not in OPTIONAL]
        if wrong:
            raise ArgumentError(f"{wrong} cannot be left out of a state; {list(OPTIONAL)} can")
        kept = {n: {key: slot for key, slot in own.items() if key not in slots} for n, own in self.slots.items()}
        return replace(self, slots=kept)

    def in_step(self) -> tuple[int, tuple[float, ...]]:
        """The step and the carries of all parameters, for an optimizer that counts them once for all.

        Raises:
            StateError: they differ; names two parameters.
        """
        found = {(self.steps[name], tuple(map(float, self.carries[name]))): name for name in self.slots}
        if len(found) > 1:
            (one, first), (other, second), *_ = found.items()
            raise StateError(
                f"the state has {first!r} at step {one[0]} with the carries {one[1]} and {second!r} at step {other[0]} "
                f"with {other[1]}, and this optimizer counts once for all; nothing was loaded"
            )
        return next(iter(found), (0, tuple(carry.initial for carry in self.rule.carries)))

    def differences(self, rule: Rule, shapes: Mapping[str, Sequence[int]], dtypes: Mapping[str, str]) -> list[str]:
        """Why this state does not fit an optimizer of these parameters: one line per difference, none if it fits.

        Args:
            rule: the optimizer's. Its `decay` may differ where no group of this state decays.
            shapes, dtypes: parameter name -> shape; the dtype that its step computes in, "float32" or "float64".
        """
        decays = any(hyper.weight_decay for hyper in self.hypers)
        lines = [
            f"rule.{switch}: the state has {mine!r}, the optimizer {getattr(rule, switch)!r}"
            for switch, mine in asdict(self.rule).items()
            if mine != getattr(rule, switch) and (decays or switch != "decay")
        ]
        here, there = self.shapes, self.dtypes
        for name in shapes:
            if name not in here:
                lines.append(f"{name}: not in the state")
            elif here[name] != tuple(shapes[name]):
                lines.append(f"{name}: the state has shape {here[name]}, the optimizer {tuple(shapes[name])}")
            elif there[name] != dtypes[name]:
                lines.append(f"{name}: the state has dtype {there[name]}, the optimizer {dtypes[name]}")
        lines += [f"{name}: not in the optimizer" for name in here if name not in shapes]
        return lines

    def check_fits(self, rule: Rule, shapes: Mapping[str, Sequence[int]], dtypes: Mapping[str, str]) -> None:
        """Nothing if this state fits an optimizer of these parameters; arguments as for `differences`.

        Raises:
            StateError: it does not; lists the differences.
        """
        lines = self.differences(rule, shapes, dtypes)
        if lines:
            shown = lines if len(lines) <= 10 else [*lines[:10], f"and {len(lines) - 10} more"]
            missing = any(line.endswith(("not in the state", "not in the optimizer")) for line in lines)
            raise StateError(
                "the state belongs to another optimizer or model; nothing was loaded:\n  "
                + "\n  ".join(shown)
                + "\nMake the optimizer with the same settings and parameter names as the one that was saved"
                + (", or say which name is which: state.renamed({name in the state: name here})." if missing else ".")
            )

    def _problems(self) -> list[str]:
        found = []
        wanted = [slot.name for slot in self.rule.slots]
        if not self.hypers or not all(isinstance(hyper, Hyper) for hyper in self.hypers):
            found.append("hypers must be one or more adamas.Hyper")
        for what in ("steps", "groups", "carries", *(["rounding_names"] if self.rounding_names else [])):
            if set(getattr(self, what)) != set(self.slots):
                found.append(f"{what} must name the same parameters as slots")
        if not all(isinstance(name, str) for name in self.rounding_names.values()):
            found.append("rounding_names must be strings")
        if self.seed is not None:
            try:
                check_seed(self.seed)
            except ArgumentError as error:
                found.append(str(error))
        for name, slots in self.slots.items():
            if set(slots) - set(OPTIONAL) != set(wanted):
                found.append(f"{name}: its slots are {list(slots)}, the rule keeps {wanted}")
                continue
            step, group = self.steps.get(name, 0), self.groups.get(name, 0)
            if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= _MOST_STEPS:
                found.append(f"{name}: step {step!r} is not an integer from 0 to 2^63 - 2")
            if not isinstance(group, int) or not 0 <= group < max(len(self.hypers), 1):
                found.append(f"{name}: group {group!r} is not an index into hypers")
            if not _numbers(self.carries.get(name, ()), len(self.rule.carries)):
                found.append(
                    f"{name}: its carries must be {len(self.rule.carries)} numbers, one for each of the rule's"
                )
            found += [f"{name}: {problem}" for problem in self._misfits(slots)]
        return found

    def _misfits(self, slots: Mapping[str, np.ndarray | Blocks]) -> list[str]:
        """What is wrong with the arrays of one parameter."""
        found = []
        kinds = {slot.name: slot.kind for slot in self.rule.slots} | {"average": "weight", "correction": "correction"}
        for key, stored in slots.items():
            if problem := _misfit(kinds[key], stored):
                found.append(f"slot {key} {problem}")
        if not found:
            if len({_shape(stored) for stored in slots.values()}) > 1:
                found.append("its slots differ in shape")
            if len({_wide(stored) for key, stored in slots.items() if key != "correction"}) > 1:
                found.append("its slots differ in dtype: float64, and others")
        return found


def _misfit(kind: str, stored: np.ndarray | Blocks) -> str | None:
    """Why this cannot be a slot of this kind, or None."""
    if isinstance(stored, Blocks) and kind in _CODES and all(isinstance(part, np.ndarray) for part in stored):
        codes, scales = stored
        if codes.dtype.name != _CODES[kind]:
            return f"holds codes of {codes.dtype.name}, and is {kind}: {_CODES[kind]} is needed"
        if scales.dtype.name != "float32" or scales.shape != (-(-codes.size // SCALED),):
            return f"must have one float32 scale for each {SCALED} of its {codes.size} codes"
        return None
    allowed = ("int8",) if kind == "correction" else ("float32", "float64", *(("bfloat16",) if kind in _CODES else ()))
    if not isinstance(stored, np.ndarray):
        return f"must be an array{' or int8 blocks' if kind in _CODES else ''}, not a {type(stored).__name__}"
    if stored.dtype.name not in allowed:
        return f"must be one of {', '.join(allowed)}, not {stored.dtype.name}"
    return None


def _numbers(given: object, count: int) -> bool:
    return (
        isinstance(given, Sequence)
        and len(given) == count
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    )


def _shape(stored: np.ndarray | Blocks) -> tuple[int, ...]:
    return stored.codes.shape if isinstance(stored, Blocks) else stored.shape


def _wide(stored: np.ndarray | Blocks) -> bool:
    return isinstance(stored, np.ndarray) and stored.dtype == np.float64
