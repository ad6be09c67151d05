"""optax.adam under jit with donated buffers; and the plain training loop, a compiled call a step or an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
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

    def loss(params: Any, rows: Any) -> Any:
        h = x[rows]
        for w, b in params[:-1]:
            h = jax.nn.relu(h @ w + b)
        logits = h @ params[-1][0] + params[-1][1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    @partial(jax.jit, donate_argnums=0)
    def one(carry: tuple[Any, Any], rows: Any) -> tuple[tuple[Any, Any], Any]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, rows)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    @partial(jax.jit, donate_argnums=0)
    def epoch(carry: Any, whole: Any, rest: Any) -> Any:
        carry, _ = jax.lax.scan(one, carry, whole)
        return one(carry, rest)[0]  # the last, partial batch

    carries = {name: jax.tree.map(jnp.copy, (params, optimizer.init(params))) for name in ("step", "epoch")}

    def a_step() -> None:
        carry = carries["step"]
        for number in range(epochs):
            rows = order(number)
            for start in range(0, len(rows), BATCH):
                carry, _ = one(carry, rows[start : start + BATCH])
        carries["step"] = jax.block_until_ready(carry)

    def an_epoch() -> None:
        carry = carries["epoch"]
        for number in range(epochs):
            rows = order(number)
            cut = len(rows) // BATCH * BATCH
            carry = epoch(carry, rows[:cut].reshape(-1, BATCH), rows[cut:])
        carries["epoch"] = jax.block_until_ready(carry)

    return {"JAX loop, a jit call a step": a_step, "JAX loop, a scan an epoch": an_epoch}
