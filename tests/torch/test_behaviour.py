"""Everything of adamas.torch but its numbers: torch's own interface, state and hooks, and what is refused."""

from __future__ import annotations

import copy
import doctest
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adamas.errors import ArgumentError, ArrayError, StateError, UnsupportedError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from parameters import equal, give, problem, values  # noqa: E402

import adamas.torch as ours  # noqa: E402
from adamas.torch import adam, adamax, adopt, groups, lamb, nadam, radam, schedule_free, stable  # noqa: E402

NAMES = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax"]


def test_a_parameter_without_a_gradient_has_no_state() -> None:
    first, second = problem((3,), (4,))
    optimizer = ours.Adam([first, second])
    give([first], 0)
    optimizer.step()
    assert list(optimizer.state) == [first]
    give([second], 1)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in (first, second)] == [2.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_signature_and_groups_are_torchs(name: str) -> None:
    mine, theirs = (getattr(module, name)(problem((2,)), lr=0.5) for module in (ours, torch.optim))
    assert isinstance(mine, getattr(torch.optim, name))
    assert mine.defaults == theirs.defaults
    assert {k: v for k, v in mine.param_groups[0].items() if k != "params"} == {
        k: v for k, v in theirs.param_groups[0].items() if k != "params"
    }
    assert repr(mine) == repr(theirs)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        getattr(ours, name)(problem((2,)), lr=-1.0)
    assert "libadamas" in mine.kernel


MOMENTS = ["exp_avg", "exp_avg_sq"]
KINDS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("Adam", {}, MOMENTS),
    ("Adam", {"amsgrad": True}, [*MOMENTS, "max_exp_avg_sq"]),
    ("AdamW", {}, MOMENTS),
    ("AdamW", {"amsgrad": True, "maximize": True}, [*MOMENTS, "max_exp_avg_sq"]),
    ("NAdam", {"momentum_decay": 0.3}, ["mu_product", *MOMENTS]),
    ("NAdam", {"decoupled_weight_decay": True}, ["mu_product", *MOMENTS]),
    ("RAdam", {"decoupled_weight_decay": True}, MOMENTS),
    ("RAdam", {"maximize": True}, MOMENTS),
    ("Adamax", {}, ["exp_avg", "exp_inf"]),
]
DISCRIMINATING = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}


@pytest.mark.parametrize(("name", "settings", "keys"), KINDS, ids=str)
def test_state_dict_goes_both_ways_through_a_file(name: str, settings: dict[str, Any], keys: list[str]) -> None:
    for source, target in ((ours, torch.optim), (torch.optim, ours), (ours, ours)):
        params = problem((4, 3), (5,))
        first = getattr(source, name)(params, **DISCRIMINATING, **settings)
        for seed in range(3):
            give(params, seed)
            first.step()
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
        second = getattr(target, name)(copies)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert second.param_groups[0]["lr"] == 0.02
        state = second.state_dict()["state"][1]
        assert list(state) == ["step", *keys]
        assert state["step"].dtype == torch.float32
        assert state["step"].shape == ()
        for p, q in zip(params, copies, strict=True):
            held, taken = first.state[p], second.state[q]
            assert all(torch.equal(taken[key], held[key].to(taken[key].dtype)) for key in ("step", *keys))
        for optimizer, own in ((first, params), (second, copies)):
            give(own, 9)
            optimizer.step()
        if source is target:
            assert equal(values(first), values(second))
        for mine, theirs in zip(values(first), values(second), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "settings", "keys"), KINDS, ids=str)
