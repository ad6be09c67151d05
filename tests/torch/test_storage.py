"""adamas.torch beyond torch: moments and weights in fewer bits, gradients that are not finite, statistics, NAdam."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from adamas import formats, storage
from adamas import numpy as adamas_numpy
from adamas.errors import ArgumentError, NonFiniteError, StateError, UnsupportedError
from adamas.formats import Blocks, Key, name_key
from adamas.rule import Rule

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import adamas.torch as ours  # noqa: E402
from adamas.torch.memory import as_array, key, scales_key, stored  # noqa: E402
from adamas.torch.prepared import Asked, prepare  # noqa: E402

RULE = Rule(decay="coupled")
SHAPES = [(70, 65), (64,), (64, 64)]
DTYPES = {torch.float32: np.float32, torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}
CASES = [
    (dtype, moments, weights)
    for dtype, modes in (
        (torch.float32, ["nearest"]),
        (torch.bfloat16, ["nearest", "stochastic", "split"]),
        (torch.float16, ["nearest", "stochastic"]),
    )
    for weights in modes
    for moments in ("float32", "bfloat16", "int8")
]


def problem(dtype: Any = torch.float32) -> list[Any]:
    rng = np.random.default_rng(0)
    return [torch.nn.Parameter(torch.tensor(rng.standard_normal(s), dtype=dtype)) for s in SHAPES]


def give(params: list[Any], seed: int) -> list[np.ndarray]:
    """Gradients, and the same as arrays."""
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = torch.tensor(rng.standard_normal(p.shape), dtype=p.dtype)
    return [as_array(p.grad).copy() for p in params]


def kept(optimizer: Any, params: list[Any]) -> list[bytes]:
    """Every bit of parameters and state."""
    found = []
    for p in params:
        found.append(as_array(p.detach()).tobytes())
        state = optimizer.state.get(p, {})
        found += [key.encode() + as_array(state[key].contiguous()).tobytes() for key in sorted(state)]
    return found


def run(optimizer: Any, params: list[Any], seeds: range) -> Any:
    for seed in seeds:
        give(params, seed)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(("dtype", "moments", "weights"), CASES)
def test_the_bits_are_those_of_adamas_numpy(dtype: Any, moments: Any, weights: Any) -> None:
    params = problem(dtype)
    arrays = [as_array(p.detach()).copy() for p in params]
    settings: dict[str, Any] = {"lr": 0.05, "moments": moments, "weights": weights, "seed": 5, "amsgrad": True}
    optimizer, twin = ours.AdamW(params, **settings), adamas_numpy.AdamW(arrays, **settings)
    for seed in range(3):
        grads = give(params, seed)
        optimizer.step()
        twin.step(list(grads))
    for i, (p, array) in enumerate(zip(params, arrays, strict=True)):
        assert as_array(p.detach()).tobytes() == array.tobytes()
        held = twin.portable_state().slots[str(i)]
        for slot, right in held.items():
            own = stored(RULE, optimizer.state[p], slot)
            pairs = zip(formats.arrays(own), formats.arrays(right), strict=True)
            assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
        names = {key(RULE, slot) for slot in held}
        names |= {scales_key(RULE, slot) for slot, x in held.items() if isinstance(x, Blocks)}
        assert set(optimizer.state[p]) == {"step", *names}
    assert [t.formats for t in optimizer.describe().tensors] == [t.formats for t in twin.describe().tensors]
    assert optimizer.describe().bytes == twin.describe().bytes
    assert "kept in float32" in str(optimizer.describe()) or moments == "float32"


@pytest.mark.parametrize(("dtype", "moments", "weights"), CASES)
def test_checkpoints_and_copies_go_on_exactly(dtype: Any, moments: Any, weights: Any) -> None:
    """torch casts a state to the parameter's dtype where it loads it; what is stored otherwise must not suffer that."""
    settings: dict[str, Any] = {"moments": moments, "weights": weights, "seed": 3}
    params = problem(dtype)
    optimizer = run(ours.Adam(params, **settings), params, range(3))
    file = io.BytesIO()
    torch.save({"model": [p.detach() for p in params], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    others = [torch.nn.Parameter(p.clone()) for p in read["model"]]
    loaded = ours.Adam(others, **settings)
    loaded.load_state_dict(read["optimizer"])
    assert kept(loaded, others) == kept(optimizer, params)
    copied = copy.deepcopy(optimizer)
    pickled = pickle.loads(pickle.dumps(optimizer))
    for one in (copied, pickled):
        own = one.param_groups[0]["params"]
        assert kept(run(one, own, range(3, 5)), own) != kept(optimizer, params)
    run(optimizer, params, range(3, 5))
    run(loaded, others, range(3, 5))
    for one, own in ((loaded, others), *((o, o.param_groups[0]["params"]) for o in (copied, pickled))):
        assert kept(one, own) == kept(optimizer, params)


def test_groups_have_moments_and_weights_of_their_own() -> None:
    params = [*problem(torch.bfloat16), *problem()]
    groups = [
        {"params": params[:2], "moments": "int8", "weights": "split"},
        {"params": params[2:3], "lr": 0.1},
        {"params": params[3:], "moments": "bfloat16", "lr": 0.2},
    ]
    optimizer = run(ours.Adam(groups, lr=0.05, weights="stochastic"), params, range(2))
    assert [(t.group, t.dtype, t.formats["m"]) for t in optimizer.describe().tensors] == [
        ("group 0", "bfloat16 split", "int8"),
        ("group 0", "bfloat16 split", "float32"),
        ("group 1", "bfloat16 stochastic", "float32"),
        ("group 2", "float32", "bfloat16"),
        ("group 2", "float32", "float32"),
        ("group 2", "float32", "bfloat16"),
    ]
    alone = [*problem(torch.bfloat16), *problem()]
    names = [str(i) for i in range(6)]
    for i, p in enumerate(alone):
        group = groups[(0, 0, 1, 2, 2, 2)[i]]
        own = {name: value for name, value in group.items() if name != "params"}
        if p.dtype == torch.bfloat16:
            own.setdefault("weights", "stochastic")
        single = ours.Adam([(names[i], p)], **{"lr": 0.05, **own})
        for seed in range(2):
            rng = np.random.default_rng(seed)
            p.grad = [torch.tensor(rng.standard_normal(q.shape), dtype=q.dtype) for q in params][i]
            single.step()
    assert [as_array(p.detach()).tobytes() for p in params] == [as_array(p.detach()).tobytes() for p in alone]
    again = ours.Adam([{"params": g["params"]} for g in groups], weights="stochastic")
    again.load_state_dict(optimizer.state_dict())
    assert [group.get("moments") for group in again.param_groups] == ["int8", None, "bfloat16"]


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "int8"])
def test_a_state_of_another_format_is_converted_by_the_next_step(moments: Any) -> None:
    params, others = problem(), problem()
    first = run(ours.Adam(params, moments="int8", seed=1), params, range(2))
    second = ours.Adam(others, moments=moments, seed=2)
    second.load_state_dict(first.state_dict())
    run(second, others, range(2, 3))
    twin_params, twin = [as_array(p.detach()).copy() for p in problem()], None
    twin = adamas_numpy.Adam(twin_params, moments=moments, seed=2)
    before = adamas_numpy.Adam([as_array(p.detach()).copy() for p in problem()], moments="int8", seed=1)
    for seed in range(2):
        before.step(list(give(problem_grads := problem(), seed)))
    twin.load_portable_state(replace(before.portable_state(), seed=None))
    twin.step(list(give(problem_grads, 2)))
    for i, p in enumerate(others):
        for slot, right in twin.portable_state().slots[str(i)].items():
            pairs = zip(formats.arrays(stored(RULE, second.state[p], slot)), formats.arrays(right), strict=True)
            assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
        assert (scales_key(RULE, "m") in second.state[p]) == (moments == "int8" and p.numel() >= 4096)


