"""The fused step: donation, no second compilation, what it refuses, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax
import jax.numpy as jnp
import optax
from cases import CASES, Reference, gradients, numbers, to_jax

from adamas import jax as ours
from adamas.errors import ArgumentError, ArrayError, UnsupportedError


def compiled(optimizer: ours.Optimizer) -> int:
    return optimizer._compiled._cache_size()


@pytest.mark.parametrize("packed", [False, True], ids=["leaves", "packed"])
def test_buffers_are_taken_over(packed: bool) -> None:
    """The same memory before and after, and the old arrays are gone; gradients stay."""
    optimizer = ours.adamw(0.1)
    params, grads = jnp.ones(5000), jnp.ones(5000)
    state: Any = optimizer.init(params)
    state = optimizer.pack(state, params) if packed else state
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state)) if leaf.size > 1]
    new, after = optimizer.step(params, grads, state)
    assert before == [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((new, after)) if leaf.size > 1]
    assert params.is_deleted()
    assert not grads.is_deleted()


def test_nothing_compiles_again_and_learning_rates_are_exact() -> None:
    rng = np.random.default_rng(0)
    start, case = numbers(rng, "float32"), CASES[1]
    optimizer, right = case.ours(**case.arguments), Reference(case.rule, case.hyper, start)
    params = to_jax(start)
    state = optimizer.init(params)
    for rate, own in zip((0.02, 0.1, 1e-3, 0.02), gradients(rng, "float32", 4), strict=True):
        right.hyper = case.hyper.__class__(**{**vars(case.hyper), "lr": rate})
        right.step(own)
        params, state = optimizer.step(params, to_jax(own), state, learning_rate=rate)
        assert compiled(optimizer) == 1
    assert right.differences(params, state) == []
    for rate in (0.1, 0.2):
        params, state = optimizer.step(params, to_jax(own), state, learning_rate=jnp.float32(rate))
    assert compiled(optimizer) == 2  # one more for a rate that is an array, whatever it is


def test_a_schedule_and_a_rate_in_its_place() -> None:
    with jax.enable_x64(False):
        optimizer = ours.adam(lambda count: 0.1 / (1 + count))
        params, state = optimizer.step(jnp.ones(3), jnp.ones(3), optimizer.init(jnp.ones(3)))
        np.testing.assert_allclose(params, 0.9, rtol=1e-6)
        params, state = optimizer.step(params, jnp.ones(3), state)
        np.testing.assert_allclose(params, 0.85, rtol=1e-6)
        params, state = optimizer.step(params, jnp.ones(3), state, learning_rate=0.5)
        np.testing.assert_allclose(params, 0.35, rtol=1e-5)
        constant = ours.adamw(lambda count: 0.5, weight_decay=lambda count: 0.0)
        params, _ = constant.step(params, jnp.ones(3), constant.init(params))
        np.testing.assert_allclose(params, -0.15, rtol=1e-5)


@pytest.mark.parametrize("rate", [jnp.float32(1e-3), np.array(1e-3), lambda count: 1e-3], ids=str)
def test_a_rate_in_the_place_of_an_array(rate: Any) -> None:
    optimizer, params = ours.adam(rate), jnp.ones(2)
    stepped, _ = optimizer.step(params, jnp.ones(2), optimizer.init(params), learning_rate=0.5)
    np.testing.assert_allclose(stepped, 0.5, rtol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_a_state_of_another_format_shape_or_formula_is_refused_before_anything_is_taken(packed: bool) -> None:
    optimizer, params, grads = ours.adam(0.1), jnp.ones((100, 60), "float32"), jnp.ones((100, 60), "float32")
    others = [
        (ours.adam(0.1, moments="bfloat16"), params),
        (ours.adam(0.1, moments="int8"), params),
        (ours.adam(0.1), jnp.ones((100, 59), "float32")),
    ]
    if not packed:
        others += [(ours.adam(0.1), jnp.ones((60, 100), "float32")), (ours.schedule_free_adamw(0.1), params)]
    for other, of in others:
        state = other.init(of)
        state = other.pack(state, of) if packed else state
        with pytest.raises(ArrayError, match="state"):
            optimizer.step(params, grads, state)
        assert not params.is_deleted()
        assert not any(array.is_deleted() for array in jax.tree.leaves(state))


def test_inside_another_jit_and_then_outside() -> None:
    optimizer = ours.adam(0.1)

    @jax.jit
    def twice(params: Any, state: Any) -> Any:
        params, state = optimizer.step(params, params, state)
        return optimizer.step(params, params, state)

    params, state = twice(jnp.ones(4), optimizer.init(jnp.ones(4)))
    params, state = optimizer.step(params, jnp.ones(4), state)  # nothing of the trace was kept
    assert int(state.count) == 3


def test_an_empty_tree_masked_nodes_and_none() -> None:
    optimizer = ours.adamw(0.1, moments="int8")
    assert optimizer.step({}, {}, optimizer.init({}))[0] == {}
    assert optimizer.update([], optimizer.init([]), [])[0] == []
    two = jnp.ones(2, jnp.float32)
    tree = {"a": two, "b": None, "c": optax.MaskedNode()}
    grown, state = optimizer.step(tree, {**tree, "a": two + 1}, optimizer.init(tree))
    assert grown["b"] is None
    assert grown["c"] == optax.MaskedNode()
    assert int(state.count) == 1
    updates, _ = optimizer.update(grown, state, grown)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.ones(2, jnp.complex64), "'deep/x' is complex64: float32, float64, bfloat16, float16 are served"),
        (jnp.ones(2, jnp.int32), "'deep/x' is int32"),
        (jnp.ones(2, jnp.float8_e4m3fn), "'deep/x' is float8_e4m3fn"),
        (1.0, "'deep/x' is a float, not an array"),
    ],
)
def test_other_leaves_are_refused_by_name(leaf: Any, message: str) -> None:
    optimizer = ours.adam(0.1)
    with pytest.raises(UnsupportedError, match="parameter " + message):
        optimizer.init({"deep": {"x": leaf}})
    good = {"deep": {"x": jnp.ones(2)}}
    state = optimizer.init(good)
    with pytest.raises(UnsupportedError, match="the gradient of " + message):
        optimizer.update({"deep": {"x": leaf}}, state, good)
    if not isinstance(leaf, float):
        with pytest.raises(UnsupportedError, match="the gradient of " + message):
            optimizer.step(good, {"deep": {"x": leaf}}, state)
    assert not good["deep"]["x"].is_deleted()  # refused before anything was donated


def test_trees_and_shapes_that_do_not_fit_are_refused() -> None:
    optimizer = ours.adamw(0.1)
    params = {"a": jnp.ones(2), "b": jnp.ones(3, jnp.float32)}
    state = optimizer.init(params)
    with pytest.raises(ArrayError, match="the gradients are no tree like the parameters"):
        optimizer.step(params, {"a": jnp.ones(2)}, state)
    with pytest.raises(ArrayError, match=r"'b' is float32\[3\] and its gradient float32\[2\]"):
        optimizer.step(params, {"a": jnp.ones(2), "b": jnp.ones(2, jnp.float32)}, state)
    with pytest.raises(ArrayError, match="'b': its moments have the shape"):
        optimizer.update({"a": jnp.ones(2), "b": jnp.ones(2)}, state, params)
    with pytest.raises(ArgumentError, match="needs the parameters"):
        optimizer.update(params, state)
    assert not params["a"].is_deleted()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ours.adam(-1.0), ArgumentError, "lr=-1.0"),
        (lambda: ours.adam(0.1, b1=1.0), ArgumentError, "beta1=1.0"),
        (lambda: ours.adam(None), ArgumentError, "lr=None"),
        (lambda: ours.adam(0.1, b1=lambda count: 0.9), ArgumentError, "only learning_rate and weight_decay"),
        (lambda: ours.adam(0.1, mu_dtype="bfloat16"), UnsupportedError, "moments='bfloat16'"),
        (lambda: ours.adam(0.1, seed=-1), ArgumentError, "seed=-1"),
        (lambda: ours.adam(0.1, kernel="fast"), ArgumentError, "kernel='fast'"),
        (lambda: ours.adam(0.1, nonfinite="raise"), ArgumentError, "cannot raise"),
        (lambda: ours.adam(0.1, like="torch"), ArgumentError, "like='torch'"),
        (lambda: ours.adam(0.1, like="keras", nesterov=True), ArgumentError, "schedule of its own"),
        (lambda: ours.adam(0.1, moments="int4").init(jnp.ones(2)), ArgumentError, "moments='int4'"),
        (lambda: ours.adam(0.1, weights="split").init(jnp.ones(2)), ArgumentError, "weights='split' is for"),
        (lambda: ours.adam(0.1, moments="int8").init(np.ones(2)), ArgumentError, "float64"),
        (lambda: ours.adam(jnp.ones(2)).update(jnp.ones(2), ours.adam(1.0).init(jnp.ones(2))), ArgumentError, "scalar"),
        (lambda: ours.amsgrad(0.1, bias_correction_nu=False), UnsupportedError, "optax.amsgrad does that"),
        (lambda: ours.radam(0.1, threshold=4.0), UnsupportedError, "threshold=4.0"),
        (lambda: ours.radam(0.1, nesterov=True), UnsupportedError, "nesterov=True"),
        (lambda: ours.schedule_free_adamw(b1=0.0), ArgumentError, "b1=0.0"),
        (lambda: ours.schedule_free_adamw(weight_lr_power=0.5), ArgumentError, "weight_lr_power=0.5"),
        (lambda: ours.schedule_free_adamw(state_dtype="bfloat16"), UnsupportedError, "state_dtype=bfloat16"),
        (lambda: ours.adamw(0.1, mask=1.0).step(jnp.ones(2), jnp.ones(2), ours.adamw(0.1).init(jnp.ones(2))),
         ArgumentError, "tree of bools"),
        (lambda: ours.schedule_free_eval_params(ours.adam(0.1).init(jnp.ones(2)), jnp.ones(2)), ArgumentError,
         "unpack"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_like_keras_puts_eps_where_keras_does() -> None:
    """At the first step Keras' eps acts like one 31.6 times as large: u = 1 / (1 + eps / sqrt(1 - b2))."""
    params = jnp.ones(1)
    for like, eps in (("optax", 0.01), ("keras", 0.01 / np.sqrt(1 - 0.999))):
        optimizer = ours.adam(1.0, eps=0.01, like=like)
        updates, _ = optimizer.update(params, optimizer.init(params))
        np.testing.assert_allclose(updates, -1 / (1 + eps), rtol=1e-6)


