"""The rule: its switches and numbers are checked, and its scalars are the exact ones, rounded."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, asdict, astuple, replace
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adamas
from adamas.errors import ArgumentError
from adamas.kernels import cpu, reference
from adamas.kernels.cpu import _shim
from adamas.rule import PRESETS, Clip, Clipping, Hyper, Rule, clip_factor, update
from adamas.scalars import HOST, carry_on, fade, power, scalars

RULES = [
    Rule(e, d, a, x)
    for e in ("paper", "keras")
    for d in ("decoupled", "coupled")
    for a in ("off", "raw", "corrected")
    for x in (False, True)
    if (e, a) != ("keras", "corrected")
]
FAMILY = [
    *RULES,
    *(
        Rule(e, d, nesterov=n)
        for e in ("paper", "keras")
        for d in ("decoupled", "coupled")
        for n in ("constant", "scheduled")
    ),
    *(Rule(e, schedule_free=True) for e in ("paper", "keras")),
    *(Rule(e, d, infinity=True) for e in ("paper", "keras") for d in ("decoupled", "coupled")),
    *(Rule(decay=d, adopt=True) for d in ("decoupled", "coupled")),
    *(Rule(e, clip_update=True) for e in ("paper", "keras")),
    *(Rule(e, d, cautious=True) for e in ("paper", "keras") for d in ("decoupled", "coupled")),
    *(Rule(e, trust_ratio=r) for e in ("paper", "keras") for r in ("with_decay", "without_decay")),
    *(Rule(e, d, rectify=True) for e in ("paper", "keras") for d in ("decoupled", "coupled")),
]
CLIPS: list[Clipping] = ["value", "norm", "global_norm", "torch"]


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"eps_mode": "torch"}, "eps_mode='torch': give one of 'paper', 'keras'"),
        ({"decay": "l2"}, "decay='l2': give one of 'decoupled', 'coupled'"),
        ({"amsgrad": True}, "amsgrad=True: give one of 'off', 'raw', 'corrected'"),
        ({"maximize": 1}, "maximize=1: give one of False, True"),
        ({"eps_mode": "keras", "amsgrad": "corrected"}, "use amsgrad='raw'"),
        ({"nesterov": True}, "nesterov=True: give one of 'off', 'constant', 'scheduled'"),
        ({"nesterov": "constant", "amsgrad": "raw"}, "amsgrad and nesterov exclude each other"),
        ({"rectify": 1}, "rectify=1: give one of False, True"),
        ({"infinity": 1}, "infinity=1: give one of False, True"),
        ({"clip_update": 1}, "clip_update=1: give one of False, True"),
        ({"clip_update": True, "adopt": True}, "adopt and clip_update exclude each other"),
        (
            {"clip_update": True, "decay": "coupled"},
            "clip_update=True is defined for decay='decoupled' only, not 'coupled'",
        ),
        ({"trust_ratio": True}, "trust_ratio=True: give one of 'off', 'with_decay', 'without_decay'"),
        ({"trust_ratio": "with_decay", "clip_update": True}, "clip_update and trust_ratio exclude each other"),
        (
            {"trust_ratio": "with_decay", "decay": "coupled"},
            "trust_ratio='with_decay' is defined for decay='decoupled' only",
        ),
        ({"cautious": 1}, "cautious=1: give one of False, True"),
        ({"cautious": True, "trust_ratio": "with_decay"}, "trust_ratio and cautious exclude each other"),
        ({"cautious": True, "schedule_free": True}, "schedule_free and cautious exclude each other"),
        ({"adopt": 1}, "adopt=1: give one of False, True"),
        ({"adopt": True, "infinity": True}, "infinity and adopt exclude each other"),
        ({"adopt": True, "eps_mode": "keras"}, "eps_mode='paper', not 'keras'"),
        ({"infinity": True, "amsgrad": "raw"}, "amsgrad and infinity exclude each other"),
        ({"rectify": True, "schedule_free": True}, "schedule_free and rectify exclude each other"),
        ({"schedule_free": 1}, "schedule_free=1: give one of False, True"),
        ({"schedule_free": True, "decay": "coupled"}, "for decay='decoupled' only, not 'coupled'"),
        ({"schedule_free": True, "amsgrad": "raw"}, "amsgrad and schedule_free exclude each other"),
        ({"schedule_free": True, "nesterov": "constant"}, "nesterov and schedule_free exclude each other"),
    ],
)
def test_illegal_switches_are_refused(switches: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Rule(**switches)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["lr", "eps", "eps_root", "weight_decay", "momentum_decay"])
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, "1", None, True, 1j, 10**400])
def test_illegal_numbers_are_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{name}=.*finite number of at least 0"):
        Hyper(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan, "0.9", False])
def test_illegal_betas_are_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=rf"{name}=.*\[0, 1\)"):
        Hyper(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "allowed"), [("warmup_steps", 10**6), ("r", 16), ("weight_lr_power", 16)])
def test_whole_numbers_are_whole(name: str, allowed: int) -> None:
    assert getattr(Hyper(**{name: allowed}), name) == allowed
    assert getattr(Hyper(**{name: 0}), name) == 0
    for value in (0.5, -1, math.nan, math.inf, "2", None, True, *([] if name == "warmup_steps" else [17])):
        with pytest.raises(ArgumentError, match=f"{name}=.*whole number"):
            Hyper(**{name: value})  # type: ignore[arg-type]


def test_limits_are_allowed() -> None:
    assert astuple(Hyper(*(0,) * 10)) == (0.0,) * 10
    with pytest.raises(FrozenInstanceError):
        Hyper().lr = 2.0  # type: ignore[misc]


def test_numbers_are_float64_whatever_was_given() -> None:
    """A float32 rate is that value, and every scalar computed from it is a float64 all the same."""
    hyper = Hyper(np.float32(0.1), 0, np.float64(0.5), np.int64(2))  # type: ignore[arg-type]
    assert {type(number) for number in astuple(hyper)} == {float}
    assert astuple(hyper)[:4] == (float(np.float32(0.1)), 0.0, 0.5, 2.0)
    assert scalars(Rule(), hyper, 3) == scalars(Rule(), Hyper(float(np.float32(0.1)), 0.0, 0.5, 2.0), 3)
    assert json.loads(json.dumps(asdict(hyper))) == asdict(hyper)


def test_the_slots_are_those_the_rule_needs() -> None:
    assert [(s.name, s.kind, s.initial) for s in Rule(amsgrad="raw").slots] == [
        ("m", "signed", "zero"),
        ("v", "non-negative", "zero"),
        ("vmax", "non-negative", "zero"),
    ]
    assert [s.name for s in Rule().slots] == ["m", "v"]
    assert [s.name for s in Rule(nesterov="scheduled").slots] == ["m", "v"]
    assert [(s.name, s.kind, s.initial) for s in Rule(schedule_free=True).slots] == [
        ("v", "non-negative", "zero"),
        ("z", "weight", "parameter"),
    ]


def test_what_is_carried() -> None:
    assert {rule.carries for rule in RULES} == {()}
    assert Rule(nesterov="constant").carries == ()
    assert Rule(nesterov="scheduled").carries == (("mu_product", 1.0),)
    assert Rule(schedule_free=True).carries == (("weight_sum", 0.0), ("lr_max", 0.0))


def test_presets_are_the_peers_defaults() -> None:
    """Written down from the peers' documentation; tests/torch, tests/jax and tests/tensorflow compare with them."""
    adams = {
        name: p for name, p in PRESETS.items() if type(p.rule)(p.rule.eps_mode, p.rule.decay, p.rule.amsgrad) == p.rule
    }
    assert {name: (p.rule.eps_mode, p.rule.decay, p.rule.amsgrad, p.hyper.eps, p.hyper.weight_decay)
            for name, p in adams.items()} == {
        "torch.Adam": ("paper", "coupled", "off", 1e-8, 0.0),
        "torch.AdamW": ("paper", "decoupled", "off", 1e-8, 1e-2),
        "keras.Adam": ("keras", "decoupled", "off", 1e-7, 0.0),
        "keras.AdamW": ("keras", "decoupled", "off", 1e-7, 4e-3),
        "optax.adam": ("paper", "decoupled", "off", 1e-8, 0.0),
        "optax.adamw": ("paper", "decoupled", "off", 1e-8, 1e-4),
        "optax.amsgrad": ("paper", "decoupled", "corrected", 1e-8, 0.0),
    }  # fmt: skip
    assert {(p.hyper.lr, p.hyper.beta1, p.hyper.beta2, p.hyper.eps_root, p.rule.maximize) for p in adams.values()} == {
        (1e-3, 0.9, 0.999, 0.0, False)
    }
    assert {name: p for name, p in PRESETS.items() if name not in adams} == {
        "torch.NAdam": (
            Rule(decay="coupled", nesterov="scheduled"),
            Hyper(2e-3, 0.9, 0.999, 1e-8, momentum_decay=4e-3),
        ),
        "keras.Nadam": (Rule(nesterov="scheduled"), Hyper(1e-3, 0.9, 0.999, 1e-7, momentum_decay=1.0)),
        "optax.nadam": (Rule(nesterov="constant"), Hyper(1e-3, 0.9, 0.999, 1e-8)),
        "optax.nadamw": (Rule(nesterov="constant"), Hyper(1e-3, 0.9, 0.999, 1e-8, weight_decay=1e-4)),
        "torch.Adamax": (Rule(decay="coupled", infinity=True), Hyper(2e-3, 0.9, 0.999, 1e-8)),
        "keras.Adamax": (Rule("keras", infinity=True), Hyper(1e-3, 0.9, 0.999, 1e-7)),
        "optax.adamax": (Rule(infinity=True), Hyper(1e-3, 0.9, 0.999, 1e-8)),
        "optax.adamaxw": (Rule(infinity=True), Hyper(1e-3, 0.9, 0.999, 1e-8, weight_decay=1e-4)),
        "torch.RAdam": (Rule("keras", "coupled", rectify=True), Hyper(1e-3, 0.9, 0.999, 1e-8)),
        "optax.radam": (Rule(rectify=True), Hyper(1e-3, 0.9, 0.999, 1e-8)),
        "optax.lamb": (Rule(trust_ratio="with_decay"), Hyper(1e-3, 0.9, 0.999, 1e-6)),
        "keras.Lamb": (Rule(trust_ratio="without_decay"), Hyper(1e-3, 0.9, 0.999, 1e-7)),
        "optimi.StableAdamW": (Rule(clip_update=True), Hyper(1e-3, 0.9, 0.99, 1e-6, weight_decay=1e-2)),
        "adopt.ADOPT": (Rule(decay="coupled", adopt=True), Hyper(1e-3, 0.9, 0.9999, 1e-6)),
        "schedulefree.AdamWScheduleFree": (
            Rule(schedule_free=True),
            Hyper(2.5e-3, 0.9, 0.999, 1e-8, warmup_steps=0, r=0, weight_lr_power=2),
        ),
    }


