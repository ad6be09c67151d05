"""What every optimizer of this package is: an optax transformation with a fused step of its own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adamas import state as portable
from adamas.errors import ArrayError
from adamas.jax.advance import advance
from adamas.jax.decay import masked
from adamas.jax.portable import load, save
from adamas.jax.settings import Number, Settings, amended, is_array, table
from adamas.jax.states import Packed, State, checked_dtype, initial, of_params, pack, unpack
from adamas.jax.transform import update
from adamas.kernels import cpu
from adamas.kernels.jax import op
from adamas.kernels.jax.layout import Leaf


class Optimizer(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optax transformation, `init(params)` and `update(grads, state, params)`, with a fused `step` beside them.

    `update` returns what `optax.apply_updates` adds to the parameters; that sum rounds once more than `step`, which
    gives the bits of `adamas.rule`. Numbers such as the learning rate are inputs of the compiled code: another one
    compiles nothing again.
    """

    settings: Settings
    _compiled: Any
    _table: tuple[bytes, Any]

    def __new__(cls, settings: Settings) -> Optimizer:
        """The optimizer with these settings; `adam` and its family make them."""
        own: Optimizer = super().__new__(cls, functools.partial(initial, settings), functools.partial(update, settings))
        own.settings = settings
        own._compiled = jax.jit(functools.partial(_step, settings), donate_argnums=(0, 2))
        own._table = (b"", None)
        return own

    @property
    def kernel(self) -> str:
        """Which kernel serves on CPUs, and why; on other devices it is the array expression."""
        reason = "it was asked for" if self.settings.kernel == "xla" else op.why_not()
        if reason is not None:
            return f"xla: array expression, because {reason}"
        return f"native: libadamas ({cpu.get_instruction_set()}) through XLA's typed FFI"

    def step(
        self, params: Any, grads: Any, state: State | Packed, *, learning_rate: Number | None = None
    ) -> tuple[Any, Any]:
        """One step in one compiled call: the new parameters and the new state.

        Args:
            params: a tree of arrays. Its buffers are donated: they become the result's, and the arrays given cannot be
                read any more (inside another `jax.jit`, that one decides about donation).
            grads: a tree like `params`, of the same shapes and dtypes; None in the place of a leaf leaves that leaf
                alone. Not changed.
            state: from `init`, `pack` or the step before; donated.
            learning_rate: in the place of the optimizer's own, for this step; a number or a scalar array.

        Raises:
            UnsupportedError: a leaf is no array of floating-point numbers that is served; names it.
            ArrayError: gradients or state do not fit the parameters.
            ArgumentError: a number is outside its range.

        Nothing has been donated or changed when one of them is raised.

        Example:
            >>> import jax.numpy as jnp
            >>> from adamas.jax import adam
            >>> optimizer = adam(0.1)
            >>> params = {"w": jnp.array([1.0, -2.0])}
            >>> state = optimizer.init(params)
            >>> for _ in range(200):
            ...     grads = {"w": 2 * params["w"]}
            ...     params, state = optimizer.step(params, grads, state)
            >>> bool(abs(params["w"]).max() < 0.01)
            True
        """
        instead = {} if learning_rate is None else {"lr": learning_rate}
        own = table(self.settings.constant(**instead))
        kept = self._table  # read once: another thread may step with another rate
        if kept[0] != own.tobytes():
            with jax.ensure_compile_time_eval():  # inside another trace too it is to be an array, which can be kept
                kept = self._table = (own.tobytes(), jnp.asarray(own))
        traced = {"learning_rate": learning_rate} if is_array(learning_rate) else {}
        lr = self.settings.numbers["lr"]
        if learning_rate is not None and (callable(lr) or is_array(lr)):
            traced = {"learning_rate": jnp.asarray(learning_rate)}  # in the place of an array it is one, too
        found: tuple[Any, Any] = self._compiled(params, grads, state, kept[1], **traced)
        return found

    def pack(self, state: State, params: Any) -> Packed:
        """The state in a few long arrays, with which `step` is faster where there are many small leaves.

        A call has a price for each array, and a state has two arrays a leaf: with 500 leaves of 1000 elements a step
        takes half the time. For parameters that are all on one device. `unpack` goes back, for a checkpoint.

        Args:
            state: of `init` or a step; not changed.
            params: the parameters that it is of.
        """
        return pack(self.settings, state, params)

    def unpack(self, packed: Packed, params: Any) -> State:
        """The state that `pack` was given, or what steps have made of it."""
        return unpack(self.settings, packed, params)

    def portable_state(self, state: State | Packed, params: Any) -> portable.State:
        """A copy of the state for `adamas.state.save`, which every other adapter can load.

        Parameters are named by their path in the tree, joined with "/": "dense/kernel", "layers/0/bias".

        Args:
            state: of `init`, `pack` or a step; not inside `jax.jit`.
            params: the parameters that it is of.
        """
        return save(self.settings, state, params)

    def load_portable_state(self, given: portable.State, params: Any) -> State:
        """The state for these parameters that goes on where another optimizer, of any framework, has stopped.

        Its numbers (lr, betas, ...) are not taken over: they are those of this optimizer. What is stored in another
        format is converted; the seed and the names that random numbers are drawn by are taken over.

        Args:
            given: from `portable_state` of any adapter, or `adamas.state.load`.
            params: the parameters; moments come to lie where they do, sharded alike.

        Raises:
            StateError: it belongs to other parameters or another formula, or its parameters have taken different
                numbers of steps; lists the differences.

        Example:
            >>> import jax.numpy as jnp
            >>> from adamas.jax import adam
            >>> optimizer = adam(0.1)
            >>> params = {"w": jnp.ones(3)}
            >>> params, state = optimizer.step(params, {"w": jnp.ones(3)}, optimizer.init(params))
            >>> moved = optimizer.load_portable_state(optimizer.portable_state(state, params), params)
            >>> int(moved.count), bool((moved.mu["w"] == state.mu["w"]).all())
            (1, True)
        """
        return load(self.settings, given, params)


def _step(
    settings: Settings, params: Any, grads: Any, state: State | Packed, given: Any, learning_rate: Any = None
) -> tuple[Any, Any]:
    own = of_params(settings, params)
    flat, gradients = own.flat(params, "parameters"), own.flat(grads, "gradients")
    for name, leaf, gradient in zip(own.names, own.leaves, gradients, strict=True):
        _check(name, leaf, gradient)
    exact, arrays = settings.resolved(state.count, **({} if learning_rate is None else {"lr": learning_rate}))
    given = amended(given, {name: x for name, x in exact.items() if callable(settings.numbers[name])})
    new, state, _ = advance(settings, own, state, flat, gradients, masked(settings, own, params), given, arrays)
    return own.treedef.unflatten(new), state


def _check(name: str, leaf: Leaf, gradient: Any) -> None:
    if gradient is None:
        return
    dtype = checked_dtype("the gradient of", name, gradient)
    if tuple(gradient.shape) != leaf.shape or dtype != leaf.dtype:
        raise ArrayError(
            f"{name!r} is {leaf.dtype}{list(leaf.shape)} and its gradient {dtype}{list(gradient.shape)}; both must be "
            "the same"
        )
