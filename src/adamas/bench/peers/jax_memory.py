"""optax.adam under jit with donated buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adamas.bench.job import Job
from adamas.bench.peak import peak_of


def peers(shapes: list[list[int]], what: str) -> dict[str, Callable[[], Job]]:
    if what == "training":
        return {}  # of our formats

    def job() -> Job:
        params = [jnp.full(shape, 0.5, jnp.float32) for shape in shapes]
        grads = [jnp.full(shape, 0.01, jnp.float32) for shape in shapes]
        optimizer = optax.adam(1e-3)
        held = {"carry": (params, optimizer.init(params))}
        if what == "state":
            return Job(lambda: float(sum(leaf.nbytes for leaf in jax.tree.leaves(held["carry"][1]))))

        def update(carry: Any, grads: Any) -> Any:
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        compiled = jax.jit(update, donate_argnums=0)

        def step() -> None:
            held["carry"] = jax.block_until_ready(compiled(held["carry"], grads))

        return peak_of(step)

    return {"optax adam, jit, donated" if what == "step" else "optax adam": job}
