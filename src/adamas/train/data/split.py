"""Which rows train, which choose, and which judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts; no row is in two, and together they are all rows."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(rows: int, labels: np.ndarray | None, *, validation: float, test: float, seed: int) -> Split:
    """Splits rows at random, the same way for the same seed; with labels, each class in the same shares.

    Args:
        rows: how many rows there are.
        labels: [rows], one label a row, to split each class by itself; None to split all rows as one.
        validation, test: shares of the rows, above 0; together below 1. Each part gets at least one row of each class.
        seed: of the random order.
    """
    random = np.random.default_rng([seed, 1])
    groups = [np.arange(rows)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    parts: list[list[np.ndarray]] = [[], [], []]
    for group in groups:
        order = random.permutation(group)
        n_test = max(1, round(test * len(order)))
        n_validation = max(1, round(validation * len(order)))
        cuts = np.split(order, [n_test, n_test + n_validation])
        for part, cut in zip(parts, cuts, strict=True):
            part.append(cut)
    chosen, judged, rest = parts[1], parts[0], parts[2]
    return Split(
        train=random.permutation(np.concatenate(rest)),
        validation=np.sort(np.concatenate(chosen)),
        test=np.sort(np.concatenate(judged)),
    )
