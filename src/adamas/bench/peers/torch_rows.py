"""torch.optim.SparseAdam with the gradient that an `nn.Embedding(sparse=True)` gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from adamas.bench.job import Job


def peers(rows: int, width: int, touched: int) -> dict[str, Callable[[], Job]]:
    def job() -> Job:
        rng = np.random.default_rng(0)
        values = torch.from_numpy(0.01 * rng.standard_normal((touched, width), dtype=np.float32))
        index = torch.from_numpy(rng.choice(rows, touched, replace=False))
        table = torch.nn.Parameter(torch.full((rows, width), 0.5))
        table.grad = torch.sparse_coo_tensor(index[None], values, (rows, width))
        return Job(torch.optim.SparseAdam([table]).step)

    return {"torch SparseAdam": job}
