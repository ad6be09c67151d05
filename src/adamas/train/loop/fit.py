"""`adamas.train.fit`: `Model.fit` for arrays, with thousands of steps between two visits to Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from adamas.errors import ArgumentError, UnsupportedError
from adamas.train.loop.batches import Rows
from adamas.train.loop.choose import PROGRAMS, choose_program
from adamas.train.loop.inputs import check_model, rows_of, split_off
from adamas.train.loop.order import epoch_order
from adamas.train.loop.programs import Program, Programs, Role, lay_out
from adamas.train.loop.verbosity import Display

_PER_BATCH = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)
_OF_MODEL_FIT = ("steps_per_epoch", "validation_steps")


def fit(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    batch_size: int | None = 32,
    epochs: int = 1,
    verbose: int | str = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Sequence[Any] | None = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    seed: int = 0,
    program: str = "auto",
    piece_steps: int | None = None,
    **of_model_fit: Any,
) -> keras.callbacks.History:
    """Train a compiled Keras model on arrays, as `model.fit` does, in a compiled loop.

    Each step is the model's own `train_step`: the loss is `model.compute_loss` (regularisers, `add_loss`, weights),
    and metrics, moving statistics, random states and the optimizer change as in `model.fit`. The loop around it is one
    program that runs many steps a call; a call lasts about 0.1 s (or one step, if that lasts longer), so that Ctrl-C is
    heard, and leaves the model after a whole number of steps. How many steps a call runs changes no bit of the result.
    Programs stay with the model: a second `fit` compiles nothing, also after weights, optimizer state
    (`adamas.train.snapshot`) or the learning rate were assigned. Two trainings from the same state with the same
    arguments, thread counts and machine give the same weights to the bit, dropout included.

    Args:
        model: a compiled `keras.Model` on the TensorFlow backend, with any Keras optimizer. Changed in place, like its
            optimizer.
        x: NumPy array or dense tensor [rows, ...], numbers or booleans.
        y: targets [rows, ...], or None for a model that needs none. Floating-point arrays are converted to
            `keras.config.floatx()` once.
        batch_size: rows a step; None is 32. The last batch of an epoch holds what is left.
        epochs: the number of the epoch to stop before, counted from 0.
        verbose: 0 nothing; 1 a progress bar and a line an epoch; 2 a line an epoch; "auto" 1 at a terminal, else 2.
        callbacks: `keras.callbacks.Callback`, or a list of them. Their hooks for the training, its epochs and its
            validations are called; a callback with hooks for each batch is refused.
        validation_split: this fraction of the rows, the last ones, is validated on, and not trained on.
        validation_data: (x, y) or (x, y, sample_weight), evaluated after the epoch by a compiled program too.
        shuffle: a new order each epoch: `adamas.train.epoch_order(rows, seed, epoch)`. False: the rows as they lie.
        class_weight: {class: weight}, instead of sample_weight; 1 for a class that is not in it.
        sample_weight: weights of the examples, [rows] or as the loss takes them.
        initial_epoch: the number of the first epoch, to go on with a training.
        validation_batch_size: None: batch_size.
        validation_freq: validate every that many epochs, or after the epochs listed, counted from 1.
        seed: of the order of examples, at least 0; the order depends on nothing else. Initial weights and dropout have
            their own random states in the model: see `keras.utils.set_random_seed`.
        program: "graph" (TensorFlow runs the loop), "xla-loop" (XLA compiles all of it), or "auto":
            `adamas.train.choose_program(model)`. It takes the place of compile's `jit_compile`, as the loop takes the
            place of its `steps_per_execution`. Dropout masks and last bits differ between the two.
        piece_steps: at most this many steps a call; None: by time.
        of_model_fit: `steps_per_epoch` and `validation_steps` of `model.fit` are refused, unless None.

    Returns:
        `keras.callbacks.History` with the keys of `model.fit`; `.params["program"]` is the program that ran.

    Raises:
        ArgumentError: an argument outside what is allowed, or a model that is not compiled.
        DataError: arrays without rows or that differ in their number.
        UnsupportedError: what only `model.fit` does: data sets and generators, several inputs or outputs, `train_step`
            and the like overridden, `run_eagerly`, callbacks a batch, `tf.distribute`; or XLA cannot compile the model.
        KeyboardInterrupt: Ctrl-C, between two calls.

    Differs from `model.fit`: the order is that of `seed`, not of TensorFlow's global random state. In the same order
    (`shuffle=False`) the results agree up to the last bits of sums; dropout masks do for program="graph".

    Example:
        >>> import keras, numpy as np
        >>> from adamas.train import fit
        >>> x = np.random.default_rng(0).normal(size=(100, 3))
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.Adam(0.1), loss="mse")
        >>> history = fit(model, x, x.sum(axis=1), epochs=20, verbose=0)
        >>> history.history["loss"][-1] < history.history["loss"][0]
        True
    """
    _refuse(of_model_fit)
    check_model(model)
    batch = _count("batch_size", 32 if batch_size is None else batch_size, 1)
    validation_batch = _count(
        "validation_batch_size", batch if validation_batch_size is None else validation_batch_size, 1
    )
    _count("epochs", epochs, 0)
    _count("initial_epoch", initial_epoch, 0)
    _count("seed", seed, 0)
    if piece_steps is not None:
        _count("piece_steps", piece_steps, 1)
    if not isinstance(shuffle, bool):
        raise UnsupportedError(f"shuffle={shuffle!r}: adamas.train.fit takes True or False; use model.fit")
    if program not in ("auto", *PROGRAMS):
        raise ArgumentError(f"program={program!r}: give 'auto' or one of {', '.join(map(repr, PROGRAMS))}")
    train, validation = _data(x, y, sample_weight, class_weight, validation_split, validation_data)
    if validation is None and (validation_batch_size is not None or validation_freq != 1):
        raise ArgumentError("validation_batch_size and validation_freq need validation_data or validation_split")
    validates = _frequency(validation_freq)
    listeners = _epoch_callbacks(callbacks)
    kind = choose_program(model) if program == "auto" else program

    display = Display(verbose, epochs, math.ceil(train.count / batch))
    _build(model, kind, train, batch)
    prepare = partial(_compiled, model, kind, train, batch, validation, validation_batch)
    prepare()  # what cannot be compiled fails before any callback hears of a training

    params = {"verbose": display.verbose, "epochs": epochs, "steps": math.ceil(train.count / batch), "program": kind}
    hooks = keras.callbacks.CallbackList(listeners, add_history=True, add_progbar=False, model=model, **params)
    history = model.history
    model.stop_training = False
    hooks.on_train_begin()
    compiled = prepare()  # again, for a callback may have changed settings; costs nothing if none has
    logs: dict[str, Any] = {}
    try:
        for epoch in range(initial_epoch, epochs):
            hooks.on_epoch_begin(epoch)
            display.begin(epoch)
            order = tf.constant(epoch_order(train.count, seed, epoch)) if shuffle else None
            logs = compiled.train.run(order, piece_steps, display.step)
            if compiled.validation is not None and validates(epoch + 1):
                hooks.on_test_begin()
                found = compiled.validation.run(None, piece_steps)
                hooks.on_test_end(found)
                logs.update({f"val_{name}": value for name, value in found.items()})
            display.end(logs)
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
    finally:
        display.close()
    if epochs > 0 and isinstance(model.optimizer, keras.optimizers.Optimizer):
        model.optimizer.finalize_variable_values(model.trainable_variables)
    hooks.on_train_end(logs)
    return history


class _Pass(NamedTuple):
    """One walk over all rows: full batches, then the last one with what is left."""

    rows: Rows
    in_turn: Any
    parts: tuple[tuple[Program, int, int], ...]  # program, position of the first row, steps

    def run(self, order: Any, limit: int | None, done: Callable[[int], None] | None = None) -> dict[str, Any]:
        """The metrics of this walk in the given order (None: in turn), as Python numbers where they are numbers."""
        logs: dict[str, Any] = {}
        order = self.in_turn if order is None else order
        for i, (program, start, steps) in enumerate(self.parts):
            logs = program.run(order, self.rows.tensors, start, steps, reset=i == 0, limit=limit, done=done)
        values = {name: np.asarray(value) for name, value in logs.items()}
        return {name: float(value) if value.ndim == 0 else value for name, value in values.items()}


class _Compiled(NamedTuple):
    train: _Pass
    validation: _Pass | None


def _compiled(
    model: Any, kind: str, train: Rows, batch: int, validation: Rows | None, validation_batch: int
) -> _Compiled:
    programs = Programs.of(model)
    return _Compiled(
        _pass(programs, kind, "train", train, batch),
        None if validation is None else _pass(programs, kind, "test", validation, validation_batch),
    )


def _pass(programs: Programs, kind: str, role: Role, rows: Rows, batch: int) -> _Pass:
    full, rest = divmod(rows.count, batch)
    in_turn = tf.range(rows.count, dtype=_index_type(rows.count))
    parts = []
    if full:
        parts.append((programs.get(kind, role, batch, in_turn, rows), 0, full))
    if rest:
        parts.append((programs.get(kind, role, rest, in_turn, rows), full * batch, 1))
    return _Pass(rows, in_turn, tuple(parts))


def _build(model: Any, kind: str, rows: Rows, batch: int) -> None:
    """Make the variables of the model, its metrics and its optimizer: a compiled program cannot."""
    lay_out(model, kind)
    model._symbolic_build(data_batch=rows.layout.pack([values[:batch] for values in rows.tensors]))


def _data(
    x: Any, y: Any, sample_weight: Any, class_weight: Any, validation_split: float, validation_data: Any
) -> tuple[Rows, Rows | None]:
    validation = None
    if validation_data is not None:
        if validation_split:
            raise ArgumentError("validation_split and validation_data were both given: give one of them")
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            raise UnsupportedError(
                f"validation_data of type {type(validation_data).__name__}: adamas.train.fit takes (x, y) or "
                "(x, y, sample_weight); use model.fit for data sets and generators"
            )
        validation = rows_of(*validation_data, what="validation ")
    elif validation_split:
        (x, y, sample_weight), rest = split_off(validation_split, x, y, sample_weight)
        validation = rows_of(*rest, what="validation ")
    return rows_of(x, y, sample_weight, class_weight), validation


def _epoch_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """The callbacks as a list, none of which wants to hear of each batch."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise UnsupportedError("callbacks is a CallbackList: adamas.train.fit takes a list of callbacks; use model.fit")
    given = [] if callbacks is None else list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    for callback in given:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ArgumentError(f"callbacks: {callback!r} is no keras.callbacks.Callback")
        if type(callback) is keras.callbacks.ModelCheckpoint and callback.save_freq == "epoch":
            continue  # its hook for batches does nothing then
        for name in _PER_BATCH:
            if getattr(getattr(callback, name), "__func__", None) is not getattr(keras.callbacks.Callback, name):
                raise UnsupportedError(
                    f"{type(callback).__name__} has {name}, which adamas.train.fit would not call (it visits Python "
                    "once in many steps): use the hooks for epochs, or model.fit"
                )
    return given


def _frequency(given: Any) -> Callable[[int], bool]:
    """Whether to validate after an epoch, counted from 1."""
    if isinstance(given, Sequence) and all(isinstance(epoch, int) for epoch in given):
        return lambda epoch: epoch in given
    every = _count("validation_freq", given, 1)
    return lambda epoch: epoch % every == 0


def _refuse(of_model_fit: Mapping[str, Any]) -> None:
    for name, value in of_model_fit.items():
        if name not in _OF_MODEL_FIT:
            raise TypeError(f"fit() got an unexpected keyword argument {name!r}")
        if value is not None:
            raise UnsupportedError(f"{name}={value!r}: adamas.train.fit walks over all rows each epoch; use model.fit")


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"{name}={value!r}: give an integer of at least {least}")
    return int(value)


def _index_type(rows: int) -> str:
    return "int32" if rows < 2**31 else "int64"
