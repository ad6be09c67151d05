"""How the state of each tensor is stored: which format, why, how many bytes, and the way from one format to another.

`adamas.formats` says what a format is. Here is who gets which, the same in every adapter, and the table that
`optimizer.describe()` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from adamas import formats
from adamas.errors import ArgumentError, StateError
from adamas.formats import Blocks, Key, compute_dtype
from adamas.rule import Rule, Slot

Moments: TypeAlias = Literal["float32", "bfloat16", "int8"]

# Tensors with fewer elements keep float32. In ResNet-50 they are 107 of 161 tensors and 0.21% of the parameters, in
# GPT-2 small 98 of 148 and 0.10%: biases and normalisations, whose few numbers cost nothing to keep and much to
# disturb. The 8-bit optimizers of bitsandbytes and torchao draw the line at the same size.
SMALLEST = 4096


class Storage(NamedTuple):
    """How a tensor is stored: one format per slot of the rule, by name, and how the tensor itself is rounded.

    why   why its slots are not in the format that was asked for; "" where they are
    """

    formats: tuple[str, ...]
    weights: str
    why: str


def choose(rule: Rule, dtype: np.dtype[Any], size: int, moments: str, weights: str = "nearest") -> Storage:
    """How one tensor is stored.

    Args:
        rule: says which slots there are.
        dtype: of the parameter: float32, float64, bfloat16 or float16.
        size: its number of elements.
        moments: what was asked for: "float32", "bfloat16" or "int8".
        weights: what was asked for: "nearest", "stochastic" or "split"; parameters of float32 and float64 are not
            rounded.

    Raises:
        ArgumentError: no such format; a format below float64 for the moments of a float64 parameter; "split" for
            float16.
    """
    kinds = [slot.kind for slot in rule.slots]
    wanted, plain = formats.of_slots(moments, kinds), formats.of_slots("float32", kinds)
    mode = "nearest" if dtype in (np.float32, np.float64) else weights
    formats.weight(mode, dtype)
    if wanted != plain and dtype == np.float64:
        raise ArgumentError(
            f"moments={moments!r} and a parameter of float64: its moments are float64 too. Convert it to "
            "float32, or put it into a group with moments='float32'"
        )
    if wanted != plain and size < SMALLEST:
        return Storage(plain, mode, f"fewer than {SMALLEST} elements")
    return Storage(wanted, mode, "")


def check_seed(seed: object) -> None:
    """Nothing if this is a seed of stochastic rounding.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ArgumentError(f"seed={seed!r}: give an integer from 0 to 2^64 - 1")


def check_weights(asked: Iterable[tuple[np.dtype[Any], str]]) -> None:
    """Nothing if every way of rounding weights that was asked for serves at least one parameter.

    Args:
        asked: of each parameter its dtype, and what was asked for it.

    Raises:
        ArgumentError: there is no such way, or no parameter that is rounded.
    """
    given = list(asked)
    rounded = [mode for dtype, mode in given if dtype not in (np.float32, np.float64)]
    for dtype, mode in given:
        if mode not in rounded:
            formats.weight(mode, dtype)


def fresh(rule: Rule, storage: Storage, param: np.ndarray, average: bool = False) -> dict[str, np.ndarray | Blocks]:
    """What is kept beside a parameter before its first step, by the name of the slot; with its average if wanted."""
    computed = compute_dtype(param.dtype)
    kept: dict[str, np.ndarray | Blocks] = {}
    for slot, name in zip(rule.slots, storage.formats, strict=True):
        if slot.initial == "parameter":
            kept[slot.name] = param.astype(computed)
        else:
            kept[slot.name] = formats.zeros(formats.moment(name, slot.kind), param.shape, computed)
    if storage.weights == "split":
        kept["correction"] = np.zeros(param.shape, np.int8)
    if average:
        kept["average"] = param.astype(computed)
    return kept


def convert(stored: np.ndarray | Blocks, slot: Slot, name: str, dtype: np.dtype[Any], key: Key) -> np.ndarray | Blocks:
    """What one slot holds, as a copy in another format; the same bits where it is in that format already.

    Args:
        stored: an array of float32, float64 or bfloat16, or int8 blocks.
        slot: which one; says its kind.
        name: the format to store it in; "float32" stands for `dtype`.
        dtype: that of computation, float32 or float64.
        key: which random numbers round it.

    Call it inside `adamas.kernels.reference.ieee()`.
    """
    before = name_of(stored)
    if before == name != "float32":
        return copied(stored)
    x = formats.moment(before, slot.kind).decode(stored)
    if name == "float32":
        return x.astype(dtype)
    encoded: np.ndarray | Blocks = formats.moment(name, slot.kind).encode(x.astype(np.float32), key)
    return encoded


