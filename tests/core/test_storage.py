"""How an optimizer's state is stored: which tensors in which format, the table that says so, and states that move."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from support.stepping import same_bits, table

from adamas import formats, state, storage
from adamas.errors import ArgumentError, ArrayError, StateError
from adamas.formats import Blocks, Key, name_key
from adamas.groups import Group, no_decay
from adamas.kernels import reference
from adamas.numpy import Adam, AdamW
from adamas.rule import Hyper, Rule
from adamas.state import State

BFLOAT16 = np.dtype(bfloat16)
SHAPES = {"embed/table": (130, 50), "dense/kernel": (64, 64), "dense/bias": (64,), "last/kernel": (65, 63)}
FORMATS = ("float32", "bfloat16", "int8")


def problem(seed: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32).astype(dtype) for name, shape in SHAPES.items()}


def same(a: State, b: State) -> bool:
    """Equal to the bit."""

    def parts(one: State) -> list[np.ndarray]:
        return [part for own in one.slots.values() for stored in own.values() for part in formats.arrays(stored)]

    def rest(one: State) -> tuple[Any, ...]:
        return one.rule, one.names, dict(one.steps), list(one.hypers), dict(one.groups), dict(one.carries)

    return rest(a) == rest(b) and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(parts(a), parts(b), strict=True)
    )


def stepped(optimizer: Adam, seeds: range, dtype: Any = np.float32) -> Adam:
    for seed in seeds:
        optimizer.step(problem(seed, dtype))
    return optimizer


@pytest.mark.parametrize(
    ("dtype", "size", "moments", "weights", "expected"),
    [
        (np.float32, 4096, "float32", "nearest", (("float32",) * 2, "nearest", "")),
        (np.float32, 4096, "int8", "nearest", (("int8",) * 2, "nearest", "")),
        (np.float32, 4095, "int8", "nearest", (("float32",) * 2, "nearest", "fewer than 4096 elements")),
        (BFLOAT16, 4095, "bfloat16", "split", (("float32",) * 2, "split", "fewer than 4096 elements")),
        (BFLOAT16, 4096, "bfloat16", "stochastic", (("bfloat16",) * 2, "stochastic", "")),
        (np.float64, 9, "float32", "split", (("float32",) * 2, "nearest", "")),
    ],
)
def test_who_gets_which_format(dtype: Any, size: int, moments: str, weights: str, expected: Any) -> None:
    assert storage.choose(Rule(), np.dtype(dtype), size, moments, weights) == expected


def test_a_slot_that_holds_weights_keeps_their_precision() -> None:
    rule = Rule(schedule_free=True)
    assert storage.choose(rule, np.dtype(np.float32), 4096, "int8").formats == ("int8", "float32")
    kept = storage.fresh(rule, storage.choose(rule, BFLOAT16, 4096, "int8"), np.full((64, 64), 1.5, bfloat16))
    assert isinstance(kept["v"], Blocks)
    assert isinstance(kept["z"], np.ndarray)
    assert (kept["z"].dtype, kept["z"].min(), kept["z"].max()) == (np.float32, 1.5, 1.5)


@pytest.mark.parametrize("moments", FORMATS)
@pytest.mark.parametrize(
    ("dtype", "weights"),
    [
        (np.float32, "nearest"),
        (BFLOAT16, "nearest"),
        (BFLOAT16, "stochastic"),
        (BFLOAT16, "split"),
        (np.float16, "stochastic"),
    ],
)
def test_a_step_is_that_of_a_plan(moments: Any, dtype: Any, weights: Any) -> None:
    """The optimizer adds nothing to the kernel: names, formats, seed and counts are handed on."""
    params, twins = problem(0, dtype), problem(0, dtype)
    optimizer = AdamW(params, lr=0.1, moments=moments, weights=weights, seed=7)
    names = [moments if np.prod(shape) >= 4096 else "float32" for shape in SHAPES.values()]
    slots: list[Any] = [
        [
            formats.zeros(formats.moment(name, slot.kind), shape)
            for name, shape in zip(names, SHAPES.values(), strict=True)
        ]
        for slot in Rule().slots
    ]
    if weights == "split":
        slots.append([np.zeros(shape, np.int8) for shape in SHAPES.values()])
    plan = reference.Plan(
        Rule(), list(SHAPES), list(twins.values()), slots, 7, [(name, name) for name in names], weights
    )
    for t in (1, 2, 3):
        optimizer.step(problem(t, dtype))
        plan.step(list(problem(t, dtype).values()), np.full(4, t), table(Hyper(0.1, weight_decay=1e-2)))
    assert all(params[name].tobytes() == twins[name].tobytes() for name in SHAPES)
    kept = optimizer.portable_state().slots
    for i, name in enumerate(SHAPES):
        for slot, own in zip(kept[name].values(), slots, strict=True):
            pairs = zip(formats.arrays(slot), formats.arrays(own[i]), strict=True)
            assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_groups_and_both_precisions_in_one_optimizer() -> None:
    """Each tensor as in an optimizer of its own."""
    dtypes = {"embed/table": BFLOAT16, "dense/kernel": np.float32, "dense/bias": np.float64, "last/kernel": BFLOAT16}

    def draw(seed: int) -> dict[str, np.ndarray]:
        return {name: g.astype(dtypes[name]) for name, g in problem(seed).items()}

    params, alone = draw(0), draw(0)
    given = [Group("embed*", moments="int8", weights="split"), Group("*kernel", moments="bfloat16")]
    optimizer = Adam(params, lr=0.1, groups=given, weights="stochastic", nonfinite="propagate")
    own: dict[str, dict[str, Any]] = {
        "embed/table": {"moments": "int8", "weights": "split", "nonfinite": "propagate"},
        "dense/kernel": {"moments": "bfloat16"},
        "dense/bias": {},
        "last/kernel": {"moments": "bfloat16", "weights": "stochastic"},
    }
    for seed in (1, 2):
        optimizer.step(draw(seed))
    for name, settings in own.items():
        single = Adam({name: alone[name]}, lr=0.1, **settings)
        for seed in (1, 2):
            single.step({name: draw(seed)[name]})
    assert all(params[name].tobytes() == alone[name].tobytes() for name in SHAPES)
    whole = float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in draw(3).values())))
    assert optimizer.step(draw(3), max_norm=1.0) == pytest.approx(whole, rel=1e-12)
    before = {name: p.copy() for name, p in params.items()}
    with pytest.raises(ArrayError, match="tensor 'last/kernel'"):
        optimizer.step({**draw(4), "last/kernel": np.zeros((65, 63), np.float32)})
    shared = draw(4)
    shared["embed/table"] = params["embed/table"]
    with pytest.raises(ArrayError, match=r"tensor 'embed/table': its gradient shares memory"):
        optimizer.step(shared)
    over = params["dense/kernel"].view(bfloat16).reshape(-1)[: 65 * 63].reshape(65, 63)
    with pytest.raises(ArrayError, match=r"'last/kernel': its gradient shares memory with the parameter of 'dense"):
        optimizer.step({"last/kernel": over})
    assert all(before[name].tobytes() == params[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize(
    ("dtype", "settings", "message"),
    [
        (np.float32, {"moments": "int4"}, "tensor 'embed/table': moments='int4': give one of 'float32', 'bfloat16'"),
        (np.float32, {"weights": "exact"}, "weights='exact': give one of 'nearest', 'stochastic', 'split'"),
        (
            np.float32,
            {"weights": "stochastic"},
            "weights='stochastic' is for parameters of bfloat16 or float16, not float32",
        ),
        (np.float32, {"groups": [Group("*kernel", weights="split")]}, "weights='split' is for"),
        (BFLOAT16, {"weights": "exact"}, "tensor 'embed/table': weights='exact'"),
        (np.float16, {"weights": "split"}, "tensor 'embed/table': weights='split' is for parameters of bfloat16"),
        (np.float64, {"moments": "int8"}, r"tensor 'embed/table': moments='int8' and a parameter of float64"),
        (np.float64, {"groups": [Group("last*", moments="bfloat16")]}, r"tensor 'last/kernel': moments='bfloat16'"),
        (np.float32, {"seed": -1}, r"seed=-1: give an integer from 0 to 2\^64 - 1"),
        (np.float32, {"seed": 2**64}, "seed="),
        (np.float32, {"seed": 1.0}, "seed="),
    ],
)
def test_what_is_refused(dtype: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Adam(problem(0, dtype), **settings)


def test_seeds_differ() -> None:
    states = [
        stepped(Adam(problem(0), moments="bfloat16", seed=s), range(1, 3)).portable_state() for s in (0, 0, 2**63)
    ]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_int8_skips_by_default() -> None:
    bad = {**problem(1), "dense/bias": np.full(64, np.nan, np.float32)}
    for moments, small, skipped in (
        ("int8", False, 1),
        ("bfloat16", False, 0),
        ("float32", False, 0),
        ("int8", True, 0),
    ):
        params = problem(0)
        own = {"dense/bias": params["dense/bias"]} if small else params
        optimizer = Adam(own, moments=moments)  # type: ignore[arg-type]
        optimizer.step({name: bad[name] for name in own})
        assert optimizer.skipped == skipped
        assert np.isnan(params["dense/bias"]).any() == (not skipped)


TABLE = """\
tensor        shape     dtype           group     m         v         correction   bytes
------------------------------------------------------------------------------------------------------------------
embed/table   130 x 50  bfloat16 split  embed*    int8      int8      int8        20,316
dense/kernel  64 x 64   float32         default   bfloat16  bfloat16  -           16,384
dense/bias    64        float32         no_decay  float32   float32   -              512  fewer than 4096 elements
last/kernel   65 x 63   float32         default   float32   float32   -           32,760  fewer than 4096 elements
scale         number    float64         no_decay  float64   float64   -               16

