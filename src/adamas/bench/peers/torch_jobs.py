"""A step of any optimizer for torch's parameters. Nothing of Adamas is needed: it runs in other environments, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from adamas.bench.job import Job


def step(make: Callable[..., torch.optim.Optimizer], shapes: list[list[int]], **settings: Any) -> Job:
    """A step of an optimizer for torch's parameters."""
    optimizer, params = made(make, shapes, **settings)
    return Job(
        lambda: optimizer.step(),
        weights=sum(parameter.nbytes for parameter in params),
        state=lambda: state_bytes(optimizer),
    )


def made(
    make: Callable[..., torch.optim.Optimizer], shapes: list[list[int]], **settings: Any
) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """The optimizer, and parameters that have gradients."""
    params = [torch.nn.Parameter(numbers(shape, 1.0)) for shape in shapes]
    for parameter, shape in zip(params, shapes, strict=True):
        parameter.grad = numbers(shape, 0.01)
    return make(params, lr=1e-3, **settings), params


def numbers(shape: list[int], scale: float) -> torch.Tensor:
    """Normally distributed; from a million on they repeat, which makes them quickly and no step faster."""
    found = torch.empty(shape)
    flat = found.view(-1)
    some = torch.randn(min(flat.numel(), 2**20), generator=torch.Generator().manual_seed(0)) * scale
    for piece in flat.split(some.numel()):
        piece.copy_(some[: piece.numel()])
    return found


def state_bytes(optimizer: Any) -> int:
    """Of all tensors in the state, tables of codes and scales included; one that several parameters share counts once.

    Steps that are counted in a tensor are left out: a number for each parameter tensor, not for each parameter.
    """
    found: dict[int, torch.Tensor] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if hasattr(value, "__tensor_flatten__"):  # made of other tensors, as torchao's are
                for name in value.__tensor_flatten__()[0]:
                    add(getattr(value, name))
            else:
                found[value.data_ptr()] = value

    for state in optimizer.state.values():
        for name, value in state.items():
            if name != "step":
                add(value)
    return sum(tensor.nbytes for tensor in found.values())
