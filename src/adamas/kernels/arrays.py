"""Which arrays may take part in a step, and why not: the checks of every kernel for NumPy arrays.

Every function returns nothing, or raises ArrayError with the name of the tensor, what was given, what is allowed and
what to do. Nothing is written before they have passed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

from adamas import formats
from adamas.errors import ArgumentError, ArrayError
from adamas.formats import Blocks, Stored, compute_dtype
from adamas.rule import Rule

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = (np.dtype(np.float32), np.dtype(np.float64), BFLOAT16, np.dtype(np.float16))


Formats: TypeAlias = Sequence[str] | Sequence[Sequence[str]] | None


class Column(NamedTuple):
    """One slot of all tensors: its name and how it is stored. "correction" is the second half of split weights."""

    name: str
    kind: formats.Kind
    format: str


def columns(rule: Rule, names: Sequence[str] | None, weights: str, average: bool = False) -> list[Column]:
    """The slots of a tensor, in order: the rule's, in the formats of these names; the correction of split weights; the
    average of the weights.

    Raises:
        ArgumentError: not one name for each slot of the rule, or a format that does not store that kind.
    """
    names = ["float32"] * len(rule.slots) if names is None else list(names)
    if len(names) != len(rule.slots):
        wanted = ", ".join(slot.name for slot in rule.slots)
        raise ArgumentError(f"formats={names!r}: give one name for each slot of the rule ({wanted})")
    found = []
    for slot, name in zip(rule.slots, names, strict=True):
        formats.moment(name, slot.kind)
        found.append(Column(slot.name, slot.kind, name))
    if weights == "split":
        found.append(Column("correction", "signed", "correction"))
    return [*found, Column("average", "weight", "float32")] if average else found


def each(names: Formats, n: int) -> list[Sequence[str] | None]:
    """The formats of each of n tensors: given for each, or once for all."""
    if names is None or not names or isinstance(names[0], str):
        return [names] * n  # type: ignore[list-item]
    if len(names) != n:
        raise ArgumentError(f"formats were given for {len(names)} of {n} tensors; give one entry for each")
    return list(names)


def check_plan(
    rule: Rule,
    names: Sequence[str],
    params: Sequence[np.ndarray],
    slots: Sequence[Sequence[Stored]],
    format_names: Formats = None,
    weights: str = "nearest",
    average: bool = False,
    verify: int = 0,
) -> None:
    """Parameters and slots that are to be stepped together: one dtype, written in place, nothing shared.

    Args:
        rule: says which slots there are, and in which order.
        names, params: one per tensor.
        slots: slots[s][i] is slot s of tensor i; one more where weights are split, and one where they are averaged.
        format_names: one per slot of the rule, for all tensors or for each. None: all in the dtype of computation.
        weights: "nearest", "stochastic" or "split".
        average: whether weights are averaged.
        verify: at least 0.

    Raises:
        ArrayError: an array cannot take part.
        ArgumentError: formats or weights are not for these slots or parameters, or verify is below 0.
    """
    if verify < 0:
        raise ArgumentError(f"verify={verify!r}: give N to compute about one block in N twice, or 0 for none")
    if len(params) != len(names):
        raise ArrayError(f"{len(names)} names and {len(params)} parameters were given; give one name for each")
    by_tensor = each(format_names, len(names))
    wanted = columns(rule, by_tensor[0] if by_tensor else None, weights, average)
    if [len(slot) for slot in slots] != [len(names)] * len(wanted):
        raise ArrayError(
            f"the rule keeps {len(wanted)} slots ({', '.join(column.name for column in wanted)}) for each of "
            f"{len(names)} parameters; the slots given are {[len(slot) for slot in slots]} arrays"
        )
    for i, name in enumerate(names):
        param = params[i]
        if param is None:
            raise ArrayError(f"tensor {name!r}: the parameter is None; leave it out, or give an array")
        _check_layout(name, "the parameter", param)
        _check_unmasked(name, "the parameter", param)
        if param.dtype not in DTYPES:
            raise ArrayError(
                f"tensor {name!r}: the parameter has dtype {param.dtype}; a step takes float32, float64, bfloat16 and "
                "float16, so convert it with .astype(np.float32)"
            )
        if param.dtype != params[0].dtype:
            raise ArrayError(
                f"tensor {name!r}: the parameter has dtype {param.dtype} and {names[0]!r} has {params[0].dtype}; "
                "a plan is of one dtype, so make one for each"
            )
        _check_writeable(name, "the parameter", param)
        for column, slot in zip(columns(rule, by_tensor[i], weights, average), slots, strict=True):
            _check_slot(name, column, slot[i], param)
            if column.format in ("bfloat16", "int8") and param.dtype == np.float64:
                raise ArgumentError(
                    f"tensor {name!r}: formats={column.format!r}: moments of float64 parameters are kept in float64; "
                    "use 'float32', which means the dtype of computation, or convert the parameters to float32"
                )
    if params:
        formats.weight(weights, params[0].dtype)
    check_apart(names, _all(params, slots), [])


def check_step(
    names: Sequence[str],
    params: Sequence[np.ndarray],
    slots: Sequence[Sequence[Stored]],
    grads: Sequence[np.ndarray | None],
    dtype: np.dtype[Any] | None,
) -> None:
    """The arrays of one step, of a plan that passed `check_plan`: the gradients, and what may have changed since.

    Gradients may be read-only, and may share memory with each other; None is a tensor that does not take part. `dtype`
    is what the parameters had when the plan was made; of a plan of no tensor, None.

    Raises:
        ArrayError: an array cannot take part.
    """
    if len(grads) != len(names):
        raise ArrayError(
            f"{len(grads)} gradients were given for {len(names)} parameters; "
            "give one for each, in the same order, None where there is none"
        )
    for i, (name, param, grad) in enumerate(zip(names, params, grads, strict=True)):
        if grad is None:
            continue
        _check_layout(name, "the parameter", param)
        _check_writeable(name, "the parameter", param)
        for slot in slots:
            kept = formats.arrays(slot[i])[0]
            if kept.shape != param.shape or param.dtype != dtype:
                raise ArrayError(
                    f"tensor {name!r}: the parameter has become {param.dtype}{list(param.shape)} and its moments are "
                    f"those of {dtype}{list(kept.shape)}; make a new optimizer for it"
                )
        _check_layout(name, "the gradient", grad)
        _check_unmasked(name, "the gradient", grad)
        _check_like(name, "the gradient", grad, param)
    check_apart(names, _all(params, slots), grads)


Arrays: TypeAlias = tuple[Sequence[str], Sequence[np.ndarray], Sequence[Sequence[Stored]]]


def check_beside(plans: Sequence[Arrays], grads: Sequence[np.ndarray | None]) -> None:
    """Nothing if several plans can be stepped one after the other: none writes what another one writes or reads.

    Args:
        plans: names, parameters and slots of each.
        grads: those of the first plan.

    Raises:
        ArrayError: arrays share memory.
    """
    names = [name for own, _, _ in plans for name in own]
    check_apart(names, [written for _, params, slots in plans for written in _all(params, slots)], grads)


def check_apart(
    names: Sequence[str], arrays: Sequence[Sequence[np.ndarray]], grads: Sequence[np.ndarray | None]
) -> None:
    """Nothing if no memory that a step writes is written twice, or is a gradient's.

    Args:
        names: one per tensor.
        arrays: all that is written of each tensor, its parameter first.
        grads: what is read.

    Raises:
        ArrayError: arrays share memory.
    """
    written = sorted(_written(names, arrays))
    _check_apart(written)
    starts = [begin for begin, _, _, _ in written]
    for name, grad in zip(names, grads, strict=False):
        if grad is None or grad.size == 0:
            continue
        begin, end = _bounds(grad)
        last = bisect_left(starts, end) - 1
        if last >= 0 and written[last][1] > begin:
            _, _, other, what = written[last]
            raise ArrayError(
                f"tensor {name!r}: its gradient shares memory with {what} of {other!r}, which the step writes; "
                "pass a copy of the gradient, g.copy()"
            )


def _check_slot(name: str, column: Column, slot: Any, param: np.ndarray) -> None:
    what = f"slot {column.name}"
    if (column.format == "int8") != isinstance(slot, Blocks):
        wanted = "adamas.formats.Blocks(codes, scales)" if column.format == "int8" else "a numpy.ndarray"
        raise ArrayError(
            f"tensor {name!r}: {what} is a {type(slot).__name__}; in the format {column.format!r} give {wanted}"
        )
    if column.format == "int8":
        codes = np.dtype(np.int8 if column.kind == "signed" else np.uint8)
        _check_stored(name, f"{what} (codes)", slot.codes, codes, param)
        scales = (-(-param.size // formats.SCALED),)
        _check_stored(name, f"{what} (scales)", slot.scales, np.dtype(np.float32), param, scales)
    elif column.format == "correction":
        _check_stored(name, what, slot, np.dtype(np.int8), param)
    elif column.format == "bfloat16":
        _check_stored(name, what, slot, BFLOAT16, param)
    else:
        _check_stored(name, what, slot, compute_dtype(param.dtype), param)


def _check_stored(
    name: str, what: str, array: Any, dtype: np.dtype[Any], param: np.ndarray, shape: tuple[int, ...] | None = None
) -> None:
    """shape: None for the parameter's."""
    _check_layout(name, what, array)
    shape = param.shape if shape is None else shape
    if array.dtype != dtype:
        raise ArrayError(
            f"tensor {name!r}: {what} has dtype {array.dtype} and the parameter {param.dtype}; give {dtype}, as "
            "adamas.formats.zeros makes it"
        )
    if array.shape != shape:
        raise ArrayError(
            f"tensor {name!r}: {what} has shape {array.shape} and the parameter {param.shape}; give one of {shape}"
        )
    _check_writeable(name, what, array)


