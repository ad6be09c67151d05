"""Every kernel against the naive twins of torch, Keras and optax, within a computed bound; the mutants it catches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from support import bounds
from support.problems import CASES, Case, case, discriminating
from support.stepping import KERNELS, run
from support.twins import Result

from adamas import numpy as adamas_numpy
from adamas.rule import Hyper, Rule, Scalars, update
from adamas.scalars import scalars

Runner = Callable[[Rule, Hyper, np.ndarray, Sequence[np.ndarray]], Result]


def worst(runner: Runner, tried: Case, dtype: type[np.floating]) -> float:
    """The check: how far from the peer's exact result, in units of the bound. Right ones pass it, mutants do not."""
    p, gradients = discriminating(dtype)
    computed = runner(tried.rule, tried.hyper, p, gradients)
    exact = tried.twin(p, gradients, tried.hyper)
    return bounds.excess(computed, exact, bounds.after(tried.rule, tried.hyper, p, gradients))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tried", CASES, ids=lambda c: c.name)
def test_kernels_are_the_peers_formulas(tried: Case, kernel: str, dtype: type[np.floating]) -> None:
    assert worst(lambda *problem: run(KERNELS[kernel], *problem), tried, dtype) <= 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tried", CASES, ids=lambda c: c.name)
def test_the_optimizers_are_the_peers(tried: Case, dtype: type[np.floating]) -> None:
    peer, kind, *_ = tried.name.split("-")
    h = tried.hyper

    def runner(rule: Rule, hyper: Hyper, p: np.ndarray, gradients: Sequence[np.ndarray]) -> Result:
        p = p.copy()
        optimizer = {"adam": adamas_numpy.Adam, "adamw": adamas_numpy.AdamW}[kind](
            {"p": p}, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, rule.amsgrad != "off",
            maximize=rule.maximize, like=peer, eps_root=h.eps_root,
        )  # fmt: skip
        for g in gradients:
            optimizer.step({"p": g})
        slots = optimizer.state_dict()["state"]["p"]
        assert slots["step"] == len(gradients)
        return Result(p, slots["m"], slots["v"], slots.get("vmax"))

    assert worst(runner, tried, dtype) <= 1.0


# Mutants: the rule with one mistake each. `change` alters what the formula is given, `formula` the formula itself.


def stepwise(
    change: Callable[[Rule, Hyper, int], tuple[Rule, Hyper, int]] = lambda rule, hyper, t: (rule, hyper, t),
    number: Callable[[Scalars, Hyper, int], Scalars] = lambda s, hyper, t: s,
    formula: Callable[..., tuple[np.ndarray, tuple[np.ndarray, ...]]] = update,
) -> Runner:
    """A runner of adamas.rule with a mistake put in: in the settings, in the scalars, or in the formula."""

    def runner(rule: Rule, hyper: Hyper, p: np.ndarray, gradients: Sequence[np.ndarray]) -> Result:
        dtype, tiny = p.dtype.type, np.finfo(p.dtype).tiny
        slots: tuple[np.ndarray, ...] = tuple(np.zeros_like(p) for _ in rule.slots)
        for step, g in enumerate(gradients, 1):
            used, numbers, t = change(rule, hyper, step)
            s = Scalars(*map(dtype, number(scalars(used, numbers, t), numbers, t)))
            coupled = used.decay == "coupled" and numbers.weight_decay != 0
            p, slots = formula(used, p, g, slots, s, coupled=coupled, tiny=tiny)
        return Result(p, *slots) if len(slots) == 3 else Result(p, *slots, None)

    return runner


def hypers(**fields: Callable[[Hyper], float]) -> Runner:
    return stepwise(change=lambda r, h, t: (r, replace(h, **{name: f(h) for name, f in fields.items()}), t))


def rules(**switches: object) -> Runner:
    return stepwise(change=lambda rule, h, t: (replace(rule, **switches), h, t))


