"""States of Keras' own optimizers: numbers move exactly, both ways, and a training goes on in either."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from reference import DISCRIMINATING, gradients, tensors

import adamas.numpy
from adamas import state
from adamas.errors import StateError, UnsupportedError
from adamas.formats import Blocks
from adamas.keras import from_keras, to_keras

NAMES = ["dense/kernel", "dense/bias", "scale"]
SHAPES: list[tuple[int, ...]] = [(65, 70), (31,), ()]  # the first is large enough for int8
SETTINGS: dict[str, float] = {name: DISCRIMINATING[name] for name in ("learning_rate", "beta_1", "beta_2", "epsilon")}
KINDS: dict[str, tuple[str, dict[str, Any], type]] = {
    "Adam": ("Adam", {}, adamas.numpy.Adam),
    "AMSGrad": ("Adam", {"amsgrad": True, "weight_decay": 0.1}, adamas.numpy.Adam),
    "AdamW": ("AdamW", {"weight_decay": 0.1}, adamas.numpy.AdamW),
    "averaged": ("AdamW", {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.9}, adamas.numpy.AdamW),
    "Nadam": ("Nadam", {}, adamas.numpy.NAdam),
    "Adamax": ("Adamax", {"weight_decay": 0.1}, adamas.numpy.Adamax),
    "Lamb": ("Lamb", {"weight_decay": 0.1}, adamas.numpy.LAMB),
}


def theirs(kind: str, params: list[np.ndarray], dtype: str = "float32") -> tuple[Any, list[Any]]:
    """Keras' optimizer, built over variables of these values, of which one is excluded from decay."""
    name, settings, _ = KINDS[kind]
    optimizer = getattr(keras.optimizers, name)(**SETTINGS, **settings)
    variables = [keras.Variable(p, dtype=dtype, name=n.replace("/", "_")) for n, p in zip(NAMES, params, strict=True)]
    if settings.get("weight_decay"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(variables)
    return optimizer, variables


def ours(kind: str, params: list[np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
    """The NumPy optimizer of the same formula, with other numbers."""
    _, settings, cls = KINDS[kind]
    options: dict[str, Any] = {name: settings[name] for name in ("amsgrad",) if name in settings}
    if "use_ema" in settings:
        options["ema"] = settings["ema_momentum"]
    if settings.get("weight_decay"):
        options["groups"] = [adamas.numpy.Group("*bias", weight_decay=0.0)]
        options["weight_decay"] = 0.5
    copies = {name.replace("/", "_"): p.copy() for name, p in zip(NAMES, params, strict=True)}
    return cls(copies, like="keras", **options), copies


def values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(v.numpy()) for v in variables]


def both_step(
    mine: Any, params: dict[str, np.ndarray], its: Any, variables: list[Any], steps: int, rng: np.random.Generator
) -> None:
    """And stay together: Keras computes powers of beta in float32, so each of its steps is off by up to 1.1e-5."""
    path = [np.zeros(p.shape) for p in params.values()]
    for _ in range(steps):
        grads, before = gradients(rng, SHAPES), values(variables)
        its.apply(grads, variables)
        mine.step(dict(zip(params, grads, strict=True)))
        for way, old, new in zip(path, before, values(variables), strict=True):
            way += abs(new - old)
    for a, b, way in zip(params.values(), values(variables), path, strict=True):
        assert (abs(a - b) <= 1.1e-5 * way + 4 * steps * 2.0**-24 * np.maximum(abs(b), way)).all()
        assert np.median(way) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_goes_on_in_adamas(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    optimizer, variables = theirs(kind, tensors(rng, SHAPES))
    for _ in range(5):
        optimizer.apply(gradients(rng, SHAPES), variables)
    moved = from_keras(optimizer)
    assert moved.names == tuple(name.replace("/", "_") for name in NAMES)
    assert set(moved.steps.values()) == {5}
    slots = ["m", "v", *(["vmax"] if kind == "AMSGrad" else []), *(["average"] if kind == "averaged" else [])]
    assert all(list(own) == slots for own in moved.slots.values())
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    arrays = {array.tobytes() for array in map(np.asarray, store.values()) if array.shape == SHAPES[0]}
    mine = {np.asarray(moved.slots[moved.names[0]][slot]).tobytes() for slot in slots}
    assert mine == arrays
    assert len(mine) == len(slots), "no two of them are the same"

    state.save(tmp_path / "a", moved)
    goes_on, params = ours(kind, values(variables))
    state.load(tmp_path / "a", goes_on)
    assert goes_on.hyper.lr == float(np.float32(0.02))
    both_step(goes_on, params, optimizer, variables, 5, rng)
    if kind == "averaged":
        for name, average in zip(params, values(optimizer._model_variables_moving_average), strict=True):
            np.testing.assert_allclose(goes_on.average(name), average, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moments", ["float32", "int8"])
def test_and_back(kind: str, moments: Any, rng: np.random.Generator) -> None:
    """What is stored in int8 is decoded: the numbers that the next step here would compute with."""
    begun, params = ours(kind, tensors(rng, SHAPES))
    if moments == "int8":
        begun = type(begun)(params, like="keras", **_same(kind), moments="int8", nonfinite="propagate")
    for _ in range(4):
        begun.step(dict(zip(params, gradients(rng, SHAPES), strict=True)))
    optimizer, variables = theirs(kind, list(params.values()))
    own = begun.portable_state()
    assert isinstance(own.slots["dense_kernel"]["v"], Blocks) == (moments == "int8")
    to_keras(own, optimizer)
    assert int(optimizer.iterations) == 4
    assert float(optimizer.learning_rate) == np.float32(begun.hyper.lr)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-7)
    back = from_keras(optimizer)
    for name, slot in itertools.product(own.names, back.slots[own.names[0]]):
        assert np.array_equal(back.slots[name][slot], own.numbers(name, slot))
    assert back.carries == {name: tuple(np.float32(carry)) for name, carry in own.carries.items()}
    if moments == "int8":
        return
    optimizer.learning_rate = begun.lr = 0.015625
    both_step(begun, params, optimizer, variables, 4, rng)


def _same(kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {"amsgrad": True} if kind == "AMSGrad" else {}
    if kind == "averaged":
        options["ema"] = 0.9
    if KINDS[kind][1].get("weight_decay"):
        options |= {"weight_decay": 0.5, "groups": [adamas.numpy.Group("*bias", weight_decay=0.0)]}
    return options


def test_what_is_not_exact_is_refused(rng: np.random.Generator) -> None:
    start = tensors(rng, SHAPES)
    optimizer, variables = theirs("Adam", start)
    own = from_keras(optimizer)

    def refused(error: type[Exception], message: str, call: Any) -> None:
        before = values(optimizer.variables)
        with pytest.raises(error, match=message):
            call()
        assert all(np.array_equal(a, b) for a, b in zip(before, values(optimizer.variables), strict=True))

    refused(StateError, "no moments yet", lambda: from_keras(keras.optimizers.Adam()))
    refused(StateError, "no moments yet", lambda: to_keras(own, keras.optimizers.Adam()))
    refused(UnsupportedError, "keras.*SGD: give one of", lambda: from_keras(keras.optimizers.SGD()))
    half, _ = theirs("Adam", start, "bfloat16")
    refused(UnsupportedError, "dense_kernel is bfloat16", lambda: from_keras(half))
    accumulating = keras.optimizers.Adam(gradient_accumulation_steps=2)
    accumulating.build(variables)
    accumulating.apply(start, variables)
    refused(StateError, "gradients of 1 of 2 steps", lambda: from_keras(accumulating))
    accumulating.apply(start, variables)
    assert set(from_keras(accumulating).steps.values()) == {1}
    to_keras(from_keras(accumulating), optimizer)
    assert int(optimizer.iterations) == 1
    to_keras(own, accumulating)
    assert int(accumulating._iterations) == 0

    named, params = ours("Adam", start)
    state_of = named.portable_state
    refused(
        StateError, "dense_bias: not in the state", lambda: to_keras(state_of().renamed({"dense_bias": "b"}), optimizer)
    )
    torchs = adamas.numpy.Adam(params).portable_state()
    refused(StateError, "rule.eps_mode: the state has 'paper'", lambda: to_keras(torchs, optimizer))
    averaged = adamas.numpy.Adam(params, like="keras", ema=0.9).portable_state()
    refused(StateError, "holds its average", lambda: to_keras(averaged, optimizer))
    named.step({"scale": np.ones((), np.float32)})
    refused(StateError, "'scale' at step 1", lambda: to_keras(state_of(), optimizer))
    decayed = adamas.numpy.AdamW(params, like="keras", groups=[adamas.numpy.Group("scale", weight_decay=0.0)])
    refused(StateError, "exclude_from_weight_decay", lambda: to_keras(decayed.portable_state(), optimizer))
