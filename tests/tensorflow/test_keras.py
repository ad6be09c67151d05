"""`adamas.keras` under Keras: compile, fit, callbacks, files, checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import adamas.keras
from adamas import state
from adamas.errors import StateError
from adamas.keras import Adam, AdamW

# Keras 3.15 converts tensors with a NumPy call that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(64, 6)).astype("float32")
    return x, (x.sum(1, keepdims=True) > 0).astype("float32")


def model_with(optimizer: Any, **compile_options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(1, "sigmoid", name="out"),
        ],
        name="net",
    )
    model.compile(optimizer=optimizer, loss="binary_crossentropy", **compile_options)
    return model


def train(model: keras.Model, epochs: int = 2, **options: Any) -> keras.callbacks.History:
    return model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.array(w) for w in model.get_weights()]


def equal(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("jit", [False, True])
def test_fit_follows_keras(jit: bool) -> None:
    """24 steps of at most 0.1, each within 1.1e-5 of Keras' where the gradients agree, and they nearly do."""
    mine, its = model_with(Adam(0.01), jit_compile=jit), model_with(keras.optimizers.Adam(0.01), jit_compile=jit)
    losses = [train(model, epochs=6).history["loss"] for model in (mine, its)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
    assert mine.optimizer.kernel.startswith("native")


def test_run_eagerly_equals_the_graph() -> None:
    one, two = model_with(AdamW(0.01), run_eagerly=True), model_with(AdamW(0.01), run_eagerly=False)
    train(one), train(two)
    for a, b in zip(weights(one), weights(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # TensorFlow's own gradients differ in the last places


def test_callbacks_set_the_learning_rate() -> None:
    model = model_with(Adam(0.01))
    rates: list[float] = []
    train(
        model,
        epochs=3,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1)),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda e, logs: rates.append(float(model.optimizer.learning_rate))
            ),
        ],
    )
    np.testing.assert_allclose(rates, [0.01, 0.005, 0.01 / 3], rtol=1e-6)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_saved_model_goes_on_as_if_never_stopped(amsgrad: bool, tmp_path: Path) -> None:
    model = model_with(AdamW(0.01, amsgrad=amsgrad))
    train(model)
    model.save(tmp_path / "model.keras")
    loaded = adamas.keras.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is AdamW
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert equal(weights(model), weights(loaded))
    train(model), train(loaded)
    assert equal(weights(model), weights(loaded))


def test_state_for_another_model_is_refused() -> None:
    one, two = Adam(), Adam()
    one.build([tf.Variable(tf.zeros(3))])
    two.build([tf.Variable(tf.zeros(4))])
    store: dict[str, np.ndarray] = {}
    one.save_own_variables(store)
    with pytest.raises(StateError, match=r"array 2 has the shape \(3,\), that of this optimizer \(4,\)"):
        two.load_own_variables(store)
    with pytest.warns(UserWarning, match=r"no moments yet.*optimizer\.build"):
        Adam().load_own_variables(store)


def test_model_saved_before_its_first_step(tmp_path: Path) -> None:
    model = model_with(Adam(0.01))
    model.save(tmp_path / "model.keras")
    loaded = adamas.keras.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.built
    train(model), train(loaded)
    assert equal(weights(model), weights(loaded))


def test_portable_state_file(tmp_path: Path) -> None:
    model = model_with(AdamW(0.01))
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    train(model)
    state.save(tmp_path / "adam.safetensors", model.optimizer)
    read = state.load(tmp_path / "adam.safetensors")
    assert read.names == tuple(v.path for v in model.trainable_variables)
    assert set(read.steps.values()) == {8}
    assert [read.hypers[read.groups[name]].weight_decay > 0 for name in read.names] == [True, False, True, False]

    other = model_with(AdamW(0.5))
    other.optimizer.exclude_from_weight_decay(var_names=["bias"])
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_portable_state(read)
    other.set_weights(model.get_weights())
    train(model), train(other)
    assert equal(weights(model), weights(other))

    plain = model_with(Adam(0.01))
    plain.optimizer.build(plain.trainable_variables)
    with pytest.raises(StateError):
        model_with(Adam(0.01, amsgrad=True)).optimizer.load_portable_state(read)
    with pytest.raises(StateError, match="weight_decay"):
        plain.optimizer.load_portable_state(read)
    assert int(plain.optimizer.iterations) == 0


