"""The parent: gives turns, takes medians."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from adamas.bench.case import ADDITIONS, CLOCK, Case, Cycles, Ratio, Rounds
from adamas.errors import BenchmarkError


class Asked(Protocol):
    """What the rounds need of a `workers.Worker`."""

    framework: str

    def ask(self, **request: Any) -> Any: ...


@dataclass(frozen=True)
class Plan:
    """How a run measures."""

    kind: str  # whose `adamas.bench.peers` take part
    rounds: int
    budget: float  # seconds of one turn
    wanted: tuple[str, ...]  # words in the names of rows; none: all
    say: Callable[[str], None]


def measure(case: Case, workers: Sequence[Asked], plan: Plan) -> dict[str, Any]:
    """All rounds of one case.

    Returns:
        {"key", "case", "unit", "than", "rows", "notes", "verdicts", "absent", "packages"}. `absent` says for a
        framework or a row why it was not measured.
    """
    absent: dict[str, str] = {}
    packages: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    rounds: Rounds = [{} for _ in range(plan.rounds)]
    budget = plan.budget if case.measures == "seconds" else 0.0  # one run: bytes fill no time

    def listed(worker: Asked) -> list[str]:
        found = worker.ask(list=plan.kind, arguments=case.arguments)
        packages.update(found["packages"])
        if found["absent"] is not None:
            absent[worker.framework] = found["absent"]
        return [row for row in found["rows"] if row == CLOCK or asked(row)]

    def asked(row: str) -> bool:
        if case.rows and row not in case.rows:
            return False
        return not plan.wanted or row == case.ours or any(word in row for word in plan.wanted)

    def prepare(worker: Asked, rows: list[str]) -> list[str]:
        rows = [row for row in rows if row not in absent]
        if not rows:
            return []
        plan.say(f"{case.name}: {worker.framework} prepares")
        found = worker.ask(prepare=plan.kind, arguments=case.arguments, rows=rows)
        absent.update({fact["peer"]: fact["absent"] for fact in found if fact["absent"]})
        ready = {fact["peer"]: fact for fact in found if not fact["absent"]}
        facts.update(ready)
        return list(ready)

    def turns(worker: Asked, rows: list[str], number: int) -> None:
        for row in rows:
            value = rounds[number][row] = worker.ask(turn=row, budget=budget)
            shown = f"{case.figure(value):,.4g} {case.unit}" if row != CLOCK else f"{ADDITIONS / value / 1e9:.2f} GHz"
            plan.say(f"{case.name}: round {number + 1} of {plan.rounds}, {row}: {shown}")

    rows = [(worker, listed(worker)) for worker in workers]
    if case.large:
        for number in range(plan.rounds):
            for worker, names in rows:
                for name in names:
                    turns(worker, prepare(worker, [name]), number)
                    worker.ask(drop=True)
            check_same(list(facts.values()))
    else:
        prepared = [(worker, prepare(worker, names)) for worker, names in rows]
        check_same(list(facts.values()))
        for number in range(plan.rounds):
            for worker, names in prepared:
                turns(worker, names, number)
        for worker, names in prepared:
            if names:
                worker.ask(drop=True)
    return {
        "key": case.key,
        "case": case.name,
        "unit": case.unit,
        "group": case.group,
        "than": case.ours if case.base is None else "the plain step",
        "rows": [_row(case, rounds, fact) for peer, fact in facts.items() if peer != CLOCK],
        "notes": list(_notes(case, rounds, facts)),
        "verdicts": [] if plan.wanted else [target.verdict(rounds) for target in case.targets],
        "absent": absent,
        "packages": packages,
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
        if base in rounds[0]:
            row["times"] = Ratio(peer, base)(rounds)
    if fact["expected"] is not None:
        row["expected"] = case.figure(fact["expected"])
    if fact["state"] is not None:
        row["state"] = fact["state"] / case.parameters
    if fact["weights"] is not None:
        # It reads weights, gradients and state, and writes weights and state.
        traffic = 3 * fact["weights"] + 2 * (fact["state"] or 0)
        row["gb_a_second"] = median(traffic / values[peer] / 1e9 for values in rounds)
    if fact["threads"] is not None and CLOCK in rounds[0]:
        row["cycles"] = Cycles(peer, fact["threads"] / case.parameters)(rounds)
    if fact["loss"] is not None:
        row |= {"loss": fact["loss"], "differs": fact["differs"]}
    return row


def _notes(case: Case, rounds: Rounds, facts: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What stands below the table."""
    said: dict[str, list[str]] = {}
    for peer, fact in facts.items():
        if fact["note"]:
            said.setdefault(fact["note"], []).append(peer)
    yield from (f"{'; '.join(peers)}: {note}" for note, peers in said.items())
    if case.group:
        return
    if CLOCK in rounds[0]:
        clock = median(ADDITIONS / values[CLOCK] / 1e9 for values in rounds)
        yield (
            f"Cycles are of a clock of {clock:.2f} GHz: that of a chain of additions, each of which waits for the one "
            "before it, a cycle each; measured on one core in every round"
        )
    for peer, fact in facts.items():
        if (
            fact["threads"] is not None
            and fact["state"] < 8 * case.parameters
            and fact["weights"] == 4 * case.parameters
        ):
            seconds = median(values[peer] for values in rounds)
            bandwidth = 28 * case.parameters / seconds / fact["threads"] / 1e9
            yield f"{peer}: faster than float32 moments where a core gets less than {bandwidth:.3g} GB/s of memory"


def check_same(facts: list[dict[str, Any]]) -> None:
    """Of trainings: all peers train the same model from the same weights, and it learns alike with all of them.

    Raises:
        BenchmarkError: other numbers of parameters, other losses before the training, a loss that did not fall, or,
            where nothing says why it may, one that fell by an amount more than a tenth off the median.
    """
    trainings = [fact for fact in facts if fact["loss"] is not None]
    if not trainings:
        return
    told = "; ".join("{peer}: {parameters} parameters, loss {loss}".format(**fact) for fact in trainings)
    if len({fact["parameters"] for fact in trainings}) > 1:
        raise BenchmarkError(f"the models differ in size. {told}")
    if not _close([fact["loss"][0] for fact in trainings], 1e-4):
        raise BenchmarkError(f"the models do not begin alike. {told}")
    falls = {fact["peer"]: fact["loss"][0] - fact["loss"][1] for fact in trainings}
    alike = [falls[fact["peer"]] for fact in trainings if not fact["differs"]]
    if not all(fall > 0 for fall in falls.values()) or not _close(alike, 0.1):
        raise BenchmarkError(f"the models do not learn alike. {told}")


def _close(values: list[float], share: float) -> bool:
    middle = median(values)
    return all(math.isfinite(value) and abs(value - middle) <= share * abs(middle) for value in values)
