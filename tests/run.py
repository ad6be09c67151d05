"""Runs the tests, one pytest process for each folder: `python tests/run.py [FOLDER ...] [-- PYTEST OPTIONS]`.

TensorFlow and PyTorch in one process have crashed for years, so no two folders share one. All of them run with the same
options (pyproject.toml). As many folders run at once as there are cores, at most four; what one prints is shown when
it ends. Fails when a test failed, and when a folder ran no test at all; a folder whose optional framework is absent
says so as skipped tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "tensorflow",
    "train",
    "cli",
    "benchmarks",
    "docs",
    "torch",
    "packaging",
    "core",
    "keras_torch",
    "keras_jax",
    "jax",
)  # longest first
AT_ONCE = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
TIMEOUT = 1800.0  # seconds for one folder: a hang must not take the whole run with it


@dataclass
class Outcome:
    """What one folder's process did."""

    folder: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    problem: str = ""
    output: str = ""

    @property
    def ok(self) -> bool:
        return not self.failed and not self.problem


def count(outcome: Outcome, report: Path) -> None:
    """Adds up what pytest wrote into its report."""
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        total, bad = int(suite.get("tests", 0)), int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        outcome.passed += total - bad - skipped
        outcome.failed += bad
        outcome.skipped += skipped


def run(folder: str, options: list[str]) -> Outcome:
    outcome = Outcome(folder)
    print(f"{folder} begins", flush=True)
    # 3: where there is no GPU, TensorFlow's build for GPUs reports that as an error of its own.
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "MPLBACKEND": "agg", **os.environ}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"tests/{folder}", f"--junitxml={report}", *options]
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                timeout=TIMEOUT,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            code, printed = ended.returncode, ended.stdout
        except subprocess.TimeoutExpired as error:
            code, printed, outcome.problem = -1, error.stdout or b"", f"stopped after {TIMEOUT:.0f} s"
        outcome.output = printed.decode(errors="replace")
        if report.exists():
            count(outcome, report)
    outcome.seconds = time.monotonic() - start
    executed = outcome.passed + outcome.failed + outcome.skipped
    if not outcome.problem and executed == 0:
        outcome.problem = "ran no test"
    elif not outcome.problem and not outcome.failed and code not in (0, 5):  # 5: every module was skipped
        outcome.problem = f"pytest ended with code {code}"
    return outcome


def main(arguments: list[str]) -> int:
    folders, options = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        folders, options = arguments[:cut], arguments[cut + 1 :]
    unknown = [folder for folder in folders if folder not in FOLDERS]
    if unknown:
        print(f"no such folder of tests: {', '.join(unknown)}; there are {', '.join(FOLDERS)}", file=sys.stderr)
        return 2

    outcomes = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ended in as_completed([pool.submit(run, folder, options) for folder in folders or FOLDERS]):
            outcomes.append(ended.result())
            print(f"\n== {outcomes[-1].folder} ==\n{outcomes[-1].output}", end="", flush=True)

    print(f"\n{'folder':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}  result")
    for o in outcomes:
        result = "ok" if o.ok else o.problem or "FAILED"
        print(f"{o.folder:<12}{o.passed:>8}{o.failed:>8}{o.skipped:>9}{o.seconds:>9.1f}  {result}")
    passed, skipped = sum(o.passed for o in outcomes), sum(o.skipped for o in outcomes)
    # A folder that crashed or ran nothing counts as a failure of its own.
    failed = sum(o.failed or bool(o.problem) for o in outcomes)
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 0 if all(o.ok for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
