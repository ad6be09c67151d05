"""The function behind `adamas bench quality`."""

from __future__ import annotations

import difflib
import importlib
import math
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from adamas.bench.quality.report import Report
from adamas.errors import ArgumentError, MissingExtraError
from adamas.train.runs import environment

if TYPE_CHECKING:
    from adamas.bench.quality.tasks import Task

NEEDS = {"torch": "torch", "sklearn": "scikit-learn"}
LEAST_SEEDS = 5


def quality(
    *,
    seeds: int | None = None,
    scale: float = 1.0,
    tasks: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Train every task with every storage from the same seeds, and compare the final losses with float32's.

    Up to half an hour on two cores. `adamas.bench.quality.statistics` defines what is compared, and when two
    trainings are alike.

    Args:
        seeds: for each task, at least 5; None: each task's own number.
        scale: shortens every training, in (0, 1]. Below 1 for trying it out: the trainings have then hardly begun.
        tasks: keys of tasks; none: all.
        say: is told what happens, a line at a time.

    Returns:
        The report: `text()` for people, `data` for machines.

    Raises:
        ArgumentError: no such task, or a number outside its range. Nothing was trained.
        MissingExtraError: torch or scikit-learn is not installed; the trainings are torch's, the digits scikit-learn's.
        DataError: this Python carries no sources of its standard library.
    """
    if seeds is not None and seeds < LEAST_SEEDS:
        raise ArgumentError(f"seeds={seeds!r}: give at least {LEAST_SEEDS}; fewer say nothing about a spread")
    if not 0 < scale <= 1:
        raise ArgumentError(f"scale={scale!r}: give a number above 0 and at most 1")
    for module, package in NEEDS.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(
                f"the trainings are torch's and the digits scikit-learn's, and {package} cannot be imported ({error}): "
                "pip install 'adamas[torch,train]'"
            ) from error
    from adamas.bench.quality.tasks import TASKS

    known = [task.key for task in TASKS]
    for key in tasks:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ArgumentError(f"no task {key!r}: {hint}give some of {', '.join(known)}, or none for all")
    start = time.monotonic()
    results = [
        measure(task, seeds or task.seeds, scale, lambda text: say(f"[{time.monotonic() - start:6.1f} s] {text}"))
        for task in TASKS
        if not tasks or task.key in tasks
    ]
    words = ["adamas", "bench", "quality"]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    words += ["--scale", f"{scale:g}"] if scale != 1 else []
    words += ["--only", ",".join(tasks)] if tasks else []
    here = environment.machine()
    return Report(
        {
            "command": shlex.join(words),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "machine": {
                "processor": here["processor"],
                "cores": here["cores_usable"],
                "system": f"{platform.system()} {platform.machine()}",
                "python": here["python"],
            },
            "packages": environment.versions(("adamas", "numpy", "torch", "scikit-learn")),
            "tasks": results,
        }
    )


def measure(task: Task, seeds: int, scale: float, say: Callable[[str], None]) -> dict[str, Any]:
    """All storages of one task, as the JSON has them."""
    from adamas.bench.quality.statistics import compare
    from adamas.bench.quality.storages import STORAGES
    from adamas.bench.quality.training import stored, train

    steps = max(2, round(scale * task.steps))
    rows: list[dict[str, Any]] = []
    for storage in STORAGES:
        began = time.monotonic()
        losses = train(task, storage, range(seeds), steps)
        say(f"{task.name}, {storage.name}: held-out loss {losses.mean():.4f}; {time.monotonic() - began:.1f} s")
        row = {"storage": storage.key, "name": storage.name, "bytes": storage.bytes}
        row["losses"] = [_finite(loss) for loss in losses.tolist()]
        if not rows:
            baseline = losses
            spread = compare(losses, losses).spread
        else:
            found = compare(baseline, losses)
            row |= {name: _finite(getattr(found, name)) for name in ("mean", "low", "high")}
            row["verdict"] = found.verdict
        rows.append(row)
    data = task.data()
    return {
        "key": task.key,
        "task": task.name,
        "seeds": seeds,
        "steps": steps,
        "batch": task.batch,
        "learning_rate": task.lr,
        "parameters": task.parameters,
        "stored": stored(task),
        "rows": {"train": len(data.train.x), "held_out": len(data.held_out.x)},
        "data": data.digest,
        "spread": spread,
        "storages": rows,
    }


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None
