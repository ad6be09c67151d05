"""The parent: starts the workers, gives turns, takes medians, writes down where and with what."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "tensorflow", "tensorflow-cpu", "keras", "torch", "jax", "optax")


@dataclass(frozen=True)
class Target:
    """A demand on one case: the figure `value(times)` of a round must reach `at_least` (or stay `at_most`)."""

    text: str
    value: Callable[[dict[str, float]], float]
    at_least: float | None = None
    at_most: float | None = None

    def met(self, figure: float) -> bool:
        return (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)


@dataclass(frozen=True)
class Case:
    """One job that all peers do, what its seconds mean (`figure`, in `unit`), and what is demanded."""

    name: str
    kind: str  # the function of the peers' modules that prepares it
    arguments: dict[str, Any]
    unit: str
    figure: Callable[[float], float]
    ours: str
    targets: tuple[Target, ...] = field(default=())


class Worker:
    """One framework in one process; a line of JSON for each request, a line of JSON for each answer."""

    def __init__(self, framework: str):
        self.framework = framework
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **os.environ}
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


def measure(case: Case, workers: list[Worker], rounds: int, budget: float, say: Callable[[str], None]) -> dict:
    """All rounds of one case: {"case", "unit", "rows", "verdicts"}."""
    peers: list[tuple[Worker, str]] = []
    for worker in workers:
        say(f"{case.name}: {worker.framework} prepares")
        peers += [(worker, peer) for peer in worker.ask(prepare=case.kind, arguments=case.arguments)]
    seconds: list[dict[str, float]] = []
    for number in range(rounds):
        seconds.append({})
        for worker, peer in peers:
            say(f"{case.name}: round {number + 1} of {rounds}, {peer}")
            seconds[-1][peer] = worker.ask(turn=peer, budget=budget)
    for worker in workers:
        worker.ask(drop=True)

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(value(times) for times in seconds)

    rows = [
        {
            "peer": peer,
            "figure": median(lambda times, peer=peer: case.figure(times[peer])),
            "times_ours": median(lambda times, peer=peer: times[peer] / times[case.ours]),
            "seconds": [times[peer] for times in seconds],
        }
        for _, peer in peers
    ]
    verdicts = []
    for target in case.targets:
        figure = median(target.value)
        bound = f">= {target.at_least:g}" if target.at_least is not None else f"<= {target.at_most:g}"
        verdicts.append({"target": target.text, "bound": bound, "figure": figure, "met": target.met(figure)})
    return {"case": case.name, "unit": case.unit, "ours": case.ours, "rows": rows, "verdicts": verdicts}


@dataclass
class Machine:
    """Where a result comes from."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    commit: str
    date: str

    @classmethod
    def here(cls) -> Machine:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "src", "CMakeLists.txt"], capture_output=True, text=True, check=False
        )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(
            processor=_processor(),
            cores=cores,
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            packages={name: version for name in PACKAGES if (version := _version(name))},
            commit=(commit.stdout.strip() or "unknown") + ("+changes" if changed.stdout.strip() else ""),
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write(path: Path, command: str, rounds: int, results: list[dict]) -> None:
    """The results as JSON, and as a Markdown table beside it."""
    machine = Machine.here()
    document = {"command": command, "rounds": rounds, "machine": asdict(machine), "cases": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(document))


def markdown(document: dict) -> str:
    machine = document["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"Generated by `{document['command']}`: medians of {document['rounds']} interleaved rounds, {machine['date']}, "
        f"commit {machine['commit']}.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"Python {machine['python']}, {packages}.",
    ]
    for result in document["cases"]:
        lines += ["", f"## {result['case']}", "", f"| | {result['unit']} | time, as a multiple of {result['ours']} |"]
        lines.append("| --- | ---: | ---: |")
        lines += [f"| {row['peer']} | {row['figure']:,.4g} | {row['times_ours']:.2f} |" for row in result["rows"]]
        if result["verdicts"]:
            lines += ["", "| target | demanded | measured | |", "| --- | ---: | ---: | --- |"]
        for v in result["verdicts"]:
            lines.append(
                f"| {v['target']} | {v['bound']} | {v['figure']:.3g} | {'met' if v['met'] else '**missed**'} |"
            )
    return "\n".join(lines) + "\n"
