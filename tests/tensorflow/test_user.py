"""What a Keras user relies on: callbacks, schedules, compile's options, frozen layers, optimizers, configurations.

Beside Keras' own optimizer wherever it can be asked the same; and what is refused, each with what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from continuing import Sawtooth, assert_within, go_on, network, same, state, steps, weights

from adamas.errors import ArgumentError, KernelError, UnsupportedError
from adamas.kernels.tensorflow import stepper
from adamas.kernels.tensorflow.settings import Line, Settings
from adamas.rule import Hyper
from adamas.tensorflow import Adam, AdamW

# Keras 3.15 converts tensors with a NumPy call that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Optimizers = keras.optimizers
BOTH: list[type] = [Adam, Optimizers.Adam]


def data(rows: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, np.tanh(x.sum(1, keepdims=True))


def fit(model: keras.Model, epochs: int = 4, **options: Any) -> dict[str, list[float]]:
    x, y = data()
    history = model.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, validation_data=(x, y), **options
    ).history
    return {name: [float(value) for value in values] for name, values in history.items()}


def assert_alike(mine: keras.Model, its: keras.Model) -> None:
    """After a few epochs of `fit`: each step within 1.1e-5 of Keras', and the gradients then differ as little."""
    for a, b in zip(weights(mine), weights(its), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    start = network("sgd")
    assert not any(np.array_equal(a, b) for a, b in zip(weights(mine), weights(start), strict=True))


Schedules = keras.optimizers.schedules
SCHEDULES: dict[str, Callable[[], Any]] = {
    "cosine": lambda: Schedules.CosineDecay(0.02, 8, alpha=0.1, warmup_target=0.05, warmup_steps=3),
    "restarts": lambda: Schedules.CosineDecayRestarts(0.02, 3),
    "exponential": lambda: Schedules.ExponentialDecay(0.02, 3, 0.5, staircase=True),
    "inverse time": lambda: Schedules.InverseTimeDecay(0.02, 3, 0.5),
    "pieces": lambda: Schedules.PiecewiseConstantDecay([2, 5], [0.02, 0.001, 0.01]),
    "polynomial": lambda: Schedules.PolynomialDecay(0.02, 6, 0.001, power=2.0, cycle=True),
    "one's own": lambda: Sawtooth(0.02),
    "callable": lambda: lambda: 0.015,
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule(schedule: str, mode: str) -> None:
    models = [network(cls(SCHEDULES[schedule](), amsgrad=True)) for cls in BOTH]
    moved = [go_on(model, steps(seed=1), in_graph=mode == "graph") for model in models]
    assert_within("", weights(models[0]), weights(models[1]), moved[1])
    assert same(state(models[0].optimizer), state(models[1].optimizer))
    rates = [float(model.optimizer.learning_rate) for model in models]
    assert rates[0] == rates[1]
    if schedule != "callable":
        with pytest.raises(TypeError, match="not settable"):
            models[0].optimizer.learning_rate = 0.1


@pytest.mark.parametrize(("jit", "steps_per_execution"), [("auto", 1), (False, 3), (True, 1), (True, 3)])
def test_compile_options(jit: Any, steps_per_execution: int) -> None:
    mine, its = (network(cls(0.01), jit_compile=jit, steps_per_execution=steps_per_execution) for cls in BOTH)
    histories = [fit(model) for model in (mine, its)]
    assert_alike(mine, its)
    np.testing.assert_allclose(histories[0]["val_loss"], histories[1]["val_loss"], rtol=1e-4)
    assert int(mine.optimizer.iterations) == int(its.optimizer.iterations) == 12
    if jit is not True:  # Keras' "auto" is no XLA on a CPU
        assert mine.optimizer.kernel.startswith("native")


def plateau() -> keras.callbacks.Callback:
    return keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=1, min_delta=10.0)


def scheduler() -> keras.callbacks.Callback:
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate if epoch < 2 else rate * 0.25)


def stopping() -> keras.callbacks.Callback:
    return keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=10.0, patience=1, restore_best_weights=True)


@pytest.mark.parametrize("callback", [plateau, scheduler, stopping])
def test_callbacks(callback: Callable[[], keras.callbacks.Callback]) -> None:
    mine, its = (network(cls(0.01)) for cls in BOTH)
    histories = [fit(model, callbacks=[callback()]) for model in (mine, its)]
    assert histories[0].keys() == histories[1].keys()
    if callback is stopping:
        assert len(histories[0]["loss"]) == len(histories[1]["loss"]) == 2
    else:
        assert histories[0]["learning_rate"] == histories[1]["learning_rate"]
        assert len(set(histories[0]["learning_rate"])) > 1
    assert_alike(mine, its)


