"""Lazy steps of rows: through files and checkpoints, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from lazy import SHAPES, Lazy, clocks, data, matches, model, moments, problem, tensor, tensors
from reference import DISCRIMINATING, same_bits

from adamas.errors import ArgumentError, ArrayError, StateError
from adamas.kernels import rows
from adamas.tensorflow import Adam, AdamW


def test_checkpoint_goes_on_exactly(rng: np.random.Generator, tmp_path: Path) -> None:
    start, steps = problem(rng, "float32")
    start, steps = start[:3], [step[:3] for step in steps if all(g is not None for g in step[:3])]
    variables = [tf.Variable(p) for p in start]
    optimizer, right = Adam(**DISCRIMINATING, sparse="lazy"), Lazy(start, **DISCRIMINATING)
    for grads in steps[:4]:
        optimizer.apply(tensors([*grads, None, None])[:3], variables)
        right.step(grads)
    path = tf.train.Checkpoint(optimizer=optimizer, variables=variables).write(str(tmp_path / "state"))
    other = [tf.Variable(p) for p in start]
    again = Adam(**DISCRIMINATING, sparse="lazy")
    again.build(other)
    tf.train.Checkpoint(optimizer=again, variables=other).read(path).assert_consumed()
    for grads in steps[4:]:
        again.apply(tensors([*grads, None, None])[:3], other)
        right.step(grads)
    matches(again, other, right)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, saving an Embedding
def test_keras_files_go_on_exactly(rng: np.random.Generator, tmp_path: Path) -> None:
    from adamas.keras import load_model

    x, y = data(rng)
    whole, half = model(), model()
    whole.fit(x, y, batch_size=32, epochs=4, shuffle=False, verbose=0)
    half.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    half.save(tmp_path / "half.keras")
    loaded = load_model(tmp_path / "half.keras")
    assert loaded.optimizer.get_config()["sparse"] == "lazy"
    loaded.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_stock_keras_goes_on(rng: np.random.Generator, tmp_path: Path) -> None:
    """From a file and in memory, with the moments that a dense optimizer would hold."""
    import adamas.keras

    x, y = data(rng)
    trained = model(weight_decay=0.01)
    trained.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    stepper_ = trained.optimizer._ready()
    raw = moments(trained.optimizer, 0)
    settled, clock = [m.copy() for m in raw], clocks(trained.optimizer)[0]
    rows.settle(trained.optimizer._numbers(), settled, clock)
    assert not same_bits(settled[0], raw[0])
    adamas.keras.save_model(trained, tmp_path / "stock.keras")
    loaded = keras.models.load_model(tmp_path / "stock.keras")
    for stock in (loaded.optimizer, trained.optimizer.to_keras()):
        assert type(stock) is keras.optimizers.Adam
        assert int(stock.iterations) == 6
        assert len(stock.variables) == 2 + 2 * len(stepper_.variables)
        for mine, right in zip(stock.variables[2:4], settled, strict=True):
            assert same_bits(mine.numpy(), right)
    assert same_bits(moments(trained.optimizer, 0)[0], raw[0])
    loaded.fit(x, y, batch_size=32, verbose=0)


def test_settled_moments_for_others(rng: np.random.Generator) -> None:
    """portable_state and stock Keras get what a dense optimizer would hold, and the optimizer itself is unchanged."""
    start, steps = problem(rng, "float32")
    start = start[:1]
    variable = tf.Variable(start[0])
    optimizer, right = Adam(0.1, amsgrad=True, sparse="lazy"), Lazy(start, 0.1, amsgrad=True)
    for grads in steps[:3]:
        optimizer.apply([tensor(grads[0], SHAPES[0])], [variable])
        right.step(grads[:1])
    state = optimizer.portable_state()
    matches(optimizer, [variable], right)
    assert (right.seen[0][:-1] != right.seen[0][-1]).any()
    rows.settle(right.hyper, right.slots[0], right.seen[0])
    (name,) = state.names
    for slot, array in zip(state.slots[name].values(), right.slots[0], strict=True):
        assert same_bits(slot, array)
    optimizer.load_portable_state(state)
    matches(optimizer, [variable], right)
    optimizer.apply([tensor(steps[4][0], SHAPES[0])], [variable])
    right.step(steps[4][:1])
    matches(optimizer, [variable], right)


def test_a_state_without_clocks(rng: np.random.Generator) -> None:
    """Of sparse="dense", or of Keras' own optimizer: every row is up to date. The other way round it is refused."""
    variable = tf.Variable(tf.ones((4, 2)))
    dense, lazy = Adam(0.1), Adam(0.1, sparse="lazy")
    grad = tf.IndexedSlices(tf.ones((1, 2)), [1], (4, 2))
    for optimizer in (dense, lazy):
        optimizer.apply([grad], [variable])
        optimizer.apply([grad], [variable])
    saved: dict[str, Any] = {}
    lazy.save_own_variables(saved)
    with pytest.raises(StateError, match="sparse"):
        dense.load_own_variables(saved)
    saved = {}
    dense.save_own_variables(saved)
    lazy.load_own_variables(saved)
    assert not clocks(lazy)[0].any()
    assert all(same_bits(a, b) for a, b in zip(moments(dense, 0), moments(lazy, 0), strict=True))


