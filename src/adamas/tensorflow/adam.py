"""Adam and AdamW: how a step is taken.

What happens when an attribute is set is in attributes.py; how state is saved and loaded, in files.py.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Literal

import keras
import tensorflow as tf

from adamas.errors import ArgumentError, StateError
from adamas.kernels.tensorflow.engines import Batch, Numbers, in_xla
from adamas.kernels.tensorflow.settings import Shared
from adamas.kernels.tensorflow.stepper import Kernel, Stepper, conform, refuse_strategy
from adamas.rule import Hyper, Rule
from adamas.tensorflow.attributes import Adjustable
from adamas.tensorflow.files import Saved
from adamas.tensorflow.moments import Moment

Sparse = Literal["dense", "lazy"]
_SLOT_NAMES = ("momentum", "velocity", "velocity_hat")  # Keras' names of m, v, vmax


@keras.saving.register_keras_serializable("adamas")
class Adam(Adjustable, Saved):
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
        kernel: "auto" picks the fastest that can serve here; "native" (libadamas; float32 and float64 variables on
            CPUs), "resource" (TensorFlow's ResourceApplyAdam; no weight decay) or "xla" (array expression) insist on
            one. `optimizer.kernel` says which serves and why.
        sparse: what is done with a gradient that is a tf.IndexedSlices, as `keras.layers.Embedding` gives it, whose
            values of one row are added in any case. "dense": every row of the variable is stepped, as in Keras.
            "lazy": the rows in the gradient only, so that a step costs what they cost, whatever the table's size.

    Raises:
        ArgumentError: a number is outside its range; `sparse` is none of the two, or excludes another argument.
        UnsupportedError: on build, a variable is not float32 or float64; a `tf.distribute` strategy is active.
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
    at a cost of its own. TensorFlow's old LazyAdam, and torch's SparseAdam, do not decay the moments of silent rows.

    A `tf.function` that was traced outside XLA cannot be called inside a function compiled by XLA: TensorFlow reports
    that XLA does not know the op AdamasStep. Compile the inner function itself, or step in the outer one.

    Difference to Keras: norms are computed in float64 (Keras' float32 sum of squares is infinite beyond 1.8e19, and
    zero below 1e-23); beta^t is computed in float64 where Keras takes the variable's dtype, so Keras' steps are off
    by up to 1e-5 of themselves; variables that are not float32 or float64 are refused (Keras leaves bfloat16 unmoved).
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

    weight_decay: float | None

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
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
        *,
        kernel: Kernel = "auto",
        sparse: Sparse = "dense",
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ArgumentError(f"unknown argument(s) {', '.join(unknown)}; see the arguments of keras.optimizers.Adam")
        refuse_strategy()
        if sparse not in ("dense", "lazy"):
            raise ArgumentError(f"sparse={sparse!r}: give 'dense' or 'lazy'")
        if sparse == "lazy" and (use_ema or gradient_accumulation_steps):
            what = "use_ema" if use_ema else "gradient_accumulation_steps"
            raise ArgumentError(f"sparse='lazy' with {what}, which visits every row at every step; use sparse='dense'")
        if isinstance(learning_rate, float):
            Hyper(lr=learning_rate)
        super().__init__(
            learning_rate=learning_rate,
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
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = bool(amsgrad)
        self._kernel = kernel
        self._sparse = sparse
        self._expects_xla = False
        self._stepper: Stepper | None = None
        self._watch_attributes()

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; chosen when the optimizer is built, which the first step does."""
        return self._stepper.kernel if self._stepper else f"{self._kernel}: chosen when the optimizer is built"

    def build(self, variables: Sequence[Any]) -> None:
        """Make the moments, all zero. The first `apply_gradients`, or Keras, does it.

        Called again, it adds the variables that it does not know yet, behind the others, as if the optimizer had been
        built for all of them; their moments are zero and the step count goes on. What was traced before stays valid.

        Raises:
            UnsupportedError: a variable cannot be stepped.
            ArgumentError: a variable was given twice.
            KernelError: the kernel that was asked for cannot serve here.
            StateError: a checkpoint that was restored into it before does not fit the variables.
        """
        if self.built:
            self._add([v for v in variables if self._var_key(v) not in self._trainable_variables_indices])
            return
        refuse_strategy()
        variables = list(variables)
        stepped = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
        rule = Rule(eps_mode="keras", amsgrad="raw" if self.amsgrad else "off")
        stepper = Stepper(
            rule,
            self._kernel,
            [_native(v) for v in stepped],
            decaying=self._settings.hyper.weight_decay != 0.0,
            for_xla=self._expects_xla or in_xla(),
            lazy=self._sparse == "lazy",
        )
        with tf.init_scope(), self._restoring(variables, stepper):
            super().build(variables)
            stepper.make(_SLOT_NAMES[: len(rule.slots)], self._new_variable)
            self._shared = self._shared or Shared(self._settings, stepper.device)
            self._stepper = stepper
            self._index = {self._var_key(v): i for i, v in enumerate(stepped)}
            for variable in (*self._moments(), *stepper.clocks()):
                self._track_variable(variable)

    def _add(self, variables: list[Any]) -> None:
        if not variables:
            return
        refuse_strategy()
        stepper = self._ready()
        stepped = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
        stepper.check_more([_native(v) for v in stepped])
        with tf.init_scope():
            if self.use_ema:
                self._model_variables_moving_average.extend(self.add_optimizer_variables(variables, "average"))
            for variable in variables:
                self._trainable_variables_indices[self._var_key(variable)] = len(self._trainable_variables)
                self._trainable_variables.append(variable)
                if self.gradient_accumulation_steps:
                    accumulator = self.add_variable_from_reference(variable, name="gradient_accumulator")
                    self._accumulated_gradients.append(accumulator)
            for variable in stepped:
                self._index[self._var_key(variable)] = len(self._index)
            if stepped:
                stepper.more([_native(v) for v in stepped])
            self._order_variables()

    def _moments(self) -> list[Moment]:
        """Keras and TensorFlow see each parameter's moments by themselves, wherever they are kept."""
        stepper, stepped = self._ready(), [v for v in self._trainable_variables if self._var_key(v) in self._index]
        return [Moment(stepper.slots, slot, i, stepped[i], self.name) for slot, i in stepper.places()]

    def _order_variables(self) -> None:
        """Put `variables` into the order that they would have if all parameters had been given to one `build`."""
        kept = [self._iterations]
        if isinstance(self._learning_rate, keras.Variable):
            kept.append(self._learning_rate)
        if self.use_ema:
            kept += [v for v in self._model_variables_moving_average if v is not None]
        if self.gradient_accumulation_steps:
            kept += self._accumulated_gradients
        variables = tf.__internal__.tracking.wrap([*kept, *self._moments(), *self._ready().clocks()])
        # Past __setattr__, whose list would not be TensorFlow's; a checkpoint goes by the positions in this one.
        object.__setattr__(self, "_variables", variables)
        self._track_trackable(variables, "_variables", overwrite=True)
        self._tracker.config["variables"] = (self._tracker.config["variables"][0], variables)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """One step: `keras.optimizers.Optimizer.apply`, in one native call.

        Args:
            grads: tensors, or None for a variable that this step leaves alone.
            trainable_variables: tf.Variables or Keras variables, one for each gradient; default: those it was built
                with.

        Raises:
            ArrayError: a gradient does not fit its variable; nothing was changed.
            UnsupportedError: a `tf.distribute` strategy is active.
            ArgumentError: a variable is unknown to the optimizer, or there is not one for each gradient.
        """
        if not isinstance(grads, (list, tuple)):
            grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            self._ready()
            trainable_variables = self._trainable_variables
        elif not isinstance(trainable_variables, (list, tuple)):
            trainable_variables = list(trainable_variables)
        if len(grads) != len(trainable_variables):
            raise ArgumentError(f"{len(grads)} gradients for {len(trainable_variables)} variables; give one for each")
        refuse_strategy()
        if not self.built:
            self.build(trainable_variables)
        if any(map(operator.is_, grads, repeat(None))):
            grads, trainable_variables = self._filter_empty_gradients(grads, trainable_variables)
        if len(self._index) != len(self._trainable_variables):  # some are overwritten by their "gradient": float8
            self._check_variables_are_known(trainable_variables)
            grads, trainable_variables = self._overwrite_variables_directly_with_gradients(grads, trainable_variables)
        checks = self._update(grads, trainable_variables) if grads else []
        with tf.control_dependencies(checks):
            for variable in trainable_variables:
                if variable.constraint is not None:
                    variable.assign(variable.constraint(variable))
            self._iterations.value.assign_add(1)

    def _update(self, grads: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """The step, and what of Keras' own code goes with it. Returns what a graph must compute before it goes on."""
        if not (self.gradient_accumulation_steps or self.use_ema):
            return self._backend_update_step(grads, variables, self.learning_rate)
        self._check_variables_are_known(variables)
        grads, checks = conform(grads, [_native(variable) for variable in variables])
        with tf.control_dependencies(checks):
            if self.gradient_accumulation_steps and self._settings.loss_scale is not None:
                scale = self._loss_scale()
                grads = [gradient / tf.cast(scale, gradient.dtype) for gradient in grads]
            self._backend_apply_gradients(grads, variables)
        return checks

    def minimize(self, loss: Any, var_list: Sequence[Any], tape: Any = None) -> Any:
        """Compute the gradients of a loss and take a step.

        Args:
            loss: a callable without arguments that returns the loss; or a tensor, with the tape that recorded it.
            var_list: the variables to change.
            tape: tf.GradientTape, where `loss` is a tensor.

        Returns:
            `iterations`, as `apply_gradients` does.

        Raises:
            ArgumentError: a tensor without a tape, or a callable with one.
        """
        var_list = list(var_list)
        if callable(loss):
            if tape is not None:
                raise ArgumentError("minimize: a tape goes with a loss that is a tensor; this one is a callable")
            with tf.GradientTape() as tape:
                value = self.scale_loss(loss())
        elif tape is None:
            raise ArgumentError("minimize: the loss is a tensor; give the tape that recorded it, or a callable")
        else:
            with tape:
                value = self.scale_loss(loss)
        grads = tape.gradient(value, [_native(variable) for variable in var_list])
        return self.apply_gradients(zip(grads, var_list, strict=True))

    def expect_xla(self) -> None:
        """Say, before the optimizer is built, that most steps will be taken in functions compiled by XLA.

        It steps right everywhere in any case. After this the moments are laid out for XLA: a step in a compiled loop is
        then up to 1.6 times faster and a native step of many small variables about twice slower. The native op is not
        built before a step is taken outside such a function. An optimizer that is built inside one does this by itself.
        """
        self._expects_xla = True

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable, as Keras' base class asks for it; `apply` steps all variables at once."""
        self._backend_update_step([gradient], [variable], learning_rate)

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Leave out of weight decay the variables of `var_list`, and those with one of `var_names` in their name."""
        super().exclude_from_weight_decay(var_list=var_list, var_names=var_names)
        if self._stepper is not None:
            self._stepper.forget()

    def get_config(self) -> dict[str, Any]:
        """The arguments; `from_config` makes an equal optimizer without its state."""
        config = super().get_config()
        config.update(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon, amsgrad=self.amsgrad)
        if self._kernel != "auto":
            config["kernel"] = self._kernel
        if self._sparse != "dense":
            config["sparse"] = self._sparse
        return dict(config)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> list[Any]:
        # Keras counts the steps it applied, not the calls, while it accumulates gradients.
        iterations = tf.cast(self.iterations, tf.int64) if self.gradient_accumulation_steps else self._iterations.value
        stepper, shared = self._ready(), self._shared
        assert shared is not None  # build makes both
        numbers = Numbers(_rate(learning_rate), iterations, shared.read())
        return stepper.step(trainable_variables, grads, numbers, self._settings, self._make_batch)

    def _clip_gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        """The same: `_backend_update_step`, which Keras calls later, clips and steps in one pass."""
        return grads

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing: `_backend_update_step`, which Keras calls next, decays and steps in one pass."""

    def _check_variables_are_known(self, variables: Sequence[Any]) -> None:
        for variable in variables:
            if self._var_key(variable) not in self._trainable_variables_indices:
                name = str(getattr(variable, "path", variable.name)).removesuffix(":0")
                raise ArgumentError(
                    f"{name!r} is unknown to the optimizer {self.name!r}, which "
                    f"was built for {len(self._trainable_variables)} other variables; call its build([...]) with it "
                    "first, which adds it with moments of zero, or make a new optimizer"
                )

    def _make_batch(self, variables: Sequence[Any]) -> Batch:
        self._check_variables_are_known(variables)
        natives = [_native(variable) for variable in variables]
        return Batch(
            variables=natives,
            indices=[self._index[self._var_key(variable)] for variable in variables],
            decays=[self._use_weight_decay(variable) for variable in natives],
        )

    def _new_variable(self, shape: tuple[int, ...], dtype: str, name: str) -> Any:
        with keras.name_scope(self.name):
            return keras.Variable(initializer="zeros", shape=shape, dtype=dtype, trainable=False, name=name)

    def _ready(self) -> Stepper:
        if self._stepper is None:
            raise StateError(
                f"the optimizer {self.name!r} has no moments yet: call its build(variables), or take a step"
            )
        return self._stepper


@keras.saving.register_keras_serializable("adamas")
class AdamW(Adam):
    """`Adam` with decoupled weight decay on by default, as `keras.optimizers.AdamW` (Loshchilov & Hutter, 2019).

    Args:
        weight_decay: p shrinks by the factor 1 - learning_rate weight_decay at each step; default 0.004.

    The other arguments, and what is raised, are those of `Adam`.

    Example:
        >>> from adamas.tensorflow import AdamW
        >>> optimizer = AdamW(learning_rate=1e-3, weight_decay=0.01)
        >>> optimizer.exclude_from_weight_decay(var_names=["bias"])
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        kernel: Kernel = "auto",
        sparse: Sparse = "dense",
        **unknown: Any,
    ) -> None:
        if weight_decay is None:
            raise ArgumentError("weight_decay=None: give a float, or use Adam, which has no decay by default")
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            kernel=kernel,
            sparse=sparse,
            **unknown,
        )


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _rate(lr: Any) -> Any:
    """A learning rate as the kernels take it: float32 or float64. A Python number becomes Keras' float type."""
    if isinstance(lr, keras.Variable):
        lr = lr.value
    elif not tf.is_tensor(lr):
        lr = tf.constant(lr, keras.config.floatx())
    return lr if lr.dtype in (tf.float32, tf.float64) else tf.cast(lr, tf.float32)
