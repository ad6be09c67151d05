"""Groups of variables with numbers and formats of their own: the bits of the NumPy adapter; files; what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import adamas.keras
from adamas.errors import ArgumentError, KernelError, StateError, UnsupportedError
from adamas.groups import Group
from adamas.numpy import Adam as NumpyAdam
from adamas.tensorflow import Adam, AdamW, Nadam, ScheduleFreeAdamW

SHAPES = {
    "body/kernel": (64, 65),
    "body/bias": (65,),
    "head/kernel": (65, 70),
    "head/bias": (70,),
    "norm/gamma": (5, 3),
}
GROUPS = [
    Group("head/*", lr_scale=0.25, betas=(0.7, 0.9), eps=1e-2, moments="bfloat16"),
    Group(lambda name, shape: shape == (65,), lr=0.5, weight_decay=0.3),
]
RATE = float(np.float32(0.02))


def start(rng: np.random.Generator) -> list[tf.Variable]:
    return [tf.Variable(rng.normal(size=shape).astype(np.float32), name=name) for name, shape in SHAPES.items()]


def gradients(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES.values()]


def numpy_twin(variables: list[tf.Variable], **settings: Any) -> tuple[dict[str, np.ndarray], NumpyAdam]:
    params = {name: np.array(v.numpy()) for name, v in zip(SHAPES, variables, strict=True)}
    return params, NumpyAdam(params, lr=RATE, like="keras", **settings)


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("no_decay", [False, True])
def test_the_bits_of_numpy(no_decay: bool, mode: str, rng: np.random.Generator) -> None:
    variables = start(rng)
    settings: dict[str, Any] = {
        "groups": GROUPS,
        "no_decay": no_decay,
        "weight_decay": 0.1,
        "moments": "int8",
        "seed": 4,
    }
    optimizer = Adam(0.02, **settings)
    params, other = numpy_twin(variables, **settings)

    def step(grads: list[tf.Tensor]) -> None:
        optimizer.apply(grads, variables)

    run = step if mode == "eager" else tf.function(step, autograph=False)
    for t in range(4):
        if t == 2:
            optimizer.learning_rate = 0.01
            other.lr = float(np.float32(0.01))
        grads = gradients(rng)
        run([tf.constant(g) for g in grads])
        other.step(dict(zip(SHAPES, grads, strict=True)))
    for variable, p in zip(variables, params.values(), strict=True):
        assert variable.numpy().tobytes() == p.tobytes(), variable.name
    assert str(optimizer.describe()) == str(other.describe())
    mine, its = optimizer.portable_state(), other.portable_state()
    assert {name: mine.hypers[mine.groups[name]] for name in SHAPES} == {
        name: its.hypers[its.groups[name]] for name in SHAPES
    }


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_expression_agrees(jit_compile: bool, rng: np.random.Generator) -> None:
    variables = start(rng)
    groups = [Group("head/*", lr_scale=0.25, betas=(0.7, 0.9), eps=1e-2), Group("*bias", lr=0.5, weight_decay=0.3)]
    params, other = numpy_twin(variables, groups=groups, no_decay=True, weight_decay=0.1)
    optimizer = Adam(0.02, groups=groups, no_decay=True, weight_decay=0.1, kernel="auto" if jit_compile else "xla")
    optimizer.build(variables)
    step = tf.function(lambda *grads: optimizer.apply(grads, variables), jit_compile=jit_compile, autograph=False)
    for _ in range(3):
        grads = gradients(rng)
        step(*map(tf.constant, grads))
        other.step(dict(zip(SHAPES, grads, strict=True)))
    for variable, p in zip(variables, params.values(), strict=True):
        np.testing.assert_allclose(variable.numpy(), p, rtol=1e-5, atol=1e-6)


def test_no_decay_is_of_biases_and_normalisations(rng: np.random.Generator) -> None:
    """With gradients of 0 a step is decay alone. What is given instead of True is matched instead."""
    for asked, spared in (
        (True, {"body/bias", "head/bias", "norm/gamma"}),
        ("body/*", {"body/kernel", "body/bias"}),
        (lambda name, shape: shape[0] == 64, {"body/kernel"}),
        (False, set()),
    ):
        variables = start(rng)
        before = [v.numpy() for v in variables]
        AdamW(0.1, weight_decay=0.5, no_decay=asked).apply([tf.zeros_like(v) for v in variables], variables)  # type: ignore[arg-type]
        same = {n for n, v, b in zip(SHAPES, variables, before, strict=True) if (v.numpy() == b).all()}
        assert same == spared


def test_exclude_from_weight_decay_goes_on_working(rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = AdamW(0.1, weight_decay=0.5, no_decay=True, groups=[Group("head/bias", weight_decay=0.2)])
    optimizer.exclude_from_weight_decay(var_list=[variables[0]])
    before = [v.numpy() for v in variables]
    optimizer.apply([tf.zeros_like(v) for v in variables], variables)
    changed = [n for n, v, b in zip(SHAPES, variables, before, strict=True) if not (v.numpy() == b).all()]
    assert changed == ["head/kernel", "head/bias"]


def test_a_schedule_is_followed_by_lr_scale_and_not_by_lr(rng: np.random.Generator) -> None:
    """The first step of Adam is of the size of the learning rate."""
    variables = start(rng)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.01])
    optimizer = Adam(schedule, epsilon=0.0, groups=[Group("head/*", lr_scale=0.5), Group("norm/*", lr=0.3)])
    for own in (0.1, 0.01):
        before = [v.numpy() for v in variables]
        optimizer.apply([tf.ones_like(v) for v in variables], variables)
        sizes = [abs(v.numpy() - b).max() for v, b in zip(variables, before, strict=True)]
        np.testing.assert_allclose(sizes, [own, own, own / 2, own / 2, 0.3], rtol=1e-4)


def test_lazy_rows_have_groups_too() -> None:
    """A row that was silent decays by its group's betas; both ways agree."""
    ends = []
    for kernel in ("native", "xla"):
        tables = [tf.Variable(tf.ones([9, 3]), name=name) for name in ("a", "b")]
        optimizer = Adam(
            0.1,
            sparse="lazy",
            weight_decay=0.1,
            no_decay="b",
            groups=[Group("b", lr_scale=0.5, betas=(0.5, 0.6))],
            kernel=kernel,
        )  # type: ignore[arg-type]
        for rows in ([1, 2], [1, 2, 3], [2, 3], [3]):
            slices = tf.IndexedSlices(tf.fill([len(rows), 3], float(len(rows))), rows, [9, 3])
            optimizer.apply([slices, slices], tables)
        optimizer.apply([tf.ones([9, 3])] * 2, tables)  # a dense gradient: all rows are decayed to the present before
        state = optimizer.portable_state()
        ends.append([t.numpy() for t in tables] + [np.asarray(x) for name in "ab" for x in state.slots[name].values()])
    for native, expression in zip(*ends, strict=True):
        np.testing.assert_allclose(native, expression, rtol=1e-5, atol=1e-7)
    assert abs(ends[0][0][1] - ends[0][1][1]).max() > 0.01


