"""When two ways to train are alike: the interval of their difference, against a margin that was fixed before.

For seeds i = 1 ... n, a_i is float32's final loss and b_i the other's, from the same first weights and the same
batches. With d_i = b_i - a_i and Student's t for n - 1 degrees of freedom,

    spread    s = standard deviation of a_i (n - 1 in the denominator)
    margin    s / 2
    interval  mean(d) -+ t(0.975) std(d) / sqrt(n)                        95%, paired
    alike     the whole interval lies inside -margin ... +margin

This is a test of equivalence: noise widens the interval and makes it fail, so too few seeds never help. An interval
that reaches beyond the margin but overlaps it says "not shown", one that lies outside altogether "different".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from adamas.errors import ArgumentError

CONFIDENCE = 0.95
SHARE = 0.5  # of the spread: the margin


@dataclass(frozen=True)
class Comparison:
    """One storage against float32, in units of the loss.

    spread          of float32's final loss over the seeds
    mean, low, high difference to float32, and its 95% interval; NaN where a training diverged
    """

    spread: float
    mean: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """What the interval must lie inside of."""
        return SHARE * self.spread

    @property
    def verdict(self) -> Literal["alike", "not shown", "different"]:
        """Whether the training is as good as float32's: "alike", or not by these seeds, or not."""
        if -self.margin <= self.low and self.high <= self.margin:
            return "alike"
        if self.low <= self.margin and self.high >= -self.margin:
            return "not shown"
        return "different"  # and where a training diverged


def compare(baseline: np.ndarray, other: np.ndarray) -> Comparison:
    """Compare final losses, seed by seed.

    Args:
        baseline, other: [seeds], float64; the same seeds in the same order.

    Raises:
        ArgumentError: fewer than two seeds, not the same number, or a baseline that diverged.
    """
    if baseline.shape != other.shape or baseline.ndim != 1 or len(baseline) < 2:
        raise ArgumentError(
            f"losses of shapes {baseline.shape} and {other.shape}: give one for each of the same seeds, 2 or more"
        )
    if not np.isfinite(baseline).all():
        raise ArgumentError(f"the losses to compare with are not finite: {baseline}; lower the learning rate")
    spread, count = float(baseline.std(ddof=1)), len(baseline)
    if not np.isfinite(other).all():
        return Comparison(spread, math.nan, math.nan, math.nan)
    difference = other - baseline
    mean = float(difference.mean())
    t = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    half = t * float(difference.std(ddof=1)) / count**0.5
    return Comparison(spread, mean, mean - half, mean + half)
