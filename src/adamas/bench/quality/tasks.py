"""The trainings: small models on real data, each trained from many seeds at once.

Every weight has the seeds as its first axis, so that one call of torch computes the same layer of all of them; nothing
flows from one seed to another. The arithmetic is float32 whatever the weights are stored in, so that rows of the table
differ in nothing but what the optimizer stores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adamas.bench.quality import data

Weights = dict[str, np.ndarray]
Stacked = dict[str, Tensor]  # the weights of all seeds: [seeds, ...]


@dataclass(frozen=True)
class Task:
    """One training: AdamW for `steps` batches, the learning rate falling to zero along half a cosine.

    initial(random) gives one seed's first weights; loss(weights, x, y) the mean loss of each seed's rows [seeds].
    """

    key: str
    name: str
    data: Callable[[], data.Data]
    initial: Callable[[np.random.Generator], Weights]
    loss: Callable[[Stacked, Tensor, Tensor], Tensor]
    batch: int
    steps: int
    lr: float
    seeds: int
    weight_decay: float = 0.01

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... of `steps`."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / steps))

    @property
    def parameters(self) -> int:
        """Weights of one seed's model."""
        return sum(weight.size for weight in self.initial(np.random.default_rng(0)).values())


def dense(random: np.random.Generator, name: str, inputs: int, outputs: int) -> Weights:
    """A layer's weights, uniform as Glorot & Bengio (2010) have them, and its biases, 0."""
    limit = math.sqrt(6 / (inputs + outputs))
    kernel = random.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
    return {f"{name}.w": kernel, f"{name}.b": np.zeros(outputs, np.float32)}


def apply(weights: Stacked, name: str, x: Tensor) -> Tensor:
    """The layer `dense` on x [seeds, ..., inputs]."""
    w, b = weights[f"{name}.w"], weights[f"{name}.b"]
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.baddbmm(b.unsqueeze(1), flat, w).view(*x.shape[:-1], w.shape[-1])


def entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each seed, in nats."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none").view(y.shape[0], -1).mean(1)


# Digits: a network of dense layers -----------------------------------------------------------------------------------

MLP = (64, 128, 64, 10)


def mlp_initial(random: np.random.Generator) -> Weights:
    layers = [dense(random, f"{i}", *sizes) for i, sizes in enumerate(itertools.pairwise(MLP))]
    return {name: value for layer in layers for name, value in layer.items()}


def mlp_loss(weights: Stacked, x: Tensor, y: Tensor) -> Tensor:
    for i in range(len(MLP) - 2):
        x = apply(weights, f"{i}", x).relu()
    return entropy(apply(weights, f"{len(MLP) - 2}", x), y)


# Digits: an autoencoder ----------------------------------------------------------------------------------------------

CODE = (64, 96, 12, 96, 64)


def code_initial(random: np.random.Generator) -> Weights:
    layers = [dense(random, f"{i}", *sizes) for i, sizes in enumerate(itertools.pairwise(CODE))]
    return {name: value for layer in layers for name, value in layer.items()}


