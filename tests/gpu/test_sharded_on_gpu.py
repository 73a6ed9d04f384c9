"""FSDP1 (FullyShardedDataParallel), which starts on accelerators alone, and fully_shard by NCCL."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import rocmforge_torch
from rocmforge_torch import GGUFTensor
from tests.tensor.sharded_block import WIDTH, Block

pytestmark = pytest.mark.gpu
STEPS = 3


def losses(block: nn.Module, device: torch.device) -> list[float]:
    """Of some steps, all ranks with the same rows."""
    optimizer = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], 1e-4)
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1)).to(device)
    found = []
    for _ in range(STEPS):
        loss = (block(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def fsdp1(block: nn.Module, device: torch.device) -> nn.Module:
    ignored = [p for p in block.parameters() if isinstance(p, GGUFTensor)]
    assert len(ignored) == 2
    return FullyShardedDataParallel(
        block, device_id=device, ignored_states=ignored, use_orig_params=True
    )


def fsdp2(block: nn.Module, device: torch.device) -> nn.Module:
    mesh = dist.device_mesh.init_device_mesh("cuda", (dist.get_world_size(),))
    fully_shard(block, mesh=mesh)
    return block


WAYS = {"FSDP1": fsdp1, "fully_shard": fsdp2}


def run(rank: int, world: int, store: str, way: str) -> None:
    rocmforge_torch.config.exact = True
    os.environ["NCCL_NVLS_ENABLE"] = "0"
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        expected = losses(Block().to(device), device)
        found = losses(WAYS[way](Block().to(device), device), device)
        assert expected[-1] < expected[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "world",
    [
        1,
        pytest.param(
            2, marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
        ),
    ],
)
def test_losses_are_those_of_one_process(way: str, world: int, tmp_path: Path) -> None:
    start = functools.partial(torch.multiprocessing.spawn, nprocs=world)
    start(run, (world, str(tmp_path / "store"), way))
