"""Run by test_xla.py in a process of its own, under XLA_FLAGS=--xla_cpu_max_isa=AVX: no fused multiply-add exists
there, so the array expression must give the bits of the reference. Prints "equal" and the number of comparisons."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf
from reference import DISCRIMINATING, Reference, gradients, same_bits, tensors

from adamas.kernels import xla
from adamas.rule import Hyper, Rule, Scalars, update
from adamas.scalars import carry_on, scalars
from adamas.tensorflow import Adam

rng = np.random.default_rng(7)
SHAPES = [(), (31,), (33, 257)]
RULES = [
    Rule("paper", "coupled", "off", True),
    Rule("paper", "decoupled", "raw", False),
    Rule("paper", "coupled", "corrected", False),
    Rule("keras", "decoupled", "raw", True),
    Rule(nesterov="constant", decay="coupled"),
    Rule(nesterov="scheduled", maximize=True),
    Rule(schedule_free=True),
    Rule("keras", rectify=True),
    Rule(infinity=True, decay="coupled"),
    Rule("keras", infinity=True),
    Rule(adopt=True, decay="coupled"),
]
compared = 0


def check(given: object, expected: np.ndarray, what: object) -> None:
    global compared
    compared += 1
    if not same_bits(given, expected):
        difference = np.abs(np.asarray(given) - expected).max()
        raise SystemExit(f"{what}: differs by {difference}")


for rule, dtype in itertools.product(RULES, ("float32", "float64")):
    hyper = Hyper(0.02, 0.8, 0.95, 1e-3, 0.0 if rule.eps_mode == "keras" else 1e-4, 0.1, 0.3, 500, 2, 3)

    @tf.function(jit_compile=True)
    def step(p, g, slots, lr, t, carry, rule=rule, hyper=hyper):  # type: ignore[no-untyped-def]
        carry = xla.carry_on(rule, hyper, lr, t, carry)
        numbers = xla.scalars(rule, hyper, lr, t, carry=carry)
        return (*xla.update(rule, numbers, p, g, slots, coupled=rule.decay == "coupled"), numbers, carry)

    p = np.asarray(rng.normal(size=(33, 65)), dtype)
    slots = tuple(p.copy() if slot.initial == "parameter" else np.zeros_like(p) for slot in rule.slots)
    carry = tuple(number.initial for number in rule.carries)
    for t in (1, 2, 3, 1000, 123456):
        g = np.asarray(rng.normal(size=p.shape) * 10 ** rng.uniform(-6, 1), dtype)
        new_p, new_slots, numbers, new_carry = step(
            tf.constant(p), tf.constant(g), tuple(map(tf.constant, slots)), tf.constant(hyper.lr, tf.float64),
            tf.constant(t, tf.int64), tuple(tf.constant(number, tf.float64) for number in carry),
        )  # fmt: skip
        carry = carry_on(rule, hyper, t, carry)
        for number, value in zip(new_carry, carry, strict=True):
            check(number, np.float64(value)[()], (rule, t, "carry"))
        expected = scalars(rule, hyper, t, carry=carry)
        for name, number, value in zip(Scalars._fields, numbers, expected, strict=True):
            check(number, np.float64(value)[()], (rule, t, name))
        rounded = Scalars(*(p.dtype.type(value) for value in expected))
        p, slots = update(rule, p, g, slots, rounded, coupled=rule.decay == "coupled", tiny=np.finfo(dtype).tiny)
        for name, value, array in zip("pmvw", (new_p, *new_slots), (p, *slots), strict=False):
            check(value, array, (rule, dtype, t, name))

# A norm is added up in an order of XLA's own, so its last bit may be another one; what is elementwise must be equal.
changes: list[dict[str, float]] = [{}, {"clipvalue": 0.05, "loss_scale_factor": 10.0}]
for kernel, jit, more in (("xla", False, 0), ("xla", True, 0), ("auto", True, 0), ("xla", False, 1), ("auto", True, 1)):
    start = tensors(rng, SHAPES)
    variables = [tf.Variable(p) for p in start]
    settings = {**DISCRIMINATING, **changes[more]}
    optimizer, reference = Adam(**settings, kernel=kernel), Reference(start, **settings)
    optimizer.build(variables)

    def apply(grads, optimizer=optimizer, variables=variables):  # type: ignore[no-untyped-def]
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    run = tf.function(apply, jit_compile=True) if jit else apply
    for _ in range(4):
        grads = gradients(rng, SHAPES)
        run([tf.constant(g) for g in grads])
        reference.step(grads)
    state = optimizer.portable_state()
    for i, name in enumerate(state.names):
        check(variables[i].numpy(), reference.params[i], (optimizer.kernel, jit, name))
        for slot, array in zip(state.slots[name].values(), reference.slots[i], strict=True):
            check(slot, array, (optimizer.kernel, jit, name))
print("equal", compared)
