"""The command as its users meet it: real processes, real data, real signals, a real full disk."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from adamas import state

COMMAND = (sys.executable, "-m", "adamas")


def start(folder: Path, *words: object, **options: object) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, words)]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def adamas(folder: Path, *words: object) -> tuple[int, str, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def quiet(status: int, err: str) -> None:
    """It went well, and standard error holds at most what Adamas says once: that its TensorFlow op is being built."""
    assert status == 0, err
    assert all(line.startswith("adamas: building the op") for line in err.splitlines()), err


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home: Path) -> str:
    """What `adamas train digits --against sgd` prints, shortened to five epochs."""
    status, out, err = adamas(home, "train", "digits", "--against", "sgd", "--epochs", 5)
    quiet(status, err)
    return out


def test_it_prints_data_trials_epochs_table_verdict_and_next_steps(trained: str) -> None:
    assert trained.startswith("digits: 1,797 rows, 64 columns, 10 classes; 1,079 train,")
    assert len(re.findall(r"^  lr \S+ +val_loss", trained, re.M)) == 10
    assert len(re.findall(r"<- best$", trained, re.M)) == 2
    assert len(re.findall(r"^epoch \d/5  loss \d\.\d+ accuracy \d\.\d+  val_loss", trained, re.M)) == 10
    assert re.search(r"^Adam +\S+ +\d+ +\d\.\d+ +\d\d\.\d% ", trained, re.M)
    assert re.search(r"^SGD +\S+ +\d+ +\d\.\d+ +\d\d\.\d% ", trained, re.M)
    assert "tuned equally, one seed; for a verdict use compare" in trained
    assert max(len(line) for line in trained.splitlines() if line.startswith(("epoch", "  lr", "SGD  "))) < 80
    assert "adamas predict runs/latest digits -o predictions.csv" in trained
    assert "\x1b" not in trained  # plain where there is no terminal


def test_its_model_is_good_and_evaluates_as_it_said(home: Path, trained: str) -> None:
    status, out, err = adamas(home, "evaluate", "runs/latest", "digits", "--json")
    quiet(status, err)
    found = json.loads(out)
    record = json.loads((home / "runs" / "latest" / "run.json").read_text())
    assert (found["part"], found["rows"]) == ("test", 359)
    assert found["accuracy"] == record["result"]["test"]["accuracy"] > 0.9
    assert f"{100 * found['accuracy']:.1f}%" in trained


def test_predict_writes_every_row_in_order(home: Path, trained: str) -> None:
    status, out, err = adamas(home, "predict", "runs/latest", "digits", "-o", "predictions.csv")
    quiet(status, err)
    assert "predictions.csv: label and probabilities for 1,797 rows" in out
    with (home / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["row"]) for r in rows] == list(range(1797))
    assert np.mean([int(r["label"]) for r in rows] == load_digits().target) > 0.95
    assert all(abs(sum(float(v) for k, v in r.items() if k.startswith("p(")) - 1) < 1e-6 for r in rows)


def test_a_label_never_seen_and_wrong_columns_are_one_line(home: Path, trained: str) -> None:
    digits = load_digits()
    np.savez(home / "eleven.npz", x=digits.data[:20], y=np.r_[digits.target[:19], 11])
    np.savez(home / "narrow.npz", x=digits.data[:20, :9])
    status, _, err = adamas(home, "evaluate", "runs/latest", "eleven.npz")
    assert status == 1
    assert re.fullmatch(r"adamas: error: eleven\.npz: y in row 19 is 11, a label never seen in training[^\n]*\n", err)
    status, _, err = adamas(home, "predict", "runs/latest", "narrow.npz", "-o", "p.npz")
    assert status == 1
    assert re.fullmatch(r"adamas: error: narrow\.npz: x has shape \(20, 9\)[^\n]*rows of shape \[64\]\n", err)
    assert not (home / "p.npz").exists()


def test_two_runs_with_one_seed_give_the_same_bits(home: Path) -> None:
    weights = []
    for name in ("one", "two"):
        words = ("train", "wine", "--epochs", 4, "--seed", 3, "--name", name, "--json")
        status, out, err = adamas(home, *words)
        quiet(status, err)
        assert [json.loads(line)["event"] for line in out.splitlines()] == ["data", "model", *["epoch"] * 4, "complete"]
        folder = home / "runs" / name
        with zipfile.ZipFile(folder / "model.keras") as archive:
            weights.append(archive.read("model.weights.h5"))
        weights.append((folder / "metrics.jsonl").read_bytes())
        moments = state.load(folder / "optimizer.safetensors").slots.values()
        weights.append(b"".join(array.tobytes() for slots in moments for array in slots.values()))
        assert json.loads((folder / "environment.json").read_text())["threads"] == len(os.sched_getaffinity(0))
    assert weights[:3] == weights[3:]


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_in_one_line_and_an_unfinished_run(
    home: Path, number: signal.Signals, status: int, word: str
) -> None:
    process = start(home, "train", "digits", "--epochs", 1_000_000, "--program", "graph", "--name", word)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch       3/"):
            break
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (status, 1), err
    assert err == f"adamas: {word}; runs/{word}.unfinished is left unfinished\n"
    assert time.monotonic() - began < 20
    refused, _, err = adamas(home, "evaluate", f"runs/{word}", "digits")
    assert refused == 1
    assert err == f"adamas: error: runs/{word}.unfinished is unfinished (interrupted); train it again\n"
    assert not (home / "runs" / word).exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """A disk of 64 KiB, or, where nothing may be mounted, a process that may write no file larger than 16 KiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        yield tmp_path, {}
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    else:
        import resource

        yield tmp_path, {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))}


def test_a_full_disk_is_one_line_and_no_run(small_disk: tuple[Path, dict[str, object]]) -> None:
    disk, options = small_disk
    words = ("train", "digits", "--epochs", 2, "--program", "graph", "--name", "big", "--out", disk)
    process = start(disk.parent, *words, **options)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.fullmatch(r"adamas: error: [^\n]*(No space left on device|File too large)[^\n]*\n", err), err
    assert not (disk / "big").exists()
    assert not (disk / "latest").is_symlink()
    refused, _, err = adamas(disk.parent, "evaluate", disk / "big", "digits")
    assert refused == 1
    assert "big.unfinished is unfinished" in err


def test_output_that_nobody_reads_is_no_traceback(home: Path) -> None:
    process = start(home, "train", "iris", "--epochs", 200, "--program", "graph", "--name", "unread")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) != 0


def test_at_a_terminal_there_is_a_bar_and_at_the_end_it_is_gone(home: Path) -> None:
    import pty

    master, slave = pty.openpty()
    command = [*COMMAND, "train", "iris", "--epochs", "3", "--program", "graph", "--name", "seen"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, cwd=home, stdout=slave, stderr=slave, stdin=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "starting TensorFlow" in text
    assert "epoch 3/3" in text
    assert "\x1b[" in text
    assert "Traceback" not in text
    assert "starting TensorFlow" not in text.rpartition("epoch 3/3")[2]
