"""StableAdamW for NumPy arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from adamas.groups import check_betas
from adamas.numpy.adam import check_groups
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays
from adamas.rule import PRESETS

_PEER = "optimi.StableAdamW"


class StableAdamW(Optimizer):
    r"""StableAdamW (Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2) for NumPy arrays: AdamW with update clipping.

    Where the gradients of a tensor are suddenly larger than v expects, Adam steps too far, and the loss spikes. For
    step t = 1, 2, ... of each parameter p with gradient g:

        m   <- m + (1 - beta1) (g   - m)        (with maximize, g <- -g before)
        v   <- v + (1 - beta2) (g^2 - v)
        m^  =  m / (1 - beta1^t)
        v^  =  v / (1 - beta2^t)
        RMS =  sqrt(mean(g^2 / max(v^, eps^2))),    the mean over all elements of p
        lr' =  lr / max(1, RMS)
        p   <- (1 - lr' weight_decay) p - lr' m^ / (sqrt(v^) + eps)

    m and v start at 0. The mean takes one more read of g and v. It needs no clipping of gradients beside it.

    Args:
        params: as for `adamas.numpy.Adam`; changed in place by `step`.
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps: added to the root, at least 0.
        weight_decay: at least 0.
        maximize: go up the gradient instead of down.
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: as for `adamas.numpy.Adam`. With
            moments of low precision the mean takes v as the step does, before it is rounded.

    Raises:
        ArgumentError: a setting is outside its range.
        ArrayError: an array cannot take part; names it.

    Differs from `optimi.StableAdamW`, whose defaults these are (lr has none there): there is no `decouple_lr`; what
    else differs is as `adamas.numpy.Adam` says. torch, Keras and optax have none. One NaN in a gradient makes the
    mean NaN, and with it the whole tensor; see `nonfinite`.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import StableAdamW
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = StableAdamW([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.05)
        True
    """

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        rule, hyper = PRESETS[_PEER]
        check_betas(betas)
        super().__init__(
            params,
            replace(rule, maximize=maximize),
            replace(hyper, lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay),
            **common,
        )
        check_groups(_PEER, common.get("groups", ()))