def test_the_groups_can_be_asked_for() -> None:
    assert Adam(groups=GROUPS).groups == tuple(GROUPS)
    assert Adam().groups == ()


def test_variables_that_come_later(rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = Adam(0.02, groups=GROUPS, no_decay=True, weight_decay=0.1, moments="int8")
    optimizer.build(variables[:4])
    optimizer.build(variables)
    whole = Adam(0.02, groups=GROUPS, no_decay=True, weight_decay=0.1, moments="int8")
    copies = [tf.Variable(v, name=name) for name, v in zip(SHAPES, variables, strict=True)]
    for _ in range(2):
        grads = [tf.constant(g) for g in gradients(rng)]
        optimizer.apply(grads, variables)
        whole.apply(grads, copies)
    for one, other in zip(variables, copies, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()
    assert str(optimizer.describe()) == str(whole.describe())


def test_portable_state_goes_both_ways(rng: np.random.Generator) -> None:
    variables = start(rng)
    settings: dict[str, Any] = {"groups": GROUPS, "no_decay": True, "weight_decay": 0.1}
    _, other = numpy_twin(variables, **settings)
    optimizer = Adam(0.02, **settings)
    grads = gradients(rng)
    optimizer.apply([tf.constant(g) for g in grads], variables)
    other.step(dict(zip(SHAPES, grads, strict=True)))
    optimizer.load_portable_state(other.portable_state())
    other.load_portable_state(optimizer.portable_state())
    plain = Adam(0.02, weight_decay=0.1)
    plain.build(variables)
    with pytest.raises(StateError, match="the same groups"):
        plain.load_portable_state(other.portable_state())


def network(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8, "relu", name="one"), keras.layers.Dense(1, name="two")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(adamas.keras.AdamW(0.05, weight_decay=0.1, **settings), loss="mse")
    return model


@keras.saving.register_keras_serializable("tests")
def is_output(name: str, shape: tuple[int, ...]) -> bool:
    return "two/" in name


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, saving
@pytest.mark.parametrize("no_decay", [True, "*/bias", is_output])
def test_a_model_file_carries_them(no_decay: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    groups = [Group(is_output, lr_scale=0.1, betas=(0.8, 0.9)), Group(["*one/kernel"], lr=0.3, name="first")]
    model = network(groups=groups, no_decay=no_decay, nonfinite="skip", stats=True)
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 1))
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, shuffle=False)
    path = os.path.join(tmp_path, "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, loaded):
        one.fit(x, y, batch_size=8, epochs=1, verbose=0, shuffle=False)
    for mine, its in zip(model.get_weights(), loaded.get_weights(), strict=True):
        assert mine.tobytes() == its.tobytes()
    assert [t.gradient for t in loaded.optimizer.stats().tensors] == [
        t.gradient for t in model.optimizer.stats().tensors
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, saving
def test_what_keras_cannot_do(tmp_path: Path, rng: np.random.Generator) -> None:
    path = os.path.join(tmp_path, "model.keras")
    grouped = network(groups=[Group("*one*", lr_scale=0.1)])
    spared = network(no_decay=True)
    for model, what in ((grouped, "groups"), (spared, "no_decay")):
        model.optimizer.build(model.trainable_variables)
        with pytest.raises(UnsupportedError, match=what):
            adamas.keras.save_model(model, path)
        assert not os.path.exists(path)
    with pytest.raises(UnsupportedError, match="groups"):
        grouped.optimizer.to_keras()
    with pytest.raises(UnsupportedError, match=r"no_decay.*build"):
        AdamW(no_decay=True).to_keras()
    theirs = spared.optimizer.to_keras()
    kernels = [theirs._use_weight_decay(v) for v in spared.trainable_variables]
    assert kernels == [True, False, True, False]
    plain = network(nonfinite="skip", stats=True)
    plain.optimizer.build(plain.trainable_variables)
    adamas.keras.save_model(plain, path)
    assert type(keras.models.load_model(path).optimizer) is keras.optimizers.AdamW


@pytest.mark.parametrize(
    ("kind", "settings", "error", "match"),
    [
        (Adam, {"groups": [Group("nothing")]}, ArgumentError, "nothing: it matches no tensor"),
        (Adam, {"groups": {"head": 1}}, ArgumentError, "give a list of adamas.groups.Group"),
        (Adam, {"groups": [Group("*", eps_root=1e-8)]}, ArgumentError, "eps_root"),
        (Adam, {"groups": [Group("*", betas=(0.9, 1.0))]}, ArgumentError, "group .*beta2"),
        (Adam, {"groups": [Group("*", moments="int4")]}, ArgumentError, "int4"),
        (Adam, {"groups": [Group("*", moments="int8")], "sparse": "lazy"}, ArgumentError, "sparse='lazy'"),
        (Adam, {"groups": [Group("*", lr_scale=0.5)], "kernel": "resource"}, KernelError, "without groups"),
        (Adam, {"no_decay": 3}, ArgumentError, "match=3"),
        (Nadam, {"groups": [Group("*", betas=(0.9, 0.99))]}, ArgumentError, "mu_product.*no betas"),
        (ScheduleFreeAdamW, {"groups": [Group("*", lr_scale=0.5)]}, ArgumentError, "weight_sum.*no lr_scale"),
    ],
)
def test_what_is_refused(kind: Any, settings: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        kind(**settings).build([tf.Variable(tf.zeros(3), name="v")])
