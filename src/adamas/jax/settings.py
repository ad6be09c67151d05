"""What an optimizer was made with, and the numbers of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from adamas.errors import ArgumentError, KernelError, UnsupportedError
from adamas.formats import Weights
from adamas.kernels.jax import op
from adamas.kernels.jax.stepper import FIELDS
from adamas.rule import Hyper, Rule, is_number
from adamas.storage import Moments, check_seed

Number: TypeAlias = Any  # a Python number, or a scalar array, traced or not
Schedule: TypeAlias = Callable[[Any], Any]
Kernel = Literal["auto", "native", "xla"]
Nonfinite = Literal["propagate", "skip"]
_SCHEDULES = ("lr", "weight_decay")


@dataclass(frozen=True)
class Settings:
    """What an optimizer was made with; `adam` documents it.

    numbers  the fields of `Hyper` that the optimizer takes: numbers, scalar arrays, or schedules
    mask     which leaves decay: a tree of bools, a function of the parameters that gives one, or None for all
    """

    rule: Rule
    numbers: Mapping[str, Any]
    mask: Any = None
    moments: Moments = "float32"
    weights: Weights = "nearest"
    seed: Any = 0
    nonfinite: Nonfinite | None = None
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        for name, value in self.numbers.items():
            if callable(value) and name not in _SCHEDULES:
                raise ArgumentError(f"{name}: only learning_rate and weight_decay may be schedules")
        Hyper(**self.constant())
        if not is_array(self.seed):
            check_seed(self.seed)
        if self.nonfinite not in (None, "propagate", "skip"):
            raise ArgumentError(
                f"nonfinite={self.nonfinite!r}: give 'propagate', 'skip', or None for 'skip' with moments='int8' only; "
                "a compiled step cannot raise"
            )
        if self.kernel not in ("auto", "native", "xla"):
            raise ArgumentError(f"kernel={self.kernel!r}: give 'auto', 'native' or 'xla'")
        if self.kernel == "native" and (reason := op.why_not()) is not None:
            raise KernelError(f"kernel='native' cannot serve: {reason}")

    @property
    def skips(self) -> bool:
        """Whether a step with gradients that are not finite is skipped."""
        return (self.nonfinite or ("skip" if self.moments == "int8" else "propagate")) == "skip"

    def constant(self, **instead: Any) -> dict[str, Any]:
        """The numbers that are Python's. instead: in the place of the optimizer's own."""
        given = {**self.numbers, **instead}
        return {name: value for name, value in given.items() if not (callable(value) or is_array(value))}

    def resolved(self, count: Any, **instead: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The numbers of the step after `count`: those that are Python's, and those that are arrays.

        Raises:
            ArgumentError: one is outside its range, as far as that can be seen.
        """
        exact: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        for name, own in {**self.numbers, **instead}.items():
            value = own(count) if callable(own) else own
            if is_array(value):
                arrays[name] = _scalar(name, value)
            else:
                exact[name] = value
        Hyper(**exact)
        return exact, arrays

    def seed_bits(self) -> Any:
        """uint32 [2]: the halves of the seed, the lower one first."""
        if not is_array(self.seed):
            return jnp.asarray(words([int(self.seed)])[0])
        seed = jnp.asarray(self.seed)  # optax.inject_hyperparams makes an array of it
        return jnp.stack([seed.astype(jnp.uint32), jnp.zeros((), jnp.uint32)])


def table(exact: Mapping[str, Any]) -> np.ndarray:
    """uint32 [2, fields, 2]: the numbers as halves of float64; row 1 is of what does not decay."""
    hypers = [Hyper(**exact), Hyper(**{**exact, "weight_decay": 0.0})]
    return halves([[getattr(hyper, name) for name in FIELDS] for hyper in hypers])


def amended(given: Any, scheduled: Mapping[str, Any]) -> Any:
    """A table with Python numbers that schedules gave in the place of its own."""
    for name, value in scheduled.items():
        rows = slice(0, 1) if name == "weight_decay" else slice(None)
        given = given.at[rows, FIELDS.index(name)].set(halves(value))
    return given


def halves(values: Any) -> np.ndarray:
    """float64 [...] as uint32 [..., 2], the lower half first."""
    wide = np.array(values, np.float64, order="C")
    return wide[..., None].view(np.uint32)


def words(values: list[int]) -> np.ndarray:
    """Integers below 2^64 as uint32 [n, 2], the lower half first."""
    return np.array(values, np.uint64).reshape(-1, 1).view(np.uint32)


def is_array(value: object) -> bool:
    """Whether it is an array of JAX, traced or not, or one of NumPy; NumPy's scalars are numbers."""
    return isinstance(value, (jax.Array, np.ndarray))


def _scalar(name: str, value: Any) -> Any:
    value = jnp.asarray(value)
    if value.size != 1 or jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ArgumentError(f"{name} is an array of {value.dtype}{list(value.shape)}: give a real scalar")
    value = value.reshape(())
    return value if value.dtype in (jnp.float32, jnp.float64) else value.astype(jnp.float32)


def check_argument(name: str, value: Any, allowed: Any, instead: str) -> None:
    """Nothing if an argument of optax's has the one value that is served.

    Raises:
        UnsupportedError: it has another.
    """
    if is_array(value):
        raise UnsupportedError(f"{name} cannot be an array; list it in the static_args of optax.inject_hyperparams")
    same = float(value) == allowed if is_number(value) and is_number(allowed) else value is allowed
    if not same:
        raise UnsupportedError(f"{name}={value!r} is not served, only {allowed!r}; {instead}")
