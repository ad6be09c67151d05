"""Moments after 10,000 steps in each format against float64: no drift, and no more noise than docs/formats.md states.

One tensor holds four cases of 512 elements: stationary gradients; gradients that shrink tenfold after 5,000 steps;
gradients whose magnitudes differ by three decades inside each block of 64; and gradients that end after 5,000 steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from support.stepping import table

from adamas import formats
from adamas.kernels import choose
from adamas.rule import Hyper, Rule

STEPS, N = 10_000, 512
CASES = {
    "stationary": slice(0, N),
    "shrinking": slice(N, 2 * N),
    "decades": slice(2 * N, 3 * N),
    "silent": slice(3 * N, 4 * N),
}
HYPER = Hyper(beta1=0.9, beta2=0.999)


class Moments(NamedTuple):
    m: np.ndarray
    v: np.ndarray


def gradients(t: int, rng: np.random.Generator) -> np.ndarray:
    g = rng.standard_normal(4 * N).astype(np.float32)
    g[CASES["decades"]] *= 10.0 ** -np.tile(np.linspace(0, 3, 64, dtype=np.float32), N // 64)
    if t > STEPS // 2:
        g[CASES["shrinking"]] *= np.float32(0.1)
        g[CASES["silent"]] = 0
    return g


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Moments]]:
    """Format -> the moments after steps 9,100, 9,200, ... 10,000; "exact" is float64."""
    kinds = [slot.kind for slot in Rule().slots]
    stored, plans = {}, {}
    for name in formats.NAMES:
        forms = [formats.moment(name, kind) for kind in kinds]
        stored[name] = [formats.zeros(form, (4 * N,)) for form in forms]
        plans[name] = choose().plan(
            Rule(), ["p"], [np.zeros(4 * N, np.float32)], [[x] for x in stored[name]], seed=1, formats=(name, name)
        )
    m, v = np.zeros(4 * N), np.zeros(4 * N)
    found: dict[str, list[Moments]] = {name: [] for name in ("exact", *formats.NAMES)}
    rng, numbers, taken = np.random.default_rng(0), table(HYPER), np.zeros(1, np.int64)
    for t in range(1, STEPS + 1):
        g = gradients(t, rng)
        m += (1 - HYPER.beta1) * (g - m)
        v += (1 - HYPER.beta2) * (g.astype(np.float64) ** 2 - v)
        for plan in plans.values():
            plan.step([g], np.array([t]), numbers, taken=taken)
        if t > 9 * STEPS // 10 and t % 100 == 0:
            found["exact"].append(Moments(m.copy(), v.copy()))
            for name in formats.NAMES:
                pair = [formats.moment(name, kind).decode(x) for kind, x in zip(kinds, stored[name], strict=True)]
                found[name].append(Moments(*(x.astype(np.float64) for x in pair)))
    return found


def spacing(name: str, x: np.ndarray, signed: bool) -> np.ndarray:
    """How far the numbers that a format can store lie apart around x."""
    if name == "bfloat16":
        return 2.0 ** (np.floor(np.log2(np.abs(x))) - 7)
    s = np.repeat(np.abs(x).reshape(-1, 64).max(1), 64)
    z = np.abs(x) / s + (2.0**-12 if signed else 2.0**-19)
    knee, fine = (0.078125, 4) if signed else (0.0546875, 5)
    return s * 2.0 ** (np.floor(np.log2(z)) - np.where(z >= knee, fine, 3))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_second_moments(runs: dict[str, list[Moments]], name: str, case: str) -> None:
    """No drift: the mean over elements of v / exact is 1. The variance of it stays below the relative spacing d.

    A rounding moves v by at most one step of the grid, d v, with a probability of |change| / (d v) where the change of
    a step is about (1 - beta2) v. Summed over the memory of 1 / (1 - beta2) steps that is a variance of d / 2; a scale
    that moves beside it can double it. While v falls by a factor k without new gradients, d log(k) comes on top; not
    with int8, where the scale falls with its block and codes stay as they are.
    """
    exact, found = runs["exact"][-1].v[CASES[case]], runs[name][-1].v[CASES[case]]
    ratio, d = found / exact, spacing(name, exact, signed=False) / exact
    fallen = {"shrinking": np.log(100), "silent": 5.0}.get(case, 0.0) if name == "bfloat16" else 0.0
    variance = ((ratio - 1) ** 2 / d).mean()
    assert variance < 1 + fallen
    assert abs(ratio.mean() - 1) < 5 * np.sqrt((d * (1 + fallen)).mean() / N)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_first_moments(runs: dict[str, list[Moments]], name: str, case: str) -> None:
    """Each step adds a variance of at most spacing^2 / 4, and 1 / (1 - beta1^2) of them are remembered."""
    errors, allowed = [], []
    for exact, found in zip(runs["exact"], runs[name], strict=True):
        m = exact.m[CASES[case]]
        errors.append(found.m[CASES[case]] - m)
        allowed.append(spacing(name, m, signed=True) ** 2 / 4 / (1 - HYPER.beta1**2))
    if case == "silent":  # below the smallest normal number by now
        assert all(np.abs(error).max() < 1e-37 for error in errors)
        return
    error, bound = np.array(errors), np.array(allowed)
    assert (error**2).mean() < bound.mean()
    for low in range(0, N, 64):
        assert (error[:, low : low + 64] ** 2).mean() < 1.5 * bound[:, low : low + 64].mean()
    z = error.mean() / np.sqrt(bound.mean() / error.size)
    assert abs(z) < 5


@pytest.mark.parametrize("case", ["stationary", "shrinking", "decades", "silent"])
def test_float32(runs: dict[str, list[Moments]], case: str) -> None:
    """Each step rounds by less than 2^-22 of the moment, and 1 / (1 - beta2) of them are remembered."""
    exact, found = runs["exact"][-1], runs["float32"][-1]
    np.testing.assert_allclose(found.v[CASES[case]], exact.v[CASES[case]], rtol=2.0**-22 / (1 - HYPER.beta2))
    if case != "silent":
        scale = np.sqrt(exact.v[CASES[case]])
        assert (np.abs(found.m - exact.m)[CASES[case]] < 1e-6 * scale).all()


def test_the_noise_of_the_update(runs: dict[str, list[Moments]]) -> None:
    """m / sqrt(v) in blocks of even magnitudes: how far it is from that of float64, in root mean squares."""
    case = CASES["stationary"]
    exact = np.array([x.m[case] / np.sqrt(x.v[case]) for x in runs["exact"]])
    for name, most in (("float32", 1e-4), ("bfloat16", 0.05), ("int8", 0.1)):
        found = np.array([x.m[case] / np.sqrt(x.v[case]) for x in runs[name]])
        assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < most
