"""Adamax for NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Unpack

from adamas.groups import check_betas
from adamas.numpy.adam import Peer, check_groups, of_peer
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays


class Adamax(Optimizer):
    r"""Adamax (Kingma & Ba 2015, section 7) for NumPy arrays, as `torch.optim.Adamax` defines it.

    It divides by the largest recent gradient. For step t = 1, 2, ... of each parameter p with gradient g:

        g <- g + weight_decay p                 (coupled decay; with maximize, g <- -g before it)
        m <- m + (1 - beta1) (g - m)
        v <- max(beta2 v, |g| + eps)
        p <- p - lr / (1 - beta1^t) m / v

    m and v start at 0.

    Args:
        params: as for `adamas.numpy.Adam`; changed in place by `step`.
        lr: learning rate, at least 0. None: the default of `like` (torch 2e-3, keras and optax 1e-3).
        betas: decay rates (beta1, beta2), each in [0, 1).
        eps: at least 0. None: the default of `like` (torch and optax 1e-8, keras 1e-7).
        weight_decay: at least 0; coupled in torch, decoupled in Keras and optax (`optax.adamaxw`).
        maximize: go up the gradient instead of down.
        like: whose formula: "torch"; "keras", where eps is added to v where it divides; or "optax".
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: as for `adamas.numpy.Adam`.

    Raises:
        ArgumentError: a setting is outside its range, or there is no such peer.
        ArrayError: an array cannot take part; names it.

    What differs from its peers is as for `adamas.numpy.Adam`.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import Adamax
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = Adamax([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.05)
        True
    """

    _peers: ClassVar[Mapping[str, str]] = {"torch": "torch.Adamax", "keras": "keras.Adamax", "optax": "optax.adamax"}

    def __init__(
        self,
        params: Arrays,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        like: Peer = "torch",
        **common: Unpack[Common],
    ) -> None:
        peer, (rule, hyper) = of_peer(self._peers, like)
        check_betas(betas)
        given = {name: number for name, number in (("lr", lr), ("eps", eps)) if number is not None}
        super().__init__(
            params,
            replace(rule, maximize=maximize),
            replace(hyper, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, **given),
            **common,
        )
        check_groups(peer, common.get("groups", ()))
