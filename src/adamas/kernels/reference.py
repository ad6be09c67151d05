"""The reference kernel: `adamas.rule.update` itself, in NumPy, over blocks.

It is what every other kernel is tested against, bit for bit, and what serves where no C++ compiler was found. It needs
a few blocks of memory beside the arrays, whatever their size, and is some ten times slower than the C++ kernel.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np

from adamas.errors import FaultError, KernelError
from adamas.formats import (
    NATIVE,
    PARAMETER,
    Format,
    Halves,
    Key,
    Stored,
    compute_dtype,
    moment,
    name_key,
    piece,
    random_bits,
    weight,
    write,
)
from adamas.kernels import arrays
from adamas.rule import Clip, Hyper, Rule, Scalars, clip_factor, reduction, update
from adamas.scalars import carry_on, eps_bound, rescaled, scalars

BLOCK = 4096  # ADAMAS_BLOCK in adamas.h: sums are defined over blocks of so many elements
LANES = 16
_CHUNK = 8 * BLOCK  # elements computed at once: the temporaries of `update` stay in the L2 cache
_VERIFY = 254  # the number of the "slot" whose random bits choose what is computed twice
TWO_RESULTS = (
    "tensor {!r}: a block of this step was computed twice and gave two results, so memory or a processor of this "
    "machine is faulty; the step has been taken. Go on elsewhere from an older checkpoint"
)


class Plan:
    """A set of arrays that are stepped together, in place; the interface of every kernel for NumPy arrays.

    Args:
        rule: the switches.
        names: one per tensor, for messages.
        params: float32, float64, bfloat16 (of ml_dtypes) or float16, all of one dtype, C-contiguous, written in place.
            Those of 16 bits are computed in float32.
        slots: slots[s][i] is slot s (in the order of `rule.slots`) of tensor i, as `formats.zeros` makes it: an array
            of its parameter's shape, or `Blocks`. After them, where weights are split, the corrections: int8 arrays;
            and where they are averaged, the averages: arrays of the dtype of computation.
        seed: keys stochastic rounding together with names, steps, slots and elements.
        formats: how slots are stored, one name per slot of the rule: "float32" (the dtype of computation, also where
            that is float64), "bfloat16", "int8"; or one such list for each tensor. None: all "float32".
        weights: how parameters of 16 bits are rounded: "nearest", "stochastic", or "split" (`formats.Split`).
        average: whether weights are averaged.
        verify: N: about one block in N, chosen at random, is computed twice and compared; 0: none.
        rounding_names: one per tensor, for the keys of stochastic rounding. None: `names`.

    Raises:
        ArrayError: an array cannot take part; names the tensor.
        ArgumentError: formats or weights are not for this rule or these parameters.
    """

    def __init__(
        self,
        rule: Rule,
        names: Sequence[str],
        params: Sequence[np.ndarray],
        slots: Sequence[Sequence[Stored]],
        seed: int = 0,
        formats: arrays.Formats = None,
        weights: str = "nearest",
        average: bool = False,
        verify: int = 0,
        rounding_names: Sequence[str] | None = None,
    ) -> None:
        arrays.check_plan(rule, names, params, slots, formats, weights, average, verify)
        self._dtype = params[0].dtype if params else None
        self.limit = norm_limit(params)
        self._rule, self._seed, self._keys = rule, seed, [name_key(name) for name in rounding_names or names]
        self._names, self._params, self._slots = list(names), list(params), [list(slot) for slot in slots]
        self._formats = [
            [moment(column.format, column.kind) for column in arrays.columns(rule, own, "nearest")]
            for own in arrays.each(formats, len(names))
        ]
        self._split, self._average, self._verify = weights == "split", average, verify
        self._second = [slot.name for slot in rule.slots].index("v" if rule.amsgrad == "off" else "vmax")
        self._weight: Format = weight(weights, params[0].dtype) if params else NATIVE

    def step(
        self,
        grads: Sequence[np.ndarray | None],
        t: np.ndarray,
        table: np.ndarray,
        rows: np.ndarray | None = None,
        *,
        grad_scale: float = 1.0,
        clip: Clip | None = None,
        check: bool = False,
        squares: float | None = None,
        taken: np.ndarray | None = None,
        carry: np.ndarray | None = None,
        average_decay: float | None = None,
        statistics: np.ndarray | None = None,
    ) -> float | None:
        """One step of every tensor that has a gradient: parameters and slots change in place.

        Args:
            grads: one per tensor, of its shape and dtype; None where a tensor does not take part.
            t: int64, one per tensor: the number of its step, 1, 2, ...
            table: float64 [rows, 10], the fields of `Hyper` in their order.
            rows: int32, one per tensor: its line of `table`. None: line 0 for all.
            grad_scale: multiplies every gradient.
            clip: clips the scaled gradients.
            check: nothing is written where the global norm of the scaled gradients is not below `limit`.
            squares: the sum of the squares of all gradients that the global norm is of, these among them: for
                several plans, added up from what `squares` gives of each. None: of these gradients.
            taken: int64, one per tensor, written: becomes `t` where a tensor has taken part. An interrupt (Ctrl-C)
                finds arrays and counts that belong together: always with the native kernel; here, but for the one
                tensor in which it struck.
            carry: float64 [tensors, len(rule.carries)], the numbers that the rule carries; written as `taken` is.
                Needed where the rule carries any.
            average_decay: average <- average + (1 - average_decay) (p - average), with the new p before it is rounded.
                Needed where weights are averaged.
            statistics: float64 [tensors, 4], written where a tensor takes part: the sums of g^2 (as read, before
                grad_scale), of (p_new - p_old)^2 and of p_new^2 (before p_new is rounded), in the order of
                `sum_of_squares`; and how many second moments are below `eps_bound`, so that eps decides the step.

        Returns:
            The global norm of the scaled gradients where it is checked or they are clipped by it, else None.

        Raises:
            FaultError: a block was computed twice and gave two results, so memory or a processor is faulty; names the
                tensor. The step has been taken.
            ArrayError: an array cannot take part; names the tensor. Nothing has been written.
            ValueError: t, table, rows, taken or carry are not as above. Nothing has been written.
        """
        arrays.check_step(self._names, self._params, self._slots, grads, self._dtype)
        active = [(i, grad) for i, grad in enumerate(grads) if grad is not None]
        _check_tables([i for i, _ in active], len(self._names), t, table, rows, taken)
        _check_carry(self._rule, len(self._names), carry)
        self._check_extras(average_decay, statistics)
        norm, differing = None, None
        with ieee():
            clipped = clip is not None and clip.kind in ("global_norm", "torch")
            if check or clipped:
                norm = abs(grad_scale) * math.sqrt(sum_of_squares(grads) if squares is None else squares)
                if check and not norm < self.limit:
                    return norm
            if clip is not None and norm is not None and clipped:
                grad_scale *= clip_factor(clip.kind, norm, clip.bound)
            hypers = [Hyper(*line) for line in table.tolist()]
            for i, grad in active:
                scale = grad_scale
                if clip is not None and clip.kind == "norm":
                    own = abs(grad_scale) * math.sqrt(sum_of_squares([grad]))
                    scale *= clip_factor("norm", own, clip.bound)
                bound = clip.bound if clip is not None and clip.kind == "value" else math.inf
                hyper = hypers[0 if rows is None else int(rows[i])]
                carried = () if carry is None else carry_on(self._rule, hyper, int(t[i]), carry[i].tolist())
                numbers = scalars(self._rule, hyper, int(t[i]), scale, bound, carried)
                by_value = clip is not None and clip.kind == "value"
                if self._rule.reduces:
                    numbers = rescaled(self._rule, numbers, grad.size, self._sums(i, grad, numbers, by_value))
                if not self._step_one(i, grad, int(t[i]), numbers, by_value, average_decay, statistics):
                    differing = differing or self._names[i]
                if taken is not None:
                    taken[i] = t[i]
                if carry is not None:
                    carry[i] = carried
        if differing is not None:
            raise FaultError(TWO_RESULTS.format(differing))
        return norm

    def ready(self, grads: Sequence[np.ndarray | None], others: Sequence[Plan] = ()) -> None:
        """What `step` checks before it computes anything, and that other plans do not write what this one uses.

        Raises:
            ArrayError: an array cannot take part, or shares memory; names the tensor.
        """
        arrays.check_step(self._names, self._params, self._slots, grads, self._dtype)
        arrays.check_beside([(plan._names, plan._params, plan._slots) for plan in (self, *others)], grads)

    def squares(self, grads: Sequence[np.ndarray | None]) -> np.ndarray:
        """float64, one per tensor: the sum of the squares of its gradient, 0 where there is none; nothing is written.

        Raises:
            ArrayError: an array cannot take part; names the tensor.
        """
        arrays.check_step(self._names, self._params, self._slots, grads, self._dtype)
        with ieee():
            return np.array([sum_of_squares([grad]) for grad in grads], np.float64)

    def _sums(self, i: int, grad: np.ndarray, numbers: Scalars, clipped: bool) -> list[float]:
        """What a rule that `reduces` adds up over a tensor, in the order of `sum_of_squares`."""
        param, dtype = self._params[i], compute_dtype(grad.dtype).type
        s, tiny = Scalars(*(dtype(number) for number in numbers)), np.finfo(dtype).tiny
        sums = [0.0] * self._rule.reduces
        for begin in range(0, param.size, _CHUNK):
            old, g, moments = self._decoded(i, grad, begin, min(begin + _CHUNK, param.size))
            found = reduction(
                self._rule, old, g, moments, s, coupled=numbers.coupled != 0.0, clipped=clipped, tiny=tiny
            )
            for column, values in enumerate(found):
                for block in _block_sums(values).tolist():
                    sums[column] += block
        return sums

    def _decoded(
        self, i: int, grad: np.ndarray, begin: int, end: int
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Elements [begin, end) of parameter, gradient and slots of a tensor, as a step computes with them."""
        p = self._weight.decode(piece(self._parameter(i), begin, end))
        g = grad.reshape(-1)[begin:end].astype(p.dtype, copy=False)
        slots = zip(self._formats[i], self._slots, strict=False)
        return p, g, [form.decode(piece(slot[i], begin, end)) for form, slot in slots]

    def _parameter(self, i: int) -> Any:
        """The parameter as it is stored: after the slots of the rule comes its correction, if it is split."""
        if not self._split:
            return self._params[i]
        correction: Any = self._slots[len(self._rule.slots)][i]
        return Halves(self._params[i], correction)

    def _step_one(
        self,
        i: int,
        grad: np.ndarray,
        t: int,
        numbers: Scalars,
        clipped: bool,
        average_decay: float | None,
        statistics: np.ndarray | None,
    ) -> bool:
        """One tensor; False where something was computed twice and differed."""
        param, dtype = self._params[i], compute_dtype(grad.dtype).type
        s, coupled = Scalars(*(dtype(number) for number in numbers)), numbers.coupled != 0.0
        tiny, bound = np.finfo(dtype).tiny, dtype(eps_bound(self._rule, numbers))
        average: Any = self._slots[-1][i] if self._average else None
        sums, same = np.zeros(4), True
        for begin in range(0, param.size, _CHUNK):
            end = min(begin + _CHUNK, param.size)
            old, g, decoded = self._decoded(i, grad, begin, end)
            new, moments = update(self._rule, old, g, decoded, s, coupled=coupled, clipped=clipped, tiny=tiny)
            key = Key(self._seed, self._keys[i], t, PARAMETER, begin)
            if self._is_verified(key):
                twice = update(self._rule, old, g, decoded, s, coupled=coupled, clipped=clipped, tiny=tiny)
                pairs = zip((new, *moments), (twice[0], *twice[1]), strict=True)
                same = same and all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)
            if statistics is not None:
                for column, values in enumerate((g, new - old, new)):
                    for block in _block_sums(values).tolist():
                        sums[column] += block
                sums[3] += np.count_nonzero(moments[self._second] < bound)
            if average is not None and average_decay is not None:
                mean = piece(average, begin, end)
                write(mean, mean + dtype(1.0 - average_decay) * (new - mean))
            write(piece(self._parameter(i), begin, end), self._weight.encode(new, key))
            for slot, (form, x) in enumerate(zip(self._formats[i], moments, strict=True)):
                write(piece(self._slots[slot][i], begin, end), form.encode(x, key._replace(slot=slot)))
        if statistics is not None:
            statistics[i] = sums
        return same

    def _is_verified(self, key: Key) -> bool:
        return bool(self._verify) and int(random_bits(key._replace(slot=_VERIFY), 1)[0]) < 2**32 // self._verify

    def _check_extras(self, average_decay: float | None, statistics: np.ndarray | None) -> None:
        if (average_decay is not None) != self._average:
            raise ValueError(f"average_decay={average_decay!r} for a plan with average={self._average}")
        wanted = (len(self._names), 4)
        if statistics is not None and (
            statistics.dtype != np.float64 or statistics.shape != wanted or not statistics.flags.writeable
        ):
            raise ValueError(
                f"statistics is {statistics.dtype}{list(statistics.shape)}: give writable float64{list(wanted)}"
            )


