"""torch.optim.Adam as it comes, with foreach and fused; and the plain training loop."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.digits import BATCH, digits, order


def step(shapes: list[list[int]]) -> dict[str, Callable[[], None]]:
    jobs: dict[str, Callable[[], None]] = {}
    for name, how in (("default", {}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for parameter in params:
            parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
        optimizer = torch.optim.Adam(params, lr=1e-3, **how)
        jobs[f"torch Adam {name}"] = optimizer.step
    return jobs


def fit(width: int, epochs: int) -> dict[str, Callable[[], None]]:
    x, y = (torch.from_numpy(a) for a in digits())
    y = y.long()
    model = torch.nn.Sequential(
        torch.nn.Linear(64, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )
    loss = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def run() -> None:
        for epoch in range(epochs):
            for rows in torch.from_numpy(order(epoch)).split(BATCH):
                optimizer.zero_grad()
                loss(model(x[rows]), y[rows]).backward()
                optimizer.step()

    return {"torch loop, Adam fused": run}
