"""The rule's NAdam against keras.optimizers.Nadam in float32, within a computed bound.

Keras computes mu_t, its product and beta2^t in float32. With u = 2^-24 and f = 0.96^t, f is off by (t + 2) u relative
(the base is rounded, then pow), so mu_t = beta1 (1 - f / 2) by e(t) = (f / 2 (t + 2) u) / (1 - f / 2) + 3 u, and the
product M_t by the sum of e(i) + u. The factors of m and g follow, as written below, and sqrt(1 - beta2^t) as in
test_parity.py. It also computes 1 - beta in float32, off by half an ulp of beta: at most u / 2.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import gradients, tensors

from adamas.kernels import reference
from adamas.rule import PRESETS, Hyper, Rule
from adamas.scalars import HOST, fade

U = 2.0**-24
SHAPES = [(), (31,), (33, 65)]


def off(t: int) -> float:
    f = fade(float(t), HOST)
    return 0.5 * f * (t + 2) * U / (1.0 - 0.5 * f) + 3 * U


def factors(beta1: float, t: int) -> tuple[float, float, float, float]:
    """The factors of m and of g in m^, and how far Keras' are off, relative."""
    mu = [beta1 * (1.0 - 0.5 * 0.96**i) for i in range(1, t + 2)]
    product, error = float(np.prod(mu[:-1])), sum(off(i) + U for i in range(1, t + 1))
    both, error_both = product * mu[-1], error + off(t + 1) + U
    of_m = off(t + 1) + both / (1.0 - both) * error_both + 3 * U
    of_g = mu[-2] / (1.0 - mu[-2]) * off(t) + product / (1.0 - product) * error + 3 * U
    return mu[-1] / (1.0 - both), (1.0 - mu[-2]) / (1.0 - product), of_m, of_g


@pytest.mark.parametrize(
    "settings", [{}, {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}]
)
def test_nadam_is_keras_within_the_bound(settings: dict[str, float], rng: np.random.Generator) -> None:
    start = tensors(rng, SHAPES)
    peer, its = keras.optimizers.Nadam(**settings), [keras.Variable(p) for p in start]
    peer.build(its)
    hyper = Hyper(
        float(np.float32(peer.learning_rate.numpy())), peer.beta_1, peer.beta_2, peer.epsilon,
        weight_decay=peer.weight_decay or 0.0, momentum_decay=1.0,
    )  # fmt: skip
    mine = [p.copy() for p in start]
    rule = Rule(nesterov="scheduled")
    slots = [[np.zeros_like(p) for p in mine] for _ in rule.slots]
    carry = np.ones((len(mine), 1))
    plan = reference.Plan(rule, list("abc"), mine, slots)
    table = np.array([list(vars(hyper).values())])
    limits = [np.zeros(p.shape) for p in start]
    of_moments = [[np.zeros(p.shape) for p in start] for _ in slots]
    for t in range(1, 51):
        grads = gradients(rng, SHAPES)
        before = [v.numpy() for v in its]
        for k, beta in enumerate((hyper.beta1, hyper.beta2)):
            for i, g in enumerate(grads):
                change = abs(g.astype(np.float64) ** (k + 1) - slots[k][i])
                of_moments[k][i] = (
                    beta * of_moments[k][i] + (U / 2 + 6 * (1 - beta) * U) * change + 2 * U * abs(slots[k][i])
                )
        plan.step(grads, np.full(3, t), table, carry=carry)
        peer.apply_gradients(zip(map(tf.constant, grads), its, strict=True))
        a, b, of_m, of_g = factors(hyper.beta1, t)
        bc2 = 1.0 - hyper.beta2**t
        of_root = (t * U / 2 * hyper.beta2 ** (t - 1) + U) / bc2 / 2 + 4 * U
        for i, g in enumerate(grads):
            root = np.sqrt(slots[1][i].astype(np.float64) / bc2) + hyper.eps
            parts = hyper.lr * a * abs(slots[0][i]) / root, hyper.lr * b * abs(g) / root
            v = np.maximum(slots[1][i], np.finfo(np.float32).tiny)
            roots = of_root + of_moments[1][i] / (2 * v)
            steps = parts[0] * (of_m + roots) + parts[1] * (of_g + roots)
            steps += hyper.lr * a * of_moments[0][i] / root
            limits[i] += steps + 6 * U * (abs(before[i]) + parts[0] + parts[1])
    for i, variable in enumerate(its):
        assert (abs(mine[i] - variable.numpy()) <= limits[i]).all()
        assert (limits[i] <= 2e-3 * np.maximum(abs(mine[i]), 0.02)).all(), "tight enough to tell"
        for k, theirs in enumerate((peer._momentums[i], peer._velocities[i])):
            assert (abs(slots[k][i] - theirs.numpy()) <= of_moments[k][i] + U * abs(slots[k][i])).all()


def test_defaults() -> None:
    peer, (rule, hyper) = keras.optimizers.Nadam(), PRESETS["keras.Nadam"]
    assert float(peer.learning_rate.numpy()) == np.float32(hyper.lr)
    assert (peer.beta_1, peer.beta_2, peer.epsilon, peer.weight_decay) == (hyper.beta1, hyper.beta2, hyper.eps, None)
    assert (hyper.weight_decay, hyper.momentum_decay, rule.nesterov) == (0.0, 1.0, "scheduled")
