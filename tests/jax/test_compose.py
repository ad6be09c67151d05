"""With optax's combinators and JAX's transformations; nothing compiles twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax
import jax.numpy as jnp
import optax
from cases import CASES, IDS, Case, same
from optax import tree_utils

from adamas import jax as ours
from adamas.errors import UnsupportedError

KERNELS = ["native", "xla"]
STEPS = 6
# float64: 6 steps of fewer than 1000 operations on numbers below 8. In float32 optax's 1 - b2^t, at least 1e-3, is off
# by half an ulp of 1, which its root halves; a step is at most 0.05; and 100 roundings.
ROOM = {"float64": STEPS * 1000 * 8 * 2.0**-53, "float32": STEPS * 0.05 * 2.0**-24 / 1e-3 + 100 * 8 * 2.0**-24}


def start(dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"layer": {"bias": (5,), "kernel": (70, 65)}, "scale": (3,)}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), dtype), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def steps(like: Any, count: int = STEPS) -> list[Any]:
    """Gradients of that many steps."""
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), like) for _ in range(count)]


def train(transform: Any, dtype: str) -> Any:
    """The parameters after some steps in one compiled function."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = start(dtype)
    state = transform.init(params)
    for grads in steps(params):
        params, state = step(params, state, grads)
    assert step._cache_size() == 1
    return params


def alike(one: Any, other: Any, dtype: str) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=ROOM[dtype])


def _large(tree: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, tree)


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "alone": lambda make: make(0.02),
    "mask": lambda make: make(0.02, weight_decay=0.5, mask=_large),
    "upper part of a mask": lambda make: make(0.02, weight_decay=0.5, mask={"layer": True, "scale": False}),
    "chain": lambda make: optax.chain(optax.clip_by_global_norm(0.5), make(0.02), optax.scale(0.5)),
    "schedule": lambda make: make(optax.linear_schedule(0.05, 0.0, 5)),
    "schedule of decay": lambda make: make(0.02, weight_decay=optax.linear_schedule(0.5, 0.0, 5)),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(make)(0.02, b1=0.75, eps=2.0**-10, weight_decay=0.5),
    "injected schedule": lambda make: optax.inject_hyperparams(make)(optax.linear_schedule(0.05, 0.0, 5)),
    "masked": lambda make: optax.masked(make(0.02), {"layer": {"bias": False, "kernel": True}, "scale": False}),
    "multi_transform": lambda make: optax.multi_transform(
        {"slow": make(0.002), "fast": make(0.05, b1=0.5), "none": optax.set_to_zero()},
        {"layer": {"bias": "slow", "kernel": "fast"}, "scale": "none"},
    ),
    "MultiSteps": lambda make: optax.MultiSteps(make(0.02), 3),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(0.02), 3),
}


