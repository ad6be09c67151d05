"""The plain training loop of JAX with optax.adam: a compiled call a step, or an epoch. Buffers are donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adamas.bench.job import Job
from adamas.bench.tasks import CHECKED, Task, task


def peers(lazy: bool = False, **arguments: Any) -> dict[str, Callable[[], Job]]:
    if lazy:
        return {}  # optax has no lazy rows
    given = task(**arguments)
    return {
        "JAX loop, a jit call a step": lambda: _job(given, scan=False),
        "JAX loop, a scan an epoch": lambda: _job(given, scan=True),
    }


def _job(given: Task, scan: bool) -> Job:
    x, y = jnp.asarray(given.x), jnp.asarray(given.y)
    model = partial(MODELS[given.architecture], sizes=given.sizes)
    optimizer = optax.adam(given.learning_rate)

    def loss(params: Any, rows: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(model(params, x[rows]), y[rows]).mean()

    def one(carry: Any, rows: Any) -> tuple[Any, None]:
        params, state, total = carry
        value, grads = jax.value_and_grad(loss)(params, rows)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, total + value * len(rows)), None

    step = jax.jit(lambda carry, rows: one(carry, rows)[0], donate_argnums=0)

    @partial(jax.jit, donate_argnums=0)
    def epoch(carry: Any, whole: Any, rest: Any) -> Any:
        carry, _ = jax.lax.scan(one, carry, whole)
        return one(carry, rest)[0] if len(rest) else carry  # the last, partial batch

    def walk(carry: Any, order: np.ndarray) -> Any:
        if scan:
            cut = len(order) // given.batch * given.batch
            return epoch(carry, order[:cut].reshape(-1, given.batch), order[cut:])
        for start in range(0, len(order), given.batch):
            carry = step(carry, order[start : start + given.batch])
        return carry

    held: dict[str, Any] = {}
    means: list[float] = []

    def restart() -> None:
        params = [jnp.array(weight) for weight in given.weights]
        held["trained"] = (params, optimizer.init(params))

    def run(shuffle: bool = True) -> None:
        carry = held["trained"]
        for number in range(given.epochs):
            *carry, total = walk((*carry, jnp.zeros(())), given.order(number, shuffle))
            means.append(float(total) / len(x))
        held["trained"] = jax.block_until_ready(tuple(carry))

    restart()
    current = jax.jit(lambda params: loss(params, np.arange(min(CHECKED, len(x)))))

    def trial() -> tuple[float, float]:
        before = float(current(held["trained"][0]))
        run(shuffle=False)
        return before, float(current(held["trained"][0]))

    parameters = sum(weight.size for weight in held["trained"][0])
    return Job(run, restart if given.restarts else None, trial, parameters)


def _mlp(params: list[Any], h: Any, sizes: dict[str, Any]) -> Any:
    for w, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        h = jax.nn.relu(h @ w + b)
    return h @ params[-2] + params[-1]


def _embedding(params: list[Any], ids: Any, sizes: dict[str, Any]) -> Any:
    return _mlp(params[1:], params[0][ids].reshape(len(ids), -1), sizes)


def _cnn(params: list[Any], h: Any, sizes: dict[str, Any]) -> Any:
    for w, b in zip(params[:-4:2], params[1:-4:2], strict=True):
        h = jax.lax.conv_general_dilated(h, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = jax.lax.reduce_window(jax.nn.relu(h + b), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return _mlp(params[-4:], h.reshape(len(h), -1), sizes)


def _transformer(params: list[Any], tokens: Any, sizes: dict[str, Any]) -> Any:
    weights = iter(params)
    take = partial(next, weights)

    def norm(h: Any) -> Any:
        return jax.nn.standardize(h, epsilon=1e-5) * take() + take()

    x = take()[tokens]
    length = x.shape[1]
    mask = jnp.tril(jnp.ones((length, length), bool))
    for _ in range(sizes["blocks"]):
        h = norm(x)
        q, k, v = (jnp.einsum("btd,dhk->bhtk", h, take()) + take()[:, None] for _ in range(3))
        scores = jnp.einsum("bhqk,bhtk->bhqt", q, k) / np.sqrt(q.shape[-1]).astype(np.float32)
        mixed = jnp.einsum("bhqt,bhtk->bqhk", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), v)
        x = x + jnp.einsum("bqhk,hkd->bqd", mixed, take()) + take()
        h = jax.nn.gelu(norm(x) @ take() + take(), approximate=False)
        x = x + h @ take() + take()
    return norm(x) @ take() + take()


MODELS = {"mlp": _mlp, "embedding": _embedding, "cnn": _cnn, "transformer": _transformer}
