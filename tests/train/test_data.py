"""Rows are checked before anything is made of them, and every refusal names what is wrong and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adamas.errors import AdamasError, ArgumentError, DataError
from adamas.train.data import sources as data_module
from adamas.train.data.sources import BUILT_IN, Data, check_enough, decide_task, labels, load
from adamas.train.data.split import split

X = np.arange(60, dtype=np.float64).reshape(20, 3)
Y = np.arange(20) % 2


def saved(folder: Path, **arrays: np.ndarray) -> str:
    path = folder / "rows.npz"
    np.savez(path, **arrays)
    return str(path)


def with_value(value: float, row: int, column: int) -> np.ndarray:
    x = X.copy()
    x[row, column] = value
    return x


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_can_be_trained_on(name: str) -> None:
    data = load(name)
    task = decide_task(data, "auto")
    check_enough(data, task)
    assert len(data) == len(data.require_y("training")) > 15
    assert len(data.columns) == data.x.shape[1]
    assert task == ("regression" if name in ("diabetes", "linnerud") else "classification")


def test_an_npz_file_gives_back_its_rows(tmp_path: Path) -> None:
    data = load(saved(tmp_path, x=X, y=Y[:, None]))
    assert np.array_equal(data.x, X)
    assert data.y is not None
    assert data.y.shape == (20,)


def test_answers_are_optional_and_asked_for_by_name(tmp_path: Path) -> None:
    data = load(saved(tmp_path, x=X))
    with pytest.raises(DataError, match=r"rows\.npz holds no y; training needs the answers"):
        data.require_y("training")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": X}, r"holds no x \(it holds z\)"),
        ({"x": X[:, 0], "y": Y}, r"x has shape \(20,\); give one row an example"),
        ({"x": X, "y": Y[:-1]}, "x has 20 rows and y has 19 rows"),
        ({"x": X[:0], "y": Y[:0]}, "holds no value"),
        ({"x": X.astype(complex), "y": Y}, "x holds complex128; give real numbers"),
        ({"x": X.astype(str), "y": Y}, "give real numbers"),
        ({"x": X, "y": Y.astype(complex)}, "y holds complex128"),
        ({"x": X, "y": np.zeros((20, 2, 2))}, r"y has shape \(20, 2, 2\)"),
        ({"x": with_value(np.nan, 7, 2), "y": Y}, "x in row 7, column 2 is nan;"),
        ({"x": with_value(-np.inf, 0, 0), "y": Y}, "x in row 0, column 0 is -inf;"),
        ({"x": with_value(1e300, 3, 1), "y": Y}, r"row 3, column 1 is 1e\+300, too large for float32"),
        ({"x": X, "y": np.where(Y == 0, np.nan, 1.5)}, r"y in row 0 is nan \(and 9 more\)"),
        ({"x": np.array([[object()]] * 20), "y": Y}, r"x holds Python objects \(pickled\)"),
        ({"x": X, "y": np.array([None] * 20)}, r"y holds Python objects \(pickled\)"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(saved(tmp_path, **arrays))


def test_nan_in_a_named_column_is_named() -> None:
    data = Data("mine", with_value(np.nan, 4, 1), Y, columns=("age", "mass", "height"))
    with pytest.raises(DataError, match=r"row 4, column 1 \(mass\) is nan"):
        data_module.check(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"age,mass\n1,2\n", "is not a .npz file"),
    ],
)
def test_files_that_hold_no_arrays_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(path))


def test_a_cut_or_altered_file_is_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, x=X, y=Y))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"rows\.npz is cut short"):
        load(str(path))
    altered = bytearray(whole)
    altered[200] ^= 0xFF  # inside x: only the archive's checksum can tell
    path.write_bytes(bytes(altered))
    with pytest.raises(DataError, match=r"cannot be read|damaged"):
        load(str(path))


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("digit", ArgumentError, "no data set 'digit': did you mean digits?"),
        ("xyzzy", ArgumentError, "give one of digits, iris"),
        ("missing.npz", DataError, r"missing\.npz: no such file"),
        ("rows.csv", DataError, "does not end in .npz"),
    ],
)
def test_unknown_sources_are_refused(source: str, kind: type[AdamasError], message: str) -> None:
    with pytest.raises(kind, match=message):
        load(source)


@pytest.mark.parametrize(
    ("y", "asked", "task"),
    [
        (Y, "auto", "classification"),
        (Y.astype(bool), "auto", "classification"),
        (np.where(Y == 0, "a", "b"), "auto", "classification"),
        (Y * 0.5, "auto", "regression"),
        (Y * 1.0, "classification", "classification"),
        (np.arange(20), "regression", "regression"),
        (np.ones((20, 2)), "auto", "regression"),
    ],
)
def test_the_task_follows_from_the_answers(y: np.ndarray, asked: str, task: str) -> None:
    assert decide_task(Data("mine", X, y), asked) == task  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("y", "asked", "message"),
    [
        (np.where(Y == 0, "a", "b"), "regression", "regression needs numbers"),
        (Y * 0.5, "classification", "y in row 1 is 0.5, not a label"),
        (np.ones((20, 2)), "classification", "one label a row"),
    ],
)
def test_a_task_that_the_answers_cannot_serve_is_refused(y: np.ndarray, asked: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decide_task(Data("mine", X, y), asked)  # type: ignore[arg-type]


def test_whole_numbers_that_look_like_measurements_are_asked_about() -> None:
    x = np.zeros((200, 1))
    with pytest.raises(DataError, match=r"200 different whole numbers \(int64\) in 200 rows; say --task"):
        decide_task(Data("mine", x, np.arange(200)), "auto")


def test_floating_point_numbers_that_look_like_labels_are_asked_about() -> None:
    with pytest.raises(DataError, match=r"2 different whole numbers \(float64\) in 20 rows; say --task"):
        decide_task(Data("mine", X, Y * 1.0), "auto")
    assert decide_task(Data("mine", np.zeros((200, 1)), np.arange(200.0)), "auto") == "regression"


def test_labels_are_int64_or_strings() -> None:
    assert labels(np.array([3.0, -2.0]), "mine").dtype == np.int64
    assert labels(np.array([3, 2**63 - 1], np.uint64), "mine").tolist() == [3, 2**63 - 1]
    assert labels(np.array(["é".encode()]), "mine").tolist() == ["é"]
    with pytest.raises(DataError, match=r"mine: y in row 1 is 9223372036854775808, too large for a label"):
        labels(np.array([3, 2**63], np.uint64), "mine")
    with pytest.raises(DataError, match=r"mine: y in row 0 is 1e\+30, too large for a label"):
        labels(np.array([1e30]), "mine")
    with pytest.raises(DataError, match="mine: y holds bytes that are not UTF-8"):
        labels(np.array([b"\xff"]), "mine")


@pytest.mark.parametrize(
    ("y", "task", "message"),
    [
        (np.zeros(20, int), "classification", "every row has the label 0"),
        (np.r_[np.zeros(18, int), 1, 1], "classification", "class 1 has 2 rows"),
        (np.r_[np.zeros(19, int), 1], "classification", "class 1 has 1 row;"),
    ],
)
def test_too_few_rows_of_a_class_are_refused(y: np.ndarray, task: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_enough(Data("mine", X, y), task)  # type: ignore[arg-type]


def test_too_few_rows_for_a_regression_are_refused() -> None:
    with pytest.raises(DataError, match="has 9 rows; training, validation and test need at least 10"):
        check_enough(Data("mine", X[:9], np.arange(9) / 2), "regression")


def test_the_split_is_a_partition_with_every_class_in_every_part() -> None:
    classes = np.repeat([0, 1, 2], [3, 50, 147])
    parts = split(200, classes, validation=0.2, test=0.2, seed=5)
    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.validation, parts.test])), np.arange(200))
    for rows in (parts.train, parts.validation, parts.test):
        assert set(classes[rows]) == {0, 1, 2}
    assert len(parts.test) == 1 + 10 + 29


def test_the_split_depends_on_the_seed_alone() -> None:
    first, again, other = (split(100, None, validation=0.2, test=0.2, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)


def test_the_fingerprint_changes_with_a_value_a_label_and_a_dtype() -> None:
    prints = {
        Data("a", X, Y).fingerprint,
        Data("a", with_value(9.0, 0, 0), Y).fingerprint,
        Data("a", X, 1 - Y).fingerprint,
        Data("a", X.astype(np.float32), Y).fingerprint,
        Data("a", X.reshape(20, 1, 3), Y).fingerprint,
    }
    assert len(prints) == 5
    assert Data("a", X, Y).fingerprint == Data("b", X.copy(order="F"), Y).fingerprint