@pytest.mark.parametrize(("dtype", "kernel"), [("float32", "native"), ("float64", "native"), ("float64", "xla")])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_with_optaxs_combinators(wrapper: str, dtype: str, kernel: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        own = train(WRAPPED[wrapper](functools.partial(ours.adamw, kernel=kernel)), dtype)
        alike(own, train(WRAPPED[wrapper](optax.adamw), dtype), dtype)


@pytest.mark.parametrize("wrapper", ["inject_hyperparams", "chain", "masked", "MultiSteps"])
def test_int8_with_optaxs_combinators(wrapper: str) -> None:
    """It trains, near enough to float32: the step is off by a few steps of the codes, 1/8 of what is smallest."""
    with jax.enable_x64(False):
        make = WRAPPED[wrapper]
        own, plain = (train(make(functools.partial(ours.adamw, moments=m)), "float32") for m in ("int8", "float32"))
        difference = np.abs(np.asarray(own["layer"]["kernel"] - plain["layer"]["kernel"]))
        assert 0 < np.median(difference) < 0.02
        assert same(own["layer"]["bias"], np.asarray(plain["layer"]["bias"]))


def test_names_are_found_by_optaxs_tree_functions() -> None:
    optimizer = optax.chain(optax.clip(1.0), ours.adamw(0.1))
    params = start("float32")
    _, state = optimizer.update(steps(params, 1)[0], optimizer.init(params), params)
    assert int(tree_utils.tree_get(state, "count")) == 1
    assert jax.tree.structure(tree_utils.tree_get(state, "mu")) == jax.tree.structure(params)
    changed = tree_utils.tree_set(state, count=jnp.int32(7))
    assert int(tree_utils.tree_get(changed, "count")) == 7


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", [CASES[1], CASES[-1]], ids=[IDS[1], IDS[-1]])
def test_in_a_scan(case: Case, kernel: str) -> None:
    """A loop compiled whole gives what single steps give."""
    with jax.enable_x64(False):
        optimizer = case.ours(**case.arguments, kernel=kernel)
        params = start("float32")
        every = steps(params)

        def body(carry: Any, grads: Any) -> tuple[Any, None]:
            return optimizer.step(carry[0], grads, carry[1]), None

        stacked = jax.tree.map(lambda *each: jnp.stack(each), *every)
        (scanned, last), _ = jax.jit(lambda p, s, g: jax.lax.scan(body, (p, s), g))(
            params, optimizer.init(params), stacked
        )
        single, state = start("float32"), optimizer.init(start("float32"))
        for grads in every:
            single, state = optimizer.step(single, grads, state)
        for one, other in zip(jax.tree.leaves((scanned, last)), jax.tree.leaves((single, state)), strict=True):
            if kernel == "native":
                assert same(one, np.asarray(other))
            else:
                np.testing.assert_allclose(one, other, rtol=0, atol=ROOM["float32"])


@pytest.mark.parametrize("moments", ["float32", "int8"])
@pytest.mark.parametrize("case", [CASES[1], CASES[-1]], ids=[IDS[1], IDS[-1]])
def test_vmap_is_each_member_by_itself(case: Case, moments: str) -> None:
    """Under vmap the array expression serves: two members, with learning rates and counts of their own."""
    with jax.enable_x64(False):
        members = [start("float32"), jax.tree.map(lambda p: -2 * p, start("float32"))]
        grads = steps(members[0], 2)
        rates = jnp.array([0.02, 0.01])

        def one(params: Any, g: Any, rate: Any) -> Any:
            optimizer = case.ours(**{**case.arguments, "learning_rate": rate}, moments=moments)
            state = optimizer.init(params)
            for _ in range(2):
                updates, state = optimizer.update(g, state, params)
                params = optax.apply_updates(params, updates)
            return params

        stack = functools.partial(jax.tree.map, lambda *each: jnp.stack(each))
        together = jax.jit(jax.vmap(one))(stack(*members), stack(*grads), rates)
        for k in range(2):
            alone = jax.jit(one)(members[k], grads[k], rates[k])
            for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
                close = np.isclose(a[k], b, rtol=0, atol=ROOM["float32"])
                # in int8 a last bit can tip a code to its neighbour
                assert close.all() if moments == "float32" else np.mean(close) > 0.99


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["adam", "schedule_free_adamw"])
def test_derivatives_through_a_step_are_optaxs(name: str, kernel: str) -> None:
    """Of a loss after two steps, by the first parameters and the learning rate, as in learning to learn."""
    with jax.enable_x64(True):
        target = start("float64")

        def after(make: Any, params: Any, rate: Any) -> Any:
            optimizer = make(rate)
            state = optimizer.init(params)
            for _ in range(2):
                grads = jax.tree.map(lambda p, t: (p - t) ** 3, params, target)
                updates, state = optimizer.update(grads, state, params)
                params = optax.apply_updates(params, updates)
            return sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

        begin = jax.tree.map(lambda p: p + 1, target)
        theirs = optax.adam if name == "adam" else optax.contrib.schedule_free_adamw
        mine = functools.partial(getattr(ours, name), kernel=kernel)
        own, right = (
            jax.grad(functools.partial(after, make), argnums=(0, 1))(begin, jnp.float64(0.02))
            for make in (mine, theirs)
        )
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_schedule_sees_the_steps_before() -> None:
    seen: list[int] = []
    optimizer = ours.adam(lambda count: jax.pure_callback(_note(seen), jax.ShapeDtypeStruct((), np.float32), count))
    params = {"p": jnp.ones(3)}
    state = optimizer.init(params)
    for _ in range(3):
        params, state = optimizer.step(params, {"p": jnp.ones(3)}, state)
    jax.block_until_ready(params)
    assert seen == [0, 1, 2]


def _note(seen: list[int]) -> Callable[[Any], np.float32]:
    def callback(count: Any) -> np.float32:
        seen.append(int(count))
        return np.float32(0.1)

    return callback


def test_what_update_cannot_do_names_step() -> None:
    params = {"p": jnp.ones(5000, jnp.bfloat16)}
    for weights in ("stochastic", "split"):
        optimizer = ours.adamw(0.1, weights=weights)  # type: ignore[arg-type]
        state = optimizer.init(params)
        with pytest.raises(UnsupportedError, match=r"'p'.*optimizer\.step\(params, grads, state\)"):
            optimizer.update(params, state, params)
        packed = ours.adam(0.1)
        with pytest.raises(UnsupportedError, match="unpack"):
            packed.update(params, packed.pack(packed.init(params), params), params)
