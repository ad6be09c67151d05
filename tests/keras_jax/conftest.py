"""Keras chooses its backend when it is imported; this folder runs in a process of its own, on jax."""

from __future__ import annotations

import os

import pytest

os.environ["KERAS_BACKEND"] = "jax"
pytest.register_assert_rewrite("support.keras_backends")
