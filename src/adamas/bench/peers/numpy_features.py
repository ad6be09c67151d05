"""adamas.numpy with what one read of the gradients, and one pass for the rest, can give."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from adamas.bench.formats import FORMATS, OURS
from adamas.bench.job import Job
from adamas.bench.peers.numpy_jobs import made, note


def peers(shapes: list[list[int]], way: str, features: dict[str, Any]) -> dict[str, Callable[[], Job]]:
    if way != "arrays":
        return {}

    def job(settings: dict[str, Any], arguments: dict[str, Any]) -> Job:
        optimizer, _, grads = made(shapes, FORMATS[OURS], **settings)

        def run() -> None:
            optimizer.step(grads, **arguments)

        return Job(run, note=note(optimizer))

    return {f"{OURS}, {feature}": partial(job, *given) for feature, given in features.items()}
