"""torch.optim.Adam with fused, and with torch's clipping before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from adamas.bench.job import Job
from adamas.bench.peers.torch_jobs import made


def peers(shapes: list[list[int]], way: str, features: dict[str, Any]) -> dict[str, Callable[[], Job]]:
    if way != "arrays":
        return {}

    def job(clip: bool) -> Job:
        optimizer, params = made(torch.optim.Adam, shapes, fused=True)

        def run() -> None:
            if clip:
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()

        return Job(run)

    return {"torch Adam fused, plain": partial(job, False), "torch Adam fused, global clip": partial(job, True)}