def _check_layout(name: str, what: str, array: Any) -> None:
    if not isinstance(array, np.ndarray):
        raise ArrayError(
            f"tensor {name!r}: {what} is a {type(array).__name__}; give a numpy.ndarray, as np.asarray makes one"
        )
    if not array.dtype.isnative:
        raise ArrayError(
            f"tensor {name!r}: {what} has dtype {array.dtype.str}, of the other byte order; "
            "convert it with .astype(array.dtype.newbyteorder('='))"
        )
    if not array.flags.c_contiguous:
        raise ArrayError(
            f"tensor {name!r}: {what} is not C-contiguous (shape {array.shape}, strides {array.strides}); "
            "make it so with np.ascontiguousarray"
        )
    if not array.flags.aligned:
        raise ArrayError(f"tensor {name!r}: {what} is not aligned to its items in memory; pass a copy, array.copy()")


def _check_unmasked(name: str, what: str, array: np.ndarray) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise ArrayError(
            f"tensor {name!r}: {what} is a masked array, whose mask a step would ignore; "
            "give a plain array, such as its .data or .filled(0)"
        )


def _check_writeable(name: str, what: str, array: np.ndarray) -> None:
    if not array.flags.writeable:
        raise ArrayError(
            f"tensor {name!r}: {what} is read-only and a step changes it in place; "
            "give a copy of it, or set array.flags.writeable = True"
        )


