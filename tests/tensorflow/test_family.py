"""Nadam, Adamax, RAdam, ADOPT: the bits of the reference, Keras' numbers, files both ways, lazy rows."""

from __future__ import annotations

import inspect
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import keras
import lazy
import numpy as np
import pytest
import tensorflow as tf
from reference import gradients, tensors

import adamas.keras
from adamas import state
from adamas.errors import ArgumentError, KernelError, StateError, UnsupportedError
from adamas.kernels import reference
from adamas.rule import PRESETS, Rule
from adamas.storage import choose, fresh
from adamas.tensorflow import ADOPT, Adam, Adamax, Lamb, Nadam, RAdam

RULES = {
    Nadam: Rule(nesterov="scheduled"),
    Adamax: Rule("keras", infinity=True),
    Lamb: Rule(trust_ratio="without_decay"),
    RAdam: Rule("keras", rectify=True),
    ADOPT: Rule(adopt=True),
}
PEERS = {Nadam: "keras.Nadam", Adamax: "keras.Adamax", Lamb: "keras.Lamb", RAdam: "torch.RAdam", ADOPT: "adopt.ADOPT"}
SHAPES: list[tuple[int, ...]] = [(64, 65), (9,), (4097,)]
SETTINGS: dict[str, float] = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}


@pytest.mark.parametrize(
    ("mode", "moments"),
    [
        *((mode, moments) for mode in ("eager", "function", "loop") for moments in ("float32", "int8")),
        ("jit", "float32"),
    ],
)
@pytest.mark.parametrize("kind", RULES)
def test_the_bits_of_the_reference(kind: Any, mode: str, moments: Any, rng: np.random.Generator) -> None:
    """Three steps, six in a loop in a graph; inside XLA two steps, and to rounding."""
    rule, hyper = RULES[kind], PRESETS[PEERS[kind]].hyper
    hyper = replace(hyper, lr=float(np.float32(0.02)), beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1)
    params = tensors(rng, SHAPES)
    variables = [tf.Variable(p, name=f"v{i}") for i, p in enumerate(params)]
    optimizer = kind(**SETTINGS, weight_decay=0.1, moments=moments)
    optimizer.build(variables)
    plans, slots = [], []
    for i, p in enumerate(params):
        how = choose(rule, p.dtype, p.size, moments)
        slots.append(list(fresh(rule, how, p).values()))
        plans.append(reference.Plan(rule, [f"v{i}"], [p], [[s] for s in slots[i]], formats=how.formats))
    carries = [np.array([[carry.initial for carry in rule.carries]]) for _ in plans]

    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, variables)

    @tf.function
    def loop(grads: list[Any]) -> None:
        for _ in tf.range(2):
            optimizer.apply(grads, variables)

    run = {"eager": step, "loop": loop}.get(mode) or tf.function(step, jit_compile=mode == "jit")
    t = 0
    for _ in range(2 if mode == "jit" else 3):
        grads = gradients(rng, SHAPES)
        run([tf.constant(g) for g in grads])
        for _ in range(2 if mode == "loop" else 1):
            t += 1
            for plan, g, carry in zip(plans, grads, carries, strict=True):
                plan.step([g], np.array([t]), np.array([astuple(hyper)]), carry=carry)
    assert int(optimizer.iterations) == t
    if rule.carries:
        product = np.float64(optimizer.variables[-1])
        assert product == pytest.approx(carries[0][0, 0], rel=0 if mode != "jit" else 1e-15)
    for variable, p in zip(variables, params, strict=True):
        if mode == "jit":
            np.testing.assert_allclose(variable.numpy(), p, rtol=1e-6, atol=1e-7)
        else:
            assert variable.numpy().tobytes() == p.tobytes()


