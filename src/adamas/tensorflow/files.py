"""How an optimizer's state is saved and loaded: Keras' files and TensorFlow's checkpoints."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from adamas.errors import StateError, UnsupportedError
from adamas.keras_store import SCALES, difference, for_keras, is_for_keras, not_numbers, read
from adamas.kernels.tensorflow.stepper import Stepper
from adamas.tensorflow.checkpoints import SAME, Kind, Offer, look
from adamas.tensorflow.moments import Moment
from adamas.tensorflow.portable import Portable


@dataclass
class Copy:
    """A copy of a moment, in the place of its variable."""

    array: np.ndarray

    def numpy(self) -> np.ndarray:
        return self.array


class Saved(Portable):
    """The half of an optimizer that reads and writes its state."""

    if TYPE_CHECKING:  # what the other half gives
        beta_1: float
        beta_2: float
        epsilon: float
        weight_decay: float | None
        _stepper: Any
        _index: dict[Any, int]
        _hypers: Any
        _ready: Any
        _settings: Any
        _members: Any
        _groups: Any
        _like: str

    _lists: ClassVar[tuple[str, ...]] = ()
    """Under which names checkpoints list the slots; none: they are in `variables` only, as ever in our Adam."""
    _offer: Offer | None = None
    _refusal: str | None = None

    @property
    def variables(self) -> list[Any]:
        """Everything carried from step to step, as variables: what Keras' own Adam has, in its order.

        `iterations`, the learning rate if it is a number, averages, accumulators, then m and v of each parameter by
        turns, then each parameter's largest v; with weights="split" the corrections behind them, with sparse="lazy" the
        clocks of the rows.
        """
        if not (is_for_keras.get() and self.built):
            return list(self._variables)
        stepper = self._ready()
        clocks = len(stepper.clocks())
        if not clocks:
            return [v for v in self._variables if not (isinstance(v, Moment) and v.is_correction)]
        places, moments = (
            stepper.places(),
            [stepper.settled(i, hyper) for i, hyper in enumerate(self._hypers(self._numbers()))],
        )
        others = self._variables[: -len(places) - clocks]
        return [*others, *(Copy(moments[i][slot]) for slot, i in places)]

    def save_own_variables(self, store: Any) -> None:
        """Write the state to one of Keras' files: the arrays "0", "1", ... in the order of `variables`.

        A moment in bfloat16 or int8 is written as it is kept, the scales of int8 as "scales of 5". For Keras' own
        optimizer (`adamas.keras.save_model`), moments are written in the dtype of computation.
        """
        for i, variable in enumerate(self.variables):
            if isinstance(variable, Moment) and not is_for_keras.get():
                first, *scales = variable.stored()
                store[str(i)] = first.numpy()
                if scales:
                    store[SCALES.format(i)] = scales[0].numpy()
            else:
                store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Read the state from one of Keras' files; Adamas and `keras.optimizers.Adam` write the same arrays.

        Moments that were kept in another format are converted to that of this optimizer; in the same one they are taken
        over to the bit. Before the optimizer is built there is no place for them: they are skipped with a warning, as
        in Keras.

        Args:
            store: arrays by the names "0", "1", ..., in the order of `variables`. Without the clocks of sparse="lazy"
                every row counts as up to date, and without the corrections of weights="split" they are 0.

        Raises:
            StateError: it was saved for other variables or settings. Nothing has been changed.
        """
        arrays, scales = read(store, self.name)
        variables = self.variables
        if not self.built and len(arrays) > len(variables):
            warnings.warn(
                f"the state that was saved for the optimizer {self.name!r} is skipped: it has no moments yet. To go on "
                "from it, call optimizer.build(model.trainable_variables) before load_weights",
                stacklevel=2,
            )
            return
        shapes = [tuple(variable.shape) for variable in variables]
        unbuilt = 2 if isinstance(self._learning_rate, keras.Variable) else 1  # iterations, learning rate
        if len(arrays) == unbuilt and not arrays[0].any():  # saved before it was built: all else is as it begins
            carried = zip(self._stepper.carries, self._stepper.rule.carries, strict=True) if self._stepper else ()
            initial = {id(variable): carry.initial for variable, carry in carried}
            arrays += [np.full(variable.shape, initial.get(id(variable), 0.0)) for variable in variables[unbuilt:]]
        ours = [i for i, variable in enumerate(variables) if isinstance(variable, Moment) and variable.is_correction]
        ours += range(len(shapes) - (len(self._stepper.clocks()) if self._stepper else 0), len(shapes))
        if len(arrays) == len(shapes) - len(ours):
            for i in ours:
                arrays.insert(i, np.zeros(shapes[i]))
        misfit = difference([array.shape for array in arrays], shapes) or not_numbers(arrays, scales)
        if misfit:
            raise StateError(
                f"the saved state of {self.name!r} does not fit: {misfit}. Nothing was loaded. {SAME}. Without this "
                "state go on with load_weights(..., skip_mismatch=True), or load_model(..., compile=False) and a new "
                "optimizer, as where layers were frozen after the optimizer was built"
            )
        for i, (variable, array) in enumerate(zip(variables, arrays, strict=True)):
            if isinstance(variable, Moment):
                variable.restore([array, scales[i]] if i in scales else [array])
            else:
                variable.assign(array)

    def to_keras(self) -> Any:
        """Keras' `Adam`, `AdamW`, `Adamax`, `Lamb` or `Nadam` with these settings, and this state if it is built.

        It steps the same variables and has copies of everything else: moments, averages, accumulated gradients,
        `iterations`, and what `exclude_from_weight_decay` and `no_decay` leave out. A schedule or a callable as
        learning rate is shared. `kernel`, `stats` and `verify` have no counterpart and change no number. `nonfinite`
        has none either: Keras steps with gradients that are not finite, but in its LossScaleOptimizer. Nor has
        `sparse="lazy"`: the copies of the moments are decayed to the present, and Keras steps every row. Nor have
        `moments`, `weights` and `seed`: the copies are the numbers that the next step here would compute with;
        corrections of split weights are left out.

        Raises:
            UnsupportedError: a subclass, whose steps may be others; `groups`, which Keras has not; `no_decay` before
                the optimizer is built.

        Example:
            >>> import keras
            >>> from adamas.tensorflow import AdamW
            >>> type(AdamW(1e-3, weight_decay=0.01).to_keras()) is keras.optimizers.AdamW
            True
        """
        if type(self).__module__ not in tuple(
            f"adamas.tensorflow.{kind}" for kind in ("adam", "adamax", "lamb", "nadam")
        ):
            raise UnsupportedError(
                f"{type(self).__name__} is a class of its own and may step otherwise than keras.optimizers.Adam; make "
                "Keras' optimizer from what you know about it"
            )
        if self._like != "keras":
            raise UnsupportedError(
                f"like={self._like!r}: keras.optimizers.{type(self).__name__} has Keras' epsilon only"
            )
        if self._groups.groups:
            raise UnsupportedError(
                f"keras.optimizers.{type(self).__name__} has no groups; make an optimizer for each, and put them into "
                "keras.optimizers.MultiOptimizer"
            )
        if self._groups.sparing is not False and not self.built:
            raise UnsupportedError(
                "no_decay: which variables it leaves out is known when the optimizer is built; call build(variables) "
                "first"
            )
        cls = getattr(keras.optimizers, type(self).__name__)
        rate = self._learning_rate
        settings = {name: getattr(self, name) for name in inspect.signature(cls).parameters if hasattr(self, name)}
        settings["learning_rate"] = float(rate) if isinstance(rate, keras.Variable) else rate
        theirs = cls(**settings)
        for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(self, name):
                setattr(theirs, name, copy.copy(getattr(self, name)))
        spared = [v for v in self._trainable_variables if self._is_spared(v)]
        if spared:
            own: set[Any] = getattr(theirs, "_exclude_from_weight_decay", set())
            theirs._exclude_from_weight_decay = own | {theirs._var_key(v) for v in spared}
        if self.built:
            theirs.build(self._trainable_variables)
            with for_keras():
                mine = self.variables
            for its, value in zip(theirs.variables, mine, strict=True):
                its.assign(value.numpy())
        return theirs

    def _is_spared(self, variable: Any) -> bool:
        """Whether `no_decay` leaves a variable out of weight decay."""
        i = self._index.get(self._var_key(variable)) if self.built else None
        return i is not None and bool(self._members.spared[i])

    def _checkpoint_adapter(self, path: str) -> Any:
        """TensorFlow's question before it restores this optimizer, or plans to when it is built: fit to be restored?

        By itself it leaves alone what it finds no place for, so training would silently go on from zero moments.
        """
        self._offer = look(path)
        if self.built:
            stepper = self._ready()
            clocks = len(stepper.clocks())
            shapes = [tuple(variable.shape) for variable in self.variables]
            dtypes, last = stepper.stored_dtypes(), len(shapes) - len(stepper.carries) - clocks
            self._offer.check(self.name, self._kind(), shapes, clocks, dict(enumerate(dtypes, last - len(dtypes))))
            # A checkpoint without clocks leaves them as they are, and one that cannot be read must leave all as it is.
            hypers = self._hypers(self._numbers())
            for i in range(len(stepper.variables)) if stepper.clocks() else ():
                for slot, moment in enumerate(stepper.settled(i, hypers[i])):
                    stepper.slots.write(slot, i, moment, self._iterations.value)
            stepper.reset_clocks()
        return super()._checkpoint_adapter(path)

    @contextmanager
    def _restoring(self, variables: Sequence[Any], stepper: Stepper) -> Iterator[None]:
        """In it, `build` makes what the optimizer keeps, and TensorFlow fills in what it was to restore.

        Raises:
            StateError: what was restored before does not fit, or cannot be read; then for every further build too.
        """
        if self._refusal:
            raise StateError(self._refusal)
        if self._offer:
            kept = [*self.variables]  # iterations, learning rate
            kept += stepper.variables if self.use_ema else []
            kept += variables if self.gradient_accumulation_steps else []
            kept += [stepper.variables[i] for _, i in stepper.places()]
            clocks, dtypes = stepper.clock_shapes(), stepper.stored_dtypes()
            shapes = [tuple(variable.shape) for variable in kept]
            behind = [*([()] * len(stepper.rule.carries)), *clocks]
            moments = dict(enumerate(dtypes, len(shapes) - len(dtypes)))
            self._offer.check(self.name, self._kind(), [*shapes, *behind], len(clocks), moments)
        try:
            yield
        except (tf.errors.OpError, IndexError) as error:  # IndexError: TensorFlow's word for a file that is too short
            if self._offer is None:
                raise
            self.built = False
            self._refusal = (
                f"{self._offer.path} cannot be read ({error}); make a new optimizer, restore another checkpoint"
            )
            raise StateError(self._refusal) from error

    def _kind(self) -> Kind:
        return Kind(type(self).__name__, self._lists)

    def _track_lists(self) -> None:
        """Let checkpoints list the slots by their names, as they do for Keras' optimizers."""
        for slot, name in enumerate(self._lists):
            members = [v for v in self._variables if isinstance(v, Moment) and v.slot == slot]
            self._track_trackable(tf.__internal__.tracking.wrap(members), name, overwrite=True)

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        """What TensorFlow saves: everything in a checkpoint; no moments in a SavedModel, which nobody trains on."""
        children = dict(super()._trackable_children(save_type, **options))
        if save_type != "checkpoint":
            del children["_variables"]
        return children
