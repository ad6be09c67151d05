"""adamas.numpy: what torch users expect of it, containers, missing gradients, dtypes, state, and nothing half done."""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.stepping import same_bits

import adamas
from adamas import gradients, kernels, state
from adamas.errors import ArgumentError, ArrayError, StateError, UnsupportedError
from adamas.kernels import cpu
from adamas.numpy import Adam, AdamW, adam, adamax, adopt, lamb, nadam, radam, schedule_free, stable
from adamas.rule import Hyper, Rule

OPTIMIZERS = pytest.mark.parametrize("kind", [Adam, AdamW])


def problem(
    seed: int = 0, dtype: type[np.floating] = np.float32
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = {"layer/w": (7, 5), "layer/b": (5,), "scale": (), "none": (0, 3)}
    draw = {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    return draw, {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def snapshot(optimizer: Adam, params: Any) -> list[np.ndarray]:
    values = params.values() if isinstance(params, dict) else params
    slots = [a for entry in optimizer.state_dict()["state"].values() for a in map(np.asarray, entry.values())]
    return [*(p.copy() for p in values), *slots]


def unchanged(optimizer: Adam, params: Any, before: list[np.ndarray]) -> bool:
    return all(np.array_equal(now, then) for now, then in zip(snapshot(optimizer, params), before, strict=True))


@pytest.mark.parametrize(
    "module",
    [adam, adamax, adopt, gradients, lamb, nadam, radam, schedule_free, stable, state.contents, state.file],
    ids=lambda m: m.__name__,
)
def test_examples(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("kind", "settings", "rule", "hyper"),
    [
        (Adam, {}, Rule(decay="coupled"), Hyper(1e-3, 0.9, 0.999, 1e-8, 0, 0)),
        (AdamW, {}, Rule(), Hyper(1e-3, 0.9, 0.999, 1e-8, 0, 1e-2)),
        (Adam, {"like": "keras"}, Rule("keras"), Hyper(1e-3, 0.9, 0.999, 1e-7, 0, 0)),
        (AdamW, {"like": "keras", "amsgrad": True}, Rule("keras", amsgrad="raw"), Hyper(eps=1e-7, weight_decay=4e-3)),
        (Adam, {"like": "optax", "amsgrad": True}, Rule(amsgrad="corrected"), Hyper()),
        (AdamW, {"like": "optax", "eps_root": 0.1}, Rule(), Hyper(eps_root=0.1, weight_decay=1e-4)),
        (AdamW, {"eps": 0, "weight_decay": 0, "maximize": True}, Rule(maximize=True), Hyper(eps=0, weight_decay=0)),
    ],
)
def test_settings(kind: type[Adam], settings: dict[str, Any], rule: Rule, hyper: Hyper) -> None:
    optimizer = kind([np.zeros(2)], **settings)
    assert (optimizer.rule, optimizer.hyper) == (rule, hyper)
    assert optimizer.kernel == str(kernels.choose())
    assert str(rule) in repr(optimizer)


def test_the_order_of_arguments_is_torchs() -> None:
    names = ["params", "lr", "betas", "eps", "weight_decay", "amsgrad"]
    assert list(inspect.signature(Adam).parameters)[:6] == names
    assert inspect.signature(AdamW) == inspect.signature(Adam)


@OPTIMIZERS
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "lr=-1"),
        ({"betas": (0.9, 1.0)}, "beta2=1.0"),
        ({"betas": 0.9}, "betas=0.9: give two numbers"),
        ({"betas": (0.9, 0.99, 0.999)}, "betas"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"amsgrad": "raw"}, "amsgrad='raw'"),
        ({"maximize": 2}, "maximize=2"),
        ({"like": "tensorflow"}, "like='tensorflow': give one of 'torch', 'keras', 'optax'"),
        ({"eps_root": 1e-3}, "only like='optax' takes it"),
        ({"eps_root": -1e-3, "like": "optax"}, "eps_root=-0.001"),
    ],
)
def test_illegal_settings(kind: type[Adam], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        kind([np.zeros(2)], **settings)


def test_optax_adam_has_no_decay() -> None:
    with pytest.raises(ArgumentError, match="use AdamW"):
        Adam([np.zeros(2)], like="optax", weight_decay=0.1)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ArgumentError, "empty"),
        ({}, ArgumentError, "empty"),
        (np.zeros((3, 2)), ArgumentError, "params is a ndarray; give a list or a dict"),
        (iter([np.zeros(2)]), ArgumentError, "give a list or a dict"),
        ({1: np.zeros(2)}, ArgumentError, "named by strings; 1 is not one"),
        ([np.zeros(2), None], ArrayError, "tensor '1': the parameter is a NoneType"),
        ({"w": [1.0]}, ArrayError, "tensor 'w': the parameter is a list"),
        ({"w": np.zeros(2, int)}, ArrayError, "tensor 'w': the parameter has dtype int64"),
        ({"w": np.zeros(2, np.complex64)}, ArrayError, "a step takes float32"),
    ],
)
def test_illegal_parameters(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Adam(params)


@OPTIMIZERS
def test_a_list_a_tuple_and_a_dict_are_the_same(kind: type[Adam]) -> None:
    results = []
    for container in (dict, list, tuple):
        params, grads = problem()
        own = params if container is dict else container(params.values())
        optimizer = kind(own, lr=0.01)
        for _ in range(3):
            optimizer.step(grads if container is dict else container(grads.values()))  # type: ignore[arg-type]
        results.append(list(params.values()))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert not np.array_equal(results[0][0], problem()[0]["layer/w"])


def test_gradients_of_zero_dimensional_parameters_may_be_numbers() -> None:
    params, grads = problem()
    grads["scale"] = np.float32(0.5)  # type: ignore[assignment]
    before = params["scale"].copy()
    Adam(params, lr=0.25, eps=0).step(grads)
    np.testing.assert_allclose(params["scale"], before - np.float32(0.25), rtol=1e-6)
    with pytest.raises(ArrayError, match="tensor '0': the gradient has dtype float64"):
        Adam([np.zeros((), np.float32)]).step([np.float64(1.0)])  # type: ignore[list-item]


def test_a_parameter_without_a_gradient_does_not_advance() -> None:
    """As in torch: its step count stays, so its next bias correction is that of its own first step."""
    params, grads = problem()
    optimizer = Adam(params, lr=0.01)
    late = params["layer/w"].copy()
    for missing in ({"layer/w": None}, {}):
        given = {name: g for name, g in grads.items() if name != "layer/w"} | missing
        optimizer.step(given)
        assert np.array_equal(params["layer/w"], late)
    optimizer.step(grads)
    steps = {name: entry["step"] for name, entry in optimizer.state_dict()["state"].items()}
    assert steps == {"layer/w": 1, "layer/b": 3, "scale": 3, "none": 3}
    Adam([late], lr=0.01).step([grads["layer/w"]])
    assert same_bits(params["layer/w"], late)
    before = snapshot(optimizer, params)
    optimizer.step({})
    optimizer.step(dict.fromkeys(grads))
    assert unchanged(optimizer, params, before)
    as_list = Adam(list(params.values()))
    as_list.step([None, *list(grads.values())[1:]])
    assert as_list.state_dict()["state"]["0"]["step"] == 0


@pytest.mark.parametrize("as_list", [False, True])
def test_wrong_gradients_change_nothing(as_list: bool) -> None:
    params, grads = problem()
    own: Any = list(params.values()) if as_list else params
    optimizer = Adam(own, lr=0.1)
    optimizer.step(list(grads.values()) if as_list else grads)
    before = snapshot(optimizer, own)
    good = list(grads.values())
    cases: list[tuple[Any, str]] = [
        ([good[0].T.copy(), *good[1:]], "tensor '0': the gradient has shape"),
        (good[:-1], "3 gradients for 4 parameters"),
        (grads, "give a list of gradients, not a dict"),
        (good[0], "give a list of gradients, not a ndarray"),
        ([*good[:-1], good[-1].astype(np.float64)], "tensor '3': the gradient has dtype float64"),
    ]
    if not as_list:
        cases = [
            ({**grads, "layer/w": good[0].T.copy()}, "tensor 'layer/w': the gradient has shape"),
            ({**grads, "layer/x": good[0]}, r"unknown parameters \['layer/x'\]; known are \['layer/w'"),
            ({"layer/x": good[0]}, "unknown"),
            ({**grads, "layer/w": None, "x": None}, "unknown"),
            (good, "give a dict of gradients, not a list"),
            ({**grads, "scale": 1.0}, "tensor 'scale': the gradient is a float"),
        ]
    for given, message in cases:
        with pytest.raises((ArrayError, ArgumentError), match=message):
            optimizer.step(given)
        assert unchanged(optimizer, own, before)
    for bad in (0, -1.0, float("nan"), "1", True):
        with pytest.raises(ArgumentError, match="max_norm"):
            optimizer.step(good if as_list else grads, max_norm=bad)  # type: ignore[arg-type]
    assert unchanged(optimizer, own, before)


def test_a_replaced_parameter_is_noticed() -> None:
    params, grads = problem()
    optimizer = Adam(params)
    old = params["layer/b"]
    params["layer/b"] = params["layer/b"] - 1
    with pytest.raises(ArrayError, match=r"'layer/b' was replaced.*params\['layer/b'\]\[...\] = value"):
        optimizer.step(grads)
    del params["layer/b"]
    with pytest.raises(ArrayError, match="'layer/b' was removed"):
        optimizer.step(grads)
    params["layer/b"] = old  # back, in another order
    optimizer.step(grads)
    params["new"] = np.zeros(2, np.float32)
    with pytest.raises(ArrayError, match="'new' was added"):
        optimizer.step(grads)
    as_list = [np.zeros(2), np.zeros(2)]
    optimizer = Adam(as_list)
    as_list[1] = as_list[1] + 1
    with pytest.raises(ArrayError, match=r"tensor '1' was replaced.*params\[1\]\[...\]"):
        optimizer.step([np.zeros(2), np.zeros(2)])
    as_list.pop()
    with pytest.raises(ArrayError, match="'1' was removed"):
        optimizer.step([np.zeros(2), np.zeros(2)])


def test_parameters_must_not_share_memory() -> None:
    whole = np.zeros(8)
    with pytest.raises(ArrayError, match=r"'1'.*shares memory with the parameter of '0'"):
        Adam([whole[:5], whole[3:]])
    with pytest.raises(ArrayError, match="shares memory"):
        Adam([whole, whole.view(np.float32)])  # of two dtypes
    with pytest.raises(ArrayError, match=r"pass a copy of the gradient, g.copy\(\)"):
        Adam([whole]).step([whole])


def test_both_dtypes_in_one_optimizer() -> None:
    rng = np.random.default_rng(4)
    dtypes = [np.float32, np.float64, np.float64, np.float32]
    params = [rng.standard_normal(9).astype(d) for d in dtypes]
    grads = [rng.standard_normal(9).astype(d) for d in dtypes]
    alone = [p.copy() for p in params]
    optimizer = Adam(params, lr=0.1)
    for _ in range(2):
        optimizer.step(grads)
    for p, g in zip(alone, grads, strict=True):
        single = Adam([p], lr=0.1)
        for _ in range(2):
            single.step([g])
    assert all(same_bits(a, b) for a, b in zip(params, alone, strict=True))
    before = snapshot(optimizer, params)
    with pytest.raises(ArrayError, match="tensor '2'"):
        optimizer.step([*grads[:2], grads[2].astype(np.float32), grads[3]])
    assert unchanged(optimizer, params, before), "the float32 plan must not have stepped either"

    exact = float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads)))
    clipped, scaled = [p.copy() for p in params], [p.copy() for p in params]
    norm = Adam(clipped, lr=0.1).step(grads, max_norm=0.5)
    assert norm == pytest.approx(exact, rel=1e-14)
    Adam(scaled, lr=0.1).step([g * g.dtype.type(0.5 / (norm + 1e-6)) for g in grads])
    for a, b in zip(clipped, scaled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert Adam(clipped, lr=0.1).step(grads, max_norm=100.0) == norm
    grads[0][3] = np.nan  # of one dtype, and a NaN norm makes all gradients NaN, as in torch
    assert np.isnan(Adam(clipped, lr=0.1).step(grads, max_norm=0.5) or 0.0)
    assert all(np.isnan(p).all() for p in clipped)


def test_clipping_multiplies_the_gradients() -> None:
    """With betas of 0 the moments are the clipped gradient and its square."""
    params, grads = problem(dtype=np.float64)
    optimizer = Adam(params, betas=(0.0, 0.0))
    norm = optimizer.step(grads, max_norm=0.1)
    assert norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in grads.values())), rel=1e-14)
    factor = 0.1 / (norm + 1e-6)
    for name, entry in optimizer.state_dict()["state"].items():
        np.testing.assert_allclose(entry["m"], grads[name] * factor, rtol=1e-14)
    assert optimizer.step(grads) is None
    assert optimizer.step(grads, max_norm=1e9) == norm
    np.testing.assert_allclose(optimizer.state_dict()["state"]["layer/w"]["m"], grads["layer/w"], rtol=1e-14)


