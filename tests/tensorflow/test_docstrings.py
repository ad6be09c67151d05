"""The examples in the docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest


# Keras 3.15 converts tensors with a NumPy call that NumPy 2.4 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "adamas.keras.files",
        "adamas.keras.peers",
        *(
            f"adamas.tensorflow.{name}"
            for name in ("adam", "adamax", "adopt", "files", "lamb", "nadam", "radam", "schedule_free")
        ),
    ],
)
def test_examples(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert failed == 0
    assert tried > 0
