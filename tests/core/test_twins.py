"""Every kernel against the naive twins of torch, Keras and optax, within a computed bound; the mutants it catches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from support import bounds, twins
from support.problems import CASES, FAMILY, Case, case, discriminating
from support.stepping import KERNELS, carries, fresh, run, table
from support.twins import Result

from adamas import numpy as adamas_numpy
from adamas.errors import ArgumentError
from adamas.kernels import reference
from adamas.rule import Hyper, Rule, Scalars, evaluation_weights, reduction, training_weights, update
from adamas.scalars import carry_on, rescaled, scalars

Carry = tuple[float, ...]
Runner = Callable[[Rule, Hyper, np.ndarray, Sequence[np.ndarray]], Result]


def worst(runner: Runner, tried: Case, dtype: type[np.floating]) -> float:
    """The check: how far from the peer's exact result, in units of the bound. Right ones pass it, mutants do not."""
    p, gradients = tried.problem(dtype)
    computed = runner(tried.rule, tried.hyper, p, gradients)
    exact = tried.twin(p, gradients, tried.hyper)
    return bounds.excess(computed, exact, bounds.after(tried.rule, tried.hyper, p, gradients))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tried", [*CASES, *FAMILY], ids=lambda c: c.name)
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
        return Result(p, tuple(slots[slot.name] for slot in rule.slots))

    assert worst(runner, tried, dtype) <= 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["schedulefree-decay", "schedulefree-warmup"])
