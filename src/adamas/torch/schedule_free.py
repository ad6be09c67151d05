"""Schedule-free AdamW for PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.kernels.reference import ieee
from adamas.rule import evaluation_weights, training_weights
from adamas.torch.checks import LOW
from adamas.torch.memory import as_array
from adamas.torch.optimizer import Stepped


class ScheduleFreeAdamW(Stepped, torch.optim.Optimizer):
    r"""Schedule-free AdamW (Defazio et al. 2024, "The Road Less Scheduled"), stepped by one native call.

    It needs no learning rate that falls: where others let it fall, it averages. Gradients are taken at y, z takes the
    steps, and x, their mean, is what the model is evaluated with. For step t = 1, 2, ... of each parameter

        v <- v + (1 - beta2) (g^2 - v)                            g: the gradient at y
        z <- z - lr_t (g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y)
        x <- x + c_t (z - x)
        y =  beta1 x + (1 - beta1) z

    with lr_t = lr min(1, t / warmup_steps), c_t = w_t / (w_1 + ... + w_t) and
    w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power. All three start at the parameter. **While training, a parameter
    holds y. Call `eval()` before the model is evaluated or exported: it then holds x; and `train()` before the next
    step.** v is `exp_avg_sq` in the state; `z`, `weight_sum` and `lr_max` have these names.

    Args:
        params: parameters or groups of them, as for `Adam`.
        lr: learning rate, at least 0; about 1 to 10 times that of AdamW.
        betas: beta1 in (0, 1), the share of x in y, and beta2 in [0, 1), the decay rate of v.
        eps, weight_decay: at least 0.
        warmup_steps: over how many steps the learning rate rises, a whole number.
        r, weight_lr_power: powers of t and of the largest learning rate in the weights of the mean, whole numbers from
            0 to 16.
        maximize: go up the gradient instead of down.

    Every other argument and what is raised: see `Adam`. z is a weight and stays in the dtype of computation.

    Differs from `schedulefree.AdamWScheduleFree`: it starts ready to train; the sum of the weights and the count of the
    steps are each parameter's own; powers are whole numbers. Results are the bits of
    `adamas.numpy.ScheduleFreeAdamW`'s.

    Example:
        >>> import torch
        >>> from adamas.torch import ScheduleFreeAdamW
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = ScheduleFreeAdamW([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     (p**2).sum().backward()
        ...     optimizer.step()
        >>> optimizer.eval()
        >>> bool(p.abs().max() < 0.05)
        True
    """

    preset = "schedulefree.AdamWScheduleFree"

    def __init__(
        self,
        params: Any,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: int = 0,
        weight_lr_power: int = 2,
        *,
        maximize: bool = False,
        **settings: Any,
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "warmup_steps": warmup_steps}
        powers = {"r": r, "weight_lr_power": weight_lr_power, "maximize": maximize, "train_mode": True}
        super().__init__(params, {**numbers, **powers}, **settings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if not float(self.param_groups[-1]["betas"][0]) > 0.0:
            betas = self.param_groups.pop()["betas"]
            raise ArgumentError(
                f"betas={betas!r}: beta1 is 0, so the weights would hold nothing of the mean that they are evaluated "
                "with; give a number above 0 (0.9)"
            )

    add_param_group.__doc__ = Stepped.add_param_group.__doc__

    @torch.compiler.disable
    def step(self, closure: Callable[[], Any] | None = None, **how: Any) -> Any:
        if not all(group["train_mode"] for group in self.param_groups):
            raise StateError("the parameters hold the weights for evaluation; to take a step call train() first")
        return super().step(closure, **how)

    step.__doc__ = Stepped.step.__doc__

    def eval(self) -> None:
        """Switch the parameters to x, for evaluation, in place; nothing where they hold it already.

        In float64 and rounded once, to the parameter's dtype, as the way back is: y may come back changed by half a
        unit in its last place and half a unit in that of x. `train_mode` of the groups says which they hold, in a
        state_dict too.

        Raises:
            UnsupportedError: a parameter of 16 bits, which would lose too much. Nothing has been changed.
        """
        self._switch(False)

    def train(self) -> None:
        """Switch the parameters back to y, for the next step, in place; nothing where they hold it already."""
        self._switch(True)

    def _switch(self, train: bool) -> None:
        groups = [group for group in self.param_groups if group["train_mode"] is not train]
        for p in (p for group in groups for p in group["params"]):
            if p.dtype in LOW:
                raise UnsupportedError(
                    f"a parameter of {p.dtype} would lose too much on the way to the weights for evaluation and back; "
                    "keep the parameters in torch.float32, and compute under torch.autocast"
                )
        convert = training_weights if train else evaluation_weights
        with torch.no_grad(), ieee():
            for group in groups:
                for p in group["params"]:
                    if self.state.get(p):  # before its first step y, z and x are the same
                        new = convert(as_array(p.detach()), as_array(self.state[p]["z"]), float(group["betas"][0]))
                        p.copy_(torch.from_numpy(new))
                group["train_mode"] = train
