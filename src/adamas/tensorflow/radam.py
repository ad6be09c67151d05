"""RAdam, with arguments in Keras' style. How a step is taken is in optimizer.py."""

from __future__ import annotations

import keras

from adamas import keras_arguments
from adamas.tensorflow.optimizer import Optimizer


@keras.saving.register_keras_serializable("adamas")
class RAdam(keras_arguments.RAdam, Optimizer):
    """RAdam (Liu et al., 2020), which Keras has not: Adam that needs no warmup. One native call steps all variables.

    In the first steps v is the mean of few gradients, and its root varies so much that they are taken without it. For
    t = 1, 2, ... (`iterations` + 1), rho = 2 / (1 - beta_2) - 1, and each variable p with gradient g:

        g <- g / loss_scale_factor, then clipped
        m <- m + (1 - beta_1) (g - m)
        v <- v + (1 - beta_2) (g^2 - v)
        p <- (1 - lr weight_decay) p
        rho_t = rho - 2 t beta_2^t / (1 - beta_2^t)
        r_t   = sqrt((rho_t - 4)(rho_t - 2) rho / ((rho - 4)(rho - 2) rho_t))
        p <- p - lr / (1 - beta_1^t) m r_t sqrt(1 - beta_2^t) / (sqrt(v) + epsilon)       where rho_t > 5
        p <- p - lr / (1 - beta_1^t) m                                                    elsewhere

    Args:
        learning_rate, beta_1, beta_2, weight_decay: as for `Adam`.
        epsilon: added to the uncorrected root, at least 0.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor,
        gradient_accumulation_steps, name, kernel, sparse, moments, weights, seed, groups, no_decay, nonfinite, stats,
        verify: as for `Adam`, by name. kernel="resource" is refused: TensorFlow has no op of its own for it.

    What is raised, and which attributes may be set between steps, is as for `Adam`.

    Numbers and defaults are those of `torch.optim.RAdam(..., decoupled_weight_decay=True)`.

    Example:
        >>> import tensorflow as tf
        >>> from adamas.tensorflow import RAdam
        >>> x = tf.Variable([1.0, 2.0])
        >>> optimizer = RAdam(learning_rate=0.1)
        >>> for _ in range(300):
        ...     _ = optimizer.apply_gradients([(2.0 * x, x)])
        >>> bool(tf.reduce_max(abs(x)) < 0.1)
        True
    """

    _lists = ("_radam_m", "_radam_v")
