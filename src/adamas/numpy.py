"""Adam and AdamW for NumPy arrays, updated in place.

    from adamas.numpy import Adam

    params = {"w": np.zeros((784, 10), np.float32), "b": np.zeros(10, np.float32)}
    optimizer = Adam(params, lr=1e-3)
    for x, y in batches:
        optimizer.step(gradients_of_my_loss(params, x, y))      # {"w": ..., "b": ...}

The arguments, formulas and defaults are those of `torch.optim`, and `like="keras"` or `like="optax"` gives another's.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from itertools import repeat
from operator import is_
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from adamas.errors import ArgumentError, ArrayError, StateError, UnsupportedError
from adamas.gradients import GradientReport, check_gradients
from adamas.kernels import Plan, arrays, choose
from adamas.kernels.reference import ieee, sum_of_squares
from adamas.rule import PRESETS, Clip, Hyper, Rule, clip_factor, is_number
from adamas.state import State

__all__ = ["Adam", "AdamW", "GradientReport", "check_gradients"]

Arrays = Sequence[np.ndarray] | Mapping[str, np.ndarray]
Gradients = Sequence[np.ndarray | None] | Mapping[str, np.ndarray | None]
Peer = Literal["torch", "keras", "optax"]


class _Group(NamedTuple):
    """The tensors of one dtype: a kernel's plan is of one. `taken` counts each one's steps; the plan writes it."""

    plan: Plan
    members: list[int]
    taken: np.ndarray


class Adam:
    r"""Adam (Kingma & Ba 2015) for NumPy arrays, as `torch.optim.Adam` defines it.

    For step t = 1, 2, ... of each parameter p with gradient g:

        g <- g + weight_decay p                 (coupled decay; with maximize, g <- -g before it)
        m <- m + (1 - beta1) (g   - m)
        v <- v + (1 - beta2) (g^2 - v)
        p <- p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    where w is v, or with amsgrad the largest v so far. m and v start at 0. Parameters of float32 are computed in
    float32 and those of float64 in float64; scalars such as beta1^t in float64.

    Args:
        params: a list, tuple or dict of float32 or float64 arrays of any shape, C-contiguous, writable, not
            overlapping. `step` changes them in place. The two dtypes may be mixed.
        lr: learning rate, at least 0. Also settable later: `optimizer.lr = 1e-4`.
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps: added to the root, at least 0. None: the default of `like` (torch and optax 1e-8, keras 1e-7).
        weight_decay: at least 0. None: the default of `like` (0).
        amsgrad: use the largest second moment so far (Reddi et al. 2018).
        maximize: go up the gradient instead of down.
        like: whose formula: "torch"; "keras", where eps is added to the uncorrected root and decay is decoupled; or
            "optax", where amsgrad takes the largest corrected moment and Adam has no decay.
        eps_root: added inside the root, at least 0. With `like="optax"` only; the others have none.

    Raises:
        ArgumentError: a setting is outside its range.
        ArrayError: an array cannot take part; names it.

    Differs from `torch.optim.Adam`: gradients are passed to `step`; moments of float32 parameters agree with torch's to
    rounding, not to the bit, and moments below the smallest normal number are stored as 0. There are no parameter
    groups: make an optimizer for each.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import Adam
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = Adam([p], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.01)
        True
    """

    _peers: ClassVar[Mapping[str, str]] = {"torch": "torch.Adam", "keras": "keras.Adam", "optax": "optax.adam"}

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        like: Peer = "torch",
        eps_root: float = 0.0,
    ) -> None:
        self._rule, self._hyper = _settings(
            self._peers, lr, betas, eps, weight_decay, amsgrad, maximize, like, eps_root
        )
        self._given = params
        self._names, self._params = _named(params)
        self._known = frozenset(self._names)
        self._zero_d = [i for i, param in enumerate(self._params) if np.ndim(param) == 0]
        for name, param in zip(self._names, self._params, strict=True):
            if not isinstance(param, np.ndarray):
                raise ArrayError(f"tensor {name!r}: the parameter is a {type(param).__name__}; give a numpy.ndarray")
        self._slots = [[np.zeros(param.shape, param.dtype) for param in self._params] for _ in self._rule.slots]
        self._lock = threading.RLock()  # re-entrant: a signal handler may save the state of a step it interrupts
        self._set(self._hyper)
        choice = choose()
        by_dtype: dict[np.dtype[Any], list[int]] = {}
        for i, param in enumerate(self._params):
            by_dtype.setdefault(param.dtype, []).append(i)
        self._groups = [
            _Group(
                choice.plan(
                    self._rule,
                    [self._names[i] for i in members],
                    [self._params[i] for i in members],
                    [[slot[i] for i in members] for slot in self._slots],
                ),
                members,
                np.zeros(len(members), np.int64),
            )
            for members in by_dtype.values()
        ]
        if len(self._groups) > 1:  # each plan has checked its own arrays only
            arrays.check_step(self._names, self._params, self._slots, [None] * len(self._names))

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._hyper.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._set(replace(self._hyper, lr=value))

    @property
    def rule(self) -> Rule:
        """The switches of this optimizer."""
        return self._rule

    @property
    def hyper(self) -> Hyper:
        """The numbers of the next step."""
        return self._hyper

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; with how many threads now."""
        return str(choose())

    def __repr__(self) -> str:
        size = sum(param.size for param in self._params)
        return f"{type(self).__name__}({len(self._names)} tensors of {size} elements, {self._rule}, {self._hyper})"

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            f"an {type(self).__name__} changes arrays that it does not own, so it cannot be copied or pickled; keep "
            "state_dict() and load it into an optimizer made over the other arrays"
        )

    def step(self, grads: Gradients, *, max_norm: float | None = None) -> float | None:
        """Update every parameter that has a gradient, in place.

        Args:
            grads: one array per parameter, of its shape and dtype: in the order of a list of parameters, by name for a
                dict. A parameter whose gradient is None (or absent from a dict) keeps its value, its moments and its
                step count. Gradients are only read; they may share memory with each other, not with parameters.
            max_norm: clip the gradients' global norm n to this, above 0, as `torch.nn.utils.clip_grad_norm_` does:
                where max_norm / (n + 1e-6) is below 1, every gradient counts as multiplied by it.

        Returns:
            n, where `max_norm` is given; else None.

        Raises:
            ArrayError: a gradient does not fit, or a parameter was replaced by another array; names the tensor.
            ArgumentError: `grads` is not what `params` was, names an unknown parameter, or `max_norm` is not above 0.

        Nothing has been changed when one of them is raised. A Ctrl-C (KeyboardInterrupt) leaves each parameter, its
        moments and its step count as they were or as the step makes them, never between; where there is no native
        kernel (`kernel`), but for the one tensor in which it struck.
        """
        if max_norm is not None:
            if not (is_number(max_norm) and max_norm > 0.0):
                raise ArgumentError(f"max_norm={max_norm!r}: give a number above 0, or None not to clip")
            max_norm = float(max_norm)
        with self._lock:
            ordered = self._in_order(grads)
            if len(self._groups) == 1:
                clip = None if max_norm is None else Clip("torch", max_norm)
                return self._step_group(self._groups[0], ordered, clip=clip)
            return self._step_groups(ordered, max_norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything a later run needs to go on exactly: plain dicts, numbers, and arrays that are copies.

        Returns:
            {"rule": {...}, "hyper": {...}, "state": {name: {"step": int, "m": array, "v": array, ...}}}; a list's
            parameters are named "0", "1", ... The second moments of amsgrad are in "vmax".
        """
        state = self.portable_state()
        return {
            "rule": asdict(state.rule),
            "hyper": asdict(state.hypers[0]),
            "state": {name: {"step": state.steps[name], **slots} for name, slots in state.slots.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave: moments, step counts and numbers (lr, betas, ...).

        Raises:
            StateError: it belongs to other parameters or another formula, or is damaged; lists the differences. Nothing
                has been changed.
        """
        try:
            parts, keys = dict(state_dict), {"rule", "hyper", "state"}
            if set(parts) != keys:
                raise StateError(f"a state_dict has the keys {sorted(keys)}, this one {sorted(map(str, parts))}")
            slots = {name: {k: v for k, v in entry.items() if k != "step"} for name, entry in parts["state"].items()}
            state = State(
                rule=Rule(**parts["rule"]),
                slots=slots,
                steps={name: entry["step"] for name, entry in parts["state"].items()},
                hypers=[Hyper(**parts["hyper"])],
            )
        except StateError:
            raise
        except (ArgumentError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a state_dict of {type(self).__name__} ({error!r}); nothing was loaded") from error
        self.load_portable_state(state)

    def portable_state(self) -> State:
        """A copy of everything carried from step to step, for `adamas.state.save`."""
        with self._lock:
            return State(
                rule=self._rule,
                slots={
                    name: {slot.name: own[i].copy() for slot, own in zip(self._rule.slots, self._slots, strict=True)}
                    for i, name in enumerate(self._names)
                },
                steps={
                    self._names[i]: taken
                    for group in self._groups
                    for i, taken in zip(group.members, group.taken.tolist(), strict=True)
                },
                hypers=[self._hyper],
            )

    def load_portable_state(self, state: State) -> None:
        """Take over a `State`, as `adamas.state.load` gives it: moments, step counts and numbers (lr, betas, ...).

        Raises:
            StateError: it does not fit these parameters or this formula; lists the differences. Nothing has been
                changed.
        """
        state.check_fits(
            self._rule,
            {name: param.shape for name, param in zip(self._names, self._params, strict=True)},
            {name: param.dtype.name for name, param in zip(self._names, self._params, strict=True)},
        )
        numbers = {state.hypers[group] for group in state.groups.values()}
        if len(numbers) > 1:
            raise StateError(
                f"the state has {len(numbers)} groups with different numbers and this optimizer has one; make one "
                "optimizer for each group and load its part"
            )
        with self._lock:
            for i, name in enumerate(self._names):
                for slot, own in zip(self._rule.slots, self._slots, strict=True):
                    own[i][...] = state.slots[name][slot.name]
            for group in self._groups:
                group.taken[:] = [state.steps[self._names[i]] for i in group.members]
            self._set(*numbers)

    def _set(self, hyper: Hyper) -> None:
        table = np.array([astuple(hyper)], np.float64)
        self._hyper, self._table = hyper, table  # both or, if interrupted, none

    def _in_order(self, grads: Gradients) -> list[np.ndarray | None]:
        """The gradients in the order of the parameters, checked as containers.

        No Python code runs per tensor: 500 of them in a dict take 0.05 ms, and one native step of theirs 0.2 to 0.5 ms.
        """
        if isinstance(self._given, Mapping):
            if not isinstance(grads, Mapping):
                raise ArgumentError(f"the parameters are a dict by name; give a dict of gradients, not {_kind(grads)}")
            ordered = list(map(grads.get, self._names))
            if (len(grads) != len(ordered) or _has_none(ordered)) and not grads.keys() <= self._known:
                unknown = sorted(map(str, grads.keys() - self._known))
                raise ArgumentError(f"gradients for unknown parameters {unknown}; known are {self._names}")
            current: Collection[np.ndarray] = self._given.values()
        else:
            if not isinstance(grads, (list, tuple)):
                raise ArgumentError(f"the parameters are a list; give a list of gradients, not {_kind(grads)}")
            if len(grads) != len(self._names):
                raise ArgumentError(
                    f"{len(grads)} gradients for {len(self._names)} parameters; give one for each, in the same order, "
                    "None where there is none"
                )
            ordered, current = list(grads), self._given
        if len(current) != len(self._params) or not all(map(is_, current, self._params)):
            self._check_replaced()
        for i in self._zero_d:  # NumPy's functions return numbers, not arrays, of no dimension
            grad: Any = ordered[i]
            if isinstance(grad, np.generic):
                ordered[i] = np.asarray(grad)
        return ordered

    def _check_replaced(self) -> None:
        """The container of the parameters has changed: say how, unless only its order has."""
        by_name = isinstance(self._given, Mapping)
        now: Mapping[str, Any] = (
            dict(self._given) if isinstance(self._given, Mapping) else {str(i): p for i, p in enumerate(self._given)}
        )
        for name, param in zip(self._names, self._params, strict=True):
            if name not in now:
                raise ArrayError(
                    f"tensor {name!r} was removed from the parameters since the optimizer was made; put it back, or "
                    "make a new optimizer"
                )
            if now[name] is not param:
                entry = f"params[{name!r}]" if by_name else f"params[{name}]"
                raise ArrayError(
                    f"tensor {name!r} was replaced by another array since the optimizer was made, so a step would "
                    f"change the old one only; assign into it, {entry}[...] = value, or make a new optimizer"
                )
        for name in now:
            if name not in self._known:
                raise ArrayError(
                    f"tensor {name!r} was added since the optimizer was made; make a new optimizer with it"
                )

    def _step_group(self, group: _Group, grads: list[np.ndarray | None], **clip: Any) -> float | None:
        taking_part = np.array([grad is not None for grad in grads]) if _has_none(grads) else 1
        return group.plan.step(grads, group.taken + taking_part, self._table, taken=group.taken, **clip)

    def _step_groups(self, grads: list[np.ndarray | None], max_norm: float | None) -> float | None:
        """Several plans: everything is checked before the first one writes, and the norm is taken over all of them."""
        arrays.check_step(self._names, self._params, self._slots, grads)
        norm, scale = None, 1.0
        if max_norm is not None:
            with ieee():
                norm = float(np.sqrt(sum_of_squares(grads)))
                scale = clip_factor("torch", norm, max_norm)
        for group in self._groups:
            self._step_group(group, [grads[i] for i in group.members], grad_scale=scale)
        return norm


class AdamW(Adam):
    r"""AdamW (Loshchilov & Hutter 2019) for NumPy arrays, as `torch.optim.AdamW` defines it: Adam with decoupled decay.

    The same as `Adam`, but weight decay does not enter the moments:

        m <- m + (1 - beta1) (g   - m)          (with maximize, g <- -g before)
        v <- v + (1 - beta2) (g^2 - v)
        p <- (1 - lr weight_decay) p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    Args:
        weight_decay: at least 0. None: the default of `like` (torch 1e-2, keras 4e-3, optax 1e-4).

    Every other argument, what changes in place and what is raised: see `Adam`.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import AdamW
        >>> w = np.ones(3, np.float32)
        >>> optimizer = AdamW({"w": w}, lr=0.1, weight_decay=0.5)
        >>> optimizer.step({"w": np.zeros(3, np.float32)})
        >>> w
        array([0.95, 0.95, 0.95], dtype=float32)
    """

    _peers: ClassVar[Mapping[str, str]] = {"torch": "torch.AdamW", "keras": "keras.AdamW", "optax": "optax.adamw"}


def _settings(
    peers: Mapping[str, str],
    lr: float,
    betas: tuple[float, float],
    eps: float | None,
    weight_decay: float | None,
    amsgrad: bool,
    maximize: bool,
    like: str,
    eps_root: float,
) -> tuple[Rule, Hyper]:
    if like not in peers:
        raise ArgumentError(f"like={like!r}: give one of {', '.join(map(repr, peers))}")
    preset = PRESETS[peers[like]]
    if not (isinstance(betas, (tuple, list)) and len(betas) == 2):
        raise ArgumentError(f"betas={betas!r}: give two numbers in [0, 1), such as (0.9, 0.999)")
    if amsgrad not in (False, True):
        raise ArgumentError(f"amsgrad={amsgrad!r}: give False or True")
    if eps_root and like != "optax":
        raise ArgumentError(f"eps_root={eps_root!r}: {peers[like]} has none; only like='optax' takes it")
    if weight_decay and peers[like] == "optax.adam":
        raise ArgumentError(f"weight_decay={weight_decay!r}: optax.adam has no weight decay; use AdamW")
    kept = PRESETS["optax.amsgrad"].rule.amsgrad if like == "optax" else "raw"
    rule = replace(preset.rule, amsgrad=kept if amsgrad else "off", maximize=maximize)
    hyper = replace(
        preset.hyper,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        eps=preset.hyper.eps if eps is None else eps,
        eps_root=eps_root,
        weight_decay=preset.hyper.weight_decay if weight_decay is None else weight_decay,
    )
    return rule, hyper


def _named(params: Arrays) -> tuple[list[str], list[np.ndarray]]:
    if isinstance(params, Mapping):
        wrong = [key for key in params if not isinstance(key, str)]
        if wrong:
            raise ArgumentError(f"parameters are named by strings; {wrong[0]!r} is not one")
        names, values = list(params), list(params.values())
    elif isinstance(params, (list, tuple)):
        names, values = [str(i) for i in range(len(params))], list(params)
    else:
        raise ArgumentError(f"params is {_kind(params)}; give a list or a dict of arrays")
    if not names:
        raise ArgumentError("params is empty; give at least one array")
    return names, values


def _has_none(grads: list[np.ndarray | None]) -> bool:
    return any(map(is_, grads, repeat(None)))  # `None in grads` would compare arrays


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
