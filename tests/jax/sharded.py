"""Run by test_sharded.py in a process of its own with four devices; prints "right" at its end."""

from __future__ import annotations

import jax
import numpy as np
from cases import CASES, Reference, gradients, numbers, to_jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

assert jax.device_count() == 4
ADAMW = next(case for case in CASES if case.name == "adamw")
MESH = Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
LEAVES = ("a/bias", "a/kernel", "b/2")
SPECS = {"a": {"bias": PartitionSpec(), "kernel": PartitionSpec("x", "y")}, "b": [PartitionSpec(("x", "y"))]}


def put(flat: dict[str, np.ndarray]) -> dict[str, object]:
    tree = to_jax({**flat, "c": flat["a/bias"]})
    del tree["c"]
    return jax.tree.map(lambda p, spec: jax.device_put(p, NamedSharding(MESH, spec)), tree, SPECS)


def resized(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**flat, "a/kernel": flat["a/kernel"][:32, :256].copy()}


def check(what: str, condition: bool) -> None:
    if not condition:
        raise SystemExit(what)


rng = np.random.default_rng(0)
start = resized(numbers(rng, "float32", leaves=LEAVES))
SHARDY = jax.config.jax_use_shardy_partitioner
for case in (ADAMW, CASES[-1]):
    optimizer = case.ours(**case.arguments)
    right = Reference(case.rule, case.hyper, start)
    params = put(start)
    state = optimizer.init(params)
    sharding = params["a"]["kernel"].sharding
    check("init is not sharded as the parameters", state.nu["a"]["kernel"].sharding == sharding)
    for own in gradients(rng, "float32", 3, LEAVES):
        own = resized(own)
        right.step(own)
        grads = put(own)
        text = jax.jit(optimizer.update).lower(grads, state, params).compile().as_text()
        check("the native engine serves with Shardy, and not with GSPMD", ("adamas_step" in text) is SHARDY)
        check("something is gathered", "all-gather" not in text and "all-reduce" not in text)
        params, state = optimizer.step(params, grads, state)
    if SHARDY:
        check(f"{case.name}: {right.differences(params, state)}", right.differences(params, state) == [])
    else:
        check("GSPMD", np.allclose(np.asarray(params["a"]["kernel"]), right.params[1], rtol=0, atol=1e-5))
    check("the state lost its sharding", state.nu["a"]["kernel"].sharding.is_equivalent_to(sharding, 2))

# What is rounded at random needs whole arrays: the array expression, whose random bits are those of whole arrays too.
optimizer = ADAMW.ours(**ADAMW.arguments, moments="int8")
params, own = put(start), resized(gradients(rng, "float32", 1, LEAVES)[0])
alone = to_jax({**start, "c": start["a/bias"]})
del alone["c"]
alone = jax.device_put(alone, jax.devices()[0])
given = jax.device_put(jax.tree.map(np.asarray, put(own)), jax.devices()[0])
one, kept = optimizer.step(alone, given, optimizer.init(alone))
two, sharded = optimizer.step(params, put(own), optimizer.init(params))
codes = np.asarray(kept.nu["a"]["kernel"].codes) == np.asarray(sharded.nu["a"]["kernel"].codes)
check("int8 differs where it is sharded", bool(np.mean(codes) > 0.999))
print("right")