@given(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 3000))
def test_powers_are_right_to_their_counted_error(x: float, n: int) -> None:
    exact = Fraction(x) ** n
    room = Fraction(2 * n + 1, 2**53) * exact + Fraction(n + 1, 2**1074)
    assert abs(Fraction(power(x, n)) - exact) <= room


@given(st.floats(0, 20000) | st.floats(0, 3))
def test_0_96_to_the_x_is_right_to_its_counted_error(x: float) -> None:
    """Repeated squaring 2 n units, the series 3, their product 1; below the normal numbers what can be stored."""
    with localcontext(prec=60):
        exact = Fraction(Decimal.from_float(0.96) ** Decimal(x))
    room = Fraction(2 * int(x) + 4, 2**53) * exact + Fraction(int(x) + 2, 2**1074)
    assert abs(Fraction(fade(x, HOST)) - exact) <= room


def test_0_96_to_the_x_beyond_all_numbers_is_zero() -> None:
    assert [fade(x, HOST) for x in (20000.0, 65536.0, 1e300, math.inf)] == [0.0] * 4
    assert fade(0.0, HOST) == 1.0


@pytest.mark.parametrize("psi", [4e-3, 1.0, 0.37])
def test_the_momentum_is_right_to_a_few_units(psi: float) -> None:
    """mu_t, read off the product of the first step, for t up to 5000."""
    rule, hyper = Rule(nesterov="scheduled"), Hyper(momentum_decay=psi)
    with localcontext(prec=60):
        for t in [*range(1, 100), 250, 1000, 5000]:
            (mu,) = carry_on(rule, hyper, t, (1.0,))
            exact = Decimal.from_float(0.9) * (1 - Decimal.from_float(0.96) ** (t * Decimal(psi)) / 2)
            assert abs(Decimal(mu) / exact - 1) <= Decimal(8 * 2.0**-53)


