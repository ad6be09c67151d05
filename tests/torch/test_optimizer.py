"""The numbers of adamas.torch: the bits of adamas.numpy, the results of torch.optim."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from support import bounds
from support.problems import CASES, FAMILY, Case, discriminating
from support.stepping import same_bits
from support.twins import Result

from adamas import numpy as adamas_numpy

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from parameters import equal, give, problem, values  # noqa: E402

import adamas.torch as ours  # noqa: E402

KEYS = ("exp_avg", "exp_avg_sq", "exp_inf", "max_exp_avg_sq")
TORCH = [case for case in (*CASES, *FAMILY) if case.name.startswith("torch")]


def name_of(case: Case) -> str:
    rule = case.rule
    plain = "Adam" if rule.decay == "coupled" else "AdamW"
    return "NAdam" if rule.nesterov != "off" else "RAdam" if rule.rectify else "Adamax" if rule.infinity else plain


def settings(case: Case) -> dict[str, Any]:
    h, name = case.hyper, name_of(case)
    found = {
        "lr": h.lr, "betas": (h.beta1, h.beta2), "eps": h.eps, "weight_decay": h.weight_decay,
        "maximize": case.rule.maximize,
    }  # fmt: skip
    if name in ("Adam", "AdamW"):
        found["amsgrad"] = case.rule.amsgrad != "off"
    if name in ("NAdam", "RAdam"):
        found["decoupled_weight_decay"] = case.rule.decay == "decoupled"
    if name == "NAdam":
        found["momentum_decay"] = h.momentum_decay
    return found


def run(module: Any, case: Case, p: np.ndarray, gradients: Sequence[np.ndarray]) -> Result:
    parameter = torch.nn.Parameter(torch.tensor(p))
    optimizer = getattr(module, name_of(case))([parameter], **settings(case))
    for g in gradients:
        parameter.grad = torch.tensor(g)
        optimizer.step()
    state = optimizer.state[parameter]
    assert float(state["step"]) == len(gradients)
    slots = [state[key].numpy() for key in KEYS if key in state]
    return Result(parameter.detach().numpy(), tuple(slots))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", TORCH, ids=lambda c: c.name)
def test_the_bits_of_adamas_numpy_and_torchs_float64_run_within_the_bound(
    case: Case, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # torch's NAdam keeps its product in it
    p, gradients = discriminating(dtype, steps=case.steps)
    got = run(ours, case, p, gradients)

    array = p.copy()
    twin = getattr(adamas_numpy, name_of(case))([array], **settings(case))
    for g in gradients:
        twin.step([g])
    state = twin.state_dict()["state"]["0"]
    assert same_bits(got.p, array)
    assert len(got.slots) == len(case.rule.slots)
    for slot, key in zip(got.slots, [slot.name for slot in case.rule.slots], strict=True):
        assert same_bits(slot, state[key])

    wide = [g.astype(np.float64) for g in gradients]
    theirs = run(torch.optim, case, p.astype(np.float64), wide)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    # torch rounds too, in float64 and in about as many operations: at most 4 times what ours does there.
    own = bounds.after(case.rule, case.hyper, p.astype(np.float64), wide)
    room = room.plus(4, own)
    assert bounds.excess(got, theirs, room) <= 1.0


@pytest.mark.parametrize("shape", [(), (0,), (1,), (31,), (4096,), (4097,), (3, 0, 2), (2, 3, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    (p,) = problem(shape)
    array = p.detach().numpy().copy()
    optimizer, twin = ours.Adam([p], lr=0.1), adamas_numpy.Adam([array], lr=0.1)
    for seed in range(3):
        give([p], seed)
        optimizer.step()
        twin.step([p.grad.numpy()])
    assert same_bits(p.detach().numpy(), array)


@pytest.mark.parametrize("module", [ours, torch.optim], ids=["ours", "torch"])
def test_groups_missing_gradients_and_a_group_added_later(module: Any, reader: str) -> None:
    """Each group by itself in float64: formulas, numbers, dtypes and step counts do not mix."""
    params = problem((5, 3), (3,), (4,), (), dtype=torch.float64) + problem((6,))
    numbers: list[dict[str, Any]] = [
        {"lr": 0.03, "weight_decay": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.01, "maximize": True},
        {"lr": 0.02, "amsgrad": True, "eps": 1e-3},
    ]
    parts = [params[:2], params[2:3], params[3:]]
    arrays = [[p.detach().numpy().copy() for p in part] for part in parts]
    twins = [
        adamas_numpy.AdamW(part, **{"weight_decay": 0.0, **given}) for part, given in zip(arrays, numbers, strict=True)
    ]
    optimizer = module.AdamW(
        [{"params": part, **given} for part, given in zip(parts[:2], numbers[:2], strict=True)], weight_decay=0.0
    )
    for step in range(12):
        if step == 3:
            optimizer.add_param_group({"params": parts[2], **numbers[2]})
        give(params, step)
        for i, p in enumerate(params):
            if (step + i) % 4 == 0:
                p.grad = None
        optimizer.step()
        for k, (twin, part) in enumerate(zip(twins, parts, strict=True)):
            if k < 2 or step >= 3:
                twin.step([None if p.grad is None else p.grad.numpy() for p in part])
    for twin, part, mine in zip(twins, parts, arrays, strict=True):
        steps = [entry["step"] for entry in twin.state_dict()["state"].values()]
        assert [int(optimizer.state[p]["step"]) for p in part] == steps
        for p, array in zip(part, mine, strict=True):
            assert p.dtype == torch.float32 or p.dtype == torch.float64
            if module is ours:
                assert same_bits(p.detach().numpy(), array)
            else:  # the twin itself is right: 12 steps of at most 0.03 with some 30 roundings each
                unit = float(np.finfo(array.dtype).eps)
                np.testing.assert_allclose(p.detach().numpy(), array, rtol=12 * unit, atol=12 * 0.03 * 30 * unit)


def replace_data(optimizer: Any, p: Any) -> None:
    p.data = p.data.clone()


def replace_moment(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"] + 1.0


def replace_moments_data(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["exp_avg_sq"].data = optimizer.state[p]["exp_avg_sq"].data.clone() + 1.0


def replace_step(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["step"] = torch.tensor(7.0)


def fill_step(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["step"].fill_(7.0)


def clear(optimizer: Any, p: Any) -> None:
    optimizer.state.clear()


def replace_entry(optimizer: Any, p: Any) -> None:
    optimizer.state[p] = {key: value.clone() + 1.0 for key, value in optimizer.state[p].items()}


def widen_moment(optimizer: Any, p: Any) -> None:
    wide = torch.empty(p.shape[1], p.shape[0], dtype=p.dtype).t()  # the same shape, not contiguous
    optimizer.state[p]["exp_avg"] = wide.copy_(optimizer.state[p]["exp_avg"])


def change_numbers(optimizer: Any, p: Any) -> None:
    optimizer.param_groups[0].update(lr=0.5, betas=(0.5, 0.6), eps=0.1, weight_decay=0.3, maximize=True)


CHANGES = [replace_data, replace_moment, replace_moments_data, replace_step, fill_step, clear, replace_entry,
           widen_moment, change_numbers]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_what_others_put_in_place_of_parameters_and_state_is_used(
    change: Callable[[Any, Any], None], reader: str
) -> None:
    results = {}
    for module in (ours, torch.optim):
        params = problem((4, 3), (5,), dtype=torch.float64 if module is torch.optim else None)
        optimizer = module.Adam(params, lr=0.1)
        for seed in range(4):
            give(params, seed)
            for p in params:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(p.dtype)
            if seed == 2:
                for p in params[:1]:
                    change(optimizer, p)
            optimizer.step()
            gc.collect()
        results[module] = values(optimizer)
    for mine, theirs in zip(results[ours], results[torch.optim], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


def gradients_of(kind: str, p: Any) -> Any:
    g = torch.linspace(-1, 1, p.numel()).reshape(p.shape)
    if kind == "not contiguous":
        return g.t().contiguous().t()
    if kind == "expanded":
        return torch.tensor(0.5).expand(p.shape)
    if kind == "with a graph":
        return (g.clone().requires_grad_() * 1.0).reshape(p.shape)
    if kind == "conjugated":
        return torch.complex(g, -g).conj().imag
    return p.detach()  # shares memory with the parameter


@pytest.mark.parametrize("kind", ["not contiguous", "expanded", "with a graph", "conjugated", "the parameter"])
def test_gradients_of_other_kinds_are_only_read(kind: str, reader: str) -> None:
    results = []
    for plain in (False, True):
        (p,) = problem((4, 3))
        optimizer = ours.Adam([p], lr=0.1)
        for _ in range(2):
            g = gradients_of(kind, p)
            before = g.detach().clone()
            p.grad = before.contiguous() if plain else g
            optimizer.step()
            assert kind == "the parameter" or torch.equal(g.detach(), before)
        results.append(values(optimizer))
    assert equal(*results)


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_unscales_once_and_skips_overflows(fused: bool) -> None:
    finals = []
    for module, how in ((ours, {"fused": fused}), (torch.optim, {})):
        (p,) = problem((3,))
        optimizer = module.Adam([p], lr=0.1, **how)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale((p**2).sum() * (float("inf") if step == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert float(optimizer.state[p]["step"]) == 2.0
        finals.append(p.detach().numpy())
    np.testing.assert_allclose(*finals, rtol=1e-6)


def test_the_step_in_a_compiled_function_is_the_same() -> None:
    results = []
    for compiled in (False, True):
        (p,) = problem((3,))
        optimizer = ours.Adam([p], lr=0.1)

        def train(p: Any = p, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            (p**2).sum().backward()
            optimizer.step()

        step = torch.compile(train, backend="eager") if compiled else train
        for _ in range(3):
            step()
        results.append(values(optimizer))
    assert float(optimizer.state[p]["step"]) == 3.0
    assert equal(*results)


def test_flushing_subnormals_changes_no_bit() -> None:
    results = []
    for flush in (False, True):
        (p,) = problem((64,))
        optimizer = ours.Adam([p], lr=0.1, eps=0.0)
        g = 10.0 ** torch.linspace(-44, -30, 64)
        assert torch.set_flush_denormal(flush)
        try:
            for _ in range(3):
                p.grad = g
                optimizer.step()
        finally:
            torch.set_flush_denormal(False)
        results.append(values(optimizer))
    assert equal(*results)
