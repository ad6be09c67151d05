"""`adamas.train.fit`: `Model.fit`, with thousands of steps between two visits to Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from adamas.errors import ArgumentError, UnsupportedError
from adamas.train.loop.callbacks import checked, of_nan
from adamas.train.loop.choose import PROGRAMS, choose_program
from adamas.train.loop.inputs import check_model, check_targets, parts_of, split_off, walk_of, whole_number
from adamas.train.loop.programs import Programs, lay_out
from adamas.train.loop.sources import is_source
from adamas.train.loop.verbosity import Display
from adamas.train.loop.walks import Walk, numbers


def fit(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: int | str = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    seed: int = 0,
    program: str = "auto",
    piece_steps: int | None = None,
) -> keras.callbacks.History:
    """Train a compiled Keras model, as `model.fit` does, in a compiled loop.

    Each step is the model's own `train_step`: the loss is `model.compute_loss` (regularisers, `add_loss`, weights),
    and metrics, moving statistics, random states and the optimizer change as in `model.fit`. The loop around it is one
    program that runs many steps a call; a call lasts about 0.1 s (0.2 s on data sets in a program that TensorFlow runs;
    one step, if that lasts longer), so that Ctrl-C is heard, and leaves the model after a whole number of steps. Where
    nobody listens between epochs - verbose=0, no callbacks, no validation - calls run over their ends. How many steps a
    call runs changes no bit of the result.
    Programs stay with the model: a second `fit` compiles nothing, also after weights, optimizer state
    (`adamas.train.snapshot`) or the learning rate were assigned. Two trainings on arrays from the same state with the
    same arguments, thread counts and machine give the same weights to the bit, dropout included.

    Args:
        model: a compiled `keras.Model` on the TensorFlow backend, with any Keras optimizer. Changed in place, like its
            optimizer.
        x: an array [rows, ...] of numbers or booleans (NumPy, dense tensor, or what `numpy.asarray` takes), or nested
            dictionaries, lists and tuples of them for several inputs. Or what gives whole batches: a `tf.data.Dataset`,
            a `keras.utils.PyDataset`, a generator or iterator of `(x,)`, `(x, y)` or `(x, y, sample_weight)`, or
            another kind that Keras has a data adapter for.
        y: targets [rows, ...], nested as the model's outputs, or None for a model that needs none, and where x gives
            batches. Floating-point arrays are converted to `keras.config.floatx()` once.
        batch_size: rows of arrays a step; None is 32, or what makes `steps_per_epoch` steps of all rows. The last batch
            of an epoch holds what is left. None where x gives batches.
        epochs: the number of the epoch to stop before, counted from 0.
        verbose: 0 nothing; 1 a progress bar and a line an epoch; 2 a line an epoch; "auto" 1 at a terminal, else 2.
        callbacks: `keras.callbacks.Callback`, or a list of them. Their hooks for the training, its epochs and its
            validations are called; a callback with hooks for each batch is refused, unless they do nothing as it is set
            (`ModelCheckpoint` and `BackupAndRestore` with save_freq="epoch", `TensorBoard` with update_freq="epoch" and
            profile_batch=0). `TerminateOnNaN` is asked after each call, so that training ends up to a call later.
        validation_split: this fraction of the rows of arrays, the last ones, is validated on, and not trained on.
        validation_data: (x, y) or (x, y, sample_weight) of arrays, or what gives batches; evaluated after the epoch by
            a compiled program too.
        shuffle: arrays: a new order each epoch, `adamas.train.epoch_order(rows, seed, epoch)`; False: the rows as they
            lie. `PyDataset`: the same with its batches. Data sets and generators come in their own order.
        class_weight: {class: weight}, instead of sample_weight; 1 for a class that is not in it. For one output, and
            not for generators.
        sample_weight: weights of the examples of arrays, [rows] or as the loss takes them; nested as y, or one array
            for all outputs.
        initial_epoch: the number of the first epoch, to go on with a training.
        steps_per_epoch: steps an epoch; None: all batches. The next epoch goes on where the last one ended, and begins
            anew when the data has ended. Data without an end needs it.
        validation_steps: the same for a validation, which always begins with the first batch.
        validation_batch_size: None: batch_size.
        validation_freq: validate every that many epochs, or after the epochs listed, counted from 1.
        seed: of the order of examples in arrays and of batches in a `PyDataset`, at least 0; the order depends on
            nothing else. Initial weights and dropout have their own random states in the model: see
            `keras.utils.set_random_seed`.
        program: "graph" (TensorFlow runs the loop), "xla" (the same, with the gradients compiled by XLA), "xla-loop"
            (XLA compiles all of it), or "auto": `adamas.train.choose_program(model)`, but "graph" for batches whose
            examples differ in shape. It takes the place of compile's `jit_compile`, as the loop takes the place of its
            `steps_per_execution`. Dropout masks and last bits differ between programs.
        piece_steps: at most this many steps a call; None: by time.

    Returns:
        `keras.callbacks.History` with the keys of `model.fit`; `.params["program"]` is the program that ran.

    Raises:
        ArgumentError: an argument outside what is allowed, or a model that is not compiled.
        DataError: data without rows or batches, or arrays that differ in their number of rows.
        UnsupportedError: what only `model.fit` does: `train_step` and the like overridden, `run_eagerly`, callbacks a
            batch, `tf.distribute`, arrays that are sparse, ragged or of strings; or XLA cannot compile the model.
        KeyboardInterrupt: Ctrl-C, between two calls. What a generator or a `PyDataset` raises goes through likewise.

    Warns:
        UserWarning: the data ran out before the epoch's steps were done; training goes on with the next epoch.

    Differs from `model.fit`: the order of arrays is that of `seed`, not of TensorFlow's global random state. In the
    same order (`shuffle=False`) the results agree up to the last bits of sums; dropout masks do for program="graph". A
    data set of unknown length that ends says nothing, where `model.fit` warns in each epoch.

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
    check_model(model)
    epochs, initial_epoch = whole_number("epochs", epochs, 0), whole_number("initial_epoch", initial_epoch, 0)
    seed = whole_number("seed", seed, 0)
    if piece_steps is not None:
        whole_number("piece_steps", piece_steps, 1)
    if not isinstance(shuffle, bool):
        raise UnsupportedError(f"shuffle={shuffle!r}: adamas.train.fit takes True or False; use model.fit")
    if program not in ("auto", *PROGRAMS):
        raise ArgumentError(f"program={program!r}: give 'auto' or one of {', '.join(map(repr, PROGRAMS))}")
    validates = _frequency(validation_freq)
    listeners = checked(callbacks)
    if validation_split and validation_data is not None:
        raise ArgumentError("validation_split and validation_data were both given: give one of them")
    if validation_split:
        if is_source(x):
            raise ArgumentError("validation_split is for arrays: give validation_data with a data set or generator")
        (x, y, sample_weight), validation_data = split_off(validation_split, x, y, sample_weight)
    validating = {"validation_steps": validation_steps, "validation_batch_size": validation_batch_size}
    if validation_data is None and (validation_freq != 1 or any(n is not None for n in validating.values())):
        raise ArgumentError(
            "validation_steps, validation_batch_size and validation_freq need validation_data or validation_split"
        )
    train = walk_of(
        "train",
        (x, y, sample_weight),
        class_weight=class_weight,
        batch_size=batch_size,
        steps=steps_per_epoch,
        seed=seed if shuffle else None,
    )
    check_targets(model, train, "training", "x and y")
    validation = None
    if validation_data is not None:
        held_out = parts_of(validation_data)
        if validation_batch_size is None and not is_source(held_out[0]):
            validation_batch_size = batch_size
        validation = walk_of("test", held_out, batch_size=validation_batch_size, steps=validation_steps)
        check_targets(model, validation, "validation", "validation_data=(x, y)")

    kind = _kind(model, program, train, validation)
    display = Display(verbose, epochs, train.steps)
    lay_out(model, kind)
    # The variables of the model, its metrics and its optimizer: a compiled program cannot make them.
    model._symbolic_build(data_batch=train.example)
    _prepare(model, kind, train, validation)  # what cannot be compiled fails before any callback hears of a training

    params = {"verbose": display.verbose, "epochs": epochs, "steps": train.steps, "program": kind}
    hooks = keras.callbacks.CallbackList(listeners, add_history=True, add_progbar=False, model=model, **params)
    history = model.history
    model.stop_training = False
    heard = _Heard(model, display, of_nan(listeners))
    alone = not listeners and validation is None and not display.verbose  # nobody looks at the model between epochs
    hooks.on_train_begin()
    _prepare(model, kind, train, validation)  # again, for a callback may have changed settings
    train.begin(epochs)
    logs: dict[str, Any] = {}
    try:
        for epoch in range(model._initial_epoch or initial_epoch, epochs):  # BackupAndRestore sets it
            hooks.on_epoch_begin(epoch)
            display.begin(epoch, train.steps)
            heard.steps = 0
            logs = train.run(epoch, epochs if alone else epoch + 1, piece_steps, heard)
            if validation is not None and validates(epoch + 1):
                hooks.on_test_begin()
                found = validation.run(epoch, epoch + 1, piece_steps)
                hooks.on_test_end(found)
                logs.update({f"val_{name}": value for name, value in found.items()})
            display.end(logs)
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training and not train.begun(epoch + 1):
                break
    finally:
        display.close()
    if epochs > 0 and isinstance(model.optimizer, keras.optimizers.Optimizer):
        model.optimizer.finalize_variable_values(model.trainable_variables)
    hooks.on_train_end(logs)
    return history


