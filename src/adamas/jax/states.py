"""The state of an optimizer as a tree of arrays, and its way to the arrays of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adamas.errors import ArrayError, UnsupportedError
from adamas.formats import name_key
from adamas.jax.settings import Settings, halves, words
from adamas.kernels.jax.layout import Layout, Leaf
from adamas.rule import Rule
from adamas.storage import check_weights, choose

FIELDS = {"m": "mu", "v": "nu", "vmax": "nu_max", "z": "z"}  # of `State`, by slot
_FLOATS = ("float32", "float64", "bfloat16", "float16")


class Int8(NamedTuple):
    """A moment in eight bits a number: codes of the parameter's shape, and a float32 scale for each 64 of them."""

    codes: Any
    scales: Any


class Rounding(NamedTuple):
    """What stochastic rounding draws its numbers from.

    seed     uint32 [2]: the halves of the seed, the lower one first
    keys     uint32 [leaves, 2]: the halves of each leaf's `adamas.formats.name_key`
    adopted  None; where a state was loaded that has other names than the leaves, uint8: those names, one a line
    """

    seed: Any
    keys: Any
    adopted: Any = None


class State(NamedTuple):
    """What an optimizer carries from step to step; None is what its rule does not keep.

    count       int32: the steps taken
    mu, nu      the moments, trees like the parameters: float32 (float64 for float64), bfloat16, or `Int8`
    nu_max      of amsgrad: the largest second moment
    z           of schedule-free: the point that takes the steps
    b1          of schedule-free, where `schedule_free_eval_params` finds it
    carry       of schedule-free: uint32 [2, 2], the halves of the float64 sum of weights and largest learning rate
    correction  the lower bits of split weights
    rounding    where anything is rounded stochastically
    """

    count: Any
    mu: Any = None
    nu: Any = None
    nu_max: Any = None
    z: Any = None
    b1: Any = None
    carry: Any = None
    correction: Any = None
    rounding: Any = None


class Packed(NamedTuple):
    """A `State` in a few long arrays, for `step` with many small leaves: see `Optimizer.pack`."""

    count: Any
    arenas: Any
    b1: Any = None
    carry: Any = None
    rounding: Any = None


