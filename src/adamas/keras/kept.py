"""What an optimizer keeps of the variables that it steps, as Keras variables of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import keras
import numpy as np

from adamas import formats, storage
from adamas.errors import ArgumentError, UnsupportedError
from adamas.formats import SCALED, Blocks, Key, compute_dtype, name_key
from adamas.kernels.reference import ieee
from adamas.rule import Rule
from adamas.storage import Storage

Stored: TypeAlias = np.ndarray | Blocks
DTYPES = ("float32", "float64", "bfloat16", "float16")


def array(variable: Any) -> np.ndarray:
    """A copy of the numbers of a variable or tensor; bfloat16 is that of ml_dtypes."""
    value = variable.value if isinstance(variable, keras.Variable) else variable  # a Variable makes NumPy 2 warn
    found: np.ndarray = np.array(keras.ops.convert_to_numpy(value))
    return found


@dataclass(frozen=True)
class Kept:
    """One slot of one variable, or the correction of a split weight.

    slot    its number in the rule; of a correction the number behind the last
    i       which of the variables that are stepped
    values  the variable that holds it
    scales  of int8, else None
    """

    slot: int
    i: int
    values: Any
    scales: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def stored(self) -> Stored:
        """A copy, as it is stored."""
        values = array(self.values)
        return values if self.scales is None else Blocks(values, array(self.scales))

    def put(self, stored: Stored) -> None:
        """Replace it by something in the same format."""
        self.values.assign(formats.arrays(stored)[0])
        if isinstance(stored, Blocks):
            self.scales.assign(stored.scales)


@dataclass(frozen=True)
class Memory:
    """Everything that is kept.

    rule       says which slots there are
    variables  those that are stepped
    hows       how each one's slots are stored
    names      of each, as random numbers are keyed by it
    seed       of these random numbers
    kept       in the order of Keras' files
    """

    rule: Rule
    variables: Sequence[Any]
    hows: Sequence[Storage]
    names: Sequence[str]
    seed: int
    kept: Sequence[Kept]
    carries: Sequence[Any]
    _of: dict[tuple[int, int], Kept] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._of.update({(kept.slot, kept.i): kept for kept in self.kept})

    @property
    def rounds(self) -> bool:
        """Whether anything is rounded with random numbers."""
        return any(how.weights != "nearest" or set(how.formats) != {"float32"} for how in self.hows)

    def of(self, i: int) -> list[Kept]:
        """What is kept of variable i, in the order of the slots."""
        last = len(self.rule.slots) + (self.hows[i].weights == "split")
        return [self._of[slot, i] for slot in range(last)]

    def begin(self, iterations: Any) -> None:
        """Before the first step, slots that start as the variable do: since `make`, weights may have been loaded."""
        for one in self.kept:
            if one.slot < len(self.rule.slots) and self.rule.slots[one.slot].initial == "parameter":
                weight = keras.ops.cast(self.variables[one.i].value, one.values.dtype)
                one.values.assign(keras.ops.where(iterations == 0, weight, one.values.value))

    def moments(self, i: int) -> dict[str, Stored]:
        """Copies of what is kept of variable i as it is stored, by the name of the slot."""
        names = [*(slot.name for slot in self.rule.slots), "correction"]
        return {names[kept.slot]: kept.stored() for kept in self.of(i)}

    def wide(self, kept: Kept) -> np.ndarray:
        """A slot's numbers in the dtype of computation."""
        slot = self.rule.slots[kept.slot]
        numbers: np.ndarray = formats.moment(self.hows[kept.i].formats[kept.slot], slot.kind).decode(kept.stored())
        return numbers.astype(compute_dtype(np.dtype(self.variables[kept.i].dtype)))

    def converted(self, kept: Kept, given: Stored, step: int) -> Stored:
        """Something stored in any format, in that of a slot."""
        if kept.slot == len(self.rule.slots):
            return given
        slot, name = self.rule.slots[kept.slot], self.hows[kept.i].formats[kept.slot]
        computed = compute_dtype(np.dtype(self.variables[kept.i].dtype))
        key = Key(self.seed, name_key(self.names[kept.i]), step, kept.slot, 0)
        with ieee():
            return storage.convert(given, slot, name, computed, key)


def choose(rule: Rule, variables: Sequence[Any], moments: str, weights: str) -> list[Storage]:
    """How the slots of each variable are stored.

    Raises:
        UnsupportedError: a variable is not of floating-point numbers that are served; names it.
        ArgumentError: it cannot be stored so; names it.
    """
    found = []
    for variable in variables:
        if variable.dtype not in DTYPES:
            raise UnsupportedError(
                f"variable {variable.path!r} is {variable.dtype}; adamas.keras steps variables of {', '.join(DTYPES)}"
            )
        size = int(np.prod(variable.shape, dtype=np.int64))
        try:
            found.append(storage.choose(rule, np.dtype(variable.dtype), size, moments, weights))
        except ArgumentError as error:
            raise ArgumentError(f"variable {variable.path!r}: {error}") from None
    storage.check_weights((np.dtype(variable.dtype), weights) for variable in variables if weights != "nearest")
    return found


def make(
    rule: Rule,
    variables: Sequence[Any],
    hows: Sequence[Storage],
    slot_names: Mapping[str, str],
    add: Callable[..., Any],
) -> list[Kept]:
    """Make the variables, all 0 or as their slot begins: m and v by turns, then every vmax, then the corrections.

    Args:
        slot_names: what Keras calls the slots.
        add: makes a variable, like one of the model's: of (variable, name, dtype).
    """
    slots, count = rule.slots, range(len(variables))
    places = [(s, i) for i in count for s in (0, 1)] + [(s, i) for s in range(2, len(slots)) for i in count]
    found = []
    for s, i in places:
        name, computed = hows[i].formats[s], compute_dtype(np.dtype(variables[i].dtype)).name
        label = slot_names[slots[s].name]
        codes = "int8" if slots[s].kind == "signed" else "uint8"
        dtype = {"float32": computed, "bfloat16": "bfloat16", "int8": codes}[name]
        values = add(variables[i], label, dtype)
        if slots[s].initial == "parameter":
            values.assign(array(variables[i]))
        found.append(Kept(s, i, values))
    found += [Kept(len(slots), i, add(variables[i], "correction", "int8")) for i in count if hows[i].weights == "split"]
    return found


def with_scales(
    rule: Rule, kept: Sequence[Kept], hows: Sequence[Storage], add: Callable[[str, int], Any]
) -> list[Kept]:
    """The same with scales where slots are stored in int8."""
    found = []
    for one in kept:
        scales = None
        if one.slot < len(rule.slots) and hows[one.i].formats[one.slot] == "int8":
            scales = add(f"{one.values.name}_scales", -(-int(np.prod(one.shape)) // SCALED))
        found.append(Kept(one.slot, one.i, one.values, scales))
    return found
