"""What a step tells of itself, averages of weights, and blocks that are computed twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from support.stepping import KERNELS, same_bits, table

from adamas import formats, state, telemetry
from adamas.errors import ArgumentError, FaultError, KernelError, StateError
from adamas.groups import Group
from adamas.kernels import Plan, cpu, reference
from adamas.numpy import Adam, AdamW
from adamas.rule import Hyper, Rule
from adamas.scalars import scalars
from adamas.state import State

RULES = [Rule(), Rule("keras", "coupled", "raw"), Rule(amsgrad="corrected"), Rule(nesterov="constant")]
SIZES = (0, 1, 31, 4097, 40_000)
HYPER = Hyper(0.1, 0.9, 0.99, 1e-2, weight_decay=0.1)


def lanes(values: np.ndarray) -> float:
    """The sum of squares, in the order that adamas.h defines, one number after the other."""
    total = 0.0
    for block in (values[begin : begin + 4096].astype(np.float64) for begin in range(0, values.size, 4096)):
        lane = [0.0] * 16
        for j, x in enumerate(block.tolist()):
            lane[j % 16] += x * x
        while len(lane) > 1:
            lane = [a + b for a, b in zip(lane[: len(lane) // 2], lane[len(lane) // 2 :], strict=True)]
        total += lane[0]
    return total


def arrays(seed: int, dtype: Any) -> list[np.ndarray]:
    """Half of them small, so that epsilon decides about some."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(n) * 10.0 ** rng.uniform(-4, 1, n)).astype(np.float32).astype(dtype) for n in SIZES]


def plan_of(plan: type[Plan], rule: Rule, params: list[np.ndarray], **settings: Any) -> tuple[Plan, list[list[Any]]]:
    names = settings.get("formats", ["float32"] * len(rule.slots))
    computed = formats.compute_dtype(params[0].dtype)
    slots: list[list[Any]] = [
        [formats.zeros(formats.moment(name, slot.kind), p.shape, computed) for p in params]
        for slot, name in zip(rule.slots, names, strict=True)
    ]
    if settings.get("weights") == "split":
        slots.append([np.zeros(p.shape, np.int8) for p in params])
    if settings.get("average"):
        slots.append([p.astype(computed) for p in params])
    return plan(rule, [str(i) for i in range(len(params))], params, slots, **settings), slots


CASES: list[tuple[Any, dict[str, Any]]] = [
    (np.float32, {}),
    (np.float64, {}),
    (np.float32, {"formats": ["int8", "bfloat16"]}),
    (bfloat16, {"weights": "split"}),
    (bfloat16, {"weights": "stochastic"}),
    (np.float16, {}),
]


