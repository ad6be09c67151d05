"""NAdam and ScheduleFreeAdamW for NumPy arrays: their arguments, the weights to evaluate with, the state."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support import bounds
from support.problems import FAMILY, Case, case, discriminating
from support.stepping import same_bits
from support.twins import Result

from adamas import state
from adamas.errors import ArgumentError, ArrayError, StateError, UnsupportedError
from adamas.formats import Halves, Split
from adamas.kernels.reference import ieee
from adamas.numpy import ADOPT, LAMB, Adam, Adamax, AdamW, Group, NAdam, RAdam, ScheduleFreeAdamW, StableAdamW
from adamas.numpy.optimizer import Optimizer
from adamas.rule import PRESETS, evaluation_weights, training_weights

FREE = [tried for tried in FAMILY if tried.rule.schedule_free]


def made(tried: Case, params: Any, **more: Any) -> Any:
    """The optimizer of a case."""
    h = tried.hyper
    if tried.rule.schedule_free:
        return ScheduleFreeAdamW(
            params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, int(h.warmup_steps), int(h.r),
            int(h.weight_lr_power), maximize=tried.rule.maximize, **more,
        )  # fmt: skip
    peer: Any = tried.name.split("-")[0]
    decoupled = tried.rule.decay == "decoupled"
    if tried.rule.clip_update:
        return StableAdamW(
            params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, maximize=tried.rule.maximize, **more
        )
    if tried.rule.cautious:
        return (AdamW if tried.rule.decay == "decoupled" else Adam)(
            params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, maximize=tried.rule.maximize,
            like="keras" if peer == "keras" else "torch", cautious=True, **more,
        )  # fmt: skip
    if tried.rule.trust_ratio != "off":
        return LAMB(
            params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, maximize=tried.rule.maximize,
            like="keras" if peer == "keras" else "optax", eps_root=h.eps_root, **more,
        )  # fmt: skip
    if tried.rule.adopt:
        return ADOPT(
            params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, decoupled, maximize=tried.rule.maximize, **more
        )
    if tried.rule.infinity:
        return Adamax(
            params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, maximize=tried.rule.maximize, like=peer, **more
        )
    if tried.rule.rectify:
        return RAdam(
            params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, decoupled and peer == "torch",
            maximize=tried.rule.maximize, like=peer, eps_root=h.eps_root, **more,
        )  # fmt: skip
    torch = {"momentum_decay": h.momentum_decay, "decoupled_weight_decay": decoupled}
    return NAdam(
        params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, maximize=tried.rule.maximize, like=peer,
        eps_root=h.eps_root, **(torch if peer == "torch" else {}), **more,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tried", FAMILY, ids=lambda c: c.name)
def test_the_optimizers_are_the_peers(tried: Case, dtype: type[np.floating]) -> None:
    p, gradients = tried.problem(dtype)
    mine = {"p": p.copy()}
    optimizer = made(tried, mine)
    assert optimizer.rule == tried.rule
    for g in gradients:
        optimizer.step({"p": g})
    kept = optimizer.state_dict()["state"]["p"]
    assert kept["step"] == tried.steps
    got = Result(mine["p"], tuple(kept[slot.name] for slot in tried.rule.slots))
    exact = tried.twin(p, gradients, tried.hyper)
    assert bounds.excess(got, exact, bounds.after(tried.rule, tried.hyper, p, gradients)) <= 1.0


@pytest.mark.parametrize(
    ("kind", "like", "preset", "more"),
    [
        (NAdam, "torch", "torch.NAdam", {}),
        (NAdam, "keras", "keras.Nadam", {}),
        (NAdam, "optax", "optax.nadam", {}),
        (NAdam, "optax", "optax.nadamw", {"weight_decay": 1e-4}),
        (Adamax, "torch", "torch.Adamax", {}),
        (Adamax, "keras", "keras.Adamax", {}),
        (Adamax, "optax", "optax.adamax", {}),
        (Adamax, "optax", "optax.adamaxw", {"weight_decay": 1e-4}),
        (LAMB, "optax", "optax.lamb", {}),
        (LAMB, "keras", "keras.Lamb", {}),
        (RAdam, "torch", "torch.RAdam", {}),
        (RAdam, "optax", "optax.radam", {}),
    ],
)
def test_defaults_are_the_peers(kind: Any, like: str, preset: str, more: dict[str, Any]) -> None:
    optimizer = kind([np.zeros(1)], like=like, **more)
    assert (optimizer.rule, optimizer.hyper) == PRESETS[preset]


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        (ScheduleFreeAdamW, "schedulefree.AdamWScheduleFree"),
        (ADOPT, "adopt.ADOPT"),
        (StableAdamW, "optimi.StableAdamW"),
    ],
)
def test_defaults_are_the_authors(kind: Any, preset: str) -> None:
    optimizer = kind([np.zeros(1)])
    assert (optimizer.rule, optimizer.hyper) == PRESETS[preset]


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("decouple", [False, True])
def test_the_first_step_of_adopt_moves_nothing(decouple: bool, moments: Any) -> None:
    p = np.array([1.5, -0.0, 0.0, -3.0] * 2000, np.float32)
    g = np.array([1e-3, -1e10, 0.0, np.inf] * 2000, np.float32)
    mine = p.copy()
    optimizer = ADOPT([mine], 0.1, weight_decay=0.1, decouple=decouple, moments=moments, nonfinite="propagate")
    optimizer.step([g])
    assert same_bits(mine, p)
    kept = optimizer.state_dict()["state"]["0"]
    if moments == "float32":
        assert not kept["m"].any()
        np.testing.assert_allclose(kept["v"], (g + (0 if decouple else np.float32(0.1) * p)) ** 2, rtol=3e-7)


def test_torchs_two_decays() -> None:
    rules = [NAdam([np.zeros(1)], decoupled_weight_decay=on).rule.decay for on in (None, False, True)]
    assert rules == ["coupled", "coupled", "decoupled"]
    rules = [RAdam([np.zeros(1)], decoupled_weight_decay=on).rule.decay for on in (False, True)]
    assert rules == ["coupled", "decoupled"]


@pytest.mark.parametrize("like", ["optax", "keras"])
def test_the_trust_ratio_is_1_where_a_norm_is_0(like: Any) -> None:
    """A bias that starts at 0 must move, and by lr; one without a gradient must not."""
    params = [np.zeros(3), np.full(3, 2.0), np.zeros((0, 2)), np.full(3, 2.0)]
    optimizer = LAMB(params, 0.1, like=like)
    optimizer.step([np.full(3, 5.0), np.zeros(3), np.zeros((0, 2)), np.full(3, 5.0)])
    assert params[0] == pytest.approx(-0.1, rel=1e-6)
    assert (params[1] == 2.0).all()
    assert params[3] == pytest.approx(2.0 - 0.1 * 2.0, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signs_are_compared_however_small(dtype: Any) -> None:
    """m g underflows for all of these; elements whose g is 0 stay."""
    size = float(np.finfo(dtype).tiny) * 2.0**30
    p = np.zeros(4, dtype)
    optimizer = AdamW([p], 0.5, (0.5, 0.5), size, 0.0, cautious=True)
    optimizer.step([np.array([size, size, -size, size], dtype)])
    first = p.copy()
    assert first == pytest.approx(np.array([-0.5, -0.5, 0.5, -0.5]), rel=1e-6), "all agree: the step of Adam"
    optimizer.step([np.array([size, -size / 4, -size, 0.0], dtype)])
    assert (p[[1, 3]] == first[[1, 3]]).all()
    assert p[0] == pytest.approx(-0.5 - 2 * 0.5, rel=1e-6), "half of them move, twice as far"


def test_no_step_is_longer_than_a_thousand() -> None:
    """One of 10,000 elements moves: by 1000 times its step, and where none does nothing happens."""
    p, g = np.zeros(10_000), np.ones(10_000)
    optimizer = AdamW([p], 1e-6, (0.9, 0.9), 1e-8, 0.0, cautious=True)
    optimizer.step([g])
    before = p.copy()
    optimizer.step([np.zeros(10_000)])
    assert (p == before).all()
    g = np.where(np.arange(10_000) == 7, 1.0, 0.0)
    optimizer.step([g])
    assert np.flatnonzero(p != before).tolist() == [7]
    m, v = 0.1 * 0.81 + 0.1, 0.1 * 0.81 + 0.1
    assert before[7] - p[7] == pytest.approx(1000 * 1e-6 * m / 0.271 / np.sqrt(v / 0.271), rel=1e-6)


def test_a_cautious_nan_is_not_hidden() -> None:
    p = np.ones(4)
    AdamW([p], cautious=True).step([np.array([1.0, np.nan, -1.0, 1.0])])
    assert np.isnan(p).tolist() == [False, True, False, False]


@pytest.mark.parametrize("optimizer", [StableAdamW, LAMB])
def test_one_nan_reaches_the_whole_tensor_and_no_other(optimizer: Any) -> None:
    params = [np.ones(5000), np.ones(3)]
    gradients = [np.ones(5000), np.ones(3)]
    gradients[0][7] = np.nan
    optimizer(params).step(gradients)
    assert np.isnan(params[0]).all()
    assert np.isfinite(params[1]).all()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (NAdam, {"like": "tf"}, "like='tf': give one of 'torch', 'keras', 'optax'"),
        (NAdam, {"like": "keras", "momentum_decay": 1.0}, r"momentum_decay=1.0: keras\.Nadam has none"),
        (NAdam, {"like": "optax", "momentum_decay": 1.0}, r"momentum_decay=1.0: optax\.nadam has none"),
        (NAdam, {"momentum_decay": -1.0}, r"momentum_decay=-1.0: give a finite number of at least 0"),
        (NAdam, {"like": "keras", "decoupled_weight_decay": False}, "always decoupled"),
        (NAdam, {"decoupled_weight_decay": 1.0}, "decoupled_weight_decay=1.0: give False, True or None"),
        (NAdam, {"eps_root": 1e-8}, r"torch\.NAdam has none"),
        (NAdam, {"betas": 0.9}, "betas"),
        (NAdam, {"maximize": 1}, "maximize=1"),
        (
            Adamax,
            {"like": "optax", "groups": [Group("*", eps_root=1e-8)]},
            r"group \*: eps_root=1e-08: optax\.adamax has none",
        ),
        (Adamax, {"groups": [Group("*", eps_root=1e-8)]}, r"torch\.Adamax has none; leave it out"),
        (RAdam, {"like": "optax", "groups": [Group("*", weight_decay=0.1)]}, r"optax\.radam has no weight decay"),
        (RAdam, {"like": "optax", "decoupled_weight_decay": True}, r"optax\.radam has no weight decay"),
        (Adamax, {"like": "tf"}, "like='tf': give one of 'torch', 'keras', 'optax'"),
        (AdamW, {"cautious": 1}, "cautious=1: give one of False, True"),
        (AdamW, {"cautious": True, "amsgrad": True}, "amsgrad and cautious exclude each other"),
        (StableAdamW, {"betas": 0.9}, "betas"),
        (LAMB, {"betas": 0.9}, "betas"),
        (LAMB, {"like": "torch"}, "like='torch': give one of 'optax', 'keras'"),
        (LAMB, {"like": "keras", "eps_root": 1e-8}, r"keras\.Lamb has none; only like='optax' takes it"),
        (
            LAMB,
            {"like": "keras", "groups": [Group("*", eps_root=1e-8)]},
            r"group \*: eps_root=1e-08: keras\.Lamb has none",
        ),
        (StableAdamW, {"groups": [Group("*", eps_root=1e-8)]}, r"optimi\.StableAdamW has none; leave it out"),
        (ADOPT, {"decouple": 1}, "decouple=1: give False or True"),
        (ADOPT, {"groups": [Group("*", eps_root=1e-8)]}, r"adopt\.ADOPT has none; leave it out"),
        (RAdam, {"like": "keras"}, "like='keras': give one of 'torch', 'optax'"),
        (RAdam, {"like": "optax", "weight_decay": 0.1}, r"optax\.radam has no weight decay"),
        (RAdam, {"eps_root": 1e-8}, r"torch\.RAdam has none"),
        (RAdam, {"decoupled_weight_decay": 1}, "decoupled_weight_decay=1: give False or True"),
        (ScheduleFreeAdamW, {"betas": (0.0, 0.9)}, "beta1 is 0.*give a number above 0"),
        (ScheduleFreeAdamW, {"betas": (0.9,)}, "betas"),
        (ScheduleFreeAdamW, {"r": 0.5}, "r=0.5: give a whole number from 0 to 16"),
        (ScheduleFreeAdamW, {"warmup_steps": -1}, "warmup_steps=-1: give a whole number"),
        (ScheduleFreeAdamW, {"groups": [Group("*", betas=(0.0, 0.9))]}, "beta1 is 0"),
    ],
)
def test_what_is_refused(kind: type[Optimizer], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        kind([np.zeros(2)], **arguments)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="momentum"):
        NAdam([np.zeros(2)], momentum=0.9)  # type: ignore[call-arg]


def trained(tried: Case, steps: int = 20, **more: Any) -> tuple[Any, dict[str, np.ndarray], list[np.ndarray]]:
    p, gradients = discriminating(np.float32, steps=60)
    params = {"p": p.copy(), "q": p[:2].copy()}
    optimizer = made(tried, params, **more)
    for g in gradients[:steps]:
        optimizer.step({"p": g, "q": g[:2]})
    return optimizer, params, gradients


def test_the_switch() -> None:
    """There and back, by the functions of the rule; step and state only while training."""
    optimizer, params, gradients = trained(case("schedulefree-warmup"))
    y = {name: p.copy() for name, p in params.items()}
    z = {name: entry["z"] for name, entry in optimizer.state_dict()["state"].items()}
    x = {name: evaluation_weights(y[name], z[name], 0.8) for name in y}
    copies = optimizer.evaluation_weights()
    assert all(same_bits(copies[name], x[name]) for name in y)
    assert all(same_bits(params[name], y[name]) for name in y), "copies change nothing"
    assert not optimizer.evaluating
    for _ in range(2):  # a second call changes nothing
        optimizer.eval()
        assert optimizer.evaluating
        assert all(same_bits(params[name], x[name]) for name in y)
        assert all(same_bits(copy, x[name]) for name, copy in optimizer.evaluation_weights().items())
    with pytest.raises(StateError, match=r"hold the weights for evaluation; to take a step call train\(\) first"):
        optimizer.step({"p": gradients[0], "q": gradients[0][:2]})
    for refused in (optimizer.portable_state, optimizer.state_dict):
        with pytest.raises(StateError, match="its state, which belongs to the weights in training, call train"):
            refused()
    assert all(same_bits(params[name], x[name]) for name in y), "nothing has been changed"
    for _ in range(2):
        optimizer.train()
        assert not optimizer.evaluating
        assert all(same_bits(params[name], training_weights(x[name], z[name], 0.8)) for name in y)
    optimizer.step({"p": gradients[0], "q": gradients[0][:2]})
    assert optimizer.state_dict()["state"]["p"]["step"] == 21


def test_weights_to_evaluate_with_before_the_first_step_are_the_parameters() -> None:
    p = np.random.default_rng(0).standard_normal(1000)
    params = [p.copy(), np.array(2.0), np.zeros((0, 3))]
    optimizer = ScheduleFreeAdamW(params)
    optimizer.eval()
    assert same_bits(params[0], p)
    assert isinstance(optimizer.evaluation_weights(), list)
    optimizer.train()
    assert same_bits(params[0], p)


def test_weights_that_are_loaded_before_the_first_step_are_those_that_are_trained() -> None:
    p, gradients = discriminating(np.float64)
    right, late = p.copy(), np.zeros_like(p)
    once, again = ScheduleFreeAdamW([right], 0.02), ScheduleFreeAdamW([late], 0.02)
    late[...] = p
    assert same_bits(again.evaluation_weights()[0], p)
    again.eval()
    again.train()
    assert same_bits(late, p)
    assert same_bits(again.state_dict()["state"]["0"]["z"], p)
    for g in gradients:
        once.step([g])
        again.step([g])
    assert same_bits(late, right)


def test_each_group_has_its_own_beta1() -> None:
    p, gradients = discriminating(np.float64)
    params = {"a": p.copy(), "b": p.copy()}
    optimizer = ScheduleFreeAdamW(params, 0.02, groups=[Group("b", betas=(0.5, 0.9))])
    for g in gradients:
        optimizer.step({"a": g, "b": g})
    kept = optimizer.state_dict()["state"]
    found = optimizer.evaluation_weights()
    for name, beta1 in (("a", 0.9), ("b", 0.5)):
        assert same_bits(found[name], evaluation_weights(params[name], kept[name]["z"], beta1))


def test_a_large_tensor_is_converted_in_pieces() -> None:
    rng = np.random.default_rng(1)
    p = rng.standard_normal((3, 50_000)).astype(np.float32)
    mine = p.copy()
    optimizer = ScheduleFreeAdamW([mine], 0.1)
    optimizer.step([rng.standard_normal(p.shape).astype(np.float32)])
    optimizer.step([rng.standard_normal(p.shape).astype(np.float32)])
    right = evaluation_weights(mine, optimizer.state_dict()["state"]["0"]["z"], 0.9)
    optimizer.eval()
    assert same_bits(mine, right)


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
def test_parameters_of_16_bits_are_evaluated_in_copies(weights: Any) -> None:
    rng = np.random.default_rng(2)
    p = rng.standard_normal(5000).astype(ml_dtypes.bfloat16)
    params = {"p": p}
    optimizer = ScheduleFreeAdamW(params, 0.1, weights=weights)
    for _ in range(5):
        optimizer.step({"p": rng.standard_normal(5000).astype(ml_dtypes.bfloat16)})
    before = p.copy()
    with pytest.raises(UnsupportedError, match=r"'p': a parameter of bfloat16.*evaluation_weights\(\)"):
        optimizer.eval()
    assert (p == before).all()
    assert not optimizer.evaluating
    optimizer.train()
    (x,) = optimizer.evaluation_weights().values()
    assert x.dtype == np.float32
    kept = optimizer.state_dict()["state"]["p"]
    y = p.astype(np.float32)
    if weights == "split":  # the 8 bits that follow are part of the weight
        assert kept["correction"].any()
        y = Split().decode(Halves(p, kept["correction"]))
    assert same_bits(x, evaluation_weights(y, kept["z"], 0.9))


def test_a_replaced_parameter_is_not_switched() -> None:
    optimizer, params, _ = trained(case("schedulefree"))
    old, params["q"] = params["q"], params["q"].copy()
    with pytest.raises(ArrayError, match="'q' was replaced"):
        optimizer.eval()
    params["q"] = old
    assert not optimizer.evaluating


def test_an_interrupted_switch_can_be_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, params, gradients = trained(case("schedulefree"))
    y, right = {name: p.copy() for name, p in params.items()}, optimizer.evaluation_weights()
    whole, calls = optimizer._converted, []

    def interrupted(i: int, to_x: bool) -> np.ndarray:
        calls.append(i)
        if len(calls) == 2:
            raise KeyboardInterrupt
        result: np.ndarray = whole(i, to_x)
        return result

    monkeypatch.setattr(optimizer, "_converted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.eval()
    assert same_bits(params["p"], right["p"])
    assert same_bits(params["q"], y["q"])
    assert optimizer.evaluating
    with pytest.raises(StateError, match="call train"):
        optimizer.step({"p": gradients[0], "q": gradients[0][:2]})
    optimizer.eval()
    assert all(same_bits(params[name], right[name]) for name in params)


@pytest.mark.parametrize("more", [{}, {"moments": "int8"}, {"moments": "bfloat16", "seed": 3}], ids=str)
@pytest.mark.parametrize("name", ["torch-nadamw", "schedulefree-warmup"])
def test_a_saved_state_goes_on_exactly(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    """With parameters that lacked gradients, so that their carries differ, and through a file or a dict."""
    tried = case(name)
    rng = np.random.default_rng(5)
    start = {"a": rng.standard_normal(5000).astype(np.float32), "b": rng.standard_normal(7).astype(np.float32)}
    steps = [{key: rng.standard_normal(p.shape).astype(np.float32) for key, p in start.items()} for _ in range(12)]
    for step in (2, 3, 9):
        del steps[step]["b"]

    def run(through: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        params = {key: p.copy() for key, p in start.items()}
        optimizer = made(tried, params, **more)
        for number, grads in enumerate(steps):
            if number == 6 and "file" in through:
                state.save(tmp_path / "s", optimizer)
                optimizer = made(tried, params, **more)
                optimizer.load_portable_state(state.load(tmp_path / "s"))
            if number == 6 and "dict" in through:
                kept = pickle.loads(pickle.dumps(optimizer.state_dict()))
                optimizer = made(tried, params, **more)
                optimizer.load_state_dict(kept)
            optimizer.step(grads)
        return params, optimizer.state_dict()["state"]

    right, entries = run([])
    assert entries["a"]["carry"] != entries["b"]["carry"]
    assert (entries["a"]["step"], entries["b"]["step"]) == (12, 9)
    for through in ("file", "dict"):
        params, kept = run([through])
        assert all(same_bits(params[key], right[key]) for key in right)
        assert [entry["carry"] for entry in kept.values()] == [entry["carry"] for entry in entries.values()]


def test_a_state_without_momentum_is_not_loaded() -> None:
    optimizer = ScheduleFreeAdamW([np.ones(3)])
    kept = optimizer.portable_state()
    without = replace(kept, hypers=[replace(hyper, beta1=0.0) for hyper in kept.hypers])
    with pytest.raises(StateError, match="the state has beta1 = 0"):
        optimizer.load_portable_state(without)
    assert optimizer.hyper.beta1 == 0.9


def test_a_state_is_not_loaded_over_weights_for_evaluation() -> None:
    optimizer, params, _ = trained(case("schedulefree"))
    kept = optimizer.portable_state()
    optimizer.eval()
    x = params["p"].copy()
    with pytest.raises(StateError, match=r"to take over a state.*call train\(\) first"):
        optimizer.load_portable_state(kept)
    assert same_bits(params["p"], x)


def test_the_state_of_another_rule_is_refused() -> None:
    optimizer, _, _ = trained(case("torch-nadamw"))
    kept = optimizer.portable_state()
    other, _, _ = trained(case("schedulefree"))
    with pytest.raises(StateError, match=r"rule.nesterov: the state has 'scheduled', the optimizer 'off'"):
        other.load_portable_state(kept)
    third = NAdam({name: np.zeros(shape, np.float32) for name, shape in kept.shapes.items()}, like="optax")
    with pytest.raises(StateError, match=r"rule.nesterov: the state has 'scheduled', the optimizer 'constant'"):
        third.load_portable_state(kept)


@pytest.mark.parametrize("name", ["torch-nadamw", "schedulefree-warmup"])
def test_a_skipped_step_carries_nothing_on(name: str) -> None:
    optimizer, params, gradients = trained(case(name), nonfinite="skip")
    before = optimizer.portable_state()
    kept = {key: p.copy() for key, p in params.items()}
    optimizer.step({"p": np.full_like(params["p"], np.nan), "q": gradients[0][:2]})
    after = optimizer.portable_state()
    assert optimizer.skipped == 1
    assert (after.carries, after.steps) == (before.carries, before.steps)
    assert all(same_bits(params[key], kept[key]) for key in kept)


def test_the_rate_may_be_changed_between_steps() -> None:
    """The largest rate so far stays in the weights of the mean."""
    optimizer, _, gradients = trained(case("schedulefree"))
    optimizer.lr = 0.001
    optimizer.step({"p": gradients[0], "q": gradients[0][:2]})
    total, largest = optimizer.state_dict()["state"]["p"]["carry"]
    assert largest == 0.02
    with ieee():
        assert total == pytest.approx(21 * 0.02**2, rel=1e-12)


def test_switching_every_few_steps_hardly_changes_a_training() -> None:
    """Each switch there and back rounds twice; 12 of them move y by a few units in the last place of its scale."""
    tried = case("schedulefree-warmup")
    once, params, gradients = trained(tried, 0)
    often, others, _ = trained(tried, 0)
    for t, g in enumerate(gradients):
        for optimizer in (once, often):
            optimizer.step({"p": g, "q": g[:2]})
        if t % 5 == 0:
            often.eval()
            often.train()
    assert not same_bits(params["p"], others["p"])
    assert abs(params["p"] - others["p"]).max() < 60 * 2.0**-23 * abs(params["p"]).max()