numbers = st.builds(
    Hyper,
    lr=st.floats(0, 1e3),
    beta1=st.floats(0, 1, exclude_max=True),
    beta2=st.floats(0, 1, exclude_max=True),
    eps=st.floats(0, 1),
    eps_root=st.floats(0, 1),
    weight_decay=st.floats(0, 10),
    momentum_decay=st.floats(0, 10),
    warmup_steps=st.integers(0, 1000),
    r=st.integers(0, 16),
    weight_lr_power=st.integers(0, 16),
)
steps = st.integers(1, 100) | st.integers(1, 2**62)


@given(
    st.sampled_from(FAMILY), numbers, steps, st.floats(-1e3, 1e3), st.floats(0, 1e3), st.floats(0, 1), st.floats(0, 1)
)
def test_libadamas_computes_the_same_scalars(
    rule: Rule, hyper: Hyper, t: int, grad_scale: float, clip: float, first: float, second: float
) -> None:
    before = (first, second)[: len(rule.carries)]
    with reference.ieee():
        carry = carry_on(rule, hyper, t, before)
        mine = scalars(rule, hyper, t, grad_scale, clip, carry)
    codes = cpu.rule_codes(rule)
    assert np.array(carry).tobytes() == np.array(_shim.carry_on(codes, astuple(hyper), t, before)).tobytes()
    theirs = _shim.scalars(codes, astuple(hyper), t, grad_scale, clip, carry)
    assert np.array(mine).tobytes() == np.array(theirs).tobytes()


