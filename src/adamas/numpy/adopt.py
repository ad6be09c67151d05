"""ADOPT for NumPy arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from adamas.errors import ArgumentError
from adamas.groups import check_betas
from adamas.numpy.adam import check_groups
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays
from adamas.rule import PRESETS

_PEER = "adopt.ADOPT"


class ADOPT(Optimizer):
    r"""ADOPT (Taniguchi et al. 2024, arXiv:2411.02853) for NumPy arrays, as its authors' `torch-adopt` defines it.

    Adam divides by a v that holds the gradient it divides, which is why it may fail to converge for a beta2 that does
    not suit the problem. ADOPT divides by the v of the step before, and averages after that. For step t = 1, 2, ... of
    each parameter p with gradient g:

        g <- g + weight_decay p                 (coupled decay; with maximize, g <- -g before it)
        n <- g / max(sqrt(v), eps), clipped to [-k, k] with k = (t - 1)^(1/4)
        m <- m + (1 - beta1) (n - m)
        p <- p - lr m
        v <- v + (1 - beta2) (g^2 - v)

    but the first step sets v = g^2 and leaves p and m as they are. m and v start at 0; neither is corrected.

    Args:
        params: as for `adamas.numpy.Adam`; changed in place by `step`.
        lr: learning rate, at least 0. About that of Adam.
        betas: decay rates (beta1, beta2), each in [0, 1).
        eps: the least that is divided by, at least 0.
        weight_decay: at least 0; coupled, or with `decouple` beside the update: p <- p - lr weight_decay p, as in
            AdamW, from the second step on.
        decouple: as the authors name it.
        maximize: go up the gradient instead of down.
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: as for `adamas.numpy.Adam`.

    Raises:
        ArgumentError: a setting is outside its range.
        ArrayError: an array cannot take part; names it.

    Differs from `torch-adopt`: the bound of n is always (t - 1)^(1/4), their default; and as `adamas.numpy.Adam` says
    for all. `optax.contrib.adopt` computes the same without decay. The first version of the paper had no bound.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import ADOPT
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = ADOPT([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.05)
        True
    """

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        decouple: bool = False,
        *,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        rule, hyper = PRESETS[_PEER]
        check_betas(betas)
        if not isinstance(decouple, bool):
            raise ArgumentError(f"decouple={decouple!r}: give False or True")
        super().__init__(
            params,
            replace(rule, decay="decoupled" if decouple else "coupled", maximize=maximize),
            replace(hyper, lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay),
            **common,
        )
        check_groups(_PEER, common.get("groups", ()))
