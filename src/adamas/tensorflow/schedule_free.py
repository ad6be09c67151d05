"""Schedule-free AdamW. How a step is taken is in optimizer.py."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from adamas import keras_arguments
from adamas.errors import UnsupportedError
from adamas.tensorflow.optimizer import Optimizer


@keras.saving.register_keras_serializable("adamas")
class ScheduleFreeAdamW(keras_arguments.ScheduleFreeAdamW, Optimizer):
    """Schedule-free AdamW (Defazio et al., "The Road Less Scheduled", 2024), stepped by one native call.

    It needs no learning rate that falls: where others let it fall, it averages. Gradients are taken at y, z takes the
    steps, and x, their mean, is what the model is evaluated with. For step t = 1, 2, ... (`iterations` + 1)

        v <- v + (1 - beta_2) (g^2 - v)                           g: the gradient at y, unscaled and clipped
        z <- z - lr_t (g / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay y)
        x <- x + c_t (z - x)
        y =  beta_1 x + (1 - beta_1) z

    with lr_t = lr min(1, t / warmup_steps), c_t = w_t / (w_1 + ... + w_t) and
    w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power. All three start at the variable as it is before the first step.
    **While training, a variable holds y. Call `eval()` before the model is evaluated or exported: it then holds x; and
    `train()` before the next step.** For validation within `fit`, call them in a callback's `on_test_begin` and
    `on_test_end`.

    Args:
        learning_rate: float, schedule or callable, as for `Adam`; about 1 to 10 times that of AdamW.
        beta_1: share of x in y, in (0, 1).
        beta_2: decay rate of v, in [0, 1).
        epsilon: added to the corrected root, at least 0.
        weight_decay: at least 0, or None for none; at y, as in the paper.
        warmup_steps: over how many steps the learning rate rises, a whole number.
        r, weight_lr_power: powers of t and of the largest learning rate in the weights of the mean, whole numbers from
            0 to 16.
        clipnorm, clipvalue, global_clipnorm, loss_scale_factor, gradient_accumulation_steps, name: as for `Adam`.
        kernel, moments, weights, seed, groups, no_decay, nonfinite, stats, verify: as for `Adam`; `moments` is of v, as
            z is a weight and stays in the dtype of computation; a group has no learning rate and no betas of its own.
            kernel="resource" and sparse="lazy" are refused.

    Raises:
        ArgumentError: a number is outside its range. Otherwise as for `Adam`.
        StateError: `apply` is called, eagerly or to be traced, while the variables hold the weights for evaluation.

    Keras has no such optimizer, so there is no `to_keras`. Difference to `schedulefree.AdamWScheduleFree`: it starts
    ready to train, and powers are whole numbers.

    Example:
        >>> import tensorflow as tf
        >>> from adamas.tensorflow import ScheduleFreeAdamW
        >>> x = tf.Variable([1.0, -2.0])
        >>> optimizer = ScheduleFreeAdamW(learning_rate=0.1)
        >>> for _ in range(300):
        ...     _ = optimizer.apply_gradients([(2.0 * x, x)])
        >>> optimizer.eval()
        >>> bool(tf.reduce_max(abs(x)) < 0.05)
        True
    """

    def evaluation_weights(self) -> list[np.ndarray]:
        """x of every variable, as float32 or float64 arrays, in the order of the variables. Nothing is changed."""
        self._begin()
        stepper = self._ready()
        return [self._converted(i, True) for i in range(len(stepper.variables))]

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        if save_type == "checkpoint":
            self._check_training("write or restore a checkpoint")
        return super()._trackable_children(save_type, **options)

    def _begin(self) -> None:
        self._ready().begin(self.iterations)

    def _switch(self, to_x: bool) -> None:
        stepper = self._ready()
        for variable in stepper.variables:
            if to_x and variable.dtype.size < 4:
                raise UnsupportedError(
                    f"variable {variable.name!r} is {variable.dtype.name} and would lose too much on the way to the "
                    "weights for evaluation and back; take copies of them with evaluation_weights()"
                )
        if self._evaluating != to_x:
            new = [self._converted(i, to_x) for i in range(len(stepper.variables))]
            for variable, value in zip(stepper.variables, new, strict=True):
                variable.assign(value)
            self._evaluating = to_x

    def _converted(self, i: int, to_x: bool) -> np.ndarray:
        """Variable i as x or as y, in an array of its own."""
        slots, variable = self._ready().slots, self._ready().variables[i]
        weight = np.array(slots.read_weight(i, variable).numpy())
        if self._evaluating == to_x:
            return weight
        z = np.array(slots.read(1, i).numpy())
        return self._convert(weight, z, to_x)
