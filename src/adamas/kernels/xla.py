"""The array expression: `adamas.rule.update` for XLA, and its scalars computed inside the graph.

A compiled loop of training steps cannot ask the host for each step's scalars, so `scalars` computes them from the step
counter and the learning rate where the graph runs, in float64 and in the order of `adamas.rule.scalars`. beta^t is
found by repeated squaring (`tf.pow` gives other bits), in a loop of its own: a loop is something XLA does not fuse, so
these few numbers are not computed again for every element.

XLA contracts a product and a sum into one fused multiply-add wherever the processor has it, so the result differs from
the reference in the last places; with `XLA_FLAGS=--xla_cpu_max_isa=AVX`, which has none, it is equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from adamas import rule as mathematics
from adamas.rule import Hyper, Rule, Scalars

_XP = SimpleNamespace(abs=tf.abs, sqrt=tf.sqrt, where=tf.where, zeros_like=tf.zeros_like)


def powers(bases: Sequence[float], n: Any) -> Any:
    """[x^n for x in bases] as a float64 tensor; n an int64 scalar tensor >= 0. The bits of `adamas.rule.power`."""

    def step(n: Any, x: Any, result: Any) -> tuple[Any, Any, Any]:
        result = tf.where(tf.equal(n % 2, 1), result * x, result)
        return n // 2, x * x, result

    x = tf.constant(bases, tf.float64)
    return tf.while_loop(lambda n, x, result: n > 0, step, (tf.cast(n, tf.int64), x, tf.ones_like(x)))[2]


def scalars(rule: Rule, hyper: Hyper, lr: Any, t: Any) -> Scalars:
    """`adamas.rule.scalars` with a learning rate and a step t = 1, 2, ... that are tensors; float64.

    Args:
        hyper: all numbers but the learning rate; its `lr` is not read.
        lr: scalar tensor of a floating dtype. Its float64 value is used.
        t: int64 scalar tensor.
    """
    power1, power2 = tf.unstack(powers((hyper.beta1, hyper.beta2), t))
    numbers = mathematics.combine(rule, hyper, tf.cast(lr, tf.float64), power1, power2, sqrt=tf.sqrt)
    return Scalars(*(tf.convert_to_tensor(number, tf.float64) for number in numbers))


def update(rule: Rule, hyper: Hyper, s: Scalars, p: Any, g: Any, slots: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """New parameter and new slots, as tensors.

    Args:
        hyper: as given to `scalars`.
        s: what `scalars` returned.
        p, g: parameter and gradient, of one shape and dtype (float32 or float64).
        slots: one tensor like p per slot of the rule.
    """
    return mathematics.update(
        p,
        g,
        slots,
        Scalars(*(tf.cast(number, p.dtype) for number in s)),
        coupled=rule.decay == "coupled" and hyper.weight_decay != 0.0,
        tiny=np.finfo(p.dtype.as_numpy_dtype).tiny,
        xp=_XP,
    )
