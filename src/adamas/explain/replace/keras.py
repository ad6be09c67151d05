"""`keras.optimizers.Adam` and its family: what they make is Adamas' optimizer, which says that it is theirs.

`Adam(...)`, also under `tf.keras` and from "adam" in `compile`, gives a `StandIn`. Its `__class__` is Keras' class, so
`isinstance` holds, and Keras writes its own class into a saved model, which loads where Adamas is not installed.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import adamas.tensorflow
from adamas.errors import AdamasError, UnsupportedError
from adamas.explain.record import Fits, Functions, Record, Used, name_of
from adamas.kernels.tensorflow import op
from adamas.kernels.tensorflow.engines import in_xla
from adamas.tensorflow.optimizer import Optimizer

_OURS: dict[type, type[Optimizer]] = {
    keras.optimizers.Adam: adamas.tensorflow.Adam,
    keras.optimizers.AdamW: adamas.tensorflow.AdamW,
    keras.optimizers.Adamax: adamas.tensorflow.Adamax,
    keras.optimizers.Lamb: adamas.tensorflow.Lamb,
    keras.optimizers.Nadam: adamas.tensorflow.Nadam,
}


def install(record: Record) -> None:
    """From now on Keras' `Adam` and its family make Adamas' where that is the same, and `fit` is timed."""
    for stock, ours in _OURS.items():
        stock.__new__ = _new(stock, ours, record)  # type: ignore[method-assign]
    _watch_others(record)
    _watch_fit(record)
    _watch_functions(record)


def _new(stock: type, ours: type[Optimizer], record: Record) -> Any:
    made: Any = stock.__new__
    stand_in = _stand_in(stock, ours, record)

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls is stock and record.substituting:
            with record.stopped():  # once a machine it is built, once a process it is loaded
                op.why_not()
            try:
                return stand_in(*args, **kwargs)
            except (AdamasError, TypeError, ValueError) as error:
                record.leave(name_of(stock), str(error))  # Keras' own raises what its users know, or serves
        return object.__new__(cls) if made is object.__new__ else made(cls)

    return staticmethod(new)


def _stand_in(stock: type, ours: Any, record: Record) -> type:
    class StandIn(ours):
        __class__ = property(lambda self: stock)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            ours.__init__(self, *args, **kwargs)
            self._used = Used(name_of(stock), "keras")
            if record.recording:
                record.used.append(self._used)

        def build(self, variables: Any) -> None:
            if self.built:
                return
            used, variables = self._used, list(variables)
            with tf.init_scope():  # Keras reads the learning rate as a number
                config = self.get_config()
            used.clone = (stock, ours, config, [(tuple(v.shape), v.dtype) for v in variables])
            used.counted = functools.partial(_count, self.iterations)
            try:
                for variable in variables:
                    if tf.as_dtype(variable.dtype).size < 4:
                        raise UnsupportedError(
                            f"variable {variable.name!r} is {tf.as_dtype(variable.dtype).name}; Keras computes its "
                            "step in that dtype and Adamas in float32, so the numbers would not be the same"
                        )
                ours.build(self, variables)
                used.by = f"adamas.keras.{ours.__name__} ({self.kernel})"
            except AdamasError as error:
                used.why_not = " ".join(str(error).split())
                _become(self, stock, record)
                self.build(variables)

        @tf.autograph.experimental.do_not_convert
        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            used = self._used
            if not self.built and trainable_variables is not None:
                trainable_variables = list(trainable_variables)
                self.build(trainable_variables)
                if type(self) is not StandIn:
                    return self.apply(grads, trainable_variables)
            if not tf.executing_eagerly():
                used.traced = "xla" if in_xla() else "graph"
                record.traces.append(used)
                return ours.apply(self, grads, trainable_variables)
            began = record.now()
            result = ours.apply(self, grads, trainable_variables)
            if record.recording:
                used.steps.add(began, record.now())
            return result

    StandIn.__name__, StandIn.__qualname__ = ours.__name__, ours.__qualname__
    return StandIn


def _become(self: Any, stock: type, record: Record) -> None:
    """Turns a stand-in that cannot serve into what it stands for; nothing has been stepped yet."""
    with tf.init_scope(), record.paused(substituting=False):
        fresh: Any = stock.from_config(self.get_config())  # type: ignore[attr-defined]
        fresh.iterations.assign(self.iterations)
    vars(self).clear()
    vars(self).update(vars(fresh))
    object.__dict__["__class__"].__set__(self, stock)  # past the property


def _watch_others(record: Record) -> None:
    began = keras.optimizers.Optimizer.__init__
    wrappers = (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer)  # Keras makes both by itself

    @functools.wraps(began)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        began(self, *args, **kwargs)
        kind = type(self)
        if not record.recording or kind in wrappers or issubclass(kind, Optimizer):
            return
        for base in _OURS:
            if issubclass(kind, base):
                if kind is not base:
                    record.leave(name_of(kind), f"a subclass of {name_of(base)}, which may step in its own way")
                return
        record.leave(name_of(kind), "not Adam")

    keras.optimizers.Optimizer.__init__ = made


def _watch_fit(record: Record) -> None:
    own = keras.Model.fit
    signature = inspect.signature(own)

    @functools.wraps(own)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not record.recording:
            return own(self, *args, **kwargs)
        known = next((f for f in record.fits if f.of() is self), None)
        if known is None:
            known = Fits(weakref.ref(self), str(self.name))
            record.fits.append(known)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return own(self, *args, **kwargs)  # Keras says what is wrong
        given = dict(bound.arguments)
        given.pop("self")
        if isinstance(given.get("x"), types.GeneratorType):
            first: list[Any] = []
            bound.arguments["x"] = _remembering(given["x"], first)
            given["first"] = first
        before, began = _count_of(self), record.now()
        record.recording = False
        try:
            history = own(*bound.args, **bound.kwargs)
            known.epochs += len(history.epoch)
            return history
        finally:
            record.recording = True
            known.span.add(began, record.now())
            known.steps += _count_of(self) - before
            used = getattr(getattr(self.optimizer, "inner_optimizer", self.optimizer), "_used", None)
            if isinstance(used, Used):
                used.in_fit, known.used = True, used
            longest = max(record.fits, key=lambda f: f.span.seconds)
            for each in record.fits:  # one model and its data are kept alive, for measuring
                each.kept = each.kept if each is longest else None
            if known is longest:
                known.kept = (self, given)

    keras.Model.fit = fit


def _remembering(batches: Any, first: list[Any]) -> Any:
    for batch in batches:
        if not first:
            first.append(batch)
        yield batch


def _watch_functions(record: Record) -> None:
    """Times each compiled function in which an optimizer steps, from outside."""
    function = type(tf.function(lambda: None))
    own: Callable[..., Any] = function.__call__
    known: dict[int, tuple[Any, Functions]] = {}

    @functools.wraps(own)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not record.recording or not tf.executing_eagerly():
            return own(self, *args, **kwargs)
        record.traces.clear()
        began = record.now()
        try:
            return own(self, *args, **kwargs)
        finally:
            if record.traces and id(self) not in known:
                name = getattr(getattr(self, "python_function", None), "__qualname__", "a tf.function")
                name = "model.train_on_batch" if name.startswith("TensorFlowTrainer.") else name
                known[id(self)] = (self, Functions(name, record.traces[0]))  # kept: its id is not given to another
                record.functions.append(known[id(self)][1])
            if id(self) in known:
                known[id(self)][1].span.add(began, record.now())

    function.__call__ = call


def _count_of(model: Any) -> int:
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else _count(optimizer.iterations)


def _count(iterations: Any) -> int:
    return int(iterations.numpy() if hasattr(iterations, "numpy") else iterations)
