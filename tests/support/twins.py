"""Naive twins: the peers' formulas as they are written down, in the widest floating-point type there is.

Written from the papers and the peers' documentation, without adamas.rule and with no thought for speed. np.longdouble
has 64 significant bits on x86 and 113 on some other processors; where it is no wider than float64, the bound allows
for that (bounds.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adamas.rule import Hyper

WIDE = np.longdouble


class Result(NamedTuple):
    """The parameter after the last step, and the slots in the order of the rule."""

    p: np.ndarray
    slots: tuple[np.ndarray, ...]

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.p, *self.slots)

    def plus(self, times: float, other: Result) -> Result:
        """Of two bounds: this one and so many times the other."""
        p, *slots = (a + times * b for a, b in zip(self.arrays, other.arrays, strict=True))
        return Result(p, tuple(slots))


def torch(
    p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, coupled: bool, amsgrad: bool, maximize: bool
) -> Result:
    """torch.optim.Adam (coupled) and AdamW."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = vmax = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        if coupled:
            g = g + wd * p
        else:
            p = p - lr * wd * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        vmax = np.maximum(vmax, v)
        denominator = np.sqrt(vmax if amsgrad else v) / np.sqrt(1 - b2**t) + eps
        p = p - lr / (1 - b1**t) * m / denominator
    return Result(p, (m, v, vmax) if amsgrad else (m, v))


def keras(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, amsgrad: bool, maximize: bool) -> Result:
    """keras.optimizers.Adam and AdamW: decay is decoupled and comes first, eps is added to the uncorrected root."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = vmax = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        p = p - p * wd * lr
        alpha = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
        m = m + (g - m) * (1 - b1)
        v = v + (g**2 - v) * (1 - b2)
        vmax = np.maximum(vmax, v)
        p = p - m * alpha / (np.sqrt(vmax if amsgrad else v) + eps)
    return Result(p, (m, v, vmax) if amsgrad else (m, v))


def optax(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, amsgrad: bool, maximize: bool) -> Result:
    """optax.adam, adamw and amsgrad: decay is added to the update, amsgrad takes the largest corrected moment."""
    lr, b1, b2, eps, eps_root, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = vmax = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        m = (1 - b1) * g + b1 * m
        v = (1 - b2) * g**2 + b2 * v
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        vmax = np.maximum(vmax, v_hat)
        update = m_hat / (np.sqrt((vmax if amsgrad else v_hat) + eps_root) + eps)
        p = p - lr * (update + wd * p)
    return Result(p, (m, v, vmax) if amsgrad else (m, v))


def torch_nadam(
    p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, coupled: bool, maximize: bool
) -> Result:
    """torch.optim.NAdam; `coupled` is the opposite of its decoupled_weight_decay."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    psi = WIDE(hyper.momentum_decay)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    mu_product = WIDE(1)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        if coupled:
            g = g + wd * p
        else:
            p = p * (1 - lr * wd)
        mu = b1 * (1 - WIDE(0.5) * WIDE(0.96) ** (t * psi))
        mu_next = b1 * (1 - WIDE(0.5) * WIDE(0.96) ** ((t + 1) * psi))
        mu_product = mu_product * mu
        m = m + (1 - b1) * (g - m)
        v = b2 * v + (1 - b2) * g**2
        denominator = np.sqrt(v / (1 - b2**t)) + eps
        p = p - lr * (1 - mu) / (1 - mu_product) * g / denominator
        p = p - lr * mu_next / (1 - mu_product * mu_next) * m / denominator
    return Result(p, (m, v))


def keras_nadam(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper) -> Result:
    """keras.optimizers.Nadam: the exponent is t itself; decay is decoupled and comes first; eps as in torch."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    u_product = WIDE(1)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        p = p - p * wd * lr
        u = b1 * (1 - WIDE(0.5) * WIDE(0.96) ** t)
        u_next = b1 * (1 - WIDE(0.5) * WIDE(0.96) ** (t + 1))
        u_product = u_product * u
        m = m + (g - m) * (1 - b1)
        v = v + (g**2 - v) * (1 - b2)
        m_hat = u_next * m / (1 - u_product * u_next) + (1 - u) * g / (1 - u_product)
        p = p - m_hat * lr / (np.sqrt(v / (1 - b2**t)) + eps)
    return Result(p, (m, v))


def optax_nadam(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper) -> Result:
    """optax.nadam and nadamw: m is corrected for one step more than g, and the two are averaged once more."""
    lr, b1, b2, eps, eps_root, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        m = (1 - b1) * g + b1 * m
        v = (1 - b2) * g**2 + b2 * v
        m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        p = p - lr * (m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps) + wd * p)
    return Result(p, (m, v))


def torch_radam(
    p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, coupled: bool, maximize: bool
) -> Result:
    """torch.optim.RAdam; eps is beside the uncorrected root."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        if coupled:
            g = g + wd * p
        else:
            p = p * (1 - lr * wd)
        m = m + (1 - b1) * (g - m)
        v = b2 * v + (1 - b2) * g**2
        step = m / (1 - b1**t) * lr
        rect = _rectification(b2, t)
        p = p - (step if rect is None else step * np.sqrt(1 - b2**t) / (np.sqrt(v) + eps) * rect)
    return Result(p, (m, v))


def optax_radam(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper) -> Result:
    """optax.radam, which has no decay."""
    lr, b1, b2, eps, eps_root, _ = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        m = (1 - b1) * g + b1 * m
        v = (1 - b2) * g**2 + b2 * v
        m_hat = m / (1 - b1**t)
        rect = _rectification(b2, t)
        p = p - lr * (m_hat if rect is None else rect * m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps))
    return Result(p, (m, v))


