"""torch's schedulers, hooks, averages of models and groups by name around the optimizers of adamas.torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adamas import numpy as adamas_numpy
from adamas.errors import ArgumentError, UnsupportedError
from adamas.groups import Group

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from parameters import equal, give, problem, values  # noqa: E402
from torch.optim import lr_scheduler as lr  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402
from torch.optim.swa_utils import SWALR, AveragedModel  # noqa: E402

import adamas.torch as ours  # noqa: E402

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: lr.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr.MultiStepLR(o, [2, 5], 0.3),
    "ConstantLR": lambda o: lr.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda o: lr.LinearLR(o, 0.1, 1.0, 5),
    "ExponentialLR": lambda o: lr.ExponentialLR(o, 0.7),
    "PolynomialLR": lambda o: lr.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: lr.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr.CyclicLR(o, 0.001, 0.02, 2),
    "OneCycleLR": lambda o: lr.OneCycleLR(o, 0.02, total_steps=10),
    "LambdaLR": lambda o: lr.LambdaLR(o, [lambda epoch: 0.9**epoch, lambda epoch: 1 / (1 + epoch)]),
    "MultiplicativeLR": lambda o: lr.MultiplicativeLR(o, lambda epoch: 0.8),
    "ReduceLROnPlateau": lambda o: lr.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr.SequentialLR(o, [lr.ConstantLR(o, 0.1, 3), lr.ExponentialLR(o, 0.5)], [3]),
    "ChainedScheduler": lambda o: lr.ChainedScheduler([lr.ConstantLR(o, 0.1, 3), lr.ExponentialLR(o, 0.9)]),
    "SWALR": lambda o: SWALR(o, 0.05, anneal_epochs=4),
}


def test_no_scheduler_of_torch_is_left_out() -> None:
    there = {
        name
        for name, kind in vars(lr).items()
        if isinstance(kind, type) and issubclass(kind, lr.LRScheduler) and not name.startswith("_")
    }
    assert there - {"LRScheduler", *SCHEDULERS} == set()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_do_what_they_do_to_torchs_own(name: str) -> None:
    """The same learning rates and betas at each step, and float64 weights of 9 steps to rounding."""
    seen, finals = [], []
    for module in (ours, torch.optim):
        params = problem((4, 3), (5,), dtype=torch.float64)
        optimizer = module.AdamW([{"params": params[:1]}, {"params": params[1:], "lr": 0.003}], lr=0.01)
        schedule = SCHEDULERS[name](optimizer)
        rates = []
        for step in range(9):
            give(params, step)
            optimizer.step()
            schedule.step(*[1.0] * (name == "ReduceLROnPlateau"))
            rates.append([(float(group["lr"]), group["betas"]) for group in optimizer.param_groups])
        seen.append(rates)
        finals.append([p.detach().numpy() for p in params])
        assert len({str(rate) for rate in rates}) > 1
    assert seen[0] == seen[1]
    for mine, theirs in zip(*finals, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=9 * 30 * 2.0**-53, atol=9 * 0.05 * 30 * 2.0**-53)


def test_a_schedule_goes_on_from_its_checkpoint() -> None:
    params = problem((4,))
    optimizer = ours.Adam(params)
    schedule = lr.OneCycleLR(optimizer, 0.1, total_steps=12)
    saved: Any = None
    for step in range(8):
        if step == 4:
            saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict(), params[0].detach()))
        give(params, step)
        optimizer.step()
        schedule.step()
    others = [torch.nn.Parameter(saved[2])]
    again = ours.Adam(others)
    then = lr.OneCycleLR(again, 0.1, total_steps=12)
    again.load_state_dict(saved[0])
    then.load_state_dict(saved[1])
    for step in range(4, 8):
        give(others, step)
        again.step()
        then.step()
    assert equal(values(again), values(optimizer))


def test_hooks_of_steps_and_states() -> None:
    params = problem((3,))
    optimizer = ours.AdamW(params)
    seen: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving")),
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "more": 1}),
        optimizer.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "more"}),
        optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded")),
        register_optimizer_step_post_hook(lambda *_: seen.append("everybody's")),
    ]
    try:
        give(params, 0)
        optimizer.step()
        state = optimizer.state_dict()
        assert state["more"] == 1
        optimizer.load_state_dict(state)
    finally:
        for handle in handles:
            handle.remove()
    optimizer.step()
    assert seen == ["before", "after", "everybody's", "saving", "loaded"]


def test_a_hook_before_loading_may_say_what_is_loaded() -> None:
    """Which parameter a state belongs to is the hook's to say: here the two are exchanged."""
    params = problem((3,), (2,))
    optimizer = ours.AdamW(params, moments="bfloat16")
    give(params, 0)
    optimizer.step()
    state = optimizer.state_dict()
    other = ours.AdamW(problem((2,), (3,)))

    def exchange(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        held = state["state"]
        return {**state, "state": {0: held[1], 1: held[0]}}

    other.register_load_state_dict_pre_hook(exchange)
    other.load_state_dict(state)
    held = [other.state[p]["exp_avg"] for p in other.param_groups[0]["params"]]
    assert torch.equal(held[0], optimizer.state[params[1]]["exp_avg"])
    assert torch.equal(held[1], optimizer.state[params[0]]["exp_avg"])


def test_an_optimizer_in_the_backward_pass() -> None:
    """A step from a hook as soon as a gradient is there, one optimizer a parameter: the same bits as all at once."""
    together, apart = problem((4, 3), (5,)), problem((4, 3), (5,))
    optimizer = ours.AdamW(together)
    own = {p: ours.AdamW([p]) for p in apart}

    def step(p: Any) -> None:
        own[p].step()
        own[p].zero_grad()

    for p in apart:
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        optimizer.zero_grad()
        sum((p**2).sum() for p in together).backward()  # type: ignore[union-attr]
        optimizer.step()
        sum((p**2).sum() for p in apart).backward()  # type: ignore[union-attr]
    assert all(torch.equal(p, q) for p, q in zip(together, apart, strict=True))


def test_averaged_models() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer, average = ours.AdamW(model.parameters(), lr=0.1), AveragedModel(model)
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(5, 3)).square().sum().backward()
        optimizer.step()
        average.update_parameters(model)
        seen.append(model.weight.detach().clone())
    torch.testing.assert_close(average.module.weight.detach(), torch.stack(seen).mean(0))


