"""How an optimizer's state is saved and loaded: Keras' files, TensorFlow's checkpoints, the portable checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from adamas.errors import StateError
from adamas.state import State


class Saved(keras.optimizers.Optimizer):
    """The half of `adamas.tensorflow.Adam` that reads and writes its state."""

    if TYPE_CHECKING:  # what the other half gives
        beta_1: float
        beta_2: float
        epsilon: float
        weight_decay: float | None
        _stepper: Any
        _index: dict[Any, int]
        _numbers: Any
        _ready: Any

    def load_own_variables(self, store: Any) -> None:
        """Read the state from one of Keras' files; Adamas and `keras.optimizers.Adam` write the same arrays.

        Before the optimizer is built there is no place for them: they are skipped with a warning, as in Keras.

        Args:
            store: arrays by the names "0", "1", ...: `iterations`, the learning rate if it is a number, averages,
                accumulators, then m and v of each parameter by turns, then each parameter's largest v.

        Raises:
            StateError: it was saved for other variables or settings. Nothing has been changed.
        """
        try:
            arrays = [np.asarray(store[str(i)]) for i in range(len(store.keys()))]
        except KeyError as error:
            raise StateError(f"the saved state of {self.name!r} has no array {error}; the file is damaged") from error
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
        if len(arrays) == unbuilt and not arrays[0].any():  # saved before it was built: all else is still zero
            arrays += [np.zeros(shape) for shape in shapes[unbuilt:]]
        found = [array.shape for array in arrays]
        if found != shapes or any(array.dtype.kind not in "iuf" for array in arrays):
            raise StateError(
                f"the saved state of {self.name!r} does not fit: {_difference(found, shapes)}. Nothing was loaded. "
                "Build the optimizer for the same variables with the same amsgrad, use_ema, "
                "gradient_accumulation_steps and kind of learning rate (number or schedule); or give load_weights "
                "skip_mismatch=True to leave the optimizer as it is"
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def portable_state(self) -> State:
        """A copy of everything carried from step to step, for `adamas.state.save`.

        Parameters go by their Keras path, or their TensorFlow name; equal names are numbered.

        Raises:
            StateError: the optimizer is not built yet.
        """
        stepper, names = self._ready(), self._names()
        numbers = self._numbers()
        hyper = replace(numbers, lr=float(self.learning_rate))
        hypers = [hyper, replace(hyper, weight_decay=0.0)]
        groups = [0 if self._use_weight_decay(v) else 1 for v in stepper.variables]
        if not numbers.weight_decay or not any(groups):
            hypers, groups = [hyper], [0] * len(groups)
        return State(
            rule=stepper.rule,
            slots={
                name: {slot.name: np.array(stepper.slots.read(s, i)) for s, slot in enumerate(stepper.rule.slots)}
                for i, name in enumerate(names)
            },
            steps=dict.fromkeys(names, int(self._iterations.value)),
            hypers=hypers,
            groups=dict(zip(names, groups, strict=True)),
        )

    def load_portable_state(self, state: State) -> None:
        """Take over a `State`, as `adamas.state.load` gives it: moments, `iterations` and numbers (learning rate, ...).

        A learning rate that is a schedule or a callable stays as it is.

        Raises:
            StateError: it does not fit these variables or this formula. Nothing has been changed.
        """
        stepper, names = self._ready(), self._names()
        dtypes = [variable.dtype.name for variable in stepper.variables]
        state.check_fits(
            stepper.rule, dict(zip(names, stepper.shapes, strict=True)), dict(zip(names, dtypes, strict=True))
        )
        if len(set(state.steps.values())) > 1:
            raise StateError(
                "the state has parameters at different steps and a Keras optimizer counts one step for all"
            )
        used = [state.hypers[state.groups[name]] for name in names]
        main = max(used, key=lambda hyper: hyper.weight_decay, default=state.hypers[0])
        for name, hyper, variable in zip(names, used, stepper.variables, strict=True):
            expected = main if self._use_weight_decay(variable) else replace(main, weight_decay=0.0)
            if hyper != expected:
                raise StateError(
                    f"{name}: the state has {hyper}, this optimizer steps it with {expected}; make one optimizer for "
                    "each group, or call exclude_from_weight_decay for the same variables"
                )
        for i, name in enumerate(names):
            for s, slot in enumerate(stepper.rule.slots):
                stepper.slots.write(s, i, state.slots[name][slot.name])
        self._iterations.assign(next(iter(state.steps.values()), 0))
        if isinstance(self._learning_rate, keras.Variable):
            self._learning_rate.assign(main.lr)
        self.beta_1, self.beta_2, self.epsilon = main.beta1, main.beta2, main.eps
        if main.weight_decay or self.weight_decay is not None:
            self.weight_decay = main.weight_decay

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        """What TensorFlow saves: everything in a checkpoint; no moments in a SavedModel, which nobody trains on."""
        children = dict(super()._trackable_children(save_type, **options))
        if save_type != "checkpoint":
            del children["_variables"]
        return children

    def _names(self) -> list[str]:
        """The parameters' names, made distinct in their order."""
        names: list[str] = []
        for variable in self._trainable_variables:
            if self._var_key(variable) in self._index:
                name = str(getattr(variable, "path", None) or variable.name).removesuffix(":0")
                taken = sum(1 for other in names if other == name or other.startswith(f"{name}#"))
                names.append(f"{name}#{taken}" if taken else name)
        return names


def _difference(found: list[tuple[int, ...]], expected: list[tuple[int, ...]]) -> str:
    if len(found) != len(expected):
        return f"it has {len(found)} arrays, this optimizer {len(expected)}"
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one != other:
            return f"its array {i} has the shape {one}, that of this optimizer {other}"
    return "it holds something else than numbers"
