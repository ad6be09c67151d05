"""The array expression: `adamas.rule.update` for XLA, and its scalars computed inside the graph.

A compiled loop of training steps cannot ask the host for each step's scalars, so `scalars` computes them from the step
counter and the learning rate where the graph runs, in float64 and in the order of `adamas.scalars`. beta^t is
found by repeated squaring (`tf.pow` gives other bits), in a loop of its own: a loop is something XLA does not fuse, so
these few numbers are not computed again for every element.

XLA contracts a product and a sum into one fused multiply-add wherever the processor has it, so the result differs from
the reference in the last places; with `XLA_FLAGS=--xla_cpu_max_isa=AVX`, which has none, it is equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from adamas import rule as mathematics
from adamas import scalars as numbers_of
from adamas.rule import Clipping, Rule, Scalars

_ARRAYS = SimpleNamespace(abs=tf.abs, sqrt=tf.sqrt, where=tf.where, zeros_like=tf.zeros_like)


def powers(bases: Any, n: Any) -> Any:
    """[x^n for x in bases] as a float64 tensor; n an int64 tensor >= 0. The bits of `adamas.scalars.power`.

    bases: numbers, or a float64 tensor. n: a scalar, or [..., 1] for the powers of each in the last dimension.
    """

    def step(n: Any, x: Any, result: Any) -> tuple[Any, Any, Any]:
        result = tf.where(tf.equal(n % 2, 1), result * x, result)
        return n // 2, x * x, result

    n, x = tf.cast(n, tf.int64), tf.convert_to_tensor(bases, tf.float64)
    one = tf.ones_like(x) * tf.cast(n > -1, tf.float64)  # for each n
    return tf.while_loop(lambda n, x, result: tf.reduce_any(n > 0), step, (n, x, one))[2]


def _wide(number: Any) -> Any:
    return tf.convert_to_tensor(number, tf.float64)  # left to TensorFlow, or to tf.cast, a Python number is a float32


def _unstacked(bases: Sequence[Any], exponents: Sequence[Any]) -> list[Any]:
    x = tf.stack([_wide(base) for base in bases])
    result: list[Any] = tf.unstack(powers(x, tf.stack([tf.cast(n, tf.int64) for n in exponents])))
    return result


_NUMBERS = SimpleNamespace(
    sqrt=tf.sqrt,
    floor=tf.floor,
    where=lambda condition, a, b: tf.where(condition, _wide(a), _wide(b)),
    real=lambda n: tf.cast(n, tf.float64),
    powers=_unstacked,
)


def carry_on(rule: Rule, hyper: Any, lr: Any, t: Any, carry: Sequence[Any]) -> tuple[Any, ...]:
    """`adamas.scalars.carry_on` in the graph: the numbers that the rule carries, after step t; see `scalars`."""
    return numbers_of.carry_on(rule, hyper, t, carry, lr=tf.cast(lr, tf.float64), xp=_NUMBERS)


def scalars(
    rule: Rule,
    hyper: Any,
    lr: Any,
    t: Any,
    grad_scale: Any = 1.0,
    clip: Any = math.inf,
    carry: Sequence[Any] = (),
) -> Scalars:
    """`adamas.scalars.scalars` with a learning rate and a step t = 1, 2, ... that are tensors; float64.

    Args:
        hyper: the fields of `Hyper` that the rule reads: numbers, or float64 scalar tensors.
        lr: scalar tensor of a floating dtype. Its float64 value is used.
        t: int64 scalar tensor.
        grad_scale, clip: numbers, or float64 scalar tensors.
        carry: what `carry_on` gave for this step.
    """
    numbers = numbers_of.scalars(rule, hyper, t, grad_scale, clip, carry, lr=tf.cast(lr, tf.float64), xp=_NUMBERS)
    return Scalars(*(tf.convert_to_tensor(number, tf.float64) for number in numbers))


def update(
    rule: Rule, s: Scalars, p: Any, g: Any, slots: Sequence[Any], *, coupled: bool = False, clipped: bool = False
) -> tuple[Any, tuple[Any, ...]]:
    """New parameter and new slots, as tensors.

    Args:
        rule: the switches.
        s: what `scalars` returned. Of a rule that reduces they are rescaled here, by sums in an order of XLA's own.
        p, g: parameter and gradient, of one shape and dtype (float32 or float64).
        slots: one tensor like p per slot of the rule.
        coupled, clipped: as for `adamas.rule.update`.
    """
    how: dict[str, Any] = {
        "coupled": coupled,
        "clipped": clipped,
        "tiny": np.finfo(p.dtype.as_numpy_dtype).tiny,
        "xp": _ARRAYS,
    }
    if rule.reduces:
        found = mathematics.reduction(rule, p, g, slots, _rounded(s, p), **how)
        sums = [sum_of_squares([x]) for x in found]
        s = numbers_of.rescaled(rule, s, tf.cast(tf.size(p), tf.float64), sums, xp=_NUMBERS)
    return mathematics.update(rule, p, g, slots, _rounded(s, p), **how)


def _rounded(s: Scalars, p: Any) -> Scalars:
    return Scalars(*(tf.cast(number, p.dtype) for number in s))


def sum_of_squares(tensors: Sequence[Any]) -> Any:
    """The sum of the squares of all elements, in float64; added up in an order of XLA's own."""
    return tf.add_n([tf.reduce_sum(tf.square(tf.cast(tensor, tf.float64))) for tensor in tensors])


def grad_scales(kind: Clipping | None, grads: Sequence[Any], grad_scale: Any, bound: Any, squares: Any) -> list[Any]:
    """What each gradient is multiplied by, in float64: `grad_scale`, times the factor of a clip by norm.

    Args:
        kind: of the clip, or None.
        grads: tensors.
        grad_scale, bound: float64 scalar tensors.
        squares: of a clip by the global norm: the sum of the squares of all gradients that it counts.
    """
    if kind is None or kind == "value":
        return [grad_scale] * len(grads)

    def factor(squares: Any) -> Any:
        return mathematics.clip_factor(kind, tf.abs(grad_scale) * tf.sqrt(squares), bound, where=tf.where)

    if kind == "norm":
        return [grad_scale * factor(sum_of_squares([gradient])) for gradient in grads]
    return [grad_scale * factor(squares)] * len(grads)
