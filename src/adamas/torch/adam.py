"""Adam, AdamW and NAdam: torch's classes, with another arithmetic in `step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adamas.formats import Weights
from adamas.kernels import choose
from adamas.parts import Nonfinite
from adamas.storage import Description, Moments
from adamas.telemetry import Statistics
from adamas.torch.checks import Settings, check_parameter, check_settings, names_of, read_group
from adamas.torch.stepper import Stepper


class Stepped:
    """What they share, before torch's own class in the order of methods."""

    param_groups: list[dict[str, Any]]
    state: Any

    def __init__(
        self,
        *args: Any,
        moments: Moments = "float32",
        weights: Weights = "nearest",
        seed: int = 0,
        nonfinite: Nonfinite | None = None,
        stats: bool = False,
        verify: int = 0,
        **kwargs: Any,
    ) -> None:
        self._settings = Settings(moments, weights, seed, nonfinite, stats, verify)
        super().__init__(*args, **kwargs)
        # torch's fused optimizers unscale gradients inside the step, for torch.amp.GradScaler. Here the scaler does it.
        self._step_supports_amp_scaling = False

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {**state, "_settings": self._settings}

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; with how many threads now."""
        return str(choose())

    @property
    def skipped(self) -> int:
        """How many steps were skipped because a gradient was not finite, since this object was made."""
        return self._steps_with().skipped

    def stats(self) -> Statistics:
        """What the last step did, for each parameter and in total: norms, their ratio, how much epsilon decides.

        Raises:
            ArgumentError: the optimizer was made without stats=True, or has taken no step.
        """
        return self._steps_with().stats()

    def describe(self) -> Description:
        """How the state of each parameter is stored, and in how many bytes; `print` it."""
        return self._steps_with().describe(self)  # type: ignore[arg-type]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """`torch.optim.Optimizer.add_param_group`; checks what it is given.

        A group may have `moments` and `weights` of its own.

        Raises:
            UnsupportedError: a parameter or a setting cannot be served; names it. The group was not added.
            ArgumentError: a number is outside its range. The group was not added.
        """
        super().add_param_group(param_group)  # type: ignore[misc]
        try:
            added = self.param_groups[-1]
            read_group(added, self)
            every = names_of(self.param_groups)
            names = every[len(every) - len(added["params"]) :]
            for name, p in zip(names, added["params"], strict=True):
                check_parameter(name, p, low=True)
            self._steps_with().check_stored(added, names, self)
        except BaseException:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """`torch.optim.Optimizer.load_state_dict`, from these optimizers' or from torch's own `state_dict`.

        What is stored in another format than the group's `moments` is converted by the next step.

        Raises:
            UnsupportedError: it was saved with a setting that cannot be served. Nothing was loaded.
        """
        for group in state_dict["param_groups"]:
            check_settings(group)
        own = [{name: group[name] for name in ("moments", "weights") if name in group} for group in self.param_groups]
        super().load_state_dict(state_dict)  # type: ignore[misc]
        for group, settings in zip(self.param_groups, own, strict=True):
            for name, value in settings.items():
                group.setdefault(name, value)  # torch's own state has none of them
        # torch has cast everything to the parameter's dtype: codes of int8, and float32 for a bfloat16 parameter.
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for key, p in zip(keys, params, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor) and name != "step":
                    self.state[p][name] = value.detach().to(p.device, copy=True)

    @torch.compiler.disable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place.

        Args:
            closure: computes the loss again, and the gradients.

        Returns:
            The loss that the closure returned; None without one.

        Raises:
            UnsupportedError: a parameter or gradient cannot be served; names it.
            ArrayError: parameters share memory, or have become another shape or dtype than their moments.
            ArgumentError: a number of a group is outside its range.
            StateError: the state of a parameter lacks something.
            NonFiniteError: a gradient is not finite, with nonfinite="raise"; names the first such parameter.
            FaultError: with `verify`: a block gave two results, so this machine is faulty. The step has been taken.

        Nothing has been changed when one of the others is raised. After a Ctrl-C (KeyboardInterrupt) the moments of
        each parameter and its step belong together.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._steps_with().step(self)  # type: ignore[arg-type]
        return loss

    def _steps_with(self) -> Stepper:
        if "_stepper" not in self.__dict__:  # new, copied or unpickled
            self._stepper = Stepper(self._settings)
        return self._stepper


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
        seed: of stochastic rounding; no part of the state.
        nonfinite: what a step does where a gradient is not finite, or the norm of all is 2^64 or more, so that a square
            may overflow float32: "propagate" computes with what is there; "skip" changes nothing, does not count the
            step, and counts in `skipped`; "raise" changes nothing and raises. Both read the gradients once
            more for that. None: "skip" where a moment is stored in int8, else "propagate".
        stats: collect what `stats()` tells of each step.
        verify: N: about one block in N, chosen at random, is computed twice and compared; 0: none.

    Raises:
        UnsupportedError: a parameter or a setting cannot be served (see the top of this module).
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
