"""LAMB for PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from adamas.torch.optimizer import Stepped


class LAMB(Stepped, torch.optim.Optimizer):
    r"""LAMB (You et al. 2020, arXiv:1904.00962, Algorithm 2), as `optax.lamb` defines it, in one native call.

    AdamW for very large batches: each tensor moves in proportion to its own size. With m and v as in `Adam`, and |.|
    the root of the sum of the squares of a tensor, each step of a parameter p is

        r =  m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p
        p <- p - lr |p| / |r| r,                lr r where |p| or |r| is 0

    Args:
        params: parameters or groups of them, as for `Adam`.
        lr: learning rate, at least 0: how far a tensor moves in a step, as a share of its norm.
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps, weight_decay: at least 0.
        maximize: go up the gradient instead of down.
        like: "keras": p <- p - lr weight_decay p comes first, and r has no decay in it.

    Every other argument, what changes in place and what is raised: see `Adam`. Results are the
    bits of `adamas.numpy.LAMB`'s. apex' FusedLAMB clips by the global norm first (here `step(max_norm=...)`).

    Example:
        >>> import torch
        >>> from adamas.torch import LAMB
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = LAMB([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.05)
        True
    """

    preset = "optax.lamb"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **settings: Any,
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "maximize": maximize}, **settings)
