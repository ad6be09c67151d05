"""Nadam, with Keras' arguments. How a step is taken is in optimizer.py."""

from __future__ import annotations

from typing import Any, Unpack

import keras

from adamas.rule import PRESETS, Rule
from adamas.tensorflow.optimizer import Optimizer, Ours


@keras.saving.register_keras_serializable("adamas")
class Nadam(Optimizer):
    """Nadam with the arguments, defaults and formula of `keras.optimizers.Nadam`, stepped by one native call.

    Adam that looks one step ahead (Dozat, 2016). For t = 1, 2, ... (`iterations` + 1), mu_t = beta_1 (1 - 0.96^t / 2),
    and each variable p with gradient g:

        g  <- g / loss_scale_factor, then clipped
        m  <- m + (1 - beta_1) (g - m)
        v  <- v + (1 - beta_2) (g^2 - v)
        m^ =  mu_{t+1} m / (1 - mu_1 ... mu_{t+1})  +  (1 - mu_t) g / (1 - mu_1 ... mu_t)
        p  <- (1 - lr weight_decay) p - lr m^ / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Args:
        learning_rate, beta_1, beta_2, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: as for `Adam`.
        epsilon: added to the corrected root, unlike in `Adam`; at least 0.
        kernel, moments, weights, seed: as for `Adam`. TensorFlow has no op of its own for it, so kernel="resource" is
            refused, as is sparse="lazy".

    What is raised, and which attributes may be set between steps, is as for `Adam`.

    Difference to Keras: mu_1 ... mu_t is kept in float64 where Keras takes the variables' dtype.
    Difference to torch: `torch.optim.NAdam` has 0.96^(0.004 t) in mu_t.

    Example:
        >>> import tensorflow as tf
        >>> from adamas.tensorflow import Nadam
        >>> x = tf.Variable([1.0, 2.0])
        >>> optimizer = Nadam(learning_rate=0.1)
        >>> for _ in range(100):
        ...     _ = optimizer.apply_gradients([(2.0 * x, x)])
        >>> bool(tf.reduce_max(abs(x)) < 0.1)
        True
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **ours: Unpack[Ours],
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            constants={"momentum_decay": PRESETS["keras.Nadam"].hyper.momentum_decay},
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            ours=ours,
        )

    def _rule(self) -> Rule:
        return PRESETS["keras.Nadam"].rule
