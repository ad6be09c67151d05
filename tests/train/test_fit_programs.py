"""Compiled programs: made once, kept while they hold, interrupted between two calls."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest

import adamas.keras
from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.train import fit, snapshot

PROGRAMS = ("graph", "xla", "xla-loop")


def data(rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    return x, x[:, :1] - x[:, 1:2]


class Traced:
    """A loss that counts how often it is traced."""

    __name__ = "traced"

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, y_true, y_pred):
        self.count += 1
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def regression(optimizer: keras.optimizers.Optimizer, loss: object = "mse") -> keras.Model:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
    model.compile(optimizer, loss)
    return model


@pytest.mark.parametrize("program", PROGRAMS)
def test_new_values_compile_nothing(program: str) -> None:
    x, y = data(42)
    traced = Traced()
    model = regression(keras.optimizers.Adam(0.01), traced)
    settings = {"batch_size": 4, "program": program, "verbose": 0, "validation_data": (x[:9], y[:9])}
    start = snapshot(model)
    began = time.perf_counter()
    first = fit(model, x, y, **settings).history
    took = time.perf_counter() - began
    count = traced.count
    assert count > 0
    start.restore()
    assert fit(model, x, y, **settings).history == first
    start.restore()
    model.optimizer.learning_rate = 0.5
    assert fit(model, x, y, **settings).history != first
    model.set_weights([0 * w for w in model.get_weights()])
    # XLA compiles without tracing, and once compiled anew for each value of an argument: pieces of any length must do.
    began = time.perf_counter()
    for piece in range(1, 9):
        fit(model, x + piece, y, piece_steps=piece, **settings)
    assert time.perf_counter() - began < max(took, 0.5)
    assert traced.count == count


def test_what_changes_the_step_compiles_anew() -> None:
    x, y = data()
    traced = Traced()
    model = regression(keras.optimizers.SGD(0.01, momentum=0.5), traced)
    settings = {"batch_size": 4, "program": "graph", "verbose": 0}
    start = snapshot(model)

    def weights() -> list[float]:
        start.restore()
        before = traced.count
        fit(model, x, y, **settings)
        fresh.append(traced.count > before)
        return [float(w.sum()) for w in model.get_weights()]

    fresh: list[bool] = []
    first = weights()
    assert weights() == first
    model.optimizer.momentum = 0.9
    faster = weights()
    assert faster != first
    model.layers[0].trainable = False
    frozen = weights()
    assert frozen != faster
    assert frozen[:2] == [float(w.sum()) for w in start._values[:2]]
    model.layers[0].trainable = True
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mae")
    with pytest.raises(StateError, match=r"take it again after model\.compile"):
        start.restore()
    assert fresh == [True, False, True, True]
    history = fit(model, x, y, **settings)
    assert list(history.history) == ["loss"]
    model.compile(keras.optimizers.SGD(0.0), "mae")  # without momentum, which would move the weights at this rate too
    absolute = fit(model, x, y, **settings).history["loss"]
    assert fit(model, x, y, **settings).history["loss"] == absolute
    model.compile(model.optimizer, "mse")  # another loss with the very same optimizer
    assert fit(model, x, y, **settings).history["loss"] != absolute


@pytest.mark.parametrize(("program", "scaled"), [("graph", False), ("xla-loop", False), ("graph", True), ("xla", True)])
def test_leaving_variables_out_of_decay_between_two_trainings_counts(program: str, scaled: bool) -> None:
    """It is no part of the optimizer's configuration, and a compiled step holds it as a constant."""
    x, y = data()

    def shrunk(names: list[str]) -> list[float]:
        adam = adamas.keras.AdamW(0.1, weight_decay=0.5, epsilon=1e9)  # decay alone moves the weights
        model = regression(keras.optimizers.LossScaleOptimizer(adam) if scaled else adam)
        fit(model, x, y, program=program, verbose=0)
        adam.exclude_from_weight_decay(var_names=names)
        before = model.get_weights()
        fit(model, x, y, program=program, verbose=0)
        return [float(w.sum() / b.sum()) for w, b in zip(model.get_weights()[::2], before[::2], strict=True)]

    assert shrunk(["kernel"]) == pytest.approx([1, 1], rel=1e-6)
    assert shrunk(["bias"]) == pytest.approx([0.95**2, 0.95**2], rel=1e-6)  # 40 rows, 32 a step


def test_a_schedule_is_followed_and_can_be_replaced() -> None:
    x, y = data()

    def trained(rate: object, later: object = None) -> list[np.ndarray]:
        model = regression(keras.optimizers.SGD(rate))
        fit(model, x, y, batch_size=4, program="graph", verbose=0)
        if later is not None:
            model.optimizer.learning_rate = later
        fit(model, x, y, batch_size=4, program="graph", verbose=0)
        return model.get_weights()

    steps = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 0.01])
    for a, b in zip(trained(steps), trained(0.1, 0.01), strict=True):
        np.testing.assert_array_equal(a, b)
    other = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 0.0])
    assert not np.array_equal(trained(steps, other)[0], trained(steps)[0])


