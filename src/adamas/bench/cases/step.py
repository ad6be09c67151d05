"""Adam's step alone, with the gradients given."""

from __future__ import annotations

import math

from adamas.bench.case import Case, Cycles, Ratio, Scaled, Target
from adamas.bench.formats import BFLOAT16, FORMATS, INT8, OURS
from adamas.bench.limit import threads

FRAMEWORKS = ("numpy", "tensorflow", "torch", "jax", "bitsandbytes", "torchao", "deepspeed")
FUSED = "torch Adam fused"
OPTAX = "optax adam, jit, donated"
JAX = "adamas.jax step"
OTHERS = 20  # rows of peers, of which each has p, g, m, v
# What a step of 32 M and of 128 M parameters must reach.
LARGE = (
    Target("adamas.numpy, share of the limit", Ratio("limit", OURS), 0.95),
    Target("torch fused / adamas.numpy", Ratio(FUSED, OURS), 1),
)


def cases(scale: float) -> list[Case]:
    # Whole blocks of 4096: some 8-bit optimizers keep other tensors in float32.
    large, huge = (4096 * max(1, round(millions * 256 * scale)) for millions in (32, 128))
    return [
        step(
            "large",
            f"{count(large)} parameters in one tensor",
            [[large]],
            (
                *LARGE,
                Target("torch fused / adamas.numpy, bfloat16 moments", Ratio(FUSED, BFLOAT16), 1.15),
                Target("torch fused / adamas.numpy, int8 moments", Ratio(FUSED, INT8), 0.8),
                Target("adamas.numpy, int8 moments, cycles", Cycles(INT8, threads() / large), at_most=4),
                *(
                    Target(f"{peer} / adamas.numpy, int8 moments", Ratio(peer, INT8), 5)
                    for peer in ("bitsandbytes AdamW8bit", "torchao AdamW8bit")
                ),
                Target("adamas.tensorflow eager, share of the limit", Ratio("limit", "adamas.keras eager"), 0.9),
                Target("adamas.tensorflow graph, share of the limit", Ratio("limit", "adamas.keras graph"), 0.9),
                Target("adamas.jax step, share of the limit", Ratio("limit", JAX), 0.9),
            ),
        ),
        step(
            "huge",
            f"{count(huge)} parameters in one tensor",
            [[huge]],
            LARGE,
            rows=("limit", *FORMATS, "adamas.torch", FUSED),
        ),
        step(
            "many",
            f"{max(1, round(500 * scale))} tensors of 1000",
            [[1000]] * max(1, round(500 * scale)),
            (
                Target("adamas.numpy, ms", Scaled(OURS, 1e3), at_most=0.5),
                Target("torch fused / adamas.numpy", Ratio(FUSED, OURS), 7),
                Target("Keras eager / adamas eager", Ratio("Keras Adam eager", "adamas.keras eager"), 500),
                Target("Keras graph / adamas graph", Ratio("Keras Adam graph", "adamas.keras graph"), 3),
                Target("ResourceApplyAdam / adamas, eager", Ratio("ResourceApplyAdam eager", "adamas.keras eager"), 1),
                Target("ResourceApplyAdam / adamas, graph", Ratio("ResourceApplyAdam graph", "adamas.keras graph"), 1),
                Target("optax / adamas.jax step, packed", Ratio(OPTAX, f"{JAX}, packed"), 1.7),
            ),
        ),
        step("resnet50", "ResNet-50's shapes (161 tensors, 25.6 M)", resnet50(scale)),
    ]


def step(
    key: str, name: str, shapes: list[list[int]], targets: tuple[Target, ...] = (), rows: tuple[str, ...] = ()
) -> Case:
    """A step of tensors of these shapes in the rows named, or in all."""
    size = sum(math.prod(shape) for shape in shapes)
    takes = [FORMATS[row].bytes if row in FORMATS else 16 for row in rows or (*FORMATS, *range(OTHERS))]
    needs = round(1.1 * size * sum(takes))
    return Case(
        key,
        name,
        {"shapes": shapes},
        "ms",
        lambda seconds: 1e3 * seconds,
        OURS,
        targets,
        rows=rows,
        parameters=size,
        needs=needs,
    )


def count(number: int) -> str:
    """32 M for 33554432, as memory is counted; 1,234 for what is no such number."""
    for unit, name in ((2**30, "G"), (2**20, "M"), (2**10, "K")):
        if number >= unit and number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number:,}"


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
