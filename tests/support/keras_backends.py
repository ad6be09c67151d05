"""What adamas.keras must do on every backend other than TensorFlow; each of their folders runs these tests.

Keras' own Adam computes beta^t in float32, so its step size is off by what `error_of_alpha` computes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import adamas.keras
from adamas import state
from adamas.errors import AdamasError, ArgumentError, StateError, UnsupportedError
from adamas.formats import Blocks
from adamas.keras.kept import array
from adamas.kernels import reference
from adamas.rule import Hyper
from support.stepping import table

# Keras 3.15 converts its variables with a NumPy call that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHAPES: list[tuple[int, ...]] = [(), (31,), (33, 65), (4, 1100)]
EPS = 2.0**-23
DISCRIMINATING = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {}),
    "AMSGrad": ("Adam", {"amsgrad": True, "learning_rate": 0.01}),
    "discriminating": ("Adam", {**DISCRIMINATING, "amsgrad": True}),
    "Nadam": ("Nadam", DISCRIMINATING),
    "Adamax": ("Adamax", DISCRIMINATING),
}
FAMILY = {**PEERS, "RAdam": ("RAdam", DISCRIMINATING), "ADOPT": ("ADOPT", DISCRIMINATING)}
FAMILY["schedule free"] = ("ScheduleFreeAdamW", {"learning_rate": 0.02, "weight_decay": 0.1, "warmup_steps": 3})


def tensor(values: np.ndarray) -> Any:
    return keras.ops.convert_to_tensor(values)


def problem(steps: int, seed: int = 0) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Where the variables start, and the gradients of each step: from 1e-6 to 10 in size, and now and then 0."""
    rng = np.random.default_rng(seed)
    start = [np.asarray(rng.normal(size=shape), np.float32) for shape in SHAPES]
    scales = [10 ** rng.uniform(-6, 1) for _ in SHAPES]
    grads = [
        [
            np.asarray(rng.normal(size=s) * scale * (t % 7 > 0), np.float32)
            for s, scale in zip(SHAPES, scales, strict=True)
        ]
        for t in range(steps)
    ]
    return start, grads


def error_of_alpha(beta1: float, beta2: float, t: int) -> float:
    """Relative: rounding beta moves it by at most 2^-25, so beta^t by at most t 2^-25 beta^(t-1), and pow rounds."""

    def relative(beta: float) -> float:
        u = 2.0**-25
        return (t * u * beta ** (t - 1) + 2 * u) / (1 - beta**t)

    return relative(beta1) + relative(beta2) + 8 * EPS


@pytest.mark.parametrize("case", PEERS)
def test_parity_with_keras(case: str) -> None:
    name, settings = PEERS[case]
    start, steps = problem(60)
    mine, its = ([keras.Variable(p) for p in start] for _ in range(2))
    optimizer, peer = getattr(adamas.keras, name)(**settings), getattr(keras.optimizers, name)(**settings)
    bound = [np.zeros(p.shape) for p in start]
    for t, grads in enumerate(steps, 1):
        before = [array(v) for v in its]
        optimizer.apply([tensor(g) for g in grads], mine)
        peer.apply([tensor(g) for g in grads], its)
        for i, v in enumerate(its):
            change = abs(array(v) - before[i] * (1 - float(array(peer.learning_rate)) * (peer.weight_decay or 0)))
            bound[i] += change * error_of_alpha(peer.beta_1, peer.beta_2, t) + 3 * EPS * np.maximum(
                abs(before[i]), change
            )
    for a, b, limit in zip(mine, its, bound, strict=True):
        # Moments are rounded otherwise where Keras does not compute v + (1 - beta2) (g^2 - v); near 0 that is most.
        assert (abs(array(a) - array(b)) <= 2 * limit + 1e-6).all()
        assert (limit <= 2e-3 * np.maximum(abs(array(b)), 0.05)).all()  # the bound itself is tight enough to tell
    found: dict[str, np.ndarray] = {}
    expected: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(found)
    peer.save_own_variables(expected)
    assert list(found) == list(expected)
    for key, values in expected.items():
        assert found[key].shape == values.shape
        largest = abs(values).max(initial=1e-30)
        assert (abs(found[key] - values) <= 120 * EPS * largest).all(), key


