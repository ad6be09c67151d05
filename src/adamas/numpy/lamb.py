"""LAMB for NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, Unpack

from adamas.groups import check_betas
from adamas.numpy.adam import check_groups, check_peer, of_peer
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays


class LAMB(Optimizer):
    r"""LAMB (You et al. 2020, arXiv:1904.00962, Algorithm 2) for NumPy arrays, as `optax.lamb` defines it.

    AdamW for very large batches: each tensor moves in proportion to its own size. For step t = 1, 2, ... of each
    parameter p with gradient g, and |.| the root of the sum of the squares of a tensor:

        m  <- m + (1 - beta1) (g   - m)         (with maximize, g <- -g before)
        v  <- v + (1 - beta2) (g^2 - v)
        r  =  m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p
        p  <- p - lr |p| / |r| r,               lr r where |p| or |r| is 0

    m and v start at 0. The norms take one more read of all four arrays. The paper's phi is the identity.

    Args:
        params: as for `adamas.numpy.Adam`; changed in place by `step`.
        lr: learning rate, at least 0: how far a tensor moves in a step, as a share of its norm.
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps: added to the root, at least 0. None: the default of `like` (optax 1e-6, keras 1e-7).
        weight_decay: at least 0; the paper trains BERT with 0.01.
        maximize: go up the gradient instead of down.
        like: whose formula: "optax", the paper's; or "keras", where p <- p - lr weight_decay p comes first and r has no
            decay in it.
        eps_root: added inside the root, at least 0. With `like="optax"` only.
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: as for `adamas.numpy.Adam`. With
            moments of low precision r is that of the step, before it is rounded.

    Raises:
        ArgumentError: a setting is outside its range, or there is no such peer.
        ArrayError: an array cannot take part; names it.

    Differs from its peers as `adamas.numpy.Adam` says; the norms are added up in float64. apex' FusedLAMB clips by the
    global norm first (here `step(max_norm=...)`) and takes no ratio where weight_decay is 0. One NaN in a gradient
    makes the whole tensor NaN; see `nonfinite`. torch has no such optimizer.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import LAMB
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = LAMB([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.05)
        True
    """

    _peers: ClassVar[Mapping[str, str]] = {"optax": "optax.lamb", "keras": "keras.Lamb"}

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        like: Literal["optax", "keras"] = "optax",
        eps_root: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        peer, (rule, hyper) = of_peer(self._peers, like)
        check_betas(betas)
        check_peer(peer, eps_root, weight_decay)
        super().__init__(
            params,
            replace(rule, maximize=maximize),
            replace(
                hyper,
                lr=lr,
                beta1=betas[0],
                beta2=betas[1],
                eps=hyper.eps if eps is None else eps,
                eps_root=eps_root,
                weight_decay=weight_decay,
            ),
            **common,
        )
        check_groups(peer, common.get("groups", ()))
