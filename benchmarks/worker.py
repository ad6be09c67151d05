"""The child: `python -m benchmarks.worker FRAMEWORK` prepares the peers of one framework and runs their turns."""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import sys
import time
from typing import Any

from benchmarks.job import Job


def measured(job: Job) -> float:
    """Seconds of one run, or what the job measured itself."""
    if job.restart is not None:
        job.restart()
    start = time.perf_counter()
    own = job.run()
    return time.perf_counter() - start if own is None else own


def turn(job: Job, budget: float) -> float:
    """Median of as many runs as fit into the budget; the first warms the caches unless it fills half of the budget.

    A budget of 0 means one run.
    """
    first = measured(job)
    if first >= budget / 2:
        return first
    runs: list[float] = []
    while (sum(runs) < budget and len(runs) < 200) or len(runs) < 3:
        runs.append(measured(job))
    return statistics.median(runs)


def prepare(framework: str, kind: str, arguments: dict[str, Any], wanted: list[str]) -> tuple[dict[str, Job], list]:
    """Build the jobs whose names hold one of the `wanted` words (none: all), and run each once."""
    module = importlib.import_module(f"benchmarks.peers.{framework}_{kind}")
    jobs: dict[str, Job] = {}
    facts = []
    for name, make in module.peers(**arguments).items():
        if wanted and not any(word in name for word in wanted):
            continue
        job = jobs[name] = make()
        # The first run builds, traces, compiles.
        trial = None if job.trial is None else job.trial()
        if trial is None:
            job.run()
        facts.append({"peer": name, "parameters": job.parameters, "loss": trial, "differs": job.differs})
    return jobs, facts


def main(framework: str) -> None:
    answers = os.fdopen(os.dup(1), "w")  # what a framework prints must not mix with the answers
    os.dup2(2, 1)
    jobs: dict[str, Job] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: object
        if "prepare" in request:
            jobs, answer = prepare(framework, request["prepare"], request["arguments"], request["wanted"])
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
