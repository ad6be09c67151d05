"""Sparse gradients, lazily: eagerly, in graphs, in XLA, in Keras models, and through files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import DISCRIMINATING, same_bits

from adamas.errors import ArgumentError, ArrayError, StateError
from adamas.kernels import reference, rows
from adamas.kernels.tensorflow import stepper
from adamas.rule import Clip, Hyper, Rule, Scalars, clip_factor, scalars, update
from adamas.tensorflow import Adam, AdamW

SHAPES: list[tuple[int, ...]] = [(40, 3), (7,), (9, 2, 5), (4, 4), ()]
# Which gradients of a step are sparse (s), dense (d) or missing (-): tables, one that is also used whole, dense ones.
STEPS = ["sssdd", "ssdd-", "s-sdd", "dssdd", "sssd-", "sdsdd", "ss-dd", "sssdd"]
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "discriminating": DISCRIMINATING,
    "clipnorm": {"clipnorm": 0.5, "learning_rate": 0.1},
    "clipvalue": {"clipvalue": 0.05, "learning_rate": 0.1, "loss_scale_factor": 8.0},
    "global_clipnorm": {"global_clipnorm": 0.7, "learning_rate": 0.1, "loss_scale_factor": 0.5},
}
CLIPS = {"clipnorm": "norm", "clipvalue": "value", "global_clipnorm": "global_norm"}

Gradient = np.ndarray | tuple[np.ndarray, np.ndarray] | None


class Lazy:
    """What an optimizer must give: adamas.kernels.rows for sparse gradients, adamas.rule for dense ones."""

    def __init__(self, params: Sequence[np.ndarray], learning_rate: float = 1e-3, **settings: Any) -> None:
        get = settings.get
        self.rule = Rule("keras", amsgrad="raw" if get("amsgrad") else "off")
        self.hyper = Hyper(
            float(np.float32(learning_rate)),
            get("beta_1", 0.9),
            get("beta_2", 0.999),
            get("epsilon", 1e-7),
            0.0,
            get("weight_decay", 0.0),
        )
        self.clip = next((Clip(kind, settings[name]) for name, kind in CLIPS.items() if name in settings), None)
        self.scale = 1.0 / get("loss_scale_factor", 1.0)
        self.params = [np.array(p) for p in params]
        self.slots = [[np.zeros_like(p) for _ in self.rule.slots] for p in params]
        self.seen = [np.zeros(len(p) + 1 if p.ndim else 1, np.int32) for p in params]
        self.t = 0

    def step(self, grads: Sequence[Gradient]) -> None:
        self.t += 1
        sums = [rows.add_up(*g, len(p)) if isinstance(g, tuple) else g for g, p in zip(grads, self.params, strict=True)]
        squares = [0.0] * len(sums)
        for i, (g, p) in enumerate(zip(sums, self.params, strict=True)):
            whole = np.zeros_like(p)
            if isinstance(g, tuple):
                whole[g[0]] = g[1]
            with reference.ieee():
                squares[i] = reference.sum_of_squares([whole if isinstance(g, tuple) else g])
        # The sum over tensors: the tables' first, as the op is told of them; equal to any other order but for one bit.
        together = sum(s for s, g in zip(squares, sums, strict=True) if isinstance(g, tuple)) + sum(
            s for s, g in zip(squares, sums, strict=True) if not isinstance(g, tuple)
        )
        for i, g in enumerate(sums):
            if g is None:
                continue
            total = together if self.clip is not None and self.clip.kind == "global_norm" else squares[i]
            place = (self.params[i], self.slots[i], self.seen[i])
            if isinstance(g, tuple):
                rows.step(self.rule, self.hyper, self.t, *place, *g, self.scale, self.clip, total)
                continue
            if self.params[i].ndim:
                rows.settle(self.hyper, self.slots[i], self.seen[i])
            factor = self.scale
            if self.clip is not None:
                factor *= clip_factor(self.clip.kind, abs(self.scale) * np.sqrt(total), self.clip.bound)
            by_value = self.clip is not None and self.clip.kind == "value"
            s = scalars(self.rule, self.hyper, self.t, factor, self.clip.bound if by_value else np.inf)
            dtype = self.params[i].dtype.type
            self.params[i], new = update(
                self.params[i],
                g,
                self.slots[i],
                Scalars(*map(dtype, s)),
                coupled=False,
                clipped=by_value,
                tiny=np.finfo(dtype).tiny,
            )
            self.slots[i] = list(new)


def problem(rng: np.random.Generator, dtype: str) -> tuple[list[np.ndarray], list[list[Gradient]]]:
    """Parameters, and the gradients of all STEPS: rows twice and more, from 1e-6 to 10 in size."""
    params = [np.asarray(rng.normal(size=shape), dtype) for shape in SHAPES]

    def gradient(kind: str, shape: tuple[int, ...]) -> Gradient:
        size = 10 ** rng.uniform(-6, 1)
        if kind == "s":
            indices = rng.integers(0, shape[0], 6).astype(rng.choice(["int32", "int64"]))
            indices[rng.integers(0, 6, 3)] = indices[0]
            return indices, np.asarray(rng.normal(size=(6, *shape[1:])) * size, dtype)
        return np.asarray(rng.normal(size=shape) * size, dtype) if kind == "d" else None

    return params, [[gradient(kind, shape) for kind, shape in zip(step, SHAPES, strict=True)] for step in STEPS]


def tensor(gradient: Gradient, shape: tuple[int, ...]) -> Any:
    if isinstance(gradient, tuple):
        return tf.IndexedSlices(tf.constant(gradient[1]), tf.constant(gradient[0]), tf.constant(shape))
    return None if gradient is None else tf.constant(gradient)


def tensors(grads: Sequence[Gradient]) -> list[Any]:
    return [tensor(g, shape) for g, shape in zip(grads, SHAPES, strict=True)]


def moments(optimizer: Adam, i: int) -> list[np.ndarray]:
    """Of parameter i, as they are between two steps."""
    slots = optimizer._ready().slots
    return [np.array(slots.read(slot, i)) for slot in range(len(slots.names))]


def clocks(optimizer: Adam) -> list[np.ndarray]:
    return [seen.numpy() for seen in optimizer._ready().clocks()]


def matches(optimizer: Adam, variables: list[tf.Variable], right: Lazy) -> None:
    assert int(optimizer.iterations) == right.t
    for i, variable in enumerate(variables):
        assert same_bits(variable.numpy(), right.params[i]), variable.shape
        for slot, array in zip(moments(optimizer, i), right.slots[i], strict=True):
            assert same_bits(slot, array), variable.shape
    for mine, its in zip(clocks(optimizer), right.seen, strict=False):
        assert np.array_equal(mine, its)


def with_int64(grads: Sequence[Gradient]) -> list[Gradient]:
    """The same with int64 indices."""
    return [(g[0].astype(np.int64), g[1]) if isinstance(g, tuple) else g for g in grads]


def runner(mode: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Each kind of step is traced once for each of its shapes."""
    return run if mode == "eager" else tf.function(run, jit_compile=mode == "xla", reduce_retracing=False)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_reference(setting: str, dtype: str, mode: str, rng: np.random.Generator) -> None:
    start, steps = problem(rng, dtype)
    variables = [tf.Variable(p) for p in start]
    optimizer, right = Adam(**SETTINGS[setting], sparse="lazy"), Lazy(start, **SETTINGS[setting])
    optimizer.build(variables)

    def step(grads: list[Any]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    run = runner(mode, step)
    for grads in steps:
        run(tensors(grads))
        right.step(grads)
    assert optimizer.kernel.startswith("native")
    assert sum(int(seen[-1]) for seen in right.seen) > 5
    matches(optimizer, variables, right)


EXPRESSIONS = [
    ("discriminating", "auto", "xla"),
    ("global_clipnorm", "xla", "xla"),
    *((setting, "xla", "eager") for setting in SETTINGS),
    ("discriminating", "xla", "function"),
    ("clipnorm", "resource", "eager"),
]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(("setting", "kernel", "mode"), EXPRESSIONS)
def test_the_expression_is_close_to_the_reference(
    setting: str, kernel: Any, mode: str, rng: np.random.Generator
) -> None:
    """Each step moves an element by at most about lr / (1 - beta_1), with a relative error below 64 eps."""
    settings = SETTINGS[setting]
    start, steps = problem(rng, "float64")
    if mode != "eager":  # two traces; XLA takes seconds for each
        steps = [with_int64(grads) for step, grads in zip(STEPS, steps, strict=True) if step in ("sssdd", "sdsdd")]
    variables = [tf.Variable(p) for p in start]
    optimizer, right = Adam(**settings, kernel=kernel, sparse="lazy"), Lazy(start, **settings)
    optimizer.build(variables)

    def step(grads: list[Any]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    run = runner(mode, step)
    for grads in steps:
        run(tensors(grads))
        right.step(grads)
    eps = float(np.finfo(np.float64).eps)
    for i, variable in enumerate(variables):
        np.testing.assert_allclose(variable.numpy(), right.params[i], rtol=8 * eps, atol=8 * 64 * eps)
        for slot, array in zip(moments(optimizer, i), right.slots[i], strict=True):
            np.testing.assert_allclose(slot, array, rtol=64 * eps, atol=64 * eps * np.abs(array).max(initial=0.0))
    for mine, its in zip(clocks(optimizer), right.seen, strict=False):
        assert np.array_equal(mine, its)


@pytest.mark.parametrize("setting", SETTINGS)
def test_rows_that_never_rest_are_the_dense_answer(setting: str, rng: np.random.Generator) -> None:
    """The bits of sparse="dense", duplicates and clips included."""
    start = [np.asarray(rng.normal(size=shape), np.float32) for shape in [(30, 5), (8,)]]
    lazy, dense = ([tf.Variable(p) for p in start] for _ in range(2))
    one, other = Adam(**SETTINGS[setting], sparse="lazy"), Adam(**SETTINGS[setting])
    for _ in range(5):
        indices = np.concatenate([rng.permutation(30), rng.integers(0, 30, 11)])
        values = np.asarray(rng.normal(size=(41, 5)), np.float32)
        grads = [tf.IndexedSlices(values, indices, (30, 5)), tf.constant(rng.normal(size=8), tf.float32)]
        one.apply(grads, lazy)
        other.apply(grads, dense)
    for a, b in zip(lazy, dense, strict=True):
        assert same_bits(a.numpy(), b.numpy())
    for i in range(2):
        assert all(same_bits(a, b) for a, b in zip(moments(one, i), moments(other, i), strict=True))


def test_loop_in_a_graph(rng: np.random.Generator) -> None:
    start = np.asarray(rng.normal(size=(50, 3)), np.float32)
    indices, values = rng.integers(0, 50, (12, 7)), np.asarray(rng.normal(size=(12, 7, 3)), np.float32)
    variable, optimizer, right = tf.Variable(start), AdamW(0.02, sparse="lazy"), Lazy([start], 0.02, weight_decay=0.004)
    optimizer.build([variable])

    @tf.function
    def train() -> None:
        for i in tf.range(12):
            grad = tf.IndexedSlices(tf.constant(values)[i], tf.constant(indices)[i], (50, 3))
            optimizer.apply([grad], [variable])

    train()
    for i in range(12):
        right.step([(indices[i], values[i])])
    matches(optimizer, [variable], right)


def test_gradients_of_unknown_length(rng: np.random.Generator) -> None:
    """One trace for batches of every size, the empty one too."""
    start = np.asarray(rng.normal(size=(20, 3)), np.float32)
    variable, optimizer, right = tf.Variable(start), Adam(0.1, sparse="lazy"), Lazy([start], 0.1)
    optimizer.build([variable])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec(None, tf.float32)])
    def run(indices: tf.Tensor, values: tf.Tensor) -> None:
        optimizer.apply([tf.IndexedSlices(values, indices, (20, 3))], [variable])

    for n in (5, 1, 0, 9):
        grad = rng.integers(0, 20, n), np.asarray(rng.normal(size=(n, 3)), np.float32)
        run(*grad)
        right.step([grad])
    matches(optimizer, [variable], right)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        run(np.arange(2), np.zeros((2, 4), np.float32))
    matches(optimizer, [variable], right)


