"""Data sets, generators and `PyDataset`s: the numbers of `model.fit` for each kind, whatever program trains."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from adamas.errors import ArgumentError, DataError, UnsupportedError
from adamas.train import epoch_order, fit, snapshot
from adamas.train.loop import buffers

PROGRAMS = ("graph", "xla", "xla-loop")
ROWS, BATCH = 45, 8  # five full batches and one of five rows
EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(7)
X = RNG.normal(size=(ROWS, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 1)
W = RNG.uniform(0, 2, ROWS).astype(np.float32)


def network(*inner: keras.layers.Layer, optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    """A small classifier; its initial weights are the same at each call."""
    keras.utils.set_random_seed(11)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "tanh"), *inner, keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    # Not Adam: at the end of data of unknown length Keras' own fit counts a step that it does not take.
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, loss, metrics=metrics, weighted_metrics=[])
    return model


@pytest.fixture(scope="module")
def models() -> Callable[[str], keras.Model]:
    """One model for each program and one for Keras' own fit, as it was in the beginning: each compiles once."""
    made: dict[str, tuple] = {}

    def fresh(name: str) -> keras.Model:
        if name not in made:
            model = network()
            model.optimizer.build(model.trainable_variables)
            made[name] = (model, snapshot(model))
        made[name][1].restore()
        return made[name][0]

    return fresh


