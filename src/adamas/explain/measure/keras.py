"""Loops with Keras' optimizers: `model.fit` taken apart, and steps in the user's own loops."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from adamas.errors import AdamasError
from adamas.explain.measure import AFTER, BEFORE, FIT, Comparison, median_difference, medians, room_for, turns
from adamas.explain.record import Fits, Record, Used, name_of

_EPOCH = 1.0  # seconds: of a longer epoch of the script's, as many batches are measured as last so long
_MORE = {BEFORE: 2, AFTER: 2, FIT: 20}  # epochs that a fit has more than another, to tell an epoch from the start


def measure(record: Record, seconds: float) -> list[Comparison]:
    """What can be said of each loop; `seconds` is for all of them."""
    fits = [f for f in record.fits if f.kept is not None and f.steps]
    loops = [used for used in record.used if used.framework == "keras" and not used.in_fit and used.clone is not None]
    share = seconds / max(1, 2 * len(fits) + len(loops))
    found = []
    for fit in fits:
        comparison = Comparison(f"model.fit of {fit.name!r}", fit.steps, fit.span.seconds)
        try:
            _take_apart(record, fit, comparison, 2 * share)
        except Exception as error:  # whatever a model of the script's own does here must not hide the rest
            comparison.missing["the parts of model.fit"] = f"{type(error).__name__}: {_line(error)}"
        found.append(comparison)
    others = [f for f in record.fits if f.kept is None]
    if others and found:
        found[0].missing[f"model.fit of {len(others)} other models"] = (
            f"{sum(f.span.seconds for f in others):.1f} s; the one that took longest was measured"
        )
    return found + [c for used in loops if (c := _loop(record, used, share)) is not None]


# -- model.fit


def _take_apart(record: Record, fit: Fits, found: Comparison, seconds: float) -> None:
    """One step of `fit`: forward and backward, the optimizer, and the loop around them; and `adamas.train.fit`."""
    assert fit.kept is not None
    model, given = fit.kept
    data = _Data(given, fit.span.seconds / fit.steps, fit.steps / max(1, fit.epochs))
    size = sum(int(np.prod(v.shape)) * 4 for v in model.trainable_variables)
    problem = room_for(12 * size)
    if problem is not None:
        found.missing["the parts of model.fit"] = problem
        return
    before = [np.array(v) for v in model.variables]
    own = model.optimizer, model.train_function
    substituted = fit.used is not None and fit.used.why_not is None
    with record.paused(substituting=False):
        try:
            config = keras.optimizers.serialize(model.optimizer)
            optimizers = {BEFORE: keras.optimizers.deserialize(copy.deepcopy(config))}  # which empties what it reads
            if substituted:
                record.substituting = True
                optimizers[AFTER] = keras.optimizers.deserialize(config)
            found.names = {column: name_of(optimizer.__class__) for column, optimizer in optimizers.items()}
            if substituted:
                found.names[AFTER] = fit.used.by if fit.used else ""
            _compiled_steps(model, optimizers, data, found, seconds / 3)
            _epochs(model, optimizers, data, found, 2 * seconds / 3)
        finally:
            model.optimizer, model.train_function = own
            for variable, value in zip(model.variables, before, strict=True):
                variable.assign(value)
    _add_up(found, fit, AFTER if substituted else BEFORE)


def _compiled_steps(model: Any, optimizers: dict[str, Any], data: _Data, found: Comparison, seconds: float) -> None:
    """One `train_step` as `fit` compiles it, by optimizer, and without one."""
    found.how.append(
        "forward, backward and optimizer: the model's own train_step on one batch, compiled as fit compiles it, with "
        "the optimizer and with one that only waits for the gradients, by turns, median"
    )
    if model.jit_compile:
        found.missing["forward and backward apart from the optimizer"] = (
            "XLA leaves out a backward pass that nothing uses"
        )
    idle = {} if model.jit_compile else {"idle": _Idle()}
    jobs: dict[str, Callable[[], Any]] = {}
    for column, optimizer in {**optimizers, **idle}.items():
        _equip(model, optimizer)
        if model.run_eagerly:
            step = _eagerly(model, optimizer)
        else:
            step = tf.function(model.train_step, jit_compile=model.jit_compile, reduce_retracing=True)
        jobs[column] = functools.partial(step, data.batch)
        jobs[column]()  # traced with this optimizer
    times = turns(jobs, seconds)
    for column in optimizers:
        parts = found.each.setdefault(column, {})
        if "idle" in times:
            parts["forward, backward"] = statistics.median(times["idle"])
            parts["optimizer"] = median_difference(times[column], times["idle"])
        else:
            parts["forward, backward, optimizer"] = statistics.median(times[column])


def _eagerly(model: Any, optimizer: Any) -> Callable[[Any], Any]:
    def step(batch: Any) -> Any:
        model.optimizer = optimizer
        return model.train_step(batch)

    return step


def _epochs(model: Any, optimizers: dict[str, Any], data: _Data, found: Comparison, seconds: float) -> None:
    """Epochs of `model.fit`, by optimizer, and of `adamas.train.fit`: calls of one epoch and of several, by turns."""
    from adamas.train import fit as train_fit

    best = AFTER if AFTER in optimizers else BEFORE
    functions: dict[str, Any] = {}

    def keras_fit(column: str, epochs: int) -> None:
        model.optimizer, model.train_function = optimizers[column], functions.get(column)
        model.fit(**data.epochs(epochs), verbose=0)
        functions[column] = model.train_function

    def adamas_fit(epochs: int) -> None:
        model.optimizer = optimizers[best]
        train_fit(model, **data.epochs(epochs), verbose=0)

    kinds: dict[str, Callable[[int], None]] = {c: functools.partial(keras_fit, c) for c in optimizers}
    kinds[FIT] = adamas_fit
    first: dict[str, float] = {}
    for column, run in list(kinds.items()):
        began = time.perf_counter()
        try:
            run(1)
        except AdamasError as error:
            del kinds[column]
            found.missing["adamas.train.fit"] = _line(error)
            continue
        first[column] = time.perf_counter() - began
    jobs = {f"{c} {more}": functools.partial(run, 1 + more) for c, run in kinds.items() for more in (0, _MORE[c])}
    times = turns(jobs, seconds)
    epoch = {c: median_difference(times[f"{c} {_MORE[c]}"], times[f"{c} 0"]) / _MORE[c] for c in kinds}
    for column in kinds:
        one = statistics.median(times[f"{column} 0"])
        found.once[column] = max(0.0, first[column] - one)
        found.start[column] = max(0.0, one - epoch[column])
    # Loop and start are Keras' own code for every optimizer: one number each, from the fits of all of them.
    start = statistics.mean(found.start[column] for column in optimizers)
    steps = statistics.mean(sum(found.each[column].values()) for column in optimizers)
    loop = max(0.0, statistics.mean(epoch[column] for column in optimizers) / data.steps - steps)
    for column in optimizers:
        found.each[column]["the loop"], found.start[column] = loop, start
    if FIT in kinds:
        found.names[FIT] = f"adamas.train.fit, {found.names[best].partition(' (')[0]}"
        found.each[FIT] = {"one step": epoch[FIT] / data.steps}
    found.how.append(
        f"the loop: what an epoch of {data.steps} of the script's batches takes beyond that, without callbacks and "
        "validation, from fits of one epoch and of several, by turns, median; starting: what a fit of one epoch takes "
        "beyond its epoch; compiling: what the first fit took longer"
    )


def _add_up(found: Comparison, fit: Fits, ran: str) -> None:
    """All steps of the script: measured for what ran there, computed for the others.

    What the script took beyond its steps (callbacks, validation) stays; where the machine was faster then than when the
    parts were measured, all of them are scaled to that. Compiling and starting, which vary most, count for
    `adamas.train.fit` and are taken as the same for one optimizer and another.
    """
    parts = {}
    for column, each in found.each.items():
        own = column if column == FIT else ran
        parts[column] = found.once[own] + fit.span.calls * found.start[own] + fit.steps * sum(each.values())
    beyond = found.seconds - parts[ran]
    for column, seconds in parts.items():
        found.total[column] = seconds + beyond if beyond > 0 else found.seconds * seconds / parts[ran]


class _Data:
    """What the script gave to `fit`, cut to an epoch of about `_EPOCH` seconds."""

    def __init__(self, given: dict[str, Any], step_seconds: float, steps: float) -> None:
        x, y, weight = given.get("x"), given.get("y"), given.get("sample_weight")
        self.steps = max(1, min(round(steps), round(_EPOCH / max(step_seconds, 1e-9))))
        self._kept: dict[str, Any] = {k: given[k] for k in ("class_weight",) if k in given}
        if given.get("first") is not None:  # of a generator's batches, which are gone
            batch = given["first"][0]
            self._make: Callable[[int], dict[str, Any]] = lambda epochs: {
                "x": (batch for _ in range(self.steps * epochs)),
                "steps_per_epoch": self.steps,
            }
            self.batch = keras.tree.map_structure(tf.convert_to_tensor, batch)
        elif isinstance(x, tf.data.Dataset):
            part = x.take(self.steps)
            self._make = lambda epochs: {"x": part}
            self.batch = next(iter(part))
        elif isinstance(x, keras.utils.PyDataset):
            self._make = lambda epochs: {"x": x, "steps_per_epoch": self.steps}
            self.batch = keras.tree.map_structure(tf.convert_to_tensor, x[0])
        else:
            size = given.get("batch_size") or 32
            arrays = {k: v for k, v in (("x", x), ("y", y), ("sample_weight", weight)) if v is not None}
            rows = len(keras.tree.flatten(x)[0])
            whole = rows // size  # a last batch of what is left would be compiled apart
            self.steps = min(self.steps, whole) or 1
            part = keras.tree.map_structure(lambda a: a[: self.steps * size], arrays)
            self._make = lambda epochs: {**part, "batch_size": size, "shuffle": given.get("shuffle", True)}
            cut = keras.tree.map_structure(lambda a: _tensor(a[:size]), arrays)
            self.batch = tuple(cut[k] for k in ("x", "y", "sample_weight") if k in cut)

    def epochs(self, count: int) -> dict[str, Any]:
        """Arguments of `fit` for so many epochs."""
        return {**self._make(count), **self._kept, "epochs": count}


def _tensor(values: Any) -> Any:
    tensor = tf.convert_to_tensor(values)
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor


class _Idle(keras.optimizers.Optimizer):
    """Waits for the gradients and leaves the variables as they are."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        given = [g for g in tf.nest.flatten(list(grads), expand_composites=True) if g is not None]
        with tf.control_dependencies(given):
            self.iterations.assign_add(1)


