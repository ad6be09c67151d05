"""Keras' files in both directions: training goes on from the very state, within what float32 beta^t costs Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from continuing import SETTINGS, assert_same_state, assert_within, go_on, network, same, state, steps, weights

import adamas.keras
from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.keras import Adam, AdamW

# Keras 3.15 converts tensors with a NumPy call that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Optimizers = keras.optimizers


def wrapped(cls: type, kind: str) -> Any:
    """One of the wrappers that Keras puts around an optimizer."""
    if kind == "scaling":
        return Optimizers.LossScaleOptimizer(cls(0.02, amsgrad=True), initial_scale=64.0, dynamic_growth_steps=5)
    pairs = {"net/hidden/.*|hidden/.*": cls(0.02, amsgrad=True)}
    return Optimizers.MultiOptimizer(Optimizers.OptimizerMap(cls(0.05, name="rest"), pairs))


def optimizer(case: str, ours: bool) -> Any:
    cls = Adam if ours else Optimizers.Adam
    if case in WRAPPERS:
        return wrapped(cls, case)
    if case == "decay":
        cls = AdamW if ours else Optimizers.AdamW
    return cls(**{"learning_rate": 0.02, **SETTINGS[case]})


WRAPPERS = ["scaling", "several"]
CASES = [*SETTINGS, *WRAPPERS]


def trained(case: str, ours: bool, **compile_options: Any) -> keras.Model:
    """A model in the middle of its training: of its accumulation too."""
    model = network(optimizer(case, ours), **compile_options)
    model.optimizer.build(model.trainable_variables)
    go_on(model, steps(seed=1))
    return model


def inner(optimizer: Any) -> list[Any]:
    if isinstance(optimizer, Optimizers.MultiOptimizer):
        return list(optimizer.optimizers)
    return [getattr(optimizer, "inner_optimizer", optimizer)]


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_keras_goes_on_in_adamas(case: str, tmp_path: Path) -> None:
    model = trained(case, ours=False, jit_compile=False)
    model.save(tmp_path / "model.keras")
    its, mine = keras.models.load_model(tmp_path / "model.keras"), adamas.keras.load_model(tmp_path / "model.keras")
    assert {type(o) for o in inner(mine.optimizer)} <= {Adam, AdamW}
    assert not {type(o) for o in inner(its.optimizer)} & {Adam, AdamW}
    assert mine.jit_compile is False
    assert same(state(mine.optimizer), state(model.optimizer))
    assert same(state(its.optimizer), state(model.optimizer))
    moved = go_on(its, steps(seed=2))
    go_on(mine, steps(seed=2))
    assert_within(case, weights(mine), weights(its), moved)
    assert_same_state(case, state(mine.optimizer), state(its.optimizer), moved)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each case, as `save_model` wrote it, and what a process without Adamas made of them."""
    folder = tmp_path_factory.mktemp("files")
    for case in CASES:
        model = trained(case, ours=True)
        before = state(model.optimizer), model.optimizer, weights(model)
        adamas.keras.save_model(model, folder / f"{case}.keras")
        assert model.optimizer is before[1]
        assert same(state(model.optimizer), before[0])
        assert same(weights(model), before[2])
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{case}.keras" for case in CASES)
    here = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(here / "keras_only.py"), str(folder)],
        check=True,
        env=environment,
        timeout=120,
    )
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_adamas_goes_on_where_only_keras_is(case: str, elsewhere: Path) -> None:
    model = trained(case, ours=True)
    with np.load(elsewhere / f"{case}.npz") as found:
        its = {
            what: [found[name] for name in sorted(found.files) if name.startswith(f"{what}-")]
            for what in ("loaded", "moved", "weights", "state")
        }
        assert str(found["optimizer"]).startswith("keras.")
    assert same(state(model.optimizer), its["loaded"])
    go_on(model, steps(seed=2))
    assert_within(case, weights(model), its["weights"], its["moved"])
    assert_same_state(case, state(model.optimizer), its["state"], its["moved"])


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_adamas_goes_on_to_the_bit(case: str, tmp_path: Path) -> None:
    model = trained(case, ours=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert {type(o) for o in inner(again.optimizer)} == {type(o) for o in inner(model.optimizer)}
    assert same(state(again.optimizer), state(model.optimizer))
    for one in (model, again):
        go_on(one, steps(seed=2))
    assert same(weights(again), weights(model))
    assert same(state(again.optimizer), state(model.optimizer))


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_weights_files_go_both_ways(case: str, ours: bool, tmp_path: Path) -> None:
    model = trained(case, ours)
    model.save_weights(tmp_path / "model.weights.h5")
    other = network(optimizer(case, not ours))
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    assert same(state(other.optimizer), state(model.optimizer))
    assert same(weights(other), weights(model))


@pytest.mark.parametrize("case", CASES)
def test_saved_before_the_first_step(case: str, tmp_path: Path) -> None:
    """Built, as `compile` leaves it after loading, or not even that: both begin at zero."""
    for build in (False, True) if case not in WRAPPERS else (True,):  # Keras warns about wrappers that are not built
        its = network(optimizer(case, ours=False))
        if build:
            its.optimizer.build(its.trainable_variables)
        its.save(tmp_path / "model.keras")
        mine = adamas.keras.load_model(tmp_path / "model.keras")
        moved = go_on(its, steps(seed=2))
        go_on(mine, steps(seed=2))
        assert_within(case, weights(mine), weights(its), moved)


def test_not_compiled(tmp_path: Path) -> None:
    model = trained("adam", ours=False)
    model.save(tmp_path / "model.keras")
    loaded = adamas.keras.load_model(tmp_path / "model.keras", compile=False)
    assert not loaded.compiled
    adamas.keras.save_model(loaded, tmp_path / "plain.keras")
    assert same(weights(keras.models.load_model(tmp_path / "plain.keras")), weights(model))
    sgd = network("sgd")
    sgd.save(tmp_path / "sgd.keras")
    assert type(adamas.keras.load_model(tmp_path / "sgd.keras").optimizer) is Optimizers.SGD


def test_custom_objects_and_unsafe_ones(tmp_path: Path) -> None:
    class Doubled(keras.layers.Dense):
        def call(self, inputs: Any) -> Any:
            return 2 * super().call(inputs)

    def cubic(y: Any, p: Any) -> Any:
        return tf.reduce_mean(abs(y - p) ** 3)

    model = keras.Sequential([keras.Input((2,)), Doubled(1), keras.layers.Lambda(lambda x: x + 1)])
    model.compile(Optimizers.Adam(0.1), loss=cubic)
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    given = {"Doubled": Doubled, "cubic": cubic}
    with pytest.raises(ValueError, match="safe_mode"):
        adamas.keras.load_model(tmp_path / "model.keras", given)
    loaded = adamas.keras.load_model(tmp_path / "model.keras", given, safe_mode=False)
    assert type(loaded.optimizer) is Adam
    assert type(loaded.layers[0]) is Doubled
    assert same(state(loaded.optimizer), state(model.optimizer))
    loaded.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)


