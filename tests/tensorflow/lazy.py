"""Sparse gradients for the tests of lazy steps: a problem, what must come out of it, and what an optimizer holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from reference import DISCRIMINATING, same_bits

from adamas.kernels import reference, rows
from adamas.rule import Clip, Hyper, Rule, Scalars, clip_factor, update
from adamas.scalars import scalars
from adamas.tensorflow import Adam

SHAPES: list[tuple[int, ...]] = [(40, 3), (7,), (9, 2, 5), (4, 4), ()]
# Which gradients of a step are sparse (s), dense (d) or missing (-): tables, one that is also used whole, dense ones.
STEPS = ["sssdd", "ssdd-", "s-sdd", "dssdd", "sssd-", "sdsdd", "ss-dd", "sssdd"]
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "discriminating": DISCRIMINATING,
    "clipnorm": {"clipnorm": 0.5, "learning_rate": 0.1},
    "clipvalue": {"clipvalue": 0.05, "learning_rate": 0.1, "loss_scale_factor": 8.0},
    "global_clipnorm": {"global_clipnorm": 0.7, "learning_rate": 0.1, "loss_scale_factor": 0.5},
}
CLIPS = {"clipnorm": "norm", "clipvalue": "value", "global_clipnorm": "global_norm"}

Gradient = np.ndarray | tuple[np.ndarray, np.ndarray] | None


class Lazy:
    """What an optimizer must give: adamas.kernels.rows for sparse gradients, adamas.rule for dense ones."""

    def __init__(self, params: Sequence[np.ndarray], learning_rate: float = 1e-3, **settings: Any) -> None:
        get = settings.get
        self.rule = get("rule") or Rule("keras", amsgrad="raw" if get("amsgrad") else "off")
        self.hyper = Hyper(
            float(np.float32(learning_rate)),
            get("beta_1", 0.9),
            get("beta_2", 0.999),
            get("epsilon", 1e-7),
            0.0,
            get("weight_decay", 0.0),
        )
        self.clip = next((Clip(kind, settings[name]) for name, kind in CLIPS.items() if name in settings), None)
        self.scale = 1.0 / get("loss_scale_factor", 1.0)
        self.params = [np.array(p) for p in params]
        self.slots = [[np.zeros_like(p) for _ in self.rule.slots] for p in params]
        self.seen = [np.zeros(len(p) + 1 if p.ndim else 1, np.int32) for p in params]
        self.t = 0

    def step(self, grads: Sequence[Gradient]) -> None:
        self.t += 1
        sums = [rows.add_up(*g, len(p)) if isinstance(g, tuple) else g for g, p in zip(grads, self.params, strict=True)]
        squares = [0.0] * len(sums)
        for i, (g, p) in enumerate(zip(sums, self.params, strict=True)):
            whole = np.zeros_like(p)
            if isinstance(g, tuple):
                whole[g[0]] = g[1]
            with reference.ieee():
                squares[i] = reference.sum_of_squares([whole if isinstance(g, tuple) else g])
        # The sum over tensors: the tables' first, as the op is told of them; equal to any other order but for one bit.
        together = sum(s for s, g in zip(squares, sums, strict=True) if isinstance(g, tuple)) + sum(
            s for s, g in zip(squares, sums, strict=True) if not isinstance(g, tuple)
        )
        for i, g in enumerate(sums):
            if g is None:
                continue
            total = together if self.clip is not None and self.clip.kind == "global_norm" else squares[i]
            place = (self.params[i], self.slots[i], self.seen[i])
            if isinstance(g, tuple):
                rows.step(self.rule, self.hyper, self.t, *place, *g, self.scale, self.clip, total)
                continue
            if self.params[i].ndim:
                rows.settle(self.hyper, self.slots[i], self.seen[i])
            factor = self.scale
            if self.clip is not None:
                factor *= clip_factor(self.clip.kind, abs(self.scale) * np.sqrt(total), self.clip.bound)
            by_value = self.clip is not None and self.clip.kind == "value"
            s = scalars(self.rule, self.hyper, self.t, factor, self.clip.bound if by_value else np.inf)
            dtype = self.params[i].dtype.type
            self.params[i], new = update(
                self.rule,
                self.params[i],
                g,
                self.slots[i],
                Scalars(*map(dtype, s)),
                coupled=False,
                clipped=by_value,
                tiny=np.finfo(dtype).tiny,
            )
            self.slots[i] = list(new)


def problem(rng: np.random.Generator, dtype: str) -> tuple[list[np.ndarray], list[list[Gradient]]]:
    """Parameters, and the gradients of all STEPS: rows twice and more, from 1e-6 to 10 in size."""
    params = [np.asarray(rng.normal(size=shape), dtype) for shape in SHAPES]

    def gradient(kind: str, shape: tuple[int, ...]) -> Gradient:
        size = 10 ** rng.uniform(-6, 1)
        if kind == "s":
            indices = rng.integers(0, shape[0], 6).astype(rng.choice(["int32", "int64"]))
            indices[rng.integers(0, 6, 3)] = indices[0]
            return indices, np.asarray(rng.normal(size=(6, *shape[1:])) * size, dtype)
        return np.asarray(rng.normal(size=shape) * size, dtype) if kind == "d" else None

    return params, [[gradient(kind, shape) for kind, shape in zip(step, SHAPES, strict=True)] for step in STEPS]


def tensor(gradient: Gradient, shape: tuple[int, ...]) -> Any:
    if isinstance(gradient, tuple):
        return tf.IndexedSlices(tf.constant(gradient[1]), tf.constant(gradient[0]), tf.constant(shape))
    return None if gradient is None else tf.constant(gradient)


def tensors(grads: Sequence[Gradient]) -> list[Any]:
    return [tensor(g, shape) for g, shape in zip(grads, SHAPES, strict=True)]


def moments(optimizer: Adam, i: int) -> list[np.ndarray]:
    """Of parameter i, as they are between two steps."""
    slots = optimizer._ready().slots
    return [np.array(slots.read(slot, i)) for slot in range(len(slots.names))]


def clocks(optimizer: Adam) -> list[np.ndarray]:
    return [seen.numpy() for seen in optimizer._ready().clocks()]


def matches(optimizer: Adam, variables: list[tf.Variable], right: Lazy) -> None:
    assert int(optimizer.iterations) == right.t
    for i, variable in enumerate(variables):
        assert same_bits(variable.numpy(), right.params[i]), variable.shape
        for slot, array in zip(moments(optimizer, i), right.slots[i], strict=True):
            assert same_bits(slot, array), variable.shape
    for mine, its in zip(clocks(optimizer), right.seen, strict=False):
        assert np.array_equal(mine, its)


def with_int64(grads: Sequence[Gradient]) -> list[Gradient]:
    """The same with int64 indices."""
    return [(g[0].astype(np.int64), g[1]) if isinstance(g, tuple) else g for g in grads]


def runner(mode: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Each kind of step is traced once for each of its shapes."""
    return run if mode == "eager" else tf.function(run, jit_compile=mode == "xla", reduce_retracing=False)


def model(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    made = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(500, 6),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    made.compile(Adam(0.05, sparse="lazy", **settings), "mse")
    return made


def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows 400 and above never occur."""
    x = rng.integers(0, 400, (96, 4)).astype(np.int32)
    return x, np.asarray(x[:, :1] % 2, np.float32)
