"""What the harness concludes from what was measured, without measuring."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

import adamas.bench.run as running
from adamas.bench import KINDS, Report, bench
from adamas.bench.case import ADDITIONS, CLOCK, Case, Ratio, Scaled, Target
from adamas.bench.cases import train
from adamas.bench.harness import Plan, check_same, measure
from adamas.bench.job import Job
from adamas.bench.report import wide
from adamas.bench.worker import turn
from adamas.bench.workers import Worker
from adamas.errors import ArgumentError, BenchmarkError

NOTHING: dict[str, Any] = {
    "absent": None,
    "parameters": None,
    "loss": None,
    "differs": "",
    "weights": None,
    "state": None,
    "threads": None,
    "expected": None,
    "note": "",
}


class Scripted:
    """A worker whose measurements are given: for each peer one a round."""

    framework = "scripted"

    def __init__(self, facts: dict[str, dict[str, Any]] | None = None, **measured: list[float]):
        self.left = measured
        self.facts = facts or {}
        self.asked: list[str] = []

    def ask(self, **request: Any) -> Any:
        self.asked.append("turn " + request["turn"] if "turn" in request else next(iter(request)))
        if "turn" in request:
            return self.left[request["turn"]].pop(0)
        if "list" in request:
            return {"rows": list(self.left), "absent": None, "packages": {"scripted": "1"}}
        if "prepare" in request:
            return [NOTHING | {"peer": row} | self.facts.get(row, {}) for row in request["rows"]]
        return None


def plan(rounds: int, *wanted: str) -> Plan:
    return Plan("kind", rounds, 0.0, wanted, lambda text: None)


def case(**settings: Any) -> Case:
    return Case("key", "name", {}, "ms", lambda s: 1e3 * s, "ours", **settings)


def test_a_ratio_is_taken_in_each_round_before_the_median():
    """The machine slows down threefold in the last round; the medians of the times alone would say 4 or 1.3."""
    target = Target("theirs / ours", Ratio("theirs", "ours"), at_least=2)
    worker = Scripted(ours=[1.0, 1.0, 3.0], theirs=[2.0, 4.0, 6.0])
    result = measure(case(targets=(target,)), [worker], plan(3))
    assert result["rows"][1] == {"peer": "theirs", "figure": 4e3, "seconds": [2.0, 4.0, 6.0], "times": 2.0}
    assert result["verdicts"] == [{"target": "theirs / ours", "bound": ">= 2", "figure": 2.0, "met": True}]


@pytest.mark.parametrize(
    ("bound", "met"), [({"at_least": 2.1}, False), ({"at_most": 2}, True), ({"at_most": 1}, False)]
)
def test_a_target_is_met_or_missed(bound: dict[str, float], met: bool):
    assert Target("", Scaled("a", 1.0), **bound).verdict([{"a": 2.0}])["met"] is met


def test_every_peer_has_a_turn_in_every_round():
    workers = [Scripted(ours=[1.0, 1.0], a=[1.0, 1.0]), Scripted(b=[1.0, 1.0])]
    measure(case(), workers, plan(2))
    assert workers[0].asked == ["list", "prepare", *["turn ours", "turn a"] * 2, "drop"]


def test_of_a_large_case_one_row_at_a_time_is_in_memory():
    log: list[tuple[str, str]] = []

    class Logged(Scripted):
        def ask(self, **request: Any) -> Any:
            what = next(iter(request))
            log.append((what, "".join(request.get("rows", [])) or request.get("turn", "")))
            return super().ask(**request)

    measure(case(large=True), [Logged(ours=[1.0, 1.0], a=[1.0, 1.0]), Logged(b=[1.0, 1.0])], plan(2))
    assert log[:2] == [("list", "")] * 2
    one = [[("prepare", row), ("turn", row), ("drop", "")] for row in ("ours", "a", "b")]
    assert log[2:] == [step for steps in one for step in steps] * 2


def test_a_row_that_cannot_serve_is_tried_once():
    worker = Scripted({"b": {"absent": "OSError: no"}}, ours=[1.0, 1.0], b=[])
    result = measure(case(large=True), [worker], plan(2))
    assert worker.asked.count("prepare") == 3
    assert result["absent"] == {"b": "OSError: no"}


def test_a_part_of_the_rows_has_no_verdict_and_ours_is_there():
    target = Target("theirs / ours", Ratio("theirs", "ours"), at_least=2)
    worker = Scripted(ours=[1.0], theirs=[1.0], words=[1.0])
    result = measure(case(targets=(target,)), [worker], plan(1, "word"))
    assert result["verdicts"] == []
    assert [row["peer"] for row in result["rows"]] == ["ours", "words"]


def test_a_case_can_name_its_rows():
    worker = Scripted(ours=[1.0], a=[1.0], ours2=[1.0])
    result = measure(case(rows=("ours", "a")), [worker], plan(1))
    assert [row["peer"] for row in result["rows"]] == ["ours", "a"]


def test_what_is_not_there_is_named_and_its_target_is_no_miss():
    class Absent(Scripted):
        framework = "other"

        def ask(self, **request: Any) -> Any:
            return {"rows": [], "absent": "no module", "packages": {}} if "list" in request else None

    target = Target("theirs / ours", Ratio("theirs", "ours"), at_least=2)
    for worker in (Absent(), Scripted({"theirs": {"absent": "OSError: no"}}, theirs=[])):
        result = measure(case(targets=(target,)), [Scripted(ours=[1.0]), worker], plan(1))
        assert [row["peer"] for row in result["rows"]] == ["ours"]
        assert list(result["absent"].values()) == ["no module" if isinstance(worker, Absent) else "OSError: no"]
        assert result["verdicts"] == [{"target": "theirs / ours", "bound": ">= 2", "figure": None, "met": None}]
        assert Report({"cases": [result], "verdicts": []}).met


def test_where_our_row_is_not_there_others_have_no_ratio():
    result = measure(case(), [Scripted(theirs=[1.0])], plan(1))
    assert result["rows"] == [{"peer": "theirs", "figure": 1e3, "seconds": [1.0]}]


def test_state_traffic_cycles_and_the_bandwidth_below_which_a_format_wins():
    """2 threads at 3 GHz, 1000 parameters of 4 bytes; 2 us are 3000 cycles a thread and parameter, for 500 of them."""
    fact = {"weights": 4000, "state": 2125, "threads": 2}
    worker = Scripted({"ours": fact}, **{CLOCK: [ADDITIONS / 3e9], "ours": [2e-6]})
    result = measure(case(parameters=1000), [worker], plan(1))
    (row,) = result["rows"]
    assert row["state"] == 2.125
    assert row["gb_a_second"] == pytest.approx((12 + 2 * 2.125) * 1000 / 2e-6 / 1e9)
    assert row["cycles"] == pytest.approx(12)
    clock, bandwidth = result["notes"]
    assert "a clock of 3.00 GHz" in clock
    assert "less than 7 GB/s" in bandwidth  # 28 bytes for 1000 parameters in 2 us, by two cores


def test_rows_are_compared_with_a_base_of_their_own():
    worker = Scripted(**{"ours": [1.0], "ours, clip": [1.5], "b": [8.0], "b, clip": [10.0]})
    result = measure(case(base=lambda peer: peer.split(",")[0]), [worker], plan(1))
    assert [row["times"] for row in result["rows"]] == [1.0, 1.5, 1.0, 1.25]


@pytest.mark.parametrize(("measures", "budget"), [("seconds", 0.5), ("bytes", 0.0)])
def test_bytes_are_measured_once_and_have_no_ratio(measures: str, budget: float):
    given = []

    class Budgeted(Scripted):
        def ask(self, **request: Any) -> Any:
            given.append(request.get("budget"))
            return super().ask(**request)

    half_a_second = Plan("kind", 1, 0.5, (), lambda text: None)
    result = measure(case(measures=measures), [Budgeted(ours=[8.0])], half_a_second)
    ratios = {"times": 1.0} if measures == "seconds" else {}
    assert result["rows"] == [{"peer": "ours", "figure": 8e3, measures: [8.0], **ratios}]
    assert given == [None, None, budget, None]


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
    with pytest.raises(BenchmarkError, match=message):
        check_same([*ALIKE, other])


def test_the_best_peer_is_the_fastest_of_those_that_count():
    rounds = [dict.fromkeys(train.PEERS, 8.0) | {train.PEERS[2]: 2.0, train.OURS: 4.0, "model.fit, adamas": 1.0}]
    assert train.BestPeer()(rounds) == 0.5


def test_a_scaled_figure_is_the_median_of_its_row():
    assert Scaled("a", 1e3)([{"a": 1.0}, {"a": 3.0}, {"a": 2.0}]) == 2e3


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


def test_a_turn_that_takes_twice_its_budget_is_one_run():
    values = [2.0, 0.1]
    assert turn(Job(lambda: values.pop(0)), budget=1.0) == 2.0
    assert values == [0.1]


def test_a_slow_first_run_does_not_count():
    values = [1.9, 0.6, 0.4, 0.5]
    assert turn(Job(lambda: values.pop(0)), budget=1.0) == 0.5


def test_every_run_starts_anew_where_a_job_can():
    starts: list[int] = []
    turn(Job(lambda: 0.1, restart=lambda: starts.append(1)), budget=0.4)
    assert len(starts) == 1 + 4


def test_a_table_has_a_row_for_each_row_of_any_case():
    def column(name: str, **figures: float) -> dict[str, Any]:
        return {"case": name, "unit": "ms", "rows": [{"peer": p, "figure": f} for p, f in figures.items()]}

    cases = [column("A", adamas=1.234, x=12345.0), column("B", y=2.0, x=0.5)]
    assert wide("T", cases, "adamas", units=True) == [
        "| T | A: ms | B: ms |",
        "| --- | ---: | ---: |",
        "| **adamas** | 1.23 | |",
        "| x | 12,300 | 0.5 |",
        "| y | | 2 |",
    ]


def test_bytes_of_state_are_a_column_where_they_are_known():
    rows = [{"peer": "a", "figure": 1.0, "state": 2.125}, {"peer": "b", "figure": 2.0}]
    cases = [{"case": "A", "unit": "ms", "rows": rows}]
    assert wide("T", cases, units=True)[0::2] == ["| T | A: ms | state, bytes a parameter |", "| a | 1 | 2.125 |"]
    assert wide("T", cases)[0] == "| T | A |"
    small = [{"case": "B", "unit": "ms", "rows": [rows[0] | {"state": 8.0}]}]  # a tensor that gains nothing
    assert wide("T", cases + small, units=True)[2] == "| a | 1 | 1 | 2.125 |"


MACHINE = {"processor": "P", "cores": 2, "memory_gib": 1.0, "system": "S", "python": "3", "packages": {}, "date": "D"}


def test_the_text_says_what_was_missed_what_differs_and_what_was_left_out():
    row = {"peer": "a", "figure": 1.0, "seconds": [1.0], "times": 1.0, "loss": [2.0, 1.0], "differs": "squares twice"}
    verdict = {"target": "T", "bound": ">= 2", "figure": 1.0, "met": False}
    unknown = {"target": "U", "bound": ">= 2", "figure": None, "met": None}
    case = {"key": "k", "case": "C", "unit": "ms", "than": "a", "rows": [row], "verdicts": [verdict, unknown]}
    data = {"command": "c", "rounds": 3, "machine": MACHINE, "cases": [case | {"notes": ["Noted"]}]}
    report = Report(data | {"verdicts": [verdict | {"met": True}], "absent": {"torchao": "no module"}})
    text = report.text()
    assert not report.met
    assert "| a | 1 | 1.00 | 2 → 1 |" in text
    assert "Other mathematics, other losses: a squares twice.\n\nNoted.\n" in text
    assert text.count("| T | >= 2 | 1 | **missed** |") == 1
    assert text.count("| T | >= 2 | 1 | met |") == 1
    assert text.count("| U | >= 2 | | not measured |") == 1
    assert "- torchao: no module" in text


def test_a_case_of_which_nothing_was_measured_says_so():
    case = {"key": "k", "case": "C", "unit": "ms", "than": "a", "rows": [], "verdicts": [], "notes": []}
    data = {"command": "c", "rounds": 3, "machine": MACHINE, "cases": [case], "verdicts": []}
    assert Report(data).text().endswith("## C\n\nNothing of this could be measured here.\n")


def test_cases_of_one_group_are_one_table():
    def one(name: str, figure: float) -> dict[str, Any]:
        rows = [{"peer": "a", "figure": figure, "seconds": [1.0], "times": 1.0}]
        return {"key": name, "case": name, "unit": "ms", "than": "a", "rows": rows, "verdicts": [], "notes": ["N"]}

    cases = [one("10", 1.0) | {"group": "G"}, one("100", 2.0) | {"group": "G"}, one("x", 3.0) | {"group": ""}]
    data = {"command": "c", "rounds": 3, "machine": MACHINE, "cases": cases, "verdicts": []}
    text = Report(data).text()
    assert "## G: ms\n\n| | 10 | 100 |\n| --- | ---: | ---: |\n| a | 1 | 2 |\n\nN.\n\n## x\n" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_cases_with_keys_of_their_own(kind: str):
    cases = importlib.import_module(f"adamas.bench.cases.{kind}").cases(1.0)
    assert len({case.key for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "stap"}, "did you mean step"),
        ({"kind": "train", "only": ["nothing"]}, "no case 'nothing' of train: give some of mlp-64, mlp-512"),
        ({"kind": "step", "rounds": 0}, "rounds=0"),
        ({"kind": "step", "budget": -1.0}, "budget=-1"),
        ({"kind": "step", "scale": 1.5}, "scale=1.5"),
        ({"kind": "rows", "pythons": {"torchao": "python"}}, "the frameworks of rows are tensorflow, torch"),
        ({"kind": "step", "pythons": {"numpy": "python"}}, "an interpreter for 'numpy'"),
        ({"kind": "step", "pythons": {"torch": "/no/such/python"}}, "/no/such/python: no such program"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        bench(**arguments)


def test_a_case_that_needs_more_memory_than_there_is_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "available_memory", lambda: 100)
    report = bench("step", rounds=1, budget=0, only=["huge"])
    assert report.data["cases"] == []
    assert "GiB of memory, and 0.0 are free" in report.data["absent"]["128 M parameters in one tensor"]


def test_available_memory_is_some():
    assert 2**20 < running.available_memory() < 2**60


def test_a_worker_that_ends_is_an_error_with_its_last_words():
    worker = Worker("no-such-framework", "step", {})
    try:
        with pytest.raises(BenchmarkError, match=r"no-such-framework's worker ended with code 1 at step: .*Error") as e:
            worker.ask(prepare="step", arguments={}, rows=["adamas"])
    finally:
        worker.close()
    assert "Traceback" in e.value.__notes__[0]