def check_optional(name: str, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Nothing if a state has no more than this optimizer keeps, of what no rule declares.

    Raises:
        StateError: loading it would lose something.
    """
    for slot, remedy in (("average", "ema=..."), ("correction", 'weights="split"')):
        if slot in given and slot not in kept:
            raise StateError(
                f"{name}: the state holds its {slot}, which this optimizer does not keep; make it with {remedy}, or "
                "leave that slot out of the state if it may be lost"
            )


def fitting(
    rule: Rule, how: Storage, param: np.ndarray, given: Mapping[str, np.ndarray | Blocks], key: Key
) -> dict[str, np.ndarray | Blocks]:
    """What a state holds of one tensor, in the formats in which it is kept, by slot; what is so already is not copied.

    A correction that the state lacks is 0, and an average that it lacks starts at the parameter, as before the first
    step. Call it inside `adamas.kernels.reference.ieee()`.
    """
    found: dict[str, np.ndarray | Blocks] = {"correction": np.zeros((), np.int8), "average": param, **given}
    for number, (slot, name) in enumerate(zip(rule.slots, how.formats, strict=True)):
        if name_of(given[slot.name]) != name:
            dtype = compute_dtype(param.dtype)
            found[slot.name] = convert(given[slot.name], slot, name, dtype, key._replace(slot=number))
    return found


def copied(stored: np.ndarray | Blocks) -> np.ndarray | Blocks:
    """The same in memory of its own."""
    return Blocks(stored.codes.copy(), stored.scales.copy()) if isinstance(stored, Blocks) else stored.copy()


def name_of(stored: np.ndarray | Blocks) -> str:
    """The format that something is stored in, by name; "float32" for float64 as well."""
    if isinstance(stored, Blocks):
        return "int8"
    return "bfloat16" if stored.dtype.name == "bfloat16" else "float32"


def nbytes(name: str, size: int, dtype: np.dtype[Any]) -> int:
    """The bytes of a slot of `size` elements in the format of that name, computed in `dtype`."""
    if name == "int8":
        return size + 4 * -(-size // formats.SCALED)
    return 2 * size if name == "bfloat16" else dtype.itemsize * size


def described(
    rule: Rule,
    how: Storage,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    group: str,
    average: bool = False,
) -> Described:
    """How the state of one parameter of that dtype is stored."""
    computed, size = compute_dtype(dtype), int(np.prod(shape, dtype=np.int64))
    shown = {slot.name: form for slot, form in zip(rule.slots, how.formats, strict=True)}
    taken = {slot: nbytes(form, size, computed) for slot, form in shown.items()}
    shown = {slot: computed.name if form == "float32" else form for slot, form in shown.items()}
    plain = len(rule.slots) * size * computed.itemsize
    if how.weights == "split":
        shown["correction"], taken["correction"] = "int8", size
    if average:
        shown["average"], taken["average"] = computed.name, size * computed.itemsize
        plain += taken["average"]
    rounded = "" if how.weights == "nearest" else f" {how.weights}"
    return Described(name, shape, dtype.name + rounded, group, shown, sum(taken.values()), how.why, plain)


class Described(NamedTuple):
    """One tensor of an optimizer: how it is stored.

    formats  one entry per slot, by the slot's name
    bytes    of its state
    why      why that is not in the format that was asked for, or ""
    plain    bytes of the same state in the dtype of computation, a correction left out
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: str
    formats: dict[str, str]
    bytes: int
    why: str
    plain: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Description:
    """How the state of an optimizer is stored; `print` shows it as a table.

    Args:
        tensors: one entry per tensor.
    """

    tensors: Sequence[Described]

    @property
    def size(self) -> int:
        """Parameters, as the number of their elements."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        """Bytes of state, parameters and gradients apart."""
        return sum(tensor.bytes for tensor in self.tensors)

    def __str__(self) -> str:
        slots = list(dict.fromkeys(slot for tensor in self.tensors for slot in tensor.formats))
        rows = [["tensor", "shape", "dtype", "group", *slots, "bytes", ""]]
        for tensor in self.tensors:
            stored = [tensor.formats.get(slot, "-") for slot in slots]
            shape = " x ".join(map(str, tensor.shape)) or "number"
            rows.append([tensor.name, shape, tensor.dtype, tensor.group, *stored, f"{tensor.bytes:,}", tensor.why])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            cells[-2] = row[-2].rjust(widths[-2])
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, *self._totals()])

    def _totals(self) -> list[str]:
        each = f"{self.bytes / max(self.size, 1):.3f} a parameter"
        lines = ["", f"{len(self.tensors)} tensors, {self.size:,} parameters: {self.bytes:,} bytes of state, {each}"]
        plain = sum(tensor.plain for tensor in self.tensors)
        if self.bytes != plain:
            lines[-1] += f" ({plain / max(self.size, 1):.3f} without low precision)"
        kept = [tensor for tensor in self.tensors if tensor.why]
        if kept:
            size = sum(tensor.size for tensor in kept)
            lines.append(
                f"kept in float32: {len(kept)} of them with {size:,} parameters, {100 * size / max(self.size, 1):.2f}% "
                "of all; the last column says why"
            )
        return lines
