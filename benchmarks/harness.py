"""The parent: starts the workers, gives turns, takes medians."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Rounds = list[dict[str, float]]  # for each round, what each peer measured


@dataclass(frozen=True)
class Target:
    """A demand on one case: the figure `value(rounds)` must reach `at_least` (or stay `at_most`)."""

    text: str
    value: Callable[[Rounds], float]
    at_least: float | None = None
    at_most: float | None = None

    def verdict(self, rounds: Rounds) -> dict[str, Any]:
        figure = self.value(rounds)
        met = (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return {"target": self.text, "bound": bound, "figure": figure, "met": met}


def ratio(slow: str, fast: str) -> Callable[[Rounds], float]:
    """How many times as long `slow` takes as `fast`: taken in each round first, then the median."""
    return lambda rounds: median(times[slow] / times[fast] for times in rounds)


@dataclass(frozen=True)
class Case:
    """One job that all peers do, what it measures means (`figure`, in `unit`), and what is demanded."""

    key: str  # what `--only` calls it
    name: str
    arguments: dict[str, Any]
    unit: str
    figure: Callable[[float], float]
    ours: str
    targets: tuple[Target, ...] = ()
    large: bool = False  # one framework at a time has its jobs in memory, built anew in each round
    measures: str = "seconds"  # or "bytes"
    base: Callable[[str], str] | None = None  # the row that a row is compared with; None: `ours`, for every row


class Worker:
    """One framework in one process; a line of JSON for each request, a line of JSON for each answer."""

    def __init__(self, framework: str, environment: dict[str, str]):
        self.framework = framework
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **os.environ, **environment}
        command = [sys.executable, "-m", "benchmarks.worker", framework]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the {self.framework} worker ended with code {self.process.wait()} at {request}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Plan:
    """How a run measures."""

    kind: str
    rounds: int
    budget: float  # seconds of one turn
    wanted: tuple[str, ...]  # words in the names of peers; none: all
    say: Callable[[str], None]


def measure(case: Case, workers: list[Worker], plan: Plan) -> dict[str, Any]:
    """All rounds of one case: {"key", "case", "unit", "than", "rows", "verdicts"}."""
    wanted = (*plan.wanted, case.ours) if plan.wanted else ()
    facts: dict[str, dict[str, Any]] = {}
    rounds: Rounds = [{} for _ in range(plan.rounds)]
    budget = plan.budget if case.measures == "seconds" else 0.0  # one run: bytes fill no time

    def prepare(worker: Worker) -> list[str]:
        plan.say(f"{case.name}: {worker.framework} prepares")
        found = worker.ask(prepare=plan.kind, arguments=case.arguments, wanted=wanted)
        facts.update({fact["peer"]: fact for fact in found})
        return [fact["peer"] for fact in found]

    def turns(worker: Worker, peers: list[str], number: int) -> None:
        for peer in peers:
            value = rounds[number][peer] = worker.ask(turn=peer, budget=budget)
            plan.say(f"{case.name}: round {number + 1} of {plan.rounds}, {peer}: {case.figure(value):,.4g} {case.unit}")

    if case.large:
        for number in range(plan.rounds):
            for worker in workers:
                turns(worker, prepare(worker), number)
                worker.ask(drop=True)
            check_same(list(facts.values()))
    else:
        prepared = [prepare(worker) for worker in workers]
        check_same(list(facts.values()))
        for number in range(plan.rounds):
            for worker, peers in zip(workers, prepared, strict=True):
                turns(worker, peers, number)
        for worker in workers:
            worker.ask(drop=True)
    return {
        "key": case.key,
        "case": case.name,
        "unit": case.unit,
        "than": case.ours if case.base is None else "the plain step",
        "rows": [_row(case, rounds, fact) for fact in facts.values()],
        "verdicts": [] if wanted else [target.verdict(rounds) for target in case.targets],
    }


def _row(case: Case, rounds: Rounds, fact: dict[str, Any]) -> dict[str, Any]:
    peer = fact["peer"]
    row = {
        "peer": peer,
        "figure": median(case.figure(values[peer]) for values in rounds),
        case.measures: [values[peer] for values in rounds],
    }
    if case.measures == "seconds":
        base = case.ours if case.base is None else case.base(peer)
        row["times"] = ratio(peer, base)(rounds)
    if fact["loss"] is not None:
        row |= {"loss": fact["loss"], "differs": fact["differs"]}
    return row


def check_same(facts: list[dict[str, Any]]) -> None:
    """Of trainings: all peers train the same model from the same weights, and it learns alike with all of them.

    Raises:
        RuntimeError: other numbers of parameters, other losses before the training, a loss that did not fall, or,
            where nothing says why it may, one that fell by an amount more than a tenth off the median.
    """
    trainings = [fact for fact in facts if fact["loss"] is not None]
    if not trainings:
        return
    told = "; ".join("{peer}: {parameters} parameters, loss {loss}".format(**fact) for fact in trainings)
    if len({fact["parameters"] for fact in trainings}) > 1:
        raise RuntimeError(f"the models differ in size. {told}")
    if not _close([fact["loss"][0] for fact in trainings], 1e-4):
        raise RuntimeError(f"the models do not begin alike. {told}")
    falls = {fact["peer"]: fact["loss"][0] - fact["loss"][1] for fact in trainings}
    alike = [falls[fact["peer"]] for fact in trainings if not fact["differs"]]
    if not all(fall > 0 for fall in falls.values()) or not _close(alike, 0.1):
        raise RuntimeError(f"the models do not learn alike. {told}")


def _close(values: list[float], share: float) -> bool:
    middle = median(values)
    return all(math.isfinite(value) and abs(value - middle) <= share * abs(middle) for value in values)
