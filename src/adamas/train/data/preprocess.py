"""From rows as they are found to what a network takes, and back: a closed list of operations in one specification.

The specification is plain JSON and is saved with the run, so that predictions repeat it exactly:

    inputs    {"op": "flatten", "shape": [...]}                        [rows, ...] -> [rows, columns]
              {"op": "standardise", "mean": [...], "std": [...]}       (x - mean) / std; 0 where std is 0
    target    {"op": "labels", "classes": [...]}                       label -> its place in the sorted classes
              {"op": "standardise", "mean": [...], "std": [...]}       one number for each target

`mean` and `std` (of the population: divided by n) are those of the training rows alone. A column that is constant in
them has std 0 and becomes 0 everywhere: nothing could be learned about it, so a new value there must not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adamas.errors import DataError, RunError
from adamas.train.choices import Task
from adamas.train.data.sources import Data, kind_of, labels

CHUNK = 8192  # rows converted at a time: float64 arithmetic without a float64 copy of everything


@dataclass(frozen=True)
class Preprocess:
    """The fitted specification: what it says at the top of this file.

    shape    of one row as it is found; more than one number means "flatten"
    mean, std  of each input column, float64; empty when inputs are taken as they are
    task     classification or regression
    classes  sorted labels (classification)
    target_mean, target_std  of each target (regression)
    columns, targets  names, where the data had them
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: Task
    classes: tuple[Any, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    columns: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    @property
    def inputs(self) -> int:
        """Columns that the network takes."""
        return int(np.prod(self.shape))

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for a row: one a class (logits), or one a target (standardised)."""
        return len(self.classes) or len(self.target_mean)

    @property
    def target_names(self) -> tuple[str, ...]:
        """A name for each target of a regression."""
        if self.targets:
            return self.targets
        return ("y",) if self.outputs == 1 else tuple(f"y{i}" for i in range(self.outputs))

    def x(self, data: Data) -> np.ndarray:
        """The network's inputs, float32 [rows, inputs].

        Raises:
            DataError: the rows have another shape than the training rows.
        """
        if data.x.shape[1:] != self.shape:
            raise DataError(
                f"{data.name}: x has shape {data.x.shape}; this model was trained on rows of shape {list(self.shape)}"
            )
        flat = data.x.reshape(len(data.x), -1)
        if not self.mean:
            return np.ascontiguousarray(flat, dtype=np.float32)
        mean = np.asarray(self.mean)
        out = np.empty(flat.shape, np.float32)
        for start in range(0, len(flat), CHUNK):
            rows = flat[start : start + CHUNK].astype(np.float64)
            out[start : start + CHUNK] = _limit(_divide(rows - mean, np.asarray(self.std)))
        return out

    def y(self, data: Data, purpose: str = "this") -> np.ndarray:
        """The network's targets: int32 [rows] places of the labels, or float32 [rows, targets] standardised.

        Raises:
            DataError: there is no y, a label was never seen in training, or the number of targets differs.
        """
        y = data.require_y(purpose)
        if self.task == "classification":
            return self._places(data.name, y)
        return _limit(_divide(self.numbers(data, purpose) - np.asarray(self.target_mean), np.asarray(self.target_std)))

    def numbers(self, data: Data, purpose: str = "this") -> np.ndarray:
        """Targets of a regression as they are, float64 [rows, targets].

        Raises:
            DataError: they are not numbers, or their number differs from training's.
        """
        y = data.require_y(purpose)
        if y.dtype.kind not in "biuf":
            raise DataError(f"{data.name}: y holds {kind_of(y)}; this model was trained on numbers")
        y = y.astype(np.float64).reshape(len(y), -1)
        if y.shape[1] != self.outputs:
            targets = "1 target" if y.shape[1] == 1 else f"{y.shape[1]} targets"
            raise DataError(f"{data.name}: y has {targets} a row; this model was trained on {self.outputs}")
        return y

    def restore(self, outputs: np.ndarray) -> np.ndarray:
        """A regression's outputs in the units of the data, float64 [rows, targets]."""
        values: np.ndarray = outputs.astype(np.float64) * np.asarray(self.target_std) + np.asarray(self.target_mean)
        return values

    def _places(self, name: str, y: np.ndarray) -> np.ndarray:
        classes = np.asarray(self.classes)
        wrong_kind = (classes.dtype.kind == "U") != (y.dtype.kind in "US")
        if y.ndim != 1 or wrong_kind:
            held = "labels " + ", ".join(map(repr, self.classes[:5])) + (", ..." if len(self.classes) > 5 else "")
            raise DataError(f"{name}: y holds {kind_of(y)}, shape {y.shape}; this model was trained on {held}")
        if y.dtype.kind == "S":
            y = labels(y, name)
        places = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        unseen = np.flatnonzero(classes[places] != y)
        if len(unseen):
            row = int(unseen[0])
            known = ", ".join(map(str, self.classes[:12])) + (", ..." if len(self.classes) > 12 else "")
            raise DataError(
                f"{name}: y in row {row} is {y[row]}, a label never seen in training ({known}); "
                f"{len(unseen)} of {len(y)} rows are such"
            )
        return places.astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """The specification as plain JSON values."""
        inputs: list[dict[str, Any]] = []
        if len(self.shape) > 1:
            inputs.append({"op": "flatten", "shape": list(self.shape)})
        if self.mean:
            inputs.append({"op": "standardise", "mean": list(self.mean), "std": list(self.std)})
        target: dict[str, Any] = (
            {"op": "labels", "classes": list(self.classes)}
            if self.task == "classification"
            else {"op": "standardise", "mean": list(self.target_mean), "std": list(self.target_std)}
        )
        head = {"format": "adamas.preprocess", "version": 1, "task": self.task, "shape": list(self.shape)}
        return {
            **head,
            "columns": list(self.columns),
            "targets": list(self.targets),
            "inputs": inputs,
            "target": target,
        }

    @classmethod
    def from_json(cls, spec: dict[str, Any]) -> Preprocess:
        """The opposite of `to_json`.

        Raises:
            RunError: this is not such a specification.
        """
        try:
            if (spec["format"], spec["version"]) != ("adamas.preprocess", 1):
                raise RunError(f"preprocessing of version {spec['version']}; this Adamas reads version 1")
            scale = next((op for op in spec["inputs"] if op["op"] == "standardise"), {"mean": (), "std": ()})
            target = spec["target"]
            return cls(
                shape=tuple(spec["shape"]),
                mean=tuple(scale["mean"]),
                std=tuple(scale["std"]),
                task=spec["task"],
                classes=tuple(target.get("classes", ())),
                target_mean=tuple(target.get("mean", ())),
                target_std=tuple(target.get("std", ())),
                columns=tuple(spec["columns"]),
                targets=tuple(spec["targets"]),
            )
        except (KeyError, TypeError) as error:
            raise RunError(f"the preprocessing specification is damaged: {error!r}") from error


def fit(data: Data, task: Task, train: np.ndarray, *, standardise: bool = True) -> Preprocess:
    """The specification whose statistics are those of the training rows.

    Args:
        data: all rows.
        task: what y is.
        train: row numbers of the training part.
        standardise: whether inputs are standardised; targets of a regression always are.
    """
    y = data.require_y("training")
    flat = data.x.reshape(len(data.x), -1)[train]
    mean, std = _statistics(flat) if standardise else ((), ())
    shape, columns = data.x.shape[1:], data.columns
    common: dict[str, Any] = {"shape": shape, "mean": mean, "std": std, "task": task, "columns": columns}
    if task == "classification":
        return Preprocess(**common, classes=tuple(np.unique(labels(y, data.name)).tolist()))
    target_mean, target_std = _statistics(y.reshape(len(y), -1)[train])
    if 0.0 in target_std:
        column = "" if y.ndim == 1 else f" in column {target_std.index(0.0)}"
        raise DataError(f"{data.name}: y{column} is constant in the training rows; there is nothing to learn")
    return Preprocess(**common, target_mean=target_mean, target_std=target_std, targets=data.targets)


def _statistics(rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column, in float64 and in two passes; std 0 for a constant column."""
    mean = rows.mean(axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for start in range(0, len(rows), CHUNK):
        square += np.square(rows[start : start + CHUNK].astype(np.float64) - mean).sum(axis=0)
    std = np.where(rows.max(axis=0) == rows.min(axis=0), 0.0, np.sqrt(square / len(rows)))
    return tuple(mean.tolist()), tuple(std.tolist())


def _divide(centred: np.ndarray, std: np.ndarray) -> np.ndarray:
    return np.where(std == 0.0, 0.0, centred / np.where(std == 0.0, 1.0, std))


def _limit(x: np.ndarray) -> np.ndarray:
    """float32; what lies beyond its range becomes its largest number, which only a column of wild scale can reach."""
    largest = np.finfo(np.float32).max
    limited: np.ndarray = np.clip(x, -largest, largest).astype(np.float32)
    return limited
