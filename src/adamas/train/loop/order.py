"""The order of examples in an epoch: a pure function of (number of rows, seed, epoch)."""

from __future__ import annotations

import numpy as np

from adamas.errors import ArgumentError


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 ... rows - 1, the same on every machine and with every version of NumPy.

    Row i draws a 64-bit key; the rows are sorted by key, and by i where keys are equal. The keys are the raw output of
    PCG64 seeded with `SeedSequence([seed, epoch])`: NumPy promises to keep both streams, and does not promise to keep
    `Generator.permutation`.

    Args:
        rows: number of examples, at least 0.
        seed: at least 0; another seed gives another order.
        epoch: at least 0, counted from 0; another epoch gives another order.

    Returns:
        int32 (int64 from 2^31 rows on), of shape [rows].

    Raises:
        ArgumentError: an argument is not an integer of at least 0.

    Example:
        >>> sorted(epoch_order(5, seed=0, epoch=3).tolist())
        [0, 1, 2, 3, 4]
    """
    for name, value in (("rows", rows), ("seed", seed), ("epoch", epoch)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ArgumentError(f"{name}={value!r}: give an integer of at least 0")
    keys = np.random.PCG64(np.random.SeedSequence([int(seed), int(epoch)])).random_raw(rows)
    # The low bits of each key are replaced by its row number: all keys differ, so any sorting algorithm gives the same
    # order (NumPy's differ from machine to machine in how they treat equal keys), and sorting needs no index array.
    low = np.uint64((1 << max(rows - 1, 0).bit_length()) - 1)
    keys = np.sort((keys & ~low) | np.arange(rows, dtype=np.uint64))
    return (keys & low).astype(np.int32 if rows < 2**31 else np.int64)
