"""The numbers of one step, on the host, in float64: what `adamas.rule.update` needs to know of (rule, hyper, t).

Only + - * / sqrt and comparisons, in the order written here, so every machine and libadamas compute the same bits; what
`pow` and `exp` of a C library give differs from one to the next in the last place. With `xp`, the same lines work on
scalars of an array module, inside a graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from adamas.rule import Rule, Scalars


def power(x: float, n: int) -> float:
    """x^n for an integer n >= 0 by repeated squaring: the same bits on every machine, which `pow` does not promise."""
    result = 1.0
    while n:
        if n & 1:
            result *= x
        x *= x
        n >>= 1
    return result


def fade(x: Any, xp: Any) -> Any:
    """0.96^x for x >= 0, to 1e-15: the whole part by repeated squaring, the rest by its series; no `exp`, no `pow`."""
    x = xp.where(x < 65536.0, x, 65536.0)  # 0.96^18300 is 0 already
    whole = xp.floor(x)
    y = (x - whole) * -0.040821994520255166  # log 0.96; y^9 / 9! < 1e-18
    series = 1.0 / 40320.0
    for factorial in (5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0):
        series = series * y + 1.0 / factorial
    (power_of_whole,) = xp.powers((0.96,), (whole,))
    return power_of_whole * series


HOST = SimpleNamespace(
    sqrt=math.sqrt,
    floor=math.floor,
    real=float,
    where=lambda condition, a, b: a if condition else b,
    powers=lambda bases, exponents: [power(x, int(n)) for x, n in zip(bases, exponents, strict=True)],
)


def _momentum(hyper: Any, t: Any, xp: Any) -> Any:
    """mu_t of nesterov="scheduled"."""
    return hyper.beta1 * (1.0 - 0.5 * fade(xp.real(t) * hyper.momentum_decay, xp))


def _warmed(hyper: Any, lr: Any, t: Any, xp: Any) -> Any:
    """lr_t of schedule_free."""
    t = xp.real(t)
    return lr * (t / xp.where(t < hyper.warmup_steps, hyper.warmup_steps, t))


def _weight(hyper: Any, lr_max: Any, t: Any, xp: Any) -> Any:
    """w_t of schedule_free."""
    of_t, of_lr = xp.powers((xp.real(t), lr_max), (hyper.r, hyper.weight_lr_power))
    return of_t * of_lr


def carry_on(
    rule: Rule, hyper: Any, t: Any, carry: Sequence[Any], *, lr: Any = None, xp: Any = HOST
) -> tuple[Any, ...]:
    """The numbers of `rule.carries` after step t, from those before it; float64, and the same bits in libadamas.

    Args:
        rule, hyper, t, lr, xp: as for `scalars`.
        carry: one number per entry of `rule.carries`; their initial values before the first step.
    """
    if rule.nesterov == "scheduled":
        (product,) = carry
        return (product * _momentum(hyper, t, xp),)
    if rule.schedule_free:
        weight_sum, lr_max = carry
        rate = _warmed(hyper, hyper.lr if lr is None else lr, t, xp)
        lr_max = xp.where(rate > lr_max, rate, lr_max)
        return (weight_sum + _weight(hyper, lr_max, t, xp), lr_max)
    return ()


def scalars(
    rule: Rule,
    hyper: Any,
    t: Any,
    grad_scale: Any = 1.0,
    clip: Any = math.inf,
    carry: Sequence[Any] = (),
    *,
    lr: Any = None,
    xp: Any = HOST,
) -> Scalars:
    """The float64 scalars of step t = 1, 2, ...; each is rounded once, to the parameter's dtype, before use.

    The order of operations is part of the definition: libadamas computes the same bits.

    Args:
        rule: the switches.
        hyper: a `Hyper`; with `xp`, anything with its fields.
        t: the step, an integer.
        grad_scale, clip: the first two scalars.
        carry: what `carry_on` gave for this step, where the rule carries numbers.
        lr: the learning rate, instead of `hyper.lr`.
        xp: the functions `sqrt`, `where`, `floor`, `real` (an integer as float64) and `powers` for numbers that are
            float64 scalars of an array module.
    """
    lr = hyper.lr if lr is None else lr
    power1, power2 = xp.powers((hyper.beta1, hyper.beta2), (t, t))
    bc1 = 1.0 - power1
    bc2 = 1.0 - power2
    root2 = 1.0 if rule.amsgrad == "corrected" else xp.sqrt(bc2)  # what sqrt(v) lacks to be sqrt(v^)
    paper = rule.eps_mode == "paper"
    alpha, gain, shrink, mean, pull, adaptive, limit, unit = lr * root2 / bc1, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0
    c2, keep = 1.0 - hyper.beta2, 1.0 - lr * hyper.weight_decay if rule.decay == "decoupled" else 1.0
    if rule.nesterov != "off":
        mu = following = hyper.beta1
        product = power1
        if rule.nesterov == "scheduled":
            mu, following = _momentum(hyper, t, xp), _momentum(hyper, t + 1, xp)
            (product,) = carry
        alpha = lr * root2 * (following / (1.0 - product * following))
        gain = lr * root2 * ((1.0 - mu) / (1.0 - product))
    if rule.schedule_free:
        weight_sum, lr_max = carry
        rate = _warmed(hyper, lr, t, xp)
        alpha = rate * root2
        shrink = rate * hyper.weight_decay
        mean = _weight(hyper, lr_max, t, xp) / xp.where(weight_sum > 0.0, weight_sum, 1.0)
        pull = 1.0 - hyper.beta1 * (1.0 - mean)
    if rule.rectify:
        longest = 2.0 / (1.0 - hyper.beta2) - 1.0
        rho = longest - 2.0 * xp.real(t) * power2 / bc2
        adaptive = xp.where(rho > 5.0, 1.0, 0.0)
        rho, longest = xp.where(rho > 5.0, rho, 6.0), xp.where(rho > 5.0, longest, 6.0)
        ratio = (rho - 4.0) * (rho - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * rho)
        alpha = xp.where(adaptive > 0.0, alpha * xp.sqrt(ratio), lr / bc1)
    if rule.clip_update:
        unit, shrink = root2, lr * hyper.weight_decay
    if rule.trust_ratio != "off":
        unit, shrink = lr, (lr * hyper.weight_decay if rule.trust_ratio == "with_decay" else 0.0)
    r2, eps_root, eps = 1.0, hyper.eps_root, hyper.eps
    if rule.infinity:
        alpha, r2 = lr / bc1, hyper.beta2
        eps_root, eps = (eps, 0.0) if paper else (0.0, eps)
    elif rule.amsgrad == "corrected":
        r2 = 1.0 / bc2
    elif rule.adopt:
        alpha, eps_root, limit = lr, 0.0, xp.sqrt(xp.sqrt(xp.real(t) - 1.0))
        c2, keep = xp.where(limit > 0.0, c2, 1.0), xp.where(limit > 0.0, keep, 1.0)
    elif paper:
        eps_root, eps = eps_root * bc2, eps * root2
    return Scalars(
        grad_scale=-grad_scale if rule.maximize else grad_scale,
        clip=clip,
        coupled=hyper.weight_decay if rule.decay == "coupled" else 0.0,
        c1=1.0 - hyper.beta1,
        c2=c2,
        r2=r2,
        eps_root=eps_root,
        alpha=alpha,
        eps=eps,
        keep=keep,
        gain=gain,
        shrink=shrink,
        mean=mean,
        pull=pull,
        adaptive=adaptive,
        limit=limit,
        unit=unit,
    )


def rescaled(rule: Rule, s: Scalars, n: Any, sums: Sequence[Any], xp: Any = HOST) -> Scalars:
    """The scalars of a step whose rule `reduces`, from those before and what `adamas.rule.reduction` adds up to.

    As `scalars` in float64, and the same bits in libadamas.

    Args:
        rule, xp: as for `scalars`.
        s: what `scalars` gave.
        n: elements of the tensor, as a number in float64.
        sums: of the squares of each array of `adamas.rule.reduction`.
    """
    if rule.clip_update:
        (squares,) = sums
        rms = s.unit * xp.sqrt(squares / xp.where(n > 0.0, n, 1.0))
        factor = 1.0 / xp.where(rms <= 1.0, 1.0, rms)
    elif rule.cautious:
        share = sums[0] / xp.where(n > 0.0, n, 1.0)
        factor = 1.0 / xp.where(share <= 1e-3, 1e-3, share)
    else:
        kept = s.keep if rule.trust_ratio == "without_decay" else 1.0  # there the norm is that of the decayed parameter
        of_p, of_step = xp.sqrt(kept * kept * sums[0]), xp.sqrt(sums[1])
        ratio = s.unit * of_p / xp.where(of_step <= 0.0, 1.0, of_step)
        factor = xp.where(of_p <= 0.0, 1.0, xp.where(of_step <= 0.0, 1.0, ratio))
    apart = rule.cautious or rule.trust_ratio == "without_decay"  # decay is no part of what is made longer or shorter
    keep = s.keep if apart else 1.0 - s.shrink * factor
    return s._replace(alpha=s.alpha * factor, keep=keep)


def eps_bound(rule: Rule, s: Scalars) -> Any:
    """Where the second moment is below it, eps is more than half of what divides the step."""
    return s.eps + 2.0 * s.eps_root if rule.infinity else s.eps * s.eps - s.eps_root
