"""adamas.numpy in each format, and the limit of the machine in the same process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np

import adamas.numpy
from adamas.bench.case import CLOCK
from adamas.bench.cases.step import FORMATS, OURS
from adamas.bench.harness import ADDITIONS
from adamas.bench.job import Job
from adamas.bench.limit import clock, limit
from adamas.kernels import cpu


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    grads = cache(lambda: [numbers(shape, 0.01) for shape in shapes])

    @cache
    def made(name: str) -> tuple[adamas.numpy.Adam, list[np.ndarray]]:
        params = [numbers(shape, 1.0) for shape in shapes]
        return adamas.numpy.Adam(params, lr=1e-3, **FORMATS[name]), params

    def ours(name: str) -> Job:
        optimizer, params = made(name)
        gradients = grads()
        return Job(
            lambda: optimizer.step(gradients),
            weights=sum(param.nbytes for param in params),
            state=lambda: state_bytes(optimizer),
            threads=threads(),
        )

    def most() -> Job:
        if len(shapes) == 1:  # over the very same memory: where an array lies makes a difference of its own
            optimizer, (param,) = made(OURS)
            arrays = [param, grads()[0], *(np.asarray(kept) for kept in optimizer._kept[0].values())]
        else:
            arrays = [np.full(sum(map(np.prod, shapes)), 0.5, np.float32) for _ in range(4)]
        run, note = limit(arrays, threads())
        size = arrays[0].nbytes
        return Job(run, weights=size, state=lambda: 2 * size, note=note)

    count = clock()
    rows: dict[str, Callable[[], Job]] = {} if count is None else {CLOCK: lambda: Job(lambda: count(ADDITIONS))}
    return rows | {"limit": most} | {name: partial(ours, name) for name in FORMATS}


def numbers(shape: list[int], scale: float) -> np.ndarray:
    """Normally distributed; from a million on they repeat, which makes them quickly and no step faster."""
    found = np.empty(shape, np.float32)
    flat = found.reshape(-1)
    some = np.random.default_rng(0).standard_normal(min(flat.size, 2**20), dtype=np.float32) * np.float32(scale)
    for start in range(0, flat.size, some.size):
        piece = flat[start : start + some.size]
        piece[:] = some[: piece.size]
    return found


def threads() -> int:
    """As many as our step has."""
    return cpu.get_threads() if cpu.why_not() is None else 1


def state_bytes(optimizer: adamas.numpy.Adam) -> int:
    """Of both moments."""
    return optimizer.describe().bytes