@pytest.mark.parametrize("plan", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize(("dtype", "settings"), CASES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_sums_are_those_of_the_step(plan: type[Plan], rule: Rule, dtype: Any, settings: dict[str, Any]) -> None:
    """Against whole-array arithmetic; what is rounded for storage is looked at before it is rounded."""
    if "formats" in settings:
        settings = {**settings, "formats": [*settings["formats"], "bfloat16"][: len(rule.slots)]}
    params, plain = arrays(0, dtype), arrays(0, dtype)
    kernel, slots = plan_of(plan, rule, params, average=True, **settings)
    twin, _ = plan_of(plan, rule, plain, **settings)
    weight = formats.weight(settings.get("weights", "nearest"), np.dtype(dtype))
    computed = formats.compute_dtype(np.dtype(dtype)).type
    sums = np.full((len(SIZES), 4), -7.0)
    for t in (1, 2):
        grads: list[np.ndarray | None] = [*arrays(t, dtype)]
        grads[2] = None
        split = slots[-2] if weight.name == "split" else None
        before = [
            weight.decode(p if split is None else formats.Halves(p.copy(), split[i].copy())).copy()
            for i, p in enumerate(params)
        ]
        moments = [
            [formats.moment(f, s.kind).decode(x).copy() for x in own] for f, s, own in named(rule, settings, slots)
        ]
        averages = [a.copy() for a in slots[-1]]
        for one, more in ((kernel, {"average_decay": 0.75, "statistics": sums}), (twin, {})):
            one.step(grads, np.full(5, t), table(HYPER), grad_scale=0.5, **more)  # type: ignore[arg-type]
        s = scalars(rule, HYPER, t, 0.5)
        bound = computed(s.eps * s.eps - s.eps_root)
        for i, g in enumerate(grads):
            if g is None:
                assert (sums[i] == -7.0).all()
                assert same_bits(slots[-1][i], averages[i])
                continue
            with reference.ieee():
                new, after = reference.update(
                    rule,
                    before[i],
                    g.astype(computed),
                    [own[i] for own in moments],
                    type(s)(*(computed(x) for x in s)),
                    coupled=s.coupled != 0,
                    tiny=np.finfo(computed).tiny,
                )
                right = [lanes(g), lanes(new - before[i]), lanes(new), float((after[-1] < bound).sum())]
                mean = averages[i] + computed(0.25) * (new - averages[i])
            assert sums[i].tolist() == right
            assert same_bits(slots[-1][i], mean)
        assert all(p.tobytes() == q.tobytes() for p, q in zip(params, plain, strict=True)), "looking changes nothing"
    assert 0 < sums[4, 3] < SIZES[4]


def named(rule: Rule, settings: dict[str, Any], slots: list[list[Any]]) -> list[tuple[str, Any, list[Any]]]:
    names = settings.get("formats", ["float32"] * len(rule.slots))
    return list(zip(names, rule.slots, slots, strict=False))


@pytest.mark.parametrize("plan", KERNELS.values(), ids=KERNELS)
def test_extras_that_do_not_fit_are_refused(plan: type[Plan]) -> None:
    p = [np.zeros(3)]
    kernel, _ = plan_of(plan, Rule(), p)
    averaging, _ = plan_of(plan, Rule(), p, average=True)
    for one, more in (
        (kernel, {"average_decay": 0.5}),
        (averaging, {}),
        (kernel, {"statistics": np.zeros((2, 4))}),
        (kernel, {"statistics": np.zeros((1, 4), np.float32)}),
    ):
        with pytest.raises(ValueError, match=r"average_decay|statistics"):
            one.step([np.ones(3)], np.ones(1, np.int64), table(Hyper()), **more)  # type: ignore[arg-type]
    assert not p[0].any()


def draw(seed: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: np.asarray(rng.standard_normal(s), dtype) for n, s in {"w": (70, 80), "b": (80,), "e": (0,)}.items()}


def test_what_the_optimizer_tells() -> None:
    params = draw(0)
    params["h"] = np.ones((64, 65), bfloat16)
    optimizer = AdamW(params, lr=0.01, stats=True, groups=[Group("b", eps=1e3)], nonfinite="skip")
    with pytest.raises(ArgumentError, match="no step yet"):
        optimizer.stats()
    grads = {**draw(1), "h": np.full((64, 65), 0.5, bfloat16)}
    for given in (grads, {**grads, "w": None}):
        before = {name: p.astype(np.float64) for name, p in params.items()}
        optimizer.step({name: None if g is None else g * g.dtype.type(4) for name, g in given.items()}, grad_scale=0.25)
        told = optimizer.stats()
        assert [tensor.name for tensor in told.tensors] == [name for name, g in given.items() if g is not None]
        for name, g in given.items():
            if g is None:
                continue
            own = told[name]
            assert own.size == params[name].size
            assert own.gradient == pytest.approx(np.linalg.norm(g.astype(float)), rel=1e-6)
            if name != "h":  # whose new weights are looked at before they are rounded
                assert own.weight == pytest.approx(np.linalg.norm(params[name].astype(float)), rel=1e-6)
                assert own.update == pytest.approx(np.linalg.norm(params[name] - before[name]), rel=1e-4)
            assert own.ratio == (own.update / own.weight if own.weight else 0.0)
            assert own.below_eps == (1.0 if name == "b" else 0.0)
        for column in ("gradient", "update", "weight"):
            norms = [getattr(tensor, column) for tensor in told.tensors]
            assert getattr(told.total, column) == pytest.approx(math.hypot(*norms), rel=1e-12)
        assert told.total.below_eps == pytest.approx(80 / told.total.size)
    assert (told.step, told.skipped) == (2, 0)
    with pytest.raises(ArgumentError, match=r"no tensor 'w' took part in step 2; these did: \['b', 'e', 'h'\]"):
        told["w"]
    optimizer.step({**grads, "w": np.full((70, 80), np.nan, np.float32)})
    assert optimizer.stats().skipped == 1
    assert optimizer.stats().tensors == told.tensors, "those of the last step that was taken"
    plain = Adam(draw(0))
    plain.step(draw(1))
    with pytest.raises(ArgumentError, match="make it with stats=True"):
        plain.stats()
    assert not plain._parts[0].sums.any(), "nothing is collected that nobody asked for"


def test_the_table_of_a_step() -> None:
    told = telemetry.of_step(7, 2, [("dense/kernel", 4, (16.0, 4e-6, 4.0, 1.0)), ("b", 1, (9.0, 1.0, 0.0, 1.0))], 0.5)
    assert str(told).splitlines() == [
        "step 7, 2 skipped",
        "tensor        gradient  update  weight  update/weight  below eps",
        "----------------------------------------------------------------",
        "dense/kernel         2   0.002       2          0.001      25.0%",
        "b                  1.5       1       0            inf     100.0%",
        "total              2.5       1       2            0.5      40.0%",
    ]


def test_the_ratio_of_weights_that_are_zero() -> None:
    (empty,) = telemetry.of_step(1, 0, [("e", 0, (0.0,) * 4)], 1.0).tensors
    assert (empty.ratio, empty.below_eps) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bfloat16])
