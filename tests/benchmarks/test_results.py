"""What is committed: results of whole kinds, and the READMEs' tables, which are made of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adamas.bench import KINDS, Report

ROOT = Path(__file__).resolve().parents[2]
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


def test_two_rounds_are_not_committed():
    command = [sys.executable, "-m", "benchmarks", "step", "--rounds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "a median needs at least 3" in done.stderr
