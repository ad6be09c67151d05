"""Train a Keras model: `adamas.train.fit` is the loop, the rest turns a data set and a configuration into a run.

The names below are imported when they are first used: `import adamas.train` loads neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from adamas.errors import MissingExtraError

if TYPE_CHECKING:
    from adamas.train.choose import PROGRAMS, choose_program
    from adamas.train.config import Config
    from adamas.train.diagnosis import diagnose
    from adamas.train.job import run
    from adamas.train.loop import fit
    from adamas.train.order import epoch_order
    from adamas.train.predictions import Predictions, save_predictions
    from adamas.train.snapshots import Snapshot, snapshot
    from adamas.train.trained import Evaluation, Run, evaluate, predict

__all__ = [
    "PROGRAMS",
    "Config",
    "Evaluation",
    "Predictions",
    "Run",
    "Snapshot",
    "choose_program",
    "diagnose",
    "epoch_order",
    "evaluate",
    "fit",
    "predict",
    "run",
    "save_predictions",
    "snapshot",
]

_HOME = {
    "fit": "loop",
    "PROGRAMS": "choose",
    "choose_program": "choose",
    "epoch_order": "order",
    "Snapshot": "snapshots",
    "snapshot": "snapshots",
    "Config": "config",
    "diagnose": "diagnosis",
    "run": "job",
    "Predictions": "predictions",
    "save_predictions": "predictions",
    "Evaluation": "trained",
    "Run": "trained",
    "evaluate": "trained",
    "predict": "trained",
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
