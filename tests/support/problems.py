"""The discriminating point: where every classic mistake in Adam is visible, and the peers' settings tried there.

At default hyper-parameters most mistakes (no bias correction, eps in the wrong place, decay coupled, AMSGrad ignored)
change a result by less than 1e-4 after ten steps. With lr 0.02, betas (0.8, 0.95), eps 1e-3, decay 0.1, AMSGrad on,
12 steps and gradients from 1e-6 to 10 none of them hides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from adamas.rule import Hyper, Rule
from support import twins
from support.twins import Result

STEPS = 12
HYPER = Hyper(lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1)

Twin = Callable[[np.ndarray, Sequence[np.ndarray], Hyper], Result]


class Case(NamedTuple):
    """A peer's optimizer at the discriminating point, as a rule of ours and as its naive twin."""

    name: str
    rule: Rule
    hyper: Hyper
    twin: Twin
    steps: int = STEPS
    surge: float = 1.0  # see `discriminating`

    def problem(self, dtype: type[np.floating]) -> tuple[np.ndarray, list[np.ndarray]]:
        """`discriminating`, of as many steps."""
        return discriminating(dtype, steps=self.steps, surge=self.surge)


def _cases() -> list[Case]:
    found = []
    for amsgrad in (False, True):
        for maximize in (False, True):
            marks = ("-amsgrad" if amsgrad else "") + ("-maximize" if maximize else "")
            raw, corrected = ("raw", "corrected") if amsgrad else ("off", "off")

            def torch_twin(coupled: bool, a: bool = amsgrad, x: bool = maximize) -> Twin:
                return lambda p, g, h: twins.torch(p, g, h, coupled=coupled, amsgrad=a, maximize=x)

            def keras_twin(p, g, h, a=amsgrad, x=maximize):  # type: ignore[no-untyped-def]
                return twins.keras(p, g, h, amsgrad=a, maximize=x)

            def optax_twin(p, g, h, a=amsgrad, x=maximize):  # type: ignore[no-untyped-def]
                return twins.optax(p, g, h, amsgrad=a, maximize=x)

            coupled = Rule(decay="coupled", amsgrad=raw, maximize=maximize)
            decoupled = Rule(amsgrad=raw, maximize=maximize)
            keras = Rule(eps_mode="keras", amsgrad=raw, maximize=maximize)
            optax = Rule(amsgrad=corrected, maximize=maximize)
            plain, rooted = Hyper(0.02, 0.8, 0.95, 1e-3), Hyper(0.02, 0.8, 0.95, 1e-3, 1e-4, 0.1)
            found += [
                Case("torch-adam" + marks, coupled, plain, torch_twin(True)),
                Case("torch-adam-decay" + marks, coupled, HYPER, torch_twin(True)),
                Case("torch-adamw" + marks, decoupled, HYPER, torch_twin(False)),
                Case("keras-adam" + marks, keras, plain, keras_twin),
                Case("keras-adamw" + marks, keras, HYPER, keras_twin),
                Case("optax-adam" + marks, optax, plain, optax_twin),
                Case("optax-adamw" + marks, optax, HYPER, optax_twin),
                Case("optax-adamw-eps-root" + marks, optax, rooted, optax_twin),
            ]
    return found