class Reference:
    """The reference plan over copies of what an optimizer starts with."""

    def __init__(self, optimizer: Any, start: list[np.ndarray], seed: int) -> None:
        memory = optimizer._ready()
        self.rule, self.params = memory.rule, [p.copy() for p in start]
        self.kept = [memory.moments(i) for i in range(len(start))]
        self.slots = [[own[slot.name] for own in self.kept] for slot in self.rule.slots]
        if "correction" in self.kept[0]:
            self.slots.append([own["correction"] for own in self.kept])
        names = [str(i) for i in range(len(start))]
        self.plan = reference.Plan(
            self.rule,
            names,
            self.params,
            self.slots,
            seed,
            [how.formats for how in memory.hows],
            memory.hows[0].weights,
            rounding_names=memory.names,
        )
        self.carry = np.array([[carry.initial for carry in self.rule.carries]] * len(start), np.float64)

    def step(self, grads: list[np.ndarray], t: int, hyper: Hyper) -> None:
        self.plan.step(grads, np.full(len(grads), t), table(hyper), carry=self.carry)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Blocks):
        return same(one.codes, other.codes) and same(one.scales, other.scales)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", FAMILY)
def test_the_bits_of_the_reference(case: str, moments: str) -> None:
    name, settings = FAMILY[case]
    start, steps = problem(12)
    variables = [keras.Variable(p) for p in start]
    optimizer = getattr(adamas.keras, name)(**settings, moments=moments, seed=7)
    optimizer.build(variables)
    assert optimizer.kernel.startswith(("native: libadamas", "cpu: libadamas"))
    expected = Reference(optimizer, start, 7)
    hyper = optimizer._numbers(lr=float(np.float32(settings.get("learning_rate", 0.001))))
    for t, grads in enumerate(steps, 1):
        optimizer.apply([tensor(g) for g in grads])
        expected.step(grads, t, hyper)
    for variable, p in zip(variables, expected.params, strict=True):
        assert same(array(variable), p)
    for i, own in enumerate(expected.kept):
        for slot, stored in optimizer._ready().moments(i).items():
            assert same(stored, own[slot]), (i, slot)


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
def test_variables_of_16_bits(weights: str) -> None:
    import ml_dtypes

    start, steps = problem(8)
    start = [p.astype(ml_dtypes.bfloat16) for p in start]
    variables = [keras.Variable(p, dtype="bfloat16") for p in start]
    optimizer = adamas.keras.Adam(0.01, weights=weights, seed=3)
    optimizer.build(variables)
    expected = Reference(optimizer, start, 3)
    for t, grads in enumerate(steps, 1):
        low = [g.astype(ml_dtypes.bfloat16) for g in grads]
        optimizer.apply([keras.ops.cast(tensor(g), "bfloat16") for g in grads])
        expected.step(low, t, Hyper(float(np.float32(0.01)), eps=1e-7))
    for i, (variable, p) in enumerate(zip(variables, expected.params, strict=True)):
        assert same(array(variable), p)
        for slot, stored in optimizer._ready().moments(i).items():
            assert same(stored, expected.kept[i][slot])


FEATURES: dict[str, dict[str, Any]] = {
    "clipnorm": {"clipnorm": 0.01},
    "clipvalue": {"clipvalue": 0.001},
    "global_clipnorm": {"global_clipnorm": 0.01, "weight_decay": 0.1},
    "loss_scale": {"loss_scale_factor": 64.0},
    "accumulation": {"gradient_accumulation_steps": 2, "weight_decay": 0.1},
    "average": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)},
    "callable": {"learning_rate": lambda: 0.003},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_what_the_base_class_adds(feature: str) -> None:
    settings = {"learning_rate": 0.01, **FEATURES[feature]}
    start, steps = problem(6)
    results = []
    for kind in (adamas.keras.Adam, keras.optimizers.Adam):
        variables, optimizer = [keras.Variable(p) for p in start], kind(**settings)
        for grads in steps:
            optimizer.apply([tensor(g) for g in grads], variables)
        results.append([array(v) for v in variables])
    for mine, its, first in zip(*results, start, strict=True):
        assert not np.array_equal(mine, first)
        # 6 steps of at most about 0.1, each off by 1.1e-5 of itself at most, and roundings of the parameter.
        np.testing.assert_allclose(mine, its, rtol=6 * 4 * EPS, atol=6 * 0.1 * 1.1e-5)


