"""`python -m benchmarks step|fit|all`: measures, prints the table, and says which targets are met.

`readme` copies the committed results into the READMEs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from benchmarks.cases import FRAMEWORKS, cases
from benchmarks.harness import ROOT, Worker, measure, write
from benchmarks.readme import write as write_readmes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=["step", "fit", "all", "readme"])
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/WHAT.json; a .md is written beside it")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, at least 3 (default 5)")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of one turn of one peer (default 0.5)")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks every case; for trying the harness out")
    options = parser.parse_args()
    if options.what == "readme":
        write_readmes()
        return 0
    if options.rounds < 3:
        parser.error("--rounds: a median needs at least 3")
    if options.what == "all" and options.json:
        parser.error("--json: `all` writes one file for each part; leave it out")

    good = True
    for what in ("step", "fit") if options.what == "all" else (options.what,):
        path = options.json or ROOT / "benchmarks" / "results" / f"{what}.json"
        good &= run(what, path, options)
    return 0 if good else 1


def run(what: str, path: Path, options: argparse.Namespace) -> bool:
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {text}", file=sys.stderr, flush=True)

    workers = [Worker(framework) for framework in FRAMEWORKS[what]]
    try:
        results = [measure(c, workers, options.rounds, options.budget, say) for c in cases(what, options.scale)]
    finally:
        for worker in workers:
            worker.close()
    command = "python -m benchmarks " + shlex.join(sys.argv[1:])
    write(path, command, options.rounds, results)
    print(path.with_suffix(".md").read_text())
    return all(verdict["met"] for result in results for verdict in result["verdicts"])


if __name__ == "__main__":
    sys.exit(main())
