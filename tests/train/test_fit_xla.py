"""The program "xla": gradients from a function that XLA compiles, the optimizer's part outside of it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import adamas.keras
from adamas.errors import UnsupportedError
from adamas.train import PROGRAMS, fit

layers = keras.layers


class Recording(keras.optimizers.SGD):
    """Takes note of what `apply` is given, and whether XLA would compile it."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.seen: dict[str, object] = {}

    def apply(self, grads, trainable_variables=None):
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.seen[variable.path] = gradient
        super().apply(grads, trainable_variables)


def test_the_optimizer_gets_each_gradient_as_train_step_gives_it() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 50, (12, 3)), rng.normal(size=(12, 1))

    def trained(program: str) -> tuple[dict[str, object], list[np.ndarray]]:
        keras.utils.set_random_seed(4)
        inputs = keras.Input((3,), dtype="int32")
        h = layers.Flatten()(layers.Embedding(50, 4, name="table")(inputs))
        unused = keras.ops.stop_gradient(layers.Dense(1, name="unused")(h))
        model = keras.Model(inputs, layers.Dense(1, name="head")(h) + 0 * unused)
        model.compile(Recording(learning_rate=0.1), "mse")
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            fit(model, x, y, batch_size=4, epochs=2, program=program, verbose=0)
        return model.optimizer.seen, model.get_weights()

    seen, weights = trained("xla")
    kinds = {path: type(gradient).__name__ for path, gradient in seen.items()}
    assert kinds["table/embeddings"] == "IndexedSlices"  # 12 rows of it, not the table
    assert tuple(seen["table/embeddings"].values.shape) == (12, 4)
    assert seen["unused/kernel"] is None
    assert isinstance(seen["head/kernel"], tf.Tensor)
    expected_seen, expected = trained("graph")
    assert kinds == {path: type(gradient).__name__ for path, gradient in expected_seen.items()}
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=40 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("start", [2.0**4, 2.0**126])
def test_a_scaled_loss_gives_the_numbers_of_model_fit(program: str, start: float) -> None:
    """At 2^126 the first gradients are not finite: the step is left out and the scale halved."""
    rng = np.random.default_rng(0)
    x = 8 * rng.normal(size=(40, 4)).astype(np.float32)
    y = x[:, :1] - x[:, 1:2]

    def model() -> keras.Model:
        keras.utils.set_random_seed(4)
        made = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(1)])
        made.compile(keras.optimizers.LossScaleOptimizer(adamas.keras.Adam(0.01), initial_scale=start), "mse")
        return made

    settings = {"batch_size": 8, "shuffle": False, "epochs": 2, "verbose": 0}
    ours, theirs = model(), model()
    fit(ours, x, y, program=program, **settings)
    theirs.fit(x, y, **settings)
    assert float(ours.optimizer.dynamic_scale.value) == float(theirs.optimizer.dynamic_scale.value)
    assert (float(ours.optimizer.dynamic_scale.value) < start) == (start > 2.0**100)
    assert int(ours.optimizer.inner_optimizer.iterations.value) == int(
        theirs.optimizer.inner_optimizer.iterations.value
    )
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=80 * np.finfo(np.float32).eps)


def test_the_optimizer_is_itself_again_afterwards() -> None:
    x = np.ones((8, 2), np.float32)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    fit(model, x, x[:, :1], program="xla", verbose=0)
    assert "apply_gradients" not in vars(model.optimizer)
    model.fit(x, x[:, :1], verbose=0)
    assert int(model.optimizer.iterations.value) == 2


def test_metrics_of_ones_own_are_refused_where_they_would_see_other_weights() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            return super().compute_metrics(x, y, y_pred, sample_weight)

    x = np.ones((8, 2), np.float32)
    model = Own()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.raises(UnsupportedError, match="'graph' or 'xla-loop'"):
        fit(model, x, x[:, :1], program="xla", verbose=0)
    fit(model, x, x[:, :1], program="graph", verbose=0)
