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
    """Parameter and moments after the last step; vmax is None without AMSGrad."""

    p: np.ndarray
    m: np.ndarray
    v: np.ndarray
    vmax: np.ndarray | None


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
    return Result(p, m, v, vmax if amsgrad else None)


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
    return Result(p, m, v, vmax if amsgrad else None)


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
    return Result(p, m, v, vmax if amsgrad else None)


def _wide(hyper: Hyper) -> tuple[np.longdouble, ...]:
    return tuple(WIDE(x) for x in (hyper.lr, hyper.beta1, hyper.beta2, hyper.eps, hyper.eps_root, hyper.weight_decay))
