"""Adam and AdamW for NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Unpack

from adamas.errors import ArgumentError
from adamas.groups import Group, check_betas
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays
from adamas.rule import PRESETS, Hyper, Preset, Rule

Peer = Literal["torch", "keras", "optax"]


class Adam(Optimizer):
    r"""Adam (Kingma & Ba 2015) for NumPy arrays, as `torch.optim.Adam` defines it.

    For step t = 1, 2, ... of each parameter p with gradient g:

        g <- g + weight_decay p                 (coupled decay; with maximize, g <- -g before it)
        m <- m + (1 - beta1) (g   - m)
        v <- v + (1 - beta2) (g^2 - v)
        p <- p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    where w is v, or with amsgrad the largest v so far. m and v start at 0. Parameters of float64 are computed in
    float64, all others in float32; scalars such as beta1^t in float64.

    Args:
        params: a list, tuple or dict of arrays of any shape, C-contiguous, writable, not overlapping, of float32,
            float64, float16 or bfloat16 (of ml_dtypes), also mixed. `step` changes them in place.
        lr: learning rate, at least 0. Also settable later: `optimizer.lr = 1e-4`.
        betas: decay rates (beta1, beta2) of the two moments, each in [0, 1).
        eps: added to the root, at least 0. None: the default of `like` (torch and optax 1e-8, keras 1e-7).
        weight_decay: at least 0. None: the default of `like` (0).
        amsgrad: use the largest second moment so far (Reddi et al. 2018).
        maximize: go up the gradient instead of down.
        like: whose formula: "torch"; "keras", where eps is added to the uncorrected root and decay is decoupled; or
            "optax", where amsgrad takes the largest corrected moment and Adam has no decay.
        eps_root: added inside the root, at least 0. With `like="optax"` only; the others have none.
        cautious: only elements whose m has the sign of g (neither 0) move, each by 1 / max(share, 1e-3) times its step,
            with their share of the tensor (C-AdamW; Liang et al. 2024, arXiv:2411.16085, with the bound of the authors'
            code). It takes one more read of g and m, excludes amsgrad, and leaves weight decay as it is; the authors
            decay p after its step.
        groups: `Group`s with numbers of their own; a tensor belongs to the first that matches its name and shape.
        no_decay: no weight decay for biases and the weights of normalisations: for the tensors that
            `adamas.groups.no_decay` matches (which says exactly which), but those of a group with a weight_decay of
            its own.
        moments: how moments are stored between steps: "float32", also for parameters of bfloat16 and float16 (8 bytes
            a parameter; float64 for those of float64); "bfloat16" (4 bytes); or "int8" (2.125 bytes, in blocks with a
            scale). Both round stochastically. Tensors of fewer than 4096 elements keep float32; `describe` tells.
        weights: how parameters of bfloat16 and float16 are rounded after a step: "nearest"; "stochastic"; or, for
            bfloat16, "split", which keeps 8 more bits of each weight, so that small updates add up.
        seed: of stochastic rounding, from 0 to 2^64 - 1. It is part of the state: who loads one goes on with its random
            numbers.
        nonfinite: what a step does where a gradient is not finite, or the norm of all is 2^64 or more, so that a square
            may overflow float32: "propagate" computes with what is there; "skip" changes nothing, does not count the
            step, and counts in `skipped`; "raise" changes nothing and raises. Both read the gradients once
            more for that. None: "skip" where a moment is stored in int8, else "propagate".
        stats: collect what `stats()` tells of each step.
        ema: keep an exponential moving average of each parameter, with this decay in [0, 1), in float32 (4 more bytes
            a parameter); `average` gives it. It starts at the parameter as it is when the optimizer is made, so assign
            weights before that. None: none.
        verify: N: about one block in N, chosen at random, is computed twice in each step and compared, so that a faulty
            processor or memory is found while it trains; 0: none.

    Raises:
        ArgumentError: a setting is outside its range, or a group has no tensor.
        ArrayError: an array cannot take part; names it.

    Differs from `torch.optim.Adam`: gradients are passed to `step`; moments of float32 parameters agree with torch's to
    rounding, not to the bit, and moments below the smallest normal number are stored as 0. Groups are found by name and
    shape instead of being given as lists of tensors.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import Adam
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = Adam([p], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> bool(abs(p).max() < 0.01)
        True
    """

    _peers: ClassVar[Mapping[str, str]] = {"torch": "torch.Adam", "keras": "keras.Adam", "optax": "optax.adam"}

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        like: Peer = "torch",
        eps_root: float = 0.0,
        cautious: bool = False,
        **common: Unpack[Common],
    ) -> None:
        rule, hyper = _settings(self._peers, lr, betas, eps, weight_decay, amsgrad, maximize, like, eps_root)
        super().__init__(params, replace(rule, cautious=cautious), hyper, **common)
        check_groups(self._peers[like], common.get("groups", ()))


class AdamW(Adam):
    r"""AdamW (Loshchilov & Hutter 2019) for NumPy arrays, as `torch.optim.AdamW` defines it: Adam with decoupled decay.

    The same as `Adam`, but weight decay does not enter the moments:

        m <- m + (1 - beta1) (g   - m)          (with maximize, g <- -g before)
        v <- v + (1 - beta2) (g^2 - v)
        p <- (1 - lr weight_decay) p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    Args:
        weight_decay: at least 0. None: the default of `like` (torch 1e-2, keras 4e-3, optax 1e-4).

    Every other argument, what changes in place and what is raised: see `Adam`.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import AdamW
        >>> w = np.ones(3, np.float32)
        >>> optimizer = AdamW({"w": w}, lr=0.1, weight_decay=0.5)
        >>> optimizer.step({"w": np.zeros(3, np.float32)})
        >>> w
        array([0.95, 0.95, 0.95], dtype=float32)
    """

    _peers: ClassVar[Mapping[str, str]] = {"torch": "torch.AdamW", "keras": "keras.AdamW", "optax": "optax.adamw"}


def of_peer(peers: Mapping[str, str], like: str) -> tuple[str, Preset]:
    """The name of the peer's optimizer, and its preset.

    Raises:
        ArgumentError: there is no such peer.
    """
    if like not in peers:
        raise ArgumentError(f"like={like!r}: give one of {', '.join(map(repr, peers))}")
    return peers[like], PRESETS[peers[like]]


def check_peer(peer: str, eps_root: float | None, weight_decay: float | None) -> None:
    """Nothing if a peer's optimizer has these numbers, of the whole optimizer or of a group.

    Raises:
        ArgumentError: it has not.
    """
    if eps_root and (not peer.startswith("optax") or peer == "optax.adamax"):
        other = "leave it out" if peer.endswith(("damax", "ADOPT", "StableAdamW")) else "only like='optax' takes it"
        raise ArgumentError(f"eps_root={eps_root!r}: {peer} has none; {other}")
    if weight_decay and peer in ("optax.adam", "optax.radam"):
        remedy = "use AdamW" if peer == "optax.adam" else "leave it out"
        raise ArgumentError(f"weight_decay={weight_decay!r}: {peer} has no weight decay; {remedy}")


def check_groups(peer: str, groups: Sequence[Group]) -> None:
    """Nothing if no group has a number that the peer's optimizer has not.

    Raises:
        ArgumentError: one has; names it.
    """
    for group in groups:
        try:
            check_peer(peer, group.eps_root, group.weight_decay)
        except ArgumentError as error:
            raise ArgumentError(f"group {group.name}: {error}") from None


def _settings(
    peers: Mapping[str, str],
    lr: float,
    betas: tuple[float, float],
    eps: float | None,
    weight_decay: float | None,
    amsgrad: bool,
    maximize: bool,
    like: str,
    eps_root: float,
) -> tuple[Rule, Hyper]:
    _, preset = of_peer(peers, like)
    check_betas(betas)
    if amsgrad not in (False, True):
        raise ArgumentError(f"amsgrad={amsgrad!r}: give False or True")
    check_peer(peers[like], eps_root, weight_decay)
    kept = PRESETS["optax.amsgrad"].rule.amsgrad if like == "optax" else "raw"
    rule = replace(preset.rule, amsgrad=kept if amsgrad else "off", maximize=maximize)
    hyper = replace(
        preset.hyper,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        eps=preset.hyper.eps if eps is None else eps,
        eps_root=eps_root,
        weight_decay=preset.hyper.weight_decay if weight_decay is None else weight_decay,
    )
    return rule, hyper
