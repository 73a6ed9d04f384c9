"""Stacks of rows: views of memory where it holds them already, and how long it lives."""

from __future__ import annotations

import array
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from rocmforge_torch.allocator import dlpack
from rocmforge_torch.fx import optimize
from rocmforge_torch.fx.optimize import attribute_bytes
from rocmforge_torch.fx.stacking import are_one, stack_rows
from rocmforge_torch.fx.static_inputs import stacked

ops = torch.ops.rocmforge
Q4_0 = 2


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """All memory that stacks held is let go."""
    gc.collect()  # what tests before this one left
    before = len(dlpack._living)
    yield
    gc.collect()
    assert len(dlpack._living) == before


def mapped(rows: list[int], columns: int, dtype: torch.dtype, gap: int = 0) -> list[Tensor]:
    """Tensors [N_i, columns] as those of a file: storages of their own over one buffer."""
    sizes = [n * columns * dtype.itemsize for n in rows]
    buffer = array.array("B", torch.randint(0, 60, (sum(sizes) + gap * len(rows),)).tolist())
    parts, offset = [], 0
    for n, size in zip(rows, sizes, strict=True):
        part = torch.frombuffer(buffer, dtype=dtype, count=n * columns, offset=offset)
        parts.append(part.view(n, columns))
        offset += size + gap
    return parts


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_neighbours_are_not_copied(dtype: torch.dtype) -> None:
    parts = mapped([3, 1, 4], 6, dtype)
    want = torch.cat(parts)
    whole = stack_rows(parts)
    assert whole.data_ptr() == parts[0].data_ptr()
    assert (whole.dtype, whole.shape, whole.stride()) == (dtype, (8, 6), (6, 1))
    assert torch.equal(whole.view(torch.uint8), want.view(torch.uint8))
    parts[1].fill_(7)
    assert torch.equal(whole[3], parts[1][0])


def test_pieces_of_one_tensor_are_a_view_of_it() -> None:
    base = torch.randn(9, 4)
    whole = stack_rows([*base[1:8].split([2, 3, 2])])
    assert torch.equal(whole, base[1:8])
    assert whole.untyped_storage()._cdata == base.untyped_storage()._cdata


def test_others_are_copied() -> None:
    base = torch.randn(8, 4)
    first, second = base.split(4)
    trained = nn.Parameter(torch.randn(2, 4))
    for parts in (
        [second, first],
        [base[:2], base[3:5]],
        [base[:4, :2], base[4:, :2]],
        mapped([2, 3], 4, torch.uint8, gap=1),
        [*trained.split(1)],
        [base.to("meta"), base.to("meta")],
        [first.view(torch.int32), second.view(torch.int32).float()],
    ):
        whole = stack_rows(parts)
        assert whole.device == parts[0].device
        if not whole.is_meta:
            assert whole.data_ptr() not in {part.data_ptr() for part in parts}
            assert torch.equal(whole, torch.cat(parts))


def test_memory_lives_as_long_as_the_stack() -> None:
    buffer = array.array("B", range(64))
    alive = weakref.ref(buffer)
    parts = [torch.frombuffer(buffer, dtype=torch.uint8, count=32, offset=n) for n in (0, 32)]
    whole = stack_rows(parts)
    del buffer, parts
    assert whole.tolist() == list(range(64))
    view = whole[40:]
    del whole
    assert alive() is not None
    del view
    assert alive() is None


@pytest.mark.parametrize("made_in", [False, True])
@pytest.mark.parametrize("run_in", [False, True])
def test_inputs_that_are_neighbours_share_one_storage_then(made_in: bool, run_in: bool) -> None:
    with torch.inference_mode(made_in):
        parts = mapped([2, 5], 3, torch.uint8)
    place, want = parts[0].data_ptr(), torch.cat(parts)
    for _ in range(2):
        with torch.inference_mode(run_in):
            whole = stacked(parts)
        assert torch.equal(whole, want)
        assert whole.data_ptr() == place
        assert are_one(parts)


class Pair(nn.Module):
    """Two products of one input, whose weights are neighbours."""

    def __init__(self) -> None:
        super().__init__()
        blocks = ops.quantize(torch.randn(12, 64), Q4_0)
        parts = mapped([8, 4], blocks.shape[1], torch.uint8)
        for name, part, rows in zip(("a", "b"), parts, blocks.split([8, 4]), strict=True):
            self.register_buffer(name, part.copy_(rows))

    def forward(self, x: Tensor) -> Tensor:
        a, b = ops.quant_matmul(x, self.a, Q4_0), ops.quant_matmul(x, self.b, Q4_0)
        return a.sum(-1) + b.sum(-1)


def test_merged_products_of_neighbours_take_no_memory() -> None:
    module, x = Pair(), torch.randn(2, 64)
    gm = torch.export.export(module, (x,)).module()
    before = attribute_bytes(gm)
    done = optimize(gm, [x], level=2)
    (weight,) = done.buffers()
    assert weight.data_ptr() == module.a.data_ptr()
    assert attribute_bytes(done) == before == weight.nbytes
    assert [p.bytes_saved for p in done.meta["report"].passes] == [0] * 5
    assert torch.equal(done(x), module(x))
