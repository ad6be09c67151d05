"""What the harness concludes from what was measured, without measuring."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import readme, report
from benchmarks.cases import train
from benchmarks.harness import ROOT, Case, Plan, Target, check_same, measure, ratio
from benchmarks.job import Job
from benchmarks.worker import turn


class Scripted:
    """A worker whose measurements are given: for each peer one a round."""

    framework = "scripted"

    def __init__(self, **measured: list[float]):
        self.left = measured
        self.asked: list[str] = []

    def ask(self, **request: Any) -> Any:
        self.asked.append("turn " + request["turn"] if "turn" in request else next(iter(request)))
        if "turn" in request:
            return self.left[request["turn"]].pop(0)
        if "prepare" in request:
            return [{"peer": peer, "parameters": None, "loss": None, "differs": ""} for peer in self.left]
        return None


def plan(rounds: int, *wanted: str) -> Plan:
    return Plan("kind", rounds, 0.0, wanted, lambda text: None)


def case(**settings: Any) -> Case:
    return Case("key", "name", {}, "ms", lambda s: 1e3 * s, "ours", **settings)


def test_a_ratio_is_taken_in_each_round_before_the_median():
    """The machine slows down threefold in the last round; the medians of the times alone would say 4 or 1.3."""
    target = Target("theirs / ours", ratio("theirs", "ours"), at_least=2)
    worker = Scripted(ours=[1.0, 1.0, 3.0], theirs=[2.0, 4.0, 6.0])
    result = measure(case(targets=(target,)), [worker], plan(3))  # type: ignore[list-item]
    assert result["rows"][1] == {"peer": "theirs", "figure": 4e3, "seconds": [2.0, 4.0, 6.0], "times": 2.0}
    assert result["verdicts"] == [{"target": "theirs / ours", "bound": ">= 2", "figure": 2.0, "met": True}]


@pytest.mark.parametrize(
    ("bound", "met"), [({"at_least": 2.1}, False), ({"at_most": 2}, True), ({"at_most": 1}, False)]
)
def test_a_target_is_met_or_missed(bound: dict[str, float], met: bool):
    assert Target("", lambda rounds: 2.0, **bound).verdict([{}])["met"] is met


def test_every_peer_has_a_turn_in_every_round():
    workers = [Scripted(ours=[1.0, 1.0], a=[1.0, 1.0]), Scripted(b=[1.0, 1.0])]
    measure(case(), workers, plan(2))  # type: ignore[arg-type]
    assert workers[0].asked == ["prepare", *["turn ours", "turn a"] * 2, "drop"]


def test_of_a_large_case_one_framework_at_a_time_is_in_memory():
    log: list[tuple[str, str]] = []

    class Logged(Scripted):
        def ask(self, **request: Any) -> Any:
            log.append((next(iter(self.left)), next(iter(request))))
            return super().ask(**request)

    measure(case(large=True), [Logged(ours=[1.0, 1.0]), Logged(b=[1.0, 1.0])], plan(2))  # type: ignore[list-item]
    each = ["prepare", "turn", "drop"]
    assert log == [(peer, what) for _ in range(2) for peer in ("ours", "b") for what in each]


def test_a_part_of_the_rows_has_no_verdict_and_ours_is_asked_for():
    asked = []

    class Asked(Scripted):
        def ask(self, **request: Any) -> Any:
            asked.append(request.get("wanted"))
            return super().ask(**request)

    target = Target("theirs / ours", ratio("theirs", "ours"), at_least=2)
    result = measure(case(targets=(target,)), [Asked(ours=[1.0])], plan(1, "word"))  # type: ignore[list-item]
    assert result["verdicts"] == []
    assert asked[0] == ("word", "ours")


def test_rows_are_compared_with_a_base_of_their_own():
    worker = Scripted(**{"ours": [1.0], "ours, clip": [1.5], "b": [8.0], "b, clip": [10.0]})
    result = measure(case(base=lambda peer: peer.split(",")[0]), [worker], plan(1))  # type: ignore[list-item]
    assert [row["times"] for row in result["rows"]] == [1.0, 1.5, 1.0, 1.25]


@pytest.mark.parametrize(("measures", "budget"), [("seconds", 0.5), ("bytes", 0.0)])
def test_bytes_are_measured_once_and_have_no_ratio(measures: str, budget: float):
    given = []

    class Budgeted(Scripted):
        def ask(self, **request: Any) -> Any:
            given.append(request.get("budget"))
            return super().ask(**request)

    half_a_second = Plan("kind", 1, 0.5, (), lambda text: None)
    result = measure(case(measures=measures), [Budgeted(ours=[8.0])], half_a_second)  # type: ignore[list-item]
    ratios = {"times": 1.0} if measures == "seconds" else {}
    assert result["rows"] == [{"peer": "ours", "figure": 8e3, measures: [8.0], **ratios}]
    assert given == [None, budget, None]


def fact(peer: str, before: float, after: float, parameters: int = 10, differs: str = "") -> dict[str, Any]:
    return {"peer": peer, "parameters": parameters, "loss": [before, after], "differs": differs}


ALIKE = [fact("a", 2.3, 0.3), fact("b", 2.3001, 0.35), fact("c", 2.3, 0.25)]


def test_trainings_that_learn_alike_pass():
    check_same([*ALIKE, fact("d", 2.3, 1.9, differs="other mathematics")])
    check_same([{"peer": "a", "parameters": None, "loss": None, "differs": ""}])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (fact("d", 2.3, 0.3, parameters=11), "differ in size"),
        (fact("d", 2.302, 0.3), "begin alike"),
        (fact("d", float("nan"), 0.3), "begin alike"),
        (fact("d", 2.3, 0.6), "learn alike"),
        (fact("d", 2.3, 2.3, differs="other mathematics"), "learn alike"),
        (fact("d", 2.3, float("nan")), "learn alike"),
        (fact("d", 2.3, float("nan"), differs="other mathematics"), "learn alike"),
    ],
)
def test_trainings_of_something_else_are_refused(other: dict[str, Any], message: str):
    with pytest.raises(RuntimeError, match=message):
        check_same([*ALIKE, other])


def test_the_best_peer_is_the_fastest_of_those_that_count():
    rounds = [dict.fromkeys(train.PEERS, 8.0) | {train.PEERS[2]: 2.0, train.OURS: 4.0, "model.fit, adamas": 1.0}]
    assert train.best_peer(rounds) == 0.5


def test_the_five_models_are_counted():
    def results(*shares: float) -> list[dict[str, Any]]:
        verdicts = [[{"target": "other", "figure": 9.0}, {"target": train.BEST.text, "figure": s}] for s in shares]
        return [{"key": key, "verdicts": v} for key, v in zip(train.FIVE, verdicts, strict=False)]

    (verdict,) = train.overall(results(1.0, 1.2, 0.99, 3.0, 0.5))
    assert (verdict["figure"], verdict["met"]) == (3, True)
    (verdict,) = train.overall(results(1.0, 0.9, 0.99, 3.0, 0.5))
    assert (verdict["figure"], verdict["met"]) == (2, False)
    assert train.overall(results(1.0, 1.0)) == []


def test_a_turn_is_the_median_of_runs_after_a_first_one():
    values = [2.5, 1.0, 3.0, 2.0]
    assert turn(Job(lambda: values.pop(0)), budget=6.0) == 2.0


def test_a_turn_that_fills_its_budget_is_one_run():
    values = [0.6, 0.1]
    assert turn(Job(lambda: values.pop(0)), budget=1.0) == 0.6
    assert values == [0.1]


def test_every_run_starts_anew_where_a_job_can():
    starts: list[int] = []
    turn(Job(lambda: 0.1, restart=lambda: starts.append(1)), budget=0.4)
    assert len(starts) == 1 + 4


@pytest.mark.parametrize("kind", [path.stem for path in sorted((ROOT / "benchmarks/results").glob("*.json"))])
def test_committed_results_are_whole(kind: str):
    """Of the whole kind, with its Markdown; rounds enough for a median."""
    path = ROOT / "benchmarks/results" / f"{kind}.json"
    content = json.loads(path.read_text())
    assert kind in command.KINDS
    assert re.fullmatch(rf"python -m benchmarks {kind} --rounds \d+ --budget [\d.]+", content["command"])
    assert content["rounds"] >= 3
    for result in content["cases"]:
        for row in result["rows"]:
            assert len(row["bytes" if kind == "memory" else "seconds"]) == content["rounds"]
    assert path.with_suffix(".md").read_text() == report.markdown(content)


def test_a_table_has_a_row_for_each_peer_of_any_case():
    def column(name: str, **figures: float) -> dict[str, Any]:
        return {"case": name, "unit": "ms", "rows": [{"peer": p, "figure": f} for p, f in figures.items()]}

    assert readme.table("T", [column("A", adamas=1.234, x=12345.0), column("B", y=2.0, x=0.5)]) == [
        "| T | A: ms | B: ms |",
        "| --- | ---: | ---: |",
        "| **adamas** | 1.23 |  |",
        "| x | 12,300 | 0.5 |",
        "| y |  | 2 |",
    ]


def test_markdown_says_what_was_missed_and_what_differs():
    row = {"peer": "a", "figure": 1.0, "seconds": [1.0], "times": 1.0, "loss": [2.0, 1.0], "differs": "squares twice"}
    verdict = {"target": "T", "bound": ">= 2", "figure": 1.0, "met": False}
    result = {"key": "k", "case": "C", "unit": "ms", "than": "a", "rows": [row], "verdicts": [verdict]}
    content = report.document("command", 3, [result], [verdict | {"met": True}])
    text = report.markdown(copy.deepcopy(content))
    assert "| a | 1 | 1.00 | 2 → 1 |" in text
    assert "Other mathematics, other losses: a squares twice." in text
    assert text.count("| T | >= 2 | 1 | **missed** |") == 1
    assert text.count("| T | >= 2 | 1 | met |") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--only", "nothing"], "no such case of train; there are mlp-64, mlp-512"),
        (["step", "--rounds", "2"], "a median needs at least 3"),
        (["all", "--only", "cnn"], "measures and writes everything"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str):
    done = subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
