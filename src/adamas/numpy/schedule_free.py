"""Schedule-free AdamW for NumPy arrays."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from adamas.errors import ArgumentError, StateError, UnsupportedError
from adamas.formats import Halves, piece, weight
from adamas.groups import check_betas
from adamas.kernels.reference import ieee
from adamas.numpy.optimizer import Common, Optimizer
from adamas.numpy.parameters import Arrays, Gradients
from adamas.rule import Hyper, Rule, evaluation_weights, training_weights
from adamas.state import State

_PIECE = 1 << 16  # elements converted at once, in float64


class ScheduleFreeAdamW(Optimizer):
    r"""Schedule-free AdamW (Defazio et al. 2024, "The Road Less Scheduled") for NumPy arrays.

    It needs no learning rate that falls: where others let it fall, it averages. Gradients are taken at y, z takes the
    steps, and x, their mean, is what the model is evaluated with. For step t = 1, 2, ...

        v <- v + (1 - beta2) (g^2 - v)                            g: the gradient at y
        z <- z - lr_t (g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y)
        x <- x + c_t (z - x)
        y =  beta1 x + (1 - beta1) z

    with lr_t = lr min(1, t / warmup_steps), c_t = w_t / (w_1 + ... + w_t) and
    w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power. All three start at the parameter. **While training, a parameter
    holds y. Call `eval()` before it is evaluated or exported: it then holds x; and `train()` before the next step.**

    Args:
        params: as for `adamas.numpy.Adam`; changed in place by `step`, `eval` and `train`.
        lr: learning rate, at least 0; about 1 to 10 times that of AdamW.
        betas: beta1 in (0, 1), the share of x in y, and beta2 in [0, 1), the decay rate of v.
        eps: added to the root, at least 0.
        weight_decay: at least 0.
        warmup_steps: over how many steps the learning rate rises, a whole number.
        r, weight_lr_power: powers of t and of the largest learning rate in the weights of the mean, whole numbers from
            0 to 16.
        maximize: go up the gradient instead of down.
        groups, no_decay, moments, weights, seed, nonfinite, stats, ema, verify: as for `adamas.numpy.Adam`. z is a
            weight and stays in the dtype of computation, whatever `moments` is.

    Raises:
        ArgumentError: a setting is outside its range.
        ArrayError: an array cannot take part; names it.

    Differs from `schedulefree.AdamWScheduleFree`: it starts ready to train; the sum of the weights and the count of the
    steps are each parameter's own, so one without a gradient does not advance; powers are whole numbers; and `step`,
    `state_dict` and `portable_state` refuse weights that are switched to evaluation.

    Example:
        >>> import numpy as np
        >>> from adamas.numpy import ScheduleFreeAdamW
        >>> p = np.array([1.0, -2.0])
        >>> optimizer = ScheduleFreeAdamW([p], lr=0.1)
        >>> for _ in range(300):
        ...     optimizer.step([2 * p])             # the gradient of sum(p^2)
        >>> optimizer.eval()
        >>> bool(abs(p).max() < 0.05)
        True
    """

    def __init__(
        self,
        params: Arrays,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: int = 0,
        weight_lr_power: int = 2,
        *,
        maximize: bool = False,
        **common: Unpack[Common],
    ) -> None:
        check_betas(betas)
        hyper = Hyper(
            lr, *betas, eps, weight_decay=weight_decay, warmup_steps=warmup_steps, r=r, weight_lr_power=weight_lr_power
        )
        super().__init__(params, Rule(schedule_free=True, maximize=maximize), hyper, **common)
        for group in self.groups:
            if group.hyper.beta1 == 0.0:
                raise ArgumentError(
                    f"betas of group {group.name!r}: beta1 is 0, so the weights would hold nothing of the mean that "
                    "they are evaluated with; give a number above 0 (0.9)"
                )
        self._evaluating = [False] * len(self._names)  # each tensor: Ctrl-C may strike between two

    @property
    def evaluating(self) -> bool:
        """Whether the parameters hold x, or some of them do because a switch was interrupted."""
        return any(self._evaluating)

    def step(self, grads: Gradients, *, max_norm: float | None = None, grad_scale: float = 1.0) -> float | None:
        with self._lock:
            self._check_training("take a step")
            self._start()
            return super().step(grads, max_norm=max_norm, grad_scale=grad_scale)

    step.__doc__ = (Optimizer.step.__doc__ or "").replace(
        "        NonFiniteError:",
        "        StateError: the parameters hold the weights for evaluation (`eval`).\n        NonFiniteError:",
    )

    def eval(self) -> None:
        """Switch the parameters to x, for evaluation, in place; nothing where they hold it already.

        In float64 and rounded once, to the parameter's dtype, as the way back is: y may come back changed by half a
        unit in its last place and half a unit in that of x. `evaluation_weights` changes nothing.

        Raises:
            ArrayError: a parameter was replaced by another array since; names the tensor. Nothing has been changed.
            UnsupportedError: a parameter of 16 bits, which would lose too much. Nothing has been changed.
        """
        self._switch(True)

    def train(self) -> None:
        """Switch the parameters back to y, for the next step, in place; nothing where they hold it already.

        Raises:
            ArrayError: a parameter was replaced by another array since; names the tensor. Nothing has been changed.
        """
        self._switch(False)

    def evaluation_weights(self) -> list[np.ndarray] | dict[str, np.ndarray]:
        """x of every parameter, in arrays of their own: in the container and order of the parameters.

        Those of 16 bits come in float32. Nothing is changed.
        """
        with self._lock, ieee():
            self._start()
            found = [self._converted(i, to_x=True) for i in range(len(self._names))]
        return dict(zip(self._names, found, strict=True)) if self._parameters.named else found

    def portable_state(self) -> State:
        """A copy of everything carried from step to step, for `adamas.state.save`.

        Raises:
            StateError: the parameters hold the weights for evaluation; state and weights would not belong together.
        """
        with self._lock:
            self._check_training("give its state, which belongs to the weights in training,")
            self._start()
            return super().portable_state()

    def load_portable_state(self, state: State) -> None:
        """Take over a `State`: moments, step counts and numbers; the parameters must be those in training.

        Raises:
            StateError: it does not fit, or the parameters hold the weights for evaluation. Nothing has been changed.
        """
        with self._lock:
            self._check_training("take over a state, which belongs to the weights in training,")
            if state.rule == self._rule and any(hyper.beta1 == 0.0 for hyper in state.hypers):
                raise StateError(
                    "the state has beta1 = 0, with which the weights hold nothing of their mean; 0.9 is usual"
                )
            super().load_portable_state(state)

    def _check_training(self, what: str) -> None:
        if self.evaluating:
            raise StateError(f"the parameters hold the weights for evaluation; to {what} call train() first")

    def _start(self) -> None:
        """z of a tensor that has taken no step is the parameter as it is now: weights may have been loaded since."""
        for part in self._parts:
            for i in np.array(part.members)[part.taken == 0].tolist():
                self._kept[i]["z"][...] = self._weights(i)

    def _weights(self, i: int) -> np.ndarray:
        """Tensor i as a step reads it."""
        param, how = self._params[i], self._storage[i]
        kept: dict[str, Any] = self._kept[i]
        stored = Halves(param, kept["correction"]) if how.weights == "split" else param
        return weight(how.weights, param.dtype).decode(stored)

    def _switch(self, to_x: bool) -> None:
        with self._lock, ieee():
            self._parameters.check()
            self._start()
            for name, param in zip(self._names, self._params, strict=True):
                if to_x and param.dtype.itemsize == 2:
                    raise UnsupportedError(
                        f"tensor {name!r}: a parameter of {param.dtype} would lose too much on the way to the weights "
                        "for evaluation and back; take copies of them with evaluation_weights()"
                    )
            for i, param in enumerate(self._params):
                if self._evaluating[i] != to_x:
                    param[...] = self._converted(i, to_x)
                    self._evaluating[i] = to_x

    def _converted(self, i: int, to_x: bool) -> np.ndarray:
        """Tensor i as x or as y, in an array of its own."""
        param, how = self._params[i], self._storage[i]
        kept: dict[str, Any] = self._kept[i]
        stored = Halves(param, kept["correction"]) if how.weights == "split" else param
        z, beta1 = kept["z"], self._numbers.hypers[self._numbers.row_of[i]].beta1
        form, convert = weight(how.weights, param.dtype), evaluation_weights if to_x else training_weights
        new = np.empty(param.shape, z.dtype)
        for begin in range(0, param.size, _PIECE):
            end = min(begin + _PIECE, param.size)
            old = form.decode(piece(stored, begin, end))
            if self._evaluating[i] != to_x:
                old = convert(old, z.reshape(-1)[begin:end], beta1)
            new.reshape(-1)[begin:end] = old
        return new
