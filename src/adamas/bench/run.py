"""The function behind `adamas bench`."""

from __future__ import annotations

import difflib
import importlib
import os
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import adamas
from adamas.bench.case import Case
from adamas.bench.harness import Plan, measure
from adamas.bench.report import Report
from adamas.bench.workers import Worker
from adamas.errors import ArgumentError
from adamas.train.runs import environment

KINDS = {
    "step": "Adam's step alone, beside its peers and the machine's limit",
    "scaling": "a step: from 10 to 10,000 tensors, from 1 K to 1 B parameters",
    "features": "what clipping, decay, loss scaling and statistics add to a step",
    "rows": "a step of a large table of which some rows have a gradient",
    "memory": "a step's own memory, a training step in each format, the state",
    "train": "whole trainings of the same models",
}


def bench(
    kind: str,
    *,
    rounds: int = 3,
    budget: float = 0.5,
    scale: float = 1.0,
    only: Sequence[str] = (),
    peers: Sequence[str] = (),
    pythons: Mapping[str, str | os.PathLike[str]] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Measure one kind of work with Adamas and with every peer that is installed, by turns.

    Each framework runs in a worker process of its own. What is not installed is left out and named in the report.
    Nothing else should run meanwhile; compare ratios of one report, not figures of two.

    Args:
        kind: "step", "scaling", "features", "rows", "memory" or "train"; `KINDS` says what each is.
        rounds: in each, every row has one turn; at least 1. A median needs 3.
        budget: seconds of one turn, in which a row runs as often as it can; at least 0. A row that needs twice as long
            for a run runs once.
        scale: shrinks every case, in (0, 1]. Below 1 for trying it out: targets hold at full size.
        only: keys of cases; none: all.
        peers: words in the names of rows; none: all. Our row is always there.
        pythons: for a framework ("torch", "bitsandbytes", ...) an interpreter of another environment that has it. It
            needs neither Adamas nor, unless the framework does, NumPy.
        say: is told what happens, a line at a time.

    Returns:
        The report: `text()` for people, `data` for machines, `met`.

    Raises:
        ArgumentError: no such kind, case or framework, or a number outside its range. Nothing was measured.
        BenchmarkError: a worker has ended, or trainings that should be the same are not.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        raise ArgumentError(f"kind {kind!r}: {_did_you_mean(near)}give one of {', '.join(KINDS)}")
    if rounds < 1 or budget < 0 or not 0 < scale <= 1:
        raise ArgumentError(
            f"rounds={rounds!r}, budget={budget!r}, scale={scale!r}: give at least 1, at least 0, above 0 and at most 1"
        )
    module = importlib.import_module(f"adamas.bench.cases.{kind}")
    interpreters = _interpreters(kind, module.FRAMEWORKS, pythons or {})
    cases: list[Case] = module.cases(scale)
    unknown = [key for key in only if key not in {case.key for case in cases}]
    if unknown:
        raise ArgumentError(
            f"no case {unknown[0]!r} of {kind}: give some of {', '.join(case.key for case in cases)}, or none for all"
        )

    start = time.monotonic()

    def tell(text: str) -> None:
        say(f"[{time.monotonic() - start:6.1f} s] {text}")

    plan = Plan(getattr(module, "ROWS_OF", kind), rounds, budget, tuple(peers), tell)
    left_out: dict[str, str] = {}
    wanted: list[Case] = []
    free = available_memory()
    for case in cases:
        if only and case.key not in only:
            continue
        if case.needs <= free:
            wanted.append(case)
        else:
            left_out[case.name] = f"needs {case.needs / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free"
    with _workers(
        plan.kind, module.FRAMEWORKS if wanted else (), getattr(module, "ENVIRONMENT", {}), interpreters
    ) as workers:
        results = [measure(case, workers, plan) for case in wanted]
    packages: dict[str, str] = {"adamas": adamas.__version__}
    for result in results:
        packages |= result.pop("packages")
        left_out |= result.pop("absent")
    data = {
        "command": _command(kind, rounds, budget, scale, only, peers),
        "rounds": rounds,
        "machine": _machine(packages),
        "cases": results,
        "verdicts": module.overall(results) if hasattr(module, "overall") else [],
        "absent": left_out,
    }
    return Report(data)


def frameworks(kind: str) -> tuple[str, ...]:
    """Those that may take part: a worker for each."""
    found: tuple[str, ...] = importlib.import_module(f"adamas.bench.cases.{kind}").FRAMEWORKS
    return found


def available_memory() -> int:
    """Bytes that this machine can still give."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


@contextmanager
def _workers(
    kind: str, frameworks: Sequence[str], environment: Mapping[str, str], interpreters: Mapping[str, str]
) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        for name in frameworks:
            workers.append(Worker(name, kind, environment, interpreters.get(name)))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def _interpreters(
    kind: str, frameworks: Sequence[str], pythons: Mapping[str, str | os.PathLike[str]]
) -> dict[str, str]:
    found = {}
    for name, given in pythons.items():
        if name not in frameworks or name == "numpy":
            allowed = ", ".join(framework for framework in frameworks if framework != "numpy")
            raise ArgumentError(f"an interpreter for {name!r}: the frameworks of {kind} are {allowed}")
        path = shutil.which(os.fspath(given))
        if path is None:
            raise ArgumentError(f"the interpreter for {name}, {os.fspath(given)}: no such program; give one that runs")
        found[name] = path
    return found


def _command(kind: str, rounds: int, budget: float, scale: float, only: Sequence[str], peers: Sequence[str]) -> str:
    """What measures this in the same way."""
    words = ["adamas", "bench", kind, "--rounds", str(rounds), "--budget", f"{budget:g}"]
    words += ["--scale", f"{scale:g}"] if scale != 1 else []
    words += [
        word for name, value in (("--only", only), ("--peers", peers)) if value for word in (name, ",".join(value))
    ]
    return shlex.join(words)


def _machine(packages: dict[str, str]) -> dict[str, Any]:
    here = environment.machine()
    return {
        "processor": here["processor"],
        "cores": here["cores_usable"],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": here["python"],
        "packages": packages,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _did_you_mean(near: list[str]) -> str:
    return f"did you mean {near[0]}? " if near else ""