def _family() -> list[Case]:
    """What came after Adam. 60 steps, because their numbers change from step to step for longer; but 12 with a coupled
    decay, through which the bound of the parameter's error feeds itself."""
    plain = Hyper(0.02, 0.8, 0.95, 1e-3, momentum_decay=0.3)
    decayed, keras = replace(plain, weight_decay=0.1), replace(plain, weight_decay=0.1, momentum_decay=1.0)
    rooted = replace(decayed, eps_root=1e-4)
    small = replace(plain, lr=2e-3)  # the first steps of RAdam are as long as the gradient
    found = []
    for maximize in (False, True):
        mark = "-maximize" if maximize else ""

        def torch_twin(coupled: bool, x: bool = maximize) -> Twin:
            return lambda p, g, h: twins.torch_nadam(p, g, h, coupled=coupled, maximize=x)

        coupled = Rule(decay="coupled", nesterov="scheduled", maximize=maximize)
        found += [
            Case("torch-nadam" + mark, coupled, plain, torch_twin(True), 60),
            Case("torch-nadam-decay" + mark, coupled, decayed, torch_twin(True)),
            Case("torch-nadamw" + mark, replace(coupled, decay="decoupled"), decayed, torch_twin(False), 60),
        ]

        def radam_twin(coupled: bool, x: bool = maximize) -> Twin:
            return lambda p, g, h: twins.torch_radam(p, g, h, coupled=coupled, maximize=x)

        rectified = Rule("keras", "coupled", maximize=maximize, rectify=True)
        found += [
            Case("torch-radam" + mark, rectified, small, radam_twin(True), 60),
            Case("torch-radam-decay" + mark, rectified, replace(small, weight_decay=0.1), radam_twin(True)),
            Case(
                "torch-radamw" + mark, replace(rectified, decay="decoupled"), replace(small, weight_decay=0.1),
                radam_twin(False), 60,
            ),
        ]  # fmt: skip

        def adamax_twin(p, g, h, x=maximize):  # type: ignore[no-untyped-def]
            return twins.torch_adamax(p, g, h, maximize=x)

        infinity = Rule(decay="coupled", maximize=maximize, infinity=True)
        found += [
            Case("torch-adamax" + mark, infinity, plain, adamax_twin, 60),
            Case("torch-adamax-decay" + mark, infinity, decayed, adamax_twin),
        ]

        def adopt_twin(decouple: bool, x: bool = maximize) -> Twin:
            return lambda p, g, h: twins.adopt(p, g, h, decouple=decouple, maximize=x)

        normalised = Rule(decay="coupled", maximize=maximize, adopt=True)
        found += [
            Case("adopt" + mark, normalised, plain, adopt_twin(False), 60),
            Case("adopt-decay" + mark, normalised, decayed, adopt_twin(False)),
            Case("adopt-decouple" + mark, replace(normalised, decay="decoupled"), decayed, adopt_twin(True), 60),
        ]
    found += [
        Case("keras-adamax", Rule("keras", infinity=True), plain, twins.keras_adamax, 60),
        Case("keras-adamax-decay", Rule("keras", infinity=True), decayed, twins.keras_adamax, 60),
        Case("optax-adamax", Rule(infinity=True), plain, twins.optax_adamax, 60),
        Case("optax-adamaxw", Rule(infinity=True), decayed, twins.optax_adamax, 60),
    ]
    optax_rectified = Rule(rectify=True)
    found += [
        Case("optax-radam", optax_rectified, small, twins.optax_radam, 60),
        Case("optax-radam-eps-root", optax_rectified, replace(small, eps_root=1e-4), twins.optax_radam, 60),
    ]
    scheduled, constant, free = Rule(nesterov="scheduled"), Rule(nesterov="constant"), Rule(schedule_free=True)
    found += [
        Case("keras-nadam", scheduled, replace(keras, weight_decay=0.0), twins.keras_nadam, 60),
        Case("keras-nadam-decay", scheduled, keras, twins.keras_nadam, 60),
        Case("optax-nadam", constant, plain, twins.optax_nadam, 60),
        Case("optax-nadamw", constant, decayed, twins.optax_nadam, 60),
        Case("optax-nadamw-eps-root", constant, rooted, twins.optax_nadam, 60),
    ]

    def stable_twin(maximize: bool) -> Twin:
        return lambda p, g, h: twins.stable(p, g, h, maximize=maximize)

    stable = Rule(clip_update=True)
    found += [
        Case("stable-adamw", stable, decayed, stable_twin(False), 60, 8.0),
        Case("stable-adamw-maximize", replace(stable, maximize=True), decayed, stable_twin(True), 60, 8.0),
    ]

    def lamb_twin(maximize: bool) -> Twin:
        return lambda p, g, h: twins.optax_lamb(p, g, h, maximize=maximize)

    lamb, apart = Rule(trust_ratio="with_decay"), Rule(trust_ratio="without_decay")
    short = replace(plain, lr=0.01)
    shrinking = replace(short, weight_decay=0.1)
    found += [
        Case("optax-lamb", lamb, short, lamb_twin(False), 60),
        Case("optax-lamb-decay", lamb, shrinking, lamb_twin(False), 60),
        Case("optax-lamb-eps-root", lamb, replace(shrinking, eps_root=1e-4), lamb_twin(False), 60),
        Case("lamb-maximize", replace(lamb, maximize=True), shrinking, lamb_twin(True), 60),
        Case("keras-lamb", apart, short, twins.keras_lamb, 60),
        Case("keras-lamb-decay", apart, shrinking, twins.keras_lamb, 60),
    ]

    def cautious_twin(coupled: bool = False, maximize: bool = False, keras: bool = False) -> Twin:
        return lambda p, g, h: twins.cautious(p, g, h, coupled=coupled, maximize=maximize, keras=keras)

    careful, swinging = Rule(cautious=True), replace(decayed, beta1=0.95)  # m turns later than g
    found += [
        Case("torch-cautious-adamw", careful, swinging, cautious_twin(), 60),
        Case("cautious-maximize", replace(careful, maximize=True), swinging, cautious_twin(maximize=True), 60),
        Case("torch-cautious-adam-decay", replace(careful, decay="coupled"), swinging, cautious_twin(coupled=True)),
        Case("keras-cautious-adamw", Rule("keras", cautious=True), swinging, cautious_twin(keras=True), 60),
    ]

    def averaged(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper) -> Result:
        found = twins.schedule_free(p, gradients, hyper)
        return Result(found.y, (found.v, found.z))

    warmed = replace(decayed, warmup_steps=20, r=1, weight_lr_power=3)
    return [
        *found,
        Case("schedulefree", free, plain, averaged, 60),
        Case("schedulefree-decay", free, decayed, averaged, 60),
        Case("schedulefree-warmup", free, warmed, averaged, 60),
    ]


CASES = _cases()
FAMILY = _family()


def case(name: str) -> Case:
    """The case of that name."""
    return next(c for c in (*CASES, *FAMILY) if c.name == name)


def discriminating(
    dtype: type[np.floating], shape: tuple[int, ...] = (40, 13), steps: int = STEPS, surge: float = 1.0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A parameter, and its gradients of all steps: elements of a size of their own, half of them shrinking tenfold.

    In every fourth step all of them are `surge` times as large.
    """
    rng = np.random.default_rng(20150507)
    p = rng.standard_normal(shape).astype(dtype)
    size = 10.0 ** rng.uniform(-6, 1, shape)
    shrink = rng.choice([1.0, 0.1 ** (1 / steps)], shape)
    gradients = [
        size * shrink**t * rng.choice([-1.0, 1.0], shape, p=[0.3, 0.7]) * rng.uniform(0.3, 1, shape)
        for t in range(steps)
    ]
    gradients = [(g * surge if t % 4 == 3 else g).astype(dtype) for t, g in enumerate(gradients)]
    return p, gradients
