"""Sparse gradients in adamas.torch: made dense, or stepped by rows; both beside the reference and torch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from adamas.errors import ArgumentError, ArrayError, NonFiniteError, UnsupportedError
from adamas.kernels import cpu, rows
from adamas.rule import Hyper, Rule

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from parameters import equal, problem, values  # noqa: E402

import adamas.torch as ours  # noqa: E402
from adamas.torch import stepper, watch  # noqa: E402
from adamas.torch.memory import key  # noqa: E402

COUNT, WIDTH = 40, 7
RULE = Rule(decay="coupled")
HYPER = Hyper(0.02, 0.8, 0.95, 1e-3, weight_decay=0.1)
SETTINGS: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}


def sparse(seed: int, dtype: Any = torch.float32, twice: bool = True) -> Any:
    """A gradient of some rows, one of them twice."""
    rng = np.random.default_rng(seed)
    index = rng.choice(COUNT, 9, replace=False)
    if twice:
        index[3] = index[0]
    values = rng.standard_normal((9, WIDTH)) * 10.0 ** rng.uniform(-4, 1, (9, 1))
    return torch.sparse_coo_tensor(
        torch.tensor(index)[None], torch.tensor(values, dtype=dtype), (COUNT, WIDTH), check_invariants=True
    )


def wrong_row() -> Any:
    g = torch.sparse_coo_tensor(torch.tensor([[1, 2]]), torch.ones(2, 2), (3, 2), check_invariants=True)
    g._indices()[0, 1] = 3
    return g


def parts(g: Any) -> tuple[np.ndarray, np.ndarray]:
    return g._indices()[0].numpy(), g._values().numpy()


@pytest.mark.parametrize("twice", [False, True])
def test_sparse_gradients_are_made_dense(twice: bool) -> None:
    results = []
    for plain in (False, True):
        params = [*problem((COUNT, WIDTH)), *problem((3,))]
        optimizer = ours.AdamW(params, **SETTINGS)
        for seed in range(4):
            g = sparse(seed, twice=twice)
            params[0].grad = g.to_dense() if plain else g
            params[1].grad = torch.full((3,), 0.1)
            optimizer.step()
        results.append(values(optimizer))
    assert equal(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_lazy_rows_are_the_references(
    dtype: Any, native: bool, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a dense parameter, under one norm, through gradients that are missing or dense."""
    if not native:
        monkeypatch.setattr(cpu, "_why_not", "the test says so")
        for module in (watch, stepper):
            monkeypatch.setattr(module, "READS", False)
    table, other = (*problem((COUNT, WIDTH), dtype=dtype), *problem((3,), dtype=dtype))
    optimizer = ours.AdamW([table, other], **SETTINGS, sparse="lazy")
    p = table.detach().numpy().copy()
    slots, seen, t = [np.zeros_like(p), np.zeros_like(p)], np.zeros(COUNT + 1, np.int32), 0
    dense = ours.AdamW([copy.deepcopy(other)], **SETTINGS)
    (twin,) = dense.param_groups[0]["params"]
    for seed in range(6):
        other.grad = torch.full((3,), 0.5, dtype=dtype)
        table.grad = None if seed == 2 else sparse(seed, dtype)
        optimizer.step(max_norm=clip, grad_scale=0.5)
        factor = 0.5
        if clip is not None:
            square = 3 * 0.25 + (0.0 if table.grad is None else float((table.grad.to_dense().double() ** 2).sum()))
            assert optimizer.norm == pytest.approx(0.5 * square**0.5, rel=1e-13)
            factor *= min(1.0, clip / (optimizer.norm + 1e-6))
        if table.grad is not None:
            t += 1
            rows.step(Rule(), HYPER, t, p, slots, seen, *rows.add_up(*parts(table.grad), COUNT), factor)
        twin.grad = other.grad
        dense.step(grad_scale=factor)
        assert table.detach().numpy().tobytes() == p.tobytes()
        assert torch.equal(other, twin)
    rows.settle(HYPER, slots, seen)
    state = optimizer.state_dict()["state"][0]
    assert list(state) == ["step", "exp_avg", "exp_avg_sq"]
    assert float(state["step"]) == 5.0
    assert [state[key].numpy().tobytes() for key in ("exp_avg", "exp_avg_sq")] == [slot.tobytes() for slot in slots]


