"""Which callbacks `fit` can honour: those for epochs. A callback a batch is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from adamas.errors import ArgumentError, UnsupportedError

_PER_BATCH = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)


def _each_epoch(callback: Any) -> bool:
    return bool(callback.save_freq == "epoch")


def _writes_epochs(callback: Any) -> bool:
    return bool(callback.update_freq == "epoch" and not callback._should_trace)


# Keras' callbacks whose hooks for batches do nothing with these settings, and how to ask for that.
_IDLE: dict[type, tuple[Callable[[Any], bool], str]] = {
    keras.callbacks.ModelCheckpoint: (_each_epoch, "give it save_freq='epoch'"),
    keras.callbacks.BackupAndRestore: (_each_epoch, "give it save_freq='epoch'"),
    keras.callbacks.TensorBoard: (_writes_epochs, "give it update_freq='epoch' and profile_batch=0"),
}


def checked(callbacks: Any) -> list[keras.callbacks.Callback]:
    """The callbacks as a list, none of which needs to hear of each batch.

    `TerminateOnNaN` is let through: a loss that is not finite stays so until the epoch ends, so hearing of it at the
    end of a piece is enough; see `not_finite`.

    Raises:
        ArgumentError: something that is no callback.
        UnsupportedError: a callback with hooks for batches, or a `CallbackList`.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise UnsupportedError("callbacks is a CallbackList: adamas.train.fit takes a list of callbacks; use model.fit")
    given = [] if callbacks is None else keras.tree.flatten(callbacks)
    for callback in given:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ArgumentError(f"callbacks: {callback!r} is no keras.callbacks.Callback")
        _check(callback)
    return list(given)


def of_nan(callbacks: list[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
    """Those that look for a loss that is not finite."""
    return [callback for callback in callbacks if isinstance(callback, keras.callbacks.TerminateOnNaN)]


def _check(callback: keras.callbacks.Callback) -> None:
    remedy = "use the hooks for epochs, or model.fit"
    for name in _PER_BATCH:
        function = getattr(getattr(callback, name), "__func__", None)
        if (
            function is getattr(keras.callbacks.Callback, name)
            or function is keras.callbacks.TerminateOnNaN.on_batch_end
        ):
            continue
        for kind, (idle, how) in _IDLE.items():
            if isinstance(callback, kind) and function is getattr(kind, name):
                if idle(callback):
                    break
                remedy = f"{how}, or use model.fit"
        else:
            raise UnsupportedError(
                f"{type(callback).__name__} has {name}, which adamas.train.fit would not call (it visits Python once "
                f"in many steps): {remedy}"
            )
