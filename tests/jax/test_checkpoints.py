"""orbax and flax save a state and restore it: every array, and the steps that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adamas import jax as ours

MAKES: dict[str, Any] = {
    "adamw": lambda: ours.adamw(0.1),
    "amsgrad": lambda: ours.amsgrad(0.1),
    "int8": lambda: ours.adamw(0.1, moments="int8"),
    "schedule free": lambda: ours.schedule_free_adamw(0.1, moments="bfloat16"),
    "chain": lambda: optax.chain(optax.clip(1.0), ours.adam(optax.constant_schedule(0.1))),
}


def stepped(optimizer: Any, params: Any, state: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
    return optax.apply_updates(params, updates), state


def begun(optimizer: Any) -> tuple[Any, Any]:
    params = {"a": jnp.linspace(-1, 1, 70 * 80, dtype=jnp.float32).reshape(70, 80), "b": [jnp.ones(3, jnp.float32)]}
    return stepped(optimizer, params, optimizer.init(params))


def check(optimizer: Any, kept: tuple[Any, Any], restored: tuple[Any, Any]) -> None:
    assert jax.tree.structure(kept) == jax.tree.structure(restored)
    both = (kept, restored)
    for k in range(2):
        leaves = [jax.tree.leaves(each) for each in both]
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*leaves, strict=True)), f"step {k}"
        both = tuple(stepped(optimizer, *each) for each in both)


@pytest.mark.parametrize("name", MAKES)
def test_orbax(name: str, tmp_path: Path) -> None:
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax is not installed")
    optimizer = MAKES[name]()
    kept = begun(optimizer)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", kept)
        checkpointer.wait_until_finished()
        like = jax.tree.map(orbax.utils.to_shape_dtype_struct, kept)
        check(optimizer, kept, checkpointer.restore(tmp_path / "checkpoint", like))


@pytest.mark.parametrize("name", MAKES)
def test_flax(name: str) -> None:
    serialization = pytest.importorskip("flax.serialization", reason="flax is not installed")
    optimizer = MAKES[name]()
    kept = begun(optimizer)
    check(optimizer, kept, serialization.from_bytes(kept, serialization.to_bytes(kept)))
