"""Keras' callbacks for epochs do in `fit` what they do in `model.fit`: same numbers, same files, same weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import adamas.keras
from adamas.train import fit, snapshot

EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = (X[:, :1] - X[:, 1:2]).astype(np.float32)
EPOCHS = 6
SETTINGS = {"batch_size": 8, "epochs": EPOCHS, "shuffle": False, "verbose": 0, "validation_data": (X[:16], 1 - Y[:16])}

# Keras' own Model.save and load_weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def network(optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    keras.utils.set_random_seed(2)
    inner, last = keras.layers.Dense(3, "tanh", name="inner"), keras.layers.Dense(1, name="last")
    model = keras.Sequential([keras.Input((4,)), inner, last], name="network")
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.5), "mse", metrics=["mae"])
    return model


@pytest.fixture(scope="module")
def models() -> Callable[[], tuple[keras.Model, keras.Model]]:
    """One model for `fit` and one for Keras' own, as they were in the beginning: each compiles once."""
    made = []
    for _ in range(2):
        model = network()
        model.optimizer.build(model.trainable_variables)
        made.append((model, snapshot(model)))

    def fresh() -> tuple[keras.Model, keras.Model]:
        for _, start in made:
            start.restore()
        return made[0][0], made[1][0]

    return fresh


def assert_same(ours: keras.Model, theirs: keras.Model, factor: float = 40) -> None:
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=factor * EPS)


def both(models: Callable, make: Callable[[], object], **settings: object) -> tuple[dict, dict, list]:
    """The histories of `fit` and `model.fit` with such callbacks, and the two models."""
    ours, theirs = models()
    expected = theirs.fit(X, Y, callbacks=make(), **{**SETTINGS, **settings}).history
    history = fit(ours, X, Y, callbacks=make(), program="graph", **{**SETTINGS, **settings}).history
    assert list(history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=200 * EPS, err_msg=name)
    return history, expected, [ours, theirs]


def test_early_stopping_restores_the_best_weights(models: Callable) -> None:
    history, _, (ours, theirs) = both(
        models, lambda: keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    )
    assert 2 <= len(history["loss"]) < EPOCHS  # the validation targets get worse and worse
    assert_same(ours, theirs)


def test_rates_that_callbacks_set(models: Callable) -> None:
    history, _, (ours, theirs) = both(
        models,
        lambda: [
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.0),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.2 if epoch == 0 else rate),
        ],
    )
    assert history["learning_rate"][0] == pytest.approx(0.2)
    assert history["learning_rate"][-1] < 0.2
    assert_same(ours, theirs)


def test_files_of_checkpoints_and_logs_are_those_of_model_fit(models: Callable, tmp_path: Path) -> None:
    folders = iter([tmp_path / "theirs", tmp_path / "ours"])

    def make() -> list[keras.callbacks.Callback]:
        folder = next(folders)
        folder.mkdir()
        return [
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
            keras.callbacks.ModelCheckpoint(folder / "best.keras", monitor="val_loss", save_best_only=True),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ]

    _, _, (ours, theirs) = both(models, make, epochs=3)
    names = [sorted(p.name for p in (tmp_path / who).iterdir()) for who in ("ours", "theirs")]
    assert names[0] == names[1] == ["1.weights.h5", "2.weights.h5", "3.weights.h5", "best.keras", "log.csv"]
    for file in ("1.weights.h5", "3.weights.h5"):
        ours.load_weights(tmp_path / "ours" / file)
        theirs.load_weights(tmp_path / "theirs" / file)
        assert_same(ours, theirs)
    best = [keras.saving.load_model(tmp_path / who / "best.keras") for who in ("ours", "theirs")]
    assert_same(*best)
    rows = [(tmp_path / who / "log.csv").read_text().splitlines() for who in ("ours", "theirs")]
    assert rows[0][0] == rows[1][0] == "epoch,loss,mae,val_loss,val_mae"
    for a, b in zip(rows[0][1:], rows[1][1:], strict=True):
        np.testing.assert_allclose([float(v) for v in a.split(",")], [float(v) for v in b.split(",")], rtol=200 * EPS)


def events(folder: Path) -> dict[str, dict[str, list]]:
    """What TensorBoard's files hold: the values of each tag, by part of the training."""
    found: dict[str, dict[str, list]] = {}
    for file in sorted(folder.rglob("events.*")):
        part = found.setdefault(file.parent.name, {})
        for record in tf.data.TFRecordDataset(str(file)):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                part.setdefault(value.tag, []).append(tf.make_ndarray(value.tensor))
    return found


