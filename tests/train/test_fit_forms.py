"""The forms of layers that XLA compiles best are the functions of Keras, and only while a step is traced."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

import keras
import numpy as np
import pytest
import tensorflow as tf

from adamas.train import PROGRAMS, fit
from adamas.train.loop import steps
from adamas.train.loop.forms import forms_for_xla

layers = keras.layers
UNIT = 2.0**-24
ROWS, TIME, WIDTH = 4, 6, 8


class OwnLayer(layers.Dense):
    pass


def own_function(x: tf.Tensor) -> tf.Tensor:
    return x / keras.ops.sum(keras.ops.abs(x), axis=1, keepdims=True)  # looks at other rows


def einsum(equation: str, output: tuple, bias: str | None = None, **settings: object) -> keras.layers.Layer:
    return layers.EinsumDense(equation, output, bias_axes=bias, **settings)


# Linear in the inputs and in the kernel, so that the same with absolute values bounds each sum of products.
AFFINE: dict[str, Callable[..., keras.layers.Layer]] = {
    "narrow": lambda **dtype: layers.Dense(3, **dtype),
    "wide": lambda **dtype: layers.Dense(16, **dtype),
    "no bias": lambda **dtype: layers.Dense(3, use_bias=False, **dtype),
    "heads": lambda **dtype: einsum("abc,cde->abde", (None, 2, 5), "de", **dtype),
    "no bias of heads": lambda **dtype: einsum("abc,cde->abde", (None, 2, 5), **dtype),
    "ellipsis": lambda **dtype: einsum("...c,cd->...d", (TIME, 5), "d", **dtype),
    "two axes": lambda **dtype: einsum("abc,bcd->ad", (5,), "d", **dtype),
}
# Left as they are.
OTHERS: dict[str, Callable[[], keras.layers.Layer]] = {
    "subclass": lambda: OwnLayer(3),
    "activation of heads": lambda: einsum("abc,cde->abde", (None, 2, 5), "de", activation="softmax"),
    "bias of one axis of two": lambda: einsum("abc,cde->abde", (None, 2, 5), "e"),
    "sum over an inner axis": lambda: einsum("abc,bd->acd", (WIDTH, 5), "d"),
    "axes in another order": lambda: einsum("abc,cd->adb", (5, TIME)),
    "kernel in another order": lambda: einsum("abc,dc->abd", (None, 5), "d"),
    "no sum, inputs": lambda: einsum("acb,cd->acbd", (TIME, WIDTH, 5)),
    "no sum, kernel": lambda: einsum("abc,dc->abdc", (TIME, 5, WIDTH)),
    "normalisation of two axes": lambda: layers.LayerNormalization((-2, -1)),
}


def of_one(layer: keras.layers.Layer, shape: tuple = (TIME, WIDTH), dtype: str = "float32") -> keras.Model:
    return keras.Sequential([keras.Input(shape, dtype=dtype), layer])


def filled(model: keras.Model, seed: int = 1) -> keras.Model:
    """The model with weights that no test could take for those of a new one."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape).astype(np.float32) for weight in model.get_weights()])
    return model


def values(
    model: keras.Model, x: tf.Tensor, g: tf.Tensor, within: Callable[[keras.Model], AbstractContextManager]
) -> list[tf.Tensor]:
    """Outputs, and the gradients of sum(g outputs) with respect to inputs and weights."""
    with tf.GradientTape() as tape, within(model):
        tape.watch(x)
        y = model(x)
    variables = [variable.value for variable in model.trainable_variables]
    return [y, *tape.gradient(y, [x, *variables], output_gradients=g)]


def drawn(model: keras.Model, dtype: str = "float32") -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, *model.input_shape[1:])).astype(np.float32)
    g = rng.normal(size=model(x).shape).astype(np.float32)
    return tf.constant(x, dtype), tf.constant(g, dtype)


def operations(model: keras.Model, within: Callable[[keras.Model], AbstractContextManager]) -> tf.Graph:
    x, g = drawn(model)
    return tf.function(lambda: values(model, x, g, within), autograph=False).get_concrete_function().graph


def none(model: keras.Model) -> AbstractContextManager:
    return nullcontext()


