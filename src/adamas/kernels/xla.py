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
    lr = tf.cast(lr, tf.float64)
    power1, power2 = tf.unstack(powers((hyper.beta1, hyper.beta2), t))
    bc1, bc2 = 1.0 - power1, 1.0 - power2
    one = tf.ones_like(bc2)
    root2 = one if rule.amsgrad == "corrected" else tf.sqrt(bc2)
    paper = rule.eps_mode == "paper"

    def constant(x: float) -> Any:
        return tf.constant(x, tf.float64)

    return Scalars(
        grad_scale=constant(-1.0 if rule.maximize else 1.0),
        coupled=constant(hyper.weight_decay if rule.decay == "coupled" else 0.0),
        c1=constant(1.0 - hyper.beta1),
        c2=constant(1.0 - hyper.beta2),
        r2=1.0 / bc2 if rule.amsgrad == "corrected" else one,
        eps_root=constant(hyper.eps_root) * bc2 if paper and rule.amsgrad != "corrected" else constant(hyper.eps_root),
        alpha=lr * root2 / bc1,
        eps=constant(hyper.eps) * root2 if paper else constant(hyper.eps),
        keep=1.0 - lr * hyper.weight_decay if rule.decay == "decoupled" else one,
    )


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
