"""From what was asked to what is run: data loaded and checked, defaults that depend on the data filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from adamas.errors import ArgumentError
from adamas.train.choices import Task
from adamas.train.data import preprocess
from adamas.train.data.preprocess import Preprocess
from adamas.train.data.sources import Data, check_enough, decide_task, labels, load
from adamas.train.data.split import Split, split
from adamas.train.runs.config import LARGEST_RATE, Config, Optimizer
from adamas.train.runs.environment import usable_cores

DEFAULT_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 1e-2}
# The middle of the five rates tried: a factor of ten to each side holds the best rate of every built-in set.
MIDDLE_RATES = {"adam": 3e-3, "adamw": 3e-3, "sgd": 3e-2}
DEFAULT_EPOCHS = 30
DEFAULT_ADAMW_DECAY = 4e-3  # keras.optimizers.AdamW


@dataclass(frozen=True)
class Prepared:
    """A resolved configuration with its data: all that training needs, and nothing of TensorFlow yet."""

    config: Config
    data: Data
    task: Task
    split: Split
    spec: Preprocess
    x: np.ndarray
    y: np.ndarray

    def part(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of the given rows, as the network takes them."""
        return self.x[rows], self.y[rows]

    @property
    def epochs(self) -> int:
        """Of the training in full."""
        return self.config.training.epochs or DEFAULT_EPOCHS

    @property
    def examples(self) -> int:
        """How many examples each optimizer will be shown, tuning included."""
        tuning = self.config.tuning
        tried = max((len(rates) for rates in (tuning.learning_rates or {}).values()), default=0)
        return len(self.split.train) * (self.epochs + tried * (tuning.epochs or self.epochs))

    def with_training(self, **settings: object) -> Prepared:
        """The same with settings of the training filled in that only TensorFlow can tell."""
        training = self.config.training.model_copy(update=settings)
        return replace(self, config=self.config.model_copy(update={"training": training}))


def prepare(config: Config) -> Prepared:
    """Loads and checks the data, splits it, fits the preprocessing, and fills in every default.

    Raises:
        DataError, ArgumentError: what is wrong with the data or a setting that depends on it.
    """
    data = load(config.data)
    task = decide_task(data, config.task)
    check_enough(data, task)
    y = data.require_y("training")
    groups = labels(y, data.name) if task == "classification" else None
    parts = split(len(data), groups, validation=config.split.validation, test=config.split.test, seed=config.seed)
    spec = preprocess.fit(data, task, parts.train, standardise=config.preprocess.standardise)
    resolved = _resolve(config, task, spec, len(parts.train))
    return Prepared(resolved, data, task, parts, spec, spec.x(data), spec.y(data))


def five_rates(middle: float) -> tuple[float, ...]:
    """Five learning rates, each 3 or 3.3 times the one before: middle / 10 to middle x 10.

    Raises:
        ArgumentError: one of them is outside what a learning rate may be.
    """
    rates = tuple(float(f"{middle * factor:.3g}") for factor in (0.1, 1 / 3, 1.0, 10 / 3, 10.0))
    if not (rates[0] > 0 and rates[-1] <= LARGEST_RATE):
        raise ArgumentError(
            f"learning rate {middle:g} is the middle of five, {rates[0]:g} to {rates[-1]:g}; give one with all five "
            f"above 0 and at most {LARGEST_RATE}"
        )
    return rates


def _resolve(config: Config, task: Task, spec: Preprocess, rows: int) -> Config:
    training, tuning, model = config.training, config.tuning, config.model
    batch_size = training.batch_size or (32 if rows >= 512 else 16 if rows >= 256 else 8)
    epochs = training.epochs or min(100, max(DEFAULT_EPOCHS, round(1000 / math.ceil(rows / batch_size))))
    if batch_size > rows:
        raise ArgumentError(f"batch size {batch_size} is more than the {rows} training rows of {config.data}")
    training = training.model_copy(
        update={"batch_size": batch_size, "epochs": epochs, "threads": training.threads or usable_cores()}
    )
    if model.hidden is None:
        width = _width(spec.inputs, rows)
        model = model.model_copy(update={"hidden": (width, width)})
    optimizer, against = _optimizer(config.optimizer, alone=config.against is None), config.against
    if against is None:
        if tuning.learning_rates or tuning.epochs:
            raise ArgumentError("tuning is for a comparison; say against which optimizer, or leave tuning out")
    else:
        against = _optimizer(against, alone=False)
        rates = {
            side.name: (tuning.learning_rates or {}).get(side.name)
            or five_rates(side.learning_rate or MIDDLE_RATES[side.name])
            for side in (optimizer, against)
        }
        if len({len(r) for r in rates.values()}) > 1:
            raise ArgumentError("tuning.learning_rates: give both optimizers the same number of learning rates")
        tuning = tuning.model_copy(update={"learning_rates": rates, "epochs": tuning.epochs or epochs})
    return config.model_copy(
        update={
            "task": task,
            "model": model,
            "optimizer": optimizer,
            "training": training,
            "against": against,
            "tuning": tuning,
        }
    )


def _optimizer(asked: Optimizer, *, alone: bool) -> Optimizer:
    update: dict[str, float] = {}
    if alone and asked.learning_rate is None:
        update["learning_rate"] = DEFAULT_RATES[asked.name]
    if asked.name == "adamw" and "weight_decay" not in asked.model_fields_set:
        update["weight_decay"] = DEFAULT_ADAMW_DECAY
    return asked.model_copy(update=update)


def _width(inputs: int, rows: int) -> int:
    """Of the hidden layers: grows with the root of the values to learn from; digits 64, iris 16, at most 256."""
    return int(min(256, max(16, 2 ** round(math.log2(math.sqrt(inputs * rows) / 4)))))
