"""What all optimizers here have in common: how a step is taken.

What happens when an attribute is set is in attributes.py; how state is saved and loaded, in files.py.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, ClassVar

import keras
import tensorflow as tf

from adamas.errors import ArgumentError, FaultError, NonFiniteError, StateError, UnsupportedError
from adamas.groups import Group
from adamas.keras_arguments import Like, Ours
from adamas.keras_names import distinct_names
from adamas.kernels.reference import TWO_RESULTS
from adamas.kernels.rows import check_rule
from adamas.kernels.tensorflow.checks import conform, refuse_strategy
from adamas.kernels.tensorflow.engines import Batch, Numbers, in_xla, when
from adamas.kernels.tensorflow.settings import Settings, Shared
from adamas.kernels.tensorflow.slots import StoragePolicy
from adamas.kernels.tensorflow.stepper import Kernel, Stepper
from adamas.kernels.tensorflow.telemetry import complaint
from adamas.parts import check_settings, when_not_finite
from adamas.rule import Hyper, Rule
from adamas.storage import Description
from adamas.telemetry import Statistics, of_step
from adamas.tensorflow.attributes import Adjustable
from adamas.tensorflow.files import Saved
from adamas.tensorflow.groups import Groups, Members, from_config
from adamas.tensorflow.moments import Moment


class Optimizer(Adjustable, Saved):
    """A Keras optimizer whose step is one native call. Subclasses say which: `_rule`.

    Args:
        beta_1, beta_2, epsilon: of the rule.
        constants: other fields of `Hyper`, which do not change.
        ours: what Keras' optimizers do not have.
        keras_arguments: of `keras.optimizers.Optimizer`.

    Raises:
        ArgumentError: an argument is unknown or outside its range, or two exclude each other.
    """

    weight_decay: float | None
    _slot_names: ClassVar[Mapping[str, str]] = {"m": "momentum", "v": "velocity", "vmax": "velocity_hat", "z": "z"}
    """What Keras calls the slots."""
    _likes: ClassVar[tuple[Like, ...]] = ("keras",)
    """Whose epsilon there is to choose from."""

    def __init__(
        self,
        *,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        constants: Mapping[str, float] | None = None,
        ours: Ours,
        **keras_arguments: Any,
    ) -> None:
        unknown = [name for name in ours if name not in Ours.__annotations__]
        if unknown:
            raise ArgumentError(
                f"unknown argument(s) {', '.join(unknown)}; help({type(self).__name__}) lists those that there are"
            )
        refuse_strategy()
        sparse = ours.get("sparse", "dense")
        if sparse not in ("dense", "lazy"):
            raise ArgumentError(f"sparse={sparse!r}: give 'dense' or 'lazy'")
        for name in ("use_ema", "gradient_accumulation_steps"):
            if sparse == "lazy" and keras_arguments[name]:
                raise ArgumentError(
                    f"sparse='lazy' with {name}, which visits every row at every step; use sparse='dense'"
                )
        like = ours.get("like", "keras")
        if like not in self._likes:
            allowed = ", ".join(map(repr, self._likes))
            raise ArgumentError(f"like={like!r}: give one of {allowed}, for {type(self).__name__}")
        nonfinite, stats, verify = ours.get("nonfinite"), ours.get("stats", False), ours.get("verify", 0)
        check_settings(ours.get("seed", 0), nonfinite, stats, verify)
        groups = Groups(ours.get("groups", ()), ours.get("no_decay", False))
        storage = StoragePolicy(ours.get("moments", "float32"), ours.get("weights", "nearest"), ours.get("seed", 0))
        if sparse == "lazy" and any(
            (how.moments, how.weights) != ("float32", "nearest") for how in groups.storage(storage)
        ):
            raise ArgumentError(
                "sparse='lazy' steps variables and moments of float32 and float64 only; use sparse='dense', or leave "
                "moments and weights as they are by default"
            )
        if sparse == "lazy" and (stats or verify):
            raise ArgumentError(
                f"sparse='lazy' with {'stats' if stats else 'verify'}: steps of single rows tell nothing and are not "
                "computed twice; use sparse='dense'"
            )
        if isinstance(keras_arguments["learning_rate"], float):
            Hyper(lr=keras_arguments["learning_rate"])
        super().__init__(**keras_arguments)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self._kernel: Kernel = ours.get("kernel", "auto")
        self._sparse, self._like = sparse, like
        self._storage, self._groups, self._members = storage, groups, Members()
        self._asked_nonfinite, self._stats, self._verify = nonfinite, bool(stats), int(verify)
        self._nonfinite = nonfinite  # known when there are variables, where none was asked for
        self._hyper = functools.partial(Hyper, **(constants or {}))
        self._expects_xla = False
        self._fault: str | None = None
        self._stepper: Stepper | None = None
        self._watch_attributes()

    def _rule(self) -> Rule:
        """Which number comes out of a step."""
        raise NotImplementedError

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; chosen when the optimizer is built, which the first step does."""
        return self._stepper.kernel if self._stepper else f"{self._kernel}: chosen when the optimizer is built"

    def describe(self) -> Description:
        """How the slots of each variable are stored, how many bytes that takes, and why some stay in float32.

        Raises:
            StateError: the optimizer is not built yet.
        """
        stepper = self._ready()
        named = zip(stepper.variables, stepper.storage, self._names(), self._members.group_of, strict=True)
        return Description(
            [how.describe(stepper.rule, variable, name, self._groups.name(k)) for variable, how, name, k in named]
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that it was made with; fixed."""
        return self._groups.groups

    @property
    def skipped(self) -> int:
        """How many steps were skipped because a gradient was not finite."""
        return self._stepper.told.skipped if self._stepper else 0

    def stats(self) -> Statistics:
        """What the last step did, for each variable and in total: norms, their ratio, how much epsilon decides.

        Variables go by their paths. The numbers are there after a step in a graph too; inside one they cannot be read.

        Raises:
            ArgumentError: the optimizer was made without stats=True, or has taken no step.
        """
        if not self._stats:
            raise ArgumentError("the optimizer collects no statistics; make it with stats=True")
        told = self._stepper.told.read() if self._stepper else []
        rows = [row for row in told if row is not None]
        if not rows or self._stepper is None:
            raise ArgumentError("there is no step yet to have statistics of; take one first")
        named = zip(self._names(), self._stepper.shapes, told, strict=True)
        taken = [(name, math.prod(shape), row.sums) for name, shape, row in named if row is not None]
        return of_step(rows[0].t, self.skipped, taken, rows[0].grad_scale)

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
        rule = self._rule()
        if self._sparse == "lazy":
            try:
                check_rule(rule)
            except UnsupportedError as error:
                raise ArgumentError(f"{type(self).__name__} has no sparse='lazy'; use sparse='dense'") from error
        self._groups.check(rule, type(self).__name__)
        members = self._groups.members(distinct_names(stepped), [tuple(v.shape) for v in stepped])
        storage = self._stored_how(members)
        stepper = Stepper(
            rule,
            [self._slot_names[slot.name] for slot in rule.slots],
            self._kernel,
            [_native(v) for v in stepped],
            settings=self._settings,
            for_xla=self._expects_xla or in_xla(),
            lazy=self._sparse == "lazy",
            storage=storage,
            seed=self._storage.seed,
        )
        with tf.init_scope(), self._restoring(variables, stepper):
            super().build(variables)
            self._index = {self._var_key(v): i for i, v in enumerate(stepped)}
            self._members = members
            self._decide_nonfinite(stepper)
            stepper.make(self._rounding_names(), self._new_variable)
            self._shared = self._shared or Shared(self._settings, stepper.device)
            self._stepper = stepper
            for variable in (*self._moments(), *stepper.carries, *stepper.clocks()):
                self._track_variable(variable)
            self._track_lists()

    def _add(self, variables: list[Any]) -> None:
        if not variables:
            return
        refuse_strategy()
        stepper = self._ready()
        stepped = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
        known = self._names()
        names = distinct_names(stepped, known)
        members = self._groups.members(names, [tuple(v.shape) for v in stepped], more=True)
        storage = self._stored_how(members)
        stepper.check_more([_native(v) for v in stepped], storage)
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
                self._members = Members(
                    self._members.group_of + members.group_of, self._members.spared + members.spared
                )
                stepper.more([_native(v) for v in stepped], storage, self._rounding_names()[-len(stepped) :])
                self._decide_nonfinite(stepper)
            self._order_variables()

    def _stored_how(self, members: Members) -> list[StoragePolicy]:
        """How variables, and their moments, are kept."""
        each = self._groups.storage(self._storage)
        return [each[k] for k in members.group_of]

    def _decide_nonfinite(self, stepper: Stepper) -> None:
        kept = (how.choose(stepper.rule, v) for how, v in zip(stepper.storage, stepper.variables, strict=True))
        self._nonfinite = when_not_finite(self._asked_nonfinite, kept)
        self._settings = self._read()

    def _rows(self) -> list[int]:
        """Of each variable: twice its group, 1 more where weight decay does not apply to it."""
        variables = self._stepper.variables if self._stepper else []
        return [
            2 * k + (spared or not self._use_weight_decay(variable))
            for k, spared, variable in zip(self._members.group_of, self._members.spared, variables, strict=True)
        ]

    def _hypers(self, own: Hyper) -> list[Hyper]:
        """The numbers of each variable, where the optimizer's own are these."""
        found = []
        for row in self._rows():
            line = self._groups.lines(own)[row // 2]
            hyper = replace(line.hyper, lr=line.lr_scale * own.lr + line.lr)
            found.append(replace(hyper, weight_decay=0.0) if row % 2 else hyper)
        return found

    def _moments(self) -> list[Moment]:
        """Keras and TensorFlow see each parameter's moments by themselves, wherever they are kept."""
        stepper, stepped = self._ready(), [v for v in self._trainable_variables if self._var_key(v) in self._index]
        return [
            Moment(stepper.slots, slot, i, stepped[i], self.name, self._iterations.value)
            for slot, i in stepper.places()
        ]

    def _order_variables(self) -> None:
        """Put `variables` into the order that they would have if all parameters had been given to one `build`."""
        kept = [self._iterations]
        if isinstance(self._learning_rate, keras.Variable):
            kept.append(self._learning_rate)
        if self.use_ema:
            kept += [v for v in self._model_variables_moving_average if v is not None]
        if self.gradient_accumulation_steps:
            kept += self._accumulated_gradients
        variables = tf.__internal__.tracking.wrap(
            [*kept, *self._moments(), *self._ready().carries, *self._ready().clocks()]
        )
        # Past __setattr__, whose list would not be TensorFlow's; a checkpoint goes by the positions in this one.
        object.__setattr__(self, "_variables", variables)
        self._track_trackable(variables, "_variables", overwrite=True)
        self._tracker.config["variables"] = (self._tracker.config["variables"][0], variables)
        self._track_lists()

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """One step: `keras.optimizers.Optimizer.apply`, in one native call.

        Args:
            grads: tensors, or None for a variable that this step leaves alone.
            trainable_variables: tf.Variables or Keras variables, one for each gradient; default: those it was built
                with.

        Raises:
            ArrayError: a gradient does not fit its variable; nothing was changed.
            UnsupportedError: a `tf.distribute` strategy is active; with nonfinite="raise", in a function that XLA
                compiles.
            ArgumentError: a variable is unknown to the optimizer, or there is not one for each gradient.
            NonFiniteError: a gradient is not finite, with nonfinite="raise"; names the first such variable. In a
                `tf.function` it is tf.errors.InvalidArgumentError with the same text. Nothing was changed.
            FaultError: with `verify`: a block gave two results, so this machine is faulty; in a `tf.function`
                tf.errors.InvalidArgumentError. The step has been taken.
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
        taken, checks = self._update(grads, trainable_variables) if grads else (None, [])
        with tf.control_dependencies(checks):
            constrained = [variable for variable in trainable_variables if variable.constraint is not None]

            def constrain() -> None:
                for variable in constrained:
                    variable.assign(variable.constraint(variable))

            if constrained:
                when(taken, constrain)
            self._iterations.value.assign_add(1 if taken is None else tf.cast(taken, self._iterations.dtype))
        if self._fault is not None:
            self._raise_fault()

    def _update(self, grads: Sequence[Any], variables: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The step, and what of Keras' own code goes with it.

        Returns whether it was taken (None: it was), and what a graph must compute before it goes on.
        """
        if not self.gradient_accumulation_steps:
            taken, checks = self._step(grads, variables, self.learning_rate, self._settings)
            if self.use_ema:
                with tf.control_dependencies(checks):
                    when(taken, lambda: self._backend_apply_gradients((), ()))  # what Keras does after its step
            return taken, checks
        self._check_variables_are_known(variables)
        natives = [_native(variable) for variable in variables]
        grads, checks = conform(grads, natives)
        with tf.control_dependencies(checks):
            if self._settings.loss_scale is not None:
                scale = self._loss_scale()
                grads = [gradient / tf.cast(scale, gradient.dtype) for gradient in grads]
            taken = None
            if self._settings.checks:  # one that is not finite must not be added to the others
                scale = tf.ones((), tf.float64)
                taken = self._ready().decide(natives, grads, scale)
                checks = [*checks, *self._judge(taken, grads, variables, scale)]
        with tf.control_dependencies(checks):
            when(taken, lambda: self._backend_apply_gradients(grads, variables))
        return taken, checks

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
        self._step([gradient], [variable], learning_rate, self._settings)
        self._raise_fault()

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
        config.update(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)
        if self._kernel != "auto":
            config["kernel"] = self._kernel
        if self._sparse != "dense":
            config["sparse"] = self._sparse
        if self._like != "keras":
            config["like"] = self._like
        default = vars(StoragePolicy())
        config.update({name: value for name, value in vars(self._storage).items() if value != default[name]})
        config.update(self._groups.get_config())
        if self._asked_nonfinite is not None:
            config["nonfinite"] = self._asked_nonfinite
        if self._stats:
            config["stats"] = True
        if self._verify:
            config["verify"] = self._verify
        return dict(config)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """An optimizer with the arguments that `get_config` returned."""
        return super().from_config(from_config(config, custom_objects), custom_objects)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        if grads:
            # Only accumulated gradients come this way, each of which has been checked.
            self._step(grads, trainable_variables, learning_rate, replace(self._settings, checks=False))

    def _step(
        self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any, settings: Settings
    ) -> tuple[Any, list[Any]]:
        """The step itself; returns as `_update` does."""
        # Keras counts the steps it applied, not the calls, while it accumulates gradients.
        iterations = tf.cast(self.iterations, tf.int64) if self.gradient_accumulation_steps else self._iterations.value
        stepper, shared = self._ready(), self._shared
        assert shared is not None  # build makes both
        if in_xla() and (settings.verify or (settings.checks and self._nonfinite == "raise")):
            what, other = ("verify", "0") if settings.verify else ('nonfinite="raise"', '"skip" and look at `skipped`')
            raise UnsupportedError(f"{what} in a function that XLA compiles, which cannot raise; use {other}")
        numbers = Numbers(_rate(learning_rate), iterations, shared.read())
        outcome, checks = stepper.step(variables, grads, numbers, settings, self._make_batch)
        if outcome.taken is not None:
            with tf.control_dependencies(checks):
                judged = self._judge(outcome.taken, grads, variables, settings.grad_scale(numbers.table))
                checks = [*checks, *judged]
        if outcome.fault is not None:
            self._look_for_fault(outcome.fault, variables)
        return outcome.taken, checks

    def _judge(self, taken: Any, grads: Sequence[Any], variables: Sequence[Any], grad_scale: Any) -> list[Any]:
        """Count a step that is not taken, or raise. Returns what a graph must compute before it goes on."""
        if self._nonfinite == "skip":
            self._ready().told.skip(taken)
            return []

        def text() -> Any:
            natives = [_native(variable) for variable in variables]
            dense, _ = conform(grads, natives)
            return complaint(self._names_of(variables), dense, grad_scale, Batch(natives, [], []).limit)

        if tf.executing_eagerly():
            if not taken:
                raise NonFiniteError(text().numpy().decode())
            return []

        def fail() -> Any:
            with tf.control_dependencies([tf.debugging.Assert(False, [text()])]):
                return tf.constant(0)

        return [tf.cond(taken, lambda: tf.constant(0), fail)]

    def _look_for_fault(self, fault: Any, variables: Sequence[Any]) -> None:
        names = self._names_of(variables)
        if not tf.executing_eagerly():
            sound, text = fault < 0, tf.gather([TWO_RESULTS.format(name) for name in names], tf.maximum(fault, 0))
            tf.debugging.Assert(sound, [text])
        elif int(fault) >= 0:
            self._fault = TWO_RESULTS.format(names[int(fault)])  # raised when all that goes with the step is done

    def _raise_fault(self) -> None:
        """Raise what an eager step found, once."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise FaultError(fault)

    def _names_of(self, variables: Sequence[Any]) -> list[str]:
        names = self._names()
        return [names[self._index[self._var_key(variable)]] for variable in variables]

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
        indices, rows = [self._index[self._var_key(variable)] for variable in variables], self._rows()
        return Batch([_native(variable) for variable in variables], indices, [rows[i] for i in indices])

    def _new_variable(self, shape: tuple[int, ...], dtype: str, name: str) -> Any:
        with keras.name_scope(self.name):
            return keras.Variable(initializer="zeros", shape=shape, dtype=dtype, trainable=False, name=name)

    def _ready(self) -> Stepper:
        if self._stepper is None:
            raise StateError(
                f"the optimizer {self.name!r} has no moments yet: call its build(variables), or take a step"
            )
        return self._stepper


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _rate(lr: Any) -> Any:
    """A learning rate as the kernels take it: float32 or float64. A Python number becomes Keras' float type."""
    if isinstance(lr, keras.Variable):
        lr = lr.value
    elif not tf.is_tensor(lr):
        lr = tf.constant(lr, keras.config.floatx())
    return lr if lr.dtype in (tf.float32, tf.float64) else tf.cast(lr, tf.float32)
