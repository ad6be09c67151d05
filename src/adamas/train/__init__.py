"""Train a Keras model: `adamas.train.fit` is the loop, the rest turns a data set and a configuration into a run.

The names below are imported when they are first used: `import adamas.train` loads neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from adamas.errors import MissingExtraError

if TYPE_CHECKING:
    from adamas.train.loop.choose import PROGRAMS, choose_program
    from adamas.train.loop.fit import fit
    from adamas.train.loop.order import epoch_order
    from adamas.train.loop.snapshots import Snapshot, snapshot
    from adamas.train.runs.config import Config
    from adamas.train.runs.job import run
    from adamas.train.runs.predictions import Predictions, save_predictions
    from adamas.train.runs.trained import Evaluation, Run, evaluate, predict

__all__ = [
    "PROGRAMS",
    "Config",
    "Evaluation",
    "Predictions",
    "Run",
    "Snapshot",
    "choose_program",
    "epoch_order",
    "evaluate",
    "fit",
    "predict",
    "run",
    "save_predictions",
    "snapshot",
]

_HOME = {
    "fit": "loop.fit",
    "PROGRAMS": "loop.choose",
    "choose_program": "loop.choose",
    "epoch_order": "loop.order",
    "Snapshot": "loop.snapshots",
    "snapshot": "loop.snapshots",
    "Config": "runs.config",
    "run": "runs.job",
    "Predictions": "runs.predictions",
    "save_predictions": "runs.predictions",
    "Evaluation": "runs.trained",
    "Run": "runs.trained",
    "evaluate": "runs.trained",
    "predict": "runs.trained",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("adamas"):
            raise
        package = error.name.partition(".")[0]
        extra = "tensorflow" if package in ("tensorflow", "keras") else "train"
        raise MissingExtraError(
            f"adamas.train.{name} needs {package}, which is not installed; run: pip install 'adamas[{extra}]'"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
