"""How torch's tensors are looked at: the three ways there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(params=["python", "dlpack", "built"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """By Python, by DLPack's exchange, and by what is built against the installed torch (15 s, once)."""
    from adamas.kernels import cpu
    from adamas.kernels.torch import build
    from adamas.torch import stepper, watch

    if request.param == "python":
        for module in (watch, stepper):
            monkeypatch.setattr(module, "READS", False)
    if request.param == "built":
        build.use(build.build())
    else:
        cpu.use_torch(None)
    yield request.param
    built = build.existing()
    if built is None:
        cpu.use_torch(None)
    else:
        build.use(built)