class _Heard:
    """What happens between two calls of a training program."""

    def __init__(self, model: Any, display: Display, of_nan: list[keras.callbacks.Callback]):
        self._model, self._display, self._of_nan = model, display, of_nan
        self.steps = 0  # of this epoch

    def __call__(self, steps: int, logs: dict[str, Any]) -> bool:
        """Hear of so many steps, and say whether to stop."""
        self.steps += steps
        self._display.step(steps)
        for callback in self._of_nan:
            callback.on_batch_end(self.steps - 1, numbers(logs))
        return bool(self._model.stop_training)


def _kind(model: Any, program: str, train: Walk, validation: Walk | None) -> str:
    if program != "auto":
        return program
    varies = train.varies or (validation is not None and validation.varies)
    return "graph" if varies else choose_program(model)


def _prepare(model: Any, kind: str, train: Walk, validation: Walk | None) -> None:
    programs = Programs.of(model)
    train.prepare(programs, kind)
    if validation is not None:
        validation.prepare(programs, kind)


def _frequency(given: Any) -> Callable[[int], bool]:
    """Whether to validate after an epoch, counted from 1."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        every = whole_number("validation_freq", given, 1)
        return lambda epoch: epoch % every == 0
    if not given:
        raise ArgumentError(
            "validation_freq=[] would never validate: list epochs, counted from 1, or leave the validation data out"
        )
    listed = {whole_number("validation_freq", epoch, 1) for epoch in given}
    return lambda epoch: epoch in listed
