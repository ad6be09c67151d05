"""adamas.torch in each format of the moments, and torch.optim.Adam as it comes, with foreach and fused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

import adamas.torch
from adamas.bench.formats import MOMENTS, largest, rows
from adamas.bench.job import Job
from adamas.bench.peers.torch_jobs import step


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    theirs: dict[str, dict[str, bool]] = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    ours: dict[str, Callable[[], Job]] = {
        name: partial(step, adamas.torch.Adam, shapes, **form.settings)
        for name, form in rows("adamas.torch", MOMENTS, largest(shapes)).items()
    }
    return ours | {f"torch Adam {name}": partial(step, torch.optim.Adam, shapes, **how) for name, how in theirs.items()}
