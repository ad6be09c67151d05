"""Running a kernel over a problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from adamas.kernels import Plan, cpu, reference
from adamas.rule import Hyper, Rule
from support.twins import Result

KERNELS: dict[str, type[Plan]] = {"reference": reference.Plan, "cpu": cpu.Plan}


def table(*hypers: Hyper) -> np.ndarray:
    """The table of numbers that a plan takes."""
    return np.array([astuple(hyper) for hyper in hypers], np.float64)


def run(plan: type[Plan], rule: Rule, hyper: Hyper, p: np.ndarray, gradients: Sequence[np.ndarray]) -> Result:
    """All steps of one tensor from the beginning."""
    p = p.copy()
    slots, carry = fresh(rule, p), carries(rule, 1)
    steps = plan(rule, ["p"], [p], [[slot] for slot in slots])
    for t, g in enumerate(gradients, 1):
        steps.step([g], np.array([t]), table(hyper), carry=carry)
    return Result(p, tuple(slots))


def fresh(rule: Rule, p: np.ndarray) -> list[np.ndarray]:
    """The slots of a parameter before its first step."""
    return [p.copy() if slot.initial == "parameter" else np.zeros_like(p) for slot in rule.slots]


def carries(rule: Rule, n: int) -> np.ndarray:
    """What the rule carries for n tensors, before the first step."""
    return np.array([[number.initial for number in rule.carries]] * n, np.float64)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, signs of zeros included; a NaN equals any NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and not different(a, b).any()


def different(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays differ in bits, NaN against NaN aside."""
    bits: Any = np.uint32 if a.dtype == np.float32 else np.uint64
    return (np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits)) & ~(np.isnan(a) & np.isnan(b))
