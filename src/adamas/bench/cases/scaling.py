"""What a step costs from 10 to 10,000 tensors, and from 1 K to 1 G parameters."""

from __future__ import annotations

from adamas.bench.case import Case
from adamas.bench.cases.step import FUSED, OPTAX, count
from adamas.bench.formats import MOMENTS, OURS
from adamas.bench.formats import rows as formats_of

FRAMEWORKS = ("numpy", "tensorflow", "torch", "jax")
ROWS_OF = "step"
TENSORS = (10, 100, 1_000, 10_000)  # of 1000 parameters each
PARAMETERS = tuple(2**n for n in range(10, 31, 2))  # in one tensor
ONE_BY_ONE = 2**27  # from this size on, a row at a time is in memory
FLOAT32 = 17  # bytes for each parameter: p, g, m, v, and a little


def cases(scale: float) -> list[Case]:
    return [_tensors(tensors, scale) for tensors in TENSORS] + [_parameters(size, scale) for size in PARAMETERS]


def _tensors(full: int, scale: float) -> Case:
    number = max(1, round(full * scale))
    rows = (OURS, "adamas.torch", "adamas.keras eager", FUSED, "torch Adam foreach", "ResourceApplyAdam eager")
    return Case(
        f"tensors-{full}",
        f"{number:,}",
        {"shapes": [[1000]] * number},
        "ms",
        lambda seconds: 1e3 * seconds,
        OURS,
        rows=(*rows, OPTAX) if full <= 1000 else rows,  # XLA compiles 10,000 tensors for minutes
        parameters=1000 * number,
        group="A step of many tensors of 1000, by their number",
    )


def _parameters(full: int, scale: float) -> Case:
    size = max(1, round(full * scale))
    large = full >= ONE_BY_ONE
    rows = ("limit", *formats_of(OURS, MOMENTS, size), "adamas.torch", FUSED)
    return Case(
        f"parameters-{full}",
        count(size),
        {"shapes": [[size]]},
        "ns a parameter",
        lambda seconds: 1e9 * seconds / size,
        OURS,
        rows=rows if large else (*rows, OPTAX),
        parameters=size,
        needs=FLOAT32 * size * (1 if large else len(rows) + 1),
        large=large,
        group="A step of one tensor, by its parameters",
    )
