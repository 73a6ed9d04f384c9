"""Runs products on the emulator: right, and at how many instructions, lines and bank conflicts.

ggml's kernels are called as its own launcher calls them, with its Q8_1 activations.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME, QuantType

from .code_object import CodeObject
from .counting import LANES, counted
from .emulator import Emulator, Input, Output, Struct, poisoned
from .operands import (
    FLOAT32,
    packed_matrix,
    q8_1,
    random_activations,
    random_weights,
    rounded,
)
from .peer import ARCH
from .toolchain import CSRC

EXECUTED = Path(__file__).with_name("executed_gfx1100.json")
COLS = 4096
ROWS = 1024  # of the weights of a matvec
# The emulated card has four compute units: as many rows to a unit as 4096 are on a card of 64, so
# that blocks are divided as they are there.
TILE_ROWS = 256
_HIP = CSRC / "hip"
_MATVEC = [_HIP / "matvec.hip", *sorted(_HIP.glob("matvec_*.hip"))]
_TILE = [
    _HIP / f"tile{family}.hip" for family in ("", "_splits", "_simple", "_k", "_grid", "_small")
]
_ONE_OF_ONE = np.array([1, 0, 1], np.uint32).tobytes()  # a divisor of 1, prepared
_TIMEOUT = 600.0  # seconds


def execute_matvec(emulator: Emulator, qtype: QuantType) -> dict[str, float]:
    """The launcher `matvec` with packed weights, one row of float32 activations."""
    qweight, x = random_weights(qtype, ROWS, COLS), random_activations(1, COLS)
    call = Struct(
        [
            *packed_matrix(qtype, qweight),
            ("c_void_p", Input(x.numpy())),
            ("c_int64", 1),
            ("c_void_p", 0),
            ("c_int", FLOAT32),
            ("c_int", FLOAT32),
            ("c_void_p", Output(poisoned((1, ROWS), np.float32))),
            ("c_void_p", 0),
        ]
    )
    run = emulator.launch(_MATVEC, ARCH, "matvec", [call, None], _TIMEOUT)
    codes, scales = rounded(x)
    return counted(run, qtype, qweight, (codes.double() * scales.double()).view_as(x))


def execute_tile(emulator: Emulator, qtype: QuantType, rows: int) -> dict[str, float]:
    """The launcher `tile` with packed weights and one chunk of `rows` rows of float16."""
    qweight, x = random_weights(qtype, TILE_ROWS, COLS), random_activations(rows, COLS).half()
    pieces = x.view(rows, COLS // 8, 8).transpose(0, 1).contiguous()
    factors = Input(np.ones(rows, np.float32))
    tile_input = Struct(
        [
            ("c_void_p", Input(pieces.numpy())),
            ("c_void_p", factors),
            ("c_int", rows),
            ("c_bool", False),
        ]
    )
    call = Struct(
        [
            *packed_matrix(qtype, qweight),
            ("struct", tile_input),
            ("struct", Struct([("c_int", 1), ("c_void_p", 0)])),  # not split
            ("c_int64", rows),
            ("c_void_p", 0),
            ("c_int", FLOAT32),
            ("c_int", FLOAT32),
            ("c_void_p", Output(poisoned((rows, TILE_ROWS), np.float32))),
            ("c_void_p", 0),
        ]
    )
    run = emulator.launch(_TILE, ARCH, "tile", [call], _TIMEOUT)
    return counted(run, qtype, qweight, x.double())


# The kernels that every type is counted in.
KERNELS: dict[str, Callable[[Emulator, QuantType], dict[str, float]]] = {
    "matvec": execute_matvec,
    "tile of 16 rows": partial(execute_tile, rows=16),
    "tile of 64 rows": partial(execute_tile, rows=64),
}


def execute_ours(emulator: Emulator, name: str) -> dict[str, dict[str, float]]:
    """Every kernel with weights of a type, by the name of its row in docs/isa.md."""
    qtype = QUANT_TYPES_BY_NAME[name]
    return {row_name(name, kernel): execute(emulator, qtype) for kernel, execute in KERNELS.items()}


def row_name(qtype: str, kernel: str) -> str:
    """What a row of EXECUTED is called."""
    return f"{qtype}, {kernel}"


def execute_ggml(
    emulator: Emulator, image: bytes, symbols: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Its one-row kernels, by type."""
    found = {}
    with tempfile.NamedTemporaryFile(suffix=".co") as file:
        Path(file.name).write_bytes(image)
        kernels = CodeObject(image).kernels
        for name, symbol in symbols.items():
            qtype = QUANT_TYPES_BY_NAME[name]
            qweight, x = random_weights(qtype, ROWS, COLS), random_activations(1, COLS)
            codes, scales = rounded(x)
            blocks = qweight.shape[1] // qtype.block_bytes
            no, one = np.uint32(0), _ONE_OF_ONE
            run = emulator.emulate(
                Path(file.name),
                symbol,
                (ROWS, 1, 1),
                (LANES, kernels[symbol].threads // LANES, 1),
                [
                    *(Input(qweight.numpy()), Input(q8_1(codes, scales)), None, bytes(80)),
                    Output(poisoned((ROWS,), np.float32)),
                    *(np.uint32(COLS), one, np.uint32(blocks), np.uint32(COLS // 32)),
                    *(np.uint32(ROWS), one, no, no, no, one, no, no, no, no),
                ],
                timeout=_TIMEOUT,
            )
            x = (codes.double() * scales.half().double()).view_as(x)
            found[name] = counted(run, qtype, qweight, x)
    return found
