"""The portable state of an optimizer, which any other framework can go on from: see `adamas.state`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from adamas.errors import StateError
from adamas.formats import Blocks, arrays
from adamas.keras_names import check_applied, distinct_names, rounding_names
from adamas.kernels.tensorflow.slots import wide
from adamas.kernels.tensorflow.stepper import Stepper
from adamas.rule import Hyper
from adamas.state import State
from adamas.storage import check_optional


class Portable(keras.optimizers.Optimizer):
    """The part of an optimizer that gives its state to other frameworks, and takes theirs."""

    if TYPE_CHECKING:  # what the other parts give
        beta_1: float
        beta_2: float
        epsilon: float
        weight_decay: float | None
        _index: dict[Any, int]
        _members: Any
        _settings: Any
        _storage: Any
        _hypers: Any
        _ready: Any

    def portable_state(self) -> State:
        """A copy of everything carried from step to step, for `adamas.state.save`; moments as they are stored.

        Parameters go by their Keras path, or their TensorFlow name; equal names are numbered. With sparse="lazy" the
        moments are decayed to the present first, as a dense optimizer's would be; the optimizer itself does not change.

        Raises:
            StateError: the optimizer is not built yet, or in the middle of accumulating gradients.
        """
        check_applied(self)
        stepper, names = self._ready(), self._names()
        own = replace(self._numbers(), lr=float(self.learning_rate))
        each = self._hypers(own)
        hypers = list(dict.fromkeys([own, *each]))
        return State(
            rule=stepper.rule,
            slots={name: {**self._kept(i), **self._average(i)} for i, name in enumerate(names)},
            steps=dict.fromkeys(names, int(self.iterations)),
            hypers=hypers,
            groups={name: hypers.index(hyper) for name, hyper in zip(names, each, strict=True)},
            carries=dict.fromkeys(names, tuple(float(carry.numpy()) for carry in stepper.carries)),
            seed=stepper.slots.seed,
            rounding_names=dict(zip(names, stepper.slots.rounding_names, strict=True)),
        )

    def load_portable_state(self, state: State) -> None:
        """Take over a `State`, as `adamas.state.load` gives it: moments, `iterations`, numbers and seed.

        A learning rate that is a schedule or a callable stays as it is. Gradients that were accumulated are dropped.

        Raises:
            StateError: it does not fit these variables or this formula; or it rounds with other random numbers, and a
                function was traced that holds this optimizer's. Nothing has been changed.
        """
        stepper, names = self._ready(), self._names()
        dtypes = [wide(variable.dtype.name) for variable in stepper.variables]
        state.check_fits(
            stepper.rule, dict(zip(names, stepper.shapes, strict=True)), dict(zip(names, dtypes, strict=True))
        )
        step, carry = state.in_step()
        for i, name in enumerate(names):
            split = stepper.layouts[i].of(len(stepper.rule.slots))
            optional = {"correction": split} if split else {}
            check_optional(name, {**optional, **self._average(i)}, state.slots[name])
        main = self._numbers_of(state, names)
        seed = stepper.slots.seed if state.seed is None else state.seed
        drawn_by = [
            state.rounding_names.get(name, own) for name, own in zip(names, stepper.slots.rounding_names, strict=True)
        ]
        stepper.draw_by(seed, drawn_by)  # refuses, or changes what only the rest of this gives a meaning
        self._storage = replace(self._storage, seed=seed)
        for i, name in enumerate(names):
            kept: dict[str, Any] = {"correction": np.zeros(stepper.shapes[i], np.int8), **state.slots[name]}
            for s, slot_name in enumerate([*(slot.name for slot in stepper.rule.slots), "correction"]):
                if stepper.layouts[i].of(s):
                    stepper.slots.take_over(s, i, arrays(kept[slot_name]), step)
            if self.use_ema:
                self._averages()[i].assign(kept.get("average", stepper.variables[i]))
        for variable, value in zip(stepper.carries, carry, strict=True):
            variable.assign(value)
        stepper.reset_clocks()
        if self.gradient_accumulation_steps:
            for variable in self._accumulated_gradients:
                variable.assign(tf.zeros_like(variable.value))
        self._iterations.assign(step * (self.gradient_accumulation_steps or 1))
        if isinstance(self._learning_rate, keras.Variable):
            self._learning_rate.assign(main.lr)
        self.beta_1, self.beta_2, self.epsilon = main.beta1, main.beta2, main.eps
        if main.weight_decay or (self.weight_decay is not None and not self._all_spared()):
            self.weight_decay = main.weight_decay

    def _numbers_of(self, state: State, names: Sequence[str]) -> Hyper:
        """The optimizer's own numbers, as a state has them.

        Raises:
            StateError: its parameters have others there than this optimizer steps them with.
        """
        used = [state.hypers[state.groups[name]] for name in names]
        ours = [hyper for hyper, k in zip(used, self._members.group_of, strict=True) if k == 0]
        mains = sorted(set(ours), key=lambda hyper: -hyper.weight_decay) or [state.hypers[0]]
        # Where every variable of ours is spared, its decay shows only in a group that has none of its own.
        inherited = {hyper.weight_decay for hyper in used}
        mains += [replace(mains[0], weight_decay=decay) for decay in sorted(inherited, reverse=True)]
        main = next((main for main in mains if self._hypers(main) == used), mains[0])
        for name, hyper, expected in zip(names, used, self._hypers(main), strict=True):
            if hyper != expected:
                raise StateError(
                    f"{name}: the state has {hyper}, this optimizer steps it with {expected}; make it with the same "
                    "groups, or call exclude_from_weight_decay for the same variables"
                )
        own, carries = self._numbers(), state.rule.carries
        fixed = ["eps_root", *(name for name in ("momentum_decay", "warmup_steps", "r", "weight_lr_power") if carries)]
        if any(getattr(own, name) != getattr(main, name) for name in fixed):
            raise StateError(
                f"the state was made with {main}; this optimizer has {own}. Make one with the same settings"
            )
        return main

    def _all_spared(self) -> bool:
        """Whether the optimizer's own weight decay applies to no variable, so that no state says what it is."""
        ones = replace(self._numbers(), weight_decay=1.0)
        zeros = replace(ones, weight_decay=0.0)
        return bool(self._hypers(ones) == self._hypers(zeros))

    def _numbers(self) -> Hyper:
        """The optimizer's own numbers, but for the learning rate."""
        hyper: Hyper = self._settings.lines[0].hyper
        return hyper

    def _kept(self, i: int) -> dict[str, np.ndarray | Blocks]:
        """What is kept of parameter i, as it is stored, by the name of the slot; silent rows decayed to the present."""
        stepper: Stepper = self._ready()
        if stepper.clocks():
            settled = stepper.settled(i, self._hypers(self._numbers())[i])
            return dict(zip((slot.name for slot in stepper.rule.slots), settled, strict=True))
        found: dict[str, np.ndarray | Blocks] = {}
        for s, name in enumerate([*(slot.name for slot in stepper.rule.slots), "correction"]):
            parts = [np.array(part.numpy()) for part in stepper.slots.stored(s, i)]
            if parts:
                found[name] = Blocks(*parts) if len(parts) > 1 else parts[0]
        return found

    def _averages(self) -> list[Any]:
        """The variables of Keras' averages of the parameters that are stepped."""
        averages = self._model_variables_moving_average
        stepped = [self._var_key(v) in self._index for v in self._trainable_variables]
        return [average for average, is_stepped in zip(averages, stepped, strict=True) if is_stepped]

    def _average(self, i: int) -> dict[str, np.ndarray]:
        """The average of parameter i, if there is one."""
        if not self.use_ema:
            return {}
        average = np.array(self._averages()[i].numpy())
        return {"average": average.astype(wide(self._averages()[i].dtype))}

    def _rounding_names(self) -> list[str]:
        """The parameters' names as they key random numbers."""
        return rounding_names(self._names())

    def _names(self) -> list[str]:
        """The parameters' names, made distinct in their order."""
        return distinct_names([v for v in self._trainable_variables if self._var_key(v) in self._index])
