"""The numbers of a step that may change between steps, where functions that are traced already see the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from adamas.rule import Clip, Hyper

_UNCLIPPED = 2.0**1000  # the bound where nothing is clipped: functions traced with a clip divide by it, and get 1


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

    def row(self) -> list[float]:
        """The numbers in the order of the op: beta1, beta2, eps, eps_root, weight_decay, grad_scale, bound."""
        h = self.hyper
        scale = 1.0 / self.loss_scale if self.loss_scale is not None else 1.0
        bound = _UNCLIPPED if self.clip is None else self.clip.bound
        return [h.beta1, h.beta2, h.eps, h.eps_root, h.weight_decay, scale, bound]


class Shared:
    """`Settings.row` as a float64 tensor: a cached constant for eager steps, a variable for graphs.

    The variable belongs to no optimizer's `variables`: it repeats what attributes say, and is not saved.
    """

    def __init__(self, settings: Settings, device: str | None = None) -> None:
        self._device = device  # None: where TensorFlow puts it
        with tf.init_scope(), tf.device(device):
            self._variable = tf.Variable(settings.row(), trainable=False, dtype=tf.float64, name="adamas_numbers")
        self.set(settings)

    def set(self, settings: Settings) -> None:
        """Take new numbers: for every later step, in functions traced before too."""
        with tf.init_scope(), tf.device(self._device):
            self._constant = tf.constant(settings.row(), tf.float64)
            self._variable.assign(self._constant)

    def read(self) -> Any:
        """The numbers of the step that is taken, or traced, now."""
        return self._constant if tf.executing_eagerly() else tf.convert_to_tensor(self._variable)
