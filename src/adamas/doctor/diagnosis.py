"""All facts together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from adamas.doctor import machine, packages
from adamas.doctor.packages import Conflict
from adamas.doctor.probe import FRAMEWORKS, probe
from adamas.errors import AdamasError
from adamas.kernels import build as shims
from adamas.kernels import choose, cpu


@dataclass(frozen=True)
class Diagnosis:
    """What was found; `print` shows it as a report.

    machine     processor, cores, how many may be used, the quota of their time, system, Python
    versions    of packages; None: not installed
    libadamas   "problem" (why it cannot serve, or None), "library", "build", "threads", "instruction_set",
                "instruction_sets"
    compiler    "command" and "version"; or "problem"
    cache       "folder", "files" (name: bytes), "problem"
    keras       the backend that Keras will run on; None where it is absent
    frameworks  name -> what `probe` found; {"problem": ...} where it is absent
    conflicts   what does not go together, and the remedy
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str | None]
    libadamas: Mapping[str, Any]
    compiler: Mapping[str, Any]
    cache: Mapping[str, Any]
    keras: str | None
    frameworks: Mapping[str, Mapping[str, Any]]
    conflicts: tuple[Conflict, ...]

    def __str__(self) -> str:
        from adamas.doctor.report import text

        return text(self)


def diagnose(*, build: bool = False, frameworks: Iterable[str] = FRAMEWORKS) -> Diagnosis:
    """Looks at the machine, the packages and the kernels; each framework in a process of its own.

    Args:
        build: build the shims of the frameworks now, where they are not built (10 s for TensorFlow, 3 s for JAX).
            Otherwise nothing is changed.
        frameworks: those to look at.

    Example:
        >>> from adamas.doctor import diagnose
        >>> sorted(diagnose(frameworks=["numpy"]).frameworks["numpy"]["kernels"])
        ['cpu', 'reference']
    """
    versions = packages.versions()
    asked = list(frameworks)
    with ThreadPoolExecutor(2) as pool:  # they wait for imports
        tried = dict(zip(asked, pool.map(lambda name: _tried(name, build, versions), asked), strict=True))
    here = machine.facts()
    threads = machine.too_many_threads(here)
    return Diagnosis(
        machine=here,
        versions=versions,
        libadamas=_libadamas(),
        compiler=_compiler(),
        cache=_cache(),
        keras=packages.keras_backend() if versions["keras"] else None,
        frameworks=tried,
        conflicts=(*([threads] if threads else []), *packages.conflicts(versions), *packages.unmet()),
    )


def _tried(name: str, build: bool, versions: Mapping[str, str | None]) -> dict[str, Any]:
    if versions[name] is None:
        return {"problem": f"not installed: pip install 'adamas[{name}]'"}
    for needed, of in (("optax", "jax"), ("keras", "tensorflow")):
        if name == of and versions[needed] is None:
            return {"problem": f"{needed} is not installed: pip install 'adamas[{name}]'"}
    return probe(name, build)


def _libadamas() -> dict[str, Any]:
    problem = cpu.why_not()
    if problem is not None:
        return {"problem": problem, "kernel": str(choose())}
    return {
        "problem": None,
        "kernel": str(choose()),
        "library": str(cpu.library_path()),
        "build": cpu.build_info(),
        "threads": cpu.get_threads(),
        "instruction_set": cpu.get_instruction_set(),
        "instruction_sets": list(cpu.instruction_sets()),
    }


def _compiler() -> dict[str, Any]:
    try:
        found = shims.find_compiler()
    except AdamasError as error:
        return {"problem": str(error)}
    if found is None:
        return {"problem": "no C++ compiler (looked for $CXX, c++, g++, clang++); Debian: apt-get install g++"}
    return {"command": found[0], "version": found[1], "problem": None}


def _cache() -> dict[str, Any]:
    try:
        folder = shims.default_cache()
        files = {path.name: path.stat().st_size for path in shims.built()}
    except (AdamasError, OSError) as error:
        return {"folder": None, "files": {}, "problem": str(error)}
    return {"folder": str(folder), "files": files, "problem": None}
