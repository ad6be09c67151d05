"""adamas.numpy and the rule's presets beside torch.optim, at the discriminating point; and torch's own surroundings."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support import bounds
from support.problems import CASES, FAMILY, Case, discriminating
from support.stepping import KERNELS, run, same_bits
from support.twins import Result

from adamas import numpy as adamas_numpy
from adamas.rule import PRESETS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

TORCH = [case for case in CASES if case.name.startswith("torch")]
NADAM = [case for case in FAMILY if case.name.startswith("torch-nadam")]


def by_torch(case: Case, p: np.ndarray, gradients: Sequence[np.ndarray], **options: Any) -> Result:
    """The same steps by torch.optim, in the arrays' dtype."""
    kind = torch.optim.Adam if case.name.startswith("torch-adam-") or case.name == "torch-adam" else torch.optim.AdamW
    h = case.hyper
    parameter = torch.nn.Parameter(torch.tensor(p))
    optimizer = kind(
        [parameter], h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, case.rule.amsgrad != "off",
        maximize=case.rule.maximize, **options,
    )  # fmt: skip
    for g in gradients:
        parameter.grad = torch.tensor(g)
        optimizer.step()
    state = optimizer.state[parameter]
    slots = [state[key].numpy() for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if key in state]
    return Result(parameter.detach().numpy(), tuple(slots))