def test_tables_excluded_from_weight_decay() -> None:
    """A tiny gradient and a huge epsilon: the decay alone moves a row, and only a row with a gradient."""
    decayed, kept = tf.Variable(tf.ones((3, 2)), name="decayed"), tf.Variable(tf.ones((3, 2)), name="kept")
    optimizer = AdamW(0.1, weight_decay=0.5, epsilon=1e30, sparse="lazy")
    optimizer.exclude_from_weight_decay(var_names=["kept"])
    grad = tf.IndexedSlices(tf.ones((1, 2)), [1], (3, 2))
    for _ in range(2):
        optimizer.apply([grad, grad], [decayed, kept])
    np.testing.assert_allclose(decayed.numpy()[:, 0], [1.0, 0.95**2, 1.0], rtol=1e-6)
    assert (kept.numpy() == 1.0).all()


def test_variables_added_later(rng: np.random.Generator) -> None:
    start = [np.asarray(rng.normal(size=shape), np.float32) for shape in [(6, 2), (5, 3)]]
    variables = [tf.Variable(p) for p in start]
    optimizer, right = Adam(0.1, sparse="lazy"), Lazy(start, 0.1)
    grads: list[Gradient] = [(np.array([1, 1]), np.ones((2, 2), np.float32)), None]
    optimizer.apply([tensor(grads[0], (6, 2))], variables[:1])
    right.step(grads)
    optimizer.build(variables)
    grads = [(np.array([3]), np.ones((1, 2), np.float32)), (np.array([4]), np.ones((1, 3), np.float32))]
    optimizer.apply([tensor(grads[0], (6, 2)), tensor(grads[1], (5, 3))], variables)
    right.step(grads)
    matches(optimizer, variables, right)
    assert [tuple(v.shape) for v in optimizer.variables[2:]] == [(6, 2), (6, 2), (5, 3), (5, 3), (7,), (6,)]