def test_a_snapshot_brings_back_all_that_training_changes() -> None:
    x, y = data()
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    start = snapshot(model)
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    first = fit(model, x, y, program="graph", verbose=0, epochs=2).history
    changed = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    assert (
        sum(not np.array_equal(a, b) for a, b in zip(before, changed, strict=True)) >= len(before) - 1
    )  # not the rate
    start.restore()
    for a, b in zip(before, (*model.variables, *model.optimizer.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    assert fit(model, x, y, program="graph", verbose=0, epochs=2).history == first
    with pytest.raises(ArgumentError, match="not compiled"):
        snapshot(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    with pytest.raises(ArgumentError, match="no weights yet"):
        snapshot(keras.Sequential([keras.layers.Dense(1)]))


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_is_heard_at_once_and_leaves_whole_steps(program: str) -> None:
    # The gradient of mean(w x) at x = 1 is 1: each step takes exactly 1/1024 off w, until float32 has no more digits.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(2.0**-10), loss=lambda y_true, y_pred: y_pred)
    x = np.ones((4096, 1), np.float32)
    settings = {"batch_size": 1, "shuffle": False, "program": program, "verbose": 0}
    fit(model, x, x, **settings)
    sent = []

    def interrupt() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.6, interrupt)
    # A process started in the background of a script ignores the signal, and would train for ever here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            fit(model, x, x, epochs=10**9, **settings)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - sent[0] < 1.0
    timer.join()
    steps = int(model.optimizer.iterations.value)
    assert steps > 4096
    assert float(model.get_weights()[0].item()) == -min(steps, 2**24) / 1024
    fit(model, x, x, **settings)
    assert int(model.optimizer.iterations.value) == steps + 4096


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own Model.save
def test_programs_go_with_their_model_and_not_into_its_file(tmp_path: Path) -> None:
    x, y = data()
    model = regression(keras.optimizers.Adam(0.01))
    fit(model, x, y, program="graph", verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    fit(loaded, x, y, program="graph", verbose=0)
    fit(model, x, y, program="graph", verbose=0)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_model_fit_and_fit_take_turns() -> None:
    x, y = data()
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0}
    one, other = regression(keras.optimizers.Adam(0.01)), regression(keras.optimizers.Adam(0.01))
    for _ in range(2):
        one.fit(x, y, **settings)
        one.fit(x, y, **settings)
        other.fit(x, y, **settings)
        fit(other, x, y, program="graph", **settings)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=40 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("program", ["xla", "xla-loop"])
def test_what_xla_cannot_compile_is_refused_before_anything_changes(program: str) -> None:
    x, y = data()

    @keras.saving.register_keras_serializable("test")
    class Host(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), x.shape)

    keras.utils.set_random_seed(2)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(3)(inputs) + Host()(inputs)[:, :3]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    with pytest.raises(UnsupportedError, match="program='graph'"):
        fit(model, x, y, program=program, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    fit(model, x, y, verbose=0)  # "auto" knows better


def test_our_optimizer_is_laid_out_for_the_program_and_serves_both() -> None:
    x, y = data()
    settings = {"batch_size": 8, "verbose": 0}
    results = []
    for programs in (("xla-loop", "graph"), ("graph", "graph")):
        model = regression(adamas.keras.Adam(0.01))
        for program in programs:
            fit(model, x, y, program=program, **settings)
        results.append((len(model.optimizer.variables), model.get_weights()))
    (separate, mixed), (arena, graph) = results
    assert separate == 2 + 2 * 4  # iterations and learning rate; two moments of each of four parameters
    assert arena <= separate  # where the native op serves: one variable for each moment
    for a, b in zip(mixed, graph, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=40 * np.finfo(np.float32).eps)
    start = snapshot(model := regression(adamas.keras.Adam(0.01)))
    assert len(model.optimizer.variables) == separate  # the table says xla-loop
    fit(model, x, y, **settings)
    start.restore()
    assert int(model.optimizer.iterations.value) == 0


def test_a_program_that_xla_compiles_needs_no_native_op(tmp_path: Path) -> None:
    script = """
import adamas.keras, keras, numpy as np
from adamas.train import fit
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(adamas.keras.Adam(0.01), "mse")
fit(model, np.ones((40, 4), "float32"), np.ones((40, 1), "float32"), program="xla-loop", verbose=0)
assert int(model.optimizer.iterations.value) == 2
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not list(tmp_path.rglob("*.so"))  # it would take 20 s to build
