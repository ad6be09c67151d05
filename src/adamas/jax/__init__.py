"""Adamas for JAX: optax's Adam family, with the native engine on CPUs and a fused step.

    from adamas.jax import adamw                      # was: from optax import adamw

    optimizer = adamw(1e-3)
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)      # composes with optax.chain, masked, ...
    params, state = optimizer.step(params, grads, state)         # or: one fused call

`adam` documents what they share, `Optimizer.step` the fused step.
"""

from __future__ import annotations

from adamas.errors import extra

with extra("adamas.jax", "jax", "jax", "jaxlib", "optax"):
    from adamas.jax.family import adam, adamax, adamaxw, adamw, amsgrad, nadam, nadamw, radam
    from adamas.jax.optax_state import from_optax, to_optax
    from adamas.jax.optimizer import Optimizer
    from adamas.jax.schedule_free import schedule_free_adamw, schedule_free_eval_params
    from adamas.jax.states import Int8, Packed, State

__all__ = [
    "Int8",
    "Optimizer",
    "Packed",
    "State",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "amsgrad",
    "from_optax",
    "nadam",
    "nadamw",
    "radam",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "to_optax",
]