def decay_after(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, moments = update(rule, p, g, slots, s._replace(keep=p.dtype.type(1)), coupled=coupled, tiny=tiny)
    return new * s.keep, moments


def eps_inside(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    _, moments = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return s.keep * p - s.alpha * (moments[0] / np.sqrt(moments[-1] + s.eps)), moments


def amsgrad_unused(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    _, (m, v, vmax) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return s.keep * p - s.alpha * (m / (np.sqrt(v) + s.eps)), (m, v, vmax)


def amsgrad_off(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, (m, v) = update(replace(rule, amsgrad="off"), p, g, slots[:2], s, coupled=coupled, tiny=tiny)
    return new, (m, v, v)


def old_moment(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    _, moments = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return s.keep * p - s.alpha * (slots[0] / (np.sqrt(moments[-1]) + s.eps)), moments


def decay_in_second_moment_only(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, moments = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    m = slots[0] + s.c1 * (g - slots[0])
    return new + s.alpha * ((moments[0] - m) / (np.sqrt(moments[-1]) + s.eps)), (m, *moments[1:])


def bc1(h: Hyper, t: int) -> float:
    return 1.0 - h.beta1**t


def root2(h: Hyper, t: int) -> float:
    return float(np.sqrt(1.0 - h.beta2**t))


ADAMW, ADAM, KERAS, OPTAX = (
    "torch-adamw-amsgrad",
    "torch-adam-decay-amsgrad",
    "keras-adamw-amsgrad",
    "optax-adamw-amsgrad",
)
ROOTED = "optax-adamw-eps-root-amsgrad"

MUTANTS: dict[str, tuple[str, Runner]] = {
    "decay ignored": (ADAMW, hypers(weight_decay=lambda h: 0.0)),
    "coupled decay ignored": (ADAM, hypers(weight_decay=lambda h: 0.0)),
    "decay coupled": (ADAMW, rules(decay="coupled")),
    "decay decoupled": (ADAM, rules(decay="decoupled")),
    "decay after the update": (ADAMW, stepwise(formula=decay_after)),
    "decay not scaled by lr": (ADAMW, stepwise(number=lambda s, h, t: s._replace(keep=1 - h.weight_decay))),
    "coupled decay scaled by lr": (ADAM, stepwise(number=lambda s, h, t: s._replace(coupled=h.lr * h.weight_decay))),
    "coupled decay in v only": (ADAM, stepwise(formula=decay_in_second_moment_only)),
    "no bias correction of m": (ADAMW, stepwise(number=lambda s, h, t: s._replace(alpha=s.alpha * bc1(h, t)))),
    "no bias correction of v": (
        ADAMW,
        stepwise(number=lambda s, h, t: s._replace(alpha=s.alpha / root2(h, t), eps=h.eps)),
    ),
    "eps inside the root": (ADAMW, stepwise(formula=eps_inside)),
    "eps uncorrected": (ADAMW, rules(eps_mode="keras")),
    "eps corrected": (KERAS, rules(eps_mode="paper")),
    "eps doubled": (ADAMW, hypers(eps=lambda h: 2 * h.eps)),
    "betas swapped": (ADAMW, hypers(beta1=lambda h: h.beta2, beta2=lambda h: h.beta1)),
    "step off by one": (ADAMW, stepwise(change=lambda r, h, t: (r, h, t + 1))),
    "lr 1% off": (ADAMW, hypers(lr=lambda h: 1.01 * h.lr)),
    "AMSGrad ignored": (ADAMW, stepwise(formula=amsgrad_off)),
    "AMSGrad kept but not used": (ADAMW, stepwise(formula=amsgrad_unused)),
    "AMSGrad on the corrected v": (ADAMW, rules(amsgrad="corrected")),
    "AMSGrad on the raw v": (OPTAX, rules(amsgrad="raw")),
    "m of the step before": (ADAMW, stepwise(formula=old_moment)),
    "maximize ignored": ("torch-adamw-amsgrad-maximize", rules(maximize=False)),
    "eps_root ignored": (ROOTED, hypers(eps_root=lambda h: 0.0)),
    "eps_root uncorrected": (
        "optax-adamw-eps-root",
        stepwise(number=lambda s, h, t: s._replace(eps_root=h.eps_root)),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str) -> None:
    where, mutant = MUTANTS[name]
    assert worst(stepwise(), case(where), np.float32) <= 1.0, "the same check passes the rule without the mistake"
    assert worst(mutant, case(where), np.float32) > 10.0, f"{name}: not visible"


def test_the_bound_is_tight_enough_to_mean_something() -> None:
    p, gradients = discriminating(np.float32)
    tried = case(ADAMW)
    room = bounds.after(tried.rule, tried.hyper, p, gradients)
    assert float(np.max(room.p)) < 2e-5, "parameters near 1, moved by 12 steps of 0.02"