def test_the_learning_rate_can_change() -> None:
    p = np.zeros(1)
    optimizer = Adam([p], lr=0.5, eps=0)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    optimizer.step([np.ones(1)])
    assert optimizer.lr == 0.25
    assert p[0] == pytest.approx(-0.25, rel=1e-12)
    with pytest.raises(ArgumentError, match="lr=-1"):
        optimizer.lr = -1
    assert optimizer.lr == 0.25


def test_it_cannot_be_copied_by_accident() -> None:
    optimizer = Adam([np.zeros(2)])
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UnsupportedError, match="keep state_dict"):
            attempt(optimizer)


@OPTIMIZERS
@pytest.mark.parametrize("amsgrad", [False, True])
def test_state_dict_goes_on_exactly(kind: type[Adam], amsgrad: bool) -> None:
    params, grads = problem()
    optimizer = kind(params, lr=0.05, amsgrad=amsgrad)
    optimizer.step(grads)
    optimizer.step({**grads, "layer/w": None})
    optimizer.lr = 0.03
    saved, frozen = optimizer.state_dict(), {name: p.copy() for name, p in params.items()}
    assert list(saved["state"]["layer/w"]) == [
        *("step", "group", "rounding_name", "m", "v"),
        *(["vmax"] if amsgrad else []),
    ]
    optimizer.step(grads)
    other = kind(frozen, amsgrad=amsgrad)
    other.load_state_dict(saved)
    assert other.hyper == Hyper(0.03, weight_decay=other.hyper.weight_decay)
    other.step(grads)
    assert all(same_bits(params[name], frozen[name]) for name in params)
    saved["state"]["layer/w"]["m"][...] = 1e9
    other.step(grads)
    optimizer.step(grads)
    assert all(same_bits(params[name], frozen[name]) for name in params), "a state_dict holds copies"