def test_backup_and_checkpoint_callbacks(tmp_path: Any) -> None:
    """A training that is cut off goes on from its backup, optimizer included, to the bit."""

    class Cut(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    whole, cut = network(Adam(0.01)), network(Adam(0.01))
    fit(whole)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, callbacks=[keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), Cut()])
    again = network(Adam(0.01))
    best = str(tmp_path / "best.keras")
    keep = [keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), keras.callbacks.ModelCheckpoint(best)]
    fit(again, callbacks=keep)
    assert same(weights(again), weights(whole))
    assert same(state(again.optimizer), state(whole.optimizer))
    assert same(state(keras.models.load_model(best).optimizer), state(whole.optimizer))


def test_freezing_layers_between_fits() -> None:
    models = [network(cls(0.01)) for cls in BOTH]
    for model in models:
        fit(model, epochs=1)
        hidden = model.get_layer("hidden")
        hidden.trainable = False
        frozen, moments = hidden.kernel.numpy(), state(model.optimizer)[2:6]
        model.compile(optimizer=model.optimizer, loss="mse")  # the same optimizer, with its moments
        fit(model, epochs=1)
        assert np.array_equal(hidden.kernel.numpy(), frozen)
        assert same(state(model.optimizer)[2:6], moments)
        hidden.trainable = True
        model.compile(optimizer=model.optimizer, loss="mse")
        fit(model, epochs=1)
        assert not np.array_equal(hidden.kernel.numpy(), frozen)
        model.compile(optimizer=type(model.optimizer)(0.02), loss="mse")  # a new one
        fit(model, epochs=1)
    assert_alike(*models)


def test_thawing_layers_that_the_optimizer_has_not_seen() -> None:
    """Keras refuses them; ours says how they are added, and then trains them."""
    model = network(Adam(0.01))
    hidden = model.get_layer("hidden")
    hidden.trainable = False
    model.compile(optimizer=model.optimizer, loss="mse")
    fit(model, epochs=1)
    hidden.trainable = True
    model.compile(optimizer=model.optimizer, loss="mse")
    with pytest.raises(ArgumentError, match=r"unknown to the optimizer .* call its build"):
        fit(model, epochs=1)
    model.optimizer.build(model.trainable_variables)
    before = hidden.kernel.numpy()
    fit(model, epochs=1)
    assert not np.array_equal(hidden.kernel.numpy(), before)


class Adversaries(keras.Model):
    """Two networks, an optimizer each, a `train_step` of its own: the shape of a GAN."""

    def __init__(self, optimizers: list[Any]) -> None:
        super().__init__()
        keras.utils.set_random_seed(2)
        self.maker, self.judge = keras.layers.Dense(6, name="maker"), keras.layers.Dense(1, name="judge")
        self.two = optimizers

    def build(self, shape: Any) -> None:
        self.maker.build(shape)
        self.judge.build(shape)

    def call(self, x: Any) -> Any:
        return self.judge(self.maker(x))

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, _ = batch
        with tf.GradientTape(persistent=True) as tape:
            real, false = self.judge(x), self.judge(self.maker(x))
            judged = tf.reduce_mean(tf.nn.softplus(-real) + tf.nn.softplus(false))
            made = tf.reduce_mean(tf.nn.softplus(-false))
        for loss, optimizer, layer in ((judged, self.two[0], self.judge), (made, self.two[1], self.maker)):
            grads = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply_gradients(zip(grads, layer.trainable_variables, strict=True))
        return {"judged": judged, "made": made}