5 tensors, 14,756 parameters: 69,988 bytes of state, 4.743 a parameter (8.001 without low precision)
kept in float32: 2 of them with 4,159 parameters, 28.19% of all; the last column says why"""


def test_the_table() -> None:
    params = problem(0) | {"scale": np.ones(())}
    params["embed/table"] = params["embed/table"].astype(bfloat16)
    optimizer = Adam(
        params,
        moments="bfloat16",
        groups=[
            Group("embed*", moments="int8", weights="split"),
            Group("scale", moments="float32", name="no_decay"),
            Group(no_decay, weight_decay=0.0),
        ],
    )
    described = optimizer.describe()
    assert str(described) == TABLE
    assert described.bytes == 69_988 == sum(tensor.bytes for tensor in described.tensors)
    assert (described.tensors[0].formats, described.tensors[0].size) == (
        {"m": "int8", "v": "int8", "correction": "int8"},
        6500,
    )
    # the bytes are those of the state
    parts = [
        part
        for own in optimizer.portable_state().slots.values()
        for stored in own.values()
        for part in formats.arrays(stored)
    ]
    assert sum(part.nbytes for part in parts) == described.bytes
    plain = str(Adam(problem(0)).describe()).splitlines()
    assert plain[-1] == "4 tensors, 14,755 parameters: 118,040 bytes of state, 8.000 a parameter"


def test_int8_takes_what_was_promised() -> None:
    params = {"w": np.zeros((1000, 640), np.float32)}
    assert Adam(params, moments="int8").describe().bytes / 640_000 == 2.125
    low = Adam({"w": np.zeros((1000, 640), bfloat16)}, moments="int8", weights="split").describe()
    assert low.bytes / 640_000 + 2 == 5.125


@pytest.mark.parametrize("moments", FORMATS)
@pytest.mark.parametrize(("dtype", "weights"), [(np.float32, "nearest"), (BFLOAT16, "split")])
def test_a_checkpoint_goes_on_exactly(tmp_path: Path, moments: Any, dtype: Any, weights: Any) -> None:
    """Through a file and through a state_dict, into optimizers that were made with another seed."""

    def made(params: dict[str, np.ndarray], seed: int = 4) -> Adam:
        return Adam(params, lr=0.05, moments=moments, weights=weights, amsgrad=True, seed=seed)

    params = problem(0, dtype)
    optimizer = stepped(made(params, seed=3), range(1, 4), dtype)
    state.save(tmp_path / "a", optimizer)
    saved, read = copy.deepcopy(optimizer.state_dict()), state.load(tmp_path / "a")
    assert same(read, optimizer.portable_state())
    copies = [{name: p.copy() for name, p in params.items()} for _ in range(2)]
    others = [made(own) for own in copies]
    others[0].load_portable_state(read)
    others[1].load_state_dict(saved)
    for one in (optimizer, *others):
        stepped(one, range(4, 6), dtype)
    for own, other in zip(copies, others, strict=True):
        assert same(other.portable_state(), optimizer.portable_state())
        assert all(own[name].tobytes() == params[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("there", FORMATS)
@pytest.mark.parametrize("here", FORMATS)
def test_a_state_in_another_format_is_converted(there: Any, here: Any) -> None:
    """Decoded, and encoded with the random numbers of the seed and the steps of the state."""
    own = stepped(Adam(problem(0), moments=there, seed=1), range(1, 4)).portable_state()
    optimizer = Adam(problem(0), moments=here, seed=2)
    optimizer.load_portable_state(own)
    got = optimizer.portable_state()
    assert got.steps == own.steps
    for name, shape in SHAPES.items():
        for number, slot in enumerate(own.rule.slots):
            stored = own.slots[name][slot.name]
            if there == here or np.prod(shape) < 4096:
                expected: Any = stored
            else:
                x = formats.moment(there, slot.kind).decode(stored)
                expected = formats.moment(here, slot.kind).encode(x, Key(1, name_key(name), 3, number, 0))
            pairs = zip(formats.arrays(got.slots[name][slot.name]), formats.arrays(expected), strict=True)
            assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
    again = optimizer.portable_state()
    optimizer.load_portable_state(again)
    assert same(optimizer.portable_state(), again), "what is in the right format stays as it is"


def test_a_conversion_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of memory there may be too little for the second tensor."""
    own = stepped(Adam(problem(0), moments="int8", ema=0.9), range(1, 4)).portable_state()
    optimizer, calls, convert = stepped(Adam(problem(0), ema=0.9), range(5, 6)), [0], storage.convert

    def failing(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise MemoryError
        return convert(*given)

    monkeypatch.setattr(storage, "convert", failing)
    before = optimizer.portable_state()
    with pytest.raises(MemoryError):
        optimizer.load_portable_state(own)
    assert same(optimizer.portable_state(), before)


def test_a_state_moves_between_dtypes_of_parameters() -> None:
    """Moments of bfloat16 parameters are float32, so a training may go on with other weights."""
    own = stepped(Adam(problem(0, bfloat16)), range(1, 3), bfloat16).portable_state()
    optimizer = Adam(problem(0))
    optimizer.load_portable_state(own)
    assert same_bits(np.asarray(optimizer.portable_state().slots["embed/table"]["m"]), own.slots["embed/table"]["m"])
    with pytest.raises(StateError, match="the state has dtype float32, the optimizer float64"):
        Adam(problem(0, np.float64)).load_portable_state(own)


def test_corrections_are_not_lost_in_silence() -> None:
    params = problem(0, bfloat16)
    own = stepped(Adam(params, weights="split"), range(1, 3), bfloat16).portable_state()
    plain = Adam(problem(0, bfloat16))
    with pytest.raises(
        StateError, match=r"embed/table: the state holds its correction.* make it with weights=\"split\""
    ):
        plain.load_portable_state(own)
    assert plain.portable_state().steps["embed/table"] == 0
    without = own.without("correction")
    plain.load_portable_state(without)
    split = stepped(Adam(problem(0, bfloat16), weights="split"), range(5, 6), bfloat16)
    assert np.any(split.portable_state().slots["embed/table"]["correction"])
    split.load_portable_state(without)
    assert not np.any(split.portable_state().slots["embed/table"]["correction"])
