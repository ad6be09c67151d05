"""The numbers of a step that may change between steps, where functions that are traced already see the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from adamas.rule import Clip, Clipping, Hyper

_UNCLIPPED = 2.0**1000  # the bound of a clip that is off: functions traced with it divide by the bound, and get 1


class Row(NamedTuple):
    """The numbers in the order of the op, float64: `Hyper` without the learning rate, and what is done to gradients.

    There is a bound for each kind of clip: a function that was traced with one kind reads that one's own, and clips no
    more where another kind is on now.
    """

    beta1: Any
    beta2: Any
    eps: Any
    eps_root: Any
    weight_decay: Any
    momentum_decay: Any
    warmup_steps: Any
    r: Any
    weight_lr_power: Any
    grad_scale: Any
    value: Any
    norm: Any
    global_norm: Any

    def bound(self, kind: Clipping | None) -> Any:
        """Of one kind of clip; where there is none, it is not read."""
        return self.value if kind is None else getattr(self, kind)

    def hyper(self, decays: bool) -> Row:
        """The numbers of a variable to which weight decay applies, or does not."""
        return self if decays else self._replace(weight_decay=0.0)


@dataclass(frozen=True)
class Settings:
    """What an optimizer's attributes say about the next step.

    A traced function holds constant which kind of clip there is, whether weight decay is on and `unscales`; every
    number it reads from `Shared` when it runs.

    hyper        all numbers but the learning rate; its `lr` is not read
    clip         None: gradients are not clipped
    loss_scale   what the loss was multiplied by, or None
    accumulates  gradients are accumulated over several calls before they reach the step, unscaled
    """

    hyper: Hyper
    clip: Clip | None = None
    loss_scale: float | None = None
    accumulates: bool = False

    @property
    def unscales(self) -> bool:
        """Whether the step itself divides gradients by the loss scale."""
        return self.loss_scale is not None and not self.accumulates

    @property
    def static(self) -> tuple[Any, ...]:
        """All that a traced function holds constant."""
        kind = None if self.clip is None else self.clip.kind
        return (kind, self.hyper.weight_decay != 0.0, self.loss_scale is not None, self.accumulates)

    def row(self) -> Row:
        """All numbers that may change."""
        _, *hyper = vars(self.hyper).values()
        scale = 1.0 / self.loss_scale if self.loss_scale is not None else 1.0
        bounds = dict.fromkeys(("value", "norm", "global_norm"), _UNCLIPPED)
        if self.clip is not None:
            bounds[self.clip.kind] = self.clip.bound
        return Row._make([*hyper, scale, *bounds.values()])

    def unpack(self, row: Any) -> Row:
        """The numbers of a step, from `Shared.read`: grad_scale is 1 unless the step itself unscales."""
        numbers = Row(*tf.unstack(row))
        return numbers if self.unscales else numbers._replace(grad_scale=tf.ones_like(numbers.grad_scale))


class Shared:
    """`Settings.row` as a float64 tensor: a cached constant for eager steps, a variable for graphs.

    The variable belongs to no optimizer's `variables`: it repeats what attributes say, and is not saved.
    """

    def __init__(self, settings: Settings, device: str | None = None) -> None:
        self._device = device  # None: where TensorFlow puts it
        with tf.init_scope(), tf.device(device):
            self._variable = tf.Variable(list(settings.row()), trainable=False, dtype=tf.float64, name="adamas_numbers")
        self.set(settings)

    def set(self, settings: Settings) -> None:
        """Take new numbers: for every later step, in functions traced before too."""
        with tf.init_scope(), tf.device(self._device):
            self._constant = tf.constant(list(settings.row()), tf.float64)
            self._variable.assign(self._constant)

    def read(self) -> Any:
        """The numbers of the step that is taken, or traced, now."""
        return self._constant if tf.executing_eagerly() else tf.convert_to_tensor(self._variable)
