"""What a step costs when it also clips, decays or unscales: as a multiple of the same optimizer's plain step."""

from __future__ import annotations

from adamas.bench.case import Case, Ratio, Target
from adamas.bench.cases.step import resnet50

FRAMEWORKS = ("tensorflow",)
PLAIN = "plain"
FEATURES = {
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


def cases(scale: float) -> list[Case]:
    shapes = resnet50(scale)
    if scale < 1:
        shapes = shapes[-8:]  # tracing Keras' graphs of them all takes a minute
    return [
        Case(
            way,
            f"ResNet-50's shapes (161 tensors, 25.6 M), {way}",
            {"shapes": shapes, "way": way, "features": FEATURES},
            "ms",
            lambda s: 1e3 * s,
            _row("adamas.keras", PLAIN),
            tuple(
                Target(
                    f"adamas.keras, {feature} / plain",
                    Ratio(_row("adamas.keras", feature), _row("adamas.keras", PLAIN)),
                    at_most=most,
                )
                for feature, most in MOST.items()
            ),
            base=lambda peer: _row(peer.split(",")[0], PLAIN),
        )
        for way in ("eager", "graph")
    ]


def _row(optimizer: str, feature: str) -> str:
    return f"{optimizer}, {feature}"
