"""The machine: processor, cores that may be used, and the time on them that is granted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adamas.doctor.packages import Conflict
from adamas.train.runs import environment


def facts() -> dict[str, Any]:
    """System, processor, Python, cores and the quota of them: a number of cores, or None for no limit."""
    return {**environment.machine(), "quota": quota()}


def quota(process: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of time that the control groups of this process grant, the tightest of them; None: no limit.

    Args:
        process: names the groups, a line each: "0::/path" of version 2, "4:cpu,cpuacct:/path" of version 1.
        root: where they are mounted.
    """
    found = []
    for line in _text(process).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        top = root if number == "0" else root / "cpu"
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            found.append(_granted(folder))
            if folder == top:
                break
    limits = [limit for limit in found if limit is not None]
    return min(limits) if limits else None


def _granted(folder: Path) -> float | None:
    """What one group grants."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        allowed, period = map(float, words)
    except ValueError:  # "max", or no such file
        return None
    return allowed / period if allowed > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def too_many_threads(found: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Conflict | None:
    """Where frameworks start more threads than they are granted time for; None where they do not."""
    limit = found["quota"]
    if limit is None or limit >= found["cores_usable"]:
        return None
    whole = max(1, int(limit))
    if environment.get("OMP_NUM_THREADS") == str(whole):
        return None
    return Conflict(
        f"the control group grants {limit:g} of {found['cores_usable']} cores. libadamas keeps to that; TensorFlow, "
        "PyTorch and JAX start a thread for each core, and the group is stopped in the middle of steps",
        f"set OMP_NUM_THREADS={whole}, and call tf.config.threading.set_intra_op_parallelism_threads({whole}) or "
        f"torch.set_num_threads({whole})",
    )
