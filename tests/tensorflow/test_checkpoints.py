"""tf.train.Checkpoint: training goes on to the bit, from any layout of the moments, or is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from continuing import same, state
from restored import SETTINGS, SHAPES, laid_out, take_steps, variables

from adamas.errors import StateError
from adamas.tensorflow import Adam

LAYOUTS = ["arena", "separate"]


def numbers(optimizer: Any, variables: list[tf.Variable]) -> list[np.ndarray]:
    return [v.numpy() for v in variables] + state(optimizer)


def stepped(optimizer: Any) -> tuple[Any, list[tf.Variable]]:
    mine = variables()
    take_steps(optimizer, mine, seed=1)
    return optimizer, mine


def empty() -> list[tf.Variable]:
    return [tf.Variable(tf.zeros(shape)) for shape in SHAPES]


def saved(optimizer: Any, mine: list[tf.Variable], folder: Path) -> str:
    return str(tf.train.Checkpoint(optimizer=optimizer, mine=mine).save(str(folder / "checkpoint")))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_new_process_goes_on_to_the_bit(layout: str, tmp_path: Path, cache_home: Path) -> None:
    """In the other layout, restored before the first step, in the middle of an accumulation."""
    optimizer, mine = stepped(laid_out(Adam(0.01, **SETTINGS), layout))
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(optimizer=optimizer, mine=mine), str(tmp_path), max_to_keep=2
    )
    for _ in range(3):
        take_steps(optimizer, mine, seed=3, count=1)
        manager.save()
    assert [Path(path).name for path in manager.checkpoints] == ["ckpt-2", "ckpt-3"]
    assert len(list(tmp_path.glob("ckpt-*.index"))) == 2
    other = LAYOUTS[1 - LAYOUTS.index(layout)]
    subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("restored.py")), str(tmp_path), other],
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache_home)},
        timeout=120,
    )
    take_steps(optimizer, mine, seed=2)
    with np.load(tmp_path / "restored.npz") as found:
        assert same([found[name] for name in sorted(found.files)], numbers(optimizer, mine))


@pytest.mark.parametrize("build_first", [True, False])
@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("source", LAYOUTS)
def test_every_layout_restores_every_other(source: str, target: str, build_first: bool, tmp_path: Path) -> None:
    optimizer, mine = stepped(laid_out(Adam(0.01, amsgrad=True), source))
    path = saved(optimizer, mine, tmp_path)
    restored, others = laid_out(Adam(0.5, amsgrad=True), target), empty()
    if build_first:
        restored.build(others)
    status = tf.train.Checkpoint(optimizer=restored, mine=others).restore(path)
    restored.build(others)
    status.assert_consumed().assert_existing_objects_matched()
    assert same(numbers(restored, others), numbers(optimizer, mine))
    for one, its in ((optimizer, mine), (restored, others)):
        take_steps(one, its, seed=2)
    assert same(numbers(restored, others), numbers(optimizer, mine))


def test_a_checkpoint_shows_no_layout(tmp_path: Path) -> None:
    listed = []
    for make in (lambda: laid_out(Adam(), "separate"), Adam, keras.optimizers.Adam):
        optimizer, mine = stepped(make())
        listed.append(tf.train.list_variables(saved(optimizer, mine, tmp_path)))
    assert listed[0] == listed[1] == listed[2]


def test_read_restores_without_counting(tmp_path: Path) -> None:
    optimizer, mine = stepped(Adam(0.01))
    path = tf.train.Checkpoint(optimizer=optimizer, mine=mine).write(str(tmp_path / "written"))
    restored, others = Adam(0.5), empty()
    tf.train.Checkpoint(optimizer=restored, mine=others).read(path)
    for one, its in ((optimizer, mine), (restored, others)):
        take_steps(one, its, seed=2)
    assert same(numbers(restored, others), numbers(optimizer, mine))


@pytest.mark.parametrize("build_first", [True, False])
def test_the_optimizer_alone(build_first: bool, tmp_path: Path) -> None:
    """As with Keras' own, the variables that it steps are in its checkpoint; they come back if it is built before."""
    optimizer, mine = stepped(Adam(0.01))
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "alone"))
    restored, others = Adam(0.5), empty()
    if build_first:
        restored.build(others)
    tf.train.Checkpoint(optimizer=restored).restore(path).expect_partial()
    restored.build(others)
    assert same(state(restored), state(optimizer))
    assert same([v.numpy() for v in others], [v.numpy() for v in (mine if build_first else empty())])


