"""What a step of adamas.torch does beside stepping: it unscales, clips, averages, is compiled around, and finds what
was replaced since the last one."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adamas import numpy as adamas_numpy
from adamas.errors import ArgumentError, KernelError, StateError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from parameters import equal, give, problem, values  # noqa: E402

import adamas.torch as ours  # noqa: E402
from adamas.kernels.torch import build  # noqa: E402
from adamas.torch.memory import as_array  # noqa: E402


def arrays_of(params: list[Any]) -> list[np.ndarray]:
    return [as_array(p.detach()).copy() for p in params]


def same(params: list[Any], arrays: list[np.ndarray]) -> bool:
    return all(as_array(p.detach()).tobytes() == array.tobytes() for p, array in zip(params, arrays, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_and_unscaling_are_those_of_adamas_numpy(dtype: Any) -> None:
    params = [*problem((40, 13), (5,), dtype=dtype), *problem((7,))]
    arrays = arrays_of(params)
    optimizer, twin = ours.AdamW(params, lr=0.02), adamas_numpy.AdamW(arrays, lr=0.02)
    for seed in range(4):
        give(params, seed)
        kept = [p.grad.clone() for p in params]
        optimizer.step(max_norm=0.7, grad_scale=0.25)
        norm = twin.step([as_array(p.grad) for p in params], max_norm=0.7, grad_scale=0.25)
        assert optimizer.norm == norm
        whole = torch.cat([p.grad.double().flatten() for p in params]).norm() / 4
        assert norm == pytest.approx(float(whole), rel=1e-12)
        assert norm > 0.7
        assert all(torch.equal(p.grad, g) for p, g in zip(params, kept, strict=True))
    assert same(params, arrays)
    optimizer.step()
    assert optimizer.norm is None


def test_clipping_is_torchs() -> None:
    finals = []
    for fused in (True, False):
        params = problem((4, 3), (5,), dtype=torch.float64)
        optimizer = ours.Adam(params, lr=0.1)
        for seed in range(5):
            give(params, seed)
            if fused:
                optimizer.step(max_norm=0.3)
            else:
                torch.nn.utils.clip_grad_norm_(params, 0.3)
                optimizer.step()
        finals.append([p.detach().numpy() for p in params])
    for mine, theirs in zip(*finals, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


@pytest.mark.parametrize("how", [{"max_norm": 0.0}, {"grad_scale": float("inf")}, {"grad_scale": 0}])
def test_wrong_scaling_is_refused_before_anything_is_changed(how: dict[str, float]) -> None:
    params = problem((3,))
    optimizer = ours.Adam(params)
    give(params, 0)
    before = values(optimizer)
    with pytest.raises(ArgumentError, match=next(iter(how))):
        optimizer.step(**how)
    assert equal(values(optimizer), before)


@pytest.mark.parametrize(
    ("dtype", "unscaled"), [(torch.float32, False), (torch.float32, True), (torch.float16, False)], ids=str
)
def test_a_gradient_scaler_scales_and_skips(dtype: Any, unscaled: bool) -> None:
    """A power of 2 changes no bit; gradients of float16 are unscaled in the step, which torch's `unscale_` refuses."""
    params = problem((4, 3), (5,), dtype=dtype)
    arrays = arrays_of(params)
    # With this eps the size of the gradients matters; the bound is above their norm.
    optimizer, twin = ours.Adam(params, lr=0.1, eps=0.1), adamas_numpy.Adam(arrays, lr=0.1, eps=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        optimizer.zero_grad()
        loss = sum(((p * 3).float() ** 2).sum() for p in params)
        scaler.scale(loss * (float("inf") if step == 1 else 1.0)).backward()  # type: ignore[union-attr]
        grads = [as_array(p.grad).copy() for p in params]
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer, max_norm=1e3)
        if step != 1:
            twin.step(grads, max_norm=1e3, grad_scale=1 / scaler.get_scale())
        scaler.update()
        assert scaler.get_scale() == (1024.0 if step == 0 else 512.0)
        assert same(params, arrays)
    assert optimizer.skipped == 1
    assert not hasattr(optimizer, "grad_scale")


