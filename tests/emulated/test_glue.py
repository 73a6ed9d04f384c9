"""The compiled kernels of the unquantized ops, launched by their own launchers, at odd shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from emulated_tensors import DTYPE_CODES, bits, from_bits, give, take
from torch import Tensor

from rocmforge_torch.ops import reference
from tools.amd.emulator import Emulator, Output
from tools.amd.emulator.messages import Struct
from tools.amd.toolchain import CSRC

pytestmark = pytest.mark.emulated
EPS = 1e-6
F16, F32, BF16 = torch.float16, torch.float32, torch.bfloat16
# gfx1100 runs every dtype; the others show that wave size and instruction set do not matter.
CASES = [("gfx1100", F32), ("gfx1100", F16), ("gfx1100", BF16), ("gfx1201", F16), ("gfx942", F16)]
on_every_arch = pytest.mark.parametrize(("arch", "dtype"), CASES, ids=str)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


def call(
    emulator: Emulator, file: str, arch: str, function: str, values: Sequence[Any]
) -> list[Any]:
    return emulator.launch(CSRC / "hip" / f"{file}.hip", arch, function, values).outputs


def int64s(*values: int) -> list[tuple[str, Any]]:
    return [("c_int64", value) for value in values]


def rows(x: Tensor) -> Struct:
    """RowLayout of a tensor with one level of stride."""
    return Struct(int64s(max(math.prod(x.shape[:-1]), 1), 0, x.stride(-2)))


def whole(x: Tensor) -> Tensor:
    """The memory that a view with its storage's first element looks at."""
    return x if x.is_contiguous() else x._base if x._base is not None else x


def changed(tensor: Tensor) -> Output:
    return Output(bits(tensor).copy())


def assert_close(got: Tensor, wanted: Tensor) -> None:
    tolerance = max(8e-6, torch.finfo(wanted.dtype).eps)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def emulated_add_rms_norm(
    emulator: Emulator,
    arch: str,
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    x_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    (count, width), dtype = x.shape, x.dtype
    kind = next((w.dtype for w in (weight, x_weight) if w is not None), F32)
    out, total = call(
        emulator,
        "norm",
        arch,
        "add_rms_norm",
        [DTYPE_CODES[dtype], give(x), rows(x), give(residual), rows(residual), DTYPE_CODES[kind],
         give(weight), give(x_weight), EPS, take((count, width), dtype),
         take((count, width), dtype), count, width, None],
    )  # fmt: skip
    return from_bits(out, dtype), from_bits(total, dtype)


@on_every_arch
@pytest.mark.parametrize("width", [40, 517, 2304], ids=["short", "odd", "long"])
def test_add_rms_norm(emulator: Emulator, arch: str, dtype: torch.dtype, width: int) -> None:
    x, residual = randn(3, width, dtype=dtype), randn(3, width, dtype=dtype)
    weight = torch.randn(width)
    out, total = emulated_add_rms_norm(emulator, arch, x, residual, weight)
    wanted, wanted_total = reference.add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, wanted_total)
    assert_close(out, wanted)


