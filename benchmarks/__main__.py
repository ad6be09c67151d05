"""`python -m benchmarks KIND`: measures, prints the tables, and says which targets are met.

    step      Adam's step alone
    train     whole trainings of six models
    rows      a step of a large table of which some rows have a gradient
    memory    what a step needs for itself, and the optimizer's state
    features  what clipping, weight decay and loss scaling cost
    all       all of these, written to benchmarks/results
    readme    copies the committed results into the READMEs

A part of a kind, or a smaller one, is printed and written nowhere unless `--json` says where:

    python -m benchmarks train --only transformer --rounds 3
    python -m benchmarks train --only cnn,mlp-64 --peers torch,scan
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.harness import ROOT, Plan, Worker, measure
from benchmarks.readme import write as write_readmes

KINDS = ("step", "train", "rows", "memory", "features")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*KINDS, "all", "readme"])
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/KIND.json; a .md is written beside it")
    parser.add_argument(
        "--rounds", type=int, default=5, help="interleaved rounds (default 5; at least 3 at full scale)"
    )
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of one turn of one peer (default 0.5)")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks every case; for trying the harness out")
    parser.add_argument(
        "--only", type=words, default=(), help="cases, by their keys in the results; separated by commas"
    )
    parser.add_argument("--peers", type=words, default=(), help="rows, by words in their names; ours is always there")
    options = parser.parse_args()
    if options.what == "readme":
        write_readmes()
        return 0
    if options.rounds < (3 if options.scale == 1 else 1):
        parser.error("--rounds: a median needs at least 3")
    if options.what == "all" and (options.json or options.only):
        parser.error("--json and --only: `all` measures and writes everything; leave them out")

    met = [run(kind, options) for kind in (KINDS if options.what == "all" else (options.what,))]
    return 0 if all(met) else 1


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def command(kind: str, options: argparse.Namespace) -> str:
    """What measures this kind in the same way; where the results are written does not matter."""
    given = ["python -m benchmarks", kind, f"--rounds {options.rounds}", f"--budget {options.budget:g}"]
    given += [f"--scale {options.scale:g}"] if options.scale != 1 else []
    given += [f"--{name} {','.join(value)}" for name in ("only", "peers") if (value := getattr(options, name))]
    return " ".join(given)


def run(kind: str, options: argparse.Namespace) -> bool:
    """Measure one kind; whether every target is met."""
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {text}", file=sys.stderr, flush=True)

    module = importlib.import_module(f"benchmarks.cases.{kind}")
    cases = [case for case in module.cases(options.scale) if not options.only or case.key in options.only]
    if not cases:
        keys = ", ".join(case.key for case in module.cases(options.scale))
        raise SystemExit(f"--only {','.join(options.only)}: no such case of {kind}; there are {keys}")
    workers = [Worker(framework, getattr(module, "ENVIRONMENT", {})) for framework in module.FRAMEWORKS]
    plan = Plan(kind, options.rounds, options.budget, options.peers, say)
    try:
        results = [measure(case, workers, plan) for case in cases]
    finally:
        for worker in workers:
            worker.close()
    verdicts = module.overall(results) if hasattr(module, "overall") else []
    content = report.document(command(kind, options), options.rounds, results, verdicts)
    whole = not (options.only or options.peers) and options.scale == 1
    path = options.json or (ROOT / "benchmarks" / "results" / f"{kind}.json" if whole else None)
    if path:
        report.write(path, content)
    print(report.markdown(content))
    return all(verdict["met"] for verdict in [*verdicts, *(v for result in results for v in result["verdicts"])])


if __name__ == "__main__":
    sys.exit(main())
