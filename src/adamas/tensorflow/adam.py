"""Adam and AdamW, with Keras' arguments. How a step is taken is in optimizer.py."""

from __future__ import annotations

import keras

from adamas import keras_arguments
from adamas.tensorflow.optimizer import Optimizer


@keras.saving.register_keras_serializable("adamas")
class Adam(keras_arguments.Adam, Optimizer):
    """Adam with the arguments, defaults and formula of `keras.optimizers.Adam`, stepped by one native call.

    For t = 1, 2, ... (`iterations` + 1) and each variable p with gradient g:

        g <- g / loss_scale_factor, then clipped
        m <- m + (1 - beta_1) (g - m)
        v <- v + (1 - beta_2) (g^2 - v)
        p <- (1 - lr weight_decay) p - alpha m / (sqrt(v) + epsilon),    alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)

    With `amsgrad`, sqrt(v) is the root of the largest v so far. Kingma & Ba (2015), section 2, with "epsilon hat".

    One pass over memory does all of it; only clipping by a norm reads the gradients once more before. Gradient
    accumulation (before the pass), moving averages (use_ema) and constraints (after it) are done by Keras' code.

    Variables and moments change in place; a tensor that was read from a variable before keeps its numbers. Works
    eagerly, in `tf.function`, in loops in graphs and in functions compiled by XLA.

    Args:
        learning_rate: float, `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments.
        beta_1, beta_2: decay rates of the moments, in [0, 1).
        epsilon: added to the uncorrected root.
        amsgrad: keep the largest v.
        weight_decay: decoupled from the gradient; None for none. `exclude_from_weight_decay` leaves variables out.
        clipnorm: above 0. Each gradient of norm n is multiplied by clipnorm / max(n, clipnorm).
        global_clipnorm: above 0. All gradients, of norm n together, are multiplied by global_clipnorm min(1/n,
            1/global_clipnorm), by NaN where n is not finite.
        clipvalue: above 0. Each element of a gradient is brought into [-clipvalue, clipvalue]. One of the three at
            most; None and 0 are off. NaN stays NaN.
        loss_scale_factor: above 0. `scale_loss` multiplies the loss by it, the step divides the gradients by it.
        use_ema, ema_momentum, ema_overwrite_frequency, gradient_accumulation_steps, name: as in Keras.
        kernel: "auto" picks the fastest that can serve here; "native" (libadamas; variables on CPUs), "resource"
            (TensorFlow's ResourceApplyAdam; float32 and float64, no weight decay) or "xla" (array expression) insist on
            one. `optimizer.kernel` says which serves and why.
        sparse: what is done with a gradient that is a tf.IndexedSlices, as `keras.layers.Embedding` gives it, whose
            values of one row are added in any case. "dense": every row of the variable is stepped, as in Keras.
            "lazy": the rows in the gradient only, so that a step costs what they cost, whatever the table's size.
        moments: how they are kept between steps. "float32": in the dtype of computation, which is float64 for float64
            variables and float32 for all others. "bfloat16", and "int8" with a float32 scale for 64 elements, take 4
            and 2.125 bytes an element instead of 8, and are rounded stochastically (docs/formats.md). Variables of less
            than 4096 elements keep float32; `describe` says which. Not for float64 variables.
        weights: how bfloat16 and float16 variables are rounded after a step, which is computed in float32. "nearest";
            "stochastic", so that small updates are not lost; "split", for bfloat16: a correction of 8 bits is kept
            beside each variable, so that it is trained with 24 bits.
        like: "torch": epsilon is added to the corrected root, sqrt(v / (1 - beta_2^t)), as torch and optax do; to go on
            from there, or there. Defaults and decay stay those of this class. Keras' own Adam cannot take it over.
        seed: an integer from 0 to 2^64 - 1. With the variable's path, the step and the element it keys the random
            numbers of rounding, and nothing else does: equal trainings give equal bits.
        groups: `adamas.groups.Group`s: variables with a learning rate, betas, epsilon (`eps`), weight decay, `moments`
            or `weights` of their own, by a pattern for their paths or a function of (path, shape); a variable belongs
            to the first that matches it. A group with `lr_scale` has the optimizer's learning rate times that, its
            schedule and what callbacks set included; one with `lr` has that rate always.
        no_decay: True: no weight decay for biases and the weights of normalisations, which are the variables that
            `adamas.groups.no_decay` matches, but those of a group with a weight_decay of its own; or what is matched
            instead, as for a group. What `exclude_from_weight_decay` leaves out is left out as well.
        nonfinite: what a step does where a gradient is not finite, or the norm of all is 2^64 or more, so that a square
            may overflow float32. "propagate": computes with what is there. "skip": changes nothing, `iterations` and
            so a schedule included, and counts in `skipped`; of gradients that are accumulated, the call is left out.
            "raise": changes nothing and raises. Both find out by the read of the gradients that a clip by a norm needs
            too. None: "skip" where a moment is stored in int8, 64 of which share a scale, else "propagate".
        stats: collect what `stats()` tells of each step.
        verify: N: about one block in N, chosen at random, is computed twice in each step and compared, so that a faulty
            processor or memory is found while it trains; 0: none. Needs the native kernel.

    Raises:
        ArgumentError: a number is outside its range; a word is none of those above, or excludes another argument. On
            build: a group has no variable, or a variable cannot be kept with these `moments` and `weights`.
        UnsupportedError: on build, a variable cannot be stepped; a `tf.distribute` strategy is active. In a function
            that XLA compiles: with nonfinite="raise" or `verify`, as nothing can be raised there.
        KernelError: on build, the kernel that was asked for cannot serve here.

    Attributes may be set between steps: `beta_1`, `beta_2`, `epsilon`, `weight_decay`, the bounds of the clips,
    `loss_scale_factor` and, as in Keras, `learning_rate`. Functions traced before take the new numbers without being
    traced again, where Keras' optimizers keep the old ones; a bound of None ends the clip. Fixed when a function is
    traced are which kind of clip is on (where another kind is on later, the function clips no more until it is traced
    again), whether the loss is scaled, whether weight decay is on where TensorFlow's ResourceApplyAdam serves, and what
    `exclude_from_weight_decay` said. `build` adds variables later.

    With `sparse="lazy"` a row that missed k of its variable's steps has its moments decayed first, as k steps without a
    gradient would have done, and then takes the step above, at the optimizer's present t:

        m <- beta_1^k m,    v <- beta_2^k v

    Left out is only what those k steps would have done to its weights: the drift by the old m, and weight decay. So
    training differs a little from "dense"; where every row is in every step, it is the same to the bit. It pays where a
    step touches a small part of a large table; a variable whose gradients are dense is stepped as ever. Steps in which
    a variable has no gradient (None) do not count, as in "dense". k is counted by an int32 for each row of a variable,
    kept in `variables` behind the moments; the betas are those of the present step for all k. `use_ema` and
    `gradient_accumulation_steps` are refused with it, because they visit every row, as a constraint of the layer does
    at a cost of its own; so are `stats`, `verify`, and variables and moments of other dtypes than float32 and float64.
    TensorFlow's old LazyAdam, and torch's SparseAdam, do not decay the moments of silent rows.

    A `tf.function` that was traced outside XLA cannot be called inside a function compiled by XLA: TensorFlow reports
    that XLA does not know the op AdamasStep. Compile the inner function itself, or step in the outer one.

    Difference to Keras: norms are computed in float64 (Keras' float32 sum of squares is infinite beyond 1.8e19, and
    zero below 1e-23); beta^t is computed in float64 where Keras takes the variable's dtype, so Keras' steps are off
    by up to 1e-5 of themselves; bfloat16 and float16 variables have float32 moments (Keras computes in bfloat16, where
    0.999 is 1, and nothing trains).
    Difference to torch: `epsilon` is beside the uncorrected root, so at step t it acts like torch's
    eps = epsilon / sqrt(1 - beta_2^t).

    Example:
        >>> import tensorflow as tf
        >>> from adamas.tensorflow import Adam
        >>> x = tf.Variable([1.0, 2.0])
        >>> optimizer = Adam(learning_rate=0.1)
        >>> for _ in range(2):
        ...     with tf.GradientTape() as tape:
        ...         loss = tf.reduce_sum(x**2)
        ...     _ = optimizer.apply_gradients(zip(tape.gradient(loss, [x]), [x]))
        >>> [round(float(value), 3) for value in x]
        [0.8, 1.8]
    """


@keras.saving.register_keras_serializable("adamas")
class AdamW(keras_arguments.AdamW, Adam):
    """`Adam` with decoupled weight decay on by default, as `keras.optimizers.AdamW` (Loshchilov & Hutter, 2019).

    Args:
        weight_decay: p shrinks by the factor 1 - learning_rate weight_decay at each step; default 0.004.

    The other arguments, and what is raised, are those of `Adam`.

    Example:
        >>> from adamas.tensorflow import AdamW
        >>> optimizer = AdamW(learning_rate=1e-3, weight_decay=0.01)
        >>> optimizer.exclude_from_weight_decay(var_names=["bias"])
    """
