"""`adamas.train.run` and `adamas.compare.against`: what the command does, from Python."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from adamas import state
from adamas.compare import Comparison, against
from adamas.errors import ArgumentError, DataError, RunError
from adamas.train import Run, evaluate, predict, run, save_predictions
from adamas.train.data.sources import Data, load
from adamas.train.runs import models
from adamas.train.runs.config import Config
from adamas.train.runs.job import begin
from adamas.train.runs.progress import Epoch, Listener, Trial
from adamas.train.runs.resolve import prepare

# Keras' own saving does it with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@dataclass
class Heard(Listener):
    """Remembers what it was told."""

    epochs: list[Epoch] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def tried(self, trial: Trial) -> None:
        self.trials.append(trial)


def settings(out: Path, data: str, **more: Any) -> dict[str, Any]:
    return {"data": data, "out": str(out), "training": {"epochs": 3, "program": "graph"}, **more}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def iris(out: Path) -> Run:
    return run(settings(out, "iris", name="iris"))


@pytest.fixture(scope="module")
def compared(out: Path) -> tuple[Comparison, Heard]:
    heard = Heard()
    return against(settings(out, "wine", name="wine", against={"name": "sgd"}), heard), heard


def weights(path: Path) -> list[np.ndarray]:
    return keras.saving.load_model(path / "model.keras").get_weights()


def test_a_run_keeps_what_it_promises(iris: Run) -> None:
    names = {p.name for p in iris.path.iterdir()}
    assert names == {
        *(
            "config.yaml",
            "environment.json",
            "preprocess.json",
            "rows.npz",
            "metrics.jsonl",
            "model.keras",
            "report.md",
        ),
        *("model.keras", "best.weights.h5", "last.weights.h5", "optimizer.safetensors", "curves.png", "run.json"),
    }
    lines = [json.loads(line) for line in (iris.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    best = iris.record["result"]["best_epoch"]
    assert lines[best - 1]["val_loss"] == min(line["val_loss"] for line in lines)
    assert (iris.path / "curves.png").read_bytes().startswith(b"\x89PNG")
    environment = json.loads((iris.path / "environment.json").read_text())
    assert environment["threads"] >= 1
    assert environment["versions"]["numpy"] == np.__version__
    report = (iris.path / "report.md").read_text()
    assert report.startswith("# Adam on iris\n\n1. Adam reaches accuracy ")
    assert all(f"\n{i}. " in report for i in range(2, 6))


def test_best_and_last_weights_load_into_the_model(iris: Run) -> None:
    model = keras.saving.load_model(iris.path / "model.keras")
    best = model.get_weights()
    model.load_weights(iris.path / "best.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(best, model.get_weights(), strict=True))
    model.load_weights(iris.path / "last.weights.h5")
    assert not all(np.array_equal(a, 0 * a) for a in model.get_weights())


def test_the_optimizers_state_is_that_of_the_last_step(iris: Run) -> None:
    saved = state.load(iris.path / "optimizer.safetensors")
    steps = 3 * -(-iris.record["rows"]["train"] // iris.config.training.batch_size)
    assert set(saved.steps.values()) == {steps}
    assert len(saved.names) == 6
    assert saved.hypers[0].lr == pytest.approx(1e-3)


def test_the_resolved_configuration_reproduces_the_run_to_the_bit(iris: Run, out: Path) -> None:
    config = iris.config.model_copy(update={"name": "again"})
    again = run(config)
    assert all(np.array_equal(a, b) for a, b in zip(weights(iris.path), weights(again.path), strict=True))
    assert (iris.path / "metrics.jsonl").read_bytes() == (again.path / "metrics.jsonl").read_bytes()
    other = run({**settings(out, "iris"), "seed": 1, "name": "other"})
    assert not all(np.array_equal(a, b) for a, b in zip(weights(iris.path), weights(other.path), strict=True))


def test_its_own_data_is_judged_by_the_test_rows_alone(iris: Run) -> None:
    found = evaluate(iris, "iris")
    assert (found.part, found.seen, found.score.rows) == ("test", False, 30)
    assert found.score.numbers == iris.record["result"]["test"]
    assert evaluate(iris, "iris", "all").score.rows == 150
    assert evaluate(iris, "iris", "train").seen


def test_other_data_is_judged_by_every_row(iris: Run) -> None:
    data = load("iris")
    assert data.y is not None
    some = Data("some", data.x[:60], data.y[:60])
    found = evaluate(iris, some)
    assert (found.part, found.score.rows) == ("all", 60)
    with pytest.raises(ArgumentError, match="some is not the data of this run"):
        evaluate(iris, some, "test")
    with pytest.raises(DataError, match="y in row 0 is rose, a label never seen in training"):
        evaluate(iris, Data("some", data.x[:2], np.array(["rose", "setosa"])))
    with pytest.raises(DataError, match="trained on rows of shape"):
        evaluate(iris, Data("some", data.x[:60, :3], data.y[:60]))


@pytest.mark.parametrize("rows", [1, 150])
def test_predictions_keep_the_order_of_the_rows(iris: Run, rows: int) -> None:
    data = load("iris")
    whole = predict(iris, data)
    assert whole.probabilities is not None
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1.0, rtol=1e-12)
    backwards = predict(iris, Data("x only", data.x[:rows][::-1], None))
    assert np.array_equal(backwards.answers, whole.answers[:rows][::-1])
    assert backwards.probabilities is not None
    assert np.array_equal(backwards.probabilities, whole.probabilities[:rows][::-1])


def test_predictions_are_those_of_the_saved_model(iris: Run) -> None:
    logits = keras.saving.load_model(iris.path / "model.keras")(iris.preprocess.x(load("iris"))).numpy()
    found = predict(iris.path, "iris")
    assert np.array_equal(found.answers, np.array(found.names)[logits.argmax(axis=1)])


def test_predictions_are_written_whole_as_csv_and_npz(iris: Run, tmp_path: Path) -> None:
    found = predict(iris, "iris")
    lines = save_predictions(found, tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "row,label,p(setosa),p(versicolor),p(virginica)"
    assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(150)]
    assert [line.split(",")[1] for line in lines[1:]] == found.answers.tolist()
    with np.load(save_predictions(found, tmp_path / "p.npz")) as archive:
        assert np.array_equal(archive["label"], found.answers)
        assert np.array_equal(archive["probability"], found.probabilities)
    with pytest.raises(ArgumentError, match=r"ends in \.csv or \.npz"):
        save_predictions(found, tmp_path / "p.txt")
    with pytest.raises(ArgumentError, match="there is no folder"):
        save_predictions(found, tmp_path / "no" / "p.csv")


def test_a_comparison_tunes_both_sides_alike(compared: tuple[Comparison, Heard]) -> None:
    comparison, heard = compared
    adam, sgd = comparison.sides
    assert (adam.name, sgd.name) == ("Adam", "SGD")
    assert len(adam.trials) == len(sgd.trials) == 5
    assert len(heard.trials) == 10
    for side in comparison.sides:
        assert side.outcome.learning_rate == min(side.trials, key=lambda t: t.val_loss).learning_rate
    tuned = [e for e in heard.epochs if e.phase == "tune"]
    assert len([e for e in tuned if e.optimizer == "adam"]) == len([e for e in tuned if e.optimizer == "sgd"]) == 15


def test_the_full_training_repeats_the_best_trial_to_the_bit(compared: tuple[Comparison, Heard]) -> None:
    """Same epochs as in tuning: so weights, moments and learning rate were all put back before each training."""
    comparison, heard = compared
    for side in comparison.sides:
        rate, name = side.outcome.learning_rate, side.outcome.optimizer.name
        of_it = [e for e in heard.epochs if e.optimizer == name and e.learning_rate == rate]
        assert [e.val_loss for e in of_it if e.phase == "tune"] == [e.val_loss for e in of_it if e.phase == "train"]


def test_every_training_of_both_sides_starts_alike(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same initial weights, examples, order and batches; an empty optimizer; on no test row."""
    from adamas.train.runs import trainer

    begun: list[tuple[list[np.ndarray], ...]] = []
    orders: list[tuple[Any, ...]] = []

    def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, **how: Any) -> Any:
        moments = [np.array(v) for v in model.optimizer.variables if v.path.rpartition("/")[2] != "learning_rate"]
        assert not any(np.any(value) for value in moments)
        begun.append((model.get_weights(), [x, y], list(how["validation_data"])))
        orders.append((how["seed"], how["batch_size"], how["epochs"], how["program"], "shuffle" in how))
        return real(model, x, y, **how)

    real = trainer.fit
    monkeypatch.setattr(trainer, "fit", fit)
    against(settings(out, "wine", name="alike", against={"name": "sgd"}))
    assert len(begun) == 12
    assert len(set(orders)) == 1
    for one in begun[1:]:
        for first, other in zip(begun[0], one, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    prepared = prepare(Config.parse(settings(out, "wine", against={"name": "sgd"})))
    assert all(np.array_equal(a, b) for a, b in zip(begun[0][0], models.build(prepared).get_weights(), strict=True))
    assert np.array_equal(begun[0][1][0], prepared.x[prepared.split.train])
    assert np.array_equal(begun[0][2][0], prepared.x[prepared.split.validation])


def test_the_comparison_is_reported_with_its_caution(compared: tuple[Comparison, Heard]) -> None:
    comparison, _ = compared
    page = (comparison.run.path / "report.md").read_text()
    assert page.startswith("# Adam against SGD on wine\n\n1. ")
    assert "5. This is tuned equally, one seed; for a verdict use compare (several seeds, in a later version" in page
    assert len(comparison.verdict) == 5
    assert {p.name for p in (comparison.run.path / "against").iterdir()} == {
        *("model.keras", "best.weights.h5", "last.weights.h5", "optimizer.npz")
    }
    record = comparison.run.record
    assert record["result"]["test"] == comparison.sides[0].score.numbers
    assert record["against"]["test"] == comparison.sides[1].score.numbers
    assert evaluate(comparison.run, "wine").score.numbers == comparison.sides[0].score.numbers


def test_a_regression_is_judged_in_the_units_of_the_data(out: Path) -> None:
    made = run(settings(out, "linnerud", name="linnerud"))
    numbers = made.record["result"]["test"]
    assert {"rmse", "mae", "r2", "rmse Weight", "rmse Waist", "rmse Pulse"} <= set(numbers)
    found = predict(made, "linnerud")
    assert found.names == ("Weight", "Waist", "Pulse")
    truth = load("linnerud").require_y("")[made.rows("test")]
    assert numbers["mae"] == pytest.approx(np.abs(found.answers[made.rows("test")] - truth).mean(), rel=1e-12)


def test_every_initialiser_and_optimizer_is_built(out: Path) -> None:
    from adamas.train.choices import INITS, OPTIMIZERS

    for init in INITS:
        kernels = models.build(prepare(Config.parse(settings(out, "iris", model={"init": init})))).get_weights()[::2]
        assert all(np.any(k) == (init != "zeros") for k in kernels)
    for name in OPTIMIZERS:
        asked = Config.parse(settings(out, "iris", optimizer={"name": name, "weight_decay": 0.1})).optimizer
        optimizer = models.build_optimizer(asked, 0.5)
        assert float(optimizer.learning_rate) == 0.5
        assert optimizer.weight_decay == 0.1
        assert getattr(optimizer, "momentum", None) == (0.9 if name == "sgd" else None)


def test_weight_decay_leaves_biases_alone(out: Path) -> None:
    """With a learning rate that hardly moves anything, decay alone shrinks the kernels: by 1% a step."""
    asked = {"name": "adam", "learning_rate": 1e-5, "weight_decay": 1000}
    made = run(settings(out, "iris", name="decay", optimizer=asked, training={"epochs": 1, "program": "graph"}))
    model = keras.saving.load_model(made.path / "model.keras")
    model.load_weights(made.path / "last.weights.h5")
    start = models.build(prepare(made.config)).get_weights()
    end = model.get_weights()
    assert all(np.abs(e).max() < 0.95 * np.abs(s).max() for s, e in zip(start[::2], end[::2], strict=True))
    assert all(np.abs(e).max() < 1e-3 for e in end[1::2])


def test_a_training_that_diverges_is_no_run(out: Path) -> None:
    with pytest.raises(DataError, match="never reached a finite validation loss; give a smaller"):
        run(settings(out, "diabetes", name="wild", optimizer={"name": "sgd", "learning_rate": 1000}))
    with pytest.raises(RunError, match=r"wild\.unfinished is unfinished \(failed: SGD with learning rate 1000"):
        Run.open(out / "wild")


def test_a_diverging_trial_loses_but_does_not_end_a_comparison(out: Path) -> None:
    rates = {"adam": [1e-3, 1e-2], "sgd": [1e-2, 1000.0]}
    tuning = {"learning_rates": rates}
    found = against(settings(out, "diabetes", name="mixed", against={"name": "sgd"}, tuning=tuning))
    assert [t.val_loss < np.inf for t in found.sides[1].trials] == [True, False]
    assert found.run.record["against"]["trials"][1]["val_loss"] is None
    assert "| SGD | 1000 | diverged | - |" in (found.run.path / "report.md").read_text()


def test_the_program_follows_from_the_number_of_examples(out: Path) -> None:
    """XLA's compilation must pay for itself; the choice is no timing, so it is the same on every machine."""
    from adamas.train.runs.trainer import XLA_PAYS, Trainer

    def chosen(epochs: int, **more: Any) -> str:
        values = {"data": "iris", "out": str(out), "training": {"epochs": epochs}, **more}
        prepared = prepare(Config.parse(values))
        return Trainer(prepared, prepared.config.optimizer).program

    enough = -(-XLA_PAYS // 90)
    assert (chosen(enough - 1), chosen(enough)) == ("graph", "xla-loop")
    assert chosen(enough // 6 + 1, against={"name": "sgd"}) == "xla-loop"  # five trials and the full training


def test_the_native_op_is_not_built_for_the_program_that_never_calls_it(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adamas.kernels.tensorflow import op

    def build() -> None:
        raise AssertionError("the op was asked for")

    monkeypatch.setattr(op, "load", build)
    for name in ("adam", "adamw"):
        asked = {"optimizer": {"name": name}, "training": {"epochs": 1, "program": "xla-loop"}}
        assert run({**settings(out, "iris", name=f"xla-{name}"), **asked}).record["complete"]
    with pytest.raises(AssertionError, match="the op was asked for"):
        run({**settings(out, "iris", name="native"), "training": {"epochs": 1, "program": "graph"}})


def test_data_that_has_changed_since_the_run_is_judged_by_every_row_and_says_so(out: Path, tmp_path: Path) -> None:
    data, file = load("iris"), str(tmp_path / "rows.npz")
    np.savez(file, x=data.x, y=data.y)
    made = run(settings(out, file, name="changing"))
    assert not evaluate(made, file).changed
    np.savez(file, x=data.x[:100], y=data.y[:100])
    found = evaluate(made, file)
    assert (found.part, found.changed, found.score.rows) == ("all", True, 100)
    with pytest.raises(ArgumentError, match="has changed since this run; leave it out"):
        evaluate(made, file, "test")


def test_numbers_are_short_whatever_their_size() -> None:
    from adamas.train.runs.report import number

    shown = {0.97531: "0.9753", 12345.6: "12346", 1.049e37: "1.049e+37", -2.5e-9: "-2.5e-09"}
    assert {value: number(value) for value in shown} == shown
    assert number(0.9753, "val_accuracy") == "97.5%"


def test_the_two_doors_name_each_other(out: Path) -> None:
    with pytest.raises(ArgumentError, match=r"give it to adamas\.compare\.against"):
        run(settings(out, "iris", against={"name": "sgd"}))
    with pytest.raises(ArgumentError, match=r"call adamas\.train\.run"):
        against(settings(out, "iris"))


def test_damaged_runs_are_refused_by_file(iris: Run, tmp_path: Path) -> None:
    import shutil

    for file, damage in (("model.keras", b"PK"), ("preprocess.json", b"{"), ("config.yaml", b"[")):
        copy = tmp_path / file / "run"
        shutil.copytree(iris.path, copy)
        (copy / file).write_bytes(damage)
        with pytest.raises(RunError, match=f"{file} is damaged"):
            predict(copy, "iris")
    (tmp_path / "model.keras" / "run" / "model.keras").unlink()
    with pytest.raises(RunError, match=r"model\.keras is missing"):
        predict(tmp_path / "model.keras" / "run", "iris")


def test_the_baseline_is_learned_from_the_training_rows(out: Path) -> None:
    with begin(Config.parse(settings(out, "iris", name="baseline")), Listener(), lambda prepared: "iris") as job:
        y = job.prepared.y
        rows = replace(job.prepared.split, train=np.flatnonzero(y == 0), test=np.flatnonzero(y == 1))
        job.prepared = replace(job.prepared, split=rows)
        assert job.baseline() == {"accuracy": 0.0}
