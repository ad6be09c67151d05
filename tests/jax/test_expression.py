"""The array expression: the bits of the reference without fused multiply-adds, within the bound with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax
import jax.numpy as jnp
from cases import CASES, IDS, Case
from support import bounds, stepping
from support.problems import discriminating
from support.twins import Result

from adamas import jax as ours
from adamas.errors import KernelError
from adamas.jax.states import FIELDS
from adamas.kernels import reference

HERE = Path(__file__).parent


@pytest.mark.parametrize("x64", [False, True], ids=["", "x64"])
def test_equal_where_there_is_no_fused_multiply_add(x64: bool) -> None:
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path]),
    }
    answer = subprocess.run(
        [sys.executable, str(HERE / "expression_equal.py"), *(["--x64"] if x64 else [])],
        env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:] + answer.stdout[-500:]
    assert answer.stdout.split() == ["equal", "3" if x64 else "12"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_within_the_bound_of_rounding(case: Case, dtype: type[np.floating]) -> None:
    """With fused multiply-adds, which round less often than the bound counts."""
    p, gradients = discriminating(dtype)
    optimizer = case.ours(**case.arguments, kernel="xla")
    params = jnp.array(p, copy=True)
    state = optimizer.init(params)
    for g in gradients:
        params, state = optimizer.step(params, jnp.asarray(g), state)
    right = stepping.run(reference.Plan, case.rule, case.hyper, p, gradients)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    given = Result(np.asarray(params), tuple(np.asarray(getattr(state, FIELDS[s.name])) for s in case.rule.slots))
    assert bounds.excess(given, right, room.plus(1, room)) <= 1.0  # both round


def test_without_a_compiler_it_serves_and_says_why(tmp_path: Path) -> None:
    code = """
import logging, jax.numpy as jnp
from adamas.errors import KernelError
from adamas.jax import adam
optimizer = adam(0.1)
print(optimizer.kernel)
params, _ = optimizer.step(jnp.ones(3), jnp.ones(3), optimizer.init(jnp.ones(3)))
print([round(p, 6) for p in params.tolist()])
try:
    adam(0.1, kernel="native")
except KernelError as error:
    print(error)
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": "/bin/false"}
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    kernel, params, refused = answer.stdout.splitlines()
    assert kernel.startswith("xla: array expression, because ")
    assert "/bin/false" in kernel
    assert params == "[0.9, 0.9, 0.9]"
    assert refused.startswith("kernel='native' cannot serve: ")


def test_large_trees_are_updated_by_it_and_stepped_natively() -> None:
    """4 M parameters with float32 moments: no call of ours is in the compiled update; with kernel="native" there is."""
    params = jax.ShapeDtypeStruct((2**22,), jnp.float32)
    for arguments, native in (({}, False), ({"kernel": "native"}, True), ({"moments": "int8"}, True)):
        optimizer = ours.adam(1e-3, **arguments)  # type: ignore[arg-type]
        state = jax.eval_shape(lambda o=optimizer: o.init(jnp.zeros(2**22, jnp.float32)))
        assert ("adamas_step" in jax.jit(optimizer.update).lower(params, state).as_text()) is native
    small = jax.eval_shape(lambda: optimizer.init(jnp.zeros(10, jnp.float32)))
    assert (
        "adamas_step"
        in jax.jit(ours.adam(1e-3).update).lower(jax.ShapeDtypeStruct((10,), jnp.float32), small).as_text()
    )


def test_asked_for_natively_it_is_an_error_where_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adamas.kernels.jax.op.why_not", lambda: "of a test")
    with pytest.raises(KernelError, match="cannot serve: of a test"):
        ours.adam(0.1, kernel="native")
    assert "of a test" in ours.adam(0.1).kernel
