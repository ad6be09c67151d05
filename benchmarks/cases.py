"""What is measured, and what is demanded of it."""

from __future__ import annotations

import math

from benchmarks.harness import Case, Target

FRAMEWORKS = {"step": ("numpy", "tensorflow", "torch", "jax"), "fit": ("tensorflow", "torch", "jax")}
BYTES = 28  # Adam in float32 reads p, g, m, v and writes p, m, v


def cases(what: str, scale: float = 1.0) -> list[Case]:
    return step_cases(scale) if what == "step" else fit_cases(scale)


def step_cases(scale: float) -> list[Case]:
    large = max(1, round(32 * 2**20 * scale))
    return [
        _step(
            "32 M parameters in one tensor",
            [[large]],
            "GB/s",
            (
                _target("adamas.numpy, share of the limit", "limit", "adamas.numpy", 0.95),
                _target("adamas.tensorflow eager, share of the limit", "limit", "adamas.keras eager", 0.9),
                _target("adamas.tensorflow graph, share of the limit", "limit", "adamas.keras graph", 0.9),
            ),
        ),
        _step(
            "500 tensors of 1000",
            [[1000]] * max(1, round(500 * scale)),
            "ms",
            (
                Target("adamas.numpy, ms", lambda times: 1e3 * times["adamas.numpy"], at_most=0.5),
                _target("torch fused / adamas.numpy", "torch Adam fused", "adamas.numpy", 7),
                _target("Keras eager / adamas eager", "Keras Adam eager", "adamas.keras eager", 500),
                _target("Keras graph / adamas graph", "Keras Adam graph", "adamas.keras graph", 3),
                _target("ResourceApplyAdam / adamas, eager", "ResourceApplyAdam eager", "adamas.keras eager", 1),
                _target("ResourceApplyAdam / adamas, graph", "ResourceApplyAdam graph", "adamas.keras graph", 1),
            ),
        ),
        _step("ResNet-50's shapes (161 tensors, 25.6 M)", resnet50(scale), "GB/s", ()),
    ]


def _step(name: str, shapes: list[list[int]], unit: str, targets: tuple[Target, ...]) -> Case:
    size = sum(math.prod(shape) for shape in shapes)
    figures = {"ms": lambda s: 1e3 * s, "GB/s": lambda s: BYTES * size / s / 1e9}
    return Case(name, "step", {"shapes": shapes}, unit, figures[unit], "adamas.numpy", targets)


def _target(text: str, slow: str, fast: str, at_least: float) -> Target:
    return Target(text, lambda times: times[slow] / times[fast], at_least=at_least)


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


def fit_cases(scale: float) -> list[Case]:
    epochs = max(1, round(20 * scale))
    samples = epochs * 1797
    return [
        Case(
            f"digits, two hidden layers of {width}, batch 32",
            "fit",
            {"width": width, "epochs": epochs},
            "samples/s",
            lambda s: samples / s,
            "adamas.train.fit",
            (_target("model.fit / adamas.train.fit", "model.fit", "adamas.train.fit", bound),),
        )
        for width, bound in ((64, 15), (512, 3.5))
    ]
