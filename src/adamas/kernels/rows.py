"""Sparse gradients: the mathematics of a step that touches only the rows of a table that have a gradient.

The gradient of an embedding is given for some rows, and a row may come several times. A *lazy* step

    g_r  = the values of row r, added in the order in which they came
    m_r <- beta1^k m_r,  v_r <- beta2^k v_r         k = the steps that row r has missed since its last one
    (p_r, m_r, v_r) <- adamas.rule.update at the optimizer's present step t

changes no other row, so its cost does not depend on the size of the table. The decay is what a dense step does to the
moments of a row whose gradient is 0, k times over: g = 0 in m <- m + (1 - beta1) (g - m). (The largest v of AMSGrad
stays as it is in such a step; v of Adamax with eps_mode="paper", which a dense step holds at eps or above, decays on.)
What a lazy step leaves out is the change of the *weights* in the steps missed: the
drift by the old momentum, and decoupled weight decay. TensorFlow's old LazyAdam left out the decay of the moments too.

k is counted by a clock for each table, which advances with every lazy step of it: `seen` holds, for each row, what the
clock was after the row's last step, and as its last entry the clock itself. A step with a dense gradient, and
everything that reads the moments as if they were a dense optimizer's, *settles* the table first: every row is decayed
to the present, and `seen` becomes 0. beta^k is computed by repeated squaring in float64 and rounded once.

These functions are the reference for libadamas (rows.cpp), bit for bit, and for the array expression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adamas.errors import ArrayError, UnsupportedError
from adamas.kernels.reference import ieee
from adamas.rule import Clip, Hyper, Rule, Scalars, clip_factor, update
from adamas.scalars import power, scalars


def add_up(indices: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of a sparse gradient, increasing, and the gradient of each: its values, added in their order.

    Args:
        indices: int32 or int64 [n], rows of the table.
        values: [n, ...]; entry i belongs to row indices[i].
        count: rows of the table.

    Raises:
        ArrayError: an index is not from 0 to count - 1.
    """
    wrong = (indices < 0) | (indices >= count)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ArrayError(
            f"index {indices[i]} at position {i} of a sparse gradient: the table has the rows 0 to {count - 1}"
        )
    order = np.argsort(indices, kind="stable")
    rows, starts, counts = np.unique(indices[order], return_index=True, return_counts=True)
    sums = values[order[starts]]
    with ieee():
        for turn in range(1, int(counts.max(initial=1))):
            more = counts > turn
            sums[more] += values[order[starts[more] + turn]]
    return rows.astype(np.int64), sums


def check_rule(rule: Rule) -> None:
    """Nothing if lazy steps are defined for a rule.

    Raises:
        UnsupportedError: NAdam, schedule-free AdamW, or a rule that `reduces`.
    """
    if rule.nesterov != "off" or rule.schedule_free or rule.reduces:
        raise UnsupportedError(
            "NAdam, schedule-free AdamW and rules that look at a whole tensor have no lazy rows; give dense gradients"
        )


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
) -> None:
    """A lazy step of the rows `rows`, in place.

    Args:
        p, slots: the table [count, ...] and its moments.
        seen: int32 [count + 1]; see the top of this file.
        rows, sums: as `add_up` returns them.
        grad_scale: multiplies the gradient.
        clip: clips the scaled gradient.
        squares: the sum of squares, before `grad_scale`, of the gradient that is clipped by its norm, or of all
            gradients that are clipped by their global norm.

    Raises:
        UnsupportedError: NAdam, schedule-free AdamW, or a rule that `reduces`. Nothing has been written.
    """
    check_rule(rule)
    dtype = p.dtype.type
    by_value = clip is not None and clip.kind == "value"
    silent = _silence(seen)[rows]
    with ieee():
        if clip is not None:
            grad_scale *= clip_factor(clip.kind, abs(grad_scale) * math.sqrt(squares), clip.bound)
        numbers = scalars(rule, hyper, t, grad_scale, clip.bound if clip is not None and by_value else math.inf)
        late = np.flatnonzero(silent)
        old = [slot[rows] for slot in slots]
        for moment, beta in zip(old, (hyper.beta1, hyper.beta2), strict=False):
            moment[late] = _decayed(moment[late], silent[late], beta)
        p[rows], new = update(
            rule,
            p[rows],
            sums,
            old,
            Scalars(*(dtype(number) for number in numbers)),
            coupled=numbers.coupled != 0.0,
            clipped=by_value,
            tiny=np.finfo(dtype).tiny,
        )
    for slot, values in zip(slots, new, strict=True):
        slot[rows] = values
    clock = seen.view(np.uint32)
    clock[-1] += np.uint32(1)
    clock[rows] = clock[-1]


def settle(hyper: Hyper, slots: Sequence[np.ndarray], seen: np.ndarray) -> None:
    """Decay the moments of every row that has missed steps to the present, in place."""
    silent = _silence(seen)
    late = np.flatnonzero(silent)
    with ieee():
        for slot, beta in zip(slots, (hyper.beta1, hyper.beta2), strict=False):
            slot[late] = _decayed(slot[late], silent[late], beta)
    seen[:] = 0


def _silence(seen: np.ndarray) -> np.ndarray:
    """For each row, the steps that it has missed. The clock may have wrapped around."""
    clock = seen.view(np.uint32)
    return np.asarray(clock[-1] - clock[:-1])


def _decayed(moment: np.ndarray, silent: np.ndarray, beta: float) -> np.ndarray:
    """Rows of a moment, each times its beta^k; what falls below the smallest normal number becomes 0."""
    different, place = np.unique(silent, return_inverse=True)
    factors = np.array([power(beta, int(k)) for k in different], moment.dtype)[place]
    new = moment * factors.reshape(-1, *(1,) * (moment.ndim - 1))
    return np.asarray(np.where(np.abs(new) < np.finfo(moment.dtype).tiny, np.zeros_like(new), new))
