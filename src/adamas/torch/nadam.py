"""NAdam for PyTorch."""

from __future__ import annotations

import torch

from adamas.torch.optimizer import Stepped


class NAdam(Stepped, torch.optim.NAdam):
    r"""`torch.optim.NAdam` (Dozat 2016), stepped by one native call: Adam that looks one step ahead.

    With mu_t = beta1 (1 - 0.5 * 0.96^(t momentum_decay)) and M_t = mu_1 mu_2 ... mu_t, which is `mu_product` in the
    state, m and v as in `Adam`, each step is

        p <- p - lr ((1 - mu_t) / (1 - M_t) g + mu_{t+1} / (1 - M_t mu_{t+1}) m) / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        params, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, maximize: as in
            `torch.optim.NAdam`, with its defaults.

    Every other argument, what changes in place and what is raised: see `Adam`.

    Differs from `torch.optim.NAdam`: results agree to rounding; mu_product is float64, where torch's is float32.

    Example:
        >>> import torch
        >>> from adamas.torch import NAdam
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = NAdam([p], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.01)
        True
    """
