"""Nadam: the bits of the reference, Keras' numbers, files both ways."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import gradients, tensors

import adamas.keras
from adamas.errors import ArgumentError, KernelError
from adamas.kernels import reference
from adamas.rule import PRESETS
from adamas.storage import choose, fresh
from adamas.tensorflow import Nadam

SHAPES: list[tuple[int, ...]] = [(64, 65), (9,), (4097,)]
SETTINGS: dict[str, float] = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}


@pytest.mark.parametrize(
    ("mode", "moments"),
    [
        *((mode, moments) for mode in ("eager", "function", "loop") for moments in ("float32", "int8")),
        ("jit", "float32"),
    ],
)
def test_the_bits_of_the_reference(mode: str, moments: Any, rng: np.random.Generator) -> None:
    """Three steps, six in a loop in a graph; inside XLA one step, and to rounding."""
    rule, hyper = PRESETS["keras.Nadam"]
    hyper = replace(hyper, lr=float(np.float32(0.02)), beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1)
    params = tensors(rng, SHAPES)
    variables = [tf.Variable(p, name=f"v{i}") for i, p in enumerate(params)]
    optimizer = Nadam(**SETTINGS, weight_decay=0.1, moments=moments)
    optimizer.build(variables)
    plans, slots = [], []
    for i, p in enumerate(params):
        how = choose(rule, p.dtype, p.size, moments)
        slots.append(list(fresh(rule, how, p).values()))
        plans.append(reference.Plan(rule, [f"v{i}"], [p], [[s] for s in slots[i]], formats=how.formats))
    carries = [np.array([[1.0]]) for _ in plans]

    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, variables)

    @tf.function
    def loop(grads: list[Any]) -> None:
        for _ in tf.range(2):
            optimizer.apply(grads, variables)

    run = {"eager": step, "loop": loop}.get(mode) or tf.function(step, jit_compile=mode == "jit")
    t = 0
    for _ in range(1 if mode == "jit" else 3):
        grads = gradients(rng, SHAPES)
        run([tf.constant(g) for g in grads])
        for _ in range(2 if mode == "loop" else 1):
            t += 1
            for plan, g, carry in zip(plans, grads, carries, strict=True):
                plan.step([g], np.array([t]), np.array([astuple(hyper)]), carry=carry)
    assert int(optimizer.iterations) == t
    assert np.float64(optimizer.variables[-1]) == pytest.approx(carries[0][0, 0], rel=0 if mode != "jit" else 1e-15)
    for variable, p in zip(variables, params, strict=True):
        if mode == "jit":
            np.testing.assert_allclose(variable.numpy(), p, rtol=1e-6, atol=1e-7)
        else:
            assert variable.numpy().tobytes() == p.tobytes()


@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_keras_numbers(mode: str, rng: np.random.Generator) -> None:
    """Keras takes powers in float32: each of its steps is off by up to some 1e-5 of itself."""
    start = tensors(rng, [(5, 7), (3,)])
    optimizers = [Nadam(**SETTINGS, clipnorm=1.0), keras.optimizers.Nadam(**SETTINGS, clipnorm=1.0)]
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
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, saving
def test_files_and_checkpoints(tmp_path: Path, rng: np.random.Generator) -> None:
    x, y = (np.asarray(rng.normal(size=(32, n)), np.float32) for n in (4, 1))

    def model(optimizer: Any) -> Any:
        keras.utils.set_random_seed(1)
        made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="d")], name="m")
        made.compile(optimizer=optimizer, loss="mse")
        return made

    def train(made: Any) -> Any:
        made.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        return [v.numpy() for v in (*made.trainable_variables, *made.optimizer.variables)]

    stock = model(keras.optimizers.Nadam(0.05))
    train(stock)
    stock.save(tmp_path / "stock.keras")
    ours = adamas.keras.load_model(tmp_path / "stock.keras")
    assert type(ours.optimizer) is Nadam
    assert float(ours.optimizer.variables[-1]) == float(stock.optimizer.variables[-1])
    path = tf.train.Checkpoint(model=ours, optimizer=ours.optimizer).write(str(tmp_path / "c"))
    for mine, theirs in zip(train(ours), train(stock), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    adamas.keras.save_model(ours, tmp_path / "back.keras")
    back = keras.models.load_model(tmp_path / "back.keras")
    for theirs in (back.optimizer, ours.optimizer.to_keras()):
        assert type(theirs) is keras.optimizers.Nadam
        assert [v.numpy().tobytes() for v in theirs.variables[:-1]] == [
            v.numpy().tobytes() for v in ours.optimizer.variables[:-1]
        ]
        assert float(theirs.variables[-1]) == np.float32(float(ours.optimizer.variables[-1]))
    again = model(Nadam(0.05))
    again.optimizer.build(again.trainable_variables)
    tf.train.Checkpoint(model=again, optimizer=again.optimizer).read(path).assert_consumed()
    expected = [v.numpy() for v in (*ours.trainable_variables, *ours.optimizer.variables)]
    for mine, right in zip(train(again), expected, strict=True):
        assert mine.tobytes() == right.tobytes()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"amsgrad": True}, ArgumentError, "amsgrad.*keras.optimizers.Nadam"),
        ({"sparse": "lazy"}, ArgumentError, "Nadam has no sparse='lazy'"),
        ({"kernel": "resource"}, KernelError, "kernel='auto'"),
    ],
)
def test_what_is_refused(settings: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Nadam(**settings).build([tf.Variable(tf.zeros(3))])


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