def test_excluded_from_decay_and_without_a_gradient() -> None:
    start, steps = problem(4)
    results = []
    for kind in (adamas.keras.AdamW, keras.optimizers.AdamW):
        variables = [keras.Variable(p, name=f"v{i}") for i, p in enumerate(start)]
        optimizer = kind(0.01, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["v1"])
        for grads in steps:
            given = [tensor(g) for g in grads]
            given[2] = None
            with pytest.warns(UserWarning, match="Gradients do not exist"):
                optimizer.apply(given, variables)
        results.append([array(v) for v in variables])
    assert np.array_equal(results[0][2], start[2])
    for mine, its in zip(*results, strict=True):
        np.testing.assert_allclose(mine, its, rtol=16 * EPS, atol=4 * 0.1 * 1.1e-5)


@pytest.mark.parametrize("settings", [{"nonfinite": "skip"}, {"moments": "int8"}], ids=["asked", "int8"])
def test_a_step_that_is_skipped_changes_nothing(settings: dict[str, Any]) -> None:
    start, steps = problem(3)
    variables = [keras.Variable(p) for p in start]
    optimizer = adamas.keras.Nadam(0.01, **settings)
    optimizer.apply([tensor(g) for g in steps[1]], variables)
    kept = [*variables, *(v for v in optimizer.variables if v is not optimizer._skipped)]
    before = [array(v) for v in kept]
    bad = [g.copy() for g in steps[2]]
    bad[1][3] = np.nan
    optimizer.apply([tensor(g) for g in bad])
    assert all(same(a, array(v)) for a, v in zip(before, kept, strict=True))
    assert (optimizer.skipped, int(array(optimizer.iterations))) == (1, 1)
    optimizer.apply([tensor(g) for g in steps[2]])
    assert (optimizer.skipped, int(array(optimizer.iterations))) == (1, 2)
    assert not same(array(variables[1]), before[1])
    with pytest.raises(ArgumentError, match="use_ema"):
        adamas.keras.Adam(nonfinite="skip", use_ema=True).build(variables)


