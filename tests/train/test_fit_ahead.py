"""Where nobody listens between epochs, several share a call; that changes no bit, and nobody can tell."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from adamas.train import PROGRAMS, fit, snapshot
from adamas.train.loop import steps, walks

ROWS = 21  # of 8 a step: the last batch is smaller
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 4)).astype(np.float32)
Y = X[:, :1] - X[:, 1:2]


def network(loss: object = "mse") -> keras.Model:
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Dense(3, "tanh"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["mae"])
    return model


def state(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The steps that each call made, by epoch."""
    made: list[list[int]] = []
    call = steps.Program.call

    def noted(self, *arguments):
        result = call(self, *arguments)
        made.append([count for count, _ in result])
        return result

    monkeypatch.setattr(steps.Program, "call", noted)
    return made


@pytest.mark.parametrize("program", PROGRAMS)
def test_epochs_that_share_a_call_give_the_bits_of_epochs_one_by_one(program: str, calls: list[list[int]]) -> None:
    model = network()
    start = snapshot(model)

    def trained(**settings: object) -> tuple[dict, list[int], list[np.ndarray]]:
        start.restore()
        history = fit(model, X, Y, batch_size=8, program=program, verbose=0, **settings)
        return history.history, history.epoch, state(model)

    for settings in (
        {"epochs": 7},
        {"epochs": 7, "initial_epoch": 2, "seed": 5},
        {"epochs": 4, "shuffle": False},
        {"epochs": 7, "steps_per_epoch": 2},  # parts of a pass: two batches, then one
    ):
        with pytest.MonkeyPatch.context() as patch:
            if "steps_per_epoch" in settings:
                patch.setattr(walks.warnings, "warn", lambda *_, **__: None)
            history, epochs, values = trained(**settings, callbacks=keras.callbacks.LambdaCallback())
            for piece in (None, 1, 5, 11):
                calls.clear()
                together = trained(**settings, piece_steps=piece)
                assert together[:2] == (history, epochs)
                for a, b in zip(together[2], values, strict=True):
                    np.testing.assert_array_equal(a, b)
                if piece is not None:  # else by time
                    assert max(map(sum, calls)) == piece
                    assert (max(map(len, calls)) > 1) == (piece > 1)


def test_calls_are_cut_by_steps_and_not_by_epochs(calls: list[list[int]]) -> None:
    fit(network(), X, Y, batch_size=8, epochs=6, program="graph", verbose=0, piece_steps=7)
    assert calls == [[3, 3, 1], [2, 3, 2], [1, 3]]


@pytest.mark.parametrize(
    "listening",
    [{"callbacks": keras.callbacks.LambdaCallback()}, {"validation_split": 0.3}, {"verbose": 1}, {"verbose": 2}],
    ids=["callback", "validation", "bar", "lines"],
)
def test_who_listens_hears_of_each_epoch_when_it_ends(listening: dict, calls: list[list[int]]) -> None:
    fit(network(), X, Y, batch_size=8, epochs=3, program="graph", piece_steps=100, **{"verbose": 0, **listening})
    assert {len(made) for made in calls} == {1}


def test_metrics_that_only_python_can_reset_keep_epochs_apart(calls: list[list[int]]) -> None:
    class Own(keras.metrics.Mean):
        def update_state(self, y_true, y_pred, sample_weight=None):
            return super().update_state(keras.ops.abs(y_true - y_pred))

    model = network()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=[Own(name="own"), "mae"])
    history = fit(model, X, Y, batch_size=21, epochs=5, program="graph", piece_steps=100, verbose=0).history
    np.testing.assert_allclose(history["own"], history["mae"], rtol=1e-6)
    assert {len(made) for made in calls} == {1}


def test_orders_are_drawn_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch, calls: list[list[int]]) -> None:
    model = network()
    start = snapshot(model)
    settings = {"batch_size": 8, "epochs": 8, "program": "graph", "verbose": 0}
    history = fit(model, X, Y, **settings).history
    expected = state(model)
    for ahead, passes, most in ((3 * ROWS, 1024, 3), (1 << 16, 2, 2), (ROWS - 1, 1024, 1)):
        monkeypatch.setattr(walks, "AHEAD", ahead)
        monkeypatch.setattr(walks, "PASSES", passes)
        start.restore()
        calls.clear()
        assert fit(model, X, Y, piece_steps=100, **settings).history == history
        assert max(map(len, calls)) == most
        for a, b in zip(state(model), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_stopping_from_outside_ends_with_the_call_and_reports_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    made: list[list[int]] = []
    call = steps.Program.call

    def stopping(self, *arguments):
        result = call(self, *arguments)
        made.append([count for count, _ in result])
        model.stop_training = len(made) == 2  # as another thread may do at any time
        return result

    monkeypatch.setattr(steps.Program, "call", stopping)
    settings = {"batch_size": 8, "program": "graph", "verbose": 0, "piece_steps": 7}
    history = fit(model, X, Y, epochs=20, **settings)
    assert made == [[3, 3, 1], [2, 3, 2]]
    assert history.epoch == [0, 1, 2, 3, 4]  # the last one was cut short, and is reported all the same
    assert len(history.history["loss"]) == 5
    fit(model, X, Y, epochs=20, initial_epoch=19, **settings)
    assert made[2:] == [[3]]