@pytest.mark.parametrize("name", AFFINE)
def test_products_and_their_gradients_are_those_of_keras(name: str) -> None:
    model = filled(of_one(AFFINE[name]()))
    exact, largest = (of_one(AFFINE[name](dtype="float64"), dtype="float64") for _ in range(2))
    exact.set_weights(model.get_weights())
    largest.set_weights([np.abs(weight) for weight in model.get_weights()])
    found = values(model, *drawn(model), forms_for_xla)
    true = values(exact, *drawn(exact, "float64"), none)
    of_absolutes = values(largest, *(tf.abs(value) for value in drawn(largest, "float64")), none)
    terms = ROWS * TIME * WIDTH  # more than any of these sums has
    for a, b, bound in zip(found, true, of_absolutes, strict=True):
        assert a.shape == b.shape
        assert np.all(np.abs(a.numpy().astype(np.float64) - b.numpy()) <= (terms + 1) * UNIT * bound.numpy())


def test_normalisation_is_that_of_keras() -> None:
    """On rows it is Keras' own function: all that may differ is the order of sums over rows."""
    model = filled(of_one(layers.LayerNormalization()))
    given = drawn(model)
    ours, keras_s = (values(model, *given, within) for within in (forms_for_xla, none))
    for a, b in zip(ours[:2], keras_s[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(ours[2:], keras_s[2:], strict=True):
        largest = np.max(np.abs(given[1])) * ROWS * TIME * math.sqrt(WIDTH)  # |x| <= sqrt(width) once it is normalised
        assert np.all(np.abs(a - b) <= 2 * ROWS * TIME * UNIT * largest)


@pytest.mark.parametrize("layer", [lambda: layers.Activation("gelu"), lambda: layers.Dense(1, "gelu")])
def test_gelu_is_that_of_keras(layer: Callable[[], keras.layers.Layer]) -> None:
    """The gradient's parts: 0.5 (1 + erf), whose erf is off by 2 units at most, and x phi(x) <= 0.25, whose exponent's
    rounding counts x^2 / 2 times, and x^3 phi(x) / 2 <= 0.25: 1 + 1 + 2 units, and one of the sum."""
    points = np.concatenate([np.linspace(-9, 9, 4001), [0.0, -1e-30, 1e-30, 40.0, -40.0]]).astype(np.float32)
    model = of_one(layer(), shape=(points.size, 1))
    model.set_weights(
        [np.ones(weight.shape) for weight in model.get_weights()[:1]] + [np.zeros(1)] * bool(model.weights)
    )
    x = tf.constant(points[None, :, None])
    y, gradient, *_ = values(model, x, tf.ones_like(x), forms_for_xla)
    np.testing.assert_array_equal(y, keras.activations.gelu(x))
    assert "Erf" in [operation.type for operation in operations(model, forms_for_xla).get_operations()]
    true = np.array(
        [
            0.5 * math.erfc(-p / math.sqrt(2)) + p * math.exp(-p * p / 2) / math.sqrt(2 * math.pi)
            for p in points.astype(np.float64)
        ]
    )
    assert np.max(np.abs(gradient[0, :, 0] - true)) <= 5 * UNIT


@pytest.mark.parametrize("name", [*AFFINE, "normalisation"])
def test_sums_are_over_one_axis_and_products_over_rows(name: str) -> None:
    """What is faster about the forms."""
    layer = layers.LayerNormalization() if name == "normalisation" else AFFINE[name]()
    graph = operations(of_one(layer), forms_for_xla)
    kinds = Counter(operation.type for operation in graph.get_operations())
    assert not {"BatchMatMulV2", "BatchMatMul", "Einsum"} & set(kinds)
    for operation in graph.get_operations():
        if operation.type in ("Sum", "BiasAddGrad"):
            assert operation.inputs[0].shape.rank == 2
    if name != "normalisation":
        assert kinds["Maximum"] == (name in ("narrow", "no bias", "ellipsis", "two axes"))  # of a transposed product


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_known_is_left_as_it_is(name: str) -> None:
    model = of_one(OTHERS[name]())
    ours, keras_s = (
        [operation.type for operation in operations(model, within).get_operations()] for within in (forms_for_xla, none)
    )
    assert ours == keras_s


@pytest.mark.parametrize(
    ("activation", "loss", "targets"),
    [
        ("softmax", keras.losses.SparseCategoricalCrossentropy(), np.arange(ROWS * TIME).reshape(ROWS, TIME) % 5),
        ("sigmoid", keras.losses.BinaryCrossentropy(), (np.arange(ROWS * TIME * 5).reshape(ROWS, TIME, 5) % 3) // 2),
    ],
)
def test_losses_find_the_logits_behind_an_activation(
    activation: str, loss: keras.losses.Loss, targets: np.ndarray
) -> None:
    """Keras leaves them on what softmax and sigmoid return. Here the probabilities round to 0 and 1."""
    model = of_one(layers.Dense(5, activation))
    model.set_weights([60 * weight for weight in filled(model).get_weights()])
    x, found = drawn(model)[0], []
    for within in (forms_for_xla, none):
        with tf.GradientTape() as tape, within(model):
            value = loss(targets, model(x))
        found.append([value, *tape.gradient(value, [variable.value for variable in model.trainable_variables])])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert float(found[0][0]) > 20  # more than the logarithm of any probability that is kept off 0


@pytest.mark.parametrize("activation", [own_function, "glu", None])
def test_any_activation_sees_the_shape_of_the_layer(activation: object) -> None:
    model = filled(of_one(layers.Dense(6, "relu")))
    model.layers[-1].activation = keras.activations.get(activation) if activation else None
    x = drawn(model)[0]
    with forms_for_xla(model):
        ours = model.layers[-1](x)
    np.testing.assert_allclose(ours, model.layers[-1](x), rtol=1e-5, atol=1e-6)


def test_layers_that_are_not_built_and_integers_are_left_to_keras() -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.unused = layers.Dense(3), layers.MultiHeadAttention(2, 2)

        def build(self, shape: tuple) -> None:
            self.dense.build(shape)
            self.built = True

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return self.dense(x)

    model, x = Model(), tf.ones((ROWS, TIME, WIDTH), tf.int32)
    expected = model(x)
    with forms_for_xla(model):
        np.testing.assert_array_equal(model(x), expected)


def test_two_axes_are_left_as_they_are() -> None:
    model = of_one(layers.Dense(3, "relu"), shape=(WIDTH,))
    ours, keras_s = (
        [operation.type for operation in operations(model, within).get_operations()] for within in (forms_for_xla, none)
    )
    assert ours == keras_s


def transformer() -> keras.Model:
    words = keras.Input((TIME,), dtype="int32")
    x = layers.Embedding(11, WIDTH)(words)
    h = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 4)(h, h, use_causal_mask=True)
    dense = keras.Sequential([layers.Dense(16, "gelu"), layers.Dense(WIDTH)])
    return keras.Model(words, layers.Dense(11)(dense(x)))


def test_every_layer_is_found_and_given_back() -> None:
    model = transformer()
    attention, sequential = model.layers[3], model.layers[-2]
    assert isinstance(attention, layers.MultiHeadAttention)
    assert isinstance(sequential, keras.Sequential)
    inner = [attention.query_dense, attention.key_dense, attention.value_dense, attention.output_dense]
    expected = [*inner, *sequential.layers, model.layers[-1], model.layers[2]]
    own = OwnLayer(3)
    inside: list[bool] = []
    with suppress(ZeroDivisionError), forms_for_xla(model), forms_for_xla(of_one(own)):
        inside += ["call" in vars(layer) for layer in (*expected, own)]
        raise ZeroDivisionError
    assert inside == [True] * len(expected) + [False]
    assert not any("call" in vars(layer) for layer in expected)


def test_a_layer_s_own_call_is_not_replaced() -> None:
    model = of_one(layers.Dense(3))
    dense = model.layers[-1]
    object.__setattr__(dense, "call", called := lambda inputs, training=None: inputs)
    with forms_for_xla(model):
        assert dense.call is called
    assert dense.call is called


@pytest.mark.parametrize("program", PROGRAMS)
def test_fit_uses_them_where_xla_compiles_the_loop(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[keras.Model] = []

    def noting(model: keras.Model) -> AbstractContextManager:
        entered.append(model)
        return forms_for_xla(model)

    monkeypatch.setattr(steps, "forms_for_xla", noting)
    rng = np.random.default_rng(0)
    words = rng.integers(0, 11, (8, TIME + 1))
    keras.utils.set_random_seed(2)
    model = transformer()
    start = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    settings = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    ours = fit(model, words[:, :-1], words[:, 1:], program=program, **settings).history["loss"]
    assert (model in entered) == (program == "xla-loop")
    model.set_weights(start)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(model.fit(words[:, :-1], words[:, 1:], **settings).history["loss"], ours, rtol=64 * UNIT)