def model(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    made = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(500, 6),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    made.compile(Adam(0.05, sparse="lazy", **settings), "mse")
    return made


def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows 400 and above never occur."""
    x = rng.integers(0, 400, (96, 4)).astype(np.int32)
    return x, np.asarray(x[:, :1] % 2, np.float32)


def test_a_keras_model(rng: np.random.Generator) -> None:
    """Keras' fit, the loop of adamas.train.fit, and a loop by hand over the same batches give the same bits."""
    from adamas.train import fit

    x, y = data(rng)
    fitted, looped, by_hand = model(), model(), model()
    begin = fitted.layers[0].embeddings.numpy()
    fitted.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    history = fit(looped, x, y, batch_size=32, epochs=2, shuffle=False, verbose=0, program="graph")
    assert history.params["program"] == "graph"
    loss = keras.losses.MeanSquaredError()
    for i in [0, 32, 64] * 2:
        with tf.GradientTape() as tape:
            value = loss(y[i : i + 32], by_hand(x[i : i + 32]))
        grads = tape.gradient(value, [v.value for v in by_hand.trainable_variables])
        assert isinstance(grads[0], tf.IndexedSlices)
        by_hand.optimizer.apply(grads, by_hand.trainable_variables)
    end = fitted.layers[0].embeddings.numpy()
    assert same_bits(end[400:], begin[400:])
    assert (end[np.unique(x)] != begin[np.unique(x)]).any()
    assert clocks(fitted.optimizer)[0][-1] == 6
    for one, two, three in zip(fitted.get_weights(), looped.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one, three, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("program", ["xla", "xla-loop"])
def test_programs_of_fit(program: str, rng: np.random.Generator) -> None:
    """The other programs of adamas.train.fit take the gradient's rows out of XLA, or step them inside it."""
    from adamas.train import fit

    x, y = data(rng)
    plain, other = model(), model()
    begin = plain.layers[0].embeddings.numpy()
    fit(plain, x, y, batch_size=32, epochs=2, shuffle=False, verbose=0, program="graph")
    fit(other, x, y, batch_size=32, epochs=2, shuffle=False, verbose=0, program=program)
    for one, two in zip(plain.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert same_bits(other.layers[0].embeddings.numpy()[400:], begin[400:])
    for one, two in zip(clocks(plain.optimizer), clocks(other.optimizer), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("way", ["eager", "function", "fit", "train.fit"])
def test_the_table_is_not_copied(way: str, rng: np.random.Generator) -> None:
    """Steps happen where the table is: the forward pass has let go of what it read of it."""
    from adamas.train import fit

    x, y = data(rng)
    trained = model()
    table, optimizer = trained.layers[0].embeddings.value, trained.optimizer
    loss = keras.losses.MeanSquaredError()

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            value = loss(y, trained(x))
        optimizer.apply(
            tape.gradient(value, [v.value for v in trained.trainable_variables]), trained.trainable_variables
        )

    if way in ("fit", "train.fit"):

        def run() -> None:
            if way == "fit":
                trained.fit(x, y, batch_size=32, shuffle=False, verbose=0)
            else:
                fit(trained, x, y, batch_size=32, verbose=0, program="graph")

    else:
        call = tf.function(step) if way == "function" else step

        def run() -> None:
            for i in (0, 32, 64):
                call(tf.constant(x[i : i + 32]), tf.constant(y[i : i + 32]))

    run()
    places = [table, *(moment.value for moment in optimizer._ready().slots.places([0])[0])]
    before, addresses = table.numpy().copy(), [address(place) for place in places]
    run()
    assert not np.array_equal(table.numpy(), before)
    assert [address(place) for place in places] == addresses


def address(variable: tf.Variable) -> int:
    return int(np.from_dlpack(variable.read_value()).__array_interface__["data"][0])


def test_a_table_that_somebody_holds_is_copied(rng: np.random.Generator) -> None:
    variable, optimizer = tf.Variable(tf.ones((100, 4))), Adam(0.1, sparse="lazy")
    optimizer.build([variable])
    held = variable.read_value()
    optimizer.apply([tf.IndexedSlices(tf.ones((1, 4)), [5], (100, 4))], [variable])
    assert (held.numpy() == 1).all()
    assert variable.numpy()[5, 0] < 1


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


def test_without_the_op(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(stepper.op, "why_not", lambda: "no compiler")
    start = np.asarray(rng.normal(size=(6, 2)), np.float32)
    variable, optimizer, right = tf.Variable(start), Adam(0.1, sparse="lazy"), Lazy([start], 0.1)
    for step in range(3):
        grad = np.array([step, step + 1, step]), np.ones((3, 2), np.float32)
        optimizer.apply([tensor(grad, (6, 2))], [variable])
        right.step([grad])
    assert optimizer.kernel.startswith("resource")
    np.testing.assert_allclose(variable.numpy(), right.params[0], rtol=1e-5)