@pytest.mark.parametrize("build_first", [True, False])
def test_tensorflow_checkpoint(build_first: bool, tmp_path: Path) -> None:
    shapes = [(3,), (4097,)]
    rng = np.random.default_rng(5)
    grads = [[tf.constant(rng.normal(size=s), tf.float32) for s in shapes] for _ in range(6)]
    variables, optimizer = [tf.Variable(tf.ones(s)) for s in shapes], Adam(0.01)
    for step in grads[:3]:
        optimizer.apply(step, variables)
    path = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(str(tmp_path / "checkpoint"))

    others, restored = [tf.Variable(tf.zeros(s)) for s in shapes], Adam(0.5)
    if build_first:
        restored.build(others)
    status = tf.train.Checkpoint(optimizer=restored, variables=others).restore(path)
    restored.build(others)
    status.assert_consumed()
    for step in grads[3:]:
        optimizer.apply(step, variables)
        restored.apply(step, others)
    for a, b in zip(variables, others, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


def test_saved_model_of_a_compiled_model(tmp_path: Path) -> None:
    model = model_with(Adam(0.01))
    train(model)
    x, _ = data()
    model.export(tmp_path / "export", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(exported.serve(x), model(x), rtol=1e-6)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    (result,) = saved.signatures["serving_default"](tf.constant(x)).values()
    np.testing.assert_allclose(result, model(x), rtol=1e-6)


def test_pickled_model_goes_on_as_if_never_stopped() -> None:
    model = model_with(Adam(0.01))
    train(model)
    copy = pickle.loads(pickle.dumps(model))
    train(model), train(copy)
    assert equal(weights(model), weights(copy))


def test_loss_scaling_and_mixed_precision() -> None:
    """Under mixed_float16 Keras wraps the optimizer and the variables stay float32."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = model_with(Adam(0.01))
        history = train(model, epochs=6).history["loss"]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert history[-1] < history[0]
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.inner_optimizer.kernel.startswith("native")


def test_file_from_keras_in_mixed_precision(tmp_path: Path) -> None:
    """There the optimizer is inside Keras' loss scaling, in the file too."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = model_with(keras.optimizers.Adam(0.01))
        train(model)
        model.save(tmp_path / "model.keras")
        loaded = adamas.keras.load_model(tmp_path / "model.keras")
        scaling = loaded.optimizer
        assert isinstance(scaling, keras.optimizers.LossScaleOptimizer)
        assert type(scaling.inner_optimizer) is Adam
        assert int(scaling.inner_optimizer.iterations) == int(model.optimizer.inner_optimizer.iterations)
        assert float(scaling.dynamic_scale) == float(model.optimizer.dynamic_scale)
        store: dict[str, np.ndarray] = {}
        scaling.inner_optimizer.save_own_variables(store)
        for key, variable in enumerate(model.optimizer.inner_optimizer.variables):
            assert np.array_equal(store[str(key)], variable.numpy())
        train(loaded)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_config_round_trip() -> None:
    optimizer = AdamW(0.01, weight_decay=0.2, beta_1=0.8, amsgrad=True, clipnorm=1.0, kernel="native")
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is AdamW
    assert again.get_config() == optimizer.get_config()
    schedule = Adam(keras.optimizers.schedules.CosineDecay(0.1, 100))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(schedule))
    assert type(again) is Adam
    assert isinstance(again._learning_rate, keras.optimizers.schedules.CosineDecay)
