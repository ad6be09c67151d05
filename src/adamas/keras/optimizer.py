"""What the optimizers on Keras' JAX and torch backends have in common: all but the step itself.

How state is saved and loaded is in state.py; what is kept, in kept.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import keras
import numpy as np

from adamas import formats, storage
from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.keras import kept
from adamas.keras.kept import Memory, array
from adamas.keras.state import Saved
from adamas.keras_arguments import Like, Ours
from adamas.keras_names import distinct_names, rounding_names
from adamas.parts import check_settings, when_not_finite
from adamas.rule import Hyper, Rule
from adamas.storage import Description

_DEFAULTS: Mapping[str, Any] = {"sparse": "dense", "groups": (), "no_decay": False, "stats": False, "verify": 0}
"""What only TensorFlow serves, and how it is off."""
_OURS: Mapping[str, Any] = {
    "kernel": "auto",
    "moments": "float32",
    "weights": "nearest",
    "seed": 0,
    "like": "keras",
    "nonfinite": None,
}


class Optimizer(Saved):
    """A Keras optimizer that steps all variables in one call. Subclasses say by which rule, and how.

    Args:
        beta_1, beta_2, epsilon: of the rule.
        constants: other fields of `Hyper`, which do not change.
        ours: what Keras' optimizers do not have.
        keras_arguments: of `keras.optimizers.Optimizer`.

    Raises:
        ArgumentError: an argument is unknown or outside its range.
        UnsupportedError: an argument is not served on this backend; names it.
    """

    _slot_names: ClassVar[Mapping[str, str]] = {"m": "momentum", "v": "velocity", "vmax": "velocity_hat", "z": "z"}
    """What Keras calls the slots."""
    _likes: ClassVar[tuple[Like, ...]] = ("keras",)
    _kernels: ClassVar[Sequence[str]] = ("auto", "native", "xla")

    def __init__(
        self,
        *,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        constants: Mapping[str, float] | None = None,
        ours: Ours,
        **keras_arguments: Any,
    ) -> None:
        given: Mapping[str, Any] = ours
        self._check(given)
        rate = keras_arguments["learning_rate"]
        if isinstance(rate, float):
            Hyper(lr=rate)
        super().__init__(**keras_arguments)
        self._ours: dict[str, Any] = {name: given.get(name, default) for name, default in _OURS.items()}
        self._like = self._ours["like"]
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self._hyper = functools.partial(Hyper, **(constants or {}))
        self._memory: Memory | None = None
        self._skips, self._skipped = False, None  # known when there are variables
        self._numbers()

    def _check(self, ours: Mapping[str, Any]) -> None:
        unknown = [name for name in ours if name not in Ours.__annotations__]
        if unknown:
            raise ArgumentError(
                f"unknown argument(s) {', '.join(unknown)}; help({type(self).__name__}) lists those that there are"
            )
        backend = keras.backend.backend()
        for name, off in _DEFAULTS.items():
            asked = ours.get(name, off)
            if asked != off and not (name == "groups" and len(asked) == 0):
                raise UnsupportedError(
                    f"{name}={asked!r} is served where Keras runs on TensorFlow, and not on {backend}; leave it "
                    "out, or set KERAS_BACKEND=tensorflow"
                )
        if ours.get("like", "keras") not in self._likes:
            allowed = ", ".join(map(repr, self._likes))
            raise ArgumentError(f"like={ours['like']!r}: give one of {allowed}, for {type(self).__name__}")
        check_settings(ours.get("seed", 0), ours.get("nonfinite"), False, 0)
        if ours.get("nonfinite") == "raise":
            raise UnsupportedError(
                f"nonfinite='raise' is served where Keras runs on TensorFlow, and not on {backend}; give 'skip'"
            )
        formats.of_slots(ours.get("moments", "float32"), [slot.kind for slot in Rule().slots])
        formats.weight(ours.get("weights", "nearest"), np.dtype("bfloat16"))
        if ours.get("kernel", "auto") not in self._kernels:
            raise ArgumentError(
                f"kernel={ours['kernel']!r}: on {backend} give one of {', '.join(map(repr, self._kernels))}"
            )

    def _rule(self) -> Rule:
        """Which number comes out of a step."""
        raise NotImplementedError

    def _numbers(self, **instead: float) -> Hyper:
        """The numbers of a step, as the attributes say them now.

        Raises:
            ArgumentError: one is outside its range.
        """
        return self._hyper(
            **{
                "beta1": self.beta_1,
                "beta2": self.beta_2,
                "eps": self.epsilon,
                "weight_decay": self.weight_decay or 0.0,
                **instead,
            }
        )

    def build(self, variables: Sequence[Any]) -> None:
        """Make the moments, all zero. The first `apply_gradients`, or Keras, does it; a second call does nothing.

        Raises:
            UnsupportedError: a variable cannot be stepped.
            ArgumentError: a variable was given twice, or cannot be kept with these `moments` and `weights`;
                nonfinite="skip", which is the default with int8, together with what skips nothing.
        """
        if self.built:
            return
        variables = list(variables)
        if len({id(variable) for variable in variables}) != len(variables):
            raise ArgumentError("a variable was given twice; an optimizer steps each of them once")
        stepped = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
        rule, ours = self._rule(), self._ours
        hows = kept.choose(rule, stepped, ours["moments"], ours["weights"])
        self._skips = when_not_finite(ours["nonfinite"], hows) == "skip"
        for name in ("use_ema", "gradient_accumulation_steps"):
            if self._skips and getattr(self, name):
                raise ArgumentError(
                    f"nonfinite='skip', the default with moments in int8, and {name}, which goes on all the same where "
                    f"Keras runs on {keras.backend.backend()}; give nonfinite='propagate'"
                )
        if self._skips and (bound := [v.path for v in stepped if v.constraint is not None]):
            raise ArgumentError(
                f"nonfinite='skip', the default with moments in int8, and the constraint of {bound[0]!r}, which Keras "
                f"applies all the same where it runs on {keras.backend.backend()}; give nonfinite='propagate'"
            )
        self._check_variables(stepped, hows)
        super().build(variables)
        entries = kept.make(rule, stepped, hows, self._slot_names, self._add)
        carries = [self._add_carry(carry.name, carry.initial) for carry in rule.carries]
        entries = kept.with_scales(rule, entries, hows, self._add_scales)
        # In a tuple, or Keras would look for variables in it at each assignment of an attribute.
        self._memory = Memory(
            rule, tuple(stepped), tuple(hows), rounding_names(distinct_names(stepped)), ours["seed"], entries, carries
        )
        self._index = {self._var_key(variable): i for i, variable in enumerate(stepped)}
        if self._skips:
            self._skipped = self.add_variable((), dtype="int32", name="skipped")

    def _check_variables(self, variables: Sequence[Any], hows: Sequence[Any]) -> None:
        """Nothing if the kernel serves these variables.

        Raises:
            UnsupportedError: it does not.
            KernelError: the kernel that was asked for does not.
        """
        raise NotImplementedError

    def _add(self, variable: Any, name: str, dtype: str) -> Any:
        label = str(getattr(variable, "path", variable.name)).replace("/", "_").replace(":", "_")
        layout = getattr(variable, "_layout", None)
        return self.add_variable(variable.shape, dtype=dtype, layout=layout, name=f"{label}_{name}")

    def _add_carry(self, name: str, initial: float) -> Any:
        return self.add_variable((), keras.initializers.Constant(initial), "float64", name=name)

    def _add_scales(self, name: str, size: int) -> Any:
        return self.add_variable((size,), dtype="float32", name=name)

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why."""
        raise NotImplementedError

    def describe(self) -> Description:
        """How the slots of each variable are stored, how many bytes that takes, and why some stay in float32.

        Raises:
            StateError: the optimizer is not built yet.
        """
        memory = self._ready()
        named = zip(memory.variables, memory.hows, self._names(), strict=True)
        return Description(
            [
                storage.described(memory.rule, how, name, tuple(v.shape), np.dtype(v.dtype), "all")
                for v, how, name in named
            ]
        )

    @property
    def skipped(self) -> int:
        """How many steps were skipped because a gradient was not finite; no file holds it."""
        return 0 if self._skipped is None else int(array(self._skipped))

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """One step: `keras.optimizers.Optimizer.apply`.

        Raises:
            ArgumentError: a variable is unknown to the optimizer, or there is not one for each gradient.
        """
        grads = list(grads)
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if grads and len(grads) != len(variables):
            raise ArgumentError(f"{len(grads)} gradients for {len(variables)} variables; give one for each")
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable, as Keras' base class asks for it; `apply` steps all variables at once."""
        self._backend_update_step([gradient], [variable], learning_rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing: `_backend_update_step`, which Keras calls next, decays and steps in one pass."""

    def _check_variables_are_known(self, variables: Sequence[Any]) -> None:
        for variable in variables:
            if self._var_key(variable) not in self._trainable_variables_indices:
                raise ArgumentError(
                    f"{str(getattr(variable, 'path', variable.name))!r} is unknown to the optimizer {self.name!r}, "
                    f"which was built for {len(self._trainable_variables)} other variables; make a new optimizer"
                )

    def get_config(self) -> dict[str, Any]:
        """The arguments; `from_config` makes an equal optimizer without its state."""
        config = super().get_config()
        config.update(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)
        config.update({name: value for name, value in self._ours.items() if value != _OURS[name]})
        return dict(config)

    def _ready(self) -> Memory:
        if self._memory is None:
            raise StateError(
                f"the optimizer {self.name!r} has no moments yet: call its build(variables), or take a step"
            )
        return self._memory

    def _hypers(self, own: Hyper) -> list[Hyper]:
        """The numbers of each variable that is stepped, in an optimizer whose own are given."""
        plain = replace(own, weight_decay=0.0)
        return [own if self._use_weight_decay(variable) else plain for variable in self._ready().variables]
