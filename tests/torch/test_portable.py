"""The portable state of adamas.torch and of torch.optim: the bits go on elsewhere, and what does not fit is refused."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.stepping import same_bits

from adamas import numpy as adamas_numpy
from adamas import state
from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.formats import Blocks, arrays

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import adamas.torch as ours  # noqa: E402
from adamas.torch.memory import as_array  # noqa: E402
from adamas.torch.portable import from_torch, to_torch  # noqa: E402

SHAPES = [(70, 65), (64,), ()]
NAMES = ["dense.weight", "dense.bias", "scale"]
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # class, its settings, those of NumPy's beside them
    "Adam": ("Adam", {"weight_decay": 0.1}, {}),
    "AMSGrad": ("Adam", {"amsgrad": True, "maximize": True}, {}),
    "AdamW": ("AdamW", {}, {}),
    "NAdam": ("NAdam", {"momentum_decay": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.1}, {}),
    "RAdam": ("RAdam", {"betas": (0.9, 0.99)}, {}),
    "Adamax": ("Adamax", {}, {}),
    "ScheduleFreeAdamW": ("ScheduleFreeAdamW", {"warmup_steps": 4, "r": 1}, {}),
    "AdamW like Keras": ("AdamW", {"like": "keras"}, {}),
    "AMSGrad like optax": ("AdamW", {"like": "optax", "amsgrad": True, "weight_decay": 0.0}, {}),
}
TORCHS = [kind for kind, (name, settings, _) in KINDS.items() if hasattr(torch.optim, name) and "like" not in settings]
KIND = pytest.mark.parametrize("kind", KINDS)


def problem(dtype: Any = torch.float32) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    values = (torch.tensor(rng.standard_normal(shape), dtype=dtype) for shape in SHAPES)
    return {name: torch.nn.Parameter(value) for name, value in zip(NAMES, values, strict=True)}


def gradients(t: int) -> list[Any]:
    """Of step t; at step 2 the second parameter has none."""
    rng = np.random.default_rng(t)
    found = [torch.tensor(rng.standard_normal(s) * 10 ** rng.uniform(-3, 1)) for s in SHAPES]
    return [None if t == 2 and i == 1 else g for i, g in enumerate(found)]


def step(optimizer: Any, params: dict[str, Any], t: int) -> None:
    for p, g in zip(params.values(), gradients(t), strict=True):
        p.grad = None if g is None else g.to(p.dtype)
    optimizer.step()


def made(kind: str, params: dict[str, Any], named: bool = True, module: Any = ours, **more: Any) -> Any:
    name, settings, _ = KINDS[kind]
    return getattr(module, name)(list(params.items()) if named else list(params.values()), lr=0.02, **settings, **more)


def numpys(kind: str, params: dict[str, np.ndarray], **more: Any) -> Any:
    """The NumPy optimizer of the same rule."""
    name, settings, _ = KINDS[kind]
    return getattr(adamas_numpy, name)(params, **settings, **more)


def held(optimizer: Any) -> dict[str, bytes]:
    """Every bit of its state."""
    own = from_torch(optimizer)
    return {
        f"{slot}/{name}": b"".join(a.tobytes() for a in arrays(stored))
        for name, slots in own.slots.items()
        for slot, stored in slots.items()
    } | {name: repr((own.steps[name], own.carries[name], own.hypers)).encode() for name in own.names}


@KIND
@pytest.mark.parametrize(
    ("dtype", "weights", "moments"),
    [
        (torch.float32, "nearest", "float32"),
        (torch.float32, "nearest", "int8"),
        (torch.bfloat16, "split", "bfloat16"),
    ],
    ids=str,
)
def test_the_bits_go_on_elsewhere(kind: str, dtype: Any, weights: Any, moments: Any, tmp_path: Path) -> None:
    """torch by name -> NumPy under other names -> torch by number, each made with another seed and other numbers."""
    how = {"moments": moments, "weights": weights}
    params = problem(dtype)
    whole = made(kind, params, seed=7, **how)
    for t in (1, 2, 3):
        step(whole, params, t)
    state.save(tmp_path / "a", whole)
    copies = {f"n{i}": as_array(p.detach()).copy() for i, p in enumerate(params.values())}
    numpy = numpys(kind, copies, **how)
    names = dict(zip(NAMES, copies, strict=True))
    assert dict(state.load(tmp_path / "a", numpy, names=names).steps) == {"n0": 3, "n1": 2, "n2": 3}
    for t in (4, 5):
        step(whole, params, t)
        grads = [as_array(g.to(dtype)) for g in gradients(t)]
        numpy.step(dict(zip(copies, grads, strict=True)))
    state.save(tmp_path / "b", numpy)
    again = {name: torch.nn.Parameter(torch.zeros_like(p)) for name, p in params.items()}
    back = made(kind, again, named=False, **how)
    with torch.no_grad():
        for p, values in zip(again.values(), copies.values(), strict=True):
            p.copy_(torch.tensor(values.astype(np.float32)).reshape(p.shape))
    state.load(tmp_path / "b", back, names=lambda name: name[1:])
    assert held(back).keys() == {
        key.replace(old, str(i)) for i, old in enumerate(NAMES) for key in held(whole) if old in key
    }
    for t in (6, 7):
        step(whole, params, t)
        step(back, again, t)
    for name in NAMES:
        assert same_bits(*(as_array(p[name].detach()).astype(np.float32) for p in (params, again)))
    assert list(held(back).values()) == list(held(whole).values())
    assert (from_torch(back).seed, list(from_torch(back).rounding_names.values())) == (7, NAMES)


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_torchs_ways_to_save_keep_what_a_state_brought(how: str) -> None:
    """The seed and the names that key random numbers, where they are not the optimizer's own."""
    params = problem()
    whole = made("AdamW", params, seed=7, moments="int8")
    step(whole, params, 1)
    assert not {"seed", "rounding_names"} & set(whole.param_groups[0]), "state_dict is torch's"
    others = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
    loaded = made("AdamW", others, named=False, moments="int8")
    loaded.load_portable_state(whole.portable_state().renamed(dict(zip(NAMES, "012", strict=True))))
    if how == "state_dict":
        file = io.BytesIO()
        torch.save(loaded.state_dict(), file)
        file.seek(0)
        third = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
        last = made("AdamW", third, named=False, moments="int8", seed=3)
        last.load_state_dict(torch.load(file, weights_only=True))
    else:
        last = copy.deepcopy(loaded) if how == "deepcopy" else pickle.loads(pickle.dumps(loaded))
        third = dict(zip(NAMES, last.param_groups[0]["params"], strict=True))
    for t in (2, 3):
        step(whole, params, t)
        step(last, third, t)
    assert list(held(last).values()) == list(held(whole).values())
    own = whole.portable_state()
    own = state.State(own.rule, own.slots, own.steps, own.hypers, seed=3, rounding_names=dict.fromkeys(NAMES, "x"))
    last.load_portable_state(own.renamed(dict(zip(NAMES, "012", strict=True))))
    assert (last.portable_state().seed, set(last.portable_state().rounding_names.values())) == (3, {"x"})


