"""The compiled programs of a model: kept with it from one `fit` to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import keras

from adamas.train.loop.batches import Rows
from adamas.train.loop.steps import Key, Program, Role

Made = TypeVar("Made")

# Compiled programs kept for one model: training and validation, of a few shapes each.
KEPT = 16


class Programs:
    """The compiled programs of one model.

    They hold for the model as it was compiled: after `model.compile`, a change of what is trainable, or of a setting
    that a traced step holds constant, they are made anew. New values - weights, optimizer state, learning rate, and of
    our optimizers the betas, epsilon, decay, bounds of clips, loss scale - need no new program.
    """

    _ATTRIBUTE = "_adamas_programs"

    def __init__(self, model: Any):
        self.model = model
        self._made: OrderedDict[Hashable, Any] = OrderedDict()
        self._for: list[Any] = []

    @classmethod
    def of(cls, model: Any) -> Programs:
        """The programs kept with this model; made at the first call."""
        kept: Programs | None = model.__dict__.get(cls._ATTRIBUTE)
        if kept is None or kept.model is not model:
            kept = cls(model)
            # Past Keras' __setattr__, which would look into it for layers and variables to track and save.
            object.__setattr__(model, cls._ATTRIBUTE, kept)
        kept._refresh()
        return kept

    def get(self, kind: str, role: Role, batch: int, order: Any, rows: Rows) -> Program:
        """The program for batches of `batch` rows of this data, at most all of them, compiled if it is new.

        Args:
            order: index tensor [passes * number of rows].
        """
        passes = int(order.shape[0]) // rows.count
        key = Key(kind, role, batch, passes, rows.kinds, rows.layout, self.can_reset)
        return self.kept(key, lambda: Program(self.model, key, order, rows.tensors))

    def kept(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made under this key for the model as it is compiled, else what `make` makes now."""
        made: Made | None = self._made.get(key)
        if made is None:
            made = self._made[key] = make()
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return made

    def reset_metrics(self) -> None:
        """Set the model's metrics to zero."""
        self.model.reset_metrics()

    @property
    def can_reset(self) -> bool:
        """Whether a program can set the metrics to zero itself."""
        return _metrics_are_keras(self.model)

    def _refresh(self) -> None:
        model = self.model
        now = [
            model.optimizer,
            _settings(model.optimizer),
            model._loss_tracker,  # compile() makes a new one
            *model.trainable_variables,
        ]
        same = len(now) == len(self._for) and all(
            a is b or (isinstance(a, str) and a == b) for a, b in zip(now, self._for, strict=True)
        )
        if not same:
            self._made.clear()
        self._for = now


def lay_out(model: Any, kind: str) -> None:
    """Tell an optimizer of ours that is not built yet which layout of its moments the program reads fastest."""
    if kind == "xla-loop" and not model.optimizer.built and hasattr(model.optimizer, "expect_xla"):
        model.optimizer.expect_xla()


def _settings(optimizer: Any) -> str:
    """All that a traced update has as constants: the configuration without the value of the learning rate (of ours:
    without any number that may change), and what `exclude_from_weight_decay` said, which is no part of it."""
    if hasattr(optimizer, "traced"):
        return str(optimizer.traced())
    config = dict(optimizer.get_config())
    if isinstance(optimizer.learning_rate, keras.Variable):
        config.pop("learning_rate", None)
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of Keras' loss scaling
    if inner is not optimizer:
        config["inner_optimizer"] = _settings(inner)
    if getattr(inner, "weight_decay", None):
        config["decays"] = [inner._use_weight_decay(v) for v in inner._trainable_variables]
    return repr(sorted(config.items(), key=lambda item: item[0]))


def _metrics_are_keras(model: Any) -> bool:
    """Whether all metrics are reset by Keras' own code. A user's might not do the same inside a compiled program."""
    metrics = [wrapped for metric in model.metrics for wrapped in (metric, *getattr(metric, "metrics", ()))]
    return getattr(model.reset_metrics, "__func__", None) is keras.Model.reset_metrics and all(
        type(metric).__module__.startswith("keras.") for metric in metrics
    )
