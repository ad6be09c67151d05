"""The names that a configuration may hold; apart from everything else, so that `adamas --help` loads nothing more."""

from __future__ import annotations

from typing import Literal, get_args

OptimizerName = Literal["adam", "adamw", "sgd"]
Init = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "orthogonal", "zeros"
]
Program = Literal["auto", "graph", "xla", "xla-loop"]
Task = Literal["classification", "regression"]
AskedTask = Literal["auto", "classification", "regression"]
Part = Literal["test", "validation", "train", "all"]
AskedPart = Literal["auto", "test", "validation", "train", "all"]

BUILT_IN = ("digits", "iris", "wine", "breast_cancer", "diabetes", "linnerud")  # inside scikit-learn
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)
INITS: tuple[str, ...] = get_args(Init)
PROGRAMS: tuple[str, ...] = get_args(Program)
TASKS: tuple[str, ...] = get_args(AskedTask)
PARTS: tuple[str, ...] = get_args(AskedPart)
