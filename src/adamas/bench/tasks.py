"""What the models of `train` learn: data, architecture and starting weights, the same for every framework.

The weights are NumPy arrays in the order and the layouts of Keras' `model.get_weights()`; each framework's own model
starts from them, so that all of them begin with the same loss. Every loss is the mean cross-entropy of logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

CHECKED = 512  # rows over which the loss before and after a training is taken


@dataclass(frozen=True)
class Task:
    """One training: `epochs` walks over x and y in batches, with Adam's default settings but the learning rate."""

    architecture: str
    sizes: dict[str, Any]
    x: np.ndarray
    y: np.ndarray  # int32 classes
    weights: list[np.ndarray]
    batch: int
    epochs: int
    learning_rate: float
    restarts: bool  # whether every run begins with the weights above, or goes on where the one before it ended

    @property
    def has_table(self) -> bool:
        """Whether the model looks up rows of a table, so that the gradient of the table is sparse."""
        return self.architecture in ("embedding", "transformer")

    def order(self, epoch: int, shuffle: bool) -> np.ndarray:
        """The examples in a new order for each epoch, the same for every peer that takes one; or in turn."""
        count = len(self.x)
        return np.random.default_rng(epoch).permutation(count) if shuffle else np.arange(count)


def task(
    architecture: str,
    samples: int,
    batch: int,
    epochs: int,
    learning_rate: float = 1e-3,
    restarts: bool = True,
    **sizes: Any,
) -> Task:
    """The task that a case's arguments describe; the same numbers at every call."""
    makes: list[Callable[..., Any]] = [_mlp, _embedding, _cnn, _transformer]
    make = next(make for make in makes if make.__name__ == f"_{architecture}")
    x, y, weights = make(np.random.default_rng(0), samples, **sizes)
    return Task(architecture, sizes, x, y, weights, batch, epochs, learning_rate, restarts)


def _glorot(rng: np.random.Generator, *shape: int, inputs: int, outputs: int) -> np.ndarray:
    limit = np.sqrt(6 / (inputs + outputs))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def _dense(rng: np.random.Generator, inputs: int, outputs: int) -> list[np.ndarray]:
    return [_glorot(rng, inputs, outputs, inputs=inputs, outputs=outputs), np.zeros(outputs, np.float32)]


def _mlp(rng: np.random.Generator, samples: int, hidden: list[int]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The handwritten digits that ship inside scikit-learn, and dense layers with relu between them."""
    x, y = load_digits(return_X_y=True)
    weights = [w for n, k in itertools.pairwise((64, *hidden, 10)) for w in _dense(rng, n, k)]
    return (x[:samples] / 16.0).astype(np.float32), y[:samples].astype(np.int32), weights


def _embedding(
    rng: np.random.Generator, samples: int, rows: int, width: int, ids: int, hidden: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Two classes of texts. Half of the words are common and differ by class; the others are from the whole table."""
    y = rng.integers(0, 2, samples, dtype=np.int32)
    common = rng.choice(rows, 250, replace=False)
    x = rng.integers(0, rows, (samples, ids), dtype=np.int32)
    x[:, ::2] = common[rng.integers(0, 150, (samples, (ids + 1) // 2)) + 100 * y[:, None]]
    table = rng.random((rows, width), dtype=np.float32)
    table -= 0.5
    table *= 0.1
    return x, y, [table, *_dense(rng, ids * width, hidden), *_dense(rng, hidden, 2)]


def _cnn(
    rng: np.random.Generator, samples: int, filters: list[int], hidden: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The digits as pictures of 32 x 32; convolutions of 3 x 3, each with relu and a pooling of 2 x 2; dense layers."""
    x, y = load_digits(return_X_y=True)
    pictures = np.kron(x[:samples].reshape(-1, 8, 8) / 16.0, np.ones((1, 4, 4)))[..., None].astype(np.float32)
    weights = []
    for n, k in itertools.pairwise((1, *filters)):
        weights += [_glorot(rng, 3, 3, n, k, inputs=9 * n, outputs=9 * k), np.zeros(k, np.float32)]
    side = 32 >> len(filters)
    return (
        pictures,
        y[:samples].astype(np.int32),
        [*weights, *_dense(rng, side * side * filters[-1], hidden), *_dense(rng, hidden, 10)],
    )


def _transformer(
    rng: np.random.Generator, samples: int, vocabulary: int, length: int, width: int, heads: int, blocks: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Predict the next token: nine times in ten a fixed successor of the token before it.

    Pre-norm blocks of causal attention and a gelu layer four times as wide. There are no positions: a causal mask is
    enough, and a table of positions would cost the same everywhere.
    """
    successor = rng.permutation(vocabulary)
    tokens = np.empty((samples, length + 1), np.int32)
    tokens[:, 0] = rng.integers(0, vocabulary, samples)
    for t in range(length):
        other = rng.integers(0, vocabulary, samples)
        tokens[:, t + 1] = np.where(rng.random(samples) < 0.9, successor[tokens[:, t]], other)
    depth = width // heads
    norm = [np.ones(width, np.float32), np.zeros(width, np.float32)]
    weights = [rng.uniform(-0.05, 0.05, (vocabulary, width)).astype(np.float32)]
    for _ in range(blocks):
        weights += norm
        for _ in ("query", "key", "value"):
            weights.append(_glorot(rng, width, heads, depth, inputs=width, outputs=width))
            weights.append(np.zeros((heads, depth), np.float32))
        weights.append(_glorot(rng, heads, depth, width, inputs=width, outputs=width))
        weights.append(np.zeros(width, np.float32))
        weights += [*norm, *_dense(rng, width, 4 * width), *_dense(rng, 4 * width, width)]
    return tokens[:, :-1], tokens[:, 1:], [*weights, *norm, *_dense(rng, width, vocabulary)]
