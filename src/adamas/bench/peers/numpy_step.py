"""adamas.numpy in each format, and the limit of the machine in the same process."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np

import adamas.numpy
from adamas.bench.case import ADDITIONS, CLOCK
from adamas.bench.formats import FORMATS, MOMENTS, OURS, WEIGHTS, largest, rows
from adamas.bench.job import Job
from adamas.bench.limit import clock, limit, threads
from adamas.bench.peers.numpy_jobs import Arrays, made, note


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    plain = cache(lambda: made(shapes, FORMATS[OURS]))

    def ours(name: str) -> Job:
        optimizer, params, grads = plain() if name == OURS else made(shapes, FORMATS[name])
        return Job(
            lambda: step(optimizer, grads),
            weights=sum(param.nbytes for param in params),
            state=lambda: optimizer.describe().bytes,
            threads=threads(),
            note=note(optimizer),
        )

    def most() -> Job:
        if len(shapes) == 1:  # over the very same memory: where an array lies makes a difference of its own
            optimizer, (param,), (grad,) = plain()
            (kept,) = optimizer._kept
            arrays = [param, grad, *map(np.asarray, kept.values())]
        else:
            arrays = [np.full(sum(map(math.prod, shapes)), 0.5, np.float32) for _ in range(4)]
        run, said = limit(arrays, threads())
        size = arrays[0].nbytes
        return Job(run, weights=size, state=lambda: 2 * size, note=said)

    count = clock()
    found: dict[str, Callable[[], Job]] = {} if count is None else {CLOCK: lambda: Job(lambda: count(ADDITIONS))}
    return (
        found | {"limit": most} | {name: partial(ours, name) for name in rows(OURS, MOMENTS | WEIGHTS, largest(shapes))}
    )


def step(optimizer: adamas.numpy.Adam, grads: Arrays) -> None:
    optimizer.step(grads)
