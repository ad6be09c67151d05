"""The order of examples is a pure function of the number of rows, the seed and the epoch."""

from __future__ import annotations

import numpy as np
import pytest

from adamas.errors import ArgumentError
from adamas.train.loop.order import epoch_order


@pytest.mark.parametrize("rows", [0, 1, 2, 31, 32, 33, 4097])
def test_it_is_a_permutation(rows: int) -> None:
    order = epoch_order(rows, seed=5, epoch=2)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_it_never_changes() -> None:
    # Written down on the day it was defined: a run must be repeatable with every later version of NumPy.
    assert epoch_order(12, seed=0, epoch=0).tolist() == [11, 3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9]
    assert epoch_order(12, seed=1, epoch=7).tolist() == [7, 9, 5, 3, 0, 6, 1, 2, 10, 8, 11, 4]


def test_it_is_the_naive_sort_by_key() -> None:
    keys = np.random.PCG64(np.random.SeedSequence([3, 4])).random_raw(1000)
    naive = sorted(range(1000), key=lambda row: (int(keys[row]) >> 10, row))
    assert epoch_order(1000, seed=3, epoch=4).tolist() == naive


def test_seeds_and_epochs_give_orders_that_differ() -> None:
    orders = {tuple(epoch_order(20, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_row_comes_to_every_place() -> None:
    places = np.array([np.argsort(epoch_order(8, 0, epoch)) for epoch in range(4000)])
    counts = np.array([np.bincount(places[:, row], minlength=8) for row in range(8)])
    # Binomial(4000, 1/8): mean 500, standard deviation 21; 64 counts within five of them
    assert np.abs(counts - 500).max() < 5 * 21


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (3, -1, 0), (3, 0, -1), (3.0, 0, 0), (3, True, 0), (3, None, 0)])
def test_what_is_no_count_is_refused(arguments: tuple) -> None:
    with pytest.raises(ArgumentError, match="integer of at least 0"):
        epoch_order(*arguments)
