"""Files and checkpoints of optimizers that keep moments in bfloat16 or int8: exact, and from and to other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import adamas.keras
import adamas.state
from adamas.errors import StateError
from adamas.tensorflow import Adam, AdamW, Nadam

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, saving

X = np.linspace(-1, 1, 64 * 70, dtype=np.float32).reshape(64, 70)
Y = np.sin(X.sum(axis=1, keepdims=True))
STORED: list[dict[str, Any]] = [{"moments": "bfloat16"}, {"moments": "int8"}, {"moments": "int8", "weights": "split"}]


def model(optimizer: Any, dtype: str = "float32") -> Any:
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Dense(n, a, dtype=dtype, name=f"dense{n}") for n, a in ((70, "tanh"), (1, None))]
    made = keras.Sequential([keras.Input((70,)), *layers], name="m")  # names key the rounding
    made.compile(optimizer=optimizer, loss="mse")
    return made


def train(made: Any, epochs: int = 1) -> Any:
    made.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return made


def ours(amsgrad: bool = True, **stored: Any) -> tuple[Any, str]:
    """An optimizer, and the dtype of its model."""
    return AdamW(1e-2, amsgrad=amsgrad, **stored), "bfloat16" if "weights" in stored else "float32"


def everything(optimizer: Any) -> list[bytes]:
    """What is kept, as it is."""
    slots, stepper = optimizer._ready().slots, optimizer._ready()
    kept = [t.numpy().tobytes() for slot, i in stepper.places() for t in slots.stored(slot, i)]
    return [optimizer.iterations.numpy().tobytes(), *kept]


def weights_of(made: Any) -> list[bytes]:
    return [v.value.numpy().tobytes() for v in made.trainable_variables]


@pytest.mark.parametrize("stored", STORED)
def test_keras_files_go_on_exactly(stored: dict[str, Any], tmp_path: Path) -> None:
    made = train(model(*ours(**stored)))
    made.save(tmp_path / "m.keras")
    made.save_weights(tmp_path / "m.weights.h5")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.get_config() == made.optimizer.get_config()
    again = model(*ours(**stored))
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "m.weights.h5")
    before, expected = everything(made.optimizer), weights_of(train(made))
    after = everything(made.optimizer)
    for other in (loaded, again):
        assert everything(other.optimizer) == before
        assert weights_of(train(other)) == expected
        assert everything(other.optimizer) == after


def test_files_of_other_formats(tmp_path: Path) -> None:
    """Each is read by each; what is not the same format is converted, and goes on from there."""
    formats = ("float32", "bfloat16", "int8")
    for source in formats:
        made = train(model(AdamW(1e-2, moments=source)))
        made.save_weights(tmp_path / f"{source}.weights.h5")
        right = [v.numpy() for v in made.optimizer.variables]
        for target in formats:
            other = model(AdamW(1e-2, moments=target))
            other.optimizer.build(other.trainable_variables)
            other.load_weights(tmp_path / f"{source}.weights.h5")
            again = everything(other.optimizer)
            other.load_weights(tmp_path / f"{source}.weights.h5")
            assert everything(other.optimizer) == again
            exact = target in (source, "float32")
            for mine, its in zip(other.optimizer.variables, right, strict=True):
                step = {"float32": 0.0, "bfloat16": 2.0**-7, "int8": 2.0**-3}[target]
                if exact:
                    assert mine.numpy().tobytes() == its.tobytes()
                else:  # a code away at most; nearer to zero codes are as far apart as 2^-15 of the largest
                    np.testing.assert_allclose(mine.numpy(), its, rtol=step, atol=2.0**-15 * np.abs(its).max())
            train(other)


@pytest.mark.parametrize("stored", STORED)
def test_from_and_to_stock_keras(stored: dict[str, Any], tmp_path: Path) -> None:
    optimizer, dtype = ours(**stored)
    stock = train(model(keras.optimizers.AdamW(1e-2, amsgrad=True), dtype))
    stock.save_weights(tmp_path / "stock.weights.h5")
    made = model(optimizer, dtype)
    optimizer.build(made.trainable_variables)
    made.load_weights(tmp_path / "stock.weights.h5")
    for mine, its in zip(optimizer.variables, stock.optimizer.variables, strict=False):
        right = its.numpy().astype("f")
        np.testing.assert_allclose(mine.numpy(), right, rtol=2.0**-3, atol=2.0**-15 * np.abs(right).max())
    train(made)
    adamas.keras.save_model(made, tmp_path / "ours.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    for theirs in (loaded.optimizer, optimizer.to_keras()):
        assert type(theirs) is keras.optimizers.AdamW
        assert len(theirs.variables) == 2 + 3 * 4
        for mine, its in zip(optimizer.variables, theirs.variables, strict=False):
            right = tf.cast(tf.convert_to_tensor(mine), its.dtype).numpy()
            assert right.tobytes() == its.numpy().tobytes()
    train(loaded)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("stored", STORED)
def test_checkpoints_go_on_exactly(stored: dict[str, Any], built: bool, tmp_path: Path) -> None:
    made, other = train(model(*ours(**stored))), model(*ours(**stored))
    path = tf.train.Checkpoint(optimizer=made.optimizer, model=made).write(str(tmp_path / "c"))
    if built:
        other.optimizer.build(other.trainable_variables)
    status = tf.train.Checkpoint(optimizer=other.optimizer, model=other).read(path)
    other.optimizer.build(other.trainable_variables)
    status.assert_consumed()
    assert everything(other.optimizer) == everything(made.optimizer)
    assert weights_of(train(other)) == weights_of(train(made))
    assert everything(other.optimizer) == everything(made.optimizer)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(("source", "target"), [("float32", "int8"), ("int8", "float32"), ("int8", "bfloat16")])
def test_checkpoints_of_another_format_are_refused(source: Any, target: Any, built: bool, tmp_path: Path) -> None:
    made, other = train(model(AdamW(moments=source))), model(AdamW(moments=target))
    path = tf.train.Checkpoint(optimizer=made.optimizer).write(str(tmp_path / "c"))
    if built:
        train(other)
        before = everything(other.optimizer)
    checkpoint = tf.train.Checkpoint(optimizer=other.optimizer)

    def restore() -> None:
        checkpoint.restore(path)
        other.optimizer.build(other.trainable_variables)

    with pytest.raises(StateError, match=r"`moments`.*Nothing was restored.*same amsgrad, moments"):
        restore()
    if built:
        assert everything(other.optimizer) == before


@pytest.mark.parametrize(
    ("array", "value", "match"),
    [
        ("scales of 2", np.ones(3, np.float32), r"scales that come with it float32\[3\]"),
        ("scales of 2", np.ones(79, np.float64), "float64"),
        ("2", np.ones((71, 70), np.int8), "shape"),
        ("2", np.ones((71, 71), np.float32), "float32, and the scales"),
    ],
)
def test_files_that_do_not_fit_change_nothing(array: str, value: Any, match: str) -> None:
    variable, optimizer = tf.Variable(tf.ones((71, 71))), Adam(0.1, moments="int8")
    optimizer.apply([tf.ones((71, 71))], [variable])
    saved: dict[str, Any] = {}
    optimizer.save_own_variables(saved)
    assert set(saved) == {"0", "1", "2", "3", "scales of 2", "scales of 3"}
    assert saved["2"].dtype == np.int8
    assert saved["3"].dtype == np.uint8
    before = everything(optimizer)
    with pytest.raises(StateError, match=match):
        optimizer.load_own_variables({**saved, array: value})
    assert everything(optimizer) == before


@pytest.mark.parametrize("kind", [Nadam, AdamW])
@pytest.mark.parametrize("stored", STORED)
def test_the_portable_state_is_exact(stored: dict[str, Any], kind: Any, tmp_path: Path) -> None:
    """Through a file, to an optimizer that keeps the same; to one that keeps float32 it is what was decoded."""
    dtype = ours(**stored)[1]
    made = train(model(kind(1e-2, **stored), dtype))
    adamas.state.save(tmp_path / "s.safetensors", made.optimizer.portable_state())
    state = adamas.state.load(tmp_path / "s.safetensors")
    other = model(kind(0.5, **stored), dtype)
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_portable_state(state)
    assert everything(other.optimizer) == everything(made.optimizer)
    other.set_weights(made.get_weights())
    assert weights_of(train(other)) == weights_of(train(made))
    if "weights" in stored:
        with pytest.raises(StateError, match="correction"):
            kind_of_plain(kind, made).load_portable_state(state)
        return
    plain = kind_of_plain(kind, made)
    plain.load_portable_state(state)
    for i, name in enumerate(state.names):
        again = model(kind(0.5, **stored), dtype)
        again.optimizer.build(again.trainable_variables)
        again.optimizer.load_portable_state(state)
        for slot in range(2):
            right = again.optimizer._ready().slots.read(slot, i).numpy()
            assert plain._ready().slots.read(slot, i).numpy().tobytes() == right.tobytes(), name


def kind_of_plain(kind: Any, made: Any) -> Any:
    """An optimizer of the same variables that keeps all in float32."""
    plain = kind(0.5)
    plain.build(made.trainable_variables)
    return plain


def test_moments_can_be_set(rng: np.random.Generator) -> None:
    """As variables can, from outside; what is set is rounded to the format."""
    optimizer = Adam(moments="int8")
    optimizer.build([tf.Variable(tf.zeros(5000), name="v")])
    m, v = optimizer.variables[2:]
    value = np.abs(np.asarray(rng.normal(size=5000), np.float32))
    for moment in (m, v):
        assert moment.dtype == "float32"
        assert moment.shape == (5000,)
        moment.assign(value)
        np.testing.assert_allclose(moment.numpy(), value, rtol=2.0**-3, atol=2.0**-15 * value.max())
    assert not np.array_equal(m.numpy(), value)
