"""The numbers of a step that may change between steps, where functions that are traced already see the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from adamas.rule import Clip, Clipping, Hyper

_UNCLIPPED = 2.0**1000  # the bound of a clip that is off: functions traced with it divide by the bound, and get 1


class Row(NamedTuple):
    """A line of numbers in the order of the op, float64: `Hyper`, and what is done to gradients (as in each line).

    The learning rate is lr_scale times the optimizer's, plus lr. There is a bound for each kind of clip: a function
    that was traced with one kind reads that one's own, and clips no more where another kind is on now.
    """

    lr_scale: Any
    lr: Any
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

    def rate(self, learning_rate: Any) -> Any:
        """The learning rate, from the optimizer's."""
        return self.lr_scale * tf.cast(learning_rate, tf.float64) + self.lr

    def hyper(self, decays: bool) -> Row:
        """The numbers of a variable to which weight decay applies, or does not."""
        return self if decays else self._replace(weight_decay=0.0)


class Line(NamedTuple):
    """The numbers of a group of variables.

    hyper     all but the learning rate; its `lr` is not read
    lr_scale  what the optimizer's learning rate is multiplied by
    lr        what is added to that
    """

    hyper: Hyper
    lr_scale: float = 1.0
    lr: float = 0.0


@dataclass(frozen=True)
class Settings:
    """What an optimizer's attributes say about the next step.

    A traced function holds constant which kind of clip there is, whether weight decay is on, `unscales` and the last
    three; every number it reads from `Shared` when it runs.

    lines        of numbers: the optimizer's own, then those of its groups
    clip         None: gradients are not clipped
    loss_scale   what the loss was multiplied by, or None
    accumulates  gradients are accumulated over several calls before they reach the step, unscaled
    checks       a step with gradients that are not finite is not taken
    statistics   each step tells what it did
    verify       N: about one block in N is computed twice and compared; 0: none
    """

    lines: tuple[Line, ...]
    clip: Clip | None = None
    loss_scale: float | None = None
    accumulates: bool = False
    checks: bool = False
    statistics: bool = False
    verify: int = 0

    @property
    def unscales(self) -> bool:
        """Whether the step itself divides gradients by the loss scale."""
        return self.loss_scale is not None and not self.accumulates

    @property
    def kind(self) -> Clipping | None:
        """How gradients are clipped."""
        return None if self.clip is None else self.clip.kind

    @property
    def needs_norm(self) -> bool:
        """Whether the norm of all gradients decides something."""
        return self.checks or self.kind == "global_norm"

    @property
    def decays(self) -> bool:
        """Whether weight decay is on."""
        return any(line.hyper.weight_decay for line in self.lines)

    @property
    def static(self) -> tuple[Any, ...]:
        """All that a traced function holds constant."""
        on = (self.kind, self.decays, self.loss_scale is not None, self.accumulates)
        return (*on, self.checks, self.statistics, self.verify)

    def table(self) -> list[Row]:
        """All numbers that may change, line by line."""
        scale = 1.0 / self.loss_scale if self.loss_scale is not None else 1.0
        bounds = dict.fromkeys(("value", "norm", "global_norm"), _UNCLIPPED)
        if self.clip is not None:
            bounds[self.clip.kind] = self.clip.bound
        ends = [scale, *bounds.values()]
        return [Row(line.lr_scale, line.lr, *list(vars(line.hyper).values())[1:], *ends) for line in self.lines]

    def unpack(self, table: Any) -> list[Row]:
        """The numbers of a step, from `Shared.read`: grad_scale is 1 unless the step itself unscales."""
        rows = [Row(*tf.unstack(row)) for row in tf.unstack(table)]
        return rows if self.unscales else [row._replace(grad_scale=tf.ones_like(row.grad_scale)) for row in rows]

    def grad_scale(self, table: Any) -> Any:
        """What the step multiplies gradients by, from `Shared.read`."""
        return table[0, Row._fields.index("grad_scale")] if self.unscales else tf.ones((), tf.float64)


class Shared:
    """`Settings.table` as a float64 tensor: a cached constant for eager steps, a variable for graphs.

    The variable belongs to no optimizer's `variables`: it repeats what attributes say, and is not saved.
    """

    def __init__(self, settings: Settings, device: str | None = None) -> None:
        self._device = device  # None: where TensorFlow puts it
        with tf.init_scope(), tf.device(device):
            self._variable = tf.Variable(settings.table(), trainable=False, dtype=tf.float64, name="adamas_numbers")
        self.set(settings)

    def set(self, settings: Settings) -> None:
        """Take new numbers: for every later step, in functions traced before too."""
        with tf.init_scope(), tf.device(self._device):
            self._constant = tf.constant(settings.table(), tf.float64)
            self._variable.assign(self._constant)

    def read(self) -> Any:
        """The numbers of the step that is taken, or traced, now."""
        return self._constant if tf.executing_eagerly() else tf.convert_to_tensor(self._variable)
