"""The examples run as they stand, are short, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fences import ROOT

EXAMPLES = {  # test accuracy, at least
    "numpy_logistic.py": 0.93,
    "tensorflow_loop.py": 0.93,
    "keras_fit.py": 0.93,
    "jax_flax.py": 0.93,
    "jax_equinox.py": 0.93,
}


def test_every_example_is_listed():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, tmp_path: Path):
    path = ROOT / "examples" / example
    assert len(path.read_text("utf-8").splitlines()) < 60
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = re.findall(r"^test accuracy (0\.\d+)", done.stdout, re.M)
    assert found, done.stdout
    assert float(found[-1]) >= EXAMPLES[example], done.stdout
    assert not list(tmp_path.iterdir()), "an example leaves files behind"
