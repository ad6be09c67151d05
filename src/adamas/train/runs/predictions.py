"""A model's answers, and the files they are written to."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adamas.errors import ArgumentError, RunError
from adamas.train.runs.folder import write_file


@dataclass(frozen=True)
class Predictions:
    """A model's answers, in the order of the rows.

    answers        [rows] labels, or float64 [rows, targets] in the units of the data
    probabilities  float64 [rows, classes], in the order of `names`; None in a regression
    names          the classes, or the targets
    """

    answers: np.ndarray
    probabilities: np.ndarray | None
    names: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.answers)


def save_predictions(predictions: Predictions, path: str | Path) -> Path:
    """Writes predictions to a .csv or .npz file, whole or not at all.

    CSV: `row`, then `label` and one `p(CLASS)` a class, or one column a target. NPZ: `label`, `probability` and
    `classes`, or `y` and `targets`.

    Raises:
        ArgumentError: the name ends in neither.
        RunError: nothing can be written there.
    """
    path = check_output(path)
    if path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_head(predictions))
        columns = predictions.answers if predictions.probabilities is None else predictions.probabilities
        for row, values in enumerate(columns.tolist()):
            label = [] if predictions.probabilities is None else [predictions.answers[row]]
            writer.writerow([row, *label, *(f"{v:.9g}" for v in values)])
        content = text.getvalue().encode()
    else:
        buffer = io.BytesIO()
        if predictions.probabilities is None:
            np.savez(buffer, y=predictions.answers, targets=np.asarray(predictions.names))
        else:
            labels, classes = predictions.answers, np.asarray(predictions.names)
            np.savez(buffer, label=labels, probability=predictions.probabilities, classes=classes)
        content = buffer.getvalue()
    try:
        write_file(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def check_output(path: str | Path) -> Path:
    """The path of a predictions file, checked before any work.

    Raises:
        ArgumentError: it ends in neither .csv nor .npz, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".npz"):
        raise ArgumentError(f"{path}: give a name that ends in .csv or .npz")
    if not path.parent.is_dir():
        raise ArgumentError(f"{path}: there is no folder {path.parent}")
    return path


def _head(predictions: Predictions) -> Sequence[str]:
    if predictions.probabilities is None:
        return ["row", *map(str, predictions.names)]
    return ["row", "label", *(f"p({name})" for name in predictions.names)]
