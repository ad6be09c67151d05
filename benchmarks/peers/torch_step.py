"""torch.optim.Adam as it comes, with foreach and fused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.job import Job


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    def job(**how: bool) -> Job:
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for parameter in params:
            parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
        return Job(torch.optim.Adam(params, lr=1e-3, **how).step)

    return {
        "torch Adam default": job,
        "torch Adam foreach": partial(job, foreach=True),
        "torch Adam fused": partial(job, fused=True),
    }
