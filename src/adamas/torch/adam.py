"""Adam and AdamW for PyTorch."""

from __future__ import annotations

import torch

from adamas.torch.optimizer import Stepped


class Adam(Stepped, torch.optim.Adam):
    r"""`torch.optim.Adam`, stepped by one native call for all parameters.

    For step t = 1, 2, ... of each parameter p with gradient g:

        g <- g + weight_decay p                 (with maximize, g <- -g before it)
        m <- m + (1 - beta1) (g   - m)
        v <- v + (1 - beta2) (g^2 - v)
        p <- p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    where w is v, or with amsgrad the largest v so far (Kingma & Ba 2015; Reddi et al. 2018). p, and m, v and w, which
    are `exp_avg`, `exp_avg_sq` and `max_exp_avg_sq` in the state, change in place; where they are int8, their scales
    are beside them, as `exp_avg_scales`, and the lower bits of split weights are `correction`. A step counts for each
    parameter, and a parameter whose gradient is None is left alone.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize: as in `torch.optim.Adam`, with its defaults; each
            group of parameters may have its own.
        foreach, fused: which of torch's own loops to take; any value gives this one, which is one call for all.
        capturable, differentiable: False.
        decoupled_weight_decay: True makes it `AdamW`.
        moments: how moments are stored between steps: "float32", also for parameters of bfloat16 and float16 (for
            which torch keeps 16 bits); "bfloat16"; or "int8" (2.125 bytes a parameter for both, in blocks with a
            scale). The last two round stochastically. Parameters of fewer than 4096 elements keep float32; `describe`
            tells. A group may have its own.
        weights: how parameters of bfloat16 and float16 are rounded after a step: "nearest"; "stochastic"; or, for
            bfloat16, "split", which keeps 8 more bits of each weight. A group may have its own.
        seed: of stochastic rounding. `state_dict` has none, as torch's; `portable_state` has.
        nonfinite: what a step does where a gradient is not finite, or the norm of all is 2^64 or more, so that a square
            may overflow float32: "propagate" computes with what is there; "skip" changes nothing, does not count the
            step, and counts in `skipped`; "raise" changes nothing and raises. Both read the gradients once
            more for that. None: "skip" where a moment is stored in int8, else "propagate".
        stats: collect what `stats()` tells of each step.
        ema: keep an exponential moving average of each parameter, with this decay in [0, 1), in float32 (4 more bytes
            a parameter; `average` in the state); the method `average` gives it. It starts at the parameter as it is
            before its first step. None: none.
        sparse: what becomes of sparse gradients, such as those of `torch.nn.Embedding(sparse=True)`. "dense": they are
            made dense. "lazy": a row without a gradient in this step keeps its weights, so that a step costs what the
            rows with one cost; a row that comes back has its moments decayed first, as if its gradients had been 0.
            For `Adam`, `AdamW`, `RAdam` and `Adamax`, parameters of float32 and float64, without ema, stats and verify.
            Until `state_dict` is called, moments of silent rows are those of their last step.
        verify: N: about one block in N, chosen at random, is computed twice and compared; 0: none.
        like: to go on from another framework: "keras" adds eps to the uncorrected root sqrt(w), "optax" keeps the
            largest corrected v with amsgrad. Decay and defaults stay those of this class. A group may have its own.
        cautious: only elements whose m has the sign of g (neither 0) move, each by 1 / max(share, 1e-3) times its step,
            with their share of the tensor (C-AdamW; Liang et al. 2024, arXiv:2411.16085), as `adamas.numpy.Adam` says.
            Of `Adam` and `AdamW` without amsgrad. A group may have its own.

    Raises:
        UnsupportedError: a parameter or a setting cannot be served (see the top of `adamas.torch`).
        ArgumentError, ValueError: a number is outside its range.

    Differs from `torch.optim.Adam`: results agree to rounding, and are the same bits as `adamas.numpy.Adam`'s; moments
    below the smallest normal number are stored as 0; a parameter given twice is refused.

    Example:
        >>> import torch
        >>> from adamas.torch import Adam
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = Adam([p], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 0.01)
        True
    """


class AdamW(Stepped, torch.optim.AdamW):
    r"""`torch.optim.AdamW` (Loshchilov & Hutter 2019), stepped by one native call: `Adam` with decoupled decay.

    The same as `Adam`, but weight decay does not enter the moments:

        p <- (1 - lr weight_decay) p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps)

    Args:
        weight_decay: at least 0; default 1e-2.

    Every other argument, what changes in place and what is raised: see `Adam`.

    Example:
        >>> import torch
        >>> from adamas.torch import AdamW
        >>> p = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = AdamW([p], lr=0.1, weight_decay=0.5)
        >>> p.grad = torch.zeros(3)
        >>> optimizer.step()
        >>> p.tolist()
        [0.949999988079071, 0.949999988079071, 0.949999988079071]
    """