@dataclass(frozen=True)
class Leaves:
    """The leaves of a tree of parameters, in its order; None and optax's masked nodes are no leaves.

    treedef  of the tree
    names    of each leaf: its path, joined with "/"
    """

    rule: Rule
    treedef: Any
    names: tuple[str, ...]
    leaves: tuple[Leaf, ...]

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Indices of the leaves that one native call takes: those of one dtype, whose weights are rounded alike."""
        found: dict[tuple[str, str], list[int]] = {}
        for i, leaf in enumerate(self.leaves):
            found.setdefault((leaf.dtype, leaf.weights), []).append(i)
        return [tuple(members) for members in found.values()]

    def layout(self, members: Sequence[int], packed: bool) -> Layout:
        """Where the state of these leaves lies."""
        return Layout(self.rule, tuple(self.leaves[i] for i in members), packed)

    def flat(self, tree: Any, what: str) -> list[Any]:
        """The leaves of a tree of the same structure; None may stand in a leaf's place."""
        try:
            found: list[Any] = self.treedef.flatten_up_to(tree)
        except ValueError as error:
            raise ArrayError(f"the {what} are no tree like the parameters: {error}") from None
        return found

    def kept(self, state: State) -> list[list[Any]]:
        """What is kept of each leaf, in the order of `Leaf.kept`."""
        fields = [FIELDS[slot.name] for slot in self.rule.slots]
        if missing := [field for field in fields if getattr(state, field) is None]:
            raise ArrayError(f"the state has no {', '.join(missing)}: it is of an optimizer of another formula")
        columns = [self.flat(getattr(state, field), "moments") for field in fields]
        corrections = [None] * len(self.leaves)
        if state.correction is not None:
            corrections = self.flat(state.correction, "corrections")
        found = []
        for i in range(len(self.leaves)):
            own: list[Any] = []
            for column in columns:
                own += column[i] if isinstance(column[i], Int8) else [column[i]]
            found.append(own if corrections[i] is None else [*own, corrections[i]])
            given = [(str(array.dtype), tuple(array.shape)) for array in found[-1]]
            if given != [(kept.dtype, kept.shape) for kept in self.leaves[i].kept(self.rule)]:
                raise ArrayError(
                    f"the state of {self.names[i]!r} holds {given}, which is not of a parameter of {self.leaves[i]}; "
                    "make the optimizer as the one that the state is of, or move it: portable_state, "
                    "load_portable_state"
                )
        return found

    def check_packed(self, packed: Packed) -> None:
        """Nothing if a packed state is of these leaves.

        Raises:
            ArrayError: it is not.
        """
        wanted = [self.layout(members, packed=True).arrays for members in self.groups]
        given = [[(str(array.dtype), array.size) for array in arenas] for arenas in packed.arenas]
        if given != wanted:
            raise ArrayError(
                f"the packed state holds {given}, and these parameters need {wanted}; pack their own state"
            )

    def stored(self, kept: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """The fields of a `State`, the other way round."""
        columns: dict[str, list[Any]] = {slot.name: [] for slot in self.rule.slots}
        corrections: list[Any] = []
        for leaf, arrays in zip(self.leaves, kept, strict=True):
            own = list(arrays)
            for slot, name in zip(self.rule.slots, leaf.formats, strict=True):
                values = own.pop(0)
                columns[slot.name].append(Int8(values, own.pop(0)) if name == "int8" else values)
            corrections.append(own.pop(0) if own else None)
        fields = {FIELDS[slot]: self.treedef.unflatten(column) for slot, column in columns.items()}
        if any(correction is not None for correction in corrections):
            fields["correction"] = self.treedef.unflatten(corrections)
        return fields


def of_params(settings: Settings, params: Any) -> Leaves:
    """The leaves of a tree of parameters, and how they are stored.

    Raises:
        UnsupportedError: a leaf is no array of floating-point numbers that is served; names it.
        ArgumentError: what was asked for does not fit the parameters.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = tuple(path_name(path) for path, _ in paths)
    dtypes = [checked_dtype("parameter", name, leaf) for name, (_, leaf) in zip(names, paths, strict=True)]
    wide = [np.dtype(jnp.dtype(dtype)) for dtype in dtypes]
    check_weights((dtype, settings.weights) for dtype in wide)
    leaves = []
    for dtype, (_, leaf) in zip(wide, paths, strict=True):
        how = choose(settings.rule, dtype, math.prod(leaf.shape), settings.moments, settings.weights)
        leaves.append(Leaf(tuple(leaf.shape), dtype.name, how.formats, how.weights))
    return Leaves(settings.rule, treedef, names, tuple(leaves))


def path_name(path: Any) -> str:
    """The name of a leaf: the keys, indices and attributes on the way to it, joined with "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def checked_dtype(what: str, name: str, leaf: Any) -> str:
    """The name of a leaf's dtype, if it is served."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not hasattr(leaf, "shape"):
        raise UnsupportedError(f"{what} {name!r} is a {type(leaf).__name__}, not an array; give jnp.asarray of it")
    if jnp.dtype(dtype).name not in _FLOATS:
        raise UnsupportedError(
            f"{what} {name!r} is {jnp.dtype(dtype).name}: {', '.join(_FLOATS)} are served; leave it out with "
            "optax.masked, or put None in its place"
        )
    return str(jnp.dtype(dtype).name)


def initial(settings: Settings, params: Any) -> State:
    """The state before the first step."""
    own, rule = of_params(settings, params), settings.rule
    kept = []
    for leaf, p in zip(own.leaves, jax.tree.leaves(params), strict=True):
        arrays = []
        for array in leaf.kept(rule):
            if array.slot < len(rule.slots) and rule.slots[array.slot].initial == "parameter":
                arrays.append(jnp.array(p, array.dtype, copy=True))
            elif array.shape == leaf.shape:
                arrays.append(jnp.zeros_like(p, dtype=array.dtype))  # sharded as the parameter is
            else:
                arrays.append(jnp.zeros(array.shape, array.dtype))
        kept.append(arrays)
    rounding = carry = b1 = None
    if not all(leaf.plain for leaf in own.leaves):
        keys = jnp.asarray(words([name_key(name) for name in own.names]))
        rounding = Rounding(settings.seed_bits(), keys)
    if rule.carries:
        carry = jnp.asarray(halves([number.initial for number in rule.carries]))
    if rule.schedule_free:
        b1 = jnp.asarray(settings.numbers["beta1"], jnp.float32)
    return State(jnp.zeros((), jnp.int32), b1=b1, carry=carry, rounding=rounding, **own.stored(kept))


def pack(settings: Settings, state: State, params: Any) -> Packed:
    """The state of these parameters in a few long arrays."""
    own = of_params(settings, params)
    kept = own.kept(state)
    arenas = [own.layout(members, packed=True).join([kept[i] for i in members]) for members in own.groups]
    return Packed(state.count, arenas, state.b1, state.carry, state.rounding)


def unpack(settings: Settings, packed: Packed, params: Any) -> State:
    """The other way round."""
    own = of_params(settings, params)
    kept: list[list[Any]] = [[] for _ in own.leaves]
    for members, arenas in zip(own.groups, packed.arenas, strict=True):
        for i, arrays in zip(members, own.layout(members, packed=True).split(arenas), strict=True):
            kept[i] = arrays
    return State(packed.count, b1=packed.b1, carry=packed.carry, rounding=packed.rounding, **own.stored(kept))
