"""LAMB, with Keras' arguments. How a step is taken is in optimizer.py."""

from __future__ import annotations

import keras

from adamas import keras_arguments
from adamas.tensorflow.optimizer import Optimizer


@keras.saving.register_keras_serializable("adamas")
class Lamb(keras_arguments.Lamb, Optimizer):
    """LAMB with the arguments, defaults and formula of `keras.optimizers.Lamb`, stepped by one native call.

    Adam for very large batches: each variable moves in proportion to its own size (You et al., 2020). For t = 1, 2, ...
    (`iterations` + 1) and each variable p with gradient g, and |.| the root of the sum of the squares of a variable:

        g <- g / loss_scale_factor, then clipped
        m <- m + (1 - beta_1) (g - m)
        v <- v + (1 - beta_2) (g^2 - v)
        p <- (1 - lr weight_decay) p
        r =  m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        p <- p - lr |p| / |r| r,                lr r where |p| or |r| is 0

    The norms take one more read of all of it, before the step.

    Args:
        learning_rate, beta_1, beta_2, epsilon, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema,
        ema_momentum, ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: as for `Adam`.
        kernel, moments, weights, seed, groups, no_decay, nonfinite, stats, verify: as for `Adam`. kernel="resource" and
            sparse="lazy" are refused.

    What is raised, and which attributes may be set between steps, is as for `Adam`.

    Difference to Keras: norms and beta^t are computed in float64 where Keras takes the variable's dtype.
    Difference to optax: `optax.lamb` adds weight_decay p to r, so that decay is part of |r| and times the ratio.

    Example:
        >>> import tensorflow as tf
        >>> from adamas.tensorflow import Lamb
        >>> x = tf.Variable([1.0, 2.0])
        >>> optimizer = Lamb(learning_rate=0.1)
        >>> for _ in range(100):
        ...     _ = optimizer.apply_gradients([(2.0 * x, x)])
        >>> bool(tf.reduce_max(abs(x)) < 0.1)
        True
    """
