"""Numbers for a model on rows whose answers are known, computed in float64 by NumPy from the network's outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adamas.train.data.preprocess import Preprocess


@dataclass(frozen=True)
class Score:
    """How well outputs fit the answers.

    rows       how many
    numbers    by name: accuracy and log_loss; or rmse, mae and r2 in the units of the data, the mean over targets,
               and with several targets also `rmse NAME`, `r2 NAME` for each
    row_error  [rows], what paired tests compare: 1 for a wrong label and 0 for a right one, or the mean squared
               standardised error
    """

    rows: int
    numbers: dict[str, float]
    row_error: np.ndarray


def classification(logits: np.ndarray, places: np.ndarray) -> Score:
    """Accuracy and log loss (natural logarithm, mean over rows) of logits [rows, classes]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(wide).sum(axis=1))
    log_loss = float(np.mean(log_sum - wide[np.arange(len(places)), places]))
    wrong = wide.argmax(axis=1) != places
    return Score(len(places), {"accuracy": float(1.0 - wrong.mean()), "log_loss": log_loss}, wrong.astype(np.float64))


def regression(values: np.ndarray, truth: np.ndarray, spec: Preprocess) -> Score:
    """Root mean squared error, mean absolute error and R^2 of values [rows, targets], in the units of the data."""
    error = values - truth
    rmse = np.sqrt(np.mean(error**2, axis=0))
    spread = np.mean((truth - truth.mean(axis=0)) ** 2, axis=0)
    r2 = 1.0 - rmse**2 / np.where(spread == 0.0, np.nan, spread)
    numbers = {"rmse": float(rmse.mean()), "mae": float(np.abs(error).mean()), "r2": float(r2.mean())}
    if spec.outputs > 1:
        for i, name in enumerate(spec.target_names):
            numbers |= {f"rmse {name}": float(rmse[i]), f"r2 {name}": float(r2[i])}
    row_error = np.mean((error / np.asarray(spec.target_std)) ** 2, axis=1)
    return Score(len(truth), numbers, row_error)


def baseline(spec: Preprocess, train: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """What no learning gives: always the most frequent training label, or always the training mean."""
    if spec.task == "classification":
        most = np.bincount(train, minlength=spec.outputs).argmax()
        return {"accuracy": float(np.mean(answers == most))}
    return regression(np.broadcast_to(np.asarray(spec.target_mean), answers.shape), answers, spec).numbers