def test_autocast_and_a_scaler_train() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    x = torch.randn(256, 8)
    optimizer, scaler = ours.AdamW(model.parameters(), lr=0.01), torch.amp.GradScaler("cpu")
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_are_those_of_adamas_numpy(dtype: Any) -> None:
    params = problem((40, 13), (5,), dtype=dtype)
    arrays = arrays_of(params)
    optimizer, twin = ours.AdamW(params, lr=0.1, ema=0.9), adamas_numpy.AdamW(arrays, lr=0.1, ema=0.9)
    assert torch.equal(optimizer.average(params[0]), params[0].detach().float())
    for seed in range(3):
        give(params, seed)
        optimizer.step()
        twin.step([as_array(p.grad) for p in params])
    assert same(params, arrays)
    for i, p in enumerate(params):
        average = optimizer.average(p)
        assert average.dtype == torch.float32
        assert average.numpy().tobytes() == twin.average(str(i)).tobytes()
        average.zero_()
        assert optimizer.average(p).any()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = ours.AdamW(others, ema=0.9)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, own in ((optimizer, params), (again, others)):
        give(own, 7)
        one.step()
    assert all(torch.equal(again.average(q), optimizer.average(p)) for p, q in zip(params, others, strict=True))
    assert optimizer.describe().bytes == sum(12 * p.numel() for p in params)
    plain = ours.AdamW(others)
    plain.load_state_dict(again.state_dict())
    give(others, 8)
    with pytest.raises(StateError, match=r"parameter 0 of group 0 holds its average.* ema="):
        plain.step()
    with pytest.raises(ArgumentError, match=r"ema=0\.999"):
        plain.average(others[0])
    with pytest.raises(ArgumentError, match="no such parameter"):
        again.average(params[0])
    with pytest.raises(ArgumentError, match="ema=1"):
        ours.AdamW(others, ema=1)


def test_a_gradient_whose_memory_has_the_other_sign(reader: str) -> None:
    """The imaginary part of a conjugated number is a view whose values are those in memory, negated."""
    for shape in ((), (1,), (1, 1)):
        results = []
        for plain in (False, True):
            (p,) = problem(shape)
            optimizer = ours.Adam([p], lr=0.1)
            z = torch.full(shape, 1 + 2j, dtype=torch.complex64)
            g = z.conj().imag
            assert g.is_neg()
            p.grad = torch.full(shape, -2.0) if plain else g
            optimizer.step()
            results.append(values(optimizer))
        assert equal(*results)


def test_memory_that_moves_is_found(reader: str) -> None:
    """Sending a state to another process moves it into shared memory, in place: the objects are the same."""
    params, others = problem((40, 13), (5,)), problem((40, 13), (5,))
    optimizer, twin = ours.Adam(params, lr=0.1), ours.Adam(others, lr=0.1)
    for seed, moves in enumerate(("", "exp_avg", "step", "parameter")):
        for state in optimizer.state.values():
            if moves in state:
                state[moves].share_memory_()
        if moves == "parameter":
            params[1].data.share_memory_()
        for one, own in ((optimizer, params), (twin, others)):
            give(own, seed)
            one.step()
        assert equal(values(optimizer), values(twin))


def test_an_optimizer_that_its_parameter_holds_can_be_freed(reader: str) -> None:
    (p,) = problem((3,))
    optimizer = p.owner = ours.Adam([p])
    give([p], 0)
    optimizer.step()
    gone = weakref.ref(optimizer)
    del p, optimizer
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_no_compilation_when_the_learning_rate_changes(backend: str) -> None:
    """A training step under torch.compile: the same bits as without, and one compilation for all learning rates."""
    counters = torch._dynamo.utils.counters
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        optimizer = ours.AdamW(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        def train(x: Any, model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        torch._dynamo.reset()
        counters.clear()
        step = torch.compile(train, backend=backend) if compiled else train
        frames = []
        for k in range(5):
            step(torch.full((6, 4), 1.0 + k))
            schedule.step()
            frames.append(counters["stats"]["unique_graphs"])
        results.append([p.detach().numpy().copy() for p in model.parameters()])
    assert frames[0] > 0
    assert frames[1:] == frames[1:2] * 4
    assert equal(*results)
    assert float(optimizer.state[next(model.parameters())]["step"]) == 5.0


def test_each_way_to_look_at_tensors_is_the_one_that_serves(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by what only one of them does: Python's own lists of pointers, and torch's increment_version."""
    seen: list[str] = []
    original = torch.autograd.graph.increment_version
    monkeypatch.setattr(torch.autograd.graph, "increment_version", lambda t: (seen.append("version"), original(t))[1])
    params = problem((40, 13), (5,))
    optimizer = ours.Adam(params)
    for seed in range(2):
        give(params, seed)
        optimizer.step()
    assert (seen == []) == (reader == "built")
    assert (optimizer._stepper._prepared.watch._native is None) == (reader == "python")
    assert [p._version for p in params] == [2, 2]


def test_no_parameters_and_no_gradients_are_no_error(reader: str) -> None:
    for optimizer in (ours.Adam([{"params": []}]), ours.Adam(problem((3,)))):
        optimizer.step()
        optimizer.step()


def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"no library")
    with pytest.raises(KernelError, match=r"broken\.so.*build it again"):
        build.use(tmp_path / "broken.so")
