"""Against keras.optimizers.Adam and AdamW: the moments to the bit, the parameters within what float32 beta^t costs.

Keras computes beta^t in float32. Rounding beta moves it by at most u = 2^-25 (half an ulp below 1), so beta^t by at
most t u beta^(t-1) + 2 u with the rounding of pow; over 1 - beta^t that is a relative error e1 or e2, and the step size
alpha = lr sqrt(1 - beta2^t) / (1 - beta1^t) is off by at most e1 + e2 / 2 and a few roundings.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import DISCRIMINATING, gradients, tensors

from adamas.tensorflow import Adam, AdamW

SHAPES = [(), (31,), (33, 65)]
EPS = 2.0**-23
CASES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "Adam": (Adam, keras.optimizers.Adam, {}),
    "AdamW": (AdamW, keras.optimizers.AdamW, {}),
    "AMSGrad": (Adam, keras.optimizers.Adam, {"amsgrad": True, "learning_rate": 0.01}),
    "AdamW AMSGrad": (AdamW, keras.optimizers.AdamW, {"amsgrad": True, "learning_rate": 0.01}),
    "discriminating": (Adam, keras.optimizers.Adam, DISCRIMINATING),
}


def error_of_alpha(beta1: float, beta2: float, t: int) -> float:
    def relative(beta: float) -> float:
        u = 2.0**-25
        return (t * u * beta ** (t - 1) + 2 * u) / (1 - beta**t)

    return relative(beta1) + relative(beta2) / 2 + 4 * EPS


@pytest.mark.parametrize("case", CASES)
def test_parity_with_keras(case: str, rng: np.random.Generator) -> None:
    ours, theirs, settings = CASES[case]
    start = tensors(rng, SHAPES)
    mine, its = ([keras.Variable(p) for p in start] for _ in range(2))
    optimizer, peer = ours(**settings), theirs(**settings)
    bound = [np.zeros(p.shape) for p in start]
    for t in range(1, 13):
        grads = [tf.constant(g) for g in gradients(rng, SHAPES)]
        before = [v.numpy() for v in its]
        optimizer.apply_gradients(zip(grads, mine, strict=True))
        peer.apply_gradients(zip(grads, its, strict=True))
        for i, v in enumerate(its):
            decayed = before[i] * (1 - float(peer.learning_rate) * (peer.weight_decay or 0))
            change = abs(v.numpy() - decayed)
            bound[i] += change * error_of_alpha(peer.beta_1, peer.beta_2, t) + 3 * EPS * np.maximum(
                abs(before[i]), change
            )
    for a, b, limit in zip(mine, its, bound, strict=True):
        assert (abs(a.numpy() - b.numpy()) <= limit).all()
        assert (limit <= 1e-3 * np.maximum(abs(b.numpy()), 0.02)).all()  # the bound itself is tight enough to tell
    store: dict[str, np.ndarray] = {}
    reference: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    peer.save_own_variables(reference)
    assert list(store) == list(reference)
    for key, array in reference.items():
        assert np.array_equal(store[key], array), key


def stepper(optimizer: Any, variables: list[Any], mode: str) -> Any:
    def step(grads: list[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return tf.function(step) if mode == "function" else step


FEATURES: dict[str, dict[str, Any]] = {
    "clipnorm": {"clipnorm": 0.01},
    "clipvalue": {"clipvalue": 0.001},
    "global_clipnorm": {"global_clipnorm": 0.01, "weight_decay": 0.1},
    "loss_scale": {"loss_scale_factor": 64.0},
    "accumulation": {"gradient_accumulation_steps": 2, "weight_decay": 0.1},
    "average": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)},
    "callable": {"learning_rate": lambda: 0.003},
}


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("feature", FEATURES)
def test_what_the_base_class_adds(feature: str, mode: str, rng: np.random.Generator) -> None:
    """Our own call does most of these; the numbers must be those of Keras."""
    settings = {"learning_rate": 0.01, **FEATURES[feature]}
    start = tensors(rng, SHAPES)
    results = []
    steps = [[tf.constant(g) for g in gradients(rng, SHAPES)] for _ in range(6)]
    for kind in (Adam, keras.optimizers.Adam):
        variables, optimizer = [keras.Variable(p) for p in start], kind(**settings)
        optimizer.build(variables)
        run = stepper(optimizer, variables, mode)
        for grads in steps:
            run(grads)
        results.append([v.numpy() for v in variables])
    for mine, its, first in zip(*results, start, strict=True):
        assert not np.array_equal(mine, first)
        # 6 steps of at most about 0.1, each off by 1.1e-5 of itself at most, and roundings of the parameter.
        np.testing.assert_allclose(mine, its, rtol=6 * 4 * EPS, atol=6 * 0.1 * 1.1e-5)


def test_constraint(rng: np.random.Generator) -> None:
    start = np.asarray(rng.normal(size=9), np.float32)
    variable = keras.Variable(start)
    variable.constraint = keras.constraints.NonNeg()
    optimizer = Adam(learning_rate=0.01)
    for _ in range(3):
        optimizer.apply([tf.constant(np.asarray(rng.normal(size=9), np.float32))], [variable])
    assert (variable.numpy() >= 0).all()
    assert (variable.numpy() > 0).any()


def test_excluded_from_decay(rng: np.random.Generator) -> None:
    start = tensors(rng, [(5,), (4, 4)])
    results = []
    grads = [tf.constant(g) for g in gradients(rng, [(5,), (4, 4)])]
    for kind in (AdamW, keras.optimizers.AdamW):
        variables = [keras.Variable(start[0], name="bias"), keras.Variable(start[1], name="kernel")]
        optimizer = kind(learning_rate=0.01, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        for _ in range(4):
            optimizer.apply(grads, variables)
        results.append([v.numpy() for v in variables])
    for mine, its in zip(*results, strict=True):
        np.testing.assert_allclose(mine, its, rtol=16 * EPS, atol=4 * 0.1 * 1.1e-5)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_resource_kernel(amsgrad: bool, rng: np.random.Generator) -> None:
    """TensorFlow's own op, the fall-back; it computes in float32 throughout, with beta^t from float64."""
    start = tensors(rng, SHAPES)
    results = []
    steps = [[tf.constant(g) for g in gradients(rng, SHAPES)] for _ in range(6)]
    for kernel, mode in (("native", "eager"), ("resource", "eager"), ("resource", "function")):
        variables = [tf.Variable(p) for p in start]
        optimizer = Adam(learning_rate=0.01, amsgrad=amsgrad, kernel=kernel)
        optimizer.build(variables)
        assert optimizer.kernel.startswith(kernel)
        run = stepper(optimizer, variables, mode)
        for grads in steps:
            run(grads)
        results.append([v.numpy() for v in variables])
    for others in results[1:]:
        for mine, its in zip(results[0], others, strict=True):
            np.testing.assert_allclose(mine, its, rtol=6 * 4 * EPS, atol=6 * 0.1 * 4e-5)  # 1 - float32(0.999): 1.4e-5
