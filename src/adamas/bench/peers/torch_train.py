"""The plain training loop of torch, with the fastest Adam that it has on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from adamas.bench.job import Job
from adamas.bench.tasks import CHECKED, Task, task


def peers(lazy: bool = False, **arguments: Any) -> dict[str, Callable[[], Job]]:
    given = task(**arguments)
    return {f"torch loop, {'SparseAdam' if lazy else 'Adam fused'}": lambda: _job(given, lazy)}


def _job(given: Task, sparse: bool) -> Job:
    x, y = torch.from_numpy(given.x), torch.from_numpy(given.y).long()
    model = Embedding(given, sparse) if given.architecture == "embedding" else MODELS[given.architecture](given)
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse]
    others = [p for p in model.parameters() if all(p is not table for table in tables)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=given.learning_rate, fused=True)]
    if tables:
        optimizers.append(torch.optim.SparseAdam(tables, lr=given.learning_rate))
    loss = nn.CrossEntropyLoss()
    start = {name: value.clone() for name, value in model.state_dict().items()} if given.restarts else {}
    means: list[float] = []

    def run(shuffle: bool = True) -> None:
        for epoch in range(given.epochs):
            total = torch.zeros(())
            for rows in torch.from_numpy(given.order(epoch, shuffle)).split(given.batch):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                value = loss(model(x[rows]).flatten(0, -2), y[rows].flatten())
                value.backward()
                for optimizer in optimizers:
                    optimizer.step()
                total += value.detach() * len(rows)
            means.append(total.item() / len(x))

    def restart() -> None:
        model.load_state_dict(start)
        with torch.no_grad():
            for optimizer in optimizers:
                for state in optimizer.state.values():
                    for value in state.values():
                        value.zero_()

    @torch.no_grad()
    def current() -> float:
        return loss(model(x[:CHECKED]).flatten(0, -2), y[:CHECKED].flatten()).item()

    def trial() -> tuple[float, float]:
        before = current()
        run(shuffle=False)
        return before, current()

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Job(
        run,
        restart if given.restarts else None,
        trial,
        parameters,
        "leaves out the decay of silent rows" if sparse else "",
    )


def _put(target: torch.Tensor | None, value: np.ndarray) -> None:
    assert target is not None
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(target.shape))


def _linear(kernel: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """A layer from Keras' kernel, of inputs x outputs."""
    layer = nn.Linear(*kernel.shape)
    _put(layer.weight, kernel.T)
    _put(layer.bias, bias)
    return layer


def _mlp(given: Task) -> nn.Module:
    layers: list[nn.Module] = []
    for pair in _pairs(given.weights):
        layers += [_linear(*pair), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _pairs(weights: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(weights[::2], weights[1::2], strict=True))


class Embedding(nn.Module):
    def __init__(self, given: Task, sparse: bool = False):
        super().__init__()
        table = torch.from_numpy(given.weights[0]).clone()
        self.table = nn.Embedding.from_pretrained(table, freeze=False, sparse=sparse)
        self.hidden, self.head = (_linear(*pair) for pair in _pairs(given.weights[1:]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(functional.relu(self.hidden(self.table(ids).flatten(1))))


class Convolutions(nn.Module):
    def __init__(self, given: Task):
        super().__init__()
        *pairs, (kernel, bias), head = _pairs(given.weights)
        self.convolutions = nn.ModuleList()
        for weight, offset in pairs:
            layer = nn.Conv2d(weight.shape[2], weight.shape[3], 3, padding=1)
            _put(layer.weight, weight.transpose(3, 2, 0, 1))
            _put(layer.bias, offset)
            self.convolutions.append(layer)
        # Keras flattens height, width, channels; torch channels, height, width.
        channels, side = pairs[-1][0].shape[3], 32 >> len(pairs)
        kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        self.hidden, self.head = _linear(kernel, bias), _linear(*head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)
        for layer in self.convolutions:
            x = functional.max_pool2d(functional.relu(layer(x)), 2)
        return self.head(functional.relu(self.hidden(x.flatten(1))))


class Block(nn.Module):
    """Causal attention and a gelu layer, each after a normalisation and added to its input."""

    def __init__(self, weights: list[np.ndarray], width: int, heads: int):
        super().__init__()
        self.heads = heads
        norm1, attention, norm2, dense = weights[:2], weights[2:10], weights[10:12], weights[12:]
        self.norm1, self.norm2 = _norm(*norm1), _norm(*norm2)
        kernels = [kernel.reshape(width, width) for kernel in attention[::2]]
        biases = [bias.reshape(width) for bias in attention[1::2]]
        self.qkv = _linear(np.concatenate(kernels[:3], axis=1), np.concatenate(biases[:3]))
        self.out = _linear(kernels[3], biases[3])
        self.up, self.down = _linear(*dense[:2]), _linear(*dense[2:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def _norm(gamma: np.ndarray, beta: np.ndarray) -> nn.LayerNorm:
    layer = nn.LayerNorm(gamma.size, eps=1e-5)
    _put(layer.weight, gamma)
    _put(layer.bias, beta)
    return layer


def _transformer(given: Task) -> nn.Module:
    table, *rest = given.weights
    tokens = nn.Embedding(*table.shape)
    _put(tokens.weight, table)
    width, heads = given.sizes["width"], given.sizes["heads"]
    blocks = [Block(rest[start : start + 16], width, heads) for start in range(0, len(rest) - 4, 16)]
    return nn.Sequential(tokens, *blocks, _norm(*rest[-4:-2]), _linear(*rest[-2:]))


MODELS: dict[str, Callable[[Task], nn.Module]] = {"mlp": _mlp, "cnn": Convolutions, "transformer": _transformer}
