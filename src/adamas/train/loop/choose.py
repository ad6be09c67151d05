"""Which step program trains a model: a fixed table of kinds, never a timing.

A timing would choose differently from one run to the next, and dropout masks and the last bits of sums differ between a
program compiled by XLA and one that is not.

Samples per second, batch 32, two cores of an x86-64 server, TensorFlow 2.21, 2026-11:

    model                   graph     xla-loop
    digits MLP, width 64    334,000    698,000
    digits MLP, width 512    24,800     41,700
    small transformer           388        598
    small CNN                 2,690        320

XLA's convolutions on CPUs are slow, and of kinds that were not measured nothing is known: both get `graph`. So do
models whose optimizer step is bound by memory, which the native op reads and writes less often than code made by XLA.
Samples per second of processor time, the machine being busy with other work, where `xla` stands as well:

    model                                 graph       xla    xla-loop
    digits MLP, width 512, batch 32      26,700                24,500
    digits MLP, width 1024, batch 32      7,800                 5,300
    digits MLP, width 2048, batch 32      1,800                 1,140
    27 M MLP, batch 8                        97        98          61
    digits MLP, width 64, batch 32      136,000   133,000     441,000
    small transformer                       346       385         428
    CNN on 32 x 32, 32 and 64 filters     2,490     1,000

`xla` is nowhere the fastest by more than the noise, so that it is used only where it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

from adamas.errors import ArgumentError

PROGRAMS = ("graph", "xla", "xla-loop")

# Keras' own layers, by class name, that XLA compiles into code at least as fast as TensorFlow's kernels. Each of them
# is trained with every program by tests/train/test_fit_choose.py.
_LAYERS = frozenset(
    """
    InputLayer Dense EinsumDense Identity Rescaling
    Activation ReLU LeakyReLU PReLU ELU Softmax
    Dropout SpatialDropout1D GaussianDropout GaussianNoise ActivityRegularization
    BatchNormalization LayerNormalization UnitNormalization
    Add Subtract Multiply Average Maximum Minimum Concatenate Dot
    Flatten Reshape Permute RepeatVector
    Embedding Attention MultiHeadAttention GlobalAveragePooling1D GlobalMaxPooling1D
    """.split()
)
# The gradient of a table is mostly zeros, and XLA takes longer over them than one native call for all parameters.
# 500 x 16 with 40 tokens a row: graph 11.8, xla-loop 5.3 ms an epoch of 44 steps; 20,000 x 16: 35 and 90 (2 cores,
# TensorFlow 2.21, 2026-11).
_LARGEST_EMBEDDING = 1 << 17  # elements
_MOST_PARAMETERS = 1 << 20  # trainable numbers: between the widths 512 (0.3 M) and 1024 (1.1 M) of the table above
_CONTAINERS = frozenset({"Sequential", "Functional"})
_METRICS = frozenset(
    """
    Mean MeanMetricWrapper Sum MeanSquaredError RootMeanSquaredError MeanAbsoluteError MeanAbsolutePercentageError
    MeanSquaredLogarithmicError Accuracy BinaryAccuracy CategoricalAccuracy SparseCategoricalAccuracy
    TopKCategoricalAccuracy SparseTopKCategoricalAccuracy BinaryCrossentropy CategoricalCrossentropy
    SparseCategoricalCrossentropy KLDivergence Poisson Hinge SquaredHinge CategoricalHinge CompileMetrics
    """.split()
)

# Names that stand for one of these metrics, according to the shapes.
_BY_SHAPE = frozenset({"accuracy", "acc", "crossentropy", "ce"})


def choose_program(model: Any) -> str:
    """The step program that `fit(model, ..., program="auto")` uses: "graph" or "xla-loop".

    "xla-loop" if the model was compiled with `jit_compile=True` (Keras sets it by itself where it finds a GPU), or if
    it is a `keras.Sequential` or functional model and each of its layers, its losses, metrics and optimizer are of
    kinds that are known to be faster that way, and it trains at most 2^20 numbers; else "graph". The same model gets
    the same answer on every CPU. The numbers of a model without weights yet are not counted.

    Args:
        model: a compiled Keras model.

    Raises:
        ArgumentError: not a Keras model, or not compiled.
    """
    if not isinstance(model, keras.Model):
        raise ArgumentError(f"choose_program takes a keras.Model, not {type(model).__name__}")
    if not model.compiled:
        raise ArgumentError("the model is not compiled: call model.compile(optimizer=..., loss=...)")
    if model.jit_compile:
        return "xla-loop"
    return "graph" if any(True for _ in _unknown(model)) else "xla-loop"


def _unknown(model: Any) -> Iterator[object]:
    """What the table does not know of a model, or knows to be slow."""
    yield from _unknown_layers(model)
    if model.built and sum(math.prod(variable.shape) for variable in model.trainable_variables) > _MOST_PARAMETERS:
        yield model
    if not type(model.optimizer).__module__.startswith(("keras.", "adamas.")):
        yield model.optimizer
    if type(model.optimizer).__name__ == "LossScaleOptimizer":  # branches on whether gradients are finite: not measured
        yield model.optimizer
    yield from _foreign(keras.tree.flatten(model.loss))
    for metric in [*_asked_metrics(model), *model.metrics]:
        if isinstance(metric, keras.metrics.Metric):
            if not (_is_keras(metric) and type(metric).__name__ in _METRICS):
                yield metric
            yield from _foreign([getattr(metric, "_fn", None)])  # MeanMetricWrapper around a function
        else:
            yield from _foreign([metric])


def _asked_metrics(model: Any) -> Iterator[object]:
    """What was given to compile. Keras makes metrics of it at the first batch; the answer must be the same before."""
    given = model._compile_metrics
    if given is None:
        return
    for metric in keras.tree.flatten([given._user_metrics, given._user_weighted_metrics]):
        if isinstance(metric, str) and metric.lower() not in _BY_SHAPE:
            yield keras.metrics.get(metric)
        elif metric is not None and not isinstance(metric, str):
            yield metric


def _unknown_layers(model: Any) -> Iterator[object]:
    if not (_is_keras(model) and type(model).__name__ in _CONTAINERS):
        yield model
        return
    operations = model.operations if type(model).__name__ == "Functional" else model.layers
    for layer in operations:
        if isinstance(layer, keras.Model):
            yield from _unknown_layers(layer)
        elif not (_is_keras(layer) and type(layer).__name__ in _LAYERS) or _is_large_embedding(layer):
            yield layer
        else:
            for name, value in vars(layer).items():
                if name.endswith(("activation", "regularizer", "constraint")):
                    yield from _foreign([value])


def _is_large_embedding(layer: Any) -> bool:
    return type(layer).__name__ == "Embedding" and layer.input_dim * layer.output_dim > _LARGEST_EMBEDDING


def _foreign(values: list[Any]) -> Iterator[object]:
    """Functions and objects that are neither Keras' own nor a name of one."""
    for value in values:
        if value is not None and not isinstance(value, str) and not _is_keras(value):
            yield value


def _is_keras(value: Any) -> bool:
    module = value.__module__ if isinstance(value, type) or callable(value) else type(value).__module__
    return str(module).startswith("keras.")
