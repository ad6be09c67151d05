"""adamas.torch under DistributedDataParallel, with real processes; and what is sharded, which is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adamas.errors import UnsupportedError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import data_parallel as script  # noqa: E402

import adamas.torch as ours  # noqa: E402


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_give_the_bits_of_one_with_the_averaged_gradients(tmp_path: Path) -> None:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script.__file__]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said.decode()
    finally:
        for process in processes:
            process.kill()
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    model = script.model()
    params = list(model.parameters())
    optimizer = script.optimizers(params)
    for step in range(script.STEPS):
        halves = []
        for rank in range(2):
            model.zero_grad()
            model(script.batch(rank, step)).square().sum().backward()
            halves.append([p.grad / 2 for p in params])
        for p, mine, other in zip(params, *halves, strict=True):
            p.grad = mine + other
        optimizer.step()
    for weights, state in results:
        assert all(torch.equal(p, q) for p, q in zip(params, weights, strict=True))
        for i, p in enumerate(params):
            held = state["state"][i]
            assert all(torch.equal(held[key], value) for key, value in optimizer.state[p].items())


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_tensors_that_are_sharded_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters of fully_shard (FSDP2) and of tensor parallelism are DTensors."""
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        p = torch.nn.Parameter(DTensor.from_local(torch.ones(4, 3), mesh, [Replicate()]))
        with pytest.raises(UnsupportedError, match=r"parameter 'weight' is a DTensor.*torch\.optim"):
            ours.AdamW([("weight", p)])
    finally:
        torch.distributed.destroy_process_group()