def _check_like(name: str, what: str, array: np.ndarray, param: np.ndarray) -> None:
    if array.dtype != param.dtype:
        raise ArrayError(
            f"tensor {name!r}: {what} has dtype {array.dtype} and the parameter {param.dtype}; "
            "convert it with .astype(parameter.dtype)"
        )
    if array.shape != param.shape:
        raise ArrayError(
            f"tensor {name!r}: {what} has shape {array.shape} and the parameter {param.shape}; give one of its shape"
        )


def _bounds(array: np.ndarray) -> tuple[int, int]:
    begin = array.ctypes.data
    return begin, begin + array.nbytes


def _all(params: Sequence[np.ndarray], slots: Sequence[Sequence[Stored]]) -> list[list[np.ndarray]]:
    """Every array that a step writes, by tensor, its parameter first."""
    return [[param, *(a for slot in slots for a in formats.arrays(slot[i]))] for i, param in enumerate(params)]


def _written(names: Sequence[str], arrays: Sequence[Sequence[np.ndarray]]) -> Iterator[tuple[int, int, str, str]]:
    """(first byte, one past the last, name, what it is) of every array that a step writes, but empty ones."""
    for name, (param, *slots) in zip(names, arrays, strict=True):
        if param.size:
            yield (*_bounds(param), name, "the parameter")
            for array in slots:
                yield (*_bounds(array), name, "a slot")


def _check_apart(written: list[tuple[int, int, str, str]]) -> None:
    written.sort()
    for (_, end, name, what), (begin, _, other, other_what) in pairwise(written):
        if begin < end:
            raise ArrayError(
                f"tensor {other!r}: {other_what} shares memory with {what} of {name!r}; "
                "a step would write it twice, so give each its own array, or give a shared one only once"
            )
