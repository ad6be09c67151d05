"""The rows of the quality table: what the weights and the moments are stored in, between steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MOMENT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1 + 4 / 64}  # int8: and one float32 scale for 64
WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


@dataclass(frozen=True)
class Storage:
    """One way to store a training.

    dtype    of weights and gradients; forward and backward pass compute in float32
    rounding how the optimizer stores a new weight: `weights=` of `adamas.numpy.Adam`
    moments  their format: `moments=` of `adamas.numpy.Adam`
    nudged   whether every first weight is the next larger float32: the least that could be
             changed, and what chance alone makes of it
    """

    key: str
    name: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    rounding: Literal["nearest", "stochastic", "split"] = "nearest"
    moments: Literal["float32", "bfloat16", "int8"] = "float32"
    nudged: bool = False

    @property
    def bytes(self) -> float:
        """Bytes a parameter, weight and moments, without the gradient."""
        correction = 1 if self.rounding == "split" else 0
        return WEIGHT_BYTES[self.dtype] + correction + 2 * MOMENT_BYTES[self.moments]


BASELINE = Storage("float32", "float32")
STORAGES = (
    BASELINE,
    Storage("nudged", "float32, first weights one bit higher", nudged=True),
    Storage("m-bfloat16", "moments bfloat16", moments="bfloat16"),
    Storage("m-int8", "moments int8", moments="int8"),
    Storage("w-stochastic", "weights bfloat16 stochastic", dtype="bfloat16", rounding="stochastic"),
    Storage("w-split", "weights bfloat16 split", dtype="bfloat16", rounding="split"),
    Storage(
        "w-stochastic+m-int8",
        "weights bfloat16 stochastic, moments int8",
        dtype="bfloat16",
        rounding="stochastic",
        moments="int8",
    ),
    Storage(
        "w-split+m-int8", "weights bfloat16 split, moments int8", dtype="bfloat16", rounding="split", moments="int8"
    ),
    Storage("w-float16", "weights float16 stochastic", dtype="float16", rounding="stochastic"),
    Storage("w-nearest", "weights bfloat16 nearest", dtype="bfloat16"),
)
