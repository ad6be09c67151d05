"""What `fit` is given: checked, and put where the step programs read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from adamas.errors import ArgumentError, DataError, UnsupportedError
from adamas.train.loop.batches import Layout, Rows
from adamas.train.loop.sources import Source, is_source
from adamas.train.loop.steps import Role
from adamas.train.loop.walks import ArrayWalk, SourceWalk, Walk

# Methods of a model that `fit` replaces: a model with its own is trained as its author meant by Keras alone.
_REPLACED = ("fit", "evaluate", "train_step", "test_step", "make_train_function", "make_test_function")


def check_model(model: Any) -> None:
    """Refuse what is no compiled Keras model on TensorFlow, or does in training what `fit` does not.

    Raises:
        ArgumentError: not a compiled Keras model.
        UnsupportedError: something that only `model.fit` honours.
    """
    if not isinstance(model, keras.Model):
        raise ArgumentError(f"fit takes a compiled keras.Model, not {type(model).__name__}")
    if not model.compiled or model.optimizer is None:
        raise ArgumentError("the model is not compiled: call model.compile(optimizer=..., loss=...)")
    if keras.backend.backend() != "tensorflow":
        raise UnsupportedError(
            f"Keras runs on {keras.backend.backend()!r} and adamas.train.fit needs 'tensorflow': use model.fit, or set "
            "Keras' backend to tensorflow before it is imported"
        )
    for name in _REPLACED:
        if getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name):
            raise UnsupportedError(
                f"{type(model).__name__} has its own {name}, which adamas.train.fit would not call: use model.fit"
            )
    if model.run_eagerly:
        raise UnsupportedError(
            "the model was compiled with run_eagerly=True and adamas.train.fit always compiles: use model.fit, or "
            "compile with run_eagerly=False"
        )
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise UnsupportedError(
            "adamas.train.fit trains on one device and the model has a tf.distribute strategy: use model.fit"
        )


def check_targets(model: Any, walk: Walk, what: str, given_as: str) -> None:
    """Refuse data without targets for a model whose loss compares with them; Keras would say that None has no value.

    Args:
        what, given_as: for the message.

    Raises:
        ArgumentError: the data has no y.
    """
    own = getattr(model.compute_loss, "__func__", None) is not keras.Model.compute_loss
    if walk.example[1] is None and model._compile_loss is not None and not own:
        raise ArgumentError(
            f"the {what} data has no targets, and the model was compiled with a loss that needs them: give {given_as}, "
            "or batches of (x, y)"
        )


def walk_of(
    role: Role,
    parts: tuple[Any, Any, Any],
    *,
    class_weight: Mapping[int, float] | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
) -> Walk:
    """The walk over (x, y, sample_weight), or over the batches that x gives.

    Args:
        seed: of the order of arrays and `PyDataset`s; None: as they lie.
        role, class_weight, batch_size, steps: as `fit` was given them, for training or validation.

    Raises:
        ArgumentError, DataError, UnsupportedError: see `rows_of`, `Source`.
    """
    x, y, sample_weight = parts
    what = "validation " if role == "test" else ""
    if steps is not None:
        steps = whole_number("validation_steps" if what else "steps_per_epoch", steps, 1)
    if batch_size is not None:
        batch_size = whole_number("validation_batch_size" if what else "batch_size", batch_size, 1)
    if is_source(x):
        asked = {"y": y, "sample_weight": sample_weight, "batch_size": batch_size}
        for name, value in asked.items():
            if value is not None:
                raise ArgumentError(
                    f"{what}{name} was given beside {what}x of type {type(x).__name__}, which gives whole batches "
                    f"(x, y, sample_weight): leave {name} out"
                )
        return SourceWalk(role, Source(x, class_weight, steps, seed, what))
    rows = rows_of(x, y, sample_weight, class_weight, what=what)
    batch = batch_size or (math.ceil(rows.count / steps) if steps else 32)
    return ArrayWalk(role, rows, batch, steps, seed)


def parts_of(validation_data: Any) -> tuple[Any, Any, Any]:
    """(x, y, sample_weight) of what was given as validation_data."""
    if is_source(validation_data):
        return validation_data, None, None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (1, 2, 3):
        raise ArgumentError(
            f"validation_data of type {type(validation_data).__name__}: give (x, y), (x, y, sample_weight), a data set "
            "or a generator"
        )
    x, y, sample_weight = (*validation_data, None, None)[:3]
    return x, y, sample_weight


def whole_number(name: str, value: Any, least: int) -> int:
    """An argument that must be an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"{name}={value!r}: give an integer of at least {least}")
    return int(value)


def rows_of(
    x: Any, y: Any = None, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None, *, what: str = ""
) -> Rows:
    """Check arrays and turn them into tensors, once for the whole training.

    Floating-point arrays become `keras.config.floatx()`, as in `model.fit`; integers and booleans stay what they are.

    Args:
        x, y, sample_weight: arrays with the same number of rows, or nested dictionaries, lists and tuples of them; y
            and sample_weight or None. One array of weights serves all outputs.
        class_weight: weights by class, in place of sample_weight; y is one array then.
        what: "validation " for the messages about validation data.

    Raises:
        UnsupportedError: not an array.
        DataError: no rows, or not the same number.
        ArgumentError: both kinds of weights, or weights that do not lie as y does.
    """
    x, y, sample_weight = _checked(x, y, sample_weight, what)
    if class_weight is not None:
        if sample_weight is not None:
            raise ArgumentError("class_weight and sample_weight were both given: give one of them")
        if y is None:
            raise ArgumentError("class_weight needs y, the class of each example")
        if keras.tree.is_nested(y):
            raise ArgumentError("class_weight is for one output, and y has several: give sample_weight for each output")
        sample_weight = _weights(y, class_weight)
    layout = Layout(x, y, sample_weight)
    return Rows(tuple(tf.convert_to_tensor(values) for values in layout.flatten(x, y, sample_weight)), layout)


