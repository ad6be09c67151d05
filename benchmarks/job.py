"""What a peer does in its turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One thing to measure, built and ready.

    Each module of `benchmarks.peers` has `peers(**arguments)`: a function for each row of a table, by the row's name,
    that builds the job.
    """

    run: Callable[[], float | None]  # None: the caller takes the time; a number: what the job measured itself
    restart: Callable[[], None] | None = None  # called before each run, and not timed
    # Of a training: one with the examples in turn, and the loss over the first `tasks.CHECKED` before and after it.
    trial: Callable[[], tuple[float, float]] | None = None
    parameters: int | None = None  # of a training: how many numbers it changes
    differs: str = ""  # why a training may end with another loss than its peers'
