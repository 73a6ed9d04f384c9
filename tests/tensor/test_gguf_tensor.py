"""`GGUFTensor` behaves like the matrix it stands for, where it can, and says so where it cannot."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rocmforge_torch import GGUFTensor
from tests.tensor.quantized import COLS, ROWS, numbers, quantized

TYPES = ["Q4_0", "Q8_0", "Q5_1", "IQ4_NL"]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, COLS, generator=torch.Generator().manual_seed(1))


def test_shape_dtype_and_contents() -> None:
    weight = quantized(dtype=torch.bfloat16)
    assert isinstance(weight, Tensor)
    assert (weight.shape, weight.dtype, weight.device.type) == ((ROWS, COLS), torch.bfloat16, "cpu")
    assert not weight.requires_grad
    assert weight.qweight.shape == (ROWS, COLS // 32 * 34)
    assert repr(weight) == "GGUFTensor(Q8_0, shape=[6, 512], dtype=torch.bfloat16, device=cpu)"


@pytest.mark.parametrize("name", TYPES)
def test_dequantize(name: str) -> None:
    weight = quantized(name)
    assert weight.dequantize().equal(numbers(weight))
    assert weight.dequantize(torch.float16).equal(numbers(weight).half())
    assert quantized(name, dtype=torch.bfloat16).dequantize().dtype == torch.bfloat16


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.usefixtures("exact")
def test_linear(name: str, with_bias: bool, x: Tensor) -> None:
    weight, bias = quantized(name), torch.randn(ROWS) if with_bias else None
    expected = F.linear(
        x.double(), numbers(weight).double(), None if bias is None else bias.double()
    )
    torch.testing.assert_close(F.linear(x, weight, bias).double(), expected, rtol=1e-4, atol=1e-4)
    keywords = F.linear(input=x, weight=weight, bias=bias)
    torch.testing.assert_close(keywords.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("exact")
def test_linear_is_differentiable_in_its_input_and_bias(x: Tensor) -> None:
    weight, bias = quantized(), torch.zeros(ROWS, requires_grad=True)
    x.requires_grad_()
    F.linear(x, weight, bias).square().sum().backward()
    plain, plain_bias = x.detach().clone().requires_grad_(), torch.zeros(ROWS, requires_grad=True)
    F.linear(plain, numbers(weight), plain_bias).square().sum().backward()
    torch.testing.assert_close(x.grad, plain.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(bias.grad, plain_bias.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("exact")
def test_inside_nn_linear(x: Tensor) -> None:
    layer = nn.Linear(COLS, ROWS, bias=False)
    weight = quantized()
    layer.weight = nn.Parameter(weight, requires_grad=False)
    expected = x @ numbers(weight).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    state = layer.state_dict()["weight"]
    assert isinstance(state, GGUFTensor)
    assert state.qweight.equal(weight.qweight)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_embedding(name: str, dtype: torch.dtype) -> None:
    weight, ids = quantized(name, dtype=dtype), torch.tensor([[0, 5], [3, 3]])
    found = F.embedding(ids, weight, padding_idx=0)
    assert found.dtype == dtype
    assert found.equal(numbers(weight).to(dtype)[ids])


@pytest.mark.parametrize(
    ("take", "numpy_index"),
    [
        (lambda w: w[2], 2),
        (lambda w: w[-1], -1),
        (lambda w: w[1:4], slice(1, 4)),
        (lambda w: w[::2], slice(None, None, 2)),
        (lambda w: w[torch.tensor([4, 0, 4])], [4, 0, 4]),
        (lambda w: w[[5, 1]], [5, 1]),
        (lambda w: w.index_select(0, torch.tensor([1, 1])), [1, 1]),
        (lambda w: w.select(0, 3), 3),
        (lambda w: w.narrow(0, 2, 3), slice(2, 5)),
        (lambda w: w[torch.arange(ROWS) > 2], slice(3, ROWS)),
    ],
)
def test_rows(take: Callable[[GGUFTensor], GGUFTensor], numpy_index: Any) -> None:
    weight = quantized()
    rows = take(weight)
    assert isinstance(rows, GGUFTensor)
    assert rows.dequantize().equal(numbers(weight)[numpy_index])


def test_slices_share_the_blocks() -> None:
    weight = quantized()
    assert weight[2:].qweight.data_ptr() == weight.qweight[2:].data_ptr()


def test_one_expert_of_three() -> None:
    weight = quantized("Q8_0", 3, ROWS, 64)
    assert weight.shape == (3, ROWS, 64)
    assert weight[1].shape == (ROWS, 64)
    assert weight[1].dequantize().equal(numbers(weight)[1])


def test_detach_clone_and_deepcopy() -> None:
    weight = quantized()
    for same in (weight.detach(), weight.clone(), copy.deepcopy(weight), copy.copy(weight)):
        assert isinstance(same, GGUFTensor)
        assert (same.shape, same.dtype, same.qtype) == (weight.shape, weight.dtype, weight.qtype)
        assert same.qweight.equal(weight.qweight)
    assert weight.clone().qweight.data_ptr() != weight.qweight.data_ptr()
    assert weight.detach().qweight.data_ptr() == weight.qweight.data_ptr()


def test_to() -> None:
    weight = quantized()
    for half in (weight.to(torch.float16), weight.half(), weight.to("cpu", torch.float16)):
        assert isinstance(half, GGUFTensor)
        assert half.dtype == torch.float16
        assert half.qweight.equal(weight.qweight)
    assert weight.to(torch.float32) is weight
    meta = weight.to("meta")
    assert isinstance(meta, GGUFTensor)
    assert (meta.device.type, meta.qweight.device.type) == ("meta", "meta")
    with pytest.raises(ValueError, match=r"floating-point dtype, got torch\.int32"):
        weight.to(torch.int32)


def test_pickle() -> None:
    weight = quantized(dtype=torch.float16)
    again = pickle.loads(pickle.dumps(weight))
    assert isinstance(again, GGUFTensor)
    assert (again.qtype, again.dtype) == (weight.qtype, torch.float16)
    assert again.qweight.equal(weight.qweight)


@pytest.mark.parametrize("weights_only", [True, False])
def test_save_and_load(weights_only: bool) -> None:
    weight, file = quantized("Q4_0"), io.BytesIO()
    torch.save({"w": weight}, file)
    assert file.tell() < 2 * weight.qweight.numel() + 4096
    file.seek(0)
    again = torch.load(file, weights_only=weights_only)["w"]
    assert isinstance(again, GGUFTensor)
    assert again.qweight.equal(weight.qweight)


def test_flatten_and_unflatten() -> None:
    weight = quantized()
    names, context = weight.__tensor_flatten__()
    inner = {name: getattr(weight, name) for name in names}
    again = GGUFTensor.__tensor_unflatten__(inner, context, weight.shape, weight.stride())
    assert again.dequantize().equal(weight.dequantize())
    assert again.stride() == weight.stride()


@pytest.mark.usefixtures("exact")
def test_compiled_without_a_graph_break(x: Tensor) -> None:
    weight, table = quantized(), quantized("Q4_0")

    def model(x: Tensor, ids: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        return F.linear(x + F.embedding(ids, table), weight).relu()

    ids = torch.tensor([[1, 2], [0, 5], [3, 3]])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = model(x, ids, weight, table)
    torch.testing.assert_close(compiled(x, ids, weight, table), expected)


@pytest.mark.parametrize(
    ("qweight", "qtype", "dtype", "message"),
    [
        (torch.zeros(2, 34), 8, torch.float32, r"qweight must be uint8 .* got torch\.float32"),
        (
            torch.zeros((), dtype=torch.uint8),
            8,
            torch.float32,
            r"\[\.\.\., row_bytes\], got .* \[\]",
        ),
        (
            torch.zeros(2, 35, dtype=torch.uint8),
            8,
            torch.float32,
            "row of 35 bytes .* Q8_0's block",
        ),
        (torch.zeros(2, 34, dtype=torch.uint8), 4, torch.float32, "unknown GGML type 4"),
        (
            torch.zeros(2, 34, dtype=torch.uint8),
            8,
            torch.int64,
            r"floating-point dtype, got torch\.",
        ),
    ],
)
def test_wrong_parts(qweight: Tensor, qtype: int, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GGUFTensor(qweight, qtype, dtype)


def test_packed_weights() -> None:
    weight = quantized("Q4_0", dtype=torch.float16)
    packed = weight.packed()
    assert (weight.qlayout, packed.qlayout) == (0, 1)
    assert packed.packed() is packed
    assert weight.unpacked() is weight
    assert (packed.shape, packed.dtype) == (weight.shape, torch.float16)
    assert torch.equal(packed.qweight, torch.ops.rocmforge.pack_weight(weight.qweight, 2))
    assert torch.equal(packed.unpacked().qweight, weight.qweight)
    assert torch.equal(packed.dequantize(), weight.dequantize())
    assert repr(packed).endswith("device=cpu, packed)")
    for same in (packed.detach(), copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert same.qlayout == 1
        assert torch.equal(same.qweight, packed.qweight)
    # The layout is the GPU's: what is copied to the CPU is unpacked.
    assert packed.to(torch.float32).qlayout == 0
    assert torch.equal(packed.float().qweight, weight.qweight)


@pytest.mark.parametrize(
    "take",
    [
        lambda w: w[1],
        lambda w: w[1:3],
        lambda w: w[torch.tensor([0, 2])],
        lambda w: w.index_select(0, torch.tensor([1])),
        lambda w: F.embedding(torch.tensor([0]), w),
    ],
)
def test_packed_weights_have_no_rows(take: Callable[[Any], Any]) -> None:
    weight = quantized("Q8_0")
    with pytest.raises(NotImplementedError, match=r"call .unpacked\(\) first"):
        take(weight.packed())
    assert take(weight.packed().unpacked()).shape == take(weight).shape


def test_only_matrices_are_packed() -> None:
    weight = quantized("Q8_0", 2, 3, 64)
    with pytest.raises(ValueError, match=r"or 1 \(packed\) for a matrix, got 1 for"):
        GGUFTensor(weight.qweight, weight.qtype, layout=1)
    with pytest.raises(ValueError, match="got 2"):
        GGUFTensor(quantized().qweight, quantized().qtype, layout=2)
