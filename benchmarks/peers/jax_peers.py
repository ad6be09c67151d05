"""optax.adam under jit with donated buffers; and the plain training loop, an epoch of it one compiled scan."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.digits import BATCH, digits, order


def step(shapes: list[list[int]]) -> dict[str, Callable[[], None]]:
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    grads = [jnp.asarray(0.01 * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    optimizer = optax.adam(1e-3)
    held = {"params": params, "state": optimizer.init(params)}

    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def run() -> None:
        held["params"], held["state"] = compiled(held["params"], held["state"], grads)
        jax.block_until_ready(held)

    return {"optax adam, jit, donated": run}


def fit(width: int, epochs: int) -> dict[str, Callable[[], None]]:
    x, y = (jnp.asarray(a) for a in digits())
    rng = np.random.default_rng(0)
    sizes = (64, width, width, 10)
    params = [
        (jnp.asarray(rng.uniform(-limit, limit, (n, k)), jnp.float32), jnp.zeros(k))
        for n, k in itertools.pairwise(sizes)
        for limit in [np.sqrt(6 / (n + k))]
    ]
    optimizer = optax.adam(1e-3)
    held = {"params": params, "state": optimizer.init(params)}

    def loss(params: Any, rows: Any) -> Any:
        h = x[rows]
        for w, b in params[:-1]:
            h = jax.nn.relu(h @ w + b)
        logits = h @ params[-1][0] + params[-1][1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def one(carry: tuple[Any, Any], rows: Any) -> tuple[tuple[Any, Any], Any]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, rows)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    def epoch(params: Any, state: Any, whole: Any, rest: Any) -> tuple[Any, Any]:
        carry, _ = jax.lax.scan(one, (params, state), whole)
        (params, state), _ = one(carry, rest)  # the last, partial batch
        return params, state

    compiled = jax.jit(epoch, donate_argnums=(0, 1))

    def run() -> None:
        for number in range(epochs):
            rows = order(number)
            cut = len(rows) // BATCH * BATCH
            held["params"], held["state"] = compiled(
                held["params"], held["state"], rows[:cut].reshape(-1, BATCH), rows[cut:]
            )
        jax.block_until_ready(held)

    return {"JAX loop, optax adam": run}
