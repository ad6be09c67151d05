"""Whether two models differ on the same rows by more than chance: exact where it can be, seeded where not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FLIPS = 20_000  # sign patterns drawn for the permutation test: p-values near 0.05 are good to 0.0015 (one sigma)
LEVEL = 0.05  # above it a difference is "too close to call"


@dataclass(frozen=True)
class Paired:
    """A comparison of errors row by row.

    better, worse  rows on which the first model's error is smaller, and larger
    p_value        chance of a difference at least this large, to either side, if the two models were alike
    """

    better: int
    worse: int
    p_value: float

    @property
    def clear(self) -> bool:
        """Whether chance is an unlikely reason for the difference."""
        return self.p_value <= LEVEL


def compare_labels(first: np.ndarray, second: np.ndarray) -> Paired:
    """McNemar's exact test: of the rows that one model has right and the other wrong, is the share one half?

    Args:
        first, second: [rows], 1 where a label is wrong, 0 where it is right.
    """
    better, worse = int(np.sum(first < second)), int(np.sum(first > second))
    n, k = better + worse, min(better, worse)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return Paired(better, worse, min(1.0, float(2 * tail / 2**n)) if n else 1.0)


def compare_errors(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Paired:
    """A paired permutation test of the mean difference: each row's two errors may be swapped.

    Args:
        first, second: [rows], squared errors.
        seed: of the swaps that are drawn.
    """
    difference = first - second
    random = np.random.default_rng([seed, 3])
    observed = abs(float(difference.mean()))
    reached = 0
    for _ in range(FLIPS // 1000):
        signs = random.integers(0, 2, size=(1000, len(difference)), dtype=np.int8) * 2 - 1
        means = np.abs(signs @ difference) / len(difference)
        reached += int(np.sum(means >= observed * (1 - 1e-12)))
    return Paired(int(np.sum(difference < 0)), int(np.sum(difference > 0)), (reached + 1) / (FLIPS + 1))
