"""A naive twin of Keras' optimizer with every feature of its base class, in float64, with an error bound beside it.

Written in Keras' order: unscale, accumulate, clip, decay, update, average, constrain. `mistake` leaves one thing out or
puts it in the wrong place; the tests must tell each of them from the right one.

The bound is on what float32 costs: u = 2^-24 for each rounding, counted generously, carried through every operation;
Keras' float32 beta^t adds `error_of_alpha` of each step. A sum of n squares is off by n u of itself at most. The bound
holds element by element, but for the columns of a matrix whose norm is constrained: putting a vector back onto a ball
lengthens no difference between two of them, and so the bound there is on the norm of a column, kept as equal elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

U = 2.0**-24


def error_of_alpha(beta1: float, beta2: float, t: int) -> float:
    """Of Keras' step size, relative: beta is rounded to float32, and so is beta^t (see test_parity.py)."""

    def relative(beta: float) -> float:
        return (t * U / 2 * beta ** (t - 1) + U) / (1 - beta**t)

    return relative(beta1) + relative(beta2) / 2 + 8 * U


@dataclass
class Features:
    """What the base class is asked for, in Keras' words; `excluded` are positions of variables, `max_norm` applies to
    matrices."""

    beta1: float = 0.8
    beta2: float = 0.95
    eps: float = 1e-3
    rate: Callable[[int], float] = lambda micro: float(np.float32(0.02))
    weight_decay: float = 0.0
    excluded: tuple[int, ...] = ()
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    clipvalue: float | None = None
    use_ema: bool = False
    ema_momentum: float = 0.9
    ema_overwrite_frequency: int | None = None
    accumulation: int = 1
    loss_scale: float = 1.0
    max_norm: float | None = None


@dataclass
class Value:
    """Numbers in float64, and how far float32 numbers may be from them."""

    x: np.ndarray
    error: np.ndarray

    def rounded(self, n: int = 1) -> Value:
        return Value(self.x, self.error + n * U * (abs(self.x) + self.error))


def exact(x: np.ndarray) -> Value:
    x = np.asarray(x, np.float64)
    return Value(x, np.zeros_like(x))


