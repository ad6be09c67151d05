"""Shared by every folder: `tests/` is on the import path, so tests say `from support import ...`."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("adamas", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("adamas")
