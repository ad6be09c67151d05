"""adamas.numpy: a step's own memory, the state, and a training step in each format."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from adamas.bench.formats import FORMATS, OURS
from adamas.bench.job import Job
from adamas.bench.peak import peak_of
from adamas.bench.peers.numpy_jobs import made


def peers(shapes: list[list[int]], what: str) -> dict[str, Callable[[], Job]]:
    def job() -> Job:
        optimizer, _, grads = made(shapes, FORMATS[OURS])
        if what == "state":
            return Job(lambda: float(optimizer.describe().bytes))
        return peak_of(lambda: optimizer.step(grads))

    if what == "training":
        return {name: partial(_training, shapes, name) for name in FORMATS}
    return {OURS: job}


def _training(shapes: list[list[int]], name: str) -> Job:
    """Weights, gradients of half the sum of their squares, optimizer, step: all of it is made in the run."""

    def run() -> object:
        optimizer, params, grads = made(shapes, FORMATS[name])
        for param, grad in zip(params, grads, strict=True):
            np.copyto(grad, param)
        optimizer.step(grads)
        return optimizer, params, grads

    return peak_of(run, expected=FORMATS[name].bytes * sum(map(math.prod, shapes)))
