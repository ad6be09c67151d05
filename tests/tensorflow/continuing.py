"""Training that goes on: small models, fixed gradients, and how far two continuations may be apart.

Needs nothing of Adamas, so that it also runs where only Keras is installed.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

EPS = 2.0**-23
STEPS = 8


@keras.saving.register_keras_serializable("tests")
class Sawtooth(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of the user's own."""

    def __init__(self, top: float) -> None:
        self.top = top

    def __call__(self, step: Any) -> Any:
        return self.top / (1 + tf.cast(step % 3, tf.float32))

    def get_config(self) -> dict[str, Any]:
        return {"top": self.top}


SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "amsgrad": {"amsgrad": True, "beta_2": 0.9, "epsilon": 1e-4},
    "decay": {"weight_decay": 0.1},
    "average": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    "accumulation": {"gradient_accumulation_steps": 3, "amsgrad": True},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.02, 4, 0.5)},
    "own schedule": {"learning_rate": Sawtooth(0.02)},
    "clip": {"global_clipnorm": 0.5, "loss_scale_factor": 8.0},
}


def network(optimizer: Any, **compile_options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.Input((6,)), keras.layers.Dense(16, "relu", name="hidden"), keras.layers.Dense(1, name="out")]
    model = keras.Sequential(layers, name="net")
    model.compile(optimizer=optimizer, loss="mse", **compile_options)
    return model


def steps(seed: int, count: int = STEPS) -> list[list[np.ndarray]]:
    """Gradients for `network`."""
    rng = np.random.default_rng(seed)
    shapes = [(6, 16), (16,), (16, 1), (1,)]
    return [
        [np.asarray(rng.normal(size=s) * 10 ** rng.uniform(-3, 1), np.float32) for s in shapes] for _ in range(count)
    ]


def go_on(model: keras.Model, gradients: list[list[np.ndarray]], in_graph: bool = False) -> list[np.ndarray]:
    """Take steps; how far each weight moved, back and forth counted."""
    optimizer, variables = model.optimizer, model.trainable_variables

    def apply(grads: list[tf.Tensor]) -> None:
        optimizer.apply(grads, variables)

    if in_graph:
        optimizer.build(variables)
        apply = tf.function(apply)
    moved = [np.zeros(v.shape) for v in variables]
    for grads in gradients:
        before = [v.numpy() for v in variables]
        scale = float(optimizer.dynamic_scale) if hasattr(optimizer, "dynamic_scale") and optimizer.built else 1.0
        apply([tf.constant(g) * scale for g in grads])
        for path, v, old in zip(moved, variables, before, strict=True):
            path += abs(v.numpy() - old)
    return moved


def weights(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in model.trainable_variables]


def state(optimizer: Any) -> list[np.ndarray]:
    """Everything the optimizer carries from step to step."""
    return [v.numpy() for v in optimizer.variables]


def same(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, two, strict=True))


NORM = 1e-5  # how far Keras' float32 sum of the squares of all 129 elements, and its root, can take a clipped gradient


def assert_within(case: str, mine: list[np.ndarray], its: list[np.ndarray], moved: list[np.ndarray]) -> None:
    """Keras' steps are off by at most 1.1e-5 of themselves (beta^t in float32); each step rounds a few times more."""
    part = 1.1e-5 + (NORM if case == "clip" else 0.0)
    for a, b, path in zip(mine, its, moved, strict=True):
        assert (abs(a - b) <= part * path + STEPS * 3 * EPS * np.maximum(abs(b), path)).all()
        assert path.all(), "nothing moved"


def assert_same_state(case: str, mine: list[np.ndarray], its: list[np.ndarray], moved: list[np.ndarray]) -> None:
    """Moments are Keras' to the bit, but for what its global norm rounds; averages hold the weights."""
    if case == "clip":
        for a, b in zip(mine, its, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2 * NORM * np.max(abs(b)))
        return
    averages = slice(2, 6) if case == "average" else slice(0)
    assert_within(case, mine[averages], its[averages], moved[: len(mine[averages])])
    del mine[averages], its[averages]
    assert same(mine, its)
