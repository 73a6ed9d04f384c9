"""Copies between kinds of tensors, processes and files."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from rocmforge_torch import GGUFTensor
from tests.tensor.quantized import COLS, ROWS, numbers, quantized


def blank(like: GGUFTensor) -> GGUFTensor:
    return torch.zeros_like(like)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "F16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("transposed", [False, True])
def test_copy_of_values_quantizes(name: str, dtype: torch.dtype, transposed: bool) -> None:
    values = (torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(3)) * 9).to(dtype)
    row_bytes = {"Q8_0": 544, "Q4_K": 288, "F16": 1024}[name]
    qtype = {"Q8_0": 8, "Q4_K": 12, "F16": 1}[name]
    target = GGUFTensor(torch.zeros(ROWS, row_bytes, dtype=torch.uint8), qtype)
    seen, given = (target.t(), values.t()) if transposed else (target, values)
    before = target._version
    assert seen.copy_(given) is seen
    assert torch.equal(target.qweight, torch.ops.rocmforge.quantize(values.float(), qtype))
    assert target._version > before


def test_copy_of_a_row_is_spread() -> None:
    target = quantized()
    target.copy_(numbers(target)[3])
    assert torch.equal(target.dequantize(), numbers(quantized())[3].expand(ROWS, COLS))
    target[1:3].copy_(torch.zeros(()))
    assert target.dequantize()[1:3].count_nonzero() == 0


def test_copy_of_blocks() -> None:
    source = quantized()
    for kind in (source, source.packed(), source.half()):
        target = blank(source)
        target.copy_(kind)
        assert torch.equal(target.qweight, source.qweight)
    packed = blank(source).packed().copy_(source)
    assert torch.equal(packed.qweight, source.packed().qweight)


def test_copy_into_an_ordinary_tensor_dequantizes() -> None:
    target = torch.zeros(ROWS, COLS, dtype=torch.bfloat16)
    target.copy_(quantized())
    assert torch.equal(target, numbers(quantized()).bfloat16())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: quantized("Q4_0"), r"same type and orientation, Q8_0, got Q4_0; copy_\(source"),
        (lambda: quantized("Q8_0", COLS, ROWS * 32)[:, :32], r"same shape, \[6, 512\], got"),
    ],
)
def test_copies_that_are_refused(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantized().copy_(source())


def test_a_type_without_a_quantizer() -> None:
    target = GGUFTensor(torch.zeros(2, 50, dtype=torch.uint8), 19)
    with pytest.raises(RuntimeError, match="IQ1_S has no quantizer; types with one: F32"):
        target.copy_(torch.zeros(2, 256))


def test_equal() -> None:
    weight = quantized()
    assert torch.equal(weight, weight.clone())
    assert not torch.equal(weight, blank(weight))
    with pytest.raises(NotImplementedError, match="not both are of one type"):
        torch.equal(weight, quantized("Q4_0"))


def test_float64_reports_and_dequantizes() -> None:
    weight = quantized().double()
    assert weight.dtype == torch.float64
    assert torch.equal(weight.dequantize(), numbers(quantized()).double())


def _rows_of(queue: Any, weight: GGUFTensor) -> None:
    weight[0].copy_(torch.zeros(COLS))
    queue.put((weight.is_shared(), weight.qtype))


def test_shared_with_another_process() -> None:
    weight = quantized()
    assert not weight.is_shared()
    assert weight.share_memory_() is weight
    context: Any = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_rows_of, args=(queue, weight))
    process.start()
    assert queue.get() == (True, weight.qtype)
    process.join()
    assert weight.dequantize()[0].count_nonzero() == 0
    assert torch.equal(weight.dequantize()[1:], numbers(quantized())[1:])


def test_pinning_asks_for_the_blocks() -> None:
    weight = quantized()
    assert not weight.is_pinned()
    if torch.cuda.is_available():
        assert weight.pin_memory().qweight.is_pinned()


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_saved_in_every_form(weights_only: bool, mmap: bool, tmp_path: Any) -> None:
    weight = quantized("Q4_0", dtype=torch.bfloat16)
    forms = {
        "as it is": weight,
        "packed": weight.packed(),
        "transposed": weight.t(),
        "a parameter": nn.Parameter(weight, requires_grad=False),
        "one that requires a gradient": nn.Parameter(weight),
    }
    torch.save(forms, tmp_path / "w.pt")
    again = torch.load(tmp_path / "w.pt", weights_only=weights_only, mmap=mmap)
    for name, form in forms.items():
        assert repr(again[name]) == repr(form)
        assert isinstance(again[name], nn.Parameter) == isinstance(form, nn.Parameter)
        assert torch.equal(again[name].qweight, form.qweight)


def test_a_module_is_saved_whole() -> None:
    layer, file = nn.Linear(COLS, ROWS), io.BytesIO()
    layer.weight = nn.Parameter(quantized(), requires_grad=False)
    torch.save(layer, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)
