"""One process of a training with DistributedDataParallel over gloo; test_distributed.py starts two.

python data_parallel.py RANK FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import adamas.torch as ours

STEPS, ROWS = 4, 6


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def optimizers(params: list[Any]) -> Any:
    return ours.AdamW([{"params": params[:2]}, {"params": params[2:], "lr": 0.003}], lr=0.01, nonfinite="skip")


def batch(rank: int, step: int) -> Any:
    return torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(10 * step + rank))


def main(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    parallel = DistributedDataParallel(model())
    optimizer = optimizers(list(parallel.parameters()))
    for step in range(STEPS):
        optimizer.zero_grad()
        parallel(batch(rank, step)).square().sum().backward()
        optimizer.step()
    torch.save([[p.detach() for p in parallel.parameters()], optimizer.state_dict()], folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
