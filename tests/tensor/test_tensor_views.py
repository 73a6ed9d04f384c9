"""Views move whole blocks and share memory; what is seen is the dequantized matrix's view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rocmforge_torch import GGUFTensor
from tests.tensor.quantized import quantized

VIEWS: dict[str, Callable[[Any], Any]] = {
    "t": lambda w: w[0].t(),
    "t_of_vector": lambda w: w[0, 0].t(),
    "mT": lambda w: w.mT,
    "mT_twice": lambda w: w.mT.mT,
    "transpose": lambda w: w.transpose(-1, -2),
    "transpose_leading": lambda w: w.transpose(0, 1),
    "permute": lambda w: w.permute(1, 2, 0).mT,
    "select": lambda w: w[1],
    "select_negative": lambda w: w.select(1, -1),
    "select_of_transposed": lambda w: w.mT[1],
    "select_column_of_transposed": lambda w: w.mT[..., 2],
    "rows": lambda w: w[:, 1:5:2],
    "columns": lambda w: w[..., 256:512],
    "columns_from_the_end": lambda w: w[..., -256:],
    "columns_beyond": lambda w: w[..., 512:2000],
    "rows_of_transposed": lambda w: w.mT[..., 1:3],
    "columns_of_transposed": lambda w: w.mT[:, 256:],
    "narrow": lambda w: w.narrow(1, 2, 3),
    "unsqueeze": lambda w: w.unsqueeze(1),
    "unsqueeze_negative": lambda w: w.unsqueeze(-2),
    "unsqueeze_transposed": lambda w: w.mT.unsqueeze(0),
    "squeeze": lambda w: w[:1].squeeze(),
    "squeeze_dim": lambda w: w[:, :1].squeeze(1),
    "squeeze_nothing": lambda w: w.squeeze(0),
    "expand": lambda w: w[:, None].expand(-1, 4, -1, -1),
    "expand_transposed": lambda w: w[0].t().expand(3, -1, -1),
    "flat_rows": lambda w: w.view(-1, 768),
    "flat": lambda w: w.reshape(-1),
    "narrower": lambda w: w.view(12, 3, 256),
    "unflatten": lambda w: w.unflatten(1, (2, 3)),
    "flatten": lambda w: w.flatten(0, 1),
    "view_as": lambda w: w.mT.view_as(w.mT),
    "as_strided": lambda w: w.as_strided((6, 768), (768, 1), w.storage_offset() + 2 * 768),
    "as_strided_transposed": lambda w: w.as_strided((768, 2), (1, 1536)),
    "detach": lambda w: w.detach(),
    "data": lambda w: w.data,
}

COPIES: dict[str, Callable[[Any], Any]] = {
    "index": lambda w: w[torch.tensor([1, 0, 1])],
    "index_of_rows": lambda w: w[:, torch.tensor([1, 0])],
    "mask": lambda w: w[torch.tensor([True, False])],
    "index_select": lambda w: w.index_select(1, torch.tensor([5, 5])),
    "index_select_transposed": lambda w: w.mT.index_select(2, torch.tensor([5, 5])),
    "cat": lambda w: torch.cat([w, w[:1]]),
    "cat_rows": lambda w: torch.cat([w, w[:, :2]], 1),
    "cat_columns": lambda w: torch.cat([w, w[..., :256]], -1),
    "cat_transposed": lambda w: torch.cat([w.mT, w.mT[..., :2]], -1),
    "stack": lambda w: torch.stack([w, w]),
    "stack_rows": lambda w: torch.stack([w[0], w[1]], 1),
    "pad": lambda w: torch.nn.functional.pad(w, (0, 0, 1, 2)),
    "clone": lambda w: w.clone(),
    "contiguous": lambda w: w[:, ::2].contiguous(),
}

LISTS: dict[str, Callable[[Any], Any]] = {
    "unbind": lambda w: w.unbind(),
    "unbind_transposed": lambda w: w.mT.unbind(-1),
    "iterate": list,
    "chunk": lambda w: w.chunk(2, 1),
    "chunk_unevenly": lambda w: w.chunk(4, 1),
    "split": lambda w: w.split(2, 1),
    "split_sizes": lambda w: w.split([1, 2, 3], 1),
    "split_columns": lambda w: w.split([256, 512], -1),
    "chunk_columns": lambda w: w.chunk(3, -1),
    "tensor_split": lambda w: w.tensor_split(4, 1),
}


def weight(offset: int = 0) -> GGUFTensor:
    """[2, 6, 768] in Q4_1, whose blocks have 20 bytes, beginning so many bytes into its storage."""
    made = quantized("Q4_1", 2, 6, 768)
    memory = torch.zeros(made.qweight.numel() + offset, dtype=torch.uint8)
    blocks = memory[offset:].view(made.qweight.shape)
    return GGUFTensor(blocks.copy_(made.qweight), made.qtype)


def same(found: Any, expected: Any) -> None:
    assert isinstance(found, GGUFTensor)
    assert torch.equal(found.dequantize(), expected)
    assert found.shape == expected.shape


@pytest.mark.parametrize("offset", [0, 32])
@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str, offset: int) -> None:
    tensor = weight(offset)
    found = VIEWS[name](tensor)
    same(found, VIEWS[name](tensor.dequantize()))
    assert found.stride() == VIEWS[name](tensor.dequantize()).stride()
    assert found.is_contiguous() == VIEWS[name](tensor.dequantize()).is_contiguous()
    storage = tensor.qweight.untyped_storage().data_ptr()
    assert found.qweight.untyped_storage().data_ptr() == storage
    with torch.inference_mode():
        same(VIEWS[name](tensor), VIEWS[name](tensor.dequantize()))


@pytest.mark.parametrize("name", COPIES)
def test_copies(name: str) -> None:
    same(COPIES[name](weight()), COPIES[name](weight().dequantize()))


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str) -> None:
    found, expected = LISTS[name](weight()), LISTS[name](weight().dequantize())
    assert len(found) == len(expected)
    for part, values in zip(found, expected, strict=True):
        same(part, values)


def test_a_view_of_what_it_was_made_of() -> None:
    tensor = weight()
    assert tensor.mT._base is tensor
    assert tensor.mT.mT._base is tensor


@pytest.mark.parametrize("offset", [0, 32])
def test_views_that_leave_a_compiled_graph(offset: int) -> None:
    names = ("mT", "rows", "columns", "select", "flat_rows", "unsqueeze")

    def views(w: Any) -> list[Any]:
        return [VIEWS[name](w) for name in names]

    tensor = weight(offset)
    compiled = torch.compile(views, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(tensor), views(tensor), strict=True):
        same(found, expected.dequantize())
        assert found.stride() == expected.stride()


@pytest.mark.parametrize(
    "take",
    [
        lambda w: w.chunk(2),
        lambda w: w.view(-1),
        lambda w: w[:, :32],
        lambda w: w.unbind(),
        lambda w: torch.cat([w, w]),
    ],
)
def test_packed_weights_have_neither_rows_nor_blocks(take: Callable[[Any], Any]) -> None:
    packed = quantized("Q8_0").packed()
    with pytest.raises(NotImplementedError, match=r"call .unpacked\(\) first"):
        take(packed)
    assert torch.equal(packed.t().dequantize(), packed.dequantize().t())
