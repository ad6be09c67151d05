"""The AdamW for CPUs of DeepSpeed. It is compiled at its first use."""

from __future__ import annotations

from collections.abc import Callable

from deepspeed.ops.adam import DeepSpeedCPUAdam

from adamas.bench.job import Job
from adamas.bench.peers.torch_jobs import step


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    return {"DeepSpeedCPUAdam": lambda: step(DeepSpeedCPUAdam, shapes)}