def test_a_state_of_torchs_own_low_precision_is_taken_over() -> None:
    """torch keeps moments of bfloat16 parameters in bfloat16; ours are float32 from the next step on."""
    params = problem(torch.bfloat16)
    theirs = run(torch.optim.Adam(params), params, range(2))
    own = [torch.nn.Parameter(p.detach().clone()) for p in params]
    optimizer = ours.Adam(own)
    optimizer.load_state_dict(theirs.state_dict())
    give(own, 2)
    optimizer.step()
    state = optimizer.state[own[0]]
    assert (state["exp_avg"].dtype, float(state["step"])) == (torch.float32, 3.0)
    g, m = own[0].grad.float(), theirs.state[params[0]]["exp_avg"].float()
    assert torch.equal(state["exp_avg"], m + torch.tensor(1 - 0.9, dtype=torch.float32) * (g - m))


def test_key_of_the_random_numbers() -> None:
    """The name, where torch was told it; as adamas.numpy of a dict."""
    model = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    arrays = {name: as_array(p.detach()).copy() for name, p in model.named_parameters()}
    optimizer = ours.Adam(model.named_parameters(), moments="int8", weights="stochastic")
    twin = adamas_numpy.Adam(arrays, moments="int8", weights="stochastic")
    grads = give(list(model.parameters()), 0)
    optimizer.step()
    twin.step(dict(zip(arrays, grads, strict=True)))
    for name, p in model.named_parameters():
        assert as_array(p.detach()).tobytes() == arrays[name].tobytes()


