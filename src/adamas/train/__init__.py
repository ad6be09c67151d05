"""Train a Keras model: `adamas.train.fit` is the loop, the rest turns a data set and a configuration into a run.

The names below are imported when they are first used: `import adamas.train` loads neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from adamas.errors import MissingExtraError

if TYPE_CHECKING:
    from adamas.train.choose import PROGRAMS, choose_program
    from adamas.train.loop import fit
    from adamas.train.order import epoch_order
    from adamas.train.snapshots import Snapshot, snapshot

__all__ = ["PROGRAMS", "Snapshot", "choose_program", "epoch_order", "fit", "snapshot"]

_HOME = {
    "fit": "loop",
    "PROGRAMS": "choose",
    "choose_program": "choose",
    "epoch_order": "order",
    "Snapshot": "snapshots",
    "snapshot": "snapshots",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "keras"):
            raise
        raise MissingExtraError(
            f"adamas.train.{name} needs {error.name}, which is not installed; run: pip install 'adamas[tensorflow]'"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
