"""Adam's step alone, with the gradients given."""

from __future__ import annotations

import math
from statistics import median

from benchmarks.harness import Case, Target, ratio

FRAMEWORKS = ("numpy", "tensorflow", "torch", "jax")
BYTES = 28  # Adam in float32 reads p, g, m, v and writes p, m, v


def cases(scale: float) -> list[Case]:
    large = max(1, round(32 * 2**20 * scale))
    return [
        _step(
            "large",
            "32 M parameters in one tensor",
            [[large]],
            "GB/s",
            (
                Target("adamas.numpy, share of the limit", ratio("limit", "adamas.numpy"), 0.95),
                Target("adamas.tensorflow eager, share of the limit", ratio("limit", "adamas.keras eager"), 0.9),
                Target("adamas.tensorflow graph, share of the limit", ratio("limit", "adamas.keras graph"), 0.9),
            ),
        ),
        _step(
            "many",
            "500 tensors of 1000",
            [[1000]] * max(1, round(500 * scale)),
            "ms",
            (
                Target("adamas.numpy, ms", lambda rounds: 1e3 * median(r["adamas.numpy"] for r in rounds), at_most=0.5),
                Target("torch fused / adamas.numpy", ratio("torch Adam fused", "adamas.numpy"), 7),
                Target("Keras eager / adamas eager", ratio("Keras Adam eager", "adamas.keras eager"), 500),
                Target("Keras graph / adamas graph", ratio("Keras Adam graph", "adamas.keras graph"), 3),
                Target("ResourceApplyAdam / adamas, eager", ratio("ResourceApplyAdam eager", "adamas.keras eager"), 1),
                Target("ResourceApplyAdam / adamas, graph", ratio("ResourceApplyAdam graph", "adamas.keras graph"), 1),
            ),
        ),
        _step("resnet50", "ResNet-50's shapes (161 tensors, 25.6 M)", resnet50(scale), "GB/s", ()),
    ]


def _step(key: str, name: str, shapes: list[list[int]], unit: str, targets: tuple[Target, ...]) -> Case:
    size = sum(math.prod(shape) for shape in shapes)
    figures = {"ms": lambda s: 1e3 * s, "GB/s": lambda s: BYTES * size / s / 1e9}
    return Case(key, name, {"shapes": shapes}, unit, figures[unit], "adamas.numpy", targets)


def resnet50(scale: float = 1.0) -> list[list[int]]:
    """ResNet-50's trainable variables: 53 convolutions without bias, a scale and an offset each, and a dense layer."""
    shapes: list[list[int]] = []

    def convolution(size: int, inputs: int, outputs: int) -> None:
        shapes.extend([[size, size, inputs, outputs], [outputs], [outputs]])

    convolution(7, 3, 64)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolution(1, inputs, width)
            convolution(3, width, width)
            convolution(1, width, 4 * width)
            if block == 0:
                convolution(1, inputs, 4 * width)
            inputs = 4 * width
    shapes += [[inputs, 1000], [1000]]
    if scale < 1:
        shapes = [[max(1, round(n * scale)) for n in shape] for shape in shapes]
    return shapes
