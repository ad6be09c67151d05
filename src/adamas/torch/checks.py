"""Settings, parameters and states that can be served, and why not."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.parts import Nonfinite
from adamas.parts import check_settings as check_shared
from adamas.rule import PRESETS, Hyper, Rule
from adamas.torch.memory import key, scales_key

# torch's classes that are stepped here, and the presets of their rules
PEERS: dict[type, str] = {
    torch.optim.Adam: "torch.Adam",
    torch.optim.AdamW: "torch.Adam",
    torch.optim.NAdam: "torch.NAdam",
    torch.optim.RAdam: "torch.RAdam",
    torch.optim.Adamax: "torch.Adamax",
}
Like: TypeAlias = Literal["torch", "keras", "optax"]
EXACT = (torch.float32, torch.float64)
LOW = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Settings:
    """What torch's optimizers do not have; `adamas.torch.Adam` documents it.

    Raises:
        ArgumentError: a setting is outside what is allowed.
    """

    moments: str = "float32"
    weights: str = "nearest"
    seed: int = 0
    nonfinite: Nonfinite | None = None
    stats: bool = False
    ema: float | None = None
    sparse: str = "dense"
    verify: int = 0
    like: Like = "torch"
    cautious: bool = False

    def __post_init__(self) -> None:
        check_shared(self.seed, self.nonfinite, self.stats, self.verify, self.ema)
        if self.sparse not in ("dense", "lazy"):
            raise ArgumentError(f"sparse={self.sparse!r}: give 'dense' or 'lazy'")
        if self.sparse == "lazy":
            default = Settings()
            for name in ("moments", "weights", "stats", "ema", "verify"):
                if getattr(self, name) != getattr(default, name):
                    raise ArgumentError(
                        f"{name}={getattr(self, name)!r} with sparse='lazy', which leaves rows out, and steps "
                        "parameters and moments of float32 and float64 only; leave one of the two out"
                    )
        for name in ("seed", "verify"):
            object.__setattr__(self, name, int(getattr(self, name)))


def read_group(group: dict[str, Any], optimizer: object) -> tuple[Rule, Hyper]:
    """The rule and the numbers of a parameter group, of an optimizer of these or of torch's own.

    Raises:
        UnsupportedError: a setting that cannot be served.
        ArgumentError: a number is outside its range.
    """
    check_settings(group)
    # torch before 2.7 has no such entry, and there AdamW is no subclass of Adam.
    decoupled = bool(group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)))
    given = {name: group[name] for name in _NUMBERS if name in group}
    given["beta1"], given["beta2"] = group["betas"]
    hyper = _hyper(**{name: float(x) if isinstance(x, Tensor) else x for name, x in given.items()})
    preset = getattr(optimizer, "preset", None) or next(n for kind, n in PEERS.items() if isinstance(optimizer, kind))
    like = group.get("like", "torch")
    amsgrad, maximize, cautious = bool(group.get("amsgrad")), bool(group["maximize"]), group.get("cautious", False)
    return _rule(preset, decoupled, amsgrad, maximize, like, cautious), hyper


_NUMBERS = ("lr", "eps", "weight_decay", "momentum_decay", "warmup_steps", "r", "weight_lr_power")
_hyper = functools.lru_cache(1024)(Hyper)  # groups have the same numbers again and again


# like= -> where epsilon is added, and which maximum AMSGrad keeps; and whose formula else differs in that alone
_LIKE = {"keras": ("keras", "raw"), "optax": ("paper", "corrected")}
_LIKE_OF = {
    "torch.Adam": ("torch", "keras", "optax"),
    "torch.Adamax": ("torch", "keras", "optax"),
    "torch.RAdam": ("torch", "optax"),
    "optax.lamb": ("torch", "optax", "keras"),  # torch has none
}


@functools.lru_cache(maxsize=None, typed=True)  # 1 is not True
def _rule(preset: str, decoupled: bool, amsgrad: bool, maximize: bool, like: str, cautious: bool) -> Rule:
    allowed = _LIKE_OF.get(preset, ("torch",))
    if like not in allowed:
        raise ArgumentError(f"like={like!r}: give one of {', '.join(map(repr, allowed))}, for the rule of {preset}")
    if preset == "optax.lamb":
        preset, like = ("keras.Lamb" if like == "keras" else preset), "torch"  # two presets, as they are
    rule = PRESETS[preset].rule
    eps_mode, largest = _LIKE.get(like, (rule.eps_mode, "raw"))
    decay = "decoupled" if decoupled else rule.decay
    return replace(
        rule,
        eps_mode=eps_mode,  # type: ignore[arg-type]
        decay=decay,
        amsgrad=largest if amsgrad else "off",  # type: ignore[arg-type]
        maximize=maximize,
        cautious=cautious,
    )


def check_settings(group: dict[str, Any]) -> None:
    """Nothing if a parameter group asks for nothing that only torch's own optimizers do.

    Raises:
        UnsupportedError: it does.
    """
    for setting, remedy in (
        ("capturable", "CUDA graphs; leave it out on the CPU"),
        ("differentiable", "gradients through the step; use torch.optim for it"),
    ):
        if group.get(setting):
            raise UnsupportedError(f"{setting}=True is for {remedy}, and adamas.torch does not serve it")


def check_parameter(name: str, p: Tensor, low: bool) -> None:
    """Nothing if a parameter can be stepped. low: whether parameters of 16 bits can.

    Raises:
        UnsupportedError: it cannot.
    """
    if type(p) not in (Tensor, torch.nn.Parameter):
        problem, remedy = f"is a {type(p).__name__}", "give a torch.Tensor or torch.nn.Parameter"
    elif p.layout != torch.strided:
        problem, remedy = f"has the layout {p.layout}", "make it dense with .to_dense()"
    elif p.device.type != "cpu":
        problem, remedy = f"is on the device {p.device}", "move it with .cpu()"
    elif p.dtype not in (*EXACT, *LOW):
        problem, remedy = f"is {p.dtype}", "convert it to torch.float32"
    elif p.dtype in LOW and not low:
        problem, remedy = (
            f"is {p.dtype}, for which torch keeps moments of 16 bits",
            "make the optimizer of adamas.torch",
        )
    elif not p.is_contiguous():
        problem, remedy = f"is not contiguous (strides {p.stride()})", "make it so with .contiguous()"
    else:
        return
    raise UnsupportedError(
        f"parameter {name} {problem}; adamas.torch steps dense, contiguous parameters of float32, float64, bfloat16 "
        f"and float16 on the CPU: {remedy}, or use torch.optim"
    )


def check_state(name: str, rule: Rule, state: dict[str, Any], p: Tensor) -> None:
    """Nothing if a parameter's state is one that a step can go on from.

    Raises:
        StateError: something is missing, or is not like the parameter.
    """
    slots = [slot.name for slot in rule.slots]
    needed = ("step", *(key(rule, slot) for slot in slots), *(carry.name for carry in rule.carries))
    missing = [name for name in needed if name not in state]
    if missing:
        raise StateError(
            f"the state of parameter {name} has no {', '.join(missing)}: it was made by another optimizer or without "
            "amsgrad; clear optimizer.state, or load a state_dict of the same settings"
        )
    for slot in slots:
        value, scales = state[key(rule, slot)], state.get(scales_key(rule, slot))
        codes = torch.int8 if slot == "m" else torch.uint8
        wide = torch.float64 if p.dtype == torch.float64 else torch.float32
        allowed = (codes,) if scales is not None else (wide, *((torch.bfloat16,) if wide == torch.float32 else ()))
        if value.dtype not in (*allowed, *((p.dtype,) if scales is None else ())) or (
            (value.device, value.shape) != (p.device, p.shape)
        ):
            raise StateError(
                f"{key(rule, slot)} of parameter {name} is {value.dtype}{list(value.shape)} on {value.device}, the "
                f"parameter {p.dtype}{list(p.shape)} on {p.device}; clear optimizer.state, or load a fitting state_dict"
            )


def check_optional(name: str, state: dict[str, Any], weights: str, average: bool) -> None:
    """Nothing if a state holds no lower bits of a weight, and no average, that would be lost.

    Raises:
        StateError: it does.
    """
    if "average" in state and not average:
        raise StateError(
            f"the state of parameter {name} holds its average, and the optimizer keeps none; make it with ema=..., or "
            "remove 'average' from optimizer.state[parameter] if it may be lost"
        )
    if "correction" in state and weights != "split":
        raise StateError(
            f"the state of parameter {name} holds its correction, the lower bits of a split weight, and the optimizer "
            f"has weights={weights!r}; make it with weights='split', or remove 'correction' from "
            "optimizer.state[parameter] if it may be lost"
        )


def names_of(groups: Sequence[dict[str, Any]]) -> list[str]:
    """How messages call the parameters: as the model does where torch was told, else by their place."""
    return [
        repr(group["param_names"][i]) if "param_names" in group else f"{i} of group {k}"
        for k, group in enumerate(groups)
        for i in range(len(group["params"]))
    ]


def tensor_names(groups: Sequence[dict[str, Any]]) -> list[str]:
    """The parameters' names where torch was told, else their places among all."""
    named = [
        group["param_names"][i] if "param_names" in group else None
        for group in groups
        for i in range(len(group["params"]))
    ]
    return [str(i) if name is None else name for i, name in enumerate(named)]


def keys_of(groups: Sequence[dict[str, Any]]) -> list[str]:
    """What keys the random numbers of each parameter: its name, or the one that came with a state."""
    names = tensor_names(groups)
    found: list[str] = []
    for group in groups:
        own = names[len(found) : len(found) + len(group["params"])]
        taken = group.get("rounding_names", [])
        found += [*taken, *own[len(taken) :]]
    return found


def seed_of(groups: Sequence[dict[str, Any]], own: int) -> int:
    """The seed of an optimizer's random numbers: its own, or the one that came with a state."""
    return next((group["seed"] for group in groups if "seed" in group), own)
