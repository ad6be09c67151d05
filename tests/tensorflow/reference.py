"""What an optimizer must give: `adamas.rule.update` in NumPy, step by step, with Keras' rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adamas.rule import Hyper, Rule, Scalars, scalars, update

# The point where all the classic mistakes show (docs: peers), with decay and both betas far from their defaults.
DISCRIMINATING = {
    "learning_rate": 0.02,
    "beta_1": 0.8,
    "beta_2": 0.95,
    "epsilon": 1e-3,
    "weight_decay": 0.1,
    "amsgrad": True,
}
SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (31,), (3, 5), (4096,), (4097,), (33, 257)]


def tensors(rng: np.random.Generator, shapes: Sequence[tuple[int, ...]], dtype: str = "float32") -> list[np.ndarray]:
    return [np.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def gradients(rng: np.random.Generator, shapes: Sequence[tuple[int, ...]], dtype: str = "float32") -> list[np.ndarray]:
    """From 1e-6 to 10 in size."""
    return [np.asarray(rng.normal(size=shape) * 10 ** rng.uniform(-6, 1), dtype) for shape in shapes]


class Reference:
    """Keras' Adam in NumPy; `step` changes `params` and `slots` by replacing their arrays."""

    def __init__(
        self,
        params: Sequence[np.ndarray],
        learning_rate: float = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        amsgrad: bool = False,
    ) -> None:
        self.rule = Rule(eps_mode="keras", amsgrad="raw" if amsgrad else "off")
        self.hyper = Hyper(float(np.float32(learning_rate)), beta_1, beta_2, epsilon, 0.0, weight_decay or 0.0)
        self.params = [np.array(p) for p in params]
        self.slots = [tuple(np.zeros_like(p) for _ in self.rule.slots) for p in params]
        self.t = 0

    def step(self, grads: Sequence[np.ndarray | None]) -> None:
        self.t += 1
        numbers = scalars(self.rule, self.hyper, self.t)
        for i, g in enumerate(grads):
            if g is not None:
                dtype = self.params[i].dtype
                self.params[i], self.slots[i] = update(
                    self.params[i],
                    g,
                    self.slots[i],
                    Scalars(*(dtype.type(number) for number in numbers)),
                    coupled=False,
                    tiny=np.finfo(dtype).tiny,
                )


def same_bits(given: object, expected: np.ndarray) -> bool:
    array = np.asarray(given)
    return array.dtype == expected.dtype and array.shape == expected.shape and array.tobytes() == expected.tobytes()
