"""`torch.optim.Adam` and its family: the objects stay torch's, only what `step` computes is replaced.

So the script's checks of types, its state_dicts and what it saves or pickles are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from adamas.errors import AdamasError
from adamas.explain.record import Record, Used, name_of
from adamas.kernels import choose
from adamas.torch import Stepper

_KINDS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)
original: dict[type, Callable[..., Any]] = {}
"""torch's own `step` of each class."""


def install(record: Record) -> None:
    """From now on `Adam` and its family step with Adamas where that is the same."""
    for kind in _KINDS:
        if "step" in vars(kind):  # AdamW inherits Adam's
            original[kind] = vars(kind)["step"]
            kind.step = _step(record, original[kind])  # type: ignore[method-assign]
    began = torch.optim.Optimizer.__init__

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        began(self, *args, **kwargs)
        kind = type(self)
        if record.recording and kind in _KINDS:
            _meet(self, record)
        elif record.recording:
            record.leave(name_of(kind), _why_left(kind))

    torch.optim.Optimizer.__init__ = made  # type: ignore[method-assign]


def own_step(optimizer: Any) -> Callable[[], Any]:
    """torch's own step of an optimizer."""
    step = next(original[kind] for kind in type(optimizer).__mro__ if kind in original)
    return lambda: step(optimizer)


def _step(record: Record, own: Callable[..., Any]) -> Callable[..., Any]:
    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        if type(self) not in _KINDS or torch.compiler.is_compiling() or not record.recording:
            return own(self, closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stepper, used = self.__dict__.get("_adamas") or _meet(self, record)  # one that was copied or unpickled
        if used.clone is None:
            used.clone, used.by = _describe(self), f"adamas.torch ({choose()})"
        began = record.now()
        if used.why_not is None and getattr(self, "grad_scale", None) is not None:
            used.why_not = "torch.amp.GradScaler unscales inside torch's fused step"
        if used.why_not is None:
            try:
                stepper.step(self)
            except AdamasError as error:  # nothing was changed
                used.why_not = " ".join(str(error).split())
        if used.why_not is not None:
            own(self)
        used.steps.add(began, record.now())
        return loss

    return step


def _meet(optimizer: Any, record: Record) -> tuple[Stepper, Used]:
    known = (Stepper(), Used(name_of(type(optimizer)), "torch"))
    record.used.append(known[1])
    optimizer._adamas = known
    return known


def _describe(optimizer: Any) -> list[tuple[dict[str, Any], list[tuple[tuple[int, ...], torch.dtype]]]]:
    """The settings of each group, and the shapes and dtypes of what it steps."""
    return [
        (
            {key: value for key, value in group.items() if key not in ("params", "param_names")},
            [(tuple(p.shape), p.dtype) for p in group["params"] if p.grad is not None],
        )
        for group in optimizer.param_groups
    ]


def _why_left(kind: type) -> str:
    for base in _KINDS:
        if issubclass(kind, base):
            return f"a subclass of {name_of(base)}, which may step in its own way"
    return "not Adam"