def test_averages(dtype: Any, tmp_path: Any) -> None:
    """Those of the same training without, taken after every step; they go through a checkpoint."""
    params, plain = draw(0, dtype), draw(0, dtype)
    optimizer, other = Adam(params, lr=0.1, ema=0.75, nonfinite="skip"), Adam(plain, lr=0.1)
    wide = np.float64 if dtype is np.float64 else np.float32
    right = {name: p.astype(wide) for name, p in params.items()}
    for seed in (1, 2, 3):
        grads: dict[str, Any] = draw(seed, dtype)
        if seed == 2:
            grads["b"] = None
        optimizer.step(grads)
        other.step(grads)
        if dtype is not bfloat16:
            right = {
                name: a if grads[name] is None else a + wide(0.25) * (plain[name] - a) for name, a in right.items()
            }
    assert all(params[name].tobytes() == plain[name].tobytes() for name in params)
    if dtype is not bfloat16:
        assert all(same_bits(optimizer.average(name), right[name]) for name in params)
    assert optimizer.average("w").dtype == wide
    optimizer.step({**draw(4, dtype), "b": np.full(80, np.nan, dtype)})
    held = optimizer.average("w")
    held[...] = 0
    assert optimizer.average("w").any(), "a copy"

    state.save(tmp_path / "a", optimizer)
    again = Adam({name: p.copy() for name, p in params.items()}, lr=0.1, ema=0.75)
    again.load_portable_state(state.load(tmp_path / "a"))
    assert all(same_bits(again.average(name), optimizer.average(name)) for name in params)
    with pytest.raises(StateError, match=r"w: the state holds its average.* make it with ema="):
        other.load_portable_state(optimizer.portable_state())
    own = other.portable_state()
    again.load_portable_state(State(own.rule, own.slots, own.steps, own.hypers))
    assert all(same_bits(again.average(n), params[n].astype(wide)) for n in params), "it starts at the parameter"


def test_averages_that_there_are_not() -> None:
    with pytest.raises(ArgumentError, match=r"make it with ema=0\.999"):
        Adam(draw(0)).average("w")
    with pytest.raises(ArgumentError, match="no parameter is named 'x'; they are"):
        Adam(draw(0), ema=0.9).average("x")
    assert Adam(draw(0), ema=0.9).describe().tensors[0].formats["average"] == "float32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, "ema=1.0: give a number in"),
        ({"ema": "0.9"}, "ema='0.9'"),
        ({"verify": -1}, "verify=-1: give N"),
        ({"verify": True}, "verify=True"),
        ({"verify": 2**20 + 1}, "verify="),
        ({"stats": 1}, "stats=1: give False or True"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Adam(draw(0), **settings)


@pytest.mark.parametrize("plan", KERNELS.values(), ids=KERNELS)
def test_a_sound_machine_passes(plan: type[Plan]) -> None:
    """NaN included: it differs from itself, and is no fault."""
    results = []
    for verify in (0, 1, 3):
        params = [np.ones(50_000, np.float32), np.array([np.nan, 1.0], np.float32)]
        kernel, _ = plan_of(plan, Rule(), params, **({"verify": verify} if verify else {}))
        grads: Sequence[np.ndarray] = [np.ones(50_000, np.float32), np.array([1.0, np.inf], np.float32)]
        for t in (1, 2, 3):
            kernel.step(grads, np.full(2, t), table(Hyper()))
        results.append(params)
    for other in results[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(other, results[0], strict=True))


def test_a_result_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arithmetic that is wrong once in 50 calls, as a faulty core's would be."""
    calls, sound, told = [0], reference.update, []

    def faulty(*given: Any, **more: Any) -> Any:
        calls[0] += 1
        new, slots = sound(*given, **more)
        if calls[0] % 50 == 0:
            new = new.copy()
            new.reshape(-1)[-1] += 1
        return new, slots

    monkeypatch.setattr(reference, "update", faulty)

    def steps_until(verify: int) -> int:
        """How many steps are taken before the fault is told."""
        calls[0] = 0
        kernel, _ = plan_of(reference.Plan, Rule(), [np.ones(5), np.ones(7)], verify=verify)
        for t in range(1, 9999):
            try:
                kernel.step([np.ones(5), np.ones(7)], np.full(2, t), table(Hyper()))
            except KernelError as error:
                told.append(str(error))
                return t
        raise AssertionError("not found")

    assert steps_until(1) == 13, "call 50 is of step 13"
    assert "': a block of this step was computed twice and gave two results" in told[0]
    taken = steps_until(10)
    assert 2 * 1.05 < calls[0] / taken < 2 * 1.15, "one in ten twice"


def test_a_fault_in_one_plan_leaves_no_half_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is told to have been taken, so it is taken of every dtype."""
    sound, calls = reference.update, [0]

    def faulty(*given: Any, **more: Any) -> Any:
        calls[0] += 1
        new, slots = sound(*given, **more)
        return (new + 1 if calls[0] == 2 else new), slots

    monkeypatch.setattr(reference, "update", faulty)
    monkeypatch.setattr(cpu, "why_not", lambda: "of the test")
    optimizer = Adam({"a": np.ones(3, np.float32), "b": np.ones(3)}, verify=1, stats=True)
    with pytest.raises(FaultError, match="tensor 'a': a block"):
        optimizer.step({"a": np.ones(3, np.float32), "b": np.ones(3)})
    assert optimizer.portable_state().steps == {"a": 1, "b": 1}
    assert len(optimizer.stats().tensors) == 2
