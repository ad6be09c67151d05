"""NAdam for NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import NoneType
from typing import ClassVar, Unpack

from adamas.errors import ArgumentError
from adamas.groups import check_betas
from adamas.numpy.adam import Peer, check_groups, check_peer, of_peer
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays


class NAdam(Optimizer):
    r"""NAdam (Dozat 2016) for NumPy arrays, as `torch.optim.NAdam` defines it: Adam that looks one step ahead.

    For step t = 1, 2, ... of each parameter p with gradient g, and mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2):

        g  <- g + weight_decay p                (coupled decay; with maximize, g <- -g before it)
        m  <- m + (1 - beta1) (g   - m)
        v  <- v + (1 - beta2) (g^2 - v)
        m^ =  mu_{t+1} m / (1 - mu_1 ... mu_{t+1})  +  (1 - mu_t) g / (1 - mu_1 ... mu_t)
        p  <- p - lr m^ / (sqrt(v / (1 - beta2^t)) + eps)

    m and v start at 0.

    Args:
        params: as for `adamas.numpy.Adam`; changed in place by `step`.
        lr: learning rate, at least 0. None: the default of `like` (torch 2e-3, keras and optax 1e-3).
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps: added to the root, at least 0. None: the default of `like` (torch and optax 1e-8, keras 1e-7).
        weight_decay: at least 0.
        momentum_decay: how fast mu_t approaches beta1, at least 0. None: 4e-3. With `like="torch"` only; in Keras it is
            1, and optax has mu_t = beta1 from the start.
        decoupled_weight_decay: p <- p - lr weight_decay p beside the update, instead of in g (NAdamW). None: the
            default of `like` (torch False; keras and optax know nothing else than True).
        maximize: go up the gradient instead of down.
        like: whose formula: "torch", "keras" or "optax".
        eps_root: added inside the root, at least 0. With `like="optax"` only; the others have none.
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: as for `adamas.numpy.Adam`.

    Raises:
        ArgumentError: a setting is outside its range, or not of that peer.
        ArrayError: an array cannot take part; names it.

    Differs from its peers: the product of mu is float64 and each parameter's own, where torch keeps a float32 and Keras
    one for all parameters. What else differs is as for `adamas.numpy.Adam`.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import NAdam
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = NAdam([p], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.01)
        True
    """

    _peers: ClassVar[Mapping[str, str]] = {"torch": "torch.NAdam", "keras": "keras.Nadam", "optax": "optax.nadam"}

    def __init__(
        self,
        params: Arrays,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        momentum_decay: float | None = None,
        decoupled_weight_decay: bool | None = None,
        *,
        maximize: bool = False,
        like: Peer = "torch",
        eps_root: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        peer, (rule, hyper) = of_peer(self._peers, like)
        check_betas(betas)
        if momentum_decay is not None and like != "torch":
            raise ArgumentError(f"momentum_decay={momentum_decay!r}: {peer} has none; only like='torch' takes it")
        if not isinstance(decoupled_weight_decay, (bool, NoneType)):
            raise ArgumentError(f"decoupled_weight_decay={decoupled_weight_decay!r}: give False, True or None")
        if decoupled_weight_decay is False and like != "torch":
            raise ArgumentError(f"decoupled_weight_decay=False: the decay of {peer} is always decoupled; leave it out")
        check_peer(peer, eps_root, weight_decay)
        given = {"lr": lr, "eps": eps, "momentum_decay": momentum_decay}
        super().__init__(
            params,
            replace(rule, decay="decoupled" if decoupled_weight_decay else rule.decay, maximize=maximize),
            replace(
                hyper,
                beta1=betas[0],
                beta2=betas[1],
                eps_root=eps_root,
                weight_decay=weight_decay,
                **{name: number for name, number in given.items() if number is not None},
            ),
            **common,
        )
        check_groups(peer, common.get("groups", ()))
