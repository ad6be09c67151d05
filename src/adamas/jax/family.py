"""adam and its family: optax's functions, with another arithmetic."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import jax.numpy as jnp

from adamas.errors import ArgumentError, UnsupportedError
from adamas.formats import Weights
from adamas.jax.optimizer import Optimizer
from adamas.jax.settings import Kernel, Nonfinite, Number, Schedule, Settings, check_argument
from adamas.rule import Rule
from adamas.storage import Moments

Make = TypeVar("Make", bound=Callable[..., Optimizer])


class Ours(TypedDict, total=False):
    """The keyword arguments that every optimizer takes beside optax's; `adam` documents them."""

    moments: Moments
    weights: Weights
    seed: int
    nonfinite: Nonfinite | None
    kernel: Kernel


_DEFAULTS = {"moments": "float32", "weights": "nearest", "seed": 0, "nonfinite": None, "kernel": "auto"}


def spelled(make: Make) -> Make:
    """The same function, whose signature names each of `Ours`: optax.inject_hyperparams passes arguments on by name."""
    own = inspect.signature(make)
    named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, default in _DEFAULTS.items():
        annotation = Ours.__annotations__[name]
        named.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    make.__signature__ = own.replace(parameters=named)  # type: ignore[attr-defined]
    return make


def check_dtype(name: str, dtype: Any) -> None:
    """Moments are float32, or float64, whatever optax would make of the parameters' dtype."""
    if dtype is not None and jnp.dtype(dtype) != jnp.float32:
        raise UnsupportedError(
            f"{name}={jnp.dtype(dtype).name}: moments are float32 (float64 for float64 parameters); moments='bfloat16' "
            "keeps both in 16 bits, rounded stochastically"
        )


def _rule(nesterov: bool, like: str) -> Rule:
    if like not in ("optax", "keras"):
        raise ArgumentError(f"like={like!r}: give 'optax' or 'keras'")
    if nesterov and like == "keras":
        raise ArgumentError("like='keras' is for nesterov=False: Keras' Nadam has a schedule of its own for beta1")
    return Rule(eps_mode="keras" if like == "keras" else "paper", nesterov="constant" if nesterov else "off")


def _numbers(lr: Any, b1: Any, b2: Any, eps: Any, **more: Any) -> dict[str, Any]:
    return {"lr": lr, "beta1": b1, "beta2": b2, "eps": eps, **more}


