"""Memory: what a step adds to the most that the process has, a whole training step, and the optimizer's state."""

from __future__ import annotations

from adamas.bench.case import Case, Scaled, Target
from adamas.bench.cases.step import count
from adamas.bench.formats import MOMENTS, OURS, WEIGHTS, rows

FRAMEWORKS = ("numpy", "tensorflow", "torch", "jax")
# What was freed goes back to the system, so that the next step's need shows: with oneDNN, TensorFlow keeps it; glibc
# keeps blocks of up to 32 MB in the threads' arenas unless told from which size on a block is the system's.
ENVIRONMENT = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
KERAS = "adamas.keras eager"
PARAMETERS = 64 * 2**20


def cases(scale: float) -> list[Case]:
    size = max(64, round(PARAMETERS * scale))

    def case(key: str, name: str, tensors: int, what: str, targets: tuple[Target, ...] = (), ours: str = KERAS) -> Case:
        arguments = {"shapes": [[size // tensors]] * tensors, "what": what}
        needs = 120 * size  # all rows of TensorFlow share three sets of variables
        return Case(
            key,
            name,
            arguments,
            "bytes a parameter",
            lambda b: b / size,
            ours,
            targets,
            needs=needs,
            measures="bytes",
        )

    def at_most(peer: str, bytes_a_parameter: float) -> Target:
        return Target(f"{peer}, bytes a parameter", Scaled(peer, 1 / size, max), None, bytes_a_parameter)

    ours = tuple(at_most(f"adamas.keras {way}", 0.1) for way in ("eager", "graph"))
    held = tuple(at_most(f"adamas.keras {way}, a value held", 4.1) for way in ("eager", "graph"))
    return [
        case("one", f"a step's own memory: {count(size)} parameters in one tensor", 1, "step", (*ours, *held)),
        case("sixteen", f"a step's own memory: {count(size)} parameters in 16 tensors", 16, "step", (*ours, *held)),
        case("state", f"state of the optimizer: {count(size)} parameters in one tensor", 1, "state"),
        case(
            "training",
            f"a training step with all that it needs: {count(size)} parameters in 16 tensors",
            16,
            "training",
            tuple(
                Target(f"{row}, share of the arithmetic", Scaled(row, 1 / (form.bytes * size), max), at_most=1.05)
                for adapter in (OURS, "adamas.torch", "adamas.keras")
                for row, form in rows(adapter, MOMENTS | WEIGHTS).items()
            ),
            ours=OURS,
        ),
    ]
