"""What an optimizer must give: `adamas.rule.update` in NumPy, step by step, with Keras' rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adamas.kernels.reference import ieee, sum_of_squares
from adamas.rule import Clip, Hyper, Rule, Scalars, clip_factor, update
from adamas.scalars import scalars

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
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
        loss_scale_factor: float = 1.0,
    ) -> None:
        self.rule = Rule(eps_mode="keras", amsgrad="raw" if amsgrad else "off")
        self.hyper = Hyper(float(np.float32(learning_rate)), beta_1, beta_2, epsilon, 0.0, weight_decay or 0.0)
        self.params = [np.array(p) for p in params]
        self.slots = [tuple(np.zeros_like(p) for _ in self.rule.slots) for p in params]
        self.scale = 1.0 / loss_scale_factor
        bounds = {"norm": clipnorm, "global_norm": global_clipnorm, "value": clipvalue}
        clips = [Clip(kind, bound) for kind, bound in bounds.items() if bound]  # type: ignore[arg-type]
        self.clip = clips[0] if clips else None
        self.t = 0

    def step(self, grads: Sequence[np.ndarray | None]) -> None:
        self.t += 1
        by_value = self.clip is not None and self.clip.kind == "value"
        with ieee():
            for i, g in enumerate(grads):
                if g is not None:
                    dtype = self.params[i].dtype
                    bound = self.clip.bound if self.clip is not None and by_value else math.inf
                    numbers = scalars(self.rule, self.hyper, self.t, self.scale * self._factor(g, grads), bound)
                    self.params[i], self.slots[i] = update(
                        self.rule,
                        self.params[i],
                        g,
                        self.slots[i],
                        Scalars(*(dtype.type(number) for number in numbers)),
                        coupled=False,
                        clipped=by_value,
                        tiny=np.finfo(dtype).tiny,
                    )

    def _factor(self, own: np.ndarray, grads: Sequence[np.ndarray | None]) -> float:
        if self.clip is None:
            return 1.0
        counted = [own] if self.clip.kind == "norm" else grads
        return clip_factor(self.clip.kind, self.scale * math.sqrt(sum_of_squares(counted)), self.clip.bound)


def same_bits(given: object, expected: np.ndarray) -> bool:
    array = np.asarray(given)
    return array.dtype == expected.dtype and array.shape == expected.shape and array.tobytes() == expected.tobytes()
