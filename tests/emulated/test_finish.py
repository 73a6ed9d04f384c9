"""What follows a product of another library, and sums of whole vectors, run as AMD code."""

from __future__ import annotations

import pytest
import torch
from emulated_tensors import ARCHS, DTYPE_CODES, bits, from_bits, give, take

from tools.amd.emulator import Emulator, Output, Struct
from tools.amd.toolchain import CSRC

pytestmark = pytest.mark.emulated
HIP = CSRC / "hip"
ROWS, COLS, STRIDE = 3, 37, 40


@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
@pytest.mark.parametrize("product_dtype", DTYPE_CODES, ids=str)
def test_finished_product(
    emulator: Emulator, product_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    """The bias is float32 or of the result's type; between the rows nothing is written."""
    product = torch.randn(ROWS, COLS).to(product_dtype)
    for bias in (torch.randn(COLS), torch.randn(COLS).to(dtype), None):
        bias_dtype = torch.float32 if bias is None else bias.dtype
        run = emulator.launch(
            HIP / "dequantize.hip",
            "gfx1100",
            "finish_product",
            [
                *(DTYPE_CODES[product_dtype], give(product), ROWS, COLS),
                *(DTYPE_CODES[bias_dtype], give(bias)),
                *(DTYPE_CODES[dtype], take((ROWS, STRIDE), dtype), STRIDE, None),
            ],
        )
        got = from_bits(run.outputs[0], dtype)
        want = product.float() if bias is None else product.float() + bias.float()
        assert torch.equal(got[:, :COLS], want.to(dtype))
        assert got[:, COLS:].isnan().all()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_sums_of_vectors(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    """Rows of 16 bytes and more, aligned: the kernel that moves 16 bytes at once."""
    dst, src = torch.randn(5, 264).to(dtype), torch.randn(2, 264).to(dtype)
    sizes = [("c_int64", n) for n in (1, src.numel(), *(0,) * 7, 1, *(0,) * 7, 1, *(0,) * 7)]
    run = emulator.launch(
        HIP / "cache.hip",
        arch,
        "accumulate",
        [
            *(DTYPE_CODES[dtype], Output(bits(dst)), give(src), give(torch.tensor([3]))),
            *(3, 264, Struct(list(sizes)), None),
        ],
    )
    want = dst.clone()
    want[3:] += src
    assert torch.equal(from_bits(run.outputs[0], dtype), want)
    assert any("true>" in launch.kernel for launch in run.launches)
