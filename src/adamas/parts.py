"""One step of an optimizer whose tensors several plans share: one norm, one decision, all of them or none.

A plan is of one dtype, so an optimizer of float32 and bfloat16 tensors has two. Adapters that hand arrays to kernels
make a `Part` of each and step them here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import is_
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from adamas.errors import ArgumentError, FaultError, NonFiniteError
from adamas.kernels import Plan
from adamas.kernels.reference import ieee
from adamas.rule import Clip, is_number
from adamas.storage import Storage, check_seed

Gradients = list[np.ndarray | None]
Nonfinite = Literal["propagate", "skip", "raise"]


class Part(NamedTuple):
    """The tensors that one plan steps.

    members  their positions among all tensors
    rows     each one's row of the table of numbers; None: all the first
    taken    int64: each one's steps so far; the plan writes it
    carry    float64: the numbers that the rule carries; the plan writes them
    sums     float64 [members, 4]: of the statistics of the last step; the plan writes them
    """

    plan: Plan
    members: list[int]
    rows: np.ndarray | None
    taken: np.ndarray
    carry: np.ndarray
    sums: np.ndarray


def check_settings(seed: object, nonfinite: object, stats: object, verify: object, ema: Any = None) -> None:
    """Nothing if these are settings that a step can be taken with; `adamas.numpy.Adam` documents them.

    Raises:
        ArgumentError: one is outside what is allowed.
    """
    check_seed(seed)
    if nonfinite is not None and nonfinite not in get_args(Nonfinite):
        raise ArgumentError(f"nonfinite={nonfinite!r}: give one of {', '.join(map(repr, get_args(Nonfinite)))}")
    if not isinstance(stats, (bool, np.bool_)):
        raise ArgumentError(f"stats={stats!r}: give False or True")
    if not isinstance(verify, (int, np.integer)) or isinstance(verify, bool) or not 0 <= verify <= 2**20:
        raise ArgumentError(f"verify={verify!r}: give N to compute one block in N twice, at most 2^20, or 0")
    if ema is not None and not (is_number(ema) and 0.0 <= ema < 1.0):
        raise ArgumentError(f"ema={ema!r}: give a number in [0, 1), such as 0.999, or None for no average")


def check_scaling(max_norm: Any, grad_scale: Any) -> tuple[Clip | None, float]:
    """What is done to the gradients of a step first; `adamas.numpy.Adam.step` documents it.

    Raises:
        ArgumentError: one is outside what is allowed.
    """
    clip = None
    if max_norm is not None:
        if not (is_number(max_norm) and max_norm > 0.0):
            raise ArgumentError(f"max_norm={max_norm!r}: give a number above 0, or None not to clip")
        clip = Clip("torch", float(max_norm))
    if not (is_number(grad_scale) and 0.0 < grad_scale < math.inf):
        raise ArgumentError(f"grad_scale={grad_scale!r}: give a finite number above 0")
    return clip, float(grad_scale)


def when_not_finite(asked: Nonfinite | None, stored: Iterable[Storage]) -> Nonfinite:
    """What a step does with gradients that are not finite: as asked, else "skip" where a slot is stored in int8.

    There one such number spoils the 64 that share its scale.
    """
    return asked or ("skip" if any("int8" in how.formats for how in stored) else "propagate")


def check_ready(parts: Sequence[Part], given: Sequence[Gradients]) -> None:
    """Nothing if each plan can step and none writes what another one uses.

    Raises:
        ArrayError: an array cannot take part; names the tensor.
    """
    plans = [part.plan for part in parts]
    for plan, own in zip(plans, given, strict=True):
        plan.ready(own, [other for other in plans if other is not plan])


def step(
    parts: Sequence[Part],
    grads: Gradients,
    table: np.ndarray,
    *,
    clip: Clip | None = None,
    grad_scale: float = 1.0,
    check: bool = False,
    average_decay: float | None = None,
    statistics: bool = False,
    beside: Mapping[int, float] | None = None,
) -> float | None:
    """One step of every tensor that has a gradient; see `kernels.reference.Plan.step`.

    Args:
        parts: of all tensors.
        grads: one per tensor; None where it does not take part.
        table: the numbers of the rows.
        clip: by a norm of all gradients together, or None.
        grad_scale, average_decay: as a plan takes them.
        check: nothing is changed where the norm of the scaled gradients is one that `can_square` refuses.
        statistics: write `sums`.
        beside: the sums of squares of tensors that have a gradient and are stepped elsewhere, by their position; norms
            count them.

    Returns:
        The norm of the scaled gradients where it is checked or they are clipped by it, else None.

    Raises:
        ArrayError: an array cannot take part; nothing has been changed.
        FaultError: a block was computed twice and gave two results; the whole step has been taken.
    """
    given = split(parts, grads)
    squares = None
    if len(parts) > 1 or beside:  # everything is checked before the first plan writes, and the norm is over all
        check_ready(parts, given)
        if check or clip is not None:
            sums = sums_of_squares(parts, given)
            for i, elsewhere in (beside or {}).items():
                sums[i] = elsewhere
            squares = _total(sums)
        if check and squares is not None:
            whole = abs(grad_scale) * math.sqrt(squares)
            if not can_square(parts, whole):
                return whole
    norm, faults = None, []
    for part, own in zip(parts, given, strict=True):
        try:
            norm = part.plan.step(
                own,
                part.taken + (np.array([grad is not None for grad in own]) if has_none(own) else 1),
                table,
                part.rows,
                grad_scale=grad_scale,
                clip=clip,
                check=check,
                squares=squares,
                taken=part.taken,
                carry=part.carry if part.carry.shape[1] else None,
                average_decay=average_decay,
                statistics=part.sums if statistics else None,
            )
        except FaultError as error:  # a block gave two results: this plan has stepped, and so must the others
            faults.append(error)
    if faults:
        raise faults[0]
    return norm


def can_square(parts: Sequence[Part], norm: float) -> bool:
    """Whether a step can compute with gradients of this norm: it is finite, and their squares are in each dtype."""
    return all(norm < part.plan.limit for part in parts)


def split(parts: Sequence[Part], grads: Gradients) -> list[Gradients]:
    """The gradients of each part."""
    if len(parts) == 1 and len(parts[0].members) == len(grads):
        return [grads]
    return [[grads[i] for i in part.members] for part in parts]


def sums_of_squares(parts: Sequence[Part], given: Sequence[Gradients]) -> list[float]:
    """Each gradient's sum of squares, in the order of the tensors; 0 where there is none."""
    sums = np.zeros(1 + max((max(part.members) for part in parts), default=-1))
    for part, own in zip(parts, given, strict=True):
        sums[part.members] = part.plan.squares(own)
    found: list[float] = sums.tolist()
    return found


