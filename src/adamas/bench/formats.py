"""Our rows: how weights and moments are stored in each, and what arithmetic says it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from adamas.storage import SMALLEST


@dataclass(frozen=True)
class Format:
    """One way to store weights and moments.

    weights   the dtype of parameters and gradients
    bytes     for each parameter: of weights, gradients, moments and what is kept for the weights, together
    settings  arguments of `adamas.numpy.Adam` and `adamas.torch.Adam`
    """

    weights: str
    bytes: float
    settings: dict[str, Any] = field(default_factory=dict)


# A step alone, as the peers' are: without the check for gradients that are not finite, which int8 has by default.
ALONE = {"nonfinite": "propagate"}
MOMENTS = {
    "": Format("float32", 4 + 4 + 8),
    ", bfloat16 moments": Format("float32", 4 + 4 + 4, {"moments": "bfloat16"}),
    ", int8 moments": Format("float32", 4 + 4 + 2.125, {"moments": "int8", **ALONE}),
}
WEIGHTS = {
    ", stochastic bfloat16 weights, int8 moments": Format(
        "bfloat16", 2 + 2 + 2.125, {"weights": "stochastic", "moments": "int8", **ALONE}
    ),
    ", split bfloat16 weights, int8 moments": Format(
        "bfloat16", 2 + 2 + 3.125, {"weights": "split", "moments": "int8", **ALONE}
    ),
}


def rows(adapter: str, found: dict[str, Format], largest: int = SMALLEST) -> dict[str, Format]:
    """Their names with an adapter; the first one alone where all of them would store the largest tensor like it."""
    return {adapter + suffix: form for suffix, form in found.items() if largest >= SMALLEST or not suffix}


def largest(shapes: list[list[int]]) -> int:
    """Elements of the largest tensor."""
    return max(map(math.prod, shapes))


OURS = "adamas.numpy"
BFLOAT16 = f"{OURS}, bfloat16 moments"
INT8 = f"{OURS}, int8 moments"
FORMATS = rows(OURS, MOMENTS | WEIGHTS)
