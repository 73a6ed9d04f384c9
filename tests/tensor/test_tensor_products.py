"""Products and look-ups in every way that PyTorch has for them, against the dequantized matrix."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tensor.quantized import quantized

N, K, M, B = 64, 96, 5, 3
# A sum of K float32 products in any two orders differs by less than K * 2^-23 of the sum of their
# magnitudes, which the next line bounds: |x|, |w| < 6.
SUM_ORDER = {"rtol": 0.0, "atol": K * 2**-23 * K * 36}

PRODUCTS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "linear": lambda x, w: F.linear(x, w),
    "linear_bias": lambda x, w: F.linear(x, w, torch.arange(N).float()),
    "linear_vector": lambda x, w: F.linear(x[0, 0], w),
    "linear_transposed": lambda x, w: F.linear(x[..., :N], w.t(), torch.arange(K).float()),
    "matmul_t": lambda x, w: x @ w.t(),
    "matmul_T": lambda x, w: x @ w.T,
    "matmul_mT": lambda x, w: torch.matmul(x, w.mT),
    "matmul_transpose": lambda x, w: x.matmul(w.transpose(0, 1)),
    "matmul_permute": lambda x, w: x @ w.permute(1, 0),
    "matmul_as_it_is": lambda x, w: x[..., :N] @ w,
    "matmul_t_t": lambda x, w: x[..., :N] @ w.t().t(),
    "matmul_on_the_left": lambda x, w: w @ x.mT,
    "matmul_left_transposed": lambda x, w: w.t() @ x[0, :, :N].t(),
    "matmul_strided_batch": lambda x, w: x.transpose(0, 1) @ w.t(),
    "vector": lambda x, w: x[0, 0] @ w.t(),
    "mm": lambda x, w: torch.mm(x[0], w.t()),
    "mm_left": lambda x, w: torch.mm(w, x[0].t()),
    "mv": lambda x, w: torch.mv(w, x[0, 0]),
    "mv_transposed": lambda x, w: w.t().mv(x[0, 0, :N]),
    "addmm": lambda x, w: torch.addmm(torch.arange(N).float(), x[0], w.t()),
    "addmm_scaled": lambda x, w: torch.addmm(x[0, :, :N], x[1], w.t(), beta=0.5, alpha=2),
    "addmm_no_beta": lambda x, w: torch.addmm(x[0, :, :N], x[1], w.t(), beta=0),
    "addmm_left": lambda x, w: torch.addmm(x[0, :, :N].t(), w, x[1].t()),
    "addmv": lambda x, w: torch.addmv(x[0, 0, :N], w, x[1, 0]),
    "bmm": lambda x, w: torch.bmm(x, w.expand(B, -1, -1).mT),
    "bmm_left": lambda x, w: torch.bmm(w.unsqueeze(0).expand(B, -1, -1), x.mT),
    "bmm_matrices": lambda x, w: torch.bmm(x[:2], w.view(2, N // 2, K).mT),
    "baddbmm": lambda x, w: torch.baddbmm(x[:2, :, :32], x[:2], w.view(2, N // 2, K).mT, beta=2),
    "inner": lambda x, w: torch.inner(x, w),
    "tensordot": lambda x, w: torch.tensordot(x, w.t(), 1),
    "columns": lambda x, w: F.linear(x[..., 32:], w[:, 32:]),
    "rows": lambda x, w: torch.cat([F.linear(x, part) for part in w.chunk(3)], -1),
    "packed": lambda x, w: F.linear(x, w.packed() if hasattr(w, "packed") else w),
    "packed_t": lambda x, w: x @ (w.packed() if hasattr(w, "packed") else w).t(),
    "packed_as_it_is": lambda x, w: x[..., :N] @ (w.packed() if hasattr(w, "packed") else w),
}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, M, K, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.usefixtures("exact")
def test_products(name: str, x: Tensor) -> None:
    product, weight = PRODUCTS[name], quantized("Q8_0", N, K)
    dense = weight.dequantize()
    x.requires_grad_()
    found, expected = product(x, weight), product(x, dense)
    assert type(found) is Tensor
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, **SUM_ORDER)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad(found, x, cotangent)
    (wanted,) = torch.autograd.grad(expected, x, cotangent)
    torch.testing.assert_close(grad, wanted, **SUM_ORDER)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(product(x, weight), expected, **SUM_ORDER)


@pytest.mark.parametrize("name", ["linear", "matmul_t", "matmul_as_it_is", "mm_left", "mv", "bmm"])
@pytest.mark.usefixtures("exact")
def test_a_weight_that_requires_a_gradient_gets_an_ordinary_one(name: str, x: Tensor) -> None:
    product, weight = PRODUCTS[name], quantized("Q8_0", N, K).requires_grad_()
    dense = weight.dequantize().detach().requires_grad_()
    for w in (weight, dense):
        product(x, w).square().sum().backward()
    assert type(weight.grad) is Tensor
    torch.testing.assert_close(weight.grad, dense.grad, rtol=1e-4, atol=1e-2)
    with pytest.raises(NotImplementedError, match="would write to a GGUFTensor in place"):
        torch.optim.SGD([weight], 0.1).step()


def test_an_embedding_that_requires_a_gradient() -> None:
    weight, ids = quantized("Q8_0", N, K).requires_grad_(), torch.tensor([1, 3, 3])
    F.embedding(ids, weight).sum().backward()
    expected = torch.zeros(N, K)
    expected[1], expected[3] = 1, 2
    assert torch.equal(weight.grad, expected)


PATHS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "functions": lambda x, w: F.linear(x, w, torch.zeros(N)),
    "ATen": lambda x, w: torch.addmm(torch.zeros(N), x[0], w.t()),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("enabled", [True, False])
def test_autocast(path: str, enabled: bool, x: Tensor) -> None:
    weight = quantized("Q8_0", N, K)
    with torch.autocast("cpu", torch.bfloat16) if enabled else nullcontext():
        found = PATHS[path](x, weight)
        expected = PATHS[path](x, weight.dequantize())
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products_compute_in_the_dtype_of_the_other_factor(dtype: torch.dtype, x: Tensor) -> None:
    weight = quantized("Q8_0", N, K, dtype=torch.bfloat16)
    assert F.linear(x.to(dtype), weight).dtype == dtype
    assert (x.to(dtype) @ weight.t()).dtype == dtype
    assert torch.mm(x[0].to(dtype), weight.t()).dtype == dtype


def test_on_the_meta_device(x: Tensor) -> None:
    weight = quantized("Q8_0", N, K).to("meta")
    assert F.linear(x.to("meta"), weight).shape == (B, M, N)
    assert F.embedding(torch.zeros(4, dtype=torch.int64, device="meta"), weight).shape == (4, K)


@pytest.mark.usefixtures("exact")
def test_vmap(x: Tensor) -> None:
    weight = quantized("Q8_0", N, K)
    with pytest.warns(UserWarning, match="performance drop"):
        found = torch.func.vmap(lambda x: F.linear(x, weight))(x)
    torch.testing.assert_close(found, F.linear(x, weight))
