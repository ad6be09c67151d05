"""torch.optim.Adam as it comes, with foreach and fused; a training step with ours, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import adamas.torch
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
    if what == "training":
        makes: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "adamas.torch": adamas.torch.Adam,
            "torch Adam fused": partial(torch.optim.Adam, fused=True),
        }
        return {name: partial(_training, shapes, make) for name, make in makes.items()}
    return {
        "torch Adam default": job,
        "torch Adam foreach": partial(job, foreach=True),
        "torch Adam fused": partial(job, fused=True),
    }


def _training(shapes: list[list[int]], make: Callable[..., torch.optim.Optimizer]) -> Job:
    """Weights, gradients of half the sum of their squares, optimizer, step: all of it is made in the run."""

    def run() -> object:
        params = [torch.nn.Parameter(torch.full(shape, 0.5)) for shape in shapes]
        for parameter in params:
            parameter.grad = parameter.detach().clone()
        optimizer = make(params, lr=1e-3)
        optimizer.step()
        return params, optimizer

    return peak_of(run, expected=16.0 * sum(map(math.prod, shapes)))
