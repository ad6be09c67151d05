"""StableAdamW for PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from adamas.torch.optimizer import Stepped


class StableAdamW(Stepped, torch.optim.Optimizer):
    r"""StableAdamW (Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2), in one native call.

    AdamW that takes smaller steps where gradients are suddenly larger than v expects, against loss spikes. With m and v
    as in `Adam`, and m^ and v^ corrected for starting at 0, each step of a parameter p is

        RMS =  sqrt(mean(g^2 / max(v^, eps^2))),    the mean over all elements of p
        lr' =  lr / max(1, RMS)
        p   <- (1 - lr' weight_decay) p - lr' m^ / (sqrt(v^) + eps)

    Args:
        params: parameters or groups of them, as for `Adam`.
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps, weight_decay: at least 0.
        maximize: go up the gradient instead of down.

    Every other argument, what changes in place and what is raised: see `Adam`. Results are the
    bits of `adamas.numpy.StableAdamW`'s.

    Example:
        >>> import torch
        >>> from adamas.torch import StableAdamW
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = StableAdamW([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.05)
        True
    """

    preset = "optimi.StableAdamW"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        **settings: Any,
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "maximize": maximize}, **settings)
