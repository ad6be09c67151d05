"""adamas.numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import adamas.numpy
from adamas.bench.job import Job
from adamas.bench.peak import peak_of


def peers(shapes: list[list[int]], what: str) -> dict[str, Callable[[], Job]]:
    def job() -> Job:
        params = [np.full(shape, 0.5, np.float32) for shape in shapes]
        grads = [np.full(shape, 0.01, np.float32) for shape in shapes]
        optimizer = adamas.numpy.Adam(params, lr=1e-3)
        if what == "state":
            return Job(lambda: float(optimizer.describe().bytes))
        return peak_of(lambda: optimizer.step(grads))

    return {"adamas.numpy": job}
