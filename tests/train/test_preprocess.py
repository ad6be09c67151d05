"""Preprocessing: statistics of the training rows alone, one JSON specification that repeats it exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adamas.errors import DataError, RunError
from adamas.train.data.preprocess import CHUNK, Preprocess, fit
from adamas.train.data.sources import Data

RNG = np.random.default_rng(3)
X = RNG.normal(5.0, 3.0, size=(40, 4))
X[:, 2] = 7.0
TRAIN = np.arange(30)
LABELS = np.array(["b", "a", "c", "a"] * 10)


def test_inputs_are_standardised_with_the_training_rows_alone() -> None:
    x = X.copy()
    x[30:] += 100.0
    out = fit(Data("d", x, LABELS), "classification", TRAIN).x(Data("d", x, LABELS))
    assert out.dtype == np.float32
    moving = [0, 1, 3]
    np.testing.assert_allclose(out[TRAIN][:, moving].mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(out[TRAIN][:, moving].std(axis=0), 1.0, atol=1e-6)
    assert out[30:, 0].min() > 20


def test_a_column_constant_in_training_becomes_zero_everywhere() -> None:
    x = X.copy()
    x[35, 2] = 1e6
    out = fit(Data("d", x, LABELS), "classification", TRAIN).x(Data("d", x, LABELS))
    assert np.array_equal(out[:, 2], np.zeros(40))


def test_images_are_flattened_and_rows_of_another_shape_refused() -> None:
    spec = fit(Data("d", X.reshape(40, 2, 2), LABELS), "classification", TRAIN)
    assert spec.inputs == 4
    assert spec.to_json()["inputs"][0] == {"op": "flatten", "shape": [2, 2]}
    with pytest.raises(DataError, match=r"trained on rows of shape \[2, 2\]"):
        spec.x(Data("e", X, None))


@pytest.mark.parametrize("rows", [1, CHUNK, CHUNK + 1])
def test_chunks_change_nothing(rows: int) -> None:
    x = RNG.normal(size=(rows, 2)).astype(np.float32)
    spec = Preprocess(shape=(2,), mean=(0.5, 0.25), std=(2.0, 0.0), task="regression")
    whole = np.stack([(x[:, 0].astype(np.float64) - 0.5) / 2.0, np.zeros(rows)], axis=1).astype(np.float32)
    assert np.array_equal(spec.x(Data("d", x, None)), whole)


def test_labels_become_places_and_unseen_ones_are_named() -> None:
    spec = fit(Data("d", X, LABELS), "classification", TRAIN)
    assert spec.classes == ("a", "b", "c")
    assert np.array_equal(spec.y(Data("d", X, LABELS))[:4], [1, 0, 2, 0])
    strange = LABELS.copy()
    strange[[6, 9]] = "z"
    with pytest.raises(DataError, match=r"y in row 6 is z, a label never seen in training \(a, b, c\); 2 of 40 rows"):
        spec.y(Data("e", X, strange))
    with pytest.raises(DataError, match="trained on labels 'a', 'b', 'c'"):
        spec.y(Data("e", X, np.zeros(40, int)))


@pytest.mark.parametrize("unseen", [-1, 1, 3, 99])
def test_whole_number_labels_between_and_beyond_the_known_ones_are_unseen(unseen: int) -> None:
    spec = fit(Data("d", X, np.array([0, 2] * 20)), "classification", TRAIN)
    assert np.array_equal(spec.y(Data("d", X[:2], np.array([2.0, 0.0]))), [1, 0])
    with pytest.raises(DataError, match=f"y in row 1 is {unseen}, a label never seen"):
        spec.y(Data("d", X[:2], np.array([0, unseen])))


def test_targets_of_a_regression_go_there_and_back() -> None:
    y = RNG.normal(100.0, 20.0, size=(40, 2))
    data = Data("d", X, y)
    spec = fit(data, "regression", TRAIN)
    assert abs(float(spec.y(data)[TRAIN].std()) - 1.0) < 1e-6
    np.testing.assert_allclose(spec.restore(spec.y(data)), y, rtol=1e-6)
    with pytest.raises(DataError, match="y has 1 target a row; this model was trained on 2"):
        spec.y(Data("e", X, y[:, 0]))


def test_a_constant_target_is_refused() -> None:
    with pytest.raises(DataError, match="y is constant in the training rows"):
        fit(Data("d", X, np.r_[np.zeros(30), np.ones(10)]), "regression", TRAIN)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_specification_survives_json_exactly(task: str) -> None:
    y = LABELS if task == "classification" else RNG.normal(size=40)
    spec = fit(Data("d", X, y, columns=("a", "b", "c", "d")), task, TRAIN)  # type: ignore[arg-type]
    assert Preprocess.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_damaged_or_newer_specification_is_refused() -> None:
    spec = fit(Data("d", X, LABELS), "classification", TRAIN).to_json()
    with pytest.raises(RunError, match="version 2"):
        Preprocess.from_json({**spec, "version": 2})
    del spec["target"]
    with pytest.raises(RunError, match="damaged"):
        Preprocess.from_json(spec)
