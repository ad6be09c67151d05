"""Schedule-free AdamW: the bits of the reference, the switch to the weights for evaluation, files."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import gradients, tensors

from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.kernels import reference
from adamas.rule import Hyper, Rule, evaluation_weights
from adamas.storage import choose, fresh
from adamas.tensorflow import ScheduleFreeAdamW

SHAPES: list[tuple[int, ...]] = [(64, 65), (9,)]
SETTINGS: dict[str, Any] = {"weight_decay": 0.1, "warmup_steps": 2, "r": 1, "beta_2": 0.95}


@pytest.mark.parametrize("moments", ["float32", "int8"])
@pytest.mark.parametrize("mode", ["eager", "function"])
def test_the_bits_of_the_reference(mode: str, moments: Any, rng: np.random.Generator) -> None:
    """Also where the weights are set between build and the first step: z starts as they are then."""
    hyper = Hyper(float(np.float32(0.02)), 0.9, 0.95, weight_decay=0.1, warmup_steps=2, r=1)
    rule, params = Rule(schedule_free=True), tensors(rng, SHAPES)
    variables = [tf.Variable(tf.zeros_like(p), name=f"v{i}") for i, p in enumerate(params)]
    optimizer = ScheduleFreeAdamW(0.02, **SETTINGS, moments=moments)
    optimizer.build(variables)
    for variable, p in zip(variables, params, strict=True):
        variable.assign(p)
    plans, slots = [], []
    for i, p in enumerate(params):
        how = choose(rule, p.dtype, p.size, moments)
        slots.append(list(fresh(rule, how, p).values()))
        plans.append(reference.Plan(rule, [f"v{i}"], [p], [[s] for s in slots[i]], formats=how.formats))
    carries = [np.zeros((1, 2)) for _ in plans]

    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, variables)

    run = step if mode == "eager" else tf.function(step)
    for t in range(1, 5):
        grads = gradients(rng, SHAPES)
        run([tf.constant(g) for g in grads])
        for plan, g, carry in zip(plans, grads, carries, strict=True):
            plan.step([g], np.array([t]), np.array([astuple(hyper)]), carry=carry)
    for i, (variable, p) in enumerate(zip(variables, params, strict=True)):
        assert variable.numpy().tobytes() == p.tobytes()
        assert optimizer._ready().slots.read(1, i).numpy().tobytes() == slots[i][1].tobytes()
    expected = [evaluation_weights(p, kept[1], 0.9) for p, kept in zip(params, slots, strict=True)]
    for found, right in zip(optimizer.evaluation_weights(), expected, strict=True):
        assert found.tobytes() == right.tobytes()
    optimizer.eval()
    optimizer.eval()
    assert optimizer.evaluating
    for variable, right in zip(variables, expected, strict=True):
        assert variable.numpy().tobytes() == right.tobytes()
    for refused in (lambda: step(grads), optimizer.portable_state, lambda: optimizer.save_own_variables({})):
        with pytest.raises(StateError, match=r"train\(\)"):
            refused()
    with pytest.raises(StateError, match=r"train\(\)"):
        tf.train.Checkpoint(optimizer=optimizer).write("/nowhere")
    optimizer.train()
    assert not optimizer.evaluating
    for variable, p in zip(variables, params, strict=True):
        np.testing.assert_allclose(variable.numpy(), p, rtol=2.0**-23, atol=2.0**-23)  # half a unit of x, up to 2


def test_inside_xla(rng: np.random.Generator) -> None:
    (start,) = tensors(rng, [(33,)])
    sets = [tf.Variable(start) for _ in range(2)]
    optimizers = [ScheduleFreeAdamW(0.02, **SETTINGS) for _ in sets]

    @tf.function(jit_compile=True)
    def compiled(g: tf.Tensor) -> None:
        optimizers[1].apply([g], [sets[1]])

    for optimizer, variable in zip(optimizers, sets, strict=True):
        optimizer.build([variable])
    for _ in range(4):
        g = tf.constant(tensors(rng, [(33,)])[0])
        optimizers[0].apply([g], [sets[0]])
        compiled(g)
    assert np.abs(sets[0].numpy() - start).max() > 0.01
    np.testing.assert_allclose(sets[0].numpy(), sets[1].numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, saving
def test_a_model_and_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    x = np.asarray(rng.normal(size=(64, 4)), np.float32)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="d")], name="m")
    model.compile(optimizer=ScheduleFreeAdamW(0.05, warmup_steps=3), loss="mse")
    history = model.fit(x, x[:, :1], batch_size=8, epochs=20, shuffle=False, verbose=0)
    assert history.history["loss"][-1] < 0.05 * history.history["loss"][0]
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for made in (model, loaded):
        made.fit(x, x[:, :1], batch_size=8, shuffle=False, verbose=0)
        made.optimizer.eval()
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_what_is_refused() -> None:
    for settings in ({"beta_1": 0.0}, {"warmup_steps": 1.5}, {"r": 17}, {"weight_lr_power": -1}, {"use_ema": True}):
        with pytest.raises(ArgumentError):
            ScheduleFreeAdamW(**settings)
    with pytest.raises(ArgumentError, match="sparse='lazy'"):
        ScheduleFreeAdamW(sparse="lazy").build([tf.Variable(tf.zeros(3))])
    half = ScheduleFreeAdamW()
    half.build([tf.Variable(tf.zeros(3, tf.bfloat16))])
    with pytest.raises(UnsupportedError, match="bfloat16"):
        half.eval()


def test_before_the_first_step_z_is_the_variable_as_it_is() -> None:
    variable = tf.Variable([1.0, 1.0], name="v")
    optimizer = ScheduleFreeAdamW(0.01)
    optimizer.build([variable])
    variable.assign([10.0, 10.0])
    assert optimizer.portable_state().slots["v"]["z"].tolist() == [10.0, 10.0]
    variable.assign([12.0, 12.0])
    assert optimizer.evaluation_weights()[0].tolist() == [12.0, 12.0]
    variable.assign([14.0, 14.0])
    optimizer.eval()
    assert variable.numpy().tolist() == [14.0, 14.0]


def test_no_state_is_loaded_while_evaluating() -> None:
    optimizer, store = ScheduleFreeAdamW(0.01), {}
    optimizer.apply([tf.constant([1.0])], [tf.Variable([1.0])])
    optimizer.save_own_variables(store)
    state = optimizer.portable_state()
    optimizer.eval()
    with pytest.raises(StateError, match="call train"):
        optimizer.load_own_variables(store)
    with pytest.raises(StateError, match="call train"):
        optimizer.load_portable_state(state)