def batches(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    for at in range(0, len(arrays[0]), BATCH):
        yield tuple(array[at : at + BATCH] for array in arrays)


class Batches(keras.utils.PyDataset):
    """Batches of arrays; tells what Keras told it."""

    def __init__(self, *arrays: np.ndarray, **settings: object):
        super().__init__(**settings)
        self.arrays, self.calls, self.asked = arrays, [], []

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        self.asked.append(index)
        return tuple(array[index * BATCH : (index + 1) * BATCH] for array in self.arrays)

    def on_epoch_begin(self) -> None:
        self.calls.append("begin")

    def on_epoch_end(self) -> None:
        self.calls.append("end")
        self.arrays = tuple(np.roll(array, 3, axis=0) for array in self.arrays)


def dataset(*arrays: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays)


def endless(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    while True:
        yield from batches(*arrays)


def of_unknown_length(*arrays: np.ndarray) -> tf.data.Dataset:
    return dataset(*arrays).batch(BATCH).filter(lambda *_: True)


def of_unknown_rank() -> tf.data.Dataset:
    return tf.data.Dataset.from_generator(lambda: batches(X, Y), output_types=("float32", "int64"))


KINDS: dict[str, tuple[Callable[[], object], dict]] = {
    "dataset": (lambda: dataset(X, Y).batch(BATCH), {}),
    "static batches": (lambda: dataset(X, Y).batch(BATCH, drop_remainder=True), {}),
    "weights": (lambda: dataset(X, Y, W).batch(BATCH), {}),
    "class weights": (lambda: dataset(X, Y).batch(BATCH), {"class_weight": {0: 0.5, 2: 3.0}}),
    "unknown length": (lambda: of_unknown_length(X, Y), {}),
    "steps of a finite one": (lambda: dataset(X, Y).batch(BATCH), {"steps_per_epoch": 4}),
    "steps of an unknown one": (lambda: of_unknown_length(X, Y), {"steps_per_epoch": 4}),
    "steps of an endless one": (lambda: dataset(X, Y).repeat().batch(BATCH), {"steps_per_epoch": 4}),
    "generator": (lambda: batches(X, Y), {}),
    "endless generator": (lambda: endless(X, Y, W), {"steps_per_epoch": 4}),
    "PyDataset": (lambda: Batches(X, Y, W), {}),
    "PyDataset, workers": (lambda: Batches(X, Y, workers=2), {"class_weight": {1: 2.0}}),
    "arrays, steps": (lambda: (X, Y), {"steps_per_epoch": 4, "batch_size": 8}),
    "arrays, steps alone": (lambda: (X, Y), {"steps_per_epoch": 4}),
}


def given(data: object) -> tuple:
    return data if isinstance(data, tuple) else (data,)


def assert_same(ours: keras.Model, theirs: keras.Model, history: dict, expected: dict) -> None:
    assert list(history) == list(expected)
    for name, values in expected.items():
        # float32 sums of ROWS terms in another order: at most ROWS eps of the sum, and the weights may differ as much
        np.testing.assert_allclose(history[name], values, rtol=4 * ROWS * EPS, err_msg=name)
        assert [type(value) for value in history[name]] == [type(value) for value in values], name
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2 * ROWS * EPS)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras; ours is tested below
@pytest.mark.filterwarnings("ignore:The data ran out")
@pytest.mark.parametrize(
    ("kind", "program"),
    [
        *((kind, "graph") for kind in KINDS),
        *((kind, "xla-loop") for kind in KINDS if not kind.startswith("arrays")),  # tests/train/test_fit.py
        ("dataset", "xla"),  # which takes batches as "graph" does
    ],
)
def test_the_numbers_are_those_of_model_fit(kind: str, program: str, models: Callable) -> None:
    make, settings = KINDS[kind]
    settings = {"epochs": 3, "shuffle": False, "verbose": 0, **settings}
    ours, theirs = models(program), models("model.fit")
    expected = theirs.fit(*given(make()), **settings)
    history = fit(ours, *given(make()), program=program, **settings)
    assert_same(ours, theirs, history.history, expected.history)
    if "unknown" not in kind and kind != "generator":
        assert int(ours.optimizer.iterations.value) == int(theirs.optimizer.iterations.value)
        assert history.params["steps"] == expected.params["steps"]


HELD_OUT: dict[str, tuple[Callable[[], object], dict]] = {
    "dataset": (lambda: dataset(X[:21], Y[:21], W[:21]).batch(BATCH), {"validation_freq": 2}),
    "steps": (lambda: dataset(X, Y).batch(BATCH), {"validation_steps": 3}),
    "endless generator": (lambda: endless(X[:BATCH], Y[:BATCH]), {"validation_steps": 3}),
    "PyDataset": (lambda: Batches(X, Y), {}),
    "arrays": (lambda: (X, Y, W), {"validation_steps": 2, "validation_batch_size": 5}),
}


@pytest.mark.parametrize("kind", HELD_OUT)
def test_validation_data_of_each_kind(kind: str, models: Callable) -> None:
    make, settings = HELD_OUT[kind]
    settings = {"epochs": 3, "verbose": 0, "shuffle": False, **settings}
    ours, theirs = models("graph"), models("model.fit")
    expected = theirs.fit(dataset(X, Y).batch(BATCH), validation_data=make(), **settings).history
    history = fit(ours, dataset(X, Y).batch(BATCH), validation_data=make(), program="graph", **settings).history
    assert "val_top2" in history
    assert_same(ours, theirs, history, expected)


def test_arrays_validated_on_a_data_set_with_a_program_of_xla(models: Callable) -> None:
    held_out = dataset(X[:21], Y[:21]).batch(BATCH)
    settings = {"epochs": 2, "verbose": 0, "shuffle": False, "batch_size": BATCH, "validation_data": held_out}
    ours, theirs = models("xla-loop"), models("model.fit")
    expected = theirs.fit(X, Y, **settings).history
    assert_same(ours, theirs, fit(ours, X, Y, program="xla-loop", **settings).history, expected)


@pytest.mark.parametrize("program", ["graph", "xla-loop"])
def test_results_do_not_depend_on_how_many_steps_a_call_runs_or_a_buffer_holds(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(keras.layers.Dropout(0.3), optimizer=keras.optimizers.Adam(0.01))
    start = snapshot(model)
    found = []
    for piece, most, patience in ((None, 512, 9), (3, 512, 0.0), (1, 2, 9)):
        monkeypatch.setattr(buffers, "MOST", most)
        monkeypatch.setattr(buffers, "PATIENCE", patience)
        start.restore()
        data = dataset(X, Y).batch(BATCH).repeat()
        settings = {"steps_per_epoch": 7, "epochs": 2, "piece_steps": piece, "verbose": 0, "program": program}
        history = fit(model, data, **settings)
        found.append((history.history, [v.numpy() for v in (*model.variables, *model.optimizer.variables)]))
    for history, values in found[1:]:
        assert history == found[0][0]
        for a, b in zip(values, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


def texts() -> tuple[tf.data.Dataset, Callable[[], keras.Model]]:
    """Sentences of several lengths, as dictionaries, and a model for them with a mask."""
    rng = np.random.default_rng(1)

    def examples() -> Iterator[tuple[dict, np.ndarray]]:
        for length in (3, 5, 3, 7, 5, 5):
            words = rng.integers(0, 9, (4, length))
            yield {"words": words, "lengths": np.full((4, 1), length, "f")}, (words[:, :1] / 9).astype("f")

    fixed = list(examples())
    spec = (
        {"words": tf.TensorSpec([None, None], tf.int64), "lengths": tf.TensorSpec([None, 1])},
        tf.TensorSpec([None, 1]),
    )

    def model() -> keras.Model:
        keras.utils.set_random_seed(5)
        words, lengths = keras.Input((None,), name="words"), keras.Input((1,), name="lengths")
        inner = keras.layers.Embedding(9, 4, mask_zero=True)(words)
        inner = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling1D()(inner), lengths])
        made = keras.Model({"words": words, "lengths": lengths}, keras.layers.Dense(1)(inner))
        made.compile(keras.optimizers.SGD(0.01), "mse", metrics=["mae"])
        return made

    return tf.data.Dataset.from_generator(lambda: iter(fixed), output_signature=spec), model


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_of_several_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    data, make = texts()
    theirs, auto, xla, mixed = make(), make(), make(), make()
    expected = theirs.fit(data, epochs=2, shuffle=False, verbose=0).history
    history = fit(auto, data, epochs=2, verbose=0)
    assert history.params["program"] == "graph"
    assert_same(auto, theirs, history.history, expected)
    assert_same(xla, theirs, fit(xla, data, epochs=2, verbose=0, program="xla-loop").history, expected)
    monkeypatch.setattr(buffers, "SHAPES", 1)
    assert_same(mixed, theirs, fit(mixed, data, epochs=2, verbose=0, program="xla-loop").history, expected)


def test_the_program_is_chosen_as_for_arrays_where_batches_are_alike(models: Callable) -> None:
    assert fit(models("xla-loop"), dataset(X, Y).batch(BATCH), verbose=0).params["program"] == "xla-loop"
    unlike = dataset(X, Y).batch(BATCH).map(lambda x, y: (tf.RaggedTensor.from_tensor(x), y))
    for program in ("xla", "xla-loop"):
        with pytest.raises(UnsupportedError, match=r"RaggedTensorSpec.*program='graph'"):
            fit(network(), unlike, verbose=0, program=program)


def test_several_inputs_outputs_and_weights_in_a_data_set() -> None:
    rng = np.random.default_rng(2)
    x = {"a": rng.normal(size=(ROWS, 2)).astype("f"), "b": rng.normal(size=(ROWS, 3)).astype("f")}
    y = {"one": (x["a"][:, :1] > 0).astype("f"), "two": x["b"][:, :1]}
    w = {"one": W, "two": W[::-1].copy()}
    data = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(BATCH)

    def model() -> keras.Model:
        keras.utils.set_random_seed(3)
        inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
        inner = keras.layers.Dense(4, "tanh")(keras.layers.Concatenate()([inputs["a"], inputs["b"]]))
        outputs = {"one": keras.layers.Dense(1, "sigmoid")(inner), "two": keras.layers.Dense(1)(inner)}
        made = keras.Model(inputs, outputs)
        metrics = {
            "one": [keras.metrics.AUC(name="auc"), keras.metrics.F1Score(threshold=0.5, name="f1")],
            "two": ["mae"],
        }
        made.compile(
            "sgd", {"one": "binary_crossentropy", "two": "mse"}, loss_weights={"one": 2.0, "two": 0.5}, metrics=metrics
        )
        return made

    ours, theirs = model(), model()
    expected = theirs.fit(data, epochs=2, shuffle=False, verbose=0, validation_data=data).history
    history = fit(ours, data, epochs=2, verbose=0, validation_data=data, program="graph").history
    assert {"one_auc", "one_loss", "val_two_mae"} <= set(history)
    # The F1 score is one number an output, and stays an array.
    for name in [name for name in expected if name.endswith("f1_score")]:
        np.testing.assert_allclose(history.pop(name), expected.pop(name), rtol=ROWS * EPS)
    assert_same(ours, theirs, history, expected)


def test_a_pydataset_hears_what_keras_tells_it_and_its_order_is_seeded(models: Callable) -> None:
    ours, theirs = Batches(X, Y), Batches(X, Y)
    settings = {"epochs": 2, "verbose": 0, "shuffle": False}
    models("model.fit").fit(theirs, validation_data=Batches(X, Y), **settings)
    fit(models("graph"), ours, validation_data=Batches(X, Y), program="graph", **settings)
    assert ours.calls == theirs.calls
    assert ours.asked == theirs.asked
    orders = []
    for seed in (3, 3, 4):
        random.seed(len(orders))
        shuffled = Batches(X, Y)
        fit(models("graph"), shuffled, epochs=3, initial_epoch=1, seed=seed, program="graph", verbose=0)
        orders.append(shuffled.asked[2:])  # Keras looks at two batches for their shapes
    assert orders[0] == [*epoch_order(6, 3, 1), *epoch_order(6, 3, 2)]
    assert orders[1] == orders[0] != orders[2]


def test_data_that_ends_early_is_told_and_training_goes_on(models: Callable) -> None:
    model = models("graph")
    settings = {"verbose": 0, "program": "graph"}
    with pytest.warns(UserWarning, match="The data ran out after 6 of 9 batches"):
        history = fit(model, dataset(X, Y).batch(BATCH), epochs=1, steps_per_epoch=9, **settings)
    assert int(model.optimizer.iterations.value) == 6
    assert history.params["steps"] == 9
    with pytest.warns(UserWarning, match=r"ran out after 2 of 6 batches .*generator gives its batches only once"):
        fit(model, batches(X, Y), epochs=2, **settings)
    with pytest.warns(UserWarning, match="45 rows give 6"):
        fit(model, X, Y, batch_size=BATCH, steps_per_epoch=7, **settings)
    with pytest.warns(UserWarning, match="validation data ran out after 6 of 7"):
        fit(model, X, Y, validation_data=dataset(X, Y).batch(BATCH), validation_steps=7, **settings)
    assert fit(model, of_unknown_length(X, Y), epochs=2, **settings).epoch == [0, 1]  # says nothing


@pytest.mark.parametrize(
    ("change", "what", "error"),
    [
        ({"x": lambda: dataset(X, Y).batch(BATCH), "y": Y}, "y was given beside x of type", ArgumentError),
        ({"x": lambda: batches(X, Y), "sample_weight": W}, "sample_weight was given beside x", ArgumentError),
        ({"x": lambda: Batches(X, Y), "batch_size": 4}, "batch_size was given beside x", ArgumentError),
        ({"x": lambda: Batches(X, Y), "validation_split": 0.5}, "validation_split is for arrays", ArgumentError),
        ({"x": lambda: dataset(X, Y).batch(BATCH).repeat()}, "no end: give steps_per_epoch", ArgumentError),
        ({"validation_data": lambda: dataset(X, Y).repeat().batch(9)}, "no end: give validation_steps", ArgumentError),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0", ArgumentError),
        ({"x": lambda: dataset(X[:0], Y[:0]).batch(BATCH)}, "no batches", DataError),
        ({"x": lambda: of_unknown_length(X[:0], Y[:0])}, "gave no batch", DataError),
        ({"x": lambda: batches(X, Y), "class_weight": {0: 2.0}}, "class_weight needs", UnsupportedError),
        ({"x": of_unknown_rank}, "unknown rank", DataError),
        ({"validation_data": lambda: {"x": X}}, "validation_data of type dict", ArgumentError),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)  # fmt: skip
def test_what_nothing_does_is_refused(change: dict, what: str, error: type[Exception], models: Callable) -> None:
    data = {"x": lambda: dataset(X, Y).batch(BATCH), **change}
    data = {name: value() if callable(value) else value for name, value in data.items()}
    with pytest.raises(error, match=what):
        fit(models("graph"), verbose=0, program="graph", **data)


class OwnError(Exception):
    """Of the user's own code."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_generator_raises_goes_through_and_leaves_whole_steps(program: str, models: Callable) -> None:
    def failing() -> Iterator[tuple[np.ndarray, ...]]:
        yield from list(batches(X, Y))[:3]
        raise OwnError("no more")

    model, again = models(program), models("model.fit")
    with pytest.raises(OwnError, match="no more"):
        fit(model, failing(), verbose=0, program=program, steps_per_epoch=5)
    done = int(model.optimizer.iterations.value)
    assert done == 3 if program == "graph" else done in range(4)  # a buffer that is not full is left out
    if done:
        again.fit(X[: done * BATCH], Y[: done * BATCH], batch_size=BATCH, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=ROWS * EPS)

    class Failing(Batches):
        def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
            if index == 4:
                raise OwnError("batch 4")
            return super().__getitem__(index)

    with pytest.raises(OwnError, match="batch 4"):
        fit(model, Failing(X, Y), verbose=0, program=program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_batch_too_many_is_waited_for(program: str, models: Callable) -> None:
    over = threading.Event()

    def reluctant() -> Iterator[tuple[np.ndarray, ...]]:
        for _ in range(4):
            yield X[:BATCH], Y[:BATCH]
        assert over.wait(20)

    def ended(epoch: int, logs: object) -> None:
        if epoch == 1:
            over.set()

    callback = keras.callbacks.LambdaCallback(on_epoch_end=ended)
    fit(models(program), reluctant(), steps_per_epoch=2, epochs=2, callbacks=callback, verbose=0, program=program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_is_heard_at_once_and_leaves_whole_steps(program: str) -> None:
    # The gradient of mean(w x) at x = 1 is 1: each step takes exactly 1/1024 off w.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(2.0**-10), loss=lambda y_true, y_pred: y_pred)
    data = tf.data.Dataset.from_tensors((np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))).repeat()
    fit(model, data, steps_per_epoch=600, program=program, verbose=0)
    sent = []

    def interrupt() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.5, interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            fit(model, data, steps_per_epoch=10**9, program=program, verbose=0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - sent[0] < 3.0  # a hang would last 10^9 steps
    timer.join()
    steps = int(model.optimizer.iterations.value)
    assert steps > 600
    assert float(model.get_weights()[0].item()) == -steps / 1024


def test_a_second_training_compiles_nothing(models: Callable) -> None:
    counted = []

    def loss(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        counted.append(1)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    model = network()
    model.compile("sgd", loss)
    for program in PROGRAMS:
        fit(model, dataset(X, Y).batch(BATCH), program=program, verbose=0)
        count = len(counted)
        fit(model, dataset(X + 1, Y).batch(BATCH), program=program, verbose=0)
        fit(model, dataset(X + 2, Y).batch(BATCH), steps_per_epoch=3, piece_steps=2, program=program, verbose=0)
        assert len(counted) == count > 0
