"""The array expression: the reference's bits where XLA has no fused multiply-add, within computed bounds elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from reference import DISCRIMINATING, Reference, gradients, tensors

from adamas.kernels import xla
from adamas.rule import Hyper, Rule, Scalars, update
from adamas.scalars import power, scalars
from adamas.tensorflow import Adam

EPS = 2.0**-23


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="AVX without fused multiply-add is an x86-64 device")
def test_equals_reference_without_contraction(cache_home: Path) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_max_isa=AVX", "XDG_CACHE_HOME": str(cache_home)}
    answer = subprocess.run(
        [sys.executable, "-W", "error", "xla_equal.py"],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.startswith("equal "), answer.stdout
    assert int(answer.stdout.split()[1]) > 400


@pytest.mark.parametrize("n", [0, 1, 2, 3, 999, 123457, 2**40 + 5])
def test_powers_have_the_bits_of_the_rule(n: int) -> None:
    bases = [0.9, 0.999, 0.0, 0.5, 1.0 - 2.0**-40]
    assert xla.powers(bases, tf.constant(n, tf.int64)).numpy().tolist() == [power(base, n) for base in bases]


@pytest.mark.parametrize("amsgrad", ["off", "raw"])
def test_one_step_within_bounds(amsgrad: str, rng: np.random.Generator) -> None:
    """A contraction leaves one rounding out, so each sum may be off by half an ulp of its largest term."""
    rule, hyper, t = Rule("keras", amsgrad=amsgrad), Hyper(0.02, 0.8, 0.95, 1e-3, 0.0, 0.1), 7
    p, g, m = (np.asarray(rng.normal(size=4097), np.float32) for _ in range(3))
    slots = (m, np.square(m)) if amsgrad == "off" else (m, np.square(m), np.square(m) * np.float32(1.1))
    s = Scalars(*map(np.float32, scalars(rule, hyper, t)))
    expected, moments = update(rule, p, g, slots, s, coupled=False, tiny=np.finfo(np.float32).tiny)

    @tf.function(jit_compile=True)
    def step(p: tf.Tensor, g: tf.Tensor, slots: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        numbers = xla.scalars(rule, hyper, tf.constant(hyper.lr, tf.float64), tf.constant(t, tf.int64))
        return xla.update(rule, numbers, p, g, slots)

    new_p, new_slots = step(tf.constant(p), tf.constant(g), [tf.constant(slot) for slot in slots])
    largest = (np.maximum(abs(m), abs(g)), np.maximum(slots[1], g * g), np.maximum(slots[-1], g * g))
    errors = []
    for value, moment, term in zip(new_slots, moments, largest, strict=False):
        errors.append(abs(value.numpy() - moment))
        assert (errors[-1] <= EPS * term).all()
    root = np.sqrt(moments[-1])
    change = float(s.alpha) * moments[0] / (root + s.eps)
    bound = (
        float(s.alpha) * errors[0] / (root + s.eps)  # from m
        + abs(change) * errors[-1] / (2 * root * (root + s.eps))  # from v: the derivative of 1/(sqrt(v) + eps)
        + EPS * np.maximum(abs(p), abs(change))
        + 4 * EPS * abs(change)
    )
    assert (abs(new_p.numpy() - expected) <= bound).all()


@pytest.mark.parametrize("kernel", ["auto", "xla"])
def test_optimizer_traced_for_xla(kernel: str, rng: np.random.Generator) -> None:
    shapes = [(), (31,), (33, 257)]
    start = tensors(rng, shapes)
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = Adam(**DISCRIMINATING, kernel=kernel), Reference(start, **DISCRIMINATING)
    optimizer.build(variables)

    @tf.function(jit_compile=True)
    def run(grads: list[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    steps = [gradients(rng, shapes) for _ in range(5)]
    for grads in steps:
        run([tf.constant(g) for g in grads])
        reference.step(grads)
    for variable, p in zip(variables, reference.params, strict=True):
        # Each of the 5 steps moves an element by at most about lr / (1 - beta_1); its relative error is below 64 eps.
        np.testing.assert_allclose(variable.numpy(), p, rtol=5 * EPS, atol=5 * 0.1 * 64 * EPS)


def test_native_and_compiled_steps_share_the_moments(rng: np.random.Generator) -> None:
    start = tensors(rng, [(7,), (65, 64)])
    variables = [tf.Variable(p) for p in start]
    optimizer, reference = Adam(learning_rate=0.01), Reference(start, learning_rate=0.01)
    optimizer.build(variables)

    def step(grads: list[tf.Tensor | None]) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    runs = [step, tf.function(step), tf.function(step, jit_compile=True)]
    for i in range(6):
        grads = gradients(rng, [(7,), (65, 64)])
        runs[i % 3]([tf.constant(g) for g in grads])
        reference.step(grads)
    assert int(optimizer.iterations) == 6
    for variable, p in zip(variables, reference.params, strict=True):
        np.testing.assert_allclose(variable.numpy(), p, rtol=6 * EPS, atol=6 * 0.1 * 64 * EPS)


def test_first_step_inside_a_compiled_function() -> None:
    """Built there, the moments are laid out for XLA; the native step takes over from them."""
    variable, optimizer, reference = tf.Variable(tf.ones(5)), Adam(0.01), Reference([np.ones(5, "f")], 0.01)

    @tf.function(jit_compile=True)
    def run() -> None:
        optimizer.apply([2.0 * tf.ones(5)], [variable])

    run()
    assert [v.shape for v in optimizer.variables[2:]] == [(5,), (5,)]
    optimizer.apply([2.0 * tf.ones(5)], [variable])
    for _ in range(2):
        reference.step([np.full(5, 2.0, np.float32)])
    np.testing.assert_allclose(variable.numpy(), reference.params[0], rtol=4 * EPS)


def test_missing_gradient_leaves_its_moments_alone(rng: np.random.Generator) -> None:
    """In a compiled function the arena is put together again from new and untouched parts."""
    variables = [tf.Variable(p) for p in tensors(rng, [(5,), (4097,), (3, 3)])]
    optimizer = Adam()
    full = [tf.constant(g) for g in gradients(rng, [(5,), (4097,), (3, 3)])]
    optimizer.apply(full, variables)
    before = optimizer.portable_state()

    @tf.function(jit_compile=True)
    def run() -> None:
        optimizer.apply([full[0], None, full[2]], variables)

    with pytest.warns(UserWarning, match="Gradients do not exist"):
        run()
    after = optimizer.portable_state()
    one, two, three = before.names
    for slot in ("m", "v"):
        assert np.array_equal(before.slots[two][slot], after.slots[two][slot])
        assert not np.array_equal(before.slots[one][slot], after.slots[one][slot])
        assert not np.array_equal(before.slots[three][slot], after.slots[three][slot])
