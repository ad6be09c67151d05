"""The most memory that a process has during one call, above what it has before: from Linux' high-water mark."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adamas.bench.job import Job


def peak_of(step: Callable[[], Any], expected: float | None = None) -> Job:
    """A job that measures by how many bytes `step()` raises the high-water mark of the memory that is in use.

    What `step` returns is kept until then. Memory that the C library keeps for later is given back first: what the
    step takes of it counts. `expected`: the bytes that arithmetic says.
    """
    trim = ctypes.CDLL(None).malloc_trim  # of glibc

    def run() -> float:
        gc.collect()
        trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what there is now
        before = _status("VmHWM")
        kept = step()
        most = _status("VmHWM")
        del kept
        return float(most - before)

    return Job(run, expected=expected)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {name}: peak memory is measured on Linux only")
    return int(found[1]) * 1024