def test_the_weights_to_evaluate_with_are_the_mean(name: str, dtype: type[np.floating]) -> None:
    """x, which is not kept, from y and z: their errors pass through with the factors of the formula."""
    tried = case(name)
    p, gradients = tried.problem(dtype)
    y = run(KERNELS["reference"], tried.rule, tried.hyper, p, gradients)
    z, beta1 = y.slots[1], tried.hyper.beta1
    x = evaluation_weights(y.p, z, beta1)
    assert x.dtype == dtype
    room = bounds.after(tried.rule, tried.hyper, p, gradients)
    exact = twins.schedule_free(p, gradients, tried.hyper).x
    share, eps = 1.0 - 1.0 / beta1, float(np.finfo(dtype).eps)
    wide = 2.0**-52 * (abs(y.p) + 4 * abs(share) * abs(z - y.p))  # of the float64 in between
    limit = (1.0 - share) * room.p + abs(share) * room.slots[1] + eps / 2 * abs(exact) + wide
    assert (abs(x - exact) <= limit).all()
    assert (abs(y.p - exact) > 10 * limit).mean() > 0.9, "y is another sequence"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back_rounds_twice(dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(6)
    y, z = (rng.standard_normal(10_000).astype(dtype) * 10.0 ** rng.integers(-3, 4, 10_000) for _ in range(2))
    y, z = y.astype(dtype), z.astype(dtype)
    x = evaluation_weights(y, z, 0.9)
    back = training_weights(x, z, 0.9)
    limit = (np.spacing(abs(y)) + 0.9 * np.spacing(abs(x))) / 2
    if dtype == np.float64:
        limit = 4 * limit + 2.0**-52 * abs(z)
    assert (abs(back.astype(np.longdouble) - y) <= limit * (1 + 1e-6)).all()
    with pytest.raises(ArgumentError, match=r"beta1=0\.0"):
        evaluation_weights(y, z, 0.0)


def test_a_rate_that_falls_keeps_its_largest_in_the_weights() -> None:
    """lr may be set between steps; the weights of the mean take the largest so far, a step its own."""
    p, gradients = discriminating(np.float64, steps=30)
    rule, hyper = Rule(schedule_free=True), Hyper(0.02, 0.8, 0.95, 1e-3, weight_decay=0.1, warmup_steps=5, r=2)
    rates = [0.02 * 0.9**i for i in range(30)]
    slots, carry = fresh(rule, p), carries(rule, 1)
    mine = p.copy()
    plan = reference.Plan(rule, ["p"], [mine], [[slot] for slot in slots])
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        plan.step([g], np.array([t]), table(replace(hyper, lr=lr)), carry=carry)
    exact = twins.schedule_free(p, gradients, hyper, rates)
    room = bounds.after(rule, hyper, p, gradients)  # with the larger steps of a constant rate
    assert bounds.excess(Result(mine, tuple(slots)), Result(exact.y, (exact.v, exact.z)), room) <= 1.0
    assert carry[0, 1] == 0.02 * 0.9**4


# Mutants: the rule with one mistake each. `change` alters what the formula is given, `formula` the formula itself.


def stepwise(
    change: Callable[[Rule, Hyper, int], tuple[Rule, Hyper, int]] = lambda rule, hyper, t: (rule, hyper, t),
    number: Callable[[Scalars, Hyper, int], Scalars] = lambda s, hyper, t: s,
    formula: Callable[..., tuple[np.ndarray, tuple[np.ndarray, ...]]] = update,
    carried: Callable[[Carry, Carry], Carry] = lambda before, after: after,
    values: Callable[..., tuple[np.ndarray, ...]] = reduction,
    again: Callable[[Rule, Scalars, float, list[float]], Scalars] = rescaled,
) -> Runner:
    """A runner of adamas.rule with a mistake put in: in the settings, the scalars, the formula, what is carried, what
    is added up, or what is made of it.
    """

    def runner(rule: Rule, hyper: Hyper, p: np.ndarray, gradients: Sequence[np.ndarray]) -> Result:
        dtype, tiny = p.dtype.type, np.finfo(p.dtype).tiny
        slots: tuple[np.ndarray, ...] = tuple(fresh(rule, p))
        carry: Carry = tuple(each.initial for each in change(rule, hyper, 1)[0].carries)
        for step, g in enumerate(gradients, 1):
            used, numbers, t = change(rule, hyper, step)
            before, carry = carry, carry_on(used, numbers, t, carry)
            s = scalars(used, numbers, t, carry=carried(before, carry))
            s = number(s, numbers, t)
            coupled = used.decay == "coupled" and numbers.weight_decay != 0
            if used.reduces:
                found = values(used, p, g, slots, Scalars(*map(dtype, s)), coupled=coupled, tiny=tiny)
                sums = [float(np.sum(x.astype(np.float64) ** 2)) for x in found]
                s = again(used, s, float(p.size), sums)
            s = Scalars(*map(dtype, s))
            p, slots = formula(used, p, g, slots, s, coupled=coupled, tiny=tiny)
        return Result(p, slots)

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


def not_ahead(s: Scalars, h: Hyper, t: int) -> Scalars:
    """mu_t where mu_{t+1} belongs: also in M_{t+1}."""
    mu = [h.beta1 * (1 - 0.5 * 0.96 ** (i * h.momentum_decay)) for i in range(1, t + 1)]
    product = float(np.prod(mu))
    return s._replace(alpha=h.lr * root2(h, t) * mu[-1] / (1 - product * mu[-1]))


def uncorrected_gain(s: Scalars, h: Hyper, t: int) -> Scalars:
    mu = h.beta1 * (1 - 0.5 * 0.96 ** (t * h.momentum_decay))
    return s._replace(gain=h.lr * root2(h, t) * (1 - mu))


def corrected_for_t(s: Scalars, h: Hyper, t: int) -> Scalars:
    return s._replace(alpha=h.lr * root2(h, t) * h.beta1 / bc1(h, t))


def decay_in_moments_only(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, moments = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return new + s.gain * s.coupled * p / (np.sqrt(moments[1] + s.eps_root) + s.eps), moments


def gain_not_negated(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, moments = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return new - 2 * s.gain * g / (np.sqrt(moments[1] + s.eps_root) + s.eps), moments


def decay_at_z(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    _, z = slots
    y, (v, new) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return y - s.pull * s.shrink * (z - p), (v, new - s.shrink * (z - p))


def towards_the_new_z(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    y, (v, z) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return y + s.mean * (z - slots[1]), (v, z)


def rectified_late(s: Scalars, h: Hyper, t: int) -> Scalars:
    """The threshold where rho is that of the step before."""
    before = scalars(Rule("keras", rectify=True), h, max(t - 1, 1))
    return s._replace(alpha=h.lr / bc1(h, t), adaptive=0.0) if before.adaptive == 0.0 else s


def without_r(s: Scalars, h: Hyper, t: int) -> Scalars:
    return s._replace(alpha=h.lr * root2(h, t) / bc1(h, t)) if s.adaptive else s


def divided_later(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    m, v = slots
    m = m + s.c1 * (g - m)
    n = np.clip(m / np.maximum(np.sqrt(v), s.eps), -s.limit, s.limit)
    return s.keep * p - s.alpha * n, (m, v + s.c2 * (g * g - v))


def by_the_new_v(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new = slots[1] + s.c2 * (g * g - slots[1])
    p, (m, _) = update(rule, p, g, (slots[0], new), s, coupled=coupled, tiny=tiny)
    return p, (m, new)


def eps_added(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    m, v = slots
    _, (_, new) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    m = m + s.c1 * (np.clip(g / (np.sqrt(v) + s.eps), -s.limit, s.limit) - m)
    return s.keep * p - s.alpha * m, (m, new)


def of_the_old_v(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    return (g / np.maximum(np.sqrt(slots[1]), s.eps),)


def beside_eps(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    _, (_, v) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return (g / (np.sqrt(v) + s.eps),)


def of_the_moment(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    _, (m, v) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return (m / np.maximum(np.sqrt(v), s.eps),)


def divided(rms: Callable[[Scalars, float, float], float], least: float = 1.0, decay: bool = True):  # type: ignore[no-untyped-def]
    """lr / max(least, rms), with or without the decay."""

    def again(rule: Rule, s: Scalars, n: float, sums: list[float]) -> Scalars:
        factor = 1 / max(least, rms(s, n, sums[0]))
        return s._replace(alpha=s.alpha * factor, keep=1 - s.shrink * factor if decay else s.keep)

    return again


def root_mean_square(s: Scalars, n: float, squares: float) -> float:
    return float(s.unit * np.sqrt(squares / n))


def lamb(ratio: Callable[[float, float, Scalars], float], decay: bool = True):  # type: ignore[no-untyped-def]
    """The ratio made of the norm of p and that of the step, which has lr in it."""

    def again(rule: Rule, s: Scalars, n: float, sums: list[float]) -> Scalars:
        factor = ratio(sums[0] ** 0.5, sums[1] ** 0.5, s)
        return s._replace(alpha=s.alpha * factor, keep=1 - s.shrink * factor if decay else s.keep)

    return again


def norm_without_decay(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    return reduction(rule, p, g, slots, s._replace(shrink=p.dtype.type(0)), coupled=coupled, tiny=tiny)


def norm_of_the_old_step(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    m, v = slots
    return (p, s.alpha * (m / (np.sqrt(v) + s.eps)) + s.shrink * p)


def scaled(by: Callable[[float, float], float], decay: bool = False):  # type: ignore[no-untyped-def]
    """The step times a number made of how many elements move and of how many there are."""

    def again(rule: Rule, s: Scalars, n: float, sums: list[float]) -> Scalars:
        factor = by(sums[0], n)
        return s._replace(alpha=s.alpha * factor, keep=1 - (1 - s.keep) * factor if decay else s.keep)

    return again


def with_the_old_moment(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, moments = update(replace(rule, cautious=False), p, g, slots, s, coupled=coupled, tiny=tiny)
    return np.where(slots[0] * g > 0, new, s.keep * p), moments


def against_the_parameter(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, moments = update(replace(rule, cautious=False), p, g, slots, s, coupled=coupled, tiny=tiny)
    return np.where(moments[0] * g < 0, new, s.keep * p), moments


def moment_masked(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    new, (m, v) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return new, (np.where(m * g > 0, m, 0), v)


def before_the_decay(rule, p, g, slots, s, *, coupled, tiny):  # type: ignore[no-untyped-def]
    _, (m, v) = update(rule, p, g, slots, s, coupled=coupled, tiny=tiny)
    return s.keep * p - s.alpha * (np.where(m * g > 0, m, 0) / (np.sqrt(v) + s.eps)), (m, v)


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
NADAM, OPTAX_NADAM, FREE = "torch-nadam-decay", "optax-nadamw", "schedulefree-warmup"
RADAM, ADAMAX, ADOPT, STABLE = "torch-radamw", "torch-adamax-decay", "adopt-decouple", "stable-adamw"
LAMB, KERAS_LAMB, CAUTIOUS = "optax-lamb-decay", "keras-lamb-decay", "torch-cautious-adamw"

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
    "Nesterov ignored": (NADAM, rules(nesterov="off")),
    "Nesterov momentum constant": (NADAM, rules(nesterov="constant")),
    "Nesterov momentum scheduled": (OPTAX_NADAM, rules(nesterov="scheduled")),
    "momentum decays as in Keras": (NADAM, hypers(momentum_decay=lambda h: 1.0)),
    "product of the step before": (NADAM, stepwise(carried=lambda before, after: before if before[0] < 1 else after)),
    "momentum not looked ahead": (NADAM, stepwise(number=not_ahead)),
    "g without bias correction": (NADAM, stepwise(number=uncorrected_gain)),
    "m corrected for the same step": (OPTAX_NADAM, stepwise(number=corrected_for_t)),
    "coupled decay not in the g beside m": (NADAM, stepwise(formula=decay_in_moments_only)),
    "g beside m not negated": ("torch-nadam-maximize", stepwise(formula=gain_not_negated)),
    "no warmup": (FREE, hypers(warmup_steps=lambda h: 0.0)),
    "warmup one step late": (FREE, hypers(warmup_steps=lambda h: h.warmup_steps + 1)),
    "weights without t": (FREE, hypers(r=lambda h: 0.0)),
    "weights without lr": (FREE, hypers(weight_lr_power=lambda h: 0.0)),
    "weights of the step before": (FREE, stepwise(carried=lambda before, after: before)),
    "decay not warmed up": (FREE, stepwise(number=lambda s, h, t: s._replace(shrink=h.lr * h.weight_decay))),
    "decay of z": (FREE, stepwise(formula=decay_at_z)),
    "schedule-free decay ignored": (FREE, hypers(weight_decay=lambda h: 0.0)),
    "schedule-free v uncorrected": (
        FREE,
        stepwise(number=lambda s, h, t: s._replace(alpha=s.alpha / root2(h, t), eps=h.eps)),
    ),
    "y is x": (FREE, stepwise(number=lambda s, h, t: s._replace(pull=s.mean))),
    "y does not move with z": (FREE, stepwise(number=lambda s, h, t: s._replace(mean=0.0))),
    "y towards the new z": (FREE, stepwise(formula=towards_the_new_z)),
    "not rectified": (RADAM, rules(rectify=False)),
    "rectified one step late": (RADAM, stepwise(number=rectified_late)),
    "rectified without r": (RADAM, stepwise(number=without_r)),
    "the root never left out": (RADAM, stepwise(number=lambda s, h, t: s._replace(adaptive=1.0))),
    "rectified with the paper's eps": (RADAM, rules(eps_mode="paper")),
    "eps of Adamax where Keras has it": (ADAMAX, rules(eps_mode="keras")),
    "eps of Adamax where torch has it": ("keras-adamax-decay", rules(eps_mode="paper")),
    "Adamax corrected as Adam": (ADAMAX, stepwise(number=lambda s, h, t: s._replace(alpha=s.alpha * root2(h, t)))),
    "Adamax with the largest gradient ever": (ADAMAX, stepwise(number=lambda s, h, t: s._replace(r2=1.0))),
    "Adamax with the betas swapped": (ADAMAX, hypers(beta1=lambda h: h.beta2, beta2=lambda h: h.beta1)),
    "ADOPT not": (ADOPT, rules(adopt=False)),
    "ADOPT as a mean of gradients, divided later": (ADOPT, stepwise(formula=divided_later)),
    "ADOPT by the new v": (ADOPT, stepwise(formula=by_the_new_v)),
    "ADOPT without a bound": (ADOPT, stepwise(number=lambda s, h, t: s._replace(limit=1e30 if t > 1 else 0.0))),
    "ADOPT with the bound of the next step": (ADOPT, stepwise(number=lambda s, h, t: s._replace(limit=t**0.25))),
    "ADOPT with a bound that does not grow": (ADOPT, stepwise(number=lambda s, h, t: s._replace(limit=min(t - 1, 1)))),
    "ADOPT with eps beside the root": (ADOPT, stepwise(formula=eps_added)),
    "ADOPT corrected": (ADOPT, stepwise(number=lambda s, h, t: s._replace(alpha=h.lr * root2(h, t) / bc1(h, t)))),
    "ADOPT that starts v at a part of g^2": (ADOPT, stepwise(number=lambda s, h, t: s._replace(c2=1 - h.beta2))),
    "ADOPT that decays in its first step": (
        ADOPT,
        stepwise(number=lambda s, h, t: s._replace(keep=1 - h.lr * h.weight_decay)),
    ),
    "update not clipped": (STABLE, rules(clip_update=False)),
    "decay not clipped": (STABLE, stepwise(again=divided(root_mean_square, decay=False))),
    "update made longer": (STABLE, stepwise(again=divided(root_mean_square, least=0.0))),
    "divided by the mean square": (STABLE, stepwise(again=divided(lambda *given: root_mean_square(*given) ** 2))),
    "divided by the norm": (STABLE, stepwise(again=divided(lambda s, n, x: float(s.unit * np.sqrt(x))))),
    "RMS with an uncorrected v": (STABLE, stepwise(again=divided(lambda s, n, x: float(np.sqrt(x / n))))),
    "RMS with the old v": (STABLE, stepwise(values=of_the_old_v)),
    "RMS with eps added": (STABLE, stepwise(values=beside_eps)),
    "RMS of m": (STABLE, stepwise(values=of_the_moment)),
    "no trust ratio": (LAMB, rules(trust_ratio="off")),
    "trust ratio of Keras": (LAMB, rules(trust_ratio="without_decay")),
    "trust ratio of optax": (KERAS_LAMB, rules(trust_ratio="with_decay")),
    "trust ratio without the decay's part": (LAMB, stepwise(values=norm_without_decay)),
    "trust ratio of the step before": (LAMB, stepwise(values=norm_of_the_old_step)),
    "trust ratio not times the decay": (LAMB, stepwise(again=lamb(lambda p, r, s: s.unit * p / r, decay=False))),
    "trust ratio upside down": (LAMB, stepwise(again=lamb(lambda p, r, s: r / p / s.unit))),
    "trust ratio without lr": (LAMB, stepwise(again=lamb(lambda p, r, s: p / r))),
    "trust ratio of squares": (LAMB, stepwise(again=lamb(lambda p, r, s: s.unit * s.unit * p * p / r / r))),
    "trust ratio at most 1": (LAMB, stepwise(again=lamb(lambda p, r, s: min(1.0, s.unit * p / r)))),
    "norm before the decay": (
        KERAS_LAMB,
        stepwise(again=lambda rule, s, n, sums: rescaled(rule, s, n, [sums[0] / s.keep**2, sums[1]])),
    ),
    "not cautious": (CAUTIOUS, rules(cautious=False)),
    "cautious, not longer": (CAUTIOUS, stepwise(again=scaled(lambda count, n: 1.0))),
    "cautious, by the count": (CAUTIOUS, stepwise(again=scaled(lambda count, n: 1 / count))),
    "cautious, by the share": (CAUTIOUS, stepwise(again=scaled(lambda count, n: count / n))),
    "cautious as first published": (CAUTIOUS, stepwise(again=scaled(lambda count, n: n / (count + 1)))),
    "cautious with the decay": (CAUTIOUS, stepwise(again=scaled(lambda count, n: n / count, decay=True))),
    "cautious by the old m": (CAUTIOUS, stepwise(formula=with_the_old_moment)),
    "cautious the wrong way": (CAUTIOUS, stepwise(formula=against_the_parameter)),
    "cautious in what is kept": (CAUTIOUS, stepwise(formula=moment_masked)),
    "cautious with g before its decay": ("torch-cautious-adam-decay", stepwise(formula=before_the_decay)),
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
    for tried in FAMILY:
        p, gradients = tried.problem(np.float32)
        room = bounds.after(tried.rule, tried.hyper, p, gradients)
        assert float(np.max(room.p)) < 5e-5, "60 such steps"