def test_two_optimizers_in_a_train_step() -> None:
    models = [Adversaries([cls(0.01), cls(0.002, beta_1=0.5)]) for cls in BOTH]
    for model in models:
        model.compile(loss="mse")
        model.fit(*data(), batch_size=16, epochs=4, shuffle=False, verbose=0)
    for a, b in zip(*map(weights, models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert [int(optimizer.iterations) for optimizer in models[0].two] == [12, 12]


ARGUMENTS: dict[str, Any] = {
    "learning_rate": 0.25,
    "beta_1": 0.5,
    "beta_2": 0.75,
    "epsilon": 0.125,
    "amsgrad": True,
    "weight_decay": 0.0625,
    "clipnorm": 2.0,
    "clipvalue": 2.0,
    "global_clipnorm": 2.0,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 7,
    "loss_scale_factor": 4.0,
    "gradient_accumulation_steps": 3,
    "name": "mine",
    "kernel": "xla",
}


def ways() -> Iterator[Callable[[Any], Any]]:
    yield lambda one: type(one).from_config(one.get_config())
    yield lambda one: keras.optimizers.deserialize(keras.optimizers.serialize(one))
    yield lambda one: keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(one))
    yield lambda one: keras.optimizers.get(keras.optimizers.serialize(one))


@pytest.mark.parametrize("cls", [Adam, AdamW])
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_configurations_round_trip(argument: str, cls: type) -> None:
    value = ARGUMENTS[argument]
    one = cls(**{argument: value})
    config = one.get_config()
    assert config[argument] == value
    assert type(config[argument]) is type(value)
    peer = getattr(Optimizers, cls.__name__)
    if argument != "kernel":
        assert peer(**{"name": one.name, argument: value}).get_config() == config
    for way in ways():
        again = way(one)
        assert type(again) is cls
        assert again.get_config() == config


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "callable"])
def test_schedules_round_trip(schedule: str) -> None:
    one = Adam(SCHEDULES[schedule]())
    for way in ways():
        again = way(one)
        assert type(again._learning_rate) is type(one._learning_rate)
        assert again.get_config() == one.get_config()


