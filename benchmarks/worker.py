"""The child: `python -m benchmarks.worker FRAMEWORK` prepares the peers of one framework and runs their turns."""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

# One step (or one fit). None: the caller takes the time; a number: seconds that the job measured inside native code.
Job = Callable[[], float | None]


def seconds(job: Job) -> float:
    start = time.perf_counter()
    measured = job()
    return time.perf_counter() - start if measured is None else measured


def turn(job: Job, budget: float) -> float:
    """Median seconds of as many runs as fit into the budget; the first warms the caches unless it fills the budget."""
    first = seconds(job)
    if first >= budget / 2:
        return first
    runs: list[float] = []
    while (sum(runs) < budget and len(runs) < 200) or len(runs) < 3:
        runs.append(seconds(job))
    return statistics.median(runs)


def main(framework: str) -> None:
    answers = os.fdopen(os.dup(1), "w")  # what a framework prints must not mix with the answers
    os.dup2(2, 1)
    module = importlib.import_module(f"benchmarks.peers.{framework}_peers")
    jobs: dict[str, Job] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: object
        if "prepare" in request:
            jobs = getattr(module, request["prepare"])(**request["arguments"])
            for job in jobs.values():
                job()  # builds, traces, compiles
            answer = list(jobs)
        elif "turn" in request:
            answer = turn(jobs[request["turn"]], request["budget"])
        else:
            jobs = {}
            gc.collect()
            answer = None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
