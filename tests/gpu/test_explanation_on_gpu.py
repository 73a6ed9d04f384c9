"""The kernel that the GPU library says it takes for a product is the one that a profiler sees."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import rocmforge_torch as rf
from rocmforge_torch import extension
from rocmforge_torch.quant_types import quant_type
from tests.gpu.kernel_names import tile_kernel

pytestmark = pytest.mark.gpu
ROWS = (1, 2, 3, 8, 16, 17, 64, 128, 129, 300)
KERNELS = (
    "matvec_kernel",
    "multirow_kernel",
    "tile_kernel",
    "tile_warpgroup_kernel",
    "dequantize_kernel",
)
SEEN = {
    "matvec": {"matvec_kernel"},
    "multirow": {"multirow_kernel"},
    "tile": {tile_kernel()},
    "expand, GEMM": {"dequantize_kernel"},
    "GEMM": set(),
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "IQ4_XS", "F16"])
def test_products(name: str, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    n, k = 512, 1024
    qtype = quant_type(name).id
    values = torch.randn((n, k), generator=torch.Generator().manual_seed(0))
    qweight = torch.ops.rocmforge.quantize(values, qtype).cuda()
    monkeypatch.setattr(rf.config, "exact", exact)
    said = set()
    for rows in ROWS:
        x = torch.randn(rows, k, device="cuda", dtype=torch.float32 if exact else torch.float16)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            torch.ops.rocmforge.quant_matmul(x, qweight, qtype)
            torch.cuda.synchronize()
        started = {kernel for e in profiler.events() for kernel in KERNELS if kernel in e.name}
        kernel = extension.product_kernel("cuda", qtype, rows, n, k)
        assert started - ({"dequantize_kernel"} if name == "F16" else set()) == SEEN[kernel], rows
        said.add(kernel)
    assert (said == {"GEMM"}) == (name == "F16")
    assert ("matvec" in said) == (name != "F16" and not exact)
