"""What a run is told: every setting, its default and its range. The resolved configuration reproduces the run."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from adamas.errors import ArgumentError
from adamas.train.choices import AskedTask, Init, OptimizerName, Program

LARGEST_RATE = 1000
Rate = Annotated[float, Field(gt=0, le=LARGEST_RATE, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


def _run_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", name) or name == "latest" or name.endswith(".unfinished"):
        raise ValueError(
            f"{name!r}: give letters, digits and . _ + - only, not beginning with one of . + -, not 'latest'"
        )
    return name


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, and nothing changes after the checks."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Section):
    """Shares of the rows; what is left trains."""

    validation: Share = 0.2
    test: Share = 0.2


class Preprocess(Section):
    """Which operations of the closed list are fitted (train/data/preprocess.py)."""

    standardise: bool = True


class Model(Section):
    """A multilayer perceptron with relu. `hidden` None: two layers of a width that the data decides."""

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=32)] | None = None
    init: Init = "glorot_uniform"


class Optimizer(Section):
    """One optimizer. `learning_rate` None: its default, or, against another, the middle of the five that are tried."""

    name: OptimizerName = "adam"
    learning_rate: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0


class Training(Section):
    """How long and how.

    `epochs` None: enough for about 1,000 steps, from 30 to 100. `batch_size` None: 32, less for small data. `threads`
    None: all that this process may use.
    """

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Count | None = None
    program: Program = "auto"
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None


class Tuning(Section):
    """The budget that each side of a comparison gets: these learning rates, `epochs` each, on the validation part."""

    learning_rates: dict[OptimizerName, Annotated[tuple[Rate, ...], Field(min_length=1, max_length=50)]] | None = None
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class Config(Section):
    """Everything that decides a run's numbers, and where it goes (`out`, `name`).

    data        a built-in set's name or a .npz file
    task        what y is; "auto" decides by y's dtype
    seed        of the split, the initial weights and the order of examples
    against     the optimizer to compare with, or None
    out, name   the run is the folder out/name; name None: date, time, data and optimizer
    """

    data: Annotated[str, Field(min_length=1)]
    task: AskedTask = "auto"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    split: Split = Split()
    preprocess: Preprocess = Preprocess()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    against: Optimizer | None = None
    tuning: Tuning = Tuning()
    out: Annotated[str, Field(min_length=1)] = "runs"
    name: Annotated[str, AfterValidator(_run_name)] | None = None

    @model_validator(mode="after")
    def _two_sides(self) -> Config:
        if self.against is not None and self.against.name == self.optimizer.name:
            raise ValueError(f"against and optimizer are both {self.optimizer.name}; compare two different optimizers")
        for side in filter(None, (self.optimizer, self.against)):
            if side.name == "adamw" and side.weight_decay == 0 and "weight_decay" in side.model_fields_set:
                raise ValueError("adamw with weight_decay 0 is adam; give a weight_decay above 0, or take adam")
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Config:
        """A configuration from plain values.

        Raises:
            ArgumentError: an unknown key (names the nearest right one), a value out of range; all of them in one line.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ArgumentError("; ".join(_explain(e) for e in error.errors())) from error

    @classmethod
    def read(cls, path: Path) -> Config:
        """A configuration from a run's config.yaml.

        Raises:
            ArgumentError: not YAML, or as `parse`.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ArgumentError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise ArgumentError(f"{path} holds no settings")
        return cls.parse(values)

    def to_yaml(self) -> str:
        """The configuration as YAML, in the order above; `read` gives it back."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _explain(error: Any) -> str:
    """One of pydantic's errors in our words: what was given, what is allowed."""
    path = [str(p) for p in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _keys_at(error["loc"][:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        return f"unknown key {key}: " + (f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}")
    given = error.get("input")
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "string_too_short":
        return f"{key} is empty: give a name"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":
        return message if not key else f"{key}: {message}"
    return f"{key} {given!r}: give {message}"


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    section: Any = Config
    for part in location:
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), Config)
    return list(section.model_fields)
