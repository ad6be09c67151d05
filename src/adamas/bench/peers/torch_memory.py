"""torch.optim.Adam as it comes, with foreach and fused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from adamas.bench.job import Job
from adamas.bench.peak import peak_of


def peers(shapes: list[list[int]], what: str) -> dict[str, Callable[[], Job]]:
    def job(**how: Any) -> Job:
        params = [torch.nn.Parameter(torch.full(shape, 0.5)) for shape in shapes]
        for parameter in params:
            parameter.grad = torch.full(parameter.shape, 0.01)
        optimizer = torch.optim.Adam(params, lr=1e-3, **how)
        if what == "state":
            optimizer.step()
            tensors = [value for state in optimizer.state.values() for value in state.values()]
            return Job(lambda: float(sum(tensor.nbytes for tensor in tensors)))
        return peak_of(optimizer.step)

    if what == "state":
        return {"torch Adam": job}
    return {
        "torch Adam default": job,
        "torch Adam foreach": partial(job, foreach=True),
        "torch Adam fused": partial(job, fused=True),
    }
