"""Every kind of benchmark runs, at a tiny size, with every framework in its own worker process."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")
pytest.importorskip("optax")

from adamas.bench import KINDS, Report, bench
from adamas.bench.case import CLOCK
from adamas.bench.cases.features import ARRAYS, FEATURES
from adamas.bench.cases.step import FUSED, JAX, OPTAX
from adamas.bench.formats import FORMATS, MOMENTS, OURS, WEIGHTS, rows

TRAININGS = [
    "adamas.train.fit",
    "model.fit, adamas.keras.Adam",
    "model.fit, Keras Adam",
    "torch loop, Adam fused",
    "JAX loop, a jit call a step",
    "JAX loop, a scan an epoch",
]
GRAPH = "adamas.keras graph"
STEPS = [
    "limit",
    OURS,
    "adamas.keras eager",
    "adamas.keras graph",
    "Keras Adam eager",
    "Keras Adam graph",
    "Keras Adam XLA",
    "ResourceApplyAdam eager",
    "ResourceApplyAdam graph",
    "adamas.torch",
    "torch Adam default",
    "torch Adam foreach",
    FUSED,
    OPTAX,
]
TABLES = [
    *(f"adamas.keras {way}, {sparse}" for way in ("eager", "graph") for sparse in ("dense", "lazy")),
    "Keras Adam eager",
    "Keras Adam graph",
    "torch SparseAdam",
]
PEAKS = [name for name in STEPS if name not in ("limit", "adamas.torch")]
JAX_STEPS = [*rows(JAX, MOMENTS), "adamas.jax update"]
ADAPTERS = ("adamas.torch", "adamas.keras")
HELD = [f"{name}, a value held" for name in STEPS if name.startswith(("adamas.keras", "Keras", "Resource"))]
STATES = ["adamas.numpy", "adamas.keras", "Keras Adam", "torch Adam", "optax adam"]
FEATURED = [f"{optimizer}, {feature}" for optimizer in ("adamas.keras", "Keras Adam") for feature in FEATURES]
# Peers that have an environment of their own, if any: they are no part of the tests'.
ELSEWHERE = {"bitsandbytes": "bitsandbytes AdamW8bit", "torchao": "torchao AdamW8bit", "deepspeed": "DeepSpeedCPUAdam"}
# Rows by kind and case. One case of those that differ in their sizes only.
ROWS: dict[str, dict[str, list[str]]] = {
    "step": {
        "large": list(
            dict.fromkeys([*STEPS, *FORMATS, *rows("adamas.torch", MOMENTS), *rows(GRAPH, MOMENTS), *JAX_STEPS])
        ),
        "many": [*STEPS, JAX, f"{JAX}, packed", "adamas.jax update"],
    },
    "scaling": {
        "tensors-1000": [
            "adamas.numpy",
            "adamas.torch",
            "adamas.keras eager",
            FUSED,
            "torch Adam foreach",
            "ResourceApplyAdam eager",
            OPTAX,
        ],
        f"parameters-{2**28}": ["limit", *rows(OURS, MOMENTS), "adamas.torch", FUSED],
    },
    "train": {
        "mlp-64": TRAININGS,
        "embedding": TRAININGS,
        "embedding-lazy": [*TRAININGS[:2], "torch loop, SparseAdam"],
        "cnn": TRAININGS,
        "transformer": TRAININGS,
    },
    "rows": {"rows-100": TABLES},
    "memory": {
        "one": [*PEAKS, *HELD],
        "state": STATES,
        "training": [*FORMATS, FUSED, *(row for name in ADAPTERS for row in rows(name, MOMENTS | WEIGHTS))],
    },
    "features": {
        "graph": FEATURED,
        "arrays": [*(f"{OURS}, {feature}" for feature in ARRAYS), f"{FUSED}, plain", f"{FUSED}, global clip"],
    },
}
SCALE = {"memory": 0.05, "scaling": 0.001}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_runs(kind: str):
    """Every row that should be there is, with figures; what is absent has an environment of its own."""
    report = bench(kind, rounds=1, budget=0, scale=SCALE.get(kind, 0.01), only=list(ROWS[kind]))
    cases = report.data["cases"]
    if kind == "memory":
        check_known(cases[0])
    assert set(report.data["absent"]) <= set(ELSEWHERE)
    assert {case["key"] for case in cases} == set(ROWS[kind])
    measures = "bytes" if kind == "memory" else "seconds"
    fields = {"train": {"times", "loss", "differs"}, "memory": set()}.get(kind, {"times"})
    for case in cases:
        found = {row["peer"]: row for row in case["rows"] if row["peer"] not in ELSEWHERE.values()}
        assert sorted(found) == sorted(ROWS[kind][case["key"]])
        for row in found.values():
            more: set[str] = set()
            if kind in ("step", "scaling"):
                more = {"state", "gb_a_second"} | ({"cycles"} if row["peer"] in FORMATS else set())
                assert row["state"] == pytest.approx(state(row["peer"]), rel=0.03)  # with counters, and gaps in arenas
            if case["key"] == "training":
                more = {"expected"}
                assert row["figure"] == pytest.approx(row["expected"], abs=1)  # at this size there is more beside it
            assert set(row) == {"peer", "figure", measures} | fields | more
            assert len(row[measures]) == 1
            assert row[measures][0] > 0 or measures == "bytes"
    assert {"numpy", "tensorflow-cpu", "torch", "jax", "optax"} & set(report.data["machine"]["packages"])


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_about_rows_that_there_are(kind: str):
    for case in importlib.import_module(f"adamas.bench.cases.{kind}").cases(1.0):
        alike = ROWS[kind].get(case.key) or next(iter(ROWS[kind].values()))
        for target in case.targets:
            missing = {row.replace("eager,", "graph,") for row in target.value.rows} - {
                *alike,
                *ELSEWHERE.values(),
                CLOCK,
            }
            assert not missing, f"{case.key}: {target.text}"


def state(row: str) -> float:
    """Bytes of moments, and of corrections, for each parameter."""
    if "int8" in row:
        return 3.125 if "split" in row else 2.125
    return 4 if "bfloat16" in row else 8


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


PROGRAM = """
import sys
from adamas.cli import main
sys.exit(main())
"""


def test_the_command_writes_what_it_shows(tmp_path: Path):
    """With frameworks from other interpreters, of which one has them and one has none, and without a compiler."""
    file = tmp_path / "step.json"
    words = ["bench", "step", "--rounds", "2", "--budget", "0", "--scale", "0.001", "--only", "large"]
    bare = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    words += ["--peers", "limit,fused", "--python", f"torch={sys.executable}", "--json", str(file)]
    words += ["--python", f"tensorflow={bare}", "--python", f"jax={bare}"]
    environment = {**os.environ, "CXX": "/no/such/compiler"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text())
    assert done.stdout == Report(data).text()
    assert data["command"] == "adamas bench step --rounds 2 --budget 0 --scale 0.001 --only large --peers limit,fused"
    (case,) = data["cases"]
    assert [row["peer"] for row in case["rows"]] == ["limit", "adamas.numpy", FUSED]
    assert any("limit: a loop in NumPy, somewhat slower than one in C++ (/no/such/compiler" in n for n in case["notes"])
    assert not any("cycles" in row for row in case["rows"])
    assert "round 2 of 2, torch Adam fused" in done.stderr
    assert {"tensorflow", "jax"} <= set(data["absent"])
