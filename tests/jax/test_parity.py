"""adamas.numpy and the rule's presets beside optax, at the discriminating point; and NumPy kernels on JAX's threads."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import pytest
from support import bounds
from support.problems import CASES, FAMILY, Case, discriminating
from support.stepping import KERNELS, run, same_bits
from support.twins import Result

from adamas import numpy as adamas_numpy
from adamas.rule import PRESETS, Hyper, Rule, evaluation_weights

jax = pytest.importorskip("jax", reason="JAX is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
jnp = jax.numpy

OPTAX = [case for case in CASES if case.name.startswith("optax") and not case.rule.maximize]


LATER = [case for case in FAMILY if case.name.startswith("optax") or case.name == "adopt"]


def by_optax(case: Case, p: np.ndarray, gradients: Sequence[np.ndarray]) -> np.ndarray:
    """The same steps by optax, in the array's dtype. What optax has no function for is chained of its own parts."""
    h = case.hyper
    betas = {"b1": h.beta1, "b2": h.beta2, "eps": h.eps, "eps_root": h.eps_root}
    if case.rule.adopt:
        betas.pop("eps_root")
        transform = optax.contrib.adopt(h.lr, **betas)
    elif case.rule.infinity:
        betas.pop("eps_root")
        transform = optax.adamaxw(h.lr, **betas, weight_decay=h.weight_decay)
    elif case.rule.trust_ratio != "off":
        transform = optax.lamb(h.lr, **betas, weight_decay=h.weight_decay)
    elif case.rule.rectify:
        transform = optax.radam(h.lr, **betas)
    elif case.rule.nesterov != "off" and not h.weight_decay:
        transform = optax.nadam(h.lr, **betas)
    elif case.rule.amsgrad == "off" and not h.weight_decay:
        transform = optax.adam(h.lr, **betas)
    elif case.rule.nesterov != "off":
        transform = optax.nadamw(h.lr, **betas, weight_decay=h.weight_decay)
    elif case.rule.amsgrad == "off":
        transform = optax.adamw(h.lr, **betas, weight_decay=h.weight_decay)
    elif not h.weight_decay:
        transform = optax.amsgrad(h.lr, **betas)
    else:
        transform = optax.chain(
            optax.scale_by_amsgrad(**betas), optax.add_decayed_weights(h.weight_decay), optax.scale(-h.lr)
        )
    parameter = jnp.asarray(p)
    state = transform.init(parameter)
    for g in gradients:
        updates, state = transform.update(jnp.asarray(g), state, parameter)
        parameter = optax.apply_updates(parameter, updates)
    result = np.asarray(parameter)
    assert result.dtype == p.dtype
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", OPTAX, ids=lambda c: c.name)
def test_ours_is_optaxs_float64_run_within_the_bound(case: Case, dtype: type[np.floating]) -> None:
    p, gradients = discriminating(dtype)
    wide = [g.astype(np.float64) for g in gradients]
    theirs = by_optax(case, p.astype(np.float64), wide)
    room = bounds.after(case.rule, case.hyper, p, gradients).p
    # optax rounds too, in float64 and in about as many operations: at most 4 times what ours does there.
    room = room + 4 * bounds.after(case.rule, case.hyper, p.astype(np.float64), wide).p
    for kernel in KERNELS.values():
        ours = run(kernel, case.rule, case.hyper, p, gradients).p
        assert float(np.max(np.abs(ours.astype(np.longdouble) - theirs) / room)) <= 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", LATER, ids=lambda c: c.name)
def test_the_family_is_optaxs_float64_run_within_the_bound(case: Case, dtype: type[np.floating]) -> None:
    p, gradients = discriminating(dtype, steps=case.steps)
    wide = [g.astype(np.float64) for g in gradients]
    theirs = by_optax(case, p.astype(np.float64), wide)
    room = bounds.after(case.rule, case.hyper, p, gradients)
    room = room.plus(4, bounds.after(case.rule, case.hyper, p.astype(np.float64), wide))
    ours = run(KERNELS["cpu"], case.rule, case.hyper, p, gradients).p
    assert float(np.max(np.abs(ours.astype(np.longdouble) - theirs) / room.p)) <= 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("power", [0, 2])
def test_schedule_free_is_optaxs_float64_run_within_the_bound(power: int, dtype: type[np.floating]) -> None:
    """y, z and x of optax.contrib.schedule_free_adamw; without warmup, in which it is one step late (`PRESETS`)."""
    rule, h = Rule(schedule_free=True), Hyper(0.02, 0.8, 0.95, 1e-3, weight_decay=0.1, weight_lr_power=power)
    p, gradients = discriminating(dtype, steps=60)
    transform = optax.contrib.schedule_free_adamw(
        h.lr, b1=h.beta1, b2=h.beta2, eps=h.eps, weight_decay=h.weight_decay, weight_lr_power=power
    )
    parameter = jnp.asarray(p.astype(np.float64))
    state = transform.init(parameter)
    for g in gradients:
        updates, state = transform.update(jnp.asarray(g.astype(np.float64)), state, parameter)
        parameter = optax.apply_updates(parameter, updates)
    ours = run(KERNELS["cpu"], rule, h, p, gradients)
    room = bounds.after(rule, h, p, gradients)
    wide = bounds.after(rule, h, p.astype(np.float64), [g.astype(np.float64) for g in gradients])
    room = room.plus(16, wide)  # optax goes from y to x and back in every step, where ours stays with y
    y, z = ours.p.astype(np.longdouble), ours.slots[1].astype(np.longdouble)
    assert float(np.max(np.abs(y - np.asarray(parameter)) / room.p)) <= 1.0
    assert float(np.max(np.abs(z - np.asarray(state.z)) / room.slots[1])) <= 1.0
    x = np.asarray(optax.contrib.schedule_free_eval_params(state, parameter))
    mine = evaluation_weights(ours.p, ours.slots[1], h.beta1)
    limit = 1.25 * room.p + 0.25 * room.slots[1] + float(np.finfo(dtype).eps) * np.maximum(abs(x), abs(z))
    assert float(np.max(np.abs(mine - x) / limit)) <= 1.0


