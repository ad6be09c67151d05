"""One step of all leaves: by the native engine where XLA runs on a CPU, else by the array expression.

Both are one function of the same operands. The native one is a single call of XLA's typed FFI for all leaves, with the
state in place. XLA cannot look into it, so its surroundings say what XLA needs to know: under `vmap` the array
expression serves instead; derivatives are those of the array expression; and a sharded call runs on each device's own
shard, which is right because everything is elementwise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from adamas.kernels import cpu
from adamas.kernels.jax import expression, op
from adamas.kernels.jax.layout import Layout
from adamas.rule import Hyper

FIELDS = tuple(Hyper.__dataclass_fields__)  # of a row of the table, in the order of adamas.h


@dataclass(frozen=True)
class Call:
    """What a compiled step holds constant.

    layout  of all leaves of one dtype
    active  the leaves that take part
    rows    of each of them, its row of the table: 0 is of what decays, 1 of what does not
    traced  the numbers that replace those of the table; a weight decay in row 0 only
    native  whether the native engine serves where it can
    """

    layout: Layout
    active: tuple[int, ...]
    rows: tuple[int, ...]
    traced: tuple[str, ...]
    native: bool


class Operands(NamedTuple):
    """What a step is given.

    table   uint32 [rows, 10, 2]: the fields of `Hyper` as the halves of float64, the lower one first
    count   int32: the steps before
    ok      bool: whether to step at all
    carry   uint32 [len(rule.carries), 2]
    names   uint32 [1 + active, 2]: the seed and the keys of the leaves; [0, 2] where nothing is rounded at random
    traced  float32 or float64 scalars
    params, grads  one for each active leaf
    arrays  those of the layout
    """

    table: Any
    count: Any
    ok: Any
    carry: Any
    names: Any
    traced: list[Any]
    params: list[Any]
    grads: list[Any]
    arrays: list[Any]


Results = tuple[list[Any], list[Any], Any]  # the parameters, the arrays, the carry


def step(call: Call, operands: Operands) -> Results:
    """The parameters, the arrays and the carry after one step."""
    if not call.active:
        return [], operands.arrays, operands.carry
    return _step(call, operands)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _step(call: Call, operands: Operands) -> Results:
    if not call.native or op.why_not() is not None:
        return _expression(call, operands)
    if jax.default_backend() == "cpu":
        return _native(call, operands)
    served: Results = lax.platform_dependent(
        operands, cpu=functools.partial(_native, call), default=functools.partial(_expression, call)
    )
    return served


def _expression(call: Call, operands: Operands) -> Results:
    layout, rule = call.layout, call.layout.rule
    with jax.enable_x64(True):
        wide = expression.doubles(operands.table)
        lines = [dict(zip(FIELDS, list(line), strict=True)) for line in wide]
        for name, number in zip(call.traced, operands.traced, strict=True):
            for line in lines[:1] if name == "weight_decay" else lines:
                line[name] = lax.convert_element_type(number, jnp.float64)
    rows, carry = expression.scalars(rule, lines, operands.count, operands.carry)
    kept, params = layout.split(operands.arrays), []
    for k, i in enumerate(call.active):
        leaf, old = layout.leaves[i], kept[i]
        seed: Any = operands.names[0] if operands.names.shape[0] else None
        draw = expression.Draw(seed, None if seed is None else operands.names[1 + k], operands.count)
        s = rows[call.rows[k]][leaf.computed == np.float32]
        p, g = operands.params[k], operands.grads[k]
        new, now = expression.update(rule, leaf, s, p, g, old, draw)
        params.append(jnp.where(operands.ok, new, p))
        kept[i] = [jnp.where(operands.ok, one, other) for one, other in zip(now, old, strict=True)]
    return params, layout.join(kept), jnp.where(operands.ok, carry, operands.carry)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _native(call: Call, operands: Operands) -> Results:
    @jax.custom_batching.custom_vmap
    def served(operands: Operands) -> Results:
        return _on_each_device(call, operands)

    @served.def_vmap
    def batched(size: int, in_batched: Any, operands: Operands) -> tuple[Results, Any]:
        (given,) = in_batched
        axes = jax.tree.map(lambda own: 0 if own else None, given)
        found = jax.vmap(functools.partial(_expression, call), in_axes=(axes,), axis_size=size)(operands)
        return found, jax.tree.map(lambda _: True, found)

    found: Results = served(operands)
    return found


@_native.defjvp
def _derivative(call: Call, primals: tuple[Operands], tangents: tuple[Operands]) -> tuple[Results, Results]:
    found: tuple[Results, Results] = jax.jvp(functools.partial(_expression, call), primals, tangents)
    return found


def _call(call: Call, operands: Operands) -> Results:
    """The native engine, on buffers that are whole, or shards that are taken to be."""
    layout, n = call.layout, len(call.active)
    rule, slots = layout.rule, len(layout.rule.slots)
    weights = layout.leaves[call.active[0]].weights
    formats = [cpu.FORMATS[name] for i in call.active for name in layout.leaves[i].formats]
    places: list[int] = []
    for i in call.active:
        found: dict[tuple[int, bool], tuple[int, int]] = {
            (kept.slot, kept.scale): place for kept, place in zip(layout.kept[i], layout.places[i], strict=True)
        }
        for s in range(slots + (weights == "split")):
            places += [*found[s, False], *found.get((s, True), (-1, 0))]
    flat = [*operands[:5], *operands.traced, *operands.params, *operands.grads, *operands.arrays]
    first, last = 5 + len(operands.traced), len(flat) - len(operands.arrays)
    changed = [*range(first, first + n), *range(last, len(flat))]
    results = [jax.ShapeDtypeStruct(flat[i].shape, flat[i].dtype) for i in (*changed, 3)]
    out = jax.ffi.ffi_call(
        op.TARGET, results, vmap_method=None, input_output_aliases={i: k for k, i in enumerate(changed)}
    )(
        *flat,
        rule=np.array(cpu.rule_codes(rule), np.int32),
        weights=np.int32(cpu.WEIGHTS[weights]),
        traced=np.array([FIELDS.index(name) for name in call.traced], np.int32),
        rows=np.array(call.rows, np.int32),
        formats=np.array(formats, np.int32),
        places=np.array(places, np.int64),
    )
    return list(out[:n]), list(out[n:-1]), out[-1]


@functools.partial(custom_partitioning, static_argnums=(0,))
def _on_each_device(call: Call, operands: Operands) -> Results:
    return _call(call, operands)


def _partition(call: Call, mesh: Any, given: tuple[Operands], results: Results) -> Any:
    """Every leaf as its gradient is sharded; numbers on every device. `native_everywhere` says why that is right."""
    (operands,) = given
    whole = NamedSharding(mesh, PartitionSpec())
    active = [gradient.sharding for gradient in operands.grads]
    arrays: list[Any] = [array.sharding for array in operands.arrays]
    for i, sharding in zip(call.active, active, strict=True):
        for place in call.layout.places[i]:
            arrays[place.array] = sharding
    taken = Operands(whole, whole, whole, whole, whole, [whole] * len(operands.traced), active, active, arrays)

    def on_a_shard(operands: Operands) -> Results:
        leaves = list(call.layout.leaves)
        for i, gradient in zip(call.active, operands.grads, strict=True):
            leaves[i] = replace(leaves[i], shape=gradient.shape)
        return _call(replace(call, layout=replace(call.layout, leaves=tuple(leaves))), operands)

    return mesh, on_a_shard, (active, arrays, whole), (taken,)


def _sharding_rule(call: Call, mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> str:
    """Dimensions of a leaf are the same in its parameter, gradient and slots; those of numbers are on their own."""
    del mesh
    head = 5 + len(call.traced)
    n = len(call.active)
    of: dict[int, str] = {}
    for k, i in enumerate(call.active):
        of[k] = of[n + k] = f"leaf{i}"
        of |= {2 * n + place.array: f"leaf{i}" for place in call.layout.places[i]}
    named = []
    for position, type_ in enumerate(operands):
        name = f"number{position}" if position < head else of.get(position - head, f"other{position}")
        named.append(" ".join(f"{name}_{d}" for d in range(type_.rank)))
    changed = [*named[head : head + n], *named[head + 2 * n :], named[3]]
    assert len(changed) == len(results)
    return f"{', '.join(named)} -> {', '.join(changed)}"


_on_each_device.def_partition(partition=_partition, sharding_rule=_sharding_rule)


def native_everywhere(layout: Layout) -> bool:
    """Whether the native engine gives the right numbers however the leaves may be sharded.

    What is rounded at random needs to know which elements it has, and an arena has no dimensions to shard; so both need
    that there is one device only. GSPMD, which Shardy replaced as JAX's partitioner, cannot be told all that is needed.
    """
    shardable = not layout.packed and layout.plain and jax.config.jax_use_shardy_partitioner  # type: ignore[attr-defined]
    return bool(jax.device_count() == 1 or shardable)
