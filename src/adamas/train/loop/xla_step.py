"""A step of a model of which XLA compiles everything but the optimizer's part.

XLA is good at a forward and backward pass; the optimizer's native op is as fast as memory and cannot run inside XLA. So
the model's own `train_step` is traced into a function for XLA with an optimizer that only takes note of the gradients:
the function returns them, and the optimizer is called with them outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from adamas.errors import UnsupportedError


def xla_step(model: Any, step: Callable[[Any], dict[str, Any]], batch: Any) -> dict[str, Any]:
    """`step(batch)`, where step calls the model's `train_step` or `test_step`, as operations of the graph being made.

    Returns:
        What the step returned while it was traced: its keys are right, its values belong to another graph.

    Raises:
        UnsupportedError: XLA cannot compile the model, or the model has its own `compute_metrics`, which would see the
            weights before the optimizer changes them.
    """
    if getattr(model.compute_metrics, "__func__", None) is not keras.Model.compute_metrics:
        raise UnsupportedError(
            f"{type(model).__name__} has its own compute_metrics, which program='xla' would call before the weights "
            "change: give program='graph' or 'xla-loop'"
        )
    logs: dict[str, Any] = {}
    asked: list[tuple[Any, Any]] = []
    leaves = tf.nest.flatten(batch)

    def gradients(*tensors: Any) -> list[Any]:
        asked.clear()
        given = iter(tensors)
        packed = tf.nest.pack_sequence_as(batch, [None if leaf is None else next(given) for leaf in leaves])
        with _noting(model.optimizer, asked):
            logs.update(step(packed))
        return [gradient for gradient, _ in asked if gradient is not None]

    found = iter(_compiled(gradients, tensors := [leaf for leaf in leaves if leaf is not None])(*tensors))
    if asked:
        model.optimizer.apply_gradients(
            [(None if gradient is None else next(found), variable) for gradient, variable in asked]
        )
    return logs


def refused(error: Exception) -> UnsupportedError:
    """What to raise for an error of XLA's compiler."""
    reason = str(getattr(error, "message", error)).strip().splitlines()[0]
    return UnsupportedError(f"XLA cannot compile this model ({reason}); give program='graph', or use model.fit")


def _compiled(function: Callable[..., Any], tensors: list[Any]) -> Any:
    """The function, for XLA. What XLA does not know is found here, and not in the middle of a training."""
    compiled = tf.function(function, jit_compile=True, autograph=False)
    if all(tensor.shape.is_fully_defined() for tensor in tensors):
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        compiled.get_concrete_function(*specs)  # here: in an init_scope no gradients are recorded
        try:
            with tf.init_scope():
                compiled.experimental_get_compiler_ir(*specs)(stage="hlo")
        except (tf.errors.OpError, ValueError) as error:
            raise refused(error) from error
    return compiled


@contextmanager
def _noting(optimizer: Any, pairs: list[tuple[Any, Any]]) -> Iterator[None]:
    """Within it, the optimizer's `apply_gradients` adds (gradient, variable) to `pairs` and does nothing else."""
    # Past Keras' __setattr__, which tracks what becomes part of an optimizer.
    object.__setattr__(optimizer, "apply_gradients", pairs.extend)
    try:
        yield
    finally:
        object.__delattr__(optimizer, "apply_gradients")
