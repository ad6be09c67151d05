"""One op for the whole run, built into a folder of its own: the tests leave nothing in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from adamas.kernels.tensorflow import op


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What XDG_CACHE_HOME must be for another process to use the same built op."""
    home = tmp_path_factory.mktemp("cache")
    op.load(cache=home / "adamas")
    return home


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Seeded by the test's name, so that a test's numbers do not depend on which tests ran before."""
    return np.random.default_rng(list(request.node.nodeid.encode()))
