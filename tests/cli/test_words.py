"""The command before it trains: help, wrong words, wrong values, wrong data. Quick, and TensorFlow is never loaded."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adamas.cli import main

X = np.arange(60, dtype=np.float64).reshape(20, 3)
Y = np.arange(20) % 2


def adamas(*words: object, program: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after `program`."""
    code = f"{program}\nimport sys\nfrom adamas.cli import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def refused(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit status and the one line on standard error."""
    status = main([str(w) for w in words])
    error = capfd.readouterr().err
    assert "tensorflow" not in sys.modules
    assert status in (1, 2)
    assert re.fullmatch(r"adamas: error: [^\n]+\n", error), error
    return status, error


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        shown = adamas("--help")
        best = min(best, time.perf_counter() - start)
    assert shown.returncode == 0
    assert all(
        verb in shown.stdout
        for verb in ("train", "evaluate", "predict", "explain", "bench", "doctor", "adamas train digits")
    )
    assert best < 1.0  # a quiet machine takes 0.2 s; TensorFlow alone would take 3
    check = "import atexit, sys; atexit.register(lambda: print(sorted(m for m in sys.modules if '.' not in m)))"
    for words in (
        ("--help",),
        ("train", "--help"),
        ("explain", "--help"),
        ("bench", "step", "--help"),
        ("train", "digits", "--epoch", "3"),
    ):
        loaded = adamas(*words, program=check).stdout
        assert "'click'" in loaded
        for heavy in ("tensorflow", "keras", "sklearn", "pydantic", "matplotlib", "rich", "yaml", "torch", "jax"):
            assert f"'{heavy}'" not in loaded


