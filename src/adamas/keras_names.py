"""The names of what an optimizer for Keras steps, the same on every backend; no framework is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adamas.errors import StateError


def check_applied(optimizer: Any) -> None:
    """Nothing if no gradients wait in an optimizer of Keras.

    Raises:
        StateError: it accumulates gradients, and some have not been applied.
    """
    steps = optimizer.gradient_accumulation_steps
    if steps and int(optimizer._iterations) % steps:
        raise StateError(
            f"the optimizer has gradients of {int(optimizer._iterations) % steps} of {steps} steps, which no other "
            "takes over; save after a step that was applied"
        )


def distinct_names(variables: Sequence[Any], before: Sequence[str] = ()) -> list[str]:
    """The names of variables, made distinct in their order and from those of the variables `before` them."""
    names = list(before)
    for variable in variables:
        name = str(getattr(variable, "path", None) or variable.name).removesuffix(":0")
        taken = sum(1 for other in names if other == name or other.startswith(f"{name}#"))
        names.append(f"{name}#{taken}" if taken else name)
    return names[len(before) :]


def rounding_names(names: Sequence[str]) -> list[str]:
    """Names as they key random numbers: without what all of them begin with.

    Keras puts a Sequential model's own name there, and leaves it out of the same model read from a file.
    """
    parts = [name.split("/") for name in names]
    common = 0
    while parts and all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return ["/".join(part[common:]) for part in parts]