@spelled
def adam(
    learning_rate: Number | Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    like: Literal["optax", "keras"] = "optax",
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""Adam (Kingma & Ba 2015) as `optax.adam`, on CPUs by the native engine.

    For step t = 1, 2, ... of each parameter p with gradient g, `update` returns u = p_new - p of

        m <- m + (1 - b1) (g   - m)
        v <- v + (1 - b2) (g^2 - v)
        p <- p - learning_rate m^ / (sqrt(v^ + eps_root) + eps),    m^ = m / (1 - b1^t),  v^ = v / (1 - b2^t)

    m, v and t are `mu`, `nu` and `count` of the state. None is changed in place by `update`; `step` donates its
    arguments (`Optimizer.step`).

    Args:
        learning_rate: a number, a scalar array, or a schedule: a function of the number of steps before.
        b1, b2: decay rates of the moments, each in [0, 1).
        eps, eps_root: added beside and inside the root, at least 0.
        mu_dtype: None or float32; what optax would store in 16 bits, `moments` does better.
        nesterov: NAdam (Dozat 2016) as optax has it: m^ = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t).
        like: "keras": eps is added to the root of the uncorrected v, as in Keras and TensorFlow.
        moments: how moments are stored between steps: "float32", also for parameters of bfloat16 and float16, for
            which optax keeps 16 bits; "bfloat16"; or "int8" (2.125 bytes a parameter for both, in blocks with a
            scale). The last two round stochastically. Leaves of fewer than 4096 elements keep float32.
        weights: how parameters of bfloat16 and float16 are rounded after a step: "nearest"; and by `step` only
            "stochastic", or for bfloat16 "split", which keeps 8 more bits of each weight.
        seed: of stochastic rounding, from 0 to 2^64 - 1; part of the state.
        nonfinite: what is done where a gradient is not finite, or the squares of all overflow float32: "propagate"
            computes with what is there; "skip" changes nothing and does not count the step. None: "skip" with
            moments="int8", else "propagate".
        kernel: "auto": the native engine on CPUs where it can be built, else the array expression, which also serves
            `update` of 4 M parameters and more with float32 moments, where it is faster; "native": always on CPUs, and
            an error where it cannot be built; "xla": the array expression everywhere.

    Raises:
        ArgumentError: a number is outside its range, or no such setting.
        UnsupportedError: an argument of optax's that is not served; later, a leaf that is no array of floating-point
            numbers.
        KernelError: kernel="native" cannot serve.

    Differs from `optax.adam`: scalars such as b1^t are float64, so results agree to rounding; moments of parameters of
    16 bits are float32, and those below the smallest normal number are 0; numbers that are known are checked.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from adamas.jax import adam
        >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam(optax.cosine_decay_schedule(0.1, 300)))
        >>> params = {"w": jnp.array([1.0, -2.0])}
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def train_step(params, state):
        ...     grads = jax.grad(lambda p: (p["w"] ** 2).sum())(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     return optax.apply_updates(params, updates), state
        >>> for _ in range(300):
        ...     params, state = train_step(params, state)
        >>> bool(abs(params["w"]).max() < 0.01)
        True
    """
    check_dtype("mu_dtype", mu_dtype)
    numbers = _numbers(learning_rate, b1, b2, eps, eps_root=eps_root)
    return Optimizer(Settings(_rule(nesterov, like), numbers, **ours))


@spelled
def adamw(
    learning_rate: Number | Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: Number | Schedule = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    like: Literal["optax", "keras"] = "optax",
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""AdamW (Loshchilov & Hutter 2019) as `optax.adamw`: `adam` with decoupled decay.

        p <- (1 - learning_rate weight_decay) p - learning_rate m^ / (sqrt(v^ + eps_root) + eps)

    Args:
        weight_decay: at least 0; a number, a scalar array, or a schedule.
        mask: which leaves decay: a tree of bools like the parameters or the upper part of one, a function of the
            parameters that gives one, or None for all.

    Every other argument, what is raised and what differs from optax: see `adam`. `update` needs the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import adamw
        >>> optimizer = adamw(0.1, weight_decay=0.5)
        >>> params = jnp.ones(3)
        >>> params, state = optimizer.step(params, jnp.zeros(3), optimizer.init(params))
        >>> params.tolist()
        [0.949999988079071, 0.949999988079071, 0.949999988079071]
    """
    check_dtype("mu_dtype", mu_dtype)
    numbers = _numbers(learning_rate, b1, b2, eps, eps_root=eps_root, weight_decay=weight_decay)
    return Optimizer(Settings(_rule(nesterov, like), numbers, mask, **ours))


@spelled
def nadam(
    learning_rate: Number | Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""NAdam (Dozat 2016) as `optax.nadam`: `adam` with nesterov=True.

        m^ = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)

    Arguments, what is raised and what differs from optax: see `adam`. It is not torch's or Keras' NAdam, whose b1
    follows a schedule.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import nadam
        >>> optimizer = nadam(0.1)
        >>> updates, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        >>> [round(u, 6) for u in updates.tolist()]
        [-0.147368, -0.147368]
    """
    return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, **ours)


@spelled
def nadamw(
    learning_rate: Number | Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: Number | Schedule = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""`nadam` with decoupled decay, as `optax.nadamw`.

    Arguments, what is raised and what differs from optax: see `adamw`.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import nadamw
        >>> optimizer = nadamw(0.1, weight_decay=0.5)
        >>> params, state = optimizer.step(jnp.ones(2), jnp.zeros(2), optimizer.init(jnp.ones(2)))
        >>> params.tolist()
        [0.949999988079071, 0.949999988079071]
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov, **ours)


@spelled
def amsgrad(
    learning_rate: Number | Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""AMSGrad (Reddi et al. 2018) as `optax.amsgrad`: `adam` with the largest corrected second moment so far.

        w <- max(w, v / (1 - b2^t))
        p <- p - learning_rate m^ / (sqrt(w + eps_root) + eps)

    w is `nu_max` of the state. torch's and Keras' AMSGrad takes the largest uncorrected v: three algorithms.

    Args:
        bias_correction_mu, bias_correction_nu: True.

    Every other argument, what is raised and what differs from optax: see `adam`.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import amsgrad
        >>> optimizer = amsgrad(0.1)
        >>> updates, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        >>> [round(u, 6) for u in updates.tolist()]
        [-0.1, -0.1]
    """
    check_dtype("mu_dtype", mu_dtype)
    for name, value in (("bias_correction_mu", bias_correction_mu), ("bias_correction_nu", bias_correction_nu)):
        check_argument(name, value, True, "optax.amsgrad does that")
    numbers = _numbers(learning_rate, b1, b2, eps, eps_root=eps_root)
    return Optimizer(Settings(Rule(amsgrad="corrected"), numbers, **ours))


@spelled
def radam(
    learning_rate: Number | Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    threshold: float = 5.0,
    *,
    nesterov: bool = False,
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""RAdam (Liu et al. 2020) as `optax.radam`: `adam` whose first steps leave the root out, or weaken it.

    With rho = 2 / (1 - b2) - 1 and rho_t = rho - 2 t b2^t / (1 - b2^t),

        p <- p - learning_rate r_t m^ / (sqrt(v^ + eps_root) + eps)    where rho_t > 5, else  p - learning_rate m^
        r_t^2 = (rho_t - 4)(rho_t - 2) rho / ((rho - 4)(rho - 2) rho_t)

    Args:
        threshold: 5, the paper's. nesterov: False.

    Every other argument, what is raised and what differs from optax: see `adam`. optax compares with >=.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import radam
        >>> optimizer = radam(0.1)
        >>> updates, state = optimizer.update(jnp.full(2, 0.5), optimizer.init(jnp.ones(2)))
        >>> [round(u, 6) for u in updates.tolist()]
        [-0.05, -0.05]
    """
    check_argument("threshold", threshold, 5.0, "optax.radam takes others")
    check_argument("nesterov", nesterov, False, "optax.radam does that")
    numbers = _numbers(learning_rate, b1, b2, eps, eps_root=eps_root)
    return Optimizer(Settings(Rule(rectify=True), numbers, **ours))


@spelled
def adamax(
    learning_rate: Number | Schedule, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8, **ours: Unpack[Ours]
) -> Optimizer:
    r"""Adamax (Kingma & Ba 2015, section 7) as `optax.adamax`: the largest recent gradient in the place of the root.

        v <- max(b2 v, |g| + eps)
        p <- p - learning_rate m^ / v

    Arguments, what is raised and what differs from optax: see `adam`.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import adamax
        >>> optimizer = adamax(0.1)
        >>> updates, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        >>> [round(u, 6) for u in updates.tolist()]
        [-0.1, -0.1]
    """
    return Optimizer(Settings(Rule(infinity=True), _numbers(learning_rate, b1, b2, eps), **ours))


@spelled
def adamaxw(
    learning_rate: Number | Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number | Schedule = 1e-4,
    mask: Any = None,
    **ours: Unpack[Ours],
) -> Optimizer:
    r"""`adamax` with decoupled decay, as `optax.adamaxw`.

    Arguments, what is raised and what differs from optax: see `adamw`.

    Example:
        >>> import jax.numpy as jnp
        >>> from adamas.jax import adamaxw
        >>> optimizer = adamaxw(0.1, weight_decay=0.5)
        >>> params, state = optimizer.step(jnp.ones(2), jnp.zeros(2), optimizer.init(jnp.ones(2)))
        >>> params.tolist()
        [0.949999988079071, 0.949999988079071]
    """
    numbers = _numbers(learning_rate, b1, b2, eps, weight_decay=weight_decay)
    return Optimizer(Settings(Rule(infinity=True), numbers, mask, **ours))
