"""Adamax for PyTorch."""

from __future__ import annotations

import torch

from adamas.torch.optimizer import Stepped


class Adamax(Stepped, torch.optim.Adamax):
    r"""`torch.optim.Adamax` (Kingma & Ba 2015, section 7), stepped by one native call: Adam with the infinity norm.

    For step t = 1, 2, ... of each parameter p with gradient g:

        g <- g + weight_decay p                 (with maximize, g <- -g before it)
        m <- m + (1 - beta1) (g - m)
        v <- max(beta2 v, |g| + eps)
        p <- p - lr / (1 - beta1^t) m / v

    m and v, which are `exp_avg` and `exp_inf` in the state, start at 0.

    Args:
        params, lr, betas, eps, weight_decay, maximize: as in `torch.optim.Adamax`, with its defaults.

    Every other argument, what changes in place and what is raised: see `Adam`.

    Differs from `torch.optim.Adamax`: results agree to rounding, and are the same bits as `adamas.numpy.Adamax`'s.

    Example:
        >>> import torch
        >>> from adamas.torch import Adamax
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = Adamax([p], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.01)
        True
    """
