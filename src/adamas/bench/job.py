"""What a row of a table does in its turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One thing to measure, built and ready.

    Each module of `adamas.bench.peers` has `peers(**arguments)`: for each row of a table, by its name, a function that
    builds the job. Nothing is built before it is called.
    """

    run: Callable[[], float | None]  # None: the caller takes the time; a number: what the job measured itself
    restart: Callable[[], None] | None = None  # called before each run, and not timed
    # Of a training: one with the examples in turn, and the loss over the first `tasks.CHECKED` before and after it.
    trial: Callable[[], tuple[float, float]] | None = None
    parameters: int | None = None  # of a training: how many numbers it changes
    differs: str = ""  # why a training may end with another loss than its peers'
    weights: int | None = None  # of a step: bytes of its parameters; it reads them and the gradients, and writes them
    state: Callable[[], int] | None = None  # of a step: bytes of the optimizer's state after the first one
    threads: int | None = None  # of a step of ours: how many it computes with
    expected: float | None = None  # of memory: the bytes that arithmetic says
    note: str = ""  # what must be known to read the row
