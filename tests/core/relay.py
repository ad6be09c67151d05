"""One leg of a training that moves from framework to framework: `python relay.py FRAMEWORK FOLDER FIRST LAST`.

In FOLDER are weights.npz and, but for the first leg, state.safetensors, for each way of storing moments; the leg takes
the steps FIRST ... LAST - 1 with gradients that depend on nothing but the step, and writes both back.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from adamas import state

SHAPES = {"dense/kernel": (70, 65), "dense/bias": (65,), "scale/w": ()}
LR = 2.0**-6  # the same number in float32 and float64
NAMES = {  # each framework has its own
    "numpy": list(SHAPES),
    "tensorflow": [f"model/{name}" for name in SHAPES],
    "torch": ["0.weight", "0.bias", "1.w"],
    "jax": ["layers/0/kernel", "layers/0/bias", "layers/1/w"],
}
MOMENTS: tuple[Any, ...] = ("float32", "bfloat16", "int8")


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(rng.standard_normal(shape), np.float32) for shape in SHAPES.values()]


def gradients(t: int) -> list[np.ndarray]:
    rng = np.random.default_rng(t)
    return [np.asarray(rng.standard_normal(s) * 10 ** rng.uniform(-4, 1), np.float32) for s in SHAPES.values()]


class Numpy:
    """What each framework is here: made over values, loaded, stepped, read."""

    def __init__(self, values: list[np.ndarray], moments: Any, seed: int) -> None:
        from adamas.numpy import Adam

        self.params = dict(zip(NAMES["numpy"], values, strict=True))
        self.optimizer = Adam(self.params, lr=LR, like="keras", moments=moments, seed=seed)

    def load(self, path: Path, names: dict[str, str]) -> None:
        state.load(path, self.optimizer, names=names)

    def step(self, grads: list[np.ndarray]) -> None:
        self.optimizer.step(dict(zip(self.params, grads, strict=True)))

    def save(self, path: Path) -> list[np.ndarray]:
        state.save(path, self.optimizer)
        return list(self.params.values())


class Tensorflow(Numpy):
    def __init__(self, values: list[np.ndarray], moments: Any, seed: int) -> None:
        import tensorflow as tf

        from adamas.tensorflow import Adam

        self.constant = tf.constant
        self.variables = [tf.Variable(v, name=name) for v, name in zip(values, NAMES["tensorflow"], strict=True)]
        self.optimizer = Adam(LR, moments=moments, seed=seed)
        self.optimizer.build(self.variables)

    def step(self, grads: list[np.ndarray]) -> None:
        self.optimizer.apply([self.constant(g) for g in grads], self.variables)

    def save(self, path: Path) -> list[np.ndarray]:
        state.save(path, self.optimizer)
        return [np.array(v.numpy()) for v in self.variables]


class Torch(Numpy):
    def __init__(self, values: list[np.ndarray], moments: Any, seed: int) -> None:
        import torch

        from adamas.torch import Adam

        self.tensor = torch.tensor
        self.named = [(n, torch.nn.Parameter(torch.tensor(v))) for n, v in zip(NAMES["torch"], values, strict=True)]
        self.optimizer = Adam(self.named, lr=LR, eps=1e-7, like="keras", moments=moments, seed=seed)

    def step(self, grads: list[np.ndarray]) -> None:
        for (_, p), g in zip(self.named, grads, strict=True):
            p.grad = self.tensor(g)
        self.optimizer.step()

    def save(self, path: Path) -> list[np.ndarray]:
        state.save(path, self.optimizer)
        return [p.detach().numpy().copy() for _, p in self.named]


class Jax(Numpy):
    def __init__(self, values: list[np.ndarray], moments: Any, seed: int) -> None:
        import jax.numpy as jnp

        from adamas.jax import adam

        self.optimizer = adam(LR, eps=1e-7, like="keras", moments=moments, seed=seed, kernel="native")
        self.array = jnp.asarray
        self.params = self.tree([self.array(v) for v in values])
        self.state = self.optimizer.init(self.params)

    @staticmethod
    def tree(values: list[Any]) -> Any:
        kernel, bias, w = values
        return {"layers": [{"kernel": kernel, "bias": bias}, {"w": w}]}

    def load(self, path: Path, names: dict[str, str]) -> None:
        self.state = self.optimizer.load_portable_state(state.load(path, names=names), self.params)

    def step(self, grads: list[np.ndarray]) -> None:
        grads_tree = self.tree([self.array(g) for g in grads])
        self.params, self.state = self.optimizer.step(self.params, grads_tree, self.state)

    def save(self, path: Path) -> list[np.ndarray]:
        state.save(path, self.optimizer.portable_state(self.state, self.params))
        first, second = self.params["layers"]
        return [np.array(first["kernel"]), np.array(first["bias"]), np.array(second["w"])]


KINDS = {"numpy": Numpy, "tensorflow": Tensorflow, "torch": Torch, "jax": Jax}


def main(framework: str, folder: Path, first: int, last: int) -> None:
    for moments in MOMENTS:
        weights, kept = folder / f"{moments}.npz", folder / f"{moments}.safetensors"
        values = list(np.load(weights).values()) if kept.exists() else start()
        leg = KINDS[framework](values, moments, seed=7 if first == 1 else 0)
        if kept.exists():
            before = state.load(kept).names
            order = {
                name: own
                for own, names in zip(SHAPES, zip(*NAMES.values(), strict=True), strict=True)
                for name in names
            }
            own = dict(zip(SHAPES, NAMES[framework], strict=True))
            leg.load(kept, {name: own[order[name]] for name in before})
        for t in range(first, last):
            leg.step(gradients(t))
        np.savez(weights, *leg.save(kept))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
