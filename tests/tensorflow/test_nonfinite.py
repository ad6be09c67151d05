"""Steps whose gradients are not finite: nothing changes, in every mode and with every kernel; or it is said which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from adamas.errors import ArgumentError, NonFiniteError, UnsupportedError
from adamas.numpy import Adam as NumpyAdam
from adamas.tensorflow import Adam, AdamW, Nadam, ScheduleFreeAdamW

SHAPES: list[tuple[int, ...]] = [(64, 65), (7,), (5, 900), ()]
NAMES = ["a", "b", "c", "d"]


def start(rng: np.random.Generator, dtypes: Sequence[str] = ("float32",) * 4) -> list[tf.Variable]:
    return [
        tf.Variable(tf.cast(rng.normal(size=shape), dtype), name=name)
        for name, shape, dtype in zip(NAMES, SHAPES, dtypes, strict=True)
    ]


def gradients(rng: np.random.Generator, variables: Sequence[tf.Variable], wrong: float | None = None) -> list[Any]:
    """`wrong` becomes one element of the third."""
    found = [np.asarray(rng.normal(size=v.shape)).astype(v.dtype.as_numpy_dtype) for v in variables]
    if wrong is not None:
        found[2][3, 4] = wrong
    return found


def runner(optimizer: Any, variables: Sequence[Any], mode: str) -> Any:
    def step(grads: list[tf.Tensor]) -> None:
        optimizer.apply(grads, variables)

    def loop(grads: list[tf.Tensor]) -> None:
        tf.while_loop(lambda i: i < 1, lambda i: (step(grads), i + 1)[1:], (0,))

    if mode == "eager":
        return step
    return tf.function(loop if mode == "loop" else step, jit_compile=mode == "jit", autograph=False)


def everything(optimizer: Any, variables: Sequence[Any]) -> list[bytes]:
    """All that a step changes, to the bit."""
    stepper = optimizer._ready()
    kept = [x.numpy() for s, i in stepper.places() for x in stepper.slots.stored(s, i)]
    others = [v.numpy() for v in optimizer._variables if not hasattr(v, "stored")]
    return [np.asarray(array).tobytes() for array in (*kept, *others, *(v.numpy() for v in variables))]


@pytest.mark.parametrize(
    ("mode", "wrong"),
    [("eager", np.nan), ("eager", 2.0**64), ("function", -np.inf), ("loop", 2.0**64), ("jit", np.nan)],
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"moments": "int8", "nonfinite": None},
        {"global_clipnorm": 0.5, "loss_scale_factor": 8.0},
        {"moments": "bfloat16", "clipnorm": 0.5},
        {"use_ema": True, "ema_overwrite_frequency": 2},
        {"kernel": "xla"},
        {"kernel": "resource", "amsgrad": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "plain",
)
def test_a_skipped_step_changes_nothing(settings: Any, wrong: float, mode: str, rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = Adam(0.02, **{"nonfinite": "skip", **settings})
    run = runner(optimizer, variables, mode)
    if settings.get("kernel") == "resource" and mode == "jit":
        optimizer.expect_xla()
    optimizer.build(variables)
    if optimizer.loss_scale_factor and wrong > 0:
        wrong *= optimizer.loss_scale_factor
    run([tf.constant(g) for g in gradients(rng, variables)])
    before = everything(optimizer, variables)
    run([tf.constant(g) for g in gradients(rng, variables, wrong)])
    assert everything(optimizer, variables) == before
    assert (optimizer.skipped, int(optimizer.iterations)) == (1, 1)
    run([tf.constant(g) for g in gradients(rng, variables)])
    assert (optimizer.skipped, int(optimizer.iterations)) == (1, 2)
    now = everything(optimizer, variables)
    assert all(np.isfinite(v.numpy()).all() for v in variables)
    assert sum(a != b for a, b in zip(now, before, strict=True)) >= len(variables) * 2


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 0.5}, {"clipnorm": 0.5}])
def test_formats_and_dtypes_are_one_decision_and_without_clips_the_bits_of_numpy(
    clip: Any, mode: str, rng: np.random.Generator
) -> None:
    """Four calls of the op; a NaN in one of them stops all."""
    dtypes = ["float32", "float32", "bfloat16", "float64"]
    variables = start(rng, dtypes)
    settings: dict[str, Any] = {"groups": [], "nonfinite": "skip"}
    theirs = dict(zip(NAMES, [np.array(v.numpy()) for v in variables], strict=True))
    optimizer = AdamW(0.02, weight_decay=0.1, nonfinite="skip", **clip)
    other = NumpyAdam(theirs, lr=float(np.float32(0.02)), weight_decay=0.1, like="keras", **settings)
    run = runner(optimizer, variables, mode)
    for t in range(6):
        grads = gradients(rng, variables, np.nan if t % 3 == 1 else None)
        run([tf.constant(g) for g in grads])
        if "clipnorm" not in clip and "global_clipnorm" not in clip:
            other.step(dict(zip(NAMES, grads, strict=True)))
            for variable, p in zip(variables, theirs.values(), strict=True):
                assert variable.numpy().tobytes() == p.tobytes()
    assert (optimizer.skipped, int(optimizer.iterations)) == (2, 4)
    assert all(np.isfinite(v.numpy().astype(np.float64)).all() for v in variables)


def test_int8_is_skipped_as_numpy_skips_it(rng: np.random.Generator) -> None:
    variables = start(rng)
    theirs = dict(zip(NAMES, [np.array(v.numpy()) for v in variables], strict=True))
    optimizer, other = (
        Adam(0.02, moments="int8", seed=3),
        NumpyAdam(theirs, lr=float(np.float32(0.02)), like="keras", moments="int8", seed=3),
    )
    for wrong in (None, np.nan, 1e300, None):
        grads = gradients(rng, variables, None if wrong is None else np.float32(wrong) if wrong < 1e30 else np.inf)
        optimizer.apply([tf.constant(g) for g in grads], variables)
        other.step(dict(zip(NAMES, grads, strict=True)))
        for variable, p in zip(variables, theirs.values(), strict=True):
            assert variable.numpy().tobytes() == p.tobytes()
    assert optimizer.skipped == other.skipped == 2


def test_what_propagates_by_default(rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = Adam(0.02)
    optimizer.apply([tf.constant(g) for g in gradients(rng, variables, np.nan)], variables)
    assert np.isnan(variables[2].numpy()).sum() == 1
    assert (optimizer.skipped, int(optimizer.iterations)) == (0, 1)


def test_a_sum_beyond_float64_is_said_to_be(rng: np.random.Generator) -> None:
    variables = start(rng, ["float64"] * 4)
    with pytest.raises(NonFiniteError, match="0 infinite, but their squares overflow float64;"):
        Adam(nonfinite="raise").apply([tf.constant(g) for g in gradients(rng, variables, 1e200)], variables)


def test_float64_may_be_large(rng: np.random.Generator) -> None:
    variables = start(rng, ["float64"] * 4)
    optimizer = Adam(0.02, nonfinite="skip")
    optimizer.apply([tf.constant(g) for g in gradients(rng, variables, 2.0**100)], variables)
    assert (optimizer.skipped, int(optimizer.iterations)) == (0, 1)


@pytest.mark.parametrize(
    ("kernel", "mode", "wrong", "said"),
    [
        ("native", "eager", np.nan, "1 are NaN and 0 infinite;"),
        ("native", "function", 2.0**65, "squares overflow float32"),
        ("native", "function", np.nan, "1 are NaN and 0 infinite;"),
        ("native", "loop", -np.inf, "0 are NaN and 1 infinite;"),
        ("xla", "eager", 2.0**65, "squares overflow float32"),
        ("xla", "function", np.inf, "0 are NaN and 1 infinite;"),
        ("resource", "eager", np.inf, "0 are NaN and 1 infinite;"),
        ("resource", "loop", np.nan, "1 are NaN and 0 infinite;"),
    ],
)
def test_raise_names_the_variable(wrong: float, said: str, mode: str, kernel: Any, rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = Adam(0.02, nonfinite="raise", kernel=kernel)
    optimizer.build(variables)
    run = runner(optimizer, variables, mode)
    run([tf.constant(g) for g in gradients(rng, variables)])
    before = everything(optimizer, variables)
    error = NonFiniteError if mode == "eager" else tf.errors.InvalidArgumentError
    with pytest.raises(error, match=rf"tensor \W*c\W*: of 4500 elements of its gradient .*{said}"):
        run([tf.constant(g) for g in gradients(rng, variables, wrong)])
    assert everything(optimizer, variables) == before
    assert (optimizer.skipped, int(optimizer.iterations)) == (0, 1)
    run([tf.constant(g) for g in gradients(rng, variables)])
    assert int(optimizer.iterations) == 2


def test_raise_in_xla_is_refused_when_it_is_traced(rng: np.random.Generator) -> None:
    variables = start(rng)
    optimizer = Adam(nonfinite="raise")
    with pytest.raises(UnsupportedError, match=r'nonfinite="raise" in a function that XLA compiles.*"skip"'):
        runner(optimizer, variables, "jit")([tf.constant(g) for g in gradients(rng, variables)])


def test_all_together_may_overflow() -> None:
    variables = [tf.Variable(tf.zeros(4), name=str(i)) for i in range(2)]
    optimizer = Adam(nonfinite="raise")
    with pytest.raises(NonFiniteError, match="all gradients together"):
        optimizer.apply([tf.fill([4], 2.0**62.75)] * 2, variables)
    assert int(optimizer.iterations) == 0


@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
def test_accumulation_leaves_out_what_is_not_finite(mode: str, rng: np.random.Generator) -> None:
    """Two of the finite gradients make a step, as if the others had never come."""
    given = start(rng)
    all_of_them = [gradients(rng, given, wrong) for wrong in (None, np.nan, None, np.inf, None, None)]
    ends = []
    for sequence, nonfinite in ((all_of_them, "skip"), (all_of_them[:1] + all_of_them[2:3] + all_of_them[4:], None)):
        variables = [tf.Variable(v, name=v.name.removesuffix(":0")) for v in given]
        optimizer = Adam(
            0.02,
            nonfinite=nonfinite,
            gradient_accumulation_steps=2,
            loss_scale_factor=4.0,
            use_ema=True,  # type: ignore[arg-type]
        )
        optimizer.build(variables)
        run = runner(optimizer, variables, mode)
        for grads in sequence:
            run([tf.constant(g) for g in grads])
        ends.append(everything(optimizer, variables))
        assert int(optimizer.iterations) == 2
        assert optimizer.skipped == (2 if nonfinite else 0)
    assert ends[0] == ends[1]


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("kind", [Nadam, ScheduleFreeAdamW])
def test_carried_numbers_wait_too(kind: Any, mode: str, rng: np.random.Generator) -> None:
    given = start(rng)
    good = [gradients(rng, given) for _ in range(3)]
    ends = []
    for bad in (True, False):
        variables = [tf.Variable(v, name=v.name.removesuffix(":0")) for v in given]
        optimizer = kind(0.02, nonfinite="skip")
        run = runner(optimizer, variables, mode)
        for grads in good:
            if bad:
                run([tf.constant(g) for g in gradients(rng, given, np.nan)])
            run([tf.constant(g) for g in grads])
        ends.append(everything(optimizer, variables))
        assert optimizer.skipped == 3 * bad
    assert ends[0] == ends[1]


@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
@pytest.mark.parametrize("where", ["values", "dense", "rows that come twice"])
def test_lazy_rows_wait_too(where: str, mode: str, rng: np.random.Generator) -> None:
    """The clock of the rows as well; a gradient in another variable stops them."""
    table, bias = tf.Variable(tf.ones([9, 3]), name="table"), tf.Variable(tf.zeros(3), name="bias")
    optimizer = Adam(0.1, sparse="lazy", nonfinite="skip", global_clipnorm=1.0)
    optimizer.build([table, bias])

    def step(values: Any, dense: Any) -> None:
        optimizer.apply([tf.IndexedSlices(values, [3, 5, 3], [9, 3]), dense], [table, bias])

    run = step if mode == "eager" else tf.function(step, jit_compile=mode == "jit", autograph=False)
    run(tf.ones([3, 3]), tf.ones(3))
    before = everything(optimizer, [table, bias])
    values, dense = np.ones((3, 3), np.float32), np.ones(3, np.float32)
    if where == "dense":
        dense[1] = np.inf
    else:
        values[0, 1] = np.nan if where == "values" else 2.0**63.5
        values[2, 1] = 1.0 if where == "values" else 2.0**63.5
    run(tf.constant(values), tf.constant(dense))
    assert everything(optimizer, [table, bias]) == before
    assert (optimizer.skipped, int(optimizer.iterations)) == (1, 1)


@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
def test_constraints_wait_too(mode: str) -> None:
    variable = keras.Variable(np.full(3, 5.0, np.float32), name="kernel")
    variable.constraint = keras.constraints.UnitNorm(axis=0)
    optimizer = Adam(0.1, nonfinite="skip")
    optimizer.build([variable])
    run = runner(optimizer, [variable], mode)
    run([tf.constant([1.0, np.nan, 1.0])])
    assert variable.numpy().tolist() == [5.0] * 3
    run([tf.constant([1.0, 1.0, 1.0])])
    assert np.linalg.norm(variable.numpy()) == pytest.approx(1.0)


def network(optimizer: Any, **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer, loss="mse", **compiled)
    return model


def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """64 rows, of which one in the third batch of 8 is infinite."""
    x = rng.normal(size=(64, 4)).astype(np.float32)
    x[20, 2] = np.inf
    return x, rng.normal(size=(64, 1)).astype(np.float32)


@pytest.mark.parametrize(
    "compiled", [{}, {"run_eagerly": True}, {"steps_per_execution": 4}, {"jit_compile": True}], ids=str
)
def test_fit(compiled: Any, rng: np.random.Generator) -> None:
    x, y = data(rng)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([6], [0.01, 0.0])
    model = network(Adam(schedule, nonfinite="skip"), **compiled)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert (model.optimizer.skipped, int(model.optimizer.iterations)) == (2, 14)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_loss_scale_optimizer(rng: np.random.Generator) -> None:
    """Keras' own looks first and halves its scale, so nothing is left to skip; huge gradients it lets pass."""
    x, y = data(rng)
    inner = Adam(0.01, moments="int8")
    model = network(keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0))
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    assert (inner.skipped, int(inner.iterations), float(model.optimizer.dynamic_scale)) == (0, 7, 2.0)


@pytest.mark.parametrize(
    "arguments", [{"nonfinite": "ignore"}, {"nonfinite": True}, {"stats": 1}, {"verify": -1}, {"verify": 2**21}]
)
def test_what_is_no_setting(arguments: Any) -> None:
    (name,) = arguments
    with pytest.raises(ArgumentError, match=f"{name}="):
        Adam(**arguments)


def test_configuration() -> None:
    assert not {"nonfinite", "stats", "verify"} & set(Adam().get_config())
    config = AdamW(nonfinite="skip", stats=True, verify=7).get_config()
    assert (config["nonfinite"], config["stats"], config["verify"]) == ("skip", True, 7)
    assert AdamW.from_config(config).get_config() == config
