"""The arguments of the optimizers for Keras, the same on every backend that Keras runs on; no framework is imported.

Each class here says what an optimizer is called with and which rule it steps by. It stands before the `Optimizer` of
a backend, which takes the steps: `class Adam(keras_arguments.Adam, Optimizer)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypedDict, Unpack

import numpy as np

from adamas.errors import ArgumentError, StateError
from adamas.formats import Weights
from adamas.groups import Group, Match
from adamas.parts import Nonfinite
from adamas.rule import PRESETS, Rule, evaluation_weights, training_weights
from adamas.state import State
from adamas.storage import Moments

Kernel = Literal["auto", "native", "resource", "xla"]
Sparse = Literal["dense", "lazy"]
Like = Literal["keras", "torch"]
_Next: Any = object  # in the order of classes, a backend's `Optimizer`


class Ours(TypedDict, total=False):
    """The arguments that Keras' optimizers do not have; `adamas.tensorflow.Adam` describes them."""

    kernel: Kernel
    sparse: Sparse
    moments: Moments
    weights: Weights
    seed: int
    like: Like
    groups: Sequence[Group]
    no_decay: bool | Match
    nonfinite: Nonfinite | None
    stats: bool
    verify: int


class Others(Ours, total=False):
    """The arguments behind `weight_decay` that all of Keras' optimizers have, and ours."""

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


class Adam(_Next):
    """`keras.optimizers.Adam`."""

    _likes: ClassVar[tuple[Like, ...]] = ("keras", "torch")
    _like: Any

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
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
        self.amsgrad = bool(amsgrad)

    def _rule(self) -> Rule:
        return Rule(eps_mode="keras" if self._like == "keras" else "paper", amsgrad="raw" if self.amsgrad else "off")

    def get_config(self) -> dict[str, Any]:
        """The arguments; `from_config` makes an equal optimizer without its state."""
        return {**super().get_config(), "amsgrad": self.amsgrad}


class AdamW(_Next):
    """`keras.optimizers.AdamW`; stands before an `Adam`."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
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
        if weight_decay is None:
            raise ArgumentError("weight_decay=None: give a float, or use Adam, which has no decay by default")
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **ours,
        )


class Standard(_Next):
    """An optimizer whose rule is a preset's, with decoupled weight decay as everywhere in Keras. Subclasses say which.

    Args:
        learning_rate, beta_1, ...: in the order of `keras.optimizers.Nadam`.
    """

    _preset: ClassVar[str]
    _like: Any

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


class Nadam(Standard):
    """`keras.optimizers.Nadam`."""

    _preset = "keras.Nadam"


class Adamax(Standard):
    """`keras.optimizers.Adamax`."""

    _preset = "keras.Adamax"
    _likes: ClassVar[tuple[Like, ...]] = ("keras", "torch")
    _slot_names: ClassVar[Mapping[str, str]] = {"m": "momentum", "v": "norm"}


class Lamb(Standard):
    """`keras.optimizers.Lamb`."""

    _preset = "keras.Lamb"


class RAdam(Standard):
    """RAdam, with torch's defaults."""

    _preset = "torch.RAdam"

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        **others: Unpack[Others],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay, **others)


class ADOPT(Standard):
    """ADOPT, with its authors' defaults."""

    _preset = "adopt.ADOPT"

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.9999,
        epsilon: float = 1e-6,
        weight_decay: float | None = None,
        **others: Unpack[Others],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay, **others)


class ScheduleFreeAdamW(_Next):
    """Schedule-free AdamW, and the way between the weights of training and those of evaluation."""

    def __init__(
        self,
        learning_rate: Any = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        warmup_steps: int = 0,
        r: int = 0,
        weight_lr_power: int = 2,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **ours: Unpack[Ours],
    ) -> None:
        constants = {"warmup_steps": warmup_steps, "r": r, "weight_lr_power": weight_lr_power}
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            constants=constants,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=False,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            ours=ours,
        )
        if beta_1 == 0.0:
            raise ArgumentError(
                "beta_1=0: the weights would hold nothing of the mean that they are evaluated with; give a number "
                "above 0 (0.9)"
            )
        self._own = tuple(constants.items())
        self._evaluating = False

    def _rule(self) -> Rule:
        return Rule(schedule_free=True)

    def get_config(self) -> dict[str, Any]:
        """The arguments; `from_config` makes an equal optimizer without its state."""
        config = super().get_config()
        for name in ("use_ema", "ema_momentum", "ema_overwrite_frequency"):
            del config[name]
        return {**config, **dict(self._own)}

    @property
    def evaluating(self) -> bool:
        """Whether the variables hold x, the weights for evaluation."""
        return self._evaluating

    def eval(self) -> None:
        """Switch the variables to x, for evaluation, in place; nothing where they hold it already.

        In float64 and rounded once, to the variable's dtype, as the way back is.

        Raises:
            StateError: the optimizer is not built yet.
            UnsupportedError: a variable of 16 bits, which would lose too much. Nothing has been changed.
        """
        self._begin()
        self._switch(True)

    def train(self) -> None:
        """Switch the variables back to y, for the next step, in place; nothing where they hold it already."""
        self._begin()
        self._switch(False)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """As in `Adam`.

        Raises:
            StateError: the variables hold the weights for evaluation.
        """
        self._check_training("take a step")
        super().apply(grads, trainable_variables)

    def save_own_variables(self, store: Any) -> None:
        """As in `Adam`; refused while the variables hold the weights for evaluation: state and weights must match.

        Raises:
            StateError: they do. Call `train()` first, or save the weights without an optimizer.
        """
        self._check_training("save its state, which belongs to the weights in training,")
        super().save_own_variables(store)

    def portable_state(self) -> State:
        """As in `Adam`; refused while the variables hold the weights for evaluation.

        Raises:
            StateError: they do, or the optimizer is not built yet.
        """
        self._check_training("give its state, which belongs to the weights in training,")
        self._begin()
        state: State = super().portable_state()
        return state

    def load_own_variables(self, store: Any) -> None:
        """As in `Adam`; refused while the variables hold the weights for evaluation.

        Raises:
            StateError: they do, or it does not fit. Nothing has been changed.
        """
        self._check_training("take over a state, which belongs to the weights in training,")
        super().load_own_variables(store)

    def load_portable_state(self, state: State) -> None:
        """As in `Adam`; refused while the variables hold the weights for evaluation.

        Raises:
            StateError: they do, or it does not fit. Nothing has been changed.
        """
        self._check_training("take over a state, which belongs to the weights in training,")
        if state.rule.schedule_free and any(hyper.beta1 == 0.0 for hyper in state.hypers):
            raise StateError("the state has beta1 = 0, with which the weights hold nothing of their mean; 0.9 is usual")
        super().load_portable_state(state)

    def _check_training(self, what: str) -> None:
        if self._evaluating:
            raise StateError(f"the variables hold the weights for evaluation; to {what} call train() first")

    def _begin(self) -> None:
        """Before the first step, z is the variable as it is now: weights may have been loaded since `build`."""
        raise NotImplementedError

    def _switch(self, to_x: bool) -> None:
        raise NotImplementedError

    def _convert(self, weight: np.ndarray, z: np.ndarray, to_x: bool) -> np.ndarray:
        """A variable's numbers as x or as y."""
        if self._evaluating == to_x:
            return weight
        return (evaluation_weights if to_x else training_weights)(weight, z, self.beta_1)
