"""ADOPT for PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from adamas.errors import ArgumentError
from adamas.torch.optimizer import Stepped


class ADOPT(Stepped, torch.optim.Optimizer):
    r"""ADOPT (Taniguchi et al. 2024, arXiv:2411.02853), as its authors' `torch-adopt` defines it, in one native call.

    It divides by the v of the step before, and averages after that. For step t = 1, 2, ... of each parameter p with
    gradient g:

        g <- g + weight_decay p                 (coupled decay; with maximize, g <- -g before it)
        n <- g / max(sqrt(v), eps), clipped to [-k, k] with k = (t - 1)^(1/4)
        m <- m + (1 - beta1) (n - m)
        p <- p - lr m
        v <- v + (1 - beta2) (g^2 - v)

    but the first step sets v = g^2 and leaves p and m as they are. m and v are `exp_avg` and `exp_avg_sq` in the state.

    Args:
        params: parameters or groups of them, as for `Adam`.
        lr: learning rate, at least 0. About that of Adam.
        betas: decay rates (beta1, beta2), each in [0, 1).
        eps: the least that is divided by, at least 0.
        weight_decay: at least 0; coupled, or with `decouple` beside the update: p <- p - lr weight_decay p.
        decouple: as the authors name it; `decoupled_weight_decay` in the groups.
        maximize: go up the gradient instead of down.

    Every other argument, what changes in place and what is raised: see `Adam`. Results are the
    bits of `adamas.numpy.ADOPT`'s.

    Example:
        >>> import torch
        >>> from adamas.torch import ADOPT
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = ADOPT([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.05)
        True
    """

    preset = "adopt.ADOPT"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        decouple: bool = False,
        *,
        maximize: bool = False,
        **settings: Any,
    ) -> None:
        if not isinstance(decouple, bool):
            raise ArgumentError(f"decouple={decouple!r}: give False or True")
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "decoupled_weight_decay": decouple, "maximize": maximize}, **settings)
