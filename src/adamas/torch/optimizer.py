"""What all optimizers here share: torch's classes, with another arithmetic in `step`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from adamas.errors import ArgumentError
from adamas.formats import Weights
from adamas.kernels import choose
from adamas.parts import Nonfinite
from adamas.state import State
from adamas.storage import Description, Moments
from adamas.telemetry import Statistics
from adamas.torch.checks import Like, Settings, check_parameter, check_settings, names_of, read_group
from adamas.torch.portable import from_torch, to_torch
from adamas.torch.stepper import Stepper


class Stepped:
    """What they share, before torch's own class in the order of methods.

    Args:
        moments, weights, seed, nonfinite, stats, ema, sparse, verify, like, cautious: see `Adam`.
        args, kwargs: those of torch's own class.
    """

    preset: ClassVar[str | None] = None
    """Of the rule of an optimizer that torch has not; else it goes by torch's class."""

    param_groups: list[dict[str, Any]]
    state: Any

    def __init__(
        self,
        *args: Any,
        moments: Moments = "float32",
        weights: Weights = "nearest",
        seed: int = 0,
        nonfinite: Nonfinite | None = None,
        stats: bool = False,
        ema: float | None = None,
        sparse: Literal["dense", "lazy"] = "dense",
        verify: int = 0,
        like: Like = "torch",
        cautious: bool = False,
        **kwargs: Any,
    ) -> None:
        self._settings = Settings(moments, weights, seed, nonfinite, stats, ema, sparse, verify, like, cautious)
        super().__init__(*args, **kwargs)
        # torch.amp.GradScaler then leaves the gradients as they are, and says what to do in grad_scale and found_inf.
        self._step_supports_amp_scaling = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Shows the arguments of torch's class, of the installed version, before ours."""
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            theirs = inspect.signature(super().__init__).parameters
            ours = inspect.signature(Stepped.__init__).parameters
            shown = [*theirs.values(), *(a for a in ours.values() if a.kind is a.KEYWORD_ONLY)]
            cls.__signature__ = inspect.Signature(shown[1:])  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {**state, "_settings": self._settings}

    def state_dict(self) -> dict[str, Any]:
        """`torch.optim.Optimizer.state_dict`; with sparse="lazy", every row is decayed to the present first."""
        self._settle()
        found: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return found

    @property
    def kernel(self) -> str:
        """Which kernel serves, and why; with how many threads now."""
        return str(choose())

    @property
    def skipped(self) -> int:
        """How many steps were skipped because a gradient was not finite, since this object was made."""
        return self._steps_with().skipped

    def stats(self) -> Statistics:
        """What the last step did, for each parameter and in total: norms, their ratio, how much epsilon decides.

        Raises:
            ArgumentError: the optimizer was made without stats=True, or has taken no step.
        """
        return self._steps_with().stats()

    def describe(self) -> Description:
        """How the state of each parameter is stored, and in how many bytes; `print` it."""
        return self._steps_with().describe(self)  # type: ignore[arg-type]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """`torch.optim.Optimizer.add_param_group`; checks what it is given.

        A group may have `moments` and `weights` of its own.

        Raises:
            UnsupportedError: a parameter or a setting cannot be served; names it. The group was not added.
            ArgumentError: a number is outside its range. The group was not added.
        """
        if self._settings.like != "torch":
            param_group.setdefault("like", self._settings.like)
        if self._settings.cautious is not False:
            param_group.setdefault("cautious", self._settings.cautious)
        super().add_param_group(param_group)  # type: ignore[misc]
        try:
            added = self.param_groups[-1]
            read_group(added, self)
            every = names_of(self.param_groups)
            names = every[len(every) - len(added["params"]) :]
            for name, p in zip(names, added["params"], strict=True):
                check_parameter(name, p, low=True)
            self._steps_with().check_stored(added, names, self)
        except BaseException:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """`torch.optim.Optimizer.load_state_dict`, from these optimizers' or from torch's own `state_dict`.

        What is stored in another format than the group's `moments` is converted by the next step.

        Raises:
            UnsupportedError: it was saved with a setting that cannot be served. Nothing was loaded.
        """
        kept = ("moments", "weights", "like", "cautious")
        own = [{name: group[name] for name in kept if name in group} for group in self.param_groups]
        loaded: dict[str, Any] = {}

        def look(_: Any, state: dict[str, Any]) -> None:  # what the user's hooks before it have made of it
            for group in state["param_groups"]:
                check_settings(group)
            loaded.update(state)

        def keep(_: Any) -> None:
            for group, settings in zip(self.param_groups, own, strict=True):
                for name, value in settings.items():
                    group.setdefault(name, value)  # torch's own state has none of them
            # torch has cast everything to the parameter's dtype, codes of int8 too, and shares what it need not cast.
            keys = [key for group in loaded["param_groups"] for key in group["params"]]
            params = [p for group in self.param_groups for p in group["params"]]
            for key, p in zip(keys, params, strict=True):
                for name, value in loaded["state"].get(key, {}).items():
                    if isinstance(value, Tensor):
                        self.state[p][name] = value.detach().to(p.device, copy=True)

        base: Any = super()
        hooks = [
            base.register_load_state_dict_pre_hook(look),
            base.register_load_state_dict_post_hook(keep, prepend=True),
        ]
        try:
            base.load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def norm(self) -> float | None:
        """The norm of all gradients in the last step, as they were before clipping and after unscaling.

        None where the step looked at none: it neither clipped (`max_norm`) nor searched for what is not finite.
        """
        return self._steps_with().norm

    def average(self, p: Tensor) -> Tensor:
        """A copy of the average of a parameter's values after each of its steps, in float32 (float64 for float64).

            average <- average + (1 - ema) (p - average)            starting at p

        Raises:
            ArgumentError: the optimizer keeps no averages, or the parameter is not one of its own.
        """
        if self._settings.ema is None:
            raise ArgumentError("the optimizer keeps no averages; make it with ema=0.999 or so")
        if not any(p is own for group in self.param_groups for own in group["params"]):
            raise ArgumentError("the optimizer has no such parameter; give one of those that it was made with")
        kept: Tensor = self.state.get(p, {}).get("average", p.detach())  # before its first step it is p
        return kept.to(torch.promote_types(p.dtype, torch.float32), copy=True)

    def portable_state(self) -> State:
        """A copy of everything carried from step to step, for `adamas.state.save`: `adamas.torch.from_torch`."""
        return from_torch(self)  # type: ignore[arg-type]

    def load_portable_state(self, state: State) -> None:
        """Take over a `State`, as `adamas.state.load` gives it: moments, steps, numbers and seed.

        What is stored in another format than the group's `moments` is converted by the next step.

        Raises:
            StateError: it does not fit; lists the differences. Nothing has been changed.
        """
        to_torch(state, self)  # type: ignore[arg-type]
        self._steps_with().forget()

    @torch.compiler.disable
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        max_norm: float | None = None,
        grad_scale: float = 1.0,
    ) -> Any:
        """Update every parameter that has a gradient, in place.

        Args:
            closure: computes the loss again, and the gradients.
            max_norm: clip the gradients' global norm n to this, above 0: where max_norm / (n + 1e-6) is below 1, every
                gradient counts as multiplied by it. As `torch.nn.utils.clip_grad_norm_` before the step, but in its
                one pass over the gradients, which stay as they are; `norm` then is n.
            grad_scale: every gradient counts as multiplied by this first, a finite number above 0. A
                `torch.amp.GradScaler` whose `step` calls this one says it by itself, and so that nothing is changed
                where it has found a gradient that is not finite.

        Returns:
            The loss that the closure returned; None without one.

        Raises:
            UnsupportedError: a parameter or gradient cannot be served; names it.
            ArrayError: parameters share memory, or have become another shape or dtype than their moments.
            ArgumentError: a number of a group is outside its range.
            StateError: the state of a parameter lacks something.
            NonFiniteError: a gradient is not finite, with nonfinite="raise"; names the first such parameter.
            FaultError: with `verify`: a block gave two results, so this machine is faulty. The step has been taken.

        Nothing has been changed when one of the others is raised. After a Ctrl-C (KeyboardInterrupt) the moments of
        each parameter and its step belong together.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stepper, scale = self._steps_with(), getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and float(found_inf) != 0.0:
            stepper.skipped += 1
            return loss
        if scale is not None:
            grad_scale /= float(scale)
        stepper.step(self, max_norm=max_norm, grad_scale=grad_scale)  # type: ignore[arg-type]
        return loss

    def _settle(self) -> None:
        """Make moments of rows that had no gradient what a dense optimizer's would be; see `sparse`."""
        self._steps_with().settle()

    def _steps_with(self) -> Stepper:
        if "_stepper" not in self.__dict__:  # new, copied or unpickled
            self._stepper = Stepper(self._settings)
        return self._stepper
