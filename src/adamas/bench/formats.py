"""Our rows for NumPy arrays: how weights and moments are stored in each, and what arithmetic says it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Format:
    """One way to store weights and moments.

    weights   the dtype of parameters and gradients
    bytes     for each parameter: of weights, gradients, moments and what is kept for the weights, together
    settings  arguments of `adamas.numpy.Adam`
    """

    weights: str
    bytes: float
    settings: dict[str, Any] = field(default_factory=dict)


OURS = "adamas.numpy"
BFLOAT16 = f"{OURS}, bfloat16 moments"
INT8 = f"{OURS}, int8 moments"
# A step alone, as the peers' are: without the check for gradients that are not finite, which int8 has by default.
ALONE = {"nonfinite": "propagate"}
FORMATS = {
    OURS: Format("float32", 4 + 4 + 8),
    BFLOAT16: Format("float32", 4 + 4 + 4, {"moments": "bfloat16"}),
    INT8: Format("float32", 4 + 4 + 2.125, {"moments": "int8", **ALONE}),
    f"{OURS}, stochastic bfloat16 weights, int8 moments": Format(
        "bfloat16", 2 + 2 + 2.125, {"weights": "stochastic", "moments": "int8", **ALONE}
    ),
    f"{OURS}, split bfloat16 weights, int8 moments": Format(
        "bfloat16", 2 + 2 + 3.125, {"weights": "split", "moments": "int8", **ALONE}
    ),
}
LEAST = 4096  # elements of a tensor from which on moments are stored in the format that is asked for
