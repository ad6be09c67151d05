"""adamas.groups: who belongs where, whom decay spares, and that each tensor is stepped with its own group's numbers."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from support.stepping import same_bits

from adamas import groups
from adamas.errors import ArgumentError, StateError
from adamas.groups import Group, Numbers, assign, no_decay
from adamas.numpy import Adam, AdamW, NAdam
from adamas.rule import Hyper

NAMES = ["embed/table", "dense/kernel", "dense/bias", "head/kernel", "head/bias", "norm/gamma"]
SHAPES = [(50, 4), (4, 4), (4,), (4, 2), (2,), (4,)]


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in zip(NAMES, SHAPES, strict=True)}


def test_examples() -> None:
    result = doctest.testmod(groups)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        ([], [0, 0, 0, 0, 0, 0]),
        (["*/bias"], [0, 0, 1, 0, 1, 0]),
        (["head/*", "*bias"], [0, 0, 2, 1, 1, 0]),
        (["*bias", "head/*"], [0, 0, 1, 2, 1, 0]),
        ([["embed*", "norm/gamma"]], [1, 0, 0, 0, 0, 1]),
        ([lambda name, shape: shape == (4, 4)], [0, 1, 0, 0, 0, 0]),
        ([no_decay, "*"], [2, 2, 1, 2, 1, 1]),
        (["?ens[ef]/[!b]*"], [0, 1, 0, 0, 0, 0]),
    ],
)
def test_the_first_match_wins(matches: list[Any], expected: list[int]) -> None:
    assert assign(NAMES, SHAPES, [Group(match) for match in matches]) == expected


@pytest.mark.parametrize(
    ("matches", "message"),
    [
        (["Dense/*"], r"group Dense/\*: it matches no tensor; the tensors are 'embed/table', 'dense/kernel'"),
        (["bias"], "group bias: it matches no tensor"),
        (["*", "*/bias"], r"group \*/bias: an earlier group has all that it matches \('dense/bias', 'head/bias'\)"),
    ],
)
def test_a_group_without_tensors_is_refused(matches: list[str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        assign(NAMES, SHAPES, [Group(match) for match in matches])


@pytest.mark.parametrize(
    ("name", "shape", "spared"),
    [
        ("w", (), True),
        ("w", (3,), True),
        ("w", (3, 3), False),
        ("layers.0.attention.in_proj_bias", (3, 3), True),
        ("attention/query/bias:0", (3, 3), True),
        ("attention/query/kernel:0", (3, 3), False),
        ("BIAS", (3, 3), True),
        ("a.bias_k", (1, 1, 3), True),
        ("unbias", (3, 3), False),
        ("bias/kernel", (3, 3), False),
        ("x/gamma", (3, 3), True),
        ("beta", (3, 3), True),
        ("alphabeta", (3, 3), False),
        ("norm.weight", (3, 3), True),
        ("block.norm1.weight", (3, 3), True),
        ("LayerNorm_0/scale", (3, 3), True),
        ("batch_normalization_3/gain", (3, 3), True),
        ("rmsnorm/w", (3, 3), True),
        ("normal/weight", (3, 3), False),
        ("norm/dense/weight", (3, 3), False),
        ("norm", (3, 3), False),
    ],
)
def test_whom_decay_spares(name: str, shape: tuple[int, ...], spared: bool) -> None:
    assert no_decay(name, shape) is spared


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Group(3), "match=3: give a pattern"),
        (lambda: Group([]), r"match=\[\]: give a pattern"),
        (lambda: Group(["a", 3]), "give a pattern"),
        (lambda: Group("*", betas=0.9), "betas=0.9: give two numbers"),
        (lambda: Adam(arrays(), groups=Group("*")), "give a list of adamas.groups.Group"),
        (lambda: Adam(arrays(), groups=["*"]), "give a list of adamas.groups.Group"),
        (lambda: Adam(arrays(), groups=[Group("*", lr=-1)]), r"group \*: lr=-1"),
        (lambda: Adam(arrays(), groups=[Group("*", betas=(0.9, 1), name="all")]), "group all: beta2=1"),
        (lambda: Adam(arrays(), no_decay="bias"), "no_decay='bias': give False or True"),
        (lambda: AdamW(arrays(), groups=[Group("nothing")]), "group nothing: it matches no tensor"),
        (lambda: Adam(arrays(), groups=[Group("*", eps_root=0.1)]), r"group \*: eps_root=0.1: torch.Adam has none"),
        (lambda: NAdam(arrays(), groups=[Group("*", eps_root=0.1)]), r"group \*: eps_root=0.1: torch.NAdam has none"),
        (
            lambda: Adam(arrays(), like="optax", groups=[Group("*", weight_decay=0.1)]),
            r"group \*: weight_decay=0.1: optax.adam has no weight decay",
        ),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_the_numbers_of_each_tensor() -> None:
    own = Hyper(lr=0.1, weight_decay=0.5)
    given = [
        Group("head/*", lr=0.2, betas=(0.5, 0.6), eps=1e-3),
        Group(no_decay, weight_decay=0.25, eps_root=0.125),
    ]
    numbers = Numbers(NAMES, SHAPES, own, given)
    head, spared = Hyper(0.2, 0.5, 0.6, 1e-3, 0.0, 0.5), Hyper(lr=0.1, weight_decay=0.25, eps_root=0.125)
    assert [numbers.hypers[row] for row in numbers.row_of] == [own, own, spared, head, head, spared]
    assert numbers.table.tolist() == [list(vars(hyper).values()) for hyper in (own, head, spared)]
    # the same, and decay leaves out what it should: in groups too, but in those that say otherwise
    numbers = Numbers(NAMES, SHAPES, own, given, no_decay=True)
    assert [numbers.hypers[row].weight_decay for row in numbers.row_of] == [0.5, 0.5, 0.25, 0.5, 0.0, 0.25]
    assert numbers.hypers[numbers.row_of[4]].lr == 0.2
    assert [group.name for group in numbers.groups()] == ["default", "head/*", "no_decay"]
    assert [group.tensors for group in numbers.groups()] == [
        ("embed/table", "dense/kernel"),
        ("head/kernel", "head/bias"),
        ("dense/bias", "norm/gamma"),
    ]


def test_each_tensor_is_stepped_by_its_groups_numbers() -> None:
    """As optimizers of their own would."""
    params, alone = arrays(), arrays()
    optimizer = AdamW(params, lr=0.1, weight_decay=0.5, groups=[Group("head/*", lr=0.2, eps=1e-3)], no_decay=True)
    settings = {name: {"lr": 0.1, "weight_decay": 0.5} for name in NAMES[:2]}
    settings |= {name: {"lr": 0.1, "weight_decay": 0.0} for name in ("dense/bias", "norm/gamma")}
    settings |= {"head/kernel": {"lr": 0.2, "eps": 1e-3, "weight_decay": 0.5}}
    settings |= {"head/bias": {"lr": 0.2, "eps": 1e-3, "weight_decay": 0.0}}
    single = {name: AdamW({name: p}, **settings[name]) for name, p in alone.items()}
    for seed in (1, 2, 3):
        grads = arrays(seed)
        optimizer.step(grads)
        for name, other in single.items():
            other.step({name: grads[name]})
    assert all(same_bits(params[name], alone[name]) for name in NAMES)


def test_learning_rates_can_change() -> None:
    optimizer = AdamW(arrays(), groups=[Group("head/*", lr=0.2), Group("embed*", eps=1e-3)], no_decay=True)
    optimizer.lr = 0.5
    assert [group.lr for group in optimizer.groups] == [0.5, 0.2, 0.5]
    optimizer.groups[1].lr = 0.25
    assert [group.lr for group in optimizer.groups] == [0.5, 0.25, 0.5]
    assert optimizer.hyper.lr == optimizer.lr == 0.5
    optimizer.groups[0].lr = 0.125
    assert [group.lr for group in optimizer.groups] == [0.125, 0.25, 0.5]
    assert {hyper.lr for hyper in optimizer.portable_state().hypers} == {0.125, 0.25, 0.5}
    with pytest.raises(ArgumentError, match="lr=-1"):
        optimizer.groups[1].lr = -1
    with pytest.raises(AttributeError):
        optimizer.groups[1].weight_decay = 0.0  # type: ignore[attr-defined]
    assert "head/*: 2 tensors, Hyper(lr=0.25" in repr(optimizer.groups[1])
    before = {name: p.copy() for name, p in optimizer._parameters._given.items()}  # type: ignore[union-attr]
    for group in optimizer.groups:
        group.lr = 0.0
    optimizer.step(arrays(5))
    assert all(same_bits(before[n], p) for n, p in optimizer._parameters._given.items())  # type: ignore[union-attr]


def test_a_learning_rate_may_be_a_factor_of_the_optimizers() -> None:
    """It follows that one; a group's rate that is set stays until the optimizer's is set again."""
    optimizer = AdamW(arrays(), lr=0.1, groups=[Group("head/*", lr_scale=0.5), Group("embed*", lr=0.3)], no_decay=True)
    assert [group.lr for group in optimizer.groups] == [0.1, 0.05, 0.3]
    optimizer.lr = 0.5
    assert [group.lr for group in optimizer.groups] == [0.5, 0.25, 0.3]
    optimizer.groups[1].lr = 0.2
    assert [group.lr for group in optimizer.groups] == [0.5, 0.2, 0.3]
    optimizer.groups[0].lr = 0.4
    assert [group.lr for group in optimizer.groups] == [0.4, 0.2, 0.3]
    optimizer.lr = 1.0
    assert [group.lr for group in optimizer.groups] == [1.0, 0.5, 0.3]
    params, other = (arrays(), arrays())
    scaled = AdamW(params, lr=0.1, groups=[Group("*", lr_scale=0.5)])
    own = AdamW(other, lr=0.05)
    for one in (scaled, own):
        one.step(arrays(1))
    assert all(same_bits(params[name], other[name]) for name in NAMES)
    for scale in (-1.0, float("inf"), float("nan"), "2", True):
        with pytest.raises(ArgumentError, match="lr_scale="):
            Group("*", lr_scale=scale)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"lr=0\.1 and lr_scale=0\.5 exclude each other"):
        Group("*", lr=0.1, lr_scale=0.5)


def test_groups_go_on_exactly() -> None:
    def made(params: dict[str, np.ndarray], **own: Any) -> AdamW:
        return AdamW(params, groups=[Group("head/*", **own), Group("embed*")], no_decay=True)

    params = arrays()
    optimizer = made(params, lr=0.2)
    optimizer.lr = 0.5
    optimizer.step(arrays(1))
    copies = {name: p.copy() for name, p in params.items()}
    other = made(copies, lr=0.9, eps=0.9)
    other.load_state_dict(optimizer.state_dict())
    assert other.portable_state().hypers == optimizer.portable_state().hypers
    optimizer.step(arrays(2))
    other.step(arrays(2))
    assert all(same_bits(params[name], copies[name]) for name in NAMES)


def test_a_state_with_other_groups() -> None:
    """It fits where tensors that share their numbers here do so there."""
    state = AdamW(arrays(), groups=[Group("head/*", lr=0.2)]).portable_state()
    finer = AdamW(arrays(), groups=[Group("head/bias"), Group("head/kernel")])
    finer.load_portable_state(state)
    assert [group.lr for group in finer.groups] == [1e-3, 0.2, 0.2]
    coarser = AdamW(arrays(), lr=0.7, groups=[Group("*kernel", lr=0.3)])
    before = coarser.portable_state()
    with pytest.raises(StateError, match=r"other numbers for 'norm/gamma' .*lr=0.001.* than for 'head/bias' .*lr=0.2"):
        coarser.load_portable_state(state)
    assert coarser.portable_state().hypers == before.hypers


def test_numbers_that_no_tensor_has_are_loaded_too() -> None:
    """All tensors are in groups; the optimizer's own learning rate, which groups without one follow, too."""
    optimizer = AdamW(arrays(), lr=0.7, groups=[Group("*")])
    other = AdamW(arrays(), lr=0.1, groups=[Group("*")])
    other.load_state_dict(optimizer.state_dict())
    assert (other.lr, other.groups[1].lr) == (0.7, 0.7)
