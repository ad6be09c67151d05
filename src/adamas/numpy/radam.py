"""RAdam for NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, Unpack

from adamas.errors import ArgumentError
from adamas.groups import check_betas
from adamas.numpy.adam import check_groups, check_peer, of_peer
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays


class RAdam(Optimizer):
    r"""RAdam (Liu et al. 2020) for NumPy arrays, as `torch.optim.RAdam` defines it: Adam that needs no warmup.

    In the first steps v is the mean of few gradients, and its root varies so much that they are taken without it. For
    step t = 1, 2, ... of each parameter p with gradient g, and rho = 2 / (1 - beta2) - 1:

        g <- g + weight_decay p                 (coupled decay; with maximize, g <- -g before it)
        m <- m + (1 - beta1) (g   - m)
        v <- v + (1 - beta2) (g^2 - v)
        rho_t = rho - 2 t beta2^t / (1 - beta2^t)
        r_t   = sqrt((rho_t - 4)(rho_t - 2) rho / ((rho - 4)(rho - 2) rho_t))
        p <- p - lr / (1 - beta1^t) m r_t sqrt(1 - beta2^t) / (sqrt(v) + eps)         where rho_t > 5
        p <- p - lr / (1 - beta1^t) m                                                 elsewhere

    m and v start at 0.

    Args:
        params: as for `adamas.numpy.Adam`; changed in place by `step`.
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps: added to the root, at least 0.
        weight_decay: at least 0. With `like="torch"` only; `optax.radam` has none.
        decoupled_weight_decay: p <- p - lr weight_decay p beside the update, instead of in g.
        maximize: go up the gradient instead of down.
        like: whose formula: "torch"; or "optax", where the root is that of the corrected v / (1 - beta2^t).
        eps_root: added inside the root, at least 0. With `like="optax"` only.
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: as for `adamas.numpy.Adam`.

    Raises:
        ArgumentError: a setting is outside its range, or not of that peer.
        ArrayError: an array cannot take part; names it.

    What differs from its peers is as for `adamas.numpy.Adam`. Keras has no RAdam.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import RAdam
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = RAdam([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.05)
        True
    """

    _peers: ClassVar[Mapping[str, str]] = {"torch": "torch.RAdam", "optax": "optax.radam"}

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        like: Literal["torch", "optax"] = "torch",
        eps_root: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        peer, (rule, hyper) = of_peer(self._peers, like)
        check_betas(betas)
        if not isinstance(decoupled_weight_decay, bool):
            raise ArgumentError(f"decoupled_weight_decay={decoupled_weight_decay!r}: give False or True")
        if decoupled_weight_decay and like != "torch":
            raise ArgumentError(f"decoupled_weight_decay=True: {peer} has no weight decay; leave it out")
        check_peer(peer, eps_root, weight_decay)
        super().__init__(
            params,
            replace(rule, decay="decoupled" if decoupled_weight_decay else rule.decay, maximize=maximize),
            replace(
                hyper, lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, eps_root=eps_root, weight_decay=weight_decay
            ),
            **common,
        )
        check_groups(peer, common.get("groups", ()))
