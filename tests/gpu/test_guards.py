"""What the GPU tests look for is found when it is there; runs on any machine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QUANT_TYPES_BY_NAME
from tests.gpu.guards import BAND, GuardedMemory
from tests.gpu.quant_cases import NMSE, Product, complaint, ordinary_blocks, weights
from tests.ops.rounded_activations import middles


@pytest.fixture
def memory() -> GuardedMemory:
    return GuardedMemory("cpu")


def around(tensor: Tensor, before: int, after: int) -> Tensor:
    """A view of the elements before and after a contiguous tensor too."""
    first = tensor.storage_offset()
    return tensor.as_strided((before + tensor.numel() + after,), (1,), first - before)


def test_what_stays_inside_is_no_fault(memory: GuardedMemory) -> None:
    with memory:
        out = torch.ones(3, 5).new_empty(7, 9)
        assert out.isnan().all()
        assert out.data_ptr() % 16 == 0
        placed = memory.place(torch.arange(20.0)[3:15:2], offset=4)
        assert placed.tolist() == [3.0, 5.0, 7.0, 9.0, 11.0, 13.0]
        out.zero_()
        assert memory.allocated == 2
        assert memory.faults() == []
    assert torch.ones(2).new_empty(3).untyped_storage().nbytes() == 12


@pytest.mark.parametrize(("index", "where"), [(0, "4 before"), (-1, "1 after")])
def test_writes_outside_are_found(memory: GuardedMemory, index: int, where: str) -> None:
    with memory:
        out = torch.ones(1).new_empty(50)
        around(out, 1, 1)[index] = 0.0
        (fault, *_) = memory.faults()
        assert f"4 bytes written outside, {where} 200 allocated ones" in fault
        assert memory.faults() == []  # and forgotten


def test_a_wide_miss_and_a_changed_input_are_found(memory: GuardedMemory) -> None:
    with memory:
        first, second = (memory.place(torch.zeros(300, dtype=torch.int8)) for _ in range(2))
        around(first, 0, BAND // 2)[-1] = 1
        second[7] = 9
        faults = memory.faults()
    assert any("an input of 300 bytes was written to" in fault for fault in faults)
    assert any("1 bytes written outside" in fault for fault in faults)


def test_an_output_argument_may_change(memory: GuardedMemory) -> None:
    with memory:
        placed = memory.place(torch.zeros(4, 6)[1:, 2:])
        memory.may_change(placed)
        placed += 1
        assert memory.faults() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("m", [1, 4, 64])
def test_results_are_judged(dtype: torch.dtype, m: int) -> None:
    """The exact product passes, rounded activations in few rows too; one wrong number does not."""
    row = QUANT_TYPES_BY_NAME["Q4_K"]
    qweight, values = weights(row, 512, "cpu")
    product = Product(torch.randn(512, 512).to(dtype), values, middles(row, qweight), None)
    right = product.wanted[:m].to(dtype)
    assert complaint(product.judge(right).tolist()) == ""
    if m <= len(product.of_codes):
        assert complaint(product.judge(product.of_codes[:m].to(dtype)).tolist()) == ""
    for damage in (0.0, float(2 * right[0, 0]), float("nan")):
        wrong = right.clone()
        largest = right.abs().flatten().argmax()
        wrong.flatten()[largest] = damage
        assert complaint(product.judge(wrong).tolist()) != ""
    noise = right * (1 + 0.02 * torch.randn(right.shape)).to(dtype)
    assert complaint(product.judge(noise).tolist()).startswith("NMSE")
    assert NMSE < 0.02**2


@pytest.mark.parametrize("qtype", FORMATS)
def test_weights_are_of_ordinary_size(qtype: int) -> None:
    row = QUANT_TYPES[qtype]
    assert ordinary_blocks(row, 8).shape == (8, row.block_bytes)
    values = weights(row, 256, "cpu")[1]
    assert values.isfinite().all()
    assert 0.02 < values.pow(2).mean().sqrt() < 3