def torch_adamax(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, maximize: bool) -> Result:
    """torch.optim.Adamax; its decay is coupled."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = u = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        g = g + wd * p
        m = m + (1 - b1) * (g - m)
        u = np.maximum(b2 * u, np.abs(g) + eps)
        p = p - lr / (1 - b1**t) * m / u
    return Result(p, (m, u))


def keras_adamax(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper) -> Result:
    """keras.optimizers.Adamax: eps is added where the step is divided, and decay comes first."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = u = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        p = p - p * wd * lr
        m = m + (g - m) * (1 - b1)
        u = np.maximum(b2 * u, np.abs(g))
        p = p - lr * m / ((1 - b1**t) * (u + eps))
    return Result(p, (m, u))


def optax_adamax(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper) -> Result:
    """optax.adamax and adamaxw."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = u = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        m = (1 - b1) * g + b1 * m
        u = np.maximum(np.abs(g) + eps, b2 * u)
        p = p - lr * (m / (1 - b1**t) / u + wd * p)
    return Result(p, (m, u))


def adopt(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, decouple: bool, maximize: bool) -> Result:
    """torch-adopt, its authors' own, and without decay optax.contrib.adopt; both count steps from 0."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for step, g in enumerate(g.astype(WIDE) for g in gradients):
        if maximize:
            g = -g
        if not decouple:
            g = g + wd * p
        if step == 0:
            v = g**2
            continue
        if decouple:
            p = p - lr * wd * p
        clip = WIDE(step) ** WIDE(0.25)
        m = b1 * m + (1 - b1) * np.clip(g / np.maximum(np.sqrt(v), eps), -clip, clip)
        p = p - lr * m
        v = b2 * v + (1 - b2) * g**2
    return Result(p, (m, v))


def stable(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, maximize: bool) -> Result:
    """StableAdamW, Algorithm 2 of Wortsman et al."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        rms = np.sqrt(np.mean(g**2 / np.maximum(v_hat, eps**2)))
        eta = lr / max(WIDE(1), rms)
        p = p - eta * wd * p - eta * m_hat / (np.sqrt(v_hat) + eps)
    return Result(p, (m, v))


def optax_lamb(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, maximize: bool) -> Result:
    """Algorithm 2 of You et al. with phi the identity, and optax.lamb."""
    lr, b1, b2, eps, eps_root, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        r = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps) + wd * p
        p = p - lr * _trust(p, r) * r
    return Result(p, (m, v))


def keras_lamb(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper) -> Result:
    """keras.optimizers.Lamb: decay comes first, and is in neither norm."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        p = p - p * wd * lr
        m = m + (g - m) * (1 - b1)
        v = v + (g**2 - v) * (1 - b2)
        r = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        p = p - _trust(p, r) * lr * r
    return Result(p, (m, v))


def cautious(
    p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, *, coupled: bool, maximize: bool, keras: bool = False
) -> Result:
    """C-AdamW of Liang et al. with the bound of its authors; decay and eps as in torch, or in Keras."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    p = p.astype(WIDE)
    m = v = np.zeros_like(p)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        if maximize:
            g = -g
        if coupled:
            g = g + wd * p
        else:
            p = p - lr * wd * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        mask = (m * g > 0).astype(WIDE)
        mask = mask / max(np.mean(mask), 1 / WIDE(1000))
        root = np.sqrt(v) + eps * np.sqrt(1 - b2**t) ** (0 if keras else 1)
        p = p - lr / (1 - b1**t) * m * mask * np.sqrt(1 - b2**t) / root
    return Result(p, (m, v))


def _trust(p: np.ndarray, r: np.ndarray) -> np.longdouble:
    of_p, of_r = (np.sqrt(np.sum(x**2)) for x in (p, r))
    ratio: np.longdouble = of_p / of_r if of_p and of_r else WIDE(1)
    return ratio


def _rectification(b2: np.longdouble, t: int) -> np.longdouble | None:
    """r_t of Liu et al.; None where there is none."""
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    if length <= 5:
        return None
    root: np.longdouble = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return root


class Averaged(NamedTuple):
    """The three sequences of schedule-free AdamW after the last step, and v."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    v: np.ndarray


def schedule_free(p: np.ndarray, gradients: Sequence[np.ndarray], hyper: Hyper, lrs: Sequence[float] = ()) -> Averaged:
    """Schedule-free AdamW as the paper has it, with all three sequences kept; `lrs` are the rates of the steps."""
    lr, b1, b2, eps, _, wd = _wide(hyper)
    x = y = z = p.astype(WIDE)
    v = np.zeros_like(x)
    total = largest = WIDE(0)
    for t, g in enumerate((g.astype(WIDE) for g in gradients), 1):
        rate = WIDE(lrs[t - 1]) if lrs else lr
        if t < hyper.warmup_steps:
            rate = rate * t / WIDE(hyper.warmup_steps)
        largest = max(largest, rate)
        weight = WIDE(t) ** int(hyper.r) * largest ** int(hyper.weight_lr_power)
        total = total + weight
        c = weight / total if total else WIDE(0)
        v = b2 * v + (1 - b2) * g**2
        z = z - rate * wd * y - rate * g / (np.sqrt(v / (1 - b2**t)) + eps)
        x = (1 - c) * x + c * z
        y = b1 * x + (1 - b1) * z
    return Averaged(x, y, z, v)


def _wide(hyper: Hyper) -> tuple[np.longdouble, ...]:
    return tuple(WIDE(x) for x in (hyper.lr, hyper.beta1, hyper.beta2, hyper.eps, hyper.eps_root, hyper.weight_decay))