def test_fit_counts_the_steps_that_were_skipped() -> None:
    x, y = data()
    x[40, 3] = np.inf  # in the second of three batches
    built = model(adamas.keras.Adam(0.01, nonfinite="skip"))
    assert built.optimizer.skipped == 0
    built.fit(x, y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    assert (built.optimizer.skipped, int(array(built.optimizer.iterations))) == (2, 4)
    theirs, ours = keras.optimizers.Adam(), dict[str, np.ndarray]()
    theirs.build(built.trainable_variables)
    built.optimizer.save_own_variables(ours)
    assert list(ours) == [str(i) for i in range(len(theirs.variables))], "what Keras' own Adam writes"


def test_describe_says_what_is_kept() -> None:
    shapes = {"large": (1024, 64), "small": (9,)}
    for moments, weights, each in (("float32", "nearest", 8), ("bfloat16", "nearest", 4), ("int8", "split", 3.125)):
        dtype = "bfloat16" if weights == "split" else "float32"
        optimizer = adamas.keras.Adam(moments=moments, weights=weights)
        with pytest.raises(StateError, match="build"):
            optimizer.describe()
        optimizer.build([keras.Variable(np.zeros(s), dtype=dtype, name=name) for name, s in shapes.items()])
        described = optimizer.describe()
        large, small = described.tensors
        assert (large.name, large.shape, large.group, large.why) == ("large", (1024, 64), "all", "")
        assert set(large.formats.values()) - {"int8"} <= {moments}
        assert set(small.formats.values()) - {"int8"} == {"float32"}
        assert large.bytes == each * 1024 * 64
        entries = [entry for entry in optimizer._ready().kept if entry.i == 0]
        held = [array(v) for entry in entries for v in (entry.values, entry.scales) if v is not None]
        assert sum(a.nbytes for a in held) == large.bytes
        assert ("kept in float32: 1 of them with 9 parameters" in str(described)) == (moments != "float32")


def test_numbers_that_are_not_finite_are_computed_with_by_default() -> None:
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = adamas.keras.Adam()
    optimizer.apply([tensor(np.array([1, np.nan, 1], np.float32))], [variable])
    assert optimizer.skipped == 0
    assert np.isnan(array(variable)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sparse": "lazy"}, UnsupportedError, "sparse='lazy' is served where Keras runs on TensorFlow"),
        ({"groups": [1]}, UnsupportedError, "groups="),
        ({"no_decay": True}, UnsupportedError, "no_decay=True"),
        ({"stats": True}, UnsupportedError, "stats=True"),
        ({"verify": 100}, UnsupportedError, "verify=100"),
        ({"nonfinite": "raise"}, UnsupportedError, "give 'skip'"),
        ({"kernel": "resource"}, ArgumentError, "kernel='resource'"),
        ({"moments": "int4"}, ArgumentError, "int4"),
        ({"weights": "odd"}, ArgumentError, "odd"),
        ({"seed": -1}, ArgumentError, "seed=-1"),
        ({"colour": 1}, ArgumentError, "colour"),
        ({"beta_1": 1.0}, ArgumentError, "beta1"),
        ({"learning_rate": -1.0}, ArgumentError, "lr"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    settings: dict[str, Any], error: type[AdamasError], message: str
) -> None:
    with pytest.raises(error, match=message):
        adamas.keras.Adam(**settings)


def test_variables_and_gradients_that_do_not_fit() -> None:
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = adamas.keras.Adam()
    with pytest.raises(ArgumentError, match="twice"):
        optimizer.build([variable, variable])
    with pytest.raises(UnsupportedError, match="int32"):
        optimizer.build([keras.Variable(np.ones(3, np.int32), dtype="int32", trainable=False)])
    optimizer.build([variable])
    with pytest.raises(ArgumentError, match="unknown to the optimizer"):
        optimizer.apply([tensor(np.ones(3, np.float32))], [keras.Variable(np.ones(3, np.float32))])
    with pytest.raises(ArgumentError, match="2 gradients for 1"):
        optimizer.apply([tensor(np.ones(3, np.float32))] * 2)


def model(optimizer: Any) -> Any:
    layers = keras.layers
    built = keras.Sequential(
        [
            keras.Input((80,)),
            layers.Dense(64, activation="relu", kernel_initializer=keras.initializers.RandomNormal(seed=1)),
            layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(seed=2)),
        ]
    )
    built.compile(optimizer=optimizer, loss="mse")
    return built


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = np.asarray(rng.normal(size=(96, 80)), np.float32)
    return x, np.asarray(x[:, :1] - 0.5 * x[:, 1:2], np.float32)


def fitted(optimizer: Any, epochs: int = 2) -> Any:
    built = model(optimizer)
    built.fit(*data(), epochs=epochs, batch_size=32, shuffle=False, verbose=0)
    return built


@pytest.mark.parametrize("wrapped", [False, True], ids=["", "LossScaleOptimizer"])
def test_fit(wrapped: bool) -> None:
    weights = []
    for kind in (adamas.keras.AdamW, keras.optimizers.AdamW):
        optimizer = kind(0.01, weight_decay=0.1)
        built = fitted(keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer, 3)
        assert int(array(optimizer.iterations)) == 9
        weights.append(built.get_weights())
    for mine, its in zip(*weights, strict=True):
        np.testing.assert_allclose(mine, its, atol=9 * 0.01 * 1e-3)


def test_files_hold_everything(tmp_path: Path) -> None:
    """Training that goes on from a file gives the bits of training that did not stop."""
    for name, settings in (("Nadam", {"moments": "int8"}), ("Adam", {"moments": "bfloat16", "amsgrad": True})):
        built = fitted(getattr(adamas.keras, name)(0.01, **settings))
        path = tmp_path / "model.keras"
        built.save(path)
        again = keras.models.load_model(path)
        assert type(again.optimizer) is getattr(adamas.keras, name)
        assert again.optimizer.get_config() == built.optimizer.get_config()
        for one in (built, again):
            one.fit(*data(), epochs=1, batch_size=32, shuffle=False, verbose=0)
        for a, b in zip(built.optimizer.variables, again.optimizer.variables, strict=True):
            assert same(array(a), array(b))
        assert all(np.array_equal(a, b) for a, b in zip(built.get_weights(), again.get_weights(), strict=True))


def test_keras_own_files(tmp_path: Path) -> None:
    built = fitted(keras.optimizers.AdamW(0.01))
    built.save(tmp_path / "theirs.keras")
    ours = adamas.keras.load_model(tmp_path / "theirs.keras")
    assert type(ours.optimizer) is adamas.keras.AdamW
    for a, b in zip(built.optimizer.variables, ours.optimizer.variables, strict=True):
        assert same(array(a), array(b))
    low = fitted(adamas.keras.Adam(0.01, moments="int8"))
    adamas.keras.save_model(low, tmp_path / "ours.keras")
    theirs = keras.models.load_model(tmp_path / "ours.keras")
    assert isinstance(theirs.optimizer, keras.optimizers.Adam)
    again = low.optimizer.to_keras()
    for a, b in zip(theirs.optimizer.variables, again.variables, strict=True):
        assert same(array(a), array(b))
    memory = low.optimizer._ready()
    for entry in memory.kept:
        assert same(array([again._momentums, again._velocities][entry.slot][entry.i]), memory.wide(entry))
    with pytest.raises(UnsupportedError, match="Keras has no"):
        adamas.keras.RAdam().to_keras()


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    one, other = (adamas.keras.Adam(), adamas.keras.Adam(amsgrad=True))
    for optimizer in (one, other):
        optimizer.apply([tensor(np.ones(3, np.float32))], [keras.Variable(np.ones(3, np.float32))])
    store: dict[str, np.ndarray] = {}
    other.save_own_variables(store)
    before = [array(v) for v in one.variables]
    with pytest.raises(StateError, match="it has 5 arrays, this optimizer 4"):
        one.load_own_variables(store)
    assert all(same(a, array(b)) for a, b in zip(before, one.variables, strict=True))


ELSEWHERE = """
import sys, json, os
os.environ["KERAS_BACKEND"] = sys.argv[1]
import keras, numpy as np, adamas.keras
built = keras.models.load_model(sys.argv[2])
rng = np.random.default_rng(11)
grads = [np.asarray(rng.normal(size=v.shape), np.float32) for v in built.trainable_variables]
built.optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads], built.trainable_variables)
built.save(sys.argv[3])
"""


OTHERS = [backend for backend in ("tensorflow", "jax", "torch") if backend != keras.backend.backend()]


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("settings", [{}, {"moments": "int8"}], ids=["float32", "int8"])
def test_a_file_goes_on_on_another_backend(settings: dict[str, Any], backend: str, tmp_path: Path) -> None:
    """A step there gives the bits of a step here."""
    import importlib.util

    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    built = fitted(adamas.keras.Nadam(0.01, weight_decay=0.1, **settings))
    built.save(tmp_path / "here.keras")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", ELSEWHERE, backend, str(tmp_path / "here.keras"), str(tmp_path / "there.keras")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    rng = np.random.default_rng(11)
    grads = [np.asarray(rng.normal(size=v.shape), np.float32) for v in built.trainable_variables]
    built.optimizer.apply([tensor(g) for g in grads], built.trainable_variables)
    there = keras.models.load_model(tmp_path / "there.keras")
    assert all(np.array_equal(a, b) for a, b in zip(built.get_weights(), there.get_weights(), strict=True))
    for a, b in zip(built.optimizer.variables, there.optimizer.variables, strict=True):
        assert same(array(a), array(b)), a.path


def test_the_portable_checkpoint(tmp_path: Path) -> None:
    start, steps = problem(6)
    one = adamas.keras.Nadam(0.01, weight_decay=0.1, moments="int8")
    variables = [keras.Variable(p, name=f"v{i}") for i, p in enumerate(start)]
    for grads in steps[:4]:
        one.apply([tensor(g) for g in grads], variables)
    state.save(tmp_path / "state.safetensors", one)
    other = adamas.keras.Nadam(0.5, weight_decay=0.3, moments="int8")
    copies = [keras.Variable(array(v), name=f"v{i}") for i, v in enumerate(variables)]
    other.build(copies)
    state.load(tmp_path / "state.safetensors", other)
    for grads in steps[4:]:
        one.apply([tensor(g) for g in grads], variables)
        other.apply([tensor(g) for g in grads], copies)
    for a, b in zip((*variables, *one.variables), (*copies, *other.variables), strict=True):
        assert same(array(a), array(b))
    with pytest.raises(StateError):
        adamas.keras.Adam().load_portable_state(one.portable_state())


def test_averages_move_and_accumulated_gradients_are_dropped() -> None:
    start, steps = problem(4)
    one, other = (adamas.keras.Adam(0.01, use_ema=True) for _ in range(2))
    own, its = ([keras.Variable(p, name=f"v{i}") for i, p in enumerate(start)] for _ in range(2))
    for grads in steps:
        one.apply([tensor(g) for g in grads], own)
    other.build(its)
    held = one.portable_state()
    other.load_portable_state(held)
    for a, b in zip(one.variables, other.variables, strict=True):
        assert same(array(a), array(b)), a.path
    plain = adamas.keras.Adam(0.01, gradient_accumulation_steps=2)
    plain.apply([tensor(g) for g in steps[0]], its)
    with pytest.raises(StateError, match="average"):
        plain.load_portable_state(held)
    plain.load_portable_state(held.without("average"))
    assert not any(array(v).any() for v in plain._accumulated_gradients)


def test_a_state_with_eps_inside_the_root_is_refused() -> None:
    import adamas.numpy

    params = {"v": np.ones(3, np.float32)}
    theirs = adamas.numpy.Adam(params, like="torch")
    theirs.step({"v": np.ones(3, np.float32)})
    held = theirs.portable_state()
    ours = adamas.keras.Adam(like="torch")
    ours.build([keras.Variable(np.ones(3, np.float32), name="v")])
    ours.load_portable_state(held)
    with pytest.raises(StateError, match="eps_root"):
        ours.load_portable_state(replace(held, hypers=[replace(held.hypers[0], eps_root=0.01)]))


def test_a_file_from_before_the_optimizer_was_built_begins_again() -> None:
    start, steps = problem(1)
    new, used = adamas.keras.Nadam(0.5), adamas.keras.Nadam(0.1)
    store: dict[str, np.ndarray] = {}
    new.save_own_variables(store)
    variables = [keras.Variable(p) for p in start]
    used.apply([tensor(g) for g in steps[0]], variables)
    used.load_own_variables(store)
    fresh = adamas.keras.Nadam(0.5)
    fresh.build(variables)
    for a, b in zip(used.variables, fresh.variables, strict=True):
        assert same(array(a), array(b)), a.path


def test_constraints_where_steps_are_skipped_are_refused() -> None:
    variable = keras.Variable(np.ones((2, 2), np.float32), name="v")
    variable.constraint = keras.constraints.UnitNorm()
    with pytest.raises(ArgumentError, match="constraint"):
        adamas.keras.Adam(nonfinite="skip").build([variable])
    adamas.keras.Adam().build([variable])


@pytest.mark.parametrize("stepped", [False, True], ids=["new", "stepped"])
def test_a_state_goes_on_with_its_own_random_numbers(stepped: bool, tmp_path: Path) -> None:
    """int8 from NumPy, a step here and back: the bits of NumPy alone."""
    import adamas.numpy

    start, steps = problem(6)
    names = [f"layer {i}" for i in range(len(start))]  # not those here

    def of_numpy(params: list[np.ndarray], seed: int) -> tuple[dict[str, np.ndarray], Any]:
        held = {name: p.copy() for name, p in zip(names, params, strict=True)}
        return held, adamas.numpy.NAdam(held, lr=0.25, weight_decay=0.125, moments="int8", seed=seed, like="keras")

    def numpy_step(optimizer: Any, grads: list[np.ndarray]) -> None:
        optimizer.step(dict(zip(names, grads, strict=True)))

    alone, expected = of_numpy(start, 2**63 + 5)
    for grads in steps[:3]:
        numpy_step(expected, grads)
    state.save(tmp_path / "numpy.safetensors", expected)
    variables = [keras.Variable(p, name=f"v{i}") for i, p in enumerate(alone.values())]
    here = adamas.keras.Nadam(0.5, weight_decay=0.5, moments="int8", seed=1)
    if stepped:
        here.apply([tensor(g) for g in steps[5]], variables)
        for variable, p in zip(variables, alone.values(), strict=True):
            variable.assign(p)
    else:
        here.build(variables)
    state.load(tmp_path / "numpy.safetensors", here, names=dict(zip(names, here._names(), strict=True)))
    assert here.get_config()["seed"] == 2**63 + 5
    for t in (3, 4):
        here.apply([tensor(g) for g in steps[t]])
        numpy_step(expected, steps[t])
    for variable, p in zip(variables, alone.values(), strict=True):
        assert same(array(variable), p)
    state.save(tmp_path / "keras.safetensors", here)
    params, back = of_numpy([array(v) for v in variables], 9)
    state.load(tmp_path / "keras.safetensors", back, names=dict(zip(here._names(), names, strict=True)))
    for optimizer in (back, expected):
        numpy_step(optimizer, steps[5])
    one, other = back.portable_state(), expected.portable_state()
    assert (one.seed, dict(one.rounding_names)) == (other.seed, dict(other.rounding_names))
    for name in names:
        assert same(params[name], alone[name])
        for slot, stored in other.slots[name].items():
            assert same(one.slots[name][slot], stored)


def test_schedule_free_has_two_sets_of_weights() -> None:
    start, steps = problem(5)
    variables = [keras.Variable(p) for p in start]
    optimizer = adamas.keras.ScheduleFreeAdamW(0.01)
    for grads in steps:
        optimizer.apply([tensor(g) for g in grads], variables)
    y, z = [array(v) for v in variables], [array(optimizer._ready().of(i)[1].values) for i in range(len(start))]
    optimizer.eval()
    for variable, own, other, x in zip(variables, y, z, optimizer.evaluation_weights(), strict=True):
        assert same(array(variable), x)
        np.testing.assert_allclose(0.9 * x.astype(np.float64) + 0.1 * other, own, rtol=1e-6, atol=1e-6)
    with pytest.raises(StateError, match="call train"):
        optimizer.save_own_variables({})
    with pytest.raises(StateError, match="call train"):
        optimizer.apply([tensor(g) for g in steps[0]])
    optimizer.train()
    for variable, own in zip(variables, y, strict=True):
        np.testing.assert_allclose(array(variable), own, rtol=2 * EPS, atol=1e-7)


def test_nothing_of_another_framework_is_imported() -> None:
    here = keras.backend.backend()
    code = "import sys, json, adamas.keras; adamas.keras.Adam(); print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "KERAS_BACKEND": here}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    loaded = set(json.loads(ended.stdout))
    assert here in loaded
    assert not {"tensorflow", "torch", "optax"} - {here} & loaded


@pytest.mark.parametrize("kernel", ["auto", "xla"])
def test_schedule_free_starts_at_the_weights_of_the_first_step(kernel: Any) -> None:
    """Also where they were loaded since build."""
    start, steps = problem(2)
    results = []
    for loaded in (False, True):
        variables = [keras.Variable(np.zeros_like(p) if loaded else p) for p in start]
        optimizer = adamas.keras.ScheduleFreeAdamW(0.01, kernel=kernel)
        optimizer.build(variables)
        for variable, p in zip(variables, start, strict=True):
            variable.assign(p)
        for grads in steps:
            optimizer.apply([tensor(g) for g in grads], variables)
        results.append([array(v) for v in variables])
    assert all(same(a, b) for a, b in zip(*results, strict=True))


def test_schedule_free_before_the_first_step() -> None:
    variable = keras.Variable(np.ones(3, np.float32), name="v")
    optimizer = adamas.keras.ScheduleFreeAdamW(0.01)
    optimizer.build([variable])
    variable.assign(np.full(3, 10, np.float32))
    assert optimizer.portable_state().slots["v"]["z"].tolist() == [10.0] * 3
    variable.assign(np.full(3, 12, np.float32))
    assert optimizer.evaluation_weights()[0].tolist() == [12.0] * 3
    variable.assign(np.full(3, 14, np.float32))
    optimizer.eval()
    assert array(variable).tolist() == [14.0] * 3
    optimizer.train()
    assert array(variable).tolist() == [14.0] * 3


def test_schedule_free_loads_no_state_while_evaluating() -> None:
    from dataclasses import replace

    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = adamas.keras.ScheduleFreeAdamW(0.01)
    optimizer.apply([tensor(np.ones(3, np.float32))], [variable])
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    found = optimizer.portable_state()
    optimizer.eval()
    with pytest.raises(StateError, match="call train"):
        optimizer.load_own_variables(store)
    with pytest.raises(StateError, match="call train"):
        optimizer.load_portable_state(found)
    optimizer.train()
    with pytest.raises(StateError, match="beta1 = 0"):
        optimizer.load_portable_state(replace(found, hypers=[replace(h, beta1=0.0) for h in found.hypers]))
