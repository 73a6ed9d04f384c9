"""QuantLinear and QuantEmbedding against PyTorch's own on the dequantized weight."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch.nn import functional

from rocmforge_torch import GGUFTensor
from rocmforge_torch.nn import QuantEmbedding, QuantLinear

Q8_0, Q4_0 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0
pytestmark = pytest.mark.usefixtures("exact")


def quantized(qtype: gguf.GGMLQuantizationType, rows: int, k: int) -> tuple[Any, torch.Tensor]:
    """(GGUFTensor, its values by gguf-py)."""
    values = np.random.default_rng(rows).standard_normal((rows, k), np.float32)
    blocks = gguf.quants.quantize(values, qtype)
    dense = torch.from_numpy(gguf.quants.dequantize(blocks, qtype))
    return GGUFTensor(torch.from_numpy(blocks), int(qtype)), dense


@pytest.mark.parametrize("qtype", [Q8_0, Q4_0])
@pytest.mark.parametrize("biased", [False, True])
def test_linear(qtype: gguf.GGMLQuantizationType, biased: bool) -> None:
    weight, dense = quantized(qtype, 24, 64)
    bias = torch.randn(24) if biased else None
    layer = QuantLinear.from_weight(weight, bias)
    assert (layer.out_features, layer.in_features) == (24, 64)
    x = torch.randn(3, 5, 64)
    torch.testing.assert_close(layer(x), functional.linear(x, dense, bias))
    assert torch.equal(layer.weight.dequantize(), dense)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_weights_are_blocks_too(dtype: torch.dtype) -> None:
    weight = torch.randn(24, 40).to(dtype)
    x = torch.randn(2, 40)
    layer = QuantLinear.from_weight(weight)
    torch.testing.assert_close(layer(x), x @ weight.float().T)
    assert layer.qweight.data_ptr() == weight.data_ptr()


def test_embedding_and_its_transpose() -> None:
    weight, dense = quantized(Q8_0, 50, 64)
    layer = QuantEmbedding.from_weight(weight, torch.float16)
    ids = torch.randint(50, (3, 7))
    assert layer(ids).dtype == torch.float16
    assert torch.equal(layer(ids), dense.half()[ids])
    x = torch.randn(2, 64)
    torch.testing.assert_close(layer.attend(x), x @ dense.T)


def test_state_dict_holds_the_blocks() -> None:
    weight, _ = quantized(Q8_0, 24, 64)
    layer = QuantLinear.from_weight(weight, torch.zeros(24))
    assert set(layer.state_dict()) == {"qweight", "bias"}
    assert layer.state_dict()["qweight"].data_ptr() == weight.qweight.data_ptr()
    other = QuantLinear(torch.zeros_like(weight.qweight), weight.qtype, torch.ones(24))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.qweight, weight.qweight)


def test_blocks_survive_a_cast() -> None:
    weight, _ = quantized(Q8_0, 24, 64)
    assert torch.equal(QuantLinear.from_weight(weight).half().qweight, weight.qweight)


def test_gradient_of_the_input() -> None:
    weight, dense = quantized(Q8_0, 24, 64)
    x = torch.randn(3, 64, requires_grad=True)
    g = torch.randn(3, 24)
    QuantLinear.from_weight(weight)(x).backward(g)
    torch.testing.assert_close(x.grad, g @ dense)


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        (torch.zeros(3), r"shape \[N, K\], got \[3\]"),
        (torch.zeros(3, 4, dtype=torch.float64), "got torch.float64"),
        (torch.zeros(3, 4, dtype=torch.int8), "got torch.int8"),
    ],
)
def test_bad_weights(weight: torch.Tensor, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        QuantLinear.from_weight(weight)
    with pytest.raises(ValueError, match=problem):
        QuantEmbedding.from_weight(weight)


def test_a_packed_layer_keeps_its_layout_to_itself() -> None:
    weight, dense = quantized(Q4_0, 24, 64)
    layer = QuantLinear.from_weight(weight).pack_()
    assert layer.layout == 1
    assert "packed" in repr(layer)
    assert not torch.equal(layer.qweight, weight.qweight)
    assert torch.equal(layer.pack_().weight.dequantize(), dense)
    assert torch.equal(layer.state_dict()["qweight"], weight.qweight)

    other, _ = quantized(Q4_0, 24, 64)
    again = QuantLinear(torch.zeros_like(other.qweight), other.qtype).pack_()
    state = layer.state_dict()
    again.load_state_dict(state)
    assert again.layout == 1
    assert torch.equal(again.qweight, layer.qweight)
    assert torch.equal(state["qweight"], weight.qweight), "the caller's dictionary stays"

    same = QuantLinear.from_weight(weight.packed())
    assert same.layout == 1
    assert torch.equal(same.qweight, layer.qweight)
    same.to("cpu")
    assert same.layout == 0
    assert torch.equal(same.qweight, weight.qweight)
    x = torch.randn(2, 64)
    torch.testing.assert_close(same(x), x @ dense.T)


def test_plain_weights_have_no_other_layout() -> None:
    weight = torch.randn(8, 16)
    layer = QuantLinear.from_weight(weight).pack_()
    assert layer.layout == 0
    assert layer.qweight.data_ptr() == weight.data_ptr()


def test_a_packed_table_is_refused() -> None:
    weight, _ = quantized(Q8_0, 24, 64)
    with pytest.raises(ValueError, match="looks up rows, which a packed weight has not"):
        QuantEmbedding.from_weight(weight.packed())
