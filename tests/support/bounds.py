"""How far rounding can take a kernel from the exact result: a running error analysis, nothing tuned.

In IEEE arithmetic with unit roundoff u (2^-24 for float32, 2^-53 for float64) each operation obeys

    fl(x op y) = (x op y)(1 + d) + e,   |d| <= u,   |e| <= half the smallest subnormal for * and /, else 0

so a value carried as (value, error), where `error` bounds |computed - exact|, gives for each operation (Higham,
"Accuracy and Stability of Numerical Algorithms", 2002, section 3.3, without dropping the terms of second order)

    x + y    error_x + error_y                              x y      |x| error_y + |y| error_x + error_x error_y
    x / y    (error_x + |x/y| error_y) / (|y| - error_y)    sqrt x   sqrt x - sqrt(x - error_x)

plus u (|result| + that error) plus e. A selection whose condition rounding can flip counts the difference of both
sides. Of a tensor's sum of squares, in float64, the errors of its elements add up, and every addition rounds.

In m + c (g - m) the error of m counts once, times |1 - c|: term by term it would grow by 1 + c a step, where in
truth it shrinks. The scalars, computed in float64 and rounded once, start with the errors counted in `_scalar_units`.

`after` sends such pairs through `adamas.rule.update`, for its order of operations; the exact results that kernels are
compared with come from twins.py, which does not know it. A wrong formula therefore cannot widen its own tolerance by
more than rounding does.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from adamas.rule import Hyper, Rule, Scalars, reduction, update
from adamas.scalars import carry_on, power, rescaled, scalars
from support.twins import WIDE, Result


class Rounded:
    """A value, and a bound on how far the computed one is from the exact one, in arithmetic of one dtype."""

    def __init__(self, value: Any, error: Any, dtype: np.dtype) -> None:
        self.value, self.error, self.dtype = np.asarray(value, np.float64), np.asarray(error, np.float64), dtype
        # Of a difference, or a multiple of one: what was subtracted, times what, and the rest of the error.
        self.subtracted: tuple[Rounded, Rounded | None, Any] | None = None

    def _result(self, value: Any, error: Any, underflows: bool = False) -> Rounded:
        info = np.finfo(self.dtype)
        unit = float(info.eps) / 2
        total = error + unit * (np.abs(value) + error)
        return Rounded(value, total + (float(info.smallest_subnormal) / 2 if underflows else 0.0), self.dtype)

    def _lifted(self, other: Rounded | float) -> Rounded:
        return other if isinstance(other, Rounded) else Rounded(other, 0.0, self.dtype)

    def __add__(self, other: Rounded | float) -> Rounded:
        other = self._lifted(other)
        error = self.error + other.error
        if other.subtracted is not None and other.subtracted[0] is self:
            _, times, rest = other.subtracted
            assert times is not None, "m + (g - m) is g"
            error = (abs(1.0 - times.value) + times.error) * self.error + rest
        return self._result(self.value + other.value, error)

    def __sub__(self, other: Rounded) -> Rounded:
        result = self._result(self.value - other.value, self.error + other.error)
        result.subtracted = (other, None, result.error - other.error)
        return result

    def __rmul__(self, other: float) -> Rounded:
        return self._lifted(other) * self

    def __mul__(self, other: Rounded) -> Rounded:
        error = abs(self.value) * other.error + abs(other.value) * self.error + self.error * other.error
        result = self._result(self.value * other.value, error, underflows=True)
        if other.subtracted is not None and other.subtracted[1] is None:
            whose, _, rest = other.subtracted
            rest = (abs(self.value) + self.error) * rest + self.error * abs(other.value)
            result.subtracted = (whose, self, rest + (result.error - error))
        return result

    def __rsub__(self, other: float) -> Rounded:
        return self._lifted(other) - self

    def __rtruediv__(self, other: float) -> Rounded:
        return self._lifted(other) / self

    def __truediv__(self, other: Rounded | float) -> Rounded:
        other = self._lifted(other)
        quotient, room = self.value / other.value, abs(other.value) - other.error
        error = np.where(room > 0, (self.error + abs(quotient) * other.error) / np.where(room > 0, room, 1.0), np.inf)
        return self._result(quotient, error, underflows=True)

    def __abs__(self) -> Rounded:
        return Rounded(abs(self.value), self.error, self.dtype)

    def sqrt(self) -> Rounded:
        root = np.sqrt(self.value)
        return self._result(root, root - np.sqrt(np.maximum(self.value - self.error, 0.0)))

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.error, self.dtype)

    def __lt__(self, other: Rounded | float) -> Either:
        if isinstance(other, Rounded):
            return other > self
        return Either(self.value < other, abs(self.value - other) > self.error)

    def _certain(self, other: Rounded) -> np.ndarray:
        """Where rounding cannot change which of the two is larger."""
        error = self.error + other.error
        return np.asarray((abs(self.value - other.value) > error) | (error == 0.0))

    def __gt__(self, other: Rounded | float) -> Either:
        other = self._lifted(other)
        return Either(self.value > other.value, self._certain(other))

    def __le__(self, other: Rounded | float) -> Either:
        other = self._lifted(other)
        return Either(self.value <= other.value, self._certain(other))

    def __ne__(self, other: object) -> Either:  # type: ignore[override]
        assert other is self, "the formula asks `x != x` only: is it NaN?"
        return Either(np.isnan(self.value), np.ones(self.value.shape, bool))

    __hash__ = None  # type: ignore[assignment]


class Either:
    """A condition, and whether rounding cannot change it."""

    def __init__(self, true: np.ndarray, certain: np.ndarray) -> None:
        self.true, self.certain = true, certain

    def __or__(self, other: Either) -> Either:
        return Either(self.true | other.true, self.certain & other.certain)


def _where(condition: Any, yes: Any, no: Any) -> Rounded:
    if isinstance(condition, bool):
        return yes if condition else no  # type: ignore[no-any-return]
    yes, no = (
        (yes if isinstance(yes, Rounded) else no._lifted(yes)),
        (no if isinstance(no, Rounded) else yes._lifted(no)),
    )
    value = np.where(condition.true, yes.value, no.value)
    error = np.where(condition.true, yes.error, no.error)
    either = np.maximum(yes.error, no.error) + abs(yes.value - no.value)
    return Rounded(value, np.where(condition.certain, error, either), yes.dtype)


_XP = SimpleNamespace(
    abs=abs,
    sqrt=Rounded.sqrt,
    where=_where,
    zeros_like=lambda x: Rounded(np.zeros_like(x.value), np.zeros_like(x.value), x.dtype),
)


_FLOAT64 = np.dtype(np.float64)


def _sum_of_squares(x: Rounded) -> Rounded:
    wide = np.sum((abs(x.value) + x.error) ** 2)
    return Rounded(
        np.sum(x.value**2), np.sum((2 * abs(x.value) + x.error) * x.error) + x.value.size * 2.0**-53 * wide, _FLOAT64
    )


def _complement(x: float, units: float) -> float:
    """Relative error of 1 - x in units of 2^-53, where x has `units`."""
    return units * x / (1.0 - x) + 1.0


def _product(hyper: Hyper, t: int) -> tuple[float, float]:
    """mu_t of a scheduled momentum, and its relative error in units of 2^-53, counted from `adamas.scalars.fade`.

    The exponent's rounding counts 0.041 of itself (log 0.96), repeated squaring twice the whole part of it, the series
    and the product 4; 1 - fade / 2 is at least 1/2, and rounds once, as the product with beta1 does.
    """
    exponent = t * hyper.momentum_decay
    fade = 0.96**exponent
    share = 1.0 - 0.5 * fade
    return hyper.beta1 * share, 0.5 * fade * (0.041 * exponent + 2 * exponent + 4.0) / share + 2.0


def _rectification(beta2: float, t: int, power2: float, units2: float) -> float:
    """Relative error of r_t in units of 2^-53; the differences rho - 4 and rho - 2 magnify that of rho."""
    limit = 2.0 / (1.0 - beta2) - 1.0
    subtracted = 2.0 * t * power2 / (1.0 - power2)
    rho = limit - subtracted
    if rho <= 5.0:
        return 0.0
    of_limit = (2.0 * (limit + 1.0) + limit) / limit  # 1 - beta2 and the quotient; then minus 1
    of_rho = of_limit * limit + (2 * t + units2 + 2.0) * subtracted + rho
    of_product = sum(of_rho / (rho - less) for less in (0.0, 2.0, 4.0)) + sum(
        of_limit * limit / (limit - less) for less in (0.0, 2.0, 4.0)
    )
    return (of_product + 10.0) / 2 + 2.0


def _scalar_units(rule: Rule, hyper: Hyper, t: int, carry: Sequence[float]) -> Scalars:
    """Relative errors of `adamas.scalars.scalars` in units of 2^-53, counted from its operations.

    beta^t by repeated squaring has at most 2 t units (a squaring doubles the units and adds one); bc = 1 - beta^t turns
    them into 2 t beta^t / bc, plus 1 of its own; a square root halves, a product or quotient adds up and adds 1.
    """
    power1, power2 = power(hyper.beta1, t), power(hyper.beta2, t)
    units1, units2 = _complement(power1, 2 * t), _complement(power2, 2 * t)
    root = units2 / 2 + 1.0
    alpha, gain, shrink, mean, pull = root + units1 + 2.0, 0.0, 0.0, 0.0, 0.0
    if rule.rectify:
        alpha += _rectification(hyper.beta2, t, power2, units2)
    if rule.nesterov != "off":
        (mu, of_mu), (following, of_following), product, of_product = (
            (hyper.beta1, 0.0),
            (hyper.beta1, 0.0),
            power1,
            2 * t,
        )
        if rule.nesterov == "scheduled":
            (mu, of_mu), (following, of_following) = _product(hyper, t), _product(hyper, t + 1)
            product, of_product = carry[0], sum(1.0 + _product(hyper, i)[1] for i in range(1, t + 1))
        both = of_product + of_following + 1.0
        alpha = root + 1.0 + of_following + _complement(product * following, both) + 2.0
        gain = root + 1.0 + _complement(mu, of_mu) + _complement(product, of_product) + 2.0
    if rule.schedule_free:
        rate = 2.0  # t / warmup_steps and its product with lr
        weight = 2 * hyper.r + hyper.weight_lr_power * (rate + 2.0) + 1.0
        of_mean = weight + (weight + t) + 1.0  # a sum of t positive numbers
        share = power(t, int(hyper.r)) * power(carry[1], int(hyper.weight_lr_power)) / carry[0]
        alpha, shrink, mean = rate + root + 1.0, rate + 1.0, of_mean
        kept = hyper.beta1 * (1.0 - share)
        pull = (hyper.beta1 * share * of_mean + 2.0 * kept) / (1.0 - kept) + 1.0
    if rule.infinity:
        alpha = units1 + 1.0
    if rule.adopt:
        alpha = 0.0
    if rule.reduces:
        shrink = 1.0
    shrunk = hyper.lr * hyper.weight_decay
    return Scalars(
        grad_scale=0.0,
        clip=0.0,
        coupled=0.0,
        c1=1.0,
        c2=1.0,
        r2=units2 + 1.0,
        eps_root=units2 + 1.0,
        alpha=alpha,
        eps=root + 1.0,
        keep=1.0 + shrunk / abs(1.0 - shrunk),
        gain=gain,
        shrink=shrink,
        mean=mean,
        pull=pull,
        adaptive=0.0,
        unit=root if rule.clip_update else 0.0,
        limit=1.5,  # two square roots of a whole number
    )


def after(rule: Rule, hyper: Hyper, p: np.ndarray, gradients: Sequence[np.ndarray]) -> Result:
    """Bounds on |computed - exact| of p and the slots after all steps, in p's dtype."""
    dtype = p.dtype
    single = float(np.finfo(np.float32).eps) / 2 if dtype == np.float32 else 0.0
    exact = np.zeros(p.shape)
    parameter = Rounded(p, exact, dtype)
    slots: tuple[Rounded, ...] = tuple(
        Rounded(p if slot.initial == "parameter" else exact, exact, dtype) for slot in rule.slots
    )
    carry: tuple[float, ...] = tuple(number.initial for number in rule.carries)
    for t, g in enumerate(gradients, 1):
        carry = carry_on(rule, hyper, t, carry)
        numbers = scalars(rule, hyper, t, carry=carry)
        units = _scalar_units(rule, hyper, t, carry)
        exactly = [Rounded(x, abs(x) * n * 2.0**-53 * 1.01, _FLOAT64) for x, n in zip(numbers, units, strict=True)]

        def once(wide: Sequence[Rounded]) -> Scalars:
            return Scalars(
                *(Rounded(x.value, x.error + (abs(x.value) * single * 1.01 if single else 0.0), dtype) for x in wide)
            )

        given = (rule, parameter, Rounded(g, exact, dtype), slots)
        how: dict[str, Any] = {
            "coupled": rule.decay == "coupled" and hyper.weight_decay != 0.0,
            "tiny": float(np.finfo(dtype).tiny),
            "xp": _XP,
        }
        if rule.reduces:
            sums = [_sum_of_squares(x) for x in reduction(*given, once(exactly), **how)]
            exactly = list(rescaled(rule, Scalars(*exactly), float(p.size), sums, xp=_XP))
        parameter, slots = update(*given, once(exactly), **how)
    # The twin rounds too, in WIDE, in about as many operations; the bound itself was computed in float64.
    twin = 4 * float(np.finfo(WIDE).eps) / float(np.finfo(dtype).eps)
    room = 1.0 + twin + 1e-6
    return Result(parameter.error * room, tuple(slot.error * room for slot in slots))


def excess(computed: Result, exact: Result, bound: Result) -> float:
    """The largest |computed - exact| in units of its bound, over p and the slots: at most 1 for the right formula."""
    worst = 0.0
    arrays = (result.arrays for result in (computed, exact, bound))
    for mine, right, room in zip(*arrays, strict=True):
        assert mine.shape == right.shape
        difference = np.abs(mine.astype(WIDE) - right.astype(WIDE)).astype(np.float64)
        over = np.where(difference == 0.0, 0.0, difference / np.maximum(room, np.finfo(np.float64).tiny))
        worst = max(worst, float(np.max(over))) if not np.isnan(over).any() else float("inf")
    return worst