def code_loss(weights: Stacked, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of a pixel, in units of its range."""
    h = x
    for i in range(len(CODE) - 2):
        h = apply(weights, f"{i}", h)
        h = h if i == 1 else F.gelu(h)
    return (apply(weights, f"{len(CODE) - 2}", h) - x).square().flatten(1).mean(1)


# Digits: a convolutional network -------------------------------------------------------------------------------------


def cnn_initial(random: np.random.Generator) -> Weights:
    return {
        **dense(random, "conv1", 9, 16),
        **dense(random, "conv2", 9 * 16, 32),
        **dense(random, "out", 32 * 2 * 2, 10),
    }


def conv(weights: Stacked, name: str, x: Tensor) -> Tensor:
    """A 3 x 3 convolution, relu, and 2 x 2 pooling; x [seeds, rows, channels, height, width]."""
    seeds, rows, channels, height, width = x.shape
    patches = F.unfold(x.flatten(0, 1), 3, padding=1).view(seeds, rows, 9 * channels, height * width)
    y = apply(weights, name, patches.transpose(2, 3)).relu().transpose(2, 3)
    return F.max_pool2d(y.reshape(seeds * rows, -1, height, width), 2).view(seeds, rows, -1, height // 2, width // 2)


def cnn_loss(weights: Stacked, x: Tensor, y: Tensor) -> Tensor:
    x = x.view(*x.shape[:2], 1, 8, 8)
    x = conv(weights, "conv2", conv(weights, "conv1", x))
    return entropy(apply(weights, "out", x.flatten(2)), y)


# Words: nearly all weights in one table ------------------------------------------------------------------------------

VOCABULARY, CLASSES, WORDS, WIDTH = 8192, 24, 16, 16


def words() -> data.Data:
    return data.words(VOCABULARY, CLASSES, WORDS)


def words_initial(random: np.random.Generator) -> Weights:
    table = random.normal(0, 0.1, (VOCABULARY, WIDTH)).astype(np.float32)
    return {"table": table, **dense(random, "out", WIDTH, CLASSES)}


def look_up(table: Tensor, x: Tensor) -> Tensor:
    """Rows x [seeds, ...] of each seed's table [seeds, rows, width]."""
    seeds, rows, width = table.shape
    first = (torch.arange(seeds) * rows).view(-1, *[1] * (x.dim() - 1))
    return F.embedding(x + first, table.view(seeds * rows, width))


def words_loss(weights: Stacked, x: Tensor, y: Tensor) -> Tensor:
    return entropy(apply(weights, "out", look_up(weights["table"], x).mean(2)), y)


# Characters: a transformer -------------------------------------------------------------------------------------------

SYMBOLS, LENGTH, MODEL, HEADS, BLOCKS = 97, 48, 64, 2, 2


def characters() -> data.Data:
    return data.characters(LENGTH)


def characters_initial(random: np.random.Generator) -> Weights:
    weights = {
        "symbols": random.normal(0, 0.1, (SYMBOLS, MODEL)).astype(np.float32),
        "places": random.normal(0, 0.1, (LENGTH, MODEL)).astype(np.float32),
    }
    for i in range(BLOCKS):
        weights |= dense(random, f"{i}.qkv", MODEL, 3 * MODEL)
        weights |= dense(random, f"{i}.mix", MODEL, MODEL)
        weights |= dense(random, f"{i}.up", MODEL, 4 * MODEL)
        weights |= dense(random, f"{i}.down", 4 * MODEL, MODEL)
    norms = [f"{i}.{part}" for i in range(BLOCKS) for part in ("attend", "think")] + ["last"]
    for norm in norms:
        weights |= {f"{norm}.gain": np.ones(MODEL, np.float32), f"{norm}.shift": np.zeros(MODEL, np.float32)}
    return weights | dense(random, "out", MODEL, SYMBOLS)


def normed(weights: Stacked, name: str, x: Tensor) -> Tensor:
    gain, shift = (weights[f"{name}.{part}"][:, None, None, :] for part in ("gain", "shift"))
    return F.layer_norm(x, (MODEL,)) * gain + shift


def attend(weights: Stacked, i: int, x: Tensor) -> Tensor:
    seeds, rows, length, _ = x.shape
    parts = apply(weights, f"{i}.qkv", x).view(seeds * rows, length, 3, HEADS, MODEL // HEADS).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
    return apply(weights, f"{i}.mix", mixed.transpose(1, 2).reshape(x.shape))


def characters_loss(weights: Stacked, x: Tensor, y: Tensor) -> Tensor:
    """Pre-norm blocks of causal attention and a gelu layer four times as wide; positions are learned."""
    h = look_up(weights["symbols"], x) + weights["places"][:, None, :, :]
    for i in range(BLOCKS):
        h = h + attend(weights, i, normed(weights, f"{i}.attend", h))
        h = h + apply(weights, f"{i}.down", F.gelu(apply(weights, f"{i}.up", normed(weights, f"{i}.think", h))))
    return entropy(apply(weights, "out", normed(weights, "last", h)), y)


TASKS = (
    Task("mlp", "digits, dense layers", data.digits, mlp_initial, mlp_loss, batch=32, steps=600, lr=3e-3, seeds=32),
    Task("cnn", "digits, convolutions", data.digits, cnn_initial, cnn_loss, batch=32, steps=400, lr=5e-3, seeds=32),
    Task("code", "digits, autoencoder", data.digits, code_initial, code_loss, batch=32, steps=600, lr=3e-3, seeds=32),
    Task("words", "sources, word table", words, words_initial, words_loss, batch=64, steps=400, lr=1e-2, seeds=16),
    Task(
        "characters",
        "sources, character transformer",
        characters,
        characters_initial,
        characters_loss,
        batch=8,
        steps=300,
        lr=3e-3,
        seeds=12,
    ),
)