def norm_limit(params: Sequence[np.ndarray]) -> float:
    """Below it, gradients of this norm can be squared: 2^64 where a step computes in float32, else infinity."""
    return math.inf if params and params[0].dtype == np.float64 else 2.0**64


def sum_of_squares(grads: Sequence[np.ndarray | None]) -> float:
    """The sum of the squares of all elements, in float64, in the one order that every kernel uses.

    Block k of a tensor is its elements 4096 k ... 4096 k + 4095. Element j of a block is added to lane j mod 16, in
    increasing order; the 16 lanes are added by halving (8 and 8, 4 and 4, ...); then the blocks of a tensor, then the
    tensors, in order. Call it inside `ieee()`.
    """
    total = 0.0
    for grad in grads:
        if grad is None:
            continue
        flat, tensor = grad.reshape(-1), 0.0
        for begin in range(0, flat.size, _CHUNK):
            for block in _block_sums(flat[begin : begin + _CHUNK]).tolist():
                tensor += block
        total += tensor
    return total


def _block_sums(flat: np.ndarray) -> np.ndarray:
    blocks = -(-flat.size // BLOCK)
    width = min(BLOCK, -(-flat.size // LANES) * LANES)
    squares = np.zeros(blocks * width, np.float64)
    squares[: flat.size] = flat
    squares *= squares
    lanes = np.add.accumulate(squares.reshape(blocks, width // LANES, LANES), axis=1)[:, -1]
    for half in (8, 4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half : 2 * half]
    return lanes[:, 0]


def _check_tables(
    active: list[int],
    n: int,
    t: np.ndarray,
    table: np.ndarray,
    rows: np.ndarray | None,
    taken: np.ndarray | None,
) -> None:
    for name, counts in (("t", t), ("taken", taken)):
        if counts is not None and (counts.dtype != np.int64 or counts.shape != (n,)):
            raise ValueError(f"{name} is {counts.dtype}{list(counts.shape)}: give int64[{n}]")
    if taken is not None and not taken.flags.writeable:
        raise ValueError("taken is written, and given read-only")
    if table.dtype != np.float64 or table.ndim != 2 or table.shape[1] != len(fields(Hyper)) or not len(table):
        raise ValueError(f"table is {table.dtype}{list(table.shape)}: give float64[rows, {len(fields(Hyper))}]")
    if any(t[i] < 1 for i in active):
        raise ValueError("t must be at least 1")
    if rows is None:
        return
    if rows.dtype != np.int32 or rows.shape != (n,):
        raise ValueError(f"rows is {rows.dtype}{list(rows.shape)}: give int32[{n}], or None")
    if any(not 0 <= rows[i] < len(table) for i in active):
        raise ValueError(f"rows must be from 0 to {len(table) - 1}")


def _check_carry(rule: Rule, n: int, carry: np.ndarray | None) -> None:
    wanted = (n, len(rule.carries))
    if carry is None:
        if rule.carries:
            raise ValueError(f"carry is None, and the rule carries {[c.name for c in rule.carries]}")
    elif carry.dtype != np.float64 or carry.shape != wanted or not carry.flags.writeable:
        raise ValueError(f"carry is {carry.dtype}{list(carry.shape)}: give writable float64{list(wanted)}")


@contextmanager
def ieee() -> Iterator[None]:
    """IEEE arithmetic on this thread: round to nearest, subnormals kept, no warnings; the caller's is put back after.

    TensorFlow's threads and JAX's have flush-to-zero and denormals-are-zero on, and `torch.set_flush_denormal` sets
    them too. With them a float32 below 2^-126 reads as 0, and `update` would give other bits.

    Raises:
        KernelError: the environment is another one and cannot be set on this system.
    """
    functions = _environment()
    if functions is None:
        _check_arithmetic()
        with np.errstate(all="ignore"):
            yield
        return
    get, put, default = functions
    before = ctypes.create_string_buffer(256)  # fenv_t is 32 bytes at most on the systems we know
    if get(before) != 0 or put(default) != 0:
        raise KernelError("the floating-point environment could not be read and set; the C library refused")
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        put(before)


@functools.cache
def _environment() -> tuple[ctypes._FuncPointer, ctypes._FuncPointer, ctypes.c_void_p] | None:
    """fegetenv, fesetenv and FE_DFL_ENV of the C library, without needing ours; None where they are not found."""
    if sys.platform != "darwin" and not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)  # what Python itself is linked to, the mathematical library too
        get, put = library.fegetenv, library.fesetenv
        if sys.platform == "darwin":
            default = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")))
        else:
            default = ctypes.c_void_p(-1)  # <fenv.h> of glibc and of musl, on every processor
    except (OSError, AttributeError, ValueError):
        return None
    for function in (get, put):
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
    return get, put, default


def _check_arithmetic() -> None:
    kept = np.float32(2.0**-126) * np.float32(0.5) != 0 and np.float32(2.0**-149) + np.float32(0) != 0
    third, three = float.fromhex("0x1.555556p-2"), np.float32(3)  # rounded up, so -1/3 is rounded down
    nearest = np.float32(1) / three == third and np.float32(-1) / three == -third
    if not (kept and nearest):
        raise KernelError(
            "this thread flushes subnormal numbers to zero or does not round to nearest, and the reference kernel "
            "cannot change that on this system; call it from a thread that does neither"
        )
