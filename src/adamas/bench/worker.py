"""The child: `python -m adamas.bench.worker FRAMEWORK KIND` builds the jobs of one framework and runs their turns."""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from typing import Any

from adamas.bench.job import Job

# What each framework's worker says the versions of.
PACKAGES = {
    "numpy": ("numpy",),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "keras"),
    "torch": ("torch",),
    "jax": ("jax", "optax"),
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "deepspeed": ("deepspeed",),
}


def measured(job: Job) -> float:
    """Seconds of one run, or what the job measured itself."""
    if job.restart is not None:
        job.restart()
    start = time.perf_counter()
    own = job.run()
    return time.perf_counter() - start if own is None else own


def turn(job: Job, budget: float) -> float:
    """Median of as many runs as fit into the budget, at least three, after one that warms up.

    A run that takes twice the budget is the only one; a budget of 0 means one run. Shorter first runs never count:
    after minutes in which other frameworks compiled, those of all of torch's rows took up to 300 ms instead of 15.
    """
    first = measured(job)
    if first >= 2 * budget:
        return first
    runs: list[float] = []
    while (sum(runs) < budget and len(runs) < 200) or len(runs) < 3:
        runs.append(measured(job))
    return statistics.median(runs)


def find(framework: str, kind: str, arguments: dict[str, Any]) -> dict[str, Callable[[], Job]]:
    """What builds the job of each row.

    Raises:
        ImportError: a package is missing.
    """
    rows: dict[str, Callable[[], Job]] = importlib.import_module(f"adamas.bench.peers.{framework}_{kind}").peers(
        **arguments
    )
    return rows


def names(framework: str, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The rows that there are, or why there are none; and versions."""
    try:
        found = {"rows": list(find(framework, kind, arguments)), "absent": None}
    except ImportError as error:
        if error.name is not None and error.name.startswith("adamas"):
            raise
        return {"rows": [], "absent": " ".join(str(error).split()), "packages": {}}
    return found | {"packages": {name: v for name in PACKAGES[framework] if (v := _version(name))}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def prepare(
    framework: str, kind: str, arguments: dict[str, Any], rows: list[str]
) -> tuple[dict[str, Job], list[dict[str, Any]]]:
    """Build the jobs of these rows, and run each once. A peer that cannot serve here says why; ours must serve."""
    jobs: dict[str, Job] = {}
    facts: list[dict[str, Any]] = []
    makes = find(framework, kind, arguments)
    for name in rows:
        try:
            job = makes[name]()
            # The first run builds, traces, compiles.
            trial = None if job.trial is None else job.trial()
            if trial is None:
                job.run()
        except Exception as error:
            if name.startswith("adamas"):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            facts.append({"peer": name, "absent": reason if len(reason) < 300 else f"{reason[:297]}..."})
            continue
        jobs[name] = job
        facts.append(
            {
                "peer": name,
                "absent": None,
                "parameters": job.parameters,
                "loss": trial,
                "differs": job.differs,
                "weights": job.weights,
                "state": None if job.state is None else job.state(),
                "threads": job.threads,
                "expected": job.expected,
                "note": job.note,
            }
        )
    return jobs, facts


def main(framework: str, kind: str) -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # what a framework prints must not mix with the answers
    os.dup2(2, 1)
    with suppress(ImportError):  # now, when every worker does; what is missing is told when it is asked for
        importlib.import_module(f"adamas.bench.peers.{framework}_{kind}")
    jobs: dict[str, Job] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: object
        if "list" in request:
            answer = names(framework, request["list"], request["arguments"])
        elif "prepare" in request:
            jobs, answer = prepare(framework, request["prepare"], request["arguments"], request["rows"])
        elif "turn" in request:
            answer = turn(jobs[request["turn"]], request["budget"])
        else:
            jobs = {}
            gc.collect()
            answer = None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