def _equip(model: Any, optimizer: Any) -> None:
    model.optimizer = optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)


# -- loops of the script's own


def _loop(record: Record, used: Used, seconds: float) -> Comparison | None:
    function = next((f for f in record.functions if f.used is used), None)
    span = used.steps if function is None else function.span
    if not used.counted() or not span.calls:
        return None
    calls, lasted = span.after_first
    if function is None:
        steps, what = calls, f"the loop around {used.name}, eager, after its first step"
    else:
        steps = round(calls * used.counted() / span.calls)
        what = f"{function.name}, compiled, with {used.name}" + (", after its first call" if span.calls > 1 else "")
    found = Comparison(what, steps, lasted)
    found.names = {BEFORE: used.name, AFTER: used.by if used.why_not is None else "the same"}
    if used.why_not is not None:
        found.missing["the step with Adamas"] = used.why_not
        return found
    if function is not None and span.calls > 1:
        found.once[AFTER] = span.first_seconds
    stock, ours, config, shapes = used.clone
    problem = room_for(12 * sum(int(np.prod(shape)) * 4 for shape, _ in shapes))
    if problem is not None:
        found.missing["the step before and after"] = problem
        return found
    mode = (used.traced if function is not None else None) or "eager"
    with record.paused(substituting=False):
        jobs = {
            column: _steps(kind.from_config(config), shapes, mode) for column, kind in ((BEFORE, stock), (AFTER, ours))
        }
        times = medians(turns({column: job for column, (job, _) in jobs.items()}, seconds))
    found.add_loop({column: times[column] / count for column, (_, count) in jobs.items()})
    where = {
        "eager": "called from Python",
        "graph": "in a loop in a tf.function",
        "xla": "in a loop in a tf.function compiled by XLA",
    }[mode]
    found.how.append(
        f"the step alone, {where}, on copies of the script's {len(shapes)} variables with gradients of random numbers, "
        "by turns, median"
    )
    return found


def _steps(optimizer: Any, shapes: Sequence[Any], mode: str) -> tuple[Callable[[], Any], int]:
    """A job that takes steps in a mode, and how many."""
    generator = np.random.default_rng(0)
    variables, grads = [], []
    for shape, dtype in shapes:
        kind = tf.as_dtype(dtype)
        variables.append(tf.Variable(tf.cast(0.1 * generator.standard_normal(shape, np.float32), kind)))
        grads.append(tf.cast(0.01 * generator.standard_normal(shape, np.float32), kind))
    optimizer.build(variables)
    if mode == "eager":
        return lambda: optimizer.apply(grads, variables), 1
    count = 10

    @tf.function(jit_compile=mode == "xla")
    def loop(times: Any) -> None:
        for _ in tf.range(times):
            optimizer.apply(grads, variables)

    return lambda: loop(tf.constant(count)), count


def _line(error: object) -> str:
    return " ".join(str(error).split())
