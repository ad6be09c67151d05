"""Adam and AdamW for PyTorch: `torch.optim`'s own optimizers, stepped by one native call.

    from adamas.torch import AdamW                  # in place of torch.optim

    optimizer = AdamW(model.parameters(), lr=1e-3)

They are subclasses of `torch.optim.Adam` and `torch.optim.AdamW`: arguments, parameter groups, schedulers, hooks,
`state_dict`, copying and pickling are torch's. Only the arithmetic of `step` is libadamas'. It works on dense,
contiguous float32 and float64 parameters on the CPU. Refused by name, with UnsupportedError: parameters that are on
another device, of another dtype (bfloat16, float16, complex), sparse, not contiguous (channels_last too) or of a
subclass of their own (DTensor, distributed shards); sparse gradients; `capturable=True` and `differentiable=True`.
Inside a function compiled by `torch.compile` the step runs as it is, outside the compiled graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields, replace
from itertools import repeat
from operator import is_, is_not
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adamas.errors import ArrayError, StateError, UnsupportedError
from adamas.kernels import Plan, choose
from adamas.rule import PRESETS, Hyper, Rule

__all__ = ["Adam", "AdamW"]

_KEYS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # torch's names of m, v, vmax


class _Part(NamedTuple):
    """The parameters of one rule and dtype, which one native call steps."""

    plan: Plan
    members: list[int]  # positions among all parameters
    rows: np.ndarray | None  # each one's group
    steps: np.ndarray  # shares memory with the tensors in state[p]["step"]
    shapes: list[tuple[int, ...]]
    dtype: np.dtype[Any]


class Stepper:
    """Steps the parameters of a `torch.optim.Adam` or `AdamW` natively, over torch's own state.

    It remembers where all buffers are from one step to the next, and looks again when one was replaced.
    """

    def __init__(self) -> None:
        self._params: list[Tensor] = []
        self._stepped: list[bool] = []
        self._rules: list[Rule] = []
        self._states: list[dict[str, Any]] = []  # of every parameter that has one, in the order of optimizer.state
        self._watched: list[Any] = []
        self._tensors: list[Tensor] = []  # among the watched
        self._pointers: list[int] = []
        self._parts: list[_Part] = []
        self._table: tuple[list[Hyper], np.ndarray] = ([], np.zeros((0, len(fields(Hyper)))))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of every parameter that has a gradient.

        Raises:
            UnsupportedError, ArrayError, ArgumentError, StateError: see `Adam.step`. Nothing has been changed.
        """
        groups = optimizer.param_groups
        settings = [read_group(group, optimizer) for group in groups]
        rules = [rule for rule, _ in settings]
        params: list[Tensor] = [p for group in groups for p in group["params"]]
        grads = [p.grad for p in params]
        table = self._tabulate([hyper for _, hyper in settings])
        if not self._still_fits(optimizer, rules, params, grads):
            self._prepare(optimizer, rules, params, grads)
        arrays = [self._arrays(part, grads, groups) for part in self._parts]
        if len(self._parts) > 1:  # each plan checks its own arrays only, and the first one writes before the second
            self._check_shapes(arrays, groups)
        for part, given in zip(self._parts, arrays, strict=True):
            try:
                _run(part, given, table)
            except ArrayError:  # nothing was written: a gradient is not contiguous, or shares memory with a parameter
                _run(part, [g if g is None else np.array(g, order="C") for g in given], table)
        # What autograd has saved of a parameter is out of date now, as after any operation in place.
        torch.autograd.graph.increment_version([p for p, g in zip(params, grads, strict=True) if g is not None])

    def _tabulate(self, hypers: list[Hyper]) -> np.ndarray:
        if hypers != self._table[0]:
            self._table = (hypers, np.array([astuple(hyper) for hyper in hypers], np.float64))
        return self._table[1]

    def _still_fits(
        self, optimizer: Any, rules: list[Rule], params: list[Tensor], grads: Sequence[Tensor | None]
    ) -> bool:
        """Whether all that was prepared is still so. It runs at each step: no Python code a tensor but lookups."""
        if rules != self._rules or not _same(list(optimizer.state.values()), self._states):
            return False
        if not _same([*params, *self._entries()], self._watched):
            return False
        if not all(self._stepped) and any(
            g is not None for g, known in zip(grads, self._stepped, strict=True) if not known
        ):
            return False
        return list(map(Tensor.data_ptr, self._tensors)) == self._pointers

    def _entries(self) -> list[Any]:
        return [value for state in self._states if type(state) is dict for value in state.values()]

    def _prepare(self, optimizer: Any, rules: list[Rule], params: list[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Make what is missing of the state, and a plan for each rule and dtype; everything is checked first."""
        names = _names(optimizer.param_groups)
        group_of = [k for k, group in enumerate(optimizer.param_groups) for _ in group["params"]]
        members: dict[tuple[Rule, torch.dtype], list[int]] = {}
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            state = optimizer.state.get(p, {})
            if state or g is not None:
                _check_parameter(names[i], p)
                _array(names[i], g)
                rule = rules[group_of[i]]
                if state:
                    _check_state(names[i], rule, state, p)
                members.setdefault((rule, p.dtype), []).append(i)

        kernel = choose().plan
        parts, new_entries = [], []
        for (rule, _), indices in members.items():
            keys = _KEYS[: len(rule.slots)]
            slots: list[list[Tensor]] = [[] for _ in keys]
            steps = torch.zeros(len(indices), dtype=_step_dtype())
            for k, i in enumerate(indices):
                state = optimizer.state.get(params[i], {})
                steps[k] = float(state.get("step", 0.0))
                own = [state[key].contiguous() if state else torch.zeros_like(params[i]) for key in keys]
                for slot, value in zip(slots, own, strict=True):
                    slot.append(value.detach())
                new_entries.append((i, {"step": steps[k], **dict(zip(keys, own, strict=True))}))
            counts = steps.numpy()
            if not (np.isfinite(counts).all() and (counts >= 0).all()):
                raise StateError(f"a step count is not a number of at least 0 among {sorted(set(counts.tolist()))}")
            written = [params[i].detach().numpy() for i in indices]
            plan = kernel(
                rule, [names[i] for i in indices], written, [[value.numpy() for value in slot] for slot in slots]
            )
            rows = None if len(optimizer.param_groups) == 1 else np.array([group_of[i] for i in indices], np.int32)
            parts.append(_Part(plan, indices, rows, counts, [p.shape for p in written], written[0].dtype))

        for i, entries in new_entries:
            optimizer.state[params[i]].update(entries)
        stepped = [False] * len(params)
        for i, _ in new_entries:
            stepped[i] = True
        self._params, self._stepped, self._rules, self._parts = params, stepped, rules, parts
        self._states = list(optimizer.state.values())
        self._watched = [*params, *self._entries()]
        self._tensors = [value for value in self._watched if isinstance(value, Tensor)]
        self._pointers = list(map(Tensor.data_ptr, self._tensors))

    def _arrays(
        self, part: _Part, grads: list[Tensor | None], groups: Sequence[dict[str, Any]]
    ) -> list[np.ndarray | None]:
        """The gradients of a part as NumPy arrays over the same memory."""
        given = [grads[i] for i in part.members]
        try:
            return [g if g is None else g.numpy() for g in given]
        except (TypeError, RuntimeError):
            names = _names(groups)
            return [_array(names[i], grads[i]) for i in part.members]

    def _check_shapes(self, arrays: list[list[np.ndarray | None]], groups: Sequence[dict[str, Any]]) -> None:
        for part, given in zip(self._parts, arrays, strict=True):
            for i, shape, g in zip(part.members, part.shapes, given, strict=True):
                p = self._params[i]
                if g is not None and not (g.shape == shape == tuple(p.shape) and g.dtype == part.dtype):
                    raise ArrayError(
                        f"parameter {_names(groups)[i]} is {p.dtype}{list(p.shape)}, its moments were made for "
                        f"{part.dtype}{list(shape)} and its gradient is {g.dtype}{list(g.shape)}; clear optimizer.state"
                    )


def _run(part: _Part, given: list[np.ndarray | None], table: np.ndarray) -> None:
    taken = part.steps.astype(np.int64)
    taking_part: Any = np.array([g is not None for g in given]) if _has_none(given) else 1
    try:
        part.plan.step(given, taken + taking_part, table, part.rows, taken=taken)
    finally:  # Ctrl-C finds moments and steps that belong together
        part.steps[:] = taken


class _Stepped:
    """What `Adam` and `AdamW` share, before torch's own class in the order of methods."""

    param_groups: list[dict[str, Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # torch's fused optimizers unscale gradients inside the step, for torch.amp.GradScaler. Here the scaler does it.
        self._step_supports_amp_scaling = False

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; with how many threads now."""
        return str(choose())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """`torch.optim.Optimizer.add_param_group`; checks what it is given.

        Raises:
            UnsupportedError: a parameter or a setting cannot be served; names it. The group was not added.
            ArgumentError: a number is outside its range. The group was not added.
        """
        super().add_param_group(param_group)  # type: ignore[misc]
        try:
            read_group(self.param_groups[-1], self)
            added = self.param_groups[-1]["params"]
            for name, p in zip(_names(self.param_groups)[-len(added) :], added, strict=False):
                _check_parameter(name, p)
        except BaseException:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """`torch.optim.Optimizer.load_state_dict`, from these optimizers' or from torch's own `state_dict`.

        Raises:
            UnsupportedError: it was saved with a setting that cannot be served. Nothing was loaded.
        """
        for group in state_dict["param_groups"]:
            _check_settings(group)
        super().load_state_dict(state_dict)  # type: ignore[misc]

    @torch.compiler.disable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place.

        Args:
            closure: computes the loss again, and the gradients.

        Returns:
            The loss that the closure returned; None without one.

        Raises:
            UnsupportedError: a parameter or gradient cannot be served; names it.
            ArrayError: parameters share memory, or have become another shape or dtype than their moments.
            ArgumentError: a number of a group is outside its range.
            StateError: the state of a parameter lacks something.

        Nothing has been changed when one of them is raised. After a Ctrl-C (KeyboardInterrupt) the moments of each
        parameter and its step belong together.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if "_stepper" not in self.__dict__:  # new, copied or unpickled
            self._stepper = Stepper()
        self._stepper.step(self)  # type: ignore[arg-type]
        return loss


class Adam(_Stepped, torch.optim.Adam):
    r"""`torch.optim.Adam`, stepped by one native call for all parameters.

    For step t = 1, 2, ... of each parameter p with gradient g:

        g <- g + weight_decay p                 (with maximize, g <- -g before it)
        m <- m + (1 - beta1) (g   - m)
        v <- v + (1 - beta2) (g^2 - v)
        p <- p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    where w is v, or with amsgrad the largest v so far (Kingma & Ba 2015; Reddi et al. 2018). p, and m, v and w, which
    are `exp_avg`, `exp_avg_sq` and `max_exp_avg_sq` in the state, change in place. A step counts for each parameter,
    and a parameter whose gradient is None is left alone.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize: as in `torch.optim.Adam`, with its defaults; each
            group of parameters may have its own.
        foreach, fused: which of torch's own loops to take; any value gives this one, which is one call for all.
        capturable, differentiable: False.
        decoupled_weight_decay: True makes it `AdamW`.

    Raises:
        UnsupportedError: a parameter or a setting cannot be served (see the top of this module).
        ArgumentError, ValueError: a number is outside its range.

    Differs from `torch.optim.Adam`: results agree to rounding, and are the same bits as `adamas.numpy.Adam`'s; moments
    below the smallest normal number are stored as 0; a parameter given twice is refused.

    Example:
        >>> import torch
        >>> from adamas.torch import Adam
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = Adam([p], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.01)
        True
    """


class AdamW(_Stepped, torch.optim.AdamW):
    r"""`torch.optim.AdamW` (Loshchilov & Hutter 2019), stepped by one native call: `Adam` with decoupled decay.

    The same as `Adam`, but weight decay does not enter the moments:

        p <- (1 - lr weight_decay) p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    Args:
        weight_decay: at least 0; default 1e-2.

    Every other argument, what changes in place and what is raised: see `Adam`.

    Example:
        >>> import torch
        >>> from adamas.torch import AdamW
        >>> p = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = AdamW([p], lr=0.1, weight_decay=0.5)
        >>> p.grad = torch.zeros(3)
        >>> optimizer.step()
        >>> p.tolist()
        [0.949999988079071, 0.949999988079071, 0.949999988079071]
    """


def read_group(group: dict[str, Any], optimizer: object) -> tuple[Rule, Hyper]:
    """The rule and the numbers of a parameter group.

    Raises:
        UnsupportedError: a setting that cannot be served.
        ArgumentError: a number is outside its range.
    """
    _check_settings(group)
    # torch before 2.7 has no such entry, and there AdamW is no subclass of Adam.
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
    beta1, beta2 = group["betas"]
    return _rule(bool(decoupled), bool(group["amsgrad"]), bool(group["maximize"])), Hyper(
        float(group["lr"]), float(beta1), float(beta2), float(group["eps"]), 0.0, group["weight_decay"]
    )


@functools.cache
def _rule(decoupled: bool, amsgrad: bool, maximize: bool) -> Rule:
    preset = PRESETS["torch.AdamW" if decoupled else "torch.Adam"]
    return replace(preset.rule, amsgrad="raw" if amsgrad else "off", maximize=maximize)


def _check_settings(group: dict[str, Any]) -> None:
    for setting, remedy in (
        ("capturable", "CUDA graphs; leave it out on the CPU"),
        ("differentiable", "gradients through the step; use torch.optim for it"),
    ):
        if group.get(setting):
            raise UnsupportedError(f"{setting}=True is for {remedy}, and adamas.torch does not serve it")


def _check_parameter(name: str, p: Tensor) -> None:
    if type(p) not in (Tensor, torch.nn.Parameter):
        problem, remedy = f"is a {type(p).__name__}", "give a torch.Tensor or torch.nn.Parameter"
    elif p.layout != torch.strided:
        problem, remedy = f"has the layout {p.layout}", "make it dense with .to_dense()"
    elif p.device.type != "cpu":
        problem, remedy = f"is on the device {p.device}", "move it with .cpu()"
    elif p.dtype not in (torch.float32, torch.float64):
        problem, remedy = f"is {p.dtype}", "keep the parameters in torch.float32, and compute under torch.autocast"
    elif not p.is_contiguous():
        problem, remedy = f"is not contiguous (strides {p.stride()})", "make it so with .contiguous()"
    else:
        return
    raise UnsupportedError(
        f"parameter {name} {problem}; adamas.torch steps dense, contiguous float32 and float64 parameters on the CPU: "
        f"{remedy}, or use torch.optim"
    )


def _check_state(name: str, rule: Rule, state: dict[str, Any], p: Tensor) -> None:
    needed = ("step", *_KEYS[: len(rule.slots)])
    missing = [key for key in needed if key not in state]
    if missing:
        raise StateError(
            f"the state of parameter {name} has no {', '.join(missing)}: it was made by another optimizer or without "
            "amsgrad; clear optimizer.state, or load a state_dict of the same settings"
        )
    for key in needed[1:]:
        if (state[key].dtype, state[key].device, state[key].shape) != (p.dtype, p.device, p.shape):
            raise StateError(
                f"{key} of parameter {name} is {state[key].dtype}{list(state[key].shape)} on {state[key].device}, the "
                f"parameter {p.dtype}{list(p.shape)} on {p.device}; clear optimizer.state, or load a fitting state_dict"
            )


def _array(name: str, gradient: Tensor | None) -> np.ndarray | None:
    """A gradient for which `.numpy()` is not enough."""
    if gradient is None:
        return None
    if gradient.layout != torch.strided:
        raise UnsupportedError(
            f"the gradient of parameter {name} has the layout {gradient.layout}; adamas.torch steps with dense "
            "gradients: make the embedding with sparse=False, or use torch.optim.SparseAdam"
        )
    try:
        return gradient.detach().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise UnsupportedError(
            f"the gradient of parameter {name} is {gradient.dtype} on {gradient.device} and cannot be read ({error}); "
            "give one of the parameter's dtype on the CPU, or use torch.optim"
        ) from error


def _names(groups: Sequence[dict[str, Any]]) -> list[str]:
    """How messages call the parameters: as the model does where torch was told, else by their place."""
    return [
        repr(group["param_names"][i]) if "param_names" in group else f"{i} of group {k}"
        for k, group in enumerate(groups)
        for i in range(len(group["params"]))
    ]


def _step_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _same(these: Sequence[Any], those: Sequence[Any]) -> bool:
    return len(these) == len(those) and all(map(is_, these, those))


def _has_none(values: Sequence[Any]) -> bool:
    return not all(map(is_not, values, repeat(None)))
