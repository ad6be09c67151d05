"""States of Keras' own optimizers, `keras.optimizers.Adam`, `AdamW`, `Nadam`, `Adamax` and `Lamb`, on any backend.

state.save("optimizer.safetensors", from_keras(model.optimizer))            # go on in any framework
to_keras(state.load("optimizer.safetensors"), model.optimizer)              # and back
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from adamas.errors import StateError, UnsupportedError
from adamas.keras_names import check_applied, distinct_names
from adamas.rule import PRESETS, Hyper, Rule
from adamas.state import State
from adamas.storage import check_optional

_ADAM = {"m": "_momentums", "v": "_velocities", "vmax": "_velocity_hats"}
_SLOTS = {"Adam": _ADAM, "AdamW": _ADAM, "Nadam": _ADAM, "Lamb": _ADAM, "Adamax": {"m": "_m", "v": "_u"}}


def from_keras(optimizer: Any) -> State:
    """A copy of what one of Keras' own optimizers carries from step to step; in float32 and float64 exactly.

    Args:
        optimizer: `keras.optimizers.Adam`, `AdamW`, `Nadam`, `Adamax` or `Lamb`, built. A schedule is read as the
            learning rate that it gives now. Parameters go by their Keras path; equal ones are numbered.

    Raises:
        UnsupportedError: another optimizer; or parameters of 16 bits, whose moments Keras rounds.
        StateError: it is not built, or in the middle of accumulating gradients.

    Example:
        >>> import keras, numpy as np
        >>> from adamas.keras import from_keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer="adam", loss="mse")
        >>> _ = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        >>> sorted(from_keras(model.optimizer).shapes.values())
        [(1,), (2, 1)]
    """
    rule, variables, names = _rule(optimizer), _variables(optimizer), _names(optimizer)
    check_applied(optimizer)
    hyper = _hyper(optimizer)
    kept = _kept(optimizer, rule)
    decays = [bool(optimizer._use_weight_decay(variable)) for variable in variables]
    alike = all(decays) or not hyper.weight_decay
    carry = (float(_array(optimizer._u_product)),) if rule.carries else ()
    return State(
        rule=rule,
        slots={name: {slot: _array(variables[i]) for slot, variables in kept.items()} for i, name in enumerate(names)},
        steps=dict.fromkeys(names, int(optimizer.iterations)),
        hypers=[hyper] if alike else [hyper, replace(hyper, weight_decay=0.0)],
        groups={name: 0 if alike or own else 1 for name, own in zip(names, decays, strict=True)},
        carries=dict.fromkeys(names, carry),
    )


def to_keras(state: State, optimizer: Any) -> None:
    """Give a state to one of Keras' own optimizers, in place: moments, in float32, `iterations` and numbers.

    Args:
        state: of the same formula, over parameters of the same names (`State.renamed`). bfloat16 and int8 are decoded.
        optimizer: as for `from_keras`, built. A learning rate that is a schedule stays as it is.

    Raises:
        UnsupportedError: as `from_keras`.
        StateError: it is not built, or the state does not fit it; lists the differences. Nothing has been changed.
    """
    rule, variables, names = _rule(optimizer), _variables(optimizer), _names(optimizer)
    kept = _kept(optimizer, rule)
    shapes = [tuple(variable.shape) for variable in variables]
    state.check_fits(
        rule,
        dict(zip(names, shapes, strict=True)),
        {name: variable.dtype for name, variable in zip(names, variables, strict=True)},
    )
    step, carry = state.in_step()
    used = [state.hypers[state.groups[name]] for name in names]
    main = max(used, key=lambda hyper: hyper.weight_decay, default=state.hypers[0])
    constants = PRESETS[f"keras.{type(optimizer).__name__}"].hyper
    for name, hyper, variable in zip(names, used, variables, strict=True):
        expected = replace(
            main, eps_root=0.0, momentum_decay=constants.momentum_decay if rule.carries else main.momentum_decay
        )
        if not optimizer._use_weight_decay(variable):
            expected = replace(expected, weight_decay=0.0)
        if hyper != expected:
            raise StateError(
                f"{name}: the state has {hyper}, keras.optimizers.{type(optimizer).__name__} would step it with "
                f"{expected}; nothing was loaded. Call exclude_from_weight_decay for the same variables, or use "
                "adamas.keras"
            )
    for name in names:
        check_optional(name, kept, state.slots[name])
    found = [{slot: state.numbers(name, slot) for slot in state.slots[name]} for name in names]
    for i, slots in enumerate(found):
        for slot, value in slots.items():
            kept[slot][i].assign(value)
    if carry:
        optimizer._u_product.assign(*carry)
    optimizer._iterations.assign(step * (optimizer.gradient_accumulation_steps or 1))
    if isinstance(optimizer._learning_rate, keras.Variable):
        optimizer._learning_rate.assign(main.lr)
    optimizer.beta_1, optimizer.beta_2, optimizer.epsilon = main.beta1, main.beta2, main.eps
    if main.weight_decay or optimizer.weight_decay is not None:
        optimizer.weight_decay = main.weight_decay


def _rule(optimizer: Any) -> Rule:
    """The switches of one of Keras' own optimizers."""
    name = type(optimizer).__name__
    # On torch Keras makes objects of a subclass of its own.
    if name not in _SLOTS or not type(optimizer).__module__.startswith("keras.src."):
        raise UnsupportedError(
            f"a {type(optimizer).__module__}.{name}: give one of keras.optimizers' {', '.join(_SLOTS)} itself. "
            "Adamas' own optimizers have portable_state() and load_portable_state()"
        )
    if not optimizer.built:
        raise StateError("the optimizer has no moments yet: call its build(model.trainable_variables), or take a step")
    rule = PRESETS[f"keras.{name}"].rule
    return replace(rule, amsgrad="raw") if getattr(optimizer, "amsgrad", False) else rule


def _variables(optimizer: Any) -> list[Any]:
    variables = list(optimizer._trainable_variables)
    for variable in variables:
        if variable.dtype not in ("float32", "float64"):
            raise UnsupportedError(
                f"{variable.path} is {variable.dtype}, and Keras keeps its moments in that too; only float32 and "
                "float64 move exactly. Keep the variables in float32 (a policy such as 'mixed_bfloat16' does)"
            )
    return variables


def _names(optimizer: Any) -> list[str]:
    return distinct_names(optimizer._trainable_variables)


def _kept(optimizer: Any, rule: Rule) -> dict[str, Sequence[Any]]:
    """Slot -> its variables, one for each parameter."""
    places = _SLOTS[type(optimizer).__name__]
    kept = {slot.name: getattr(optimizer, places[slot.name]) for slot in rule.slots}
    return {**kept, "average": optimizer._model_variables_moving_average} if optimizer.use_ema else kept


def _hyper(optimizer: Any) -> Hyper:
    return replace(
        PRESETS[f"keras.{type(optimizer).__name__}"].hyper,
        lr=float(_array(optimizer.learning_rate)),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay or 0.0,
    )


def _array(variable: Any) -> np.ndarray:
    tensor = keras.ops.convert_to_tensor(variable)
    if keras.backend.backend() == "tensorflow":  # keras.ops.convert_to_numpy makes NumPy 2 warn of TensorFlow's tensors
        return np.array(tensor.numpy())
    return np.array(keras.ops.convert_to_numpy(tensor))
