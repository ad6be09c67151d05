"""ADOPT, with arguments in Keras' style. How a step is taken is in optimizer.py."""

from __future__ import annotations

import keras

from adamas import keras_arguments
from adamas.tensorflow.optimizer import Optimizer


@keras.saving.register_keras_serializable("adamas")
class ADOPT(keras_arguments.ADOPT, Optimizer):
    """ADOPT (Taniguchi et al., 2024, arXiv:2411.02853), which Keras has not; stepped by one native call.

    Adam divides by a v that holds the gradient it divides, which is why it may fail to converge for a beta_2 that does
    not suit the problem. ADOPT divides by the v of the step before, and averages after that. For t = 1, 2, ...
    (`iterations` + 1) and each variable p with gradient g:

        g <- g / loss_scale_factor, then clipped
        n <- g / max(sqrt(v), epsilon), clipped to [-k, k] with k = (t - 1)^(1/4)
        m <- m + (1 - beta_1) (n - m)
        p <- (1 - lr weight_decay) p - lr m
        v <- v + (1 - beta_2) (g^2 - v)

    but the first step sets v = g^2 and leaves p and m as they are.

    Args:
        learning_rate, beta_1, beta_2, weight_decay: as for `Adam`.
        epsilon: the least that is divided by, at least 0.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor,
        gradient_accumulation_steps, name, kernel, sparse, moments, weights, seed, groups, no_decay, nonfinite, stats,
        verify: as for `Adam`, by name. kernel="resource" is refused: TensorFlow has no op of its own for it.

    What is raised, and which attributes may be set between steps, is as for `Adam`.

    Numbers and defaults are those of the authors' `adopt.ADOPT(..., decouple=True)`, whose bound k is the default.

    A variable that is added later (`build`) takes its first step at the present t, with v = 0: its gradients are
    divided by epsilon, and bounded by k.

    Example:
        >>> import tensorflow as tf
        >>> from adamas.tensorflow import ADOPT
        >>> x = tf.Variable([1.0, 2.0])
        >>> optimizer = ADOPT(learning_rate=0.1)
        >>> for _ in range(300):
        ...     _ = optimizer.apply_gradients([(2.0 * x, x)])
        >>> bool(tf.reduce_max(abs(x)) < 0.1)
        True
    """

    _lists = ("_adopt_m", "_adopt_v")
