"""Nadam, with Keras' arguments. How a step is taken is in optimizer.py."""

from __future__ import annotations

import keras

from adamas import keras_arguments
from adamas.tensorflow.optimizer import Optimizer


@keras.saving.register_keras_serializable("adamas")
class Nadam(keras_arguments.Nadam, Optimizer):
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
        kernel, moments, weights, seed, groups, no_decay, nonfinite, stats, verify: as for `Adam`; a group has no betas
            of its own. TensorFlow has no op of its own for it, so kernel="resource" is refused, as is sparse="lazy".

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