def test_moments_are_those_of_a_dense_optimizer_and_go_on_with_torch() -> None:
    """Settled by whatever reads them: a state_dict, a copy, a pickle, a dense gradient."""
    readers = [
        lambda o: o.state_dict()["state"][0],
        lambda o: next(iter(copy.deepcopy(o).state.values())),
        lambda o: next(iter(pickle.loads(pickle.dumps(o)).state.values())),
        lambda o: {key(RULE, slot): torch.tensor(x) for slot, x in o.portable_state().slots["0"].items()},
    ]
    for read in readers:
        (lazy,), (dense,) = problem((COUNT, WIDTH), dtype=torch.float64), problem((COUNT, WIDTH), dtype=torch.float64)
        optimizer, twin = ours.Adam([lazy], sparse="lazy"), torch.optim.Adam([dense])
        for seed in range(5):
            g = sparse(seed, torch.float64)
            lazy.grad, dense.grad = g, g.to_dense()
            optimizer.step()
            twin.step()
        state = read(optimizer)
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[moment], twin.state[dense][moment], rtol=1e-13, atol=1e-300)
        plain = torch.optim.Adam([dense])
        plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares the step
        plain.step()
        lazy.grad = sparse(9, torch.float64).to_dense()
        optimizer.step()
        torch.testing.assert_close(optimizer.state[lazy]["step"].double(), torch.tensor(6.0, dtype=torch.float64))


def test_a_dense_gradient_finds_settled_moments() -> None:
    (lazy,), (dense,) = problem((COUNT, WIDTH), dtype=torch.float64), problem((COUNT, WIDTH), dtype=torch.float64)
    optimizer, twin = ours.Adam([lazy], lr=0.0, sparse="lazy"), ours.Adam([dense], lr=0.0)
    for seed in range(6):
        g = sparse(seed, torch.float64)
        lazy.grad, dense.grad = g.to_dense() if seed == 4 else g, g.to_dense()
        optimizer.step()
        twin.step()
    optimizer.state_dict()
    for moment in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(optimizer.state[lazy][moment], twin.state[dense][moment], rtol=1e-13, atol=1e-300)