@pytest.mark.parametrize("kind", TORCHS)
def test_torchs_own_state_moves_exactly(kind: str, tmp_path: Path) -> None:
    """In float32 to the bit, both ways; mu_product is float32 in torch."""
    params = problem()
    theirs = made(kind, params, module=torch.optim)
    for t in (1, 2, 3):
        step(theirs, params, t)
    state.save(tmp_path / "a", from_torch(theirs))
    mine = made(kind, params)
    state.load(tmp_path / "a", mine)
    back = made(kind, params, module=torch.optim)
    to_torch(from_torch(mine), back)
    for p in params.values():
        assert list(back.state[p]) == list(theirs.state[p])
        for key, value in theirs.state[p].items():
            assert (value.dtype, value.shape) == (back.state[p][key].dtype, back.state[p][key].shape)
            assert torch.equal(value, back.state[p][key]), key
            assert torch.equal(value.double(), mine.state[p][key].double()), key
    assert theirs.state_dict()["param_groups"] == back.state_dict()["param_groups"]


@pytest.mark.parametrize("kind", TORCHS)
@pytest.mark.parametrize("begins", ["torch", "adamas"])
def test_a_training_goes_on_in_the_other(kind: str, begins: str) -> None:
    """In float64, where the two differ by rounding alone."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # torch keeps mu_product in it
    try:
        params = problem(torch.float64)
        first = made(kind, params, module=torch.optim if begins == "torch" else ours)
        for t in (1, 2, 3):
            step(first, params, t)
        others = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
        second = made(kind, others, module=ours if begins == "torch" else torch.optim)
        to_torch(from_torch(first), second)
        for t in range(4, 12):
            step(first, params, t)
            step(second, others, t)
    finally:
        torch.set_default_dtype(before)
    for name, p in params.items():
        torch.testing.assert_close(p, others[name], rtol=1e-12, atol=1e-12)


def test_what_is_stored_in_fewer_bits_is_decoded_for_torch() -> None:
    params = problem()
    mine = made("AdamW", params, moments="int8")
    step(mine, params, 1)
    own = from_torch(mine)
    assert isinstance(own.slots[NAMES[0]]["v"], Blocks)
    theirs = made("AdamW", params, module=torch.optim)
    to_torch(own, theirs)
    for name, p in params.items():
        assert same_bits(theirs.state[p]["exp_avg"].numpy(), own.numbers(name, "m"))
        assert same_bits(theirs.state[p]["exp_avg_sq"].numpy(), own.numbers(name, "v"))


def test_averages_move() -> None:
    params = problem()
    mine = made("AdamW", params, ema=0.5)
    step(mine, params, 1)
    own = from_torch(mine)
    numpy = adamas_numpy.AdamW({name: as_array(p.detach()).copy() for name, p in params.items()}, ema=0.5)
    numpy.load_portable_state(own)
    assert same_bits(numpy.average(NAMES[0]), mine.average(params[NAMES[0]]).numpy())
    again = made("AdamW", params, ema=0.5)
    again.load_portable_state(numpy.portable_state())
    assert held(again) == held(mine)
    refused(StateError, "holds its average", made("AdamW", params), own)
    to_torch(own.without("average"), made("AdamW", params, module=torch.optim))


def test_groups_and_numbers() -> None:
    params = problem()
    split = [{"params": list(params.items())[:1], "lr": torch.tensor(0.5)}, {"params": list(params.items())[1:]}]
    first = ours.AdamW(split, lr=0.1, weight_decay=0.3)
    step(first, params, 1)
    own = from_torch(first)
    assert own.groups == {"dense.weight": 0, "dense.bias": 1, "scale": 1}
    assert [hyper.lr for hyper in own.hypers] == [0.5, 0.1]
    again = [{"params": list(params.items())[:1], "lr": torch.tensor(0.0)}, {"params": list(params.items())[1:]}]
    second = ours.AdamW(again, weight_decay=0)
    to_torch(own, second)
    assert torch.equal(second.param_groups[0]["lr"], torch.tensor(0.5))
    assert [group["weight_decay"] for group in second.param_groups] == [0.3, 0.3]
    assert second.param_groups[1]["lr"] == 0.1
    refused(StateError, "other numbers for 'dense.bias'", ours.AdamW(list(params.items())), own)


def refused(error: type[Exception], message: str, optimizer: Any, own: Any) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=message):
        to_torch(own, optimizer)
    assert str(before) == str(optimizer.state_dict()), "nothing was changed"


def test_what_does_not_fit_is_refused() -> None:
    params = problem()
    theirs = made("AdamW", params, module=torch.optim)
    step(theirs, params, 1)
    own = from_torch(theirs)
    refused(StateError, "dense.bias: not in the state", theirs, own.renamed({"dense.bias": "b"}))
    refused(StateError, "rule.decay: the state has 'decoupled'", made("Adam", params), own)
    refused(StateError, "rule.eps_mode", made("AdamW like Keras", params), own)
    wide = {name: torch.nn.Parameter(p.detach().double()) for name, p in params.items()}
    refused(StateError, "dtype float32, the optimizer float64", made("AdamW", wide), own)
    half = problem(torch.bfloat16)
    refused(UnsupportedError, "dense.weight is torch.bfloat16", made("AdamW", half, module=torch.optim), own)
    split = made("AdamW", half, weights="split")
    step(split, half, 1)
    refused(StateError, "holds its correction", made("AdamW", half), from_torch(split))
    numbers = adamas_numpy.AdamW({n: p.detach().numpy() for n, p in params.items()}, like="optax", eps_root=0.5)
    refused(StateError, "AdamW of torch has no place for eps_root=0.5", theirs, numbers.portable_state())
    late = state.State(own.rule, own.slots, dict.fromkeys(own.names, 2**24 + 1), own.hypers)
    refused(StateError, "step 16777217 is more than torch's count", theirs, late)
    with pytest.raises(UnsupportedError, match=r"torch\.optim\.sgd\.SGD: give one of adamas\.torch"):
        from_torch(torch.optim.SGD(params.values()))
    mixed = torch.optim.Adam([{"params": [p], "maximize": i == 0} for i, p in enumerate(params.values())])
    with pytest.raises(UnsupportedError, match="different formulas"):
        from_torch(mixed)
    free = made("ScheduleFreeAdamW", params)
    step(free, params, 1)
    free.eval()
    with pytest.raises(StateError, match=r"call train\(\) first"):
        free.portable_state()
    del theirs.state[params["scale"]]["exp_avg"]
    with pytest.raises(StateError, match="parameter scale has no exp_avg"):
        from_torch(theirs)
    theirs.state[params["scale"]]["step"] = torch.tensor(0.5)
    with pytest.raises(StateError, match=r"step count of parameter scale is 0\.5|has no exp_avg"):
        from_torch(theirs)
    for kind, like in (("NAdam", "keras"), ("RAdam", "keras"), ("ScheduleFreeAdamW", "optax"), ("Adam", "jax")):
        with pytest.raises(ArgumentError, match=f"like='{like}': give one of"):
            getattr(ours, kind)(params.values(), like=like)


def test_a_parameter_without_a_step_is_as_new() -> None:
    """Also where weights are assigned between loading and the first step: z starts there."""
    params = problem()
    new = made("ScheduleFreeAdamW", params)
    own = from_torch(new)
    assert set(own.steps.values()) == {0}
    assert same_bits(own.slots["scale"]["z"], params["scale"].detach().numpy())
    new.load_portable_state(own)
    with torch.no_grad():
        params["scale"].fill_(5.0)
    for p in params.values():
        p.grad = torch.zeros_like(p)
    new.step()
    assert params["scale"].item() == 5.0


def test_a_state_is_not_taken_over_while_evaluating() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = ours.ScheduleFreeAdamW([p], lr=0.1)
    p.grad = torch.ones(4)
    optimizer.step()
    held = optimizer.portable_state()
    optimizer.eval()
    with pytest.raises(StateError, match="train"):
        optimizer.load_portable_state(held)
    optimizer.train()
    optimizer.load_portable_state(held)


def test_statistics_and_averages_after_another_state_was_loaded() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, plain = ours.Adam([p], stats=True, ema=0.9), torch.optim.Adam([p])
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.load_portable_state(optimizer.portable_state())
    with pytest.raises(ArgumentError, match="step"):
        optimizer.stats()
    plain.step()
    optimizer.load_state_dict(plain.state_dict())
    assert torch.equal(optimizer.average(p), p.detach())
