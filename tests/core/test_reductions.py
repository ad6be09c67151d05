"""Sums over whole tensors, for the rules that need them before a step: the same bits in every kernel.

With numbers that a training has: elsewhere these rules meet NaN and infinities too, which reach whole tensors and hide
what else they hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.stepping import different, table

from adamas import formats
from adamas.kernels import Plan, cpu, reference
from adamas.rule import Clip, Hyper, Rule

RULES = [
    Rule(clip_update=True),
    Rule(trust_ratio="with_decay"),
    Rule(trust_ratio="without_decay"),
    Rule(cautious=True),
    Rule(decay="coupled", cautious=True),
]
# A strip has 64 elements, a piece 512, a block 4096, a chunk 32,768; lanes are 16.
SIZES = [0, 1, 15, 16, 17, 63, 65, 511, 513, 4095, 4096, 4097, 4111, 32_768, 32_769, 70_001]
KINDS = [("float32", "float32"), ("float64", "float32"), ("float32", "int8"), (ml_dtypes.bfloat16, "bfloat16")]
HYPER = Hyper(0.1, 0.8, 0.9, 1e-4, weight_decay=0.5)


@pytest.fixture(autouse=True)
def _automatic_again() -> Iterator[None]:
    yield
    cpu.set_threads(None)
    cpu.set_instruction_set(None)


def steps(plan: type[Plan], rule: Rule, dtype: Any, moments: str) -> list[np.ndarray]:
    """Parameters and moments after three steps, of which the second brings gradients five times as large."""
    rng = np.random.default_rng(11)
    params = [rng.standard_normal(n).astype(dtype) for n in SIZES]
    names = formats.of_slots(moments, [slot.kind for slot in rule.slots])
    compute = formats.compute_dtype(np.dtype(dtype))
    slots: list[list[Any]] = [
        [formats.zeros(formats.moment(name, slot.kind), p.shape, compute) for p in params]
        for name, slot in zip(names, rule.slots, strict=True)
    ]
    kernel = plan(rule, [str(n) for n in SIZES], params, slots, 3, names)
    clips = (None, Clip("value", 2.0), Clip("norm", 50.0))
    for t, (size, clip) in enumerate(zip((1.0, 5.0, 1.0), clips, strict=True), 1):
        gradients = [(size * rng.standard_normal(n)).astype(dtype) for n in SIZES]
        kernel.step(gradients, np.full(len(SIZES), t), table(HYPER), grad_scale=0.7, clip=clip)
    return [*params, *(array for slot in slots for x in slot for array in formats.arrays(x))]


@pytest.mark.parametrize(("dtype", "moments"), KINDS, ids=lambda k: np.dtype(k).name if not isinstance(k, str) else k)
@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.clip_update}-{r.trust_ratio}-{r.cautious}-{r.decay}")
def test_tensors_of_any_length(rule: Rule, dtype: Any, moments: str) -> None:
    right = steps(reference.Plan, rule, dtype, moments)
    plain = steps(reference.Plan, Rule(decay=rule.decay), dtype, moments)
    for n, mine, other in zip(SIZES, right, plain, strict=False):
        assert np.isfinite(mine.astype(np.float64)).all()
        assert n < 15 or (mine != other).mean() > 0.5, f"{n} elements: the sums change nothing"
    for threads, isa in [(1, None), *((2 + i % 2, isa) for i, isa in enumerate(cpu.instruction_sets()))]:
        cpu.set_threads(threads)
        cpu.set_instruction_set(isa)
        for mine, expected in zip(steps(cpu.Plan, rule, dtype, moments), right, strict=True):
            if mine.dtype in (np.float32, np.float64):
                assert not different(mine, expected).any(), f"{isa}, {threads} threads, {mine.size} elements"
            else:
                assert mine.tobytes() == expected.tobytes(), f"{isa}, {threads} threads, {mine.size} elements"
