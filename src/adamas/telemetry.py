"""What a step did, in a few numbers for each tensor: `optimizer.stats()` of an optimizer made with stats=True.

They are sums of squares that the step collects in the pass that it makes anyway (`kernels.reference.Plan.step` defines
them and their order), so they are the same numbers from every kernel. What to read in them is in docs/telemetry.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adamas.errors import ArgumentError

COLUMNS = 4  # sums of g^2, (p_new - p_old)^2, p_new^2; the number of second moments below eps_bound


class TensorStatistics(NamedTuple):
    """What the last step did to one tensor.

    gradient   norm of its gradient, after grad_scale and before clipping
    update     norm of the change of the weights
    weight     norm of the weights after the step
    below_eps  share of the elements whose root of the second moment is below epsilon: there the step is about
               lr m / eps, plain momentum, and no longer of a size of its own
    """

    name: str
    size: int
    gradient: float
    update: float
    weight: float
    below_eps: float

    @property
    def ratio(self) -> float:
        """update / weight: by which part of themselves the weights changed; infinite where they are 0 after it."""
        if self.weight == 0.0:
            return math.inf if self.update else 0.0
        return self.update / self.weight


@dataclass(frozen=True)
class Statistics:
    """What the last step did; `print` shows it as a table.

    step     how many steps have been taken, of the tensor with most of them
    skipped  how many were skipped because a gradient was not finite
    total    all tensors together
    tensors  the tensors that took part
    """

    step: int
    skipped: int
    total: TensorStatistics
    tensors: Sequence[TensorStatistics]

    def __getitem__(self, name: str) -> TensorStatistics:
        """Those of one tensor.

        Raises:
            ArgumentError: no tensor of that name took part.
        """
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise ArgumentError(
            f"no tensor {name!r} took part in step {self.step}; these did: {[tensor.name for tensor in self.tensors]}"
        )

    def __str__(self) -> str:
        rows = [["tensor", "gradient", "update", "weight", "update/weight", "below eps"]]
        for tensor in (*self.tensors, self.total):
            norms = (tensor.gradient, tensor.update, tensor.weight, tensor.ratio)
            rows.append([tensor.name, *(f"{norm:.3g}" for norm in norms), f"{tensor.below_eps:.1%}"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([f"step {self.step}, {self.skipped} skipped", *lines])


def of_tensor(name: str, size: int, sums: Sequence[float], grad_scale: float) -> TensorStatistics:
    """The statistics of a tensor, or of several together, from the sums that the step wrote."""
    squares, changed, weights, below = sums
    return TensorStatistics(
        name,
        size,
        abs(grad_scale) * math.sqrt(squares),
        math.sqrt(changed),
        math.sqrt(weights),
        below / size if size else 0.0,
    )


def of_step(
    step: int, skipped: int, tensors: Iterable[tuple[str, int, Sequence[float]]], grad_scale: float
) -> Statistics:
    """The statistics of a step, from (name, size, sums) of each tensor that took part, in the optimizer's order."""
    taken = list(tensors)
    total = [0.0] * COLUMNS
    for _, _, sums in taken:
        total = [a + b for a, b in zip(total, sums, strict=True)]
    return Statistics(
        step,
        skipped,
        of_tensor("total", sum(size for _, size, _ in taken), total, grad_scale),
        [of_tensor(name, size, sums, grad_scale) for name, size, sums in taken],
    )
