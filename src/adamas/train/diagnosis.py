"""What is installed and what serves: the facts behind `adamas doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamas.errors import AdamasError
from adamas.kernels import choose, cpu
from adamas.train.runs import environment

PACKAGES = (*environment.PACKAGES, "torch", "jax", "optax", "matplotlib", "safetensors")


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    machine   processor, cores, system, Python
    versions  of packages; None: not installed
    kernel    which one serves NumPy arrays, and why
    native    whether libadamas can be used; `native_problem` says why not
    library, build, threads, instruction_set, instruction_sets  of libadamas; None or empty without it
    op        the built TensorFlow op, or None; `op_problem` says why not and what to do
    """

    machine: dict[str, Any]
    versions: dict[str, str | None]
    kernel: str
    native_problem: str | None
    library: Path | None
    build: str
    threads: int | None
    instruction_set: str | None
    instruction_sets: tuple[str, ...]
    op: Path | None
    op_problem: str | None

    @property
    def native(self) -> bool:
        """Whether libadamas serves."""
        return self.native_problem is None


def diagnose(*, build: bool = False) -> Diagnosis:
    """Looks at the machine, the packages and the kernels.

    Args:
        build: build the TensorFlow op now (10 to 20 s) if it is not built; otherwise nothing is changed, and TensorFlow
            is not loaded unless it is installed and an op was built before.

    Raises:
        AdamasError: `build` was asked for and failed.
    """
    versions = environment.versions(PACKAGES)
    problem = cpu.why_not()
    op, op_problem = _op(build, versions)
    native = problem is None
    return Diagnosis(
        machine=environment.machine(),
        versions=versions,
        kernel=str(choose()),
        native_problem=problem,
        library=cpu.library_path() if native else None,
        build=cpu.build_info() if native else "",
        threads=cpu.get_threads() if native else None,
        instruction_set=cpu.get_instruction_set() if native else None,
        instruction_sets=cpu.instruction_sets() if native else (),
        op=op,
        op_problem=op_problem,
    )


def _op(build: bool, versions: dict[str, str | None]) -> tuple[Path | None, str | None]:
    """The TensorFlow op's file, or why there is none."""
    if cpu.why_not() is not None:
        return None, "it is a shim over the native library, which is not there"
    if versions["tensorflow"] is None:
        return None, "TensorFlow is not installed: pip install 'adamas[tensorflow]'"
    environment.start_tensorflow(environment.machine()["cores_usable"] or 1, asked=False)
    from adamas.kernels.tensorflow import build as builder
    from adamas.kernels.tensorflow import op

    if build:
        path = builder.build()
        op.load()
        return path, None
    try:
        path_or_none = builder.existing()
        if path_or_none is None:
            return None, "not built yet: the first step with it does that (10 to 20 s), or `adamas doctor --build` now"
        op.load()
    except AdamasError as error:
        return None, str(error)
    return path_or_none, None