def test_tensorboard_writes_what_it_writes_in_model_fit(models: Callable, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    folders = iter(["theirs", "ours"])
    both(
        models,
        lambda: keras.callbacks.TensorBoard(tmp_path / next(folders), histogram_freq=1, write_graph=True),
        epochs=3,
    )
    ours, theirs = events(tmp_path / "ours"), events(tmp_path / "theirs")
    assert ours.keys() == theirs.keys() == {"train", "validation"}
    assert len(ours["train"]["epoch_loss"]) == len(ours["validation"]["evaluation_mae_vs_iterations"]) == 3
    assert any(tag.endswith("kernel/histogram") for tag in ours["train"])
    assert "keras" in ours["train"]
    for part, tags in theirs.items():
        assert sorted(ours[part]) == sorted(tags)
        for tag, values in tags.items():
            if values[0].dtype.kind == "f" and "histogram" not in tag:
                np.testing.assert_allclose(ours[part][tag], values, rtol=200 * EPS, err_msg=tag)
            else:
                assert len(ours[part][tag]) == len(values), tag


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_averaged_weights_are_swapped_in(swap_on_epoch: bool) -> None:
    def model() -> keras.Model:
        return network(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))

    pair = model(), model()
    _, _, (ours, theirs) = both(lambda: pair, lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch), epochs=3)
    assert_same(ours, theirs)


def test_hooks_of_ones_own_see_the_state_of_model_fit(models: Callable) -> None:
    seen: list[list] = []

    def make() -> keras.callbacks.Callback:
        seen.append([])

        def note(what: str) -> Callable:
            def hook(*arguments: object) -> None:
                model = callback.model
                weights = sum(float(np.sum(w)) for w in model.get_weights())
                seen[-1].append((what, arguments[0], int(model.optimizer.iterations.value), round(weights, 4)))

            return hook

        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=note("begin"), on_epoch_end=note("end"), on_train_begin=note("train")
        )
        return callback

    both(models, make, epochs=2)
    assert [entry[:3] for entry in seen[1]] == [entry[:3] for entry in seen[0]]
    assert [entry[2] for entry in seen[1]] == [0, 0, 5, 5, 10]
    np.testing.assert_allclose([e[3] for e in seen[1]], [e[3] for e in seen[0]], atol=2e-4)


@pytest.mark.parametrize("program", ["graph", "xla-loop"])
def test_a_loss_that_is_not_a_number_ends_the_training(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    x = np.where(np.arange(40)[:, None] == 17, np.nan, X)
    settings = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0, "program": program, "piece_steps": 1}
    history = fit(model, x, Y, callbacks=keras.callbacks.TerminateOnNaN(), **settings)
    assert history.epoch == [0]
    assert int(model.optimizer.iterations.value) == 3
    assert "Batch 2: Invalid loss" in capsys.readouterr().out
    data = tf.data.Dataset.from_tensor_slices((x, Y)).batch(8)
    model = network()
    settings.pop("batch_size")
    with pytest.raises(RuntimeError, match="NaN or Inf loss"):
        fit(model, data, callbacks=keras.callbacks.TerminateOnNaN(raise_error=True), **settings)
    assert int(model.optimizer.iterations.value) == 3


def test_stopping_from_outside_ends_the_epoch_between_two_calls(models: Callable) -> None:
    model, _ = models()

    class Stop(keras.callbacks.TerminateOnNaN):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.stop_training = True  # as a handler of a signal does

    history = fit(model, X, Y, callbacks=Stop(), program="graph", piece_steps=2, **SETTINGS)
    assert history.epoch == [0, 1]
    assert int(model.optimizer.iterations.value) == 5 + 2


KILLED = """
import sys, time, keras
sys.path.insert(0, sys.argv[1])
from test_fit_callbacks import resumed

class Tell(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            print("third epoch", flush=True)
            time.sleep(60)

resumed(keras.callbacks.BackupAndRestore(sys.argv[2]), Tell())
"""


def resumed(*callbacks: keras.callbacks.Callback) -> tuple[list[int], list[np.ndarray]]:
    """Epochs and final state of a training. It has no dropout, whose random state Keras leaves out of its files."""
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile(adamas.keras.AdamW(0.01), "mse")
    history = fit(model, X, Y, batch_size=8, epochs=5, verbose=0, program="graph", callbacks=list(callbacks))
    return history.epoch, [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    folder = str(tmp_path / "backup")
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "third epoch\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    epochs, values = resumed(keras.callbacks.BackupAndRestore(folder))
    assert epochs == [3, 4]
    for a, b in zip(values, resumed()[1], strict=True):
        np.testing.assert_array_equal(a, b)
