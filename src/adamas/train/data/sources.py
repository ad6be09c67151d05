"""Where rows come from: the real sets that ship inside scikit-learn, and `.npz` files; every row checked before use."""

from __future__ import annotations

import difflib
import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adamas.errors import ArgumentError, DataError, MissingExtraError
from adamas.train.choices import BUILT_IN, AskedTask, Task


@dataclass(frozen=True)
class Data:
    """Rows and, where they are known, the answers.

    name     the data set's name or the file's path, as it was given
    x        [rows, columns], or [rows, ...] as it was found (images); any real dtype, every value finite
    y        [rows] or [rows, targets], or None: labels (integers, strings, booleans) or numbers
    columns  a name for each column of x where the set has them
    targets  a name for each column of y where the set has them
    """

    name: str
    x: np.ndarray
    y: np.ndarray | None
    columns: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def fingerprint(self) -> str:
        """A digest of x and y: the same for the same rows in the same order, wherever they were loaded from."""
        digest = hashlib.sha256()
        for array in (self.x, self.y):
            if array is not None:
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()

    def require_y(self, purpose: str) -> np.ndarray:
        """y, or DataError when the file holds none.

        Raises:
            DataError: there is no y.
        """
        if self.y is None:
            raise DataError(f"{self.name} holds no y; {purpose} needs the answers: save x and y with numpy.savez")
        return self.y