def test_every_argument_of_keras_is_taken() -> None:
    import inspect

    for cls in (Adam, AdamW):
        ours, theirs = (inspect.signature(c).parameters for c in (cls, getattr(Optimizers, cls.__name__)))
        wanted = [(p.name, p.default) for p in theirs.values() if p.kind is not p.VAR_KEYWORD]
        assert [(p.name, p.default) for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == wanted


def test_a_clone_compiled_from_the_configuration() -> None:
    model = network(AdamW(0.01, weight_decay=0.125, kernel="native"), jit_compile=False, steps_per_execution=2)
    fit(model, epochs=1)
    clone = keras.models.clone_model(model)
    clone.compile_from_config(model.get_compile_config())
    assert clone.optimizer is not model.optimizer
    assert clone.optimizer.get_config() == model.optimizer.get_config()
    assert clone.optimizer.built
    assert int(clone.optimizer.iterations) == 0
    clone.set_weights(model.get_weights())
    clone.optimizer.set_weights([v.numpy() for v in model.optimizer.variables])
    for one in (model, clone):
        fit(one, epochs=1)
    assert same(weights(clone), weights(model))


def strategy() -> Any:
    return tf.distribute.MirroredStrategy(["CPU:0"])


def built_in_scope() -> None:
    optimizer = Adam()
    with strategy().scope():
        optimizer.build([tf.Variable([1.0])])


def built_outside_for_mirrored_variables() -> None:
    with strategy().scope():
        variable = keras.Variable([1.0])
    Adam().build([variable])


def applied_in_replicas() -> None:
    optimizer, variable = Adam(), tf.Variable([1.0])
    optimizer.build([variable])
    strategy().run(lambda: optimizer.apply([tf.ones(1)], [variable]))


def fitted() -> None:
    with strategy().scope():
        model = network("sgd")
    model.compile(optimizer=Adam(), loss="mse")
    fit(model, epochs=1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what TensorFlow says about strategies
@pytest.mark.parametrize("use", [built_in_scope, built_outside_for_mirrored_variables, applied_in_replicas, fitted])
def test_strategies_are_refused(use: Callable[[], None]) -> None:
    with pytest.raises(
        UnsupportedError, match=r"(Strategy is active|tf\.distribute strategy).*keras\.optimizers\.Adam"
    ):
        use()


REFUSED = [
    ("int32", 1, "leave it out"),
    ("bool", True, "leave it out"),
    ("string", "a", "leave it out"),
    ("complex64", 1j, r"tf\.complex"),
    ("float8_e5m2", 1.0, "bfloat16 or in a wider dtype"),
]


@pytest.mark.parametrize(("dtype", "value", "remedy"), REFUSED)
def test_variables_that_cannot_be_stepped(dtype: str, value: Any, remedy: str) -> None:
    optimizer, good = Adam(), tf.Variable([1.0], name="good")
    bad = tf.Variable(tf.constant([value], dtype), name="bad")
    for attempt in (lambda: optimizer.build([good, bad]), lambda: optimizer.apply([tf.ones(1)] * 2, [good, bad])):
        with pytest.raises(UnsupportedError, match=rf"'bad:0' is {dtype}.*{remedy}"):
            attempt()
    assert not optimizer.built
    optimizer.apply([tf.ones(1)], [good])
    with pytest.raises(UnsupportedError, match=rf"'bad:0' is {dtype}"):
        optimizer.build([bad])
    optimizer.apply([tf.ones(1)], [good])


def test_a_variable_and_its_value_are_one() -> None:
    variable, other = keras.Variable([1.0, 2.0]), keras.Variable([1.0])
    optimizer = Adam(0.5)
    pair = [variable, variable.value]
    with pytest.raises(ArgumentError, match="twice"):
        optimizer.build(pair)
    with pytest.raises(ArgumentError, match="twice"):
        optimizer.apply([tf.ones(2)] * 2, pair)
    assert not optimizer.built
    optimizer.build([variable, other])
    for run in (lambda step: step(), lambda step: tf.function(step)()):
        with pytest.raises(ArgumentError, match="twice"):
            run(lambda: optimizer.apply([tf.ones(2)] * 2, pair))
    assert variable.numpy().tolist() == [1.0, 2.0]
    optimizer.apply([tf.ones(2)], [variable.value])
    optimizer.apply([tf.ones(2)], [variable])
    assert int(optimizer.iterations) == 2
    np.testing.assert_allclose(variable.numpy(), [0.0, 1.0], atol=1e-5)  # epsilon takes 3e-6 off each step


def test_gradients_of_another_dtype_cost_one_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op refuses them by an exception; a list whose gradients had to be cast is looked at before the next call."""
    variables, optimizer = [tf.Variable([1.0, 2.0]), tf.Variable([3.0])], Adam(0.1)
    twins, twin = [tf.Variable([1.0, 2.0]), tf.Variable([3.0])], Adam(0.1)
    wide = [tf.constant([0.5, 0.25], tf.float64), tf.constant([1.0], tf.float64)]
    narrow = [tf.cast(gradient, tf.float32) for gradient in wide]
    optimizer.build(variables)
    native = optimizer._stepper._native
    calls: list[int] = []
    step = native.step
    monkeypatch.setattr(native, "step", lambda *arguments: (calls.append(1), step(*arguments))[1])
    counts = []
    for grads in (wide, wide, wide, narrow, narrow, wide):
        calls.clear()
        optimizer.apply(grads, variables)
        twin.apply(narrow, twins)
        counts.append(len(calls))
    assert counts == [1, 1, 1, 1, 1, 2]
    assert all(np.array_equal(a, b) for a, b in zip(variables, twins, strict=True))


def on(device: str) -> Any:
    return SimpleNamespace(name="weight:0", device=device)


def test_variables_on_a_gpu_are_stepped_by_the_array_expression() -> None:
    """The choice, by where the variables say they are; the step itself is tested where there is a GPU."""
    cpu, gpu = on("/job:localhost/replica:0/task:0/device:CPU:0"), on("/job:localhost/replica:0/task:0/device:GPU:1")
    plain = Settings((Line(Hyper()),))
    assert stepper._choose("auto", [cpu, on("")], plain, True)[0] == "native"
    kind, reason = stepper._choose("auto", [cpu, gpu], plain, True)
    assert (kind, reason) == ("xla", f"variable 'weight:0' is on {gpu.device}")
    with pytest.raises(KernelError, match=r"kernel='native' cannot serve: variable 'weight:0' is on .*GPU:1"):
        stepper._choose("native", [gpu], plain, True)


@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="TensorFlow sees no GPU here")
def test_a_step_on_a_gpu() -> None:
    start = np.linspace(-1, 1, 5000, dtype=np.float32)
    found = []
    for device in ("GPU:0", "CPU:0"):
        with tf.device(device):
            variables = [tf.Variable(start), tf.Variable(start[:3])]
        optimizer = AdamW(0.01, amsgrad=True)
        for seed in range(4):
            rng = np.random.default_rng(seed)
            optimizer.apply([tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables], variables)
        assert optimizer.kernel.startswith("xla" if device == "GPU:0" else "native")
        found.append([v.numpy() for v in variables] + state(optimizer))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
