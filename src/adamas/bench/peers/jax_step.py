"""optax.adam under jit with donated buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adamas.bench.job import Job


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    return {"optax adam, jit, donated": lambda: _job(shapes)}


def _job(shapes: list[list[int]]) -> Job:
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    grads = [jnp.asarray(0.01 * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    optimizer = optax.adam(1e-3)
    held: dict[str, Any] = {"params": params, "state": optimizer.init(params)}

    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def run() -> None:
        held["params"], held["state"] = compiled(held["params"], held["state"], grads)
        jax.block_until_ready(held)

    return Job(
        run,
        weights=sum(param.nbytes for param in params),
        state=lambda: sum(leaf.nbytes for leaf in jax.tree.leaves(held["state"])),
    )
