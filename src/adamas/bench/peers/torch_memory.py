"""torch.optim.Adam as it comes, with foreach and fused; a training step in each of our formats."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import adamas.torch
from adamas.bench.formats import MOMENTS, WEIGHTS, Format, rows
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
        ours: dict[str, Callable[[], Job]] = {
            name: partial(_training, shapes, adamas.torch.Adam, form)
            for name, form in rows("adamas.torch", MOMENTS | WEIGHTS).items()
        }
        return ours | {
            "torch Adam fused": partial(_training, shapes, partial(torch.optim.Adam, fused=True), MOMENTS[""])
        }
    return {
        "torch Adam default": job,
        "torch Adam foreach": partial(job, foreach=True),
        "torch Adam fused": partial(job, fused=True),
    }


def _training(shapes: list[list[int]], make: Callable[..., torch.optim.Optimizer], form: Format) -> Job:
    """Weights, gradients of half the sum of their squares, optimizer, step: all of it is made in the run."""

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[form.weights]

    def run() -> object:
        params = [torch.nn.Parameter(torch.full(shape, 0.5, dtype=dtype)) for shape in shapes]
        for parameter in params:
            parameter.grad = parameter.detach().clone()
        optimizer = make(params, lr=1e-3, **form.settings)
        optimizer.step()
        return params, optimizer

    return peak_of(run, expected=form.bytes * sum(map(math.prod, shapes)))
