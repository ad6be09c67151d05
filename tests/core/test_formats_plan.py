"""A plan whose moments or weights are stored in fewer bits: what it reads and writes, and what it refuses."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.stepping import same_bits, table

from adamas import formats
from adamas.errors import ArgumentError, ArrayError
from adamas.formats import PARAMETER, Blocks, Halves, Key, name_key
from adamas.kernels import reference
from adamas.rule import Clip, Hyper, Rule, Scalars, update
from adamas.scalars import scalars

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
RULE = Rule(amsgrad="raw")
KINDS = [slot.kind for slot in RULE.slots]
WEIGHTS = [
    ("float32", "nearest"),
    (BFLOAT16, "nearest"),
    (BFLOAT16, "stochastic"),
    (BFLOAT16, "split"),
    ("float16", "nearest"),
    ("float16", "stochastic"),
]
MOMENTS = [("float32",) * 3, ("bfloat16",) * 3, ("int8",) * 3, ("int8", "float32", "bfloat16")]
CASES = [(*weights, names) for weights in WEIGHTS for names in MOMENTS]
CASES.append(("float64", "nearest", MOMENTS[0]))  # and no other: test_float64_moments_stay_native
SHAPE = (70, 1001)  # more than two pieces of a plan, and a short last block


def numbers(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8)


@pytest.mark.parametrize(("dtype", "weights", "names"), CASES)
def test_a_step_decodes_computes_and_encodes(dtype: Any, weights: str, names: tuple[str, ...]) -> None:
    """Two tensors, three steps, against whole-array calls of the formats and of the rule; seed, names, t all count."""
    compute = np.dtype(np.float64 if dtype == "float64" else np.float32)
    hyper, params = Hyper(lr=0.1, weight_decay=0.1), [numbers(SHAPE, dtype, 1), numbers((3,), dtype, 2)]
    forms = [formats.moment(name, kind) for name, kind in zip(names, KINDS, strict=True)]
    weight = formats.weight(weights, np.dtype(dtype))
    slots: list[list[Any]] = [[formats.zeros(form, p.shape, compute) for p in params] for form in forms]
    if weights == "split":
        slots.append([np.zeros(p.shape, np.int8) for p in params])
    expected = []
    for name, param in zip(("a", "b"), params, strict=True):
        p: Any = Halves(param.copy(), np.zeros(param.shape, np.int8)) if weights == "split" else param.copy()
        kept: list[Any] = [formats.zeros(form, param.shape, compute) for form in forms]
        for t in (5, 6, 7):
            s = Scalars(*(compute.type(x) for x in scalars(RULE, hyper, t)))
            g = numbers(param.shape, dtype, t).astype(compute)
            old = [form.decode(stored) for form, stored in zip(forms, kept, strict=True)]
            new, moments = update(RULE, weight.decode(p), g, old, s, coupled=False, tiny=np.finfo(compute).tiny)
            key = Key(9, name_key(name), t, PARAMETER, 0)
            p = weight.encode(new, key)
            kept = [forms[k].encode(moments[k], key._replace(slot=k)) for k in range(3)]
        expected.append([*formats.arrays(p), *(array for stored in kept for array in formats.arrays(stored))])

    plan = reference.Plan(RULE, ["a", "b"], params, slots, seed=9, formats=names, weights=weights)
    for t in (5, 6, 7):
        plan.step([numbers(p.shape, dtype, t) for p in params], np.array([t, t]), table(hyper))
    for i in range(2):
        got = [params[i], *(slots[3:] and [slots[3][i]]), *(a for slot in slots[:3] for a in formats.arrays(slot[i]))]
        assert [a.dtype for a in got] == [b.dtype for b in expected[i]]
        assert all(np.array_equal(bits(a), bits(b)) for a, b in zip(got, expected[i], strict=True))
        assert all(a.any() for a in got)


def test_the_step_uses_the_new_moments_before_they_are_rounded() -> None:
    """From zero moments the first step is the same in every format."""
    stepped = []
    for name in formats.NAMES:
        p, names = np.ones(1000, np.float32), (name, name)
        kinds = [slot.kind for slot in Rule().slots]
        slots = [[formats.zeros(formats.moment(name, kind), p.shape)] for kind in kinds]
        plan = reference.Plan(Rule(), ["p"], [p], slots, formats=names)
        plan.step([numbers((1000,), np.float32, 3)], np.array([1]), table(Hyper()))
        stepped.append(p)
    assert same_bits(stepped[0], stepped[1])
    assert same_bits(stepped[0], stepped[2])


@pytest.mark.parametrize("dtype", [BFLOAT16, np.float16])
def test_norms_of_gradients_in_16_bits_are_summed_in_float64(dtype: Any) -> None:
    p = np.zeros(9000, dtype)
    slots = [[np.zeros(9000, np.float32)] for _ in range(2)]
    plan = reference.Plan(Rule(), ["p"], [p], slots)
    g = numbers((9000,), dtype, 4)
    assert plan.squares([g]).tolist() == [reference.sum_of_squares([g.astype(np.float64)])]
    norm = plan.step([g], np.array([1]), table(Hyper(beta1=0.0)), clip=Clip("global_norm", 1.0))
    assert norm == np.sqrt(reference.sum_of_squares([g.astype(np.float64)]))
    np.testing.assert_allclose(slots[0][0], g.astype(np.float64) / norm, rtol=1e-6)


def good(dtype: Any = np.float32) -> dict[str, Any]:
    """Arguments of a plan of one tensor with int8 moments."""
    p = np.ones((5, 20), dtype)
    blocks = [formats.zeros(formats.moment("int8", slot.kind), p.shape) for slot in Rule().slots]
    return {"params": [p], "slots": [[block] for block in blocks], "formats": ("int8", "int8")}


def refused(error: type[Exception], message: str, **arguments: Any) -> None:
    with pytest.raises(error, match=message):
        reference.Plan(Rule(), ["p"], **arguments)


@pytest.mark.parametrize(
    ("slot", "m", "message"),
    [
        (0, np.zeros((5, 20), np.float32), r"slot m is a ndarray; in the format 'int8' give adamas.formats.Blocks"),
        (0, Blocks(np.zeros((5, 20), np.uint8), np.zeros(2, np.float32)), r"slot m \(codes\) has dtype uint8.*int8"),
        (1, Blocks(np.zeros((5, 20), np.int8), np.zeros(2, np.float32)), r"slot v \(codes\) has dtype int8.*uint8"),
        (0, Blocks(np.zeros(100, np.int8), np.zeros(2, np.float32)), r"slot m \(codes\) has shape \(100,\)"),
        (0, Blocks(np.zeros((5, 20), np.int8), np.zeros(1, np.float32)), r"\(scales\) has shape \(1,\).*\(2,\)"),
        (0, Blocks(np.zeros((5, 20), np.int8), np.zeros(2)), r"\(scales\) has dtype float64.*float32"),
        (0, Blocks(np.zeros((5, 20), np.int8).T.copy().T, np.zeros(2, np.float32)), "not C-contiguous"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_by_name(slot: int, m: Any, message: str) -> None:
    arguments = good()
    arguments["slots"][slot] = [m]
    refused(ArrayError, f"tensor 'p': .*{message}", **arguments)


def test_read_only_and_shared_blocks_are_refused() -> None:
    arguments = good()
    arguments["slots"][0][0].scales.flags.writeable = False
    refused(ArrayError, r"tensor 'p': slot m \(scales\) is read-only", **arguments)
    arguments = good()
    v = arguments["slots"][1][0]
    arguments["slots"][0] = [Blocks(v.codes.view(np.int8), np.zeros(2, np.float32))]
    refused(ArrayError, "shares memory", **arguments)
    arguments = good()
    arguments["slots"][0] = [Blocks(np.zeros((5, 20), np.int8), v.scales)]
    arguments["slots"][1] = [v]
    refused(ArrayError, "shares memory", **arguments)


def test_other_misfits_are_refused() -> None:
    arguments = good()
    refused(ArgumentError, r"give one name for each slot of the rule \(m, v\)", **{**arguments, "formats": ("int8",)})
    refused(
        ArgumentError,
        "moments='int4': give one of 'float32', 'bfloat16', 'int8'",
        **{**arguments, "formats": ("int4", "int8")},
    )
    refused(
        ArrayError,
        "slot m is a Blocks; in the format 'bfloat16' give a numpy.ndarray",
        **{**arguments, "formats": ("bfloat16", "int8")},
    )
    refused(
        ArgumentError,
        "weights='split' is for parameters of bfloat16, not float32",
        **{**arguments, "slots": [*arguments["slots"], [np.zeros((5, 20), np.int8)]]},
        weights="split",
    )
    refused(
        ArgumentError,
        "weights='stochastic' is for parameters of bfloat16 or float16",
        **arguments,
        weights="stochastic",
    )
    refused(ArgumentError, "weights='up'", **arguments, weights="up")
    refused(ArrayError, r"keeps 3 slots \(m, v, correction\)", **good(BFLOAT16), weights="split")
    low = good(BFLOAT16)
    refused(
        ArrayError,
        "slot correction has dtype uint8.*give int8",
        **{**low, "slots": [*low["slots"], [np.zeros((5, 20), np.uint8)]]},
        weights="split",
    )
    p = np.ones(3, BFLOAT16)
    refused(
        ArrayError,
        "slot m has dtype bfloat16 and the parameter bfloat16; give float32",
        params=[p],
        slots=[[p.copy()], [p.copy()]],
    )
    with pytest.raises(
        ArrayError, match=r"the gradient has dtype float32 and the parameter bfloat16; convert it .*\.astype\(parameter"
    ):
        reference.Plan(Rule(), ["p"], [p], [[np.zeros(3, np.float32)] for _ in range(2)]).step(
            [np.ones(3, np.float32)], np.array([1]), table(Hyper())
        )


def test_float64_moments_stay_native() -> None:
    refused(ArgumentError, "moments of float64 parameters are kept in float64", **good(np.float64))


def test_weights_are_never_kept_below_their_precision() -> None:
    assert formats.of_slots("int8", ["signed", "weight", "non-negative"]) == ("int8", "float32", "int8")
    with pytest.raises(ArgumentError, match="a slot of kind 'weight' is kept in 'float32', not in 'int8'"):
        formats.moment("int8", "weight")
