"""Attributes that a step depends on: setting one takes effect at the next step, also in functions traced before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from adamas.errors import ArgumentError
from adamas.kernels.tensorflow.settings import Row, Settings, Shared
from adamas.rule import Clip, Hyper, is_number
from adamas.tensorflow.groups import Groups

_READ = {"beta_1", "beta_2", "epsilon", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"}


class Adjustable(keras.optimizers.Optimizer):
    """The part of an optimizer that hands its attributes to the steps."""

    if TYPE_CHECKING:  # what Optimizer gives
        _stepper: Any
        _groups: Groups
        _rows: Callable[[], list[int]]
        _nonfinite: str | None
        _stats: bool
        _verify: int
        _hyper: Callable[..., Hyper]

    _settings: Settings
    _shared: Shared | None

    def _watch_attributes(self) -> None:
        """Check them all; from here on the steps follow them. The end of `__init__`."""
        self._shared = None  # made by the first who needs it: whoever scales a loss, or `build`
        self._settings = self._read()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. Those that a step depends on are checked, and take effect at the next step.

        Raises:
            ArgumentError: the number is outside its range. Nothing has been changed.
        """
        if name in _READ and "_settings" in self.__dict__:
            settings = self._read(**{name: value})
            super().__setattr__(name, value)
            self._settings = settings
            if self._shared is not None:
                self._shared.set(settings)
            return
        if name == "amsgrad" and self.__dict__.get("_stepper") is not None and bool(value) != getattr(self, name):
            raise ArgumentError("amsgrad cannot change after the optimizer is built; make a new optimizer")
        super().__setattr__(name, value)

    def scale_loss(self, loss: Any) -> Any:
        """The loss times `loss_scale_factor`; the step divides the gradients by it again."""
        if self._settings.loss_scale is None:
            return loss
        return loss * tf.cast(self._loss_scale(), loss.dtype) if tf.is_tensor(loss) else super().scale_loss(loss)

    def _loss_scale(self) -> Any:
        """Its current value, in functions traced before too."""
        if tf.executing_eagerly():
            return self._settings.loss_scale
        if self._shared is None:  # a loss is scaled before the first step builds the optimizer
            self._shared = Shared(self._settings)
        return 1.0 / Row(*tf.unstack(self._shared.read()[0])).grad_scale

    def _read(self, **changed: Any) -> Settings:
        """What the attributes say, with some of them changed."""

        def get(name: str) -> Any:
            return changed[name] if name in changed else getattr(self, name)

        hyper = self._hyper(
            beta1=get("beta_1"),
            beta2=get("beta_2"),
            eps=get("epsilon"),
            weight_decay=get("weight_decay") or 0.0,
        )
        clips = []
        for name, kind in (("clipnorm", "norm"), ("global_clipnorm", "global_norm"), ("clipvalue", "value")):
            if _positive(name, get(name), zero=True):
                clips.append(Clip(kind, get(name)))  # type: ignore[arg-type]
        if len(clips) > 1:
            raise ArgumentError("set one of clipnorm, clipvalue and global_clipnorm; the others to None")
        scale = _positive("loss_scale_factor", get("loss_scale_factor"))
        return Settings(
            lines=self._groups.lines(hyper),
            clip=clips[0] if clips else None,
            loss_scale=scale,
            accumulates=bool(self.gradient_accumulation_steps),
            checks=self._nonfinite in ("skip", "raise"),
            statistics=self._stats,
            verify=self._verify,
        )

    def traced(self) -> str:
        """All that a function traced now holds constant of this optimizer's attributes."""
        config = {name: value for name, value in self.get_config().items() if name not in _READ}
        if isinstance(self._learning_rate, keras.Variable):
            del config["learning_rate"]
        return repr((sorted(config.items()), self._settings.static, self._rows()))


def _positive(name: str, value: Any, zero: bool = False) -> float | None:
    if value is None or (zero and is_number(value) and value == 0):
        return None
    if not (is_number(value) and 0.0 < value < math.inf):
        raise ArgumentError(f"{name}={value!r}: give a finite number above 0, or None")
    return float(value)
