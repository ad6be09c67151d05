"""The examples in the docstrings give what they show, as they do in a process of their own: without float64."""

from __future__ import annotations

import doctest
import importlib

import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax


@pytest.mark.parametrize("name", ["family", "optax_state", "optimizer", "schedule_free"])
def test_examples(name: str) -> None:
    with jax.enable_x64(False):
        failed, tried = doctest.testmod(importlib.import_module(f"adamas.jax.{name}"))
    assert failed == 0
    assert tried > 0