def test_an_embedding_is_trained_by_its_rows() -> None:
    torch.manual_seed(0)
    table = torch.nn.Embedding(COUNT, WIDTH, sparse=True)
    before = table.weight.detach().clone()
    optimizer = ours.AdamW(table.parameters(), lr=0.1, sparse="lazy")
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(table(torch.tensor([3, 5, 5])).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    changed = (table.weight != before).any(1)
    assert changed.nonzero().flatten().tolist() == [3, 5]
    assert table.weight[[3, 5]].norm() < before[[3, 5]].norm()


def test_a_state_that_is_replaced_or_loaded_in_the_middle() -> None:
    params, others = problem((COUNT, WIDTH)), problem((COUNT, WIDTH))
    optimizer = ours.AdamW(params, **SETTINGS, sparse="lazy")
    again = ours.AdamW(others, sparse="lazy")
    for seed in range(6):
        if seed == 3:
            again.load_state_dict(optimizer.state_dict())
            others[0].data.copy_(params[0].data)
        for one, own in ((optimizer, params), (again, others)):
            own[0].grad = sparse(seed)
            if one is optimizer or seed >= 3:
                one.step()
    assert equal(values(optimizer), values(again))
    optimizer.add_param_group({"params": problem((2,))})
    params[0].grad = sparse(7)
    optimizer.step()
    others[0].grad = sparse(7)
    again.state_dict()
    again.step()
    assert torch.equal(params[0], others[0])


@pytest.mark.parametrize(("nonfinite", "skipped"), [("skip", 1), ("raise", 0)])
def test_rows_that_are_not_finite(nonfinite: Any, skipped: int) -> None:
    params = [*problem((COUNT, WIDTH)), *problem((3,))]
    optimizer = ours.AdamW(params, sparse="lazy", nonfinite=nonfinite)
    params[0].grad, params[1].grad = sparse(0), torch.ones(3)
    optimizer.step()
    before = values(optimizer)
    params[0].grad._values()[2, 1] = float("nan")
    if nonfinite == "raise":
        with pytest.raises(NonFiniteError, match=f"tensor '0': of {COUNT * WIDTH} elements of its gradient 1 are NaN"):
            optimizer.step()
    else:
        optimizer.step()
    assert optimizer.skipped == skipped
    assert equal(values(optimizer), before)


def test_what_is_refused() -> None:
    for settings in ({"ema": 0.9}, {"stats": True}, {"verify": 1}, {"moments": "int8"}, {"weights": "stochastic"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(settings))}=.* with sparse='lazy'"):
            ours.Adam(problem((2,)), sparse="lazy", **settings)
    with pytest.raises(ArgumentError, match="sparse='rows': give 'dense' or 'lazy'"):
        ours.Adam(problem((2,)), sparse="rows")  # type: ignore[arg-type]
    for kind in (ours.NAdam, ours.ScheduleFreeAdamW):
        with pytest.raises(UnsupportedError, match="have no lazy rows"):
            kind(problem((2,)), sparse="lazy")


@pytest.mark.parametrize(
    ("shape", "dtype", "group", "gradient", "error", "message"),
    [
        ((COUNT, WIDTH), torch.bfloat16, {}, lambda: sparse(0, torch.bfloat16), UnsupportedError, "sparse='dense'"),
        ((80, 80), torch.float32, {"moments": "int8"}, lambda: torch.eye(80).to_sparse(1), UnsupportedError, "in int8"),
        ((3, 3), torch.float32, {}, lambda: torch.eye(3).to_sparse(), UnsupportedError, "another way than by rows"),
        (
            (3, 2),
            torch.float32,
            {},
            wrong_row,
            ArrayError,
            "parameter 1 of group 0: index 3 at position 1",
        ),
    ],
)
def test_gradients_that_are_no_rows_change_nothing(
    shape: Any, dtype: Any, group: Any, gradient: Any, error: Any, message: str
) -> None:
    params = [*problem((2,)), *problem(shape, dtype=dtype)]
    optimizer = ours.Adam([{"params": params, **group}], sparse="lazy")
    params[0].grad, params[1].grad = torch.ones(2), gradient()
    with pytest.raises(error, match=message):
        optimizer.step()
    assert not optimizer.state
    assert torch.equal(params[0], problem((2,))[0])


def test_torchs_own_objects_leave_sparse_gradients_to_torch() -> None:
    """adamas explain steps them: torch's Adam refuses sparse gradients, and its words are the script's."""
    (p,) = problem((COUNT, WIDTH))
    p.grad = sparse(0)
    with pytest.raises(UnsupportedError, match="for which torch has SparseAdam"):
        ours.Stepper().step(torch.optim.Adam([p]))


def test_rows_after_a_dense_gradient_where_moments_are_int8_are_refused_before_anything_is_stepped() -> None:
    table, other = torch.nn.Parameter(torch.ones(100, 50)), torch.nn.Parameter(torch.ones(3))
    optimizer = ours.Adam([{"params": [other]}, {"params": [table], "moments": "int8"}], sparse="lazy")
    table.grad, other.grad = torch.ones(100, 50), torch.ones(3)
    optimizer.step()
    before = other.detach().clone()
    table.grad = torch.sparse_coo_tensor([[1, 2]], torch.ones(2, 50), (100, 50), check_invariants=True)
    with pytest.raises(UnsupportedError, match="lazy"):
        optimizer.step()
    assert torch.equal(other, before)
    assert optimizer.state[other]["step"] == optimizer.state[table]["step"] == 1
