"""A training moves from framework to framework, each in a process of its own, over files: the bits are those without
the moves. Given the same gradients; whatever is stored in int8 or bfloat16 is rounded by the same random numbers.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from relay import MOMENTS, NAMES, SHAPES

from adamas import state
from adamas.formats import Blocks, arrays

NEEDED = {"numpy": "numpy", "tensorflow": "tensorflow", "torch": "torch", "jax": "optax"}
PRESENT = {name for name, module in NEEDED.items() if importlib.util.find_spec(module) is not None}


def run(framework: str, folder: Path, first: int, last: int) -> None:
    words = [sys.executable, str(Path(__file__).with_name("relay.py")), framework, str(folder), str(first), str(last)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training without a move."""
    folder = tmp_path_factory.mktemp("whole")
    run("numpy", folder, 1, 11)
    return folder


@pytest.mark.parametrize("begins", [name for name in NAMES if name != "numpy"])
def test_a_training_moves_without_changing_a_bit(begins: str, whole: Path, tmp_path: Path) -> None:
    """From one framework to NumPy, and on in the next one: torch to JAX, JAX to TensorFlow, TensorFlow to torch."""
    ends = {"tensorflow": "torch", "torch": "jax", "jax": "tensorflow"}[begins]
    for name in (begins, ends):
        if name not in PRESENT:
            pytest.skip(f"{name} is not installed")
    run(begins, tmp_path, 1, 4)
    for moments in MOMENTS:
        own = state.load(tmp_path / f"{moments}.safetensors")
        assert set(own.names) == set(NAMES[begins])
        assert set(own.steps.values()) == {3}
    run(ends, tmp_path, 4, 8)
    run("numpy", tmp_path, 8, 11)
    alone = tmp_path / "alone"
    alone.mkdir()
    run(begins, alone, 1, 11)
    for moments in MOMENTS:
        compare(tmp_path, alone, moments)
    compare(tmp_path, whole, "float32")


def compare(one: Path, other: Path, moments: str) -> None:
    weights = [list(np.load(folder / f"{moments}.npz").values()) for folder in (one, other)]
    assert [w.tobytes() for w in weights[0]] == [w.tobytes() for w in weights[1]]
    kept = [state.load(folder / f"{moments}.safetensors") for folder in (one, other)]
    by_shape = [{shape: own.slots[name] for name, shape in own.shapes.items()} for own in kept]
    assert set(by_shape[0]) == set(SHAPES.values())
    assert isinstance(by_shape[0][SHAPES["dense/kernel"]]["v"], Blocks) == (moments == "int8")
    for shape, slots in by_shape[0].items():
        for slot, stored in slots.items():
            pairs = zip(arrays(stored), arrays(by_shape[1][shape][slot]), strict=True)
            assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs), (shape, slot)
    assert moments == "float32" or kept[0].seed == kept[1].seed == 7
    assert kept[0].hypers == kept[1].hypers
