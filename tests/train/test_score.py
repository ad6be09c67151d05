"""Scores and paired tests against their definitions, and against scikit-learn and exact enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics

from adamas.compare.paired import FLIPS, compare_errors, compare_labels
from adamas.train.data.preprocess import Preprocess
from adamas.train.runs import score

RNG = np.random.default_rng(2)


def test_classification_scores_are_scikit_learns() -> None:
    logits = RNG.normal(size=(200, 4)).astype(np.float32) * 3
    places = RNG.integers(0, 4, 200)
    found = score.classification(logits, places)
    wide = np.exp(logits.astype(np.float64))
    assert found.numbers["accuracy"] == pytest.approx(metrics.accuracy_score(places, logits.argmax(axis=1)), rel=1e-12)
    assert found.numbers["log_loss"] == pytest.approx(
        metrics.log_loss(places, wide / wide.sum(axis=1, keepdims=True)), rel=1e-9
    )
    assert np.array_equal(found.row_error, logits.argmax(axis=1) != places)


def test_log_loss_does_not_overflow() -> None:
    found = score.classification(np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), np.array([0, 1]))
    assert found.numbers["log_loss"] == pytest.approx(1e4)


@pytest.mark.parametrize("targets", [1, 3])
def test_regression_scores_are_scikit_learns(targets: int) -> None:
    truth = RNG.normal(size=(50, targets)) * [10, 1, 100][:targets]
    values = truth + RNG.normal(size=truth.shape)
    spec = Preprocess((2,), (), (), "regression", target_mean=(0.0,) * targets, target_std=(2.0,) * targets)
    found = score.regression(values, truth, spec).numbers
    rmse = metrics.root_mean_squared_error(truth, values, multioutput="raw_values")
    assert found["rmse"] == pytest.approx(rmse.mean(), rel=1e-12)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, values), rel=1e-12)
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, values), rel=1e-12)
    if targets > 1:
        assert found["rmse y2"] == pytest.approx(rmse[2], rel=1e-12)


def test_the_baseline_learns_nothing_but_the_most_frequent_class() -> None:
    spec = Preprocess((1,), (), (), "classification", classes=(0, 1, 2))
    assert score.baseline(spec, np.array([2, 2, 1]), np.array([2, 0, 2, 1])) == {"accuracy": 0.5}


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (4, 0), (5, 1), (3, 3), (1, 12)])
def test_mcnemar_is_the_exact_binomial_test(better: int, worse: int) -> None:
    first = np.array([0.0] * better + [1.0] * worse + [1.0, 0.0, 0.0])
    second = np.array([1.0] * better + [0.0] * worse + [1.0, 0.0, 0.0])
    found = compare_labels(first, second)
    n = better + worse
    as_far = [k for k in range(n + 1) if abs(2 * k - n) >= abs(better - worse)]
    assert (found.better, found.worse) == (better, worse)
    assert found.p_value == pytest.approx(sum(math.comb(n, k) for k in as_far) / 2**n, rel=1e-12)


def test_the_permutation_test_agrees_with_every_permutation() -> None:
    first, second = RNG.normal(size=10) ** 2, RNG.normal(size=10) ** 2 + 0.5
    difference = first - second
    all_means = [abs(np.dot(signs, difference)) for signs in itertools.product((-1, 1), repeat=10)]
    exact = float(np.mean(np.array(all_means) >= abs(difference.sum()) - 1e-12))
    found = compare_errors(first, second)
    assert found.p_value == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / FLIPS) + 1 / FLIPS)
    assert compare_errors(first, second) == found  # seeded
    assert compare_errors(second, first).worse == found.better


def test_equal_errors_are_never_clear_and_large_differences_are() -> None:
    errors = RNG.normal(size=40) ** 2
    assert compare_errors(errors, errors).p_value == 1.0
    assert compare_errors(errors, errors + 1.0).clear
