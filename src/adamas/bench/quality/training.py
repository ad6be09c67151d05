"""Trains one task from many seeds at once, with `adamas.numpy.AdamW` over torch's tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from adamas.bench.quality.data import Rows
from adamas.bench.quality.storages import Storage
from adamas.bench.quality.tasks import Stacked, Task
from adamas.numpy import AdamW

PIECE = 128  # held-out rows of each seed at once
LOSS_SCALE = 1024.0  # of float16, whose gradients would underflow; a power of two, so that it changes nothing else


def train(task: Task, storage: Storage, seeds: Sequence[int], steps: int) -> np.ndarray:
    """The mean held-out loss of each seed after `steps` steps, in float64.

    A seed decides the first weights and the order of the examples, and nothing else does: the storages of a task
    differ only in what is stored.
    """
    data = task.data()
    firsts = [task.initial(np.random.default_rng([seed, 0])) for seed in seeds]
    weights = {name: stacked([first[name] for first in firsts], storage) for name in firsts[0]}
    optimizer = AdamW(
        _by_seed(weights.values(), weights, seeds),
        weight_decay=task.weight_decay,
        moments=storage.moments,
        weights=storage.rounding,
        nonfinite="propagate",  # one seed's overflow must not hold up the others, which share the optimizer
    )
    order = torch.from_numpy(np.stack([_order(seed, len(data.train.x), task.batch, steps) for seed in seeds]))
    x, y = map(torch.from_numpy, data.train)
    scale = LOSS_SCALE if storage.dtype == "float16" else 1.0
    for step in range(steps):
        rows = order[:, step]
        loss = task.loss(_computed(weights), x[rows], y[rows]).sum() * scale
        gradients = torch.autograd.grad(loss, list(weights.values()))
        optimizer.lr = task.rate(step, steps)
        optimizer.step(_by_seed(gradients, weights, seeds), grad_scale=1 / scale)
    return evaluate(task, weights, data.held_out)


def evaluate(task: Task, weights: Stacked, rows: Rows) -> np.ndarray:
    """The mean loss of each seed on these rows."""
    x, y = map(torch.from_numpy, rows)
    seeds = len(next(iter(weights.values())))
    total = np.zeros(seeds)
    with torch.no_grad():
        for first in range(0, len(x), PIECE):
            some = [part[first : first + PIECE] for part in (x, y)]
            mean = task.loss(_computed(weights), *(part.expand(seeds, *part.shape) for part in some))
            total += len(some[0]) * mean.double().numpy()
    return total / len(x)


def stored(task: Task) -> float:
    """The share of the weights that are in tensors large enough for a format of 8 bits; the others keep float32."""
    weights = task.initial(np.random.default_rng(0))
    tensors = AdamW(weights, moments="int8").describe().tensors
    return sum(tensor.size for tensor in tensors if not tensor.why) / task.parameters


def stacked(firsts: list[np.ndarray], storage: Storage) -> Tensor:
    """One weight of all seeds, in the dtype that it is stored in, ready for gradients."""
    values = np.stack(firsts)
    if storage.nudged:
        values = np.nextafter(values, np.float32(np.inf))
    return torch.from_numpy(values).to(getattr(torch, storage.dtype)).requires_grad_()


def _computed(weights: Stacked) -> Stacked:
    return {name: weight.float() for name, weight in weights.items()}


def _order(seed: int, count: int, batch: int, steps: int) -> np.ndarray:
    """Which rows each batch takes [steps, batch]: the rows in a new order, again and again."""
    random = np.random.default_rng([seed, 1])
    walks = [random.permutation(count) for _ in range(-(-steps * batch // count))]
    return np.concatenate(walks)[: steps * batch].reshape(steps, batch)


def _by_seed(tensors: Iterable[Tensor], weights: Stacked, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """One NumPy array, over the same memory, for each tensor and seed: a seed's training knows of no other."""
    return {
        f"{name} of seed {seed}": stack[i]
        for name, stack in zip(weights, map(_array, tensors), strict=True)
        for i, seed in enumerate(seeds)
    }


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has no such dtype of its own
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
