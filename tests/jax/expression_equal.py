"""Run by test_expression.py in a process of its own, under XLA_FLAGS=--xla_cpu_max_isa=AVX: no fused multiply-add is
there, so the array expression must give the bits of the reference. Prints "equal" and how many were compared."""

from __future__ import annotations

import sys

import jax
import numpy as np
from cases import CASES, Reference, gradients, numbers, to_jax

ADAMW = next(case for case in CASES if case.name == "adamw")
WHAT = [(case, "float32", "float32", "nearest", False) for case in CASES]
WHAT += [(ADAMW, "float32", "int8", "nearest", False), (ADAMW, "bfloat16", "bfloat16", "split", False)]
WHAT += [(ADAMW, "float32", "float32", "nearest", True)]
if "--x64" in sys.argv:
    jax.config.update("jax_enable_x64", True)
    WHAT = [(case, "float64", "float32", "nearest", False) for case in (ADAMW, CASES[-1])]
    WHAT += [(ADAMW, "float16", "int8", "stochastic", False)]
LEAVES = ("a/bias", "a/kernel", "b/0", "c")
for case, dtype, moments, weights, packed in WHAT:
    rng = np.random.default_rng(7)
    start = numbers(rng, dtype, leaves=LEAVES)
    optimizer = case.ours(**case.arguments, moments=moments, weights=weights, seed=3, kernel="xla")
    right = Reference(case.rule, case.hyper, start, moments, weights, 3)
    params = to_jax(start)
    state = optimizer.init(params)
    state = optimizer.pack(state, params) if packed else state
    for own in gradients(rng, dtype, 3, LEAVES):
        right.step(own)
        params, state = optimizer.step(params, to_jax(own), state)
    wrong = right.differences(params, optimizer.unpack(state, params) if packed else state)
    if wrong:
        raise SystemExit(f"{case.name}, {dtype}, {moments}, packed={packed}: {wrong} differ")
print("equal", len(WHAT))
