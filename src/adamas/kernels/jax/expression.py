"""The array expression: `adamas.rule.update` for JAX, its scalars computed inside the graph.

Scalars are float64 whatever `jax_enable_x64` says: it is switched on for these few numbers while they are traced.
beta^t is found by repeated squaring, as in `adamas.scalars`, and kept apart from the elements, or XLA could compute it
again for each of them.

XLA contracts a product and a sum into one fused multiply-add wherever the processor has it, so the result differs from
the reference in the last places; with `XLA_FLAGS=--xla_cpu_max_isa=AVX`, which has none, it is equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adamas import rule as mathematics
from adamas import scalars as numbers_of
from adamas.formats import PARAMETER
from adamas.kernels.codecs import Codecs
from adamas.kernels.jax.layout import Leaf
from adamas.rule import Rule, Scalars

_DTYPES = "int8 uint8 uint16 int32 uint32 uint64 float16 bfloat16 float32".split()
_ARRAYS = SimpleNamespace(abs=jnp.abs, sqrt=jnp.sqrt, where=jnp.where, zeros_like=jnp.zeros_like)
_CODECS = Codecs(
    SimpleNamespace(
        where=jnp.where,
        minimum=jnp.minimum,
        maximum=jnp.maximum,
        abs=jnp.abs,
        reshape=jnp.reshape,
        concat=jnp.concatenate,
        cast=lax.convert_element_type,
        bitcast=lax.bitcast_convert_type,
        left=lambda x, n: x << x.dtype.type(n),
        right=lambda x, n: x >> x.dtype.type(n),
        arange=lambda n: lax.iota(jnp.uint32, n),
        zeros=lambda n, like: jnp.zeros(n, like.dtype),
        constant=lambda x, dtype: np.asarray(x, dtype)[()],
        largest=lambda x: jnp.max(x, axis=-1),
        **{
            name: getattr(jnp, name)
            for name in "int8 uint8 uint16 int32 uint32 uint64 float16 bfloat16 float32".split()
        },
    )
)


def _power(x: Any, n: Any) -> Any:
    """`adamas.scalars.power` for an n below 2^31 that is an array, without a loop."""
    result = jnp.float64(1.0)
    for bit in range(31):
        result = jnp.where((n >> bit) & 1 == 1, result * x, result)
        x = x * x  # of a Python number in Python
    return result


def _powers(bases: Sequence[Any], exponents: Sequence[Any]) -> list[Any]:
    exact = [int(n) if isinstance(n, float) else n for n in exponents]
    return [
        numbers_of.power(x, n) if isinstance(n, int) else _power(x, lax.convert_element_type(n, jnp.int64))
        for x, n in zip(bases, exact, strict=True)
    ]


_NUMBERS = SimpleNamespace(
    sqrt=jnp.sqrt,
    floor=jnp.floor,
    where=jnp.where,
    real=lambda n: lax.convert_element_type(n, jnp.float64),
    powers=_powers,
)


def doubles(bits: Any) -> Any:
    """float64 [...] from uint32 [..., 2], its halves, the lower one first; `jax_enable_x64` must be on."""
    return lax.bitcast_convert_type(bits, jnp.float64)


def scalars(
    rule: Rule, numbers: Sequence[Mapping[str, Any]], count: Any, carry: Any
) -> tuple[list[tuple[Scalars, Scalars]], Any]:
    """The scalars of step `count` + 1 for each row of numbers, and what the rule carries after it.

    Args:
        numbers: of each row, the fields of `Hyper`: float64 scalars, or Python numbers.
        count: int32, the steps before.
        carry: uint32 [len(rule.carries), 2]; the first row's numbers carry it on.

    Returns:
        Of each row the float64 scalars, and the same in float32; and the new carry.
    """
    with jax.enable_x64(True):
        t = lax.convert_element_type(count, jnp.int64) + 1
        before = [doubles(carry[i]) for i in range(len(rule.carries))]
        hypers = [SimpleNamespace(**row) for row in numbers]
        after = numbers_of.carry_on(rule, hypers[0], t, before, xp=_NUMBERS)
        found = []
        for hyper in hypers:
            wide = [
                lax.convert_element_type(number, jnp.float64)
                for number in numbers_of.scalars(rule, hyper, t, carry=after, xp=_NUMBERS)
            ]
            single = [lax.convert_element_type(number, jnp.float32) for number in wide]
            found.append((Scalars(*lax.optimization_barrier(wide)), Scalars(*lax.optimization_barrier(single))))
        if after:
            carry = jnp.stack([lax.bitcast_convert_type(number, jnp.uint32) for number in after])
    return found, carry


class Draw:
    """The random bits of one leaf's step.

    Args:
        seed, name: uint32 [2]: the halves of the optimizer's seed and of the leaf's key.
        count: int32, the steps before.
    """

    def __init__(self, seed: Any, name: Any, count: Any) -> None:
        self._of = seed, name, count

    def bits(self, slot: int, n: int) -> Any:
        """uint32 [n]: those of all elements of one slot."""
        with jax.enable_x64(True):
            seed, name = (lax.bitcast_convert_type(half, jnp.uint64) for half in self._of[:2])
            step = lax.convert_element_type(self._of[2], jnp.uint64) + np.uint64(1)
            return _CODECS.draw(n, seed, name, step, np.uint64(slot))


def update(
    rule: Rule, leaf: Leaf, s: Scalars, p: Any, g: Any, kept: Sequence[Any], draw: Draw
) -> tuple[Any, list[Any]]:
    """A leaf's new value and what is kept of it then.

    Args:
        s: in the dtype of computation.
        p, g: parameter and gradient, of the leaf's dtype.
        kept: one array for each of `leaf.kept(rule)`.
    """
    computed, split = leaf.computed, leaf.weights == "split"
    kept, slots = list(kept), []
    correction = kept.pop() if split else None
    for name in leaf.formats:
        values = kept.pop(0)
        if name == "int8":
            values = _CODECS.decode_int8(jnp.ravel(values), kept.pop(0)).reshape(leaf.shape)
        slots.append(lax.convert_element_type(values, computed))
    wide = _CODECS.decode_split(p, correction) if split else lax.convert_element_type(p, computed)
    new, moments = mathematics.update(
        rule,
        wide,
        lax.convert_element_type(g, computed),
        slots,
        s,
        coupled=False,
        tiny=np.finfo(computed).tiny,
        xp=_ARRAYS,
    )
    found: list[Any] = []
    for slot, (name, value) in enumerate(zip(leaf.formats, moments, strict=True)):
        found += _encode(rule.slots[slot].kind == "signed", name, value, leaf, draw, slot)
    if leaf.weights == "nearest":
        return lax.convert_element_type(new, leaf.dtype), found
    flat, random = jnp.ravel(new), draw.bits(PARAMETER, leaf.size)
    if split:
        high, low = _CODECS.encode_split(flat, random)
        found.append(low.reshape(leaf.shape))
    else:
        high = (_CODECS.encode_bfloat16 if leaf.dtype == "bfloat16" else _CODECS.encode_float16)(flat, random)
    return high.reshape(leaf.shape), found


def _encode(signed: bool, name: str, value: Any, leaf: Leaf, draw: Draw, slot: int) -> list[Any]:
    if name == "float32":
        return [value]
    flat, random = jnp.ravel(value), draw.bits(slot, leaf.size)
    if name == "bfloat16":
        return [_CODECS.encode_bfloat16(flat, random).reshape(leaf.shape)]
    codes, scales = _CODECS.encode_int8(flat, random, signed)
    return [codes.reshape(leaf.shape), scales]


def finite(grads: Sequence[Any]) -> Any:
    """Whether a step can compute with these gradients: all are finite, and so is the sum of their squares."""
    squares = [jnp.sum(jnp.square(lax.convert_element_type(g, jnp.promote_types(g.dtype, jnp.float32)))) for g in grads]
    return jnp.isfinite(sum(squares)) if squares else jnp.array(True)