class Twin:
    """Variables and their state; `step` takes one call's gradients, a NaN-free float32 array for each variable."""

    def __init__(self, start: Sequence[np.ndarray], features: Features, mistake: str = "") -> None:
        self.features, self.mistake = features, mistake
        self.params = [exact(p) for p in start]
        self.m, self.v, self.vmax, self.sums, self.averages = (
            [exact(p) for p in map(np.zeros_like, start)] for _ in range(5)
        )
        self.micro = self.t = 0

    def excess(self, i: int, found: np.ndarray) -> float:
        """The largest distance of these numbers from those of variable i, in units of its bound."""
        distance, error = abs(found - self.params[i].x), self.params[i].error
        if self._constrains(i):
            distance, error = np.linalg.norm(distance, axis=0), np.linalg.norm(error, axis=0)
        return float((distance / error).max())

    def _constrains(self, i: int) -> bool:
        return bool(self.features.max_norm) and self.params[i].x.ndim == 2

    def _spread(self, i: int, error: np.ndarray) -> np.ndarray:
        """As equal elements where the bound is one on columns."""
        return np.sqrt((error**2).mean(0, keepdims=True)) + 0 * error if self._constrains(i) else error

    def step(self, grads: Sequence[np.ndarray]) -> None:
        f, mistake = self.features, self.mistake
        given = [exact(g) for g in grads]
        if mistake == "clips before it unscales":
            given = self._clip(given)
        scale = 1.0 if mistake == "unscales nothing" else f.loss_scale
        given = [Value(g.x / scale, g.error / scale).rounded(2) for g in given]
        if mistake == "clips before it accumulates":
            given = self._clip(given)
        self.sums = [
            Value(s.x + g.x, s.error + g.error + U * (abs(s.x) + abs(g.x)))
            for s, g in zip(self.sums, given, strict=True)
        ]
        lr = f.rate(self.micro + (mistake == "asks the schedule for the next step"))
        if mistake == "ignores the schedule":
            lr = f.rate(0)
        if mistake == "constrains before the step":
            self._constrain()
        updates = (self.micro + 1) % f.accumulation == 0
        if updates:
            divisor = 1 if mistake == "adds up instead of averaging" else f.accumulation
            means = [Value(s.x / divisor, s.error / divisor).rounded() for s in self.sums]
            self.sums = [exact(np.zeros_like(s.x)) for s in self.sums]
            if not mistake.startswith("clips before"):
                means = self._clip(means)
            self._update(means, lr)
        if f.use_ema:
            self._average(updates)
        if mistake not in ("ignores the constraint", "constrains before the step"):
            self._constrain()
        self.micro += 1

    def _clip(self, grads: list[Value]) -> list[Value]:
        f, mistake = self.features, self.mistake
        if mistake == "does not clip":
            return grads
        if f.clipvalue:
            bound = f.clipvalue
            return [
                Value(np.clip(g.x, -bound, bound), np.where(abs(g.x) - g.error > bound, U * bound, g.error))
                for g in grads
            ]
        bound = f.clipnorm or f.global_clipnorm
        if not bound:
            return grads
        norms = [(math.sqrt((g.x**2).sum()), g.x.size, math.sqrt((g.error**2).sum())) for g in grads]
        if bool(f.global_clipnorm) != (mistake == "clips by the other norm"):
            whole = [
                math.sqrt(sum(x**2 for x in column))
                for column in zip(*((n, s**0.5, e) for n, s, e in norms), strict=True)
            ]
            norms = [(whole[0], round(whole[1] ** 2), whole[2])] * len(grads)
        clipped = []
        for g, (norm, size, error) in zip(grads, norms, strict=True):
            if norm <= bound and mistake != "scales up to the bound":
                clipped.append(g.rounded(4))
                continue
            factor, relative = bound / norm, (size / 2 + 4) * U + error / norm
            clipped.append(Value(g.x * factor, (g.error + abs(g.x) * relative) * factor).rounded(2))
        return clipped

    def _update(self, grads: list[Value], lr: float) -> None:
        f, mistake = self.features, self.mistake
        self.t += 1
        t = self.micro + 1 if mistake == "counts calls" else self.t
        alpha = lr * math.sqrt(1 - f.beta2**t) / (1 - f.beta1**t)
        for i, g in enumerate(grads):
            decay = lr * f.weight_decay
            if (i in f.excluded) != (mistake == "decays what is excluded") or mistake == "does not decay":
                decay = 0.0
            p, m, v = self.params[i], self.m[i], self.v[i]
            if mistake == "decays through the gradient":
                g, decay = Value(g.x + f.weight_decay * p.x, g.error), 0.0
            size = abs(g.x) + abs(m.x)
            m = Value(m.x + (1 - f.beta1) * (g.x - m.x), f.beta1 * m.error + (1 - f.beta1) * g.error + 3 * U * size)
            square = 2 * abs(g.x) * g.error + g.error**2
            v = Value(
                v.x + (1 - f.beta2) * (g.x**2 - v.x),
                f.beta2 * v.error + (1 - f.beta2) * square + 3 * U * (g.x**2 + v.x),
            )
            largest = Value(np.maximum(self.vmax[i].x, v.x), np.maximum(self.vmax[i].error, v.error))
            root = np.sqrt(largest.x)
            off = root - np.sqrt(np.maximum(largest.x - largest.error, 0.0))
            change = alpha * m.x / (root + f.eps)
            error = alpha * m.error / (root + f.eps) + abs(change) * off / np.maximum(root + f.eps - off, 1e-30)
            error += abs(change) * error_of_alpha(f.beta1, f.beta2, t)
            kept = p.x * (1 - decay)
            added = self._spread(i, error + 4 * U * (abs(p.x) + abs(change)))
            self.params[i] = Value(kept - change, p.error + added)
            if mistake == "decays after the step":
                self.params[i].x = (p.x - change) * (1 - decay)
            self.m[i], self.v[i], self.vmax[i] = m, v, largest

    def _average(self, updates: bool) -> None:
        f, mistake = self.features, self.mistake
        done = self.micro // f.accumulation  # what Keras' `iterations` says before this call is counted
        momentum = f.ema_momentum if done or mistake == "averages from zero" else 0.0
        for i, (a, p) in enumerate(zip(self.averages, self.params, strict=True)):
            added = self._spread(i, 4 * U * (abs(a.x) + abs(p.x)))
            error = momentum * a.error + (1 - momentum) * p.error + added
            self.averages[i] = Value(momentum * a.x + (1 - momentum) * p.x, error)
        if (
            f.ema_overwrite_frequency
            and (done + 1) % f.ema_overwrite_frequency == 0
            and mistake != "does not overwrite"
        ):
            self.params = list(self.averages)

    def _constrain(self) -> None:
        for i, p in enumerate(self.params):
            if self._constrains(i):
                norm = np.sqrt((p.x**2).sum(0, keepdims=True))
                factor = np.clip(norm, 0, self.features.max_norm) / (1e-7 + norm)
                self.params[i] = Value(p.x * factor, p.error + self._spread(i, (p.x.shape[0] + 8) * U * abs(p.x)))
