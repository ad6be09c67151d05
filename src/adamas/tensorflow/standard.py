"""Optimizers without switches of their own: the arguments that `keras.optimizers.Nadam` and `Adamax` have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Unpack

from adamas.rule import PRESETS, Rule
from adamas.tensorflow.optimizer import Optimizer, Ours


class Others(Ours, total=False):
    """The arguments behind `weight_decay` that all of Keras' optimizers have, and ours; `Adam` describes them."""

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


class Standard(Optimizer):
    """An optimizer whose rule is a preset's, with decoupled weight decay as everywhere in Keras. Subclasses say which.

    Args:
        learning_rate, beta_1, ...: in the order of `keras.optimizers.Nadam`; `Adam` describes them.
    """

    _preset: ClassVar[str]

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **ours: Unpack[Ours],
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            constants={"momentum_decay": PRESETS[self._preset].hyper.momentum_decay},
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            ours=ours,
        )

    def _rule(self) -> Rule:
        rule = replace(PRESETS[self._preset].rule, decay="decoupled")
        return rule if self._like == "keras" else replace(rule, eps_mode="paper")