def test_gradients_that_are_not_finite() -> None:
    for settings, skips in (({"moments": "int8"}, True), ({"nonfinite": "skip"}, True), ({}, False)):
        params = [*problem(), *problem(torch.bfloat16)]
        optimizer = run(ours.Adam(params, **settings), params, range(1))  # type: ignore[arg-type]
        before = kept(optimizer, params)
        give(params, 1)
        params[4].grad[3] = float("inf")
        optimizer.step()
        assert (optimizer.skipped, kept(optimizer, params) == before) == ((1, True) if skips else (0, False))
    params = [*problem(), *problem(torch.bfloat16)]
    optimizer = run(ours.Adam(params, nonfinite="raise"), params, range(1))
    before = kept(optimizer, params)
    give(params, 1)
    params[4].grad[3] = float("nan")
    with pytest.raises(NonFiniteError, match="tensor '4': of 64 elements of its gradient 1 are NaN and 0 infinite"):
        optimizer.step()
    assert kept(optimizer, params) == before


def test_statistics() -> None:
    params = problem()
    optimizer = ours.Adam(params, lr=0.01, stats=True)
    with pytest.raises(ArgumentError, match="no step yet"):
        optimizer.stats()
    give(params, 0)
    params[1].grad = None
    before = [p.detach().clone() for p in params]
    optimizer.step()
    told = optimizer.stats()
    assert [tensor.name for tensor in told.tensors] == ["0", "2"]
    assert told["2"].gradient == pytest.approx(float(params[2].grad.norm()), rel=1e-5)
    assert told["2"].update == pytest.approx(float((params[2].detach() - before[2]).norm()), rel=1e-4)
    assert told.total.weight == pytest.approx(
        float(torch.cat([params[i].detach().flatten() for i in (0, 2)]).norm()), rel=1e-5
    )
    assert (told.step, told.skipped) == (1, 0)
    with pytest.raises(ArgumentError, match="stats=True"):
        ours.Adam(problem()).stats()


