"""Arrays that cannot take part are refused by name, by both kernels, before anything is touched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.stepping import KERNELS, table

from adamas.errors import ArrayError
from adamas.kernels import Plan
from adamas.rule import Hyper, Rule

SHAPE = (6, 4)
Arrays = list[np.ndarray]


class Fixture:
    """Two tensors, "a" and "b", with moments and gradients."""

    def __init__(self) -> None:
        self.params: Arrays = [np.ones(SHAPE, np.float32) for _ in range(2)]
        self.slots: list[Arrays] = [[np.zeros(SHAPE, np.float32) for _ in range(2)] for _ in range(2)]
        self.grads: Arrays = [np.full(SHAPE, 0.5, np.float32) for _ in range(2)]

    def plan(self, kind: type[Plan]) -> Plan:
        return kind(Rule(), ["a", "b"], self.params, self.slots)

    def untouched(self) -> bool:
        return all((p == 1).all() for p in self.params) and not any(a.any() for slot in self.slots for a in slot)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def unaligned(fill: float) -> np.ndarray:
    array = np.zeros(4 * 24 + 1, np.uint8)[1:].view(np.float32).reshape(SHAPE)
    array[:] = fill
    return array


BAD: dict[str, tuple[Callable[[float], object], str]] = {
    "transposed": (lambda x: np.full(SHAPE[::-1], x, np.float32).T, "not C-contiguous.*np.ascontiguousarray"),
    "strided": (lambda x: np.full((12, 4), x, np.float32)[::2], "not C-contiguous"),
    "unaligned": (unaligned, "not aligned"),
    "other byte order": (lambda x: np.full(SHAPE, x, np.dtype(np.float32).newbyteorder()), "byte order"),
    "a list": (lambda x: [[x] * 4] * 6, "is a list; give a numpy.ndarray"),
    "a number": (lambda x: np.float32(x), "is a float32; give a numpy.ndarray"),
}
BAD_DTYPE = {
    "float16": (lambda x: np.full(SHAPE, x, np.float16), "dtype float16"),
    "int32": (lambda x: np.full(SHAPE, 1, np.int32), "dtype int32"),
    "complex": (lambda x: np.full(SHAPE, x, np.complex64), "dtype complex64"),
    "object": (lambda x: np.full(SHAPE, x, object), "dtype object"),
}
BAD_LIKE = {
    "float64": (lambda x: np.full(SHAPE, x, np.float64), "dtype float64"),
    "other shape": (lambda x: np.full((4, 6), x, np.float32), r"shape \(4, 6\) and the parameter \(6, 4\)"),
    "flat": (lambda x: np.full(24, x, np.float32), r"shape \(24,\)"),
}
MASKED = {
    "masked": (lambda x: np.ma.masked_array(np.full(SHAPE, x, np.float32), mask=True), r"masked array.*\.filled\(0\)")
}
kernels = pytest.mark.parametrize("kind", KERNELS.values(), ids=KERNELS)


@kernels
@pytest.mark.parametrize("bad", [*BAD, *BAD_DTYPE, "None", "read-only", "masked", "float64 beside float32"])
def test_parameters(kind: type[Plan], bad: str) -> None:
    f = Fixture()
    make, message = {
        **BAD,
        **BAD_DTYPE,
        "None": (lambda x: None, "the parameter is None"),
        "read-only": (lambda x: read_only(np.full(SHAPE, x, np.float32)), "read-only"),
        **MASKED,
        "float64 beside float32": (lambda x: np.full(SHAPE, x), "has dtype float64 and 'a' has float32"),
    }[bad]
    f.params[1] = make(1.0)  # type: ignore[assignment]
    with pytest.raises(ArrayError, match=f"tensor 'b': the parameter.*{message}|tensor 'b': {message}"):
        f.plan(kind)


@kernels
@pytest.mark.parametrize("bad", [*BAD, *BAD_DTYPE, *BAD_LIKE, "read-only"])
def test_slots(kind: type[Plan], bad: str) -> None:
    f = Fixture()
    make, message = {
        **BAD,
        **BAD_DTYPE,
        **BAD_LIKE,
        "read-only": (lambda x: read_only(np.full(SHAPE, x, np.float32)), "read-only"),
    }[bad]
    f.slots[1][1] = make(0.0)  # type: ignore[assignment]
    with pytest.raises(ArrayError, match=f"tensor 'b': slot v .*{message}"):
        f.plan(kind)


@kernels
@pytest.mark.parametrize("bad", [*BAD, *BAD_DTYPE, *BAD_LIKE, "masked"])
def test_gradients(kind: type[Plan], bad: str) -> None:
    f = Fixture()
    plan = f.plan(kind)
    make, message = {**BAD, **BAD_DTYPE, **BAD_LIKE, **MASKED}[bad]
    f.grads[1] = make(0.5)  # type: ignore[assignment]
    with pytest.raises(ArrayError, match=f"tensor 'b': the gradient.*{message}"):
        plan.step(f.grads, np.array([1, 1]), table(Hyper()))
    assert f.untouched()
    f.grads[1] = np.full(SHAPE, 0.5, np.float32)
    plan.step(f.grads, np.array([1, 1]), table(Hyper()))
    assert not f.untouched(), "the plan still serves after a refusal"


@kernels
def test_overlapping_state(kind: type[Plan]) -> None:
    base = np.zeros(60, np.float32)
    for where, message in [
        (
            lambda f: f.params.__setitem__(1, f.params[0]),
            "tensor 'b': the parameter shares memory with the parameter",
        ),
        (lambda f: f.slots[0].__setitem__(1, f.slots[1][1]), "tensor 'b': a slot shares memory with a slot of 'b'"),
        (lambda f: f.slots[0].__setitem__(0, f.params[1]), "shares memory with .* of 'a'"),
        (
            lambda f: f.params.__setitem__(slice(None), [base[:24].reshape(SHAPE), base[23:47].reshape(SHAPE)]),
            "tensor 'b': the parameter shares memory with the parameter of 'a'",
        ),
    ]:
        f = Fixture()
        where(f)
        with pytest.raises(ArrayError, match=message):
            f.plan(kind)


@kernels
def test_neighbours_do_not_overlap(kind: type[Plan]) -> None:
    f = Fixture()
    base = np.ones(48, np.float32)
    f.params = [base[:24].reshape(SHAPE), base[24:].reshape(SHAPE)]
    f.plan(kind).step(f.grads, np.array([1, 1]), table(Hyper()))
    assert (base != 1).all()


@kernels
@pytest.mark.parametrize("which", ["own parameter", "other parameter", "slot", "tail"])
def test_gradients_must_not_overlap_what_is_written(kind: type[Plan], which: str) -> None:
    f = Fixture()
    long = np.ones(40, np.float32)
    f.params[0] = long[16:].reshape(SHAPE)
    plan = f.plan(kind)
    f.grads[1] = {
        "own parameter": f.params[1],
        "other parameter": f.params[0],
        "slot": f.slots[1][0],
        "tail": long[:24].reshape(SHAPE),
    }[which]
    with pytest.raises(ArrayError, match=r"tensor 'b': its gradient shares memory with .* pass a copy"):
        plan.step(f.grads, np.array([1, 1]), table(Hyper()))
    assert f.untouched()


@kernels
def test_gradients_may_be_shared_and_read_only(kind: type[Plan]) -> None:
    f = Fixture()
    plan = f.plan(kind)
    plan.step([read_only(f.grads[0])] * 2, np.array([1, 1]), table(Hyper()))
    assert np.array_equal(f.params[0], f.params[1])
    assert (f.grads[0] == 0.5).all()


@kernels
def test_what_changes_after_the_plan_was_made_is_noticed(kind: type[Plan]) -> None:
    f = Fixture()
    plan = f.plan(kind)
    f.params[1].flags.writeable = False
    with pytest.raises(ArrayError, match="tensor 'b': the parameter is read-only"):
        plan.step(f.grads, np.array([1, 1]), table(Hyper()))
    assert f.untouched()
    f.params[1].flags.writeable = True
    f.params[1].resize((4, 6), refcheck=False)
    with pytest.raises(ArrayError, match="tensor 'b': the parameter has become"):
        plan.step(f.grads, np.array([1, 1]), table(Hyper()))
    f.params[1].resize((2, 3), refcheck=False)
    with pytest.raises(ArrayError, match="tensor 'b': the parameter has become"):
        plan.step([f.grads[0], np.ones((2, 3), np.float32)], np.array([1, 1]), table(Hyper()))


@kernels
def test_a_parameter_that_has_moved_is_protected_where_it_is_now(kind: type[Plan]) -> None:
    f = Fixture()
    plan = f.plan(kind)
    plan.step(f.grads, np.array([1, 1]), table(Hyper()))
    p, before = f.params[1], f.params[1].ctypes.data
    p.resize((1000, 1000), refcheck=False)  # to other memory,
    in_its_place = [np.empty(SHAPE, np.float32) for _ in range(100)]
    p.resize(SHAPE, refcheck=False)  # and not back
    assert p.ctypes.data != before
    assert in_its_place
    f.grads[1] = p.view()
    with pytest.raises(ArrayError, match=r"tensor 'b': its gradient shares memory with the parameter of 'b'"):
        plan.step(f.grads, np.array([2, 2]), table(Hyper()))
    f.grads[1] = np.full(SHAPE, 0.5, np.float32)
    expected = p.copy()
    plan.step(f.grads, np.array([2, 2]), table(Hyper()))
    assert (p != expected).all()


@kernels
def test_counts_must_agree(kind: type[Plan]) -> None:
    f = Fixture()
    with pytest.raises(ArrayError, match="3 names and 2 parameters"):
        kind(Rule(), ["a", "b", "c"], f.params, f.slots)
    with pytest.raises(ArrayError, match="the rule keeps 3 slots"):
        kind(Rule(amsgrad="raw"), ["a", "b"], f.params, f.slots)
    with pytest.raises((ArrayError, ValueError), match="gradient"):
        f.plan(kind).step(f.grads[:1], np.array([1, 1]), table(Hyper()))


@kernels
def test_memory_mapped_parameters_and_gradients(kind: type[Plan], tmp_path) -> None:  # type: ignore[no-untyped-def]
    f = Fixture()
    f.params[0] = np.memmap(tmp_path / "p", np.float32, "w+", shape=SHAPE)
    f.grads[0] = np.memmap(tmp_path / "g", np.float32, "w+", shape=SHAPE)
    f.grads[0][:] = 0.5
    f.plan(kind).step(f.grads, np.array([1, 1]), table(Hyper()))
    assert (f.params[0] != 0).all()
    del f.params[0], f.grads[0]