def _wrong() -> list[tuple[str, type[Exception], str, Any, str]]:
    ones = np.ones((2, 3), np.float32)
    return [
        ("too large", ArrayError, "index 5 at position 1 .* 0 to 4", (np.array([0, 5]), ones), "native"),
        ("negative", ArrayError, "index -1 at position 0", (np.array([-1, 0], np.int32), ones), "native"),
        ("too large, expression", ArrayError, "0 to 4", (np.array([0, 5]), ones), "xla"),
        ("row shape", ArrayError, "rows of the shape", (np.array([0, 1]), np.ones((2, 4), np.float32)), "native"),
        ("count", ArrayError, "rows of the shape", (np.array([0, 1, 2]), ones), "native"),
        ("integers", ArrayError, "int32", (np.array([0, 1]), np.ones((2, 3), np.int32)), "native"),
    ]


@pytest.mark.parametrize(("error", "match", "grad", "kernel"), [c[1:] for c in _wrong()], ids=[c[0] for c in _wrong()])
def test_wrong_rows_change_nothing(error: Any, match: str, grad: Any, kernel: Any) -> None:
    """Eagerly; and in a graph, which sees indices only when it runs."""
    variables = [tf.Variable(tf.ones(3)), tf.Variable(tf.ones((5, 3)))]
    optimizer = Adam(0.1, sparse="lazy", kernel=kernel)
    good = tf.IndexedSlices(tf.ones((1, 3)), [2], (5, 3))
    optimizer.apply([tf.ones(3), good], variables)
    before = [v.numpy() for v in (*variables, *optimizer.variables)]

    def step() -> None:
        optimizer.apply([tf.ones(3), tf.IndexedSlices(tf.constant(grad[1]), tf.constant(grad[0]), (5, 3))], variables)

    with pytest.raises(error, match=match):
        step()
    if "0 to 4" in match:
        with pytest.raises(tf.errors.InvalidArgumentError, match="0 to 4"):
            tf.function(step)()
    for now, then in zip((*variables, *optimizer.variables), before, strict=True):
        assert np.array_equal(now.numpy(), then)


def test_a_variable_given_twice() -> None:
    variable = tf.Variable(tf.ones((5, 3)))
    grad = tf.IndexedSlices(tf.ones((1, 3)), [2], (5, 3))
    with pytest.raises(ArgumentError, match="twice"):
        Adam(sparse="lazy").apply([grad, tf.ones((5, 3))], [variable, variable])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"sparse": "rows"}, "'dense' or 'lazy'"),
        ({"sparse": True}, "'dense' or 'lazy'"),
        ({"sparse": "lazy", "use_ema": True}, "use_ema"),
        ({"sparse": "lazy", "gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
    ],
)
def test_settings_that_are_refused(settings: Any, match: str) -> None:
    for kind in (Adam, AdamW):
        with pytest.raises(ArgumentError, match=match):
            kind(**settings)


def test_configuration() -> None:
    for kind in (Adam, AdamW):
        assert "sparse" not in kind().get_config()
        assert kind.from_config(kind(sparse="lazy").get_config()).get_config()["sparse"] == "lazy"