bounds = st.floats(0, exclude_min=True) | st.floats(1e-3, 1e3)


@given(st.sampled_from(CLIPS), st.floats(0) | st.floats(0, 1e3) | st.just(math.nan), bounds)
def test_libadamas_computes_the_same_factors(kind: Clipping, norm: float, bound: float) -> None:
    with reference.ieee():
        mine = clip_factor(kind, norm, bound)
    theirs = _shim.clip_factor(cpu.clip_code(Clip(kind, bound)), norm, bound)
    assert np.float64(mine).tobytes() == np.float64(theirs).tobytes() or (math.isnan(mine) and math.isnan(theirs))


def test_factors_by_hand() -> None:
    assert [clip_factor("norm", n, 2.0) for n in (0.0, 1.0, 2.0, 4.0, math.inf)] == [1.0, 1.0, 1.0, 0.5, 0.0]
    assert [clip_factor("global_norm", n, 2.0) for n in (0.0, 1.0, 2.0, 4.0)] == [1.0, 1.0, 1.0, 0.5]
    assert clip_factor("torch", 4.0, 2.0) == 2.0 / (4.0 + 1e-6)
    assert clip_factor("torch", 1.0, 2.0) == 1.0
    assert clip_factor("value", 4.0, 2.0) == 1.0
    assert math.isnan(clip_factor("global_norm", math.inf, 2.0))
    for kind in CLIPS[1:]:
        assert math.isnan(clip_factor(kind, math.nan, 2.0))