def split_off(fraction: float, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """The first rows, and the last `fraction` of them, of x, y and sample_weight: Keras' `validation_split`."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0.0 < fraction < 1.0:
        raise ArgumentError(f"validation_split={fraction!r}: give a number between 0 and 1")
    given = _checked(x, y, sample_weight, "")
    rows = int(next(leaf for leaf in keras.tree.flatten(given) if leaf is not None).shape[0])
    at = math.floor(rows * (1.0 - fraction))
    if at in (0, rows):
        raise DataError(f"validation_split={fraction} of {rows} rows leaves one part empty; give more data")
    first = keras.tree.map_structure(lambda a: None if a is None else a[:at], given)
    return first, keras.tree.map_structure(lambda a: None if a is None else a[at:], given)


def _checked(x: Any, y: Any, sample_weight: Any, what: str) -> tuple[Any, Any, Any]:
    """x, y and sample_weight with arrays in the dtypes that training uses, and tuples for lists as in `model.fit`."""
    given = {"x": x, "y": y, "sample_weight": sample_weight}
    counts: dict[str, int] = {}
    made = {}
    for part, nested in given.items():
        nested = keras.tree.lists_to_tuples(nested)
        leaves = []
        for path, leaf in keras.tree.flatten_with_path(nested):
            name = what + part + "".join(f"[{step!r}]" for step in path)
            array = None if leaf is None else _dense(leaf, name)
            leaves.append(array)
            if array is not None:
                counts[name] = int(array.shape[0])
        made[part] = keras.tree.pack_sequence_as(nested, leaves)
    if not any(name.startswith(f"{what}x") for name in counts):
        raise ArgumentError(f"{what}x is {x!r}: give an array with one row an example, or several of them")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name.removeprefix(what)} {count}" for name, count in counts.items())
        raise DataError(f"{what}arrays differ in their number of rows: {listed}")
    if 0 in counts.values():
        raise DataError(f"{what}x has no rows; give at least one example")
    return made["x"], made["y"], _of_each_output(made["y"], made["sample_weight"], what)


def _of_each_output(y: Any, sample_weight: Any, what: str) -> Any:
    """Weights that lie as y does: one array of them serves every output."""
    if sample_weight is None or not keras.tree.is_nested(y):
        return sample_weight
    if keras.tree.is_nested(sample_weight):
        try:
            keras.tree.assert_same_structure(y, sample_weight)
        except ValueError as error:
            raise ArgumentError(
                f"{what}sample_weight does not lie as {what}y does: give one array for all outputs, or one for each"
            ) from error
        return sample_weight
    if not (len(sample_weight.shape) == 1 or tuple(sample_weight.shape[1:]) == (1,)):
        raise ArgumentError(
            f"{what}sample_weight of shape {tuple(sample_weight.shape)} for several outputs: give one weight an "
            "example, or one array for each output"
        )
    return keras.tree.map_structure(lambda _: sample_weight, y)


def _dense(value: Any, name: str) -> Any:
    """A NumPy array or tensor in the dtype that training uses."""
    if isinstance(value, (tf.Variable, keras.Variable)):
        value = tf.convert_to_tensor(value)
    elif not isinstance(value, (np.ndarray, np.generic, tf.Tensor)) and hasattr(value, "__array__"):
        column = hasattr(value, "iloc") and value.ndim == 1  # a pandas Series is a column in `model.fit`
        value = np.asarray(value)[:, None] if column else np.asarray(value)
    if not isinstance(value, (np.ndarray, tf.Tensor)) or (isinstance(value, tf.Tensor) and not hasattr(value, "numpy")):
        raise UnsupportedError(
            f"{name} is of type {type(value).__name__}: adamas.train.fit takes NumPy arrays and dense eager tensors; "
            "convert it with numpy.asarray, or use model.fit"
        )
    dtype = np.dtype(value.dtype if isinstance(value, np.ndarray) else value.dtype.as_numpy_dtype)
    floating = dtype.kind == "f" or dtype.name == "bfloat16"
    if not (floating or dtype.kind in "biu"):
        raise UnsupportedError(
            f"{name} has dtype {dtype}: adamas.train.fit takes numbers and booleans; encode it first, or use model.fit"
        )
    if len(value.shape) == 0:
        raise DataError(f"{name} is a single number: give an array with one row an example")
    if floating and dtype.name != keras.config.floatx():
        value = (
            value.astype(keras.config.floatx())
            if isinstance(value, np.ndarray)
            else tf.cast(value, keras.config.floatx())
        )
    return value


def _weights(y: Any, class_weight: Mapping[int, float]) -> np.ndarray:
    """One weight an example: that of its class, 1 for a class without one."""
    if not isinstance(class_weight, Mapping):
        raise ArgumentError(f"class_weight={class_weight!r}: give a dictionary from class number to weight")
    classes = np.asarray(y)
    if classes.ndim > 1:  # one-hot, or one column of class numbers
        classes = classes.argmax(axis=-1) if classes.shape[-1] != 1 else classes.squeeze(axis=-1)
    if classes.ndim != 1:
        raise ArgumentError(f"class_weight takes one class an example, and y has shape {tuple(y.shape)}")
    present, inverse = np.unique(np.round(classes).astype(np.int64), return_inverse=True)
    weights = np.array([class_weight.get(int(c), 1.0) for c in present], dtype=keras.config.floatx())
    return np.asarray(weights[inverse])
