"""What changes between steps: numbers, in functions traced before too; variables that come later or stay out."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import Reference, tensors

from adamas.errors import ArgumentError, UnsupportedError
from adamas.tensorflow import Adam, AdamW
from adamas.train import fit

EPS = 2.0**-23
MODES = ["eager", "function", "jit"]
START = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}
LATER: dict[str, float] = {"beta_1": 0.5, "beta_2": 0.7, "epsilon": 0.1, "weight_decay": 0.5, "learning_rate": 0.05}


def runner(optimizer: Any, variables: list[Any], mode: str) -> Any:
    def step(grads: list[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "jit", autograph=False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", ["native", "xla", "resource"])
def test_numbers_change_without_another_trace(kernel: Any, mode: str, rng: np.random.Generator) -> None:
    clip = {"native": "clipvalue", "xla": "global_clipnorm", "resource": "clipnorm"}[kernel]
    settings: dict[str, Any] = {**START, clip: 0.5, "loss_scale_factor": 4.0}
    later: dict[str, float] = {**LATER, clip: 0.1, "loss_scale_factor": 32.0}
    if kernel == "resource":
        del settings["weight_decay"], later["weight_decay"]
    (start,) = tensors(rng, [(9,)])
    variable, optimizer = tf.Variable(start), Adam(**settings, kernel=kernel)
    optimizer.build([variable])
    run = runner(optimizer, [variable], mode)
    reference = Reference([start], **settings)
    for change in (None, *later):
        if change is not None:
            setattr(optimizer, change, later[change])
            settings[change] = later[change]
            fresh = Reference(reference.params, **settings)
            fresh.t, fresh.slots = reference.t, reference.slots
            reference = fresh
        for _ in range(2):
            grads = tensors(rng, [(9,)])
            before = variable.numpy()
            run([tf.constant(g) for g in grads])
            reference.step(grads)
            assert abs(variable.numpy() - before).max() > 1e-3
            # A step moves an element by at most about lr / (1 - beta_1); its relative error is below 64 eps.
            np.testing.assert_allclose(
                variable.numpy(),
                reference.params[0],
                rtol=16 * EPS,
                atol=reference.t * 0.1 * 64 * EPS,
                err_msg=str(change),
            )
    if mode != "eager":
        assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
@pytest.mark.parametrize("kernel", ["native", "resource"])
def test_a_clip_that_is_set_to_none_ends(kernel: Any, clip: str, mode: str) -> None:
    """In functions traced with it too, where a norm is then divided by a bound that must not be infinite."""
    variables = [tf.Variable([1.0, 2.0]) for _ in range(2)]
    clipped, plain = Adam(0.1, kernel=kernel, **{clip: 1e-3}), Adam(0.1, kernel=kernel)
    runs = [runner(o, [v], mode) for o, v in zip((clipped, plain), variables, strict=True)]
    runs[0]([tf.constant([3.0, 4.0])])
    variables[0].assign([1.0, 2.0])
    for moment in clipped.variables[2:]:
        moment.assign(np.zeros(2, np.float32))
    clipped.iterations.assign(0)
    setattr(clipped, clip, None)
    for _ in range(2):
        for run in runs:
            run([tf.constant([3.0, -4.0])])
    np.testing.assert_allclose(clipped.variables[3], plain.variables[3], rtol=8 * EPS)
    np.testing.assert_allclose(variables[0], variables[1], rtol=8 * EPS)


@pytest.mark.parametrize("mode", ["function", "jit"])
@pytest.mark.parametrize(("clip", "other"), [("clipnorm", "clipvalue"), ("clipvalue", "global_clipnorm"),
                                             ("global_clipnorm", "clipnorm")])  # fmt: skip
@pytest.mark.parametrize("kernel", ["native", "resource"])
def test_a_clip_of_another_kind_needs_another_trace(kernel: Any, clip: str, other: str, mode: str) -> None:
    """A function that was traced before never takes the new bound for its own kind of clip: it clips no more."""
    grads = [tf.constant([3.0, -4.0])]
    optimizers = [Adam(0.1, kernel=kernel, **bounds) for bounds in ({clip: 1e-3}, {}, {other: 1e-2})]
    variables = [tf.Variable([1.0, 2.0]) for _ in optimizers]
    old, plain, new = (runner(o, [v], mode) for o, v in zip(optimizers, variables, strict=True))

    def same(right: Any) -> None:
        for mine, its in zip(optimizers[0].variables[2:], right.variables[2:], strict=True):
            np.testing.assert_allclose(mine, its, rtol=8 * EPS)
            mine.assign(tf.zeros(2))

    old(grads)
    optimizers[0].variables[2].assign(tf.zeros(2))
    optimizers[0].variables[3].assign(tf.zeros(2))
    setattr(optimizers[0], clip, None)
    setattr(optimizers[0], other, 1e-2)
    old(grads)
    plain(grads)
    same(optimizers[1])
    runner(optimizers[0], variables[:1], mode)(grads)
    new(grads)
    same(optimizers[2])


@pytest.mark.parametrize("accumulation", [None, 2])
@pytest.mark.parametrize("mode", MODES)
def test_a_loss_scale_that_changes_is_taken_out_again(mode: str, accumulation: int | None) -> None:
    """The loss is multiplied by what the gradients are divided by, also in a function traced before."""
    variables = [tf.Variable([1.0, -2.0]) for _ in range(2)]
    plain = Adam(0.1, epsilon=1.0, gradient_accumulation_steps=accumulation)
    scaled = Adam(0.1, epsilon=1.0, gradient_accumulation_steps=accumulation, loss_scale_factor=8.0)
    runs = []
    for optimizer, variable in zip((plain, scaled), variables, strict=True):

        def step(optimizer: Any = optimizer, variable: Any = variable) -> Any:
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(tf.reduce_sum(variable**2))
            optimizer.apply(tape.gradient(loss, [variable]), [variable])
            return loss

        runs.append(step if mode == "eager" else tf.function(step, jit_compile=mode == "jit", autograph=False))
    for t in range(6):
        if t == 3:
            traces = None if mode == "eager" else runs[1].experimental_get_tracing_count()
            scaled.loss_scale_factor = 0.5
        losses = [float(run()) for run in runs]
        assert losses[1] == pytest.approx(losses[0] * (8.0 if t < 3 else 0.5), rel=1e-6)
        np.testing.assert_allclose(variables[0].numpy(), variables[1].numpy(), rtol=1e-6)
    assert abs(float(variables[0][0]) - 1.0) > 0.02
    if mode != "eager":
        assert runs[1].experimental_get_tracing_count() == traces


@pytest.mark.parametrize("program", ["graph", "xla", "xla-loop"])
def test_the_programs_of_fit_take_new_numbers(program: Any) -> None:
    """They equal a training that began with the new numbers, and are not made again."""
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(16, 4)
    y = x.sum(1, keepdims=True)

    def model(**settings: Any) -> Any:
        keras.utils.set_random_seed(3)
        made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
        made.compile(optimizer=AdamW(learning_rate=0.02, **settings), loss="mse")
        return made

    def train(made: Any) -> list[np.ndarray]:
        fit(made, x, y, batch_size=4, epochs=2, shuffle=False, program=program, verbose=0)
        return [np.array(w) for w in made.get_weights()]

    changed, fresh = model(), model(beta_1=0.3, epsilon=0.1, weight_decay=0.5)
    train(changed)
    programs = dict(changed._adamas_programs._made)
    changed.set_weights(model().get_weights())
    for variable in changed.optimizer.variables:
        if "learning_rate" not in variable.path:
            variable.assign(np.zeros(variable.shape))
    changed.optimizer.beta_1, changed.optimizer.epsilon, changed.optimizer.weight_decay = 0.3, 0.1, 0.5
    for mine, right in zip(train(changed), train(fresh), strict=True):
        assert np.array_equal(mine, right)
    assert dict(changed._adamas_programs._made) == programs
    changed.optimizer.clipvalue = 1e-3  # of another kind: the programs are made anew
    train(changed)
    assert not set(map(id, changed._adamas_programs._made.values())) & set(map(id, programs.values()))


@pytest.mark.parametrize("extras", [{}, {"use_ema": True}, {"gradient_accumulation_steps": 2}, {"amsgrad": True}])
@pytest.mark.parametrize("mode", MODES)
def test_variables_added_later(mode: str, extras: dict[str, Any], rng: np.random.Generator) -> None:
    start = tensors(rng, [(5,), (3, 4), (7,)])
    steps = [[tf.constant(g) for g in tensors(rng, [(5,), (3, 4), (7,)])] for _ in range(6)]
    variables = [keras.Variable(p, name=f"v{i}") for i, p in enumerate(start)]
    twins = [keras.Variable(p, name=f"v{i}") for i, p in enumerate(start)]
    optimizer, twin = Adam(0.01, **extras), Adam(0.01, **extras)
    optimizer.build(variables[:2])
    twin.build(twins)
    before = runner(optimizer, variables[:2], mode)
    before(steps[0][:2])
    optimizer.build(variables)
    optimizer.build(variables[2:])  # known by now
    assert len(optimizer.variables) == len(twin.variables)
    assert [v.shape for v in optimizer.variables] == [v.shape for v in twin.variables]
    after = runner(optimizer, variables, mode)
    for step in steps[1:4]:
        after(step)
    before(steps[4][:2])
    after(steps[5])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        runner(twin, twins, "eager")([*steps[0][:2], None])
    for step in steps[1:4]:
        runner(twin, twins, "eager")(step)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        runner(twin, twins, "eager")([*steps[4][:2], None])
    runner(twin, twins, "eager")(steps[5])
    tolerance: dict[str, Any] = (
        {"rtol": 64 * EPS, "atol": 6 * 0.01 * 64 * EPS} if mode == "jit" else {"rtol": 0, "atol": 0}
    )
    for i, (mine, right) in enumerate(zip([*variables, *optimizer.variables], [*twins, *twin.variables], strict=True)):
        if extras.get("use_ema") and i in (7,):
            continue  # the average of a variable begins when the optimizer comes to know it
        np.testing.assert_allclose(mine.numpy(), right.numpy(), **tolerance, err_msg=str(mine))


def test_added_variables_are_saved_in_order(tmp_path: Any) -> None:
    variables = [keras.Variable(np.ones(n, "f"), name=f"v{n}") for n in (2, 3)]
    optimizer, other = Adam(0.1), Adam(0.1)
    optimizer.build(variables[:1])
    optimizer.build(variables)
    optimizer.apply([tf.ones(2), tf.ones(3)], variables)
    path = tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / "checkpoint"))
    other.build(variables)
    tf.train.Checkpoint(optimizer=other).read(path).assert_consumed()
    peer = keras.optimizers.Adam(0.1)
    peer.build(variables)
    peer.set_weights([v.numpy() for v in optimizer.variables])
    for one, two, three in zip(optimizer.variables, other.variables, peer.variables, strict=True):
        assert np.array_equal(one.numpy(), two.numpy())
        assert np.array_equal(one.numpy(), three.numpy())
    assert optimizer.variables[2].numpy().any()


def test_what_cannot_be_added_changes_nothing() -> None:
    optimizer, known = Adam(), tf.Variable(tf.ones(3))
    optimizer.build([known])
    with pytest.raises(UnsupportedError, match="int32"):
        optimizer.build([known, tf.Variable(tf.ones(2)), tf.Variable([1, 2])])
    one = tf.Variable(tf.ones(2))
    with pytest.raises(ArgumentError, match="twice"):
        optimizer.build([one, one])
    assert len(optimizer.variables) == 4
    with pytest.raises(ArgumentError, match="unknown to the optimizer"):
        optimizer.apply([tf.ones(2)], [one])


@pytest.mark.parametrize("jit", [False, True])
def test_frozen_layers_keep_their_weights_and_moments(jit: bool) -> None:
    x = np.ones((8, 3), np.float32)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(1, name="b")])
    optimizer = Adam(0.1)
    model.get_layer("a").trainable = False
    model.compile(optimizer=optimizer, loss="mse", jit_compile=jit)
    frozen = [w.copy() for w in model.get_layer("a").get_weights()]
    model.fit(x, x[:, :1], batch_size=4, verbose=0)
    for w, first in zip(model.get_layer("a").get_weights(), frozen, strict=True):
        assert np.array_equal(w, first)
    model.get_layer("a").trainable = True
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=jit)
    model.fit(x, x[:, :1], batch_size=4, verbose=0)
    assert all(
        not np.array_equal(w, first) for w, first in zip(model.get_layer("a").get_weights(), frozen, strict=True)
    )
    assert int(optimizer.iterations) == 4


@pytest.mark.parametrize("mode", MODES)
def test_several_optimizers_on_one_model(mode: str, rng: np.random.Generator) -> None:
    start = tensors(rng, [(5,), (4, 3)])
    variables = [tf.Variable(p) for p in start]
    optimizers = [Adam(0.05, clipnorm=0.1), Adam(0.01, weight_decay=0.1)]
    references = [Reference(start[:1], 0.05, clipnorm=0.1), Reference(start[1:], 0.01, weight_decay=0.1)]
    for optimizer, variable in zip(optimizers, variables, strict=True):
        optimizer.build([variable])

    def step(grads: list[tf.Tensor]) -> None:
        for optimizer, gradient, variable in zip(optimizers, grads, variables, strict=True):
            optimizer.apply([gradient], [variable])

    run = step if mode == "eager" else tf.function(step, jit_compile=mode == "jit", autograph=False)
    for _ in range(4):
        grads = tensors(rng, [(5,), (4, 3)])
        run([tf.constant(g) for g in grads])
        for reference, g in zip(references, grads, strict=True):
            reference.step([g])
    for variable, reference in zip(variables, references, strict=True):
        np.testing.assert_allclose(variable.numpy(), reference.params[0], rtol=16 * EPS, atol=4 * 0.1 * 64 * EPS)
