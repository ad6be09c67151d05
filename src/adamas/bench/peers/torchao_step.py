"""The 8-bit AdamW of torchao. It is compiled by torch, with a C++ compiler."""

from __future__ import annotations

from collections.abc import Callable

from torchao.optim import AdamW8bit

from adamas.bench.job import Job
from adamas.bench.peers.torch_jobs import step


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    return {"torchao AdamW8bit": lambda: step(AdamW8bit, shapes)}
