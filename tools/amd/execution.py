"""Runs one-row products on the emulator: right, and at how many instructions and cache lines.

ggml's kernels are called as its own launcher calls them, with its Q8_1 activations.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rocmforge_torch.ops.reference import pack_weight, quant_ops
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME, QuantType

from .code_object import CodeObject
from .emulator import Emulator, Input, Output, Run, Struct, poisoned
from .peer import ARCH
from .toolchain import CSRC

EXECUTED = Path(__file__).with_name("executed_gfx1100.json")
ROWS, COLS = 1024, 4096
_HIP = CSRC / "hip"
_SOURCES = [_HIP / "matvec.hip", *sorted(_HIP.glob("matvec_*.hip"))]
_WEIGHTS = 0  # the number of the buffer
_FLOAT32 = 0  # DType
_PACKED = 1  # layout
_ONE_OF_ONE = np.array([1, 0, 1], np.uint32).tobytes()  # a divisor of 1, prepared


def execute_ours(emulator: Emulator, name: str) -> dict[str, float]:
    """The launcher `matvec` with packed weights of a type, one row of float32 activations."""
    qtype = QUANT_TYPES_BY_NAME[name]
    qweight, x = _operands(qtype)
    out = Output(poisoned((1, ROWS), np.float32))
    planes = pack_weight(qweight, qtype.id)
    call = Struct(
        [
            ("c_int", qtype.id),
            ("c_int", _PACKED),
            ("c_void_p", Input(planes.numpy())),
            ("c_int64", ROWS),
            ("c_int64", COLS),
            ("c_int64", qweight.shape[1]),
            ("c_void_p", Input(x.numpy())),
            ("c_int64", 1),
            ("c_void_p", 0),
            ("c_int", _FLOAT32),
            ("c_int", _FLOAT32),
            ("c_void_p", out),
            ("c_void_p", 0),
        ]
    )
    run = emulator.launch(_SOURCES, ARCH, "matvec", [call], timeout=600)
    codes, scales = _rounded(x)
    return _counted(run, qtype, qweight, (codes.double() * scales.double()).ravel())


def execute_ggml(emulator: Emulator, image: bytes, symbols: dict[str, str]) -> dict[str, Any]:
    """Its kernels, by type."""
    found = {}
    with tempfile.NamedTemporaryFile(suffix=".co") as file:
        Path(file.name).write_bytes(image)
        kernels = CodeObject(image).kernels
        for name, symbol in symbols.items():
            qtype = QUANT_TYPES_BY_NAME[name]
            qweight, x = _operands(qtype)
            codes, scales = _rounded(x)
            blocks = qweight.shape[1] // qtype.block_bytes
            no, one = np.uint32(0), _ONE_OF_ONE
            run = emulator.emulate(
                Path(file.name),
                symbol,
                (ROWS, 1, 1),
                (32, kernels[symbol].threads // 32, 1),
                [
                    *(Input(qweight.numpy()), Input(_q8_1(codes, scales)), None, bytes(80)),
                    Output(poisoned((ROWS,), np.float32)),
                    *(np.uint32(COLS), one, np.uint32(blocks), np.uint32(COLS // 32)),
                    *(np.uint32(ROWS), one, no, no, no, one, no, no, no, no),
                ],
                timeout=600,
            )
            rounded = codes.double() * scales.half().double()
            found[name] = _counted(run, qtype, qweight, rounded.ravel())
    return found


def _operands(qtype: QuantType) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [ROWS, row bytes] of random codes with equal scales, and x [COLS]."""
    rng = np.random.default_rng(qtype.id)
    blocks = rng.integers(0, 256, (ROWS * COLS // qtype.block_size, qtype.block_bytes), np.uint8)
    for offset, item_bytes, count in qtype.wide_fields or ():
        scales = np.full(item_bytes * count // 2, 0.01, np.float16).view(np.uint8)
        blocks[:, offset : offset + len(scales)] = scales
    x = rng.standard_normal(COLS, np.float32)
    return torch.from_numpy(blocks).view(ROWS, -1), torch.from_numpy(x)


def _rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [blocks, 32] and scales [blocks, 1] of x, rounded to 8 bits."""
    blocks = x.view(-1, 32)
    scales = blocks.abs().amax(1, keepdim=True) / 127
    return torch.round(blocks / scales), scales


def _q8_1(codes: torch.Tensor, scales: torch.Tensor) -> NDArray[np.uint8]:
    """ggml's blocks: scale and sum of the values in float16, then 32 codes."""
    head = torch.cat([scales, codes.sum(1, keepdim=True) * scales], dim=1).half()
    parts = [head.view(torch.uint8), codes.to(torch.int8).view(torch.uint8)]
    return torch.cat(parts, dim=1).numpy()


def _counted(
    run: Run, qtype: QuantType, qweight: torch.Tensor, x: torch.Tensor
) -> dict[str, float]:
    """The counts of a run. Raises ValueError when its product is wrong."""
    values = quant_ops.dequantize(qweight, qtype.id).double()
    want, size = values @ x, values.abs() @ x.abs()
    error = (torch.from_numpy(run.outputs[0]).double().ravel() - want).abs()
    # Sums of the activations are float16 in ggml.
    if not (error <= 1e-3 * size).all():
        raise ValueError(f"{qtype.name}: the product is wrong, so its counts say nothing")
    lanes = 32
    return {
        "executed_per_weight": round(run.counts.total() * lanes / (ROWS * COLS), 2),
        "lines_per_load": round(run.requests[_WEIGHTS] / run.loads[_WEIGHTS], 2),
        "line_visits": round(run.requests[_WEIGHTS] / run.lines[_WEIGHTS], 2),
    }