@pytest.mark.parametrize("build_first", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_stock_checkpoints_go_both_ways(ours: bool, build_first: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"amsgrad": True, "use_ema": True}
    classes: list[type] = [keras.optimizers.Adam, Adam]
    source, target = classes if ours else classes[::-1]
    optimizer, mine = stepped(source(0.01, **settings))
    path = saved(optimizer, mine, tmp_path)
    restored, others = target(0.5, **settings), empty()
    if build_first:
        restored.build(others)
    status = tf.train.Checkpoint(optimizer=restored, mine=others).restore(path)
    restored.build(others)
    status.assert_consumed()
    assert same(numbers(restored, others), numbers(optimizer, mine))


def test_two_optimizers_in_one_checkpoint(tmp_path: Path) -> None:
    pairs = [stepped(Adam(0.01)), stepped(Adam(0.02, amsgrad=True))]
    keep = {"one": pairs[0][0], "two": pairs[1][0]}
    path = tf.train.Checkpoint(**keep).save(str(tmp_path / "two"))
    new = {"one": Adam(0.5), "two": Adam(0.5, amsgrad=True)}
    for optimizer in new.values():
        optimizer.build(empty())
    tf.train.Checkpoint(**new).restore(path).assert_consumed()
    for (old, _), optimizer in zip(pairs, new.values(), strict=True):
        assert same(state(optimizer), state(old))
    other = Adam(use_ema=True)
    tf.train.Checkpoint(one=other).restore(path)
    with pytest.raises(StateError, match=r"it has 10 arrays, this optimizer 14; its array 3 has the shape"):
        take_steps(other, empty(), seed=1)


def restore_and_build(path: str, optimizer: Any, variables: list[tf.Variable]) -> None:
    tf.train.Checkpoint(optimizer=optimizer).restore(path)
    optimizer.build(variables)


def fewer(make: Callable[[], Any]) -> tuple[Any, list[tf.Variable]]:
    optimizer, mine = make(), variables()[:2]
    take_steps(optimizer, mine, seed=1)
    return optimizer, mine


def others_shapes(make: Callable[[], Any]) -> tuple[Any, list[tf.Variable]]:
    optimizer, mine = make(), [tf.Variable(tf.zeros((*v.shape, 2))) for v in variables()]
    take_steps(optimizer, mine, seed=1)
    return optimizer, mine


OTHERS: dict[str, tuple[Callable[[], tuple[Any, list[tf.Variable]]], str]] = {
    "sgd": (lambda: stepped(keras.optimizers.SGD(0.01)), "2 arrays, this optimizer 10"),
    "momentum": (lambda: stepped(keras.optimizers.SGD(0.01, momentum=0.9)), "keeps momentums, so it is no Adam"),
    "adamax": (lambda: stepped(keras.optimizers.Adamax(0.01)), "no Adam"),
    "amsgrad": (lambda: stepped(Adam(0.01, amsgrad=True)), "14 arrays, this optimizer 10"),
    "fewer variables": (lambda: fewer(Adam), "6 arrays, this optimizer 10"),
    "other shapes": (lambda: others_shapes(Adam), r"array 2 has the shape \(3, 2\), that of this optimizer \(3,\)"),
    "of stock Keras": (lambda: fewer(keras.optimizers.Adam), "6 arrays"),
}


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("case", OTHERS)
def test_state_that_matches_nothing_is_refused(case: str, built: bool, tmp_path: Path) -> None:
    make, reason = OTHERS[case]
    optimizer, _ = make()
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    restored, others = stepped(Adam(0.5)) if built else (Adam(0.5), variables())
    before = numbers(restored, others)
    for _ in range(2):  # not silently from zero at the second attempt either
        with pytest.raises(StateError, match=reason):
            restore_and_build(path, restored, others)
        assert restored.built is built
        assert same(state(restored)[2:], before[len(others) + 2 :])
        if built:
            assert same(numbers(restored, others), before)


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    path = tf.train.Checkpoint(optimizer=tf.Module(), x=tf.Variable(1.0)).save(str(tmp_path / "checkpoint"))
    restored, others = stepped(Adam())
    before = numbers(restored, others)
    tf.train.Checkpoint(x=tf.Variable(0.0)).restore(path).assert_existing_objects_matched()
    with pytest.raises(StateError, match="no optimizer of Keras 3"):
        tf.train.Checkpoint(x=tf.Variable(0.0), optimizer=restored).restore(path)
    assert same(numbers(restored, others), before)


def test_saved_before_the_first_step(tmp_path: Path) -> None:
    path = tf.train.Checkpoint(optimizer=Adam(0.25)).save(str(tmp_path / "checkpoint"))
    restored, others = Adam(0.5), variables()
    tf.train.Checkpoint(optimizer=restored).restore(path)
    take_steps(restored, others, seed=1)
    optimizer, mine = stepped(Adam(0.25))
    assert same(numbers(restored, others), numbers(optimizer, mine))


def change(path: str, where: Callable[[bytes], bytes]) -> None:
    file = Path(f"{path}.data-00000-of-00001")
    file.write_bytes(where(file.read_bytes()))


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("damage", ["short", "changed"])
def test_a_damaged_checkpoint_changes_nothing(damage: str, built: bool, tmp_path: Path) -> None:
    optimizer, mine = stepped(Adam(0.01))
    path = saved(optimizer, mine, tmp_path)
    moment = optimizer.variables[4].numpy().tobytes()  # m of the second parameter
    if damage == "short":
        change(path, lambda raw: raw[: len(raw) // 2])
    else:
        change(path, lambda raw: raw.replace(moment, moment[:-1] + bytes([moment[-1] ^ 1])))
    restored, others = stepped(Adam(0.5)) if built else (Adam(0.5), variables())
    before = numbers(restored, others)
    for _ in range(2):
        with pytest.raises((StateError, tf.errors.OpError, IndexError)):
            restore_and_build(path, restored, others)
    if built:
        assert same(numbers(restored, others), before)
    elif damage == "changed":
        with pytest.raises(StateError, match="cannot be read"):
            take_steps(restored, others, seed=2)
        assert not restored.built


def test_a_damaged_checkpoint_leaves_lazy_rows_as_they_are(tmp_path: Path) -> None:
    """Their moments may be decayed to the present, which is the same state."""

    def made() -> tuple[Any, tf.Variable]:
        table, optimizer = tf.Variable(tf.ones((6, 2))), Adam(0.1, sparse="lazy")
        for rows in ([0, 1], [2], [1], [4]):
            optimizer.apply([tf.IndexedSlices(tf.ones((len(rows), 2)), rows, (6, 2))], [table])
        return optimizer, table

    optimizer, _ = made()
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    moment = optimizer.variables[2].numpy().tobytes()
    change(path, lambda raw: raw.replace(moment, moment[:-1] + bytes([moment[-1] ^ 1])))
    restored, _ = made()
    expected = state(restored.to_keras())
    assert not same(expected, state(restored)[:-1])
    with pytest.raises((tf.errors.OpError, IndexError)):
        tf.train.Checkpoint(optimizer=restored).restore(path)
    assert same(state(restored.to_keras()), expected)
    assert same(state(restored)[:-1], expected)
