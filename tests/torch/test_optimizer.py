"""adamas.torch: the bits of adamas.numpy, the results of torch.optim, and everything else torch's own."""

from __future__ import annotations

import copy
import doctest
import gc
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from support import bounds
from support.problems import CASES, Case, discriminating
from support.stepping import same_bits
from support.twins import Result

from adamas import numpy as adamas_numpy
from adamas.errors import ArgumentError, ArrayError, StateError, UnsupportedError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import adamas.torch as ours  # noqa: E402

NAMES = ["Adam", "AdamW"]
KEYS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
TORCH = [case for case in CASES if case.name.startswith("torch")]


def settings(case: Case) -> dict[str, Any]:
    h = case.hyper
    return {
        "lr": h.lr, "betas": (h.beta1, h.beta2), "eps": h.eps, "weight_decay": h.weight_decay,
        "amsgrad": case.rule.amsgrad != "off", "maximize": case.rule.maximize,
    }  # fmt: skip


def name_of(case: Case) -> str:
    return "Adam" if case.rule.decay == "coupled" else "AdamW"


def run(module: Any, case: Case, p: np.ndarray, gradients: Sequence[np.ndarray]) -> Result:
    parameter = torch.nn.Parameter(torch.tensor(p))
    optimizer = getattr(module, name_of(case))([parameter], **settings(case))
    for g in gradients:
        parameter.grad = torch.tensor(g)
        optimizer.step()
    state = optimizer.state[parameter]
    assert float(state["step"]) == len(gradients)
    slots = [state[key].numpy() for key in KEYS if key in state]
    return Result(parameter.detach().numpy(), *slots, *([None] if len(slots) == 2 else []))


def problem(*shapes: tuple[int, ...], dtype: Any = None) -> list[Any]:
    generator = torch.Generator().manual_seed(7)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def give(params: Sequence[Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def values(optimizer: Any) -> list[np.ndarray]:
    """Every parameter and all of its state, as copies."""
    found = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            found += [p.detach().numpy().copy(), *(v.numpy().copy() for v in optimizer.state.get(p, {}).values())]
    return found


def equal(these: Sequence[np.ndarray], those: Sequence[np.ndarray]) -> bool:
    return len(these) == len(those) and all(map(same_bits, these, those))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", TORCH, ids=lambda c: c.name)
def test_the_bits_of_adamas_numpy_and_torchs_float64_run_within_the_bound(case: Case, dtype: Any) -> None:
    p, gradients = discriminating(dtype)
    got = run(ours, case, p, gradients)

    array = p.copy()
    twin = getattr(adamas_numpy, name_of(case))([array], **settings(case))
    for g in gradients:
        twin.step([g])
    state = twin.state_dict()["state"]["0"]
    assert same_bits(got.p, array)
    for slot, key in zip(got[1:], ("m", "v", "vmax"), strict=True):
        assert (slot is None and key not in state) or same_bits(slot, state[key])

    wide = [g.astype(np.float64) for g in gradients]
    theirs = run(torch.optim, case, p.astype(np.float64), wide)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    # torch rounds too, in float64 and in about as many operations: at most 4 times what ours does there.
    own = bounds.after(case.rule, case.hyper, p.astype(np.float64), wide)
    room = Result(*(None if a is None else a + 4 * b for a, b in zip(room, own, strict=True)))
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
def test_groups_missing_gradients_and_a_group_added_later(module: Any) -> None:
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_state_dict_goes_both_ways_through_a_file(name: str, amsgrad: bool) -> None:
    for source, target in ((ours, torch.optim), (torch.optim, ours), (ours, ours)):
        params = problem((4, 3), (5,))
        first = getattr(source, name)(params, lr=0.01, amsgrad=amsgrad, weight_decay=0.1)
        for seed in range(3):
            give(params, seed)
            first.step()
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
        second = getattr(target, name)(copies)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert second.param_groups[0]["lr"] == 0.01
        assert equal(values(first), values(second))
        state = second.state_dict()["state"][1]
        assert list(state) == ["step", *KEYS[: 3 if amsgrad else 2]]
        assert state["step"].dtype == torch.float32
        assert state["step"].shape == ()
        for optimizer, own in ((first, params), (second, copies)):
            give(own, 9)
            optimizer.step()
        if source is target:
            assert equal(values(first), values(second))
        for mine, theirs in zip(values(first), values(second), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-7)


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
def test_what_others_put_in_place_of_parameters_and_state_is_used(change: Callable[[Any, Any], None]) -> None:
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
def test_gradients_of_other_kinds_are_only_read(kind: str) -> None:
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(3, dtype=torch.bfloat16), "parameter 0 of group 0 is torch.bfloat16"),
        (lambda: torch.zeros(3, dtype=torch.float16), "is torch.float16"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "is torch.complex64"),
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
    optimizer = ours.Adam([{"params": wide}, {"params": params}])
    give([*wide, *params], 0)
    if not first:
        optimizer.step()
    before = values(optimizer)
    params[1].grad = torch.zeros(5, 2).to_sparse()
    with pytest.raises(UnsupportedError, match=r"gradient of parameter 1 of group 1 has the layout torch.sparse_coo"):
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
    with pytest.raises(ArrayError, match=r"its moments were made for float32\[3\]"):
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


def test_autograd_knows_that_parameters_have_changed() -> None:
    (p,) = problem((3,))
    optimizer = ours.Adam([p])
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    version = p._version
    optimizer.step()
    assert p._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


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


def test_an_interrupt_finds_moments_and_steps_that_belong_together() -> None:
    params = problem((3,))
    optimizer, twin = ours.Adam(params), ours.Adam(copy.deepcopy(params))
    for each in (optimizer, twin):
        give(each.param_groups[0]["params"], 0)
        each.step()
    part = optimizer._stepper._parts[0]

    class Interrupted:
        def step(self, *given: Any, **options: Any) -> None:
            part.plan.step(*given, **options)
            raise KeyboardInterrupt

    optimizer._stepper._parts[0] = part._replace(plan=Interrupted())
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
    model = torch.nn.Linear(2, 2).to(torch.bfloat16)
    with pytest.raises(UnsupportedError, match=r"parameter 'weight' is torch\.bfloat16"):
        ours.Adam(model.named_parameters())


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
    failed, tried = doctest.testmod(ours)
    assert failed == 0
    assert tried > 5