def test_assets_are_kept(tmp_path: Path) -> None:
    """What layers keep beside their weights: here a vocabulary."""
    words = keras.layers.IntegerLookup()
    words.adapt(np.array([7, 7, 7, 3, 3, 9]))
    model = keras.Sequential([keras.Input((2,), dtype="int64"), words, keras.layers.Embedding(5, 2)])
    model.compile(Optimizers.Adam(0.1), loss="mse")
    model.save(tmp_path / "model.keras")
    mine = adamas.keras.load_model(tmp_path / "model.keras")
    adamas.keras.save_model(mine, tmp_path / "back.keras")
    back = keras.models.load_model(tmp_path / "back.keras")
    batch = tf.constant([[7, 3], [9, 8]], tf.int64)
    for loaded in (mine, back):
        assert loaded.layers[0].get_vocabulary() == words.get_vocabulary()
        assert np.array_equal(loaded(batch), model(batch))


@keras.saving.register_keras_serializable("tests")
class Pair(keras.Model):
    """Two networks with an optimizer each, compiled in a way of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.second = keras.layers.Dense(1), keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.first(x) + self.second(x)

    def compile(self, one: Any, two: Any) -> None:
        super().compile(loss="mse")
        self.one, self.two = one, two

    def get_compile_config(self) -> dict[str, Any]:
        return {"optimizers": [keras.saving.serialize_keras_object(optimizer) for optimizer in (self.one, self.two)]}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(*map(keras.saving.deserialize_keras_object, config["optimizers"]))
        self.one.build(self.first.trainable_variables)
        self.two.build(self.second.trainable_variables)

    def step(self) -> None:
        for optimizer, layer in ((self.one, self.first), (self.two, self.second)):
            optimizer.apply([tf.ones(v.shape) for v in layer.trainable_variables], layer.trainable_variables)


def test_a_model_with_optimizers_of_its_own(tmp_path: Path) -> None:
    model = Pair()
    model(tf.ones((1, 3)))
    model.compile(Optimizers.Adam(0.1), Optimizers.AdamW(0.01))
    model.step()
    model.save(tmp_path / "model.keras")
    loaded = adamas.keras.load_model(tmp_path / "model.keras")
    assert (type(loaded.one), type(loaded.two)) == (Adam, AdamW)
    for mine, its in ((loaded.one, model.one), (loaded.two, model.two)):
        assert same(state(mine), state(its))
    adamas.keras.save_model(loaded, tmp_path / "back.keras")
    back = keras.models.load_model(tmp_path / "back.keras")
    assert (type(back.one), type(back.two)) == (Optimizers.Adam, Optimizers.AdamW)
    assert same(state(back.two), state(model.two))


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("built", [False, True])
def test_to_keras(case: str, built: bool) -> None:
    mine = optimizer(case, ours=True)
    model = network(mine)
    if built:
        mine.build(model.trainable_variables)
        go_on(model, steps(seed=1))
    its = mine.to_keras()
    assert type(its) is (Optimizers.AdamW if case == "decay" else Optimizers.Adam)
    assert its.get_config() == mine.get_config()
    assert its.built is built
    assert same(state(its), state(mine))
    peer = network(its)
    peer.set_weights(model.get_weights())
    if built:  # the copy steps the variables of the original: give it the same numbers elsewhere
        copy = type(its).from_config(its.get_config())
        copy.build(peer.trainable_variables)
        copy.set_weights(its.variables)
        peer.compile(copy, loss="mse")
    moved = go_on(peer, steps(seed=2))
    go_on(model, steps(seed=2))
    assert_within(case, weights(model), weights(peer), moved)


def test_to_keras_shares_no_state_and_steps_the_same_variables() -> None:
    variables = [tf.Variable(tf.ones(3)), tf.Variable(tf.ones(2))]
    mine = AdamW(0.1, weight_decay=0.5, kernel="native")
    mine.exclude_from_weight_decay(var_list=variables[1:])
    mine.apply([tf.ones(3), tf.ones(2)], variables)
    before, start = state(mine), variables[1].numpy()
    its = mine.to_keras()
    its.apply([tf.zeros(3), tf.zeros(2)], variables)
    assert same(state(mine), before)
    assert (variables[1].numpy() < start).all()
    its.learning_rate = 0.0
    assert float(mine.learning_rate) == np.float32(0.1)
    assert [its._use_weight_decay(v) for v in variables] == [True, False]
    rate = Adam(lambda: 0.25).to_keras()
    assert float(rate.learning_rate) == 0.25

    class Own(Adam):
        pass

    with pytest.raises(UnsupportedError, match="Own"):
        Own().to_keras()


def test_exclusions_are_not_in_files(tmp_path: Path) -> None:
    """As in Keras: they are named again after loading, at any time."""
    model = network(AdamW(0.1, weight_decay=0.5))
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    go_on(model, steps(seed=1))
    adamas.keras.save_model(model, tmp_path / "model.keras")
    for load in (adamas.keras.load_model, keras.models.load_model):
        loaded = load(tmp_path / "model.keras")
        decays = [loaded.optimizer._use_weight_decay(v) for v in loaded.trainable_variables]
        assert decays == [True, True, True, True]
        loaded.optimizer.exclude_from_weight_decay(var_names=["bias"])
        decays = [loaded.optimizer._use_weight_decay(v) for v in loaded.trainable_variables]
        assert decays == [True, False, True, False]
        if load is adamas.keras.load_model:
            go_on(loaded, steps(seed=2))
            go_on(model, steps(seed=2))
            assert same(weights(loaded), weights(model))


def test_the_kernel_is_kept_by_save_and_left_out_for_keras(tmp_path: Path) -> None:
    model = network(Adam(0.1, kernel="xla"))
    model.save(tmp_path / "ours.keras")
    assert keras.models.load_model(tmp_path / "ours.keras").optimizer.get_config()["kernel"] == "xla"
    adamas.keras.save_model(model, tmp_path / "theirs.keras")
    text = zipfile.ZipFile(tmp_path / "theirs.keras").read("config.json").decode()
    assert "adamas" not in text
    assert "kernel" not in json.loads(text)["compile_config"]["optimizer"]["config"]


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(Adam(0.1))
    adamas.keras.save_model(model, tmp_path / "model.keras")
    before = (tmp_path / "model.keras").read_bytes()
    settings = Adam.get_config
    monkeypatch.setattr(Adam, "get_config", lambda self: {**settings(self), "cautious": True})
    with pytest.raises(UnsupportedError, match="cautious"):
        adamas.keras.save_model(model, tmp_path / "model.keras")
    assert (tmp_path / "model.keras").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    for function in (lambda path: adamas.keras.save_model(model, path), adamas.keras.load_model):
        with pytest.raises(ArgumentError, match=r"ends in \.keras"):
            function(tmp_path / "model.h5")
    with pytest.raises(ArgumentError, match="no such file"):
        adamas.keras.load_model(tmp_path / "none.keras")
    with pytest.raises(ArgumentError, match="no folder"):
        adamas.keras.save_model(model, tmp_path / "none" / "model.keras")


def test_a_model_whose_layers_were_frozen_after_the_optimizer_was_built(tmp_path: Path) -> None:
    """The file has moments for which a loaded optimizer has no place. The message says how to get at the weights."""
    model = trained("adam", ours=True)
    model.layers[0].trainable = False
    model.compile(model.optimizer, loss="mse")
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="compile=False"):
        keras.models.load_model(tmp_path / "model.keras")
    assert same(weights(keras.models.load_model(tmp_path / "model.keras", compile=False)), weights(model))


def test_damaged_files(tmp_path: Path) -> None:
    model = trained("adam", ours=False)
    model.save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    damaged = tmp_path / "damaged.keras"
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        with pytest.raises(StateError, match="damaged"):
            adamas.keras.load_model(damaged)
    place = whole.index(b"\x89HDF") + 9000
    damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    with pytest.raises(StateError, match="CRC"):
        adamas.keras.load_model(damaged)


def test_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model = trained("adam", ours=False)
    model.save_weights(tmp_path / "model.weights.h5")
    for settings in ({"amsgrad": True}, {"use_ema": True}, {"learning_rate": SETTINGS["schedule"]["learning_rate"]}):
        other = network(Adam(**settings))
        other.optimizer.build(other.trainable_variables)
        go_on(other, steps(seed=3))
        before = state(other.optimizer)
        with pytest.raises(ValueError, match="does not fit: it has 10 arrays"):
            other.load_weights(tmp_path / "model.weights.h5")
        assert same(state(other.optimizer), before)
        with pytest.warns(UserWarning, match="could not be loaded"):
            other.load_weights(tmp_path / "model.weights.h5", skip_mismatch=True)
        assert same(state(other.optimizer), before)
    mine = Adam()
    mine.build([tf.Variable(tf.zeros(3))])
    store: dict[str, Any] = {"0": np.int64(1), "1": np.float32(1), "2": np.zeros(3), "x": np.zeros(3)}
    with pytest.raises(StateError, match="damaged"):
        mine.load_own_variables(store)
    store = {**store, "3": np.array(["a", "b", "c"])}
    del store["x"]
    with pytest.raises(StateError, match="numbers"):
        mine.load_own_variables(store)
    assert int(mine.iterations) == 0


def test_weights_before_the_optimizer_is_built(tmp_path: Path) -> None:
    """Keras skips the state with a warning; so do we, and say what to do."""
    model = trained("adam", ours=True)
    model.save_weights(tmp_path / "model.weights.h5")
    other = network(Adam(0.5))
    with pytest.warns(UserWarning, match=r"no moments yet.*optimizer\.build"):
        other.load_weights(tmp_path / "model.weights.h5")
    assert same(weights(other), weights(model))
    assert (int(other.optimizer.iterations), float(other.optimizer.learning_rate)) == (0, 0.5)


def test_the_variables_are_those_of_keras(capsys: pytest.CaptureFixture[str]) -> None:
    """`optimizer.variables`, by which Keras saves, counts and prints, in every layout of the moments."""
    for kernel in ("native", "xla"):
        mine = network(Adam(name="adam", amsgrad=True, kernel=kernel))
        its = network(Optimizers.Adam(name="adam", amsgrad=True))
        for model in (mine, its):
            model.optimizer.build(model.trainable_variables)
        pairs = list(zip(mine.optimizer.variables, its.optimizer.variables, strict=True))
        for one, other in pairs:
            assert (one.path, one.name, one.shape, one.dtype) == (other.path, other.name, other.shape, other.dtype)
            assert (one.trainable, one.ndim) == (other.trainable, other.ndim)
        mine.summary(), its.summary()
        ours, theirs = capsys.readouterr().out.split('Model: "net"')[1:]
        assert ours == theirs
        one, _ = pairs[2]
        one.assign(tf.ones_like(one) * 3)
        assert (one.numpy() == 3).all()
        assert (np.asarray(one, np.float64) == 3).all()
        assert float(tf.reduce_sum(one)) == float(keras.ops.sum(one)) == 3 * one.numpy().size
        assert not pairs[3][0].numpy().any()
        with pytest.raises(StateError, match="shape"):
            one.assign(tf.ones(5))
        assert repr(one) == f"<Moment path={one.path}, shape={one.shape}, dtype=float32>"


def lazily_trained(scaling: bool) -> tuple[keras.Model, Any]:
    """A table of 20 rows, and steps that visit a few of them."""
    keras.utils.set_random_seed(4)
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(20, 3), keras.layers.Dense(1)])
    lazy = Adam(0.1, amsgrad=True, sparse="lazy")
    model.compile(Optimizers.LossScaleOptimizer(lazy, initial_scale=1.0) if scaling else lazy, loss="mse")
    model.optimizer.build(model.trainable_variables)

    def step(model: keras.Model, seed: int, count: int = 5) -> None:
        rng = np.random.default_rng(seed)
        table, kernel, bias = model.trainable_variables
        for _ in range(count):
            rows = tf.IndexedSlices(rng.normal(size=(4, 3)).astype("float32"), rng.permutation(20)[:4], (20, 3))
            grads = [rows, tf.constant(rng.normal(size=(3, 1)), tf.float32), tf.ones(1)]
            inner(model.optimizer)[0].apply(grads, [table, kernel, bias])

    step(model, seed=1)
    return model, step


@pytest.mark.parametrize("scaling", [False, True])
def test_lazy_rows_are_settled_for_keras(scaling: bool, tmp_path: Path) -> None:
    model, step = lazily_trained(scaling)
    before = state(model.optimizer)
    assert before[-3].any(), "no row missed a step"
    adamas.keras.save_model(model, tmp_path / "theirs.keras")
    assert same(state(model.optimizer), before)
    its, dense = keras.models.load_model(tmp_path / "theirs.keras"), adamas.keras.load_model(tmp_path / "theirs.keras")
    assert type(inner(its.optimizer)[0]) is Optimizers.Adam
    assert "sparse" not in inner(dense.optimizer)[0].get_config()
    settled = state(inner(its.optimizer)[0])
    assert same(settled, state(inner(model.optimizer)[0].to_keras()))
    assert same(settled, state(inner(dense.optimizer)[0]))
    assert len(settled) == len(state(inner(model.optimizer)[0])) - 3
    m, old = settled[2], inner(model.optimizer)[0].variables[2].numpy()
    assert (abs(m) <= abs(old)).all()
    assert (abs(m) < abs(old)).any()
    start = weights(its)
    step(its, seed=2), step(dense, seed=2)
    for a, b, first in zip(weights(dense), weights(its), start, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * 5 * 0.3)  # 5 steps, none larger than 0.3
        assert (a != first).any()

    model.save(tmp_path / "ours.keras")  # which keeps the clocks
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert inner(again.optimizer)[0].get_config()["sparse"] == "lazy"
    step(model, seed=3), step(again, seed=3)
    assert same(weights(again), weights(model))
    assert same(state(again.optimizer), state(model.optimizer))
