"""Lazy steps of tables in libadamas: the functions of `adamas.kernels.rows`, with the same bits, by its C interface."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from adamas.errors import ArrayError
from adamas.kernels import cpu
from adamas.kernels.rows import check_rule
from adamas.rule import Clip, Hyper, Rule

# adamas.h
_MAX_SLOTS = 6


class _Table(ctypes.Structure):
    _fields_ = (
        ("p", ctypes.c_void_p),
        ("slots", ctypes.c_void_p * _MAX_SLOTS),
        ("seen", ctypes.c_void_p),
        ("clock", ctypes.c_int32),
        ("width", ctypes.c_int64),
    )


class _Scaling(ctypes.Structure):
    _fields_ = (
        ("grad_scale", ctypes.c_double),
        ("clip", ctypes.c_int32),
        ("bound", ctypes.c_double),
        ("squares", ctypes.c_double),
    )


def sort(indices: np.ndarray, count: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """What adamas_rows_sort returned, and the arrays for what it wrote: rows, order, ends."""
    rows, order, ends = (np.full(len(indices), -1, np.int64) for _ in range(3))
    found = _library().adamas_rows_sort(
        ctypes.c_int32(indices.dtype.itemsize),
        _at(indices),
        ctypes.c_int64(len(indices)),
        ctypes.c_int64(count),
        _at(rows),
        _at(order),
        _at(ends),
    )
    return found, rows, order, ends


def add_up(
    indices: np.ndarray, values: np.ndarray, count: int, cuts: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """`adamas.kernels.rows.add_up`.

    Args:
        indices, values, count: as there, C-contiguous.
        cuts: the rows at which the work is cut into calls, as threads would share it; no result depends on it.

    Raises:
        ArrayError: an index is not from 0 to count - 1.
    """
    found, rows, order, ends = sort(indices, count)
    if found == -(2**63):
        raise MemoryError("no memory to sort the rows of a sparse gradient")
    if found < 0:
        raise ArrayError(
            f"index {indices[-1 - found]} at position {-1 - found} of a sparse gradient: the table has the rows 0 to "
            f"{count - 1}"
        )
    sums = np.empty((found, *values.shape[1:]), values.dtype)
    for begin, end in _ranges(found, cuts):
        _library().adamas_rows_sum(
            _dtype(values),
            _at(values),
            ctypes.c_int64(_width(values)),
            _at(order),
            _at(ends),
            ctypes.c_int64(begin),
            ctypes.c_int64(end),
            _at(sums),
        )
    return rows[:found], sums


def squares(rows: np.ndarray, sums: np.ndarray) -> float:
    """The sum of squares of the dense gradient, as a norm of it is the root of."""
    width = ctypes.c_int64(_width(sums))
    found: float = _library().adamas_rows_squares(_dtype(sums), _at(sums), _at(rows), ctypes.c_int64(len(rows)), width)
    return found


def step(
    rule: Rule,
    hyper: Hyper,
    t: int,
    p: np.ndarray,
    slots: Sequence[np.ndarray],
    seen: np.ndarray,
    rows: np.ndarray,
    sums: np.ndarray,
    grad_scale: float = 1.0,
    clip: Clip | None = None,
    squares: float = 0.0,
    cuts: Sequence[int] = (),
) -> None:
    """`adamas.kernels.rows.step`.

    Raises:
        UnsupportedError: the rule has no lazy rows. Nothing has been written.
    """
    check_rule(rule)
    codes = (ctypes.c_int32 * len(cpu.rule_codes(rule)))(*cpu.rule_codes(rule))
    numbers = (ctypes.c_double * len(astuple(hyper)))(*astuple(hyper))
    scaling = _Scaling(grad_scale, cpu.clip_code(clip), 0.0 if clip is None else clip.bound, squares)
    for begin, end in _ranges(len(rows), cuts):
        _library().adamas_rows_update(
            codes,
            _dtype(p),
            ctypes.byref(_table(p, slots, seen)),
            _at(rows),
            _at(sums),
            numbers,
            ctypes.c_int64(t),
            ctypes.byref(scaling),
            ctypes.c_int64(begin),
            ctypes.c_int64(end),
        )
    seen[-1:].view(np.uint32)[:] += np.uint32(1)


def settle(hyper: Hyper, slots: Sequence[np.ndarray], seen: np.ndarray, cuts: Sequence[int] = ()) -> None:
    """`adamas.kernels.rows.settle`."""
    for begin, end in _ranges(len(seen) - 1, cuts):
        _library().adamas_rows_settle(
            _dtype(slots[0]),
            ctypes.byref(_table(None, slots, seen)),
            ctypes.c_double(hyper.beta1),
            ctypes.c_double(hyper.beta2),
            ctypes.c_int64(begin),
            ctypes.c_int64(end),
        )
    seen[-1] = 0


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(cpu.library_path()))
    library.adamas_rows_sort.restype = ctypes.c_int64
    library.adamas_rows_squares.restype = ctypes.c_double
    return library


def _at(array: np.ndarray) -> ctypes.c_void_p:
    if not array.flags.c_contiguous:  # libadamas would read, and write, beside it
        raise ArrayError(
            f"an array of shape {array.shape} with strides {array.strides} is not C-contiguous; "
            "give numpy.ascontiguousarray of it"
        )
    return ctypes.c_void_p(array.ctypes.data)


def _dtype(array: np.ndarray) -> ctypes.c_int32:
    return ctypes.c_int32(array.dtype == np.float64)


def _width(values: np.ndarray) -> int:
    return int(np.prod(values.shape[1:], dtype=np.int64))


def _ranges(n: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    ends = sorted({min(cut, n) for cut in (*cuts, n)})
    return list(zip([0, *ends], ends, strict=False))[::-1]


def _table(p: np.ndarray | None, slots: Sequence[np.ndarray], seen: np.ndarray) -> _Table:
    places = [_at(slot).value for slot in slots] + [None] * (_MAX_SLOTS - len(slots))
    return _Table(
        None if p is None else _at(p).value,
        (ctypes.c_void_p * _MAX_SLOTS)(*places),
        _at(seen).value,
        int(seen[-1]),
        _width(slots[0]),
    )
