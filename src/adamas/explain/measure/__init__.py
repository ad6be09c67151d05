"""The same steps and loops once more, with and without Adamas, by turns: medians of the turns.

A `Comparison` is one loop of the script. Its columns are ways to run it, its rows parts of one step, in seconds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

BEFORE, AFTER, FIT = "before", "after", "train.fit"


@dataclass
class Comparison:
    """One loop: what was measured of it.

    what     which loop, for people
    steps    optimizer steps in it
    seconds  how long it lasted in the script, with what stepped there
    share    of the script's time
    names    column -> what ran
    each     column -> part of one step -> seconds
    total    column -> seconds of all its steps; of what ran in the script it is measured, the others are computed
    once     column -> seconds that are spent once: compiling
    start    column -> seconds that each call of fit takes before its first epoch and after its last
    how      how the numbers were taken
    missing  what was not measured -> why
    """

    what: str
    steps: int
    seconds: float
    share: float = 0.0
    names: dict[str, str] = field(default_factory=dict)
    each: dict[str, dict[str, float]] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)
    once: dict[str, float] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)
    how: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def add_loop(self, step: dict[str, float]) -> None:
        """A loop that was measured in the script with the step `AFTER`, and the seconds of the steps in it."""
        rest = max(0.0, self.seconds / self.steps - step[AFTER])
        self.each = {column: {"optimizer": seconds, "the rest": rest} for column, seconds in step.items()}
        self.total = {BEFORE: self.seconds + self.steps * (step[BEFORE] - step[AFTER]), AFTER: self.seconds}


def turns(jobs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call of each job: by turns, in changing order, after one to warm up; lasts `seconds`."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    end, order = time.perf_counter() + seconds, list(jobs.items())
    while not all(times.values()) or (time.perf_counter() < end and len(times[order[0][0]]) < 1000):
        for name, job in order:
            began = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - began)
        order.reverse()
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each job's seconds."""
    return {name: statistics.median(found) for name, found in times.items()}


def median_difference(these: list[float], those: list[float]) -> float:
    """The median over the turns of what one job took longer than another, at least 0: both met the same machine."""
    return max(0.0, statistics.median(a - b for a, b in zip(these, those, strict=True)))


def room_for(needed: float) -> str | None:
    """Why copies of so many bytes cannot be made, or None."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None  # a system that does not say
    if needed < 0.5 * free:
        return None
    return f"copies of the parameters need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
