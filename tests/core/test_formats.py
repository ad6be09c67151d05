"""How moments are stored: nothing is lost, and an encoding is told exactly which elements it writes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from support.stepping import same_bits, table

from adamas.formats import NATIVE, Key, name_key
from adamas.kernels import reference
from adamas.rule import Hyper, Rule


def test_the_key_of_a_name_never_changes() -> None:
    """It will decide random bits in checkpoints, so it is the same for ever and on every machine."""
    assert name_key("dense/kernel") == 0xEB3B7EDC9FC867C2
    assert name_key("é") == int.from_bytes(hashlib.blake2b("é".encode(), digest_size=8).digest(), "little")
    assert len({name_key(str(i)) for i in range(1000)}) == 1000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_native_loses_nothing(dtype: type[np.floating]) -> None:
    x = np.array([np.nan, np.inf, -0.0, np.finfo(dtype).smallest_subnormal, 1 / 3], dtype)
    assert same_bits(NATIVE.decode(NATIVE.encode(x, Key(0, 0, 1, 0, 0))), x)


def test_the_reference_says_which_elements_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every element of every slot once, in the order of the parameter, whatever the pieces."""
    written: list[tuple[Key, int]] = []

    class Recording:
        name = "recording"

        def encode(self, x: np.ndarray, key: Key) -> np.ndarray:
            written.append((key, x.size))
            return 2 * x  # what is stored is what was encoded,

        def decode(self, stored: np.ndarray) -> np.ndarray:
            return stored / 2  # and what is computed with is what was decoded

    sizes = {"a": 100_000, "b": 5}
    results = []
    for recording in (False, True):
        if recording:
            monkeypatch.setattr(reference, "moment", lambda name, kind: Recording())
        params = [np.ones(n) for n in sizes.values()]
        slots = [[np.zeros(n) for n in sizes.values()] for _ in range(2)]
        plan = reference.Plan(Rule(), list(sizes), params, slots, seed=9)
        for t in (4, 5):
            plan.step([p * 0.5 for p in params], np.array([t, t + 10]), table(Hyper()))
        results.append([*params, *(a / 2 if recording else a for slot in slots for a in slot)])
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))
    assert {key.seed for key, _ in written} == {9}
    for name, size in sizes.items():
        for step in (4, 5) if name == "a" else (14, 15):
            for slot in (0, 1):
                own = [(key.first, n) for key, n in written if key[1:4] == (name_key(name), step, slot)]
                covered = [k for first, n in own for k in range(first, first + n)]
                assert covered == [*range(size)]
