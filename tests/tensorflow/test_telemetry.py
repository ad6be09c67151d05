"""What steps tell: the numbers of the NumPy adapter, in every mode; a block that gives two results."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from adamas.errors import ArgumentError, FaultError, KernelError, UnsupportedError
from adamas.numpy import Adam as NumpyAdam
from adamas.tensorflow import Adam, AdamW
from adamas.train import fit

SHAPES = {"a": (64, 65), "b": (7,), "c": (9, 500), "d": ()}


def start(rng: np.random.Generator) -> list[tf.Variable]:
    return [tf.Variable(rng.normal(size=shape).astype(np.float32), name=name) for name, shape in SHAPES.items()]


def gradients(rng: np.random.Generator) -> list[np.ndarray]:
    """Some so small that epsilon decides."""
    sizes = [1.0, 1e-9, 1e-3, 1.0]
    return [np.asarray(rng.normal(size=s) * size, np.float32) for s, size in zip(SHAPES.values(), sizes, strict=True)]


def runner(optimizer: Any, variables: list[tf.Variable], mode: str) -> Any:
    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, variables)

    if mode == "eager":
        return step
    return tf.function(step, jit_compile=mode == "jit", autograph=False)


@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
@pytest.mark.parametrize(
    "settings", [{}, {"moments": "int8", "seed": 2}, {"weight_decay": 0.1, "amsgrad": True}], ids=str
)
def test_the_numbers_of_numpy(settings: Any, mode: str, rng: np.random.Generator) -> None:
    """The same numbers; from the array expression to rounding, and in int8 only what does not hang on a few codes."""
    variables = start(rng)
    params = {name: np.array(v.numpy()) for name, v in zip(SHAPES, variables, strict=True)}
    optimizer = Adam(0.02, stats=True, nonfinite="skip", loss_scale_factor=4.0, **settings)
    other = NumpyAdam(params, lr=float(np.float32(0.02)), like="keras", stats=True, nonfinite="skip", **settings)
    optimizer.build(variables)
    run = runner(optimizer, variables, mode)
    for t in range(4):
        grads = gradients(rng)
        if t == 2:
            grads[1][0] = np.nan
        run([tf.constant(4 * g) for g in grads])
        other.step(dict(zip(SHAPES, [4 * g for g in grads], strict=True)), grad_scale=0.25)
        mine, its = optimizer.stats(), other.stats()
        assert (mine.step, mine.skipped) == (its.step, its.skipped)
        assert mine["b"].gradient == pytest.approx(its["b"].gradient)
        if mode != "jit":
            assert mine == its
            assert str(mine) == str(its)
    assert (mine.step, mine.skipped, len(mine.tensors)) == (3, 1, 4)
    for one, theirs in zip((*mine.tensors, mine.total), (*its.tensors, its.total), strict=True):
        assert one.name == theirs.name
        relative = 1e-2 if "seed" in settings else 1e-5
        assert (one.gradient, one.weight) == pytest.approx((theirs.gradient, theirs.weight), rel=relative)
        rounding = 4 * 2.0**-24 * theirs.weight  # an update is the difference of two weights that are rounded
        assert one.update == pytest.approx(theirs.update, rel=relative, abs=rounding)
        assert one.below_eps == pytest.approx(theirs.below_eps, abs=1e-2)


def test_they_are_of_the_last_step_and_of_those_who_took_part(rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = Adam(0.02, stats=True)
    run = runner(optimizer, variables[:2], "function")
    run([tf.constant(g) for g in gradients(rng)[:2]])
    optimizer.build(variables)  # the function was traced before it had room for the others
    assert [t.name for t in optimizer.stats().tensors] == ["a", "b"]
    optimizer.apply([tf.constant(g) for g in gradients(rng)], variables)
    assert [t.name for t in optimizer.stats().tensors] == list(SHAPES)
    before = optimizer.stats()["a"]
    run([tf.constant(g) for g in gradients(rng)[:2]])
    assert [t.name for t in optimizer.stats().tensors] == ["a", "b"]
    assert optimizer.stats()["a"] != before
    assert optimizer.stats().step == 3
    with pytest.raises(ArgumentError, match="no tensor 'c' took part"):
        optimizer.stats()["c"]


def test_collecting_changes_no_bit(rng: np.random.Generator) -> None:
    given, ends = start(rng), []
    all_of_them = [[tf.constant(g) for g in gradients(rng)] for _ in range(3)]
    for settings in ({}, {"stats": True}, {"verify": 1}):
        variables = [tf.Variable(v, name=name) for name, v in zip(SHAPES, given, strict=True)]
        optimizer = Adam(0.02, moments="int8", **settings)
        for grads in all_of_them:
            optimizer.apply(grads, variables)
        ends.append([v.numpy().tobytes() for v in variables])
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("settings", [{"gradient_accumulation_steps": 2}, {"use_ema": True}], ids=str)
def test_with_what_keras_does_around_a_step(settings: Any, rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = Adam(0.02, stats=True, **settings)
    optimizer.build(variables)
    run = runner(optimizer, variables, "function")
    for _ in range(2):
        run([tf.ones_like(v) for v in variables])
    told = optimizer.stats()
    assert told.step == int(optimizer.iterations)
    assert told["b"].gradient == pytest.approx(7**0.5)


@pytest.mark.parametrize("program", ["graph", "xla", "xla-loop", None])
def test_trainings(program: str | None, rng: np.random.Generator) -> None:
    """Also of `model.fit` (None). One batch of six has an infinite number in it."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.compile(AdamW(0.01, no_decay=True, nonfinite="skip", stats=True), loss="mse")
    x, y = rng.normal(size=(48, 4)).astype(np.float32), rng.normal(size=(48, 1)).astype(np.float32)
    x[20, 1] = np.inf
    options: dict[str, Any] = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False}
    if program is None:
        model.fit(x, y, **options)
    else:
        fit(model, x, y, program=program, **options)  # type: ignore[arg-type]
    told = model.optimizer.stats()
    assert (told.step, told.skipped, int(model.optimizer.iterations)) == (10, 2, 10)
    assert [t.size for t in told.tensors] == [32, 8, 8, 1]
    assert all(0.0 < t.update < 0.1 and t.gradient > 0.0 for t in told.tensors)
    weights = [np.linalg.norm(w) for w in model.get_weights()]
    assert [t.weight for t in told.tensors] == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_a_fault_is_said(mode: str) -> None:
    """A gradient that changes while it is read plays the faulty memory: a tensor over memory that a thread writes."""
    small, large = np.ones(3, np.float32), np.ones(300_000, np.float32)
    variables = [tf.Variable(np.zeros_like(g), name=name) for name, g in (("a", small), ("b", large))]
    shared = tf.experimental.dlpack.from_dlpack(large.__dlpack__())
    optimizer = Adam(verify=1, moments="int8", use_ema=True, ema_momentum=0.0)  # the averages are the weights
    run = runner(optimizer, variables, mode)
    run([tf.constant(small), shared])
    stop = threading.Event()

    def disturb() -> None:
        value = 1.0
        while not stop.is_set():
            value = -value
            large.fill(value)

    def step_until_it_is_found() -> None:
        for _ in range(2000):  # the machine may be too busy to run the other thread during any one step
            run([tf.constant(small), shared])

    thread = threading.Thread(target=disturb)
    thread.start()
    error = FaultError if mode == "eager" else tf.errors.InvalidArgumentError
    try:
        with pytest.raises(error, match=r"tensor \W*b\W*: a block of this step was computed twice"):
            step_until_it_is_found()
    finally:
        stop.set()
        thread.join()
    if mode == "eager":  # all that goes with the step has been done
        for average, variable in zip(optimizer._averages(), variables, strict=True):
            assert np.array_equal(average.numpy(), variable.numpy())
    before, steps = variables[1].numpy(), int(optimizer.iterations)
    run([tf.constant(small), shared])
    assert int(optimizer.iterations) == steps + 1
    assert not (variables[1].numpy() == before).any()


def test_what_is_refused(rng: np.random.Generator) -> None:
    variables = start(rng)
    with pytest.raises(ArgumentError, match="stats=True"):
        Adam().stats()
    with pytest.raises(ArgumentError, match="no step yet"):
        Adam(stats=True).stats()
    for settings in ({"stats": True}, {"verify": 5}):
        with pytest.raises(ArgumentError, match="sparse='lazy' with"):
            Adam(sparse="lazy", **settings)
    with pytest.raises(KernelError, match="without groups and statistics"):
        Adam(stats=True, kernel="resource").build(variables)
    with pytest.raises(KernelError, match="verify=5 needs the native kernel"):
        Adam(verify=5, kernel="xla").build(variables)
    with pytest.raises(UnsupportedError, match="verify in a function that XLA compiles"):
        runner(Adam(verify=5), variables, "jit")([tf.constant(g) for g in gradients(rng)])
