"""What `adamas.train.fit` cannot honour is refused by name, before anything changes; what it can, it does."""

from __future__ import annotations

import io
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from adamas.errors import ArgumentError, DataError, UnsupportedError
from adamas.train import fit
from adamas.train.loop.verbosity import Display

X = np.linspace(-1, 1, 48, dtype=np.float32).reshape(16, 3)
Y = X.sum(axis=1)


def model(kind: type[keras.Model] = keras.Sequential, **compiled: object) -> keras.Model:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(1)(inputs)
    made = keras.Sequential([inputs, keras.layers.Dense(1)]) if kind is keras.Sequential else kind(inputs, outputs)
    made.compile(keras.optimizers.SGD(0.1), **{"loss": "mse", **compiled})
    return made


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class OwnTest(keras.Model):
    def test_step(self, data):
        return super().test_step(data)


class OwnFit(keras.Model):
    def fit(self, *arguments, **named):
        return super().fit(*arguments, **named)


class OwnMetrics(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "largest": keras.ops.max(y_pred)}


class PerBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"x": tf.sparse.from_dense(X)}, "x is of type SparseTensor"),
        ({"x": tf.ragged.constant([[1.0], [1.0, 2.0]])}, "x is of type RaggedTensor"),
        ({"x": X.astype(str)}, "x has dtype <U"),
        ({"x": X.astype(complex)}, "x has dtype complex"),
        ({"x": X.astype(object)}, "x has dtype object"),
        ({"y": [0.0] * 16}, r"y\[0\] is of type float"),
        ({"y": {"out": "Y"}}, r"y\['out'\] is of type str"),
        ({"validation_data": ([X, "X"], Y)}, r"validation x\[1\] is of type str"),
        ({"shuffle": "batch"}, "shuffle='batch'"),
        ({"callbacks": PerBatch()}, "PerBatch has on_train_batch_end"),
        ({"callbacks": [keras.callbacks.LambdaCallback(on_train_batch_begin=print)]}, "on_train_batch_begin"),
        (
            {"callbacks": [keras.callbacks.ModelCheckpoint("a.keras", save_freq=5)]},
            "ModelCheckpoint has.*save_freq='epoch'",
        ),
        (
            {"callbacks": [keras.callbacks.BackupAndRestore("a", save_freq=5)]},
            "BackupAndRestore has.*save_freq='epoch'",
        ),
        ({"callbacks": [keras.callbacks.TensorBoard("a", update_freq=5)]}, "TensorBoard has.*update_freq='epoch'"),
        ({"callbacks": [[keras.callbacks.TensorBoard("a", profile_batch=(1, 2))]]}, "TensorBoard has.*profile_batch=0"),
        ({"callbacks": keras.callbacks.ProgbarLogger()}, "ProgbarLogger has on_train_batch_end"),
        ({"callbacks": keras.callbacks.CallbackList([])}, "CallbackList"),
        ({"model": model(OwnStep)}, "OwnStep has its own train_step"),
        ({"model": model(OwnTest)}, "OwnTest has its own test_step"),
        ({"model": model(OwnFit)}, "OwnFit has its own fit"),
        ({"model": model(OwnMetrics)}, "compute_metrics of OwnMetrics returns .*largest"),
        ({"model": model(run_eagerly=True)}, "run_eagerly=True"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_only_model_fit_does_names_it(change: dict, what: str) -> None:
    given = {"model": model(), "x": X, "y": Y, "verbose": 0, "program": "graph", **change}
    before = given["model"].get_weights()
    with pytest.raises(UnsupportedError, match=what) as error:
        fit(**given)
    assert "model.fit" in str(error.value)
    for a, b in zip(before, given["model"].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "what", "error"),
    [
        ({"model": "mlp"}, "keras.Model, not str", ArgumentError),
        ({"model": keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])}, "not compiled", ArgumentError),
        ({"x": None}, "x is None", ArgumentError),
        ({"x": X[:0], "y": Y[:0]}, "no rows", DataError),
        ({"y": Y[:5]}, "x 16, y 5", DataError),
        ({"sample_weight": Y[:5]}, "sample_weight 5", DataError),
        ({"x": np.float32(1)}, "x is of type float32", UnsupportedError),
        ({"x": np.array(1.0)}, "single number", DataError),
        ({"batch_size": 0}, "batch_size=0", ArgumentError),
        ({"batch_size": 2.5}, "batch_size=2.5", ArgumentError),
        ({"batch_size": True}, "batch_size=True", ArgumentError),
        ({"epochs": -1}, "epochs=-1", ArgumentError),
        ({"initial_epoch": -1}, "initial_epoch=-1", ArgumentError),
        ({"seed": -1}, "seed=-1", ArgumentError),
        ({"seed": None}, "seed=None", ArgumentError),
        ({"piece_steps": 0}, "piece_steps=0", ArgumentError),
        ({"program": "xla-fast"}, "'graph', 'xla', 'xla-loop'", ArgumentError),
        ({"verbose": 3}, "verbose=3", ArgumentError),
        ({"callbacks": [print]}, "no keras.callbacks.Callback", ArgumentError),
        ({"validation_split": 1.5}, "validation_split=1.5", ArgumentError),
        ({"validation_split": 0.999}, "leaves one part empty", DataError),
        ({"validation_split": 0.5, "validation_data": (X, Y)}, "both given", ArgumentError),
        ({"validation_data": (X, Y[:3])}, "validation arrays differ", DataError),
        ({"validation_freq": 2}, "need validation_data", ArgumentError),
        ({"validation_batch_size": 2}, "need validation_data", ArgumentError),
        ({"validation_data": (X, Y), "validation_freq": 0}, "validation_freq=0", ArgumentError),
        ({"validation_data": (X, Y), "validation_freq": []}, r"validation_freq=\[\] would never", ArgumentError),
        ({"validation_data": (X, Y), "validation_freq": [2, 0]}, "validation_freq=0", ArgumentError),
        ({"validation_data": (X, Y), "validation_freq": [True]}, "validation_freq=True", ArgumentError),
        ({"validation_data": (X, Y), "validation_freq": "2"}, "validation_freq='2'", ArgumentError),
        ({"validation_data": (X,)}, r"the validation data has no targets.*=\(x, y\)", ArgumentError),
        ({"y": None}, "the training data has no targets.*give x and y", ArgumentError),
        ({"validation_steps": 3}, "need validation_data", ArgumentError),
        ({"class_weight": {0: 2.0}, "sample_weight": Y}, "both given", ArgumentError),
        ({"class_weight": [1.0]}, "dictionary", ArgumentError),
        ({"class_weight": {0: 2.0}, "y": None}, "needs y", ArgumentError),
        ({"class_weight": {0: 2.0}, "y": [Y, Y]}, "for one output", ArgumentError),
        ({"y": [Y, Y], "sample_weight": {"a": Y}}, "does not lie as y does", ArgumentError),
        ({"y": [Y, Y], "sample_weight": X}, "one weight an example", ArgumentError),
        ({"x": [X, X[:3]]}, r"x\[0\] 16, x\[1\] 3", DataError),
        ({"batch": 3}, "unexpected keyword argument 'batch'", TypeError),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_nothing_does_is_refused(change: dict, what: str, error: type[Exception]) -> None:
    given = {"model": model(), "x": X, "y": Y, "verbose": 0, "program": "graph", **change}
    with pytest.raises(error, match=what):
        fit(**given)


