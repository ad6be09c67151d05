"""check_gradients: right gradients pass, wrong ones are named, and what cannot be judged is said to be uncertain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamas.errors import ArgumentError, ArrayError, GradientError
from adamas.gradients import GradientReport, check_gradients

Params = dict[str, np.ndarray]
RNG = np.random.default_rng(11)
X = RNG.standard_normal((200, 6))
LABELS = (RNG.random(200) < 0.5).astype(np.float64)


def network(activation: str) -> tuple[Callable[[Params], float], Callable[[Params], Params], Params]:
    """A hidden layer and binary cross-entropy: its loss, its gradients by hand, and parameters."""
    rng = np.random.default_rng(5)
    params = {"w1": rng.standard_normal((6, 9)), "b1": np.zeros(9), "w2": rng.standard_normal(9), "b2": np.zeros(())}

    def forward(p: Params) -> tuple[np.ndarray, np.ndarray]:
        hidden = X @ p["w1"] + p["b1"]
        hidden = np.maximum(hidden, 0) if activation == "relu" else np.tanh(hidden)
        return hidden, hidden @ p["w2"] + p["b2"]

    def loss(p: Params) -> float:
        _, z = forward(p)
        return float(np.mean(np.logaddexp(0, z) - LABELS * z))

    def gradients(p: Params) -> Params:
        hidden, z = forward(p)
        dz = (1 / (1 + np.exp(-z)) - LABELS) / len(z)
        inner = np.outer(dz, p["w2"]) * ((hidden > 0) if activation == "relu" else 1 - hidden**2)
        return {
            "w1": np.asarray(X.T @ inner),
            "b1": inner.sum(0),
            "w2": np.asarray(hidden.T @ dz),
            "b2": np.asarray(dz.sum()),
        }

    return loss, gradients, params


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_right_gradients_pass(activation: str, dtype: type[np.floating]) -> None:
    loss, gradients, params = network(activation)
    params = {name: np.asarray(p, dtype) for name, p in params.items()}
    before = {name: p.copy() for name, p in params.items()}
    grads = {name: np.asarray(g, dtype) for name, g in gradients(params).items()}
    report = check_gradients(loss, params, grads)
    assert report.ok
    assert report.checked + report.uncertain == 6 * 9 + 9 + 9 + 1
    assert report.uncertain <= (0 if activation == "tanh" else 3)
    assert report.largest <= 1
    assert all(np.array_equal(params[name], before[name]) for name in params)


MISTAKES: dict[str, tuple[str, Callable[[Params, Params], Any]]] = {
    "scaled by 1.001": ("w1", lambda g, p: g["w1"] * 1.001),
    "wrong sign": ("b1", lambda g, p: -g["b1"]),
    "a sum for a mean": ("w2", lambda g, p: g["w2"] * 200),
    "zero": ("b2", lambda g, p: np.zeros(())),
    "an added decay": ("w2", lambda g, p: g["w2"] + 1e-4 * p["w2"]),
    "NaN": ("w2", lambda g, p: np.where(np.arange(9) == 4, np.nan, g["w2"])),
    "infinite": ("w2", lambda g, p: np.where(np.arange(9) == 4, np.inf, g["w2"])),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_gradients_are_named(mistake: str, dtype: type[np.floating]) -> None:
    loss, gradients, params = network("tanh")
    name, wrong = MISTAKES[mistake]
    grads = gradients(params)
    grads[name] = wrong(grads, params)
    own, given = ({k: np.asarray(a, dtype) for k, a in tree.items()} for tree in (params, grads))
    with pytest.raises(GradientError, match=f"tensor '{name}', element"):
        check_gradients(loss, own, given)
    report = check_gradients(loss, own, given, raises=False)
    assert not report.ok
    assert {element.tensor for element in report.wrong} == {name}


def test_the_element_is_named() -> None:
    loss, gradients, params = network("tanh")
    grads = gradients(params)
    grads["w1"][4, 7] += 1e-3
    with pytest.raises(GradientError, match=r"tensor 'w1', element \[4, 7\]: the gradient given is .* measured is"):
        check_gradients(loss, params, grads)
    (wrong,) = check_gradients(loss, params, grads, raises=False).wrong
    assert wrong.index == (4, 7)
    assert wrong.given - wrong.measured == pytest.approx(1e-3, rel=1e-4)
    assert wrong.tolerance < 1e-8


def test_a_large_tensor_is_sampled_and_the_same_each_time() -> None:
    w = np.random.default_rng(0).standard_normal(5000)
    grads = w**2
    grads[:10] = 0
    reports = [check_gradients(lambda p: (p[0] ** 3).sum() / 3, [w], [grads], seed=s, raises=False) for s in (1, 1, 2)]
    assert [r.checked for r in reports] == [64, 64, 64]
    assert reports[0] == reports[1] != reports[2]
    biggest = int(np.argmax(np.abs(grads)))
    grads[biggest] *= 1.01
    with pytest.raises(GradientError, match=rf"tensor '0', element \[{biggest}\]"):
        check_gradients(lambda p: (p[0] ** 3).sum() / 3, [w], [grads])
    assert check_gradients(lambda p: (p[0] ** 3).sum() / 3, [w], [w**2], samples=1).checked == 1


def test_a_kink_is_uncertain_not_wrong() -> None:
    """|x| at 0 and near it: either slope, and anything between, may be given."""
    w = np.array([0.0, 1e-6, -2e-6, 4e-6, 1.0, -3.0])
    for slope in (-1.0, 0.0, 1.0):
        report = check_gradients(lambda p: np.abs(p[0]).sum(), [w], [np.array([slope, 1, -1, 1, 1, -1])])
        assert (report.checked, report.uncertain) == (2, 4)
    with pytest.raises(GradientError, match=r"element \[5\]"):
        check_gradients(lambda p: np.abs(p[0]).sum(), [w], [np.ones(6)])


@given(st.floats(-2e-5, 2e-5), st.floats(-3, 3), st.floats(-3, 3))
def test_the_tolerance_covers_any_single_kink(distance: float, left: float, right: float) -> None:
    def f(p: list[np.ndarray]) -> float:
        x = float(p[0][0]) - distance
        return 0.3 * float(np.sin(p[0][1])) + (right if x > 0 else left) * x

    right_of_it = distance <= 0
    slope = right if right_of_it else left
    check_gradients(f, [np.array([0.0, 0.5])], [np.array([slope, 0.3 * np.cos(0.5)])])


@given(
    st.integers(1, 6),
    st.floats(1e-3, 1e3),
    st.floats(-5, 5),
    st.sampled_from(["sin", "exp", "cube", "log"]),
)
def test_smooth_functions_pass_at_any_scale(seed: int, scale: float, offset: float, kind: str) -> None:
    w = np.random.default_rng(seed).uniform(-2, 2, 5)
    f, df = {
        "sin": (np.sin, np.cos),
        "exp": (np.exp, np.exp),
        "cube": (lambda x: x**3, lambda x: 3 * x**2),
        "log": (lambda x: np.log(x * x + 0.1), lambda x: 2 * x / (x * x + 0.1)),
    }[kind]
    report = check_gradients(lambda p: scale * (f(p["w"]).sum() + 100 * offset), {"w": w}, {"w": scale * df(w)})
    assert report.checked >= 4


def test_a_function_that_computes_in_float32_is_not_trusted() -> None:
    w = np.array([1.1, 0.7, 1.3])
    with pytest.raises(ArgumentError, match="float32 and the check needs float64"):
        check_gradients(lambda p: (p[0].astype(np.float32) ** 2).sum(), [w], [2 * w])
    with pytest.raises(ArgumentError, match="tensor '0' and does not change over a small distance"):
        check_gradients(lambda p: float((p[0].astype(np.float32) ** 2).sum()), [w], [2 * w])


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda p: p[0], r"returned float64\[3\]; it must return one real number"),
        (lambda p: None, "returned object"),
        (lambda p: np.inf, "f is inf"),
        (lambda p: np.log(p[0] - 5).sum(), "f is nan"),
        (lambda p: RNG.random(), "different results"),
        (lambda p: p[0].__iadd__(1).sum(), "leave the parameters alone"),
        (lambda p: np.abs(p[0] - 1).sum(), "none of 3 elements could be judged"),
    ],
)
def test_functions_that_cannot_be_checked(f: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        check_gradients(f, [np.ones(3)], [np.ones(3)])


@pytest.mark.parametrize(
    ("params", "grads", "error", "message"),
    [
        ([np.ones(3)], {"a": np.ones(3)}, ArgumentError, "same kind of container"),
        ([np.ones(3)], [], ArrayError, "give one for each"),
        ({"a": np.ones(3)}, {"b": np.ones(3)}, ArrayError, r"\['b'\] for parameters \['a'\]"),
        ({"a": np.ones(3)}, {"a": np.ones((3, 1))}, ArrayError, "tensor 'a': the gradient has shape"),
        ({"a": np.ones(3)}, {"a": None}, ArrayError, "tensor 'a': the gradient is NoneType"),
        ({"a": np.ones(3, int)}, {"a": np.ones(3)}, ArrayError, "tensor 'a': the parameter is int64"),
    ],
)
def test_arrays_that_do_not_fit(params: Any, grads: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_gradients(lambda p: 0.0, params, grads)


def test_samples_is_checked() -> None:
    with pytest.raises(ArgumentError, match="samples=0"):
        check_gradients(lambda p: 0.0, [np.ones(3)], [np.ones(3)], samples=0)


def test_empty_tensors_and_constant_functions() -> None:
    report = check_gradients(lambda p: 1.0, [np.ones((0, 3)), np.ones(2)], [np.ones((0, 3)), np.zeros(2)])
    assert report == GradientReport((), 2, 0, 0.0)
    with pytest.raises(GradientError, match="tensor '1'"):
        check_gradients(lambda p: 1.0, [np.ones((0, 3)), np.ones(2)], [np.ones((0, 3)), np.full(2, 1e-6)])


def test_huge_functions_are_judged_and_those_that_overflow_are_not() -> None:
    p = [np.array([1.0, 2.0])]
    assert check_gradients(lambda q: 1e300 * (q[0] ** 2).sum(), p, [2e300 * p[0]]).checked == 2
    with pytest.raises(GradientError):
        check_gradients(lambda q: 1e300 * (q[0] ** 2).sum(), p, [1.9e300 * p[0]])
    steep = [np.array([np.log(np.finfo(float).max)])]  # f is finite here, and infinite a little higher
    with pytest.raises(ArgumentError, match="none of 1 elements could be judged"):
        check_gradients(lambda q: float(np.exp(q[0]).sum()), steep, [np.exp(steep[0])])
