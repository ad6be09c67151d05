"""The portable checkpoint of the optimizers here, and of torch's own.

state.save("optimizer.safetensors", from_torch(optimizer))      # torch.optim.AdamW: go on in any framework
to_torch(state.load("optimizer.safetensors"), optimizer)        # and back
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamas import storage
from adamas.errors import StateError, UnsupportedError
from adamas.formats import Blocks
from adamas.rule import Hyper, Rule
from adamas.state import OPTIONAL, State
from adamas.storage import Storage
from adamas.torch.checks import EXACT, LOW, PEERS, Settings, keys_of, read_group, seed_of, tensor_names
from adamas.torch.memory import as_array, as_tensor, entries, key, scales_key


def from_torch(optimizer: torch.optim.Optimizer) -> State:
    """A copy of what an optimizer carries from step to step: one of `adamas.torch`, or one of torch's own, exactly.

    Args:
        optimizer: `torch.optim.Adam`, `AdamW`, `NAdam`, `RAdam` or `Adamax`, on any device, or one of those here.
            Parameters go by their names if it was made of `model.named_parameters()`, else by their numbers, "0", "1",
            ... A parameter without a state has taken no step.

    Raises:
        UnsupportedError: another optimizer, groups with different formulas, or a parameter of another dtype or kind.
        StateError: the state of a parameter lacks something; names it.

    Example:
        >>> import torch
        >>> from adamas.torch import from_torch
        >>> p = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torch.optim.AdamW([p])
        >>> p.grad = torch.ones(3)
        >>> optimizer.step()
        >>> from_torch(optimizer).steps
        {'0': 1}
    """
    settings, (rule, hypers) = _settings(optimizer), _formula(optimizer)
    names, groups = _names(optimizer), optimizer.param_groups
    if settings is not None:
        optimizer._settle()  # type: ignore[attr-defined]
    if not all(group.get("train_mode", True) for group in groups):
        raise StateError("the parameters hold the weights for evaluation; to give its state, call train() first")
    slots, steps, carries = {}, {}, {}
    for name, (_, p) in zip(names, _parameters(optimizer), strict=True):
        _check(name, p, settings)
        held = optimizer.state.get(p, {})
        slots[name] = _kept(name, rule, p, held)
        steps[name], carries[name] = _step(name, held), _carries(rule, held)
    own = {} if settings is None else {"seed": seed_of(groups, settings.seed)}
    return State(
        rule=rule,
        slots=slots,
        steps=steps,
        hypers=hypers,
        groups={name: of for name, (of, _) in zip(names, _parameters(optimizer), strict=True)},
        carries=carries,
        rounding_names={} if settings is None else dict(zip(names, keys_of(groups), strict=True)),
        **own,
    )


def to_torch(state: State, optimizer: torch.optim.Optimizer) -> None:
    """Give a state to an optimizer of `adamas.torch` or torch's own, in place: moments, steps and numbers.

    Args:
        state: of the same formula, over parameters of the same names (`State.renamed`). torch's own optimizers get
            float32, exactly what the next step here would compute with, and `mu_product` of NAdam rounded to float32.
            Those here convert to their own storage formats at the next step.
        optimizer: as for `from_torch`.

    Raises:
        UnsupportedError: as `from_torch`; or parameters of 16 bits, whose moments torch's own optimizers round.
        StateError: the state does not fit it; lists the differences. Nothing has been changed.
    """
    settings, (rule, _) = _settings(optimizer), _formula(optimizer)
    if not all(group.get("train_mode", True) for group in optimizer.param_groups):
        raise StateError("the parameters hold the weights for evaluation; to take over a state, call train() first")
    names, places = _names(optimizer), list(_parameters(optimizer))
    for name, (_, p) in zip(names, places, strict=True):
        _check(name, p, settings)
        if settings is None and p.dtype in LOW:
            raise UnsupportedError(
                f"parameter {name} is {p.dtype}, and torch keeps its moments in that too; only float32 and float64 "
                "move exactly. Use the optimizer of adamas.torch"
            )
    state.check_fits(
        rule,
        {name: tuple(p.shape) for name, (_, p) in zip(names, places, strict=True)},
        {
            name: "float64" if p.dtype == torch.float64 else "float32"
            for name, (_, p) in zip(names, places, strict=True)
        },
    )
    groups = [_with_numbers(optimizer, k, state, names, places) for k in range(len(optimizer.param_groups))]
    found = []
    for name, (of, p) in zip(names, places, strict=True):
        group = optimizer.param_groups[of]
        storage.check_optional(name, _optional(settings, group, p), state.slots[name])
        found.append((p, _entries(name, rule, state, p, group, plain=settings is None)))

    for p, held in found:
        optimizer.state[p] = held
        if not held["step"] and any(slot.initial == "parameter" for slot in rule.slots):
            del optimizer.state[p]  # the first step starts at the parameter as it is then
    for group, numbers in zip(optimizer.param_groups, groups, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(numbers.pop("lr"))
        group.update(numbers)
    if settings is not None:
        _draw_by(optimizer, settings, state, names)


def _settings(optimizer: torch.optim.Optimizer) -> Settings | None:
    """Of an optimizer of adamas.torch; None for torch's own.

    Raises:
        UnsupportedError: it is neither.
    """
    settings: Settings | None = getattr(optimizer, "_settings", None)
    if settings is None and type(optimizer) not in PEERS:
        kind, known = type(optimizer), ", ".join(kind.__name__ for kind in PEERS)
        raise UnsupportedError(
            f"a {kind.__module__}.{kind.__name__}: give one of adamas.torch, or one of torch.optim's {known} itself"
        )
    return settings


def _formula(optimizer: torch.optim.Optimizer) -> tuple[Rule, list[Hyper]]:
    """The rule of all groups, and the numbers of each.

    Raises:
        UnsupportedError: their rules differ.
    """
    read = [read_group(group, optimizer) for group in optimizer.param_groups]
    rules = list(dict.fromkeys(rule for rule, _ in read))
    if len(rules) > 1:
        raise UnsupportedError(
            f"the groups have different formulas, {rules[0]} and {rules[1]}, and a state has one; make one optimizer "
            "for each"
        )
    return rules[0], [hyper for _, hyper in read]


def _names(optimizer: torch.optim.Optimizer) -> list[str]:
    names = tensor_names(optimizer.param_groups)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StateError(f"more than one parameter is named {twice}; make the optimizer with distinct names")
    return names


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, Tensor]]:
    """The number of its group, and each parameter."""
    for k, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            yield k, p


def _check(name: str, p: Tensor, settings: Settings | None) -> None:
    if type(p) not in (Tensor, torch.nn.Parameter) or p.layout != torch.strided or p.dtype not in (*EXACT, *LOW):
        raise UnsupportedError(
            f"parameter {name} is a {type(p).__name__} of {p.dtype} and {p.layout}; a state is of whole, dense tensors "
            "of float32, float64, bfloat16 and float16. Gather a sharded optimizer's state first"
        )


def _array(tensor: Tensor) -> np.ndarray:
    """A copy in memory of its own; float16 in float32."""
    array = as_array(tensor.detach().cpu().contiguous())
    return array.astype(np.float32) if array.dtype == np.float16 else array.copy()


def _kept(name: str, rule: Rule, p: Tensor, held: dict[str, Any]) -> dict[str, np.ndarray | Blocks]:
    """What is kept beside a parameter, by slot."""
    if not held:
        plain = Storage(("float32",) * len(rule.slots), "nearest", "")
        return storage.fresh(rule, plain, as_array(p.detach().cpu()))
    found: dict[str, np.ndarray | Blocks] = {}
    for slot in (*(slot.name for slot in rule.slots), *OPTIONAL):
        at = key(rule, slot)
        if slot in OPTIONAL and at not in held:
            continue
        if at not in held:
            raise StateError(f"the state of parameter {name} has no {at}; it was made by another optimizer")
        scales = held.get(scales_key(rule, slot))
        found[slot] = _array(held[at]) if scales is None else Blocks(_array(held[at]), _array(scales))
    return found


def _step(name: str, held: dict[str, Any]) -> int:
    step = float(held.get("step", 0.0))
    if not step.is_integer() or step < 0:
        raise StateError(f"the step count of parameter {name} is {step}, not a whole number of at least 0")
    return int(step)


def _carries(rule: Rule, held: dict[str, Any]) -> tuple[float, ...]:
    return tuple(float(held.get(carry.name, carry.initial)) for carry in rule.carries)


def _with_numbers(
    optimizer: torch.optim.Optimizer, k: int, state: State, names: list[str], places: list[tuple[int, Tensor]]
) -> dict[str, Any]:
    """What group k takes over of the numbers of a state.

    Raises:
        StateError: its parameters have different ones there, or torch has no place for one of them.
    """
    members = [name for name, (of, _) in zip(names, places, strict=True) if of == k]
    if not members:
        return {}
    group, hyper = optimizer.param_groups[k], state.hypers[state.groups[members[0]]]
    for name in members:
        other = state.hypers[state.groups[name]]
        if other != hyper:
            raise StateError(
                f"the state has other numbers for {name!r} ({other}) than for {members[0]!r} ({hyper}), which share "
                "theirs in this optimizer; make it with parameter groups like those of the optimizer that was saved"
            )
    own = vars(hyper)
    numbers = {name: int(own[name]) if name in _WHOLE else own[name] for name in own if name in group}
    numbers["betas"] = (hyper.beta1, hyper.beta2)
    _, taken = read_group({**group, **numbers}, optimizer)
    if taken != hyper:
        lost = ", ".join(f"{name}={value}" for name, value in own.items() if getattr(taken, name) != value)
        raise StateError(
            f"{type(optimizer).__name__} of torch has no place for {lost} of the state; nothing was loaded"
        )
    return numbers


_WHOLE = ("warmup_steps", "r", "weight_lr_power")


def _optional(settings: Settings | None, group: dict[str, Any], p: Tensor) -> dict[str, None]:
    """Which slots that no rule declares an optimizer keeps for a parameter."""
    found: dict[str, None] = {}
    if settings is not None:
        if group.get("weights", settings.weights) == "split" and p.dtype == torch.bfloat16:
            found["correction"] = None
        if settings.ema is not None:
            found["average"] = None
    return found


def _entries(name: str, rule: Rule, state: State, p: Tensor, group: dict[str, Any], plain: bool) -> dict[str, Any]:
    """What optimizer.state is to hold of a parameter."""
    step = torch.tensor(float(state.steps[name]), dtype=_step_dtype())
    if int(step) != state.steps[name]:
        raise StateError(f"{name}: step {state.steps[name]} is more than torch's count in {step.dtype} can hold")
    if plain and group.get("fused"):
        step = step.to(p.device)
    held: dict[str, Any] = {"step": step}
    for carry, value in zip(rule.carries, state.carries[name], strict=True):
        held[carry.name] = torch.tensor(value, dtype=_step_dtype() if plain else torch.float64)
    for slot in state.slots[name]:
        if plain:
            held[key(rule, slot)] = as_tensor(state.numbers(name, slot)).to(p.device)
        else:
            held |= entries(rule, slot, storage.copied(state.slots[name][slot]))
    return held


def _step_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _draw_by(optimizer: torch.optim.Optimizer, settings: Settings, state: State, names: list[str]) -> None:
    """Take over what keys the random numbers; the groups hold what differs from the optimizer's own, to be saved."""
    drawn_by = iter([state.rounding_names.get(name, name) for name in names])
    own = iter(tensor_names(optimizer.param_groups))
    for group in optimizer.param_groups:
        count = len(group["params"])
        new, before = [next(drawn_by) for _ in range(count)], [next(own) for _ in range(count)]
        if state.rounding_names:
            group.pop("rounding_names", None)
            if new != before:
                group["rounding_names"] = new
        if state.seed is not None:
            group.pop("seed", None)
            if state.seed != settings.seed:
                group["seed"] = state.seed