def test_a_loss_and_metrics_of_the_models_own_are_honoured() -> None:
    class Doubled(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return 2 * super().compute_loss(x, y, y_pred, sample_weight)

    settings = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0}
    expected = model(Doubled).fit(X, Y, **settings).history["loss"]
    found = fit(model(Doubled), X, Y, program="graph", **settings).history["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    single = fit(model(keras.Model), X, Y, program="graph", **settings).history["loss"]
    assert not np.allclose(found, single, rtol=0.1)

    class Counter(keras.metrics.Metric):
        """Resets itself in a way that only Python sees."""

        resets = 0

        def __init__(self) -> None:
            super().__init__(name="rows")
            self.rows = self.add_variable((), "zeros", name="rows")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.rows.assign_add(keras.ops.shape(y_true)[0])

        def result(self):
            return self.rows + 0

        def reset_state(self):
            self.resets += 1
            self.rows.assign(0)

    counter = Counter()
    history = fit(model(metrics=[counter]), X, Y, program="graph", validation_split=0.25, **settings)
    assert history.history["rows"] == [12.0, 12.0]
    assert history.history["val_rows"] == [4.0, 4.0]
    assert counter.resets >= 4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own callbacks
def test_callbacks_for_epochs_hear_what_model_fit_tells_them(tmp_path: Path) -> None:
    class Heard(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple] = []

        def on_train_begin(self, logs=None):
            self.calls.append(("train begin",))

        def on_train_end(self, logs=None):
            self.calls.append(("train end", sorted(logs)))

        def on_epoch_begin(self, epoch, logs=None):
            self.calls.append(("epoch begin", epoch))

        def on_epoch_end(self, epoch, logs=None):
            self.calls.append(("epoch end", epoch, sorted(logs)))

        def on_test_begin(self, logs=None):
            self.calls.append(("test begin",))

        def on_test_end(self, logs=None):
            self.calls.append(("test end", sorted(logs)))

    settings = {"epochs": 3, "shuffle": False, "verbose": 0, "validation_data": (X, Y), "validation_freq": [1, 3]}
    ours, theirs = Heard(), Heard()
    expected = model().fit(X, Y, callbacks=[theirs], **settings)
    history = fit(model(), X, Y, callbacks=ours, program="graph", **settings)
    assert ours.calls == theirs.calls
    assert {k: len(v) for k, v in history.history.items()} == {k: len(v) for k, v in expected.history.items()}

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    path = tmp_path / "best.keras"
    history = fit(
        model(),
        X,
        Y,
        epochs=10,
        verbose=0,
        program="graph",
        callbacks=[
            Stop(),
            keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True),
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1)),
        ],
    )
    assert history.epoch == [0, 1]
    assert history.history["learning_rate"] == pytest.approx([0.1, 0.05])
    assert path.exists()


def test_lines_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    fit(model(), X, Y, epochs=2, program="graph", validation_split=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2 - ")
    assert " - loss: " in lines[0]
    assert " - val_loss: " in lines[0]
    fit(model(), X, Y, epochs=2, program="graph", verbose=0)
    assert capsys.readouterr().out == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display("auto", epochs=4, steps=10, stream=stream)
    assert display.verbose == 1
    display.begin(2)
    display.step(1)
    assert stream.getvalue() == ""  # epochs shorter than the eye get no bar
    display._began -= 1
    display.step(4)
    assert stream.getvalue() == "\repoch 3/4 [############............] 5/10"
    display.end({"loss": 0.123456})
    assert stream.getvalue().endswith("s - loss: 0.1235\n")
    unknown = Display(1, epochs=2, steps=None, stream=Terminal())
    unknown.begin(0)
    unknown._began -= 1
    unknown.step(70)
    assert unknown._stream.getvalue() == "\repoch 1/2 70 steps"
    unknown.begin(1, 140)  # by now it is known
    unknown._began -= 1
    unknown._drawn -= 1
    unknown.step(70)
    assert unknown._stream.getvalue().endswith("\repoch 2/2 [############............] 70/140")
    assert Display("auto", 1, 1, io.StringIO()).verbose == 2
