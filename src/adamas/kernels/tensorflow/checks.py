"""Which variables and gradients may take part in a step, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from adamas.errors import ArgumentError, ArrayError, UnsupportedError
from adamas.kernels.tensorflow.slots import StoragePolicy
from adamas.rule import Rule
from adamas.storage import check_weights


def conform(grads: Sequence[Any], variables: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The gradients as dense tensors of their variables' dtypes, and those of them that a graph checks as it runs.

    As in Keras, a gradient of another floating dtype is cast and the rows of an IndexedSlices are added up.

    Raises:
        ArrayError: a gradient has another shape than its variable, or no floating dtype.
    """
    dense, checks = [], []
    for gradient, variable in zip(grads, variables, strict=True):
        dtype, shape = getattr(gradient, "dtype", None), getattr(gradient, "shape", None)
        if dtype is not None and not tf.as_dtype(dtype).is_floating:
            raise ArrayError(f"the gradient of {variable.name!r} is {tf.as_dtype(dtype).name}; give a floating one")
        if shape is not None and not variable.shape.is_compatible_with(shape):
            raise ArrayError(
                f"the gradient of {variable.name!r} has the shape {tuple(shape)}, the variable {tuple(variable.shape)}"
            )
        gradient = _as_tensor(gradient, variable)
        if not variable.shape.is_compatible_with(gradient.shape):
            raise ArrayError(
                f"the gradient of {variable.name!r} has the shape {tuple(gradient.shape)}, "
                f"the variable {tuple(variable.shape)}"
            )
        if not gradient.shape.is_fully_defined():
            gradient = tf.ensure_shape(gradient, variable.shape)
            checks.append(gradient)
        dense.append(gradient)
    return dense, checks


def refuse_strategy() -> None:
    """Nothing, unless a tf.distribute strategy is active: UnsupportedError."""
    if tf.distribute.has_strategy():
        raise UnsupportedError(
            f"{type(tf.distribute.get_strategy()).__name__} is active; Adamas trains on one device. Make the optimizer "
            "outside the strategy's scope, or use keras.optimizers.Adam inside it"
        )


def _as_tensor(gradient: Any, variable: Any) -> Any:
    """The gradient as a dense tensor of the variable's dtype. Rows of an IndexedSlices with one index are added."""
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    elif isinstance(gradient, np.ndarray) or not tf.is_tensor(gradient):
        gradient = tf.convert_to_tensor(gradient)
    return gradient if gradient.dtype == variable.dtype else tf.cast(gradient, variable.dtype)


def check(rule: Rule, variables: Sequence[Any], storage: Sequence[StoragePolicy], lazy: bool) -> None:
    """Nothing, unless one of the variables cannot be stepped.

    Args:
        rule: how it would be.
        variables: what was given.
        storage: how the moments of each, and the variable itself, are to be kept.
        lazy: whether sparse gradients are to step their rows only.

    Raises:
        UnsupportedError: by name.
        ArgumentError: a variable was given twice, or cannot be kept so.
    """
    for variable, how in zip(variables, storage, strict=True):
        _check_kind(variable)
        _check_dtype(variable, lazy)
        try:
            how.choose(rule, variable)
        except ArgumentError as error:
            raise ArgumentError(f"variable {variable.name!r}: {error}") from None
    check_weights(
        (np.dtype(variable.dtype.as_numpy_dtype), how.weights) for variable, how in zip(variables, storage, strict=True)
    )
    if len(set(map(id, variables))) != len(variables):
        raise ArgumentError(
            "a variable was given twice (a keras.Variable and its `value` are the same one); give each once"
        )


def _check_kind(variable: Any) -> None:
    if isinstance(variable, tf.distribute.DistributedValues):
        raise UnsupportedError(
            f"variable {variable.name!r} belongs to a tf.distribute strategy; Adamas trains on one device. Make the "
            "model outside the strategy's scope, or use keras.optimizers.Adam"
        )
    if not isinstance(variable, tf.Variable):
        raise UnsupportedError(f"{variable!r} is no tf.Variable; give tf.Variables or a Keras model's variables")
    if not variable.shape.is_fully_defined():
        raise UnsupportedError(f"variable {variable.name!r} has the shape {variable.shape}; give it a fixed shape")


def _check_dtype(variable: Any, lazy: bool) -> None:
    dtype = tf.as_dtype(variable.dtype)
    if dtype not in (tf.float32, tf.float64, tf.bfloat16, tf.float16):
        if dtype.is_floating:
            remedy = "Keep it in bfloat16 or in a wider dtype"
        elif dtype.is_complex:
            remedy = "Keep its real and its imaginary part in two variables, and join them with tf.complex"
        else:
            remedy = "It has no gradient: leave it out, as Keras does with trainable=False"
        raise UnsupportedError(
            f"variable {variable.name!r} is {dtype.name}; Adamas steps float32, float64, bfloat16 and float16 "
            f"variables. {remedy}"
        )
    if lazy and dtype.size < 4:
        raise UnsupportedError(
            f"variable {variable.name!r} is {dtype.name}, and sparse='lazy' is for float32 and float64 variables; use "
            "sparse='dense'"
        )