def test_defaults_of_schedule_free() -> None:
    theirs = inspect.signature(optax.contrib.schedule_free_adamw).parameters
    h = PRESETS["schedulefree.AdamWScheduleFree"].hyper
    assert {name: theirs[name].default for name in ("learning_rate", "b1", "b2", "eps", "weight_decay")} == {
        "learning_rate": h.lr, "b1": h.beta1, "b2": h.beta2, "eps": h.eps, "weight_decay": h.weight_decay
    }  # fmt: skip
    assert theirs["weight_lr_power"].default == h.weight_lr_power


def test_defaults_of_adopt() -> None:
    theirs, h = inspect.signature(optax.contrib.adopt).parameters, PRESETS["adopt.ADOPT"].hyper
    assert [theirs[name].default for name in ("b1", "b2", "eps")] == [h.beta1, h.beta2, h.eps]


@pytest.mark.parametrize("case", OPTAX, ids=lambda c: c.name)
def test_optaxs_float32_run_is_as_near_to_the_exact_result(case: Case) -> None:
    """Both are float32 roundings of one formula, but optax computes bc1 and bc2 in float32 too.

    1 - beta^t is off by at most t + 1 = 13 roundings of numbers below 1, and is at least 0.2 (bc1) and 0.05 (bc2), half
    of whose relative error passes through the root. Each of the 12 steps is at most lr |m^| / sqrt(v^), and by Cauchy
    and Schwarz |m^| / sqrt(v^) is below (1 - b1) / sqrt((1 - b2)(1 - b1^2 / b2)) = 1.57 at the discriminating point.
    """
    p, gradients = discriminating(np.float32)
    exact = case.twin(p, gradients, case.hyper).p
    room = 4 * bounds.after(case.rule, case.hyper, p, gradients).p
    room = room + 12 * case.hyper.lr * 1.57 * (13 / 0.2 + 13 / 0.05 / 2) * 2.0**-24
    assert float(np.max(np.abs(by_optax(case, p, gradients).astype(np.longdouble) - exact) / room)) <= 1.0


@pytest.mark.parametrize(
    ("ours", "preset", "theirs"),
    [
        (adamas_numpy.Adam, "optax.adam", lambda: optax.adam(1e-3)),
        (adamas_numpy.AdamW, "optax.adamw", lambda: optax.adamw(1e-3)),
        (lambda p, **k: adamas_numpy.Adam(p, amsgrad=True, **k), "optax.amsgrad", lambda: optax.amsgrad(1e-3)),
    ],
)
def test_defaults(ours, preset: str, theirs) -> None:  # type: ignore[no-untyped-def]
    p, gradients = discriminating(np.float64)
    transform, mine = theirs(), p.copy()
    parameter = jnp.asarray(p)
    state = transform.init(parameter)
    optimizer = ours([mine], like="optax")
    assert (optimizer.rule, optimizer.hyper) == PRESETS[preset]
    for g in gradients:
        updates, state = transform.update(jnp.asarray(g), state, parameter)
        parameter = optax.apply_updates(parameter, updates)
        optimizer.step([g])
    room = 5 * bounds.after(*PRESETS[preset], p, gradients).p
    assert float(np.max(np.abs(mine - np.asarray(parameter)) / room)) <= 1.0


def test_on_jaxs_threads_not_a_bit_changes() -> None:
    """XLA's threads flush subnormal numbers to zero; a callback runs on one."""
    rng = np.random.default_rng(0)
    start = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-30, 0, 5000)).astype(np.float32)
    gradient = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-44, 0, 5000)).astype(np.float32)
    preset = PRESETS["torch.AdamW"]

    def step(kernel: str) -> Result:
        return run(KERNELS[kernel], preset.rule, preset.hyper, start, [gradient] * 3)

    right = step("reference")
    for kernel in KERNELS:
        inside: list[Result] = []

        def callback(x: np.ndarray, kernel: str = kernel, inside: list[Result] = inside) -> np.ndarray:
            inside.append(step(kernel))
            return np.asarray(x)

        shape = jax.ShapeDtypeStruct((3,), np.float32)
        jax.jit(lambda x, f=callback, s=shape: jax.pure_callback(f, s, x * 2) + 1)(
            jnp.ones(3, np.float32)
        ).block_until_ready()
        assert all(same_bits(a, b) for a, b in zip(inside[0].arrays, right.arrays, strict=True))
