"""What is committed: results of whole kinds, and the READMEs' tables, which are made of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adamas.bench import KINDS, Report

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks import plot  # noqa: E402

RESULTS = sorted((ROOT / "benchmarks/results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_are_whole(path: Path):
    """Of the whole kind, with its Markdown; rounds enough for a median."""
    content = json.loads(path.read_text())
    assert path.stem in KINDS
    assert re.fullmatch(rf"adamas bench {path.stem} --rounds \d+ --budget [\d.]+", content["command"])
    assert content["rounds"] >= 3
    for result in content["cases"]:
        for row in result["rows"]:
            assert len(row["bytes" if path.stem == "memory" else "seconds"]) == content["rounds"]
    assert path.with_suffix(".md").read_text() == Report(content).text()


def test_the_picture_has_a_line_for_each_row_and_is_the_same_each_time(tmp_path: Path):
    def case(key: str, group: str, **figures: float) -> dict[str, Any]:
        rows = [{"peer": peer, "figure": figure} for peer, figure in figures.items()]
        return {"key": key, "group": group, "unit": "ms", "rows": rows}

    content = {"cases": [case(f"tensors-{n}", "G", adamas=n, limit=1.0, peer=2.0) for n in (10, 100)]}
    content["cases"].append(case("parameters-1024", "H", adamas=1.0))
    plot.scaling(content, tmp_path / "a.svg")
    plot.scaling(content, tmp_path / "b.svg")
    picture = (tmp_path / "a.svg").read_text()
    assert picture == (tmp_path / "b.svg").read_text()
    for word in ("adamas", "limit", "peer", "G", "H", "ms"):
        assert f">{word}</text>" in picture
    assert picture.count(">adamas</text>") == 2


def test_two_rounds_are_not_committed():
    command = [sys.executable, "-m", "benchmarks", "step", "--rounds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "a median needs at least 3" in done.stderr
