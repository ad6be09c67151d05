"""Sharded over four devices: the native engine on each one's own shard, nothing gathered, the bits of one device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

HERE = Path(__file__).parent


@pytest.mark.parametrize("shardy", ["1", "0"], ids=["Shardy", "GSPMD"])
def test_four_devices(shardy: str) -> None:
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_USE_SHARDY_PARTITIONER": shardy,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path]),
    }
    answer = subprocess.run(
        [sys.executable, str(HERE / "sharded.py")], env=environment, capture_output=True, text=True, timeout=500,
        check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout == "right\n"
