"""How an optimizer's state is saved and loaded on Keras' JAX and torch backends, as on TensorFlow."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from adamas.errors import StateError, UnsupportedError
from adamas.formats import Blocks
from adamas.keras.kept import Kept, Memory, Stored, array
from adamas.keras_names import check_applied, distinct_names
from adamas.keras_store import SCALES, difference, for_keras, is_for_keras, not_numbers, read
from adamas.rule import Hyper
from adamas.state import State
from adamas.storage import check_optional

_SAME = (
    "Make the optimizer with the same class, arguments and variables as the one that was saved (for a model: the same "
    "layers, trainable as they were when the optimizer was built)"
)


class Saved(keras.optimizers.Optimizer):
    """The half of an optimizer that reads and writes its state."""

    if TYPE_CHECKING:  # what the other half gives
        beta_1: float
        beta_2: float
        epsilon: float
        weight_decay: float | None
        _like: Any
        _memory: Memory | None
        _ours: dict[str, Any]
        _skipped: Any
        _ready: Any
        _numbers: Any
        _hypers: Any

    def _carried(self, carry: Any) -> np.ndarray:
        """A number that the rule carries, from its variable."""
        return array(carry)

    def _carry(self, carry: Any, number: float) -> None:
        """Replace a number that the rule carries."""
        carry.assign(number)

    def _entries(self) -> list[Any]:
        """What a file has an array for, in its order: variables, and `Kept` where they belong to one."""
        memory = self._memory
        if memory is None:
            return list(self._variables)
        own = {id(kept.values): kept for kept in memory.kept}
        no_array = {id(self._skipped), *(id(kept.scales) for kept in memory.kept if kept.scales is not None)}
        last = len(memory.rule.slots)
        return [
            own.get(id(variable), variable)
            for variable in self._variables
            if id(variable) not in no_array
            and not (is_for_keras.get() and id(variable) in own and own[id(variable)].slot == last)
        ]

    def save_own_variables(self, store: Any) -> None:
        """Write the state to one of Keras' files: the arrays "0", "1", ... as Keras' own optimizer has them.

        A moment in bfloat16 or int8 is written as it is kept, the scales of int8 as "scales of 5". For Keras' own
        optimizer (`adamas.keras.save_model`), moments are written in the dtype of computation.
        """
        carries = {id(carry) for carry in self._memory.carries} if self._memory else set()
        for i, entry in enumerate(self._entries()):
            if isinstance(entry, Kept):
                stored = self._ready().wide(entry) if is_for_keras.get() else entry.stored()
                store[str(i)] = stored.codes if isinstance(stored, Blocks) else stored
                if isinstance(stored, Blocks):
                    store[SCALES.format(i)] = stored.scales
            else:
                store[str(i)] = self._carried(entry) if id(entry) in carries else array(entry)

    def load_own_variables(self, store: Any) -> None:
        """Read the state from one of Keras' files, written on any backend, or by Keras' own optimizer.

        Moments that were kept in another format are converted to that of this optimizer; in the same one they are taken
        over to the bit. Before the optimizer is built there is no place for them: they are skipped with a warning, as
        in Keras.

        Raises:
            StateError: it was saved for other variables or settings. Nothing has been changed.
        """
        arrays, scales = read(store, self.name)
        entries = self._entries()
        if self._memory is None and len(arrays) > len(entries):
            warnings.warn(
                f"the state that was saved for the optimizer {self.name!r} is skipped: it has no moments yet. To go on "
                "from it, call optimizer.build(model.trainable_variables) before load_weights",
                stacklevel=2,
            )
            return
        carries = {id(carry): n for n, carry in enumerate(self._memory.carries)} if self._memory else {}
        unbuilt = 2 if isinstance(self._learning_rate, keras.Variable) else 1  # iterations, learning rate
        if len(arrays) == unbuilt and not arrays[0].any():  # saved before it was built: all else is as it begins
            initial = [carry.initial for carry in self._memory.rule.carries] if self._memory else []
            for entry in entries[unbuilt:]:
                begins = initial[carries[id(entry)]] if id(entry) in carries else 0.0
                arrays.append(np.full(() if id(entry) in carries else tuple(entry.shape), begins))
        last = len(self._memory.rule.slots) if self._memory else 0
        corrections = [i for i, entry in enumerate(entries) if isinstance(entry, Kept) and entry.slot == last]
        if corrections and len(arrays) == len(entries) - len(corrections):
            for i in corrections:
                arrays.insert(i, np.zeros(entries[i].shape, np.int8))
        shapes = [() if id(entry) in carries else tuple(entry.shape) for entry in entries]
        misfit = difference([a.shape for a in arrays], shapes) or not_numbers(arrays, scales)
        if misfit:
            raise StateError(
                f"the saved state of {self.name!r} does not fit: {misfit}. Nothing was loaded. {_SAME}. Without this "
                "state go on with load_weights(..., skip_mismatch=True), or load_model(..., compile=False) and a new "
                "optimizer, as where layers were frozen after the optimizer was built"
            )
        for i, (entry, found) in enumerate(zip(entries, arrays, strict=True)):
            if isinstance(entry, Kept):
                given = Blocks(found, scales[i]) if i in scales else found
                entry.put(self._ready().converted(entry, given, int(arrays[0])))
            elif id(entry) in carries:
                self._carry(entry, float(found))
            else:
                entry.assign(found)

    def to_keras(self) -> Any:
        """Keras' `Adam`, `AdamW`, `Adamax`, `Lamb` or `Nadam` with these settings, and this state if there is one.

        It steps the same variables and has copies of everything else. A schedule or a callable as learning rate is
        shared. `kernel`, `nonfinite`, `moments`, `weights` and `seed` have no counterpart: the copies of the moments
        are the numbers that the next step here would compute with; corrections of split weights are left out.

        Raises:
            UnsupportedError: Keras has no such optimizer; or a subclass, whose steps may be others.
        """
        name = type(self).__name__
        if type(self).__module__ != "adamas.keras.others" or name not in ("Adam", "AdamW", "Adamax", "Lamb", "Nadam"):
            raise UnsupportedError(
                f"Keras has no {name}: {type(self).__module__}.{name} may step otherwise than keras.optimizers.Adam. "
                "Make Keras' optimizer from what you know about it"
            )
        if self._like != "keras":
            raise UnsupportedError(f"like={self._like!r}: keras.optimizers.{name} has Keras' epsilon only")
        cls = getattr(keras.optimizers, name)
        rate = self._learning_rate
        settings = {name: getattr(self, name) for name in inspect.signature(cls).parameters if hasattr(self, name)}
        settings["learning_rate"] = float(array(rate)) if isinstance(rate, keras.Variable) else rate
        theirs = cls(**settings)
        for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(self, name):
                setattr(theirs, name, copy.copy(getattr(self, name)))
        if self.built:
            theirs.build(self._trainable_variables)
            mine: dict[str, np.ndarray] = {}
            with for_keras():
                self.save_own_variables(mine)
            for i, its in enumerate(theirs.variables):
                its.assign(mine[str(i)])
        return theirs

    def portable_state(self) -> State:
        """A copy of everything carried from step to step, for `adamas.state.save`; moments as they are stored.

        Raises:
            StateError: the optimizer is not built yet, or in the middle of accumulating gradients.
        """
        check_applied(self)
        memory, names = self._ready(), self._names()
        own = self._numbers(lr=float(array(self.learning_rate)))
        each = self._hypers(own)
        hypers = list(dict.fromkeys([own, *each]))
        return State(
            rule=memory.rule,
            slots={name: {**memory.moments(i), **self._average(i)} for i, name in enumerate(names)},
            steps=dict.fromkeys(names, int(array(self.iterations))),
            hypers=hypers,
            groups={name: hypers.index(hyper) for name, hyper in zip(names, each, strict=True)},
            carries=dict.fromkeys(names, tuple(float(self._carried(carry)) for carry in memory.carries)),
            seed=memory.seed,
            rounding_names=dict(zip(names, memory.names, strict=True)),
        )

    def load_portable_state(self, state: State) -> None:
        """Take over a `State`, as `adamas.state.load` gives it: moments, `iterations`, numbers and seed.

        A learning rate that is a schedule or a callable stays as it is. Gradients that were accumulated are dropped.

        Raises:
            StateError: it does not fit these variables or this formula; or it rounds with other random numbers, and a
                function that JAX compiled holds this optimizer's. Nothing has been changed.
        """
        memory, names = self._ready(), self._names()
        state.check_fits(
            memory.rule,
            {name: tuple(v.shape) for name, v in zip(names, memory.variables, strict=True)},
            {name: v.dtype for name, v in zip(names, memory.variables, strict=True)},
        )
        step, carry = state.in_step()
        used = [state.hypers[state.groups[name]] for name in names]
        main: Hyper = max(used, key=lambda hyper: hyper.weight_decay, default=state.hypers[0])
        for name, hyper, expected in zip(names, used, self._hypers(main), strict=True):
            if hyper != expected:
                raise StateError(
                    f"{name}: the state has {hyper}, this optimizer steps it with {expected}; call "
                    "exclude_from_weight_decay for the same variables"
                )
        own = self._numbers()
        carried = ("momentum_decay", "warmup_steps", "r", "weight_lr_power") if memory.carries else ()
        fixed = ("eps_root", *carried)
        if any(getattr(own, name) != getattr(main, name) for name in fixed):
            raise StateError(f"the state was made with {main} and this optimizer has {own}; make one with the same")
        for i, name in enumerate(names):
            kept = {"correction": None} if memory.hows[i].weights == "split" else {}
            check_optional(name, {**kept, **self._average(i)}, state.slots[name])
        seed = memory.seed if state.seed is None else state.seed
        drawn_by = [state.rounding_names.get(name, own) for name, own in zip(names, memory.names, strict=True)]
        self._draw_by(seed, drawn_by)  # refuses, or changes what only the rest of this gives a meaning
        memory = self._ready()
        slots = [*(slot.name for slot in memory.rule.slots), "correction"]
        for kept in memory.kept:
            given: Mapping[str, Stored] = {
                "correction": np.zeros(kept.shape, np.int8),
                **state.slots[names[kept.i]],
            }
            kept.put(memory.converted(kept, given[slots[kept.slot]], step))
        for average, variable, name in zip(self._averages(), memory.variables, names, strict=False):
            average.assign(state.slots[name].get("average", variable))
        for variable, number in zip(memory.carries, carry, strict=True):
            self._carry(variable, number)
        if self.gradient_accumulation_steps:
            for variable in self._accumulated_gradients:
                variable.assign(np.zeros(variable.shape, np.float32))
        self._iterations.assign(step * (self.gradient_accumulation_steps or 1))
        if isinstance(self._learning_rate, keras.Variable):
            self._learning_rate.assign(main.lr)
        self.beta_1, self.beta_2, self.epsilon = main.beta1, main.beta2, main.eps
        if main.weight_decay or self.weight_decay is not None:
            self.weight_decay = main.weight_decay

    def _averages(self) -> list[Any]:
        """The variables of Keras' averages of the parameters that are stepped; none without use_ema."""
        if not self.use_ema:
            return []
        stepped = {id(variable) for variable in self._ready().variables}
        both = zip(self._model_variables_moving_average, self._trainable_variables, strict=True)
        return [average for average, variable in both if id(variable) in stepped]

    def _average(self, i: int) -> dict[str, np.ndarray]:
        """The average of parameter i, if there is one."""
        if not self.use_ema:
            return {}
        average = np.array(array(self._averages()[i]))
        return {"average": average if average.dtype == np.float64 else average.astype(np.float32)}

    def _draw_by(self, seed: int, names: Sequence[str]) -> None:
        """Draw random numbers by another seed and other names from now on, as the optimizer that a state is of.

        Raises:
            StateError: a compiled function holds the old ones.
        """
        self._memory = replace(self._ready(), seed=seed, names=tuple(names))
        self._ours["seed"] = seed

    def _names(self) -> list[str]:
        return distinct_names(self._ready().variables)
