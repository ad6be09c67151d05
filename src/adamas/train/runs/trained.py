"""A complete run, opened again: its model on new rows, with the preprocessing it was trained with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adamas.errors import ArgumentError, RunError
from adamas.train.choices import AskedPart, Part
from adamas.train.data.preprocess import Preprocess
from adamas.train.data.sources import Data, load
from adamas.train.runs import environment, score
from adamas.train.runs.config import Config
from adamas.train.runs.folder import open_run
from adamas.train.runs.models import forward
from adamas.train.runs.predictions import Predictions

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Evaluation:
    """How a run's model does on rows with answers.

    part     which of them: "test" by itself where the rows are those of the run, else "all"
    seen     whether any of them took part in training or in choosing the weights
    changed  whether the data has the name of the run's data and other values, so that nobody knows which were seen
    score    the numbers
    """

    part: Part
    seen: bool
    changed: bool
    score: score.Score


@dataclass(frozen=True)
class Run:
    """A complete run.

    path    its folder
    record  run.json
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Opens a run's folder, or `runs/latest`.

        Raises:
            RunError: there is none, it is unfinished, or it is damaged.
        """
        folder, record = open_run(path)
        return cls(folder, record)

    @cached_property
    def config(self) -> Config:
        """The resolved configuration."""
        try:
            return Config.read(self.path / "config.yaml")
        except (OSError, ArgumentError) as error:
            raise RunError(f"{self.path / 'config.yaml'} is damaged: {error}") from error

    @cached_property
    def preprocess(self) -> Preprocess:
        """How rows become the network's inputs."""
        file = self.path / "preprocess.json"
        try:
            return Preprocess.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RunError(f"{file} is damaged: {error}") from error

    @cached_property
    def model(self) -> keras.Model:
        """The network with its best weights; it takes preprocessed rows and gives logits, or standardised values."""
        environment.start_tensorflow(self.config.training.threads or 1, asked=False)
        import keras

        file = self.path / "model.keras"
        if not file.exists():
            raise RunError(f"{file} is missing; train again")
        try:
            return keras.saving.load_model(file, compile=False)
        except Exception as error:  # whatever zip, JSON, HDF5 and Keras raise for a damaged file
            raise RunError(f"{file} is damaged: {' '.join(str(error).split())[:200]}") from error

    def outputs(self, data: Data) -> np.ndarray:
        """The network's outputs for the rows of the data, float32 [rows, outputs].

        Raises:
            DataError: the rows do not have the shape that the model was trained on.
        """
        x = self.preprocess.x(data)
        return forward(self.model, x)

    def rows(self, part: str) -> np.ndarray:
        """Row numbers, in the run's own data, of a part of its split."""
        file = self.path / "rows.npz"
        try:
            with np.load(file, allow_pickle=False) as archive:
                return np.asarray(archive[part])
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{file} is damaged: {error}") from error


def evaluate(run: Run | str | Path, data: Data | str, part: AskedPart = "auto") -> Evaluation:
    """How a run's model does on rows with answers.

    Args:
        run: a run, or its folder.
        data: rows with answers: a built-in set's name, a .npz file, or Data.
        part: for the run's own data, which part of its split; "auto" is the test part there, so that a model is not
            judged by rows it has learned; for other data every row.

    Raises:
        RunError: the run is missing, unfinished or damaged.
        DataError: the data does not fit the model, or holds a label never seen in training; names the row.
        ArgumentError: a part is asked for of data that the run did not split.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    data = load(data) if isinstance(data, str) else data
    x = run.preprocess.x(data)  # checks before TensorFlow starts: first the rows, then the answers
    truth = (
        run.preprocess.y(data, "evaluating")
        if run.preprocess.task == "classification"
        else run.preprocess.numbers(data, "evaluating")
    )
    own = data.fingerprint == run.record["fingerprint"]
    changed = not own and data.name == run.record["data"]
    if not own and part not in ("auto", "all"):
        fault = "has changed since this run" if changed else f"is not the data of this run ({run.record['data']})"
        raise ArgumentError(f"--part {part}: {data.name} {fault}; leave it out")
    chosen: Part = ("test" if own else "all") if part == "auto" else part
    outputs = forward(run.model, x)
    if chosen != "all":
        rows = run.rows(chosen)
        outputs, truth = outputs[rows], truth[rows]
    if run.preprocess.task == "classification":
        result = score.classification(outputs, truth)
    else:
        result = score.regression(run.preprocess.restore(outputs), truth, run.preprocess)
    return Evaluation(chosen, own and chosen != "test", changed, result)


def predict(run: Run | str | Path, data: Data | str) -> Predictions:
    """A run's answers for rows, in their order; answers in the data are not looked at.

    Args:
        run: a run, or its folder.
        data: rows: a built-in set's name, a .npz file with x, or Data.

    Raises:
        RunError: the run is missing, unfinished or damaged.
        DataError: the rows do not fit the model.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    data = load(data) if isinstance(data, str) else data
    spec, outputs = run.preprocess, run.outputs(data)
    if spec.task == "regression":
        return Predictions(spec.restore(outputs), None, spec.target_names)
    wide = outputs.astype(np.float64)
    wide = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities = wide / wide.sum(axis=1, keepdims=True)
    return Predictions(np.asarray(spec.classes)[outputs.argmax(axis=1)], probabilities, spec.classes)
