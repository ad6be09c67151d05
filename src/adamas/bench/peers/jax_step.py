"""adamas.jax in each format, packed and as optax's update, and optax.adam, under jit with donated buffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adamas.jax
from adamas.bench.formats import MOMENTS, largest, rows
from adamas.bench.job import Job


def peers(shapes: list[list[int]]) -> dict[str, Callable[[], Job]]:
    found: dict[str, Callable[[], Job]] = {
        name: partial(_fused, shapes, packed=False, **form.settings)
        for name, form in rows("adamas.jax step", MOMENTS, largest(shapes)).items()
    }
    if len(shapes) > 1:
        found["adamas.jax step, packed"] = partial(_fused, shapes, packed=True)
    found["adamas.jax update"] = lambda: _transformation(adamas.jax.adam(1e-3), shapes)
    found["optax adam, jit, donated"] = lambda: _transformation(optax.adam(1e-3), shapes)
    return found


def _fused(shapes: list[list[int]], packed: bool, **settings: Any) -> Job:
    optimizer = adamas.jax.adam(1e-3, **settings)
    params, grads = _arrays(shapes)
    held: dict[str, Any] = {"params": params, "state": optimizer.init(params)}
    if packed:
        held["state"] = optimizer.pack(held["state"], params)

    def run() -> None:
        held["params"], held["state"] = optimizer.step(held["params"], grads, held["state"])
        jax.block_until_ready(held)

    return _job(run, held)


def _transformation(optimizer: Any, shapes: list[list[int]]) -> Job:
    params, grads = _arrays(shapes)
    held: dict[str, Any] = {"params": params, "state": optimizer.init(params)}

    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def run() -> None:
        held["params"], held["state"] = compiled(held["params"], held["state"], grads)
        jax.block_until_ready(held)

    return _job(run, held)


def _arrays(shapes: list[list[int]]) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    return params, [jnp.asarray(0.01 * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]


def _job(run: Callable[[], None], held: dict[str, Any]) -> Job:
    return Job(
        run,
        weights=sum(param.nbytes for param in held["params"]),
        state=lambda: sum(leaf.nbytes for leaf in jax.tree.leaves(held["state"])),
    )