@pytest.mark.parametrize(
    ("dtype", "settings", "message"),
    [
        (torch.float32, {"moments": "int4"}, "moments='int4'"),
        (torch.float64, {"moments": "int8"}, "parameter 0 of group 0: moments='int8' and a parameter of float64"),
        (torch.float16, {"weights": "split"}, "weights='split' is for parameters of bfloat16"),
        (torch.bfloat16, {"weights": "exact"}, "weights='exact'"),
        (torch.float32, {"nonfinite": "ignore"}, "nonfinite='ignore': give one of"),
        (torch.float32, {"seed": -1}, "seed=-1"),
        (torch.float32, {"verify": 2**21}, "verify="),
        (torch.float32, {"stats": 1}, "stats=1"),
    ],
)
def test_what_is_refused(dtype: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ours.Adam(problem(dtype), **settings)


def test_what_a_step_refuses() -> None:
    params = problem()
    give(params, 0)
    with pytest.raises(ArgumentError, match="weights='stochastic' is for parameters of bfloat16 or"):
        ours.Adam(params, weights="stochastic").step()
    low = problem(torch.bfloat16)
    optimizer = run(ours.Adam(low, moments="int8"), low, range(1))
    optimizer.state[low[0]]["exp_avg"] = optimizer.state[low[0]]["exp_avg"].to(torch.int32)
    give(low, 1)
    with pytest.raises(StateError, match=r"exp_avg of parameter 0 of group 0 is torch\.int32"):
        optimizer.step()


def test_corrections_are_not_lost_in_silence() -> None:
    params = problem(torch.bfloat16)
    split = run(ours.Adam(params, weights="split"), params, range(3))
    others = problem(torch.bfloat16)
    optimizer = ours.Adam(others)
    optimizer.load_state_dict(split.state_dict())
    before = kept(optimizer, others)
    give(others, 3)
    with pytest.raises(StateError, match=r"parameter 0 of group 0 holds its correction.* weights='nearest'"):
        optimizer.step()
    assert kept(optimizer, others) == before
    for p in others:
        del optimizer.state[p]["correction"]
    optimizer.step()


def test_torchs_own_objects_are_stepped_where_it_is_the_same_only() -> None:
    """adamas explain steps them: with parameters of 16 bits, torch rounds moments that ours would not."""
    params = problem(torch.bfloat16)
    give(params, 0)
    with pytest.raises(UnsupportedError, match=r"is torch\.bfloat16, for which torch keeps moments of 16 bits"):
        ours.Stepper().step(torch.optim.Adam(params))


def test_verification_changes_nothing() -> None:
    results = []
    for verify in (0, 1):
        params = problem()
        results.append(kept(run(ours.Adam(params, verify=verify), params, range(2)), params))
    assert results[0] == results[1]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nadam(decoupled: bool, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of adamas.numpy, torch's results to rounding, and states both ways."""
    # torch holds mu_product in this dtype
    monkeypatch.setattr(torch, "get_default_dtype", lambda: dtype)
    settings: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
    more = {"momentum_decay": 0.01, "decoupled_weight_decay": decoupled}
    params, others = problem(dtype), problem(dtype)
    optimizer, theirs = ours.NAdam(params, **settings, **more), torch.optim.NAdam(others, **settings, **more)
    assert isinstance(optimizer, torch.optim.NAdam)
    for one, own in ((optimizer, params), (theirs, others)):
        run(one, own, range(6))
    arrays = [as_array(p.detach()).copy() for p in problem(dtype)]
    twin = adamas_numpy.NAdam(arrays, **settings, **more)
    for seed in range(6):
        twin.step(list(give(problem(dtype), seed)))
    assert [p.detach().numpy().tobytes() for p in params] == [array.tobytes() for array in arrays]
    near = 2e-5 if dtype == torch.float32 else 1e-13
    for p, q in zip(params, others, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=near, atol=near)
        assert float(optimizer.state[p]["mu_product"]) == pytest.approx(float(theirs.state[q]["mu_product"]), rel=1e-5)
    moved = ours.NAdam([torch.nn.Parameter(q.detach().clone()) for q in others], **settings, **more)
    moved.load_state_dict(copy.deepcopy(theirs.state_dict()))  # torch's loading shares what it needs not cast
    back = torch.optim.NAdam([torch.nn.Parameter(p.detach().clone()) for p in params], **settings, **more)
    back.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (moved, back, optimizer):
        run(one, one.param_groups[0]["params"], range(6, 8))
    for one in (moved, back):
        for p, q in zip(one.param_groups[0]["params"], params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=2 * near, atol=2 * near)


def test_rules_that_are_conversions_use_the_key_of_the_step() -> None:
    """What `storage.convert` of the same key gives: no other random numbers."""
    params = problem()
    first = run(ours.Adam(params), params, range(2))
    held = as_array(first.state[params[0]]["exp_avg"]).copy()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    second = ours.Adam(others, moments="int8", seed=9, lr=0.0, betas=(0.9, 0.999))
    second.load_state_dict(first.state_dict())
    give(others, 5)
    prepare(second, [Asked(RULE, "int8", "nearest")], second._settings, True)
    right = storage.convert(held, Rule().slots[0], "int8", np.dtype(np.float32), Key(9, name_key("0"), 2, 0, 0))
    assert isinstance(right, Blocks)
    assert as_array(second.state[others[0]]["exp_avg"]).tobytes() == right.codes.tobytes()


@pytest.mark.parametrize("moments", ["float32", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_schedule_free(dtype: Any, moments: Any) -> None:
    """The bits of adamas.numpy, also evaluated and after that; through a checkpoint that was made in between."""
    settings: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 3, "r": 1, "moments": moments}
    params = problem(dtype)
    arrays = [as_array(p.detach()).copy() for p in params]
    optimizer, twin = ours.ScheduleFreeAdamW(params, **settings), adamas_numpy.ScheduleFreeAdamW(arrays, **settings)

    def both(seeds: range) -> None:
        for seed in seeds:
            grads = give(params, seed)
            optimizer.step()
            twin.step(list(grads))
        assert [as_array(p.detach()).tobytes() for p in params] == [array.tobytes() for array in arrays]

    optimizer.train()
    both(range(5))
    if dtype == torch.bfloat16:
        with pytest.raises(UnsupportedError, match=r"a parameter of torch\.bfloat16 would lose too much"):
            optimizer.eval()
        return
    training = [p.detach().clone() for p in params]
    optimizer.eval()
    optimizer.eval()
    twin.eval()
    assert [as_array(p.detach()).tobytes() for p in params] == [array.tobytes() for array in arrays]
    assert not any(torch.equal(p, q) for p, q in zip(params, training, strict=True))
    with pytest.raises(StateError, match="call train"):
        optimizer.step()
    saved = copy.deepcopy((optimizer.state_dict(), [p.detach() for p in params]))
    others = [torch.nn.Parameter(p) for p in saved[1]]
    loaded = ours.ScheduleFreeAdamW(others, moments=moments)
    loaded.load_state_dict(saved[0])
    for one in (optimizer, loaded, twin):
        one.train()
    both(range(5, 8))
    run(loaded, others, range(5, 8))
    assert kept(loaded, others) == kept(optimizer, params)


def test_schedule_free_refuses() -> None:
    with pytest.raises(ArgumentError, match="beta1 is 0"):
        ours.ScheduleFreeAdamW(problem(), betas=(0.0, 0.9))
    with pytest.raises(ArgumentError, match=r"warmup_steps=0\.5"):
        ours.ScheduleFreeAdamW(problem(), warmup_steps=0.5)  # type: ignore[arg-type]
    optimizer = ours.ScheduleFreeAdamW(problem())
    with pytest.raises(ArgumentError, match="beta1 is 0"):
        optimizer.add_param_group({"params": problem(), "betas": (0.0, 0.9)})
    assert len(optimizer.param_groups) == 1
    fresh = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    optimizer.eval()
    assert all(torch.equal(p, q) for p, q in zip(optimizer.param_groups[0]["params"], fresh, strict=True))


OWN: list[tuple[str, dict[str, Any]]] = [
    ("ADOPT", {}),
    ("ADOPT", {"decouple": True, "maximize": True}),
    ("StableAdamW", {}),
    ("LAMB", {}),
    ("LAMB", {"like": "keras", "maximize": True}),
    ("AdamW", {"cautious": True}),
    ("Adam", {"cautious": True, "maximize": True}),
]


@pytest.mark.parametrize(("name", "more"), OWN, ids=str)
@pytest.mark.parametrize(("dtype", "moments"), [(torch.float32, "float32"), (torch.bfloat16, "int8")], ids=str)
def test_what_torch_has_not_is_that_of_adamas_numpy(name: str, more: dict[str, Any], dtype: Any, moments: Any) -> None:
    """Its bits, its defaults; through a state_dict and a portable state that were taken in between."""
    if not hasattr(torch.optim, name):
        theirs, mine = (inspect.signature(getattr(module, name)).parameters for module in (adamas_numpy, ours))
        for argument in ("lr", "betas", "weight_decay", "maximize"):
            assert mine[argument].default == theirs[argument].default
        assert mine["eps"].default == (1e-6 if name == "LAMB" else theirs["eps"].default)
    settings: dict[str, Any] = {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.1, "moments": moments, **more}
    params = problem(dtype)
    arrays = [as_array(p.detach()).copy() for p in params]
    optimizer, twin = getattr(ours, name)(params, **settings), getattr(adamas_numpy, name)(arrays, **settings)
    for seed in range(3):
        grads = give(params, seed)
        optimizer.step()
        twin.step(list(grads))
    assert [as_array(p.detach()).tobytes() for p in params] == [array.tobytes() for array in arrays]
    start = [p.detach().clone() for p in params]
    results = []
    state, portable = copy.deepcopy(optimizer.state_dict()), optimizer.portable_state()
    for way in ("go on", "state_dict", "portable"):
        own = params if way == "go on" else [torch.nn.Parameter(p.clone()) for p in start]
        one = optimizer if way == "go on" else getattr(ours, name)(own, **{**settings, "lr": 0.5})
        if way == "state_dict":
            one.load_state_dict(state)
        elif way == "portable":
            one.load_portable_state(portable)
        results.append(kept(run(one, own, range(3, 5)), own))
    assert results[0] == results[1] == results[2]


def test_who_may_be_cautious() -> None:
    for name, more, message in (
        ("AdamW", {"cautious": 1}, "cautious=1: give one of False, True"),
        ("AdamW", {"cautious": True, "amsgrad": True}, "amsgrad and cautious exclude each other"),
        ("NAdam", {"cautious": True}, "nesterov and cautious exclude each other"),
        ("LAMB", {"cautious": True}, "trust_ratio and cautious exclude each other"),
    ):
        with pytest.raises(ArgumentError, match=message):
            getattr(ours, name)(problem(), **more)
    params = problem()
    optimizer = ours.AdamW([{"params": params[:1], "cautious": True}, {"params": params[1:]}], lr=0.1)
    arrays = [as_array(p.detach()).copy() for p in params]
    first, rest = adamas_numpy.AdamW(arrays[:1], 0.1, cautious=True), adamas_numpy.AdamW(arrays[1:], 0.1)
    for seed in range(3):
        grads = give(params, seed)
        optimizer.step()
        first.step(list(grads[:1]))
        rest.step(list(grads[1:]))
    assert [as_array(p.detach()).tobytes() for p in params] == [array.tobytes() for array in arrays]
