"""Moments in bfloat16 and int8, variables in bfloat16 and float16: the bits of the reference, in every mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from adamas import formats
from adamas.errors import ArgumentError, KernelError, UnsupportedError
from adamas.kernels import reference
from adamas.rule import Clip, Hyper, Rule
from adamas.storage import choose, fresh
from adamas.tensorflow import Adam, AdamW

SHAPES: list[tuple[int, ...]] = [(64, 65), (4097,), (9,), (5, 4100), ()]
SETTINGS: dict[str, Any] = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}
STORED = [  # dtype of the variables, moments, weights
    ("float32", "bfloat16", "nearest"),
    ("float32", "int8", "nearest"),
    ("bfloat16", "float32", "nearest"),
    ("bfloat16", "int8", "stochastic"),
    ("bfloat16", "int8", "split"),
    ("bfloat16", "bfloat16", "split"),
    ("float16", "float32", "nearest"),
    ("float16", "int8", "stochastic"),
    ("float64", "float32", "nearest"),
]


class Twin:
    """`adamas.kernels.reference` stepping the same variables, each in a plan of its own."""

    def __init__(self, variables: Sequence[Any], moments: str, weights: str, seed: int, amsgrad: bool = False) -> None:
        self.rule = Rule(eps_mode="keras", amsgrad="raw" if amsgrad else "off")
        lr, *rest = SETTINGS.values()
        beta1, beta2, eps, decay = rest
        self.hyper = Hyper(float(np.float32(lr)), beta1, beta2, eps, weight_decay=decay)
        self.params = [np.array(variable.numpy()) for variable in variables]
        self.slots, self.plans, self.t = [], [], 0
        for variable, p in zip(variables, self.params, strict=True):
            how = choose(self.rule, p.dtype, p.size, moments, weights)
            kept = list(fresh(self.rule, how, p).values())
            self.slots.append(kept)
            name = getattr(variable, "path", variable.name).removesuffix(":0")
            plan = reference.Plan(self.rule, [name], [p], [[one] for one in kept], seed, how.formats, how.weights)
            self.plans.append(plan)

    def step(self, grads: Sequence[np.ndarray | None], clip: Clip | None = None) -> None:
        self.t += 1
        with reference.ieee():
            squares = sum(plan.squares([g])[0] for plan, g in zip(self.plans, grads, strict=True))
        for plan, g in zip(self.plans, grads, strict=True):
            if g is not None:
                plan.step([g], np.array([self.t]), np.array([astuple(self.hyper)]), clip=clip, squares=squares)

    def equals(self, optimizer: Any, variables: Sequence[Any]) -> None:
        slots = optimizer._ready().slots
        for i, (variable, p) in enumerate(zip(variables, self.params, strict=True)):
            assert variable.numpy().tobytes() == p.tobytes(), variable.name
            for s, kept in enumerate(self.slots[i]):
                for mine, its in zip(slots.stored(s, i), formats.arrays(kept), strict=True):
                    assert mine.numpy().dtype == its.dtype
                    assert mine.numpy().tobytes() == its.tobytes(), (variable.name, s)


def start(rng: np.random.Generator, dtype: str, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[tf.Variable]:
    return [tf.Variable(tf.cast(rng.normal(size=shape), dtype), name=f"v{i}") for i, shape in enumerate(shapes)]


def gradients(rng: np.random.Generator, dtype: str, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    """Three decades inside each, and a row of zeros."""
    found = []
    for shape in shapes:
        g = rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 0, shape)
        if len(shape) == 2:
            g[1] = 0.0
        found.append(np.asarray(g).astype(tf.as_dtype(dtype).as_numpy_dtype))
    return found


def runner(optimizer: Any, variables: Sequence[Any], mode: str) -> Any:
    def step(grads: list[tf.Tensor]) -> None:
        optimizer.apply(grads, variables)

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "jit", autograph=False)


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize(("dtype", "moments", "weights"), STORED)
def test_the_bits_of_the_reference(dtype: str, moments: Any, weights: Any, mode: str, rng: np.random.Generator) -> None:
    variables = start(rng, dtype)
    twin = Twin(variables, moments, weights, seed=5, amsgrad=mode == "eager")
    optimizer = Adam(**SETTINGS, amsgrad=mode == "eager", moments=moments, weights=weights, seed=5, kernel="native")
    run = runner(optimizer, variables, mode)
    optimizer.build(variables)
    for _ in range(5):
        grads = gradients(rng, dtype)
        run([tf.constant(g) for g in grads])
        twin.step(grads)
    twin.equals(optimizer, variables)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clips_span_all_formats(clip: str, rng: np.random.Generator) -> None:
    """Large variables in int8 and small ones in float32 are two calls of the op, and one global norm."""
    variables, kind = start(rng, "float32"), {"clipnorm": "norm", "clipvalue": "value"}.get(clip, "global_norm")
    twin, optimizer = Twin(variables, "int8", "nearest", 0), Adam(**SETTINGS, **{clip: 0.05}, moments="int8")
    for _ in range(3):
        grads = gradients(rng, "float32")
        optimizer.apply([tf.constant(g) for g in grads], variables)
        twin.step(grads, Clip(kind, 0.05))  # type: ignore[arg-type]
    twin.equals(optimizer, variables)


@pytest.mark.parametrize(("dtype", "moments", "weights"), STORED)
def test_the_expression_is_close_to_the_reference(
    dtype: str, moments: Any, weights: Any, rng: np.random.Generator
) -> None:
    """One step from the same state. XLA fuses products and sums, so a few roundings go to the neighbour."""
    variables = start(rng, dtype)
    settings: dict[str, Any] = {**SETTINGS, "moments": moments, "weights": weights, "seed": 5}
    optimizer, expression = Adam(**settings), Adam(**settings)
    optimizer.build(variables)
    for _ in range(3):
        optimizer.apply([tf.constant(g) for g in gradients(rng, dtype)], variables)
    others = [tf.Variable(variable, name=variable.name.removesuffix(":0")) for variable in variables]
    expression.expect_xla()
    expression.build(others)
    saved: dict[str, Any] = {}
    optimizer.save_own_variables(saved)
    expression.load_own_variables(saved)
    grads = [tf.constant(g) for g in gradients(rng, dtype)]
    runner(optimizer, variables, "eager")(grads)
    runner(expression, others, "jit")(grads)
    small = 1e-12 if dtype == "float64" else 1e-5
    for i, (variable, other) in enumerate(zip(variables, others, strict=True)):
        pairs = [(variable.numpy(), other.numpy())]
        for s in range(2):
            stored = [o._ready().slots.stored(s, i) for o in (optimizer, expression)]
            pairs += [(a.numpy(), b.numpy()) for a, b in zip(*stored, strict=True)]
        for mine, its in pairs:
            if mine.dtype.itemsize == 1:
                assert np.abs(mine.astype(int) - its.astype(int)).max(initial=0) <= 1
            else:
                eps = max(float(ml_dtypes.finfo(mine.dtype).eps), small)
                np.testing.assert_allclose(its.astype(float), mine.astype(float), rtol=2 * eps, atol=small)
            assert (mine != its).sum() <= 2 + mine.size * (1.0 if mine.dtype.itemsize >= 4 else 0.01)


@pytest.mark.parametrize(("dtype", "moments", "weights"), [s for s in STORED if s[1:] != ("float32", "nearest")])
def test_seeds_and_names_key_the_rounding(dtype: str, moments: Any, weights: Any, rng: np.random.Generator) -> None:
    first, grads = start(rng, dtype, SHAPES[:1]), [tf.constant(g) for g in gradients(rng, dtype, SHAPES[:1])]

    def moved(name: str, seed: int) -> bytes:
        variable, optimizer = tf.Variable(first[0], name=name), Adam(0.01, moments=moments, weights=weights, seed=seed)
        for _ in range(3):
            optimizer.apply(grads, [variable])
        return variable.numpy().tobytes() + b"".join(t.numpy().tobytes() for t in optimizer._ready().slots.stored(0, 0))

    assert moved("a", 1) == moved("a", 1)
    assert len({moved("a", 1), moved("b", 1), moved("a", 2), moved("a", 2**64 - 1)}) == 4


@pytest.mark.parametrize(
    ("dtype", "moments", "weights", "each"),
    [
        ("float32", "float32", "nearest", 8.0),
        ("float32", "bfloat16", "nearest", 4.0),
        ("float32", "int8", "nearest", 2.125),
        ("bfloat16", "int8", "split", 3.125),
    ],
)
def test_bytes_a_parameter(dtype: str, moments: Any, weights: Any, each: float) -> None:
    """What is kept, and what describe says of it."""
    optimizer = Adam(moments=moments, weights=weights)
    optimizer.build([tf.Variable(tf.zeros((1024, 64), dtype), name="large"), tf.Variable(tf.zeros(9, dtype), name="b")])
    kept = {id(v): v for group in optimizer._ready().slots.arrays.parts[0].variables.values() for v in group}
    size = sum(v.shape[0] * tf.as_dtype(v.dtype).size for v in kept.values())
    assert size <= each * 1024 * 64 + 9 * 4096  # the small one begins a block of its own
    described = optimizer.describe()
    large, small = described.tensors
    assert large.bytes == each * 1024 * 64
    assert large.why == ""
    assert set(large.formats.values()) - {"int8"} <= {moments}
    assert set(small.formats.values()) - {"int8"} == {"float32"}
    assert ("kept in float32: 1 of them with 9 parameters" in str(described)) == (moments != "float32")


def test_a_model_in_bfloat16(rng: np.random.Generator) -> None:
    """Keras' policy "bfloat16" trains, in Keras' fit and in adamas.train.fit, with every way to keep weights."""
    from adamas.train import fit

    x = rng.normal(size=(512, 16)).astype("f")
    y = x @ rng.normal(size=(16, 1)).astype("f")
    losses = {}
    for weights in ("nearest", "stochastic", "split"):
        for way in ("fit", "train.fit"):
            keras.utils.set_random_seed(1)
            layers = [keras.Input((16,)), *(keras.layers.Dense(n, dtype="bfloat16") for n in (64, 1))]
            model = keras.Sequential(layers)
            model.compile(optimizer=AdamW(3e-3, moments="bfloat16", weights=weights), loss="mse")  # type: ignore[arg-type]
            assert all(v.dtype == "bfloat16" for v in model.trainable_variables)
            run = model.fit if way == "fit" else lambda *a, **k: fit(model, *a, **k)  # noqa: B023
            losses[weights, way] = run(x, y, batch_size=32, epochs=12, verbose=0, shuffle=False).history["loss"]
    for history in losses.values():
        assert history[-1] < 0.1 * history[0]


@pytest.mark.parametrize(
    ("settings", "dtypes", "error", "match"),
    [
        ({"moments": "int4"}, ["float32"], ArgumentError, "'float32', 'bfloat16', 'int8'"),
        ({"weights": "up"}, ["float32"], ArgumentError, "'nearest', 'stochastic', 'split'"),
        ({"seed": 1.5}, ["float32"], ArgumentError, "integer"),
        ({"moments": "int8"}, ["float32", "float64"], ArgumentError, "variable.*float64.*moments='float32'"),
        ({"weights": "split"}, ["bfloat16", "float16"], ArgumentError, "variable.*not float16; use weights="),
        ({"weights": "stochastic"}, ["float32", "float64"], ArgumentError, "float16, not float32.*weights='nearest'"),
        ({"moments": "int8", "sparse": "lazy"}, ["float32"], ArgumentError, "sparse='lazy'"),
        ({"sparse": "lazy"}, ["bfloat16"], UnsupportedError, "bfloat16.*sparse='dense'"),
        ({"moments": "int8", "kernel": "resource"}, ["float32"], KernelError, "kernel='auto'"),
        ({"kernel": "resource"}, ["bfloat16"], KernelError, "kernel='auto'"),
    ],
)
def test_what_is_refused(settings: Any, dtypes: list[str], error: type[Exception], match: str) -> None:
    for kind in (Adam, AdamW):
        if "resource" in settings.values():
            kind = Adam  # with weight decay it is refused for that
        with pytest.raises(error, match=match):
            kind(**settings).build([tf.Variable(tf.zeros(5000, dtype)) for dtype in dtypes])


def test_configuration() -> None:
    for kind in (Adam, AdamW):
        assert not {"moments", "weights", "seed"} & set(kind().get_config())
        config = kind(moments="int8", weights="split", seed=7).get_config()
        assert {name: config[name] for name in ("moments", "weights", "seed")} == {
            "moments": "int8",
            "weights": "split",
            "seed": 7,
        }
        assert kind.from_config(config).get_config() == config
