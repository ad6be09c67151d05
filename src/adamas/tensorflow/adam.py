"""Adam and AdamW: how a step is taken. How their state is saved and loaded is in files.py."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import keras
import tensorflow as tf

from adamas.errors import ArgumentError, StateError
from adamas.kernels.tensorflow.engines import Batch, in_xla
from adamas.kernels.tensorflow.stepper import Kernel, Stepper, refuse_strategy
from adamas.rule import Hyper, Rule
from adamas.tensorflow.files import Saved
from adamas.tensorflow.moments import Moment

_SLOT_NAMES = ("momentum", "velocity", "velocity_hat")  # Keras' names of m, v, vmax


@keras.saving.register_keras_serializable("adamas")
class Adam(Saved):
    """Adam with the arguments, defaults and formula of `keras.optimizers.Adam`, stepped by one native call.

    For t = 1, 2, ... (`iterations` + 1) and each variable p with gradient g:

        m <- m + (1 - beta_1) (g - m)
        v <- v + (1 - beta_2) (g^2 - v)
        p <- (1 - lr weight_decay) p - alpha m / (sqrt(v) + epsilon),    alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)

    With `amsgrad`, sqrt(v) is the root of the largest v so far. Kingma & Ba (2015), section 2, with "epsilon hat".

    Variables and moments change in place; a tensor that was read from a variable before keeps its numbers. Works
    eagerly, in `tf.function`, in loops in graphs and in functions compiled by XLA.

    Args:
        learning_rate: float, `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments.
        beta_1, beta_2: decay rates of the moments, in [0, 1).
        epsilon: added to the uncorrected root.
        amsgrad: keep the largest v.
        weight_decay: decoupled from the gradient; None for none. `exclude_from_weight_decay` leaves variables out.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor,
        gradient_accumulation_steps, name: as in Keras, whose code does them.
        kernel: "auto" picks the fastest that can serve here; "native" (libadamas; float32 and float64 variables on
            CPUs), "resource" (TensorFlow's ResourceApplyAdam; no weight decay) or "xla" (array expression) insist on
            one. `optimizer.kernel` says which serves and why.

    Raises:
        ArgumentError: a number is outside its range.
        UnsupportedError: on build, a variable is not float32 or float64; a `tf.distribute` strategy is active.
        KernelError: on build, the kernel that was asked for cannot serve here.

    A `tf.function` that was traced outside XLA cannot be called inside a function compiled by XLA: TensorFlow reports
    that XLA does not know the op AdamasStep. Compile the inner function itself, or step in the outer one.

    Difference to Keras: beta^t is computed in float64 where Keras takes the variable's dtype, so Keras' steps are off
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
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ArgumentError(f"unknown argument(s) {', '.join(unknown)}; see the arguments of keras.optimizers.Adam")
        refuse_strategy()
        if isinstance(learning_rate, float):
            Hyper(lr=learning_rate)
        Hyper(beta1=beta_1, beta2=beta_2, eps=epsilon, weight_decay=weight_decay or 0.0)
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
        self._expects_xla = False
        self._stepper: Stepper | None = None
        self._hyper: tuple[tuple[Any, ...], Hyper] | None = None

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; chosen when the optimizer is built, which the first step does."""
        return self._stepper.kernel if self._stepper else f"{self._kernel}: chosen when the optimizer is built"

    def build(self, variables: Sequence[Any]) -> None:
        """Make the moments, all zero. The first `apply_gradients`, or Keras, does it.

        Raises:
            UnsupportedError: a variable cannot be stepped.
            KernelError: the kernel that was asked for cannot serve here.
            StateError: a checkpoint that was restored into it before does not fit the variables.
        """
        if self.built:
            return
        refuse_strategy()
        variables = list(variables)
        stepped = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
        rule = Rule(eps_mode="keras", amsgrad="raw" if self.amsgrad else "off")
        stepper = Stepper(
            rule,
            self._kernel,
            [_native(v) for v in stepped],
            decaying=bool(self.weight_decay),
            for_xla=self._expects_xla or in_xla(),
        )
        with tf.init_scope(), self._restoring(variables, stepper):
            super().build(variables)
            stepper.make(_SLOT_NAMES[: len(rule.slots)], self._new_variable)
            self._stepper = stepper
            self._index = {self._var_key(v): i for i, v in enumerate(stepped)}
            # Keras and TensorFlow see each parameter's moments by themselves, wherever they are kept.
            for slot, i in stepper.places():
                self._track_variable(Moment(stepper.slots, slot, i, stepped[i], self.name))

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """One step: `keras.optimizers.Optimizer.apply`, in one native call where none of Keras' extras is asked for.

        Args:
            grads: tensors, or None for a variable that this step leaves alone.
            trainable_variables: tf.Variables or Keras variables, one for each gradient; default: those it was built
                with.

        Raises:
            ArrayError: a gradient does not fit its variable; nothing was changed.
        """
        if trainable_variables is None or self._needs_keras():
            super().apply(grads, trainable_variables)
            return
        if not isinstance(grads, (list, tuple)):
            grads = list(grads)
        if not grads:
            return
        if not isinstance(trainable_variables, (list, tuple)):
            trainable_variables = list(trainable_variables)
        if len(grads) != len(trainable_variables):
            raise ArgumentError(f"{len(grads)} gradients for {len(trainable_variables)} variables; give one for each")
        if not self.built:
            self.build(trainable_variables)
        if len(self._index) != len(self._trainable_variables):  # some are overwritten by their "gradient": float8
            super().apply(grads, trainable_variables)
            return
        if any(map(operator.is_, grads, repeat(None))):
            grads, trainable_variables = self._filter_empty_gradients(grads, trainable_variables)
        checks = self._backend_update_step(grads, trainable_variables, self.learning_rate)
        with tf.control_dependencies(checks):
            for variable in trainable_variables:
                if variable.constraint is not None:
                    variable.assign(variable.constraint(variable))
            self._iterations.value.assign_add(1)

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
        return dict(config)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> list[Any]:
        # Keras counts the steps it applied, not the calls, while it accumulates gradients.
        iterations = tf.cast(self.iterations, tf.int64) if self.gradient_accumulation_steps else self._iterations.value
        return self._ready().step(
            trainable_variables, grads, _rate(learning_rate), iterations, self._numbers(), self._make_batch
        )

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing: `_backend_update_step`, which Keras calls next, decays and steps in one pass."""

    def _needs_keras(self) -> bool:
        return bool(
            self.clipnorm
            or self.clipvalue
            or self.global_clipnorm
            or self.use_ema
            or self.gradient_accumulation_steps
            or self.loss_scale_factor is not None
        )

    def _numbers(self) -> Hyper:
        """The numbers of the next step but for the learning rate, which is a tensor."""
        given = (self.beta_1, self.beta_2, self.epsilon, self.weight_decay, self.amsgrad)
        cached = self._hyper
        if cached is None or cached[0] != given:
            if self.amsgrad != (self._ready().rule.amsgrad != "off"):
                raise ArgumentError("amsgrad cannot change after the optimizer is built; make a new optimizer")
            hyper = Hyper(beta1=self.beta_1, beta2=self.beta_2, eps=self.epsilon, weight_decay=self.weight_decay or 0.0)
            self._hyper = cached = (given, hyper)
        return cached[1]

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
