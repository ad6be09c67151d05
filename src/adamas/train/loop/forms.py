"""Layers of Keras in the forms that XLA compiles best for CPUs.

While a step is traced for the program "xla-loop", some layers compute the same function in other operations:

- Dense, EinsumDense and LayerNormalization over the last axes of [batch, time, width] work on rows, [batch x time,
  width]. Sums of gradients over two axes are slow (XLA cuts them into windows of both), over one they are not, and the
  gradient of a kernel is one product in place of one an example and their sum.
- The gradient x^T g of a kernel of more inputs than outputs is computed as (g^T x)^T: Eigen packs x^T slowly.
- The gradient of the exact gelu has one erf in place of erfc, whose two branches XLA computes both.

What they save of a step of 73 ms, by the profile of the transformer of `adamas bench train` on one core of an x86-64
server (TensorFlow 2.21, 2026-11): rows 1.4 ms in normalisations and 3.0 in attention's projections, the product the
other way round 3.1, gelu with the rows of its layer about 2.

Values of layers keep their bits, except the last ones of sums. Gradients of gelu differ by a few units of 2^-24 g.
What is not known to be of these forms - other layers, subclasses, activations of one's own - is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

layers, activations = keras.layers, keras.activations


@contextmanager
def forms_for_xla(model: Any) -> Iterator[None]:
    """Within it, the model's layers are called in the forms above."""
    changed = []
    try:
        for layer in _layers(model):
            form = _FORMS.get(type(layer))
            if form is not None and "call" not in vars(layer):
                # Past Keras' __setattr__, which tracks what becomes part of a layer.
                object.__setattr__(layer, "call", partial(form, layer))
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            object.__delattr__(layer, "call")


def _layers(layer: Any) -> Iterator[Any]:
    """The layers of a model, of models within it, and of its attentions."""
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _layers(inner)
    elif type(layer) is layers.MultiHeadAttention and layer.built:
        yield from (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense)
    else:
        yield layer


def _dense(layer: Any, inputs: Any, training: Any = None) -> Any:
    if not (_has_time(inputs) and inputs.dtype == layer.kernel.dtype):
        return layers.Dense.call(layer, inputs, training=training)
    return _affine(layer, inputs, 1)


def _einsum_dense(layer: Any, inputs: Any, training: Any = None) -> Any:
    """abcd,cde->abe and the like: the last axes of the inputs are the first of the kernel, and the sum is over them."""
    left, out = layer.equation.split("->")
    of_inputs, of_kernel = left.split(",")
    summed = "".join(axis for axis in of_inputs if axis in of_kernel)
    kept, outputs = of_inputs.removesuffix(summed), of_kernel.removeprefix(summed)
    if not (
        summed
        and "." not in of_kernel
        and (of_inputs, of_kernel, out) == (kept + summed, summed + outputs, kept + outputs)
        and (layer.bias is None or layer.bias.shape == layer.kernel.shape[len(summed) :])
        and layer.activation is activations.linear
        and _has_time(inputs)
        and inputs.dtype == layer.kernel.dtype
    ):
        return layers.EinsumDense.call(layer, inputs, training=training)
    return _affine(layer, inputs, len(summed))


def _layer_normalization(layer: Any, inputs: Any) -> Any:
    if not (_has_time(inputs) and layer.axis == [-1]):
        return layers.LayerNormalization.call(layer, inputs)
    return tf.reshape(layers.LayerNormalization.call(layer, tf.reshape(inputs, (-1, inputs.shape[-1]))), inputs.shape)


def _activation(layer: Any, inputs: Any) -> Any:
    return _activated(layer.activation, inputs)


_FORMS: dict[type, Callable[..., Any]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.LayerNormalization: _layer_normalization,
    layers.Activation: _activation,
}


def _has_time(inputs: Any) -> bool:
    """Whether there are more axes than batch and width, all of them known."""
    return isinstance(inputs, tf.Tensor) and inputs.shape.rank > 2 and inputs.shape.is_fully_defined()


def _affine(layer: Any, inputs: Any, axes: int) -> Any:
    """activation(inputs kernel + bias), with a sum over the last `axes` axes of the inputs."""
    kernel = keras.ops.convert_to_tensor(layer.kernel)
    width, outputs = math.prod(kernel.shape[:axes]), kernel.shape[axes:]
    rows = _product(tf.reshape(inputs, (-1, width)), tf.reshape(kernel, (width, -1)))
    if layer.bias is not None:
        rows = keras.ops.add(rows, keras.ops.reshape(layer.bias, (-1,)))
    shape = (*inputs.shape[: inputs.shape.rank - axes], *outputs)
    if layer.activation is activations.gelu:
        return tf.reshape(_activated(layer.activation, rows), shape)
    # Others get the layer's own shape: they may look at any axis, and softmax and sigmoid leave their logits on what
    # they return (`_keras_logits`), from which Keras' losses compute.
    rows = tf.reshape(rows, shape)
    return rows if layer.activation is None else layer.activation(rows)


@tf.custom_gradient
def _product(x: Any, kernel: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
    def gradient(g: Any) -> tuple[Any, Any]:
        if kernel.shape[0] > kernel.shape[1]:
            # The maximum changes nothing. Without it XLA turns the transposed product back.
            of_kernel = tf.transpose(tf.maximum(tf.matmul(g, x, transpose_a=True), -math.inf))
        else:
            of_kernel = tf.matmul(x, g, transpose_a=True)
        return tf.matmul(g, kernel, transpose_b=True), of_kernel

    return tf.matmul(x, kernel), gradient


def _activated(activation: Callable[[Any], Any], x: Any) -> Any:
    return _gelu(x) if activation is activations.gelu and x.dtype == tf.float32 else activation(x)


@tf.custom_gradient
def _gelu(x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """x Phi(x), with Keras' operations; the gradient is Phi(x) + x phi(x)."""

    def gradient(g: Any) -> Any:
        distribution = 0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5)))
        return g * (distribution + x * (tf.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)))

    return activations.gelu(x), gradient