def by_torchs_nadam(case: Case, p: np.ndarray, gradients: Sequence[np.ndarray], **options: Any) -> Result:
    h = case.hyper
    parameter = torch.nn.Parameter(torch.tensor(p))
    optimizer = torch.optim.NAdam(
        [parameter], h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, h.momentum_decay,
        decoupled_weight_decay=case.rule.decay == "decoupled", maximize=case.rule.maximize, **options,
    )  # fmt: skip
    for g in gradients:
        parameter.grad = torch.tensor(g)
        optimizer.step()
    state = optimizer.state[parameter]
    return Result(parameter.detach().numpy(), (state["exp_avg"].numpy(), state["exp_avg_sq"].numpy()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", NADAM, ids=lambda c: c.name)
def test_nadam_is_torchs_float64_run_within_the_bound(case: Case, dtype: type[np.floating]) -> None:
    """torch keeps the product of mu in its default dtype, so that is float64 here."""
    p, gradients = discriminating(dtype, steps=case.steps)
    wide = [g.astype(np.float64) for g in gradients]
    torch.set_default_dtype(torch.float64)
    try:
        theirs = by_torchs_nadam(case, p.astype(np.float64), wide)
    finally:
        torch.set_default_dtype(torch.float32)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    room = room.plus(4, bounds.after(case.rule, case.hyper, p.astype(np.float64), wide))
    for kernel in KERNELS.values():
        assert bounds.excess(run(kernel, case.rule, case.hyper, p, gradients), theirs, room) <= 1.0


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("case", NADAM, ids=lambda c: c.name)
def test_torchs_float32_nadam_is_as_near_to_the_exact_result(case: Case, options: dict[str, bool]) -> None:
    """Its product of mu is a float32, so 1 - M_t is off by t roundings of M_t < 0.8^t / 2: less than one of 2^-24."""
    p, gradients = discriminating(np.float32, steps=case.steps)
    exact = case.twin(p, gradients, case.hyper)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    assert bounds.excess(by_torchs_nadam(case, p, gradients, **options), exact, room) <= 4.0


RADAM = [case for case in FAMILY if case.name.startswith("torch-radam")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", RADAM, ids=lambda c: c.name)
def test_radam_is_torchs_float64_run_within_the_bound(case: Case, dtype: type[np.floating]) -> None:
    p, gradients = discriminating(dtype, steps=case.steps)
    wide = [g.astype(np.float64) for g in gradients]
    h, parameter = case.hyper, torch.nn.Parameter(torch.tensor(p.astype(np.float64)))
    optimizer = torch.optim.RAdam(
        [parameter], h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, case.rule.decay == "decoupled",
        maximize=case.rule.maximize,
    )  # fmt: skip
    for g in wide:
        parameter.grad = torch.tensor(g)
        optimizer.step()
    state = optimizer.state[parameter]
    theirs = Result(parameter.detach().numpy(), (state["exp_avg"].numpy(), state["exp_avg_sq"].numpy()))
    room = bounds.after(case.rule, case.hyper, p, gradients)
    room = room.plus(4, bounds.after(case.rule, case.hyper, p.astype(np.float64), wide))
    for kernel in KERNELS.values():
        assert bounds.excess(run(kernel, case.rule, case.hyper, p, gradients), theirs, room) <= 1.0


ADAMAX = [case for case in FAMILY if case.name.startswith("torch-adamax")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", ADAMAX, ids=lambda c: c.name)
def test_adamax_is_torchs_float64_run_within_the_bound(case: Case, dtype: type[np.floating]) -> None:
    p, gradients = discriminating(dtype, steps=case.steps)
    wide = [g.astype(np.float64) for g in gradients]
    h, parameter = case.hyper, torch.nn.Parameter(torch.tensor(p.astype(np.float64)))
    optimizer = torch.optim.Adamax(
        [parameter], h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, maximize=case.rule.maximize
    )
    for g in wide:
        parameter.grad = torch.tensor(g)
        optimizer.step()
    state = optimizer.state[parameter]
    theirs = Result(parameter.detach().numpy(), (state["exp_avg"].numpy(), state["exp_inf"].numpy()))
    room = bounds.after(case.rule, case.hyper, p, gradients)
    room = room.plus(4, bounds.after(case.rule, case.hyper, p.astype(np.float64), wide))
    for kernel in KERNELS.values():
        assert bounds.excess(run(kernel, case.rule, case.hyper, p, gradients), theirs, room) <= 1.0


def test_defaults_of_adamax() -> None:
    theirs, hyper = inspect.signature(torch.optim.Adamax).parameters, PRESETS["torch.Adamax"].hyper
    assert (theirs["lr"].default, theirs["betas"].default) == (hyper.lr, (hyper.beta1, hyper.beta2))
    assert (theirs["eps"].default, theirs["weight_decay"].default) == (hyper.eps, hyper.weight_decay)


def test_defaults_of_radam() -> None:
    theirs, hyper = inspect.signature(torch.optim.RAdam).parameters, PRESETS["torch.RAdam"].hyper
    assert (theirs["lr"].default, theirs["betas"].default) == (hyper.lr, (hyper.beta1, hyper.beta2))
    assert (theirs["eps"].default, theirs["weight_decay"].default) == (hyper.eps, hyper.weight_decay)
    assert theirs["decoupled_weight_decay"].default is False


def test_defaults_of_nadam() -> None:
    theirs = inspect.signature(torch.optim.NAdam).parameters
    rule, hyper = PRESETS["torch.NAdam"]
    assert (theirs["lr"].default, theirs["betas"].default) == (hyper.lr, (hyper.beta1, hyper.beta2))
    assert (theirs["eps"].default, theirs["weight_decay"].default) == (hyper.eps, hyper.weight_decay)
    assert theirs["momentum_decay"].default == hyper.momentum_decay
    assert theirs["decoupled_weight_decay"].default is (rule.decay == "decoupled")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", TORCH, ids=lambda c: c.name)
def test_ours_is_torchs_float64_run_within_the_bound(case: Case, dtype: type[np.floating]) -> None:
    p, gradients = discriminating(dtype)
    wide = [g.astype(np.float64) for g in gradients]
    theirs = by_torch(case, p.astype(np.float64), wide)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    # torch rounds too, in float64 and in about as many operations: at most 4 times what ours does there.
    own = bounds.after(case.rule, case.hyper, p.astype(np.float64), wide)
    room = room.plus(4, own)
    for kernel in KERNELS.values():
        assert bounds.excess(run(kernel, case.rule, case.hyper, p, gradients), theirs, room) <= 1.0


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("case", TORCH, ids=lambda c: c.name)
def test_torchs_float32_run_is_as_near_to_the_exact_result(case: Case, options: dict[str, bool]) -> None:
    """Both are float32 roundings of one formula: torch's is allowed 4 times our bound, for its other operations."""
    p, gradients = discriminating(np.float32)
    exact = case.twin(p, gradients, case.hyper)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    assert bounds.excess(by_torch(case, p, gradients, **options), exact, room) <= 4.0


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_defaults(name: str) -> None:
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    preset = PRESETS[f"torch.{name}"]
    assert theirs["lr"].default == preset.hyper.lr
    assert theirs["betas"].default == (preset.hyper.beta1, preset.hyper.beta2)
    assert theirs["eps"].default == preset.hyper.eps
    assert theirs["weight_decay"].default == preset.hyper.weight_decay
    ours = inspect.signature(getattr(adamas_numpy, name)).parameters
    assert list(ours)[:6] == list(theirs)[:6]
    assert ours["amsgrad"].default == theirs["amsgrad"].default
    assert ours["maximize"].default == theirs["maximize"].default
    optimizer = getattr(adamas_numpy, name)([np.zeros(1)])
    assert (optimizer.rule, optimizer.hyper) == preset


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_a_training_with_missing_gradients_and_clipping(name: str) -> None:
    """Defaults, several tensors, a gradient that is sometimes missing, the global norm clipped: torch in float64."""
    rng = np.random.default_rng(2)
    params = [rng.standard_normal(shape) for shape in [(5, 3), (3,), ()]]
    params = [np.asarray(p) for p in params]
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    ours = getattr(adamas_numpy, name)(params, lr=0.01)
    other = getattr(torch.optim, name)(theirs, lr=0.01)
    for step in range(30):
        grads = [np.asarray(rng.standard_normal(p.shape) * 10.0 ** rng.uniform(-3, 1)) for p in params]
        given = [None if (step + i) % 4 == 0 and i != 1 else g for i, g in enumerate(grads)]
        for parameter, g in zip(theirs, given, strict=True):
            parameter.grad = None if g is None else torch.tensor(g)
        norm = float(torch.nn.utils.clip_grad_norm_(theirs, 0.7))
        other.step()
        assert ours.step(given, max_norm=0.7) == pytest.approx(norm, rel=1e-14)
    steps = [entry["step"] for entry in ours.state_dict()["state"].values()]
    assert steps == [int(other.state[parameter]["step"]) for parameter in theirs]
    for p, parameter in zip(params, theirs, strict=True):
        # 30 steps of 0.01 with some 30 roundings of 2^-53 each
        np.testing.assert_allclose(
            p, parameter.detach().numpy(), rtol=0, atol=30 * 0.01 * 30 * 2.0**-53 + 30 * 2.0**-52
        )


def test_torchs_flush_denormal_does_not_change_a_bit() -> None:
    """torch.set_flush_denormal sets flush-to-zero on the calling thread: moments near 2^-126 would come out as 0."""
    results = {}
    rng = np.random.default_rng(0)
    start = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-30, 0, 5000)).astype(np.float32)
    gradient = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-44, 0, 5000)).astype(np.float32)
    assert (np.abs(gradient[gradient != 0]) < np.finfo(np.float32).tiny).any(), "subnormal gradients are among them"
    case = TORCH[1]
    for flush in (False, True):
        assert torch.set_flush_denormal(flush)
        try:
            for name, kernel in KERNELS.items():
                results[name, flush] = run(kernel, case.rule, case.hyper, start, [gradient] * 3)
        finally:
            torch.set_flush_denormal(False)
    for other in results.values():
        assert all(same_bits(a, b) for a, b in zip(other.arrays, results["reference", False].arrays, strict=True))
