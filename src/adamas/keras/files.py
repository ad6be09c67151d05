"""`.keras` files: of ours and of Keras' own Adam, either read as the other.

A `.keras` file is a zip archive: `config.json` names the classes, `model.weights.h5` has the numbers. Adamas writes the
numbers as Keras' own Adam does, so a file goes from one to the other by changing names in its `config.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.keras.classes import Adam, Adamax, AdamW, Lamb, Nadam
from adamas.keras_store import for_keras

_CLASSES = {"Adam": Adam, "AdamW": AdamW, "Adamax": Adamax, "Lamb": Lamb, "Nadam": Nadam}
# What Keras has not, and can go on without: the state is written as without them, and the rest changes no number of a
# step with finite gradients.
_LEFT_OUT = ("kernel", "sparse", "moments", "weights", "seed", "nonfinite", "stats", "verify")


def load_model(path: str | os.PathLike[str], custom_objects: dict[str, Any] | None = None, **options: Any) -> Any:
    """`keras.models.load_model`, with Adamas in the place of Keras' own Adam, AdamW, Adamax, Lamb and Nadam.

    A model that was saved with one of those of `keras.optimizers` goes on with the native step, from the state in the
    file: moments, averages, accumulated gradients, `iterations`, loss scale. That holds for every optimizer in the
    file, inside LossScaleOptimizer and MultiOptimizer too. A model that was saved with Adamas needs no more than
    `keras.models.load_model` after `import adamas.keras`.

    Keras' files do not say which variables `exclude_from_weight_decay` left out: call it again after loading.

    Args:
        path: a `.keras` file. Where names change, a copy of it is made for the time of loading.
        custom_objects, options: as for `keras.models.load_model`.

    Raises:
        ArgumentError: it is no `.keras` file.
        StateError: the file is damaged.
        ValueError: from Keras, with our message: the state in the file does not fit the model.

    Example:
        >>> import os, tempfile, keras, numpy as np
        >>> import adamas.keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer="adam", loss="mse")
        >>> _ = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.keras")
        ...     model.save(path)
        ...     model = adamas.keras.load_model(path)
        >>> isinstance(model.optimizer, adamas.keras.Adam)
        True
    """
    source = _keras_path(path)
    if not source.is_file():
        raise ArgumentError(f"{source}: there is no such file")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "model.keras")
        renamed = _copy(source, copy, _to_ours)
        return keras.models.load_model(copy if renamed else source, custom_objects=custom_objects, **options)


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """`model.save`, with Keras' own classes in the place of Adamas': loads where only Keras is installed.

    `keras.models.load_model` then gives `keras.optimizers.Adam`, `AdamW`, `Adamax`, `Lamb` or `Nadam` with the same
    settings and state. `kernel` is left out: it changes no number. So is `sparse="lazy"`: the moments are written
    decayed to the present, and Keras goes on with every row. So are `moments`, `weights` and `seed`: moments are
    written in float32, weights as the model has them; and `nonfinite`, `stats` and `verify`. The model in memory stays
    as it is. `model.save` writes a file that keeps all of these and names our classes, which can be loaded after
    `import adamas.keras`.

    Args:
        model: a Keras model, compiled or not.
        path: ends in `.keras`. The file appears when it is complete, and replaces an older one.

    Raises:
        ArgumentError: `path` ends in something else, or its folder does not exist.
        UnsupportedError: `groups`, or `no_decay` with weight decay, as Keras' files do not say which variables have
            none; or Keras has no such optimizer (RAdam, ADOPT, ScheduleFreeAdamW), or its has no such setting.
            Nothing has been written.

    Example:
        >>> import os, tempfile, keras, numpy as np
        >>> import adamas.keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer=adamas.keras.AdamW(0.01), loss="mse")
        >>> _ = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.keras")
        ...     adamas.keras.save_model(model, path)
        ...     loaded = keras.models.load_model(path)
        >>> type(loaded.optimizer) is keras.optimizers.AdamW
        True
    """
    target = _keras_path(path)
    if not target.parent.is_dir():
        raise ArgumentError(f"{target}: there is no folder {target.parent}; make it first")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".adamas-") as folder:
        ours, theirs = Path(folder, "ours.keras"), Path(folder, "theirs.keras")
        with for_keras():
            model.save(ours)
        complete = theirs if _copy(ours, theirs, _to_theirs) else ours
        with complete.open("rb") as file:
            os.fsync(file.fileno())
        complete.replace(target)


def _keras_path(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path).endswith(".keras"):
        raise ArgumentError(
            f"{os.fspath(path)}: give a path that ends in .keras. Other files can be loaded with "
            "keras.models.load_model and saved as .keras"
        )
    return Path(path)


def _to_ours(entry: dict[str, Any]) -> bool:
    cls = _CLASSES.get(entry["class_name"])
    # On torch Keras has subclasses of its own, and writes their names.
    if cls is None or not str(entry["module"]).startswith(("keras.optimizers", "keras.src.backend.torch.optimizers")):
        return False
    entry.update(module=cls.__module__, registered_name=keras.saving.get_registered_name(cls))
    return True


def _to_theirs(entry: dict[str, Any]) -> bool:
    package, _, name = str(entry["registered_name"]).partition(">")
    if package != "adamas":
        return False
    if name not in _CLASSES:
        raise UnsupportedError(
            f"Keras has no {name}; nothing was written. Save with model.save, and load where Adamas is installed"
        )
    config = entry["config"]
    for name_of_ours in _LEFT_OUT:
        config.pop(name_of_ours, None)
    if not config["weight_decay"]:
        config.pop("no_decay", None)
    more = set(config) - set(getattr(keras.optimizers, name)().get_config())
    if more:
        raise UnsupportedError(
            f"keras.optimizers.{name} has no {', '.join(sorted(more))}; nothing was written. Save with model.save, and "
            "load where Adamas is installed"
        )
    entry.update(module="keras.optimizers", class_name=name, registered_name=None)
    return True


def _copy(source: Path, target: Path, rename: Callable[[dict[str, Any]], bool]) -> bool:
    """Copy a `.keras` file with classes renamed in its configuration; writes nothing and returns False if none is."""
    try:
        with zipfile.ZipFile(source) as old:
            config = json.loads(old.read("config.json"))
            if not _rename(config, rename):
                return False
            with zipfile.ZipFile(target, "w") as new:
                for member in old.namelist():
                    with new.open(member, "w", force_zip64=True) as out:
                        if member == "config.json":
                            out.write(json.dumps(config).encode())
                        else:
                            with old.open(member) as file:
                                shutil.copyfileobj(file, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        if isinstance(error, UnsupportedError):
            raise
        raise StateError(f"{source} is no .keras file, or damaged: {error}. Nothing was loaded") from error
    return True


def _rename(part: Any, rename: Callable[[dict[str, Any]], bool]) -> int:
    """How many of the objects in a part of the configuration were renamed."""
    if isinstance(part, dict):
        here = {"module", "class_name", "config", "registered_name"} <= part.keys() and rename(part)
        return here + sum(_rename(value, rename) for value in part.values())
    return sum(_rename(value, rename) for value in part) if isinstance(part, list) else 0