def test_parameters_of_sixteen_bits_have_moments_in_float32_and_updates_of_their_own() -> None:
    for dtype in (jnp.bfloat16, jnp.float16):
        params = jnp.ones(3, dtype)
        optimizer = ours.adamw(0.1)
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert state.mu.dtype == state.nu.dtype == jnp.float32
        assert updates.dtype == dtype
        wide = jnp.ones(3, jnp.float32)
        updates, _ = optimizer.update(params, optimizer.init(wide), wide)
        assert updates.dtype == jnp.float32


def test_evaluation_weights_are_optaxs() -> None:
    optimizer = ours.schedule_free_adamw(0.1)
    params = {"p": jnp.array([1.0, -2.0, 3.0])}
    state = optimizer.init(params)
    for _ in range(5):
        params, state = optimizer.step(params, jax.tree.map(lambda p: 2 * p, params), state)
    mine = ours.schedule_free_eval_params(state, params)
    theirs = optax.contrib.schedule_free_eval_params(state, params)
    np.testing.assert_allclose(mine["p"], theirs["p"], rtol=1e-5)
    assert not np.allclose(mine["p"], params["p"])


def test_importing_it_loads_no_other_framework() -> None:
    code = "import sys, adamas.jax; print(*{name.split('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert {"jax", "optax", "adamas"} <= loaded
    assert not loaded & {"tensorflow", "keras", "torch", "flax", "orbax", "equinox", "sklearn", "click", "rich"}


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_a_missing_framework_names_the_extra(missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from adamas.errors import MissingExtraError
try:
    import adamas.jax
except MissingExtraError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'adamas[jax]'" in answer.stdout