def test_a_training_of_100_steps_changes_hands_and_comes_back(
    name: str, settings: dict[str, Any], keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch, ours, torch and ours by turns, beside torch alone: 100 steps of float64, some 30 roundings each."""
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # torch's NAdam keeps its product in it
    params, others = (problem((4, 3), (5,), dtype=torch.float64) for _ in range(2))
    alone = getattr(torch.optim, name)(others, **DISCRIMINATING, **settings)
    state = None
    for k, module in enumerate((torch.optim, ours, torch.optim, ours)):
        optimizer = getattr(module, name)(params, **DISCRIMINATING, **settings)
        if state is not None:
            optimizer.load_state_dict(state)
        for seed in range(25 * k, 25 * k + 25):
            for one, own in ((optimizer, params), (alone, others)):
                give(own, seed)
                one.step()
        state = copy.deepcopy(optimizer.state_dict())
    for p, q in zip(params, others, strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=100 * 30 * 2.0**-53, atol=100 * 0.02 * 30 * 2.0**-53)
        for key in keys:
            np.testing.assert_allclose(optimizer.state[p][key], alone.state[q][key], rtol=1e-13, atol=1e-15)
        assert float(optimizer.state[p]["step"]) == 100.0


def test_copies_and_pickles_go_on_by_themselves() -> None:
    params = problem((4,), (2, 2))
    optimizer = ours.AdamW(params, lr=0.1)
    give(params, 0)
    optimizer.step()
    for made in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(made) is ours.AdamW
        before = values(optimizer)
        assert equal(values(made), before)
        copies = made.param_groups[0]["params"]
        give(copies, 1)
        made.step()
        assert equal(values(optimizer), before)
        assert not equal(values(made), before)
        assert [float(made.state[p]["step"]) for p in copies] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(3, dtype=torch.complex64), "parameter 0 of group 0 is torch.complex64"),
        (lambda: torch.zeros(3, device="meta"), "is on the device meta"),
        (lambda: torch.zeros(3, 4).t(), "is not contiguous"),
        (lambda: torch.zeros(1, 2, 3, 3).to(memory_format=torch.channels_last), "is not contiguous"),
        (lambda: torch.zeros(3).to_sparse(), "has the layout torch.sparse_coo"),
        (lambda: type("Mine", (torch.Tensor,), {})(3), "is a Mine"),
    ],
)
def test_parameters_that_cannot_be_served_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        ours.Adam([make().requires_grad_()])
    assert "use torch.optim" in str(caught.value)
    good = problem((2,))
    optimizer = ours.Adam(good)
    with pytest.raises(UnsupportedError, match=message.replace("group 0", "group 1")):
        optimizer.add_param_group({"params": [make().requires_grad_()]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("setting", ["capturable", "differentiable"])
def test_settings_that_cannot_be_served_are_refused_by_name(setting: str) -> None:
    params = problem((2,))
    with pytest.raises(UnsupportedError, match=f"{setting}=True"):
        ours.Adam(params, **{setting: True})
    optimizer = ours.Adam(params)
    state = optimizer.state_dict()
    state["param_groups"][0][setting] = True
    with pytest.raises(UnsupportedError, match=f"{setting}=True"):
        optimizer.load_state_dict(state)
    assert not optimizer.param_groups[0][setting]
    for how in ({"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}):
        give(params, 0)
        ours.Adam(params, **how).step()


@pytest.mark.parametrize("first", [False, True])
def test_a_refused_gradient_changes_nothing(first: bool) -> None:
    params = problem((4, 3), (5, 2))
    wide = problem((2,), dtype=torch.float64)
    optimizer = ours.Adam([{"params": wide}, {"params": params}], sparse="lazy")
    give([*wide, *params], 0)
    if not first:
        optimizer.step()
    before = values(optimizer)
    params[1].grad = torch.zeros(5, 2).to_sparse()
    with pytest.raises(
        UnsupportedError, match=r"gradient of parameter 1 of group 1 is sparse .* in another way than by rows"
    ):
        optimizer.step()
    assert equal(values(optimizer), before)
    assert first == (not optimizer.state)


def test_wrong_numbers_state_and_shapes_change_nothing() -> None:
    params, wide = problem((3,)), problem((2,), dtype=torch.float64)
    optimizer = ours.Adam([{"params": wide}, {"params": params}], lr=0.1)
    give([*wide, *params], 0)
    optimizer.step()
    before = values(optimizer)

    def refused(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            optimizer.step()
        assert equal(values(optimizer)[: len(before)], before)

    optimizer.param_groups[1]["lr"] = -0.1
    refused(ArgumentError, "lr=-0.1")
    optimizer.param_groups[1].update(lr=0.1, amsgrad=True)
    refused(StateError, "has no max_exp_avg_sq")
    optimizer.param_groups[1]["amsgrad"] = False
    optimizer.state[params[0]]["step"].fill_(float("nan"))
    moment = optimizer.state[params[0]]["exp_avg"]
    optimizer.state[params[0]]["exp_avg"] = moment.clone()  # look again
    with pytest.raises(StateError, match="step count"):
        optimizer.step()
    optimizer.state[params[0]]["step"].fill_(1.0)
    optimizer.state[params[0]]["exp_avg"] = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(StateError, match=r"exp_avg of parameter 0 of group 1 is torch\.float64"):
        optimizer.step()
    optimizer.state[params[0]]["exp_avg"] = moment
    optimizer.step()
    before = values(optimizer)
    params[0].data = params[0].data[:2]  # in the same place
    params[0].grad = torch.zeros(2)
    with pytest.raises(ArrayError, match=r"tensor '1': the gradient has shape \(2,\)"):
        optimizer.step()
    assert equal(values(optimizer)[:4], before[:4])


def test_a_parameter_given_twice_is_refused() -> None:
    (p,) = problem((3,))
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = ours.Adam([p, p])
    give([p], 0)
    with pytest.raises(ArrayError, match="shares memory"):
        optimizer.step()


def test_closure_hooks_scheduler_and_tensor_learning_rate() -> None:
    finals = []
    for module in (ours, torch.optim):
        (p,) = problem((5,), dtype=torch.float64)
        optimizer = module.Adam([p], lr=torch.tensor(0.1, dtype=torch.float64))
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        seen: list[str] = []
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))  # noqa: B023
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))  # noqa: B023

        def loss() -> Any:
            optimizer.zero_grad()  # noqa: B023
            value = (p**4).sum()  # noqa: B023
            value.backward()
            seen.append("closure")  # noqa: B023
            return value

        returned = []
        for _ in range(5):
            returned.append(optimizer.step(loss).item())
            schedule.step()
        assert seen == ["before", "closure", "after"] * 5
        assert returned == sorted(returned, reverse=True)
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.025, rel=1e-15)
        finals.append(p.detach().numpy())
    np.testing.assert_allclose(*finals, rtol=1e-14)


@pytest.mark.parametrize("to_none", [False, True])
def test_zero_grad(to_none: bool) -> None:
    (p,) = problem((3,))
    optimizer = ours.Adam([p])
    give([p], 0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=to_none)
    assert p.grad is None if to_none else not p.grad.any()
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == (1.0 if to_none else 2.0)


def test_autograd_knows_that_parameters_have_changed(reader: str) -> None:
    (p,) = problem((3,))
    optimizer = ours.Adam([p])
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    version = p._version
    optimizer.step()
    assert p._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_interrupt_finds_moments_and_steps_that_belong_together() -> None:
    params = problem((3,))
    optimizer, twin = ours.Adam(params), ours.Adam(copy.deepcopy(params))
    for each in (optimizer, twin):
        give(each.param_groups[0]["params"], 0)
        each.step()
    part = optimizer._stepper._prepared.parts[0]

    class Interrupted:
        def step(self, *given: Any, **options: Any) -> None:
            part.plan.step(*given, **options)
            raise KeyboardInterrupt

    optimizer._stepper._prepared.parts[0] = part._replace(plan=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    twin.step()
    assert equal(values(optimizer), values(twin))


def test_steps_are_counted_in_torchs_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        steps = []
        for module in (ours, torch.optim):
            params = problem((2,))
            give(params, 0)
            optimizer = module.Adam(params)
            optimizer.step()
            steps.append(optimizer.state[params[0]]["step"])
        assert steps[0].dtype == steps[1].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_names_of_parameters_are_in_messages() -> None:
    model = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(UnsupportedError, match="parameter 'weight' is on the device meta"):
        ours.Adam(model.named_parameters())


def test_importing_it_loads_neither_tensorflow_nor_jax() -> None:
    code = "import adamas.torch, sys; print([m for m in ('tensorflow', 'keras', 'jax') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_an_optimizer_that_a_hook_holds_ends_with_the_process_in_silence() -> None:
    code = (
        "import torch, adamas.torch\n"
        "p = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = adamas.torch.Adam([p])\n"
        "p.register_post_accumulate_grad_hook(lambda p: optimizer.step())\n"
        "p.sum().backward()\n"
        "print(p.data)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "tensor([0.9990, 0.9990, 0.9990])\n"
    assert "leaked" not in shown.stderr


def test_examples() -> None:
    others = [(module, 5) for module in (nadam, radam, adamax, adopt, stable, lamb)]
    for module, examples in ((adam, 8), (schedule_free, 6), (groups, 5), *others):
        failed, tried = doctest.testmod(module)
        assert failed == 0
        assert tried >= examples