def load(source: str) -> Data:
    """Loads a built-in set by name, or a `.npz` file with `x` and, except for predictions, `y`.

    Raises:
        ArgumentError: no such set and no such file; names the nearest.
        DataError: the file is missing, empty, damaged, or its arrays cannot be trained on; names row and column.
        MissingExtraError: scikit-learn, which ships the built-in sets, is not installed.
    """
    if source in BUILT_IN:
        return _built_in(source)
    if source.endswith(".npz"):
        return _npz(source)
    if Path(source).suffix or "/" in source:
        raise DataError(f"{source}: the name does not end in .npz; give a .npz file with x and y (numpy.savez)")
    near = difflib.get_close_matches(source, BUILT_IN, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ArgumentError(f"no data set {source!r}: {hint}give one of {', '.join(BUILT_IN)}, or a .npz file")


def decide_task(data: Data, asked: AskedTask) -> Task:
    """Classification for labels (integers, strings, booleans), regression for floating-point numbers, unless asked.

    Raises:
        DataError: y cannot serve the task; or nothing was asked, and integers look like measurements because they are
            many, or floating-point numbers look like labels because they are few and whole.
    """
    y = data.require_y("training")
    kind = y.dtype.kind
    if asked == "regression":
        if kind not in "iuf":
            raise DataError(f"{data.name}: y holds {kind_of(y)}; regression needs numbers")
        return "regression"
    if y.ndim == 2:
        if asked == "classification":
            raise DataError(f"{data.name}: y has shape {y.shape}; classification takes one label a row, shape [rows]")
        return "regression"
    if asked == "classification":
        if kind == "f" and bool(np.any(y != np.floor(y))):
            row = int(np.argmax(y != np.floor(y)))
            raise DataError(f"{data.name}: y in row {row} is {y[row]}, not a label; leave out --task classification")
        return "classification"
    if kind not in "iuf":
        return "classification"
    by_kind: Task = "regression" if kind == "f" else "classification"
    different = len(np.unique(y))
    whole, few = kind != "f" or bool(np.all(y == np.floor(y))), different <= max(20, len(y) // 4)
    by_values: Task = "classification" if whole and few else "regression"
    if by_kind != by_values:
        raise DataError(
            f"{data.name}: y holds {different} different whole numbers ({y.dtype}) in {len(y)} rows; "
            "say --task regression or --task classification"
        )
    return by_kind


def labels(y: np.ndarray, name: str) -> np.ndarray:
    """y as labels: whole numbers become int64, bytes become strings.

    Raises:
        DataError: a number is too large for int64, or bytes are not UTF-8; names the row.
    """
    if y.dtype.kind in "uf":
        large = y >= 2**63 if y.dtype.kind == "u" else np.abs(y.astype(np.float64)) >= 2.0**63
        if large.any():
            row = int(np.argmax(large))
            raise DataError(f"{name}: y in row {row} is {y[row]}, too large for a label (below 2^63)")
        return y.astype(np.int64)
    if y.dtype.kind == "S":
        try:
            return np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: y holds bytes that are not UTF-8 text; save strings, or UTF-8") from error
    return y


def kind_of(y: np.ndarray) -> str:
    """What an array holds, in a word that a reader knows."""
    return "strings" if y.dtype.kind in "US" else str(y.dtype)


def check_enough(data: Data, task: Task) -> None:
    """Raises DataError unless the rows can be split three ways with every class in every part."""
    if task == "regression":
        if len(data) < 10:
            raise DataError(f"{data.name} has {len(data)} rows; training, validation and test need at least 10")
        return
    classes, counts = np.unique(labels(data.require_y("training"), data.name), return_counts=True)
    if len(classes) < 2:
        raise DataError(f"{data.name}: every row has the label {classes[0]}; classification needs at least two classes")
    if counts.min() < 3:
        rare = classes[counts.argmin()]
        raise DataError(
            f"{data.name}: class {rare} has {_rows(int(counts.min()))}; each class needs at least 3, "
            "one for each of training, validation and test"
        )


def _built_in(name: str) -> Data:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtraError(f"the set {name} ships with scikit-learn: pip install 'adamas[train]'") from error
    bunch = getattr(datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data), np.asarray(bunch.target)
    columns = tuple(str(c) for c in bunch.feature_names)
    if name in ("diabetes", "linnerud"):
        targets = tuple(bunch.target_names) if name == "linnerud" else ("progression",)
        return Data(name, x, y.astype(np.float64), columns, targets)
    if name == "digits":
        return Data(name, x, y, columns)
    return Data(name, x, np.asarray(bunch.target_names).astype(np.str_)[y], columns)


def _npz(source: str) -> Data:
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file")
    if path.is_dir():
        raise DataError(f"{source} is a folder; give a .npz file with x and y")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{source} is empty (0 bytes)")
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                fault = "is cut short" if file.read(4) == b"PK\x03\x04" else "is not a .npz file"
                raise DataError(f"{source} {fault}; write it with numpy.savez(path, x=x, y=y)")
        with np.load(path, allow_pickle=False) as archive:
            if "x" not in archive:
                held = ", ".join(sorted(archive)[:8]) or "nothing"
                raise DataError(f"{source} holds no x (it holds {held}); save x and y with numpy.savez")
            x = _member(source, "x", archive)
            y = _member(source, "y", archive) if "y" in archive else None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{source} cannot be read: {_reason(error)}") from error
    return check(Data(source, x, y))


def _member(source: str, name: str, archive: np.lib.npyio.NpzFile) -> np.ndarray:
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{source}: {name} holds Python objects (pickled), which could run code when loaded and are refused; "
                "save numbers, strings or booleans"
            ) from error
        raise DataError(f"{source}: {name} is damaged: {_reason(error)}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{source}: {name} is not an array")
    return array


def check(data: Data) -> Data:
    """The same data with y [rows, 1] as [rows], when every value is usable.

    Raises:
        DataError: a shape, a dtype or a value is not; names row and column.
    """
    name, x, y = data.name, data.x, data.y
    if x.ndim < 2:
        raise DataError(f"{name}: x has shape {x.shape}; give one row an example, shape [rows, columns]")
    if x.dtype.kind not in "biuf":
        raise DataError(f"{name}: x holds {x.dtype}; give real numbers")
    if x.size == 0:
        raise DataError(f"{name}: x has shape {x.shape}: it holds no value")
    _check_finite(name, "x", x, data.columns)
    if y is None:
        return data
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2):
        raise DataError(f"{name}: y has shape {y.shape}; give [rows] or [rows, targets]")
    if len(y) != len(x):
        raise DataError(f"{name}: x has {_rows(len(x))} and y has {_rows(len(y))}; give one y for each row of x")
    if y.dtype.kind not in "biufUS" or (y.ndim == 2 and y.dtype.kind not in "iuf") or y.size == 0:
        raise DataError(f"{name}: y holds {y.dtype}, shape {y.shape}; give labels [rows] or numbers [rows, targets]")
    _check_finite(name, "y", y, data.targets)
    return replace(data, y=y)


def _check_finite(name: str, which: str, array: np.ndarray, columns: Sequence[str]) -> None:
    if array.dtype.kind != "f":
        return
    good = np.abs(array) <= np.finfo(np.float32).max  # False for NaN too
    if good.all():
        return
    row, *rest = (int(i) for i in np.argwhere(~good)[0])
    value = array[(row, *rest)]
    column = f", column {', '.join(map(str, rest))}" if rest else ""
    if len(rest) == 1 and columns:
        column += f" ({columns[rest[0]]})"
    fault = f"is {value}" if not np.isfinite(value) else f"is {value}, too large for float32"
    more = int((~good).sum()) - 1
    also = f" (and {more} more)" if more else ""
    raise DataError(f"{name}: {which} in row {row}{column} {fault}{also}; repair or leave out such rows")


def _rows(n: int) -> str:
    return f"{n} row" if n == 1 else f"{n} rows"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