def test_a_wrong_state_dict_changes_nothing() -> None:
    params, grads = problem()
    optimizer = Adam(params)
    optimizer.step(grads)
    before, hyper = snapshot(optimizer, params), optimizer.hyper

    def altered(**parts: Any) -> dict[str, Any]:
        return {**copy.deepcopy(optimizer.state_dict()), **parts}

    whole = optimizer.state_dict()["state"]
    w = whole["layer/w"]
    other_names = {("x" if name == "scale" else name): entry for name, entry in whole.items()}
    cases: list[tuple[Any, str]] = [
        ({}, "keys"),
        (None, "not a state_dict"),
        (altered(extra=1), "keys"),
        (altered(rule={"eps_mode": "x"}), "eps_mode='x'"),
        (altered(rule={"maximize": True}), "rule.maximize: the state has True, the optimizer False"),
        (altered(seed=-1), "seed=-1"),
        (altered(hypers=[{"lr": -1}]), "lr=-1"),
        (altered(hypers=[{"beta3": 0.5}]), "beta3"),
        (altered(state=other_names), r"scale: not in the state\n.*x: not in the optimizer"),
        (altered(state={**whole, "layer/w": {**w, "m": w["m"].T}}), "differ in shape"),
        (altered(state={**whole, "layer/w": {**w, "m": w["m"].T, "v": w["v"].T}}), r"has shape \(5, 7\)"),
        (altered(state={**whole, "layer/w": {**w, "m": 1.0}}), "slot m must be an array or int8 blocks, not a float"),
        (altered(state={**whole, "layer/w": {**w, "step": -1}}), "step -1"),
        (altered(state={**whole, "layer/w": {key: w[key] for key in w if key != "step"}}), "step"),
        (altered(state={**whole, "layer/w": {key: w[key] for key in w if key != "m"}}), r"its slots are \['v'\]"),
        (
            altered(state={**whole, "layer/w": {**w, **{k: w[k].astype(float) for k in "mv"}}}),
            "float64",
        ),
    ]
    for given, message in cases:
        with pytest.raises(StateError, match=message):
            optimizer.load_state_dict(given)
        assert unchanged(optimizer, params, before)
        assert optimizer.hyper == hyper


def test_the_reference_kernel_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for reason in (None, "of the test"):
        if reason:
            monkeypatch.setattr(cpu, "why_not", lambda: "of the test")
        params, grads = problem()
        optimizer = AdamW(params, lr=0.01, amsgrad=True)
        assert optimizer.kernel.startswith("reference" if reason else "cpu")
        for _ in range(3):
            optimizer.step(grads, max_norm=1.0)
        results.append(snapshot(optimizer, params))
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_it_is_public() -> None:
    assert adamas.numpy.Adam is Adam
    assert adamas.numpy.check_gradients is gradients.check_gradients
