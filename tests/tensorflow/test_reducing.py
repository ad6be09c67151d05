"""Rules that look at a whole tensor before they step it: the native op gives the bits of the reference, the array
expression its numbers but for the order of its sums."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import tensors

from adamas.kernels import reference
from adamas.numpy import LAMB
from adamas.rule import Clip, Hyper, Rule
from adamas.tensorflow import Adam

SHAPES: list[tuple[int, ...]] = [(), (31,), (0, 3), (4097,), (33, 257)]
RULES = [Rule(clip_update=True), Rule(trust_ratio="with_decay"), Rule(trust_ratio="without_decay"), Rule(cautious=True)]
SETTINGS = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.3}
STEPS = 5


def stepped(rule: Rule, start: list[np.ndarray], grads: list[list[np.ndarray]], clip: Clip | None) -> list[np.ndarray]:
    """By the reference: parameters, then moments slot by slot."""
    params = [p.copy() for p in start]
    slots = [[np.zeros_like(p) for p in start] for _ in rule.slots]
    plan = reference.Plan(rule, [f"p{i}" for i in range(len(start))], params, slots)
    hyper = Hyper(float(np.float32(SETTINGS["learning_rate"])), 0.8, 0.95, 1e-3, 0.0, 0.3)
    for t, step in enumerate(grads, 1):
        plan.step(step, np.full(len(start), t), np.array([list(vars(hyper).values())]), clip=clip)
    return [*params, *(array for slot in slots for array in slot)]


@pytest.mark.parametrize(("clip", "more"), [(None, {}), (Clip("norm", 0.5), {"clipnorm": 0.5})], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["native", "xla"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.clip_update}-{rule.trust_ratio}-{rule.cautious}")
def test_each_engine(
    rule: Rule, kernel: Any, dtype: str, clip: Clip | None, more: dict[str, Any], rng: np.random.Generator
) -> None:
    class Reducing(Adam):
        def _rule(self) -> Rule:
            return rule

    start = tensors(rng, SHAPES, dtype)
    grads = [[np.asarray(g * 10.0**size, dtype) for g in tensors(rng, SHAPES)] for size in (0, -1, 1, 0, 2)]
    variables = [tf.Variable(p) for p in start]
    optimizer = Reducing(**SETTINGS, **more, kernel=kernel)
    run = tf.function(lambda step: optimizer.apply(step, variables), jit_compile=kernel == "xla")
    optimizer.build(variables)
    for step in grads:
        run([tf.constant(g) for g in step])
    state = optimizer.portable_state()
    moments = [state.slots[name][slot.name] for slot in rule.slots for name in state.names]
    got = [*(variable.numpy() for variable in variables), *moments]
    expected = stepped(rule, start, grads, clip)
    plain = stepped(Rule(), start, grads, clip)
    assert max(abs(a - b).max(initial=0.0) for a, b in zip(expected, plain, strict=True)) > 1e-3, "it matters here"
    for mine, right in zip(got, expected, strict=True):
        if kernel == "native":
            assert mine.tobytes() == right.tobytes()
        else:  # each step of about 0.1 is computed in some ten operations, of which XLA contracts a few
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(mine, right, rtol=64 * eps, atol=64 * eps)


def test_lamb_is_keras_own(rng: np.random.Generator) -> None:
    """In float64, with numbers that float32 holds, as Keras reads them; with decay and a parameter that starts at 0."""
    start = [rng.normal(size=(40, 13)), np.zeros(31)]
    variables, params = [keras.Variable(p, dtype="float64") for p in start], [p.copy() for p in start]
    theirs = keras.optimizers.Lamb(0.0625, 0.75, 0.9375, 2.0**-10, weight_decay=0.25)
    ours = LAMB(params, 0.0625, (0.75, 0.9375), 2.0**-10, 0.25, like="keras")
    for _ in range(20):
        grads = [rng.normal(size=p.shape) * 10 ** rng.uniform(-4, 1) for p in start]
        theirs.apply([tf.constant(g) for g in grads], variables)
        ours.step(grads)
    for variable, p in zip(variables, params, strict=True):
        np.testing.assert_allclose(variable.numpy(), p, rtol=1e-12, atol=1e-13)
