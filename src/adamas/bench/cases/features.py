"""What a step costs that also clips, decays, unscales, checks or reports: as a multiple of the plain step."""

from __future__ import annotations

from typing import Any

from adamas.bench.case import Case, Ratio, Target
from adamas.bench.cases.step import count, resnet50
from adamas.bench.formats import OURS

FRAMEWORKS = ("numpy", "tensorflow", "torch")
PLAIN = "plain"
FEATURES: dict[str, dict[str, Any]] = {  # of Keras' base class
    PLAIN: {},
    "weight decay": {"weight_decay": 0.004},
    "clipvalue": {"clipvalue": 0.01},
    "clipnorm": {"clipnorm": 1.0},
    "global_clipnorm": {"global_clipnorm": 1.0},
    "loss scale": {"loss_scale_factor": 1024.0},
    "global_clipnorm, loss scale, weight decay": {
        "global_clipnorm": 1.0,
        "loss_scale_factor": 1024.0,
        "weight_decay": 0.004,
    },
}
# A norm is one more read of the gradients, 4 bytes beside the 28 of a step.
MOST = {feature: 1.4 if "norm" in feature else 1.15 for feature in FEATURES if feature != PLAIN}


# Of adamas.numpy: arguments of the optimizer, and of its step.
ONE_READ = "global clip, skip check, statistics"
ARRAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    PLAIN: ({}, {}),
    "global clip": ({}, {"max_norm": 1.0}),
    "skip check": ({"nonfinite": "skip"}, {}),
    "statistics": ({"stats": True}, {}),
    ONE_READ: ({"nonfinite": "skip", "stats": True}, {"max_norm": 1.0}),
    "averaged weights": ({"ema": 0.999}, {}),
    "one block in 1000 computed twice": ({"verify": 1000}, {}),
}


def cases(scale: float) -> list[Case]:
    return [_arrays(scale), *(_keras(way, scale) for way in ("eager", "graph"))]


def _arrays(scale: float) -> Case:
    size = 4096 * max(1, round(32 * 256 * scale))
    plain = _row(OURS, PLAIN)
    bounds = {ONE_READ: 1.35, "one block in 1000 computed twice": 1.01}
    return Case(
        "arrays",
        f"{count(size)} parameters in one tensor, NumPy and PyTorch",
        {"shapes": [[size]], "way": "arrays", "features": ARRAYS},
        "ms",
        lambda s: 1e3 * s,
        plain,
        tuple(
            Target(f"{OURS}, {feature} / plain", Ratio(_row(OURS, feature), plain), at_most=most)
            for feature, most in bounds.items()
        ),
        base=_base,
        needs=20 * size * (len(ARRAYS) + 2),
    )


def _keras(way: str, scale: float) -> Case:
    shapes = resnet50(scale)
    if scale < 1:
        shapes = shapes[-8:]  # tracing Keras' graphs of them all takes a minute
    plain = _row("adamas.keras", PLAIN)
    return Case(
        way,
        f"ResNet-50's shapes (161 tensors, 25.6 M), {way}",
        {"shapes": shapes, "way": way, "features": FEATURES},
        "ms",
        lambda s: 1e3 * s,
        plain,
        tuple(
            Target(f"adamas.keras, {feature} / plain", Ratio(_row("adamas.keras", feature), plain), at_most=most)
            for feature, most in MOST.items()
        ),
        base=_base,
    )


def _base(row: str) -> str:
    return _row(row.split(",")[0], PLAIN)


def _row(optimizer: str, feature: str) -> str:
    return f"{optimizer}, {feature}"
