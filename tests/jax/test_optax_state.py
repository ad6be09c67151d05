"""States of optax's own transformations: numbers move exactly, both ways, and a training goes on in either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adamas import numpy as adamas_numpy
from adamas import state
from adamas.errors import StateError, UnsupportedError
from adamas.formats import Blocks
from adamas.rule import PRESETS, Hyper

jax = pytest.importorskip("jax", reason="JAX is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
jnp = jax.numpy

import adamas.jax  # noqa: E402
from adamas.jax.optax_state import from_optax, to_optax  # noqa: E402

NUMBERS = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
HYPER = Hyper(lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3)
SHAPES: dict[str, tuple[int, ...]] = {"dense/kernel": (65, 70), "dense/bias": (31,), "scale": ()}
# optax's transformation, the preset of its rule, NumPy's class and what it is given beside the numbers
KINDS: dict[str, tuple[Any, str, str, dict[str, Any]]] = {
    "adam": (optax.adam(0.02, **NUMBERS), "optax.adam", "Adam", {}),
    "adamw": (optax.adamw(0.02, **NUMBERS, weight_decay=0.1), "optax.adamw", "AdamW", {"weight_decay": 0.1}),
    "amsgrad": (optax.amsgrad(0.02, **NUMBERS), "optax.amsgrad", "Adam", {"amsgrad": True}),
    "nadam": (optax.nadam(0.02, **NUMBERS), "optax.nadam", "NAdam", {}),
    "adamax": (optax.adamax(0.02, **NUMBERS), "optax.adamax", "Adamax", {}),
    "radam": (optax.radam(0.02, **NUMBERS), "optax.radam", "RAdam", {}),
    "adopt": (optax.contrib.adopt(0.02, **NUMBERS), "adopt.ADOPT", "ADOPT", {}),
    "chain": (
        optax.chain(optax.scale_by_adam(**NUMBERS), optax.add_decayed_weights(0.1), optax.scale(-0.02)),
        "optax.adamw", "AdamW", {"weight_decay": 0.1},
    ),
    "injected": (optax.inject_hyperparams(optax.adamw)(0.02, **NUMBERS, weight_decay=0.1), "optax.adamw", "AdamW", {}),
    "schedule": (optax.adam(optax.linear_schedule(0.02, 0.01, 8), **NUMBERS), "optax.adam", "Adam", {}),
}  # fmt: skip
KIND = pytest.mark.parametrize("kind", KINDS)


def tree(values: dict[str, Any]) -> Any:
    return {"dense": {"kernel": values["dense/kernel"], "bias": values["dense/bias"]}, "scale": values["scale"]}


def flat(params: Any) -> dict[str, np.ndarray]:
    leaves = {**{f"dense/{name}": leaf for name, leaf in params["dense"].items()}, "scale": params["scale"]}
    return {name: np.array(leaves[name]) for name in SHAPES}


def drawn(t: int, dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(t)
    return {n: np.asarray(rng.standard_normal(s) * 10 ** rng.uniform(-3, 1), dtype) for n, s in SHAPES.items()}


def ours(kind: str, params: dict[str, np.ndarray], **more: Any) -> Any:
    _, _, cls, settings = KINDS[kind]
    like = {} if cls == "ADOPT" else {"like": "optax"}
    return getattr(adamas_numpy, cls)(params, **like, **settings, **more)


def stepped(transform: Any, opt_state: Any, params: Any, steps: range, dtype: Any) -> tuple[Any, Any]:
    for t in steps:
        updates, opt_state = transform.update(tree(drawn(t, dtype)), opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def preset(kind: str) -> tuple[Any, Hyper]:
    rule, own = PRESETS[KINDS[kind][1]]
    decay = KINDS[kind][3].get("weight_decay", 0.0)
    return rule, replace(own, lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=decay)


@KIND
def test_a_training_goes_on_in_adamas_and_back(kind: str, tmp_path: Path) -> None:
    """In float64, where the two differ by rounding alone; what is injected or scheduled is float32 in optax."""
    near = {"rtol": 1e-6, "atol": 1e-8} if kind in ("injected", "schedule") else {"rtol": 1e-11, "atol": 1e-13}
    transform, (rule, hyper) = KINDS[kind][0], preset(kind)
    params: Any = jax.tree.map(jnp.asarray, tree(drawn(0, np.float64)))
    params, opt_state = stepped(transform, transform.init(params), params, range(1, 5), np.float64)
    state.save(tmp_path / "a", from_optax(opt_state, rule, hyper))
    values = flat(params)
    mine = ours(kind, values)
    read = state.load(tmp_path / "a", mine)
    assert set(read.steps.values()) == {4}
    assert mine.hyper == (replace(hyper, weight_decay=0.1) if kind == "injected" else hyper)
    for t in range(5, 9):
        if kind == "schedule":
            mine.lr = float(optax.linear_schedule(0.02, 0.01, 8)(t - 1))
        mine.step(drawn(t, np.float64))
    params, opt_state = stepped(transform, opt_state, params, range(5, 9), np.float64)
    for name, value in flat(params).items():
        np.testing.assert_allclose(values[name], value, **near)

    back = to_optax(mine.portable_state(), transform.init(params), rule)
    assert jax.tree.structure(back) == jax.tree.structure(opt_state)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(opt_state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, **near)


@KIND
def test_float32_moves_to_the_bit(kind: str) -> None:
    transform, (rule, hyper) = KINDS[kind][0], preset(kind)
    params: Any = jax.tree.map(jnp.asarray, tree(drawn(0, np.float32)))
    params, opt_state = stepped(transform, transform.init(params), params, range(1, 4), np.float32)
    own = from_optax(opt_state, rule, hyper)
    back = to_optax(own, transform.init(params), rule)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(opt_state), strict=True):
        assert a.dtype == b.dtype
        if a.dtype == jnp.int32 or a.shape:
            assert np.array_equal(a, b)
    assert len({np.asarray(s).tobytes() for s in own.slots["dense/kernel"].values()}) == len(rule.slots)


def test_the_numbers_that_are_injected_are_carried() -> None:
    transform, rule = optax.inject_hyperparams(optax.adamw)(0.5, b2=0.75), PRESETS["optax.adamw"].rule
    params = tree(drawn(0, np.float32))
    opt_state = transform.init(params)
    own = from_optax(opt_state, rule, Hyper())
    assert own.hypers == [
        Hyper(0.5, float(np.float32(0.9)), 0.75, float(np.float32(1e-8)), 0.0, float(np.float32(1e-4)))
    ]
    changed = to_optax(replace(own, hypers=[replace(own.hypers[0], lr=0.25)]), opt_state, rule)
    assert float(changed.hyperparams["learning_rate"]) == 0.25
    two = replace(own, hypers=[own.hypers[0], Hyper()], groups={"dense/kernel": 0, "dense/bias": 1, "scale": 0})
    with pytest.raises(StateError, match="several groups of numbers, and optax injects one"):
        to_optax(two, opt_state, rule)


def test_schedules_that_are_injected_go_on_from_the_same_count() -> None:
    transform = optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1.0, 0.0, 10))
    params = jnp.ones(2)
    own = new = transform.init(params)
    for _ in range(5):
        _, own = transform.update(jnp.ones(2), own, params)
    rule, hyper = PRESETS["optax.adam"].rule, PRESETS["optax.adam"].hyper
    moved = to_optax(from_optax(own, rule, hyper), new, rule)
    np.testing.assert_array_equal(*(transform.update(jnp.ones(2), state, params)[0] for state in (own, moved)))


def test_masked_leaves_have_no_state() -> None:
    params = tree(drawn(0, np.float32))
    transform = optax.masked(optax.adam(0.1), tree({"dense/kernel": True, "dense/bias": False, "scale": True}))
    own = from_optax(transform.init(params), *PRESETS["optax.adam"])
    assert set(own.names) == {"dense/kernel", "scale"}
    back = to_optax(replace(own, steps=dict.fromkeys(own.names, 7)), transform.init(params), own.rule)
    assert int(back.inner_state[0].count) == 7


def test_what_is_stored_in_fewer_bits_is_decoded() -> None:
    params = flat(tree(drawn(0, np.float32)))
    mine = ours("adam", params, moments="int8")
    mine.step(drawn(1, np.float32))
    own = mine.portable_state()
    assert isinstance(own.slots["dense/kernel"]["v"], Blocks)
    opt_state = to_optax(own, optax.adam(0.1).init(tree(params)), own.rule)
    assert np.array_equal(opt_state[0].nu["dense"]["kernel"], own.numbers("dense/kernel", "v"))


def test_adamas_jax_goes_on_from_optax() -> None:
    """The count and the moments have the same names there, too."""
    params: Any = jax.tree.map(jnp.asarray, tree(drawn(0, np.float32)))
    transform, mine = optax.adam(0.02, **NUMBERS), adamas.jax.adam(0.02, **NUMBERS)
    params, opt_state = stepped(transform, transform.init(params), params, range(1, 4), np.float32)
    own = from_optax(opt_state, *preset("adam"))
    values = {name: p.copy() for name, p in flat(params).items()}
    numpy = ours("adam", values)
    numpy.load_portable_state(own)
    numpy.step(drawn(4, np.float32))
    begun = mine.init(params)._replace(count=opt_state[0].count, mu=opt_state[0].mu, nu=opt_state[0].nu)
    after, _ = mine.step(params, jax.tree.map(jnp.asarray, tree(drawn(4, np.float32))), begun)
    for name, value in flat(after).items():
        assert value.tobytes() == values[name].tobytes()


def test_what_does_not_fit_is_refused() -> None:
    params = tree(drawn(0, np.float32))
    adam, amsgrad = PRESETS["optax.adam"].rule, PRESETS["optax.amsgrad"].rule
    opt_state = optax.adam(0.1).init(params)
    own = from_optax(opt_state, adam, HYPER)
    both = optax.chain(optax.adam(0.1), optax.adam(0.1)).init(params)
    cases: list[tuple[type[Exception], str, Any]] = [
        (UnsupportedError, "has 0 states of Adam", lambda: from_optax(optax.sgd(0.1).init(params), adam, HYPER)),
        (UnsupportedError, "has 2 states of Adam", lambda: to_optax(own, both, adam)),
        (StateError, r"ScaleByAdamState of optax holds \['m', 'v'\]", lambda: from_optax(opt_state, amsgrad, HYPER)),
        (StateError, "mu_product", lambda: from_optax(opt_state, PRESETS["torch.NAdam"].rule, HYPER)),
        (StateError, "scale: not in the state", lambda: to_optax(own.renamed({"scale": "x"}), opt_state, adam)),
        (StateError, "rule.eps_mode", lambda: to_optax(own, opt_state, PRESETS["keras.Adam"].rule)),
        (
            StateError,
            "in int32",
            lambda: to_optax(replace(own, steps=dict.fromkeys(own.names, 2**31)), opt_state, adam),
        ),
        (
            StateError,
            "at step 1 ",
            lambda: to_optax(replace(own, steps={**own.steps, "scale": 1}), opt_state, adam),
        ),
        (
            UnsupportedError,
            "mu of 'dense/bias' is bfloat16",
            lambda: to_optax(own, optax.adam(0.1, mu_dtype=jnp.bfloat16).init(params), adam),
        ),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
    averaged = adamas_numpy.Adam(flat(params), like="optax", ema=0.9).portable_state()
    with pytest.raises(StateError, match="holds its average"):
        to_optax(averaged, opt_state, adam)
    half = from_optax(optax.adam(0.1, mu_dtype=jnp.float16).init(params), adam, HYPER)
    assert half.slots["scale"]["m"].dtype == np.float32  # type: ignore[union-attr]
