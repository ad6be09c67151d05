"""`python -m benchmarks all`: measures every kind with `adamas bench`, at full size, and commits to the figures.

    all        every kind
    step ...   these kinds
    readme     only copies the committed results into the READMEs

Each kind is written to benchmarks/results, as JSON and as tables. The exit code says whether every target was met.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from adamas.bench import KINDS, Report, bench
from adamas.bench.run import frameworks
from benchmarks import plot, readme

RESULTS = Path(__file__).with_name("results")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=[*KINDS, "all", "readme"])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds: at least 3 (default 5)")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of one turn of one row (default 0.5)")
    parser.add_argument(
        "--python", action="append", default=[], metavar="FRAMEWORK=PATH", help="as of `adamas bench`; may be repeated"
    )
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds: a median needs at least 3")
    pythons = dict(given.split("=", 1) for given in options.python)
    kinds = KINDS if "all" in options.what else [kind for kind in options.what if kind in KINDS]
    met = True
    for kind in kinds:
        report = bench(
            kind,
            rounds=options.rounds,
            budget=options.budget,
            pythons={name: path for name, path in pythons.items() if name in frameworks(kind)},
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        report.data["machine"]["commit"] = commit()
        write(report, RESULTS / f"{kind}.json")
        print(report.text())
        met &= report.met
    readme.write()
    return 0 if met else 1


def write(report: Report, path: Path) -> None:
    """The JSON at `path`, and the tables beside it; of `scaling` a picture, too."""
    path.write_text(json.dumps(report.data, indent=1) + "\n")
    path.with_suffix(".md").write_text(report.text())
    if path.stem == "scaling":
        plot.scaling(report.data, path.with_suffix(".svg"))


def commit() -> str:
    """The commit that is measured, and whether what is built from it was changed since."""
    git = ["git", "-C", str(RESULTS)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    where = [str(RESULTS.parents[1] / name) for name in ("src", "CMakeLists.txt")]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *where], capture_output=True, text=True, check=True)
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


if __name__ == "__main__":
    sys.exit(main())