def not_finite(
    parts: Sequence[Part], names: Sequence[str], grads: Gradients, grad_scale: float = 1.0
) -> NonFiniteError:
    """What to raise where `can_square` refuses the norm of these gradients: names the first tensor at fault."""
    limits = {i: part.plan.limit for part in parts for i in part.members}
    for i, own in enumerate(sums_of_squares(parts, split(parts, grads))):
        grad = grads[i]
        if grad is not None and not abs(grad_scale) * math.sqrt(own) < limits[i]:
            nan, infinite = int(np.isnan(grad).sum()), int(np.isinf(grad).sum())
            wide = "float64" if limits[i] == math.inf else "float32"
            return NonFiniteError(
                f"tensor {names[i]!r}: of {grad.size} elements of its gradient {nan} are NaN and {infinite} infinite"
                + ("" if nan or infinite else f", but their squares overflow {wide}")
                + "; nothing was changed. Look at the batch and at the loss, lower the learning rate, or skip such "
                'steps with nonfinite="skip"'
            )
    return NonFiniteError("the squares of all gradients together overflow; nothing was changed")


def has_none(grads: Sequence[Any]) -> bool:
    """Whether a gradient is missing."""
    return any(map(is_, grads, repeat(None)))  # `None in grads` would compare arrays


def _total(sums: list[float]) -> float:
    """The sum of squares of all gradients: `kernels.reference.sum_of_squares` of them."""
    with ieee():
        total = 0.0
        for own in sums:
            total += own
        return total
