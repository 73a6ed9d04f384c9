"""Two processes over gloo: data parallel, fully sharded, and `DTensor`s by rows and by columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import rocmforge_torch
from rocmforge_torch import GGUFTensor
from tests.tensor.quantized import quantized
from tests.tensor.sharded_block import HIDDEN, WIDTH, Block


def batch() -> Tensor:
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def expected() -> tuple[Tensor, Tensor]:
    block = Block()
    out = block(batch())
    out.square().mean().backward()
    assert block.side.weight.grad is not None
    return out.detach(), block.side.weight.grad


def data_parallel(mesh: Any) -> None:
    out, grad = expected()
    with pytest.raises(NotImplementedError, match="DistributedDataParallel needs init_sync=False"):
        nn.parallel.DistributedDataParallel(Block())
    wrapped = nn.parallel.DistributedDataParallel(Block(), init_sync=False)
    found = wrapped(batch())
    close(found, out)
    found.square().mean().backward()
    close(wrapped.module.side.weight.grad, grad)


def fully_sharded(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    out, grad = expected()
    block: Any = Block()
    fully_shard(block.down, mesh=mesh)
    fully_shard(block, mesh=mesh)
    assert block.up.weight.to_local().shape == (HIDDEN // 2, WIDTH)
    assert isinstance(block.up.weight.to_local(), GGUFTensor)
    for _ in range(2):
        block.zero_grad()
        found = block(batch())
        close(found, out)
        found.square().mean().backward()
        close(block.side.weight.grad.full_tensor(), grad)
    state = block.state_dict()
    assert torch.equal(state["down.weight"].full_tensor(), Block().down.weight)
    block.load_state_dict(state)


def fully_sharded_unevenly(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    layer = nn.Linear(WIDTH, 7)
    layer.weight = nn.Parameter(quantized("Q8_0", 7, WIDTH), requires_grad=False)
    fully_shard(layer, mesh=mesh)
    with pytest.raises(ValueError, match="rows of a GGUFTensor, 7, to divide evenly among 2"):
        layer(batch())


def products_of_shards(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    weight = quantized("Q8_0", HIDDEN, WIDTH)
    dense = weight.dequantize()
    for dim, source in ((0, 0), (1, 0), (0, None), (1, None)):
        shards: Any = distribute_tensor(weight, mesh, [Shard(dim)], src_data_rank=source)
        assert shards.to_local().shape == dense.chunk(2, dim)[0].shape
        x: Any = distribute_tensor(batch(), mesh, [Replicate()]).requires_grad_()
        for out in (nn.functional.linear(x, shards), x @ shards.t()):
            close(out.full_tensor(), batch() @ dense.t())
            (grad,) = torch.autograd.grad(out.full_tensor().sum(), x)
            close(grad.full_tensor(), dense.sum(0).expand(4, WIDTH))
        assert torch.equal(shards.full_tensor(), weight)


def uneven_shards(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    weight = quantized("Q8_0", 7, WIDTH)
    shards: Any = distribute_tensor(weight, mesh, [Shard(0)])
    x = distribute_tensor(batch(), mesh, [Replicate()])
    found: Any = nn.functional.linear(x, shards)
    close(found.full_tensor(), batch() @ weight.dequantize().t())


def columns_within_blocks(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    with pytest.raises(NotImplementedError, match="48 of a row's elements are no whole blocks"):
        distribute_tensor(quantized("Q8_0", 8, 96), mesh, [Shard(1)])


def tensor_parallel(mesh: Any) -> None:
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    layers = nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, WIDTH))
    for i in (0, 2):
        layers[i].weight = nn.Parameter(quantized("Q4_0", *layers[i].weight.shape), False)
    for parameter in layers.parameters():
        dist.broadcast(parameter.data, 0)
    out = layers(batch())
    parallelize_module(layers, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    close(layers(batch()), out)


CASES: dict[str, Callable[[Any], None]] = {
    case.__name__: case
    for case in (
        data_parallel,
        fully_sharded,
        fully_sharded_unevenly,
        products_of_shards,
        uneven_shards,
        columns_within_blocks,
        tensor_parallel,
    )
}


def run(rank: int, world: int, file: str, results: Any) -> None:
    """All cases in one pair of processes, whose start takes longer than they do."""
    rocmforge_torch.config.exact = True
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    for name, case in CASES.items():
        try:
            case(mesh)
            results[rank, name] = ""
        except Exception as error:
            results[rank, name] = f"{type(error).__name__}: {error}"
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], str]:
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        file = str(tmp_path_factory.mktemp("gloo") / "store")
        torch.multiprocessing.spawn(run, (2, file, results), nprocs=2)
        return dict(results)


@pytest.mark.parametrize("name", CASES)
def test_two_processes(name: str, outcomes: dict[tuple[int, str], str]) -> None:
    assert [outcomes.get((rank, name), "not reached") for rank in (0, 1)] == ["", ""]


def test_one_process(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        data_parallel(None)
    finally:
        dist.destroy_process_group()
