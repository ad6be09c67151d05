"""Which arrays may take part in a step, and why not: the checks of every kernel for NumPy arrays.

Every function returns nothing, or raises ArrayError with the name of the tensor, what was given, what is allowed and
what to do. Nothing is written before they have passed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from adamas.errors import ArrayError
from adamas.rule import Rule

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def check_plan(
    rule: Rule, names: Sequence[str], params: Sequence[np.ndarray], slots: Sequence[Sequence[np.ndarray]]
) -> None:
    """Parameters and slots that are to be stepped together: one dtype, written in place, nothing shared.

    Args:
        rule: says which slots there are, and in which order.
        names, params: one per tensor.
        slots: slots[s][i] is slot s of tensor i.

    Raises:
        ArrayError: an array cannot take part.
    """
    if len(params) != len(names):
        raise ArrayError(f"{len(names)} names and {len(params)} parameters were given; give one name for each")
    if [len(slot) for slot in slots] != [len(names)] * len(rule.slots):
        raise ArrayError(
            f"the rule keeps {len(rule.slots)} slots ({', '.join(slot.name for slot in rule.slots)}) for each of "
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
                f"tensor {name!r}: the parameter has dtype {param.dtype}; a step computes in float32 or float64, so "
                "convert it with .astype(np.float32)"
            )
        if param.dtype != params[0].dtype:
            raise ArrayError(
                f"tensor {name!r}: the parameter has dtype {param.dtype} and {names[0]!r} has {params[0].dtype}; "
                "a plan is of one dtype, so make one for each"
            )
        _check_writeable(name, "the parameter", param)
        for slot, arrays in zip(rule.slots, slots, strict=True):
            what = f"slot {slot.name}"
            _check_layout(name, what, arrays[i])
            _check_like(name, what, arrays[i], param)
            _check_writeable(name, what, arrays[i])
    _check_apart(list(_written(names, params, slots)))


def check_step(
    names: Sequence[str],
    params: Sequence[np.ndarray],
    slots: Sequence[Sequence[np.ndarray]],
    grads: Sequence[np.ndarray | None],
) -> None:
    """The arrays of one step, of a plan that passed `check_plan`: the gradients, and what may have changed since.

    Gradients may be read-only, and may share memory with each other; None is a tensor that does not take part.

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
        for arrays in slots:
            if (arrays[i].shape, arrays[i].dtype) != (param.shape, param.dtype):
                raise ArrayError(
                    f"tensor {name!r}: the parameter has become {param.dtype}{list(param.shape)} and its moments are "
                    f"{arrays[i].dtype}{list(arrays[i].shape)}; make a new optimizer for it"
                )
        _check_layout(name, "the gradient", grad)
        _check_unmasked(name, "the gradient", grad)
        _check_like(name, "the gradient", grad, param)
    written = sorted(_written(names, params, slots))
    _check_apart(written)
    starts = [begin for begin, _, _, _ in written]
    for name, grad in zip(names, grads, strict=True):
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
            f"convert it with .astype(np.{param.dtype})"
        )
    if array.shape != param.shape:
        raise ArrayError(
            f"tensor {name!r}: {what} has shape {array.shape} and the parameter {param.shape}; give one of its shape"
        )


def _bounds(array: np.ndarray) -> tuple[int, int]:
    begin = array.ctypes.data
    return begin, begin + array.nbytes


def _written(
    names: Sequence[str], params: Sequence[np.ndarray], slots: Sequence[Sequence[np.ndarray]]
) -> Iterator[tuple[int, int, str, str]]:
    """(first byte, one past the last, name, what it is) of every array that a step writes, but empty ones."""
    for i, name in enumerate(names):
        if params[i].size:
            yield (*_bounds(params[i]), name, "the parameter")
            for array in (slot[i] for slot in slots):
                yield (*_bounds(array), name, "a slot")


def _check_apart(written: list[tuple[int, int, str, str]]) -> None:
    written.sort()
    for (_, end, name, what), (begin, _, other, other_what) in pairwise(written):
        if begin < end:
            raise ArrayError(
                f"tensor {other!r}: {other_what} shares memory with {what} of {name!r}; "
                "a step would write it twice, so give each its own array, or give a shared one only once"
            )
