"""Every kind of benchmark runs, at a tiny size, with every framework in its own worker process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")
pytest.importorskip("optax")

from benchmarks import report
from benchmarks.cases.features import FEATURES
from benchmarks.harness import ROOT

TRAININGS = [
    "adamas.train.fit",
    "model.fit, adamas.keras.Adam",
    "model.fit, Keras Adam",
    "torch loop, Adam fused",
    "JAX loop, a jit call a step",
    "JAX loop, a scan an epoch",
]
STEPS = [
    "limit",
    "adamas.numpy",
    "adamas.keras eager",
    "adamas.keras graph",
    "Keras Adam eager",
    "Keras Adam graph",
    "Keras Adam XLA",
    "ResourceApplyAdam eager",
    "ResourceApplyAdam graph",
    "torch Adam default",
    "torch Adam foreach",
    "torch Adam fused",
    "optax adam, jit, donated",
]
TABLES = [
    *(f"adamas.keras {way}, {sparse}" for way in ("eager", "graph") for sparse in ("dense", "lazy")),
    "Keras Adam eager",
    "Keras Adam graph",
    "torch SparseAdam",
]
PEAKS = [name for name in STEPS if name != "limit"]
HELD = [f"{name}, a value held" for name in STEPS if name.startswith(("adamas.keras", "Keras", "Resource"))]
STATES = ["adamas.numpy", "adamas.keras", "Keras Adam", "torch Adam", "optax adam"]
FEATURED = [f"{optimizer}, {feature}" for optimizer in ("adamas.keras", "Keras Adam") for feature in FEATURES]
# Rows by kind and case. One case of those that differ in their sizes only.
ROWS = {
    "step": {"many": STEPS},
    "train": {
        "mlp-64": TRAININGS,
        "embedding": TRAININGS,
        "embedding-lazy": [*TRAININGS[:2], "torch loop, SparseAdam"],
        "cnn": TRAININGS,
        "transformer": TRAININGS,
    },
    "rows": {"rows-100": TABLES},
    "memory": {"one": [*PEAKS, *HELD], "state": STATES},
    "features": {"graph": FEATURED},
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_kind_runs(kind: str, tmp_path: Path):
    """Every row that should be there is, with a figure; the Markdown beside the JSON is made of it."""
    scale = 0.05 if kind == "memory" else 0.01
    content = run(kind, scale, tmp_path / "results.json", "--only", ",".join(ROWS[kind]))
    if kind == "memory":
        check_known(content["cases"][0])
    assert {case["key"] for case in content["cases"]} == set(ROWS[kind])
    measures = "bytes" if kind == "memory" else "seconds"
    fields = {"peer", "figure", measures}
    fields |= {"train": {"times", "loss", "differs"}, "memory": set()}.get(kind, {"times"})
    for case in content["cases"]:
        assert sorted(row["peer"] for row in case["rows"]) == sorted(ROWS[kind][case["key"]])
        for row in case["rows"]:
            assert set(row) == fields
            assert len(row[measures]) == 1
            assert row[measures][0] > 0 or measures == "bytes"
    assert (tmp_path / "results.md").read_text() == report.markdown(content)


def check_known(case: dict[str, Any]) -> None:
    """The measurement sees what must be there: 8 bytes of temporaries in torch's loop, 4 for a value that is held.

    A process may find some pages of its need in memory it already has: up to 0.14 MB was seen.
    """
    figures = {row["peer"]: row["figure"] for row in case["rows"]}
    assert figures["adamas.keras eager"] < 0.1
    assert figures["adamas.keras eager, a value held"] == pytest.approx(4, abs=1)
    assert figures["adamas.keras graph, a value held"] == pytest.approx(4, abs=1)
    assert figures["torch Adam default"] == pytest.approx(8, abs=1)
    assert figures["torch Adam foreach"] == pytest.approx(4, abs=1)


def run(kind: str, scale: float, path: Path, *options: str) -> dict[str, Any]:
    """The results of one round at a fraction of the size. The exit code says whether targets were missed there."""
    command = [sys.executable, "-m", "benchmarks", kind, "--scale", str(scale), "--rounds", "1", "--budget", "0"]
    done = subprocess.run(
        [*command, "--json", str(path), *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert path.exists(), done.stderr[-4000:]
    content = json.loads(path.read_text())
    missed = [v for case in [content, *content["cases"]] for v in case["verdicts"] if not v["met"]]
    assert done.returncode == bool(missed), done.stderr[-4000:]
    return content