def test_clips_are_checked() -> None:
    for bad in (0.0, -1.0, math.nan, "1", True):
        with pytest.raises(ArgumentError, match="bound"):
            Clip("norm", bad)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="global_norm"):
        Clip("globally", 1.0)  # type: ignore[arg-type]


def test_scalars_of_the_first_step_by_hand() -> None:
    hyper = Hyper(lr=0.1, beta1=0.5, beta2=0.75, eps=1e-3, eps_root=0.01, weight_decay=0.2)
    torch = scalars(Rule(decay="coupled"), hyper, 1)
    assert (torch.grad_scale, torch.coupled, torch.c1, torch.c2, torch.r2, torch.keep) == (1, 0.2, 0.5, 0.25, 1, 1)
    assert (torch.alpha, torch.eps, torch.eps_root) == (0.1 * 0.5 / 0.5, 1e-3 * 0.5, 0.01 * 0.25)
    keras = scalars(Rule("keras", maximize=True), hyper, 1, grad_scale=0.25)
    assert (keras.grad_scale, keras.coupled, keras.eps, keras.keep) == (-0.25, 0, 1e-3, 1 - 0.1 * 0.2)
    optax = scalars(Rule(amsgrad="corrected"), hyper, 1)
    assert (optax.r2, optax.alpha, optax.eps, optax.eps_root) == (4.0, 0.1 / 0.5, 1e-3, 0.01)


def test_the_first_step_moves_by_lr() -> None:
    """At t = 1 the corrected moments are g and g^2, so without eps every element moves by lr, whatever its gradient."""
    g = np.array([1e-6, -3.0, 1e4])
    s = scalars(Rule(), Hyper(lr=0.5, eps=0.0), 1)
    p, _ = update(Rule(), np.zeros(3), g, (np.zeros(3), np.zeros(3)), s, coupled=False, tiny=np.finfo(float).tiny)
    np.testing.assert_allclose(p, [-0.5, 0.5, -0.5], rtol=1e-14)


def test_a_moment_below_the_smallest_normal_number_is_stored_as_zero() -> None:
    tiny = np.finfo(np.float32).tiny
    m = np.array([tiny, -tiny, 1.2 * tiny, 2 * tiny, np.nan], np.float32)
    s = scalars(Rule(), Hyper(), 5)
    s32 = type(s)(*map(np.float32, s))
    zero = np.zeros(5, np.float32)
    _, (new, _) = update(Rule(), zero, zero, (m, zero), s32, coupled=False, tiny=tiny)
    assert new[:2].tolist() == [0.0, 0.0]
    assert new[2] > 0
    assert new[3] > 0
    assert np.isnan(new[4])


def test_amsgrad_never_shrinks_and_propagates_nan() -> None:
    s = scalars(Rule(amsgrad="raw"), Hyper(), 1)
    zero = np.zeros(3)
    vmax = np.array([1.0, 0.0, np.nan])
    _, (_, v, new) = update(
        Rule(amsgrad="raw"),
        zero,
        np.array([1.0, 2.0, 1.0]),
        (zero, zero, vmax),
        s,
        coupled=False,
        tiny=np.finfo(float).tiny,
    )
    assert new[0] == 1.0
    assert new[1] == v[1] > 0
    assert np.isnan(new[2])


def test_rules_and_numbers_are_public() -> None:
    assert adamas.Rule is Rule
    assert adamas.Hyper is Hyper
    assert replace(PRESETS["torch.Adam"].rule, amsgrad="raw") == Rule(decay="coupled", amsgrad="raw")
