"""The portable state of adamas.tensorflow: the bits go on in NumPy and back, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import gradients, tensors

import adamas.numpy
import adamas.tensorflow as ours
from adamas import state
from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.formats import arrays
from adamas.groups import Group

SHAPES: list[tuple[int, ...]] = [(70, 65), (31,), ()]
NAMES = ["dense/kernel", "dense/bias", "dense/scale"]
LR = float(np.float32(0.02))
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # class, its settings, those of NumPy's
    "Adam": ("Adam", {}, {"like": "keras"}),
    "AdamW like torch": ("AdamW", {"like": "torch"}, {"like": "torch"}),
    "AMSGrad": ("Adam", {"amsgrad": True, "weight_decay": 0.1}, {"amsgrad": True, "like": "keras"}),
    "Nadam": ("Nadam", {}, {"like": "keras"}),
    "Adamax": ("Adamax", {}, {"like": "keras"}),
    "Adamax like torch": ("Adamax", {"like": "torch"}, {}),
    "ScheduleFreeAdamW": ("ScheduleFreeAdamW", {"warmup_steps": 4}, {}),
}
CLASSES = {
    "Adam": "Adam",
    "AdamW": "AdamW",
    "Nadam": "NAdam",
    "Adamax": "Adamax",
    "ScheduleFreeAdamW": "ScheduleFreeAdamW",
}
STORED: list[tuple[str, dict[str, Any]]] = [
    ("float32", {}),
    ("float32", {"moments": "int8"}),
    ("bfloat16", {"moments": "bfloat16", "weights": "split"}),
]


def made(
    kind: str, values: list[np.ndarray], dtype: str, names: list[str] = NAMES, **more: Any
) -> tuple[Any, list[Any]]:
    """Built over variables of these values and names."""
    name, settings, _ = KINDS[kind]
    optimizer = getattr(ours, name)(0.02, **settings, **more)
    variables = [tf.Variable(tf.cast(tf.constant(v), dtype), name=n) for n, v in zip(names, values, strict=True)]
    optimizer.build(variables)
    return optimizer, variables


def numpys(kind: str, params: dict[str, np.ndarray], **stored: Any) -> Any:
    name, settings, given = KINDS[kind]
    decay = {} if settings.get("weight_decay") is None else {"weight_decay": 0.5}
    moments = stored.get("moments", "float32")
    more = {"nonfinite": "propagate", **stored} if moments == "int8" else stored
    return getattr(adamas.numpy, CLASSES[name])(params, **given, **decay, **more)


def bits(values: Any) -> list[bytes]:
    return [np.asarray(v).tobytes() for v in values]


def held(optimizer: Any) -> list[bytes]:
    own = optimizer.portable_state()
    return [a.tobytes() for slots in own.slots.values() for stored in slots.values() for a in arrays(stored)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "stored"), STORED, ids=str)
def test_the_bits_go_on_in_numpy_and_back(
    kind: str, dtype: str, stored: dict[str, Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    """Each optimizer is made with another seed, other numbers and other names than the one before."""
    whole, variables = made(kind, tensors(rng, SHAPES), dtype, seed=9, **stored)
    draws = [[np.array(tf.cast(g, dtype).numpy()) for g in gradients(rng, SHAPES)] for _ in range(7)]

    def step(optimizer: Any, own: list[Any], t: int) -> None:
        optimizer.apply([tf.constant(g) for g in draws[t]], own)

    for t in range(3):
        step(whole, variables, t)
    state.save(tmp_path / "a", whole)
    copies = {f"n{i}": np.array(v.numpy()) for i, v in enumerate(variables)}
    numpy = numpys(kind, copies, **stored)
    read = state.load(tmp_path / "a", numpy, names=dict(zip(NAMES, copies, strict=True)))
    assert set(read.steps.values()) == {3}
    assert read.seed == 9
    assert numpy.hyper.lr == LR
    for t in (3, 4):
        step(whole, variables, t)
        numpy.step(dict(zip(copies, draws[t], strict=True)))
    state.save(tmp_path / "b", numpy)
    others = [f"other/{name}" for name in NAMES]
    back, again = made(kind, list(copies.values()), dtype, others, **stored)
    state.load(tmp_path / "b", back, names=dict(zip(copies, others, strict=True)))
    for t in (5, 6):
        step(whole, variables, t)
        step(back, again, t)
    assert bits(v.numpy() for v in again) == bits(v.numpy() for v in variables)
    assert held(back) == held(whole)
    after = back.portable_state()
    assert (after.seed, set(after.steps.values())) == (9, {7})
    assert list(after.rounding_names.values()) == ["kernel", "bias", "scale"], "without what all names begin with"
    assert back.get_config().get("seed", 0) == 9


def test_averages_and_accumulated_gradients(rng: np.random.Generator) -> None:
    optimizer, variables = made("Adam", tensors(rng, SHAPES), "float32", use_ema=True, ema_momentum=0.75)
    optimizer.apply([tf.constant(g) for g in gradients(rng, SHAPES)], variables)
    own = optimizer.portable_state()
    copies = {name: np.array(v.numpy()) for name, v in zip(NAMES, variables, strict=True)}
    numpy = adamas.numpy.Adam(copies, like="keras", ema=0.75)
    numpy.load_portable_state(own)
    assert bits(map(numpy.average, NAMES)) == bits(v.numpy() for v in optimizer._model_variables_moving_average)
    other, _ = made("Adam", tensors(rng, SHAPES), "float32", use_ema=True)
    other.load_portable_state(numpy.portable_state())
    assert held(other) == held(optimizer)
    other.load_portable_state(own.without("average"))
    assert bits(v.numpy() for v in other._model_variables_moving_average) == bits(
        v.numpy() for v in other._trainable_variables
    )
    plain, _ = made("Adam", tensors(rng, SHAPES), "float32")
    with pytest.raises(StateError, match="holds its average"):
        plain.load_portable_state(own)

    waiting, variables = made("Adam", tensors(rng, SHAPES), "float32", gradient_accumulation_steps=2)
    grads = [tf.constant(g) for g in gradients(rng, SHAPES)]
    waiting.apply(grads, variables)
    with pytest.raises(StateError, match="gradients of 1 of 2 steps"):
        waiting.portable_state()
    waiting.apply(grads, variables)
    assert set(waiting.portable_state().steps.values()) == {1}
    waiting.apply(grads, variables)
    waiting.load_portable_state(plain.portable_state())
    assert int(waiting._iterations) == 0
    assert not any(np.any(v.numpy()) for v in waiting._accumulated_gradients)


@pytest.mark.parametrize("stored", [{}, {"moments": "int8"}], ids=str)
def test_a_traced_function_holds_its_random_numbers(stored: dict[str, Any], rng: np.random.Generator) -> None:
    """Where anything is rounded, other ones are refused after tracing; the same ones never are."""
    optimizer, variables = made("Adam", tensors(rng, SHAPES), "float32", **stored)
    other, _ = made("Adam", tensors(rng, SHAPES), "float32", seed=3, **stored)
    own = optimizer.portable_state()

    @tf.function
    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, variables)

    step([tf.constant(g) for g in gradients(rng, SHAPES)])
    before = held(optimizer)
    if stored:
        with pytest.raises(StateError, match=r"traced into a tf\.function with its own"):
            optimizer.load_portable_state(other.portable_state())
        assert held(optimizer) == before
        assert optimizer.portable_state().seed == 0
    else:
        optimizer.load_portable_state(other.portable_state())
        assert optimizer.portable_state().seed == 3
    if stored:
        optimizer.load_portable_state(own)
        assert int(optimizer.iterations) == 0


def test_like_is_kept_and_is_no_word_of_keras(rng: np.random.Generator) -> None:
    optimizer, _ = made("AdamW like torch", tensors(rng, SHAPES), "float32")
    again = type(optimizer).from_config(optimizer.get_config())
    assert again._rule() == optimizer.portable_state().rule
    assert optimizer.portable_state().rule.eps_mode == "paper"
    with pytest.raises(UnsupportedError, match=r"like='torch': keras\.optimizers\.AdamW has Keras' epsilon only"):
        optimizer.to_keras()
    keras_own, _ = made("Adam", tensors(rng, SHAPES), "float32")
    with pytest.raises(StateError, match=r"rule\.eps_mode: the state has 'keras', the optimizer 'paper'"):
        optimizer.load_portable_state(keras_own.portable_state())
    for cls, like in ((ours.Nadam, "torch"), (ours.RAdam, "torch"), (ours.Adam, "optax")):
        with pytest.raises(ArgumentError, match=f"like='{like}': give one of"):
            cls(like=like)
    assert "like" not in ours.Adam().get_config()


def test_steps_that_differ_are_refused(rng: np.random.Generator) -> None:
    params = dict(zip(NAMES, tensors(rng, SHAPES), strict=True))
    numpy = adamas.numpy.Adam(params, like="keras")
    numpy.step({NAMES[1]: params[NAMES[1]].copy()})
    optimizer, _ = made("Adam", tensors(rng, SHAPES), "float32")
    before = held(optimizer)
    with pytest.raises(StateError, match=r"'dense/scale' at step 0 .*'dense/bias' at step 1"):
        optimizer.load_portable_state(numpy.portable_state())
    assert held(optimizer) == before
    assert isinstance(optimizer, keras.optimizers.Optimizer)


@pytest.mark.parametrize("patterns", [["*kernel"], []])
def test_the_decay_of_an_optimizer_whose_own_variables_are_all_spared(patterns: list[str]) -> None:
    """Only a group that inherits it shows it; where none does, it stays as it is."""
    variables = [tf.Variable(tf.ones(shape), name=name) for name, shape in (("kernel", (3, 2)), ("bias", (2,)))]
    if not patterns:
        variables = variables[1:]
    groups = [Group(pattern, lr_scale=0.5) for pattern in patterns]
    optimizer = ours.AdamW(weight_decay=0.01, groups=groups, no_decay=True)
    optimizer.apply([tf.ones_like(v) for v in variables], variables)
    kept = optimizer.portable_state()
    optimizer.load_portable_state(kept)
    assert optimizer.weight_decay == 0.01
    assert optimizer.portable_state().hypers == kept.hypers
