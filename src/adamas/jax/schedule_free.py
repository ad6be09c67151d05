"""Schedule-free AdamW: optax's function, with another arithmetic."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from adamas.errors import ArgumentError, UnsupportedError
from adamas.jax.family import Ours, check_dtype, spelled
from adamas.jax.optimizer import Optimizer
from adamas.jax.settings import Number, Schedule, Settings
from adamas.jax.states import State
from adamas.rule import Rule


@spelled
def schedule_free_adamw(
    learning_rate: Number | Schedule = 0.0025,
    warmup_steps: int | None = None,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    weight_lr_power: Number = 2.0,
    state_dtype: Any = None,
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""Schedule-free AdamW (Defazio et al. 2024) as `optax.contrib.schedule_free_adamw`: averages, and no decay of
    the learning rate.

    Gradients are taken at the parameters y, z takes the steps, and their mean x is what a model is evaluated with:

        z <- z - lr_t (g / (sqrt(v^) + eps) + weight_decay y)      lr_t = learning_rate min(1, t / warmup_steps)
        x <- x + c_t (z - x)                                       c_t = w_t / (w_1 + ... + w_t)
        y =  b1 x + (1 - b1) z                                     w_t = max(lr_1, ..., lr_t)^weight_lr_power

    v and z are `nu` and `z` of the state. `schedule_free_eval_params` gives x.

    Args:
        learning_rate: a number, a scalar array or a schedule.
        warmup_steps: a whole number; None or 0 for none.
        b1: in (0, 1); b2: in [0, 1).
        weight_decay: at least 0.
        weight_lr_power: a whole number from 0 to 16.
        state_dtype: None or float32, in which z is kept (float64 for float64 parameters).

    `eps`, the keyword arguments and what is raised: see `adam`. `update` needs the parameters.

    Differs from optax's: step t of a warmup takes t / warmup_steps of the learning rate, as the authors' own code does,
    where optax takes that of step t - 1 and so moves nothing in the first; the weights are summed in float64.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import schedule_free_adamw, schedule_free_eval_params
        >>> optimizer = schedule_free_adamw(0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
        ...     params, state = optimizer.step(params, 2 * params, state)
        >>> bool(abs(schedule_free_eval_params(state, params)).max() < 0.1)
        True
    """
    check_dtype("state_dtype", state_dtype)
    if callable(weight_decay):
        raise UnsupportedError("weight_decay of schedule_free_adamw is a number; optax's takes no schedule either")
    if isinstance(b1, (int, float)) and not b1 > 0.0:
        raise ArgumentError(f"b1={b1!r}: without momentum there is no mean to evaluate; give a number in (0, 1)")
    numbers = {
        "lr": learning_rate,
        "beta1": b1,
        "beta2": b2,
        "eps": eps,
        "weight_decay": weight_decay,
        "warmup_steps": 0 if warmup_steps is None else warmup_steps,
        "weight_lr_power": weight_lr_power,
    }
    return Optimizer(Settings(Rule(schedule_free=True), numbers, **ours))


def schedule_free_eval_params(state: State, params: Any) -> Any:
    """x, with which a model is evaluated: params + (1 - 1 / b1) (z - params), in the dtype of z, rounded to params'.

    Args:
        state: of `schedule_free_adamw`; not packed.
        params: the parameters as they are trained.

    `optax.contrib.schedule_free_eval_params` does the same with this state.

    Raises:
        ArgumentError: the state is of another optimizer.
    """
    if getattr(state, "z", None) is None:
        raise ArgumentError("the state is not one of schedule_free_adamw (unpack it where it is packed)")

    def towards(y: Any, z: Any) -> Any:
        share = (1.0 - 1.0 / state.b1).astype(z.dtype)
        wide = y.astype(z.dtype)
        return (wide + share * (z - wide)).astype(jnp.asarray(y).dtype)

    return jax.tree.map(towards, params, state.z)