@on_every_arch
@pytest.mark.parametrize("width", [40, 517, 2304, 9000], ids=["short", "odd", "long", "longer"])
def test_add_rms_norm_of_a_normed_x(
    emulator: Emulator, arch: str, dtype: torch.dtype, width: int
) -> None:
    """The bits of two launches."""
    count = 1 if width > 9000 // 2 else 3
    x, residual = 20 * randn(count, width, dtype=dtype), randn(count, width, dtype=dtype)
    for weight, x_weight in ((None, randn(width, dtype=dtype)), torch.randn(2, width)):
        out, total = emulated_add_rms_norm(emulator, arch, x, residual, weight, x_weight)
        (inner,) = call(
            emulator,
            "norm",
            arch,
            "rms_norm",
            [DTYPE_CODES[dtype], give(x), rows(x), DTYPE_CODES[x_weight.dtype], give(x_weight),
             EPS, take((count, width), dtype), count, width, None],
        )  # fmt: skip
        wanted = emulated_add_rms_norm(emulator, arch, from_bits(inner, dtype), residual, weight)
        assert torch.equal(total, wanted[1])
        assert torch.equal(out, wanted[0])
        expected = reference.add_rms_norm(x, residual, weight, EPS, x_weight)
        for got, exact in zip((out, total), expected, strict=True):
            # A sum that cancels shows the rounding of what was added, numbers up to about 4.
            tolerance = 4 * max(8e-6, torch.finfo(dtype).eps)
            torch.testing.assert_close(got, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_norm_of_rows_longer_than_the_registers(emulator: Emulator, dtype: torch.dtype) -> None:
    width = 9000
    x = randn(1, width, dtype=dtype)
    (out,) = call(
        emulator,
        "norm",
        "gfx1100",
        "rms_norm",
        [DTYPE_CODES[dtype], give(x), rows(x), DTYPE_CODES[F32], None, EPS, take((1, width), dtype),
         1, width, None],
    )  # fmt: skip
    assert_close(from_bits(out, dtype), reference.rms_norm(x, None, EPS))


@on_every_arch
@pytest.mark.parametrize("function", ["silu_mul", "gelu_mul"])
def test_gated_activations(
    emulator: Emulator, arch: str, dtype: torch.dtype, function: str
) -> None:
    for width in (37, 264):
        gate, up = randn(3, width + 8, dtype=dtype)[:, :width], randn(3, width, dtype=dtype)
        (out,) = call(
            emulator,
            "activation",
            arch,
            function,
            [DTYPE_CODES[dtype], give(whole(gate)), rows(gate), give(up), rows(up),
             take((3, width), dtype), 3, width, None],
        )  # fmt: skip
        assert_close(from_bits(out, dtype), getattr(reference, function)(gate, up))


@on_every_arch
@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(emulator: Emulator, arch: str, dtype: torch.dtype, interleaved: bool) -> None:
    tokens, heads, head_dim, rotated = 3, 5, 26, 20
    x = randn(tokens, heads, head_dim, dtype=dtype)
    inv_freq = 10000.0 ** (-torch.arange(0, rotated, 2) / rotated)
    for positions in (torch.tensor([0, 131071, 7]), torch.tensor([3, 4, 5], dtype=torch.int32)):
        (out,) = call(
            emulator,
            "rope",
            arch,
            "rope",
            [DTYPE_CODES[dtype], give(x), Struct(int64s(tokens, 0, x.stride(0))), head_dim,
             positions.dtype == torch.int64, give(positions), tokens, give(inv_freq), rotated // 2,
             interleaved, 1.3, take(tuple(x.shape), dtype), tokens, heads, head_dim, None],
        )  # fmt: skip
        wanted = reference.rope(x, positions, inv_freq, interleaved, 1.3)
        torch.testing.assert_close(
            from_bits(out, dtype), wanted, rtol=0, atol=max(2e-6, 4 * torch.finfo(dtype).eps)
        )


def shared_layout(*dims: tuple[int, int, int]) -> Struct:
    columns = [[dim[i] for dim in dims] + [0] * (8 - len(dims)) for i in range(3)]
    return Struct(int64s(len(dims), *(value for column in columns for value in column)))


@on_every_arch
@pytest.mark.parametrize("start", [3, 5, -1, 6])
def test_accumulate(emulator: Emulator, arch: str, dtype: torch.dtype, start: int) -> None:
    dst, src, offset = randn(9, 7, dtype=dtype), randn(4, 7, dtype=dtype), torch.tensor(start)
    wanted = dst.clone()
    if 0 <= start <= 5:  # else nothing may be written
        reference.accumulate_(wanted, src, offset)
    for layout in (shared_layout((28, 1, 1)), shared_layout((4, 7, 7), (7, 1, 1))):
        (out,) = call(
            emulator,
            "cache",
            arch,
            "accumulate",
            [DTYPE_CODES[dtype], changed(dst), give(src), give(offset.reshape(1)), 5, 7, layout,
             None],
        )  # fmt: skip
        assert torch.equal(from_bits(out, dtype), wanted)


# temperature, top_k, top_p, min_p of a row
FILTERS = torch.tensor(
    [
        [0.0, 0, 1.0, 0.0],
        [0.8, 0, 1.0, 0.0],
        [1.3, 5, 1.0, 0.0],
        [1.0, 0, 0.6, 0.0],
        [1.5, 40, 0.8, 0.02],
        [1.0, 0, 1.0, 0.3],
        [1.0, 0, 1.0, 2.0],
        [1.0, 0, 0.999, 0.0],
    ],
    dtype=torch.float64,
)


def emulated_sample(emulator: Emulator, arch: str, logits: Tensor, args: list[Tensor]) -> Tensor:
    batch, vocab = logits.shape
    # A generous workspace: sample_workspace_bytes says how much is needed.
    workspace = Output(np.full(batch * (vocab + 2048), -1, np.int64))
    params = Struct([("c_void_p", give(arg)) for arg in args])
    outputs = call(
        emulator,
        "sampling",
        arch,
        "sample",
        [DTYPE_CODES[logits.dtype], give(logits), vocab, params, workspace,
         Output(np.full(batch, -1, np.int64)), batch, vocab, None],
    )  # fmt: skip
    return torch.from_numpy(np.array(next(o for o in outputs if o.shape == (batch,))))


@on_every_arch
@pytest.mark.parametrize("kind", ["random", "all equal", "special"])
def test_sample(emulator: Emulator, arch: str, dtype: torch.dtype, kind: str) -> None:
    # A power of two of equal tokens comes nearest to the largest sum of 64 bits.
    batch, vocab = len(FILTERS), 128 if kind == "all equal" else 133
    logits = 2 * randn(batch, vocab, dtype=dtype)
    if kind == "all equal":
        logits.zero_()
    if kind == "special":
        logits[:, ::3], logits[:, 1::5] = float("-inf"), float("nan")
    check_sample(emulator, arch, logits, FILTERS)


def check_sample(emulator: Emulator, arch: str, logits: Tensor, filters: Tensor) -> None:
    batch = len(logits)
    seeds = torch.randint(-(2**63), 2**63 - 1, (batch,))
    steps = torch.randint(0, 2**40, (batch,))
    temperature, top_k, top_p, min_p = filters.T.contiguous()
    args = [temperature.float(), top_k.long(), top_p.float(), min_p.float(), seeds, steps]
    assert torch.equal(
        emulated_sample(emulator, arch, logits, args), reference.sample(logits, *args)
    )


def test_sample_among_many_candidates(emulator: Emulator) -> None:
    # More than are ranked one by one; digits tell them apart.
    check_sample(emulator, "gfx1100", torch.randn(2, 700).round(), FILTERS[[4, 7]])