def test_named_parameters_keep_their_names() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ours.Adam([{"params": [(n, p)], "lr": 0.1 * k} for k, (n, p) in enumerate(model.named_parameters(), 1)])
    assert [group["param_names"] for group in optimizer.state_dict()["param_groups"]] == [["weight"], ["bias"]]
    plain = torch.optim.Adam([{"params": [p]} for p in model.named_parameters()])
    plain.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in plain.param_groups] == [0.1, 0.2]
    optimizer.load_state_dict(torch.optim.Adam([{"params": [p]} for p in model.parameters()]).state_dict())
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]
    with pytest.raises(ValueError, match="with/without names"):
        optimizer.add_param_group({"params": problem((2,))})
    assert len(optimizer.param_groups) == 2


def test_groups_by_name() -> None:
    """Those of adamas.numpy for the same names: the same bits; and a scheduler scales them all."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    chosen = [
        Group("2.*", lr_scale=0.5, weight_decay=0.3),
        Group(lambda name, shape: name == "1.bias", betas=(0.5, 0.6), eps=1e-3, lr=0.7),
    ]
    arrays = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    twin = adamas_numpy.AdamW(arrays, lr=0.1, weight_decay=0.2, groups=chosen, no_decay=True)
    made = ours.param_groups(model.named_parameters(), chosen, no_decay=True, lr=0.1)
    optimizer = ours.AdamW(made, lr=0.1, weight_decay=0.2)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight"], ["0.bias", "1.weight"], ["2.weight", "2.bias"], ["1.bias"]
    ]  # fmt: skip
    params = list(model.parameters())
    for seed in range(3):
        give(params, seed)
        optimizer.step()
        twin.step({name: p.grad.numpy() for name, p in model.named_parameters()})
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
        for own in twin.groups:
            own.lr *= 0.5
    for name, p in model.named_parameters():
        assert p.detach().numpy().tobytes() == arrays[name].tobytes(), name


def test_groups_that_are_refused() -> None:
    named = [("w", problem((2,))[0])]
    with pytest.raises(ArgumentError, match="there are no parameters"):
        ours.param_groups([])
    with pytest.raises(ArgumentError, match="it matches no tensor"):
        ours.param_groups(named, [Group("x")])
    with pytest.raises(ArgumentError, match=r"lr_scale=2.* is a factor of lr"):
        ours.param_groups(named, [Group("w", lr_scale=2)])
    with pytest.raises(UnsupportedError, match="no eps_root"):
        ours.param_groups(named, [Group("w", eps_root=0.1)])
    with pytest.raises(ArgumentError, match=r"give a list of adamas\.groups\.Group"):
        ours.param_groups(named, ["w"])  # type: ignore[list-item]
