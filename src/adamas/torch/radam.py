"""RAdam for PyTorch."""

from __future__ import annotations

import torch

from adamas.torch.optimizer import Stepped


class RAdam(Stepped, torch.optim.RAdam):
    r"""`torch.optim.RAdam` (Liu et al. 2020), stepped by one native call: Adam that needs no warmup.

    In the first steps v is the mean of few gradients, and its root varies so much that they are taken without it. With
    m and v as in `Adam`, and rho = 2 / (1 - beta2) - 1, each step is

        rho_t = rho - 2 t beta2^t / (1 - beta2^t)
        r_t   = sqrt((rho_t - 4)(rho_t - 2) rho / ((rho - 4)(rho - 2) rho_t))
        p <- p - lr / (1 - beta1^t) m r_t sqrt(1 - beta2^t) / (sqrt(v) + eps)         where rho_t > 5
        p <- p - lr / (1 - beta1^t) m                                                 elsewhere

    Args:
        params, lr, betas, eps, weight_decay, decoupled_weight_decay, maximize: as in `torch.optim.RAdam`, with its
            defaults.

    Every other argument, what changes in place and what is raised: see `Adam`.

    Differs from `torch.optim.RAdam`: results agree to rounding, and are the same bits as `adamas.numpy.RAdam`'s.

    Example:
        >>> import torch
        >>> from adamas.torch import RAdam
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = RAdam([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.05)
        True
    """
