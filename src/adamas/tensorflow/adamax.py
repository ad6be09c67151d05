"""Adamax, with Keras' arguments. How a step is taken is in optimizer.py."""

from __future__ import annotations

import keras

from adamas import keras_arguments
from adamas.tensorflow.optimizer import Optimizer


@keras.saving.register_keras_serializable("adamas")
class Adamax(keras_arguments.Adamax, Optimizer):
    """Adamax with the arguments, defaults and formula of `keras.optimizers.Adamax`, stepped by one native call.

    Adam that divides by the largest recent gradient (Kingma & Ba, 2015, section 7). For t = 1, 2, ... (`iterations` +
    1) and each variable p with gradient g:

        g <- g / loss_scale_factor, then clipped
        m <- m + (1 - beta_1) (g - m)
        u <- max(beta_2 u, |g|)
        p <- (1 - lr weight_decay) p - lr m / ((1 - beta_1^t) (u + epsilon))

    Args:
        learning_rate, beta_1, beta_2, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name: as for `Adam`.
        epsilon: added to u, at least 0.
        like: "torch": epsilon is added to |g| inside the maximum, as torch and optax do.
        kernel, sparse, moments, weights, seed, groups, no_decay, nonfinite, stats, verify: as for `Adam`; u is kept as
            `moments` says, too. TensorFlow's own op for Adamax is not used, so kernel="resource" is refused.

    What is raised, and which attributes may be set between steps, is as for `Adam`.

    Difference to Keras: beta_1^t is computed in float64 where Keras takes the variable's dtype.
    Difference to torch: `torch.optim.Adamax` has u <- max(beta_2 u, |g| + eps), and its decay is coupled.

    Example:
        >>> import tensorflow as tf
        >>> from adamas.tensorflow import Adamax
        >>> x = tf.Variable([1.0, 2.0])
        >>> optimizer = Adamax(learning_rate=0.1)
        >>> for _ in range(100):
        ...     _ = optimizer.apply_gradients([(2.0 * x, x)])
        >>> bool(tf.reduce_max(abs(x)) < 0.1)
        True
    """

    _lists = ("_m", "_u")
