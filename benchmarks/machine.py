"""Where a result comes from."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.harness import ROOT

PACKAGES = ("numpy", "tensorflow", "tensorflow-cpu", "keras", "torch", "jax", "optax")


@dataclass
class Machine:
    """The machine, the versions and the commit of one run."""

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