@pytest.mark.parametrize("words", [("--version",), ("-m",)])
def test_version(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "adamas", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert re.fullmatch(r"adamas, version \d+\.\d+\.\d+\n", shown.stdout)


def test_without_the_extra_the_command_says_what_to_install() -> None:
    absent = "import sys; sys.modules['click'] = None"
    shown = adamas("train", "digits", program=absent)
    assert shown.returncode == 1
    assert shown.stderr == (
        "adamas: error: the command needs click, which is not installed: pip install 'adamas[train]'\n"
    )


@pytest.mark.parametrize("package", ["pydantic", "yaml", "sklearn", "tensorflow"])
def test_without_a_part_of_the_extra_the_verb_says_what_to_install(package: str, tmp_path: Path) -> None:
    shown = adamas("train", "digits", "--out", tmp_path, program=f"import sys; sys.modules['{package}'] = None")
    assert shown.returncode == 1
    assert re.fullmatch(r"adamas: error: [^\n]*pip install 'adamas\[train\]'[^\n]*\n", shown.stderr), shown.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "digits"], "no verb 'trian': did you mean train?"),
        (["compare", "digits"], "no verb 'compare': not in this version; use train DATA --against"),
        (["xyzzy"], "the verbs are train, evaluate, predict, explain, bench, doctor"),
        (["train"], "Missing argument 'DATA'"),
        (["train", "digits", "iris"], "unexpected extra argument"),
        (["train", "digits", "--epoch", "3"], "Did you mean '--epochs'?"),
        (["train", "digits", "--lr", "-1"], "'-1': give a finite number above 0"),
        (["train", "digits", "--lr", "0"], "above 0"),
        (["train", "digits", "--lr", "nan"], "'nan': give a finite number above 0"),
        (["train", "digits", "--lr", "fast"], "'fast': give a finite number above 0"),
        (["train", "digits", "--epochs", "0"], "'0': give a whole number of at least 1"),
        (["train", "digits", "--epochs", "2.5"], "'2.5': give a whole number"),
        (["train", "digits", "--batch-size", "0"], "at least 1"),
        (["train", "digits", "--seed", "-1"], "at least 0"),
        (["train", "digits", "--weight-decay", "-0.1"], "of at least 0"),
        (["train", "digits", "--against", "sdg"], "'sdg': did you mean sgd?"),
        (["train", "digits", "--optimizer", "adm"], "did you mean adam?"),
        (["train", "digits", "--init", "glorot"], "did you mean glorot_normal?"),
        (["train", "digits", "--program", "xla-lop"], "did you mean xla-loop?"),
        (["evaluate", "runs/latest", "digits", "--part", "tset"], "did you mean test?"),
        (["predict", "runs/latest", "digits"], "Missing option '-o'"),
        (["bench", "stap"], "no kind 'stap': did you mean step?"),
        (["bench", "xyzzy"], "give one of step, scaling, features, rows, memory, train, quality"),
        (["bench", "step", "--rounds", "0"], "at least 1"),
        (["bench", "step", "--python", "torch"], "'torch': give FRAMEWORK=PATH"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    status, error = refused(capfd, *words)
    assert status == 2
    assert message in error
    assert "--help)" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digitss"], "no data set 'digitss': did you mean digits?"),
        (["train", "none.npz"], "none.npz: no such file"),
        (["train", "iris", "--task", "regression"], "regression needs numbers"),
        (["train", "iris", "--batch-size", "1000"], "batch size 1000 is more than the 90 training rows"),
        (["train", "iris", "--lr", "2000"], "optimizer.learning_rate 2000.0: give less than or equal to 1000"),
        (["train", "iris", "--against", "adam"], "both adam"),
        (["train", "iris", "--against", "adamw", "--weight-decay", "0"], "adamw with weight_decay 0 is adam"),
        (["train", "iris", "--against", "sgd", "--lr", "500"], "learning rate 500 is the middle of five, 50 to 5000"),
        (["train", "iris", "--out", ""], "out is empty: give a name"),
        (["train", "iris", "--name", "a/b"], "name: 'a/b': give letters"),
        (["evaluate", "none", "digits"], "none: no such run; `adamas train` makes one"),
        (["predict", "none", "digits", "-o", "p.csv"], "none: no such run"),
        (["predict", "none", "digits", "-o", "p.xlsx"], "p.xlsx: give a name that ends in .csv or .npz"),
        (["predict", "none", "digits", "-o", "no/p.csv"], "there is no folder no"),
    ],
)
def test_what_cannot_work_is_one_line_and_status_1(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, error = refused(capfd, *words)
    assert status == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []  # no run, not even an unfinished one


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.where(X == 7, np.nan, X), "y": Y}, "x in row 2, column 1 is nan"),
        ({"x": X, "y": Y[:5]}, "x has 20 rows and y has 5 rows"),
        ({"x": X[:, 0], "y": Y}, "x has shape (20,)"),
        ({"x": X, "y": np.zeros(20, int)}, "every row has the label 0"),
        ({"x": X[:4], "y": Y[:4]}, "class 0 has 2 rows"),
        ({"x": X}, "holds no y"),
        ({"x": X, "y": np.array([{}] * 20)}, "Python objects (pickled)"),
        ({"x": X, "y": np.array([b"\xff", b"a"])[Y]}, "y holds bytes that are not UTF-8"),
        ({"x": X, "y": Y.astype(float)}, "y holds 2 different whole numbers (float64) in 20 rows; say --task"),
    ],
)
def test_wrong_rows_are_one_line_and_no_run(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    status, error = refused(capfd, "train", path, "--out", tmp_path / "runs")
    assert status == 1
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, error = refused(capfd, "train", "iris", "--out", "/proc/adamas")  # not even root can write there
    assert status == 1
    assert "cannot write to /proc/adamas" in error
    (tmp_path / "file").write_text("")
    status, error = refused(capfd, "train", "iris", "--out", tmp_path / "file")
    assert status == 1
    assert "file is a file; give a folder for the runs" in error


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_traceback(closed: str) -> None:
    command = f"exec '{sys.executable}' -m adamas --help {closed}"
    shown = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    import resource

    with (tmp_path / "out.txt").open("w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "adamas", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )
    assert (shown.returncode, shown.stderr) == (1, "adamas: error: cannot read or write the output: File too large\n")


@pytest.mark.parametrize(("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_is_not_lost_in_a_destructor(name: str, status: int, word: str) -> None:
    """Python drops what is raised there; frameworks have destructors and callbacks of the garbage collector."""
    lose_it = f"""
import click, signal, sys, time, types

class Lost:
    def __del__(self):
        signal.raise_signal(signal.{name})

@click.command()
def command():
    Lost()
    time.sleep(20)

sys.modules["adamas.cli.doctor"] = types.SimpleNamespace(command=command)
"""
    began = time.monotonic()
    shown = adamas("doctor", program=lose_it)
    assert (shown.returncode, shown.stderr) == (status, f"adamas: {word}\n")
    assert time.monotonic() - began < 10