@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("kind", [Nadam, Adamax, Lamb])
def test_keras_numbers(kind: Any, mode: str, rng: np.random.Generator) -> None:
    """Keras takes powers in float32: each of its steps is off by up to some 1e-5 of itself."""
    start = tensors(rng, [(5, 7), (3,)])
    settings: dict[str, Any] = {**SETTINGS, "clipnorm": 1.0, "weight_decay": 0.1}
    optimizers = [made(**settings) for made in (kind, getattr(keras.optimizers, kind.__name__))]
    sets = [[tf.Variable(p) for p in start] for _ in optimizers]
    steps = 30
    for optimizer, variables in zip(optimizers, sets, strict=True):
        optimizer.build(variables)

    def apply(grads: list[Any], which: int) -> None:
        optimizers[which].apply(grads, sets[which])

    run = tf.function(apply, jit_compile=True) if mode == "jit" else apply
    for _ in range(steps):
        grads = [tf.constant(g) for g in tensors(rng, [(5, 7), (3,)])]
        for which in range(2):
            run(grads, which)
    for mine, theirs, first in zip(*sets, start, strict=True):
        assert np.abs(mine.numpy() - first).max() > 0.05
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-6, atol=steps * 0.02 * 3e-5)
    assert len(optimizers[0].variables) == len(optimizers[1].variables)
    for mine, theirs in zip(optimizers[0].variables[2:], optimizers[1].variables[2:], strict=True):
        assert mine.shape == theirs.shape
        if mine.shape.rank:
            assert mine.name.rpartition("_")[2] == theirs.name.rpartition("_")[2]
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=2e-5, atol=1e-6)


def model(optimizer: Any) -> Any:
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="d")], name="m")
    made.compile(optimizer=optimizer, loss="mse")
    return made


