"""The compiled rms_norm, launched by its own launcher, against the reference."""

from __future__ import annotations

import pytest
import torch
from emulated_tensors import ARCHS, DTYPE_CODES, from_bits, give, take

from rocmforge_torch.ops import reference
from tools.amd.emulator import Emulator, Run
from tools.amd.emulator.messages import Struct
from tools.amd.toolchain import CSRC

pytestmark = pytest.mark.emulated
SOURCE = CSRC / "hip" / "norm.hip"
EPS = 1e-6


def launch(
    emulator: Emulator,
    arch: str,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    offset: int = 0,
) -> tuple[torch.Tensor, Run]:
    """x [rows, width]; its last dimension may be a slice of a wider tensor."""
    rows, width = x.shape
    base = x if x.is_contiguous() else x._base
    assert base is not None
    run = emulator.launch(
        SOURCE,
        arch,
        "rms_norm",
        [
            DTYPE_CODES[x.dtype],
            give(base, offset),
            Struct([("c_int64", rows), ("c_int64", 0), ("c_int64", x.stride(0))]),
            DTYPE_CODES[weight.dtype if weight is not None else torch.float32],
            give(weight, offset),
            EPS,
            take((rows, width), x.dtype, offset),
            rows,
            width,
            None,
        ],
    )
    return from_bits(run.outputs[0], x.dtype), run


def assert_matches(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None) -> None:
    expected = reference.rms_norm(x, weight, EPS)
    # One rounding of the result, and a few of the float32 sum.
    torch.testing.assert_close(out, expected, rtol=max(4e-6, torch.finfo(x.dtype).eps), atol=0)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
@pytest.mark.parametrize("weight_kind", ["none", "float32", "same"])
def test_rms_norm_matches_the_reference(
    emulator: Emulator, arch: str, dtype: torch.dtype, weight_kind: str
) -> None:
    x = torch.randn(3, 517).to(dtype)
    weights = {"none": None, "float32": torch.randn(517), "same": torch.randn(517).to(dtype)}
    weight = weights[weight_kind]
    out, run = launch(emulator, arch, x, weight)
    assert_matches(out, x, weight)
    assert [r.grid for r in run.launches] == [(3, 1, 1)]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("width", [1, 31, 255, 256, 1025])
def test_rms_norm_at_odd_widths_and_addresses(emulator: Emulator, arch: str, width: int) -> None:
    x, weight = torch.randn(2, width).to(torch.float16), torch.randn(width).to(torch.float16)
    out, _ = launch(emulator, arch, x, weight, offset=1)
    assert_matches(out, x, weight)


@pytest.mark.parametrize("arch", ARCHS)
def test_rms_norm_of_rows_apart(emulator: Emulator, arch: str) -> None:
    x = torch.randn(4, 100)[:, :61]
    out, _ = launch(emulator, arch, x, None)
    assert_matches(out, x, None)


def test_rms_norm_reads_each_line_of_a_row_no_more_than_it_must(emulator: Emulator) -> None:
    x = torch.randn(2, 1024)
    _, run = launch(emulator, "gfx1100", x, torch.randn(1024))
    assert run.lines[0] == x.numel() * 4 // 128
    assert run.lines[1] == 1024 * 4 // 128
    # x once, the weight once per row.
    assert run.line_requests == run.lines[0] + 2 * run.lines[1]
