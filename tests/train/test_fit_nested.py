"""Several inputs, outputs and weights: nested as the model takes them, with the numbers of `model.fit`."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from adamas.train import fit
from adamas.train.loop.batches import Layout

PROGRAMS = ("graph", "xla", "xla-loop")
ROWS, BATCH = 45, 8
EPS = float(np.finfo(np.float32).eps)


def arrays(rows: int = ROWS, seed: int = 7) -> tuple[dict, dict, dict]:
    rng = np.random.default_rng(seed)
    x = {"wide": rng.normal(size=(rows, 5)), "deep": (rng.normal(size=(rows, 3)), rng.integers(0, 4, (rows, 2)))}
    y = {"sum": x["wide"].sum(axis=1), "sign": (x["deep"][0][:, 0] > 0).astype(np.int32)}
    return x, y, {"sum": rng.uniform(0, 2, rows), "sign": rng.uniform(0, 2, rows)}


def network(**compiled: object) -> keras.Model:
    """Inputs and outputs as in `arrays`; the same weights each time."""
    keras.utils.set_random_seed(3)
    x = {"wide": keras.Input((5,), name="wide"), "deep": (keras.Input((3,)), keras.Input((2,), dtype="int32"))}
    codes = keras.layers.Flatten()(keras.layers.Embedding(4, 2)(x["deep"][1]))
    inner = keras.layers.Dense(6, "tanh")(keras.layers.Concatenate()([x["wide"], x["deep"][0], codes]))
    outputs = {"sum": keras.layers.Dense(1)(inner), "sign": keras.layers.Dense(1, "sigmoid")(inner)}
    model = keras.Model(x, outputs)
    settings = {
        "loss": {"sum": "mse", "sign": "binary_crossentropy"},
        "loss_weights": {"sum": 0.5, "sign": 2.0},
        "metrics": {"sum": ["mae"], "sign": ["accuracy"]},
        "weighted_metrics": {"sum": ["mse"], "sign": []},
    }
    model.compile(keras.optimizers.Adam(0.01), **{**settings, **compiled})
    return model


def assert_same(ours: keras.Model, theirs: keras.Model, history: dict, expected: dict, factor: float = 2) -> None:
    assert list(history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=factor * ROWS * EPS, err_msg=name)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=factor * ROWS * EPS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_several_inputs_outputs_losses_metrics_and_weights(program: str) -> None:
    x, y, weights = arrays()
    settings = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0, "sample_weight": weights}
    held_out = arrays(21, seed=1)
    ours, theirs, other = network(), network(), network()
    expected = theirs.fit(x, y, validation_data=held_out, **settings).history
    history = fit(ours, x, y, program=program, validation_data=held_out, **settings).history
    assert {"loss", "sign_loss", "sum_loss", "sign_accuracy", "sum_mae", "sum_mse", "val_sum_mae"} <= set(history)
    assert_same(ours, theirs, history, expected)
    unweighted = fit(other, x, y, program=program, **{**settings, "sample_weight": None}).history
    assert unweighted["loss"] != history["loss"]


def test_one_array_of_weights_serves_all_outputs_and_a_split_cuts_every_array() -> None:
    x, y, weights = arrays()
    settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "sample_weight": weights["sum"]}
    ours, theirs = network(), network()
    expected = theirs.fit(x, y, validation_split=0.3, **settings).history
    history = fit(ours, x, y, validation_split=0.3, program="graph", **settings).history
    assert_same(ours, theirs, history, expected)


def test_inputs_and_outputs_as_lists() -> None:
    rng = np.random.default_rng(0)
    x, y = [rng.normal(size=(ROWS, 2)), rng.normal(size=(ROWS, 3))], [rng.normal(size=ROWS), rng.normal(size=ROWS)]

    def model() -> keras.Model:
        keras.utils.set_random_seed(3)
        inputs = [keras.Input((2,)), keras.Input((3,))]
        inner = keras.layers.Dense(4, "tanh")(keras.layers.Concatenate()(inputs))
        made = keras.Model(inputs, [keras.layers.Dense(1, name=name)(inner) for name in ("one", "two")])
        made.compile("sgd", ["mse", "mae"], loss_weights=[1.0, 0.1], metrics=[["mae"], ["mse"]])
        return made

    settings = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0}
    ours, theirs = model(), model()
    expected = theirs.fit(x, y, **settings).history
    assert_same(ours, theirs, fit(ours, x, y, program="graph", **settings).history, expected)


def test_tables_of_pandas_are_what_they_are_in_model_fit() -> None:
    pandas = pytest.importorskip("pandas", reason="the package pandas is not installed")
    rng = np.random.default_rng(0)
    x, y = pandas.DataFrame(rng.normal(size=(ROWS, 3)), columns=list("abc")), pandas.Series(rng.normal(size=ROWS))

    def model() -> keras.Model:
        keras.utils.set_random_seed(3)
        made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        made.compile("sgd", "mse")
        return made

    settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "validation_split": 0.2}
    ours, theirs = model(), model()
    expected = theirs.fit(x, y, **settings).history
    assert_same(ours, theirs, fit(ours, x, y, program="graph", **settings).history, expected)


def test_a_layout_packs_what_it_flattened_and_is_equal_to_one_that_packs_alike() -> None:
    batch = ({"b": 1, "a": [2, (3, None)]}, None, (4,))
    layout = Layout(*batch)
    assert layout.pack(layout.flatten(*batch)) == batch
    assert layout == Layout({"b": "p", "a": ["q", ("r", None)]}, None, ("s",))
    assert hash(layout) == hash(Layout(*batch))
    assert layout != Layout({"b": 1, "a": [2, (3, None)]}, (4,), None)