def train(made: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (np.asarray(rng.normal(size=(32, n)), np.float32) for n in (4, 1))
    made.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return numbers(made)


def numbers(made: Any) -> list[np.ndarray]:
    return [v.numpy() for v in (*made.trainable_variables, *made.optimizer.variables)]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, saving
@pytest.mark.parametrize("kind", [Nadam, Adamax, Lamb])
def test_files_go_to_keras_and_back(kind: Any, tmp_path: Path) -> None:
    """The last variable of Nadam is float32 in Keras, float64 here."""
    its = getattr(keras.optimizers, kind.__name__)
    stock = model(its(0.05))
    train(stock)
    stock.save(tmp_path / "stock.keras")
    ours = adamas.keras.load_model(tmp_path / "stock.keras")
    assert type(ours.optimizer) is kind
    assert [v.astype(np.float32).tobytes() for v in numbers(ours)[4:]] == [v.tobytes() for v in numbers(stock)[4:]]
    for mine, theirs in zip(train(ours), train(stock), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    adamas.keras.save_model(ours, tmp_path / "back.keras")
    back = keras.models.load_model(tmp_path / "back.keras")
    for theirs in (back.optimizer, ours.optimizer.to_keras()):
        assert type(theirs) is its
        assert [v.numpy().tobytes() for v in theirs.variables[1:]] == [
            v.numpy().astype(np.float32).tobytes() for v in ours.optimizer.variables[1:]
        ]


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("kind", RULES)
def test_files_and_checkpoints_of_ours_go_on_to_the_bit(kind: Any, tmp_path: Path) -> None:
    ours = model(kind(0.05, weight_decay=0.1, moments="int8", seed=3))
    train(ours)
    ours.save(tmp_path / "ours.keras")
    checkpoint = tf.train.Checkpoint(model=ours, optimizer=ours.optimizer).write(str(tmp_path / "c"))
    state.save(tmp_path / "portable", ours.optimizer)
    kept = [v.numpy() for v in ours.trainable_variables]
    right = train(ours)
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert type(loaded.optimizer) is kind
    assert loaded.optimizer.get_config() == ours.optimizer.get_config()
    restored, carried = (model(kind(0.05, weight_decay=0.1, moments="int8", seed=3)) for _ in range(2))
    for made in (restored, carried):
        made.optimizer.build(made.trainable_variables)
    tf.train.Checkpoint(model=restored, optimizer=restored.optimizer).read(checkpoint).assert_consumed()
    carried.set_weights(kept)
    carried.optimizer.load_portable_state(state.load(tmp_path / "portable"))
    for made in (loaded, restored, carried):
        assert [v.tobytes() for v in train(made)] == [v.tobytes() for v in right]


@pytest.mark.parametrize("build_first", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_checkpoints_of_keras_adamax_go_both_ways(ours: bool, build_first: bool, tmp_path: Path) -> None:
    classes: list[Any] = [keras.optimizers.Adamax, Adamax]
    source, target = classes if ours else classes[::-1]
    optimizer, restored = source(0.05), target(0.05)
    x, y = tf.Variable([1.0, 2.0]), tf.Variable([0.0, 0.0])
    for _ in range(3):
        optimizer.apply([2.0 * x], [x])
    path = tf.train.Checkpoint(optimizer=optimizer, x=x).write(str(tmp_path / "c"))
    if build_first:
        restored.build([y])
    status = tf.train.Checkpoint(optimizer=restored, x=y).read(path)
    restored.build([y])
    status.assert_consumed()
    assert y.numpy().tobytes() == x.numpy().tobytes()
    for mine, theirs in zip(restored.variables, optimizer.variables, strict=True):
        assert mine.numpy().tobytes() == theirs.numpy().tobytes()


@pytest.mark.parametrize("build_first", [True, False])
@pytest.mark.parametrize(
    ("source", "target", "match"),
    [
        (Adamax, Adam, "it keeps _m, _u, so it is no Adam"),
        (Adam, Adamax, "it does not keep _m, _u, so it is no Adamax"),
        (keras.optimizers.Adam, Adamax, "it keeps _momentums, _velocities, so it is no Adamax"),
        (RAdam, ADOPT, "it keeps _radam_m, _radam_v, so it is no ADOPT"),
        (ADOPT, Adam, "so it is no Adam"),
        (Adam, RAdam, "so it is no RAdam"),
    ],
)
def test_the_checkpoint_of_another_rule_is_refused(
    source: Any, target: Any, match: str, build_first: bool, tmp_path: Path
) -> None:
    """Their arrays have the same shapes."""
    one, other, x = source(0.05), target(0.05), tf.Variable([1.0, 2.0])
    one.apply([2.0 * x], [x])
    path = tf.train.Checkpoint(optimizer=one).write(str(tmp_path / "c"))
    if build_first:
        other.build([x])
        with pytest.raises(StateError, match=match):
            tf.train.Checkpoint(optimizer=other).read(path)
    else:
        tf.train.Checkpoint(optimizer=other).read(path)
        with pytest.raises(StateError, match=match):
            other.build([x])


@pytest.mark.parametrize(
    ("kind", "settings", "error", "match"),
    [
        (Nadam, {"amsgrad": True}, ArgumentError, r"amsgrad.*help\(Nadam\)"),
        (Nadam, {"sparse": "lazy"}, ArgumentError, "Nadam has no sparse='lazy'"),
        (Nadam, {"kernel": "resource"}, KernelError, "kernel='auto'"),
        (Adamax, {"amsgrad": True}, ArgumentError, r"amsgrad.*help\(Adamax\)"),
        (Adamax, {"kernel": "resource"}, KernelError, "kernel='auto'"),
        (Lamb, {"kernel": "resource"}, KernelError, "kernel='auto'"),
        (Lamb, {"sparse": "lazy"}, ArgumentError, "Lamb has no sparse='lazy'"),
        (RAdam, {"decoupled_weight_decay": True}, ArgumentError, r"decoupled_weight_decay.*help\(RAdam\)"),
        (RAdam, {"kernel": "resource"}, KernelError, "kernel='auto'"),
        (ADOPT, {"epsilon": -1.0}, ArgumentError, "eps=-1.0"),
        (ADOPT, {"kernel": "resource"}, KernelError, "kernel='auto'"),
    ],
)
def test_what_is_refused(kind: Any, settings: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        kind(**settings).build([tf.Variable(tf.zeros(3))])


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("kind", [RAdam, ADOPT])
def test_what_keras_has_not_is_not_written_for_it(kind: Any, tmp_path: Path) -> None:
    ours = model(kind())
    with pytest.raises(UnsupportedError, match=f"Keras has no {kind.__name__}"):
        adamas.keras.save_model(ours, tmp_path / "ours.keras")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnsupportedError, match=kind.__name__):
        ours.optimizer.to_keras()


@pytest.mark.parametrize("kind", [Nadam, Adamax, Lamb])
def test_the_arguments_and_defaults_of_keras(kind: Any) -> None:
    ours, theirs = (inspect.signature(c).parameters for c in (kind, getattr(keras.optimizers, kind.__name__)))
    wanted = [(p.name, p.default) for p in theirs.values() if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in ours.values() if p.kind is not p.VAR_KEYWORD] == wanted
    settings: dict[str, Any] = {"beta_1": 0.8, "clipnorm": 2.0, "name": "x"}
    assert kind(0.1, **settings).get_config() == getattr(keras.optimizers, kind.__name__)(0.1, **settings).get_config()


@pytest.mark.parametrize("kind", RULES)
def test_defaults_are_the_peers(kind: Any) -> None:
    optimizer, hyper = kind(), PRESETS[PEERS[kind]].hyper
    assert float(optimizer.learning_rate) == np.float32(hyper.lr)
    assert optimizer._numbers() == replace(hyper, lr=optimizer._numbers().lr)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("mode", ["eager", "function", "expression"])
@pytest.mark.parametrize("kind", [Adamax, RAdam, ADOPT])
def test_lazy_rows(kind: Any, mode: str, rng: np.random.Generator) -> None:
    """The bits of adamas.kernels.rows; of the expression, what test_rows.py allows it."""
    settings = {**SETTINGS, "weight_decay": 0.1}
    start, steps = lazy.problem(rng, "float64")
    if mode == "expression":  # two traces; XLA takes seconds for each
        steps = [grads for step, grads in zip(lazy.STEPS, steps, strict=True) if step in ("sssdd", "sdsdd")]
        steps = [lazy.with_int64(grads) for grads in steps]
    variables = [tf.Variable(p) for p in start]
    optimizer = kind(**settings, sparse="lazy", kernel="xla" if mode == "expression" else "auto")
    right = lazy.Lazy(start, rule=RULES[kind], **settings)
    optimizer.build(variables)

    def step(grads: list[Any]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    run = lazy.runner(mode if mode == "function" else "eager", step)
    for grads in steps:
        run(lazy.tensors(grads))
        right.step(grads)
    if mode != "expression":
        lazy.matches(optimizer, variables, right)
        return
    eps = float(np.finfo(np.float64).eps)
    for i, (variable, p) in enumerate(zip(variables, right.params, strict=True)):
        np.testing.assert_allclose(variable.numpy(), p, rtol=8 * eps, atol=8 * 64 * eps)
        for slot, array in zip(lazy.moments(optimizer, i), right.slots[i], strict=True):
            np.testing.assert_allclose(slot, array, rtol=64 * eps, atol=64 * eps * np.abs(array).max(initial=0.0))


def test_a_variable_that_comes_later(rng: np.random.Generator) -> None:
    """The state has the order of one build, and what the rule carries goes on."""
    first, second = (tf.Variable(p) for p in tensors(rng, [(3,), (2,)]))
    optimizer = Nadam(0.1)
    optimizer.apply([tf.ones(3)], [first])
    before = float(optimizer.variables[-1])
    optimizer.build([first, second])
    assert [tuple(v.shape) for v in optimizer.variables] == [(), (), (3,), (3,), (2,), (2,), ()]
    optimizer.apply([tf.ones(3), tf.ones(2)], [first, second])
    assert float(optimizer.variables[-1]) == pytest.approx(before * 0.9 * (1 - 0.5 * 0.96**2), rel=1e-14)


def test_an_adamax_variable_that_comes_later_is_in_the_checkpoint(tmp_path: Path) -> None:
    x, y = tf.Variable([1.0, 2.0]), tf.Variable([3.0])
    optimizer = Adamax(0.1)
    optimizer.apply([2.0 * x], [x])
    optimizer.build([x, y])
    optimizer.apply([2.0 * x, 2.0 * y], [x, y])
    path = tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / "c"))
    stock = keras.optimizers.Adamax(0.1)
    stock.build([x, y])
    tf.train.Checkpoint(optimizer=stock).read(path).assert_consumed()
    for mine, theirs in zip(optimizer.variables, stock.variables, strict=True):
        assert mine.numpy().tobytes() == theirs.numpy().tobytes()
